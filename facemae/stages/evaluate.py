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
from facemae.evaluation.records import Measurement, refused, write_measured
from facemae.evaluation.statistics import identity_weights

MOST_PAIRS = 500_000  # that are compared one by one; with more, a list of pairs is what accuracy rests on
GROUPED_BY = "gender"  # column of the faces, where a source has it
PROBED = ("accuracy", "roc_auc")  # what is measured of a closed-form head


def evaluate_all(experiment: config.Experiment, paths: Results) -> None:
    """Evaluate every run and baseline with each of its seeds (see `evaluate`)."""
    for name in experiment.names:
        for seed in experiment.seeds_of(name):
            embedded = paths.stage(name, seed, experiment.embedding_stage(name))
            evaluate(experiment, name, seed, embedded, paths.data, paths.stage(name, seed, "evaluate"))


def evaluate(
    experiment: config.Experiment, name: str, seed: int, embeddings: Path, data: DataFolder, out: Path
) -> None:
    """Write metrics, pair scores and the values of every metric on the shared resamples of people.

    The resamples depend on the evaluation people and the configuration alone, so all runs are scored on
    the same ones and can be compared pair by pair.

    Args:
        experiment: The configuration.
        name, seed: The run or baseline, and its seed.
        embeddings: Folder of the stage that embedded: `finetune`, of a baseline `embed`.
        data: Role and fold of every face, and the pairs.
        out: The stage's folder.

    Raises:
        IntegrityError: the embeddings are not those of the evaluation people, each once.
        DataError: there are too few people to measure anything.
    """
    experiment.check_name(name)
    found = records.read_table(embeddings / layout.EMBEDDINGS)
    faces = evaluated_faces(found, str(embeddings), data, experiment)
    source = records.read_metrics(embeddings)
    try:
        measured, scores = _measure(experiment, faces, data)
        measured += _probed(experiment, embeddings / layout.PROBE, source, data)
    except RefusedError as error:
        raise DataError(
            f"{len(faces.people)} people cannot be evaluated: {error}; add people or lower split.folds."
        ) from error
    files.write_json(out / layout.CONFIG, {"run": name, "seed": seed} | experiment.evaluate.model_dump())
    records.write_table(out / layout.SCORES, scores, layout.SCORE_COLUMNS)
    _write(experiment, seed, measured, faces, source, data, out)
    primary = next(each for each in measured if each.name == experiment.evaluate.primary)
    text = "not measured" if primary.value is None else f"{primary.value:.3f}"
    say(f"evaluate {name}/{seed}", f"{primary.name} {text} on {len(faces.people)} unseen people")


def _write(
    experiment: config.Experiment,
    seed: int,
    measured: list[Measurement],
    faces: EmbeddedFaces,
    source: dict[str, Any],
    data: DataFolder,
    out: Path,
) -> None:
    """Write the measurements, with what the stage that embedded says of the training."""
    write_measured(
        out,
        measured,
        experiment.evaluate.level,
        tables=[layout.SCORES],
        seed=seed,
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
        | {"split": files.sha256_of(data.split), "pairs": files.sha256_of(data.pairs)},
    )


def setting(experiment: config.Experiment) -> str:
    """Return in words what the evaluated networks had been trained on, as LFW's protocols ask for."""
    split = experiment.split
    whom = f"the people of {split.pairs}" if split.pairs else "evaluation people"
    if split.pair_folds is not None:
        return (
            f"no outside labels: evaluated on the people of {split.pair_folds} folds of {split.pairs}, on "
            "whom nothing was trained; the people of its other folds are among the training people"
        )
    if split.rotations == 1:
        return f"outside data: nothing was trained on {whom}"
    return (
        f"no outside labels: {whom} are in {split.rotations} parts, each evaluated by a network whose "
        "labelled photos show other people, those of the other parts among them; it was pretrained on none"
    )


def evaluated_faces(
    found: pd.DataFrame, where: str, data: DataFolder, experiment: config.Experiment, part: int | None = None
) -> EmbeddedFaces:
    """Return the embedded faces of the evaluation people, or of one part of them, ready to be compared.

    The resamples are of all evaluation people, so that those of a part belong to those of the whole.

    Args:
        found: EMBEDDING_COLUMNS.
        where: What an error calls them.
        data: Role and fold of every face.
        experiment: The configuration.
        part: Which part; None: all.

    Raises:
        IntegrityError: they are not the embeddings of just these people's faces, each once.
        DataError: there are too few people.
    """
    roles = records.read_table(data.split)
    roles = roles[roles["role"] == layout.ROLE_EVALUATION]
    everyone = np.unique(roles["person"].to_numpy(str))
    if len(everyone) < 2:
        raise DataError(f"{len(everyone)} people cannot be evaluated, 2 are needed; check the data section.")
    weights = identity_weights(len(everyone), experiment.evaluate.resamples, experiment.split.seed)
    table = _checked(found, where, roles if part is None else roles[roles["part"] == part])
    people, identity = np.unique(table["person"].to_numpy(str), return_inverse=True)
    vectors = np.stack(table.pop("embedding").to_list())
    weights = weights[:, np.searchsorted(everyone, people)]
    return EmbeddedFaces(table, vectors, people, identity, weights, _groups(table, people, data))


def accuracy(experiment: config.Experiment, faces: EmbeddedFaces, data: DataFolder) -> Measurement:
    """Return the verification accuracy alone, as `evaluate` measures it."""
    pairs = _listed_pairs(faces, data, experiment.split.pairs or GENERATED)
    measured = _on_list(pairs, faces, experiment.evaluate)
    return next(each for each in measured if each.name == "accuracy")


def _checked(found: pd.DataFrame, embeddings: str, roles: pd.DataFrame) -> pd.DataFrame:
    """Return the embeddings with fold, part and enrolment, checked against the split."""
    if sorted(found["sample_id"]) != sorted(roles["sample_id"]):
        raise IntegrityError(f"{embeddings} was made for another split; make it again.")
    if not all(np.isfinite(vector).all() and vector.any() for vector in found["embedding"]):
        raise IntegrityError(f"{embeddings} holds an embedding that is zero or not finite; make it again.")
    found = found.sort_values("sample_id", ignore_index=True)
    table = found.drop(columns="person").merge(
        roles, on="sample_id", validate="one_to_one", suffixes=("_embedded", "")
    )
    if (table["part_embedded"] != table["part"]).any():
        raise IntegrityError(
            f"{embeddings} holds faces that a model embedded which may have been trained on them; make "
            "it again."
        )
    return table.drop(columns="part_embedded")


def _groups(table: pd.DataFrame, people: NDArray[np.str_], data: DataFolder) -> NDArray[np.str_]:
    faces = records.read_table(data.faces)
    if GROUPED_BY not in faces.columns:
        return np.full(len(people), "")
    group = table[["sample_id", "person"]].merge(faces[["sample_id", GROUPED_BY]], on="sample_id", how="left")
    first = group.dropna().groupby("person")[GROUPED_BY].first()
    return first.reindex(list(people)).fillna("").to_numpy(str)


def _measure(
    experiment: config.Experiment, faces: EmbeddedFaces, data: DataFolder
) -> tuple[list[Measurement], pd.DataFrame]:
    far_targets = experiment.evaluate.far_targets
    if _are_few(faces, experiment):
        compared, measured = battery.on_few_faces(faces, far_targets)
        return measured, _scores(faces.people, compared).assign(part=0)
    pairs = _listed_pairs(faces, data, experiment.split.pairs or GENERATED)
    parts = [faces.part(number) for number in sorted(faces.table["part"].unique())]
    measured = _on_list(pairs, faces, experiment.evaluate)
    measured += battery.mean_over_parts(
        parts, lambda part: battery.on_faces(part, part.enrolled & (part.identity % 2 == 0), far_targets)
    )
    compared = Comparisons(*(pairs[name].to_numpy() for name in ("score", "one", "other", "genuine")))
    return measured, _scores(np.append(faces.people, ""), compared).assign(part=pairs["part"].to_numpy(int))


def _are_few(faces: EmbeddedFaces, experiment: config.Experiment) -> bool:
    """Tell whether every pair of faces is compared, and accuracy does not rest on a list."""
    compared = len(faces.table) * (len(faces.table) - 1) // 2
    return experiment.split.pairs is None and experiment.split.rotations == 1 and compared <= MOST_PAIRS


def _probed(
    experiment: config.Experiment, path: Path, source: dict[str, Any], data: DataFolder
) -> list[Measurement]:
    """Measure the closed-form head of a run as the run itself; a baseline has none."""
    if not path.exists():
        return []
    found = records.read_table(path, layout.EMBEDDING_COLUMNS)
    if found.empty:
        why = next(each["note"] for each in source["metrics"] if each["name"] == layout.PROBE_AUC)
        return refused("verification", [f"probe_{name}" for name in PROBED], 0, why)
    faces, settings = evaluated_faces(found, str(path), data, experiment), experiment.evaluate
    measured = (
        battery.on_few_faces(faces, settings.far_targets)[1]
        if _are_few(faces, experiment)
        else _on_list(_listed_pairs(faces, data, experiment.split.pairs or GENERATED), faces, settings)
    )
    return [replace(each, name=f"probe_{each.name}") for each in measured if each.name in PROBED]


def _on_list(pairs: pd.DataFrame, faces: EmbeddedFaces, settings: config.Evaluate) -> list[Measurement]:
    """Measure each part's pairs by themselves: a threshold, and a curve, belongs to one network's scores."""
    lost = np.ones((len(faces.weights), 1), np.int64)  # whoever has no face at all is in every resample
    weights = np.hstack([faces.weights, lost])
    parts = [part for _, part in pairs.groupby("part")]
    return battery.mean_over_parts(parts, lambda part: battery.on_list(part, weights, settings.far_targets))


def _listed_pairs(faces: EmbeddedFaces, data: DataFolder, protocol: str) -> pd.DataFrame:
    """Return the list's pairs with score and people; the score of a pair without one of its faces is NaN."""
    pairs: pd.DataFrame = records.read_table(data.pairs)
    pairs = pairs[pairs["protocol"] == protocol].reset_index(drop=True)
    if pairs.empty:
        raise DataError(f"{data.pairs} holds no pair of {protocol}; run the split stage again.")
    rows = pair_rows(pairs, faces.table["sample_id"])
    there = (rows >= 0).all(axis=0)
    one, other = _people_of(pairs, faces, data)
    part = faces.table["part"].to_numpy(int)[rows]
    of_fold = pairs["fold"].map(faces.table.groupby("fold")["part"].first()).fillna(faces.table["part"].min())
    score, own = cosines(unit_rows(faces.vectors), rows), np.where(there, part[0], of_fold.astype(int))
    pairs = pairs.assign(score=score, one=one, other=other, part=own)
    elsewhere = ~there & _in_another_part(pairs, faces, data)
    kept: pd.DataFrame = pairs[~elsewhere & (~there | (part[0] == part[1]))]
    return kept.reset_index(drop=True)


def _in_another_part(pairs: pd.DataFrame, faces: EmbeddedFaces, data: DataFolder) -> NDArray[np.bool_]:
    """Tell which pairs are of evaluation faces that are not among `faces`, or of a fold of only such."""
    roles = records.read_table(data.split, ["sample_id", "role", "fold"])
    others = roles[roles["role"] == layout.ROLE_EVALUATION]
    others = others[~others["sample_id"].isin(faces.table["sample_id"])]
    folds = set(others["fold"]) - set(faces.table["fold"])
    shown = pairs["first"].isin(others["sample_id"]) | pairs["second"].isin(others["sample_id"])
    return (shown | pairs["fold"].isin(folds)).to_numpy(bool)


def _people_of(pairs: pd.DataFrame, faces: EmbeddedFaces, data: DataFolder) -> NDArray[np.int64]:
    """Return the numbers of both photos' people, (2, N); everyone without any face is number P."""
    photos = records.read_table(data.photos, ["sample_id", "person"]).set_index("sample_id")["person"]
    known = dict(zip(faces.table["sample_id"], faces.identity, strict=True))
    names = {name: number for number, name in enumerate(faces.people)}
    sides = pairs["first"], pairs["second"]
    numbers = [[known.get(each, names.get(str(photos[each]), len(names))) for each in side] for side in sides]
    return np.array(numbers, np.int64)


def _scores(people: NDArray[np.str_], pairs: Comparisons) -> pd.DataFrame:
    found = np.isfinite(pairs.score)
    lowest = pairs.score[found].min() if found.any() else 0.0
    score = np.where(found, pairs.score, lowest - 1).astype(np.float32)
    first, second = (pd.Categorical(people[side]) for side in (pairs.first, pairs.second))
    return pd.DataFrame({"first": first, "second": second, "genuine": pairs.genuine, "score": score})
