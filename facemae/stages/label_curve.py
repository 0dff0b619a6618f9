"""How accuracy grows with the number of labels: a run fine-tuned on random subsets of them.

Every run meets the same subsets. Equal at every number of labels are steps, batch, rates and schedule, and so
the faces that are seen, not the epochs: of fewer faces each is seen more often, so that no number of labels
ends less trained than all of them. A note says how often, and whether a training has not learnt (health.py).
Where the evaluation people are in several parts, the curve is that of the first part's, to save time.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError
from facemae.core.progress import say
from facemae.evaluation import influence
from facemae.evaluation.records import Measurement, entry, write_samples
from facemae.stages.evaluate import accuracy, evaluated_faces
from facemae.stages.finetune import encoder_input, finetune
from facemae.stages.task import Task

PART = 0


@dataclass(frozen=True)
class Point:
    """A number of labels: a share of them, or a most per person."""

    condition: str
    amount: float

    def labels(self, subset: int) -> dict[str, float]:
        """Return the changed settings of fine-tuning."""
        amount = self.amount if self.condition == "share" else int(self.amount)
        return {"fraction" if self.condition == "share" else self.condition: amount, "subset": subset}


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
    whole = _accuracy(task, finetuned)
    measured, trained = [_named(whole, Point("share", 1.0), task, finetuned)], [finetuned]
    for point in points(task.experiment.label_curve):
        fewer = replace(task, experiment=_with_labels(task, point.labels(subset)), parts=(PART,))
        folder = _folder(fewer, point, pretrained)
        fewer = replace(fewer, out=folder)
        try:
            if not (folder / layout.METRICS).exists():
                finetune(fewer, pretrained)
        except DataError as error:
            measured.append(_refused(whole, point, str(error)))
            continue
        measured.append(_named(_accuracy(fewer, folder), point, task, folder))
        trained.append(folder)
        value = measured[-1].value
        say(
            task.label,
            f"{point.condition} {point.amount:g}: accuracy {value if value is None else f'{value:.3f}'}",
        )
    measured.append(_area(measured, next(filter(None, map(_not_learnt, trained)), "")))
    _write(task, measured, finetuned)
    shutil.rmtree(task.out.with_name(f".{task.out.name}"), ignore_errors=True)


def _folder(task: Task, point: Point, pretrained: Path | None) -> Path:
    """Return where a point is trained: another place for other settings, faces or encoders."""
    inputs = encoder_input(task, pretrained)
    identity = task.job(task.settings("model", "finetune"), task.compute(), **inputs).identity
    name = f"{point.condition}-{point.amount:g}-{records.digest(identity)}"
    return task.out.with_name(f".{task.out.name}") / name / "finetune"


def _with_labels(task: Task, labels: dict[str, float]) -> config.Experiment:
    changed = {"finetune": {"labels": labels}}
    runs = dict(task.experiment.runs)
    runs[task.name] = config.merge(runs[task.name] or {}, changed)
    return task.experiment.model_copy(update={"runs": runs})


def _accuracy(task: Task, finetuned: Path) -> Measurement:
    table = records.read_table(finetuned / layout.EMBEDDINGS, layout.EMBEDDING_COLUMNS)
    table = table[table["part"] == PART]
    found = evaluated_faces(table, str(finetuned), task.data, task.experiment, PART)
    return accuracy(task.experiment, found, task.data)


def _named(measured: Measurement, point: Point, task: Task, finetuned: Path) -> Measurement:
    trained = records.read_metrics(finetuned)
    labels, seen = trained["labels"][PART], trained["images_seen"]["finetune"] / len(trained["labels"])
    text = (
        f"{labels['faces']} faces of {labels['people']} people, each seen {seen / labels['faces']:.0f} times"
    )
    parts = f"part 1 of {task.rotations} only" if task.rotations > 1 else ""
    note = "; ".join(part for part in (text, parts, _not_learnt(finetuned)) if part)
    return replace(measured, protocol="labels", condition=point.condition, amount=point.amount, note=note)


def _not_learnt(finetuned: Path) -> str:
    """Return why a fine-tuning says nothing of its labels, "" where it has learnt."""
    health = records.read_metrics(finetuned).get("health", [])[PART : PART + 1]
    return next((f"has not learnt: {each['reason']}" for each in health if not each["learnt"]), "")


def _refused(measured: Measurement, point: Point, reason: str) -> Measurement:
    """Return what stands for a number of labels that is too small to train on."""
    where = replace(measured, protocol="labels", condition=point.condition, amount=point.amount)
    return replace(where, value=None, n=0, note=reason, influence=None)


def _area(measured: list[Measurement], not_learnt: str) -> Measurement:
    """Return the mean accuracy over all numbers of labels; without one of them, or its training, none."""
    values = [None if not_learnt else each.value for each in measured]
    influences = [each.influence for each in measured if each.influence is not None]
    defined = all(value is not None for value in values)
    return replace(
        measured[0],
        name="labels_accuracy",
        condition="",
        amount=None,
        value=float(np.mean(values)) if defined else None,  # type: ignore[arg-type]
        influence=influence.mean(influences) if defined else None,
        note=f"mean over {len(measured)} numbers of labels"
        if defined
        else (not_learnt and f"a training {not_learnt}") or "some numbers are too small",
    )


def _write(task: Task, measured: list[Measurement], finetuned: Path) -> None:
    source = records.read_metrics(finetuned)
    people = len(set(task.rows(layout.ROLE_EVALUATION)["person"]))
    files.write_json(task.out / layout.CONFIG, {"run": task.name, "seed": task.seed})
    tables = write_samples(measured, task.out)
    records.write_metrics(
        task.out,
        [entry(each, task.experiment.evaluate.level) for each in measured],
        seed=task.seed,
        device=source["device"],
        seconds={},
        precision=source["precision"],
        tables=tables,
        people=people,
        inputs=task.inputs(),
    )
