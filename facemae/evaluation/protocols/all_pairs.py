"""Verification over every pair of images: exact values, and a bootstrap over people for millions of pairs.

A true accept rate is the mean over people of each one's own (`EveryPair`). A note says how many people would
weigh alike as these do: the inverse sum of squared shares (Kish, 1965).

The cosines are sorted once: every value is then exact, and equals that of `metrics` on the same scores. To
weigh every pair in every resample would take hours. What a resample needs at a threshold t is only the weight
of its impostors, the sum over people a < b of w_a w_b M_ab(t), with M_ab(t) the accepted pairs of a and b,
and of its genuine pairs, the sum of w_a G_a(t), with G_a(t) the accepted share of a's own. Both are computed
for a grid of some 30 thresholds, dense around the equal error rate and each false accept rate asked for.
Between two of them a resample's true accept rate is known exactly, and its false accept rate is that of the
images themselves, known exactly, times a ratio that hardly changes: only the ratio is interpolated. What
remains wrong on the images themselves is taken off every resample.

Against `metrics` on 1,000 resamples of 300 people (1.0 million pairs), in units of the bootstrap's standard
deviation, a resample is off by 0.003 (ROC AUC), 0.009 (EER) and 0.01 to 0.04 (TAR at a FAR of 0.1 to 0.001),
root mean square; the worst of all by 0.18. The standard deviation itself is off by less than 0.1 %.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation.pairs import (
    EveryPair,
    Floats,
    Integers,
    Scores,
    SortedScores,
    Weights,
    all_pairs,
    each_person_once,
    people_alike,
    ratio,
    with_everyone,
)
from facemae.evaluation.records import Measurement, refused

PROTOCOL, CONDITION = "verification", "all pairs"
LEAST_PEOPLE = 30  # as `metrics.impostors_needed` asks for errors
# `metrics` weighs so many pairs one by one, 1,000 times, in ten seconds.
EXACT_PAIRS = 250_000
_AROUND = np.array([0.5, 0.75, 1.0, 1.33, 2.0])  # thresholds at these multiples of a rate


def measure(pairs: EveryPair, weights: Weights, far_targets: Sequence[float]) -> list[Measurement]:
    """Measure ROC AUC, EER and TAR at FAR on every pair of images.

    Values are exact. Resamples (R, P) are exact up to `EXACT_PAIRS` pairs, and beyond that as exact as the
    module says; each then keeps to the false accept rate that the images themselves achieve. A target that
    has too few impostor pairs by the rule of 30 is refused: its measurements have no value, but a note. A
    RefusedError: there is no genuine or no impostor pair, or there are more than `pairs.MOST_PAIRS`.
    """
    genuine, impostors = pairs.genuine_count, pairs.impostor_count
    if not genuine or not impostors:
        missing = "impostor" if genuine else "genuine"
        raise RefusedError(f"there is no {missing} pair, verification needs both kinds")
    refusals = {far: metrics.too_few(impostors, far) for far in far_targets}
    allowed = [far for far, refusal in refusals.items() if not refusal]
    point, samples = (_exact if genuine + impostors <= EXACT_PAIRS else _on_grid)(pairs, weights, allowed)
    names = ["roc_auc", "eer", *(name for far in allowed for name in metrics.far_names(far))]
    sizes = [genuine + impostors] * 2 + [impostors] * (2 * len(allowed))
    note = people_behind(pairs.images)
    found = [
        Measurement(PROTOCOL, name, float(value), n, note, row, CONDITION)
        for name, value, n, row in zip(names, point, sizes, samples, strict=True)
    ]
    for far, why in refusals.items():
        found += refused(PROTOCOL, metrics.far_names(far) if why else (), impostors, why, CONDITION)
    return found


def roc_auc(scores: SortedScores) -> float:
    """Return the chance that a genuine pair scores above an impostor pair; a tie counts one half."""
    below, upto = (np.searchsorted(scores.impostor, scores.genuine, side=side) for side in ("left", "right"))
    weight = each_person_once(scores.owner)
    return float(weight @ (below + upto)) / (2 * float(weight.sum()) * len(scores.impostor))


def equal_error_rate(scores: SortedScores) -> float:
    """Return the error where false accepts are as frequent as false rejects, as `metrics` defines it."""

    def crossed(threshold: float) -> bool:
        far, tar = _rates(scores, threshold, "left")
        return bool(far + tar - 1 >= 0)

    def highest(kind: Scores) -> float:
        place = bisect.bisect_left(range(len(kind)), True, key=lambda k: crossed(kind[len(kind) - 1 - k]))
        return float(kind[max(0, len(kind) - 1 - place)])  # its lowest score where none of its scores crosses

    found = [each for each in map(highest, (scores.genuine, scores.impostor)) if crossed(each)]
    cuts = [_rates(scores, max(found), "right"), _rates(scores, max(found), "left")]
    far, tar = (np.array([rates]) for rates in zip(*cuts, strict=True))
    return float(metrics.crossing(far, tar)[0])


def tar_at_far(scores: SortedScores, far_target: float) -> tuple[float, float]:
    """Return the true accept rate at the lowest threshold that keeps to a FAR, and the FAR achieved."""
    impostors = len(scores.impostor)
    kept = round(far_target * impostors)
    kept -= kept / impostors > far_target
    if kept == impostors:
        return 1.0, 1.0
    far, tar = _rates(scores, float(scores.impostor[impostors - 1 - kept]), "right")
    return tar, far


def people_text(text: str, people: float) -> str:
    """Return a note on the people behind a rate, with a warning where they are few."""
    return text if people >= LEAST_PEOPLE else f"{text}, which is too few for a rate"


def people_behind(images: Integers) -> str:
    """Return how many people are behind genuine and impostor pairs, given everyone's number of images."""
    genuine, share = int((images > 1).sum()), images * (images.sum() - images).astype(np.float64)
    impostor = float(share.sum() ** 2 / (share**2).sum())
    text = f"{genuine} people weigh alike in genuine pairs, and as {impostor:.0f} in impostor pairs"
    return people_text(text, min(genuine, impostor))


# --- values, exact ---


def _exact(pairs: EveryPair, weights: Weights, far_targets: Sequence[float]) -> tuple[Floats, Floats]:
    """Return ROC AUC, EER, and TAR and FAR of each target, (2 + 2 targets,), and on the resamples."""
    found = people_alike(all_pairs(pairs.unit, pairs.person))
    point = np.stack(metrics.rates(found, None, far_targets))[:, 0]
    return point, np.stack(metrics.rates(found, weights, far_targets))


def _rates(scores: SortedScores, threshold: float, side: Literal["left", "right"]) -> tuple[float, float]:
    """Return FAR and TAR of the scores at or above the threshold (left) or above it (right)."""
    genuine, impostor = (
        int(np.searchsorted(each, each.dtype.type(threshold), side=side))
        for each in (scores.genuine, scores.impostor)
    )
    impostors = len(scores.impostor)
    return (impostors - impostor) / impostors, 1 - float(scores.rejected[genuine])


# --- resamples, from a grid of thresholds ---


def _on_grid(pairs: EveryPair, weights: Weights, far_targets: Sequence[float]) -> tuple[Floats, Floats]:
    """Return the exact values (2 + 2 targets,) and those on the resamples (2 + 2 targets, R)."""
    scores = pairs.scores
    at_far = [value for far in far_targets for value in tar_at_far(scores, far)]
    point = np.array([roc_auc(scores), equal_error_rate(scores), *at_far])
    thresholds = _grid(scores.impostor, float(point[1]), far_targets)
    rows = with_everyone(weights)  # the images themselves come first
    own = rows / np.maximum(1, pairs.own_pairs)  # of each genuine pair
    far = _curve(pairs.accepted_impostors(thresholds, rows), pairs.impostor_weight(rows))
    tar = _curve(*_true_accepts(scores, thresholds, own))
    curves = _Curves(scores, thresholds, own, far, tar)
    found = [curves.areas(), curves.equal_errors()]
    for target in far_targets:
        reached = curves.tars(target)
        # The rate achieved is the target but for a part of a pair, of the images and each resample alike.
        found += [reached, np.where(np.isnan(reached), np.nan, target)]
    on_grid = np.stack(found)
    return point, np.clip(point[:, None] + on_grid[:, 1:] - on_grid[:, :1], 0.0, 1.0)


class _Curves:
    """The curves of all resamples, at the grid's cuts and at the genuine scores between them.

    At a genuine score, a resample's false accept rate is that of the images themselves, which is exact,
    times their ratio, which changes slowly and is interpolated over the logarithm of the rate.
    """

    def __init__(
        self, scores: SortedScores, thresholds: Scores, rows: Floats, far: Floats, tar: Floats
    ) -> None:
        """Place the genuine scores among the cuts, from nothing accepted to all; the first row is the images.

        `rows` (R, P) is what each genuine pair of a person weighs, `far` and `tar` (R, K + 2) at the cuts.
        """
        genuine, impostors = scores.genuine[::-1], len(scores.impostor)
        upto, above = (
            impostors - np.searchsorted(scores.impostor, genuine, end) for end in ("left", "right")
        )
        own = np.maximum(far[0], 0.5 / impostors)  # also where nothing is accepted
        self.rows, self.far, self.tar, self.ratio = rows, far, tar, far / own
        self.ratio[:, 0] = self.ratio[:, 1]
        self.owner = scores.owner[::-1]
        self.pairs = np.bincount(self.owner, minlength=rows.shape[1]).astype(np.float64)
        self.genuine_far = (above + upto) / (2 * impostors)  # of the images, falling scores, (G,)
        logarithm = np.log(np.maximum(self.genuine_far, 0.5 / impostors))
        self.place = np.interp(logarithm, np.log(own), np.arange(len(own)))  # among the cuts, (G,)
        accepted = len(genuine) - np.searchsorted(scores.genuine, thresholds)[::-1]
        self.first = np.concatenate([[0], accepted, [len(genuine)]])  # genuine scores above each cut

    def areas(self) -> Floats:
        """Return each resample's ROC AUC, one less the mean false accept rate at its genuine scores."""
        people, cuts = self.rows.shape[1], self.far.shape[1]
        low = np.minimum(self.place.astype(np.int64), cuts - 2)
        share = self.place - low
        at = self.owner * cuts + low
        rates = np.bincount(at, self.genuine_far * (1 - share), people * cuts)
        rates += np.bincount(at + 1, self.genuine_far * share, people * cuts)
        missed = ((self.rows @ rates.reshape(people, cuts)) * self.ratio).sum(axis=1)
        return np.asarray(1 - ratio(missed, self.rows @ self.pairs))

    def equal_errors(self) -> Floats:
        """Return each resample's equal error rate, where its steps meet the diagonal."""

        def met(far: Floats, tar: Floats) -> float:
            crossed = np.append(far[1:] + tar[1:] >= 1, True)
            step = int(np.argmax(crossed))  # the last cut that is still before the crossing
            rise = far[step + 1] if step + 1 < len(far) else 1.0
            return float(min(rise, 1 - tar[step]))

        return self._after(np.argmax(self.far + self.tar >= 1, axis=1) - 1, met)

    def tars(self, target: float) -> Floats:
        """Return each resample's true accept rate at a false accept rate of at most `target`."""
        before = np.minimum((self.far <= target).sum(axis=1), self.far.shape[1] - 1) - 1
        return self._after(before, lambda far, tar: tar[np.flatnonzero(far <= target)[-1]])

    def _after(self, cuts: Integers, value: Callable[[Floats, Floats], float]) -> Floats:
        """Return a value of each resample's rates at its cut and at the genuine scores up to the next one."""
        values = np.full(len(self.rows), np.nan)
        for number in np.flatnonzero(np.isfinite(self.far[:, 0] + self.tar[:, 0])).tolist():
            cut, weight = int(cuts[number]), self.rows[number]
            chosen = slice(self.first[cut], self.first[cut + 1])
            ratio = np.interp(self.place[chosen], np.arange(self.far.shape[1]), self.ratio[number])
            gained = np.cumsum(weight[self.owner[chosen]]) / (weight @ self.pairs)
            far, tar = self.far[number, cut], self.tar[number, cut]
            rates = np.append(far, self.genuine_far[chosen] * ratio), np.append(tar, tar + gained)
            values[number] = value(*rates)
        return values


def _grid(impostors: Scores, eer: float, far_targets: Sequence[float]) -> Scores:
    """Choose rising thresholds among the impostor scores."""
    count = len(impostors)
    apart = np.concatenate([np.geomspace(1 / count, 0.1, 10), [0.2, 0.35, 0.5, 0.65, 0.8]])
    levels = np.concatenate([apart, *(rate * _AROUND for rate in (eer, *far_targets))])
    rank = np.clip(np.ceil(levels * count).astype(np.int64), 1, count)
    return np.unique(impostors[count - rank])


def _true_accepts(scores: SortedScores, thresholds: Scores, weights: Floats) -> tuple[Floats, Floats]:
    """Return the weight of the genuine pairs at or above each threshold, `(K, R)`, and of all, `(R,)`."""
    people, bins = weights.shape[1], len(thresholds) + 1
    place = np.searchsorted(thresholds, scores.genuine, side="right") * people + scores.owner
    between = np.bincount(place, minlength=bins * people).reshape(bins, people).astype(np.float64) @ weights.T
    falling = np.cumsum(between[::-1], axis=0)
    return falling[-2::-1], falling[-1]


def _curve(accepted: Floats, total: Floats) -> Floats:
    """Return rates `(R, K + 2)` at falling thresholds, from none to all, given weights at rising ones."""
    rate = ratio(accepted[::-1], total).T
    none = np.where(total > 0, 0.0, np.nan)[:, None]
    return np.hstack([none, rate, none + 1])
