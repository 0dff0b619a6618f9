"""A data set's own list of pairs, embedded by an off-the-shelf recogniser or by a control that learns.

A control is fitted for each fold of the list, as LFW's View 2 asks for: to the people of the other folds
and those outside the list, through the leakage checks of a run's split, so that no person and no picture of
the fold is learnt from. Cosines by two models share no scale. So each model's are calibrated on training
people who were held out when its settings were chosen, and the score of a pair is the log odds of one
person.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import Progress, say
from facemae.data.faces import shards, split
from facemae.data.sources.locate import find, raw_dir
from facemae.evaluation.baselines.controls import LEARNERS
from facemae.evaluation.baselines.off_the_shelf import IMAGE_SIZE, Embed, OffTheShelf, find_recogniser
from facemae.evaluation.pairs import cosines, pair_rows, unit_rows
from facemae.stages import data as prepare

BATCH = 64
SPLIT = config.Split(
    pairs=None, pair_folds=None, rotations=1, evaluation_fraction=0.5, folds=2, seed=0, overlap="exclude",
    hash_bits=31, embedder=None, same_cosine=0.9,
)  # fmt: skip


def embeddings_of(
    name: str, data: str, raw_dir: str, cache: Path, protocol: str | None = None, workers: int = 1,
    *, everybody: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:  # fmt: skip
    """Embed the faces of a data set's own list of pairs.

    The data set is aligned in a folder of its own below `cache`, where the embeddings stay too: a call that
    was cut off goes on, and a second one only looks whether the photos are still the same.

    Args:
        name: A key of `RECOGNISERS`, or of `LEARNERS`.
        data: A data set's name, `name:path`, or a folder or file, as `data.labelled` in `config.yaml`.
        raw_dir: Folder of the raw data; the variable FACEMAE_RAW_DIR goes before it.
        cache: Folder to write to.
        protocol: Whose pairs, such as "lfw-view2"; None: all that the data set lists.
        workers: Processes that align.
        everybody: Embed all faces, not those of the pairs alone; not for a control.

    Returns:
        The embeddings with the columns sample_id, person and embedding, without a row for a photo that no
        face was found in; and the pairs: first, second, genuine, fold and protocol, of a control also score.
    """
    if name in LEARNERS:
        return _scored_by_fold(name, *_prepared(data, raw_dir, cache, workers, protocol))
    model = find_recogniser(name, LEARNERS)
    key = model.key()  # first, since aligning takes minutes, and what is missing had better be said at once
    folder, pairs = _prepared(data, raw_dir, cache, workers, protocol)
    faces = records.read_table(folder.faces, ["sample_id", "person", "sha256", "shard", "row"])
    if not everybody:
        faces = faces[faces["sample_id"].isin(set(pairs["first"]) | set(pairs["second"]))]
    if faces.empty:
        raise DataError(f"No photo of {data}'s pairs has a usable face; {folder.rejected} says why.")
    settings = Path(faces["shard"].iloc[0]).parent.name
    stored = folder.root / "embeddings" / f"{name}-{key}-{settings}.parquet"
    with files.exclusive(stored.with_name(".lock")):
        vectors = _embedded(model, faces, folder, stored, f"{name} {data}")
    found = faces.merge(vectors, on=["sample_id", "sha256"])
    return found[["sample_id", "person", "embedding"]].reset_index(drop=True), pairs


def _scored_by_fold(
    name: str, folder: layout.DataFolder, pairs: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the faces of the list with their embeddings, and its pairs with their scores, fold by fold."""
    if (lists := pairs["protocol"].nunique()) > 1:
        raise UsageError(f"{name} is fitted to one list of pairs, of {lists}; name it with --protocol.")
    learner, photos = LEARNERS[name], records.read_table(folder.photos, ["sample_id", "person"])
    columns = ["sample_id", "person", "source", "set", "sha256", "hash", "shard", "row"]
    faces = records.read_table(folder.faces, columns)
    features = _features(learner.features, faces, folder, name)
    known = dict(zip(photos["sample_id"], photos["person"], strict=True))
    place, embedded, score = pd.Index(faces["sample_id"]), [], pd.Series(np.nan, pairs.index)
    for fold, rows in pairs.groupby("fold"):
        learnt = place.get_indexer(_learnt_from(faces, rows, known))
        head = learner.fit(features[learnt], faces["person"].iloc[learnt].to_list(), name)
        say(name, f"fold {fold}: {len(learnt)} faces, {head}")
        shown = faces[faces["sample_id"].isin({*rows["first"], *rows["second"]})]
        vectors = head(features[shown.index])
        missing = learner.components - vectors.shape[1]  # models of two folds differ in their dimensions
        vectors = np.pad(vectors, ((0, 0), (0, missing)))
        embedded.append(shown[["sample_id", "person"]].assign(embedding=list(vectors)))
        score[rows.index] = head.calibration.logit(pair_cosines(rows, embedded[-1]))
    table = pd.concat(embedded).drop_duplicates("sample_id").reset_index(drop=True)
    return table, pairs.assign(score=score)


def _learnt_from(faces: pd.DataFrame, pairs: pd.DataFrame, known: Mapping[str, str | None]) -> pd.Series:
    """Return the sample_ids of the faces that a model may learn from which is tested on some pairs."""
    named = SPLIT.model_copy(update={"pairs": pairs["protocol"].iloc[0]})
    roles, _ = split.split_people(faces, named, listed=split.listed_people(pairs, known, named))
    split.check_split(roles)
    return roles.loc[roles["role"] == layout.ROLE_TRAIN, "sample_id"]


def _features(
    features: Embed, faces: pd.DataFrame, folder: layout.DataFolder, name: str
) -> NDArray[np.floating]:
    """Return the features (N, D) of all faces, in their order."""
    progress, parts = Progress(name, len(faces), "faces"), []
    places: list[int] = []
    for rows, images in _blocks(faces, folder):
        parts.append(features(images))
        places.extend(rows.index)
        progress.update(len(places))
    return np.concatenate(parts)[np.argsort(places)]


def pair_cosines(pairs: pd.DataFrame, embedded: pd.DataFrame) -> NDArray[np.floating]:
    """Return the cosine of each pair, NaN without one of its faces."""
    unit = unit_rows(np.stack(embedded["embedding"].to_list()))
    return cosines(unit, pair_rows(pairs, embedded["sample_id"]))


def _prepared(
    data: str, raw: str, cache: Path, workers: int, protocol: str | None
) -> tuple[layout.DataFolder, pd.DataFrame]:
    """Return the folder with a data set's aligned faces, which are made if need be, and the pairs."""
    wanted = find(data, layout.SET_LABELLED, raw_dir(raw))
    settings = prepare.one_source(data, raw, image_size=IMAGE_SIZE)
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", wanted.source.name)
    if wanted.path:  # two folders may be called the same
        name += f"-{records.digest(str(wanted.path.resolve()))[:8]}"
    folder = layout.DataFolder(cache / name)
    prepare.fetch([wanted], raw_dir(raw), folder)
    pairs = _pairs(folder, data, protocol)  # before the minutes that aligning takes
    prepare.align(settings, folder, "auto", workers)
    return folder, pairs


def _pairs(folder: layout.DataFolder, data: str, protocol: str | None) -> pd.DataFrame:
    pairs = records.read_table(folder.listed_pairs)
    known = sorted(pairs["protocol"].unique())
    if not known:
        raise DataError(
            f"{data} lists no pairs of photos to verify; name one that does, such as lfw with its pairs.txt."
        )
    if protocol is None:
        return pairs
    if protocol not in known:
        raise UsageError(f"{data} has no list of pairs called {protocol}; it has {', '.join(known)}.")
    return pairs[pairs["protocol"] == protocol].reset_index(drop=True)


def _embedded(
    model: OffTheShelf, faces: pd.DataFrame, folder: layout.DataFolder, stored: Path, label: str
) -> pd.DataFrame:
    """Return the embeddings of `faces` by sample_id and sha256; those that are not stored yet are made."""
    columns = ["sample_id", "sha256", "embedding"]
    known = records.read_table(stored, columns) if stored.exists() else pd.DataFrame(columns=columns)
    keys = [pd.MultiIndex.from_frame(each[columns[:2]]) for each in (faces, known)]
    missing = faces[~keys[0].isin(keys[1])]
    if missing.empty:
        say(label, f"{len(faces)} faces are embedded already")
        return known
    done = len(faces) - len(missing)
    progress, embed = Progress(label, len(faces), "faces", done), model.load(model.weights())
    for rows, images in _blocks(missing, folder):
        new = rows[["sample_id", "sha256"]].assign(embedding=list(embed(images)))
        known = pd.concat([known, new]) if len(known) else new
        records.write_table(stored, known, columns)  # so that a kill costs one block
        done += len(rows)
        progress.update(done)
    return known


def _blocks(faces: pd.DataFrame, folder: layout.DataFolder) -> Iterator[tuple[pd.DataFrame, np.ndarray]]:
    """Yield rows of the index with their faces (N, H, H, 3) uint8, at most `BATCH` at a time."""
    for shard, rows in faces.groupby("shard"):
        images = shards.read_faces(folder, str(shard), rows["row"])
        for start in range(0, len(rows), BATCH):
            yield rows.iloc[start : start + BATCH], np.stack(list(itertools.islice(images, BATCH)))
