"""What is being trained in a results folder right now, read from the files that a training keeps on its way.

A training has a hidden folder beside its outputs until these are written (train.Job.state): its settings,
a log, checkpoints, and what it leaves when it diverges. Nothing here changes a file or takes a lock.
"""

from __future__ import annotations

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
from facemae.core.layout import Results
from facemae.report.tables import checked

State = Literal["starting", "running", "writing", "stopped", "diverged", "waiting"]
LIVE: tuple[State, ...] = ("starting", "running", "writing", "waiting")

JOB, DUMP, PART = "job.json", "diverged.json", "part.json"  # as train.py and finetune.py name them
STAGES = {
    "pretrain": "pretraining", "finetune": "fine-tuning", "labels": "fine-tuning on fewer labels",
}  # fmt: skip
QUIET = 20.0  # seconds without a sign of life after which a training counts as stopped, at least
QUIET_LINES = 3  # the same in lines of its log, where these are further apart
RATED = 5  # last lines of a log that the time left is told from
_LOCKS = Path("/proc/locks")  # Linux's list; taking a lock to see whether it is free could stop a training


@dataclass(frozen=True)
class Underway:
    """One training that has begun and whose results are not written yet.

    Attributes:
        run: Name of the run.
        seed: Its seed.
        stage: A key of STAGES.
        part: Of the evaluation people, for which a training of its own is made; 0 where there is one.
        state: starting: before the first step. running. writing: all steps are done. stopped: nobody works
            on it. diverged: it ended by itself. waiting: done, other parts of the same stage are not.
        step: The last one in the log.
        steps: Of the whole training, None where its settings cannot be read yet.
        saved: The step that it would go on from, 0: from the start.
        loss: At that last step, a mean over the steps since the line before; None before the first line.
        held_out: The last loss on faces that nothing is trained on, if there is one.
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
    saved: int
    loss: float | None
    held_out: float | None
    seconds_left: float | None
    quiet: float

    @property
    def share(self) -> float:
        """Return the share of the steps that are done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.steps else 0.0

    @property
    def live(self) -> bool:
        """Tell whether it goes on by itself."""
        return self.state in LIVE

    @property
    def sentence(self) -> str:
        """Return where it stands, in one sentence."""
        part = f", part {self.part + 1}" if self.part else ""
        name = f"{self.run}, seed {self.seed}, {STAGES[self.stage]}{part}"
        done = f"step {self.step:,}" + (f" of {self.steps:,}" if self.steps else "")
        told = {
            "starting": "starting, before its first step",
            "running": ", ".join(filter(None, [done, *self._numbers()])),
            "writing": "all steps are done, its results are being written",
            "waiting": "done, and waiting for the other parts",
            "stopped": f"stopped at {done}, {self._since()}; {self._way_on()}",
            "diverged": f"diverged at {done}; lower learning_rate or max_grad_norm, or raise warmup_fraction",
        }
        return f"{name}: {told[self.state]}."

    def _numbers(self) -> Iterator[str]:
        yield "" if self.loss is None else f"loss {self.loss:.3f}"
        yield "" if self.held_out is None else f"{self.held_out:.3f} on faces held out"
        left = self.seconds_left
        yield "" if left is None else f"about {tqdm.format_interval(round(left))} left"
        yield self._since("last sign of life ")

    def _way_on(self) -> str:
        if self.saved:
            return f"the same command goes on from step {self.saved:,}"
        return "the same command begins it again, since nothing was saved yet"

    def _since(self, before: str = "") -> str:
        return f"{before}{tqdm.format_interval(round(max(0.0, self.quiet)))} ago"


def underway(paths: Results, setup: config.Experiment, now: float | None = None) -> list[Underway]:
    """Return the trainings that are not finished, those that go on first, otherwise in the setup's order.

    Args:
        paths: The results folder.
        setup: Its experiment, whose runs are looked for.
        now: Seconds since the epoch; None is this moment.
    """
    moment, held = time.time() if now is None else now, _held()
    found = [
        _underway(state, run, seed, stage, held, moment)
        for run in setup.run_names
        for seed in setup.seeds
        for stage, state in _states(paths.root / run / str(seed))
    ]
    kept = [each for each in found if each is not None]
    return sorted(kept, key=lambda each: not each.live)


def losses(paths: Results, found: list[Underway]) -> pd.DataFrame:
    """Return run, seed, part, stage, step and loss of what unfinished trainings have logged so far."""
    rows = [
        {"run": each.run, "seed": each.seed, "part": each.part, "stage": each.stage}
        | {"step": line["step"], "loss": line["loss"]}
        for each in found
        if each.stage != "labels"  # many short ones, whose curves would be told from no other
        for line in _log(_state_folder(paths, each))
    ]
    return pd.DataFrame(rows, columns=["run", "seed", "part", "stage", "step", "loss"])


@checked
def done(paths: Results, setup: config.Experiment) -> pd.DataFrame:
    """Return how much of each stage is finished: stage, done and of, in the order of the workflow."""
    rows = [
        ("photos listed", [paths.data.photos]),
        ("faces aligned", [paths.data.faces]),
        ("people split", [paths.data.split]),
    ]
    pretrained = [name for name in setup.run_names if setup.run(name).pretrain]
    stages: dict[str, tuple[str, list[str]]] = {
        "pretraining": ("pretrain", pretrained),
        "fine-tuning": ("finetune", setup.run_names),
        "evaluation": ("evaluate", setup.names),
        "covered and lit faces": ("robustness", setup.chosen(setup.robustness.runs)),
        "what else the encoder tells": ("attributes", _trained(setup, setup.attributes.runs)),
    }
    for title, (stage, names) in stages.items():
        wanted = [_metrics(paths.stage(name, seed, stage)) for name in names for seed in setup.seeds_of(name)]
        rows.append((title, wanted))
    curves = [
        _metrics(paths.labels(name, setup.label_seed(subset), subset))
        for name in _trained(setup, setup.label_curve.runs)
        for subset in range(setup.label_curve.subsets)
    ]
    rows += [("fewer labels", curves), ("verdict", [paths.verdict])]
    counted = [(title, sum(file.is_file() for file in files), len(files)) for title, files in rows]
    table = pd.DataFrame(counted, columns=["stage", "done", "of"])
    return table[table["of"] > 0].reset_index(drop=True)


def _trained(setup: config.Experiment, runs: list[str]) -> list[str]:
    return [name for name in setup.chosen(runs) if name not in setup.baselines]


def _metrics(folder: Path) -> Path:
    return folder / layout.METRICS


def _states(folder: Path) -> Iterator[tuple[str, Path]]:
    """Yield stage and state folder of every training below a run's seed that is unfinished or just begins."""
    for stage in ("pretrain", "finetune"):
        first = folder / f".{stage}"
        yield stage, first
        for other in sorted(folder.glob(f".{stage}-*")):
            if other.is_dir():
                yield stage, other
    for state in sorted(folder.glob("labels/.*/*/.finetune")):  # label_curve.py trains each point apart
        yield "labels", state


def _state_folder(paths: Results, each: Underway) -> Path:
    suffix = f"-{each.part}" if each.part else ""
    return paths.root / each.run / str(each.seed) / f".{each.stage}{suffix}"


def _underway(
    folder: Path, run: str, seed: int, stage: str, held: set[tuple[int, int]], now: float
) -> Underway | None:
    """Return what a state folder tells; None where there is neither a training nor a held lock."""
    part = int(folder.name.rpartition("-")[2]) if _is_part(folder, stage) else 0
    locked = _is_held(_lock(folder, stage, part), held)
    signs = _signs(folder)
    if not signs:
        begun = locked and part == 0
        return (
            Underway(run, seed, stage, part, "starting", 0, None, 0, None, None, None, 0.0) if begun else None
        )
    settings, log, quiet = _settings(folder, stage), _log(folder), now - max(signs)
    last = log[-1] if log else {}
    step, steps = int(last.get("step", 0)), settings.get("steps")
    rate = _rate(log)
    batch = int(settings.get("batch_size", 0))
    interval = int(settings.get("log_every", 0)) * batch / rate if rate else 0.0
    works = locked or quiet < max(QUIET, QUIET_LINES * interval)
    state = _state(folder, works, step, steps)
    dumped = _json(folder / DUMP) if state == "diverged" else {}
    held_out = [line["held_out_loss"] for line in log if "held_out_loss" in line]
    return Underway(
        run, seed, stage, part, state,
        step=int(dumped.get("step", step)),
        steps=None if steps is None else int(steps),
        saved=max([int(file.stem.partition("_")[2]) for file in folder.glob("step_*.json")], default=0),
        loss=float(last["loss"]) if "loss" in last else None,
        held_out=float(held_out[-1]) if held_out else None,
        seconds_left=(int(steps) - step) * batch / rate if rate and steps and works else None,
        quiet=quiet,
    )  # fmt: skip


def _state(folder: Path, works: bool, step: int, steps: int | None) -> State:
    if (folder / DUMP).is_file():
        return "diverged"
    if (folder / PART).is_file():
        return "waiting" if works else "stopped"
    if not works:
        return "stopped"
    if step == 0:
        return "starting"
    return "writing" if step == steps else "running"


def _is_part(folder: Path, stage: str) -> bool:
    return stage != "labels" and folder.name.rpartition("-")[2].isdigit()


def _lock(folder: Path, stage: str, part: int) -> Path:
    """Return the lock of a training; the parts of a stage share one."""
    return folder.with_name(f".{stage}.lock") if part else folder.with_name(f"{folder.name}.lock")


def _signs(folder: Path) -> list[float]:
    """Return when each file of a state folder was written, in seconds since the epoch."""
    moments = []
    for path in folder.glob("*") if folder.is_dir() else ():
        try:
            moments.append(path.stat().st_mtime)
        except OSError:  # a checkpoint that was dropped since it was listed
            continue
    return moments


def _settings(folder: Path, stage: str) -> dict[str, Any]:
    """Return the settings of the stage that a state folder was begun with, {} while they are not written."""
    found = _json(folder / JOB).get("pretrain" if stage == "pretrain" else "finetune")
    return found if isinstance(found, dict) else {}


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
    except (OSError, UnicodeDecodeError):
        return []
    return [line for line in lines if isinstance(line, dict) and {"step", "loss"} <= line.keys()]


def _rate(log: list[dict[str, Any]]) -> float:
    """Return images per second over the last lines, 0 where none are known; each line is as many steps."""
    rates = [float(line.get("images_per_second", 0)) for line in log[-RATED:]]
    known = [rate for rate in rates if rate > 0]
    # The mean of the times a line took, which is what the time left is made of.
    return len(known) / sum(1 / rate for rate in known) if known else 0.0


def _held() -> set[tuple[int, int]]:
    """Return process and inode of every lock that is held on this machine; none where it cannot be told."""
    try:
        lines = _LOCKS.read_text(encoding="ascii").splitlines()
    except OSError:
        return set()
    held = set()
    for line in lines:  # 1: FLOCK  ADVISORY  WRITE 29307 fe:00:2148437 0 EOF
        parts = line.split()
        if len(parts) > 5 and parts[1] == "FLOCK":
            held.add((int(parts[4]), int(parts[5].rpartition(":")[2])))
    return held


def _is_held(lock: Path, held: set[tuple[int, int]]) -> bool:
    """Tell whether the process that a lock file names holds it; a lock of another machine is not known."""
    try:
        return (int(lock.read_text(encoding="ascii")), lock.stat().st_ino) in held
    except (OSError, ValueError):
        return False
