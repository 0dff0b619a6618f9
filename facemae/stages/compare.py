"""The comparison: every run's metrics in one table, and a verdict on every pair of runs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError, RefusedError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.evaluation.comparison import Chances, noise, verdict_rows
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.records import BEYOND_ONE
from facemae.evaluation.scored import Repeat, Scored, Series
from facemae.evaluation.statistics import estimate
from facemae.evaluation.variance import Variance
from facemae.report.claims import claims
from facemae.report.headline import verdict_in_words

COMPARED = (
    "roc_auc", "eer", "accuracy", "rank1", "occlusion_accuracy", "light_accuracy", "illumination_rank1",
    "labels_accuracy", "probe_accuracy", "gender_balanced", "race_balanced", "age_error",
    "expression_balanced",
)  # fmt: skip

LARGEST = 1e12  # of a measured number


def compare(experiment: config.Experiment, root: Path) -> None:
    """Write the summary, the leaderboard, the verdicts, the claims and the headline of a results folder.

    Raises:
        IntegrityError: a run's results are missing or were made for other people.
    """
    paths = Results(root)
    scored = [_load(experiment, name, paths) for name in experiment.names]
    repeats = [each for one in scored for each in one.main]
    if len({(each.content["evaluated"], *_shape(each)) for each in repeats}) > 1:
        raise IntegrityError(
            f"The runs in {root} were evaluated on different people or resamples; run the workflow again."
        )
    if not experiment.evaluate.mixed_precision:
        _check_precision(scored)
    chances = Chances(scored)
    leaderboard = pd.DataFrame(
        [row for each in scored for row in _leaderboard_rows(each, chances, experiment)],
        columns=layout.LEADERBOARD_COLUMNS,
    )
    judged = pd.DataFrame(
        [row for metric in COMPARED for row in verdict_rows(scored, metric, chances, experiment)],
        columns=layout.VERDICT_COLUMNS,
    )
    summary = pd.DataFrame([row for each in scored for row in _summary_rows(each)])
    records.write_table(paths.summary, summary.astype({"amount": float}), layout.SUMMARY_COLUMNS)
    records.write_table(paths.leaderboard, leaderboard, layout.LEADERBOARD_COLUMNS)
    records.write_table(paths.verdicts, judged, layout.VERDICT_COLUMNS)
    trained = [each.content for one in scored if one.kind == "run" for each in one.main]
    words = verdict_in_words(experiment, leaderboard, judged) | {
        "setting": scored[0].main[0].content["setting"],
        "claims": [asdict(each) for each in claims(experiment, leaderboard, judged)],
        "trained_on": sorted({f"{each['processor']} ({each['device']})" for each in trained}),
        "noise": noise(scored, chances, experiment),
    }
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
            text = " and ".join(f"{name} in {used}" for used, name in runs.items())
            raise IntegrityError(
                f"{stage} computed {text}, so that a difference may be one of precision; train again with "
                "precision set, or set evaluate.mixed_precision to true."
            )


def _load(experiment: config.Experiment, name: str, paths: Results) -> Scored:
    kind = "baseline" if name in experiment.baselines else "run"
    seeds = experiment.seeds_of(name)

    def of_stage(stage: str) -> list[Repeat]:
        return _alike([_repeat(paths.stage(name, seed, stage), seed) for seed in seeds], name)

    asked = {
        "robustness": experiment.chosen(experiment.robustness.runs),
        "attributes": experiment.chosen_runs(experiment.attributes.runs),
    }
    more = [of_stage(stage) for stage, names in asked.items() if name in names]
    if name in experiment.chosen_runs(experiment.label_curve.runs):
        subsets = range(experiment.label_curve.subsets)
        folders = [paths.labels(name, experiment.label_seed(subset), subset) for subset in subsets]
        more.append(_alike([_repeat(folder, subset) for subset, folder in enumerate(folders)], name))
    main = of_stage("evaluate")
    if lacking := {"evaluated", "dataset", "setting", "people"}.difference(*(each.content for each in main)):
        raise IntegrityError(f"The evaluation of {name} does not say {min(lacking)}; run the workflow again.")
    run = experiment.run(name) if kind == "run" else None
    return Scored(name, kind, run, main, more)


def _repeat(folder: Path, seed: int) -> Repeat:
    try:
        content = records.read_metrics(folder, records.Measured)
        samples, influence = (
            records.read_measured(folder, name) for name in (layout.RESAMPLES, layout.INFLUENCE)
        )
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing; run the workflow to make it.") from error
    influence = influence if len(influence) else influence.astype(float)  # an empty table has no types
    numbers = all(each.kind in "if" for each in (*samples.dtypes, *influence.dtypes))
    sound = numbers and {*PEOPLE} <= {*influence} and (influence.abs() < LARGEST).all(axis=None)
    if not sound or (samples.abs() > LARGEST).any(axis=None):  # a resample need not have a value
        raise IntegrityError(f"The tables in {folder} hold what was not measured; make them again.")
    return Repeat(content, samples, influence, seed)


def _shape(each: Repeat) -> tuple[int, str]:
    """Return how many resamples there are, and what tells whose influence was measured."""
    return len(each.samples), files.sha256(each.influence[[*PEOPLE]].to_numpy().tobytes())


def _alike(repeats: list[Repeat], name: str) -> list[Repeat]:
    """Return what a stage measured several times, if it is the same each time."""
    if len({(frozenset(each.entries), *_shape(each)) for each in repeats}) > 1:
        raise IntegrityError(f"Seeds of {name} were measured in different ways; run the workflow again.")
    return repeats


def _facts(each: Scored) -> dict[str, Any]:
    return {
        "run": each.name,
        "kind": each.kind,
        "strategy": each.run.strategy if each.run else each.name,
        "mask_ratio": each.run.mask_ratio if each.run else None,
    }


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
                yield _facts(each) | own | entry | {"metric": entry["name"]}


def _leaderboard_rows(each: Scored, chances: Chances, experiment: config.Experiment) -> list[dict[str, Any]]:
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
    none = dict.fromkeys(("value", "ci_low", "ci_high"))
    row = one.entry | none | {"metric": one.entry["name"], "seeds": len(one.values), "people": one.people}
    if len(one.values):
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
