"""Verification over every pair of images: exact values, and a bootstrap over people for millions of pairs.

A true accept rate is the mean over people of each one's own: the genuine pairs of a person weigh 1 in sum.
They grow with the square of the photos, so counted singly they are a few people's: of LFW's 242,257 the 530
photos of one make 140,185. Impostor pairs count singly, as published false accept rates do; a person's share
of them grows with the photos only. A note says how many people would weigh alike as these do: the inverse sum
of squared shares (Kish, 1965).

The 13,233 photos of LFW make 87.5 million pairs. Their cosines, in float32, are sorted once: every value is
then exact, and equals that of `metrics` on the same scores. To weigh every pair in every resample would take
hours. What a resample needs at a threshold t is only the weight of its impostors, the sum over people a < b
of w_a w_b M_ab(t), with M_ab(t) the accepted pairs of a and b, and of its genuine pairs, the sum of w_a
G_a(t), with G_a(t) the accepted share of a's own. Both are computed for a grid of some 30 thresholds, dense
around the equal error rate and each false accept rate asked for. Between two of them a resample's true accept
rate is known exactly, and its false accept rate is that of the images themselves, known exactly, times a
ratio that hardly changes: only the ratio is interpolated. What remains wrong on the images themselves is
taken off every resample.

Against `metrics` on 1,000 resamples of 300 people (1.0 million pairs), in units of the bootstrap's standard
deviation, a resample is off by 0.003 (ROC AUC), 0.009 (EER) and 0.01 to 0.04 (TAR at a FAR of 0.1 to 0.001),
root mean square; the worst of all by 0.18. The standard deviation itself is off by less than 0.1 %.

Shapes: N images, P people, R resamples, K thresholds.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from facemae.evaluation import metrics
from facemae.evaluation.metrics import Floats, Integers, Measurement

PROTOCOL, CONDITION = "verification", "all pairs"
LEAST_PEOPLE = 30  # as `metrics.impostors_needed` asks for errors
# `metrics` weighs so many pairs one by one, 1,000 times, in ten seconds.
EXACT_PAIRS = 250_000
MOST_PAIRS = 2**30  # 4 GB of scores
_BLOCK_VALUES = 2**22  # scores of a block: 16 MB
_BLOCK_PEOPLE = 2**18  # people of a block times all people, of which each threshold holds counts: 2 MB
_AROUND = np.array([0.5, 0.75, 1.0, 1.33, 2.0])  # thresholds at these multiples of a rate


@dataclass(frozen=True)
class Scores:
    """The cosines of every two images, rising: `genuine` (G,) with its `owner` (G,), and `impostor` (I,)."""

    genuine: NDArray[np.floating]
    owner: Integers
    impostor: NDArray[np.floating]

    @cached_property
    def rejected(self) -> Floats:
        """Return which share is rejected with the lowest 0, 1, ... G genuine scores, everyone weighing 1."""
        weight = np.cumsum(each_person_once(self.owner))
        return np.concatenate([[0.0], weight / weight[-1]])


@dataclass(frozen=True)
class DetCurve:
    """False accept and false reject rates at falling thresholds, `(points,)` each."""

    threshold: Floats
    far: Floats
    frr: Floats


@dataclass(frozen=True)
class _Faces:
    """Images in the order of their people."""

    unit: NDArray[np.float32]
    person: Integers
    images: Integers
    """How many each of the P people has."""

    @property
    def ends(self) -> Integers:
        """Return where each person's images end, `(P,)`."""
        return np.cumsum(self.images)


def against_all(
    embeddings: NDArray[np.floating],
    identity: Integers,
    weights: NDArray[np.integer] | None,
    far_targets: Sequence[float],
) -> list[Measurement]:
    """Measure ROC AUC, EER and TAR at FAR on every pair of images.

    Values are exact. Resamples are exact up to `EXACT_PAIRS` pairs, and beyond that as exact as the module
    says; each resample then keeps to the false accept rate that the images themselves achieve.

    Args:
        embeddings: (N, D), one row for each image, of any length but zero.
        identity: (N,), whose image each row is: 0 to P - 1, everyone at least once.
        weights: (R, P), how often each person is drawn in each resample; None measures without resamples.
        far_targets: False accept rates in (0, 1]; one that has too few impostor pairs by the rule of 30
            (`metrics.impostors_needed`) is refused: its measurements have no value, but a note.

    Raises:
        ValueError: there is no genuine or no impostor pair, there are more than `MOST_PAIRS`, an embedding
            is zero or not finite, or the arguments do not belong together.
    """
    faces = _sorted_faces(embeddings, identity)
    rows = None if weights is None else people_weights(weights, len(faces.images))
    genuine, impostors = _kinds(faces.images)
    refusals = {far: _refusal(far, impostors) for far in dict.fromkeys(far_targets)}
    allowed = [far for far, refusal in refusals.items() if not refusal]
    if genuine + impostors <= EXACT_PAIRS:
        comparisons = _weighing_people(metrics.all_pairs(faces.unit, faces.person))
        point = _exact(comparisons, None, allowed)[:, 0]
        samples = None if rows is None else _exact(comparisons, rows, allowed)
    else:
        scores = _score(faces)
        point = _point(scores, allowed)
        samples = None if rows is None else _resampled(faces, scores, rows, point, allowed)
    names = ["roc_auc", "eer", *(name for far in allowed for name in _names(far))]
    sizes = [genuine + impostors] * 2 + [impostors] * (2 * len(allowed))
    refused = [(name, note) for far, note in refusals.items() if note for name in _names(far)]
    return [
        *(
            Measurement(PROTOCOL, name, float(value), n, _people_note(faces.images), row, CONDITION)
            for name, value, n, row in zip(names, point, sizes, _rows(samples, len(names)), strict=True)
        ),
        *(Measurement(PROTOCOL, name, None, impostors, note, None, CONDITION) for name, note in refused),
    ]


def score_pairs(embeddings: NDArray[np.floating], identity: Integers) -> Scores:
    """Compare every two images, in float32, block by block; 4 bytes for each pair are held in memory.

    Args:
        embeddings: (N, D), as for `against_all`.
        identity: (N,), as for `against_all`.

    Raises:
        ValueError: as `against_all`.
    """
    return _score(_sorted_faces(embeddings, identity))


def roc_auc(scores: Scores) -> float:
    """Return the chance that a genuine pair scores above an impostor pair; a tie counts one half."""
    below, upto = (np.searchsorted(scores.impostor, scores.genuine, side=side) for side in ("left", "right"))
    weight = each_person_once(scores.owner)
    return float(weight @ (below + upto)) / (2 * float(weight.sum()) * len(scores.impostor))


def equal_error_rate(scores: Scores) -> float:
    """Return the error where false accepts are as frequent as false rejects, as `metrics` defines it."""

    def crossed(threshold: float) -> bool:
        far, tar = _rates(scores, threshold, "left")
        return bool(far + tar - 1 >= 0)

    def highest(kind: NDArray[np.floating]) -> float:
        place = bisect.bisect_left(range(len(kind)), True, key=lambda k: crossed(kind[len(kind) - 1 - k]))
        return float(kind[max(0, len(kind) - 1 - place)])  # its lowest score where none of its scores crosses

    found = [each for each in map(highest, (scores.genuine, scores.impostor)) if crossed(each)]
    cuts = [_rates(scores, max(found), "right"), _rates(scores, max(found), "left")]
    far, tar = (np.array([rates]) for rates in zip(*cuts, strict=True))
    return float(_crossing(far, tar)[0])


def tar_at_far(scores: Scores, far_target: float) -> tuple[float, float]:
    """Return the true accept rate at the lowest threshold that keeps to `far_target`, and the FAR achieved.

    Raises:
        ValueError: there are fewer impostor pairs than `metrics.impostors_needed(far_target)`.
    """
    impostors = len(scores.impostor)
    if refusal := _refusal(far_target, impostors):
        raise ValueError(refusal)
    kept = round(far_target * impostors)
    kept -= kept / impostors > far_target
    if kept == impostors:
        return 1.0, 1.0
    far, tar = _rates(scores, float(scores.impostor[impostors - 1 - kept]), "right")
    return tar, far


def det(embeddings: NDArray[np.floating], identity: Integers, points: int = 300) -> DetCurve:
    """Return the exact detection error trade-off at up to `points` thresholds, for a chart.

    Half of the thresholds are spread evenly over the logarithm of the false accept rate, half over that of
    the false reject rate, so that both ends of the curve are drawn.

    Args:
        embeddings: (N, D), as for `against_all`.
        identity: (N,), as for `against_all`.
        points: At least 2.

    Raises:
        ValueError: fewer than 2 points are asked for, or as `against_all`.
    """
    if points < 2:
        raise ValueError(f"a curve takes at least 2 points, got {points}")
    scores = score_pairs(embeddings, identity)
    falling = scores.impostor[::-1]
    chosen = [
        each[np.rint(np.geomspace(1, len(each), points // 2)).astype(int) - 1]
        for each in (falling, scores.genuine)
    ]
    threshold = np.unique(np.concatenate(chosen))[::-1]
    impostors = len(scores.impostor)
    far = (impostors - np.searchsorted(scores.impostor, threshold)) / impostors
    frr = scores.rejected[np.searchsorted(scores.genuine, threshold)]
    return DetCurve(threshold.astype(np.float64), far, frr)


def directions(embeddings: NDArray[np.floating]) -> Floats:
    """Return the embeddings (N, D) with a length of 1.

    Raises:
        ValueError: there is none, one is zero or not finite, or they are no matrix.
    """
    rows = np.asarray(embeddings, dtype=np.float64)
    if rows.ndim != 2 or not rows.size:
        raise ValueError(f"embeddings must be (images, features), got shape {rows.shape}")
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    if not np.isfinite(length).all():
        raise ValueError(f"embedding {int(np.argmin(np.isfinite(length)))} is not finite")
    if not length.all():
        raise ValueError(f"embedding {int(np.argmin(length))} is zero and has no direction")
    return np.asarray(rows / length)


def people_numbers(identity: Integers, images: int) -> Integers:
    """Return whose image each is, `(images,)`, after checking that these are 0 to P - 1, everyone once.

    Raises:
        ValueError: they are not, or there are more or fewer of them than images.
    """
    people = np.asarray(identity)
    if people.shape != (images,):
        raise ValueError(f"identity must name {images} images, got shape {people.shape}")
    if not np.issubdtype(people.dtype, np.integer) or (people < 0).any():
        raise ValueError("identities must be whole numbers counted from 0")
    found = np.unique(people)
    if found[-1] != len(found) - 1:
        missing = int(np.argmax(found != np.arange(len(found))))
        raise ValueError(f"identities must skip no number, person {missing} has no image")
    return people.astype(np.int64)


def people_weights(weights: NDArray[np.integer], people: int) -> Floats:
    """Return the resamples (R, people) as float64, after checking that they are counts.

    Raises:
        ValueError: they are not, or there is none.
    """
    rows = np.asarray(weights, dtype=np.float64)
    if rows.ndim != 2 or rows.shape[1] != people:
        raise ValueError(f"weights must be (resamples, {people} people), got shape {rows.shape}")
    if not len(rows) or not (rows >= 0).all() or (rows != np.rint(rows)).any():
        raise ValueError("weights must hold at least one resample of counts")
    return rows


def effective_number(share: Floats) -> float:
    """Return how many people would weigh alike as these do, whose weights (P,) are given (Kish, 1965).

    >>> effective_number(np.array([1.0, 1.0, 0.0])), effective_number(np.array([8.0, 1.0, 1.0]))
    (2.0, 1.5151515151515151)
    """
    return float(share.sum() ** 2 / (share**2).sum())


def people_text(text: str, people: float) -> str:
    """Return a note on the people behind a rate, with a warning where they are few."""
    return text if people >= LEAST_PEOPLE else f"{text}, which is too few for a rate"


def each_person_once(person: Integers) -> Floats:
    """Return weights (N,) of pairs or images by whose they are, those of a person 1 in sum."""
    return np.asarray(1 / np.bincount(person)[person])


def _people_note(images: Integers) -> str:
    """Return how many people are behind genuine and impostor pairs, given everyone's number of images."""
    genuine = int((images > 1).sum())
    impostor = effective_number(images * (images.sum() - images).astype(np.float64))
    text = f"{genuine} people weigh alike in genuine pairs, and as {impostor:.0f} in impostor pairs"
    return people_text(text, min(genuine, impostor))


def _weighing_people(pairs: metrics.Comparisons) -> metrics.Comparisons:
    weight, genuine = np.ones(len(pairs)), pairs.genuine
    weight[genuine] = each_person_once(pairs.first[genuine])
    return replace(pairs, weight=weight)


def _names(far_target: float) -> tuple[str, str]:
    return f"tar_at_far={far_target:g}", f"far_at_target={far_target:g}"


def _refusal(far_target: float, impostors: int) -> str:
    needed = metrics.impostors_needed(far_target)
    return "" if impostors >= needed else f"needs {needed} impostor pairs, this evaluation has {impostors}"


def _rows(samples: Floats | None, count: int) -> Sequence[Floats | None]:
    return [None] * count if samples is None else list(samples)


def _sorted_faces(embeddings: NDArray[np.floating], identity: Integers) -> _Faces:
    """Sort images by person.

    Raises:
        ValueError: as `against_all`.
    """
    unit = directions(embeddings)
    person = people_numbers(identity, len(unit))
    order = np.argsort(person, kind="stable")
    faces = _Faces(unit[order].astype(np.float32), person[order], np.bincount(person))
    genuine, impostors = _kinds(faces.images)
    if not genuine or not impostors:
        missing = "impostor" if genuine else "genuine"
        raise ValueError(f"there is no {missing} pair, verification needs both kinds")
    if genuine + impostors > MOST_PAIRS:
        raise ValueError(
            f"{len(unit)} images make {genuine + impostors} pairs, at most {MOST_PAIRS} are compared"
        )
    return faces


def _kinds(images: Integers) -> tuple[int, int]:
    """Return how many genuine and impostor pairs there are, given everyone's number of images."""
    genuine = int((images * (images - 1) // 2).sum())
    total = int(images.sum())
    return genuine, total * (total - 1) // 2 - genuine


def _blocks(faces: _Faces) -> Iterator[tuple[int, int, NDArray[np.float32]]]:
    """Compare images start to stop - 1 with themselves and all later ones, `(stop - start, N - start)`."""
    images, people = len(faces.unit), len(faces.images)
    ends, most = faces.ends, max(1, _BLOCK_PEOPLE // people)
    start = 0
    while start < images:
        last = min(int(faces.person[start]) + most, people) - 1
        stop = min(int(ends[last]), start + max(1, _BLOCK_VALUES // images))
        yield start, stop, faces.unit[start:stop] @ faces.unit[start:].T
        start = stop


def _score(faces: _Faces) -> Scores:
    genuine, impostors = _kinds(faces.images)
    own, others = np.empty(genuine, np.float32), np.empty(impostors, np.float32)
    person, ends = faces.person, faces.ends
    owner = np.repeat(np.arange(len(faces.images)), faces.images * (faces.images - 1) // 2)
    own_at = others_at = 0
    for start, _, scores in _blocks(faces):
        for image, row in enumerate(scores, start):
            # Columns begin at image `start`; those up to the end of the person are genuine.
            mine, rest = (
                row[image + 1 - start : ends[person[image]] - start],
                row[ends[person[image]] - start :],
            )
            own[own_at : own_at + len(mine)] = mine
            others[others_at : others_at + len(rest)] = rest
            own_at, others_at = own_at + len(mine), others_at + len(rest)
    others.sort()
    order = np.argsort(own, kind="stable")
    return Scores(own[order], owner[order], others)


def _rates(scores: Scores, threshold: float, side: Literal["left", "right"]) -> tuple[float, float]:
    """Return FAR and TAR of the scores at or above the threshold (left) or above it (right)."""
    genuine, impostor = (
        int(np.searchsorted(each, each.dtype.type(threshold), side=side))
        for each in (scores.genuine, scores.impostor)
    )
    impostors = len(scores.impostor)
    return (impostors - impostor) / impostors, 1 - float(scores.rejected[genuine])


def _exact(comparisons: metrics.Comparisons, weights: Floats | None, far_targets: Sequence[float]) -> Floats:
    """Return ROC AUC, EER, and TAR and FAR of each target, `(2 + 2 targets, R)`, by `metrics`."""
    rows = None if weights is None else weights.astype(np.int64)
    return np.stack(metrics.rates(comparisons, rows, far_targets))


def _point(scores: Scores, far_targets: Sequence[float]) -> Floats:
    """Return what `_exact` does, `(2 + 2 targets,)`, from sorted scores."""
    at_far = [value for far in far_targets for value in tar_at_far(scores, far)]
    return np.array([roc_auc(scores), equal_error_rate(scores), *at_far])


def _resampled(
    faces: _Faces, scores: Scores, weights: Floats, point: Floats, far_targets: Sequence[float]
) -> Floats:
    """Return the values `(2 + 2 targets, R)` on the resamples, from a grid of thresholds."""
    thresholds = _grid(scores, float(point[1]), far_targets)
    rows = np.vstack([np.ones(weights.shape[1]), weights])  # the images themselves come first
    own = rows / np.maximum(1, faces.images * (faces.images - 1) // 2)  # of each genuine pair
    far = _curve(_false_accepts(faces, thresholds, rows), _impostor_weight(faces.images, rows))
    tar = _curve(*_true_accepts(scores, thresholds, own))
    curves = _Curves.over(scores, thresholds, own, far, tar)
    found = [curves.areas(), curves.equal_errors()]
    for target in far_targets:
        reached = curves.tars(target)
        # The rate achieved is the target but for a part of a pair, of the images and each resample alike.
        found += [reached, np.where(np.isnan(reached), np.nan, target)]
    on_grid = np.stack(found)
    return np.clip(point[:, None] + on_grid[:, 1:] - on_grid[:, :1], 0.0, 1.0)


@dataclass(frozen=True)
class _Curves:
    """The curves of all resamples, at the grid's cuts and at the genuine scores between them.

    At a genuine score, a resample's false accept rate is that of the images themselves, which is exact,
    times their ratio, which changes slowly and is interpolated over the logarithm of the rate.
    """

    rows: Floats
    """What each genuine pair of a person weighs, `(R, P)`."""
    far: Floats
    tar: Floats
    """Rates `(R, K + 2)` at the cuts, from nothing accepted to all."""
    ratio: Floats
    """The false accept rates over those of the images themselves, `(R, K + 2)`."""
    owner: Integers
    genuine_far: Floats
    """The images' own false accept rate at each genuine score, falling scores, `(G,)`."""
    place: Floats
    """Where among the cuts a genuine score lies, `(G,)`."""
    first: Integers
    """How many genuine scores each cut accepts, `(K + 2,)`."""

    @staticmethod
    def over(
        scores: Scores, thresholds: NDArray[np.floating], rows: Floats, far: Floats, tar: Floats
    ) -> _Curves:
        """Place the genuine scores among the cuts; the first row is the images themselves."""
        genuine, impostors = scores.genuine[::-1], len(scores.impostor)
        above = impostors - np.searchsorted(scores.impostor, genuine, side="right")
        upto = impostors - np.searchsorted(scores.impostor, genuine, side="left")
        own = np.maximum(far[0], 0.5 / impostors)  # also where nothing is accepted
        ratio = far / own
        ratio[:, 0] = ratio[:, 1]
        genuine_far = (above + upto) / (2 * impostors)
        logarithm = np.log(np.maximum(genuine_far, 0.5 / impostors))
        place = np.interp(logarithm, np.log(own), np.arange(len(own)))
        accepted = len(genuine) - np.searchsorted(scores.genuine, thresholds)[::-1]
        first = np.concatenate([[0], accepted, [len(genuine)]])
        return _Curves(rows, far, tar, ratio, scores.owner[::-1], genuine_far, place, first)

    def areas(self) -> Floats:
        """Return each resample's ROC AUC, one less the mean false accept rate at its genuine scores."""
        people, cuts = self.rows.shape[1], self.far.shape[1]
        low = np.minimum(self.place.astype(np.int64), cuts - 2)
        share = self.place - low
        at = self.owner * cuts + low
        rates = np.bincount(at, self.genuine_far * (1 - share), people * cuts)
        rates += np.bincount(at + 1, self.genuine_far * share, people * cuts)
        missed = ((self.rows @ rates.reshape(people, cuts)) * self.ratio).sum(axis=1)
        with np.errstate(invalid="ignore"):
            return np.asarray(1 - missed / (self.rows @ self._pairs))

    def equal_errors(self) -> Floats:
        """Return each resample's equal error rate, where its steps meet the diagonal."""
        before = np.argmax(self.far + self.tar >= 1, axis=1) - 1
        values = np.full(len(self.rows), np.nan)
        for number in self._measurable():
            far, tar = self._between(number, int(before[number]))
            crossed = np.append(far[1:] + tar[1:] >= 1, True)
            step = int(np.argmax(crossed))  # the last cut that is still before the crossing
            rise = far[step + 1] if step + 1 < len(far) else 1.0
            values[number] = min(rise, 1 - tar[step])
        return values

    def tars(self, target: float) -> Floats:
        """Return each resample's true accept rate at a false accept rate of at most `target`."""
        before = np.minimum((self.far <= target).sum(axis=1), self.far.shape[1] - 1) - 1
        values = np.full(len(self.rows), np.nan)
        for number in self._measurable():
            far, tar = self._between(number, int(before[number]))
            values[number] = tar[np.flatnonzero(far <= target)[-1]]
        return values

    def _between(self, number: int, cut: int) -> tuple[Floats, Floats]:
        """Return a resample's rates at a cut and at the genuine scores from there to the next cut."""
        chosen = slice(self.first[cut], self.first[cut + 1])
        ratio = np.interp(self.place[chosen], np.arange(self.far.shape[1]), self.ratio[number])
        weight = self.rows[number]
        gained = np.cumsum(weight[self.owner[chosen]]) / (weight @ self._pairs)
        far, tar = self.far[number, cut], self.tar[number, cut]
        return np.append(far, self.genuine_far[chosen] * ratio), np.append(tar, tar + gained)

    @cached_property
    def _pairs(self) -> Floats:
        """Everyone's number of genuine pairs."""
        return np.bincount(self.owner, minlength=self.rows.shape[1]).astype(np.float64)

    def _measurable(self) -> list[int]:
        return np.flatnonzero(np.isfinite(self.far[:, 0] + self.tar[:, 0])).tolist()


def _grid(scores: Scores, eer: float, far_targets: Sequence[float]) -> NDArray[np.floating]:
    """Choose rising thresholds among the impostor scores."""
    count = len(scores.impostor)
    apart = np.concatenate([np.geomspace(1 / count, 0.1, 10), [0.2, 0.35, 0.5, 0.65, 0.8]])
    levels = np.concatenate([apart, *(rate * _AROUND for rate in (eer, *far_targets))])
    rank = np.clip(np.ceil(levels * count).astype(np.int64), 1, count)
    return np.unique(scores.impostor[count - rank])


def _false_accepts(faces: _Faces, thresholds: NDArray[np.floating], weights: Floats) -> Floats:
    """Return the weight of the impostor pairs at or above each threshold, `(K, R)`.

    Products of float32 are exact here while one person's pairs, with their weights, are fewer than 2**24.
    """
    by_person = np.ascontiguousarray(weights.T, dtype=np.float32)
    between = np.zeros((len(thresholds), len(weights)))
    for start, stop, scores in _blocks(faces):
        counts = _counts(faces, thresholds, start, stop, scores)
        first, block = int(faces.person[start]), counts.shape[1]
        met = counts.reshape(-1, counts.shape[2]) @ by_person[first:]
        met = met.reshape(len(thresholds), block, -1)
        between += np.einsum("kar,ar->kr", met, by_person[first : first + block], dtype=np.float64)
    return np.asarray(np.cumsum(between[::-1], axis=0)[::-1])


def _counts(
    faces: _Faces, thresholds: NDArray[np.floating], start: int, stop: int, scores: NDArray[np.float32]
) -> NDArray[np.float32]:
    """Count a block's impostor pairs from each threshold to the next, by person and later person.

    Returns:
        (K, people of the block, people from the block's first on).
    """
    first, last = int(faces.person[start]), int(faces.person[stop - 1])
    block, later = last + 1 - first, len(faces.images) - first
    for row, end in enumerate(faces.ends[faces.person[start:stop]]):
        scores[row, : end - start] = -np.inf  # the person's own images, and pairs that were counted before
    place = np.searchsorted(thresholds, scores, side="right")
    place *= block
    place += (faces.person[start:stop] - first)[:, None]
    place *= later
    place += (faces.person[start:] - first)[None, :]
    counted = np.bincount(place.ravel(), minlength=(len(thresholds) + 1) * block * later)
    return counted[block * later :].astype(np.float32).reshape(len(thresholds), block, later)


def _impostor_weight(images: Integers, weights: Floats) -> Floats:
    """Return the weight of all impostor pairs, `(R,)`."""
    drawn = weights * images
    return np.asarray((drawn.sum(axis=1) ** 2 - (drawn**2).sum(axis=1)) / 2)


def _true_accepts(scores: Scores, thresholds: NDArray[np.floating], weights: Floats) -> tuple[Floats, Floats]:
    """Return the weight of the genuine pairs at or above each threshold, `(K, R)`, and of all, `(R,)`."""
    people, bins = weights.shape[1], len(thresholds) + 1
    place = np.searchsorted(thresholds, scores.genuine, side="right") * people + scores.owner
    between = np.bincount(place, minlength=bins * people).reshape(bins, people).astype(np.float64) @ weights.T
    falling = np.cumsum(between[::-1], axis=0)
    return falling[-2::-1], falling[-1]


def _curve(accepted: Floats, total: Floats) -> Floats:
    """Return rates `(R, K + 2)` at falling thresholds, from none to all, given weights at rising ones."""
    with np.errstate(invalid="ignore"):
        rate = (accepted[::-1] / total).T
    none = np.where(total > 0, 0.0, np.nan)[:, None]
    return np.hstack([none, rate, none + 1])


def _crossing(far: Floats, tar: Floats) -> Floats:
    """Return the equal error rate `(R,)` of curves `(R, cuts)`, linear between the cuts around it."""
    excess = far + tar - 1
    after = np.maximum(1, np.argmax(excess >= 0, axis=1))[:, None]
    low, high = (np.take_along_axis(excess, cut, axis=1) for cut in (after - 1, after))
    far_low, far_high = (np.take_along_axis(far, cut, axis=1) for cut in (after - 1, after))
    return np.asarray(far_low - low / (high - low) * (far_high - far_low))[:, 0]
