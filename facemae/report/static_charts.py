"""The report's charts as static vector figures: tables in, SVG text out; some also as PNG, for documents.

The app's charts (charts.py) answer to the pointer and need a script; these can be printed and need none.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from facemae.evaluation.metrics import impostors_needed
from facemae.report import charts
from facemae.report.curves import Curves, panel_columns

WIDTH = 5.4  # inches; on a telephone, where all of it shrinks to the screen, text is still to be read
WIDE = 7.4  # inches, of several panels side by side
SMALL_WIDTH = 3.7  # inches, of one of several side by side
MAX_POINTS = 250  # a line; more would not be seen, and many runs and seeds must fit into one page
# Nothing of ours has these colours: in the SVG the page's own take their place, so that its theme sets them.
_INK, _PAGE = "#010203", "#010204"
_FAINT = (0.5, 0.5, 0.5, 0.25)
_LINES: dict[str, Any] = {"solid": "-", "dot": ":", "dash": "--", "dashdot": "-.", "longdash": (0, (8, 2))}
_MARKERS = ("o", "s", "D", "^", "*", "P", "X", "p")
_STYLE: dict[str, Any] = {
    "axes.edgecolor": _FAINT, "axes.facecolor": "none", "axes.grid": True, "axes.labelcolor": _INK,
    "axes.labelpad": 6, "axes.spines.right": False, "axes.spines.top": False, "figure.facecolor": "none",
    "font.family": "sans-serif", "font.size": 9.5, "grid.color": _FAINT[:3], "grid.alpha": _FAINT[3],
    "legend.columnspacing": 1.4, "legend.frameon": False, "legend.handlelength": 2.0,
    "legend.handletextpad": 0.5, "lines.solid_capstyle": "round", "lines.markerfacecolor": _PAGE,
    "svg.fonttype": "none", "text.color": _INK, "text.parse_math": False, "xtick.color": _FAINT,
    "xtick.labelcolor": _INK, "ytick.color": _FAINT, "ytick.labelcolor": _INK,
}  # fmt: skip
# A picture has one page for all readers, and its own colours.
_PAPER = {
    "figure.facecolor": "white", "lines.markerfacecolor": "white", "figure.dpi": 130,
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), "#1f2328"),
}  # fmt: skip


def as_png(draw: Callable[[], Figure]) -> bytes:
    """Return what `draw` draws as a picture in few colours, the same for the same tables."""
    with matplotlib.style.context(["default", _STYLE | _PAPER]):
        out = io.BytesIO()
        draw().savefig(out, format="png", metadata={"Software": None})
    # Chosen to cover all colours there are: by frequency the bands would take most, and runs look alike.
    picture = Image.open(out).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def leaderboard_figure(leaderboard: pd.DataFrame, metric: str) -> str:
    """Draw a metric with its interval per run, best on top, and the controls below a line."""
    with _style("leaderboard"):
        return _svg(draw_leaderboard(leaderboard, metric))


def curves_figure(curves: Curves, colours: Mapping[str, str], dashes: Mapping[str, str]) -> str:
    """Draw curves, each run in its colour and line (charts.palette, charts.dashes)."""
    with _style(curves.name):
        return _svg(draw_curves(curves, colours, dashes))


def draw_leaderboard(leaderboard: pd.DataFrame, metric: str) -> Figure:
    """Draw `leaderboard_figure` in the style that is set."""
    table, colours = charts.ranked(leaderboard, metric), charts.palette(leaderboard)
    figure, axes = _figure(height=0.7 + 0.28 * max(len(table), 1))
    for place, row in enumerate(_rows(table)):
        _mark(axes, row["value"], place, row, colours, along="x")
        value = f"{row['value']:.3f}"
        axes.text(1.02, place, value, transform=axes.get_yaxis_transform(), va="center")
    controls = int((table["kind"] == "baseline").sum())
    if 0 < controls < len(table):
        axes.axhline(controls - 0.5, color=_FAINT, linewidth=1.5, linestyle=":")
    axes.set_yticks(range(len(table)), labels=[str(name) for name in table["run"]])
    axes.set_ylim(-0.6, max(len(table), 1) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(charts.axis_title(metric))
    return figure


def draw_curves(curves: Curves, colours: Mapping[str, str], dashes: Mapping[str, str]) -> Figure:
    """Draw `curves_figure` in the style that is set."""
    count = len(curves.panels)
    columns = panel_columns(count)
    lines = -(-count // columns)
    figure = Figure(
        figsize=(WIDTH if columns < 3 else WIDE, 3.7 if count == 1 else 2.3 * lines + 0.5),
        layout="constrained",
    )
    grid = figure.subplots(lines, columns, sharey=not curves.ticks, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, curves.panels.items(), strict=False):
        axes.set_title(title, fontsize="medium")
        for name in panel["run"].unique():
            line = _thinned(panel[panel["run"] == name])
            _draw_line(axes, line, curves, colours[name], dashes[name])
        _finish(axes, curves)
    for axes in grid[:, 0]:
        axes.set_ylabel(curves.y)
    for place in range((lines - 1) * columns, count):
        grid.flat[place].set_xlabel(curves.x)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))
    return figure


def _draw_line(axes: Axes, line: pd.DataFrame, curves: Curves, colour: str, dash: str) -> None:
    """Draw one run's line with its interval: bars over words, a band over numbers."""
    name, few = str(line["run"].iloc[0]), len(line) < 20
    places = [list(curves.ticks).index(x) for x in line["x"]] if curves.ticks else line["x"]
    axes.plot(
        places, line["value"], label=name, color=colour, linestyle=_LINES[dash], linewidth=1.7,
        marker="o" if few else "", markersize=3.5, markerfacecolor=colour,
    )  # fmt: skip
    if line["ci_low"].isna().all():
        return
    if curves.ticks:
        error = [line["value"] - line["ci_low"], line["ci_high"] - line["value"]]
        axes.errorbar(places, line["value"], yerr=error, fmt="none", ecolor=colour, elinewidth=1, capsize=2)
    else:
        axes.fill_between(line["x"], line["ci_low"], line["ci_high"], color=colour, alpha=0.13, linewidth=0)


def _finish(axes: Axes, curves: Curves) -> None:
    """Scale and label a panel's axes."""
    if curves.log_x:
        axes.set_xscale("log")
    if curves.log_y:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    if curves.ticks:
        axes.set_xticks(range(len(curves.ticks)), labels=list(curves.ticks))
    elif curves.log_x and not curves.log_y:
        values = sorted(set(next(iter(curves.panels.values()))["x"]))
        axes.set_xticks(values, labels=[f"{value:g}" for value in values])
    elif curves.log_x:
        axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    if curves.enough:
        axes.axvline(
            curves.enough,
            color=charts.BASELINE_COLOUR,
            linewidth=1,
            linestyle=(0, (1, 2)),
            label=charts.ENOUGH,
        )


def roc_figure(curves: pd.DataFrame, colours: Mapping[str, str], dashes: Mapping[str, str]) -> str:
    """Draw ROC curves over a logarithmic false accept rate, the mean over seeds (charts.palette, dashes)."""
    impostors = int(curves["impostors"].min())
    enough = impostors_needed(1.0) / impostors
    with _style("roc"):
        figure, axes = _figure(height=3.9)
        for name in curves["run"].unique():
            mean = charts.mean_over_seeds(curves[curves["run"] == name], "far", "tar")
            style = {"linestyle": _LINES[dashes[name]], "linewidth": 1.8}
            axes.plot(mean["far"], mean["tar"], label=name, color=colours[name], **style)
        far = np.geomspace(1 / impostors, 1.0, 50)
        axes.plot(far, far, color=_FAINT[:3], alpha=0.5, label=charts.CHANCE, linewidth=1.2)
        if enough < 1:
            colour = charts.BASELINE_COLOUR
            axes.axvline(enough, label=charts.ENOUGH, color=colour, linewidth=1, linestyle=(0, (1, 2)))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set(xlim=(1 / impostors, 1.0), ylim=(0, 1.02))
        axes.set(xlabel=charts.AXES["far"], ylabel=charts.AXES["tar"])
        return _svg(figure, legend=True)


def learning_figure(curves: pd.DataFrame, colours: Mapping[str, str], stage: str) -> str:
    """Draw a stage's loss by step: every seed thin, each run's mean bold."""
    with _style(stage):
        figure, axes = _figure(height=3.1)
        for name in curves["run"].unique():
            part, colour = curves[curves["run"] == name], colours[name]
            for _, seed in part.groupby(["seed", "part"]):
                line = _thinned(seed.sort_values("step"))
                axes.plot(line["step"], line["loss"], color=colour, linewidth=0.7, alpha=0.4)
            mean = _thinned(charts.mean_over_seeds(part, "step", "loss"))
            axes.plot(mean["step"], mean["loss"], label=name, color=colour, linewidth=1.9)
        axes.set(xlabel=charts.AXES["step"], ylabel=charts.AXES["loss"])
        return _svg(figure, legend=True)


def cost_figure(leaderboard: pd.DataFrame, metric: str) -> str:
    """Draw a metric with its interval against the seconds of all training."""
    table = charts.measured_values(leaderboard, metric)
    seconds = table["seconds_pretrain"] + table["seconds_finetune"]
    longest, colours = seconds.max() if len(table) else 1.0, charts.palette(leaderboard)
    same = seconds.groupby(seconds)
    # What took equally long, as the controls' no time at all, stands side by side.
    beside = (same.cumcount() - (same.transform("size") - 1) / 2) * 0.028 * (longest or 1)
    with _style("cost"):
        figure, axes = _figure(height=3.4)
        for place, (row, x) in enumerate(zip(_rows(table), seconds + beside, strict=True)):
            marker = _MARKERS[place % len(_MARKERS)]
            _mark(axes, x, row["value"], row, colours, along="y", marker=marker)
        axes.set_xlim(-0.08 * (longest or 1), 1.08 * (longest or 1))
        axes.set(xlabel=charts.AXES["seconds"], ylabel=charts.axis_title(metric))
        return _svg(figure, legend=len(table) > 0)


def quality_figure(measured: pd.DataFrame, measure: charts.Measure) -> str:
    """Draw how many faces have which value, and the limit beyond which one is doubtful."""
    bins = charts.histogram(measured, measure)
    with _style(f"quality-{measure.column}"):
        figure, axes = _figure(height=2.2, width=SMALL_WIDTH)
        colours = [charts.DOUBT_COLOUR if each else charts.FACE_COLOUR for each in bins["doubtful"]]
        axes.bar(bins["centre"], bins["faces"], width=measure.width, color=colours, log=True)
        for limit in charts.on_axis(np.array(measure.limits), measure):
            axes.axvline(limit, color=charts.BASELINE_COLOUR, linewidth=1.5, linestyle=(0, (1, 2)))
        axes.set_ylim(0.6, 1.6 * float(bins["faces"].max()))
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.minorticks_off()
        labels = charts.ticks(bins, measure)
        if labels is not None:
            axes.set_xticks(list(labels), labels=list(labels.values()))
        elif measure.form.endswith("%}"):
            axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axes.grid(visible=False, axis="x")
        axes.set(xlabel=measure.title, ylabel=charts.FACES)
        return _svg(figure)


def _style(name: str) -> AbstractContextManager[None]:
    """Return a context that draws alike everywhere, whatever the user's own matplotlib settings are.

    `name` goes into the ids: where several figures stand on a page, no two may share one.
    """
    return matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": name}])


def _figure(height: float, width: float = WIDTH) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _mark(
    axes: Axes, x: float, y: float, row: Mapping[str, Any], colours: Mapping[str, str], *, along: str,
    marker: str | None = None,
) -> None:  # fmt: skip
    """Draw a run's value with its interval; the controls' marks are hollow."""
    control = row["kind"] == "baseline"
    error = [[row["value"] - row["ci_low"]], [row["ci_high"] - row["value"]]]
    hollow = matplotlib.rcParams["lines.markerfacecolor"]  # the page's own colour
    colour = colours[row["run"]]
    axes.errorbar(
        [x], [y], xerr=error if along == "x" else None, yerr=error if along == "y" else None, fmt="none",
        ecolor=colour, elinewidth=1.6, capsize=3,
    )  # fmt: skip
    axes.plot(
        [x], [y], marker or ("D" if control else "o"), label=row["run"], color=colour, markersize=7,
        markerfacecolor=hollow if control else colour, markeredgewidth=1.4, zorder=3,
    )  # fmt: skip


def _rows(table: pd.DataFrame) -> Iterator[dict[str, Any]]:
    yield from ({str(key): value for key, value in row.items()} for row in table.to_dict("records"))


def _thinned(line: pd.DataFrame) -> pd.DataFrame:
    """Return every so many rows and the last one."""
    places = np.unique(np.linspace(0, len(line) - 1, min(len(line), MAX_POINTS)).round().astype(int))
    return line.iloc[places]


def _columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit, from the letters in each and the room for its line."""
    lengths = [len(label) for label in labels]
    for count in range(min(5, len(lengths)), 1, -1):
        if sum(int(part.max()) + 7 for part in np.array_split(lengths, count)) <= 71:
            return count
    return 1


def _svg(figure: Figure, *, legend: bool = False) -> str:
    """Return a figure as an element to put into a page; the same tables always give the same text."""
    if legend:
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))
    out = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(out, format="svg", metadata=nothing)
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor").replace(_PAGE, "var(--page, none)")
    # A style sheet within an SVG holds for the whole page, so what it says is said on the element.
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = svg.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # counted anew in every figure, and nothing refers to them
    svg = re.sub(r" ?font-family: [^;\"]*;?", "", svg)  # the page's font
    return re.sub(r"\s*\n\s*", "\n", svg)
