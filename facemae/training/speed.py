"""How long trainings take on this machine: a few steps on empty images, timed before anything is trained."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.seeding import Noise
from facemae.masking.strategies import draw_mask
from facemae.models.build import build_embedder, build_mae

WARM_UP, TIMED = 2, 5  # steps; the quickest of the latter counts, since other work may slow some
VIEWS = 2  # of a face, that contrastive methods compare


def minutes(experiment: config.Experiment, compute: Compute, side_by_side: int) -> float:
    """Return about how long all trainings of an experiment take, so many at a time.

    What leads a mask, and what is done besides the training, is not in it.
    """
    runs = [experiment.run(name) for name in experiment.run_names]
    once = functools.cache(lambda key: step_seconds(config.Run.model_validate_json(key), *size))
    size = (experiment.data.image_size, compute)
    total = 0.0
    for run in runs:
        seconds = once(run.model_dump_json())
        if run.finetune.mode != "knn":
            total += run.finetune.steps * seconds["finetune"] * experiment.split.rotations
        total += run.pretrain.steps * seconds["pretrain"] if run.pretrain else 0.0
    trainings = len(runs) * len(experiment.seeds)
    return total * len(experiment.seeds) / min(side_by_side, trainings) / 60


def step_seconds(run: config.Run, image_size: int, compute: Compute) -> dict[str, float]:
    """Return the seconds of a step of fine-tuning and, where a run has one, of pretraining."""
    embedder = build_embedder(run.model, image_size)
    seconds = {"finetune": _timed(embedder, _embed, run.finetune, image_size, compute)}
    if run.masked:
        mae = build_mae(run.model, run.masked, image_size)
        complete = functools.partial(_complete, mae.encoder.side, run.masked.mask_ratio)
        seconds["pretrain"] = _timed(mae, complete, run.masked, image_size, compute)
    elif run.pretrain:
        seconds["pretrain"] = VIEWS * _timed(embedder, _embed, run.pretrain, image_size, compute)
    return seconds


def _embed(network: nn.Module, images: Tensor) -> Tensor:
    embeddings: Tensor = network(images)
    return embeddings.square().mean()


def _complete(side: int, ratio: float, network: nn.Module, images: Tensor) -> Tensor:
    noise = Noise(range(len(images)), "speed", device=images.device)
    mask = draw_mask("random", ratio, {}, side, noise)
    predicted: Tensor = network(images, mask).patches
    return predicted.square().mean()


def _timed(
    network: nn.Module,
    loss: Callable[[nn.Module, Tensor], Tensor],
    training: config.Training,
    image_size: int,
    compute: Compute,
) -> float:
    compute.place(network)
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.zeros(training.batch_size // training.grad_accumulation, 3, image_size, image_size)
    images = images.to(compute.device)
    found = []
    for _ in range(WARM_UP + TIMED):
        start = compute.seconds()
        with compute.autocast():
            value = loss(network, images)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        value.item()  # waits for a GPU
        found.append(compute.seconds() - start)
    return min(found[WARM_UP:]) * training.grad_accumulation
