"""How far each pair of photos moves a metric, which is what its variance over people is made of.

A metric of pairs is to first order a sum over them: its value in truth plus each pair's influence, which is 0
on average. Pairs that share a person move together, and others do not; `statistics.Dyads` makes the variance
of that (Aronow, Samii and Assenova, 2015). N pairs, their scores (N,) and which are genuine (N,).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.int64]

PEOPLE = ["first", "second"]


def by_people(first: Integers, second: Integers, influence: Floats) -> pd.Series[float]:
    """Return the sums over the pairs of each two people, or of one person, by their numbers in order."""
    people = pd.MultiIndex.from_arrays(list(np.sort([first, second], axis=0)), names=PEOPLE)
    return pd.Series(influence, people).groupby(level=PEOPLE).sum()


def mean(influences: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """Return the influence on a mean of metrics, of the same people or of others."""
    return pd.concat(influences).groupby(level=PEOPLE).sum() / len(influences)


def area(score: Floats, genuine: Booleans) -> Floats:
    """Return each pair's influence on the ROC AUC: how often it is placed right (DeLong et al., 1988)."""
    own, others = np.sort(score[genuine]), np.sort(score[~genuine])
    placed = np.empty(len(score))
    placed[genuine] = _share_below(others, score[genuine])
    placed[~genuine] = 1 - _share_below(own, score[~genuine])
    return _centred(placed, genuine)


def _share_below(ranked: Floats, score: Floats) -> Floats:
    """Return which share of ranked scores lies below each score; equal ones count one half."""
    below, upto = np.searchsorted(ranked, score, "left"), np.searchsorted(ranked, score, "right")
    return np.asarray((below + upto) / (2 * len(ranked)))


def equal_error(score: Floats, genuine: Booleans) -> Floats:
    """Return each pair's influence on the equal error rate.

    Where false accepts rise by x and false rejects by y, the threshold moves until both are equal, at a rate
    that rises by (m x + y) / (m + 1) where the ROC has the slope m.
    """
    cuts = np.unique(score[np.isfinite(score)])
    if not len(cuts):
        return np.zeros(len(score))
    far = 1 - np.searchsorted(np.sort(score[~genuine]), cuts) / (~genuine).sum()
    fnmr = np.searchsorted(np.sort(score[genuine]), cuts) / genuine.sum()
    cut = int(np.abs(far - fnmr).argmin())
    slope = _slope(score, genuine, float(far[cut]))
    accepted = (score >= cuts[cut]).astype(np.float64)
    return _centred(np.where(genuine, -accepted, slope * accepted) / (slope + 1), genuine)


def true_accepts(score: Floats, genuine: Booleans, far: float) -> Floats:
    """Return each pair's influence on the true accept rate at the highest false accept rate up to `far`.

    Where false accepts rise by x, the threshold rises until they are as rare as before, and the true accept
    rate falls by m x where the ROC has the slope m.
    """
    impostor = np.sort(score[~genuine])[::-1]
    allowed = math.floor(round(far * len(impostor), 6))
    threshold = impostor[allowed] if allowed < len(impostor) else -np.inf
    accepted = (score > threshold).astype(np.float64)
    slope = _slope(score, genuine, far)
    return _centred(np.where(genuine, accepted, -slope * accepted), genuine)


def balanced(accepted: Booleans, genuine: Booleans, fold: Integers) -> Floats:
    """Return each pair's influence on the mean over folds of (TAR + 1 - FAR) / 2, given what is accepted.

    What moves a threshold counts for nothing: near the best one the accuracy is flat. A pair is held against
    the mean of all folds, since people come into a fold by chance: the mean of a fold of four people would
    take most of what they differ in with it.
    """
    right = np.where(genuine, accepted, ~accepted) / 2
    number = np.unique(fold, return_inverse=True)[1]
    cell = 2 * number + genuine
    share = 1 / (np.bincount(cell)[cell] * (number.max() + 1))
    influence = np.empty(len(right))
    for kind in (genuine, ~genuine):
        influence[kind] = (right[kind] - right[kind] @ share[kind]) * share[kind]
    return influence


def _centred(part: Floats, genuine: Booleans) -> Floats:
    """Return how far each pair moves the sum of two means, one over genuine and one over impostor pairs."""
    influence = np.empty(len(part))
    for kind in (genuine, ~genuine):
        influence[kind] = (part[kind] - part[kind].mean()) / kind.sum()
    return influence


def _slope(score: Floats, genuine: Booleans, far: float) -> float:
    """Return the slope of the ROC over false accept rates from about half to one and a half of `far`."""
    impostor = np.sort(score[~genuine])[::-1]
    count = len(impostor)
    width = max(far / 2, math.sqrt(far * (1 - far) / count), 1 / count)
    ends = np.clip(np.rint(count * np.array([far - width, far + width])), 0, count - 1).astype(int)
    rates = [[(kind >= impostor[end]).mean() for end in ends] for kind in (impostor, score[genuine])]
    (few, many), (low, high) = rates
    return float((high - low) / (many - few)) if many > few else 0.0
