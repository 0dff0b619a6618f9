"""Words for what is measured and shown: names of metrics, how to read a picture, lists of names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import pandas as pd

from facemae import config
from facemae.core import layout

VERDICTS = ("better", "worse", "equivalent", "undecided")
OPPOSITE = {"better": "worse", "worse": "better"}
MAIN_PROTOCOLS = ("verification", "identification")
# Titles of what each protocol measured; the protocols of recognition share a table.
PROTOCOLS = {
    "verification": "All numbers, controls included",
    "occlusion": "Covered faces",
    "lighting": "Changed light",
    "illumination": "Real light from the side",
    "labels": "Fewer labels",
    "attributes": "What else the encoder tells",
}
DIGITS = 8  # that a page of results keeps after the point: with fewer, rounding again would differ
MOST_NAMES = 8  # in a sentence
ORIGIN = "Started from, taught by"  # head of a column of `origin`


HOW_TO_READ = {
    "verdicts": (
        "Read down a column: that run is better than, worse than or equivalent to the row's, or undecided, "
        "which is no proof of equality. Verdicts allow for the number of comparisons, so an interval may "
        "leave out zero and still be undecided. What is marked primary decides, as evaluate.against asks; "
        "all else is exploratory."
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
        "empty where another ratio, target or loss makes it another task. "
        "Seconds include what a guide costs; the factor beside them is of the random mask's."
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
    "pretrain": (
        "Falling means learning, but a lower curve is no better strategy: each mask sets a task of its own "
        "difficulty. Thin lines are seeds, the bold one their mean."
    ),
    "finetune": (
        "Lower means that the training people are told apart better, which says little about new people; the "
        "loss rises early where its margin is raised. Thin lines are seeds, the bold one their mean."
    ),
    "progress": (
        "The loss of every training that is not finished, by step: it should fall. Two runs' losses do not "
        "compare, since each mask sets a task of its own difficulty."
    ),
    "bars": (
        "The pale band of a curve spans its seeds, the lowest to the highest; a bar is the interval for new "
        "people and new training at a wanted rate, where enough impostors are behind it. Bars of one rate "
        "stand side by side to be told apart."
    ),
}
ALT = {
    "verdicts": "Matrix of verdicts: better, worse, equivalent or undecided, each run against each other.",
    "measures": "Table of masks: visible tokens, entropy, clumping, hidden shares, error and seconds.",
    "reconstructions": "Rows of faces: original, with hidden patches in grey, and reconstructed.",
    "errors": "Heat map over the mean face: the share of each patch's variation that a run misses.",
    "animated": "One face under a mask that changes every second.",
}


def rows_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a table as dictionaries by column."""
    return cast(list[dict[str, Any]], table.to_dict("records"))


def with_interval(row: Mapping[str, Any]) -> str:
    """Return a value with its interval, as text; "refused" where there is no value."""
    if pd.isna(row["value"]):
        return "refused"
    known = pd.notna(row["ci_low"]) and pd.notna(row["ci_high"])
    return f"{row['value']:.3f}" + (f" ({row['ci_low']:.3f} to {row['ci_high']:.3f})" if known else "")


def difference(row: Mapping[str, Any]) -> str:
    """Return the difference of a comparison with its interval, as text."""
    known = pd.notna(row["ci_low"]) and pd.notna(row["ci_high"])
    interval = f"{row['ci_low']:+.3f} to {row['ci_high']:+.3f}" if known else "no interval"
    return f"{row['difference']:+.3f} ({interval})"


def scalars(leaderboard: pd.DataFrame, metric: str | None = None) -> pd.DataFrame:
    """Return the rows of a metric, or all, under no condition: at most one for each run and metric."""
    table = leaderboard[leaderboard["condition"] == ""]
    return table if metric is None else table[table["metric"] == metric]


def primary_first(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons that decide before the exploratory ones, each in their order."""
    return verdicts.sort_values("family", key=lambda family: family != layout.PRIMARY, kind="stable")


def turned(row: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return a comparison from the side of `run`, which is either of its two."""
    if row["run_a"] == run:
        return dict(row)
    return dict(row) | {
        "run_a": run, "run_b": row["run_a"], "verdict": OPPOSITE.get(row["verdict"], row["verdict"]),
        "difference": -row["difference"], "ci_low": -row["ci_high"], "ci_high": -row["ci_low"],
        "seconds_difference": 0 - row["seconds_difference"],  # never -0
    }  # fmt: skip


def _runs(experiment: config.Experiment, fits: Callable[[config.Run], Any]) -> list[str]:
    return [name for name in experiment.run_names if fits(experiment.run(name))]


def masked_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs that are masked autoencoders, in the order of the configuration."""
    return _runs(experiment, lambda run: run.masked)


def contrastive_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs that learn by comparing views of a face."""
    return _runs(experiment, lambda run: run.pretrain and not run.masked)


def started_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs without pretraining that start from finished weights or have a teacher."""
    return _runs(experiment, lambda run: not run.pretrain and origins(run))


def scratch_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs from scratch: first those that hide nothing in fine-tuning."""
    found = _runs(experiment, lambda run: not run.pretrain and not origins(run))
    return sorted(found, key=lambda name: hides(experiment.run(name)))


def hides(run: config.Run) -> bool:
    """Tell whether fine-tuning hides part of each face."""
    return bool(run.finetune.patch_drop or run.finetune.erasing)


def origins(run: config.Run) -> list[tuple[str, str]]:
    """Return how a run uses finished networks, and which: "starts from" and "is taught by"."""
    start = run.pretrain.init if run.pretrain else run.finetune.init
    used = (("starts from", start and Path(start).name), ("is taught by", run.finetune.teacher))
    return [(how, name) for how, name in used if name]


def origin(run: config.Run) -> str:
    """Return the same in words, such as "from face-mae, taught by dlib"; nothing where it uses none."""
    return ", ".join(f"{how.partition(' ')[2]} {name}" for how, name in origins(run))


def compared(
    verdicts: pd.DataFrame, metric: str, pairs: Iterable[tuple[str, str]]
) -> list[dict[str, Any] | None]:
    """Return the comparisons of pairs of runs, each from the side of its first, None where there is none."""
    judged = {(row["run_a"], row["run_b"]): row for row in rows_of(verdicts[verdicts["metric"] == metric])}
    found = [(run, judged.get((run, other)) or judged.get((other, run))) for run, other in pairs]
    return [row and turned(row, run) for run, row in found]


def by_verdict(rows: Iterable[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Return comparisons by their verdict, in the order of VERDICTS."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: VERDICTS.index(row["verdict"])):
        found.setdefault(row["verdict"], []).append(row)
    return found


@dataclass
class Comparison:
    """The tables of a comparison, and the configuration that it was made by."""

    experiment: config.Experiment
    leaderboard: pd.DataFrame
    verdicts: pd.DataFrame

    def __post_init__(self) -> None:
        # To what pages keep of them: words and tables round those again, and a tie has to fall the same way.
        kept = dict.fromkeys(("value", "difference", "ci_low", "ci_high"), DIGITS)
        self.leaderboard, self.verdicts = self.leaderboard.round(kept), self.verdicts.round(kept)

    @property
    def primary(self) -> str:
        """Return the metric that decides."""
        return self.experiment.evaluate.primary

    @cached_property
    def values(self) -> pd.DataFrame:
        """Return the rows of that metric by run."""
        return scalars(self.leaderboard, self.primary).set_index("run")

    @property
    def people(self) -> int:
        """Return on how many people it was measured."""
        return int(self.values["people"].iloc[0])

    def rows(self, metric: str, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the comparisons of pairs of runs, from the side of the first, as far as there are any."""
        return [row for row in compared(self.verdicts, metric, pairs) if row]

    def measured(self, metric: str, names: Iterable[str]) -> list[str]:
        """Return those of the runs that have a value of the metric, in the order given."""
        found = set(scalars(self.leaderboard, metric).dropna(subset="value")["run"])
        return [name for name in names if name in found]


def some_names(names: Any) -> str:
    """Return the names, or how many there are where nobody would read them all."""
    listed = list(names)
    return names_of(listed) if len(listed) <= MOST_NAMES else f"{len(listed)} of them"


def names_of(names: Any) -> str:
    """Return the names with commas and an "and"."""
    listed = list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)


def limits(setup: config.Experiment, people: int) -> list[str]:
    """Return what the evaluation cannot tell, one sentence each."""
    sentences = [
        f"It rests on {people} people, so only large differences can be seen; undecided is no proof of "
        "equality.",
        "Errors by group are shown where the data name groups, which says little about other groups.",
        "It says nothing about attacks with photos or masks, nor about any use for access or surveillance.",
    ]
    if setup.data.labelled == "orl":
        sentences.insert(
            0,
            "The faces are those of 40 adults photographed between 1992 and 1994 in one laboratory, mostly "
            "white men, frontal and in good light; other people and other cameras may give another order.",
        )
    return sentences
