"""A folder of photos embedded by a model, as `facemae embed` writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import pandas as pd

from facemae.compute import device
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import DataFolder
from facemae.core.progress import Progress, say
from facemae.data.faces.cache import build_cache, open_faces
from facemae.data.faces.overlaps import normal_name
from facemae.data.faces.split import learnt_from
from facemae.data.sources.locate import find, raw_dir
from facemae.evaluation.baselines.off_the_shelf import Embed
from facemae.evaluation.embedding_file import sidecar
from facemae.models import shipped_models
from facemae.stages import data as prepare

FACES_AT_A_TIME = 512  # decoded in memory, and between two lines of progress


class NamedModel(Protocol):
    """What embedding takes of a model by name (`recognition.model.Model`)."""

    @property
    def name(self) -> str:
        """Return what it is called."""

    @property
    def image_size(self) -> int:
        """Return the side of its faces in pixels."""

    @property
    def weights(self) -> Path:
        """Return the file of its weights."""

    @property
    def fingerprint(self) -> str:
        """Return what tells its embeddings from any other model's."""

    def load(self, device: Literal["auto", "cpu", "cuda"] = "auto") -> Embed:
        """Return its embedding."""


def embed_photos(
    images: str,
    model: NamedModel,
    out: Path,
    *,
    align: Literal["auto", "landmarks", "crop"] = "auto",
    raw: str = "data/raw",
    workers: int = 1,
    threads: int = 1,
    where: Literal["auto", "cpu", "cuda"] = "auto",
) -> pd.DataFrame:
    """Find, align and embed the faces of a folder of photos, and return the pairs that the folder lists.

    Writes `out`, a Parquet file of sample_id, person, embedding and model, and what is known of it beside.
    The aligned faces stay in a hidden folder beside `out`, so that the same command goes on after a kill.

    Args:
        images: A folder of person/photo.jpg, an archive, a pack or a data set's name.
        align: Find the face, or take photos that are faces already; "auto" knows the data sets.
        raw: Folder of the named data sets.
        workers, threads: Processes that align at a time, and processor threads of the network.
        where: Where to compute.
    """
    if out.suffix != ".parquet":
        raise UsageError(f"--out {out} does not end in .parquet; embeddings are written as Parquet.")
    compute = device.choose(where, "float32", threads)
    network = model.load(where)  # what is wrong with it is reported before minutes of aligning
    folder = DataFolder(out.with_name(f".{out.name}.faces"))
    wanted = find(images, layout.SET_LABELLED, raw_dir(raw))
    data = prepare.one_source(images, raw, image_size=model.image_size, align=align)
    prepare.fetch([wanted], raw_dir(raw), folder)
    prepare.align(data, folder, where, workers)
    build_cache(folder)
    own = not wanted.source.folder and wanted.source.name == layout.SET_LABELLED
    prefix = f"{layout.SET_LABELLED}/" if own else ""  # what names begin with in that folder and need not
    table = _embedded(network, folder).assign(model=model.fingerprint)
    table["sample_id"] = table["sample_id"].str.removeprefix(prefix)
    _write(table, folder, prefix, model, out, str(compute))
    pairs = records.read_table(folder.listed_pairs)
    return pairs.assign(**{side: pairs[side].str.removeprefix(prefix) for side in ("first", "second")})


def _embedded(network: Embed, folder: DataFolder) -> pd.DataFrame:
    index = records.read_table(folder.faces, ["sample_id", "person"])
    faces, parts, progress = open_faces(folder, index), [], Progress("embed", len(index), "faces")
    for start in range(0, len(faces), FACES_AT_A_TIME):
        parts.append(network(faces[start : start + FACES_AT_A_TIME]).astype(np.float32))
        progress.update(start + len(parts[-1]))
    return index.assign(embedding=list(np.concatenate(parts)))


def _write(
    table: pd.DataFrame, folder: DataFolder, prefix: str, model: NamedModel, out: Path, where: str
) -> None:
    kept = ("sample_id", "person", "code", "reason")
    rejected = [{name: row[name] for name in kept} for row in records.iterate_log(folder.rejected)]
    for row in rejected:
        row["sample_id"] = row["sample_id"].removeprefix(prefix)
    people = set(table["person"].dropna()) | {row["person"] for row in rejected if row["person"]}
    known = sorted(_trained_on(model, people))
    records.write_table(out, table, ["sample_id", "person", "embedding", "model"])
    content = {"model": model.fingerprint, "name": model.name, "device": where, "faces": len(table)}
    listed = {"without_face": rejected, "trained_on": known, "plain_names": True}
    files.write_json(sidecar(out), content | listed)
    say("embed", f"{len(table)} faces of {table['person'].nunique()} people in {out}")
    if rejected:
        names = ", ".join(row["sample_id"] for row in rejected[:3])
        more = f" and {len(rejected) - 3} more" if len(rejected) > 3 else ""
        say("embed", f"no face was found in {len(rejected)} photos: {names}{more}; {sidecar(out)} lists them")
    if known:
        say("embed", f"{len(known)} people are named like some that the model was trained on: {known[0]}")


def _trained_on(model: NamedModel, people: Iterable[str]) -> set[str]:
    """Return which people a model was trained on by their names; nobody where that is not known."""
    if model.name in shipped_models.WEIGHTS:
        return shipped_models.known_among(people, shipped_models.people(model.name).training)
    parents = model.weights.resolve().parents
    path = DataFolder(parents[3] / "data").split if len(parents) > 3 else None
    if path is None or not path.is_file():
        return set()
    learnt = learnt_from(records.read_table(path, layout.SPLIT_COLUMNS))["person"].dropna()
    names = {normal_name(person) or person for person in learnt}
    return {person for person in people if (normal_name(person) or person) in names}
