"""All that was measured of one run or control, over its seeds."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from facemae import config
from facemae.core import records
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.pairs import Floats
from facemae.evaluation.variance import Dyads, Evidence, Resampled

Key = tuple[str, str, str, float | None]
"""Protocol, metric, condition and amount."""


def key_of(entry: dict[str, Any]) -> Key:
    """Return what an entry of `metrics.json` measures."""
    return entry["protocol"], entry["name"], entry["condition"], entry["amount"]


def before_finetuning(key: Key) -> bool:
    """Tell whether a metric is of heads (closed-form, attributes) on the encoder as fine-tuning finds it."""
    protocol, metric, _, _ = key
    return protocol == "attributes" or metric.startswith("probe_")


@dataclass(frozen=True)
class Repeat:
    """What a stage measured once, for one seed or one subset of the labels: its `metrics.json` and tables."""

    content: dict[str, Any]
    samples: pd.DataFrame
    influence: pd.DataFrame
    seed: int

    @property
    def entries(self) -> dict[Key, dict[str, Any]]:
        """Return the metrics by what they are."""
        return {key_of(each): each for each in self.content["metrics"]}


@dataclass(frozen=True)
class Series:
    """One metric of one run over its seeds: values (S,), of so many people.

    The evidence, what other people would have changed, is None where that was not measured.
    """

    entry: dict[str, Any]
    values: Floats
    evidence: Evidence | None
    people: int

    def __sub__(self, other: Series) -> tuple[Floats, Evidence]:
        """Return the differences seed by seed; a baseline without chance is the same for every seed."""
        own: Any = self.evidence
        return self.values - other.values, own - other.evidence


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

    def refusal(self, key: Key) -> str:
        """Return why a metric says nothing of this run, a fine-tuning that has not learnt; else ""."""
        if before_finetuning(key):
            return ""
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

    def seconds_behind(self, key: Key) -> float:
        """Return the processor seconds of the training that a metric rests on."""
        return self.seconds("pretrain") if before_finetuning(key) else self.total_seconds


def _series(key: Key, repeats: list[Repeat]) -> Series:
    """Return a metric over the seeds; subsets of the labels that share a seed's networks count as one."""
    entries = [repeat.entries.get(key) for repeat in repeats]
    values = [each and each["value"] for each in entries]
    refused = None in values
    first = next(each for each in entries if each and refused == (each["value"] is None))
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


def _by_seed(values: Floats, seeds: list[int]) -> Floats:
    """Return the mean of each seed's rows."""
    return np.stack([values[np.array(seeds) == seed].mean(axis=0) for seed in dict.fromkeys(seeds)])
