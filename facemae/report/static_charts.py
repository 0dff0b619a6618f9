"""Charts that can be printed and need no script: a chart as data (chart_spec.py) in, SVG or PNG out."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from PIL import Image

from facemae.report.chart_spec import GUIDE_COLOUR, Axis, Chart, Series

WIDTH = 5.4  # inches; on a telephone, where all of it shrinks to the screen, text can still be read
WIDE, NARROW = 7.4, 3.7  # inches, of several panels side by side, and of a chart beside others
PIXELS = 118  # of a chart's height for an inch
MAX_POINTS = 250  # a line; more would not be seen, and many runs and seeds must fit into one page
# Nothing of ours has these colours: in the SVG the page's own take their place, so that its theme sets them.
_INK, _PAGE = "#010203", "#010204"
_FAINT = (0.5, 0.5, 0.5, 0.25)
_LINES: dict[str, Any] = {"solid": "-", "dot": ":", "dash": "--", "dashdot": "-.", "longdash": (0, (8, 2))}
_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "star": "*", "cross": "P", "x": "X",
    "pentagon": "p",
}  # fmt: skip
_STYLE: dict[str, Any] = {
    "axes.axisbelow": True, "axes.edgecolor": _FAINT, "axes.facecolor": "none", "axes.grid": True,
    "axes.labelcolor": _INK, "axes.labelpad": 6, "axes.spines.right": False, "axes.spines.top": False,
    "axes.titlesize": "medium", "figure.facecolor": "none", "font.family": "sans-serif", "font.size": 9.5,
    "grid.color": _FAINT[:3], "grid.alpha": _FAINT[3], "legend.columnspacing": 1.4, "legend.frameon": False,
    "legend.handlelength": 2.0, "legend.handletextpad": 0.5, "lines.solid_capstyle": "round",
    "lines.markerfacecolor": _PAGE, "svg.fonttype": "none", "text.color": _INK, "text.parse_math": False,
    "xtick.color": _FAINT, "xtick.labelcolor": _INK, "ytick.color": _FAINT, "ytick.labelcolor": _INK,
}  # fmt: skip
# A picture has one page for all readers, and its own colours.
_PAPER = {
    "figure.facecolor": "white", "lines.markerfacecolor": "white", "figure.dpi": 130,
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), "#1f2328"),
}  # fmt: skip


def svg(chart: Chart) -> str:
    """Return a chart as an element to put into a page; the same specification always gives the same text."""
    # Ids are salted with the name: where several charts stand on a page, no two may share one.
    with matplotlib.style.context(["default", _STYLE | {"svg.hashsalt": chart.name}]):
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        _figure(chart).savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor").replace(_PAGE, "var(--page, none)")
    # A style sheet within an SVG holds for the whole page, so what it says is said on the element.
    text = re.sub(r"<style.*?</style>", "", text, flags=re.DOTALL)
    text = text.replace("<svg ", '<svg stroke-linejoin="round" stroke-linecap="butt" ', 1)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # counted in every figure, and nothing refers to them
    text = re.sub(r" ?font-family: [^;\"]*;?", "", text)  # the page's font
    return re.sub(r"\s*\n\s*", "\n", text)


def png(chart: Chart) -> bytes:
    """Return a chart as a picture in few colours, the same for the same specification."""
    with matplotlib.style.context(["default", _STYLE | _PAPER]):
        out = io.BytesIO()
        _figure(chart).savefig(out, format="png", metadata={"Software": None})
    # Chosen to cover all colours there are: by frequency the bands would take most, and runs look alike.
    picture = Image.open(out).convert("RGB")
    picture = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    small = io.BytesIO()
    picture.save(small, "PNG", optimize=True)
    return small.getvalue()


def _figure(chart: Chart) -> Figure:
    count, columns = len(chart.panels), chart.columns
    lines = -(-count // columns)
    width = NARROW if chart.narrow else WIDTH if columns < 3 else WIDE
    height = chart.height / PIXELS if count == 1 else 2.3 * lines + 0.5
    figure = Figure(figsize=(width, height), layout="constrained")
    grid = figure.subplots(lines, columns, sharey=not chart.x.words, squeeze=False)
    for axes in grid.flat[count:]:
        axes.set_visible(False)
    for axes, (title, panel) in zip(grid.flat, chart.panels.items(), strict=False):
        axes.set_title(title)
        for each in panel:
            _draw(axes, each, chart)
        for place, name in chart.guides.items():
            label = name or "_nolegend_"
            axes.axvline(place, color=GUIDE_COLOUR, linewidth=1.2, linestyle=(0, (1, 2)), label=label)
        for place in chart.rules:
            axes.axhline(place, color=_FAINT, linewidth=1.5, linestyle=":")
        _set(axes, axes.xaxis, chart.x, axes.set_xlim)
        _set(axes, axes.yaxis, chart.y, axes.set_ylim)
    for axes in grid[:, 0]:
        axes.set_ylabel(chart.y.title)
    for place in range(max(0, count - columns), count):  # below the last panel of each column
        grid.flat[place].set_xlabel(chart.x.title)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if labels:
        figure.legend(handles, labels, loc="outside lower center", ncols=_columns(labels))
    return figure


def _draw(axes: Axes, each: Series, chart: Chart) -> None:
    x, y = _places(each.x, chart.x), _places(each.y, chart.y)
    kept = _thinned(len(x))
    x, y, colour = x[kept], y[kept], each.look.colour
    label = each.name if each.legend else "_nolegend_"
    if each.bar:
        axes.bar(x, y, width=each.bar, color=colour, log=chart.y.log)
        return
    if each.low is not None:
        low, high = (np.asarray(end, float)[kept] for end in (each.low, each.high))
        if each.band:
            axes.fill_between(x, low, high, color=colour, alpha=0.13, linewidth=0)
        else:
            middle = x if chart.across else y
            ends: dict[str, Any] = {"xerr" if chart.across else "yerr": [middle - low, high - middle]}
            axes.errorbar(x, y, fmt="none", ecolor=colour, elinewidth=1.6, capsize=3, **ends)
    hollow = matplotlib.rcParams["lines.markerfacecolor"]  # the page's own colour
    marker = each.shown_marker.removesuffix("-open")
    axes.plot(
        x, y, label=label, color=colour, linestyle=_LINES[each.look.dash] if each.line else "",
        linewidth=0.85 * each.line, alpha=each.opacity, marker=_MARKERS.get(marker, ""),
        markersize=0.64 * each.size, markeredgewidth=1.4,
        markerfacecolor=hollow if each.marker.endswith("-open") else colour, zorder=2 if each.line else 3,
    )  # fmt: skip
    if chart.across:
        for place, value in zip(y, x, strict=True):
            axes.text(1.02, place, f"{value:.3f}", transform=axes.get_yaxis_transform(), va="center")


def _places(values: Any, axis: Axis) -> np.ndarray:
    """Return where values stand on an axis: words by their order."""
    return np.asarray([list(axis.words).index(each) for each in values] if axis.words else values, float)


def _thinned(count: int) -> np.ndarray:
    """Return which points of a line are drawn: every so many, and the last one."""
    return np.unique(np.linspace(0, count - 1, min(count, MAX_POINTS)).round().astype(int))


def _set(axes: Axes, side: Any, axis: Axis, limit: Any) -> None:
    if axis.log:
        side._set_axes_scale("log")
    labels = dict(enumerate(axis.words)) if axis.words else axis.labels
    if labels is not None:
        side.set_ticks(list(labels), labels=list(labels.values()))
        side.set_tick_params(which="both", length=0)
    elif axis.percent:
        side.set_major_formatter(PercentFormatter(1, decimals=0))
    elif axis.log:
        side.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    if axis.span or axis.words:
        limit(*(axis.span or (-0.6, max(len(axis.words), 1) - 0.4)))
    if not axis.grid:
        side.grid(visible=False)


def _columns(labels: Sequence[str]) -> int:
    """Return how many columns of a legend fit, from the letters in each and the room for its line."""
    lengths = [len(label) for label in labels]
    for count in range(min(5, len(lengths)), 1, -1):
        if sum(int(part.max()) + 7 for part in np.array_split(lengths, count)) <= 71:
            return count
    return 1
