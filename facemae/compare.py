"""The comparison: every run's metrics in one table, and a verdict on every pair of runs."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facemae import config, files, results
from facemae.errors import IntegrityError
from facemae.metrics import higher_is_better
from facemae.progress import say
from facemae.results import Results
from facemae.statistics import Difference, combine, difference, verdicts
from facemae.wording import verdict_in_words

COMPARED = ("roc_auc", "eer", "accuracy", "rank1")


@dataclass(frozen=True)
class Scored:
    """One run or baseline over its seeds.

    Attributes:
        metrics: The content of each seed's `metrics.json`.
        resamples: Each seed's table of metric values on the shared resamples.
    """

    name: str
    kind: str
    run: config.Run | None
    metrics: list[dict[str, Any]]
    resamples: list[pd.DataFrame]

    @property
    def people(self) -> int:
        """Return the number of evaluation people."""
        return int(self.metrics[0]["people"])

    @property
    def seeds(self) -> list[tuple[dict[str, Any], pd.DataFrame]]:
        """Return metrics and resamples of each seed."""
        return list(zip(self.metrics, self.resamples, strict=True))

    def point(self, metric: str) -> np.ndarray:
        """Return the metric's value for each seed, (S,)."""
        return np.array([self.entry(seed, metric)["value"] for seed in range(len(self.metrics))])

    def samples(self, metric: str) -> np.ndarray:
        """Return the metric on the resamples, (S, R)."""
        return np.stack([table[metric].to_numpy() for table in self.resamples])

    def entry(self, seed: int, metric: str) -> dict[str, Any]:
        """Return the metric's entry for the seed at this place."""
        entry: dict[str, Any] = next(e for e in self.metrics[seed]["metrics"] if e["name"] == metric)
        return entry

    def seconds(self, stage: str) -> float:
        """Return the mean over seeds of the processor seconds that a training stage took."""
        return float(np.mean([each["seconds"].get(stage, 0.0) for each in self.metrics]))

    @property
    def total_seconds(self) -> float:
        """Return the mean over seeds of the processor seconds of all training."""
        return self.seconds("pretrain") + self.seconds("finetune")


def compare(experiment: config.Experiment, root: Path) -> None:
    """Write the summary, the leaderboard, the verdicts and the headline of a results folder.

    Raises:
        IntegrityError: a run's results are missing or were made for other people.
    """
    paths = Results(root)
    scored = [_load(experiment, name, paths) for name in (*experiment.run_names, *experiment.baselines)]
    if len({(content["evaluated"], len(table)) for each in scored for content, table in each.seeds}) > 1:
        raise IntegrityError(
            f"The runs in {root} were evaluated on different people or resamples; run the workflow again."
        )
    leaderboard = pd.DataFrame([row for each in scored for row in _leaderboard_rows(each, experiment)])
    judged = pd.DataFrame(
        [row for metric in COMPARED for row in _verdict_rows(scored, metric, experiment)],
        columns=results.VERDICT_COLUMNS,
    )
    results.write_table(paths.summary, _summary(scored), results.SUMMARY_COLUMNS)
    results.write_table(paths.leaderboard, leaderboard, results.LEADERBOARD_COLUMNS)
    results.write_table(paths.verdicts, judged, results.VERDICT_COLUMNS)
    words = verdict_in_words(experiment, leaderboard, judged)
    files.write_json(paths.verdict, words)
    say("compare", words["headline"])


def _load(experiment: config.Experiment, name: str, paths: Results) -> Scored:
    kind = "baseline" if name in experiment.baselines else "run"
    folders = [paths.stage(name, seed, "evaluate") for seed in experiment.seeds_of(name)]
    try:
        metrics = [results.read_json(folder / results.METRICS) for folder in folders]
        resamples = [results.read_table(folder / results.RESAMPLES) for folder in folders]
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing; run the workflow to evaluate {name}.") from error
    return Scored(name, kind, experiment.run(name) if kind == "run" else None, metrics, resamples)


def _facts(each: Scored) -> dict[str, Any]:
    return {
        "run": each.name,
        "kind": each.kind,
        "strategy": each.run.strategy if each.run else each.name,
        "mask_ratio": each.run.mask_ratio if each.run else None,
    }


def _summary(scored: list[Scored]) -> pd.DataFrame:
    rows = []
    for each in scored:
        for content in each.metrics:
            more = {
                "seed": content["seed"],
                "dataset": content["dataset"],
                "seconds": sum(content["seconds"].values()),
                "device": content["device"],
            }
            for entry in content["metrics"]:
                values = {key: entry[key] for key in ("protocol", "value", "ci_low", "ci_high", "n", "note")}
                rows.append(_facts(each) | more | values | {"metric": entry["name"]})
    return pd.DataFrame(rows)


def _leaderboard_rows(each: Scored, experiment: config.Experiment) -> list[dict[str, Any]]:
    common = _facts(each) | {
        "seeds": len(each.metrics),
        "people": each.people,
        "seconds_pretrain": each.seconds("pretrain"),
        "seconds_finetune": each.seconds("finetune"),
        "device": each.metrics[0]["device"],
    }
    rows = []
    for entry in each.metrics[0]["metrics"]:
        row = common | {
            "metric": entry["name"],
            "value": None,
            "ci_low": None,
            "ci_high": None,
            "note": entry["note"],
        }
        if entry["value"] is not None:
            estimate = combine(
                each.point(entry["name"]), each.samples(entry["name"]), each.people, experiment.evaluate.level
            )
            row |= {
                "value": estimate.value,
                "ci_low": max(0.0, estimate.low),
                "ci_high": min(1.0, estimate.high),
                "note": "" if estimate.covers_seeds or each.kind == "baseline" else "one seed: people only",
            }
        rows.append(row)
    return rows


def _verdict_rows(scored: list[Scored], metric: str, experiment: config.Experiment) -> list[dict[str, Any]]:
    """Judge all pairs of runs as one family, and all runs against all baselines as another."""
    runs = [each for each in scored if each.kind == "run"]
    controls = [each for each in scored if each.kind == "baseline"]
    runs.sort(
        key=lambda each: each.run is not None and each.run.pretrain is not None
    )  # scratch is compared with
    families = [
        [(b, a) for a, b in combinations(runs, 2)],
        [(run, control) for run in runs for control in controls],
    ]
    return [row for pairs in families for row in _judge(pairs, metric, experiment)]


def _judge(
    pairs: list[tuple[Scored, Scored]], metric: str, experiment: config.Experiment
) -> list[dict[str, Any]]:
    if not pairs:
        return []
    level = experiment.evaluate.level
    differences = [_difference(a, b, metric, level) for a, b in pairs]
    judged = verdicts(differences, higher_is_better(metric), alpha=1 - level)
    return [
        {
            "metric": metric,
            "run_a": a.name,
            "run_b": b.name,
            "difference": verdict.estimate.value,
            "ci_low": verdict.estimate.low,
            "ci_high": verdict.estimate.high,
            "p_value": verdict.p_value,
            "p_adjusted": verdict.p_adjusted,
            "verdict": verdict.verdict,
            "detectable": verdict.detectable,
            "seconds_difference": a.total_seconds - b.total_seconds,
            "budget_note": _budget_note(a, b),
        }
        for (a, b), verdict in zip(pairs, judged, strict=True)
    ]


def _difference(a: Scored, b: Scored, metric: str, level: float) -> Difference:
    seeds = max(len(a.metrics), len(b.metrics))
    point_a, samples_a = _over_seeds(a, metric, seeds)
    point_b, samples_b = _over_seeds(b, metric, seeds)
    return difference(point_a, samples_a, point_b, samples_b, a.people, level)


def _over_seeds(each: Scored, metric: str, seeds: int) -> tuple[np.ndarray, np.ndarray]:
    """Return values and resamples; a baseline without chance has the same for every seed."""
    repeat = seeds if len(each.metrics) == 1 else 1
    return np.tile(each.point(metric), repeat), np.tile(each.samples(metric), (repeat, 1))


def _budget_note(a: Scored, b: Scored) -> str:
    """Return which settings besides the mask differ, so that no comparison looks fairer than it is."""
    if a.run is None or b.run is None:
        return "the control trains nothing"
    differing = sorted(_differing(a.run.shaping(), b.run.shaping(), ""))
    # Another mask has other parameters; those of the same mask are worth telling.
    masks = ("pretrain.mask", *([] if a.run.strategy == b.run.strategy else ["pretrain.masks."]))
    differing = [key for key in differing if key != masks[0] and not key.startswith(masks[1:])]
    return f"differ in {', '.join(differing)}" if differing else ""


def _differing(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [*a, *(key for key in b if key not in a)]
        parts = (_differing(a.get(key), b.get(key), f"{path}.{key}" if path else key) for key in keys)
        return [found for part in parts for found in part]
    return [] if a == b else [path]
