"""The optimiser and its schedule, as plain functions."""

from __future__ import annotations

import math
from typing import cast

import torch
from timm.optim import param_groups_layer_decay  # type: ignore[attr-defined]
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from facemae import config

BETAS = (0.9, 0.95)  # MAE, table 8


def adamw(
    network: nn.Module,
    training: config.Training,
    *,
    encoder: nn.Module | None = None,
    layer_decay: float = 1.0,
) -> torch.optim.AdamW:
    """Return AdamW with weight decay on matrices only.

    `layer_decay` is a factor on the rate per block of the timm encoder `encoder`, from the head (1.0) down to
    the patch embedding.
    """
    if encoder is not None and layer_decay < 1.0:
        groups = _layer_decay_groups(network, encoder, training.weight_decay, layer_decay)
    else:
        groups = _plain_groups(network, training.weight_decay)
    for group in groups:
        group.setdefault("lr_scale", 1.0)
    return torch.optim.AdamW(groups, lr=training.learning_rate, betas=BETAS, fused=True)


def learning_rate(step: int, training: config.Training) -> float:
    """Return the rate at `step` (0 .. steps - 1): linear warm-up, then half a cosine down to zero."""
    warmup = round(training.warmup_fraction * training.steps)
    if step < warmup:
        return training.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, training.steps - warmup)
    return training.learning_rate * 0.5 * (1.0 + math.cos(math.pi * progress))


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter group `rate` times its own scale."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["lr_scale"]


def averaged(network: nn.Module, decay: float) -> AveragedModel:
    """Return a copy of a network whose `update_parameters` moves it towards that network's weights.

    Buffers, such as the statistics of a batch normalisation, are copied as they are.
    """
    copy = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(decay))  # type: ignore[no-untyped-call]
    return copy.requires_grad_(False)


def ramp(step: int, steps: int, share: float) -> float:
    """Return how far a linear ramp over the first `share` of the steps has come, 0 to 1."""
    length = share * steps
    return min(1.0, step / length) if length else 1.0


def _plain_groups(network: nn.Module, weight_decay: float) -> list[dict[str, object]]:
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    # Linear layers have 2 axes and the patch embedding 4; vectors, tokens and positions are not decayed.
    return [
        {"params": [p for p in trained if p.ndim in (2, 4)], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.ndim not in (2, 4)], "weight_decay": 0.0},
    ]


def _layer_decay_groups(
    network: nn.Module, encoder: nn.Module, weight_decay: float, layer_decay: float
) -> list[dict[str, object]]:
    groups: list[dict[str, object]] = param_groups_layer_decay(
        encoder, weight_decay, no_weight_decay_list=("pos_embed", "cls_token"), layer_decay=layer_decay
    )
    for group in groups:  # timm gives the last block of an encoder without a head the head's rate
        group["lr_scale"] = layer_decay * cast(float, group["lr_scale"])
    inside = {id(parameter) for parameter in encoder.parameters()}
    outside = nn.ParameterList(p for p in network.parameters() if id(p) not in inside)
    return groups + _plain_groups(outside, weight_decay)
