"""From a score to a probability, and from a wanted false match rate to a threshold.

A similarity is no probability. Logistic regression on the score (Platt, 1999) makes one, fitted on other
folds than it is judged on; the Brier score and the expected calibration error (ECE; Naeini, Cooper and
Hauskrecht, 2015) say how well it holds. The threshold card tells what an operator has to know: at which
threshold which errors are to be expected, and which rates these data do not support.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation.pairs import Comparisons, Floats, Integers, Pairs, Weights, with_everyone
from facemae.evaluation.protocols import operating_point
from facemae.evaluation.protocols.pair_list import pair_folds
from facemae.evaluation.records import Measurement, refused
from facemae.evaluation.statistics import percentile_interval

BINS = 15
FMR_TARGETS = (1e-1, 1e-2, 1e-3, 3e-4, 1e-4, 1e-5, 1e-6)
CARD_COLUMNS = [
    "target_fmr", "threshold", "fmr", "fmr_low", "fmr_high", "fnmr", "fnmr_low", "fnmr_high",
    "impostors_needed", "impostors", "genuine", "note",
]  # fmt: skip

_CHUNK_VALUES = 2**22  # weights of pairs that are held at a time: 32 MB
_WEAK_PENALTY = 1e3  # scikit-learn's C: where a score tells all pairs apart, an unpenalised slope is infinite


@dataclass(frozen=True)
class Calibration:
    """The chance that a pair of some score shows one person, 1 / (1 + exp(-(slope * score + offset))).

    It holds where genuine pairs are as frequent as among the pairs it was fitted on.
    """

    slope: float
    offset: float

    def logit(self, score: ArrayLike) -> Floats:
        """Return the log odds of one person for scores of any shape."""
        return np.asarray(self.slope * np.asarray(score, np.float64) + self.offset)

    def probability(self, score: ArrayLike) -> Floats:
        """Return the probability of one person for scores of any shape."""
        return np.asarray(np.exp(-np.logaddexp(0, -self.logit(score))))


def fit(score: ArrayLike, genuine: ArrayLike) -> Calibration:
    """Fit the probability of one person to scores of pairs (N,); a RefusedError without both kinds."""
    from sklearn.linear_model import LogisticRegression

    scores, same = np.asarray(score, np.float64), np.asarray(genuine, bool)
    if same.all() or not same.any():
        raise RefusedError(f"there is no {'impostor' if same.any() else 'genuine'} pair to calibrate on")
    centre, spread = float(scores.mean()), float(scores.std()) or 1.0
    model = LogisticRegression(C=_WEAK_PENALTY).fit((scores[:, None] - centre) / spread, same)
    slope = float(model.coef_[0, 0]) / spread
    return Calibration(slope, float(model.intercept_[0]) - slope * centre)


def probabilities(score: ArrayLike, genuine: ArrayLike, fold: ArrayLike) -> Floats:
    """Return each pair's probability (N,) by the calibration that was fitted on the other folds.

    A RefusedError: there is one fold, or the pairs outside a fold are all genuine or all impostor ones.
    """
    scores, same, folds = np.asarray(score, np.float64), np.asarray(genuine, bool), np.asarray(fold)
    numbers = np.unique(folds)
    if len(numbers) < 2:
        raise RefusedError("a calibration is fitted on other folds, and there is one fold alone")
    found = np.empty(len(scores))
    for number in numbers:
        inside = folds == number
        found[inside] = fit(scores[~inside], same[~inside]).probability(scores[inside])
    return found


def measure(pairs: Comparisons, fold: ArrayLike, weights: Weights) -> list[Measurement]:
    """Measure the Brier score and the ECE of calibrated probabilities on a list of pairs in folds (N,).

    Pairs with a face that was not found have no score and are left out. The resamples (R, P) weigh the pairs;
    calibrations and bins stay those of the pairs as they are.
    """
    found = np.isfinite(pairs.score)
    kept, lost = pairs.take(found), int((~found).sum())
    note = f"pairs left out since a face was not found: {lost}" if lost else ""
    try:
        folds = pair_folds(np.asarray(fold)[found], kept.genuine)
        chance = probabilities(kept.score, kept.genuine, folds)
    except RefusedError as error:
        return refused("calibration", ("brier", "ece"), len(kept), str(error))
    brier, ece = _scored(kept, chance, with_everyone(weights))
    return [
        Measurement.of("calibration", "brier", brier, len(kept), note),
        Measurement.of("calibration", "ece", ece, len(kept), note),
    ]


def bins_of(probability: Floats) -> Integers:
    """Return the bin (N,) of each probability: bins of equal mass, where equal probabilities share one."""
    edges = np.unique(np.quantile(probability, np.arange(1, BINS) / BINS))
    return np.searchsorted(edges, probability).astype(np.int64)


def _scored(pairs: Comparisons, probability: Floats, rows: Floats) -> Floats:
    """Return the Brier score and the ECE under each row of weights, (2, R)."""
    error, bins = pairs.genuine - probability, bins_of(probability)
    members, parts = np.eye(int(bins.max()) + 1)[bins], []
    size = max(1, _CHUNK_VALUES // len(pairs))
    for start in range(0, len(rows), size):
        weight = pairs.weights(rows[start : start + size])
        total = weight.sum(axis=1)
        # A bin's share of the weight times the gap between its rate and its mean probability.
        gaps = np.abs((weight * error) @ members).sum(axis=1)
        with np.errstate(invalid="ignore"):
            parts.append(np.stack([weight @ error**2, gaps]) / total)
    return np.concatenate(parts, axis=1)


def threshold_card(
    pairs: Pairs, weights: Weights, level: float, targets: Sequence[float] = FMR_TARGETS
) -> pd.DataFrame:
    """Return a row per wanted false match rate: its threshold, and the errors at it with their intervals.

    The threshold is the lowest that keeps to the target on all these pairs; the intervals are for the rates
    at this threshold, from resamples of the people. Where not one error was seen, the upper end is the one
    under which none among so many people has the chance (1 - level) / 2. A rate with fewer than 30 expected
    false matches is refused: the row says what it needs. So is every rate where there are more pairs than can
    be compared. `weights` (R, P) are resamples of the people.
    """
    try:
        impostors = pairs.impostors
    except RefusedError as error:
        return pd.DataFrame({"target_fmr": targets, "note": str(error)}, columns=CARD_COLUMNS)
    rows: list[dict[str, Any]] = [
        {
            "target_fmr": target, "impostors_needed": metrics.impostors_needed(target),
            "impostors": len(impostors), "genuine": pairs.genuine_count,
            "note": operating_point.refusal(len(impostors), target),
        }
        for target in targets
    ]  # fmt: skip
    allowed = [row for row in rows if not row["note"]]
    thresholds = [operating_point.threshold_at(impostors, row["target_fmr"]) for row in allowed]
    found = operating_point.rates(pairs, thresholds, weights) if allowed else np.empty((2, 0, 1))
    for row, threshold, fmr, fnmr in zip(allowed, thresholds, *found, strict=True):
        row["threshold"] = threshold
        row |= _interval("fmr", fmr, weights.shape[1], level)
        row |= _interval("fnmr", fnmr, weights.shape[1], level)
    return pd.DataFrame(rows, columns=CARD_COLUMNS)


def _interval(name: str, values: Floats, people: int, level: float) -> dict[str, float]:
    value = float(values[0])
    try:
        low, high = percentile_interval(values[1:], level)
    except RefusedError:  # too few resamples have a value
        return {name: value}
    if value == 0:
        high = 1 - ((1 - level) / 2) ** (1 / people)
    return {name: value, f"{name}_low": low, f"{name}_high": high}


def card_text(card: pd.DataFrame) -> str:
    """Return a threshold card as text, a line per wanted rate; one beyond the data says what it takes."""
    lines = ["wanted FMR  threshold  FMR (interval)                  FNMR (interval)"]
    for row in card.to_dict("records"):
        wanted = f"{row['target_fmr']:<10g}"
        if row["note"]:
            lines.append(f"{wanted}  {row['note']}")
        else:
            rates = (_rate_text(row, "fmr"), _rate_text(row, "fnmr"))
            lines.append(f"{wanted}  {row['threshold']:<9.4f}  {rates[0]:<30}  {rates[1]}".rstrip())
    return "\n".join(lines)


def _rate_text(row: Mapping[Hashable, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    return f"{value:.2g}" if math.isnan(low) else f"{value:.2g} ({low:.2g} to {high:.2g})"
