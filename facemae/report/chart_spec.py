"""A chart as data: what is drawn, in which colour and on which axes.

curves.py and conditions.py make charts from the tables of the results; charts.py and static_charts.py draw
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from facemae.report.phrases import rows_of

# Okabe and Ito's colours, which colour-blind readers can tell apart; grey is for what does not pretrain.
STRATEGY_COLOURS = {
    "random": "#0072B2", "block": "#E69F00", "grid": "#009E73", "region": "#CC79A7",
    "simclr": "#D55E00", "moco": "#56B4E9", "dino": "#7B61A8",
}  # fmt: skip
MORE_COLOURS = ("#8C6D31", "#B5446E", "#4C8C3F", "#3F6FD1")
SCRATCH_COLOUR, BASELINE_COLOUR, GUIDE_COLOUR = "#7A7A7A", "#9E9E9E", "#808080"
# Further runs without pretraining: controls that hide patches while fine-tuning.
CONTROL_COLOURS = ("#A08060", "#6E8898", "#9A7F95")
CONTRASTIVE = ("simclr", "moco", "dino")
CONTRASTIVE_DASH = "longdash"
_DASHES = ("dot", "dash", "dashdot")
MARKERS = ("circle", "square", "diamond", "triangle-up", "star", "cross", "x", "pentagon")


@dataclass(frozen=True)
class Look:
    """How a run is drawn everywhere: its colour "#RRGGBB", and its line by Plotly's names."""

    colour: str
    dash: str = "solid"


Looks = Mapping[str, Look]  # of each run


@dataclass(frozen=True)
class Series:
    """What one run has on a chart.

    Attributes:
        name: Of the run.
        x, y: Where its points are; words on an axis that has words.
        look: Its colour and line.
        low, high: The ends of each point's interval, None where there is none.
        line: Width of the line through the points in pixels, 0 for points alone.
        marker: One of MARKERS, with "-open" for a hollow one; "" for a line without points.
        size: Of each point, in pixels.
        band: Whether the intervals are an area along the line; else each point has a bar of its own.
        bar: Width of a bar from the axis to each point; 0 for none.
        opacity: 0 to 1.
        legend: Whether it is named in the legend.
        text: Text of each point, shown under the pointer.
    """

    name: str
    x: Any
    y: Any
    look: Look
    low: Any = None
    high: Any = None
    line: float = 2.0
    marker: str = ""
    size: float = 11.0
    band: bool = False
    bar: float = 0.0
    opacity: float = 1.0
    legend: bool = True
    text: Sequence[str] = ()


@dataclass(frozen=True)
class Axis:
    """One axis.

    Attributes:
        title: What it shows.
        log: Whether it is logarithmic.
        span: Its ends, None to fit what is drawn.
        labels: What stands at which place; None: the numbers themselves.
        words: The words along it, in order, where places are words.
        percent: Whether numbers are written as per cent.
        grid: Whether lines are drawn across.
    """

    title: str = ""
    log: bool = False
    span: tuple[float, float] | None = None
    labels: Mapping[float, str] | None = None
    words: Sequence[str] = ()
    percent: bool = False
    grid: bool = True


@dataclass(frozen=True)
class Chart:
    """One chart, in one panel or several side by side.

    Attributes:
        name: Short, also of its file.
        title: Its heading.
        read: How to read it.
        alt: What stands for it where it cannot be seen.
        panels: What is drawn, by the panel's title ("" for a single one).
        x, y: The axes of all panels.
        guides: Dotted lines up, by place: their name, "" for none.
        rules: Dotted lines across.
        across: Whether intervals lie along x, and each point's value is written at the right.
        height: In pixels of a screen.
        narrow: Whether it stands beside others.
    """

    name: str
    title: str
    read: str
    alt: str
    panels: Mapping[str, Sequence[Series]]
    x: Axis
    y: Axis
    guides: Mapping[float, str] = field(default_factory=dict)
    rules: Sequence[float] = ()
    across: bool = False
    height: int = 420
    narrow: bool = False

    @property
    def columns(self) -> int:
        """Return how many panels stand side by side, so that the last row is not left almost empty."""
        count = len(self.panels)
        return count if count <= 4 else 3 if count % 3 == 0 else 4

    @property
    def legend(self) -> bool:
        """Tell whether any series is named."""
        return any(each.legend for panel in self.panels.values() for each in panel)


def looks(roster: pd.DataFrame) -> Looks:
    """Return how each run is drawn: in its strategy's colour, or another one where runs share a strategy.

    Args:
        roster: Columns run, kind and strategy (tables.roster, or a leaderboard).
    """
    found: dict[str, Look] = {}
    more = iter(MORE_COLOURS * len(roster))
    without = iter((SCRATCH_COLOUR, *CONTROL_COLOURS * len(roster)))
    lines, without_lines = iter(_DASHES * len(roster)), iter(("solid", *_DASHES * len(roster)))
    for row in rows_of(roster.drop_duplicates("run")):
        if row["kind"] == "baseline":
            look = Look(BASELINE_COLOUR, next(lines))
        elif row["strategy"] == "none":
            look = Look(next(without), next(without_lines))
        else:
            colour = STRATEGY_COLOURS.get(row["strategy"])
            taken = {each.colour for each in found.values()}
            dash = CONTRASTIVE_DASH if row["strategy"] in CONTRASTIVE else "solid"
            look = Look(next(more) if colour is None or colour in taken else colour, dash)
        found[row["run"]] = look
    return found


def with_interval(row: Mapping[str, Any]) -> str:
    """Return a value with its interval, as text; "refused" where there is no value."""
    if pd.isna(row["value"]):
        return "refused"
    ends = (
        ""
        if pd.isna(row["ci_low"]) or pd.isna(row["ci_high"])
        else (f" ({row['ci_low']:.3f} to {row['ci_high']:.3f})")
    )
    return f"{row['value']:.3f}{ends}"
