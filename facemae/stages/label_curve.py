"""How accuracy grows with the number of labels: a run fine-tuned on random subsets of them.

Every run meets the same subsets. Equal at every number of labels are steps, batch, rates and schedule, and so
the faces that are seen, not the epochs: of fewer faces each is seen more often, so that no number of labels
ends less trained than all of them. A note says how often, and whether a training has not learnt (health.py).
Where the evaluation people are in several parts, the curve is that of the first part's, to save time.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import DataError
from facemae.core.progress import say
from facemae.evaluation import influence
from facemae.evaluation.records import Measurement
from facemae.stages.evaluate import accuracy
from facemae.stages.finetune import encoder_input, finetune
from facemae.stages.task import Task

PART = 0


class Point(NamedTuple):
    """A number of labels: a share of them, or a most per person."""

    condition: str
    amount: float


def points(curve: config.LabelCurve) -> list[Point]:
    """Return the numbers of labels that are tried, fewest first."""
    shares = [Point("share", share) for share in sorted(curve.fractions)]
    return shares + [Point("per_person", float(most)) for most in sorted(curve.per_person)]


def label_curve(task: Task, subset: int, pretrained: Path | None, finetuned: Path) -> None:
    """Fine-tune on each number of labels and write the accuracies, those with all labels among them.

    Args:
        task: The stage; its folder is the subset's.
        subset: Which random subset.
        pretrained: Folder of the run's `pretrain` stage; None trains from scratch.
        finetuned: Folder of its `finetune` stage, which saw all labels.
    """
    whole = accuracy(task, finetuned / layout.EMBEDDINGS, PART)
    measured, trained = [_at(Point("share", 1.0), whole, note=_note(task, finetuned))], [finetuned]
    for point in points(task.experiment.label_curve):
        fewer = _with_fewer(task, point, subset, pretrained)
        try:
            if not (fewer.out / layout.METRICS).exists():
                finetune(fewer, pretrained)
        except DataError as error:  # too few to train on
            measured.append(_at(point, whole, value=None, n=0, note=str(error), influence=None))
            continue
        found = accuracy(fewer, fewer.out / layout.EMBEDDINGS, PART)
        measured.append(_at(point, found, note=_note(task, fewer.out)))
        trained.append(fewer.out)
        shown = "None" if found.value is None else f"{found.value:.3f}"
        say(task.label, f"{point.condition} {point.amount:g}: accuracy {shown}")
    measured.append(_area(measured, next(filter(None, map(_not_learnt, trained)), "")))
    source = records.read_metrics(finetuned)
    task.write(
        measured,
        {},
        device=source["device"],
        seconds={},
        precision=source["precision"],
        people=task.rows(layout.ROLE_EVALUATION)["person"].nunique(),
        inputs=task.inputs(),
    )
    shutil.rmtree(task.state, ignore_errors=True)


def _with_fewer(task: Task, point: Point, subset: int, pretrained: Path | None) -> Task:
    """Return the fine-tuning on so many labels; with other settings, faces or encoders in another folder."""
    amount = {"fraction": point.amount} if point.condition == "share" else {"per_person": int(point.amount)}
    runs, changed = dict(task.experiment.runs), {"finetune": {"labels": {**amount, "subset": subset}}}
    runs[task.name] = config.merge(runs[task.name] or {}, changed)
    fewer = replace(task, experiment=task.experiment.model_copy(update={"runs": runs}), parts=(PART,))
    inputs = encoder_input(fewer, pretrained)
    identity = fewer.job(fewer.settings("model", "finetune"), **inputs).identity
    name = f"{point.condition}-{point.amount:g}-{records.digest(identity)}"
    return replace(fewer, out=task.state / name / "finetune")


def _at(point: Point, measured: Measurement, **changes: Any) -> Measurement:
    """Return what was measured with a number of labels as a point of the curve."""
    moved = replace(measured, protocol="labels", condition=point.condition, amount=point.amount)
    return replace(moved, **changes)


def _note(task: Task, finetuned: Path) -> str:
    trained = records.read_metrics(finetuned)
    labels, seen = trained["labels"][PART], trained["images_seen"]["finetune"] / len(trained["labels"])
    text = (
        f"{labels['faces']} faces of {labels['people']} people, each seen {seen / labels['faces']:.0f} times"
    )
    parts = f"part 1 of {task.rotations} only" if task.rotations > 1 else ""
    return "; ".join(part for part in (text, parts, _not_learnt(finetuned)) if part)


def _not_learnt(finetuned: Path) -> str:
    """Return why a fine-tuning says nothing of its labels, "" where it has learnt."""
    health = records.read_metrics(finetuned).get("health", [])[PART : PART + 1]
    return next((f"has not learnt: {each['reason']}" for each in health if not each["learnt"]), "")


def _area(measured: list[Measurement], not_learnt: str) -> Measurement:
    """Return the mean accuracy over all numbers of labels; without one of them, or its training, none."""
    whole = replace(measured[0], name="labels_accuracy", condition="", amount=None)
    values = [each.value for each in measured if each.value is not None]
    if not_learnt or len(values) < len(measured):
        why = f"a training {not_learnt}" if not_learnt else "some numbers are too small"
        return replace(whole, value=None, influence=None, note=why)
    influences = [each.influence for each in measured if each.influence is not None]
    note = f"mean over {len(measured)} numbers of labels"
    return replace(whole, value=float(np.mean(values)), influence=influence.mean(influences), note=note)
