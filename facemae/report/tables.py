"""The tables of a results folder: leaderboard, verdicts, curves. Nothing here needs PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.evaluation import metrics
from facemae.evaluation.pairs import Comparisons
from facemae.report.claims import Claim
from facemae.report.phrases import contrastive_runs, masked_runs, rows_of, scratch_runs, started_runs, turned

ROC_POINTS = 160
IN_PARTS = "as below"
NOT_SET = "not set"  # a setting that one of two runs does not have
RUN_DETAILS = ("commit", "versions", "device", "dataset", "people")


@dataclass(frozen=True)
class Headline:
    """The verdict in words: the content of verdict.json.

    Attributes:
        metric: The primary metric.
        people: How many people were evaluated.
        seeds: How many trainings of each run.
        headline: The answer in one sentence without statistics' terms.
        sentences: The numbers behind it.
        claims: What is claimed of masked autoencoders, each judged.
        setting: How the runs were trained, in words.
        noise: How far a difference of two runs moves by chance (`comparison.noise`).
    """

    metric: str
    people: int
    seeds: int
    headline: str
    sentences: list[str]
    claims: list[Claim] = field(default_factory=list)
    setting: str = ""
    noise: dict[str, float] = field(default_factory=dict)


def unreadable(path: Path, reason: str) -> str:
    """Return what to say of a file that cannot be understood."""
    return (
        f"{path} cannot be read ({reason}): it is damaged or was made by another version; run the workflow "
        "again with another results folder, or delete this file and run it again."
    )


def lines_of(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Return columns of a file of JSON lines.

    Raises:
        IntegrityError: a line is no JSON object.
    """
    found = records.read_log(path)
    if not all(isinstance(line, dict) for line in found):
        raise IntegrityError(unreadable(path, "a line is no JSON object"))
    return pd.DataFrame(found, columns=list(columns))


def experiment(paths: Results) -> config.Experiment:
    """Return the experiment as it was run.

    Raises:
        IntegrityError: its settings are not those of this version.
    """
    try:
        return config.parse(records.read_json(paths.config))
    except UsageError as error:
        raise IntegrityError(unreadable(paths.config, str(error).rstrip("."))) from error


def verdict(paths: Results) -> Headline:
    """Return the verdict in words."""
    return records.read_record(paths.verdict, Headline)


def leaderboard(paths: Results) -> pd.DataFrame:
    """Return one row per run, metric, condition and amount: from scratch first, pretrained, baselines last.

    A condition "" is none: `phrases.scalars` returns those rows alone, at most one per run and metric.
    """
    return _ordered(paths, records.read_table(paths.leaderboard, layout.LEADERBOARD_COLUMNS))


def summary(paths: Results) -> pd.DataFrame:
    """Return one row per run, seed and metric."""
    return _ordered(paths, records.read_table(paths.summary, layout.SUMMARY_COLUMNS))


def verdicts(paths: Results) -> pd.DataFrame:
    """Return one row per pair of runs and metric, runs against each other first, then against controls."""
    table, known = records.read_table(paths.verdicts, layout.VERDICT_COLUMNS), _names(paths)
    return table[table["run_a"].isin(known) & table["run_b"].isin(known)].reset_index(drop=True)


def verdict_cells(
    table: pd.DataFrame, metric: str, runs: Sequence[str], controls: Sequence[str]
) -> dict[str, list[dict[str, Any] | None]]:
    """Return by run and control (row) the comparison of every run (column) with it, from the run's side."""
    judged = {(row["run_a"], row["run_b"]): row for row in rows_of(table[table["metric"] == metric])}

    def cell(run: str, opponent: str) -> dict[str, Any] | None:
        row = judged.get((run, opponent)) or judged.get((opponent, run))
        return row and turned(row, run)

    return {opponent: [cell(run, opponent) for run in runs] for opponent in (*runs, *controls)}


def _ordered(paths: Results, table: pd.DataFrame) -> pd.DataFrame:
    known = {name: place for place, name in enumerate(_names(paths))}
    table = table[table["run"].isin(known)]
    return table.sort_values("run", key=lambda run: run.map(known), kind="stable").reset_index(drop=True)


def _names(paths: Results) -> list[str]:
    """Return the runs and baselines that the configuration names; it has checked how they are spelt."""
    setup = experiment(paths)
    return [*run_names(setup), *setup.baselines]


def details(paths: Results) -> dict[str, Any]:
    """Return what the first evaluated run says of commit, versions, device, data set and people."""
    setup = experiment(paths)
    path = paths.stage(setup.run_names[0], setup.seeds[0], "evaluate") / layout.METRICS
    found = records.read_record(path, dict[str, Any])
    missing = [name for name in RUN_DETAILS if name not in found]
    if missing:
        raise IntegrityError(unreadable(path, f"no {missing[0]}"))
    return {name: found[name] for name in RUN_DETAILS}


def roc_curves(paths: Results) -> pd.DataFrame:
    """Return the ROC curve of every run, baseline and seed at common false accept rates.

    The columns are run, seed, far, tar and impostors, the number of impostor pairs behind it.
    """
    setup = experiment(paths)
    curves = []
    for name in [*run_names(setup), *setup.baselines]:
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
    genuine = scores["genuine"].to_numpy(bool)
    side = np.zeros(len(scores), dtype=np.int64)
    curve = metrics.roc(Comparisons(scores["score"].to_numpy(float), side, side + ~genuine))
    # The last threshold that keeps to a rate; between two thresholds nothing is assumed.
    return curve.tar[np.searchsorted(curve.far, far * (1 + 1e-9), side="right") - 1]


def learning_curves(paths: Results, stage: str) -> pd.DataFrame:
    """Return run, seed, part, step and loss of every log of a training stage ("pretrain" or "finetune")."""
    columns = ["step", "loss", "part"]
    logs = [
        lines_of(file, columns).assign(run=name, seed=seed)
        for name, seed, file in _logs(paths, experiment(paths), stage)
    ]
    table = pd.concat(logs, ignore_index=True) if logs else pd.DataFrame(columns=[*columns, "run", "seed"])
    numbers = table[columns].apply(pd.to_numeric, errors="coerce")
    return table.assign(**numbers).fillna({"part": 0}).astype({"step": float, "loss": float, "part": int})


def _logs(paths: Results, setup: config.Experiment, stage: str) -> Iterator[tuple[str, int, Path]]:
    for name in run_names(setup):
        for seed in setup.seeds:
            file = paths.stage(name, seed, stage) / layout.LOG
            if file.is_file():
                yield name, seed, file


# --- runs ---


def roster(setup: config.Experiment) -> pd.DataFrame:
    """Return run, kind, strategy and mask_ratio of every run and baseline, ordered as the leaderboard is."""
    rows: list[dict[str, Any]] = [
        {"run": name, "kind": "run", "strategy": run.strategy, "mask_ratio": run.mask_ratio}
        for name in run_names(setup)
        for run in [setup.run(name)]
    ]
    rows += [
        {"run": name, "kind": "baseline", "strategy": name, "mask_ratio": None} for name in setup.baselines
    ]
    return pd.DataFrame(rows)


def run_names(setup: config.Experiment) -> list[str]:
    """Return the names of the runs: from scratch, masked autoencoders, contrastive ones, from weights."""
    return [*scratch_runs(setup), *masked_runs(setup), *contrastive_runs(setup), *started_runs(setup)]


def differences(setup: config.Experiment, first: str, second: str) -> pd.DataFrame:
    """Return the settings in which two runs differ: setting, and its value as JSON in each run's column.

    Only what shapes a run counts: not, say, the parameters of a mask that it does not use.

    Raises:
        UsageError: there is no such run.
    """
    before, after = (_leaves(setup.run(name).shaping()) for name in (first, second))
    names = [*before, *(name for name in after if name not in before)]
    rows = [
        (name, *(_value(name, leaves) for leaves in (before, after)))
        for name in names
        if before.get(name) != after.get(name)
    ]
    return pd.DataFrame(rows, columns=["setting", "first", "second"])


def _value(name: str, leaves: dict[str, str]) -> str:
    """Return a setting's value; a section that only the other run leaves out whole has its values below."""
    section = any(each.startswith(f"{name}.") for each in leaves)
    return leaves.get(name, IN_PARTS if section else NOT_SET)


def _leaves(tree: dict[str, Any], where: str = "") -> dict[str, str]:
    """Return every value of nested settings as JSON, by its path, such as "pretrain.mask"."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict) and value
        found |= _leaves(value, f"{where}{name}.") if nested else {f"{where}{name}": json.dumps(value)}
    return found
