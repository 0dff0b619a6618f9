"""Intervals and verdicts: what the people drawn and the seeds drawn leave open.

A result varies for two reasons: other people would have been easier or harder, and another seed would have
trained another network. Resamples of people tell the first, seeds the second, and an interval needs both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import stdtr, stdtrit

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds and its interval; without `covers_seeds` the interval is for this one network."""

    value: float
    low: float
    high: float
    standard_error: float
    degrees_of_freedom: float
    covers_seeds: bool


@dataclass(frozen=True)
class Difference:
    """How far a lies above b, and the two-sided p value of no difference."""

    estimate: Estimate
    p_value: float


@dataclass(frozen=True)
class Verdict:
    """What a family of comparisons allows to say about a relative to b.

    "tie" only says that no difference was shown; `detectable` is the smallest one that this comparison could
    have called with 80 % power. "undecided" is a comparison of single seeds.
    """

    estimate: Estimate
    p_value: float
    p_adjusted: float
    verdict: Literal["better", "worse", "tie", "undecided"]
    detectable: float


def identity_weights(people: int, resamples: int, seed: int) -> Integers:
    """Draw people with replacement: how often each is drawn, `(resamples, people)`.

    A resample of one person several times has no impostor pair and is drawn again.

    Raises:
        ValueError: there are fewer than two people, or no resample is asked for.
    """
    if people < 2 or resamples < 1:
        raise ValueError(f"a bootstrap needs 2 people and 1 resample, got {people} and {resamples}")
    generator = np.random.default_rng(seed)
    chance = np.full(people, 1 / people)
    weights = generator.multinomial(people, chance, size=resamples)
    while (single := (weights > 0).sum(axis=1) < 2).any():
        weights[single] = generator.multinomial(people, chance, size=int(single.sum()))
    return weights


def percentile_interval(samples: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the samples; NaN are left out.

    Raises:
        ValueError: so few samples are finite that not even one is expected in each tail.
    """
    _check_level(level)
    values = np.asarray(samples, dtype=np.float64)
    finite = values[np.isfinite(values)]
    needed = math.ceil(round(2 / (1 - level), 6))
    if len(finite) < needed:
        raise ValueError(f"a {level:.0%} interval needs {needed} finite samples, got {len(finite)}")
    low, high = np.quantile(finite, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def combine(point: ArrayLike, samples: ArrayLike, people: int, level: float = 0.95) -> Estimate:
    """Estimate a mean over seeds, with the uncertainty of the people and of the training.

    The variance is the sum of two parts. People: the variance over resamples of the mean over seeds, times
    P / (P - 1), as a bootstrap of P people is too narrow by that factor. Training: the variance over seeds
    divided by their number S. The interval is Student's, with the degrees of freedom of Welch and
    Satterthwaite (P - 1 for the people, S - 1 for the training).

    Seeds are not resampled like people: a bootstrap of 3 values underestimates their standard deviation by
    sqrt(2 / 3), and its percentiles know nothing of the heavy tails that 2 degrees of freedom ask for.

    Args:
        point: The value of each seed, `(S,)`.
        samples: Its values on the resamples, `(S, R)`, the same resamples for every seed. A resample with
            NaN for any seed is left out.
        people: The number of people that were resampled.
        level: How often intervals like this one shall hold the truth.

    Raises:
        ValueError: the shapes do not fit, a point is not finite, or fewer than 2 resamples are left.
    """
    _check_level(level)
    values, resamples = _checked(point, samples)
    if people < 2:
        raise ValueError(f"an interval over people needs 2 of them, got {people}")
    seeds = len(values)
    from_people = float(_finite_means(resamples).var(ddof=1)) * people / (people - 1)
    from_seeds = float(values.var(ddof=1)) / seeds if seeds > 1 else 0.0
    error = math.sqrt(from_people + from_seeds)
    freedom = _degrees_of_freedom(from_people, people, from_seeds, seeds)
    margin = float(stdtrit(freedom, (1 + level) / 2)) * error
    value = float(values.mean())
    return Estimate(value, value - margin, value + margin, error, freedom, seeds > 1)


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")


def _checked(point: ArrayLike, samples: ArrayLike) -> tuple[Floats, Floats]:
    values, resamples = np.asarray(point, dtype=np.float64), np.asarray(samples, dtype=np.float64)
    if values.ndim != 1 or not len(values) or resamples.ndim != 2 or len(resamples) != len(values):
        raise ValueError(f"need (S,) points and (S, R) samples, got {values.shape} and {resamples.shape}")
    if not np.isfinite(values).all():
        raise ValueError("the value of a seed is not finite")
    return values, resamples


def _finite_means(samples: Floats) -> Floats:
    means: Floats = np.asarray(samples.mean(axis=0))
    finite: Floats = means[np.isfinite(means)]
    if len(finite) < 2:
        raise ValueError(f"a variance needs 2 resamples with a value for every seed, got {len(finite)}")
    return finite


def _degrees_of_freedom(from_people: float, people: int, from_seeds: float, seeds: int) -> float:
    total = from_people + from_seeds
    if from_seeds == 0 or total == 0:
        return float(people - 1)
    # Shares instead of variances: the squares of tiny variances would vanish.
    share = from_people / total
    return 1 / (share**2 / (people - 1) + (1 - share) ** 2 / (seeds - 1))


def difference(
    point_a: ArrayLike,
    samples_a: ArrayLike,
    point_b: ArrayLike,
    samples_b: ArrayLike,
    people: int,
    level: float = 0.95,
) -> Difference:
    """Compare a with b on the same people and seeds: what is hard for both cancels.

    The arguments are those of `combine`; seed s and resample r of a belong to those of b.

    Raises:
        ValueError: a and b differ in shape, or `combine` cannot use them.
    """
    values_a, resamples_a = _checked(point_a, samples_a)
    values_b, resamples_b = _checked(point_b, samples_b)
    if resamples_a.shape != resamples_b.shape:
        raise ValueError(f"a is {resamples_a.shape} and b {resamples_b.shape}, a pair has one shape")
    estimate = combine(values_a - values_b, resamples_a - resamples_b, people, level)
    return Difference(estimate, _two_sided(estimate))


def _two_sided(estimate: Estimate) -> float:
    if estimate.standard_error == 0:
        return 1.0 if estimate.value == 0 else 0.0
    return 2 * float(stdtr(estimate.degrees_of_freedom, -abs(estimate.value) / estimate.standard_error))


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
    differences: Sequence[Difference], higher_is_better: bool | Sequence[bool], alpha: float = 0.05
) -> list[Verdict]:
    """Judge a family of comparisons together.

    A comparison of single seeds is "undecided": its p value knows nothing of the training, so it counts as
    p = 1 in the family and cannot ease the correction of the others.

    Args:
        differences: The whole family; leaving comparisons out makes the correction too weak.
        higher_is_better: The direction of the metric, or of the metric of each difference.
        alpha: The chance of at least one false verdict that is accepted.

    Raises:
        ValueError: `alpha` or the number of directions is wrong.
    """
    if not 0 < alpha < 1:
        raise ValueError(f"alpha lies between 0 and 1, got {alpha}")
    better = [higher_is_better] * len(differences) if isinstance(higher_is_better, bool) else higher_is_better
    adjusted = holm([each.p_value if each.estimate.covers_seeds else 1.0 for each in differences])
    judged = zip(differences, adjusted.tolist(), better, strict=True)
    return [_verdict(each, p, higher, alpha, len(differences)) for each, p, higher in judged]


def _verdict(each: Difference, p_adjusted: float, higher: bool, alpha: float, family: int) -> Verdict:
    estimate = each.estimate
    verdict: Literal["better", "worse", "tie", "undecided"]
    if not estimate.covers_seeds:
        verdict = "undecided"
    elif p_adjusted > alpha:
        verdict = "tie"
    else:
        verdict = "better" if (estimate.value > 0) == higher else "worse"
    detectable = _detectable(estimate, alpha / family)
    return Verdict(estimate, each.p_value, p_adjusted, verdict, detectable)


def _detectable(estimate: Estimate, alpha: float) -> float:
    """Return the difference that is called with 80 % power at the two-sided level `alpha`."""
    quantiles = stdtrit(estimate.degrees_of_freedom, [1 - alpha / 2, _POWER])
    return float(quantiles.sum()) * estimate.standard_error
