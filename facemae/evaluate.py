"""The evaluation stage: from the embeddings of unseen people to metrics with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facemae import config, files, metrics, results
from facemae.errors import DataError, IntegrityError
from facemae.progress import say
from facemae.statistics import identity_weights, percentile_interval


def evaluate(
    experiment: config.Experiment, name: str, seed: int, embeddings: Path, split: Path, out: Path
) -> None:
    """Write metrics, pair scores and the values of every metric on the shared resamples of people.

    The resamples depend on the evaluation people and the configuration alone, so all runs are scored on
    the same ones and can be compared pair by pair.

    Args:
        experiment: The configuration.
        name: The run or baseline.
        seed: Its seed.
        embeddings: Folder of its `embed` stage.
        split: Role and fold of every face.
        out: The stage's folder.

    Raises:
        IntegrityError: the embeddings are not those of the evaluation people, each once.
        DataError: there are too few people to measure anything.
    """
    experiment.check_name(name)
    table = _evaluated(embeddings / results.EMBEDDINGS, split)
    people, identity = np.unique(table["person"].to_numpy(str), return_inverse=True)
    vectors = np.stack(table["embedding"].to_list())
    measured = _measure(experiment, table, vectors, people, identity)

    source = results.read_json(embeddings / results.METRICS)
    results.write_metrics(
        out,
        [_entry(each, experiment.evaluate.level) for each in measured],
        seed=seed,
        device=source["device"],
        seconds=source["seconds"],
        people=len(people),
        evaluated=results.digest(table["sample_id"].to_list()),
        dataset=experiment.dataset,
        inputs=source["inputs"] | {"split": files.sha256_of(split)},
    )
    settings = {"run": name, "seed": seed} | experiment.evaluate.model_dump()
    files.write_json(out / results.CONFIG, settings)
    samples = {each.name: each.samples for each in measured if each.samples is not None}
    results.write_table(out / results.RESAMPLES, pd.DataFrame(samples), list(samples))
    _write_scores(vectors, identity, people, out)
    primary = next(each for each in measured if each.name == experiment.evaluate.primary)
    say(f"evaluate {name}/{seed}", f"{primary.name} {primary.value:.3f} on {len(people)} unseen people")


def _measure(
    experiment: config.Experiment,
    table: pd.DataFrame,
    vectors: np.ndarray,
    people: np.ndarray,
    identity: np.ndarray,
) -> list[metrics.Measurement]:
    settings = experiment.evaluate
    fold = table.groupby("person")["fold"].first().loc[list(people)].to_numpy(int)
    weights = identity_weights(len(people), settings.resamples, experiment.split.seed)
    enrolled = table["enrolled"].to_numpy(bool)
    try:
        return metrics.evaluate(vectors, identity, fold, enrolled, weights, settings.far_targets)
    except ValueError as error:
        raise DataError(
            f"{len(people)} people cannot be evaluated: {error}; add people or lower split.folds."
        ) from error


def _evaluated(embeddings: Path, split: Path) -> pd.DataFrame:
    """Return the embeddings with fold and enrolment, checked against the split."""
    roles = results.read_table(split)
    roles = roles[roles["role"] == results.ROLE_EVALUATION]
    found = results.read_table(embeddings)
    if sorted(found["sample_id"]) != sorted(roles["sample_id"]):
        raise IntegrityError(f"{embeddings} was made for another split; run the embed stage again.")
    if not all(np.isfinite(vector).all() and vector.any() for vector in found["embedding"]):
        raise IntegrityError(
            f"{embeddings} holds an embedding that is zero or not finite; run the embed stage again."
        )
    found = found.sort_values("sample_id", ignore_index=True)
    return found.drop(columns="person").merge(roles, on="sample_id", validate="one_to_one")


def _entry(measured: metrics.Measurement, level: float) -> dict[str, Any]:
    interval = None if measured.samples is None else percentile_interval(measured.samples, level)
    return results.metric(
        measured.name,
        measured.value,
        n=measured.n,
        interval=interval,
        protocol=measured.protocol,
        note=measured.note,
    )


def _write_scores(vectors: np.ndarray, identity: np.ndarray, people: np.ndarray, out: Path) -> None:
    pairs = metrics.all_pairs(vectors, identity)
    table = pd.DataFrame(
        {
            "first": pd.Categorical(people[pairs.first]),
            "second": pd.Categorical(people[pairs.second]),
            "genuine": pairs.genuine,
            "score": pairs.score.astype(np.float32),
        }
    )
    results.write_table(out / results.SCORES, table, results.SCORE_COLUMNS)
