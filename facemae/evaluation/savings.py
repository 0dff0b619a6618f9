"""The labels that one run saves against another, read off their curves of accuracy by number of labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike


def label_curve(leaderboard: pd.DataFrame, condition: str = "share") -> pd.DataFrame:
    """Return accuracy by number of labels, few labels first: the rows of the protocol "labels".

    Args:
        leaderboard: Of a comparison.
        condition: "share": of the labels, all of them (1) included; "per_person": faces of a person.
    """
    curve = leaderboard[
        (leaderboard["protocol"] == "labels")
        & (leaderboard["metric"] == "accuracy")
        & (leaderboard["condition"] == condition)
        & leaderboard["value"].notna()
    ]
    return curve.sort_values("amount", kind="stable")


def share_needed(share: ArrayLike, accuracy: ArrayLike, target: float) -> float:
    """Return the least share of labels with which a curve reaches `target`, linear in the share's logarithm.

    Args:
        share: Shares of the labels, `(K,)`, above 0 and rising.
        accuracy: What each reaches, `(K,)`.
        target: The accuracy wanted.

    Returns:
        The share; the first one where even that reaches the target, infinity where none does.

    Raises:
        ValueError: there is no share, they do not rise from above 0, or the lengths differ.
    """
    shares, values = np.asarray(share, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if shares.shape != values.shape or shares.ndim != 1 or not len(shares):
        raise ValueError(f"need (K,) shares and (K,) accuracies, got {shares.shape} and {values.shape}")
    if shares[0] <= 0 or (np.diff(shares) <= 0).any():
        raise ValueError(f"shares rise from above 0, got {shares.tolist()}")
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

    `low` and `high` hold one curve's lower ends against the other's upper ends, which is wider than an
    interval at the curves' level.
    """

    accuracy: float
    value: float
    low: float
    high: float


def labels_saved(curve: pd.DataFrame, control: pd.DataFrame) -> Saved | None:
    """Return the labels saved at the highest accuracy that both curves reach.

    Args:
        curve: Columns amount (share of the labels, rising), value, ci_low and ci_high.
        control: The same of the curve that it is held against.

    Returns:
        1 - s / s', with s and s' the shares that the curves need (`share_needed`); negative where the curve
        needs more labels than the control. None where there is no such accuracy, and where one end of the
        intervals reaches it nowhere: an open end is no saving.
    """
    if curve.empty or control.empty:
        return None
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
