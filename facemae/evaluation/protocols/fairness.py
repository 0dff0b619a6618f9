"""Whether one threshold for everybody makes the same errors for every group.

Impostor pairs are taken within a group, since people are mistaken for those who look like them. Sums over
groups: the fairness discrepancy rate (FDR; de Freitas Pereira and Marcel, 2021) and the greatest rate over
the geometric mean of the rates, as NIST reports it (IR 8429; FRTE Part 8). N faces, P people, R resamples.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation.pairs import EveryPair, Floats, Weights
from facemae.evaluation.protocols import operating_point
from facemae.evaluation.protocols.all_pairs import LEAST_PEOPLE
from facemae.evaluation.records import Measurement, refused

FMR_TARGET = 0.001
FALLBACKS = (0.01, 0.1)  # where the pairs do not support the target
ALPHA = 0.5  # weight of the false matches in the FDR
LARGEST_FNMR = 0.5  # of everyone: where most genuine pairs are rejected, those of all groups are, alike


PROTOCOL, APART = "fairness", ("fdr", "fmr_ratio", "fnmr_ratio")


def measure(
    embeddings: NDArray[np.floating], identity: ArrayLike, group: ArrayLike, weights: Weights,
    fmr_target: float = FMR_TARGET,
) -> list[Measurement]:  # fmt: skip
    """Measure each group's FMR and FNMR at one threshold, and how far the groups lie apart.

    The threshold keeps to `fmr_target` over all impostor pairs of all people, those of no known group
    included; where that would leave fewer than two groups to compare, to the first of 0.01 and 0.1 that does
    not. It stays the same in every resample. A group's FNMR is the mean over its people with two faces or
    more; it is refused below 30 of them, or below the impostor pairs that `metrics.impostors_needed` tells.

    Args:
        embeddings: (N, D).
        identity: (N,) whose face each is, 0 to P - 1.
        group: (P,) each person's group; "" where it is not known.
        weights: (R, P) resamples of the people.
        fmr_target: The false match rate over everyone.

    Returns:
        `fmr` and `fnmr` under the condition of each group, `fdr`, `fmr_ratio` and `fnmr_ratio`; nothing where
        no group is known. `fdr` and `fnmr_ratio` are refused where the FNMR of everyone is above 0.5: groups
        that are all rejected are rejected alike.

    Raises:
        ValueError: an embedding is zero or not finite, or the arguments do not belong together.
    """
    pairs, groups = EveryPair.of(embeddings, np.asarray(identity)), np.asarray(group, str)
    if groups.shape != pairs.images.shape:
        raise ValueError(f"the groups of {len(groups)} people are not those of {len(pairs.images)}")
    names = sorted(set(groups.tolist()) - {""})
    return _of_groups(pairs, groups, names, weights, fmr_target) if names else []


def _of_groups(
    pairs: EveryPair, groups: NDArray[np.str_], names: list[str], weights: Weights, fmr_target: float
) -> list[Measurement]:
    parts = {name: pairs.of_people(groups == name) for name in names}
    try:
        target, threshold = _common_threshold(pairs, parts, fmr_target)
    except RefusedError as error:
        return refused(PROTOCOL, APART, 0, str(error))
    note = f"threshold {threshold:.4f}, at a false match rate of {target:g} over everyone"
    rates = [
        _of_group(name, part, target, threshold, note, weights[:, groups == name])
        for name, part in parts.items()
    ]
    apart = _apart([found for found in rates if found[0].value is not None], len(pairs.unit), note)
    hidden = _unless_useless(apart, float(pairs.false_non_matches([threshold])[0, 0]), target)
    return [*(each for found in rates for each in found), *hidden]


def _common_threshold(
    pairs: EveryPair, parts: dict[str, EveryPair], fmr_target: float
) -> tuple[float, float]:
    impostors = pairs.impostors
    wanted = [fmr_target, *(target for target in FALLBACKS if target > fmr_target)]
    supported = [target for target in wanted if not operating_point.refusal(len(impostors), target)]
    if not supported:
        raise RefusedError(operating_point.refusal(len(impostors), wanted[-1]))
    large = {target: sum(not _refusal(part, target) for part in parts.values()) for target in supported}
    target = next((target for target in supported if large[target] > 1), supported[0])
    return target, operating_point.threshold_at(impostors, target)


def _of_group(
    name: str, part: EveryPair, target: float, threshold: float, note: str, weights: Weights
) -> list[Measurement]:
    """Return a group's FMR and FNMR, both refused where it is too small for either."""
    counts = {"fmr": part.impostor_count, "fnmr": part.genuine_count}
    if reason := _refusal(part, target):
        return [Measurement(PROTOCOL, each, None, n, reason, None, name) for each, n in counts.items()]
    note = f"{part.genuine_people} people with two faces or more; {note}"
    found = operating_point.rates(part, [threshold], weights)[0]
    return [
        Measurement(PROTOCOL, each, value, n, note, samples, name)
        for (each, n), (value, samples) in zip(counts.items(), found, strict=True)
    ]


def _refusal(part: EveryPair, target: float) -> str:
    people, impostors, needed = part.genuine_people, part.impostor_count, metrics.impostors_needed(target)
    if people < LEAST_PEOPLE:
        return f"this group has {people} people with two faces or more, and {LEAST_PEOPLE} are needed"
    if impostors < needed:
        return f"a false match rate of {target:g} needs {needed} impostor pairs, this group has {impostors}"
    return ""


def _apart(rates: list[list[Measurement]], faces: int, note: str) -> list[Measurement]:
    """Return the sums over the groups that were measured."""
    if len(rates) < 2:
        reason = f"{len(rates)} groups are large enough, and two are needed to compare"
        return refused(PROTOCOL, APART, faces, reason)
    fmr, fnmr = (np.stack([_with_point(each[kind]) for each in rates]) for kind in range(2))
    zero = "a group has not one such error, so the geometric mean of the rates is zero"
    return [
        Measurement(PROTOCOL, name, None, faces, zero)
        if np.isnan(value[0])
        else Measurement(PROTOCOL, name, float(value[0]), faces, f"{len(rates)} groups; {note}", value[1:])
        for name, value in zip(APART, (discrepancy(fmr, fnmr), over_mean(fmr), over_mean(fnmr)), strict=True)
    ]


def _unless_useless(apart: list[Measurement], fnmr: float, target: float) -> list[Measurement]:
    """Return the sums over groups without those that a high FNMR of everyone would make look fair."""
    if not fnmr > LARGEST_FNMR:
        return apart
    note = (
        f"at a false match rate of {target:g}, {fnmr:.2f} of the genuine pairs are rejected; above "
        f"{LARGEST_FNMR:g} these errors cannot tell whether groups are treated alike"
    )
    return [
        each
        if each.value is None or each.name == "fmr_ratio"
        else replace(each, value=None, note=note, samples=None)
        for each in apart
    ]


def discrepancy(fmr: Floats, fnmr: Floats, alpha: float = ALPHA) -> Floats:
    """Return the FDR (R,) of rates (G, R) of G groups: 1 is fair, 0 is as unfair as can be.

    1 - (alpha * A + (1 - alpha) * B), A and B the greatest difference of two groups' FMR and FNMR.
    """
    return np.asarray(1 - (alpha * np.ptp(fmr, axis=0) + (1 - alpha) * np.ptp(fnmr, axis=0)))


def over_mean(rates: Floats) -> Floats:
    """Return the greatest of the groups' rates (G, R) over their geometric mean, (R,): 1 is fair.

    NaN where a group has no error, as the mean is then zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(np.log(rates).mean(axis=0))
        return np.asarray(np.where(mean > 0, rates.max(axis=0) / mean, np.nan))


def _with_point(measured: Measurement) -> Floats:
    assert measured.samples is not None
    return np.concatenate([[measured.value], measured.samples])
