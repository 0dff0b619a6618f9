"""Every pair of runs compared: which comparisons decide, the variance of each, and which settings differ.

What "better" takes is decided in verdict.py.
"""

from __future__ import annotations

from itertools import combinations, product
from typing import Any

import numpy as np

from facemae import config
from facemae.core import layout
from facemae.core.differences import ABSENT, differences
from facemae.core.errors import RefusedError
from facemae.evaluation.records import higher_is_better
from facemae.evaluation.scored import Key, Scored, Series, key_of
from facemae.evaluation.statistics import Estimate, estimate
from facemae.evaluation.variance import NO_CHANCE, Training, Variance, added, people_variance
from facemae.evaluation.verdict import verdicts


class Chances:
    """The variance that chance in training brings each run, metric by metric.

    Runs that have learnt are analysed together, since they share their seeds; all else stands alone.
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
            runs = [each for each in self._scored if each.name in drawn and each.kind == "run"]
            learnt = [each.name for each in runs if not each.refusal(key)]
            found = self._found[key] = {}
            for group in filter(None, (learnt, *([name] for name in drawn if name not in learnt))):
                training = Training.of(np.stack([drawn[name] for name in group]))
                found |= {name: (training, place) for place, name in enumerate(group)}
        return self._found[key]


Measured = tuple[Scored, Series]
Pair = tuple[Measured, Measured]


def verdict_rows(
    scored: list[Scored], metric: str, chances: Chances, experiment: config.Experiment
) -> list[dict[str, Any]]:
    """Judge as families the comparisons that decide, other pairs of runs, and runs against baselines."""
    measured = [(each, one) for each, one in _held(scored, metric) if one.evidence is not None]
    runs = [pair for pair in measured if pair[0].kind == "run"]
    controls = [pair for pair in measured if pair[0].kind == "baseline"]
    # What is trained without pretraining is compared with.
    runs.sort(key=lambda pair: pair[0].run is not None and pair[0].run.pretrain is not None)
    by_name = {one.name: (one, series) for one, series in runs}
    wanted = experiment.primary_pairs if metric == experiment.evaluate.primary else []
    decisive = [(by_name[a], by_name[b]) for a, b in wanted if a in by_name and b in by_name]
    known = [{a[0].name, b[0].name} for a, b in decisive]
    others = [(b, a) for a, b in combinations(runs, 2) if {a[0].name, b[0].name} not in known]
    against = list(product(runs, controls))
    families = [(layout.PRIMARY, decisive), (layout.EXPLORATORY, others), (layout.EXPLORATORY, against)]
    return [
        {"metric": metric, "family": family} | row
        for family, pairs in families
        for row in _judge(pairs, metric, chances, experiment)
    ]


def _held(scored: list[Scored], metric: str) -> list[Measured]:
    held = [(each, each.scalar(metric)) for each in scored]
    return [(each, one) for each, one in held if one is not None]


def _judge(
    pairs: list[Pair], metric: str, chances: Chances, experiment: config.Experiment
) -> list[dict[str, Any]]:
    settings = experiment.evaluate
    found = [_difference(a, b, chances, settings.level) for a, b in pairs]
    judged = verdicts(
        [difference for difference, _ in found], higher_is_better(metric), settings.margin(metric),
        1 - settings.level, [refusal for _, refusal in found],
    )  # fmt: skip
    judgement = ("p_value", "p_adjusted", "verdict", "detectable", "note")
    return [
        {
            "run_a": a.name,
            "run_b": b.name,
            "difference": verdict.estimate.value,
            "ci_low": verdict.estimate.low,
            "ci_high": verdict.estimate.high,
            "seconds_difference": a.seconds_behind(key_of(of_a.entry)) - b.seconds_behind(key_of(of_b.entry)),
            "budget_note": budget_note(a, b),
        }
        | {name: getattr(verdict, name) for name in judgement}
        for ((a, of_a), (b, of_b)), verdict in zip(pairs, judged, strict=True)
    ]


def _difference(a: Measured, b: Measured, chances: Chances, level: float) -> tuple[Estimate, str]:
    """Compare two runs seed by seed, and say why that may not be judged, if it may not."""
    values, evidence = a[1] - b[1]
    key, several = key_of(a[1].entry), len(values) > 1
    training = chances.between(a[0], b[0], key) if several else NO_CHANCE
    refusal = a[0].refusal(key) or b[0].refusal(key)
    try:
        return estimate(values, evidence, training, level), refusal
    except RefusedError as error:
        found = Estimate(float(values.mean()), np.nan, np.inf, several, level)
        return found, refusal or f"no interval: {error}"


def noise(scored: list[Scored], chances: Chances, experiment: config.Experiment) -> dict[str, float]:
    """Return how far a difference moves by chance, the mean over the comparisons that decide (plan.Noise).

    Of runs that have learnt and have two seeds or more; nothing where no two are compared.
    """
    known = {
        each.name: (each, one)
        for each, one in _held(scored, experiment.evaluate.primary)
        if len(one.values) > 1 and one.evidence and not each.refusal(key_of(one.entry))
    }
    pairs = [(known[a], known[b]) for a, b in experiment.primary_pairs if a in known and b in known]
    if not pairs:
        return {}
    evidence = [(a - b)[1] for (_, a), (_, b) in pairs]
    try:
        people = [people_variance(each).value for each in evidence]
    except RefusedError:
        return {}
    training = [chances.between(a, b, key_of(one.entry)) for (a, one), (b, _) in pairs]
    return {
        "people": pairs[0][0][1].people,
        "people_variance": float(np.mean(people)),
        "training_variance": float(np.mean([each.value for each in training])),
    }


def budget_note(a: Scored, b: Scored) -> str:
    """Return which settings besides the mask differ, so that no comparison looks fairer than it is."""
    if a.run is None or b.run is None:
        return "the control trains no network"
    both = differences(_shaping(a.run), _shaping(b.run))  # ABSENT: another method has other settings
    differing = sorted(key for key in both if ABSENT not in both[key] and key != "pretrain.mask")
    if a.run.strategy != b.run.strategy:  # another mask has other parameters
        differing = [key for key in differing if not key.startswith("pretrain.masks.")]
    notes = [f"differ in {', '.join(differing)}"] if differing else []
    inits = {each.name: each.run.finetune.init for each in (a, b) if each.run}
    if len(set(inits.values())) > 1:
        notes += [f"{name} starts from {init}, trained before" for name, init in inits.items() if init]
    return "; ".join([*notes, *_spent(a, b)])


def _shaping(run: config.Run) -> dict[str, Any]:
    """Return a run's settings, augmentation under one name whatever the method."""
    settings = run.shaping()
    if run.pretrain:
        settings["pretrain"] |= run.pretrain.augmentation
    return settings


def _spent(a: Scored, b: Scored) -> list[str]:
    """Return how the images and seconds of two pretrainings compare, where the images (views) differ."""
    images = [each.total("images_seen", "pretrain") for each in (a, b)]
    seconds = [each.seconds("pretrain") for each in (a, b)]
    if not all(value > 0 for value in (*images, *seconds)) or images[0] == images[1]:
        return []
    ratios = images[0] / images[1], seconds[0] / seconds[1]
    return ["{:.2g} times the images in {:.2g} times the seconds of pretraining".format(*ratios)]
