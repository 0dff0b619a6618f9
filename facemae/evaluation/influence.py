"""How far each pair of photos moves a metric, which is what its variance over people is made of.

A metric of pairs is to first order a sum over them: its value in truth plus each pair's influence, which is 0
on average. Pairs that share a person move together, and others do not; `variance.Dyads` makes the variance
of that (Aronow, Samii and Assenova, 2015). An influence is (N,) for N pairs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from facemae.evaluation.pairs import Booleans, Comparisons, Floats, Integers

PEOPLE = ["first", "second"]


def by_people(first: Integers, second: Integers, influence: Floats) -> pd.Series[float]:
    """Return the sums over the pairs of each two people, or of one person, by their numbers in order."""
    people = pd.MultiIndex.from_arrays(list(np.sort([first, second], axis=0)), names=PEOPLE)
    return pd.Series(influence, people).groupby(level=PEOPLE).sum()


def mean(influences: Sequence[pd.Series[float]]) -> pd.Series[float]:
    """Return the influence on a mean of metrics, of the same people or of others."""
    return pd.concat(influences).groupby(level=PEOPLE).sum() / len(influences)


def area(pairs: Comparisons) -> Floats:
    """Return each pair's influence on the ROC AUC: how often it is placed right (DeLong et al., 1988)."""
    genuine, impostor = pairs.take(pairs.genuine), pairs.take(~pairs.genuine)
    placed = np.empty(len(pairs))
    placed[pairs.genuine] = _share_below(impostor, genuine.score)
    placed[~pairs.genuine] = 1 - _share_below(genuine, impostor.score)
    return _centred(placed, pairs)


def equal_error(pairs: Comparisons) -> Floats:
    """Return each pair's influence on the equal error rate.

    Where false accepts rise by x and false rejects by y, the threshold moves until both are equal, at a rate
    that rises by (m x + y) / (m + 1) where the ROC has the slope m.
    """
    cuts = np.unique(pairs.score[np.isfinite(pairs.score)])
    if not len(cuts):
        return np.zeros(len(pairs))
    below = [_share_below(pairs.take(kind), cuts, ties=0) for kind in (~pairs.genuine, pairs.genuine)]
    cut = int(np.abs(1 - below[0] - below[1]).argmin())
    slope = _slope(pairs, float(1 - below[0][cut]))
    accepted = (pairs.score >= cuts[cut]).astype(np.float64)
    return _centred(np.where(pairs.genuine, -accepted, slope * accepted) / (slope + 1), pairs)


def true_accepts(pairs: Comparisons, far: float) -> Floats:
    """Return each pair's influence on the true accept rate at the highest false accept rate up to `far`.

    Where false accepts rise by x, the threshold rises until they are as rare as before, and the true accept
    rate falls by m x where the ROC has the slope m.
    """
    impostor = np.sort(pairs.impostors)[::-1]
    allowed = math.floor(round(far * len(impostor), 6))
    threshold = impostor[allowed] if allowed < len(impostor) else -np.inf
    accepted = (pairs.score > threshold).astype(np.float64)
    return _centred(np.where(pairs.genuine, accepted, -_slope(pairs, far) * accepted), pairs)


def balanced(pairs: Comparisons, accepted: Booleans, fold: Integers) -> Floats:
    """Return each pair's influence on the mean over folds of (TAR + 1 - FAR) / 2, given what is accepted.

    What moves a threshold counts for nothing: near the best one the accuracy is flat. A pair is held against
    the mean of all folds, since people come into a fold by chance: the mean of a fold of four people would
    take most of what they differ in with it.
    """
    right = np.where(pairs.genuine, accepted, ~accepted) / 2
    number = np.unique(fold, return_inverse=True)[1]
    cell = 2 * number + pairs.genuine
    share = pairs.counted / (np.bincount(cell, pairs.counted)[cell] * (number.max() + 1))
    influence = np.empty(len(pairs))
    for kind in (pairs.genuine, ~pairs.genuine):
        influence[kind] = (right[kind] - right[kind] @ share[kind]) * share[kind]
    return influence


def _share_below(pairs: Comparisons, cuts: Floats, ties: float = 0.5) -> Floats:
    """Return which share of the weight has a score below each cut, and of those that equal it `ties`."""
    ordered = pairs.take(np.argsort(pairs.score, kind="stable"))
    total = np.concatenate([[0.0], np.cumsum(ordered.counted)])
    below, upto = (total[np.searchsorted(ordered.score, cuts, side)] for side in ("left", "right"))
    return np.asarray(((1 - ties) * below + ties * upto) / total[-1])


def _centred(part: Floats, pairs: Comparisons) -> Floats:
    """Return how far each pair moves the sum of two means, one over genuine and one over impostor pairs."""
    influence = np.empty(len(part))
    for kind in (pairs.genuine, ~pairs.genuine):
        counted = pairs.counted[kind]
        influence[kind] = counted * (part[kind] - np.average(part[kind], weights=counted)) / counted.sum()
    return influence


def _slope(pairs: Comparisons, far: float) -> float:
    """Return the slope of the ROC over false accept rates from about half to one and a half of `far`."""
    impostor = np.sort(pairs.impostors)[::-1]
    count = len(impostor)
    width = max(far / 2, math.sqrt(far * (1 - far) / count), 1 / count)
    ends = np.clip(np.rint(count * np.array([far - width, far + width])), 0, count - 1).astype(int)
    (few, many), (low, high) = (
        [np.average(kind.score >= impostor[end], weights=kind.counted) for end in ends]
        for kind in (pairs.take(~pairs.genuine), pairs.take(pairs.genuine))
    )
    return float((high - low) / (many - few)) if many > few else 0.0
