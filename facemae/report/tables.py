"""The tables of a results folder: leaderboard, verdicts, curves. Nothing here needs PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pandas.api.types import infer_dtype, is_numeric_dtype

from facemae import config
from facemae.core import layout, records
from facemae.core.differences import ABSENT as NOT_SET
from facemae.core.differences import differences as leaves_that_differ
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.report.claims import Claim
from facemae.report.phrases import (
    compared,
    contrastive_runs,
    masked_runs,
    origin,
    scratch_runs,
    started_runs,
)

ROC_POINTS = 160
IN_PARTS = "as below"
RUN_DETAILS = ("commit", "versions", "device", "dataset", "people")


@dataclass(frozen=True)
class Headline:
    """The verdict in words: the content of verdict.json."""

    metric: str  # the primary one
    people: int  # how many were evaluated
    seeds: int  # how many trainings of each run
    headline: str  # the answer in one sentence without statistics' terms
    sentences: list[str]  # the numbers behind it
    claims: list[Claim] = field(default_factory=list)  # of masked autoencoders, each judged
    setting: str = ""  # how the runs were trained, in words
    noise: dict[str, float] = field(default_factory=dict)  # how far a difference of two moves by chance


TEXTS = frozenset({
    "run", "run_a", "run_b", "kind", "family", "strategy", "dataset", "protocol", "metric", "condition",
    "verdict", "note", "budget_note", "device",
})  # fmt: skip
COUNTS = ("n", "seed", "seeds", "people")


def unreadable(path: Path, reason: str) -> str:
    """Return what to say of a file that cannot be understood."""
    return (
        f"{path} cannot be read ({reason}): it is damaged or was made by another version; run the workflow "
        "again with another results folder, or delete this file and run it again."
    )


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return columns of a table; an IntegrityError where one holds text for numbers, or numbers for text."""
    table = records.read_table(path, columns)
    for name in columns:
        values = table[name].dropna().infer_objects()
        sound = infer_dtype(values) == "string" if name in TEXTS else is_numeric_dtype(values)
        counted = name not in COUNTS or np.isfinite(table[name].astype(float)).all()
        if len(values) and not (sound and counted):
            raise IntegrityError(unreadable(path, f"{name} holds something else than it should"))
    return table


def lines_of(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a file of JSON lines; an IntegrityError where one is no JSON object."""
    found = records.read_log(path)
    if not all(isinstance(line, dict) for line in found):
        raise IntegrityError(unreadable(path, "a line is no JSON object"))
    return pd.DataFrame(found, columns=list(columns))


def experiment(paths: Results) -> config.Experiment:
    """Return the experiment as it was run; an IntegrityError where its configuration cannot be read."""
    return _experiment(paths)[0]


def earlier_settings(paths: Results) -> str:
    """Return a note on settings that an earlier version wrote under other keys, or ""."""
    changed = sorted(set(_experiment(paths)[1]))
    if not changed:
        return ""
    named = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
    return f"An earlier version made these results; it wrote these settings otherwise: {named}."


def _experiment(paths: Results) -> tuple[config.Experiment, list[str]]:
    try:
        return config.parse_earlier(records.read_json(paths.config))
    except UsageError as error:
        raise IntegrityError(unreadable(paths.config, str(error).rstrip("."))) from error


def headline(paths: Results) -> Headline:
    """Return the verdict in words."""
    return records.read_record(paths.verdict, Headline)


def leaderboard(paths: Results) -> pd.DataFrame:
    """Return one row per run, metric, condition and amount: from scratch first, pretrained, baselines last.

    A condition "" is none: `phrases.scalars` returns those rows alone, at most one per run and metric.
    """
    return _ordered(paths, _table(paths.leaderboard, layout.LEADERBOARD_COLUMNS))


def summary(paths: Results) -> pd.DataFrame:
    """Return one row per run, seed and metric."""
    return _ordered(paths, _table(paths.summary, layout.SUMMARY_COLUMNS))


def verdicts(paths: Results) -> pd.DataFrame:
    """Return one row per pair of runs and metric, runs against each other first, then against controls."""
    table, known = _table(paths.verdicts, layout.VERDICT_COLUMNS), _names(experiment(paths))
    return table[table["run_a"].isin(known) & table["run_b"].isin(known)].reset_index(drop=True)


def verdict_cells(
    table: pd.DataFrame, metric: str, runs: Sequence[str], controls: Sequence[str]
) -> dict[str, list[dict[str, Any] | None]]:
    """Return by run and control (row) the comparison of every run (column) with it, from the run's side."""
    return {each: compared(table, metric, [(run, each) for run in runs]) for each in (*runs, *controls)}


def _ordered(paths: Results, table: pd.DataFrame) -> pd.DataFrame:
    known = _names(experiment(paths))
    table = table[table["run"].isin(known)]
    return table.sort_values("run", key=lambda run: run.map(known.index), kind="stable", ignore_index=True)


def _names(setup: config.Experiment) -> list[str]:
    return [*run_names(setup), *setup.baselines]


def details(paths: Results) -> dict[str, Any]:
    """Return what the first evaluated run says of commit, versions, device, data set and people."""
    setup = experiment(paths)
    path = paths.stage(setup.run_names[0], setup.seeds[0], "evaluate") / layout.METRICS
    found = records.read_record(path, dict[str, Any])
    if missing := [name for name in RUN_DETAILS if name not in found]:
        raise IntegrityError(unreadable(path, f"no {missing[0]}"))
    return {name: found[name] for name in RUN_DETAILS}


def roc_curves(paths: Results) -> pd.DataFrame:
    """Return the ROC curve of every run, baseline and seed at common false accept rates.

    The columns are run, seed, far, tar and impostors, the number of impostor pairs behind it.
    """
    setup = experiment(paths)
    curves = []
    for name in _names(setup):
        for seed in setup.seeds_of(name):
            folder = paths.stage(name, seed, "evaluate")
            scores = records.read_measured(folder, layout.SCORES, ["genuine", "score", "part"])
            curves.append(_roc(scores).assign(run=name, seed=seed))
    return pd.concat(curves, ignore_index=True)


def _roc(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean curve over the parts: two networks' scores have no threshold in common."""
    parts = [part for _, part in scores.groupby("part")]
    impostors = min(int((~part["genuine"]).sum()) for part in parts)
    far = np.geomspace(1 / impostors, 1.0, ROC_POINTS)
    tar = np.mean([_true_accepts(part, far) for part in parts], axis=0)
    return pd.DataFrame({"far": far, "tar": tar, "impostors": impostors})


def _true_accepts(scores: pd.DataFrame, far: NDArray[np.float64]) -> NDArray[np.float64]:
    from sklearn.metrics import roc_curve

    reached, tar, _ = roc_curve(scores["genuine"].to_numpy(bool), scores["score"], drop_intermediate=False)
    # The last threshold that keeps to a rate; between two thresholds nothing is assumed.
    return np.asarray(tar[np.searchsorted(reached, far * (1 + 1e-9), side="right") - 1])


def learning_curves(paths: Results, stage: str) -> pd.DataFrame:
    """Return run, seed, part, step and loss of every log of a training stage ("pretrain" or "finetune")."""
    setup, logs = experiment(paths), [pd.DataFrame(columns=["step", "loss", "part", "run", "seed"])]
    for name, seed in product(run_names(setup), setup.seeds):
        file = paths.stage(name, seed, stage) / layout.LOG
        if file.is_file():
            logs.append(lines_of(file, ["step", "loss", "part"]).assign(run=name, seed=seed))
    table = pd.concat(logs[1:] or logs, ignore_index=True)
    numbers = table[["step", "loss", "part"]].apply(pd.to_numeric, errors="coerce")
    return table.assign(**numbers).fillna({"part": 0}).astype({"step": float, "loss": float, "part": int})


# --- runs ---


def roster(setup: config.Experiment) -> pd.DataFrame:
    """Return run, kind, strategy and mask_ratio of every run and baseline, ordered as the leaderboard is."""
    runs = [(name, setup.run(name)) for name in run_names(setup)]
    rows: list[tuple[Any, ...]] = [(name, "run", run.strategy, run.mask_ratio) for name, run in runs]
    rows += [(name, "baseline", name, None) for name in setup.baselines]
    return pd.DataFrame(rows, columns=["run", "kind", "strategy", "mask_ratio"])


def told(setup: config.Experiment, table: pd.DataFrame) -> pd.DataFrame:
    """Return rows with a run and a strategy for a reader: "control" for one, and what a run started from.

    The column origin is new (`phrases.origin`); it is missing where no run has one.
    """
    known = {name: origin(setup.run(name)) for name in setup.run_names}
    found = table.assign(origin=table["run"].map(known).fillna(""))
    unmasked = found["run"].isin(started_runs(setup))
    found["strategy"] = found["strategy"].mask(unmasked, "none").where(found["kind"] == "run", "control")
    return found if any(known.values()) else found.drop(columns="origin")


def run_names(setup: config.Experiment) -> list[str]:
    """Return the names of the runs: from scratch, masked autoencoders, contrastive ones, from weights."""
    return [*scratch_runs(setup), *masked_runs(setup), *contrastive_runs(setup), *started_runs(setup)]


def differences(setup: config.Experiment, first: str, second: str) -> pd.DataFrame:
    """Return the settings in which two runs differ: setting, and its value as JSON in each run's column.

    Only what shapes a run counts: not, say, the parameters of a mask that it does not use.

    Raises:
        UsageError: there is no such run.
    """
    rows = _differing(setup.run(first).shaping(), setup.run(second).shaping())
    return pd.DataFrame(list(rows), columns=["setting", "first", "second"])


def _differing(before: Any, after: Any, where: str = "") -> Iterator[tuple[str, ...]]:
    """Yield path and values; a section that only one of the two has is told value by value."""
    for name, values in leaves_that_differ(before, after, where).items():
        sections = [each if isinstance(each, dict) else {} for each in values]
        if not (any(sections) and NOT_SET in values):
            told = [each if each is NOT_SET else json.dumps(each) for each in values]
            yield name, *(IN_PARTS if own else text for own, text in zip(sections, told, strict=True))
        if any(sections):
            yield from _differing(sections[0], sections[1], name)
