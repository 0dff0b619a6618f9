"""Masks for tests: every strategy with settings, face regions under random crops, and signals."""

import torch

from facemae.compute.seeding import Noise
from facemae.config.masks import MASK_GUIDES
from facemae.masking.regions import Crops, region_map
from facemae.masking.strategies import draw_mask

ATTENTION = {"min_led": 0.2, "max_led": 0.6}
PARAMETERS = {
    "block": {"min_area": 0.08, "min_aspect": 0.3, "rounds": 12},
    "inverse_block": {"min_aspect": 0.5},
    "attention_high": ATTENTION,
    "attention_hint": ATTENTION | {"reveal": 0.1},
    "attention_low": ATTENTION,
    "hard_patches": {"final_led": 0.5},
    "loss_ema": {"final_led": 0.5, "temperature": 0.5},
    "ratio_curriculum": {"start": 0.5, "end": 0.8},
}


def drawn(
    strategy, ratio=0.75, places=64, side=8, seed=0, *, regions=None, signal=None, progress=0.5, **changes
):
    """Draw masks for `places`, or so many, with whole faces and chance signals if none are given."""
    noise = Noise(range(places) if isinstance(places, int) else places, seed, "test")
    if regions is None:
        regions = region_map(side).expand(len(noise), -1)
    if signal is None and strategy in MASK_GUIDES:
        signal = Noise(noise.places, seed, "signal").uniform(side * side)
    parameters = PARAMETERS.get(strategy, {}) | changes
    return draw_mask(strategy, ratio, parameters, side, noise, regions, progress, signal)


def random_crops(batch, seed=0):
    """Return crops of at least half the side, half of them mirrored."""
    noise = Noise(range(batch), seed, "crops")
    size = 0.5 + 0.5 * noise.uniform(1)
    start = noise.uniform(2) * (1 - size)
    return Crops(torch.cat([start, start + size], dim=1), noise.uniform() < 0.5)
