"""The fine-tuning stage: a face embedder from the training people's labelled faces."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from facemae import checkpoint, config, files, results
from facemae.augment import random_view
from facemae.device import Compute
from facemae.losses import full_margin, identity_loss, set_margin
from facemae.models.embedder import build_embedder
from facemae.models.patches import to_input
from facemae.models.weights import load_weights, save_weights
from facemae.optim import adamw, ramp
from facemae.progress import say
from facemae.randomness import batch_ids, generator, seed_of
from facemae.task import Task, on_device
from facemae.train import Trained, fit, lock


def finetune(task: Task, pretrained: Path | None) -> None:
    """Train and write the embedder, log and metrics.

    Args:
        task: The stage.
        pretrained: Folder of the run's `pretrain` stage; None trains from scratch.

    Raises:
        UsageError: the run is being trained by another process.
        IntegrityError: the pretrained weights do not fit.
    """
    run, compute = task.run, task.compute()
    faces = task.load(results.ROLE_TRAIN)
    names = sorted({str(person) for person in faces.people})
    start = "pretrained encoder" if pretrained else "scratch"
    say(task.label, f"{len(faces.images)} faces of {len(names)} people, from {start}, {compute}")

    network = _network(task, len(names), pretrained)
    compute.place(network)
    settings = task.settings("model", "finetune")
    job = task.job(settings, compute, *([pretrained / results.ENCODER] if pretrained else []))
    with lock(job):
        number = {name: place for place, name in enumerate(names)}
        labels = torch.tensor([number[str(person)] for person in faces.people], device=compute.device)
        loss_at = _loss(network, on_device(faces.images, compute), labels, run.finetune, compute, task.seed)
        encoder = cast(nn.Module, network["embedder"].encoder)
        optimizer = adamw(network, run.finetune, encoder=encoder, layer_decay=run.finetune.layer_decay)
        trained = fit(network, optimizer, loss_at, run.finetune, compute, job)
        files.write_json(task.out / results.CONFIG, settings)
        save_weights(network["embedder"], task.out / results.EMBEDDER)
        _write_metrics(task, pretrained, trained, str(compute))
        results.write_lines(task.out / results.LOG, trained.log)
        checkpoint.remove(job.state)


def _network(task: Task, people: int, pretrained: Path | None) -> nn.ModuleDict:
    """Return the embedder, pretrained if there is an encoder, and the loss with a vector per person."""
    model, finetune = task.run.model, task.run.finetune
    torch.manual_seed(seed_of(task.seed, "weights"))
    embedder = build_embedder(model, task.image_size, drop_path=model.drop_path)
    if pretrained:
        load_weights(embedder.encoder, pretrained / results.ENCODER)
    return nn.ModuleDict({"embedder": embedder, "loss": identity_loss(finetune, people, model.embedding)})


def _write_metrics(task: Task, pretrained: Path | None, trained: Trained, device: str) -> None:
    before = results.read_json(pretrained / results.METRICS)["seconds"] if pretrained else {}
    note = "last line of the log"
    results.write_metrics(
        task.out,
        [results.metric("training_loss", trained.log[-1]["loss"], n=len(trained.log), note=note)],
        seed=task.seed,
        device=device,
        seconds=before | {"finetune": round(trained.seconds, 3)},
        inputs=task.inputs(),
    )


def _loss(
    network: nn.ModuleDict,
    faces: Tensor,
    labels: Tensor,
    settings: config.Finetune,
    compute: Compute,
    seed: int,
) -> Callable[[int], Tensor]:
    """Return the loss as a function of the step alone."""

    def loss_at(step: int) -> Tensor:
        ids = batch_ids(len(faces), settings.batch_size, step, seed).to(faces.device)
        images = random_view(to_input(faces[ids]), settings, generator(seed, "view", step))
        share = ramp(step, settings.steps, settings.margin_warmup_share)
        set_margin(network["loss"], full_margin(settings) * share)
        with compute.autocast():
            embeddings = network["embedder"](images)
        loss: Tensor = network["loss"](embeddings.float(), labels[ids])
        return loss

    return loss_at
