"""The evaluation stage: from the embeddings of unseen people to metrics with intervals.

Which protocols apply follows from the split. Where people were drawn and are few, every pair of faces is
compared. Where a list of pairs names them (LFW's View 2), or they are many or in several parts, the list is
what accuracy rests on, and all pairs of a part give the rates that need many impostors. Faces of two parts
are never compared: two models embedded them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, RefusedError
from facemae.core.layout import DataFolder, Results
from facemae.core.progress import say
from facemae.data.faces.pairs import GENERATED
from facemae.evaluation import battery
from facemae.evaluation.battery import EmbeddedFaces
from facemae.evaluation.pairs import Comparisons, cosines, pair_rows, unit_rows
from facemae.evaluation.records import Measurement, refused
from facemae.evaluation.statistics import identity_weights
from facemae.stages.task import Task

MOST_PAIRS = 500_000  # that are compared one by one; with more, a list of pairs is what accuracy rests on
GROUPED_BY = "gender"  # column of the faces, where a source has it
PROBED = ("accuracy", "roc_auc")  # what is measured of a closed-form head


def evaluate_all(experiment: config.Experiment, paths: Results) -> None:
    """Evaluate every run and baseline with each of its seeds (see `evaluate`)."""
    for name in experiment.names:
        for seed in experiment.seeds_of(name):
            task = Task(experiment, name, seed, paths.data, paths.stage(name, seed, "evaluate"))
            evaluate(task, paths.stage(name, seed, experiment.embedding_stage(name)))


def evaluate(task: Task, embeddings: Path) -> None:
    """Write metrics, pair scores and the values of every metric on the shared resamples of people.

    The resamples depend on the evaluation people and the configuration alone, so all runs are scored on
    the same ones and can be compared pair by pair. `embeddings` is the folder of the stage that embedded:
    `finetune`, of a baseline `embed`.

    Raises:
        IntegrityError: the embeddings are not those of the evaluation people, each once.
        DataError: there are too few people to measure anything.
    """
    experiment, source = task.experiment, records.read_metrics(embeddings)
    faces = _evaluated_faces(task, embeddings / layout.EMBEDDINGS)
    try:
        measured, scores = _verify(task, faces)
        if not _are_few(task, faces):
            measured += _on_faces(task, faces)
        measured += _probed(task, embeddings / layout.PROBE, source)
    except RefusedError as error:
        raise DataError(
            f"{len(faces.people)} people cannot be evaluated: {error}; add people or lower split.folds."
        ) from error
    records.write_table(task.out / layout.SCORES, scores, layout.SCORE_COLUMNS)
    task.write(
        measured,
        experiment.evaluate.model_dump(),
        tables=[layout.SCORES],
        device=source["device"],
        processor=source.get("processor", "unknown"),
        **{name: source[name] for name in records.SPENT},
        health=source.get("health", []),
        people=len(faces.people),
        evaluated=records.digest(
            [faces.table["sample_id"].to_list(), experiment.split.seed, experiment.split.pairs]
        ),
        dataset=experiment.dataset,
        setting=setting(experiment),
        inputs=source["inputs"]
        | {name: files.sha256_of(getattr(task.data, name)) for name in ("split", "pairs")},
    )
    primary = next(each for each in measured if each.name == experiment.evaluate.primary)
    text = "not measured" if primary.value is None else f"{primary.value:.3f}"
    say(task.label, f"{primary.name} {text} on {len(faces.people)} unseen people")


def setting(experiment: config.Experiment) -> str:
    """Return in words what the evaluated networks had been trained on, as LFW's protocols ask for."""
    split = experiment.split
    whom = f"the people of {split.pairs}" if split.pairs else "evaluation people"
    if split.pair_folds is not None:
        count = f"{'the last ' * (split.pair_folds < 0)}{abs(split.pair_folds)}"
        return (
            f"no outside labels: evaluated on the people of {count} folds of {split.pairs}, on "
            "whom nothing was trained; the people of its other folds are among the training people"
        )
    if split.rotations == 1:
        return f"outside data: nothing was trained on {whom}"
    return (
        f"no outside labels: {whom} are in {split.rotations} parts, each evaluated by a network whose "
        "labelled photos show other people, those of the other parts among them; it was pretrained on none"
    )


def _evaluated_faces(task: Task, path: Path, part: int | None = None) -> EmbeddedFaces:
    """Return the embedded faces of the evaluation people, or of one part of them, ready to be compared.

    The resamples are of all evaluation people, so that those of a part belong to those of the whole.
    """
    roles = records.read_table(task.data.split)
    roles = roles[roles["role"] == layout.ROLE_EVALUATION]
    everyone = np.unique(roles["person"].to_numpy(str))
    if len(everyone) < 2:
        raise DataError(f"{len(everyone)} people cannot be evaluated, 2 are needed; check the data section.")
    found = records.read_table(path, layout.EMBEDDING_COLUMNS)
    if part is not None:
        found, roles = found[found["part"] == part], roles[roles["part"] == part]
    weights = identity_weights(len(everyone), task.experiment.evaluate.resamples, task.experiment.split.seed)
    table = _checked(found, path, roles)
    people, identity = np.unique(table["person"].to_numpy(str), return_inverse=True)
    vectors = np.stack(table.pop("embedding").to_list())
    weights = weights[:, np.searchsorted(everyone, people)]
    return EmbeddedFaces(table, vectors, people, identity, weights, _groups(table, people, task.data))


def accuracy(task: Task, path: Path, part: int) -> Measurement:
    """Return the verification accuracy of a part alone, as `evaluate` measures it on a list of pairs."""
    faces = _evaluated_faces(task, path, part)
    measured = _on_list(task, _listed_pairs(task, faces), faces)
    return next(each for each in measured if each.name == "accuracy")


def _checked(found: pd.DataFrame, path: Path, roles: pd.DataFrame) -> pd.DataFrame:
    """Return the embeddings with fold, part and enrolment, checked against the split."""
    if sorted(found["sample_id"]) != sorted(roles["sample_id"]):
        raise IntegrityError(f"{path} was made for another split; make it again.")
    if not all(np.isfinite(vector).all() and vector.any() for vector in found["embedding"]):
        raise IntegrityError(f"{path} holds an embedding that is zero or not finite; make it again.")
    table = found.drop(columns="person").merge(roles, on="sample_id", suffixes=("_embedded", ""))
    if (table["part_embedded"] != table["part"]).any():
        raise IntegrityError(
            f"{path} holds faces that a model embedded which may have been trained on them; make it again."
        )
    return table.drop(columns="part_embedded").sort_values("sample_id", ignore_index=True)


def _groups(table: pd.DataFrame, people: NDArray[np.str_], data: DataFolder) -> NDArray[np.str_]:
    faces = records.read_table(data.faces)
    if GROUPED_BY not in faces.columns:
        return np.full(len(people), "")
    group = table[["sample_id", "person"]].merge(faces[["sample_id", GROUPED_BY]], on="sample_id", how="left")
    first = group.dropna().groupby("person")[GROUPED_BY].first()
    return first.reindex(list(people)).fillna("").to_numpy(str)


def _are_few(task: Task, faces: EmbeddedFaces) -> bool:
    """Tell whether every pair of faces is compared, and accuracy does not rest on a list."""
    compared, split = len(faces.table) * (len(faces.table) - 1) // 2, task.experiment.split
    return split.pairs is None and split.rotations == 1 and compared <= MOST_PAIRS


def _verify(task: Task, faces: EmbeddedFaces) -> tuple[list[Measurement], pd.DataFrame]:
    """Measure verification, on every two faces where they are few, and return SCORE_COLUMNS beside."""
    if _are_few(task, faces):
        compared, measured = battery.on_few_faces(faces, task.experiment.evaluate.far_targets)
        return measured, _scores(faces.people, compared).assign(part=0)
    pairs = _listed_pairs(task, faces)
    compared = Comparisons(*(pairs[name].to_numpy() for name in ("score", "one", "other", "genuine")))
    scores = _scores(np.append(faces.people, ""), compared).assign(part=pairs["part"].to_numpy(int))
    return _on_list(task, pairs, faces), scores


def _probed(task: Task, path: Path, source: dict[str, Any]) -> list[Measurement]:
    """Measure the closed-form head of a run as the run itself; a baseline has none."""
    if not path.exists():
        return []
    if records.read_table(path, ["sample_id"]).empty:
        why = next(each["note"] for each in source["metrics"] if each["name"] == layout.PROBE_AUC)
        return refused("verification", [f"probe_{name}" for name in PROBED], 0, why)
    measured, _ = _verify(task, _evaluated_faces(task, path))
    return [replace(each, name=f"probe_{each.name}") for each in measured if each.name in PROBED]


def _on_list(task: Task, pairs: pd.DataFrame, faces: EmbeddedFaces) -> list[Measurement]:
    """Measure each part's pairs by themselves: a threshold, and a curve, belongs to one network's scores."""
    lost = np.ones((len(faces.weights), 1), np.int64)  # whoever has no face at all is in every resample
    weights, targets = np.hstack([faces.weights, lost]), task.experiment.evaluate.far_targets
    parts = [part for _, part in pairs.groupby("part")]
    return battery.mean_over_parts(parts, lambda part: battery.on_list(part, weights, targets))


def _on_faces(task: Task, faces: EmbeddedFaces) -> list[Measurement]:
    """Measure what needs all faces of a part; in the open set every second person stays enrolled."""

    def measure(number: int) -> list[Measurement]:
        part = faces.part(number)
        half = part.enrolled & (part.identity % 2 == 0)
        return battery.on_faces(part, half, task.experiment.evaluate.far_targets)

    return battery.mean_over_parts(sorted(faces.table["part"].unique()), measure)


def _listed_pairs(task: Task, faces: EmbeddedFaces) -> pd.DataFrame:
    """Return the list's pairs with score and people; the score of a pair without one of its faces is NaN."""
    protocol = task.experiment.split.pairs or GENERATED
    pairs: pd.DataFrame = records.read_table(task.data.pairs)
    pairs = pairs[pairs["protocol"] == protocol].reset_index(drop=True)
    if pairs.empty:
        raise DataError(f"{task.data.pairs} holds no pair of {protocol}; run the split stage again.")
    rows = pair_rows(pairs, faces.table["sample_id"])
    there = (rows >= 0).all(axis=0)
    one, other = _people_of(pairs, faces, task.data)
    part = faces.table["part"].to_numpy(int)[rows]
    of_fold = pairs["fold"].map(faces.table.groupby("fold")["part"].first()).fillna(faces.table["part"].min())
    score, own = cosines(unit_rows(faces.vectors), rows), np.where(there, part[0], of_fold.astype(int))
    pairs = pairs.assign(score=score, one=one, other=other, part=own)
    elsewhere = ~there & _in_another_part(pairs, faces, task.data)
    kept: pd.DataFrame = pairs[~elsewhere & (~there | (part[0] == part[1]))]
    return kept.reset_index(drop=True)


def _in_another_part(pairs: pd.DataFrame, faces: EmbeddedFaces, data: DataFolder) -> NDArray[np.bool_]:
    """Tell which pairs are of evaluation faces that are not among `faces`, or of a fold of only such."""
    roles = records.read_table(data.split, ["sample_id", "role", "fold"])
    others = roles[roles["role"] == layout.ROLE_EVALUATION]
    others = others[~others["sample_id"].isin(faces.table["sample_id"])]
    folds = set(others["fold"]) - set(faces.table["fold"])
    shown = pairs[["first", "second"]].isin(others["sample_id"].to_list()).any(axis=1)
    return (shown | pairs["fold"].isin(folds)).to_numpy(bool)


def _people_of(pairs: pd.DataFrame, faces: EmbeddedFaces, data: DataFolder) -> NDArray[np.int64]:
    """Return the numbers of both photos' people, (2, N); everyone without any face is number P."""
    photos = records.read_table(data.photos, ["sample_id", "person"]).set_index("sample_id")["person"]
    number = photos.map(pd.Series(range(len(faces.people)), faces.people)).fillna(len(faces.people))
    number.update(pd.Series(faces.identity, faces.table["sample_id"]))
    return np.stack([pairs[side].map(number).to_numpy(np.int64) for side in ("first", "second")])


def _scores(people: NDArray[np.str_], pairs: Comparisons) -> pd.DataFrame:
    found = np.isfinite(pairs.score)
    lowest = pairs.score[found].min() if found.any() else 0.0
    score = np.where(found, pairs.score, lowest - 1).astype(np.float32)
    first, second = (pd.Categorical(people[side]) for side in (pairs.first, pairs.second))
    return pd.DataFrame({"first": first, "second": second, "genuine": pairs.genuine, "score": score})
