"""What is being trained in a results folder: read from the tail of each log and from the workflow's lock.

A training keeps a hidden folder beside its outputs until these are written (trainer.Job.state): its settings,
a log, checkpoints, and what it leaves when it diverges. Nothing here changes a file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import harmonic_mean
from typing import Any, Literal

import pandas as pd
from tqdm import tqdm

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import IntegrityError
from facemae.core.files import is_held
from facemae.core.layout import Results

State = Literal["starting", "running", "writing", "stopped", "diverged"]

WORKFLOW_LOCK = ".workflow.lock"  # as workflow/rules/common.smk names it
STAGES = {
    "pretrain": "pretraining", "finetune": "fine-tuning", "labels": "fine-tuning on fewer labels",
}  # fmt: skip
QUIET = 60.0  # seconds without a sign of life after which a training counts as stopped, at least
QUIET_LINES = 3  # the same in lines of its log, where these are further apart
RATED = 5  # last lines of a log that the time left is estimated from


@dataclass(frozen=True)
class Training:
    """One training that has begun and whose results are not written yet.

    It is starting before its first step, running, writing when all steps are done, stopped where nobody works
    on it, or diverged, which ended it.
    """

    run: str
    seed: int
    stage: str  # a key of STAGES
    part: int  # of the evaluation people, for which a training of its own is made; 0 where there is one
    state: State
    step: int  # the last one in the log
    steps: int | None  # of the whole training, None where its settings cannot be read yet
    log: list[dict[str, Any]]  # the lines of its log that name step and loss
    seconds_left: float | None  # at the rate of the last lines; None while nothing is known of it
    quiet: float  # seconds since the last sign of life

    @property
    def share(self) -> float:
        """Return the share of the steps that are done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def live(self) -> bool:
        """Tell whether it goes on by itself."""
        return self.state in ("starting", "running", "writing")

    @property
    def sentence(self) -> str:
        """Return where it stands, in one sentence."""
        part = f", part {self.part + 1}" if self.part else ""
        done = f"step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")
        ago = f"{tqdm.format_interval(round(max(0.0, self.quiet)))} ago"
        numbers = [f"loss {self.log[-1]['loss']:.3f}"] if self.log else []
        held_out = [line["held_out_loss"] for line in self.log if "held_out_loss" in line]
        numbers += [f"{loss:.3f} on faces held out" for loss in held_out[-1:]]
        if self.seconds_left is not None:
            numbers.append(f"about {tqdm.format_interval(round(self.seconds_left))} left")
        states = {
            "starting": "starting, before its first step",
            "running": ", ".join([done, *numbers, f"last sign of life {ago}"]),
            "writing": "all steps are done, its results are being written",
            "stopped": f"stopped at {done}, {ago}; the same command goes on from its last checkpoint",
            "diverged": f"diverged at {done}; lower learning_rate or max_grad_norm, or raise warmup_fraction",
        }
        return f"{self.run}, seed {self.seed}, {STAGES[self.stage]}{part}: {states[self.state]}."


def workflow_runs(paths: Results) -> bool:
    """Tell whether a workflow holds the results folder on this machine."""
    return is_held(paths.root / WORKFLOW_LOCK)


def trainings(paths: Results, setup: config.Experiment, now: float | None = None) -> list[Training]:
    """Return the setup's trainings that are not finished, those that go on first, otherwise in its order.

    `now` is in seconds since the epoch, None for this moment.
    """
    moment = time.time() if now is None else now
    found = [
        training
        for run, seed in product(setup.run_names, setup.seeds)
        for stage, state in _states(paths.root / run / str(seed))
        if (training := _training(state, run, seed, stage, moment))
    ]
    return sorted(found, key=lambda each: not each.live)


def losses(found: list[Training]) -> pd.DataFrame:
    """Return run, seed, part, stage, step and loss of what unfinished trainings have logged so far."""
    rows = [
        (each.run, each.seed, each.part, each.stage, line["step"], line["loss"])
        for each in found
        if each.stage != "labels"  # many short ones, whose curves could not be told apart
        for line in each.log
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "part", "stage", "step", "loss"])


def done(paths: Results, setup: config.Experiment) -> pd.DataFrame:
    """Return how much of each stage is finished: stage, done and of, in the order of the workflow."""

    def of(stage: str, names: list[str]) -> list[Path]:
        return [
            paths.stage(name, seed, stage) / layout.METRICS for name in names for seed in setup.seeds_of(name)
        ]

    subsets = [(setup.label_seed(subset), subset) for subset in range(setup.label_curve.subsets)]
    labels = [
        paths.labels(name, *each) for name in setup.chosen_runs(setup.label_curve.runs) for each in subsets
    ]
    files = {
        "photos listed": [paths.data.photos],
        "faces aligned": [paths.data.faces],
        "people split": [paths.data.split],
        "pretraining": of("pretrain", [name for name in setup.run_names if setup.run(name).pretrain]),
        "fine-tuning": of("finetune", setup.run_names),
        "evaluation": of("evaluate", setup.names),
        "covered and lit faces": of("robustness", setup.chosen(setup.robustness.runs)),
        "attributes": of("attributes", setup.chosen_runs(setup.attributes.runs)),
        "fewer labels": [folder / layout.METRICS for folder in labels],
        "verdict": [paths.verdict],
    }
    counted = [(title, sum(each.is_file() for each in of), len(of)) for title, of in files.items() if of]
    return pd.DataFrame(counted, columns=["stage", "done", "of"])


def _states(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield stage and state folder of every training below a run's seed that is unfinished."""
    # label_curve.py trains each point apart.
    places = {"pretrain": ".pretrain*", "finetune": ".finetune*", "labels": "labels/.*/*/.finetune"}
    for stage, place in places.items():
        yield from ((stage, state) for state in sorted(folder.glob(place)) if state.is_dir())


def _training(folder: Path, run: str, seed: int, stage: str, now: float) -> Training | None:
    """Return what a state folder says; None where there is nothing yet, or it waits for other parts."""
    signs = []
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # a checkpoint that was dropped since it was listed
            signs.append(path.stat().st_mtime)
    if not signs or (folder / layout.PART).is_file():
        return None
    log, quiet = _log(folder), now - max(signs)
    found = _json(folder / layout.JOB).get("pretrain" if stage == "pretrain" else "finetune")
    settings = found if isinstance(found, dict) else {}  # while they are not written
    step, steps = int(log[-1]["step"]) if log else 0, settings.get("steps")
    batch, rate = int(settings.get("batch_size", 0)), _rate(log)
    interval = int(settings.get("log_every", 0)) * batch / rate if rate else 0.0
    works = quiet < max(QUIET, QUIET_LINES * interval)
    state: State = "starting" if step == 0 else "writing" if step == steps else "running"
    diverged = (folder / layout.DUMP).is_file()
    part = folder.name.rpartition("-")[2]
    return Training(
        run, seed, stage, int(part) if part.isdigit() else 0,
        state="diverged" if diverged else state if works else "stopped",
        step=int(_json(folder / layout.DUMP).get("step", step)) if diverged else step,
        steps=None if steps is None else int(steps),
        log=log,
        seconds_left=(int(steps) - step) * batch / rate if rate and steps and works else None,
        quiet=quiet,
    )  # fmt: skip


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is none, as when the training ends between two looks."""
    with contextlib.suppress(OSError, IntegrityError):
        found = records.read_json(path)
        return found if isinstance(found, dict) else {}
    return {}


def _log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a training's log that name step and loss, [] where there is no log yet."""
    lines: list[Any] = []
    with contextlib.suppress(OSError, IntegrityError):
        lines = records.read_log(folder / layout.LOG)
    return [line for line in lines if isinstance(line, dict) and {"step", "loss"} <= line.keys()]


def _rate(log: list[dict[str, Any]]) -> float:
    """Return images per second over the last lines, 0 where none are known; each line is as many steps."""
    rates = [float(line.get("images_per_second", 0)) for line in log[-RATED:]]
    # The harmonic mean, since the time left is made of the times that lines took.
    return harmonic_mean([rate for rate in rates if rate > 0] or [0.0])
