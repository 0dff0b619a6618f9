"""The fine-tuning stage: a face embedder from the training people's labelled faces.

Where the evaluation people rotate, there is one training for each part of them, all from the same weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from facemae import config
from facemae.compute.device import Compute, joules
from facemae.compute.distributed import world
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.progress import say
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import load_faces
from facemae.data.faces.subsets import known_faces, labelled_subset, people_apart
from facemae.models.build import build_embedder, build_encoder
from facemae.models.embedder import Embedder, pass_through
from facemae.models.lora import merged
from facemae.models.shipped_models import encoder_file, started_from
from facemae.models.weights import load_weights, save_weights
from facemae.stages.embed import embed_people
from facemae.stages.task import Task
from facemae.stages.teacher import taught
from facemae.stages.token_head import write_probe
from facemae.training import checkpoint, memory
from facemae.training.objective import LOSS
from facemae.training.objectives.distillation import Distillation
from facemae.training.objectives.identity import FaceEmbedding, Recognition
from facemae.training.optimizer import adamw
from facemae.training.trainer import Job, fit_faces, lock


def finetune(task: Task, pretrained: Path | None) -> None:
    """Write the embedders, one for each part of the evaluation people, their embeddings, log and metrics.

    Args:
        task: The stage.
        pretrained: Folder of the run's `pretrain` stage; None trains from scratch.

    Raises:
        UsageError: the run is being trained by another process, or several share the work, or the settings
            need more memory than there is, or another network.
        DataError: there are too few labels to learn from, or to validate on.
        IntegrityError: the pretrained weights do not fit.
    """
    task.check_unseen(task.run.finetune.init)
    task.check_unseen(task.run.finetune.teacher)
    compute = task.compute()
    with world(compute.device) as processes:
        if processes.size > 1:
            raise UsageError(
                "Fine-tuning normalises over its whole batch, which several processes do not see; run it "
                "in one process (without torchrun)."
            )
        with memory.told_before(task.label):
            _finetune(task, pretrained, compute)


def _finetune(task: Task, pretrained: Path | None, compute: Compute) -> None:
    job = task.job(task.settings("model", "finetune"), compute, **encoder_input(task, pretrained))
    with lock(job):
        parts = [_Part(task, number, _job_of(job, number)) for number in task.wanted_parts]
        done = [_trained(part, pretrained, compute) for part in parts]
        _write(task, parts, done, pretrained, compute)
        for part in parts:
            checkpoint.remove(part.job.state)


def encoder_input(task: Task, pretrained: Path | None) -> dict[str, Path]:
    """Return the file of the encoder that a fine-tuning starts from, by its name as an input; often none."""
    init = task.run.finetune.init
    if pretrained:
        return {"encoder": pretrained / layout.ENCODER}
    return {"encoder": encoder_file(init)} if init else {}


@dataclass(frozen=True)
class _Part:
    """The training whose embedder one part of the evaluation people is evaluated with."""

    task: Task
    number: int
    job: Job

    @property
    def weights(self) -> Path:
        """Where its result waits for that of the other parts."""
        return self.job.state / layout.EMBEDDER


def _job_of(job: Job, part: int) -> Job:
    if part == 0:
        return job
    state = job.state.with_name(f"{job.state.name}-{part}")
    return replace(job, label=f"{job.label} part {part}", state=state, identity=job.identity | {"part": part})


@dataclass(frozen=True)
class _PartResult:
    """What the training of a part left behind, besides its weights."""

    steps: int
    seconds: float
    held_out: list[tuple[float, int]]
    log: list[dict[str, Any]]
    faces: int
    people: int
    joules: float | None
    health: dict[str, Any]
    """See health.py; {} where nothing was trained."""
    left_out: int = 0
    """See `_Learnt`."""


def _trained(part: _Part, pretrained: Path | None, compute: Compute) -> _PartResult:
    """Train a part, or return what an attempt that ended in a later part has left of it."""
    path, identity = part.job.state / layout.PART, json.loads(json.dumps(part.job.identity))
    if path.exists() and part.weights.exists():
        if records.read_json(part.job.state / layout.JOB) != identity:
            raise UsageError(
                f"{part.job.state} holds a part that was trained with other settings; go back to those to "
                "finish the others, or delete the folder to start again."
            )
        return _PartResult(**records.read_json(path))
    done, embedder = _train(part, pretrained, compute)
    save_weights(merged(embedder), part.weights)
    files.write_json(part.job.state / layout.JOB, identity)
    files.write_json(path, asdict(done), sort_keys=False)  # so that its log reads as one that was not cut off
    for each in checkpoint.saved(part.job.state):  # the checkpoints of many parts would fill a disk
        each.unlink()
    return done


def _train(part: _Part, pretrained: Path | None, compute: Compute) -> tuple[_PartResult, nn.Module]:
    """Train a part, from its newest checkpoint on, and return its embedder."""
    task, settings, job = part.task, part.task.run.finetune, part.job
    embedder = start_embedder(task, pretrained)
    if settings.mode == "knn":
        say(job.label, "mode knn: the encoder as it is, nothing is trained")
        pass_through(embedder)
        return _PartResult(0, 0.0, [], [], 0, 0, None, {}), embedder
    objective, learnt = _objective(part, embedder, compute)
    faces = task.open(learnt.rows)
    start = "pretrained encoder" if pretrained else settings.init or "scratch"
    say(job.label, f"{len(faces)} faces, {learnt.source}, from {start}, {compute}")
    trunk = embedder.encoder.trunk
    optimizer = adamw(objective.network, settings, encoder=trunk, layer_decay=settings.layer_decay)
    trained = fit_faces(objective, optimizer, faces, settings, job, task.workers)
    spent = joules(objective.watts, trained.seconds)
    checked = objective.judged(trained.log, aligned=task.experiment.data.align != "crop")
    say(job.label, _in_words(checked))
    found = trained.step, trained.seconds, trained.held_out, trained.log
    return _PartResult(*found, len(faces), learnt.people, spent, checked, learnt.left_out), objective.result


@dataclass(frozen=True)
class _Learnt:
    """What a training learns from.

    Attributes:
        rows: Of the split.
        people: Whose labels are used; of a distillation none.
        left_out: Unlabelled faces that a teacher takes for an evaluation person's.
    """

    rows: pd.DataFrame
    people: int
    left_out: int = 0

    @property
    def source(self) -> str:
        """Return in words what of these faces is learnt."""
        return f"of {self.people} people" if self.people else "their teacher's embeddings"


def _objective(part: _Part, embedder: Embedder, compute: Compute) -> tuple[FaceEmbedding, _Learnt]:
    """Return what is trained: on labelled faces, or on those that a teacher has embedded."""
    task, settings = part.task, part.task.run.finetune
    named = task.training(part.number)
    named = named if settings.teacher else labelled_subset(named, settings.labels)
    rows, held_out = people_apart(named, settings.held_out)
    known = load_faces(task.data, known_faces(rows))
    objective: FaceEmbedding
    if settings.teacher:
        unseen = set(named["person"]) - set(rows["person"])
        faces, vectors, left_out = taught(task, part.number, unseen)
        learnt = _Learnt(faces, 0, left_out)
        objective = Distillation(embedder, vectors, known, settings, compute, task.seed)
    else:
        names, numbers = np.unique(rows["person"].astype(str), return_inverse=True)
        learnt = _Learnt(rows, len(names))
        labels = torch.from_numpy(numbers)
        objective = Recognition(embedder, labels, known, settings, compute, task.seed)
    if settings.held_out:
        objective.validate_on(load_faces(task.data, held_out))
    return objective, learnt


def _in_words(checked: dict[str, Any]) -> str:
    """Return the line that a log shows of a training's health."""
    text = f"loss {checked['loss_of_chance']:.0%} of chance"
    if "rank1" in checked:
        text += f", effective dimension {checked['effective_dimension']:.1f}, rank 1 {checked['rank1']:.0%}"
    return text if checked["learnt"] else f"has not learnt: {checked['reason']} ({text})"


def _model(task: Task) -> config.Model:
    """Return the network: of mode knn an embedding as wide as the encoder."""
    model = task.run.model
    if task.run.finetune.mode != "knn":
        return model
    width = build_encoder(model, task.image_size).width
    return model.model_copy(update={"head": "pooled", "embedding": width})


def start_embedder(task: Task, pretrained: Path | None) -> Embedder:
    """Return the embedder that a fine-tuning starts from, its encoder pretrained, or of `finetune.init`."""
    model = _model(task)
    torch.manual_seed(seed_of(task.seed, "weights"))
    embedder = build_embedder(model, task.image_size, drop_path=model.drop_path)
    if pretrained:
        load_weights(embedder.encoder.trunk, pretrained / layout.ENCODER)
    elif task.run.finetune.init:
        from facemae.models.interop.load import start_encoder

        start_encoder(embedder.encoder, task.run.finetune.init)
    return embedder


def _write(
    task: Task, parts: list[_Part], done: list[_PartResult], pretrained: Path | None, compute: Compute
) -> None:
    settings = task.settings("model", "finetune") | {"model": _model(task).model_dump()}
    files.write_json(task.out / layout.CONFIG, settings)
    for part in parts:
        files.atomic_write(task.out / layout.embedder_file(part.number), part.weights.read_bytes())
    embed_people(task, task.out)
    _write_metrics(task, done, pretrained, compute)
    log = [{"part": part.number, **line} for part, each in zip(parts, done, strict=True) for line in each.log]
    records.write_lines(task.out / layout.LOG, log)


def _probed(task: Task, pretrained: Path | None, compute: Compute) -> list[dict[str, Any]]:
    """Return the metric of a closed-form head on the encoder that fine-tuning starts from."""
    if task.parts is not None:  # a curve over labels wants one part, fine-tuned
        return []
    return [write_probe(task, start_embedder(task, pretrained).encoder, compute)]


def _write_metrics(task: Task, done: list[_PartResult], pretrained: Path | None, compute: Compute) -> None:
    before = records.read_metrics(pretrained) if pretrained else {}
    seconds = before.get("seconds", {}) | {"finetune": round(sum(each.seconds for each in done), 3)}
    seen = sum(each.steps for each in done) * task.run.finetune.batch_size
    spent = {name: {"pretrain": before[name]} for name in ("images_seen", "energy_joules") if name in before}
    metered = [each.joules for each in done if each.joules is not None]
    energy = {"finetune": sum(metered)} if len(metered) == len(done) else {}
    records.write_metrics(
        task.out,
        _metrics(done) + _distilled(task, done) + _probed(task, pretrained, compute),
        seed=task.seed,
        device=str(compute),
        seconds=seconds,
        precision=before.get("precision", {}) | {"finetune": compute.precision},
        inputs=task.inputs(),
        started_from=before.get("started_from") or started_from(task.run.finetune.init),
        images_seen=spent.get("images_seen", {}) | {"finetune": seen},
        energy_joules=spent.get("energy_joules", {}) | energy,
        labels=[{"faces": each.faces if each.people else 0, "people": each.people} for each in done],
        health=[each.health for each in done if each.health],
    )


def _metrics(done: list[_PartResult]) -> list[dict[str, Any]]:
    """Return the last loss and, where there was a validation, the least error, as means over the parts."""
    logged = [each.log[-1][LOSS] for each in done if each.log]
    if not logged:
        return [records.metric("training_loss", None, n=0, note="mode knn trains nothing")]
    lines = sum(len(each.log) for each in done)
    loss = sum(logged) / len(logged)
    metrics = [records.metric("training_loss", loss, n=lines, note="last line of the log")]
    best = [min(each.held_out) for each in done if each.held_out]
    if best:
        count = sum(len(each.held_out) for each in done)
        steps = ", ".join(str(step) for _, step in best)
        note = f"1 - ROC AUC of training people held out, best, at step {steps}"
        value = sum(error for error, _ in best) / len(best)
        metrics.append(records.metric("held_out_loss", value, n=count, note=note))
    return metrics


def _distilled(task: Task, done: list[_PartResult]) -> list[dict[str, Any]]:
    """Return the metric of the faces that a teacher was learnt from; none of a run without one."""
    if task.run.finetune.teacher is None:
        return []
    note = f"{max(each.left_out for each in done)} more look like an evaluation person to the teacher"
    faces = sum(each.faces for each in done) / len(done)
    return [records.metric("distilled_faces", faces, n=len(done), note=note)]
