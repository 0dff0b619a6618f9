"""The labels that one run saves against another, read off their curves of accuracy by number of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def label_curve(leaderboard: pd.DataFrame, condition: str = "share") -> pd.DataFrame:
    """Return a leaderboard's accuracy by number of labels, few labels first.

    `condition` is "share" of the labels, all of them (1) included, or "per_person": faces of a person.
    """
    measured = "protocol == 'labels' and metric == 'accuracy' and condition == @condition and value.notna()"
    return leaderboard.query(measured, engine="python").sort_values("amount", kind="stable")


def share_needed(share: ArrayLike, accuracy: ArrayLike, target: float) -> float:
    """Return the least share of labels with which a curve reaches `target`, linear in the share's logarithm.

    Of shares (K,), above 0 and rising, and what each reaches (K,): the first share where even that reaches
    the target, infinity where none does.
    """
    shares, values = np.asarray(share, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    reached = np.flatnonzero(values >= target)
    if not len(reached):
        return float("inf")
    after = int(reached[0])
    if after == 0:
        return float(shares[0])
    low, high = values[after - 1], values[after]
    position = (target - low) / (high - low)
    return float(np.exp(np.interp(position, [0, 1], np.log(shares[after - 1 : after + 1]))))


@dataclass(frozen=True)
class Saved:
    """The share of labels that one curve saves against another at an accuracy.

    `low` and `high` hold one curve's lower ends against the other's upper ends: wider than the curves' level.
    """

    accuracy: float
    value: float
    low: float
    high: float


def labels_saved(curve: pd.DataFrame, control: pd.DataFrame) -> Saved | None:
    """Return the labels saved at the highest accuracy that both curves reach.

    That is 1 - s / s' with the shares that the curve and the control need; negative where the curve needs
    more. Columns: amount (share of the labels, rising), value, ci_low and ci_high. None where there is no
    such accuracy, and where one end of the intervals reaches it nowhere: an open end is no saving.
    """
    target = min(float(curve["value"].max()), float(control["value"].max()))
    ratios = [
        share_needed(curve["amount"], curve[ours], target)
        / share_needed(control["amount"], control[theirs], target)
        for ours, theirs in (("value", "value"), ("ci_low", "ci_high"), ("ci_high", "ci_low"))
    ]
    # Infinity over a share, a share over infinity (0), or both.
    if not all(np.isfinite(ratio) and ratio > 0 for ratio in ratios):
        return None
    value, low, high = (1 - ratio for ratio in ratios)
    return Saved(target, value, low, high)
