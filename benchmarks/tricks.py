"""What is to be had from finished networks without another label: `python -m benchmarks.tricks --json`.

A run's networks embed the evaluation people of a list of pairs, such as LFW's View 2, in several ways, and
each way is measured as the evaluation stage measures, where every face was found: accuracy by part, with a
fold's threshold from the other folds.

- one view: the face as it was aligned, without its mirror image
- mirror: the sum with its mirror image, which is what the package does
- crops: the sum over the face as it is, four shifts, each with its mirror image
- plda: two-covariance PLDA on the embeddings, fitted to the people whom the network was fine-tuned on, whose
  embeddings are those of `mirror`, also for `crops`
- seeds: the mean of the scores by the networks of all seeds

Nothing in here was chosen on any result: shifts and the shrinkage by Ledoit and Wolf were fixed before
the first run. With `--weights facemae/models/shipped/face-embedder` a finished network takes the place of
the run's, which then need not be trained: for that one, `--results results-embedder` after
`snakemake --configfile config/embedder.yaml --cores all --until split`. The last line is JSON: accuracies in
percent, mean over the seeds, and gains over `mirror` with 95 % intervals over people.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf
from torch import Tensor, nn

from benchmarks.common import cores, finish
from facemae import config
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.data.faces.subsets import labelled_subset
from facemae.evaluation import battery, influence
from facemae.evaluation.influence import PEOPLE
from facemae.evaluation.pairs import Floats, pair_rows
from facemae.evaluation.protocols import pair_list
from facemae.evaluation.records import Measurement
from facemae.evaluation.statistics import estimate
from facemae.evaluation.variance import Dyads
from facemae.models.embedder import embed, in_batches
from facemae.models.weights import load_embedder
from facemae.stages.task import Task

SHIFT = 0.04  # of a face's side, to each corner
VIEWS = [(0.0, 0.0), *((x, y) for x in (-SHIFT, SHIFT) for y in (-SHIFT, SHIFT))]

Score = Callable[[Floats, Floats], Floats]
"""From the embeddings (N, D) of first and second photos to the scores (N,) of the pairs."""


def crops(images: Tensor) -> Iterator[Tensor]:
    """Yield the views of images (B, 3, H, H), the first of which they are themselves."""
    for x, y in VIEWS:
        moved = torch.tensor([[1.0, 0.0, 2 * x], [0.0, 1.0, 2 * y]], device=images.device)
        grid = F.affine_grid(moved.expand(len(images), 2, 3), list(images.shape), align_corners=False)
        yield F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def of_crops(network: nn.Module, images: Tensor) -> Tensor:
    """Return unit embeddings (B, M): the sum over the views of images (B, 3, H, H)."""
    return F.normalize(torch.stack([embed(network, each) for each in crops(images)]).sum(0), dim=1)


LOOKS: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "one view": lambda network, images: F.normalize(network(images).float(), dim=1),
    "mirror": embed,
    "crops": of_crops,
}


class Way(NamedTuple):
    """How faces are embedded, how two are compared, and whether all seeds' networks take part."""

    look: str
    plda: bool = False
    seeds: bool = False


WAYS = {
    "one view": Way("one view"),
    "mirror": Way("mirror"),
    "crops": Way("crops"),
    "plda": Way("mirror", plda=True),
    "crops, plda": Way("crops", plda=True),
    "seeds": Way("mirror", seeds=True),
    "seeds, crops, plda": Way("crops", plda=True, seeds=True),
}
Scores = dict[tuple[str, bool], pd.DataFrame]
"""Of a network, by `look` and `plda`: the pairs of its part with the columns that `battery.on_list` takes."""


def cosine(first: Floats, second: Floats) -> Floats:
    """Return the cosines of pairs of unit vectors."""
    found: Floats = (first * second).sum(axis=1)
    return found


def two_covariance(faces: pd.DataFrame, vectors: Floats) -> Score:
    """Return the log-likelihood ratio of one person against two, but for a constant.

    Faces are Gaussian around people, who are Gaussian around the mean, with covariances within W and between
    B (Brümmer and de Villiers, The speaker partitioning problem, 2010; vectors of unit length as in
    Garcia-Romero and Espy-Wilson, 2011). `vectors` (N, D) are those of the faces' people.
    """
    identity = pd.factorize(faces["person"])[0]
    count, mean = np.bincount(identity), vectors.mean(axis=0)
    sums = np.stack([np.bincount(identity, column) for column in (vectors - mean).T], axis=1)
    centres = sums / count[:, None]
    inner = vectors - mean - centres[identity]
    within = ledoit_wolf(inner, assume_centered=True)[0] * len(vectors) / (len(vectors) - len(count))
    between = ledoit_wolf(centres, assume_centered=True)[0] - within * (1 / count).mean()
    values, axes = np.linalg.eigh(between)
    between = (axes * values.clip(1e-9)) @ axes.T
    total = np.linalg.inv(within + between)
    conditional = np.linalg.inv(within + between - between @ total @ between)
    own, both = total - conditional, total @ between @ conditional

    def score(first: Floats, second: Floats) -> Floats:
        first, second = first - mean, second - mean
        alone = ((each @ own * each).sum(axis=1) for each in (first, second))
        found: Floats = sum(alone) / 2 + (first @ both * second).sum(axis=1)
        return found

    return score


def scored(task: Task, part: int, weights: Path | None) -> Scores:
    """Return the scores that a part's network gives the listed pairs of its evaluation people."""
    network = load_embedder(weights or task.out, part)
    task.compute.place(network)

    def embedded(rows: pd.DataFrame, look: str) -> Floats:
        label = f"{look} {task.name}/{task.seed} part {part}"
        found = in_batches(partial(LOOKS[look], network), task.open(rows), task.compute, label)
        return found.astype(np.float64)

    known = labelled_subset(task.training(part), task.run.finetune.labels)
    likelihood = two_covariance(known, embedded(known, "mirror"))
    faces = task.evaluated(part)
    listed, rows = pairs_of(task, faces)
    found = {}
    for look in LOOKS:
        first, second = embedded(faces, look)[rows]
        for plda, score in ((False, cosine), (True, likelihood)):
            found[look, plda] = listed.assign(score=score(first, second))
    return found


def pairs_of(task: Task, faces: pd.DataFrame) -> tuple[pd.DataFrame, NDArray[np.int64]]:
    """Return the listed pairs among faces, their people numbered alike in all parts, and rows (2, N)."""
    listed = records.read_table(task.data.pairs)
    listed = listed[listed["protocol"] == task.experiment.split.pairs]
    rows = pair_rows(listed, faces["sample_id"])
    there = (rows >= 0).all(axis=0)
    everyone = np.unique(task.rows(layout.ROLE_EVALUATION)["person"].to_numpy(str))
    one, other = np.searchsorted(everyone, faces["person"].to_numpy(str))[rows[:, there]]
    return listed[there].assign(one=one, other=other), rows[:, there]


def accuracy(parts: Sequence[pd.DataFrame]) -> Measurement:
    """Return the accuracy over the parts, each with the scores of its pairs."""

    def of_part(part: pd.DataFrame) -> list[Measurement]:
        columns = (part[name] for name in ("score", "one", "other", "genuine"))
        return pair_list.measure(pair_list.comparisons(*columns), part["fold"], ())

    return next(each for each in battery.mean_over_parts(parts, of_part) if each.name == "accuracy")


def measure(results: Path, run: str, threads: int, weights: Path | None) -> dict[str, Any]:
    """Return every way's accuracy, and its gain over `mirror`; a UsageError where no list is evaluated on."""
    paths = layout.Results(results)
    experiment = config.load([paths.config])
    if not experiment.split.pairs:
        raise UsageError(f"{results} is not evaluated on a list of pairs; name one whose split.pairs is set.")
    found = []
    for seed in experiment.seeds_of(run):
        task = Task(experiment, run, seed, paths.data, paths.stage(run, seed, "finetune"), threads)
        found.append([scored(task, part, weights) for part in task.wanted_parts])
    measured = {name: _measured(found, way) for name, way in WAYS.items()}
    told = {name: _told(values, measured["mirror"]) for name, values in measured.items()}
    return {"run": run, "seeds": len(found), "pairs": measured["mirror"][0].n, **told}


def _measured(found: list[list[Scores]], way: Way) -> list[Measurement]:
    """Return the accuracy of each seed's networks, or of all together."""
    by_seed = [[part[way.look, way.plda] for part in parts] for parts in found]
    if not way.seeds:
        return [accuracy(parts) for parts in by_seed]
    together = [
        same[0].assign(score=np.mean([each["score"] for each in same], axis=0))
        for same in zip(*by_seed, strict=True)
    ]
    return [accuracy(together)]


def _told(values: list[Measurement], reference: list[Measurement]) -> dict[str, Any]:
    """Return the mean over seeds in percent, and the gain in points with its interval over people."""
    (own, moved), (other, before) = _mean(values), _mean(reference)
    first, second = (moved.index.get_level_values(side).to_numpy() for side in PEOPLE)
    gain = estimate([own - other], Dyads(np.asarray(moved - before, np.float64)[None], first, second))
    points = {"accuracy": own, "gain": gain.value, "gain_low": gain.low, "gain_high": gain.high}
    return {name: round(100 * value, 2) for name, value in points.items()}


def _mean(values: list[Measurement]) -> tuple[float, pd.Series[float]]:
    """Return the mean over seeds, and what each two people's pairs move of it."""
    moved = [each.influence for each in values if each.influence is not None]
    return float(np.mean([each.value for each in values])), influence.mean(moved)


def main() -> None:
    """Measure the ways of one run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--results", type=Path, default=Path("results-lfw-small"))
    parser.add_argument("--run", default="face_mae")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--weights", type=Path, help="folder of a finished network, in place of the run's")
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    finish(lambda: measure(asked.results, asked.run, asked.threads, asked.weights), asked.json)


if __name__ == "__main__":
    main()
