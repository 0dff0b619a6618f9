"""Intervals and verdicts: what the people drawn and the training's luck leave open.

A result varies for two reasons: other people would have been easier or harder, and another seed would have
trained another network. The photos tell the first, the seeds of all runs together the second, and an interval
needs both. docs/design/evaluation.md holds the reasons. S seeds, R runs, P people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import digamma, polygamma, stdtr, stdtrit

from facemae.core.errors import RefusedError, UsageError

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
VerdictWord = Literal["better", "worse", "equivalent", "undecided"]

ONE_SEED = "one seed cannot tell a run from the luck of its training; use two or more"
NO_SPREAD = "nothing differs between people or seeds; on so few people, or such easy ones, that tells nothing"
MOST_DRAWS = 2**29  # people times resamples: 4 GB
_POWER = 0.8


class Variance(NamedTuple):
    """A variance and the degrees of freedom that it was estimated with."""

    value: float
    freedom: float


NO_CHANCE = Variance(0.0, math.inf)


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


def _check_level(level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval lies between 0 and 1, got {level}")


# --- the people ---


@dataclass(frozen=True)
class Dyads:
    """The influence of each two people's pairs on a metric, for networks that saw the same pairs.

    Attributes:
        influence: (S, D), a row for each network.
        first, second: (D,) people; no two people stand together twice.
    """

    influence: Floats
    first: Integers
    second: Integers

    def __sub__(self, other: Dyads) -> Dyads:
        """Return the influence on the differences, network by network."""
        if not (np.array_equal(self.first, other.first) and np.array_equal(self.second, other.second)):
            raise ValueError("a difference is between metrics of the same pairs of people")
        return Dyads(self.influence - other.influence, self.first, self.second)

    def repeated(self, times: int) -> Dyads:
        """Return the same network several times."""
        return Dyads(np.tile(self.influence, (times, 1)), self.first, self.second)

    @cached_property
    def people(self) -> int:
        """Return how many people are in the pairs."""
        return len(np.union1d(self.first, self.second))

    def covariance(self) -> tuple[Floats, Floats]:
        """Return the networks' covariance (S, S) over people, and what it would be if no pairs shared any.

        Two people's pairs move together with all pairs of either (Aronow, Samii and Assenova, 2015): the
        products of sums by person hold all that, but those within two people twice.
        """
        size = int(max(self.first.max(), self.second.max())) + 1
        two = self.first != self.second
        sums = np.stack([
            np.bincount(self.first, row, size) + np.bincount(self.second[two], row[two], size)
            for row in self.influence
        ])  # fmt: skip
        between = self.influence[:, two] @ self.influence[:, two].T
        alone = self.influence @ self.influence.T
        larger = self.people / (self.people - 1)
        return (sums @ sums.T - between) * larger, alone * larger


@dataclass(frozen=True)
class Resampled:
    """The values (S, B) of a metric on B resamples of P people, for networks that saw the same resamples.

    Weights of pairs that are products of two people's count what is a pair's own about three times, so that
    the variance is too large rather than too small.
    """

    samples: Floats
    people: int

    def __sub__(self, other: Resampled) -> Resampled:
        """Return the values of the differences, network by network and resample by resample."""
        if self.samples.shape != other.samples.shape:
            raise ValueError(
                f"a is {self.samples.shape} and b {other.samples.shape}, a difference has one shape"
            )
        return Resampled(self.samples - other.samples, self.people)

    def repeated(self, times: int) -> Resampled:
        """Return the same network several times."""
        return Resampled(np.tile(self.samples, (times, 1)), self.people)

    def covariance(self) -> tuple[Floats, Floats]:
        """Return the networks' covariance (S, S) over people, and 0; a bootstrap lacks a factor P / (P - 1).

        Raises:
            ValueError: fewer than 2 resamples have a value for every network.
        """
        finite = self.samples[:, np.isfinite(self.samples).all(axis=0)]
        if finite.shape[1] < 2:
            raise ValueError(
                f"a variance needs 2 resamples with a value for every seed, got {finite.shape[1]}"
            )
        found = np.atleast_2d(np.cov(finite)) * self.people / (self.people - 1)
        return found, np.zeros_like(found)


Evidence = Dyads | Resampled


def people_variance(evidence: Evidence) -> Variance:
    """Return the variance of a mean over seeds that other people would bring.

    Of several networks it is what any two of them share. What a person does to one network alone is in the
    spread of the seeds' values already, and would otherwise be counted twice.

    Raises:
        ValueError: there are fewer than 2 people, or too few resamples.
    """
    if evidence.people < 2:
        raise ValueError(f"an interval over people needs 2 of them, got {evidence.people}")
    found = [_shared(matrix) for matrix in evidence.covariance()]
    return Variance(max(*found, 0.0), evidence.people - 1)


def _shared(covariance: Floats) -> float:
    """Return the mean covariance of two different networks, or the variance of the one there is."""
    seeds = len(covariance)
    if seeds == 1:
        return float(covariance[0, 0])
    return float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))


# --- the training ---


@dataclass(frozen=True)
class Training:
    """How far the training's luck moves one network's value, estimated from all runs at once.

    Attributes:
        own: (R,) variance of a run beyond what a seed does to all runs alike.
        freedom: Degrees of freedom of `own`.
        shared: R times the variance that the seeds' means over all runs have, with S - 1 degrees of freedom.
    """

    own: Floats
    freedom: float
    shared: Variance

    @staticmethod
    def of(values: ArrayLike) -> Training:
        """Analyse values (R, S) of runs that have the same S >= 2 seeds, and so common starts and batches.

        What is left beside the means of runs and of seeds has (R - 1)(S - 1) degrees of freedom. Each run's
        part of it is moderated towards that of all, the more the less the runs differ in it.

        Raises:
            ValueError: there are fewer than 2 seeds, or a value is not finite.
        """
        table = np.asarray(values, dtype=np.float64)
        if table.ndim != 2 or table.shape[1] < 2 or not np.isfinite(table).all():
            raise ValueError(f"need finite values (R, S) of 2 or more seeds, got shape {table.shape}")
        runs, seeds = table.shape
        within = table - table.mean(axis=1, keepdims=True)
        common = within.mean(axis=0) if runs > 1 else np.zeros(seeds)
        freedom = (seeds - 1) * ((runs - 1) / runs if runs > 1 else 1)
        own, total = moderated(((within - common) ** 2).sum(axis=1) / freedom, freedom)
        shared = Variance(runs * float((common**2).sum()) / (seeds - 1), seeds - 1)
        return Training(own, total, shared)

    def single(self, run: int) -> Variance:
        """Return the variance of one run's network, with what its seed does to all runs."""
        share = 1 / len(self.own)
        own = Variance(float(self.own[run]) * (1 - share if share < 1 else 1), self.freedom)
        return added(own, Variance(self.shared.value * share, self.shared.freedom))

    def between(self, a: int, b: int) -> Variance:
        """Return the variance of the difference of two runs' networks of one seed."""
        return Variance(float(self.own[a] + self.own[b]), self.freedom)


def moderated(variances: Floats, freedom: float) -> tuple[Floats, float]:
    """Return variances (R,) moved towards their mean, and their degrees of freedom (Smyth, 2004).

    The prior's degrees of freedom are those under which chance alone explains the spread of the logarithms;
    where it explains all of it, every variance is the mean. The mean is the arithmetic one, which is no
    smaller than Smyth's.
    """
    count, mean = len(variances), float(variances.mean())
    if count < 3 or mean == 0:
        return np.full(count, mean), count * freedom
    logs = np.log(np.maximum(variances, 1e-5 * mean)) - digamma(freedom / 2)
    excess = float(logs.var(ddof=1) - polygamma(1, freedom / 2))
    if excess <= 0:
        return np.full(count, mean), count * freedom
    prior = 2 * _inverse_trigamma(excess)
    moved = (prior * mean + freedom * variances) / (prior + freedom)
    return moved, min(prior + freedom, count * freedom)


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value by Newton's method on 1 / trigamma (Smyth, 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        slope = float(polygamma(1, x))
        step = slope * (1 - slope / value) / float(polygamma(2, x))
        x += step
        if abs(step) < 1e-8 * x:
            break
    return x


def added(*parts: Variance) -> Variance:
    """Return the sum of independent variances, with the degrees of freedom of Welch and Satterthwaite."""
    total = math.fsum(part.value for part in parts)
    if total == 0:
        return Variance(0.0, min(part.freedom for part in parts))
    # Shares instead of variances: the squares of tiny variances would vanish.
    inverse = sum((part.value / total) ** 2 / part.freedom for part in parts)
    return Variance(total, 1 / inverse if inverse else math.inf)


# --- intervals and verdicts ---


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
        ValueError: a value is not finite, there are fewer than 2 people, or too few resamples.
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
