"""Before the run: which difference these people and seeds can decide, and what it costs.

The arithmetic is that of the verdicts (evaluation/verdict.py), fed with what an earlier comparison measured:
how far a difference of two runs moves over people and over trainings, and what a face of training takes.
Where nothing was measured there is no number, but a sentence that says what to run first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.sources.locate import find, raw_dir
from facemae.evaluation.records import metric_label
from facemae.evaluation.statistics import Estimate
from facemae.evaluation.variance import Variance, added
from facemae.evaluation.verdict import detectable
from facemae.report import tables
from facemae.report.headline import NO_FAMILY
from facemae.report.phrases import names_of, rows_of

PUBLISHED = Path(__file__).parents[2] / "docs" / "results"
OVERLAID = "facemae plan --config config.yaml --config FILE"
POWER = 0.8
# Where there is no difference, equivalence is missed on either side.
POWER_OF_EQUIVALENCE = 1 - (1 - POWER) / 2
MOST_SEEDS, MOST_PEOPLE = 50, 1_000_000
GROWTH = 1.1  # between the numbers of people that are tried
ONE_SEED = "One seed cannot tell a better run from a lucky training: name two or more under seeds."
NO_NOISE = (
    "No earlier comparison of this data by {metric} tells how far a difference moves by chance: run two "
    "seeds first (snakemake --cores all), then plan again with --results and their folder."
)
NOT_LEARNT = (
    "{source} holds no comparison of the primary family between runs that have learnt, with two seeds or "
    "more, so it does not tell how far a difference moves by chance: mend what its report marks, and run it "
    "again."
)
NO_PEOPLE = (
    "How many people are evaluated is known once they are set apart: run snakemake --cores all "
    "{split}, then plan again."
)
STAGES = ("pretrain", "finetune")


@dataclass(frozen=True)
class Noise:
    """How far a difference of two runs moves by chance, the mean over the comparisons that decide."""

    people: int  # how many were evaluated
    people_variance: float  # of a mean over seeds, over other people, so many of them
    training_variance: float  # of the difference of one seed's two networks

    def estimate(self, people: int, seeds: int, runs: int, level: float) -> Estimate:
        """Return what a difference of 0 would be estimated with by so many people, seeds and runs."""
        over_people = Variance(self.people_variance * self.people / people, people - 1)
        over_training = Variance(self.training_variance / seeds, (runs - 1) * (seeds - 1))
        variance = added(over_people, over_training)
        return Estimate(0.0, math.sqrt(variance.value), variance.freedom, seeds > 1, level)


@dataclass(frozen=True)
class Pilot:
    """What an earlier comparison tells of the next one."""

    source: str = ""  # where it was read
    noise: Noise | None = None  # None where it measured none
    runs: Sequence[Mapping[str, Any]] = ()  # what each training took: run, seconds_* and images_*


@dataclass(frozen=True)
class Plan:
    """What can be decided in the primary family, with 80 % power, and what it costs."""

    metric: str
    level: float
    power: float
    comparisons: int
    runs: int
    seeds: int
    people: int | None
    detectable: float | None  # the least true difference that is called better or worse
    equivalence: float  # the margin of the configuration
    smallest_margin: float | None  # the least within which two equal runs are called equivalent
    minutes: float | None  # of a processor (a GPU where one trains), for training all runs and seeds
    source: str
    sentences: list[str] = field(default_factory=list)  # what is missing, and what to change


def plan(experiment: config.Experiment, root: Path, published: Path = PUBLISHED) -> Plan:
    """Plan a comparison before it is run.

    Args:
        experiment: What is to be run.
        root: A results folder, of an earlier run or of this one as far as it has come; it need not exist.
        published: Folder of documented results, which stand in for an earlier run of the same data.

    Raises:
        UsageError: no run is held against another, so there is nothing to decide.
    """
    if not experiment.primary_pairs:
        raise UsageError(f"{NO_FAMILY} Most files of config/ come after the main one: {OVERLAID}")
    settings, seeds = experiment.evaluate, len(experiment.seeds)
    pilot = _of_folder(experiment, root) or _documented(experiment, published)
    people = _people(experiment, root, pilot)
    asked = _Comparison(experiment, pilot.noise if seeds > 1 else None, people)
    return Plan(
        settings.primary, settings.level, POWER, len(experiment.primary_pairs), len(experiment.run_names),
        seeds, people, asked.reach(POWER), settings.equivalence, asked.reach(POWER_OF_EQUIVALENCE),
        _minutes(experiment, pilot.runs), pilot.source, _sentences(asked, root, pilot),
    )  # fmt: skip


@dataclass(frozen=True)
class _Comparison:
    """What a plan rests on."""

    experiment: config.Experiment
    noise: Noise | None
    people: int | None

    def reach(self, power: float, seeds: int = 0, people: int = 0) -> float | None:
        """Return the difference that a comparison of the primary family tells from 0 with this power."""
        people = people or self.people or 0
        if self.noise is None or people < 2:
            return None
        level, runs = self.experiment.evaluate.level, len(self.experiment.run_names)
        found = self.noise.estimate(people, seeds or len(self.experiment.seeds), runs, level)
        return detectable(found, (1 - level) / len(self.experiment.primary_pairs), power)

    def shows_equivalence(self, **numbers: int) -> bool:
        """Return whether equal runs would be called equivalent by so many seeds or people."""
        found = self.reach(POWER_OF_EQUIVALENCE, **numbers)
        return found is not None and found <= self.experiment.evaluate.equivalence


def _of_folder(experiment: config.Experiment, root: Path) -> Pilot | None:
    paths = Results(root)
    found = tables.headline(paths) if paths.verdict.exists() else None
    if found is None or found.metric != experiment.evaluate.primary:
        return None
    return Pilot(str(root), _noise(found.noise), rows_of(tables.leaderboard(paths).drop_duplicates("run")))


def _documented(experiment: config.Experiment, folder: Path) -> Pilot:
    wanted = experiment.dataset, experiment.evaluate.primary
    for file in sorted(folder.glob("*.json")):
        content = records.read_json(file)
        if (content["facts"]["Data"], content["primary"]) == wanted:
            return Pilot(f"docs/results/{file.name}", _noise(content.get("noise", {})), content["runs"])
    return Pilot()


def _noise(found: Mapping[str, Any]) -> Noise | None:
    return Noise(**{**found, "people": int(found["people"])}) if found else None


def _people(experiment: config.Experiment, root: Path, pilot: Pilot) -> int | None:
    split = Results(root).data.split
    if split.exists():
        table = records.read_table(split, ["person", "role"])
        return int(table.loc[table["role"] == layout.ROLE_EVALUATION, "person"].nunique())
    if experiment.split.pairs is not None:
        return pilot.noise.people if pilot.noise else None
    data = experiment.data
    known = find(data.labelled, layout.SET_LABELLED, raw_dir(data.raw_dir)).source.published_people
    return None if known is None else round(known * experiment.split.evaluation_fraction)


def _minutes(experiment: config.Experiment, runs: Sequence[Mapping[str, Any]]) -> float | None:
    """Return the minutes of all trainings, at the seconds a face that earlier ones took; None: not known.

    They are those of the run of that name, or else of all that have such a stage.
    """
    total = 0.0
    for name, stage in product(experiment.run_names, STAGES):
        faces = _faces(experiment, name, stage)
        trained = [run for run in runs if (run[f"images_{stage}"] or 0) > 0]
        alike = [run for run in trained if run["run"] == name] or trained
        if faces and not alike:
            return None
        if faces:
            seconds, images = (sum(run[f"{what}_{stage}"] for run in alike) for what in ("seconds", "images"))
            total += faces * (seconds / images)
    return total * len(experiment.seeds) / 60


def _faces(experiment: config.Experiment, name: str, stage: str) -> int:
    run = experiment.run(name)
    if stage == "finetune":
        return run.finetune.steps * run.finetune.batch_size * experiment.split.rotations
    views = 1 if run.masked else 2
    return run.pretrain.steps * run.pretrain.batch_size * views if run.pretrain else 0


def _sentences(asked: _Comparison, root: Path, pilot: Pilot) -> list[str]:
    """Return what is missing for the numbers, or what to change where they are too large."""
    experiment, found = asked.experiment, []
    if len(experiment.seeds) < 2:
        found.append(ONE_SEED)
    elif pilot.noise is None:
        reason = NOT_LEARNT if pilot.source else NO_NOISE
        found.append(reason.format(source=pilot.source, metric=metric_label(experiment.evaluate.primary)))
    if asked.people is None:
        found.append(NO_PEOPLE.format(split=Results(root).data.split))
    if not pilot.runs:
        found.append("What a face of training takes is not known either, so there are no minutes.")
    if not found and not asked.shows_equivalence():
        found.append(_too_small(asked))
    return found


def _too_small(asked: _Comparison) -> str:
    """Return what would show equivalence: more seeds, or else more people, or else a larger margin."""
    margin, seeds = asked.experiment.evaluate.equivalence, len(asked.experiment.seeds)
    within = f"equivalence within {margin:g}"
    for count in range(seeds + 1, MOST_SEEDS + 1):
        if asked.shows_equivalence(seeds=count):
            return f"These seeds are too few to show {within}: it takes {count} of them."
    reach, more, people = asked.reach(POWER_OF_EQUIVALENCE), asked.people, ""
    assert reach is not None
    assert more is not None
    while not people and (more := math.ceil(more * GROWTH)) <= MOST_PEOPLE:
        if asked.shows_equivalence(people=more, seeds=max(seeds, MOST_SEEDS)):
            people = f"evaluate on about {more:,} people with more seeds, or "
    step = 10.0 ** (math.floor(math.log10(reach)) - 1)  # the margin that is told has two digits
    margin = round(math.ceil(reach / step) * step, 10)
    return (
        f"No number of seeds to {MOST_SEEDS} shows {within} on {asked.people:,} people: {people}set "
        f"evaluate.equivalence to {margin:g} or more."
    )


def in_words(found: Plan, experiment: config.Experiment) -> str:
    """Return a plan as lines of text."""
    people = "?" if found.people is None else f"{found.people:,}"
    counts = [
        f"{found.comparisons} comparisons by {metric_label(found.metric)}, corrected together at "
        f"{found.level:.0%}: masked runs against {names_of(experiment.controls)}.",
        f"{found.runs} runs, {found.seeds} {'seed' if found.seeds == 1 else 'seeds'}, {people} people.",
    ]
    if found.detectable is not None and found.smallest_margin is not None:
        counts.append(
            f"A difference of {found.detectable:.3f} is decided with {found.power:.0%} power; two equal runs "
            f"are called equivalent within {found.smallest_margin:.3f}, where evaluate.equivalence asks for "
            f"{found.equivalence:g}."
        )
    if found.minutes is not None:
        counts.append(f"The trainings take about {found.minutes:.0f} processor minutes.")
    if found.source:
        counts.append(f"By what was measured in {found.source}.")
    return "\n".join([*counts, *found.sentences])
