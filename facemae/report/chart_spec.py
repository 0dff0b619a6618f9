"""A chart as data: what is drawn, in which colour and on which axes.

curves.py and conditions.py make charts from the tables of the results; charts.py and static_charts.py draw
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, cycle
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
FEW = 20  # points of a line, up to which each is marked


@dataclass(frozen=True)
class Look:
    """How a run is drawn everywhere."""

    colour: str  # "#RRGGBB"
    dash: str = "solid"  # by Plotly's names


Looks = Mapping[str, Look]  # of each run


@dataclass(frozen=True)
class Series:
    """What one run has on a chart."""

    name: str  # of the run
    x: Any  # where its points are; words on an axis that has words
    y: Any
    look: Look
    low: Any = None  # the ends of each point's interval, None where there is none
    high: Any = None
    line: float = 2.0  # width of the line through the points in pixels, 0 for points alone
    marker: str = ""  # one of MARKERS, with "-open" for a hollow one; "" for a line without points
    size: float = 11.0  # of each point, in pixels
    band: bool = False  # whether the intervals are an area along the line; else each point has its own bar
    bar: float = 0.0  # width of a bar from the axis to each point; 0 for none
    opacity: float = 1.0
    legend: bool = True  # whether it is named in the legend
    text: Sequence[str] = ()  # of each point, shown under the pointer

    @property
    def shown_marker(self) -> str:
        """Return its marker, "" for a line with too many points to mark each."""
        return self.marker if not self.line or len(self.x) < FEW else ""


@dataclass(frozen=True)
class Axis:
    """One axis."""

    title: str = ""
    log: bool = False
    span: tuple[float, float] | None = None  # its ends, None to fit what is drawn
    labels: Mapping[float, str] | None = None  # what stands at which place; None: the numbers themselves
    words: Sequence[str] = ()  # the words along it, in order, where places are words
    percent: bool = False  # whether numbers are written as per cent
    grid: bool = True  # whether lines are drawn across


@dataclass(frozen=True)
class Chart:
    """One chart, in one panel or several side by side."""

    name: str  # short, also of its file
    title: str
    read: str  # how to read it
    alt: str  # what stands for it where it cannot be seen
    panels: Mapping[str, Sequence[Series]]  # what is drawn, by the panel's title ("" for a single one)
    x: Axis  # of all panels
    y: Axis
    guides: Mapping[float, str] = field(default_factory=dict)  # dotted lines up, by place: their name or ""
    rules: Sequence[float] = ()  # dotted lines across
    across: bool = False  # whether intervals lie along x, and each point's value is written at the right
    height: int = 420  # in pixels of a screen
    narrow: bool = False  # whether it stands beside others

    @property
    def columns(self) -> int:
        """Return how many panels stand side by side, so that the last row is not left almost empty."""
        count = len(self.panels)
        return count if count <= 4 else 3 if count % 3 == 0 else 4


def looks(roster: pd.DataFrame) -> Looks:
    """Return how each run is drawn: in its strategy's colour, or another one where runs share a strategy.

    Args:
        roster: Columns run, kind and strategy (tables.roster, or a leaderboard).
    """
    found: dict[str, Look] = {}
    more, lines = cycle(MORE_COLOURS), cycle(_DASHES)
    without = map(Look, chain([SCRATCH_COLOUR], cycle(CONTROL_COLOURS)), chain(["solid"], cycle(_DASHES)))
    for row in rows_of(roster.drop_duplicates("run")):
        if row["kind"] == "baseline":
            look = Look(BASELINE_COLOUR, next(lines))
        elif row["strategy"] == "none":
            look = next(without)
        else:
            colour = STRATEGY_COLOURS.get(row["strategy"])
            taken = {each.colour for each in found.values()}
            dash = CONTRASTIVE_DASH if row["strategy"] in CONTRASTIVE else "solid"
            look = Look(next(more) if colour is None or colour in taken else colour, dash)
        found[row["run"]] = look
    return found
