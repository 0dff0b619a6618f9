"""Verdicts: what it takes to call one run better, worse or equivalent to another.

"better" takes a difference in the metric's direction whose p value, over people and seeds and corrected for
the whole family of comparisons (Holm), is at most `alpha`. docs/design/evaluation.md holds the reasons.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike

from facemae.evaluation.pairs import Floats
from facemae.evaluation.statistics import Estimate

VerdictWord = Literal["better", "worse", "equivalent", "undecided"]

ONE_SEED = "one seed cannot separate a run from chance in its training; use two or more"
NO_SPREAD = "nothing differs between people or seeds; on so few people, or such easy ones, that tells nothing"


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


def holm(p_values: ArrayLike) -> Floats:
    """Adjust p values for their number so that one false alarm in the whole family is rare (Holm, 1979).

    >>> holm([0.01, 0.04, 0.03]).round(6).tolist()
    [0.03, 0.06, 0.06]
    """
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepwise = p[order] * np.arange(len(p), 0, -1)
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(stepwise), 1.0)
    return adjusted


def verdicts(
    differences: Sequence[Estimate], higher_is_better: bool, margin: float, alpha: float = 0.05,
    refusals: Sequence[str] | None = None,
) -> list[Verdict]:  # fmt: skip
    """Judge a whole family of comparisons together; leaving some out makes the correction too weak.

    A comparison that is refused (`refusals` says why, "" where it may be judged), or is of single seeds, is
    "undecided": its p value knows nothing of the training, so it counts as p = 1 in the family and cannot
    ease the correction of the others. A difference that surely lies within the margin, in the metric's unit,
    is "equivalent", whether or not it is 0. Its interval is at the level 1 - alpha / family (Bonferroni's).
    """
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


def detectable(each: Estimate, alpha: float, power: float = 0.8) -> float:
    """Return the difference that is called with this power at the two-sided level `alpha`."""
    quantiles = scipy.special.stdtrit(each.degrees_of_freedom, [1 - alpha / 2, power])
    return float(quantiles.sum()) * each.standard_error
