"""Randomness without state: every draw follows from a seed, a purpose and a step.

Nothing has to be saved to resume a run exactly, and runs that share a seed see the same batches. What is
drawn for one sample of a batch depends on its place alone: not on its neighbours, the device, or how many
processes share the batch. Shapes: B batch.
"""

from __future__ import annotations

import functools
import math

import torch
from torch import Generator, Tensor

from facemae.core.seeds import seed_of

# Steele et al., Fast Splittable Pseudorandom Number Generators, 2014: the constants of SplitMix64, as
# signed numbers. PyTorch's 64-bit integers wrap around like the unsigned ones of the paper.
_STEP, _MIX_1, _MIX_2 = (
    value - (1 << 64) for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)
_BITS = 24  # of a float32's fraction


def generator(*key: str | int) -> Generator:
    """Return a fresh CPU generator seeded by `key`, such as (seed, "mask", step)."""
    return Generator().manual_seed(seed_of(*key))


class Noise:
    """Uniform noise for a batch, the same for a sample whatever else is in the batch.

    A counter-based generator (Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011) with
    SplitMix64's mixing function: a number follows from the seed, the sample's place and a counter.
    """

    def __init__(self, places: range | Tensor, *key: str | int, device: torch.device | str = "cpu") -> None:
        """Make noise for the samples at `places` (B,) of the draw that `key` names."""
        if isinstance(places, range):
            places = torch.arange(places.start, places.stop, places.step, device=device)
        self.places = places.to(device)
        self._key = _mix(torch.tensor(seed_of(*key), device=device) + self.places * _STEP)  # (B,)
        self._drawn = 0

    def __len__(self) -> int:
        return len(self.places)

    @property
    def device(self) -> torch.device:
        """Return the device that the noise is made on."""
        return self.places.device

    def uniform(self, *shape: int) -> Tensor:
        """Return new numbers (B, *shape) in [0, 1), float32; the same calls give the same ones."""
        count = math.prod(shape)
        counter = torch.arange(self._drawn, self._drawn + count, device=self.device) * _STEP
        self._drawn += count
        bits = _mix(self._key[:, None] ^ _mix(counter))
        return (_shifted(bits, 64 - _BITS) * 2.0**-_BITS).view(len(self), *shape)

    def integers(self, high: int, *shape: int) -> Tensor:
        """Return new whole numbers (B, *shape) from 0 to high - 1."""
        return (self.uniform(*shape) * high).long()


def batch_ids(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the (batch,) indices of step `step` in an endless walk through shuffled epochs of `count`."""
    places = torch.arange(step * batch, (step + 1) * batch)
    epochs, within = places // count, places % count
    met = range(int(epochs[0]), int(epochs[-1]) + 1)
    return torch.cat([_permutation(count, epoch, seed)[within[epochs == epoch]] for epoch in met])


@functools.lru_cache(maxsize=4)
def _permutation(count: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))


def _mix(bits: Tensor) -> Tensor:
    bits = (bits ^ _shifted(bits, 30)) * _MIX_1
    bits = (bits ^ _shifted(bits, 27)) * _MIX_2
    return bits ^ _shifted(bits, 31)


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Return 64-bit integers shifted right, with zeros moving in; PyTorch's own shift repeats the sign."""
    return (bits >> by) & ((1 << (64 - by)) - 1)
