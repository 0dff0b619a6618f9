"""Estimates with their intervals, over the people that were drawn and the seeds of training.

A result varies for two reasons: other people would have been easier or harder, and another seed would have
trained another network. The photos tell the first, the seeds of all runs together the second, and an interval
needs both. docs/design/evaluation.md holds the reasons. S seeds, R runs, P people.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from facemae.core.errors import RefusedError, UsageError
from facemae.evaluation.variance import NO_CHANCE, Evidence, Variance, added, people_variance

Integers = NDArray[np.int64]

MOST_DRAWS = 2**29  # people times resamples: 4 GB


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its Student interval; without `covers_seeds` it is for this one network."""

    value: float
    standard_error: float
    degrees_of_freedom: float
    covers_seeds: bool
    level: float

    @property
    def low(self) -> float:
        """Return the lower end of the interval."""
        return self.value - self.margin(self.level)

    @property
    def high(self) -> float:
        """Return the upper end of the interval."""
        return self.value + self.margin(self.level)

    @property
    def p_value(self) -> float:
        """Return the two-sided p value of 0."""
        if self.standard_error == 0:
            return 1.0 if self.value == 0 else 0.0
        return 2 * float(scipy.special.stdtr(self.degrees_of_freedom, -abs(self.value) / self.standard_error))

    def margin(self, level: float) -> float:
        """Return half the width of the interval at another level."""
        return float(scipy.special.stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error


def identity_weights(people: int, resamples: int, seed: int) -> Integers:
    """Draw people with replacement: how often each is drawn, `(resamples, people)`.

    A resample of one person several times has no impostor pair and is drawn again.

    Raises:
        RefusedError: there are fewer than two people, or no resample is asked for.
        UsageError: they would not fit into memory.
    """
    if people < 2 or resamples < 1:
        raise RefusedError(f"a bootstrap needs 2 people and 1 resample, got {people} and {resamples}")
    if people * resamples > MOST_DRAWS:
        raise UsageError(
            f"{resamples} resamples of {people} people take {8 * people * resamples / 1e9:.0f} GB of memory; "
            f"use at most {MOST_DRAWS // people}."
        )
    generator = np.random.default_rng(seed)
    chance = np.full(people, 1 / people)
    weights = generator.multinomial(people, chance, size=resamples)
    while (single := (weights > 0).sum(axis=1) < 2).any():
        weights[single] = generator.multinomial(people, chance, size=int(single.sum()))
    return weights


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the samples; NaN are left out.

    Raises:
        RefusedError: so few samples are finite that not even one is expected in each tail.
    """
    _check_level(level)
    values = np.asarray(samples, dtype=np.float64)
    finite = values[np.isfinite(values)]
    needed = math.ceil(round(2 / (1 - level), 6))
    if len(finite) < needed:
        raise RefusedError(f"a {level:.0%} interval needs {needed} finite samples, got {len(finite)}")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")


def estimate(
    values: ArrayLike, evidence: Evidence, training: Variance = NO_CHANCE, level: float = 0.95
) -> Estimate:
    """Estimate a mean over seeds, or a mean difference, with the uncertainty of people and training.

    Args:
        values: (S,) the value of each seed.
        evidence: What other people would have changed, for the same seeds.
        training: The variance of one seed's value (`Training`).
        level: How often intervals like this one shall hold the truth.

    Raises:
        RefusedError: there are fewer than 2 people, or too few resamples.
        ValueError: a value is not finite.
    """
    _check_level(level)
    points = np.asarray(values, dtype=np.float64)
    if points.ndim != 1 or not len(points) or not np.isfinite(points).all():
        raise ValueError(f"need finite values (S,), got {points.tolist()}")
    seeds = len(points)
    chance = Variance(training.value / seeds, training.freedom)
    variance = added(people_variance(evidence), chance)
    return Estimate(float(points.mean()), math.sqrt(variance.value), variance.freedom, seeds > 1, level)
