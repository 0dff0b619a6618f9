"""The comparison: every run's metrics in one table, and a verdict on every pair of runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError, RefusedError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.records import BEYOND_ONE, higher_is_better
from facemae.evaluation.statistics import Estimate, estimate, verdicts
from facemae.evaluation.variance import (
    NO_CHANCE,
    Dyads,
    Evidence,
    Resampled,
    Training,
    Variance,
    added,
    people_variance,
)
from facemae.report.claims import claims
from facemae.report.verdict import verdict_in_words

COMPARED = (
    "roc_auc", "eer", "accuracy", "rank1", "occlusion_accuracy", "light_accuracy", "illumination_rank1",
    "labels_accuracy", "probe_accuracy", "gender_balanced", "race_balanced", "age_error",
    "expression_balanced",
)  # fmt: skip

Key = tuple[str, str, str, float | None]
"""Protocol, metric, condition and amount."""


@dataclass(frozen=True)
class Repeat:
    """What a stage measured once: for one seed, or for one subset of the labels.

    Attributes:
        content: Of its `metrics.json`.
        samples: Its table of metric values on the shared resamples.
        influence: Its table of the influence of each two people's pairs.
    """

    content: dict[str, Any]
    samples: pd.DataFrame
    influence: pd.DataFrame
    seed: int

    @property
    def entries(self) -> dict[Key, dict[str, Any]]:
        """Return the metrics by what they are."""
        return {_key(each): each for each in self.content["metrics"]}


@dataclass(frozen=True)
class Series:
    """One metric of one run over its seeds.

    Attributes:
        values: (S,)
        evidence: What other people would have changed, or None where that was not measured.
        people: How many were evaluated.
    """

    entry: dict[str, Any]
    values: np.ndarray
    evidence: Evidence | None
    people: int


@dataclass(frozen=True)
class Scored:
    """One run or baseline with all that was measured on it."""

    name: str
    kind: str
    run: config.Run | None
    main: list[Repeat]
    """The evaluation of each seed."""
    more: list[list[Repeat]] = field(default_factory=list)
    """The other stages: robustness and attributes by seed, labels by subset."""

    @property
    def people(self) -> int:
        """Return the number of evaluation people."""
        return int(self.main[0].content["people"])

    @property
    def refusal(self) -> str:
        """Return why nothing may be said of this run: a training that has not learnt; "" where all have."""
        health = [each for repeat in self.main for each in repeat.content.get("health", [])]
        reason = next((each["reason"] for each in health if not each["learnt"]), "")
        return f"{self.name} has not learnt: {reason}" if reason else ""

    @cached_property
    def series(self) -> dict[Key, Series]:
        """Return every metric; one that was refused for any seed has no values."""
        return {
            key: _series(key, repeats) for repeats in (self.main, *self.more) for key in repeats[0].entries
        }

    def scalar(self, metric: str) -> Series | None:
        """Return a metric as it is measured once for a run, under no condition."""
        found = (one for (_, *rest), one in self.series.items() if rest == [metric, "", None])
        return next(found, None)

    def total(self, what: str, stage: str) -> float:
        """Return the mean over seeds of what a training stage took, such as images; NaN is unknown."""
        if self.run is None or (stage == "pretrain" and self.run.pretrain is None):
            return 0.0
        taken = [each.content.get(what, {}).get(stage) for each in self.main]
        return float(np.mean([np.nan if value is None else value for value in taken]))

    def seconds(self, stage: str) -> float:
        """Return the mean over seeds of the processor seconds that a training stage took; 0 without one."""
        return float(np.mean([each.content["seconds"].get(stage, 0.0) for each in self.main]))

    @property
    def total_seconds(self) -> float:
        """Return the mean over seeds of the processor seconds of all training."""
        return self.seconds("pretrain") + self.seconds("finetune")


def _series(key: Key, repeats: list[Repeat]) -> Series:
    """Return a metric over the seeds; subsets of the labels that share a seed's networks count as one."""
    found = [repeat.entries.get(key) for repeat in repeats]
    values = [None if each is None else each["value"] for each in found]
    refused = any(value is None for value in values)
    told = zip(found, values, strict=True)
    first = next(each for each, value in told if each and refused == (value is None))
    people = int(first.get("people") or repeats[0].content["people"])
    if refused:
        return Series(first, np.array([]), None, people)
    seeds = [repeat.content["seed"] for repeat in repeats]
    evidence = _evidence(records.column(*key[1:]), repeats, seeds, people)
    return Series(first, _by_seed(np.array(values, float), seeds), evidence, people)


def _evidence(column: str, repeats: list[Repeat], seeds: list[int], people: int) -> Evidence | None:
    """Return what the tables hold of a metric; the influence of pairs where there is one."""
    if all(column in repeat.influence for repeat in repeats):
        rows = np.stack([repeat.influence[column].to_numpy() for repeat in repeats])
        first, second = (repeats[0].influence[side].to_numpy() for side in PEOPLE)
        return Dyads(_by_seed(rows, seeds), first, second)
    if all(column in repeat.samples for repeat in repeats):
        rows = np.stack([repeat.samples[column].to_numpy() for repeat in repeats])
        return Resampled(_by_seed(rows, seeds), people)
    return None


def _by_seed(values: np.ndarray, seeds: list[int]) -> np.ndarray:
    """Return the mean of each seed's rows."""
    return np.stack([values[np.array(seeds) == seed].mean(axis=0) for seed in dict.fromkeys(seeds)])


def compare(experiment: config.Experiment, root: Path) -> None:
    """Write the summary, the leaderboard, the verdicts, the claims and the headline of a results folder.

    Raises:
        IntegrityError: a run's results are missing or were made for other people.
    """
    paths = Results(root)
    scored = [_load(experiment, name, paths) for name in experiment.names]
    repeats = [each for one in scored for each in one.main]
    if len({(each.content["evaluated"], len(each.samples), len(each.influence)) for each in repeats}) > 1:
        raise IntegrityError(
            f"The runs in {root} were evaluated on different people or resamples; run the workflow again."
        )
    if not experiment.evaluate.mixed_precision:
        _check_precision(scored)
    chances = _Chances(scored)
    leaderboard = pd.DataFrame(
        [row for each in scored for row in _leaderboard_rows(each, chances, experiment)],
        columns=layout.LEADERBOARD_COLUMNS,
    )
    judged = pd.DataFrame(
        [row for metric in COMPARED for row in _verdict_rows(scored, metric, chances, experiment)],
        columns=layout.VERDICT_COLUMNS,
    )
    records.write_table(paths.summary, _summary(scored), layout.SUMMARY_COLUMNS)
    records.write_table(paths.leaderboard, leaderboard, layout.LEADERBOARD_COLUMNS)
    records.write_table(paths.verdicts, judged, layout.VERDICT_COLUMNS)
    words = verdict_in_words(experiment, leaderboard, judged)
    words["setting"] = scored[0].main[0].content["setting"]
    words["claims"] = [asdict(each) for each in claims(experiment, leaderboard, judged)]
    trained = [each.content for one in scored if one.kind == "run" for each in one.main]
    words["trained_on"] = sorted({f"{each['processor']} ({each['device']})" for each in trained})
    words["noise"] = _noise(scored, chances, experiment)
    files.write_json(paths.verdict, words)
    say("compare", words["headline"])


def _check_precision(scored: list[Scored]) -> None:
    """Stop if a training stage computed in another precision for some runs or seeds than for others."""
    found: dict[str, dict[str, str]] = {}  # by stage and precision a run
    for one in scored:
        for stage, used in (pair for each in one.main for pair in each.content["precision"].items()):
            found.setdefault(stage, {}).setdefault(used, one.name)
    for stage, runs in found.items():
        if len(runs) > 1:
            told = " and ".join(f"{name} in {used}" for used, name in runs.items())
            raise IntegrityError(
                f"{stage} computed {told}, so that a difference may be one of precision; train again with "
                "precision set, or set evaluate.mixed_precision to true."
            )


def _load(experiment: config.Experiment, name: str, paths: Results) -> Scored:
    kind = "baseline" if name in experiment.baselines else "run"
    seeds = experiment.seeds_of(name)

    def of_stage(stage: str) -> list[Repeat]:
        return [_repeat(paths.stage(name, seed, stage), seed) for seed in seeds]

    more = []
    if name in experiment.chosen(experiment.robustness.runs):
        more.append(of_stage("robustness"))
    if kind == "run" and name in experiment.chosen(experiment.attributes.runs):
        more.append(of_stage("attributes"))
    if kind == "run" and name in experiment.chosen(experiment.label_curve.runs):
        subsets = range(experiment.label_curve.subsets)
        folders = [paths.labels(name, experiment.label_seed(subset), subset) for subset in subsets]
        more.append([_repeat(folder, subset) for subset, folder in enumerate(folders)])
    run = experiment.run(name) if kind == "run" else None
    return Scored(name, kind, run, of_stage("evaluate"), more)


def _repeat(folder: Path, seed: int) -> Repeat:
    try:
        content = records.read_metrics(folder)
        samples, influence = (
            records.read_measured(folder, name) for name in (layout.RESAMPLES, layout.INFLUENCE)
        )
        return Repeat(content, samples, influence, seed)
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing; run the workflow to make it.") from error


def _facts(each: Scored) -> dict[str, Any]:
    return {
        "run": each.name,
        "kind": each.kind,
        "strategy": each.run.strategy if each.run else each.name,
        "mask_ratio": each.run.mask_ratio if each.run else None,
    }


def _summary(scored: list[Scored]) -> pd.DataFrame:
    rows = [row for each in scored for row in _summary_rows(each)]
    return pd.DataFrame(rows, columns=layout.SUMMARY_COLUMNS).astype({"amount": float})


def _summary_rows(each: Scored) -> Iterator[dict[str, Any]]:
    dataset, seconds = each.main[0].content["dataset"], each.total_seconds
    for repeats in (each.main, *each.more):
        for repeat in repeats:
            own = {
                "seed": repeat.seed,
                "dataset": repeat.content.get("dataset", dataset),
                "seconds": sum(repeat.content["seconds"].values()) or seconds,
                "device": repeat.content["device"],
            }
            for entry in repeat.content["metrics"]:
                yield (
                    _facts(each)
                    | own
                    | _told(entry)
                    | {key: entry[key] for key in ("value", "ci_low", "ci_high", "n", "note")}
                )


def _told(entry: dict[str, Any]) -> dict[str, Any]:
    return {
        "protocol": entry["protocol"],
        "metric": entry["name"],
        "condition": entry["condition"],
        "amount": entry["amount"],
    }


def _leaderboard_rows(each: Scored, chances: _Chances, experiment: config.Experiment) -> list[dict[str, Any]]:
    common = _facts(each) | {
        "seconds_pretrain": each.seconds("pretrain"),
        "seconds_finetune": each.seconds("finetune"),
        "images_pretrain": each.total("images_seen", "pretrain"),
        "images_finetune": each.total("images_seen", "finetune"),
        "joules": each.total("energy_joules", "pretrain") + each.total("energy_joules", "finetune"),
        "device": each.main[0].content["device"],
    }
    return [
        common | _leaderboard_row(one, each.kind, chances.of(each, key), experiment)
        for key, one in each.series.items()
    ]


def _leaderboard_row(
    one: Series, kind: str, training: Variance, experiment: config.Experiment
) -> dict[str, Any]:
    row = _told(one.entry) | {
        "seeds": len(one.values),
        "people": one.people,
        "value": None,
        "ci_low": None,
        "ci_high": None,
        "note": one.entry["note"],
    }
    if not len(one.values):
        return row
    row["value"] = float(one.values.mean())
    if one.evidence is None:
        return row
    try:
        found = estimate(one.values, one.evidence, training, experiment.evaluate.level)
    except RefusedError as error:
        return row | {"note": f"no interval: {error}"}
    share = one.entry["name"] not in BEYOND_ONE
    single = "" if found.covers_seeds or kind == "baseline" else "one seed: people only"
    return row | {
        "ci_low": max(0.0, found.low) if share else found.low,
        "ci_high": min(1.0, found.high) if share else found.high,
        "note": "; ".join(part for part in (one.entry["note"], single) if part),
    }


class _Chances:
    """The variance that the training's luck brings each run, metric by metric.

    Runs that have learnt are analysed together, since they share their seeds. Whatever else is drawn by
    chance stands alone: runs that have not learnt, and baselines.
    """

    def __init__(self, scored: list[Scored]) -> None:
        self._scored = scored
        self._found: dict[Key, dict[str, tuple[Training, int]]] = {}

    def of(self, one: Scored, key: Key) -> Variance:
        """Return the variance of the value of one seed."""
        found = self._at(key).get(one.name)
        return found[0].single(found[1]) if found else NO_CHANCE

    def between(self, a: Scored, b: Scored, key: Key) -> Variance:
        """Return the variance of the difference of one seed."""
        found = [self._at(key).get(each.name) for each in (a, b)]
        if found[0] and found[1] and found[0][0] is found[1][0]:
            return found[0][0].between(found[0][1], found[1][1])
        return added(self.of(a, key), self.of(b, key))

    def _at(self, key: Key) -> dict[str, tuple[Training, int]]:
        if key not in self._found:
            values = {each.name: each.series[key].values for each in self._scored if key in each.series}
            drawn = {name: value for name, value in values.items() if len(value) > 1}
            learnt = [
                each.name
                for each in self._scored
                if each.name in drawn and each.kind == "run" and not each.refusal
            ]
            groups = [learnt, *([name] for name in drawn if name not in learnt)]
            self._found[key] = {
                name: (training, place)
                for group in groups
                if group
                for training in [Training.of(np.stack([drawn[name] for name in group]))]
                for place, name in enumerate(group)
            }
        return self._found[key]


Measured = tuple[Scored, Series]
Pair = tuple[Measured, Measured]


def _verdict_rows(
    scored: list[Scored], metric: str, chances: _Chances, experiment: config.Experiment
) -> list[dict[str, Any]]:
    """Judge the comparisons that decide as one family, and what else there is as others.

    The others are the rest of the pairs of runs, and all runs against all baselines.
    """
    held = [(each, each.scalar(metric)) for each in scored]
    measured = [(each, one) for each, one in held if one is not None and one.evidence is not None]
    runs = [pair for pair in measured if pair[0].kind == "run"]
    controls = [pair for pair in measured if pair[0].kind == "baseline"]
    # What is trained without pretraining is compared with.
    runs.sort(key=lambda pair: pair[0].run is not None and pair[0].run.pretrain is not None)
    by_name = {one.name: (one, series) for one, series in runs}
    wanted = experiment.primary_pairs if metric == experiment.evaluate.primary else []
    decisive = [(by_name[a], by_name[b]) for a, b in wanted if a in by_name and b in by_name]
    known = [{a[0].name, b[0].name} for a, b in decisive]
    others = [(b, a) for a, b in combinations(runs, 2) if {a[0].name, b[0].name} not in known]
    against = [(run, control) for run in runs for control in controls]
    families = [(layout.PRIMARY, decisive), (layout.EXPLORATORY, others), (layout.EXPLORATORY, against)]
    return [
        {"metric": metric, "family": family} | row
        for family, pairs in families
        for row in _judge(pairs, metric, chances, experiment)
    ]


def _judge(
    pairs: list[Pair], metric: str, chances: _Chances, experiment: config.Experiment
) -> list[dict[str, Any]]:
    settings = experiment.evaluate
    differences = [_difference(a, b, chances, settings.level) for a, b in pairs]
    refusals = [a.refusal or b.refusal for (a, _), (b, _) in pairs]
    judged = verdicts(
        differences, higher_is_better(metric), settings.margin(metric), 1 - settings.level, refusals
    )
    return [
        {
            "run_a": a.name,
            "run_b": b.name,
            "difference": verdict.estimate.value,
            "ci_low": verdict.estimate.low,
            "ci_high": verdict.estimate.high,
            "p_value": verdict.p_value,
            "p_adjusted": verdict.p_adjusted,
            "verdict": verdict.verdict,
            "detectable": verdict.detectable,
            "note": verdict.note,
            "seconds_difference": a.total_seconds - b.total_seconds,
            "budget_note": _budget_note(a, b),
        }
        for ((a, _), (b, _)), verdict in zip(pairs, judged, strict=True)
    ]


def _difference(a: Measured, b: Measured, chances: _Chances, level: float) -> Estimate:
    """Compare two runs seed by seed; a baseline without chance is the same for every seed."""
    repeats = max(len(one.values) for _, one in (a, b))
    values, evidence = zip(*(_repeated(one, repeats) for _, one in (a, b)), strict=True)
    key = _key(a[1].entry)
    training = chances.between(a[0], b[0], key) if repeats > 1 else NO_CHANCE
    return estimate(values[0] - values[1], evidence[0] - evidence[1], training, level)


def _noise(scored: list[Scored], chances: _Chances, experiment: config.Experiment) -> dict[str, float]:
    """Return how far a difference moves by chance, the mean over the comparisons that decide (plan.Noise).

    Of runs that have learnt and have two seeds or more; nothing where no two are compared.
    """
    held = [(each, each.scalar(experiment.evaluate.primary)) for each in scored if not each.refusal]
    known = {each.name: (each, one) for each, one in held if one and len(one.values) > 1 and one.evidence}
    pairs = [(known[a], known[b]) for a, b in experiment.primary_pairs if a in known and b in known]
    if not pairs:
        return {}
    evidence = [_repeated(a, 1)[1] - _repeated(b, 1)[1] for (_, a), (_, b) in pairs]
    training = [chances.between(a, b, _key(one.entry)) for (a, one), (b, _) in pairs]
    return {
        "people": pairs[0][0][1].people,
        "people_variance": float(np.mean([people_variance(each).value for each in evidence])),
        "training_variance": float(np.mean([each.value for each in training])),
    }


def _key(entry: dict[str, Any]) -> Key:
    return entry["protocol"], entry["name"], entry["condition"], entry["amount"]


def _repeated(one: Series, repeats: int) -> tuple[np.ndarray, Any]:
    times = repeats if len(one.values) == 1 else 1
    assert one.evidence is not None
    return np.tile(one.values, times), one.evidence.repeated(times)


def _budget_note(a: Scored, b: Scored) -> str:
    """Return which settings besides the mask differ, so that no comparison looks fairer than it is."""
    if a.run is None or b.run is None:
        return "the control trains no network"
    differing = sorted(_differing(_shaping(a.run), _shaping(b.run), ""))
    # Another mask has other parameters; those of the same mask are worth telling.
    masks = ("pretrain.mask", *([] if a.run.strategy == b.run.strategy else ["pretrain.masks."]))
    differing = [key for key in differing if key != masks[0] and not key.startswith(masks[1:])]
    told = [f"differ in {', '.join(differing)}"] if differing else []
    return "; ".join([*told, *_spent(a, b)])


def _shaping(run: config.Run) -> dict[str, Any]:
    """Return a run's settings, augmentation under one name whatever the method."""
    settings = run.shaping()
    return (
        settings | {"pretrain": settings["pretrain"] | run.pretrain.augmentation}
        if run.pretrain
        else settings
    )


def _spent(a: Scored, b: Scored) -> list[str]:
    """Return how the images and seconds of two pretrainings compare, where the images (views) differ."""
    images = [each.total("images_seen", "pretrain") for each in (a, b)]
    seconds = [each.seconds("pretrain") for each in (a, b)]
    if not all(value > 0 for value in (*images, *seconds)) or images[0] == images[1]:
        return []
    ratios = images[0] / images[1], seconds[0] / seconds[1]
    return ["{:.2g} times the images in {:.2g} times the seconds of pretraining".format(*ratios)]


def _differing(a: Any, b: Any, path: str) -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        keys = [key for key in a if key in b]  # another method has other settings
        parts = (_differing(a[key], b[key], f"{path}.{key}" if path else key) for key in keys)
        return [found for part in parts for found in part]
    return [] if a == b else [path]
