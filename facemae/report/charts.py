"""Charts and picture strips of the report and the app: tables in, Plotly figures or pixels out.

Shapes: B faces, H side of a face in pixels, N patches. Bool masks: True = hidden.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray

from facemae.core import layout
from facemae.data.alignment import quality
from facemae.data.images import encode_png
from facemae.evaluation.metrics import impostors_needed
from facemae.evaluation.records import higher_is_better
from facemae.report.phrases import metric_label, scalars, turned
from facemae.report.tables import PatchErrors

Pixels = NDArray[np.uint8]

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is for what does not pretrain.
STRATEGY_COLOURS = {
    "random": "#0072B2", "block": "#E69F00", "grid": "#009E73", "region": "#CC79A7",
    "simclr": "#D55E00", "moco": "#56B4E9", "dino": "#7B61A8",
}  # fmt: skip
MORE_COLOURS = ("#8C6D31", "#B5446E", "#4C8C3F", "#3F6FD1")
SCRATCH_COLOUR, BASELINE_COLOUR = "#7A7A7A", "#9E9E9E"
# Further runs without pretraining: cheap controls, such as dropping patches while fine-tuning.
CHEAP_COLOURS = ("#A08060", "#6E8898", "#9A7F95")
# White text on these has a contrast of at least 4.5, on a light page and on a dark one.
VERDICT_COLOURS = {"worse": "#B34700", "undecided": "#56697D", "equivalent": "#6E6E6E", "better": "#00735C"}
_GRID = "rgba(128, 128, 128, 0.25)"
_DASHES = ("dot", "dash", "dashdot")
_RIVALS = ("simclr", "moco", "dino")
RIVAL_DASH = "longdash"
_HIDDEN_GREY = 128
_GAP = 4  # pixels between the pictures of a strip

HOW_TO_READ = {
    "leaderboard": (
        "Each dot is the mean over seeds and each bar its interval for new people and new training; "
        "overlapping bars do not make two runs equal, because the verdict compares them person by person."
    ),
    "verdicts": (
        "Read down a column: that run is better than, worse than or equivalent to the row's, or undecided, "
        "which is no proof of equality; verdicts allow for the number of comparisons, so an interval may "
        "leave out zero and still be undecided. What is marked primary was fixed before the run; all else is "
        "exploratory."
    ),
    "roc": (
        "The higher a curve at a false accept rate, the better; left of the dotted line fewer than 30 "
        "false accepts are behind it, too few to tell runs apart."
    ),
    "pretrain": (
        "Falling means learning, but a lower curve is no better strategy: each mask sets a puzzle of its own "
        "difficulty. Thin lines are seeds, the bold one their mean."
    ),
    "finetune": (
        "Lower means that the training people are told apart better, which says little about new people; the "
        "loss rises early where its margin is raised. Thin lines are seeds, the bold one their mean."
    ),
    "det": (
        "The lower a curve, the fewer errors of either kind; both axes are logarithmic. Left of the dotted "
        "line fewer than 30 false accepts are behind a curve, too few to tell runs apart."
    ),
    "cost": (
        "Further up is better unless the metric is an error rate, further left is cheaper; a run that is "
        "only further right bought nothing for its extra seconds."
    ),
    "masks": (
        "Grey patches are hidden from the encoder; every strategy with the same ratio hides equally many, "
        "only their places differ."
    ),
    "measures": (
        "Visible: tokens of an image that the encoder sees. Entropy: how unsure one can be, in bits, whether "
        "a place is hidden; 0 is the same mask for all. Clumping: share of neighbouring patches in the same "
        "state; a chessboard has 0. Then the share of each face region that is hidden. Error: on the hidden "
        "patches of unseen faces under one random mask for all runs, so that it compares across strategies; "
        "empty where another ratio, target or loss makes it another question. "
        "Seconds include what a guide costs; the share beside them is of the random mask's."
    ),
    "reconstructions": (
        "Top: the face; middle: what the encoder sees; bottom: its completion. Sharper pictures do not mean "
        "better recognition, and hidden patches may borrow brightness and contrast from the original."
    ),
    "errors": (
        "Each cell is a patch of the face: the share of its own variation that the completion misses, 0 "
        "(dark) is perfect and 1 (bright) no better than the patch's mean colour. Empty cells were hidden "
        "too rarely."
    ),
    "animated": (
        "Every picture is the same face under new masks of one strategy, one a second; what never changes "
        "between them is what the strategy cannot teach the encoder to guess."
    ),
    "progress": (
        "The loss of every training that is not finished, by step: it should fall. Two runs' losses do not "
        "compare, since each mask sets a puzzle of its own difficulty."
    ),
    "quality": (
        "Faces beyond a dotted line are doubtful: they are used all the same, but are worth a look. "
        "The counts are logarithmic, so that a single face can be seen."
    ),
}
ALT = {
    "leaderboard": "Dot plot: one metric with its interval for every run, and the controls below a line.",
    "verdicts": "Matrix of verdicts: better, worse, equivalent or undecided, each run against each other.",
    "roc": "Line chart: true accept rate against false accept rate, one curve per run and control.",
    "pretrain": "Line chart: pretraining loss by step for every pretrained run and seed.",
    "finetune": "Line chart: fine-tuning loss by step for every run and seed.",
    "det": "Line chart: false non-match rate against false accept rate, one curve per run and control.",
    "cost": "Scatter plot: one metric with its interval against the seconds of training, one mark per run.",
    "masks": "One face several times, each time with other patches hidden in grey.",
    "measures": "Table of masks: visible tokens, entropy, clumping, hidden shares, error and seconds.",
    "reconstructions": "Rows of faces: original, with hidden patches in grey, and reconstructed.",
    "errors": "Heat map over the mean face: the share of each patch's variation that a run misses.",
    "animated": "One face under a mask that changes every second.",
    "progress": "Line chart: loss by step of every training that is not finished.",
    "quality": "Histogram: how many faces have which value, with the limit beyond which one is doubtful.",
}

ROC_INTERVALS = (
    "The pale band of a curve spans its seeds, the lowest to the highest; a bar is the interval for new "
    "people and new training at a wanted rate, where enough impostors are behind it. Bars of one rate stand "
    "side by side to be told apart."
)
BAR_STEP = 0.03  # powers of ten between two runs' bars at one rate

AXES = {
    "far": "false accept rate (FAR, logarithmic)",
    "tar": "true accept rate",
    "step": "step",
    "loss": "loss",
    "seconds": "seconds of training",
}
ENOUGH = "30 false accepts"  # the name of the line that impostors_needed() draws
CHANCE = "chance"

TWICE = "Pictures and people found twice"  # the heading over what the split took out or passed on
_SHARED = {
    "name": "same name", "bytes": "same file", "copy": "same file", "hash": "nearly the same picture",
    "embedding": "nearly the same embedding",
}  # fmt: skip
_DONE = {
    "excluded": "taken out of training",
    "dropped": "the second evaluation face is left out",
    "kept": "faces of two evaluation people, both are kept",
}
FACES = "faces (logarithmic)"
FACE_COLOUR, DOUBT_COLOUR = STRATEGY_COLOURS["random"], STRATEGY_COLOURS["simclr"]


@dataclass(frozen=True)
class Measure:
    """Something measured on every aligned face, and the doubt that it raises beyond its limit.

    Attributes:
        column: Where `reading.quality` has it.
        doubt: Code in `quality.DOUBTS`.
        name: What it is, in a word or two.
        title: The same, with its unit.
        limit: Where the doubt begins.
        low: Low values are the doubtful ones, not those far from 0.
        width: Of a histogram's bin, in tenfold steps if `tenfold`.
        form: How to write a value.
        tenfold: The axis is logarithmic.
    """

    column: str
    doubt: str
    name: str
    title: str
    limit: float
    low: bool
    width: float
    form: str
    tenfold: bool = False

    @property
    def limits(self) -> list[float]:
        """Return where lines are to be drawn: on both sides for what has a sign."""
        return [-self.limit, self.limit] if self.column == "yaw" else [self.limit]

    def text(self, value: float | None) -> str:
        """Return a value as text, "" where nothing was measured."""
        return "" if value is None or np.isnan(value) else self.form.format(value)


MEASURES = (
    Measure(
        "score", quality.UNSURE, "Confidence", "detector's confidence",
        quality.MIN_SURE_SCORE, low=True, width=0.005, form="{:.3f}",
    ),
    Measure(
        "face_px", quality.SMALL, "Face width", "width of the face in the photo, pixels",
        quality.MIN_FACE_PX, low=True, width=0.05, form="{:.0f} px", tenfold=True,
    ),
    Measure(
        "residual", quality.ODD, "Off template", "landmarks off the template, share of the side",
        quality.MAX_RESIDUAL_SHARE, low=False, width=0.0025, form="{:.1%}",
    ),
    Measure(
        "yaw", quality.TURNED, "Turn", "turn of the head, degrees",
        quality.MAX_YAW, low=False, width=2.5, form="{:+.0f}\N{DEGREE SIGN}",
    ),
    Measure(
        "sharpness", quality.BLURRED, "Sharpness", "sharpness (variance of the Laplacian)",
        quality.MIN_SHARPNESS, low=True, width=0.1, form="{:.0f}", tenfold=True,
    ),
)  # fmt: skip
BY_DOUBT = {measure.doubt: measure for measure in MEASURES}
_LEAST = 0.1  # of a logarithmic axis; less is drawn there


def overlap_words(kind: str, action: str) -> str:
    """Return what two faces share and what was done about it."""
    return f"{_SHARED.get(kind, kind)}, {_DONE.get(action, action)}"


def worst_first(measured: pd.DataFrame, doubt: str | None = None) -> pd.DataFrame:
    """Return the faces of `reading.quality` with a doubt, the worst first; None: all, most doubts first."""
    doubts = measured["doubts"]
    if doubt is None:
        count = (doubts != "") + doubts.str.count(", ")
        order = measured.assign(doubts_count=-count).sort_values(["doubts_count", "sharpness"], kind="stable")
        return order.drop(columns="doubts_count")
    measure = BY_DOUBT[doubt]
    part = measured[[doubt in codes.split(", ") for codes in doubts]]
    return part.sort_values(measure.column, key=abs, ascending=measure.low, kind="stable")


def histogram(measured: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the bins that hold faces: centre on the axis, faces, doubtful. A limit lies between two bins."""
    values = on_axis(measured[measure.column].dropna().to_numpy(float), measure)
    limit = float(on_axis(np.array([measure.limit]), measure)[0])
    # Bins include their upper end, since a confidence of exactly 1 is common.
    place, count = np.unique(np.ceil((values - limit) / measure.width - 1e-6) - 1, return_counts=True)
    centre = limit + (place + 0.5) * measure.width
    doubtful = centre < limit if measure.low else abs(centre) > limit
    return pd.DataFrame({"centre": centre, "faces": count, "doubtful": doubtful})


def on_axis(values: NDArray[np.float64], measure: Measure) -> NDArray[np.float64]:
    """Return where values stand on a measure's axis: at their logarithm to base 10 if it is logarithmic."""
    return np.log10(np.maximum(values, _LEAST)) if measure.tenfold else values


def ticks(bins: pd.DataFrame, measure: Measure) -> dict[float, str] | None:
    """Return the labels of a logarithmic axis by place; None for another axis, which labels itself."""
    if not measure.tenfold:
        return None
    low, high = bins["centre"].min() - measure.width, bins["centre"].max() + measure.width
    steps = (1, 2, 5) if high - low < 2.5 else (1,)
    values = [step * 10.0**power for power in range(-1, 6) for step in steps]
    return {float(np.log10(value)): f"{value:g}" for value in values if low <= np.log10(value) <= high}


def palette(leaderboard: pd.DataFrame) -> dict[str, str]:
    """Return each run's colour: its strategy's, or another one where runs share a strategy."""
    colours: dict[str, str] = {}
    more = iter(MORE_COLOURS * len(leaderboard))
    cheap = iter((SCRATCH_COLOUR, *CHEAP_COLOURS * len(leaderboard)))
    for row in rows_of(leaderboard.drop_duplicates("run")):
        colour = STRATEGY_COLOURS.get(row["strategy"])
        if row["kind"] == "baseline":
            colour = BASELINE_COLOUR
        elif row["strategy"] == "none":
            colour = next(cheap)
        elif colour is None or colour in colours.values():
            colour = next(more)
        colours[row["run"]] = colour
    return colours


def dashes(leaderboard: pd.DataFrame) -> dict[str, str]:
    """Return each run's line, by Plotly's names: what is no masked autoencoder has another than solid.

    Training from scratch, the first run without pretraining, is solid too.
    """
    lines: dict[str, str] = {}
    controls = iter(_DASHES * len(leaderboard))
    cheap = iter(("solid", *_DASHES * len(leaderboard)))
    for row in rows_of(leaderboard.drop_duplicates("run")):
        if row["kind"] == "baseline":
            lines[row["run"]] = next(controls)
        elif row["strategy"] == "none":
            lines[row["run"]] = next(cheap)
        else:
            lines[row["run"]] = RIVAL_DASH if row["strategy"] in _RIVALS else "solid"
    return lines


def axis_title(metric: str) -> str:
    """Return a metric's name in words and its better direction."""
    direction = "higher" if higher_is_better(metric) else "lower"
    return f"{metric_label(metric)} ({direction} is better)"


def ranked(leaderboard: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of a metric that have a value: controls first, then runs, the best last in each."""
    table = measured_values(leaderboard, metric)
    best_last = table.sort_values("value", ascending=higher_is_better(metric))
    return pd.concat([best_last[best_last["kind"] == kind] for kind in ("baseline", "run")])


def measured_values(leaderboard: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of a metric that have a value and were measured under no condition, one per run."""
    table = scalars(leaderboard)
    return table[(table["metric"] == metric) & table["value"].notna()]


def mean_over_seeds(part: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the mean of `y` at every `x` of one run's curves."""
    return part.groupby(x)[[y]].mean().reset_index()


def verdict_cells(
    verdicts: pd.DataFrame, metric: str, runs: Sequence[str], controls: Sequence[str]
) -> dict[str, list[dict[str, Any] | None]]:
    """Return by run and control (row) the comparison of every run (column) with it, from the run's side."""
    judged = {(row["run_a"], row["run_b"]): row for row in rows_of(verdicts[verdicts["metric"] == metric])}
    return {opponent: [_cell(judged, run, opponent) for run in runs] for opponent in (*runs, *controls)}


def leaderboard_chart(
    leaderboard: pd.DataFrame, metric: str, colours: Mapping[str, str] | None = None
) -> go.Figure:
    """Draw a metric with its interval per run, best on top, and the controls below a line.

    Where only some of the runs are drawn, `colours` is the palette of all, so that each keeps its own.
    """
    table, controls = ranked(leaderboard, metric), 0
    colours, figure = colours or palette(leaderboard), go.Figure()
    for row in rows_of(table):
        controls += row["kind"] == "baseline"
        name, colour = row["run"], colours[row["run"]]
        marker = {"size": 11, "symbol": "diamond-open" if row["kind"] == "baseline" else "circle"}
        figure.add_scatter(
            x=[row["value"]], y=[name], mode="markers", marker=marker | {"color": colour}, showlegend=False,
            error_x=_interval(row, colour), hovertemplate=f"{name}: {_with_interval(row)}<extra></extra>",
        )  # fmt: skip
    if 0 < controls < len(table):
        figure.add_hline(y=controls - 0.5, line={"color": _GRID, "width": 2, "dash": "dot"})
    finish(figure, x=axis_title(metric), y=None, height=110 + 36 * len(table))
    return figure


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
            text=[[_cell_text(cell) for cell in row] for row in cells], texttemplate="%{text}",
            hovertext=[[_cell_hover(cell, metric) for cell in row] for row in cells],
            hovertemplate="%{hovertext}<extra></extra>", textfont={"color": "white", "size": 12},
        )
    )  # fmt: skip
    finish(figure, x="this run…", y="…against this one", height=130 + 46 * len(opponents))
    figure.update_xaxes(side="top", showgrid=False, zeroline=False)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    return figure


def roc_chart(
    curves: pd.DataFrame,
    colours: Mapping[str, str],
    dashes: Mapping[str, str],
    *,
    every_seed: bool = False,
    bars: pd.DataFrame | None = None,
) -> go.Figure:
    """Draw ROC curves over a logarithmic false accept rate: the mean over seeds, or every seed.

    With `bars` (see `rate_intervals`) the means have these and bands that span the seeds.
    """
    figure = go.Figure()
    for name in curves["run"].unique():
        part = curves[curves["run"] == name]
        if bars is not None and not every_seed:
            add_band(figure, spread(part, "far", "tar"), colours[name], name)
        style = {"color": colours[name], "dash": dashes[name]}
        lines = (
            [line for _, line in part.groupby("seed")]
            if every_seed
            else [mean_over_seeds(part, "far", "tar")]
        )
        for place, line in enumerate(lines):
            _add_line(figure, line["far"], line["tar"], name, style, show=place == 0)
    if bars is not None and not every_seed:
        add_bars(figure, bars.rename(columns={"far": "x"}), colours)
    impostors = int(curves["impostors"].min())
    far = np.geomspace(1 / impostors, 1.0, 50)
    _add_line(figure, far, far, CHANCE, {"color": _GRID})
    enough = impostors_needed(1.0) / impostors
    style = {"color": BASELINE_COLOUR, "dash": "dot"}
    if enough < 1:
        _add_line(figure, [enough, enough], [0, 1], ENOUGH, style)
    finish(figure, x=AXES["far"], y=AXES["tar"], height=440)
    figure.update_xaxes(type="log", dtick=1, tickformat="~g")
    figure.update_yaxes(range=[0, 1.02])
    return figure


def rate_intervals(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Return the true accept rates at the wanted false ones: run, far, value, ci_low and ci_high.

    Refused ones are left out. The runs of one rate are set apart by `BAR_STEP`, so that bars do not cover
    each other.
    """
    table = scalars(leaderboard)
    table = table[table["metric"].str.startswith("tar_at_far=") & table["value"].notna()]
    order = {name: place for place, name in enumerate(table["run"].unique())}
    far = [
        float(metric.partition("=")[2]) * 10 ** (BAR_STEP * (order[run] - (len(order) - 1) / 2))
        for metric, run in zip(table["metric"], table["run"], strict=True)
    ]
    columns = ["run", "far", "value", "ci_low", "ci_high"]
    return table.assign(far=far)[columns].reset_index(drop=True)


def spread(part: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return the lowest and highest `y` of one run's seeds at every x, with columns x, ci_low and ci_high."""
    found = part.groupby(x)[y].agg(ci_low="min", ci_high="max").reset_index()
    return found.rename(columns={x: "x"})


def add_band(figure: go.Figure, line: pd.DataFrame, colour: str, name: str, **where: int) -> None:
    """Draw what lies between ci_low and ci_high along x, pale and in the legend's group of its curve."""
    line = line[line["ci_low"].notna() & line["ci_high"].notna()]
    if len(line) < 2:
        return
    figure.add_scatter(
        x=np.concatenate([line["x"], line["x"][::-1]]), fill="toself", mode="lines", hoverinfo="skip",
        y=np.concatenate([line["ci_high"], line["ci_low"][::-1]]), fillcolor=faint(colour),
        line={"width": 0}, name=name, legendgroup=name, showlegend=False, **where,
    )  # fmt: skip


def add_bars(figure: go.Figure, bars: pd.DataFrame, colours: Mapping[str, str]) -> None:
    """Draw intervals (columns run, x, value, ci_low, ci_high) as a dot with a bar, beside their curves."""
    for name in bars["run"].unique():
        part, colour = bars[bars["run"] == name], colours[name]
        shape = {"type": "data", "symmetric": False, "thickness": 1.5, "width": 3, "color": colour}
        above, below = part["ci_high"] - part["value"], part["value"] - part["ci_low"]
        figure.add_scatter(
            x=part["x"].to_numpy(), y=part["value"].to_numpy(), mode="markers", name=name, legendgroup=name,
            showlegend=False, marker={"size": 6, "color": colour},
            error_y=shape | {"array": above.to_numpy(), "arrayminus": below.to_numpy()},
            customdata=[_with_interval(row) for row in rows_of(part)],
            hovertemplate=f"{name}: %{{customdata}}<extra></extra>",
        )  # fmt: skip


def faint(colour: str) -> str:
    """Return a colour "#RRGGBB" so pale that what lies below can be seen."""
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, 0.14)"


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
    finish(figure, x="", y=None, height=210)
    figure.update_layout(margin={"l": 0, "r": 0, "t": 0, "b": 0})
    figure.update_xaxes(visible=False, range=[-0.5, side - 0.5], constrain="domain")
    figure.update_yaxes(visible=False, range=[side - 0.5, -0.5], scaleanchor="x", constrain="domain")
    return figure


def learning_chart(curves: pd.DataFrame, colours: Mapping[str, str]) -> go.Figure:
    """Draw the loss by step: every seed thin, each run's mean bold."""
    figure = go.Figure()
    for name in curves["run"].unique():
        part, colour = curves[curves["run"] == name], colours[name]
        for _, seed in part.groupby(["seed", "part"]):
            _add_line(figure, seed["step"], seed["loss"], name, {"color": colour, "width": 1}, show=False)
            figure.data[-1].opacity = 0.4
        mean = mean_over_seeds(part, "step", "loss")
        _add_line(figure, mean["step"], mean["loss"], name, {"color": colour, "width": 2.5})
    finish(figure, x=AXES["step"], y=AXES["loss"], height=360)
    return figure


def cost_chart(leaderboard: pd.DataFrame, metric: str, colours: Mapping[str, str] | None = None) -> go.Figure:
    """Draw a metric with its interval against the seconds of all training, colours as leaderboard_chart."""
    table = measured_values(leaderboard, metric)
    symbols = ("circle", "square", "diamond", "triangle-up", "star", "cross", "x", "pentagon")
    colours, figure = colours or palette(leaderboard), go.Figure()
    for place, row in enumerate(rows_of(table)):
        name, colour = row["run"], colours[row["run"]]
        seconds = row["seconds_pretrain"] + row["seconds_finetune"]
        symbol = symbols[place % len(symbols)] + ("-open" if row["kind"] == "baseline" else "")
        figure.add_scatter(
            x=[seconds], y=[row["value"]], name=name, mode="markers", error_y=_interval(row, colour),
            marker={"size": 11, "color": colour, "symbol": symbol},
            hovertemplate=f"{name}: {_with_interval(row)}, {seconds:.0f} s<extra></extra>",
        )  # fmt: skip
    finish(figure, x=AXES["seconds"], y=axis_title(metric), height=400)
    longest = float((table["seconds_pretrain"] + table["seconds_finetune"]).max()) if len(table) else 0.0
    figure.update_xaxes(range=[-0.05 * (longest or 1), 1.08 * (longest or 1)])
    return figure


def quality_chart(measured: pd.DataFrame, measure: Measure) -> go.Figure:
    """Draw how many faces have which value, and the limit beyond which one is doubtful."""
    bins, figure = histogram(measured, measure), go.Figure()
    for doubtful, name, colour in ((False, "no doubt", FACE_COLOUR), (True, "doubtful", DOUBT_COLOUR)):
        part = bins[bins["doubtful"] == doubtful]
        figure.add_bar(
            x=part["centre"], y=part["faces"], width=measure.width, name=name, marker={"color": colour},
            hovertemplate=f"%{{y}} faces, {name}<extra></extra>", showlegend=False,
        )  # fmt: skip
    for limit in on_axis(np.array(measure.limits), measure):
        figure.add_vline(x=limit, line={"color": BASELINE_COLOUR, "width": 2, "dash": "dot"})
    finish(figure, x=measure.title, y=FACES, height=230)
    figure.update_layout(bargap=0, barmode="overlay")
    most = float(bins["faces"].max()) if len(bins) else 1.0
    figure.update_yaxes(type="log", dtick=1, range=[np.log10(0.6), np.log10(most * 1.6)], tickformat="~s")
    labels = ticks(bins, measure)
    if labels is not None:
        figure.update_xaxes(tickvals=list(labels), ticktext=list(labels.values()))
    elif measure.form.endswith("%}"):
        figure.update_xaxes(tickformat=".0%")
    return figure


def masked(face: Pixels, hidden: NDArray[np.bool_]) -> Pixels:
    """Return faces (B, H, H, 3) with their hidden patches in flat grey."""
    side = round(hidden.shape[1] ** 0.5)
    patch = face.shape[1] // side
    grid = hidden.reshape(-1, side, side).repeat(patch, axis=1).repeat(patch, axis=2)
    return np.where(grid[..., None], np.uint8(_HIDDEN_GREY), face)


def strip(rows: Sequence[Pixels]) -> Pixels:
    """Arrange rows of faces, each (B, H, H, 3), into one RGBA picture with transparent gaps."""
    lines = [_join(list(_opaque(row)), axis=1) for row in rows]
    return _join(lines, axis=0)


def reconstruction_strip(face: Pixels, hidden: NDArray[np.bool_], reconstruction: Pixels) -> Pixels:
    """Return one picture with the rows original, masked and reconstructed."""
    return strip([face, masked(face, hidden), reconstruction])


def mask_grid(face: Pixels, hidden: NDArray[np.bool_], columns: int) -> Pixels:
    """Return one face (H, H, 3) as often as there are masks (B, N), each drawn on it, in rows of `columns`.

    Masks that do not fill a row are left out.
    """
    whole = max(columns, len(hidden) // columns * columns)
    pictures = masked(np.repeat(face[None], len(hidden), axis=0), hidden)[:whole]
    return strip([pictures[start : start + columns] for start in range(0, len(pictures), columns)])


def mask_table(masks: pd.DataFrame) -> pd.DataFrame:
    """Return the table of masks (reading.masks) in words: text in every cell, "" where nothing is known."""
    if masks.empty:  # no run has any
        return masks
    regions = [name for name in masks.columns if name.startswith("hidden_")]
    usual = masks.loc[masks["strategy"] == "random", "seconds"]
    table = pd.DataFrame({"Run": masks["run"], "Mask": masks["strategy"]})
    table["Visible"] = [f"{count:,}" for count in masks["visible"]]
    for name, title in (("entropy", "Entropy"), ("clumping", "Clumping")):
        table[title] = [f"{value:.2f}" for value in masks[name]]
    for name in regions:
        title = name.removeprefix("hidden_").capitalize()
        table[title] = ["" if pd.isna(share) else f"{share:.0%}" for share in masks[name]]
    table["Error"] = ["" if pd.isna(value) else f"{value:.3f}" for value in masks["error"]]
    shares = masks["seconds"] / usual.iloc[0] if len(usual) and usual.iloc[0] else [np.nan] * len(masks)
    table["Seconds"] = [
        f"{seconds:.0f}" + ("" if pd.isna(share) else f" ({share:.2f}x)")
        for seconds, share in zip(masks["seconds"], shares, strict=True)
    ]
    return table


def _opaque(faces: Pixels) -> Pixels:
    return np.concatenate([faces, np.full_like(faces[..., :1], 255)], axis=-1)


def _join(pictures: list[Pixels], axis: int) -> Pixels:
    shape = list(pictures[0].shape)
    shape[axis] = _GAP
    gap = np.zeros(shape, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (gap, picture)][1:], axis=axis)


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries by column."""
    return cast(list[dict[str, Any]], table.to_dict("records"))


def _cell(judged: Mapping[tuple[str, str], dict[str, Any]], run: str, opponent: str) -> dict[str, Any] | None:
    """Return the comparison from `run`'s side, turned around where the table has it the other way."""
    if (run, opponent) in judged:
        return judged[run, opponent]
    row = judged.get((opponent, run))
    return None if row is None else turned(row, run)


def _cell_text(cell: dict[str, Any] | None) -> str:
    if cell is None:
        return ""
    primary = "<br>primary" if cell["family"] == layout.PRIMARY else ""
    return f"<b>{cell['verdict']}</b><br>{cell['difference']:+.3f}{primary}"


def _cell_hover(cell: dict[str, Any] | None, metric: str) -> str:
    if cell is None:
        return ""
    interval = f"{cell['ci_low']:+.3f} to {cell['ci_high']:+.3f}"
    return (
        f"<b>{cell['run_a']} against {cell['run_b']}: {cell['verdict']}</b><br>"
        f"{metric_label(metric)}: {cell['difference']:+.3f} ({interval})<br>"
        f"adjusted p: {cell['p_adjusted']:.3f}, {cell['family']}"
        + (f"<br>{cell['note']}" if cell["note"] else "")
    )


def _interval(row: Mapping[str, Any], colour: str) -> dict[str, Any]:
    above, below = row["ci_high"] - row["value"], row["value"] - row["ci_low"]
    shape = {"type": "data", "symmetric": False, "thickness": 2, "width": 5, "color": colour}
    return shape | {"array": [above], "arrayminus": [below]}


def _with_interval(row: Mapping[str, Any]) -> str:
    return f"{row['value']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"


def _add_line(
    figure: go.Figure, x: Any, y: Any, name: str, line: Mapping[str, Any], *, show: bool = True
) -> None:
    figure.add_scatter(
        x=np.asarray(x), y=np.asarray(y), name=name, legendgroup=name, showlegend=show, mode="lines",
        line={"width": 2, **line}, hovertemplate=f"{name}: %{{y:.3f}} at %{{x:.3g}}<extra></extra>",
    )  # fmt: skip


def finish(figure: go.Figure, *, x: str, y: str | None, height: int) -> None:
    """Give a figure what all share; text has no colour of its own, so that the page's theme sets it."""
    figure.update_layout(
        template="none", height=height, paper_bgcolor="rgba(0,0,0,0)", plot_bgcolor="rgba(0,0,0,0)",
        margin={"l": 10, "r": 10, "t": 10, "b": 10}, font={"size": 13}, hovermode="closest",
        legend={"orientation": "h", "yanchor": "top", "y": -0.22, "x": 0}, dragmode=False,
    )  # fmt: skip
    axis = {"gridcolor": _GRID, "zerolinecolor": _GRID, "automargin": True}
    figure.update_xaxes(title={"text": x, "standoff": 10}, **axis)
    figure.update_yaxes(title={"text": y, "standoff": 10} if y else None, **axis)
