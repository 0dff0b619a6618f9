"""Intervals and verdicts: what the people drawn and the training's luck leave open.

A result varies for two reasons: other people would have been easier or harder, and another seed would have
trained another network. The photos tell the first, the seeds of all runs together the second, and an interval
needs both. docs/design/evaluation.md holds the reasons. S seeds, R runs, P people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

from facemae.core.errors import RefusedError, UsageError
from facemae.evaluation.variance import NO_CHANCE, Evidence, Variance, added, people_variance

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
VerdictWord = Literal["better", "worse", "equivalent", "undecided"]

ONE_SEED = "one seed cannot tell a run from the luck of its training; use two or more"
NO_SPREAD = "nothing differs between people or seeds; on so few people, or such easy ones, that tells nothing"
MOST_DRAWS = 2**29  # people times resamples: 4 GB
_POWER = 0.8


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
        return 2 * float(stdtr(self.degrees_of_freedom, -abs(self.value) / self.standard_error))

    def margin(self, level: float) -> float:
        """Return half the width of the interval at another level."""
        return float(stdtrit(self.degrees_of_freedom, (1 + level) / 2)) * self.standard_error


@dataclass(frozen=True)
class Verdict:
    """What a family of comparisons allows to say about a relative to b.

    "equivalent": the interval at the family's level lies within the margin, so that a difference, if there is
    one, is too small to matter. "undecided" says that the evaluation is too small, or `note` says why.
    `detectable` is the smallest difference that this comparison could have called with 80 % power.
    """

    estimate: Estimate
    p_value: float
    p_adjusted: float
    verdict: VerdictWord
    detectable: float
    note: str


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


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values for their number so that one false alarm in the whole family is rare (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not ((p >= 0) & (p <= 1)).all():
        raise ValueError("p values must be a list of numbers from 0 to 1")
    order = np.argsort(p, kind="stable")
    stepwise = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepwise), 1.0)
    return adjusted


def verdicts(
    differences: Sequence[Estimate],
    higher_is_better: bool,
    margin: float,
    alpha: float = 0.05,
    refusals: Sequence[str] | None = None,
) -> list[Verdict]:
    """Judge a family of comparisons together.

    A comparison that is refused, or is of single seeds, is "undecided": its p value knows nothing of the
    training, so it counts as p = 1 in the family and cannot ease the correction of the others. A difference
    that surely lies within the margin is "equivalent", whether or not it is 0. Its interval is at the level
    1 - alpha / family (Bonferroni's).

    Args:
        differences: The whole family; leaving comparisons out makes the correction too weak.
        higher_is_better: The direction of the metric.
        margin: The largest difference that does not matter, in the metric's unit.
        alpha: The chance of at least one false verdict that is accepted.
        refusals: Why each comparison may not be decided, "" where it may.

    Raises:
        ValueError: `alpha` or the number of refusals is wrong.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}")
    given = refusals or [""] * len(differences)
    notes = [note or _nothing_to_tell(each) for each, note in zip(differences, given, strict=True)]
    p_values = [1.0 if note else each.p_value for each, note in zip(differences, notes, strict=True)]
    share = alpha / max(1, len(differences))

    def word(each: Estimate, p_adjusted: float) -> VerdictWord:
        if abs(each.value) + each.margin(1 - share) <= margin:
            return "equivalent"
        if p_adjusted > alpha:
            return "undecided"
        return "better" if (each.value > 0) == higher_is_better else "worse"

    judged = zip(differences, holm(p_values).tolist(), notes, strict=True)
    return [
        Verdict(each, each.p_value, p, "undecided" if note else word(each, p), detectable(each, share), note)
        for each, p, note in judged
    ]


def _nothing_to_tell(each: Estimate) -> str:
    """Return why a comparison can be no evidence; two runs without an error have an interval of no width."""
    if not each.covers_seeds:
        return ONE_SEED
    return "" if each.standard_error > 0 else NO_SPREAD


def detectable(each: Estimate, alpha: float, power: float = _POWER) -> float:
    """Return the difference that is called with this power at the two-sided level `alpha`."""
    quantiles = stdtrit(each.degrees_of_freedom, [1 - alpha / 2, power])
    return float(quantiles.sum()) * each.standard_error
