"""The masking strategies by name, and the one way to draw a mask."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from facemae.compute.seeding import Noise
from facemae.config.masks import BLOCKS
from facemae.masking import dynamic, semantic, spatial
from facemae.masking.mask import Context, PatchMask, Strategy, hidden_count, hide_highest

STRATEGIES: dict[str, Strategy] = {
    "random": Strategy(spatial.random),
    "block": Strategy(spatial.block),
    "inverse_block": Strategy(spatial.inverse_block),
    "grid": Strategy(spatial.grid),
    "pixel": Strategy(spatial.random),
    "region": Strategy(semantic.region),
    "region_proportional": Strategy(semantic.region_proportional),
    "parts_first": Strategy(semantic.parts_first),
    "parts_last": Strategy(semantic.parts_last),
    "attention_high": Strategy(dynamic.attention_high),
    "attention_hint": Strategy(dynamic.attention_hint),
    "attention_low": Strategy(dynamic.attention_low),
    "hard_patches": Strategy(dynamic.hard_patches),
    "loss_ema": Strategy(dynamic.loss_ema),
    "ratio_curriculum": Strategy(dynamic.ratio_curriculum, ratio=dynamic.curriculum_ratio),
    "part_curriculum": Strategy(dynamic.part_curriculum),
    "adversarial": Strategy(dynamic.adversarial),
}
# What a strategy needs stands beside its settings, where it is known without loading torch.
STRATEGIES |= {
    name: replace(
        strategy,
        guide=BLOCKS[name].guide,
        regions=BLOCKS[name].regions,
        pixels=BLOCKS[name].pixels,
        experimental=BLOCKS[name].experimental,
    )
    for name, strategy in STRATEGIES.items()
}


def ratio_at(strategy: str, ratio: float, parameters: Mapping[str, Any], progress: float) -> float:
    """Return the share that the strategy hides at `progress`: `ratio`, unless the strategy changes it."""
    schedule = STRATEGIES[strategy].ratio
    return ratio if schedule is None else schedule(progress, **parameters)


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
        parameters: The strategy's own parameters (parameters.py).
        side: Patches along one side of an image; pixels for a strategy that hides pixels.
        noise: The only source of randomness.
        regions: (B, N) int64, the face region of each patch (regions.py); strategies that do not look at
            regions are not shown them, so that None or those of another grid will do.
        progress: Share of the training that is done, 0 to 1.
        signal: (B, N) what the strategy's guide says; None for a strategy without a guide.

    Raises:
        ValueError: the ratio leaves no patch hidden or none visible, or the strategy's regions or signal are
            missing.
    """
    chosen = STRATEGIES[strategy]
    if not chosen.regions:
        regions = noise.places.new_zeros(1, 1).expand(len(noise), side * side)
    elif regions is None:
        raise ValueError(f"the masking strategy {strategy} looks at face regions, and none were given")
    hidden = hidden_count(side * side, ratio_at(strategy, ratio, parameters, progress))
    context = Context(side, hidden, noise, regions, progress, signal)
    return hide_highest(chosen.scores(context, **parameters), hidden)
