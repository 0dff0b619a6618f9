"""Whether one threshold for everybody makes the same errors for every group.

Impostor pairs are taken within a group, since people are mistaken for those who look like them. Sums over
groups: the fairness discrepancy rate (FDR; de Freitas Pereira and Marcel, 2021) and the greatest rate over
the geometric mean of the rates, as NIST reports it (IR 8429; FRTE Part 8). N faces, P people, R resamples.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from facemae.core.errors import RefusedError
from facemae.evaluation import metrics
from facemae.evaluation.pairs import EveryPair, Floats, Weights
from facemae.evaluation.protocols import operating_point
from facemae.evaluation.protocols.all_pairs import LEAST_PEOPLE
from facemae.evaluation.records import Measurement, refused

PROTOCOL, RATES, APART = "fairness", ("fmr", "fnmr"), ("fdr", "fmr_ratio", "fnmr_ratio")
FMR_TARGET = 0.001
FALLBACKS = (0.01, 0.1)  # where the pairs do not support the target
ALPHA = 0.5  # weight of the false matches in the FDR
LARGEST_FNMR = 0.5  # of everyone: where most genuine pairs are rejected, those of all groups are, alike


def measure(
    pairs: EveryPair, group: ArrayLike, weights: Weights, fmr_target: float = FMR_TARGET
) -> list[Measurement]:
    """Measure each group's FMR and FNMR at one threshold, and how far the groups lie apart.

    The threshold keeps to `fmr_target` over all impostor pairs of all people, those of no known group ("" in
    `group`, (P,)) included; where that would leave fewer than two groups to compare, to the first of 0.01 and
    0.1 that does not. It stays the same in every resample (R, P). A group's FNMR is the mean over its people
    with two faces or more; it is refused below 30 of them, or below the impostor pairs that
    `metrics.impostors_needed` tells.

    Returns `fmr` and `fnmr` under the condition of each group, `fdr`, `fmr_ratio` and `fnmr_ratio`; nothing
    where no group is known. `fdr` and `fnmr_ratio` are refused where the FNMR of everyone is above 0.5:
    groups that are all rejected are rejected alike.
    """
    groups = np.asarray(group, str)
    names = sorted(set(groups.tolist()) - {""})
    if not names:
        return []
    parts = {name: pairs.of_people(groups == name) for name in names}
    try:
        target, threshold = _common_threshold(pairs, parts, fmr_target)
    except RefusedError as error:
        return refused(PROTOCOL, APART, 0, str(error))
    refusals = {name: _refusal(part, target) for name, part in parts.items()}
    rates = {
        name: operating_point.rates(parts[name], [threshold], weights[:, groups == name])[:, 0]
        for name, refusal in refusals.items()
        if not refusal
    }
    note = f"threshold {threshold:.4f}, at a false match rate of {target:g} over everyone"
    measured: list[Measurement] = []
    for name, part in parts.items():
        own = refusals[name] or f"{part.genuine_people} people with two faces or more; {note}"
        for kind, n in enumerate((part.impostor_count, part.genuine_count)):
            values = None if refusals[name] else rates[name][kind]
            measured.append(Measurement.of(PROTOCOL, RATES[kind], values, n, own, name))
    useless = _useless(float(pairs.false_non_matches([threshold])[0, 0]), target)
    return measured + _apart(list(rates.values()), len(pairs.unit), note, useless)


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


def _refusal(part: EveryPair, target: float) -> str:
    people, impostors, needed = part.genuine_people, part.impostor_count, metrics.impostors_needed(target)
    if people < LEAST_PEOPLE:
        return f"this group has {people} people with two faces or more, and {LEAST_PEOPLE} are needed"
    if impostors < needed:
        return f"a false match rate of {target:g} needs {needed} impostor pairs, this group has {impostors}"
    return ""


def _apart(rates: list[Floats], faces: int, note: str, useless: str) -> list[Measurement]:
    """Return the sums over the groups that were measured, each rates (2, 1 + R)."""
    if len(rates) < 2:
        reason = f"{len(rates)} groups are large enough, and two are needed to compare"
        return refused(PROTOCOL, APART, faces, reason)
    fmr, fnmr = np.stack(rates, axis=1)
    found = []
    for name, values in zip(APART, (discrepancy(fmr, fnmr), over_mean(fmr), over_mean(fnmr)), strict=True):
        why = useless if name != "fmr_ratio" else ""
        if np.isnan(values[0]):
            why = "a group has not one such error, so the geometric mean of the rates is zero"
        own = why or f"{len(rates)} groups; {note}"
        found.append(Measurement.of(PROTOCOL, name, None if why else values, faces, own))
    return found


def _useless(fnmr: float, target: float) -> str:
    """Return why the groups cannot be told apart where a high FNMR of everyone would make them look alike."""
    if not fnmr > LARGEST_FNMR:
        return ""
    return (
        f"at a false match rate of {target:g}, {fnmr:.2f} of the genuine pairs are rejected; above "
        f"{LARGEST_FNMR:g} these errors cannot tell whether groups are treated alike"
    )


def discrepancy(fmr: Floats, fnmr: Floats) -> Floats:
    """Return the FDR (R,) of rates (G, R) of G groups: 1 is fair, 0 is as unfair as can be.

    1 - (ALPHA * A + (1 - ALPHA) * B), A and B the greatest difference of two groups' FMR and FNMR.
    """
    return np.asarray(1 - (ALPHA * np.ptp(fmr, axis=0) + (1 - ALPHA) * np.ptp(fnmr, axis=0)))


def over_mean(rates: Floats) -> Floats:
    """Return the greatest of the groups' rates (G, R) over their geometric mean, (R,): 1 is fair.

    NaN where a group has no error, as the mean is then zero.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = np.exp(np.log(rates).mean(axis=0))
        return np.asarray(np.where(mean > 0, rates.max(axis=0) / mean, np.nan))
