"""The training loop, one for pretraining and fine-tuning.

Every step follows from (seed, step) alone (randomness.py), so a run that was killed goes on from its
newest checkpoint and ends, on a CPU, with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn

from facemae import checkpoint, config, files, optim, results
from facemae.device import Compute
from facemae.errors import DivergedError, FaceMAEError, PreemptedError
from facemae.progress import Progress, say
from facemae.randomness import seed_of


@dataclass(frozen=True)
class Job:
    """What identifies one training and where it keeps its state."""

    label: str
    """Shown in progress lines, such as "pretrain block/0"."""
    seed: int
    state: Path
    """Folder of checkpoints, outside every declared output."""
    fingerprint: str
    """Hash of all that shapes the result; another configuration never resumes this one's state."""

    @property
    def folder(self) -> Path:
        """The folder that this fingerprint's checkpoints and log live in."""
        return self.state / self.fingerprint


@dataclass
class Trained:
    """What a training left behind, besides the network's weights."""

    step: int = 0
    seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    """Losses since the last line of the log."""
    log: list[dict[str, Any]] = field(default_factory=list)


def fit(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    training: config.Training,
    compute: Compute,
    job: Job,
) -> Trained:
    """Train `network` for `training.steps` steps, resuming where an earlier attempt stopped.

    Args:
        network: Everything trained; it is changed in place.
        optimizer: Made by `optim.adamw` on `network`.
        loss_at: Returns the scalar loss of a step, in float32; it must depend on the step alone.
        training: Length, rate, clipping, and how often to log and save.
        compute: Where it runs.
        job: Identity and state folder.

    Raises:
        UsageError: another process trains the same job.
        DivergedError: a loss or gradient is not finite; the weights were not updated with it.
        PreemptedError: a signal asked to stop; the state is saved.
        StorageError: the disk is full; the last checkpoint is intact.
        IntegrityError: every checkpoint is damaged.
    """
    network.train()
    with _stop_signal() as stop:
        done = _resume(network, optimizer, job)
        progress = Progress(job.label, training.steps, "steps", done.step)
        clock = compute.seconds() - done.seconds
        while done.step < training.steps:
            _step(network, optimizer, loss_at, training, done, job)
            done.seconds = compute.seconds() - clock
            if done.step % training.log_every == 0 or done.step == training.steps:
                _log(done, optimizer, training, job)
            progress.update(done.step, f"loss {done.log[-1]['loss']:.4f}" if done.log else "")
            last = done.step == training.steps
            if last or stop.requested or done.step % training.checkpoint_every == 0:
                _save(network, optimizer, done, job)
            if stop.requested and not last:
                raise stop.error(job, done.step)
    return done


def lock(job: Job) -> contextlib.AbstractContextManager[None]:
    """Hold the job's lock from before its first step until its results are written."""
    return files.exclusive(job.state.with_name(f"{job.state.name}.lock"))


def _step(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    training: config.Training,
    done: Trained,
    job: Job,
) -> None:
    optim.set_learning_rate(optimizer, optim.learning_rate(done.step, training))
    torch.manual_seed(seed_of(job.seed, "network", done.step))  # for dropped paths inside the network
    loss = loss_at(done.step)
    loss.backward()  # type: ignore[no-untyped-call]
    norm = nn.utils.clip_grad_norm_(network.parameters(), training.clip_norm)
    value = float(loss.detach())
    if not (math.isfinite(value) and math.isfinite(float(norm))):
        raise DivergedError(
            f"{job.label} diverged at step {done.step + 1} (loss {value}, gradient norm {float(norm)}); "
            "lower learning_rate or clip_norm, or raise warmup_share."
        )
    optimizer.step()
    optimizer.zero_grad()
    done.recent.append(value)
    done.step += 1


def _log(done: Trained, optimizer: torch.optim.Optimizer, training: config.Training, job: Job) -> None:
    record = {
        "step": done.step,
        "loss": sum(done.recent) / len(done.recent),
        "learning_rate": optim.learning_rate(done.step - 1, training),
        "images_per_second": round(done.step * training.batch_size / done.seconds, 1),
        "seconds": round(done.seconds, 3),
    }
    done.recent.clear()
    done.log.append(record)
    files.append_line(job.folder / results.LOG, json.dumps(record))


def _save(network: nn.Module, optimizer: torch.optim.Optimizer, done: Trained, job: Job) -> None:
    facts = {"seconds": done.seconds, "recent": done.recent}
    checkpoint.save(job.folder, done.step, checkpoint.pack(network, optimizer), facts)


def _resume(network: nn.Module, optimizer: torch.optim.Optimizer, job: Job) -> Trained:
    """Put the newest checkpoint back, with the log as it was then."""
    found = checkpoint.newest(job.folder)
    log_file = job.folder / results.LOG
    if found is None:
        log_file.unlink(missing_ok=True)
        return Trained()
    tensors, facts = found
    checkpoint.unpack(tensors, network, optimizer)
    step = int(facts["step"])
    known = results.read_log(log_file) if log_file.exists() else []  # none before the first line
    log = [record for record in known if record["step"] <= step]
    results.write_lines(log_file, log)
    say(job.label, f"resumed at step {step}")
    return Trained(step, float(facts["seconds"]), list(facts["recent"]), log)


class _Stop:
    """Whether a signal asked for the training to stop, and which."""

    def __init__(self) -> None:
        self.signal: int | None = None

    @property
    def requested(self) -> bool:
        return self.signal is not None

    def error(self, job: Job, step: int) -> FaceMAEError:
        error = PreemptedError(
            f"{job.label} stopped at step {step} and was saved; run the same command to go on."
        )
        if self.signal == signal.SIGINT:
            error.exit_code = 130
        return error


@contextlib.contextmanager
def _stop_signal() -> Iterator[_Stop]:
    """Turn the first stop signal into a request; a second one ends the process at once."""
    stop = _Stop()
    watched = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

    def request(number: int, frame: FrameType | None) -> None:
        stop.signal = number
        for each in watched:
            signal.signal(each, before[each])

    before = {each: signal.getsignal(each) for each in watched}
    for each in watched:
        signal.signal(each, request)
    try:
        yield stop
    finally:
        for each in watched:
            signal.signal(each, before[each])
