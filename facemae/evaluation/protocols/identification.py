"""Identification: who is this, among the people enrolled? Closed and open set, and BLUFR's protocol on LFW.

A probe is compared with the enrolled images of everyone, and scores with a person what it scores with the
best of that person's images. Its rank is the number of people who score at least as high as its own person,
so a tie counts against it. A rate is the mean over people of the share of each one's probes, as one person in
thousands can be in a seventh of the photos. The gallery is the same in every resample: resamples weigh the
probes' people.
Shapes: N images, P people, R resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from facemae.core.errors import RefusedError
from facemae.core.seeds import seed_of
from facemae.evaluation import metrics
from facemae.evaluation.pairs import (
    Booleans,
    EveryPair,
    Floats,
    Integers,
    Weights,
    each_person_once,
    ratio,
    resamples,
    unit_rows,
    with_everyone,
)
from facemae.evaluation.protocols import all_pairs
from facemae.evaluation.records import Measurement, refused

PROTOCOL, BLUFR = "identification", "blufr"
BLUFR_TAR_AT, BLUFR_DIR_AT = 0.001, 0.01  # false accept rates that its benchmark reports
_BLOCK_VALUES = 2**22  # similarities of a block of probes: 32 MB
_ROUNDING = 1e-9  # by which a sum of weights may miss a rate


@dataclass(frozen=True)
class _Probes:
    """What a search of the gallery finds for each probe, `(probes,)` each."""

    person: Integers
    mated: Booleans  # whether the probe's person is enrolled
    rank: Integers  # of the probe's person, from 1; of a non-mated probe 0
    top: Floats  # the highest similarity to anybody enrolled


def rank1(
    embeddings: NDArray[np.floating], identity: Integers, enrolled: Booleans, weights: Weights
) -> Measurement:
    """Measure the share of all probes that are identified, each counting alike; arguments as `closed_set`."""
    probes, people = _mated(embeddings, identity, enrolled)
    hits = np.bincount(probes.person[probes.rank == 1], minlength=people)
    return _rank_rate(1, hits, np.bincount(probes.person, minlength=people), weights, len(probes.person))


def closed_set(
    embeddings: NDArray[np.floating],
    identity: Integers,
    enrolled: Booleans,
    weights: Weights | None = None,
    ranks: Sequence[int] = (1, 5, 20),
) -> list[Measurement]:
    """Measure the share of probes whose person is among the first of the gallery: `rank1`, `rank5`, `rank20`.

    This is the cumulative match characteristic (ISO/IEC 19795-1) at a few ranks. A rank at which every search
    succeeds, because the gallery holds no more people, is refused.

    Args:
        embeddings, identity: (N, D) and (N,), whose image each row is: 0 to P - 1, everyone at least once.
        enrolled: (N,), the gallery; all other images are probes, of enrolled people.
        weights: (R, P), how often each person is drawn in each resample; None: once in one.
        ranks: From 1.

    Raises:
        RefusedError: there is no gallery or no probe.
    """
    probes, people = _mated(embeddings, identity, enrolled)
    count, n = np.bincount(probes.person, minlength=people), len(probes.person)
    found = []
    for rank in ranks:
        if people <= rank:
            note = f"needs more than {rank} enrolled people, this gallery has {people}"
            found.append(Measurement(PROTOCOL, f"rank{rank}", None, n, note))
            continue
        hits = np.bincount(probes.person[probes.rank <= rank], minlength=people) / np.maximum(1, count)
        found.append(_rank_rate(rank, hits, count > 0, weights, n, _people_note(count)))
    return found


def open_set(
    embeddings: NDArray[np.floating],
    identity: Integers,
    enrolled: Booleans,
    weights: Weights | None = None,
    fpir_targets: Sequence[float] = (0.1, 0.01),
) -> list[Measurement]:
    """Measure the true positive identification rate at false positive identification rates.

    Probes of enrolled people are mated, probes of all others are not. FPIR(t) is the share of a person's
    non-mated probes with any candidate at or above t, TPIR(t) that of mated probes whose own person comes
    first, at or above t (NIST FRVT 1:N, Grother et al., 2019), each the mean over people. As for
    verification, the threshold is the lowest that keeps to the target, in each resample its own, and a target
    is refused below 30 expected errors, that is 30 / target non-mated probes: the rule of three, 3 / target,
    would do to bound a rate at which no error was seen, but not to set a threshold by the errors that were.

    The arguments are those of `closed_set`, but that the gallery holds images of some of the people. Returns
    `tpir_at_fpir=...` and the FPIR achieved, `fpir_at_target=...`; n counts the non-mated probes.
    """
    probes = _search(unit_rows(embeddings), identity, enrolled)
    rows = resamples(weights, int(identity.max()) + 1)
    return [each for target in fpir_targets for each in _open_set(probes, target, rows)]


def low_far(
    embeddings: NDArray[np.floating], identity: Integers, trials: int = 10, seed: int = 0
) -> list[Measurement]:
    """Measure like BLUFR (Liao et al., A Benchmark Study of Large-Scale Unconstrained FR, IJCB 2014).

    Each trial draws half of the people. `blufr_tar=0.001` is the true accept rate at a false accept rate of
    0.1 % on every pair of their images; `blufr_dir=0.01` is the rate of detection and identification at rank
    1 and a false accept rate of 1 %, with half of the drawn people enrolled by one image. The value is the
    mean over the trials, and the note holds their standard deviation; trials share people, so it is no
    interval. Unlike BLUFR's ten lists the halves are drawn here, and nothing is trained on the other half;
    and people weigh alike, where BLUFR counts pairs and probes singly.

    n is the least number of impostor pairs, or of non-mated probes, of a trial; where any trial has too few
    by the rule of 30, the measurement is refused, and both, as a RefusedError, below 4 people.
    """
    unit, people = unit_rows(embeddings), int(identity.max()) + 1
    if people < 4:
        raise RefusedError(f"needs 4 people, got {people}")
    found = [_trial(unit, identity, np.random.default_rng(seed_of("blufr", seed, n))) for n in range(trials)]
    return [_mean(trials) for trials in zip(*found, strict=True)]


def _mated(embeddings: NDArray[np.floating], identity: Integers, enrolled: Booleans) -> tuple[_Probes, int]:
    """Search for probes whose people are all enrolled; return what is found, and P."""
    probes = _search(unit_rows(embeddings), identity, enrolled)
    if not probes.mated.all():
        raise ValueError(f"person {probes.person[~probes.mated].min()} has a probe but no enrolled image")
    return probes, int(identity.max()) + 1


def _search(unit: Floats, person: Integers, gallery: Booleans) -> _Probes:
    """Compare every probe with everyone enrolled, a block of probes at a time."""
    if not gallery.any():
        raise RefusedError("no image is enrolled, there is nobody to find")
    if gallery.all():
        raise RefusedError("every image is enrolled, none is left to identify")
    order = np.flatnonzero(gallery)[np.argsort(person[gallery], kind="stable")]
    enrolled, starts = np.unique(person[order], return_index=True)
    templates = unit[order].T
    place = np.full(int(person.max()) + 1, -1)
    place[enrolled] = np.arange(len(enrolled))
    probe = np.flatnonzero(~gallery)
    own = place[person[probe]]
    rank, top = np.zeros(len(probe), np.int64), np.empty(len(probe))
    size = max(1, _BLOCK_VALUES // len(order))
    for start in range(0, len(probe), size):
        block = slice(start, start + size)
        score = unit[probe[block]] @ templates
        if len(starts) < len(order):
            score = np.maximum.reduceat(score, starts, axis=1)
        top[block] = score.max(axis=1)
        mine = np.take_along_axis(score, own[block, None], axis=1)
        rank[block] = (score >= mine).sum(axis=1)
    return _Probes(person[probe], own >= 0, np.where(own >= 0, rank, 0), top)


def _rank_rate(
    rank: int, hits: NDArray[Any], asked: NDArray[Any], weights: Weights | None, n: int, note: str = ""
) -> Measurement:
    """Measure the share of what was asked of each person (P,) that was found."""
    draws = resamples(None, len(hits)), resamples(weights, len(hits))
    value, samples = (ratio(rows @ hits, rows @ asked) for rows in draws)
    return Measurement(PROTOCOL, f"rank{rank}", float(value[0]), n, note, samples)


def _open_set(probes: _Probes, target: float, rows: Floats) -> list[Measurement]:
    strangers, mated = int((~probes.mated).sum()), int(probes.mated.sum())
    names = [f"tpir_at_fpir={target:g}", f"fpir_at_target={target:g}"]
    needed, note = metrics.impostors_needed(target), ""
    if strangers < needed:
        note = f"needs {needed} non-mated probes, this evaluation has {strangers}"
    elif not mated:
        note = "needs probes of enrolled people, this evaluation has none"
    if note:
        return refused(PROTOCOL, names, strangers, note)
    note = f"{mated} mated probes; {_people_note(np.bincount(probes.person[probes.mated]))}"
    found = zip(names, _at_fpir(probes, target, with_everyone(rows)), strict=True)
    return [Measurement.of(PROTOCOL, name, values, strangers, note) for name, values in found]


def _at_fpir(probes: _Probes, target: float, rows: Floats) -> Floats:
    """Return TPIR and FPIR at the lowest threshold that keeps to the target, `(2, R)`."""
    stranger = np.flatnonzero(~probes.mated)
    stranger = stranger[np.argsort(-probes.top[stranger], kind="stable")]
    score, hit = probes.top[stranger], probes.rank == 1
    once = each_person_once(probes.person)  # nobody has both kinds of probes
    values = np.full((2, len(rows)), np.nan)
    for number, row in enumerate(rows):
        weighed = row[probes.person] * once
        weight, mated = weighed[stranger], weighed[probes.mated].sum()
        if not mated or not weight.any():
            continue
        accepted = np.concatenate([[0.0], np.cumsum(weight)])
        above = accepted[1:] / accepted[-1] > target * (1 + _ROUNDING)
        # The threshold lies above the score with which the target would be missed, its ties included.
        missed = score[np.argmax(above)] if above.any() else -np.inf
        found = hit & (probes.top > missed)
        values[0, number] = weighed[found].sum() / mated
        values[1, number] = accepted[int((score > missed).sum())] / accepted[-1]
    return values


def _people_note(probes: Integers) -> str:
    """Return how many people are behind a rate, given everyone's number of probes."""
    people = int((probes > 0).sum())
    return all_pairs.people_text(f"mean over {people} people", people)


def _trial(unit: Floats, person: Integers, draw: np.random.Generator) -> tuple[Measurement, Measurement]:
    """Measure one half of the people."""
    people = int(person.max()) + 1
    half = draw.permutation(people)[: people // 2]
    chosen = np.flatnonzero(np.isin(person, half))
    own = np.unique(person[chosen], return_inverse=True)[1]
    pairs, tar = EveryPair.of(unit[chosen], own), None
    impostors, needed = pairs.impostor_count, metrics.impostors_needed(BLUFR_TAR_AT)
    if impostors < needed:
        note = f"needs {needed} impostor pairs, half of these people have {impostors}"
    elif not pairs.genuine_count:
        note = "needs genuine pairs, half of these people have none"
    else:
        note = _people_note(pairs.images - 1)
        tar = all_pairs.tar_at_far(pairs.scores, BLUFR_TAR_AT)[0]
    verification = Measurement(BLUFR, f"blufr_tar={BLUFR_TAR_AT:g}", tar, impostors, note)
    shuffled = draw.permutation(len(own))
    first = shuffled[np.unique(own[shuffled], return_index=True)[1]]  # a random image of each person
    enrolled = np.zeros(len(own), np.bool_)
    enrolled[first[draw.permutation(len(half))[: len(half) // 2]]] = True
    search = _search(unit[chosen], own, enrolled)
    found = _open_set(search, BLUFR_DIR_AT, np.empty((0, len(half))))[0]
    name = f"blufr_dir={BLUFR_DIR_AT:g}"
    return verification, replace(found, protocol=BLUFR, name=name, samples=None)


def _mean(trials: Sequence[Measurement]) -> Measurement:
    """Return the mean over trials, or the refusal of the first that was refused."""
    least = min(trial.n for trial in trials)
    for trial in trials:
        if trial.value is None:
            return replace(trial, n=least)
    values = np.array([trial.value for trial in trials])
    note = f"standard deviation {values.std(ddof=1):.4f} over {len(trials)} halves of the people"
    note = f"{note}; of the first half {trials[0].note}"
    return replace(trials[0], value=float(values.mean()), n=least, note=note)
