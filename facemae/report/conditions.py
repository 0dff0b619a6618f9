"""Charts of what was measured under conditions: faces covered, lit otherwise, learnt from fewer labels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pandas as pd

from facemae.evaluation.savings import label_curve
from facemae.report.chart_spec import Axis, Chart, Looks, Series, with_interval
from facemae.report.phrases import metric_label, rows_of

CLEAN = "none"  # the condition of unchanged faces
ALL_PAIRS = "all pairs"
COLUMNS = ["run", "x", "value", "ci_low", "ci_high"]
KINDS = {"block": "rectangle", "left": "left half", "right": "right half", "side": "light from the side"}
CHARTED = ("occlusion", "lighting", "illumination", "labels")  # protocols that have charts
_BANDS = "Bands are intervals for new people and new training."
_RATE = Axis(metric_label("accuracy"))
# The charts of accuracy, without what is drawn on them; a panel for each kind, or one.
_OF_COVERED = Chart(
    name="occlusion",
    title="Covered faces",
    read=(
        "Accuracy by the share of the face that is covered, the mean over all kinds of cover, at the "
        "threshold of uncovered faces; a flatter curve is more robust, a higher one more accurate. Bands "
        "are the mean of the kinds' intervals, which is no narrower than the interval of their mean."
    ),
    alt="Line chart: accuracy by covered share of the face, one line with its interval per run.",
    panels={},
    x=Axis("share of the face covered"),
    y=_RATE,
)
_BY_KIND = {
    "occlusion": Chart(
        name="occlusion-kinds",
        title="Covered faces, by kind of cover",
        read=(
            "Where the kinds differ, the place of what is covered matters and not its size alone; all start "
            f"from the same uncovered faces. {_BANDS}"
        ),
        alt="Line charts, one for each kind of cover: accuracy by covered share, one line per run.",
        panels={},
        x=Axis("share covered"),
        y=_RATE,
    ),
    "lighting": Chart(
        name="lighting",
        title="Changed light",
        read=(
            "Accuracy by the strength of a synthetic change of light, at the threshold of unchanged faces; 1 "
            f"is the most. {_BANDS}"
        ),
        alt="Line charts, one for each change of light: accuracy by its strength, one line per run.",
        panels={},
        x=Axis("strength of the change"),
        y=_RATE,
    ),
}
_BY_LABELS = {
    "share": Chart(
        name="labels",
        title="Fewer labels",
        read=(
            "Accuracy by the share of the labels used in fine-tuning: a curve further left needs fewer "
            f"labels for the same accuracy. {_BANDS}"
        ),
        alt="Line chart: accuracy by share of the labels, one line with its interval per run.",
        panels={},
        x=Axis("share of the labels (logarithmic)", log=True),
        y=_RATE,
    ),
    "per_person": Chart(
        name="labels-per-person",
        title="Fewer labels of each person",
        read=f"Accuracy by the most faces of a person used in fine-tuning. {_BANDS}",
        alt="Line chart: accuracy by labelled faces of a person, one line with its interval per run.",
        panels={},
        x=Axis("labelled faces of a person (logarithmic)", log=True),
        y=_RATE,
    ),
}


def conditions(leaderboard: pd.DataFrame, looks: Looks) -> list[Chart]:
    """Return the charts of what was measured under conditions; nothing for a protocol that was not run."""
    made = [
        _covered(leaderboard, looks),
        *(_by_kind(leaderboard, looks, protocol) for protocol in _BY_KIND),
        _illumination(leaderboard, looks),
        *(_by_labels(leaderboard, looks, condition) for condition in _BY_LABELS),
    ]
    return [each for each in made if each.panels]


def _covered(leaderboard: pd.DataFrame, looks: Looks) -> Chart:
    table = _accuracy(leaderboard, "occlusion")
    covered = table[table["condition"] != CLEAN]
    if covered.empty:
        return _OF_COVERED
    covered = covered.assign(kinds=covered.groupby("run")["condition"].transform("nunique"))
    grouped = covered.groupby(["run", "amount"], sort=False)
    mean = grouped[["value", "ci_low", "ci_high", "kinds"]].mean()
    mean = mean[grouped.size() == mean["kinds"]].reset_index()  # a kind less would bend the mean
    lines = pd.concat([table[table["condition"] == CLEAN], mean])
    return replace(_OF_COVERED, panels={"": _lines(lines, leaderboard, looks)})


def _by_kind(leaderboard: pd.DataFrame, looks: Looks, protocol: str) -> Chart:
    table = _accuracy(leaderboard, protocol)
    clean = table[table["condition"] == CLEAN]
    kinds = {kind: part for kind, part in table.groupby("condition", sort=False) if kind != CLEAN}
    panels = {
        KINDS.get(str(kind), str(kind)): _lines(pd.concat([clean, part]), leaderboard, looks)
        for kind, part in kinds.items()
    }
    return replace(_BY_KIND[protocol], panels=panels)


def _by_labels(leaderboard: pd.DataFrame, looks: Looks, condition: str) -> Chart:
    chart, table = _BY_LABELS[condition], label_curve(leaderboard, condition)
    places = sorted(table["amount"].unique())
    if len(places) < 2:  # all of the labels, and nothing to compare with
        return chart
    axis = replace(chart.x, labels={place: f"{place:g}" for place in places})
    return replace(chart, panels={"": _lines(table, leaderboard, looks)}, x=axis)


def _illumination(leaderboard: pd.DataFrame, looks: Looks) -> Chart:
    """Return identification and error rate under real light, from frontal to sideways."""
    table = leaderboard[
        (leaderboard["protocol"] == "illumination")
        & (leaderboard["condition"] != "")
        & leaderboard["value"].notna()
    ]
    table = table.assign(amount=table["condition"])
    subsets = sorted(table["condition"].unique()) or [""]
    return Chart(
        name="illumination",
        title="Real light from the side",
        read=(
            f"Photos under real light: from {subsets[0]} to {subsets[-1]} it comes further from the side, "
            "and the faces known are those lit from the front (S1). Bars are intervals for new people and "
            "new training."
        ),
        alt="Line charts: identification and error rate from frontal to sideways light, one line per run.",
        panels={
            metric_label(metric): _lines(table[table["metric"] == metric], leaderboard, looks, bars=True)
            for metric in ("rank1", "eer")
            if (table["metric"] == metric).any()
        },
        x=Axis("light, from the front to the side", words=subsets),
        y=Axis("rate"),
    )


def _accuracy(leaderboard: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the accuracies of a protocol under its conditions, where they were not refused.

    The faces as they are (CLEAN) are the same in both protocols and need to be listed in one alone.
    """
    table = leaderboard[(leaderboard["metric"] == "accuracy") & leaderboard["value"].notna()]
    own = table[(table["protocol"] == protocol) & ~table["condition"].isin(["", CLEAN])]
    clean = table[table["condition"].eq(CLEAN) & table["run"].isin(own["run"])]
    return pd.concat([clean.drop_duplicates("run"), own])


def _lines(
    table: pd.DataFrame, leaderboard: pd.DataFrame, looks: Looks, *, bars: bool = False
) -> list[Series]:
    """Return each run's line along "amount", in the leaderboard's order of runs."""
    lines = []
    for name in leaderboard["run"].unique():
        part = table[table["run"] == name].sort_values("amount", kind="stable")
        if part.empty:
            continue
        known = part["ci_low"].notna().any()
        lines.append(
            Series(
                str(name), part["amount"].to_list(), part["value"].to_numpy(float), looks[str(name)],
                part["ci_low"].to_numpy(float) if known else None,
                part["ci_high"].to_numpy(float) if known else None, marker="circle", size=6, band=not bars,
                text=[with_interval(row) for row in rows_of(part)],
            )
        )  # fmt: skip
    return lines


# --- the numbers behind them, as text ---


def numbers(panel: Sequence[Series]) -> pd.DataFrame:
    """Return the numbers of a panel: run, x, value, ci_low and ci_high, the ends NaN where there is none."""
    nothing = float("nan")
    rows = [
        (each.name, *point)
        for each in panel
        for low, high in [(each.low, each.high) if each.low is not None else ([nothing] * len(each.x),) * 2]
        for point in zip(each.x, each.y, low, high, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


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
