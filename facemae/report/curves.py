"""Charts of recognition, training and photos: from the tables of the results to charts as data."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from facemae.evaluation.metrics import impostors_needed
from facemae.evaluation.records import higher_is_better, metric_label
from facemae.report.chart_spec import (
    GUIDE_COLOUR,
    MARKERS,
    STRATEGY_COLOURS,
    Axis,
    Chart,
    Look,
    Looks,
    Series,
)
from facemae.report.faces import Measure, histogram, on_axis, ticks
from facemae.report.phrases import HOW_TO_READ, rows_of, scalars, with_interval

CHANCE, ENOUGH = "chance", "30 false accepts"
FAR, SECONDS, FACES = "false accept rate (FAR, logarithmic)", "seconds of training", "faces (logarithmic)"
BAR_STEP = 0.03  # powers of ten between two runs' intervals at one rate
BESIDE = 0.028  # of the axis, between runs that took equally long
FACE_COLOUR, WARNING_COLOUR = STRATEGY_COLOURS["random"], STRATEGY_COLOURS["simclr"]
ALT_LEADERBOARD = "Dot plot: one metric with its interval for every run, and the controls below a line."
TRAININGS = {"pretrain": "Pretraining", "finetune": "Fine-tuning"}


def axis_title(metric: str) -> str:
    """Return a metric's name in words and its better direction."""
    direction = "higher" if higher_is_better(metric) else "lower"
    return f"{metric_label(metric)} ({direction} is better)"


def ranked(leaderboard: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return the rows of a metric that have a value: controls first, then runs, the best last in each."""
    best_last = _measured(leaderboard, metric).sort_values("value", ascending=higher_is_better(metric))
    return pd.concat([best_last[best_last["kind"] == kind] for kind in ("baseline", "run")])


def _measured(leaderboard: pd.DataFrame, metric: str) -> pd.DataFrame:
    return scalars(leaderboard, metric).dropna(subset="value")


def leaderboard(table: pd.DataFrame, metric: str, look: Looks) -> Chart:
    """Return a metric with its interval per run, best on top, and the controls below a line."""
    rows = rows_of(ranked(table, metric))
    controls = sum(row["kind"] == "baseline" for row in rows)
    dots = [
        Series(
            row["run"], [row["value"]], [row["run"]], look[row["run"]], [row["ci_low"]], [row["ci_high"]],
            line=0, marker="diamond-open" if row["kind"] == "baseline" else "circle", legend=False,
            text=[with_interval(row)],
        )
        for row in rows
    ]  # fmt: skip
    return Chart(
        name="leaderboard",
        title=metric_label(metric),
        read=(
            "Each dot is the mean over seeds and each bar its interval for new people and new training. "
            "Bars that overlap do not make two runs equal: the verdict compares them person by person."
        ),
        alt=ALT_LEADERBOARD,
        panels={"": dots},
        x=Axis(axis_title(metric)),
        y=Axis(words=[row["run"] for row in rows], grid=False),
        rules=[controls - 0.5] if 0 < controls < len(rows) else (),
        across=True,
        height=110 + 36 * len(rows),
    )


def cost(table: pd.DataFrame, metric: str, look: Looks) -> Chart:
    """Return a metric with its interval against the seconds of all training."""
    values = _measured(table, metric)
    seconds = (values["seconds_pretrain"] + values["seconds_finetune"]).astype(float)
    longest = (float(seconds.max()) if len(values) else 0.0) or 1.0
    same = seconds.groupby(seconds)
    # What took equally long stands side by side, and the controls' no time at all not left of 0.
    middle = ((same.transform("size") - 1) / 2).where(seconds > 0, 0)
    beside = (same.cumcount() - middle) * BESIDE * longest
    dots = [
        Series(
            row["run"], [x], [row["value"]], look[row["run"]], [row["ci_low"]], [row["ci_high"]], line=0,
            marker=MARKERS[place % len(MARKERS)] + ("-open" if row["kind"] == "baseline" else ""),
            text=[f"{with_interval(row)}, {took:.0f} s"],
        )
        for place, (row, took, x) in enumerate(zip(rows_of(values), seconds, seconds + beside, strict=True))
    ]  # fmt: skip
    return Chart(
        name="cost",
        title="What the extra seconds bought",
        read=(
            "Further up is better unless the metric is an error rate, further left is cheaper; a run that is "
            "only further right bought nothing for its extra seconds. What took equally long stands side by "
            "side."
        ),
        alt="Scatter plot: one metric with its interval against the seconds of training, one mark per run.",
        panels={"": dots},
        x=Axis(SECONDS, span=(-0.08 * longest, 1.08 * longest)),
        y=Axis(axis_title(metric)),
        height=400,
    )


def rate_intervals(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Return the true accept rates at the wanted false ones: run, x, value, ci_low and ci_high.

    Refused ones are left out. The runs of one rate are set apart by `BAR_STEP`, so that bars do not cover
    each other.
    """
    table = scalars(leaderboard)
    table = table[table["metric"].str.startswith("tar_at_far=") & table["value"].notna()]
    runs = table["run"].unique()
    apart = {name: 10 ** (BAR_STEP * (place - (len(runs) - 1) / 2)) for place, name in enumerate(runs)}
    wanted = table["metric"].str.removeprefix("tar_at_far=").astype(float)
    x = [far * apart[run] for far, run in zip(wanted, table["run"], strict=True)]
    return table.assign(x=x)[["run", "x", "value", "ci_low", "ci_high"]].reset_index(drop=True)


def roc(
    curves: pd.DataFrame, look: Looks, *, every_seed: bool = False, bars: pd.DataFrame | None = None
) -> Chart:
    """Return ROC curves over a logarithmic false accept rate: the mean over seeds, or every seed.

    With `bars` (`rate_intervals`) the means have these, and bands that span the seeds.
    """
    if every_seed:
        lines = [
            Series(str(name), line["far"], line["tar"], look[str(name)], legend=place == 0)
            for name, part in curves.groupby("run", sort=False)
            for place, (_, line) in enumerate(part.groupby("seed"))
        ]
    else:
        lines = [*_means(curves, "far", "tar", look, band=bars is not None), *_intervals(bars, look)]
    least = 1 / int(curves["impostors"].min())
    far = np.geomspace(least, 1.0, 50)
    return Chart(
        name="roc",
        title="ROC curves",
        read=(
            "The higher a curve at a false accept rate, the better; left of the dotted line fewer than 30 "
            "false accepts are behind it, too few to tell runs apart."
        ),
        alt="Line chart: true accept rate against false accept rate, one curve per run and control.",
        panels={"": [*lines, Series(CHANCE, far, far, Look(GUIDE_COLOUR), line=1.2, opacity=0.5)]},
        x=Axis(FAR, log=True, span=(least, 1.0)),
        y=Axis("true accept rate", span=(0, 1.02)),
        guides=_enough(curves),
        height=440,
    )


def det(curves: pd.DataFrame, look: Looks, *, bars: pd.DataFrame | None = None) -> Chart:
    """Return the detection error trade-off: both error rates of the ROC curves (tables.roc_curves).

    Martin et al., "The DET curve in assessment of detection task performance" (1997), on logarithmic axes;
    `bars` as of `roc`.
    """
    means = _means(curves.assign(fnmr=1 - curves["tar"]), "far", "fnmr", look, band=bars is not None)
    # No error has no place on a logarithmic axis; a band that reaches it ends below the smallest rate shown.
    least = min([float(each.y[each.y > 0].min()) for each in means if (each.y > 0).any()], default=1)
    lines = [_above_nothing(each, least / 2) for each in means]
    return Chart(
        name="det",
        title="DET curves",
        read=(
            "The lower a curve, the fewer errors of either kind; both axes are logarithmic. Left of the "
            "dotted line fewer than 30 false accepts are behind a curve, too few to tell runs apart."
        ),
        alt="Line chart: false non-match rate against false accept rate, one curve per run and control.",
        panels={"": [*lines, *_intervals(None if bars is None else det_intervals(bars), look)]},
        x=Axis(FAR, log=True),
        y=Axis("false non-match rate (logarithmic)", log=True),
        guides=_enough(curves),
        height=440,
    )


def _enough(curves: pd.DataFrame) -> dict[float, str]:
    """Return the false accept rate from which on there are errors enough, if any, with its name."""
    rate = impostors_needed(1.0) / int(curves["impostors"].min())
    return {rate: ENOUGH} if rate < 1 else {}


def _above_nothing(line: Series, least: float) -> Series:
    shown = line.y > 0
    ends = {} if line.low is None else {"low": line.low[shown].clip(least), "high": line.high[shown]}
    return replace(line, x=line.x[shown], y=line.y[shown], **ends)


def det_intervals(rates: pd.DataFrame) -> pd.DataFrame:
    """Return the intervals of true accept rates (`rate_intervals`) as those of false non-match rates.

    A rate of no errors has no place on a logarithmic axis; an interval that reaches it ends at a tenth of
    its value.
    """
    table = rates.assign(value=1 - rates["value"], ci_low=1 - rates["ci_high"], ci_high=1 - rates["ci_low"])
    table = table[table["value"] > 0]
    return table.assign(ci_low=np.maximum(table["ci_low"], table["value"] / 10)).reset_index(drop=True)


def _means(curves: pd.DataFrame, x: str, y: str, look: Looks, *, band: bool = False) -> list[Series]:
    """Return each run's mean over seeds at every x; the band spans the lowest and the highest seed."""
    lines = []
    for name, part in curves.groupby("run", sort=False):
        found = part.groupby(x)[y].agg(["mean", "min", "max"])
        low, high = (found[end].to_numpy() if band else None for end in ("min", "max"))
        places, mean = found.index.to_numpy(float), found["mean"].to_numpy()
        lines.append(Series(str(name), places, mean, look[str(name)], low, high, band=band))
    return lines


def _intervals(bars: pd.DataFrame | None, look: Looks) -> list[Series]:
    if bars is None:
        return []
    return [along(part, "x", look, line=0, legend=False) for _, part in bars.groupby("run", sort=False)]


def along(table: pd.DataFrame, x: str, look: Looks, **style: Any) -> Series:
    """Return a run's values with their intervals along a column of its rows."""
    name, known = str(table["run"].iloc[0]), table["ci_low"].notna().any()
    low, high = (table[end].to_numpy(float) if known else None for end in ("ci_low", "ci_high"))
    text, values = [with_interval(row) for row in rows_of(table)], table["value"].to_numpy(float)
    return Series(
        name, table[x].to_list(), values, look[name], low, high, marker="circle", size=6, text=text, **style
    )


def learning(curves: pd.DataFrame, look: Looks, stage: str) -> Chart:
    """Return the loss by step of a key of TRAININGS: every seed thin, each run's mean bold."""
    title = TRAININGS.get(stage, stage)
    solid = {run: Look(each.colour) for run, each in look.items()}
    lines: list[Series] = []
    for run, part in curves.groupby("run", sort=False):
        for _, seed in part.sort_values("step").groupby(["seed", "part"]):
            x, y, plain = seed["step"], seed["loss"], solid[str(run)]
            lines.append(Series(str(run), x, y, plain, line=1, opacity=0.4, legend=False))
        lines += _means(part, "step", "loss", solid)
    alt = f"Line chart: loss by step of {title.lower()}, for every run and seed."
    axes = Axis("step"), Axis("loss")
    return Chart(stage, title, HOW_TO_READ[stage], alt, {"": lines}, *axes, height=360)


def quality(measured: pd.DataFrame, measure: Measure) -> Chart:
    """Return how many faces have which value, and the limit beyond which one is doubtful."""
    bins = histogram(measured, measure)
    bars = [
        Series(
            name, part["centre"], part["faces"], Look(colour), line=0, bar=measure.width, legend=False,
            text=[f"{count} faces, {name}" for count in part["faces"]],
        )
        for doubtful, name, colour in ((False, "no warning", FACE_COLOUR), (True, "doubtful", WARNING_COLOUR))
        for part in [bins[bins["doubtful"] == doubtful]]
    ]  # fmt: skip
    most = float(bins["faces"].max()) if len(bins) else 1.0
    percent = measure.form.endswith("%}")
    return Chart(
        name=f"quality-{measure.column}",
        title=measure.title,
        read=(
            "Faces beyond a dotted line are doubtful: they are used all the same, but are worth a look. "
            "The counts are logarithmic, so that a single face can be seen."
        ),
        alt="Histogram: how many faces have which value, with the limit beyond which one is doubtful.",
        panels={"": bars},
        x=Axis(measure.title, labels=ticks(bins, measure), percent=percent, grid=False),
        y=Axis(FACES, log=True, span=(0.6, 1.6 * most)),
        guides=dict.fromkeys(on_axis(np.array(measure.limits), measure).tolist(), ""),
        height=240,
        narrow=True,
    )
