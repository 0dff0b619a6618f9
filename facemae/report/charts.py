"""Charts for the app, which answer to the pointer: a chart as data (chart_spec.py) in, Plotly out."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from facemae.core import layout
from facemae.data.images import encode_png
from facemae.evaluation.records import metric_label
from facemae.report.chart_spec import GUIDE_COLOUR, Axis, Chart, Series
from facemae.report.phrases import difference
from facemae.report.reconstructions import PatchErrors
from facemae.report.tables import verdict_cells

# White text on these has a contrast of at least 4.5, on a light page and on a dark one.
VERDICT_COLOURS = {"worse": "#B34700", "undecided": "#56697D", "equivalent": "#6E6E6E", "better": "#00735C"}
_GRID = "rgba(128, 128, 128, 0.25)"
_CLEAR = "rgba(0,0,0,0)"


def draw(chart: Chart) -> go.Figure:
    """Draw a chart."""
    count, columns = len(chart.panels), chart.columns
    lines = -(-count // columns)
    figure = make_subplots(
        rows=lines, cols=columns, shared_yaxes=not chart.x.words, vertical_spacing=0.22 / lines,
        subplot_titles=list(chart.panels) if count > 1 else None, horizontal_spacing=0.06,
    )  # fmt: skip
    named: set[str] = set()
    for place, panel in enumerate(chart.panels.values()):
        where = {"row": place // columns + 1, "col": place % columns + 1}
        for each in panel:
            _add(figure, each, where, across=chart.across, legend=each.legend and each.name not in named)
            if each.legend:
                named.add(each.name)
    for at, name in chart.guides.items():
        figure.add_vline(x=at, line={"color": GUIDE_COLOUR, "dash": "dot", "width": 1.5})
        if name:  # an empty line, that the legend names it
            style = {"color": GUIDE_COLOUR, "dash": "dot"}
            figure.add_scatter(x=[None], y=[None], name=name, mode="lines", line=style)
    for at in chart.rules:
        figure.add_hline(y=at, line={"color": _GRID, "width": 2, "dash": "dot"})
    finish(figure, height=chart.height if count == 1 else 300 * lines + 90)
    figure.update_xaxes(**_axis(chart.x))
    figure.update_yaxes(**_axis(chart.y))
    for place in range(count):  # titles at the left and below the last row alone
        row, column = place // columns + 1, place % columns + 1
        figure.update_yaxes(title={"text": chart.y.title if column == 1 else None}, row=row, col=column)
        if place < (lines - 1) * columns and place + columns < count:
            figure.update_xaxes(title=None, row=row, col=column)
    figure.update_layout(margin={"t": 30 if count > 1 else 10}, bargap=0, barmode="overlay")
    return figure


def _add(figure: go.Figure, each: Series, where: dict[str, int], *, across: bool, legend: bool) -> None:
    x, y = np.asarray(each.x), np.asarray(each.y)
    shared: dict[str, Any] = {"name": each.name, "legendgroup": each.name, "showlegend": legend} | where
    text = ("%{customdata}" if len(each.text) else "%{y:.3f}") + " at %{x:.3~g}" * (each.line > 0)
    shared |= {"hovertemplate": f"{each.name}: {text}<extra></extra>", "opacity": each.opacity}
    shared["customdata"] = list(each.text) or None
    if each.bar:
        figure.add_bar(x=x, y=y, width=each.bar, marker={"color": each.look.colour}, **shared)
        return
    if each.band and each.low is not None:
        _add_band(figure, each, where)
    modes = ["lines"] * (each.line > 0) + ["markers"] * bool(each.shown_marker)
    ends = {} if each.band or each.low is None else {f"error_{'x' if across else 'y'}": _bars(each, across)}
    figure.add_scatter(
        x=x, y=y, mode="+".join(modes), **shared, **ends,
        line={"width": each.line, "color": each.look.colour, "dash": each.look.dash},
        marker={"size": each.size, "symbol": each.marker or None, "color": each.look.colour},
    )  # fmt: skip


def _bars(each: Series, across: bool) -> dict[str, Any]:
    middle = np.asarray(each.x if across else each.y, float)
    ends = {"array": np.asarray(each.high) - middle, "arrayminus": middle - np.asarray(each.low)}
    return ends | {
        "type": "data", "symmetric": False, "thickness": 1.8, "width": 4, "color": each.look.colour,
    }  # fmt: skip


def _add_band(figure: go.Figure, each: Series, where: dict[str, int]) -> None:
    x, low, high = np.asarray(each.x, float), np.asarray(each.low, float), np.asarray(each.high, float)
    known = ~(np.isnan(low) | np.isnan(high))
    if known.sum() < 2:
        return
    x, low, high = x[known], low[known], high[known]
    red, green, blue = (int(each.look.colour[place : place + 2], 16) for place in (1, 3, 5))
    figure.add_scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", mode="lines",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.14)", line={"width": 0}, hoverinfo="skip",
        name=each.name, legendgroup=each.name, showlegend=False, **where,
    )  # fmt: skip


def _axis(axis: Axis) -> dict[str, Any]:
    found: dict[str, Any] = {"title": {"text": axis.title or None, "standoff": 10}, "showgrid": axis.grid}
    if axis.span:
        found["range"] = np.log10(axis.span).tolist() if axis.log else list(axis.span)
    if axis.log:
        found |= {"type": "log", "dtick": 1, "tickformat": "~g"}
    if axis.words:
        found |= {"type": "category", "categoryorder": "array", "categoryarray": list(axis.words)}
    if axis.labels is not None:
        found |= {"tickvals": list(axis.labels), "ticktext": list(axis.labels.values())}
    return found | ({"tickformat": ".0%"} if axis.percent else {})


def finish(figure: go.Figure, *, height: int) -> None:
    """Give a figure what all share; text has no colour of its own, so that the page's theme sets it."""
    figure.update_layout(
        template="none", height=height, paper_bgcolor=_CLEAR, plot_bgcolor=_CLEAR,
        margin={"l": 10, "r": 10, "t": 10, "b": 10}, font={"size": 13}, hovermode="closest",
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0}, dragmode=False,
    )  # fmt: skip
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    figure.update_xaxes(**axis)
    figure.update_yaxes(**axis)


# --- figures of the app alone ---


def verdict_matrix(
    verdicts: pd.DataFrame, metric: str, runs: Sequence[str], controls: Sequence[str]
) -> go.Figure:
    """Draw the verdict on every run (column) against every other run and control (row)."""
    by_opponent, codes = verdict_cells(verdicts, metric, runs, controls), list(VERDICT_COLOURS)
    opponents, cells = list(by_opponent), list(by_opponent.values())
    colours = [[place / (len(codes) - 1), VERDICT_COLOURS[code]] for place, code in enumerate(codes)]
    figure = go.Figure(
        go.Heatmap(
            x=list(runs), y=opponents, xgap=3, ygap=3,
            z=[[codes.index(cell["verdict"]) if cell else None for cell in row] for row in cells],
            zmin=0, zmax=len(codes) - 1, colorscale=colours, showscale=False, hoverongaps=False,
            text=[[_cell_text(cell) if cell else "" for cell in row] for row in cells],
            hovertext=[[_cell_hover(cell, metric) if cell else "" for cell in row] for row in cells],
            texttemplate="%{text}", hovertemplate="%{hovertext}<extra></extra>",
            textfont={"color": "white", "size": 12},
        )
    )  # fmt: skip
    finish(figure, height=130 + 46 * len(opponents))
    figure.update_xaxes(title="this run…", side="top", showgrid=False, zeroline=False)
    figure.update_yaxes(title="…against this one", autorange="reversed", showgrid=False, zeroline=False)
    return figure


def _cell_text(cell: dict[str, Any]) -> str:
    primary = "<br>primary" if cell["family"] == layout.PRIMARY else ""
    return f"<b>{cell['verdict']}</b><br>{cell['difference']:+.3f}{primary}"


def _cell_hover(cell: dict[str, Any], metric: str) -> str:
    return (
        f"<b>{cell['run_a']} against {cell['run_b']}: {cell['verdict']}</b><br>"
        f"{metric_label(metric)}: {difference(cell)}"
        f"<br>adjusted p: {cell['p_adjusted']:.3f}, {cell['family']}"
        + (f"<br>{cell['note']}" if cell["note"] else "")
    )


def error_map(errors: PatchErrors) -> go.Figure:
    """Draw the share of each patch's variation that a run's completions miss, over the mean face."""
    side = len(errors.missed)
    hover = [
        [
            f"missed {share:.0%}<br>{grey:.0f} grey levels<br>hidden {times} times"
            if times and not np.isnan(share)
            else f"hidden {times} times, too rarely"
            for share, grey, times in zip(*row, strict=True)
        ]
        for row in zip(errors.missed, errors.grey, errors.times, strict=True)
    ]
    picture = base64.b64encode(encode_png(errors.face)).decode()
    figure = go.Figure(
        go.Heatmap(
            z=errors.missed, zmin=0, zmax=1, colorscale="Cividis", opacity=0.72, xgap=1, ygap=1,
            hovertext=hover, hovertemplate="%{hovertext}<extra></extra>", hoverongaps=True,
            colorbar={"thickness": 8, "tickvals": [0, 0.5, 1], "len": 0.8, "y": 0.4, "outlinewidth": 0},
        )
    )  # fmt: skip
    figure.add_layout_image(
        source=f"data:image/png;base64,{picture}", xref="x", yref="y", x=-0.5, y=-0.5, sizex=side,
        sizey=side, sizing="stretch", layer="below",
    )  # fmt: skip
    finish(figure, height=210)
    figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0})
    figure.update_xaxes(visible=False, range=[-0.5, side - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[side - 0.5, -0.5], scaleanchor="x", constrain="domain")
    return figure
