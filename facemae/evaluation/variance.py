"""How far a result would move on other people and with other trainings.

Other people would have been easier or harder, and another seed would have trained another network. The photos
tell the first, the seeds of all runs together the second. docs/design/evaluation.md holds the reasons.
S seeds, R runs, P people.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple, Self

import numpy as np
import scipy

from facemae.core.errors import RefusedError
from facemae.evaluation.pairs import Floats, Integers


class Variance(NamedTuple):
    """A variance and the degrees of freedom that it was estimated with."""

    value: float
    freedom: float


NO_CHANCE = Variance(0.0, math.inf)


# --- the people ---


@dataclass(frozen=True)
class _Networks:
    """What other people would have changed in a metric of S networks, a row for each."""

    rows: Floats

    def __sub__(self, other: Self) -> Self:
        """Return the same of the differences, network by network, or of each from a single one."""
        return replace(self, rows=self.rows - other.rows)


@dataclass(frozen=True)
class Dyads(_Networks):
    """The influence (S, D) of each two people's pairs, for networks that saw the same pairs.

    No two people, `first` and `second` (D,), stand together twice.
    """

    first: Integers
    second: Integers

    def __sub__(self, other: Self) -> Self:
        """Return the influence on the differences, network by network."""
        if not (np.array_equal(self.first, other.first) and np.array_equal(self.second, other.second)):
            raise ValueError("a difference is between metrics of the same pairs of people")
        return super().__sub__(other)

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
            for row in self.rows
        ])  # fmt: skip
        between = self.rows[:, two] @ self.rows[:, two].T
        alone = self.rows @ self.rows.T
        larger = self.people / (self.people - 1)
        return (sums @ sums.T - between) * larger, alone * larger


@dataclass(frozen=True)
class Resampled(_Networks):
    """The values (S, B) on B resamples of some people, for networks that saw the same resamples.

    Weights of pairs that are products of two people's count what is a pair's own about three times, so that
    the variance is too large rather than too small.
    """

    people: int

    def covariance(self) -> tuple[Floats, Floats]:
        """Return the networks' covariance (S, S) over people, and 0; a bootstrap lacks a factor P / (P - 1).

        A RefusedError: fewer than 2 resamples have a value for every network.
        """
        finite = self.rows[:, np.isfinite(self.rows).all(axis=0)]
        if finite.shape[1] < 2:
            raise RefusedError(
                f"a variance needs 2 resamples with a value for every seed, got {finite.shape[1]}"
            )
        found = np.atleast_2d(np.cov(finite)) * self.people / (self.people - 1)
        return found, np.zeros_like(found)


Evidence = Dyads | Resampled


def people_variance(evidence: Evidence) -> Variance:
    """Return the variance of a mean over seeds that other people would bring.

    Of several networks it is what any two of them share. What a person does to one network alone is in the
    spread of the seeds' values already, and would otherwise be counted twice. A RefusedError: there are fewer
    than 2 people, or too few resamples.
    """
    if evidence.people < 2:
        raise RefusedError(f"an interval over people needs 2 of them, got {evidence.people}")
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
    """How far chance in training moves one network's value, estimated from all runs at once.

    Attributes:
        own: (R,) variance of a run beyond what a seed does to all runs alike.
        freedom: Degrees of freedom of `own`.
        shared: R times the variance that the seeds' means over all runs have, with S - 1 degrees of freedom.
    """

    own: Floats
    freedom: float
    shared: Variance

    @staticmethod
    def of(values: Sequence[Sequence[float]] | Floats) -> Training:
        """Analyse values (R, S) of runs that have the same S >= 2 seeds, and so common starts and batches.

        What is left beside the means of runs and of seeds has (R - 1)(S - 1) degrees of freedom. Each run's
        part of it is moderated towards that of all, the more the less the runs differ in it.
        """
        table = np.asarray(values, dtype=np.float64)
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
    where it explains all of it, every variance is the mean, the arithmetic one, which is no smaller than
    Smyth's.
    """
    count, mean = len(variances), float(variances.mean())
    if count < 3 or mean == 0:
        return np.full(count, mean), count * freedom
    logs = np.log(np.maximum(variances, 1e-5 * mean)) - scipy.special.digamma(freedom / 2)
    excess = float(logs.var(ddof=1) - scipy.special.polygamma(1, freedom / 2))
    if excess <= 0:
        return np.full(count, mean), count * freedom
    prior = 2 * _inverse_trigamma(excess)
    moved = (prior * mean + freedom * variances) / (prior + freedom)
    return moved, min(prior + freedom, count * freedom)


def _inverse_trigamma(value: float) -> float:
    """Return x with trigamma(x) = value by Newton's method on 1 / trigamma (Smyth, 2004, appendix)."""
    x = 0.5 + 1 / value
    for _ in range(50):
        slope = float(scipy.special.polygamma(1, x))
        step = slope * (1 - slope / value) / float(scipy.special.polygamma(2, x))
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
