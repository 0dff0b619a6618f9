"""Strategies that change during training, most of them led by what a network has learnt.

"Led" patches are those of the M hidden ones that the network chooses; the others are random. What the
parameters mean stands in config/masks.py.

Shapes: B batch, N patches (side x side), M hidden.
"""

from __future__ import annotations

import torch
from torch import Tensor

from facemae.masking.mask import Context, ranks
from facemae.masking.regions import REGIONS, quantiles

_SIDES = 4  # parts that the patches outside of every region fall into
PARTS = _SIDES + len(REGIONS)


def attention_high(context: Context, *, min_led: float, max_led: float) -> Tensor:
    """Hide what a teacher attends to most: AttMask-High of Kakogeorgiou et al., ECCV 2022.

    The signal of the three attention strategies is the attention that each patch gets.
    """
    return _led(context, _signal(context), _led_counts(context, min_led, max_led))


def attention_low(context: Context, *, min_led: float, max_led: float) -> Tensor:
    """Hide what a teacher attends to least: AttMask-Low, a control."""
    return _led(context, -_signal(context), _led_counts(context, min_led, max_led))


def attention_hint(context: Context, *, min_led: float, max_led: float, reveal: float) -> Tensor:
    """Hide what a teacher attends to most, but for a few hints: AttMask-Hint.

    The hints are a share `reveal` of the led patches, drawn from as large a share of the most attended ones.
    """
    led = _led_counts(context, min_led, max_led)
    places = ranks(_signal(context), ties=context.noise.uniform(context.patches))
    most_attended = places < led.clamp(max=round(reveal * context.patches))
    lots = torch.where(most_attended, context.noise.uniform(context.patches), -1.0)
    hints = ranks(lots, ties=lots) < (reveal * led).round()
    return 1.0 * (places < led) - 2.0 * hints + context.noise.uniform(context.patches)


def hard_patches(context: Context, *, final_led: float) -> Tensor:
    """Hide what is predicted to be hard, by the signal: Wang et al., Hard Patches Mining, CVPR 2023."""
    return _led(context, _signal(context), _ramp(context, final_led))


def loss_ema(context: Context, *, final_led: float, temperature: float) -> Tensor:
    """Hide the template's positions in proportion to exp(z / temperature), z their standardised error.

    The signal is the running mean of the reconstruction error at each position. The led patches are drawn
    without replacement: the highest of z / temperature plus Gumbel noise (Kool et al., Stochastic Beams and
    Where to Find Them, ICML 2019). Errors shrink as training goes on; z, of mean 0 and standard deviation 1
    over the positions, does not, so that the temperature keeps its meaning.
    """
    error = _signal(context).double()  # so precise that the size of the batch cannot change an order
    z = error - error.mean(dim=1, keepdim=True)
    z = z / z.std(dim=1, correction=0, keepdim=True).clamp(min=torch.finfo(z.dtype).tiny)
    return _led(context, z / temperature + _gumbel(context), _ramp(context, final_led))


def ratio_curriculum(context: Context, *, start: float, end: float) -> Tensor:
    """Score patches by uniform noise; `curriculum_ratio` says how many of them are hidden."""
    del start, end
    return context.noise.uniform(context.patches)


def curriculum_ratio(progress: float, *, start: float, end: float) -> float:
    """Return the share to hide at `progress`, on a line from `start` to `end`."""
    return start + (end - start) * progress


def part_curriculum(context: Context) -> Tensor:
    """Go from hiding a share of every part to hiding whole parts: Li et al., SemMAE, NeurIPS 2022.

    The share 1 - progress^2 of M is hidden in equal shares of every part, and what is then left to hide is
    whole parts, one after another in random order. The parts are the face regions, and the patches outside of
    them split by the image's diagonals into those above, below, left and right.
    """
    patches = context.patches
    parts = _parts(context)
    shares = quantiles(parts, PARTS, context.noise)
    within = ranks(shares, ties=shares) < round((1 - context.progress**2) * context.hidden)
    order = context.noise.uniform(PARTS).gather(1, parts)
    return torch.where(within, 1, -ranks(order, ties=context.noise.uniform(patches)))


def _parts(context: Context) -> Tensor:
    """Return the part of each patch, (B, N) int64: above, below, left, right, then the regions."""
    place = torch.arange(context.side, device=context.noise.device) - (context.side - 1) / 2
    down, across = place[:, None], place[None, :]
    sides = torch.where(down.abs() >= across.abs(), (down > 0).long(), 2 + (across > 0).long())
    return torch.where(context.regions > 0, context.regions + _SIDES - 1, sides.flatten())


def _signal(context: Context) -> Tensor:
    if context.signal is None:
        raise ValueError("this masking strategy is led by a guide, and no signal was given")
    return context.signal.float()


def _led(context: Context, signal: Tensor, count: Tensor | int) -> Tensor:
    """Score the `count` patches of the highest signal above the rest, by noise otherwise."""
    places = ranks(signal, ties=context.noise.uniform(context.patches))
    return (places < count) + context.noise.uniform(context.patches)


def _led_counts(context: Context, least: float, most: float) -> Tensor:
    """Return how many patches of each image are led, (B, 1): a share of M between the two."""
    return ((least + (most - least) * context.noise.uniform(1)) * context.hidden).round()


def _ramp(context: Context, final: float) -> int:
    return round(final * context.progress * context.hidden)


def _gumbel(context: Context) -> Tensor:
    """Return standard Gumbel noise, (B, N); the clamp is half of the least uniform number above 0."""
    return -(-context.noise.uniform(context.patches).clamp(min=2.0**-25).log()).log()
