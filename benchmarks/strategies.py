"""What each masking strategy costs: `python -m benchmarks.strategies --json`.

Seconds of a training step (reading the faces, crop, mask, guide, forward and backward pass, clipping, AdamW
and averaged copies) with each strategy, over those with `random`, at config.yaml's default model and batch,
by the product's own objective. Validation, which every run has alike, is left out.

The strategies take turns in one process on one thread, in every round in the other order; the clock is the
processor's time of the process. The rounds are spread over the training, from its first step to its last, so
that what a curriculum changes on the way is in the range.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.common import cores, finish, versions
from facemae import config
from facemae.compute.device import Compute, choose
from facemae.compute.distributed import ALONE
from facemae.compute.seeding import batch_ids
from facemae.core.progress import say
from facemae.data.faces.cache import FaceFile, OpenFaces
from facemae.data.faces.loader import Feed
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.masking.strategies import STRATEGIES
from facemae.models.build import build_mae
from facemae.training import optimizer
from facemae.training.objective import LOSS
from facemae.training.objectives.mae import MaskedPretraining

CONFIG = Path(__file__).parents[1] / "config.yaml"
BASELINE = "random"


class Training:
    """A training that is asked for single steps."""

    def __init__(self, objective: MaskedPretraining) -> None:
        self.objective, self.settings = objective, objective.settings
        network = objective.network.train()
        self.optimizer = optimizer.adamw(network, self.settings)
        self.weights = [weight for weight in network.parameters() if weight.requires_grad]

    def step(self, step: int) -> float:
        """Take the step with that number and return its loss."""
        optimizer.set_learning_rate(self.optimizer, optimizer.learning_rate(step, self.settings))
        loss = self.objective.loss(step, slice(0, self.settings.batch_size))[LOSS]
        loss.backward()
        nn.utils.clip_grad_norm_(self.weights, self.settings.max_grad_norm, foreach=True)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.objective.after_step(step, ALONE)
        return float(loss.detach())


def measure(names: Sequence[str], rounds: int, steps: int) -> dict[str, Any]:
    """Let all strategies take their steps in turn; return the figures."""
    experiment = config.load([CONFIG])
    compute = choose("cpu", experiment.precision, threads=1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as stack:
        faces = _faces(experiment.data.image_size, Path(scratch))
        trainings = {
            name: _training(name, experiment, faces, compute, stack)
            for name in dict.fromkeys([BASELINE, *names])
        }
        seconds = race(trainings, rounds, steps)
    return {
        **compare(seconds),
        "ms_random": round(1000 * statistics.median(seconds[BASELINE]), 1),
        "compute": f"{compute}, {torch.backends.cpu.get_cpu_capability()}",
        "rounds": rounds,
        "steps": steps,
        "cores": cores(),
        "versions": versions("facemae", "torch", "timm"),
    }


def race(trainings: dict[str, Training], rounds: int, steps: int) -> dict[str, list[float]]:
    """Give every training a turn in each round and return its seconds per step, round by round.

    Raises:
        RuntimeError: a loss is not finite.
    """
    seconds: dict[str, list[float]] = {name: [] for name in trainings}
    for training in trainings.values():
        training.step(0)
    for turn in range(rounds):
        for name in list(trainings)[:: -1 if turn % 2 else 1]:
            training = trainings[name]
            first = round((training.settings.steps - steps) * turn / max(1, rounds - 1))
            started = time.process_time()
            losses = [training.step(first + each) for each in range(steps)]
            seconds[name].append((time.process_time() - started) / steps)
            if not np.isfinite(losses).all():
                raise RuntimeError(f"{name}: a loss is not finite: {losses}")
        say(
            "strategies",
            f"round {turn + 1}/{rounds}  {BASELINE} {1000 * seconds[BASELINE][-1]:.0f} ms a step",
        )
    return seconds


def compare(seconds: dict[str, list[float]]) -> dict[str, Any]:
    """Return for each strategy the median and the range of its ratios to the baseline."""
    ratios = {name: np.divide(each, seconds[BASELINE]) for name, each in seconds.items()}
    return {
        "ratio": {name: round(float(np.median(each)), 2) for name, each in ratios.items()},
        "range": {
            name: [round(float(edge), 2) for edge in (each.min(), each.max())]
            for name, each in ratios.items()
        },
    }


def _training(
    name: str, experiment: config.Experiment, faces: OpenFaces, compute: Compute, stack: contextlib.ExitStack
) -> Training:
    run = experiment.defaults
    assert run.pretrain is not None
    settings = run.pretrain.model_copy(update={"mask": name})
    torch.manual_seed(0)
    mae = build_mae(run.model, settings, experiment.data.image_size)
    objective = MaskedPretraining(mae, settings, compute, seed=0)
    objective.feed = stack.enter_context(
        Feed(
            faces, lambda step: batch_ids(len(faces.places), settings.batch_size, step, 0), compute, workers=0
        )
    )
    return Training(objective)


def _faces(side: int, folder: Path) -> OpenFaces:
    """Return the ORL faces as the product's decoded cache."""
    photos = [open_image(photo.path).resize((side, side)) for photo in orl_photos()]
    faces = np.stack([np.asarray(photo) for photo in photos])
    np.save(folder / "faces.npy", faces)
    return OpenFaces(FaceFile(folder / "faces.npy", faces.shape), np.arange(len(faces)), [], [])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.strategies", description=lines[0])
    parser.add_argument("--masks", nargs="+", choices=STRATEGIES, default=list(STRATEGIES))
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=4, help="steps in a turn")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    finish(lambda: measure(options.masks, options.rounds, options.steps), options.json)


if __name__ == "__main__":
    main()
