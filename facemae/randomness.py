"""Randomness without state: every draw follows from a seed, a purpose and a step.

Nothing has to be saved to resume a run exactly, and runs that share a seed see the same batches.
"""

from __future__ import annotations

import functools
import hashlib

import torch
from torch import Generator, Tensor


def seed_of(*key: str | int) -> int:
    """Return a 63-bit seed that is a fixed function of `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def generator(*key: str | int) -> Generator:
    """Return a fresh CPU generator seeded by `key`, such as (seed, "mask", step)."""
    return Generator().manual_seed(seed_of(*key))


def batch_ids(count: int, batch: int, step: int, seed: int) -> Tensor:
    """Return the (batch,) indices of step `step` in an endless walk through shuffled epochs of `count`."""
    places = range(step * batch, (step + 1) * batch)
    return torch.stack([_permutation(count, place // count, seed)[place % count] for place in places])


@functools.lru_cache(maxsize=4)
def _permutation(count: int, epoch: int, seed: int) -> Tensor:
    return torch.randperm(count, generator=generator(seed, "epoch", epoch))
