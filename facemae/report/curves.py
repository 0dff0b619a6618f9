"""Charts of what is measured under ever more of something: covered, lit, labelled, accepted.

From the leaderboard's rows with a condition to `Curves`, which charts.py's style draws for the app and
figures.py for the report, and to the tables behind them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from facemae.evaluation.metrics import impostors_needed
from facemae.evaluation.savings import label_curve
from facemae.report import charts
from facemae.report.phrases import metric_label

COLUMNS = ["run", "x", "value", "ci_low", "ci_high"]
CLEAN = "none"  # the condition of unchanged faces
ALL_PAIRS = "all pairs"
NAMES = {
    "block": "rectangle", "left": "left half", "right": "right half", "side": "light from the side",
}  # fmt: skip
CHARTED = ("occlusion", "lighting", "illumination", "labels")  # protocols that have curves
_BANDS = "Bands are intervals for new people and new training."


@dataclass(frozen=True)
class Curves:
    """One chart of lines, in one panel or several side by side.

    Attributes:
        name: Of the chart, short.
        title: Its heading.
        read: How to read it.
        alt: What stands for it where it cannot be seen.
        panels: By title ("" for a single one), columns run, x, value, ci_low and ci_high, the ends NaN
            where there is no interval; x is a number, or a word where `ticks` are given.
        x: The title of the horizontal axis.
        y: The title of the vertical axis, by panel or for all.
        log_x, log_y: Whether an axis is logarithmic.
        ticks: The words along the horizontal axis.
        enough: The x from which there is enough behind a value; None: everywhere.
    """

    name: str
    title: str
    read: str
    alt: str
    panels: dict[str, pd.DataFrame]
    x: str
    y: str
    log_x: bool = False
    log_y: bool = False
    ticks: Sequence[str] = field(default=())
    enough: float | None = None


def curves_of(leaderboard: pd.DataFrame) -> list[Curves]:
    """Return the charts of what was measured under conditions; nothing for a protocol that was not run."""
    made = (occlusion, occlusion_kinds, lighting, illumination, labels, labels_per_person)
    return [found for make in made if (found := make(leaderboard)) is not None]


def occlusion(leaderboard: pd.DataFrame) -> Curves | None:
    """Return accuracy by covered share of the face, the mean over all kinds of cover."""
    table = _accuracy(leaderboard, "occlusion")
    kinds = table.loc[table["condition"] != CLEAN].groupby("run")["condition"].transform("nunique")
    covered = table[table["condition"] != CLEAN].assign(kinds=kinds)
    if covered.empty:
        return None
    grouped = covered.groupby(["run", "amount"], sort=False)
    mean = grouped[["value", "ci_low", "ci_high", "kinds"]].mean()
    mean = mean[grouped.size() == mean["kinds"]].reset_index()  # a kind less would bend the mean
    lines = pd.concat([table[table["condition"] == CLEAN], mean])
    return Curves(
        name="occlusion",
        title="Covered faces",
        read=(
            "Accuracy by the share of the face that is covered, the mean over all kinds of cover, at the "
            "threshold of uncovered faces; a flatter curve is more robust, a higher one more accurate. Bands "
            "are the mean of the kinds' intervals, which is no narrower than the interval of their mean."
        ),
        alt="Line chart: accuracy by covered share of the face, one line with its interval per run.",
        panels={"": _lines(lines, leaderboard)},
        x="share of the face covered",
        y=metric_label("accuracy"),
    )


def occlusion_kinds(leaderboard: pd.DataFrame) -> Curves | None:
    """Return accuracy by covered share of the face, a panel for each kind of cover."""
    return _by_kind(
        leaderboard,
        "occlusion",
        name="occlusion-kinds",
        title="Covered faces, by kind of cover",
        read=(
            "Where the kinds differ, the place of what is covered matters and not its size alone; all start "
            f"from the same uncovered faces. {_BANDS}"
        ),
        alt="Line charts, one for each kind of cover: accuracy by covered share, one line per run.",
        x="share covered",
    )


def lighting(leaderboard: pd.DataFrame) -> Curves | None:
    """Return accuracy by strength of an invented change of light, a panel for each kind."""
    return _by_kind(
        leaderboard,
        "lighting",
        name="lighting",
        title="Changed light",
        read=(
            "Accuracy by the strength of an invented change of light, at the threshold of unchanged faces; 1 "
            f"is the most. {_BANDS}"
        ),
        alt="Line charts, one for each change of light: accuracy by its strength, one line per run.",
        x="strength of the change",
    )


def illumination(leaderboard: pd.DataFrame) -> Curves | None:
    """Return identification and error rate under real light that comes ever more from the side."""
    table = leaderboard[
        (leaderboard["protocol"] == "illumination")
        & (leaderboard["condition"] != "")
        & leaderboard["value"].notna()
    ]
    table = table.assign(amount=table["condition"])
    subsets = sorted(table["condition"].unique())
    panels = {
        metric_label(metric): _lines(table[table["metric"] == metric], leaderboard)
        for metric in ("rank1", "eer")
        if (table["metric"] == metric).any()
    }
    if not panels:
        return None
    return Curves(
        name="illumination",
        title="Real light from the side",
        read=(
            f"Photos under real light: from {subsets[0]} to {subsets[-1]} it comes ever more from the side, "
            "and the faces known are those lit from the front (S1). Bars are intervals for new people and "
            "new training."
        ),
        alt="Line charts: identification and error rate from frontal to sideways light, one line per run.",
        panels=panels,
        x="light, ever more from the side",
        y="rate",
        ticks=subsets,
    )


def labels(leaderboard: pd.DataFrame) -> Curves | None:
    """Return accuracy by share of the labels."""
    table = label_curve(leaderboard)
    if table["amount"].nunique() < 2:  # all of them, and nothing to hold that against
        return None
    return Curves(
        name="labels",
        title="Fewer labels",
        read=(
            "Accuracy by the share of the labels used in fine-tuning: a curve further left needs fewer "
            f"labels for the same accuracy. {_BANDS}"
        ),
        alt="Line chart: accuracy by share of the labels, one line with its interval per run.",
        panels={"": _lines(table, leaderboard)},
        x="share of the labels (logarithmic)",
        y=metric_label("accuracy"),
        log_x=True,
    )


def labels_per_person(leaderboard: pd.DataFrame) -> Curves | None:
    """Return accuracy by labelled faces of a person."""
    table = label_curve(leaderboard, "per_person")
    if table["amount"].nunique() < 2:
        return None
    return Curves(
        name="labels-per-person",
        title="Fewer labels of each person",
        read=f"Accuracy by the most faces of a person used in fine-tuning. {_BANDS}",
        alt="Line chart: accuracy by labelled faces of a person, one line with its interval per run.",
        panels={"": _lines(table, leaderboard)},
        x="labelled faces of a person (logarithmic)",
        y=metric_label("accuracy"),
        log_x=True,
    )


def det(curves: pd.DataFrame, *, spread: bool = False) -> Curves:
    """Return the detection error trade-off: both error rates of the ROC curves (reading.roc_curves).

    Martin et al., "The DET curve in assessment of detection task performance" (1997), on logarithmic axes.
    With `spread` the ends of each value are those of its lowest and highest seed, else there are none.
    """
    parts = []
    for name in curves["run"].unique():
        part = curves[curves["run"] == name]
        mean, seeds = charts.mean_over_seeds(part, "far", "tar"), charts.spread(part, "far", "tar")
        line = pd.DataFrame({"run": name, "x": mean["far"], "value": 1 - mean["tar"]})
        line = line.assign(ci_low=1 - seeds["ci_high"], ci_high=1 - seeds["ci_low"])
        parts.append(line[line["value"] > 0])  # no logarithm of none
    table = pd.concat(parts, ignore_index=True)
    # A seed without errors has no place on a logarithmic axis; its band ends below the smallest rate shown.
    table["ci_low"] = table["ci_low"].clip(lower=table["value"].min() / 2)
    table = table if spread else table.assign(ci_low=np.nan, ci_high=np.nan)
    enough = impostors_needed(1.0) / int(curves["impostors"].min())
    return Curves(
        name="det",
        title="Both kinds of error",
        read=charts.HOW_TO_READ["det"],
        alt=charts.ALT["det"],
        panels={"": table},
        x=charts.AXES["far"],
        y="false non-match rate (logarithmic)",
        log_x=True,
        log_y=True,
        enough=enough if enough < 1 else None,
    )


def det_intervals(rates: pd.DataFrame) -> pd.DataFrame:
    """Return the intervals of true accept rates (charts.rate_intervals) as those of false non-match rates.

    Columns run, x, value, ci_low and ci_high. A rate of no errors has no place on a logarithmic axis; an
    interval that reaches it ends at a tenth of its value.
    """
    table = pd.DataFrame(
        {
            "run": rates["run"], "x": rates["far"], "value": 1 - rates["value"],
            "ci_low": 1 - rates["ci_high"], "ci_high": 1 - rates["ci_low"],
        }
    )  # fmt: skip
    table = table[table["value"] > 0]
    return table.assign(ci_low=np.maximum(table["ci_low"], table["value"] / 10)).reset_index(drop=True)


def table_of(panel: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return the numbers of a panel as text: a row per run, a column per x, each value with its interval."""
    order, places = list(dict.fromkeys(panel["run"])), list(dict.fromkeys(panel.sort_values("x")["x"]))
    cells = {(row["run"], row["x"]): _cell(row) for row in charts.rows_of(panel)}
    rows = [[run, *(cells.get((run, place), "") for place in places)] for run in order]
    heads = [place if isinstance(place, str) else f"{place:g}" for place in places]
    return pd.DataFrame(rows, columns=[f"Run, by {x}", *heads])


def grouped_tables(leaderboard: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return by title, as text, what was measured under conditions and has no curve: groups, all pairs."""
    table = leaderboard[(leaderboard["condition"] != "") & ~leaderboard["protocol"].isin(CHARTED)]
    every = table[table["condition"] == ALL_PAIRS]
    found = {"All against all": _pivot(every.assign(column=[metric_label(name) for name in every["metric"]]))}
    rest = table[table["condition"] != ALL_PAIRS]
    for metric, part in rest.groupby("metric", sort=False):
        found[f"By group: {metric_label(str(metric))}"] = _pivot(part.assign(column=part["condition"]))
    return {title: each for title, each in found.items() if len(each)}


def panel_columns(count: int) -> int:
    """Return how many of `count` panels stand side by side, so that the last row is not left almost empty."""
    return count if count <= 4 else 3 if count % 3 == 0 else 4


def chart(curves: Curves, colours: Mapping[str, str], dashes: Mapping[str, str]) -> go.Figure:
    """Draw curves for the app, each run in its colour and line (charts.palette, charts.dashes)."""
    count = len(curves.panels)
    columns = panel_columns(count)
    lines = -(-count // columns)
    figure = make_subplots(
        rows=lines, cols=columns, shared_yaxes=not curves.ticks, subplot_titles=list(curves.panels),
        vertical_spacing=0.22 / lines, horizontal_spacing=0.06,
    )  # fmt: skip
    shown: set[str] = set()
    for place, panel in enumerate(curves.panels.values()):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for name in panel["run"].unique():
            line = panel[panel["run"] == name]
            if curves.ticks:
                _add_points(figure, line, colours[name], dashes[name], where, show=name not in shown)
            else:
                charts.add_band(figure, line, colours[name], str(name), **where)
                _add_curve(figure, line, colours[name], dashes[name], where, show=name not in shown)
            shown.add(name)
    if curves.enough:
        style = {"color": charts.BASELINE_COLOUR, "dash": "dot", "width": 1.5}
        figure.add_vline(x=curves.enough, line=style)
    charts.finish(figure, x=curves.x, y=None, height=(420 if count == 1 else 300 * lines + 90))
    _set_axes(figure, curves, lines, columns)
    return figure


def _set_axes(figure: go.Figure, curves: Curves, lines: int, columns: int) -> None:
    for row in range(1, lines + 1):
        figure.update_yaxes(title={"text": curves.y, "standoff": 10}, row=row, col=1)
    # A title below the last row is enough; the others would stand in the way of a panel below.
    for place in range((lines - 1) * columns):
        figure.update_xaxes(title=None, row=place // columns + 1, col=place % columns + 1)
    if curves.log_x:
        figure.update_xaxes(type="log", tickformat="~g", dtick=1 if curves.log_y else None)
        if not curves.log_y:
            values = sorted(set(next(iter(curves.panels.values()))["x"]))
            figure.update_xaxes(tickvals=values, ticktext=[f"{value:g}" for value in values])
    if curves.log_y:
        figure.update_yaxes(type="log", dtick=1, tickformat="~g")
    if curves.ticks:
        figure.update_xaxes(type="category", categoryorder="array", categoryarray=list(curves.ticks))
    figure.update_layout(margin={"t": 30 if len(curves.panels) > 1 else 10})


def _add_curve(
    figure: go.Figure, line: pd.DataFrame, colour: str, dash: str, where: Mapping[str, int], *, show: bool
) -> None:
    name = str(line["run"].iloc[0])
    figure.add_scatter(
        x=line["x"].to_numpy(), y=line["value"].to_numpy(), name=name, legendgroup=name, showlegend=show,
        mode="lines+markers" if len(line) < 20 else "lines", line={"width": 2, "color": colour, "dash": dash},
        marker={"size": 6}, customdata=[_cell(row) for row in charts.rows_of(line)],
        hovertemplate=f"{name}: %{{customdata}} at %{{x:.3g}}<extra></extra>", **where,
    )  # fmt: skip


def _add_points(
    figure: go.Figure, line: pd.DataFrame, colour: str, dash: str, where: Mapping[str, int], *, show: bool
) -> None:
    _add_curve(figure, line, colour, dash, where, show=show)
    shape = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 4, "color": colour}
    above, below = line["ci_high"] - line["value"], line["value"] - line["ci_low"]
    figure.data[-1].error_y = shape | {"array": above.to_numpy(), "arrayminus": below.to_numpy()}
    figure.data[-1].hovertemplate = f"{line['run'].iloc[0]}: %{{customdata}} at %{{x}}<extra></extra>"


def _accuracy(leaderboard: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the accuracies of a protocol under its conditions, where they were not refused.

    The faces as they are (CLEAN) are the same in both protocols and need to be listed in one alone.
    """
    table = leaderboard[(leaderboard["metric"] == "accuracy") & leaderboard["value"].notna()]
    own = table[(table["protocol"] == protocol) & ~table["condition"].isin(["", CLEAN])]
    clean = table[table["condition"].eq(CLEAN) & table["run"].isin(own["run"])]
    return pd.concat([clean.drop_duplicates("run"), own])


def _by_kind(
    leaderboard: pd.DataFrame, protocol: str, *, name: str, title: str, read: str, alt: str, x: str
) -> Curves | None:
    table = _accuracy(leaderboard, protocol)
    clean = table[table["condition"] == CLEAN]
    kinds = [kind for kind in table["condition"].unique() if kind != CLEAN]
    panels = {
        NAMES.get(kind, kind): _lines(pd.concat([clean, table[table["condition"] == kind]]), leaderboard)
        for kind in kinds
    }
    y = metric_label("accuracy")
    return Curves(name, title, read, alt, panels, x, y) if panels else None


def _lines(table: pd.DataFrame, leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Return a panel's lines: in the leaderboard's order of runs, each along its x."""
    order = {name: place for place, name in enumerate(leaderboard["run"].unique())}
    lines = table.rename(columns={"amount": "x"})[COLUMNS]
    lines = lines.astype({"value": float, "ci_low": float, "ci_high": float})
    return lines.assign(place=lines["run"].map(order)).sort_values(["place", "x"]).drop(columns="place")


def _pivot(table: pd.DataFrame) -> pd.DataFrame:
    """Return text cells: a row per run, a column per name in `column`, in the order they are met."""
    heads, order = list(dict.fromkeys(table["column"])), list(dict.fromkeys(table["run"]))
    cells = {(row["run"], row["column"]): _cell(row) for row in charts.rows_of(table)}
    rows = [[run, *(cells.get((run, head), "") for head in heads)] for run in order]
    return pd.DataFrame(rows, columns=["Run", *heads])


def _cell(row: Mapping[str, object]) -> str:
    value, low, high = (float(str(row[name])) for name in ("value", "ci_low", "ci_high"))
    if np.isnan(value):
        return "refused"
    return f"{value:.3f}" if np.isnan(low) or np.isnan(high) else f"{value:.3f} ({low:.3f} to {high:.3f})"
