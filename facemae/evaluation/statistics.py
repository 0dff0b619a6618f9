"""Estimates with their intervals, over the people that were drawn and the seeds of training.

An interval needs both variances of `variance.py`. docs/design/evaluation.md holds the reasons. S seeds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike

from facemae.core.errors import RefusedError, UsageError
from facemae.evaluation.pairs import Integers
from facemae.evaluation.variance import NO_CHANCE, Evidence, Variance, added, people_variance

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

    A resample of one person several times has no impostor pair and is drawn again. A RefusedError: there are
    fewer than two people, or no resample is asked for; a UsageError: they would not fit into memory.
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


def samples_needed(level: float) -> int:
    """Return how many samples an interval needs for one of them to be expected in each tail."""
    return math.ceil(round(2 / (1 - level), 6))


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the samples; NaN are left out.

    A RefusedError: so few samples are finite that not even one is expected in each tail.
    """
    values = np.asarray(samples, dtype=np.float64)
    finite = values[np.isfinite(values)]
    if len(finite) < (needed := samples_needed(level)):
        raise RefusedError(f"a {level:.0%} interval needs {needed} finite samples, got {len(finite)}")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def estimate(
    values: ArrayLike, evidence: Evidence, training: Variance = NO_CHANCE, level: float = 0.95
) -> Estimate:
    """Estimate a mean over seeds (S,), or a mean difference, with the uncertainty of people and training.

    `evidence` is of the same seeds, `training` the variance of one seed's value (`Training`). A RefusedError:
    there are fewer than 2 people, or too few resamples.
    """
    points = np.asarray(values, dtype=np.float64)
    seeds = len(points)
    chance = Variance(training.value / seeds, training.freedom)
    variance = added(people_variance(evidence), chance)
    return Estimate(float(points.mean()), math.sqrt(variance.value), variance.freedom, seeds > 1, level)
