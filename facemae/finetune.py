"""The fine-tuning stage: a face embedder from the training people's labelled faces."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae import checkpoint, config, cost, files, results
from facemae.augment import random_view
from facemae.data.feed import Feed
from facemae.device import Compute
from facemae.errors import UsageError
from facemae.losses import full_margin, identity_loss, set_margin
from facemae.models.embedder import Embedder, build_embedder
from facemae.models.patches import to_input
from facemae.models.weights import load_weights, save_weights
from facemae.optim import adamw, averaged, ramp
from facemae.parallel import world
from facemae.progress import say
from facemae.randomness import Noise, batch_ids, seed_of
from facemae.task import Task
from facemae.train import LOSS, Objective, Trained, fit, lock


def finetune(task: Task, pretrained: Path | None) -> None:
    """Train and write the embedder, log and metrics.

    Args:
        task: The stage.
        pretrained: Folder of the run's `pretrain` stage; None trains from scratch.

    Raises:
        UsageError: the run is being trained by another process, or several share the work, or the settings
            need more memory than there is.
        IntegrityError: the pretrained weights do not fit.
    """
    compute = task.compute()
    with world(compute.device) as processes:
        if processes.size > 1:
            raise UsageError(
                "Fine-tuning normalises over its whole batch, which several processes do not see; run it "
                "in one process (without torchrun)."
            )
        with cost.told_before(task.label):
            _finetune(task, pretrained, compute)


def _finetune(task: Task, pretrained: Path | None, compute: Compute) -> None:
    settings = task.run.finetune
    faces = task.open(task.rows(results.ROLE_TRAIN))
    names = sorted({str(person) for person in faces.people})
    network = _network(task, len(names), pretrained)
    compute.place(network)
    estimate = cost.measure(network["embedder"], _trial(task.image_size, compute), compute)
    cost.check(estimate, settings, compute, task.label)
    inputs = {"encoder": pretrained / results.ENCODER} if pretrained else {}
    job = task.job(task.settings("model", "finetune"), compute, **inputs)

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(faces.places), settings.batch_size, step, task.seed)

    taken = estimate.bytes(settings.batch_size // settings.accumulate)
    with lock(job), Feed(faces, ids_at, compute, task.workers, taken) as feed:
        start = "pretrained encoder" if pretrained else "scratch"
        say(task.label, f"{len(faces.places)} faces of {len(names)} people, from {start}, {compute}")
        number = {name: place for place, name in enumerate(names)}
        labels = torch.tensor([number[str(person)] for person in faces.people], device=compute.device)
        stage = _Recognition(network, feed, labels, ids_at, settings, compute, task.seed)
        objective = Objective(
            network=network,
            loss=stage.loss,
            after_step=stage.after_step,
            samples=lambda step: [faces.sample_ids[place] for place in ids_at(step).tolist()],
            flops=estimate.flops,
        )
        trunk = cast(Embedder, network["embedder"]).encoder.trunk
        optimizer = adamw(network, settings, encoder=trunk, layer_decay=settings.layer_decay)
        with cost.explained(estimate, settings, compute, task.label):
            trained = fit(objective, optimizer, settings, compute, job)
        files.write_json(task.out / results.CONFIG, task.settings("model", "finetune"))
        save_weights(stage.result, task.out / results.EMBEDDER)
        _write_metrics(task, pretrained, trained, str(compute))
        results.write_lines(task.out / results.LOG, trained.log)
        checkpoint.remove(job.state)


def _network(task: Task, people: int, pretrained: Path | None) -> nn.ModuleDict:
    """Return the embedder, pretrained if there is an encoder, and the loss with a vector per person."""
    model, settings = task.run.model, task.run.finetune
    torch.manual_seed(seed_of(task.seed, "weights"))
    embedder = build_embedder(model, task.image_size, drop_path=model.drop_path)
    if pretrained:
        load_weights(embedder.encoder.trunk, pretrained / results.ENCODER)
    network = nn.ModuleDict({"embedder": embedder, "loss": identity_loss(settings, people, model.embedding)})
    if settings.ema:
        network["average"] = averaged(embedder, settings.ema)
    return network


def _trial(image_size: int, compute: Compute) -> Callable[[nn.Module, int], Tensor]:
    """Return a forward pass over empty images, for an estimate of its cost."""

    def forward(embedder: nn.Module, count: int) -> Tensor:
        embeddings: Tensor = embedder(torch.zeros(count, 3, image_size, image_size, device=compute.device))
        return embeddings

    return forward


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


@dataclass(frozen=True)
class _Recognition:
    """Everything that one step of fine-tuning takes."""

    network: nn.ModuleDict
    feed: Feed
    labels: Tensor
    """(N,) number of each training face's person."""
    ids_at: Callable[[int], Tensor]
    settings: config.Finetune
    compute: Compute
    seed: int

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of a part of the step's batch."""
        noise = Noise(range(part.start, part.stop), self.seed, "view", step, device=self.compute.device)
        images = random_view(to_input(self.feed.batch(step, part)), self.settings, noise)
        share = ramp(step, self.settings.steps, self.settings.margin_warmup_share)
        set_margin(self.network["loss"], full_margin(self.settings) * share)
        with self.compute.autocast():
            embeddings = self.network["embedder"](images)
        labels = self.labels[self.ids_at(step)[part].to(self.labels.device)]
        return {LOSS: self.network["loss"](embeddings.float(), labels)}

    def after_step(self, step: int) -> None:
        if self.settings.ema:
            cast(AveragedModel, self.network["average"]).update_parameters(self.network["embedder"])

    @property
    def result(self) -> nn.Module:
        """The embedder that the stage is for: the averaged one, if there is one."""
        if self.settings.ema:
            return cast(AveragedModel, self.network["average"]).module
        return self.network["embedder"]
