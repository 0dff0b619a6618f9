"""The attributes stage: what an encoder tells of gender, race, age and expression, beside identity.

Heads are trained on the faces of all folds but one and tested on that one; no subject is in two folds. A
subject is a person where the data set names one, else a photo. Shapes: N faces, P subjects, R resamples, C
classes, D encoder width, B batch.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_absolute_error
from sklearn.model_selection import StratifiedGroupKFold
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import world
from facemae.compute.seeding import Noise, batch_ids
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say, track
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import OpenFaces
from facemae.data.faces.loader import Feed
from facemae.data.faces.subsets import evenly
from facemae.evaluation.records import Measurement, entry, write_samples
from facemae.evaluation.statistics import identity_weights
from facemae.models.attribute_heads import (
    AGES,
    UNKNOWN,
    AttributeHeads,
    attribute_losses,
    expected_age,
    inverse_frequency,
)
from facemae.models.build import build_encoder
from facemae.models.embedder import Frozen
from facemae.models.patches import to_input
from facemae.models.weights import load_weights
from facemae.stages.task import Task
from facemae.training import checkpoint, memory
from facemae.training.objectives.augment import random_flip
from facemae.training.optimizer import adamw
from facemae.training.trainer import LOSS, Job, Objective, fit, lock

PROTOCOL = "attributes"
PREDICTIONS = "predictions.parquet"
PREDICTION_COLUMNS = ["sample_id", "task", "fold", "truth", "predicted"]

MOST_FACES = 8000  # of a source: the encoder sees them and their mirror images in a minute on two cores
GROUP_FACES = 30  # of a group: below, an accuracy of 0.8 is known to no better than 0.15
LEAST_VARIANCE = 0.01  # of a feature's 1: directions well below are taken for noise and stay small
BATCH = 64
AGE = "age"
WEIGHTED = (
    "expression",
)  # tasks whose classes count alike in the loss: CK+ shows surprise 5 times per contempt
GROUPING = ("gender", "race")
SCORES = ("accuracy", "balanced", "f1")
HEADS = {  # what is trained, by mode and whether there is a pretrained encoder
    ("probe", True): "heads on the frozen pretrained encoder",
    ("probe", False): "heads on an untrained encoder",
    ("full", True): "pretrained encoder and heads trained",
    ("full", False): "encoder and heads trained from scratch",
}

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]


@dataclass(frozen=True)
class Labelled:
    """The faces of one data set, in folds, with what it says of them.

    Attributes:
        source: The data set.
        rows: (N,) rows with a sample_id.
        subject: (N,) number of each face's subject, from 0.
        fold: (N,) fold of each face.
        truth: Each task's labels (N,): the number of the class, or the age in years; -1 where unknown.
        classes: Each task's classes in order; none for age.
        refused: The tasks that cannot be tested, with the reason.
        group: (N,) group of each face, such as "female black", or "" where it is not known.
    """

    source: str
    rows: pd.DataFrame
    subject: Integers
    fold: Integers
    truth: dict[str, Integers]
    classes: dict[str, list[str]]
    refused: dict[str, str]
    group: NDArray[np.str_]

    @property
    def tasks(self) -> list[str]:
        """Return the tasks that can be tested."""
        return list(self.truth)

    @property
    def subjects(self) -> int:
        """Return P."""
        return int(self.subject.max()) + 1


def attributes(task: Task, pretrained: Path | None) -> None:
    """Train the heads and write metrics, predictions and the values of every metric on resampled subjects.

    Args:
        task: The stage.
        pretrained: Folder of the run's `pretrain` stage; None tests the untrained encoder of the seed.

    Raises:
        UsageError: no task is named, a data set is not among the experiment's or lacks the attribute, the
            stage runs in another process or in several, or the settings need more memory than there is.
        DataError: a label cannot be used.
        IntegrityError: the pretrained weights do not fit.
    """
    tested = [read_labelled(task, source, names) for source, names in _by_source(task).items()]
    compute = task.compute()
    with world(compute.device) as processes:
        if processes.size > 1:
            raise UsageError("The attributes stage runs in one process; start it without torchrun.")
    inputs = {"encoder": pretrained / layout.ENCODER} if pretrained else {}
    job = task.job(_settings(task), compute, **inputs)
    with lock(job), memory.told_before(task.label):
        start = "pretrained encoder" if pretrained else "untrained encoder"
        encoder = Frozen(_encoder(task, pretrained))
        seconds, measured, tables = 0.0, [], []
        for labelled in tested:
            faces = task.open(labelled.rows)
            say(task.label, f"{labelled.source}: {len(faces.places)} faces, {start}, {compute}")
            predicted, taken = _Stage(task, labelled, faces, encoder, compute, job).predict()
            seconds += taken
            tables.append(predictions(labelled, predicted))
            measured += measure(
                labelled, predicted, _note(task, labelled, pretrained is not None), *_resampling(task)
            )
        _write(task, pretrained, tested, measured, tables, str(compute), seconds)
        checkpoint.remove(job.state)


def _by_source(task: Task) -> dict[str, list[str]]:
    """Return the tasks of each source, which are trained together."""
    tasks = task.experiment.attributes.tasks
    if not tasks:
        raise UsageError(
            "attributes.tasks names none; name a task and its data set, such as gender: utkface."
        )
    found: dict[str, list[str]] = {}
    for name, source in tasks.items():
        found.setdefault(source, []).append(name)
    return found


def _resampling(task: Task) -> tuple[int, int]:
    return task.experiment.evaluate.resamples, task.experiment.split.seed


def _training(task: Task) -> config.Training:
    """Return the attributes' settings as a training, with fine-tuning's for all that they leave open."""
    own, run = task.experiment.attributes, task.run.finetune
    settings = {name: getattr(run, name) for name in config.Training.model_fields}
    settings |= {name: getattr(own, name) for name in ("steps", "batch_size", "learning_rate")}
    settings |= {"grad_accumulation": math.gcd(run.grad_accumulation, own.batch_size), "ema": 0.0}
    settings |= {"held_out": 0.0, "validate_every": 0, "patience": 0}
    if own.mode == "probe":  # a fold takes a second: its end is kept, not its middle
        settings |= {"log_every": own.steps, "checkpoint_every": own.steps}
    return config.Training.model_validate(settings)


def _settings(task: Task) -> dict[str, Any]:
    """Return all that shapes the predictions."""
    own = task.experiment.attributes.model_dump(exclude={"runs"})
    training = _training(task).model_dump() | {"layer_decay": task.run.finetune.layer_decay}
    return task.settings("model") | {
        "attributes": own,
        "training": training,
        "folds_seed": task.experiment.split.seed,
    }


def _encoder(task: Task, pretrained: Path | None) -> Any:
    """Return the run's encoder: pretrained, or as the untrained one of the seed."""
    torch.manual_seed(seed_of(task.seed, "weights"))
    encoder = build_encoder(task.run.model, task.image_size, drop_path=task.run.model.drop_path)
    if pretrained:
        load_weights(encoder.trunk, pretrained / layout.ENCODER)
    return encoder


# --- faces, labels and folds ---


def read_labelled(task: Task, source: str, tasks: list[str]) -> Labelled:
    """Return the faces of a source with the labels of some tasks, at most `MOST_FACES`, evenly chosen.

    They are the faces that the split holds for anything but the evaluation of identity: the folds here are
    their own. Photos with the same bytes are one subject.

    Raises:
        UsageError: the source is not among the data, or does not have the attribute.
        DataError: none of the faces has a label, or an age is out of range.
    """
    table = _faces_of(task, source, tasks)
    table = evenly(table[table[tasks].notna().any(axis=1)], MOST_FACES).reset_index(drop=True)
    if table.empty:
        raise DataError(
            f"No face of {source} has a label for {' or '.join(tasks)}; take that out of attributes.tasks."
        )
    subject = pd.factorize(table["person"].fillna("\0" + table["sha256"].astype(str)), sort=True)[0]
    truth, classes, refused = {}, {}, {}
    folds = task.experiment.attributes.folds
    for name in tasks:
        truth[name], classes[name] = _read_task(table, name)
        refused[name] = _too_few(name, truth[name], classes[name], subject, folds)
    fine = [name for name in tasks if not refused[name]]
    fold = _folds(table, fine, subject, folds, task.experiment.split.seed)
    for name in fine:
        refused[name] = _not_in_every_training(name, truth[name], classes[name], fold)
    fine = [name for name in fine if not refused[name]]
    return Labelled(
        source=source,
        rows=table[["sample_id"]],
        subject=subject.astype(np.int64),
        fold=fold,
        truth={name: truth[name] for name in fine},
        classes={name: classes[name] for name in fine},
        refused={name: reason for name, reason in refused.items() if reason},
        group=_groups(table),
    )


def _faces_of(task: Task, source: str, tasks: list[str]) -> pd.DataFrame:
    """Return sample_id, person, sha256 and attributes of a source's faces."""
    known = pq.read_schema(task.data.faces).names
    wanted = [name for name in dict.fromkeys([*tasks, *GROUPING]) if name in known]
    index = records.read_table(task.data.faces, ["sample_id", "person", "source", "sha256", *wanted])
    name = source if source in set(index["source"]) else source.partition(":")[0]
    faces = index[index["source"] == name]
    if faces.empty:
        there = ", ".join(sorted(set(index["source"])))
        raise UsageError(
            f"attributes.tasks: {source} is not among the data, which are {there}; add it to data.tested."
        )
    for each in tasks:
        if each not in wanted or faces[each].isna().all():
            raise UsageError(
                f"attributes.tasks: {source} says nothing of {each}; name a data set that does, or take the "
                "task out."
            )
    rows = task.rows(layout.ROLE_TESTED, layout.ROLE_UNLABELLED, layout.ROLE_TRAIN)
    chosen = faces[faces["sample_id"].isin(rows["sample_id"])]
    if chosen.empty:
        raise UsageError(
            f"attributes.tasks: every face of {source} is kept for the evaluation of identity; add another "
            "data set to data.tested."
        )
    return chosen.sort_values("sample_id")


def _read_task(table: pd.DataFrame, name: str) -> tuple[Integers, list[str]]:
    """Return a task's labels (N,) as numbers, and its classes."""
    values = table[name]
    if name != AGE:
        numbers, classes = pd.factorize(values, sort=True)  # -1 for what is missing
        return numbers.astype(np.int64), [str(each) for each in classes]
    wrong = table[~values.isna() & ~values.between(0, AGES - 1)]
    if len(wrong):
        first = wrong.iloc[0]
        raise DataError(
            f"{first['sample_id']} has the age {first[AGE]:g}, and ages go from 0 to {AGES - 1}; correct the "
            "label."
        )
    return values.fillna(UNKNOWN).to_numpy(np.int64), []


def _too_few(name: str, truth: Integers, classes: list[str], subject: Integers, folds: int) -> str:
    """Return why a task cannot be tested, or "" if it can."""
    if name != AGE and len(classes) < 2:
        return f"every face is {classes[0]}; a task needs two classes"
    parts = {"faces with an age": truth != UNKNOWN} if name == AGE else {}
    parts |= {f"the class {each}": truth == number for number, each in enumerate(classes)}
    for what, chosen in parts.items():
        count = len(np.unique(subject[chosen]))
        if count < folds:
            subjects = "1 subject" if count == 1 else f"{count} subjects"
            return f"{what}: {subjects} for {folds} folds; lower attributes.folds or add some"
    return ""


def _not_in_every_training(name: str, truth: Integers, classes: list[str], fold: Integers) -> str:
    for number, each in enumerate(classes):
        if len(np.unique(fold[truth == number])) < 2:
            return f"the class {each} fell into one fold, beside which none is left to train on"
    return ""


def _folds(table: pd.DataFrame, tasks: list[str], subject: Integers, folds: int, seed: int) -> Integers:
    """Return the fold of each face, the same for every run and seed: by subject, each class spread evenly.

    What is spread is the classes of all tasks together; a combination that fewer faces have than there are
    folds counts as the most common one. Where age is the only task, decades are spread.
    """
    by_class = [name for name in tasks if name != AGE]
    if not tasks:
        return np.zeros(len(table), np.int64)
    labels = [table[name].astype(object).fillna("").astype(str) for name in by_class] or [
        table[AGE].floordiv(10).astype(str)
    ]
    strata = pd.concat(labels, axis=1).agg(" ".join, axis=1)
    counts = strata.value_counts()
    strata = strata.where(strata.map(counts) >= folds, counts.index[0])
    fold = np.full(len(table), -1)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for number, (_, tested) in enumerate(splitter.split(strata, strata, subject)):
        fold[tested] = number
    assert (fold >= 0).all()
    assert pd.Series(fold).groupby(subject).nunique().max() == 1, "a subject is in two folds"
    return fold.astype(np.int64)


def _groups(table: pd.DataFrame) -> NDArray[np.str_]:
    columns = [name for name in GROUPING if name in table and table[name].notna().any()]
    if not columns:
        return np.full(len(table), "", dtype=np.str_)
    known = table[columns].notna().all(axis=1)
    texts = table[columns].astype(object).fillna("").astype(str).agg(" ".join, axis=1)
    return texts.where(known, "").to_numpy(np.str_)


# --- training and prediction ---


@dataclass(frozen=True)
class _Stage:
    """The trainings on one source: one for each fold."""

    task: Task
    labelled: Labelled
    faces: OpenFaces
    encoder: Frozen
    compute: Compute
    job: Job

    @property
    def training(self) -> config.Training:
        return _training(self.task)

    def predict(self) -> tuple[dict[str, Floats], float]:
        """Return each task's prediction (N,) of the faces, by the training beside their fold, and seconds.

        A training that was done before a kill is taken from its last checkpoint, the one that was under way
        goes on from its own.
        """
        predicted = {name: np.full(len(self.labelled.fold), np.nan) for name in self.labelled.tasks}
        seconds = 0.0
        if not predicted:
            return predicted, seconds
        before = self.compute.seconds()
        pooled = self.pooled() if self.task.experiment.attributes.mode == "probe" else None
        seconds += self.compute.seconds() - before
        for fold in np.unique(self.labelled.fold).tolist():
            learning = self.learning(fold, pooled)
            seconds += self.fit(learning, fold)
            tested = np.flatnonzero(self.labelled.fold == fold)
            for name, values in learning.predict(tested).items():
                predicted[name][tested] = values
        return predicted, seconds

    def pooled(self) -> Tensor:
        """Return what the frozen encoder makes of each face and its mirror image, (N, 2, D) float32."""
        network = copy.deepcopy(self.encoder).eval()
        self.compute.place(network)
        ids = np.arange(len(self.faces.places))
        parts = []
        batches = range(0, len(ids), BATCH)
        for start in track(batches, len(batches), self.task.label, "batches"):
            images = _images(self.faces, ids[start : start + BATCH], self.compute)
            parts.append(_both(network, images, self.compute))
        return torch.cat(parts)

    def learning(self, fold: int, pooled: Tensor | None) -> _Learning:
        """Return what is trained beside a fold: heads on what the encoder made, or heads and encoder."""
        device, labelled = self.compute.device, self.labelled
        places = np.flatnonzero(labelled.fold != fold)
        sizes = {name: len(labelled.classes[name]) or AGES for name in labelled.tasks}
        labels = {name: torch.tensor(values) for name, values in labelled.truth.items()}
        heads = AttributeHeads(self.encoder.encoder.width, sizes)
        for name in labelled.tasks:
            if name not in WEIGHTED:  # where they count alike, even is the start
                heads.start_at(name, labels[name][places])
        parts: dict[str, nn.Module] = {"heads": heads}
        if pooled is None:
            parts["encoder"] = copy.deepcopy(self.encoder)
        else:
            pooled = whitened(pooled, torch.from_numpy(places).to(device))
        network = nn.ModuleDict(parts)
        self.compute.place(network)
        weights = {
            name: inverse_frequency(labels[name][places], sizes[name]).to(device)
            for name in WEIGHTED
            if name in labels
        }
        moved = {name: values.to(device) for name, values in labels.items()}
        seed = seed_of(self.task.seed, "attributes", fold)
        chosen = torch.from_numpy(places)
        return _Learning(
            network, chosen, moved, weights, self.training, self.compute, seed, self.faces, pooled
        )

    def fit(self, learning: _Learning, fold: int) -> float:
        """Train what is left to train and return the seconds of it all."""
        # Other settings start anew; what was under way with the old ones stays until the stage is done.
        name = f"{self.labelled.source.replace('/', '-')}-{fold}-{records.digest(self.job.identity)}"
        label = f"{self.task.label} {self.labelled.source} fold {fold + 1}"
        job = Job(label, self.job.seed, self.job.state / name, self.job.identity)
        if learning.pooled is not None:
            return self._fit(
                learning, job, Objective(learning.network, learning.loss, samples=learning.samples)
            )
        size = self.task.image_size
        estimate = memory.measure(learning.network, _trial(size, self.compute), self.compute)
        memory.check(estimate, self.training, self.compute, self.task.label)
        taken = estimate.bytes(self.training.batch_size // self.training.grad_accumulation)
        with (
            Feed(self.faces, learning.ids_at, self.compute, self.task.workers, taken) as feed,
            memory.explained(estimate, self.training, self.compute, self.task.label),
        ):
            objective = Objective(
                learning.network,
                lambda step, part: learning.loss(step, part, feed),
                samples=learning.samples,
                flops=estimate.flops,
            )
            return self._fit(learning, job, objective)

    def _fit(self, learning: _Learning, job: Job, objective: Objective) -> float:
        trunk = None if learning.pooled is not None else self._trunk(learning)
        decay = self.task.run.finetune.layer_decay
        optimizer = adamw(learning.network, self.training, encoder=trunk, layer_decay=decay)
        return fit(objective, optimizer, self.training, self.compute, job).seconds

    def _trunk(self, learning: _Learning) -> nn.Module:
        frozen = learning.network["encoder"]
        assert isinstance(frozen, Frozen)
        return frozen.encoder.trunk


@dataclass(frozen=True)
class _Learning:
    """One training beside one fold."""

    network: nn.ModuleDict
    """heads, and in mode full encoder."""
    places: Tensor
    """The faces that are trained on."""
    labels: dict[str, Tensor]
    """(N,) of each task, on the device."""
    weights: dict[str, Tensor]
    training: config.Training
    compute: Compute
    seed: int
    faces: OpenFaces
    pooled: Tensor | None
    """(N, 2, D) what the frozen encoder made of each face and its mirror image, whitened; or None."""

    def ids_at(self, step: int) -> Tensor:
        """Return the faces (B,) of a step."""
        return self.places[batch_ids(len(self.places), self.training.batch_size, step, self.seed)]

    def samples(self, step: int) -> list[str]:
        return [self.faces.sample_ids[place] for place in self.ids_at(step).tolist()]

    def loss(self, step: int, part: slice, feed: Feed | None = None) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, each face or its mirror image by chance."""
        ids = self.ids_at(step)[part].to(self.compute.device)
        noise = Noise(range(part.start, part.stop), self.seed, "flip", step, device=self.compute.device)
        if feed:
            images = random_flip(to_input(feed.batch(step, part)), noise)
            with self.compute.autocast():
                pooled = self.network["encoder"](images).float()
        else:
            assert self.pooled is not None
            pooled = self.pooled[ids, (noise.uniform() < 0.5).long()]
        labels = {name: values[ids] for name, values in self.labels.items()}
        losses = attribute_losses(self.network["heads"](pooled), labels, self.weights)
        return {LOSS: torch.stack(list(losses.values())).mean()} | {
            f"{name}_loss": value for name, value in losses.items()
        }

    @torch.inference_mode()
    def predict(self, ids: Integers) -> dict[str, Floats]:
        """Return each task's prediction of some faces: a class, or an age in years.

        The probabilities of a face and of its mirror image are averaged.
        """
        self.network.eval()
        found: dict[str, list[Tensor]] = {name: [] for name in self.labels}
        for start in range(0, len(ids), BATCH):
            for name, logits in self.network["heads"](self._pooled(ids[start : start + BATCH])).items():
                mean = logits.double().softmax(dim=2).mean(dim=1)
                found[name].append(expected_age(mean) if name == AGE else mean.argmax(dim=1))
        return {name: torch.cat(parts).double().cpu().numpy() for name, parts in found.items()}

    def _pooled(self, ids: Integers) -> Tensor:
        if self.pooled is not None:
            return self.pooled[torch.from_numpy(ids).to(self.pooled.device)]
        return _both(self.network["encoder"], _images(self.faces, ids, self.compute), self.compute)


def _images(faces: OpenFaces, ids: Integers, compute: Compute) -> Tensor:
    """Return faces as network input (B, 3, H, H)."""
    pixels = np.empty((len(ids), *faces.file.shape[1:]), np.uint8)
    faces.read(ids, pixels)
    return to_input(torch.from_numpy(pixels).to(compute.device))


@torch.no_grad()
def _both(network: nn.Module, images: Tensor, compute: Compute) -> Tensor:
    """Return the pooled tokens of images and of their mirror images, (B, 2, D) float32."""
    with compute.autocast():
        return torch.stack([network(images).float(), network(images.flip(-1)).float()], dim=1)


def whitened(pooled: Tensor, places: Tensor) -> Tensor:
    """Return pooled tokens (N, 2, D) float32 with features of mean 0, white over the faces at `places`.

    Each feature is divided by its deviation, then the features are turned into uncorrelated ones and back,
    along directions of a variance above `LEAST_VARIANCE` to deviation 1 (ZCA; Kessy, Lewin & Strimmer, 2018).
    Pooled tokens share a large mean, and few directions hold nearly all their variance: a linear probe that
    starts from them says more of its own training than of what it looks at. A normalisation without weights
    before the probe is He et al.'s (CVPR 2022, appendix A.1), who divide by the deviation alone.
    """
    seen = pooled[places].flatten(0, 1).double()
    deviation, mean = torch.std_mean(seen, dim=0, correction=0)
    deviation = deviation.clamp(min=1e-6)
    standard = (seen - mean) / deviation
    variance, directions = torch.linalg.eigh(standard.T @ standard / len(standard))
    scale = (variance.clamp(min=0) + LEAST_VARIANCE).rsqrt()
    turned = (directions * scale) @ directions.T
    white: Tensor = ((pooled.double() - mean) / deviation) @ turned
    return white.float()


def _trial(size: int, compute: Compute) -> Callable[[nn.Module, int], Any]:
    """Return a forward pass over empty images, for an estimate of its cost."""

    def forward(network: nn.Module, count: int) -> Any:
        assert isinstance(network, nn.ModuleDict)
        pooled = network["encoder"](torch.zeros(count, 3, size, size, device=compute.device))
        return network["heads"](pooled.float())

    return forward


# --- scores ---


def confusion_scores(confusion: Floats) -> dict[str, Floats]:
    """Return accuracy, balanced accuracy and macro F1 (R,) of confusion matrices.

    As scikit-learn has them: the mean recall of the classes that occur, and the mean F1 of the classes that
    occur or are predicted. NaN for a matrix without any count.

    Args:
        confusion: (R, C, C) counts, or weights, of true classes (rows) by predicted ones (columns).
    """
    right = confusion.diagonal(axis1=1, axis2=2)
    occurs, predicted = confusion.sum(axis=2), confusion.sum(axis=1)
    with np.errstate(invalid="ignore"):
        recall, f1 = right / occurs, 2 * right / (occurs + predicted)  # 0 / 0: a class that plays no part
        return {
            "accuracy": right.sum(axis=1) / occurs.sum(axis=1),
            "balanced": _mean_of_numbers(recall),
            "f1": _mean_of_numbers(f1),
        }


def _mean_of_numbers(values: Floats) -> Floats:
    there = np.isfinite(values)
    mean: Floats = np.where(there, values, 0).sum(axis=1) / there.sum(axis=1)
    return mean


def confusion_per_subject(
    subject: Integers, truth: Integers, predicted: Integers, subjects: int, classes: int
) -> Floats:
    """Return each subject's confusion matrix, (P, C, C); times weights (R, P) it is that of the resamples."""
    cells = (subject * classes + truth) * classes + predicted
    counts = np.bincount(cells, minlength=subjects * classes * classes)
    return counts.reshape(subjects, classes, classes).astype(np.float64)


def mean_per_resample(values: Floats, subject: Integers, weights: Floats) -> Floats:
    """Return the mean (R,) of values of faces (N,), each face as often as its subject is drawn.

    Args:
        values: (N,).
        subject: (N,) whose face each is.
        weights: (R, P) how often each subject is drawn; a resample that draws none of them is NaN.
    """
    total = np.bincount(subject, weights=values, minlength=weights.shape[1])
    count = np.bincount(subject, minlength=weights.shape[1]).astype(np.float64)
    with np.errstate(invalid="ignore"):
        mean: Floats = (weights @ total) / (weights @ count)
    return mean


def measure(
    labelled: Labelled, predicted: Mapping[str, Floats], note: str, resamples: int, seed: int
) -> list[Measurement]:
    """Score the predictions of all tasks, over all faces and by group.

    Args:
        labelled: The faces with their labels.
        predicted: Each task's prediction (N,): the number of a class, or an age in years.
        note: How they were made.
        resamples: R; the draws depend on the subjects and the seed alone.
        seed: Of the draws.

    Returns:
        gender_accuracy, gender_balanced, gender_f1 and so on, age_error in years; those that the data do not
        allow without a value.
    """
    found: list[Measurement] = []
    for name, reason in labelled.refused.items():
        found += _refusal(name, reason)
    if not labelled.tasks:
        return found
    weights = identity_weights(labelled.subjects, resamples, seed).astype(np.float64)
    for name in labelled.tasks:
        if name == AGE:
            found += _measure_age(labelled, predicted[name], note, weights)
        else:
            found += _measure_classes(labelled, name, predicted[name].astype(np.int64), note, weights)
    return found


def _refusal(name: str, reason: str) -> list[Measurement]:
    names = [f"{AGE}_error"] if name == AGE else [f"{name}_{score}" for score in SCORES]
    return [Measurement(PROTOCOL, each, None, 0, reason, None) for each in names]


def _measure_classes(
    labelled: Labelled, name: str, predicted: Integers, note: str, weights: Floats
) -> list[Measurement]:
    known, classes = labelled.truth[name] != UNKNOWN, len(labelled.classes[name])
    truth, guess, subject = labelled.truth[name][known], predicted[known], labelled.subject[known]
    of_subjects = confusion_per_subject(subject, truth, guess, weights.shape[1], classes)
    drawn = (weights @ of_subjects.reshape(len(of_subjects), -1)).reshape(-1, classes, classes)
    samples = confusion_scores(drawn)
    points = {
        "accuracy": accuracy_score(truth, guess),
        "balanced": balanced_accuracy_score(truth, guess),
        "f1": f1_score(truth, guess, average="macro"),
    }
    most = int(np.bincount(truth).argmax())
    always, share = labelled.classes[name][most], float((truth == most).mean())
    trivial = {"accuracy": share, "balanced": 1 / classes, "f1": 2 * share / (1 + share) / classes}
    found = [
        Measurement(
            PROTOCOL,
            f"{name}_{score}",
            float(points[score]),
            len(truth),
            f"{note}; always {always} would give {trivial[score]:.3f}",
            samples[score],
        )
        for score in SCORES
    ]
    right, trivially = (predicted == labelled.truth[name]).astype(float), labelled.truth[name] == most
    text = f"{note}; always {always} would give"
    return found + _by_group(
        labelled, known, f"{name}_accuracy", (right, trivially.astype(float)), text, weights
    )


def _measure_age(labelled: Labelled, predicted: Floats, note: str, weights: Floats) -> list[Measurement]:
    truth, name = labelled.truth[AGE], f"{AGE}_error"
    known = truth != UNKNOWN
    error = np.abs(predicted - truth)
    median = float(np.median(truth[known]))
    trivial = np.abs(median - truth)
    text = f"{note}; years; always {median:g} would give"
    overall = Measurement(
        PROTOCOL,
        name,
        float(mean_absolute_error(truth[known], predicted[known])),
        int(known.sum()),
        f"{text} {trivial[known].mean():.3f}",
        mean_per_resample(error[known], labelled.subject[known], weights),
    )
    return [overall, *_by_group(labelled, known, name, (error, trivial), text, weights)]


def _by_group(
    labelled: Labelled,
    known: Booleans,
    name: str,
    values: tuple[Floats, Floats],
    text: str,
    weights: Floats,
) -> list[Measurement]:
    """Return the mean of the faces' values in each group, which has to have enough faces.

    Args:
        labelled: The faces.
        known: (N,) which faces have a label.
        name: The metric.
        values: (N,) of the predictions, and of the same prediction for all.
        text: What stands in the note before the mean of the latter.
        weights: (R, P).
    """
    found = []
    for group in np.unique(labelled.group[labelled.group != ""]).tolist():
        chosen = known & (labelled.group == group)
        count = int(chosen.sum())
        if count < GROUP_FACES:
            few = f"{count} faces of this group have a label; {GROUP_FACES} are needed"
            found.append(Measurement(PROTOCOL, name, None, count, few, None, group))
            continue
        own, trivial = (each[chosen] for each in values)
        samples = mean_per_resample(own, labelled.subject[chosen], weights)
        note = f"{text} {trivial.mean():.3f}"
        found.append(Measurement(PROTOCOL, name, float(own.mean()), count, note, samples, group))
    return found


def predictions(labelled: Labelled, predicted: Mapping[str, Floats]) -> pd.DataFrame:
    """Return each known label with its prediction as text, `PREDICTION_COLUMNS`; ages in years."""
    tables = [pd.DataFrame(columns=PREDICTION_COLUMNS)]
    for name in labelled.tasks:
        known, classes = np.flatnonzero(labelled.truth[name] != UNKNOWN), labelled.classes[name]
        truth, guess = labelled.truth[name][known], predicted[name][known]
        columns: dict[str, Any] = {
            "sample_id": labelled.rows["sample_id"].to_numpy()[known],
            "task": name,
            "fold": labelled.fold[known],
            "truth": [classes[each] if classes else str(each) for each in truth.tolist()],
            "predicted": [classes[int(each)] if classes else f"{each:.3f}" for each in guess.tolist()],
        }
        tables.append(pd.DataFrame(columns))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def _note(task: Task, labelled: Labelled, pretrained: bool) -> str:
    settings = task.experiment.attributes
    heads = HEADS[settings.mode, pretrained]
    rows = records.read_table(task.data.split, ["sample_id", "role"])
    unlabelled = set(rows.loc[rows["role"] == layout.ROLE_UNLABELLED, "sample_id"])
    seen = task.run.pretrain is not None and not unlabelled.isdisjoint(labelled.rows["sample_id"])
    before = "; pretraining saw these photos without their labels" if seen else ""
    return f"{settings.folds} folds of {labelled.subjects} subjects, {heads}{before}"


# --- files ---


def _write(
    task: Task,
    pretrained: Path | None,
    tested: list[Labelled],
    measured: list[Measurement],
    tables: list[pd.DataFrame],
    device: str,
    seconds: float,
) -> None:
    before = records.read_metrics(pretrained) if pretrained else {}
    level = task.experiment.evaluate.level
    evaluated = [
        [each.source, each.rows["sample_id"].to_list(), each.fold.tolist(), each.tasks] for each in tested
    ]
    table = pd.concat(tables, ignore_index=True).astype({"fold": "int64"})
    records.write_table(task.out / PREDICTIONS, table, PREDICTION_COLUMNS)
    tables_written = write_samples(measured, task.out)
    files.write_json(task.out / layout.CONFIG, _settings(task))
    records.write_metrics(
        task.out,
        [entry(each, level) for each in measured],
        seed=task.seed,
        device=device,
        seconds=before.get("seconds", {}) | {PROTOCOL: round(seconds, 3)},
        precision=before.get("precision", {}) | {PROTOCOL: device.rpartition(", ")[2]},
        tables=tables_written,
        people=min(each.subjects for each in tested),  # the cautious number, should the sources differ
        evaluated=records.digest(evaluated),
        dataset=", ".join(each.source for each in tested),
        inputs=task.inputs(),
    )
    for each in measured:
        if not each.condition and each.value is not None:
            say(task.label, f"{each.name} {each.value:.3f} of {each.n} faces ({each.note})")
