"""The fine-tuning stage: a face embedder from the training people's labelled faces.

Where the evaluation people rotate, there is one training for each part of them, all from the same weights.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from facemae import config
from facemae.compute.device import joules
from facemae.compute.distributed import world
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.progress import say
from facemae.core.seeds import seed_of
from facemae.data.faces.subsets import known_faces, labelled_subset, people_apart, shown_twice
from facemae.models.build import build_embedder, build_encoder
from facemae.models.embedder import Embedder, pass_through
from facemae.models.interop.load import start_encoder
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
from facemae.training.whitening import whiten

WHITENED_PHOTOS, MOST_WHITENED = 8, 4000  # of a person, and of 500 people with as many, to whiten by


def finetune(task: Task, pretrained: Path | None) -> None:
    """Write the embedders, one for each part of the evaluation people, their embeddings, log and metrics.

    `pretrained` is the folder of the run's `pretrain` stage; None trains from scratch.
    """
    task.check_unseen(task.run.finetune.init)
    task.check_unseen(task.run.finetune.teacher)
    with world(task.compute.device) as processes:
        if processes.size > 1:
            raise UsageError(
                "Fine-tuning normalises over its whole batch, which several processes do not see; run it "
                "in one process (without torchrun)."
            )
        job = task.job(task.settings("model", "finetune"), **encoder_input(task, pretrained))
        with memory.explained(task.label), lock(job):
            jobs = {part: _job_of(job, part) for part in task.wanted_parts}
            done = [_trained(task, part, own, pretrained) for part, own in jobs.items()]
            _write(task, jobs, done, pretrained)
            for own in jobs.values():
                checkpoint.remove(own.state)


def encoder_input(task: Task, pretrained: Path | None) -> dict[str, Path]:
    """Return the file of the encoder that a fine-tuning starts from, by its name as an input; often none."""
    init = task.run.finetune.init
    if pretrained:
        return {"encoder": pretrained / layout.ENCODER}
    return {"encoder": encoder_file(init)} if init else {}


def _job_of(job: Job, part: int) -> Job:
    if part == 0:
        return job
    state = job.state.with_name(f"{job.state.name}-{part}")
    return replace(job, label=f"{job.label} part {part}", state=state, identity=job.identity | {"part": part})


@dataclass(frozen=True)
class _PartResult:
    """What the training of a part left behind, besides its weights; of mode knn nothing."""

    steps: int = 0
    seconds: float = 0.0
    held_out: list[tuple[float, int]] = field(default_factory=list)
    log: list[dict[str, Any]] = field(default_factory=list)
    faces: int = 0
    people: int = 0
    """Whose labels were used; of a distillation none."""
    joules: float | None = None
    health: dict[str, Any] = field(default_factory=dict)
    """See health.py."""
    left_out: int = 0
    """Unlabelled faces that a teacher takes for an evaluation person's."""


def _trained(task: Task, part: int, job: Job, pretrained: Path | None) -> _PartResult:
    """Train a part, or return what an attempt that ended in a later part has left of it."""
    path, weights = job.state / layout.PART, job.state / layout.EMBEDDER
    identity = json.loads(json.dumps(job.identity))
    if path.exists() and weights.exists():
        if records.read_json(job.state / layout.JOB) != identity:
            raise UsageError(
                f"{job.state} holds a part that was trained with other settings; go back to those to "
                "finish the others, or delete the folder to start again."
            )
        return _PartResult(**records.read_json(path))
    embedder = start_embedder(task, pretrained)
    start = "pretrained encoder" if pretrained else task.run.finetune.init or "scratch"
    done, network = _train(task, part, job, embedder, start)
    save_weights(merged(network), weights)
    files.write_json(job.state / layout.JOB, identity)
    files.write_json(path, asdict(done), sort_keys=False)  # so that its log reads as one that was not cut off
    for each in checkpoint.saved(job.state):  # the checkpoints of many parts would fill a disk
        each.unlink()
    return done


def _train(task: Task, part: int, job: Job, embedder: Embedder, start: str) -> tuple[_PartResult, nn.Module]:
    """Train a part, from its newest checkpoint on, on labelled faces or those that a teacher has embedded."""
    settings = task.run.finetune
    if settings.mode == "knn":
        say(job.label, "mode knn: the encoder as it is, nothing is trained")
        pass_through(embedder)
        return _PartResult(), embedder
    named = task.training(part)
    named = named if settings.teacher else labelled_subset(named, settings.labels)
    rows, held_out = people_apart(named, settings.held_out)
    known, given = task.load(known_faces(rows)), (settings, task.compute, task.seed)
    objective: FaceEmbedding
    if settings.teacher:
        rows, vectors, left_out = taught(task, part, set(named["person"]) - set(rows["person"]))
        objective, people = Distillation(embedder, vectors, known, *given), 0
    else:
        names, numbers = np.unique(rows["person"].astype(str), return_inverse=True)
        objective = Recognition(embedder, torch.from_numpy(numbers), known, *given)
        people, left_out = len(names), 0
    if settings.held_out:
        objective.validate_on(task.load(held_out))
    faces, source = task.open(rows), f"of {people} people" if people else "their teacher's embeddings"
    say(job.label, f"{len(faces)} faces, {source}, from {start}, {task.compute}")
    trunk = embedder.encoder.trunk
    optimizer = adamw(objective.network, settings, encoder=trunk, layer_decay=settings.layer_decay)
    trained = fit_faces(objective, optimizer, faces, settings, job, task.workers)
    checked = objective.judged(trained.log, aligned=task.experiment.data.align != "crop")
    say(job.label, _in_words(checked))
    started = task.compute.seconds()
    if settings.whiten and not settings.teacher:
        some, network = shown_twice(rows, WHITENED_PHOTOS, MOST_WHITENED), cast(Embedder, objective.result)
        whiten(network, task.open(some), some["person"], task.compute, f"{job.label} whitening")
    seconds = trained.seconds + task.compute.seconds() - started
    spent = joules(objective.watts, seconds)
    found = trained.step, seconds, trained.held_out, trained.log
    return _PartResult(*found, len(faces), people, spent, checked, left_out), objective.result


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
        start_encoder(embedder.encoder, task.run.finetune.init)
    return embedder


def _write(task: Task, jobs: dict[int, Job], done: list[_PartResult], pretrained: Path | None) -> None:
    """Write all outputs, among them a closed-form head on the encoder that fine-tuning starts from."""
    settings = task.settings("model", "finetune") | {"model": _model(task).model_dump()}
    files.write_json(task.out / layout.CONFIG, settings)
    for part, job in jobs.items():
        files.atomic_write(task.out / layout.embedder_file(part), (job.state / layout.EMBEDDER).read_bytes())
    embed_people(task, task.out)
    metrics = _metrics(task, done)
    if task.parts is None:  # a curve over labels wants one part, fine-tuned
        metrics.append(write_probe(task, start_embedder(task, pretrained).encoder))
    before = records.read_metrics(pretrained) if pretrained else {}
    spent = {name: {"pretrain": before[name]} for name in ("images_seen", "energy_joules") if name in before}
    seen = sum(each.steps for each in done) * task.run.finetune.batch_size
    metered = [each.joules for each in done if each.joules is not None]
    energy = {"finetune": sum(metered)} if len(metered) == len(done) else {}
    records.write_metrics(
        task.out,
        metrics,
        seed=task.seed,
        device=str(task.compute),
        seconds=before.get("seconds", {}) | {"finetune": round(sum(each.seconds for each in done), 3)},
        precision=before.get("precision", {}) | {"finetune": task.compute.precision},
        inputs=task.inputs(),
        started_from=before.get("started_from") or started_from(task.run.finetune.init),
        images_seen=spent.get("images_seen", {}) | {"finetune": seen},
        energy_joules=spent.get("energy_joules", {}) | energy,
        labels=[{"faces": each.faces if each.people else 0, "people": each.people} for each in done],
        health=[each.health for each in done if each.health],
    )
    log = [{"part": part, **line} for part, each in zip(jobs, done, strict=True) for line in each.log]
    records.write_lines(task.out / layout.LOG, log)


def _metrics(task: Task, done: list[_PartResult]) -> list[dict[str, Any]]:
    """Return the last loss, and where there are any the least held-out error and a teacher's faces: means."""
    trained = [each for each in done if each.log]
    if not trained:
        return [records.metric("training_loss", None, n=0, note="mode knn trains nothing")]

    def mean(name: str, values: list[float], n: int, note: str) -> dict[str, Any]:
        return records.metric(name, sum(values) / len(values), n=n, note=note)

    lines = sum(len(each.log) for each in trained)
    losses = [each.log[-1][LOSS] for each in trained]
    metrics = [mean("training_loss", losses, lines, "last line of the log")]
    if best := [min(each.held_out) for each in trained if each.held_out]:
        steps = ", ".join(str(step) for _, step in best)
        note = f"1 - ROC AUC of training people held out, best, at step {steps}"
        count = sum(len(each.held_out) for each in trained)
        metrics.append(mean("held_out_loss", [error for error, _ in best], count, note))
    if task.run.finetune.teacher:
        note = f"{max(each.left_out for each in done)} more look like an evaluation person to the teacher"
        metrics.append(mean("distilled_faces", [each.faces for each in done], len(done), note))
    return metrics
