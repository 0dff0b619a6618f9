"""The attributes stage: what an encoder, or a control, tells of gender, race, age and expression.

Heads are trained on the faces of all folds but one and tested on that one; no subject is in two folds. A
subject is a person where the data set names one, else a photo. Shapes: N faces, P subjects, R resamples, C
classes, D encoder width, B batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import StratifiedGroupKFold

from facemae import config
from facemae.compute.distributed import world
from facemae.core import layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say, track
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import OpenFaces
from facemae.data.faces.subsets import evenly
from facemae.evaluation.baselines.controls import features
from facemae.evaluation.baselines.off_the_shelf import Embed
from facemae.evaluation.pairs import Floats, Integers
from facemae.evaluation.protocols.attributes import (
    AGE,
    PREDICTION_COLUMNS,
    PROTOCOL,
    Labelled,
    measure,
    predictions,
)
from facemae.evaluation.records import Measurement
from facemae.models.attribute_heads import AGES, UNKNOWN
from facemae.models.base import Encoder
from facemae.models.embedder import BATCH, Frozen, all_tokens, in_batches
from facemae.stages.finetune import encoder_input, start_embedder
from facemae.stages.task import Task
from facemae.training import checkpoint, memory
from facemae.training.objectives.attributes import AttributeLearning
from facemae.training.optimizer import adamw
from facemae.training.trainer import Job, fit_faces, lock

PREDICTIONS = "predictions.parquet"

MOST_FACES = 8000  # of a source: the encoder sees them and their mirror images in a minute on two cores
RIDGES = (1.0, 10.0, 100.0, 1000.0)  # penalties of the age's linear model, one of which fits the data
ITERATIONS = 1000
WEIGHTED = ("expression",)  # tasks whose classes count alike: CK+ shows surprise 5 times per contempt
GROUPING = ("gender", "race")
COMPONENTS = 400  # of what is seen of a face, at most, and a third of the faces
FITTED = 2000  # faces that the components are those of, at most: 0.1 GB of 64 tokens of 192
HEADS = {  # what is trained, by mode and whether there is a pretrained encoder
    ("probe", True): "linear models on the frozen pretrained encoder",
    ("probe", False): "linear models on an untrained encoder",
    ("full", True): "pretrained encoder and heads trained",
    ("full", False): "encoder and heads trained from scratch",
}


def attributes(task: Task, pretrained: Path | None) -> None:
    """Train the heads and write metrics, predictions and the values of every metric on resampled subjects.

    `pretrained` is the folder of the run's `pretrain` stage; None tests the untrained encoder of the seed, or
    the features of the baseline `task.name`.

    Raises:
        UsageError: no task is named, a data set is not among the experiment's or lacks the attribute, the
            stage runs in another process or in several, or the settings need more memory than there is.
        DataError: a label cannot be used.
        IntegrityError: the pretrained weights do not fit.
    """
    sources: dict[str, list[str]] = {}
    for name, source in task.experiment.attributes.tasks.items():
        sources.setdefault(source, []).append(name)
    if not sources:
        raise UsageError(
            "attributes.tasks names none; name a task and its data set, such as gender: utkface."
        )
    tested = [read_labelled(task, source, names) for source, names in sources.items()]
    with world(task.compute.device) as processes:
        if processes.size > 1:
            raise UsageError("The attributes stage runs in one process; start it without torchrun.")
    if task.name in task.experiment.baselines:
        here = task.experiment.model_copy(update={"device": "cpu", "precision": "float32"})
        task = replace(task, experiment=here)  # where and how baselines compute
        see = features(task.name, task.experiment, task.seed)
        what = f"linear models on what {task.name} makes of a face before it learns"
        _measure(task, tested, partial(_probed, task, see), what, None)
        return
    inputs, mode = encoder_input(task, pretrained), task.experiment.attributes.mode
    job = task.job(_settings(task), **inputs)
    with lock(job), memory.explained(task.label):
        encoder = start_embedder(task, pretrained).encoder
        predict: Predict = partial(_trained, task, Frozen(encoder), job)
        if mode == "probe":
            predict = partial(_probed, task, _tokens(task, encoder))
        _measure(task, tested, predict, HEADS[mode, bool(inputs)], pretrained)
        checkpoint.remove(job.state)


def _measure(
    task: Task, tested: list[Labelled], predict: Predict, heads: str, pretrained: Path | None
) -> None:
    """Predict each source and write what that is worth; `heads` says by what."""
    seconds, measured, tables = 0.0, [], []
    for labelled in tested:
        faces = task.open(labelled.rows)
        say(task.label, f"{labelled.source}: {len(faces)} faces, {heads}, {task.compute}")
        predicted, taken = predict(labelled, faces)
        seconds += taken
        tables.append(predictions(labelled, predicted))
        resamples, seed = task.experiment.evaluate.resamples, task.experiment.split.seed
        measured += measure(labelled, predicted, _note(task, labelled, heads), resamples, seed)
    table = pd.concat(tables, ignore_index=True).astype({"fold": "int64"})
    records.write_table(task.out / PREDICTIONS, table, PREDICTION_COLUMNS)
    _write(task, pretrained, tested, measured, seconds)


def _training(task: Task) -> config.Training:
    """Return the settings of mode full, with fine-tuning's for all that the attributes' leave open."""
    own, run = task.experiment.attributes, task.run.finetune
    settings = {name: getattr(run, name) for name in config.Training.model_fields}
    settings |= {name: getattr(own, name) for name in ("steps", "batch_size", "learning_rate")}
    settings |= {"grad_accumulation": math.gcd(run.grad_accumulation, own.batch_size)}
    settings |= {"ema": 0.0, "held_out": 0.0, "validate_every": 0, "patience": 0}
    return config.Training.model_validate(settings)


def _settings(task: Task) -> dict[str, Any]:
    asked = {"attributes": task.experiment.attributes.model_dump(exclude={"runs"})}
    if task.name in task.experiment.baselines:
        return asked
    training = _training(task).model_dump() | {"layer_decay": task.run.finetune.layer_decay}
    own = {"training": training, "folds_seed": task.experiment.split.seed}
    return task.settings("model") | asked | own


# --- faces, labels and folds ---


def read_labelled(task: Task, source: str, tasks: list[str]) -> Labelled:
    """Return the faces of a source with the labels of some tasks, at most `MOST_FACES`, evenly chosen.

    They are the faces that the split holds for anything but the evaluation of identity: the folds here are
    their own. Photos with the same bytes are one subject. Errors are those of `attributes`.
    """
    table = _faces_of(task, source, tasks)
    table = evenly(table[table[tasks].notna().any(axis=1)], MOST_FACES).reset_index(drop=True)
    if table.empty:
        raise DataError(
            f"No face of {source} has a label for {' or '.join(tasks)}; take that out of attributes.tasks."
        )
    subject = pd.factorize(table["person"].fillna("\0" + table["sha256"].astype(str)), sort=True)[0]
    read, folds = {name: _read_task(table, name) for name in tasks}, task.experiment.attributes.folds
    refused = {name: _too_few(name, *read[name], subject, folds) for name in tasks}
    fine = [name for name in tasks if not refused[name]]
    fold = _folds(table, fine, subject, folds, task.experiment.split.seed)
    for name in fine:
        truth, classes = read[name]
        if alone := [c for k, c in enumerate(classes) if len(np.unique(fold[truth == k])) < 2]:
            refused[name] = f"the class {alone[0]} fell into one fold, beside which none is left to train on"
    return Labelled(
        source=source,
        rows=table[["sample_id"]],
        subject=subject.astype(np.int64),
        fold=fold,
        truth={name: read[name][0] for name in tasks if not refused[name]},
        classes={name: read[name][1] for name in tasks if not refused[name]},
        refused={name: reason for name, reason in refused.items() if reason},
        group=_groups(table),
    )


def _faces_of(task: Task, source: str, tasks: list[str]) -> pd.DataFrame:
    index = records.read_table(task.data.faces)
    name = source if source in set(index["source"]) else source.partition(":")[0]
    faces = index[index["source"] == name]
    for each in tasks:
        if each not in faces or faces[each].isna().all():
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


def _folds(table: pd.DataFrame, tasks: list[str], subject: Integers, folds: int, seed: int) -> Integers:
    """Return the fold of each face, the same for every run and seed: by subject, each class spread evenly.

    What is spread is the classes of all tasks together; a combination that fewer faces have than there are
    folds counts as the most common one. Where age is the only task, decades are spread.
    """
    if not tasks:
        return np.zeros(len(table), np.int64)
    if tasks == [AGE]:
        strata = table[AGE].floordiv(10).astype(str)
    else:
        strata = _together(table, [name for name in tasks if name != AGE])
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
        return np.full(len(table), "")
    return _together(table, columns).where(table[columns].notna().all(axis=1), "").to_numpy(np.str_)


def _together(table: pd.DataFrame, columns: list[str]) -> pd.Series:
    """Return the values of some columns as one text a row."""
    return table[columns].astype(object).fillna("").astype(str).agg(" ".join, axis=1)


# --- predictions, each fold's by what the others taught ---

Predicted = tuple[dict[str, Floats], float]  # each task's prediction (N,) of the faces, and seconds
Predict = Callable[[Labelled, OpenFaces], Predicted]


def _probed(task: Task, see: Embed, labelled: Labelled, faces: OpenFaces) -> Predicted:
    """Predict by linear models of scikit-learn on what `see` makes of a face, (N, H, H, 3) to (N, D)."""
    if not labelled.tasks:
        return {}, 0.0
    before, seen = task.compute.seconds(), _components(task, see, faces)
    predicted = {name: np.full(len(faces), np.nan) for name in labelled.tasks}
    for name, values in predicted.items():
        truth = labelled.truth[name]
        for fold in np.unique(labelled.fold).tolist():
            tested = labelled.fold == fold
            learnt = ~tested & (truth != UNKNOWN)
            values[tested] = _linear(name).fit(seen[learnt], truth[learnt]).predict(seen[tested])
    return predicted, task.compute.seconds() - before


def _tokens(task: Task, encoder: Encoder) -> Embed:
    """Return what a frozen encoder makes of faces: all tokens side by side.

    Their mean, which a linear probe often sees (He et al., CVPR 2022, appendix A.1), forgets where on the
    face something is, and told gender, race and age worse than gradients do.
    """
    task.compute.place(encoder.eval())
    return lambda images: in_batches(lambda batch: all_tokens(encoder, batch).float(), images, task.compute)


def _components(task: Task, see: Embed, faces: OpenFaces) -> Floats:
    """Return the first principal components (N, C) of what is seen of each face and of its mirror image.

    Of thousands of numbers the linear models would learn by heart. The components know no labels; they are
    those of some faces, evenly chosen, of all folds. All are scaled by one number: with a variance of one
    each, as many as the models can bear would be noise where faces are few.
    """

    def both(images: NDArray[np.uint8]) -> Floats:
        mirrored = np.ascontiguousarray(images[:, :, ::-1])  # PyTorch takes no negative strides
        return (see(images).astype(np.float32) + see(mirrored).astype(np.float32)) / 2

    def seen(some: OpenFaces, change: Callable[[Floats], Floats]) -> Floats:
        starts = range(0, len(some), BATCH)
        tracked = track(starts, len(starts), task.label, "batches")
        return np.concatenate([change(both(some[at : at + BATCH])) for at in tracked])

    count = min(len(faces), FITTED)
    fitted = seen(faces.some(np.arange(count) * len(faces) // count), lambda each: each)
    most = min(COMPONENTS, fitted.shape[1], max(1, count // 3))
    model = PCA(most, svd_solver="randomized", random_state=0).fit(fitted)
    scale = max(float(model.explained_variance_.mean()) ** 0.5, 1e-30)
    found = model.transform(fitted) if count == len(faces) else seen(faces, model.transform)
    scaled: Floats = found / scale
    return scaled


def _linear(name: str) -> RidgeCV | LogisticRegression:
    """Return the untrained model of a task; where classes are very uneven, all count alike."""
    if name == AGE:
        return RidgeCV(RIDGES)
    return LogisticRegression(max_iter=ITERATIONS, class_weight="balanced" if name in WEIGHTED else None)


def _trained(task: Task, encoder: Frozen, job: Job, labelled: Labelled, faces: OpenFaces) -> Predicted:
    """Predict by encoder and heads that are trained beside each fold.

    A training that was done before a kill is taken from its last checkpoint, the one that was under way goes
    on from its own.
    """
    predicted, seconds = {name: np.full(len(faces), np.nan) for name in labelled.tasks}, 0.0
    settings, decay = _training(task), task.run.finetune.layer_decay
    for fold in np.unique(labelled.fold).tolist() if predicted else []:
        learnt, tested = (np.flatnonzero(each) for each in (labelled.fold != fold, labelled.fold == fold))
        seed = seed_of(task.seed, "attributes", fold)
        objective = AttributeLearning(
            encoder, labelled.truth, labelled.classes, learnt, WEIGHTED, settings, task.compute, seed
        )
        # Other settings start from the beginning; what was under way with the old ones stays until the end.
        state = f"{labelled.source.replace('/', '-')}-{fold}-{records.digest(job.identity)}"
        label = f"{task.label} {labelled.source} fold {fold + 1}"
        own = Job(label, job.seed, job.state / state, job.identity)
        optimizer = adamw(objective.network, settings, encoder=objective.trunk, layer_decay=decay)
        trained = fit_faces(objective, optimizer, faces.some(learnt), settings, own, task.workers)
        seconds += trained.seconds
        for name, values in objective.predict(faces.some(tested)).items():
            predicted[name][tested] = values
    return predicted, seconds


def _note(task: Task, labelled: Labelled, heads: str) -> str:
    folds = task.experiment.attributes.folds
    rows = records.read_table(task.data.split, ["sample_id", "role"])
    unlabelled = set(rows.loc[rows["role"] == layout.ROLE_UNLABELLED, "sample_id"])
    seen, before = not unlabelled.isdisjoint(labelled.rows["sample_id"]), ""
    run = None if task.name in task.experiment.baselines else task.run
    if run and run.pretrain and seen:
        before = "; pretraining saw these photos without their labels"
    if run and (init := (run.pretrain or run.finetune).init):
        before += f"; {Path(init).name} may have seen these photos"
    return f"{folds} folds of {labelled.subjects} subjects, {heads}{before}"


def _write(
    task: Task, pretrained: Path | None, tested: list[Labelled], measured: list[Measurement], seconds: float
) -> None:
    before = records.read_metrics(pretrained) if pretrained else {}
    task.write(
        measured,
        _settings(task),
        device=str(task.compute),
        seconds=before.get("seconds", {}) | {PROTOCOL: round(seconds, 3)},
        precision=before.get("precision", {}) | {PROTOCOL: task.compute.precision},
        people=min(each.subjects for each in tested),  # the cautious number, should the sources differ
        evaluated=records.digest(
            [
                [each.source, each.rows["sample_id"].to_list(), each.fold.tolist(), each.tasks]
                for each in tested
            ]
        ),
        dataset=", ".join(each.source for each in tested),
        inputs=task.inputs(),
    )
    for each in measured:
        if not each.condition and each.value is not None:
            say(task.label, f"{each.name} {each.value:.3f} of {each.n} faces ({each.note})")
