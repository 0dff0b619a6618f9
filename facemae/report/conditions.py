"""Charts of what was measured under conditions: faces covered, lit otherwise, learnt from fewer labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import pandas as pd

from facemae.evaluation.records import metric_label
from facemae.evaluation.savings import label_curve
from facemae.report.chart_spec import Axis, Chart, Looks, Series
from facemae.report.curves import along
from facemae.report.phrases import rows_of, with_interval

CLEAN = "none"  # the condition of unchanged faces
ALL_PAIRS = "all pairs"
COLUMNS = ["run", "x", "value", "ci_low", "ci_high"]
KINDS = {"block": "rectangle", "left": "left half", "right": "right half", "side": "light from the side"}
CHARTED = ("occlusion", "lighting", "illumination", "labels")  # protocols that have charts
_BANDS = "Bands are intervals for new people and new training."
# The charts in their order, without what is drawn on them.
_chart = partial(Chart, panels={}, y=Axis(metric_label("accuracy")))
_CHARTS = (
    _chart(
        name="occlusion",
        title="Covered faces",
        read=(
            "Accuracy by the share of the face that is covered, the mean over all kinds of cover, at the "
            "threshold of uncovered faces; a flatter curve is more robust, a higher one more accurate. Bands "
            "are the mean of the kinds' intervals, which is no narrower than the interval of their mean."
        ),
        alt="Line chart: accuracy by covered share of the face, one line with its interval per run.",
        x=Axis("share of the face covered"),
    ),
    _chart(
        name="occlusion-kinds",
        title="Covered faces, by kind of cover",
        read=(
            "Where the kinds differ, the place of what is covered matters and not its size alone; all start "
            f"from the same uncovered faces. {_BANDS}"
        ),
        alt="Line charts, one for each kind of cover: accuracy by covered share, one line per run.",
        x=Axis("share covered"),
    ),
    _chart(
        name="lighting",
        title="Changed light",
        read=(
            "Accuracy by the strength of a synthetic change of light, at the threshold of unchanged faces; 1 "
            f"is the most. {_BANDS}"
        ),
        alt="Line charts, one for each change of light: accuracy by its strength, one line per run.",
        x=Axis("strength of the change"),
    ),
    _chart(
        name="illumination",
        title="Real light from the side",
        read=(
            "Photos under real light: from {first} to {last} it comes further from the side, and the faces "
            "known are those lit from the front (S1). Bars are intervals for new people and new training."
        ),
        alt="Line charts: identification and error rate from frontal to sideways light, one line per run.",
        x=Axis("light, from the front to the side"),
        y=Axis("rate"),
    ),
    _chart(
        name="labels",
        title="Fewer labels",
        read=(
            "Accuracy by the share of the labels used in fine-tuning: a curve further left needs fewer "
            f"labels for the same accuracy. {_BANDS}"
        ),
        alt="Line chart: accuracy by share of the labels, one line with its interval per run.",
        x=Axis("share of the labels (logarithmic)", log=True),
    ),
    _chart(
        name="labels-per-person",
        title="Fewer labels of each person",
        read=f"Accuracy by the most faces of a person used in fine-tuning. {_BANDS}",
        alt="Line chart: accuracy by labelled faces of a person, one line with its interval per run.",
        x=Axis("labelled faces of a person (logarithmic)", log=True),
    ),
)


def conditions(leaderboard: pd.DataFrame, looks: Looks) -> list[Chart]:
    """Return the charts of what was measured under conditions; nothing for a protocol that was not run."""
    panels = (
        _over_kinds(leaderboard),
        _by_kind(leaderboard, "occlusion"),
        _by_kind(leaderboard, "lighting"),
        _illumination(leaderboard),
        _by_labels(leaderboard, "share"),
        _by_labels(leaderboard, "per_person"),
    )
    return [_drawn(chart, found, looks) for chart, found in zip(_CHARTS, panels, strict=True) if found]


def _drawn(chart: Chart, panels: Mapping[str, pd.DataFrame], looks: Looks) -> Chart:
    """Return a chart with each run's line along "amount" in every panel, in the order of the looks."""
    words = chart.name == "illumination"
    lines = {
        title: [
            along(part, "amount", looks, band=not words)
            for name in looks
            if len(part := table[table["run"] == name].sort_values("amount", kind="stable"))
        ]
        for title, table in panels.items()
    }
    places = sorted(pd.concat(panels.values())["amount"].unique())
    if words:
        read = chart.read.format(first=places[0], last=places[-1])
        return replace(chart, panels=lines, read=read, x=replace(chart.x, words=places))
    labels = {place: f"{place:g}" for place in places} if chart.x.log else None
    return replace(chart, panels=lines, x=replace(chart.x, labels=labels))


def _over_kinds(leaderboard: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the mean over all kinds of cover, where all were measured: a kind less would bend the line."""
    table = _accuracy(leaderboard, "occlusion")
    clean = table["condition"] == CLEAN
    covered = table[~clean]
    if covered.empty:
        return {}
    kinds = covered.groupby("run")["condition"].transform("nunique")
    grouped = covered.assign(kinds=kinds).groupby(["run", "amount"], sort=False)
    mean = grouped[["value", "ci_low", "ci_high", "kinds"]].mean()
    return {"": pd.concat([table[clean], mean[grouped.size() == mean["kinds"]].reset_index()])}


def _by_kind(leaderboard: pd.DataFrame, protocol: str) -> dict[str, pd.DataFrame]:
    table = _accuracy(leaderboard, protocol)
    clean = table["condition"] == CLEAN
    return {
        KINDS.get(str(kind), str(kind)): pd.concat([table[clean], part])
        for kind, part in table[~clean].groupby("condition", sort=False)
    }


def _by_labels(leaderboard: pd.DataFrame, condition: str) -> dict[str, pd.DataFrame]:
    table = label_curve(leaderboard, condition)
    # One place is all of the labels, with nothing to compare.
    return {"": table} if table["amount"].nunique() > 1 else {}


def _illumination(leaderboard: pd.DataFrame) -> dict[str, pd.DataFrame]:
    table = leaderboard[(leaderboard["protocol"] == "illumination") & (leaderboard["condition"] != "")]
    table = table[table["value"].notna()].assign(amount=table["condition"])
    parts = {metric: table[table["metric"] == metric] for metric in ("rank1", "eer")}
    return {metric_label(metric): part for metric, part in parts.items() if len(part)}


def _accuracy(leaderboard: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the accuracies of a protocol under its conditions, where they were not refused.

    The faces as they are (CLEAN) are the same in both protocols and need to be listed in one alone.
    """
    table = leaderboard[(leaderboard["metric"] == "accuracy") & leaderboard["value"].notna()]
    own = table[(table["protocol"] == protocol) & ~table["condition"].isin(["", CLEAN])]
    clean = table[table["condition"].eq(CLEAN) & table["run"].isin(own["run"])]
    return pd.concat([clean.drop_duplicates("run"), own])


# --- the numbers behind them, as text ---


def numbers(panel: Sequence[Series]) -> pd.DataFrame:
    """Return the numbers of a panel: run, x, value, ci_low and ci_high, the ends NaN where there is none."""
    parts = [
        pd.DataFrame(
            {"run": each.name, "x": each.x, "value": each.y, "ci_low": each.low, "ci_high": each.high}
        )
        for each in panel
    ]
    return pd.concat(parts, ignore_index=True).astype({"ci_low": float, "ci_high": float})


def table_of(panel: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return `numbers` as text: a row per run, a column per place, each value with its interval."""
    places = sorted(set(panel["x"]))
    heads = {place: place if isinstance(place, str) else f"{place:g}" for place in places}
    return _pivot(panel, "x", heads, f"Run, by {x}")


def grouped_tables(leaderboard: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return by title, as text, what was measured under conditions and has no chart: groups, all pairs."""
    table = leaderboard[(leaderboard["condition"] != "") & ~leaderboard["protocol"].isin(CHARTED)]
    every, rest = (table[(table["condition"] == ALL_PAIRS) == wanted] for wanted in (True, False))
    found = {}
    if len(every):
        heads = {name: metric_label(name) for name in every["metric"].unique()}
        found["All against all"] = _pivot(every, "metric", heads)
    for metric, part in rest.groupby("metric", sort=False):
        heads = {name: name for name in part["condition"].unique()}
        found[f"By group: {metric_label(str(metric))}"] = _pivot(part, "condition", heads)
    return found


def _pivot(table: pd.DataFrame, by: str, heads: Mapping[Any, str], first: str = "Run") -> pd.DataFrame:
    """Return text cells: a row per run, a column for each of the heads, by what stands in the column `by`."""
    cells = {(row["run"], row[by]): with_interval(row) for row in rows_of(table)}
    rows = [[run, *(cells.get((run, head), "") for head in heads)] for run in table["run"].unique()]
    return pd.DataFrame(rows, columns=[first, *heads.values()])
