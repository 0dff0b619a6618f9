"""The pretraining stage, whatever its method, on the training people's and the unlabelled faces.

masked.py and contrast.py have the methods: the masked autoencoder and its rivals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol, cast

import pandas as pd
import torch
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute, joules
from facemae.compute.distributed import World, world
from facemae.compute.seeding import batch_ids, generator
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say
from facemae.data.faces.cache import Faces, load_faces
from facemae.data.faces.loader import Feed
from facemae.data.faces.subsets import evenly
from facemae.models.base import Encoder
from facemae.models.weights import save_weights
from facemae.stages import pretrain_mae
from facemae.stages.task import Task
from facemae.training import checkpoint, memory
from facemae.training.objectives import contrastive
from facemae.training.objectives.probe import MOST_FACES, probe
from facemae.training.optimizer import adamw, averaged
from facemae.training.trainer import HELD_OUT, LOSS, Objective, Trained, Validation, fit, lock

HELD_OUT_FACES = 1000  # enough for a mean, and little memory
PROBED_PHOTOS = 5  # of a person


class Method(Protocol):
    """One method of pretraining in training, as the stage uses it.

    A model is an `nn.Module` with an `encoder`: the one that is trained, or its averaged copy.
    """

    @property
    def model(self) -> nn.Module:
        """What is trained and holds the encoder."""

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Everything that has a state, the model included, by name."""

    @property
    def clipped_apart(self) -> tuple[nn.Module, ...]:
        """Parts whose gradients are clipped by themselves."""

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, by name (train.Objective)."""

    def after_step(self, world: World) -> None:
        """Let what follows the weights follow them."""

    def score(self, model: nn.Module, faces: Faces) -> float:
        """Return the loss of a model on faces that nothing was trained on."""

    def write(self, model: nn.Module, out: Path) -> list[dict[str, Any]]:
        """Write what the method leaves besides the encoder, and return its own metrics."""


class Making(NamedTuple):
    """How a method comes to be: its untrained model, what to try of it, and its training.

    Attributes:
        build: Returns the untrained model.
        trial: Returns a forward pass `(model, images)` for an estimate of the cost.
        start: Returns the method in training, around a model on the device.
        views: Images that are made of a face.
    """

    build: Callable[[Task, config.Pretrain], nn.Module]
    trial: Callable[[config.Pretrain, int, Compute], Callable[[nn.Module, int], Tensor]]
    start: Callable[[nn.Module, Feed, Task, config.Pretrain, Compute], Method]
    views: int


METHODS = {"mae": Making(pretrain_mae.build, pretrain_mae.trial, pretrain_mae.start, views=1)} | {
    rival: Making(contrastive.build, contrastive.trial, contrastive.start, views=len(contrastive.VIEWS))
    for rival in contrastive.KINDS
}


def pretrain(task: Task) -> None:
    """Train and write encoder, log, metrics and what else the method leaves.

    Raises:
        UsageError: the run has no pretraining, or is being trained by another process, or the settings
            need more memory than there is.
    """
    settings = task.run.pretrain
    if settings is None:
        raise UsageError(
            f"runs.{task.name}.pretrain is null: this run trains from scratch, without pretraining."
        )
    compute = task.compute()
    with world(compute.device) as processes, memory.told_before(task.label):
        processes.parts(settings.batch_size, settings.grad_accumulation)  # refused before anything is read
        _check_processes(settings, processes)
        _pretrain(task, settings, compute, processes)


def _pretrain(task: Task, settings: config.Pretrain, compute: Compute, processes: World) -> None:
    making = METHODS[settings.method]
    model = _model(task, settings, making)
    _check_norms(model, processes)
    compute.place(model)
    estimate = memory.measure(model, making.trial(settings, task.image_size, compute), compute)
    memory.check(estimate, settings, compute, task.label, processes)
    training, held_out = _rows(task, settings)
    faces = task.open(training)
    job = task.job(task.settings("model", "pretrain"), compute, **_files(settings))

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(training), settings.batch_size, step, task.seed)

    taken = estimate.bytes(settings.batch_size // (settings.grad_accumulation * processes.size))
    with lock(job, processes), Feed(faces, ids_at, compute, task.workers, taken) as feed:
        if processes.is_first:
            kept = f", {len(held_out)} held out" if len(held_out) else ""
            how = f"{settings.mask} mask" if settings.method == "mae" else settings.method
            say(task.label, f"{len(training)} faces{kept}, {how}, {compute}")
        stage = _Stage(task, settings, compute, making.start(model, feed, task, settings, compute))
        names = training["sample_id"].to_numpy()
        objective = Objective(
            network=stage.network,
            loss=stage.method.loss,
            after_step=lambda step: stage.after_step(step, processes),
            validation=stage.validation(held_out) if settings.validate_every else None,
            samples=lambda step: names[ids_at(step).numpy()].tolist(),
            flops=estimate.flops,
            clipped_apart=stage.method.clipped_apart,
        )
        with memory.explained(estimate, settings, compute, task.label, processes):
            trained = fit(objective, adamw(stage.network, settings), settings, compute, job, processes)
        if processes.is_first:
            stage.write(trained, processes)
            checkpoint.remove(job.state)
        processes.wait()


def _model(task: Task, settings: config.Pretrain, making: Making) -> nn.Module:
    model = making.build(task, settings)
    if settings.init:
        from facemae.models.interop.export import load_encoder

        load_encoder(_encoder(model), Path(settings.init))
    return model


def _encoder(model: nn.Module) -> Encoder:
    return cast(Encoder, model.encoder)


def _check_processes(settings: config.Pretrain, processes: World) -> None:
    """Refuse several processes to a method that compares the faces of a batch, of which each sees a part."""
    if settings.method != "mae" and processes.size > 1:
        raise UsageError(
            f"pretrain.method: {settings.method} compares the faces of the whole batch, which "
            f"{processes.size} processes do not see; run it in one process (without torchrun)."
        )


def _check_norms(model: nn.Module, processes: World) -> None:
    """Refuse several processes to a network that normalises over its batch, of which each sees a part."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms and processes.size > 1:
        raise UsageError(
            "This network normalises over its whole batch, which several processes do not see; run it in one "
            "process (without torchrun), or choose a convnextv2 network."
        )


def _files(settings: config.Pretrain) -> dict[str, Path]:
    """Return the files besides the faces that shape the result, by setting."""
    compared = settings.perceptual.weights if settings.perceptual.weight else None
    named = {"init": settings.init, "perceptual": compared}
    return {setting: Path(name) for setting, name in named.items() if name}


def _rows(task: Task, settings: config.Pretrain) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the split to train on and those held out, the same for every run and seed."""
    rows = task.rows(layout.ROLE_TRAIN, layout.ROLE_UNLABELLED)
    count = round(settings.held_out * len(rows))
    if settings.held_out and not 1 <= count < len(rows):
        raise DataError(
            f"pretrain.held_out {settings.held_out} of {len(rows)} faces leaves none to train on or none to "
            "validate on; change it, or set held_out and validate_every to 0."
        )
    if settings.method != "mae" and count == 1:
        raise DataError(
            f"pretrain.held_out {settings.held_out} of {len(rows)} faces leaves one, which {settings.method} "
            "can compare with no other; raise it, or set held_out and validate_every to 0."
        )
    order = torch.randperm(len(rows), generator=generator("held out")).numpy()
    return rows.iloc[sorted(order[count:])], rows.iloc[sorted(order[:count])]


def _shown_twice(rows: pd.DataFrame) -> pd.DataFrame:
    """Return up to `PROBED_PHOTOS` rows of each of so many people that there are some `MOST_FACES`."""
    some = rows.groupby("person", sort=False).head(PROBED_PHOTOS)
    sizes = some.groupby("person", sort=False).size()
    people = sizes.index[sizes > 1]
    count = max(1, MOST_FACES // PROBED_PHOTOS)
    chosen = evenly(pd.DataFrame({"person": people}), count)["person"]
    return some[some["person"].isin(chosen)]


@dataclass
class _Stage:
    """A run's training, how it is judged on its way, and what it writes."""

    task: Task
    settings: config.Pretrain
    compute: Compute
    method: Method
    watts: list[float] = field(default_factory=list)
    """What the GPU drew whenever it was looked at."""

    def __post_init__(self) -> None:
        self.average = averaged(self.method.model, self.settings.ema) if self.settings.ema else None
        parts = self.method.parts | ({"average": self.average} if self.average is not None else {})
        self.network = nn.ModuleDict(parts)

    @property
    def result(self) -> nn.Module:
        """The model that the stage is for: the averaged one, if there is one."""
        return self.average.module if self.average is not None else self.method.model

    def after_step(self, step: int, processes: World) -> None:
        self.method.after_step(processes)
        if self.average is not None:
            self.average.update_parameters(self.method.model)
        self.watts += self.compute.watts(step)

    def validation(self, held_out: pd.DataFrame) -> Validation:
        faces = load_faces(self.task.data, evenly(held_out, HELD_OUT_FACES))
        rows = self.task.rows(layout.ROLE_TRAIN, layout.ROLE_UNLABELLED)
        known = _shown_twice(rows[(rows["role"] == layout.ROLE_TRAIN) & self.settings.probe])
        probed = load_faces(self.task.data, known) if len(known) else None
        if self.settings.probe and probed is None:
            say(self.task.label, "no probe: nobody in training has two photos")

        def measure(step: int) -> dict[str, float]:
            found = {HELD_OUT: self.method.score(self.result, faces)}
            if probed is not None:
                people = [str(person) for person in probed.people]
                images = torch.from_numpy(probed.images)
                found |= probe(_encoder(self.result), images, people, self.compute)
            return found

        return Validation(self.settings.validate_every, self.settings.patience, measure)

    def write(self, trained: Trained, processes: World) -> None:
        """Write all outputs; seconds and joules are all processes' together."""
        self.network.eval()
        out = self.task.out
        files.write_json(out / layout.CONFIG, self.task.settings("model", "pretrain"))
        save_weights(_encoder(self.result).trunk, out / layout.ENCODER)
        metrics = [
            records.metric("training_loss", trained.log[-1][LOSS], n=len(trained.log), note="end of the log"),
            *self.method.write(self.result, out),
        ]
        if trained.best_step is not None:
            loss, step = min(trained.held_out)
            metrics.append(
                records.metric("held_out_loss", loss, n=len(trained.held_out), note=f"best, at step {step}")
            )
        seconds = trained.seconds * processes.size
        records.write_metrics(
            out,
            metrics,
            seed=self.task.seed,
            device=str(self.compute),
            seconds={"pretrain": round(seconds, 3)},
            precision={"pretrain": self.compute.precision},
            inputs=self.task.inputs(),
            images_seen=trained.step * self.settings.batch_size * METHODS[self.settings.method].views,
            energy_joules=joules(self.watts, seconds),
        )
        records.write_lines(out / layout.LOG, trained.log)
