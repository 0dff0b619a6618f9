"""The pretraining stage, whatever its method, on the training people's and the unlabelled faces.

The methods are in training/objectives: mae.py and contrastive.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias, cast

import pandas as pd
import torch
from torch import nn

from facemae import config
from facemae.compute.device import joules
from facemae.compute.distributed import World, world
from facemae.compute.seeding import generator
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say
from facemae.core.seeds import seed_of
from facemae.data.faces.subsets import evenly, shown_twice
from facemae.models.base import Encoder
from facemae.models.build import build_encoder, build_mae
from facemae.models.interop.load import start_encoder
from facemae.models.mae import MaskedAutoencoder
from facemae.models.shipped_models import encoder_file, started_from
from facemae.models.weights import save_weights
from facemae.stages import pretrain_mae
from facemae.stages.task import Task
from facemae.training import checkpoint, memory
from facemae.training.objective import HELD_OUT, LOSS, Trained, Validation
from facemae.training.objectives.contrastive import METHODS, Contrastive, ContrastiveModel
from facemae.training.objectives.mae import MaskedPretraining
from facemae.training.objectives.probe import MOST_FACES, probe
from facemae.training.optimizer import adamw
from facemae.training.trainer import fit_faces, lock

HELD_OUT_FACES = 1000  # enough for a mean, and little memory
PROBED_PHOTOS = 5  # of a person

Pretraining: TypeAlias = MaskedPretraining | Contrastive


def pretrain(task: Task) -> None:
    """Train and write encoder, log, metrics and what else the method leaves."""
    settings = task.run.pretrain
    if settings is None:
        raise UsageError(
            f"runs.{task.name}.pretrain is null: this run trains from scratch, without pretraining."
        )
    task.check_unseen(settings.init)
    with world(task.compute.device) as processes, memory.explained(task.label):
        processes.parts(settings.batch_size, settings.grad_accumulation)  # refused before anything is read
        if settings.method != "mae" and processes.size > 1:
            raise UsageError(
                f"pretrain.method: {settings.method} compares the faces of the whole batch, which "
                f"{processes.size} processes do not see; run it in one process (without torchrun)."
            )
        job = task.job(task.settings("model", "pretrain"), **_files(settings))
        with lock(job, processes):  # before the seconds that building and measuring take
            objective = _objective(task, settings)
            _check_norms(objective.model, processes)
            training, held_out = _rows(task, settings)
            if settings.validate_every:
                objective.validation = _validation(task, objective, held_out)
            if processes.is_first:
                if isinstance(objective, MaskedPretraining):
                    pretrain_mae.keep_progress(objective, task)
                kept = f", {len(held_out)} held out" if len(held_out) else ""
                how = f"{settings.mask} mask" if settings.method == "mae" else settings.method
                say(task.label, f"{len(training)} faces{kept}, {how}, {task.compute}")
            optimizer, faces = adamw(objective.network, settings), task.open(training)
            trained = fit_faces(objective, optimizer, faces, settings, job, task.workers, processes)
            if processes.is_first:
                _write(task, objective, trained, processes.size * trained.seconds)
                checkpoint.remove(job.state)
            processes.wait()


def _objective(task: Task, settings: config.Pretrain) -> Pretraining:
    """Return what is trained, from random weights of the seed or those of a file."""
    torch.manual_seed(seed_of(task.seed, "weights"))
    network: MaskedAutoencoder | ContrastiveModel
    if settings.method == "mae":
        pretrain_mae.check_template(task, settings)
        network = build_mae(task.run.model, settings, task.image_size)
    else:
        encoder = build_encoder(task.run.model, task.image_size)
        network = METHODS[settings.method].build(encoder, settings, task.seed)
    if settings.init:
        start_encoder(network.encoder, settings.init)
    if isinstance(network, MaskedAutoencoder):
        return MaskedPretraining(network, settings, task.compute, task.seed)
    return METHODS[settings.method](network, settings, task.compute, task.seed)


def _encoder(objective: Pretraining) -> Encoder:
    return cast(Encoder, objective.result.encoder)


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
    found = {"init": encoder_file(settings.init)} if settings.init else {}
    if settings.perceptual.weight and settings.perceptual.weights:
        found["perceptual"] = Path(settings.perceptual.weights)
    return found


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


def _validation(task: Task, objective: Pretraining, held_out: pd.DataFrame) -> Validation:
    """Return how the training is judged: by its loss on faces held out, and by a probe of the encoder."""
    settings, faces = objective.settings, task.load(evenly(held_out, HELD_OUT_FACES))
    rows = task.rows(layout.ROLE_TRAIN, layout.ROLE_UNLABELLED)
    known = shown_twice(rows[(rows["role"] == layout.ROLE_TRAIN) & settings.probe], PROBED_PHOTOS, MOST_FACES)
    if settings.probe and known.empty:
        say(task.label, "no probe: nobody in training has two photos")
    probed = task.load(known)
    people = list(map(str, probed.people))

    def measure(step: int) -> dict[str, float]:
        found = {HELD_OUT: objective.score(objective.result, faces)}
        return found | (
            probe(_encoder(objective), probed.images, people, objective.compute) if people else {}
        )

    return Validation(settings.validate_every, settings.patience, measure)


def _write(task: Task, objective: Pretraining, trained: Trained, seconds: float) -> None:
    """Write all outputs; the seconds, and the joules, are all processes' together."""
    objective.network.eval()
    files.write_json(task.out / layout.CONFIG, task.settings("model", "pretrain"))
    save_weights(_encoder(objective).trunk, task.out / layout.ENCODER)
    loss, lines, settings = trained.log[-1][LOSS], len(trained.log), objective.settings
    metrics = [records.metric("training_loss", loss, n=lines, note="end of the log")]
    if isinstance(objective, MaskedPretraining):
        metrics += pretrain_mae.write(objective, task)
    if trained.held_out:
        loss, step = min(trained.held_out)
        note = f"best, at step {step}"
        metrics.append(records.metric("held_out_loss", loss, n=len(trained.held_out), note=note))
    records.write_metrics(
        task.out,
        metrics,
        seed=task.seed,
        device=str(objective.compute),
        seconds={"pretrain": round(seconds, 3)},
        precision={"pretrain": objective.compute.precision},
        inputs=task.inputs(),
        started_from=started_from(settings.init),
        images_seen=trained.step * settings.batch_size * objective.views,
        energy_joules=joules(objective.watts, seconds),
    )
    records.write_lines(task.out / layout.LOG, trained.log)
