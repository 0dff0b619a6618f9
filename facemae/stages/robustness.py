"""The robustness stage: recognition of covered and relit faces, and under real light from the side."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from facemae.core import files, layout, records
from facemae.core.errors import DataError, RefusedError, UsageError
from facemae.core.progress import say
from facemae.data.faces.pairs import GENERATED
from facemae.evaluation.baselines.controls import EmbedByPart
from facemae.evaluation.pairs import pair_rows
from facemae.evaluation.protocols import illumination
from facemae.evaluation.protocols.robustness import Trial, choose_pairs, families_of, measure
from facemae.evaluation.records import Measurement
from facemae.evaluation.statistics import identity_weights
from facemae.stages.embed import recogniser
from facemae.stages.evaluate import setting
from facemae.stages.task import Task


def robustness(task: Task, finetuned: Path | None) -> None:
    """Write how a run or baseline recognises covered and relit faces, with its values on the resamples.

    `finetuned` is the folder of the run's `finetune` stage; None: `task.name` is a baseline.

    Raises:
        UsageError: there is nothing to test, there are fewer pairs than folds, or the photos that show real
            light do not say where it is.
        DataError: a fold has no pair of a kind, or too few faces are there to test the light on.
        IntegrityError: an embedding of an unchanged photo is zero or not finite.
    """
    experiment, settings = task.experiment, task.experiment.robustness
    families = families_of(settings)
    if not families and settings.illumination is None:
        raise UsageError("robustness: there is no occlusion, light or illumination to test; name one.")
    recognise = recogniser(task, finetuned)
    measured: list[Measurement] = []
    trial = load_trial(task)
    if families:
        measured += measure(trial, families, recognise, experiment.evaluate.level, task.label)
    if settings.illumination is not None:
        measured += _real_light(task, settings.illumination, recognise)
    trained = records.read_metrics(finetuned) if finetuned else {}
    task.write(
        measured,
        settings.model_dump(exclude={"runs"})
        | experiment.evaluate.model_dump(include={"resamples", "level"}),
        device=str(task.compute) if finetuned else "cpu, float32",
        **{name: trained.get(name, {}) for name in records.SPENT},
        people=trial.weights.shape[1],
        evaluated=records.digest(trial.names),
        dataset=experiment.dataset,
        setting=setting(experiment),
        inputs=task.inputs() | {"pairs": files.sha256_of(task.data.pairs)},
    )
    for each in measured:
        if each.value is not None and not each.condition:
            say(task.label, f"{each.name} {each.value:.3f}")


def load_trial(task: Task) -> Trial:
    """Return the pairs that everything is tested on, with their photos; errors as `choose_pairs`."""
    split = task.experiment.split
    rows = task.rows(layout.ROLE_EVALUATION)
    listed = records.read_table(task.data.pairs, layout.PAIR_COLUMNS)
    listed = listed[listed["protocol"] == (split.pairs or GENERATED)]
    pairs = choose_pairs(listed, rows, task.experiment.robustness.pairs, split.seed)
    chosen = rows[rows["sample_id"].isin({*pairs["first"], *pairs["second"]})]
    people, (first, second) = np.unique(rows["person"].to_numpy(str)), pair_rows(pairs, chosen["sample_id"])
    sides = (pairs[f"{side}_person"].to_numpy(str) for side in ("first", "second"))
    one, other = (np.searchsorted(people, side) for side in sides)
    return Trial(
        images=task.load(chosen).images,
        first=first,
        second=second,
        part=pairs["part"].to_numpy(int),
        first_person=one,
        second_person=other,
        genuine=pairs["genuine"].to_numpy(bool),
        fold=pairs["fold"].to_numpy(int),
        weights=identity_weights(len(people), task.experiment.evaluate.resamples, split.seed),
        seed=split.seed,
        names=pairs[["first", "second"]].to_numpy().tolist(),
    )


def _real_light(task: Task, source: str, recognise: EmbedByPart) -> list[Measurement]:
    """Return how photos of a tested source are recognised by the direction of their light.

    With rotations the first part's model recognises them, since none of the models knows these people.
    """
    rows = lit_rows(task, source)
    vectors = recognise(task.load(rows).images, 0)
    people, identity = np.unique(rows["person"].to_numpy(str), return_inverse=True)
    if len(people) < 2:
        raise DataError(f"robustness.illumination: {source} shows {len(people)} person, and 2 are needed.")
    evaluate, split = task.experiment.evaluate, task.experiment.split
    weights = identity_weights(len(people), evaluate.resamples, split.seed)
    note = f"by the model of part 1 of {split.rotations}" if split.rotations > 1 else ""
    try:
        return illumination.measure(vectors, identity, rows["subset"].to_numpy(str), weights, note)
    except RefusedError as error:
        raise DataError(f"The light of {source} cannot be evaluated: {error}.") from error


def lit_rows(task: Task, source: str) -> pd.DataFrame:
    """Return the split's rows of a tested source with their `subset` by the angle of the light."""
    name, light = source.partition(":")[0], ["light_azimuth", "light_elevation"]
    faces = records.read_table(task.data.faces)
    known = faces[faces["source"] == name].reindex(columns=["sample_id", *light])
    rows = task.rows(layout.ROLE_TESTED).merge(known, on="sample_id")
    if rows.empty:
        raise DataError(
            f"robustness.illumination: no face of {name} is there to be tested only; name it in data.tested."
        )
    if rows[light].isna().any(axis=None):
        raise UsageError(
            f"robustness.illumination: the photos of {name} do not name the direction of their light; "
            "take yaleb or null."
        )
    azimuth, elevation = (rows[each].to_numpy(float) for each in light)
    return rows.assign(subset=illumination.light_subset(azimuth, elevation))
