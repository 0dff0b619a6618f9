"""A folder of photos embedded by the model of a run, as `facemae embed` writes it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from facemae import config
from facemae.compute import device
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import DataFolder
from facemae.core.progress import say
from facemae.data.faces.cache import load_faces
from facemae.data.faces.overlaps import normal_name
from facemae.data.faces.split import learnt_from
from facemae.data.sources.locate import find, raw_dir
from facemae.evaluation.embedding_file import sidecar
from facemae.models.weights import load_embedder
from facemae.stages import data as prepare
from facemae.stages.embed import embed_images

FACES_AT_A_TIME = 8192  # that are decoded in memory: 300 MB at 112 px


@dataclass(frozen=True)
class Photos:
    """A folder of photos to embed, and how.

    Attributes:
        images: A folder of person/photo.jpg, an archive, a pack or a data set's name.
        align: Find the face, or take photos that are faces already; "auto" knows the data sets.
        raw_dir: Folder of the named data sets.
        workers: Processes that align at a time.
        threads: Processor threads of the network.
        device: Where to compute.
    """

    images: str
    align: Literal["auto", "landmarks", "crop"] = "auto"
    raw_dir: str = "data/raw"
    workers: int = 1
    threads: int = 1
    device: Literal["auto", "cpu", "cuda"] = "auto"


def embed_photos(photos: Photos, model: Path, out: Path) -> pd.DataFrame:
    """Find, align and embed the faces of a folder of photos, and return the pairs that the folder lists.

    Writes `out`, a Parquet file of sample_id, person, embedding and model, and what is known of it beside.
    The aligned faces stay in a hidden folder beside `out`, so that the same command goes on after a kill.

    Args:
        photos: The photos.
        model: Folder of a `finetune` stage, or the embedder in it.
        out: File to write.

    Raises:
        UsageError: the folder, or the model, is not there.
        DataError: no photo has a face.
        IntegrityError: the model is damaged.
    """
    stage = _stage(model)
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} does not end in .parquet; embeddings are written as Parquet.")
    load_embedder(stage)  # what is wrong with it is told before minutes of aligning
    size = records.read_json(stage / layout.CONFIG)["image_size"]
    folder = DataFolder(out.with_name(f".{out.name}.faces"))
    prefix = _aligned(photos, size, folder)
    compute = device.choose(photos.device, "auto", photos.threads)
    table = _embedded(compute, stage, folder)
    table["sample_id"] = table["sample_id"].str.removeprefix(prefix)
    _write(table, folder, prefix, stage, out, compute)
    pairs = records.read_table(folder.listed_pairs)
    for side in ("first", "second"):
        pairs[side] = pairs[side].str.removeprefix(prefix)
    return pairs


def _stage(model: Path) -> Path:
    """Return the stage's folder.

    Raises:
        UsageError: there is no embedder in it.
    """
    stage = model.parent if model.name == layout.EMBEDDER else model
    for name in (layout.EMBEDDER, layout.CONFIG):
        if not (stage / name).is_file():
            raise UsageError(
                f"{model} holds no {name}; name the folder of a finetune stage, such as "
                "results/random/0/finetune."
            )
    return stage


def _aligned(photos: Photos, size: int, folder: DataFolder) -> str:
    """Align the photos into a folder, and return what their names begin with there and need not."""
    raw = raw_dir(photos.raw_dir)
    wanted = find(photos.images, layout.SET_LABELLED, raw)
    data = config.Data(
        labelled=photos.images, unlabelled=[], tested=[], raw_dir=photos.raw_dir, image_size=size,
        align=photos.align, faces="auto", min_score=0.9, max_skipped=1.0,
    )  # fmt: skip
    prepare.fetch([wanted], raw, folder)
    prepare.align(data, folder, photos.device, photos.workers)
    prepare.cache(folder)
    own = not wanted.source.folder and wanted.source.name == layout.SET_LABELLED
    return f"{layout.SET_LABELLED}/" if own else ""


def _embedded(compute: device.Compute, stage: Path, folder: DataFolder) -> pd.DataFrame:
    index = records.read_table(folder.faces, ["sample_id", "person"])
    parts = []
    for start in range(0, len(index), FACES_AT_A_TIME):
        faces = load_faces(folder, index.iloc[start : start + FACES_AT_A_TIME])
        vectors = embed_images(stage, faces.images, compute, "embed").astype(np.float32)
        columns = {"sample_id": faces.sample_ids, "person": faces.people, "embedding": list(vectors)}
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


def _write(
    table: pd.DataFrame, folder: DataFolder, prefix: str, stage: Path, out: Path, compute: device.Compute
) -> None:
    model = files.sha256_of(stage / layout.EMBEDDER)[:16]
    rejected = [
        {"sample_id": row["sample_id"].removeprefix(prefix)}
        | {n: row[n] for n in ("person", "code", "reason")}
        for row in records.iterate_log(folder.rejected)
    ]
    people = set(table["person"].dropna()) | {row["person"] for row in rejected if row["person"]}
    trained_on = {normal_name(person) or person for person in _training_people(stage)}
    known = sorted(person for person in people if (normal_name(person) or person) in trained_on)
    records.write_table(out, table.assign(model=model), ["sample_id", "person", "embedding", "model"])
    content = {"model": model, "device": str(compute), "faces": len(table)}
    files.write_json(sidecar(out), content | {"without_face": rejected, "trained_on": known})
    say("embed", f"{len(table)} faces of {table['person'].nunique()} people in {out}")
    if rejected:
        names = ", ".join(row["sample_id"] for row in rejected[:3])
        more = f" and {len(rejected) - 3} more" if len(rejected) > 3 else ""
        say("embed", f"no face was found in {len(rejected)} photos: {names}{more}; {sidecar(out)} lists them")
    if known:
        say("embed", f"{len(known)} people are named like some that the model was trained on: {known[0]}")


def _training_people(stage: Path) -> set[str]:
    """Return whom a model in a folder of results was trained on; nobody where that is not known."""
    parents = stage.resolve().parents
    path = DataFolder(parents[2] / "data").split if len(parents) > 2 else None
    if path is None or not path.is_file():
        return set()
    roles = records.read_table(path, layout.SPLIT_COLUMNS)
    return set(learnt_from(roles)["person"].dropna())
