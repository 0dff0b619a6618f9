"""The masking strategies by name, and the one way to draw a mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from facemae.compute.seeding import Noise
from facemae.config.masks import REGION_MASKS
from facemae.masking import dynamic, semantic, spatial
from facemae.masking.mask import Context, PatchMask, hidden_count, hide_highest

STRATEGIES: dict[str, Callable[..., Tensor]] = {
    "random": spatial.random,
    "block": spatial.block,
    "inverse_block": spatial.inverse_block,
    "grid": spatial.grid,
    "pixel": spatial.random,
    "region": semantic.region,
    "region_proportional": semantic.region_proportional,
    "parts_first": semantic.parts_first,
    "parts_last": semantic.parts_last,
    "attention_high": dynamic.attention_high,
    "attention_hint": dynamic.attention_hint,
    "attention_low": dynamic.attention_low,
    "hard_patches": dynamic.hard_patches,
    "loss_ema": dynamic.loss_ema,
    "ratio_curriculum": dynamic.ratio_curriculum,
    "part_curriculum": dynamic.part_curriculum,
}
"""`(context, **parameters) -> scores (B, N)`; parameters and needs of each stand in config/masks.py."""

RATIOS: dict[str, Callable[..., float]] = {"ratio_curriculum": dynamic.curriculum_ratio}
"""`(progress, **parameters) -> share to hide`, of the strategies that change it in training."""


def ratio_at(strategy: str, ratio: float, parameters: Mapping[str, Any], progress: float) -> float:
    """Return the share that the strategy hides at `progress`: `ratio`, unless the strategy changes it."""
    return RATIOS[strategy](progress, **parameters) if strategy in RATIOS else ratio


def draw_mask(
    strategy: str,
    ratio: float,
    parameters: Mapping[str, Any],
    side: int,
    noise: Noise,
    regions: Tensor | None = None,
    progress: float = 0.0,
    signal: Tensor | None = None,
) -> PatchMask:
    """Draw a mask for each place of `noise`, on its device.

    Args:
        strategy: A key of `STRATEGIES`.
        ratio: Share of the patches to hide, where the strategy does not set it itself.
        parameters: The strategy's own parameters (config/masks.py).
        side: Patches along one side of an image; pixels for a strategy that hides pixels.
        noise, regions, progress, signal: As in `Context`; only `REGION_MASKS` are shown the regions.

    Raises:
        ValueError: the ratio leaves no patch hidden or none visible, or what leads the strategy is missing.
    """
    if strategy not in REGION_MASKS:
        regions = noise.places.new_zeros(1, 1).expand(len(noise), side * side)
    elif regions is None:
        raise ValueError(f"the masking strategy {strategy} looks at face regions, and none were given")
    hidden = hidden_count(side * side, ratio_at(strategy, ratio, parameters, progress))
    context = Context(side, hidden, noise, regions, progress, signal)
    return hide_highest(STRATEGIES[strategy](context, **parameters), hidden)
