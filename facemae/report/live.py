"""What is being trained in a results folder: read from the tail of each log and from the workflow's lock.

A training keeps a hidden folder beside its outputs until these are written (trainer.Job.state): its settings,
a log, checkpoints, and what it leaves when it diverges. Nothing here changes a file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
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

    Attributes:
        run: Name of the run.
        seed: Its seed.
        stage: A key of STAGES.
        part: Of the evaluation people, for which a training of its own is made; 0 where there is one.
        state: starting: before the first step. running. writing: all steps are done. stopped: nobody works
            on it. diverged: it ended by itself.
        step: The last one in the log.
        steps: Of the whole training, None where its settings cannot be read yet.
        log: The lines of its log that name step and loss.
        seconds_left: At the rate of the last lines; None while nothing is known of it.
        quiet: Seconds since the last sign of life.
    """

    run: str
    seed: int
    stage: str
    part: int
    state: State
    step: int
    steps: int | None
    log: list[dict[str, Any]]
    seconds_left: float | None
    quiet: float

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
        name = f"{self.run}, seed {self.seed}, {STAGES[self.stage]}{part}"
        done = f"step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")
        ago = f"{tqdm.format_interval(round(max(0.0, self.quiet)))} ago"
        states = {
            "starting": "starting, before its first step",
            "running": ", ".join([done, *self._numbers(), f"last sign of life {ago}"]),
            "writing": "all steps are done, its results are being written",
            "stopped": f"stopped at {done}, {ago}; the same command goes on from its last checkpoint",
            "diverged": f"diverged at {done}; lower learning_rate or max_grad_norm, or raise warmup_fraction",
        }
        return f"{name}: {states[self.state]}."

    def _numbers(self) -> Iterator[str]:
        if self.log:
            yield f"loss {self.log[-1]['loss']:.3f}"
        held_out = [line["held_out_loss"] for line in self.log if "held_out_loss" in line]
        if held_out:
            yield f"{held_out[-1]:.3f} on faces held out"
        if self.seconds_left is not None:
            yield f"about {tqdm.format_interval(round(self.seconds_left))} left"


def workflow_runs(paths: Results) -> bool:
    """Tell whether a workflow holds the results folder on this machine."""
    return is_held(paths.root / WORKFLOW_LOCK)


def trainings(paths: Results, setup: config.Experiment, now: float | None = None) -> list[Training]:
    """Return the setup's trainings that are not finished, those that go on first, otherwise in its order.

    `now` is in seconds since the epoch, None for this moment.
    """
    moment = time.time() if now is None else now
    found = [
        _training(state, run, seed, stage, moment)
        for run in setup.run_names
        for seed in setup.seeds
        for stage, state in _states(paths.root / run / str(seed))
    ]
    return sorted([each for each in found if each is not None], key=lambda each: not each.live)


def losses(found: list[Training]) -> pd.DataFrame:
    """Return run, seed, part, stage, step and loss of what unfinished trainings have logged so far."""
    rows = [
        {"run": each.run, "seed": each.seed, "part": each.part, "stage": each.stage}
        | {"step": line["step"], "loss": line["loss"]}
        for each in found
        if each.stage != "labels"  # many short ones, whose curves could not be told apart
        for line in each.log
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "part", "stage", "step", "loss"])


def done(paths: Results, setup: config.Experiment) -> pd.DataFrame:
    """Return how much of each stage is finished: stage, done and of, in the order of the workflow."""
    trained = setup.run_names
    attributes, labels = (
        [name for name in setup.chosen(each.runs) if name in trained]
        for each in (setup.attributes, setup.label_curve)
    )

    def of(stage: str, names: list[str]) -> list[Path]:
        places = [paths.stage(name, seed, stage) for name in names for seed in setup.seeds_of(name)]
        return [place / layout.METRICS for place in places]

    files = {
        "photos listed": [paths.data.photos],
        "faces aligned": [paths.data.faces],
        "people split": [paths.data.split],
        "pretraining": of("pretrain", [name for name in trained if setup.run(name).pretrain]),
        "fine-tuning": of("finetune", trained),
        "evaluation": of("evaluate", setup.names),
        "covered and lit faces": of("robustness", setup.chosen(setup.robustness.runs)),
        "attributes": of("attributes", attributes),
        "fewer labels": [
            paths.labels(name, setup.label_seed(subset), subset) / layout.METRICS
            for name in labels
            for subset in range(setup.label_curve.subsets)
        ],
        "verdict": [paths.verdict],
    }
    counted = [(title, sum(each.is_file() for each in of), len(of)) for title, of in files.items() if of]
    return pd.DataFrame(counted, columns=["stage", "done", "of"])


def _states(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield stage and state folder of every training below a run's seed that is unfinished."""
    for stage in ("pretrain", "finetune"):
        yield from ((stage, state) for state in sorted(folder.glob(f".{stage}*")) if state.is_dir())
    for state in sorted(folder.glob("labels/.*/*/.finetune")):  # label_curve.py trains each point apart
        yield "labels", state


def _training(folder: Path, run: str, seed: int, stage: str, now: float) -> Training | None:
    """Return what a state folder says; None where there is nothing yet, or it waits for other parts."""
    signs = _signs(folder)
    if not signs or (folder / layout.PART).is_file():
        return None
    job, log, quiet = _json(folder / layout.JOB), _log(folder), now - max(signs)
    found = job.get("pretrain" if stage == "pretrain" else "finetune")
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


def _signs(folder: Path) -> list[float]:
    """Return when each file of a state folder was written, in seconds since the epoch."""
    moments = []
    for path in folder.glob("*"):
        with contextlib.suppress(OSError):  # a checkpoint that was dropped since it was listed
            moments.append(path.stat().st_mtime)
    return moments


def _json(path: Path) -> dict[str, Any]:
    """Return a JSON object; {} where there is none, as when the training ends between two looks."""
    try:
        found = records.read_json(path)
    except (OSError, IntegrityError):
        return {}
    return found if isinstance(found, dict) else {}


def _log(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of a training's log that name step and loss, [] where there is no log yet."""
    try:
        lines = records.read_log(folder / layout.LOG)
    except (OSError, IntegrityError):
        return []
    return [line for line in lines if isinstance(line, dict) and {"step", "loss"} <= line.keys()]


def _rate(log: list[dict[str, Any]]) -> float:
    """Return images per second over the last lines, 0 where none are known; each line is as many steps."""
    rates = [float(line.get("images_per_second", 0)) for line in log[-RATED:]]
    known = [rate for rate in rates if rate > 0]
    # The harmonic mean, since the time left is made of the times that lines took.
    return len(known) / sum(1 / rate for rate in known) if known else 0.0
