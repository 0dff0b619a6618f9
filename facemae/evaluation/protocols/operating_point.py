"""One threshold for everybody: how often it accepts impostors and rejects genuine pairs.

Pairs are those of a list, which were chosen and count singly, or every two faces (`pairs.EveryPair`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from facemae.evaluation import metrics
from facemae.evaluation.pairs import Floats, Pairs, Scores, Weights, with_everyone


def threshold_at(impostors: Scores, fmr_target: float) -> float:
    """Return the lowest threshold that accepts at most a share of impostor scores (N,).

    It lies half way between the lowest score that is accepted and the highest that is not; where none may be
    accepted, just above the highest.
    """
    allowed = int(round(fmr_target * len(impostors), 6))
    top = np.partition(impostors, len(impostors) - allowed - 1)[len(impostors) - allowed - 1 :]
    rejected, higher = top.min(), top[top > top.min()]
    if not len(higher):
        return float(np.nextafter(rejected, top.dtype.type(np.inf)))
    accepted = higher.min()
    middle = top.dtype.type((float(accepted) + float(rejected)) / 2)  # as precise as what it is compared with
    return float(middle if middle > rejected else accepted)


def rates(pairs: Pairs, thresholds: Sequence[float], weights: Weights) -> Floats:
    """Return false match and false non-match rates at K thresholds, (2, K, 1 + R), everyone once first."""
    rows = with_everyone(weights)
    return np.stack([pairs.false_matches(thresholds, rows), pairs.false_non_matches(thresholds, rows)])


def refusal(impostors: int, fmr_target: float) -> str:
    """Return why so many impostor pairs cannot support a claim at a false match rate, or nothing."""
    needed = metrics.impostors_needed(fmr_target)
    if impostors >= needed:
        return ""
    return f"not enough impostors for this claim: it needs {needed} impostor pairs, and there are {impostors}"
