"""A measured value, and how a stage writes it: an entry of `metrics.json` and a column of a table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facemae.core import layout, records
from facemae.core.errors import RefusedError
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.pairs import Floats
from facemae.evaluation.statistics import estimate, percentile_interval
from facemae.evaluation.variance import Dyads

_HIGHER = (
    "roc_auc", "accuracy", "tar_at_far", "rank1", "rank5", "rank20", "tpir_at_fpir", "blufr_tar", "blufr_dir",
    "occlusion_accuracy", "light_accuracy", "illumination_rank1", "labels_accuracy", "probe_accuracy",
    "probe_roc_auc", "fdr", "gender_accuracy", "gender_balanced", "gender_f1", "race_accuracy",
    "race_balanced", "race_f1", "expression_accuracy", "expression_balanced", "expression_f1",
)  # fmt: skip
_LOWER = (
    "eer", "far_at_target", "fpir_at_target", "fmr", "fnmr", "fmr_ratio", "fnmr_ratio", "brier", "ece",
    "occlusion_drop", "light_drop", "age_error",
)  # fmt: skip
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


def higher_is_better(name: str) -> bool:
    """Tell which direction of a measurement is an improvement.

    `far_at_target=...`, which says what the data allowed, counts as an error rate. A ValueError: no
    measurement has this name.
    """
    metric = name.partition("=")[0]
    if metric in _HIGHER or metric in _LOWER:
        return metric in _HIGHER
    raise ValueError(f"no measurement is called {name!r}; there are {', '.join((*_HIGHER, *_LOWER))}")


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
