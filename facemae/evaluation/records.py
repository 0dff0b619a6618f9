"""A measured value, and how a stage writes it: an entry of `metrics.json` and a column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from facemae.core import layout, records
from facemae.core.errors import RefusedError
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.pairs import Floats
from facemae.evaluation.statistics import estimate, percentile_interval
from facemae.evaluation.variance import Dyads


class Metric(NamedTuple):
    """What readers call a metric, {} for the rate of an operating point, and its better direction."""

    words: str
    higher_is_better: bool = True


METRICS = {
    "roc_auc": Metric("ROC AUC"),
    "eer": Metric("equal error rate", False),
    "accuracy": Metric("verification accuracy"),
    "rank1": Metric("rank-1 identification"),
    "rank5": Metric("rank-5 identification"),
    "rank20": Metric("rank-20 identification"),
    "occlusion_accuracy": Metric("accuracy on covered faces"),
    "occlusion_drop": Metric("loss of accuracy on covered faces", False),
    "light_accuracy": Metric("accuracy in changed light"),
    "light_drop": Metric("loss of accuracy in changed light", False),
    "illumination_rank1": Metric("rank-1 identification in real light from the side"),
    "labels_accuracy": Metric("accuracy over the label curve"),
    "probe_accuracy": Metric("accuracy of the closed-form head on the encoder"),
    "probe_roc_auc": Metric("ROC AUC of the closed-form head on the encoder"),
    "fdr": Metric("fairness discrepancy rate"),
    "fmr": Metric("false match rate", False),
    "fnmr": Metric("false non-match rate", False),
    "fmr_ratio": Metric("false match rate, worst group by the groups' geometric mean", False),
    "fnmr_ratio": Metric("false non-match rate, worst group by the groups' geometric mean", False),
    "brier": Metric("Brier score", False),
    "ece": Metric("expected calibration error", False),
    "age_error": Metric("error of the age in years", False),
    **{
        f"{task}_{measure}": Metric(f"{task}: {words}")
        for task in ("gender", "race", "expression")
        for measure, words in (
            ("accuracy", "accuracy"),
            ("balanced", "balanced accuracy"),
            ("f1", "macro F1"),
        )
    },
    "tar_at_far": Metric("true accept rate at a FAR of {}"),
    "far_at_target": Metric("FAR achieved for {}", False),
    "tpir_at_fpir": Metric("true identification rate at an FPIR of {}"),
    "fpir_at_target": Metric("FPIR achieved for {}", False),
    "blufr_tar": Metric("BLUFR verification rate at a FAR of {}"),
    "blufr_dir": Metric("BLUFR identification rate at a FAR of {}"),
}
# Metrics that are no share, so that an interval may leave 0 to 1.
BEYOND_ONE = ("age_error", "occlusion_drop", "light_drop", "fmr_ratio", "fnmr_ratio")


@dataclass(frozen=True)
class Measurement:
    """One value of an evaluation, or the reason why there is none.

    `n` counts what is behind the value: pairs, impostor pairs for a value at a false accept rate, probes
    for identification. What other people would have changed is in `influence`, of each two people's pairs
    (`influence.by_people`), or else in `samples`, the values of the bootstrap resamples. `condition` and
    `amount` say under what the value was measured, such as "sunglasses" over 0.3 of the face.
    """

    protocol: str
    name: str
    value: float | None
    n: int
    note: str = ""
    samples: Floats | None = None
    condition: str = ""
    amount: float | None = None
    people: int | None = None
    """How many were resampled, where that is not everyone evaluated."""
    influence: pd.Series[float] | None = None

    @staticmethod
    def of(
        protocol: str, name: str, values: Floats | None, n: int, note: str = "", condition: str = ""
    ) -> Measurement:
        """Return a measurement of values (1 + R,): the value itself, then those on the resamples."""
        if values is None:
            return Measurement(protocol, name, None, n, note, condition=condition)
        return Measurement(protocol, name, float(values[0]), n, note, values[1:], condition)


def refused(protocol: str, names: Iterable[str], n: int, note: str, condition: str = "") -> list[Measurement]:
    """Return measurements without a value; `note` says why."""
    return [Measurement(protocol, name, None, n, note, condition=condition) for name in names]


def metric_label(name: str) -> str:
    """Return a metric's name in words; a name that is not known stands for itself."""
    kind, _, target = name.partition("=")
    return METRICS[kind].words.format(target) if kind in METRICS else name


def higher_is_better(name: str) -> bool:
    """Tell which direction of a metric is an improvement; a KeyError: there is no such metric."""
    return METRICS[name.partition("=")[0]].higher_is_better


def entry(measured: Measurement, level: float) -> dict[str, Any]:
    """Return a measurement as an entry of `metrics.json`, with its interval over people."""
    try:
        interval, note = _interval(measured, level), measured.note
    except RefusedError as error:
        interval, note = None, "; ".join(part for part in (measured.note, f"no interval: {error}") if part)
    named = {name: getattr(measured, name) for name in ("n", "protocol", "condition", "amount", "people")}
    return records.metric(measured.name, measured.value, interval=interval, note=note, **named)


def _interval(measured: Measurement, level: float) -> tuple[float, float] | None:
    """Return the interval for this network; what pairs have an influence on is a share."""
    if measured.influence is not None and measured.value is not None:
        people = measured.influence.index
        first, second = (people.get_level_values(side).to_numpy() for side in PEOPLE)
        dyads = Dyads(np.asarray(measured.influence, np.float64)[None], first, second)
        found = estimate([measured.value], dyads, level=level)
        return max(0.0, found.low), min(1.0, found.high)
    return None if measured.samples is None else percentile_interval(measured.samples, level)


def write_measured(
    out: Path, measured: Sequence[Measurement], level: float, *, tables: Sequence[str] = (), **more: Any
) -> None:
    """Write a stage's `metrics.json` with intervals at a level; `more` is for `core.records.write_metrics`.

    What other people would have changed stands beside it, a column for each measurement: the influence of
    each two people's pairs in one table, the values on the resamples of people in another.
    """
    samples = {_column(each): each.samples for each in measured if each.samples is not None}
    records.write_table(out / layout.RESAMPLES, pd.DataFrame(samples), list(samples))
    moved = {_column(each): each.influence for each in measured if each.influence is not None}
    none = pd.MultiIndex.from_arrays([[], []], names=PEOPLE)
    table = pd.DataFrame(moved, index=None if moved else none).fillna(0.0).sort_index()
    records.write_table(out / layout.INFLUENCE, table.reset_index(), [*PEOPLE, *moved])
    written = [*tables, layout.RESAMPLES, layout.INFLUENCE]
    records.write_metrics(out, [entry(each, level) for each in measured], tables=written, **more)


def _column(measured: Measurement) -> str:
    return records.column(measured.name, measured.condition, measured.amount)
