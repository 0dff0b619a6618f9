"""The training loop, one for pretraining and fine-tuning.

Every step follows from (seed, step) alone (compute/seeding.py), so a run that was killed goes on from its
newest checkpoint and ends, on a CPU, with the same bits as one that was not.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import ALONE, World
from facemae.compute.seeding import batch_ids
from facemae.core import files, layout, records
from facemae.core.differences import differences
from facemae.core.errors import DivergedError, IntegrityError, UsageError
from facemae.core.progress import Progress, say
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import OpenFaces
from facemae.data.faces.loader import Feed
from facemae.training import checkpoint, memory
from facemae.training import optimizer as optim
from facemae.training.objective import HELD_OUT, LOSS, Objective, Trained
from facemae.training.preemption import Stop, stop_signal

BEST = "best."  # before the names of the best weights in a checkpoint
CHECK_EVERY = 20  # steps on a GPU between looks at what it found, each of which waits for it
SHOWN_NAMES = 20  # weights without a finite gradient, in the dump


@dataclass(frozen=True)
class Job:
    """What identifies one training and where it keeps its state."""

    label: str
    """Shown in progress lines, such as "pretrain block/0"."""
    seed: int
    state: Path
    """Folder of checkpoints and log, outside every declared output."""
    identity: dict[str, Any]
    """All that shapes the result; a training with another identity does not go on from this state."""


def fit(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    training: config.Training,
    compute: Compute,
    job: Job,
    world: World = ALONE,
) -> Trained:
    """Train for `training.steps` steps, resuming where an earlier attempt stopped.

    The network is changed in place; where it was validated it ends with the weights that were best.

    Raises:
        UsageError: the state is of a training with other settings, or the batch does not divide.
        DivergedError: a loss or gradient is not finite; the weights were not updated with it.
        PreemptedError: a signal asked to stop; the state is saved.
        StorageError: the disk is full; the last checkpoint is intact.
        IntegrityError: every checkpoint is damaged.
    """
    objective.network.train()
    loop = _Loop(objective, optimizer, training, compute, job, world)
    with stop_signal(told_twice=world.size > 1) as stop:
        loop.resume()
        loop.run(stop)
    return loop.done


def fit_faces(
    objective: Objective,
    optimizer: torch.optim.Optimizer,
    faces: OpenFaces,
    training: config.Training,
    job: Job,
    workers: int = 0,
    world: World = ALONE,
) -> Trained:
    """Train on faces in shuffled epochs, after a look at the memory that this takes; see `fit`.

    The objective's feed is set here; `workers` threads read batches ahead.
    """
    compute, label = objective.compute, job.label
    cost = memory.measure(objective.model, objective.trial, compute)
    memory.check(cost, training, compute, label, world)
    objective.flops = cost.flops

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(faces), training.batch_size, step, objective.seed)

    taken = cost.bytes(training.batch_size // (training.grad_accumulation * world.size))
    with Feed(faces, ids_at, compute, workers, taken) as feed:
        objective.feed = feed
        with memory.explained(label, lambda: f": it {memory.advice(cost, training, compute, world)}"):
            return fit(objective, optimizer, training, compute, job, world)


@contextlib.contextmanager
def lock(job: Job, world: World = ALONE) -> Iterator[None]:
    """Hold the job's lock from before its first step until its results are written."""
    held = files.exclusive(job.state.with_name(f"{job.state.name}.lock"))
    with held if world.is_first else contextlib.nullcontext():
        world.wait()
        yield


@dataclass
class _Loop:
    objective: Objective
    optimizer: torch.optim.Optimizer
    training: config.Training
    compute: Compute
    job: Job
    world: World
    done: Trained = field(default_factory=Trained)

    def __post_init__(self) -> None:
        self.parts = self.world.parts(self.training.batch_size, self.training.grad_accumulation)
        self.weights = [each for each in self.objective.network.parameters() if each.requires_grad]
        apart = [list(module.parameters()) for module in self.objective.clipped_apart]
        others = {id(weight) for weights in apart for weight in weights}
        self.clipped = [[each for each in self.weights if id(each) not in others], *apart]
        self.diverged_at = torch.tensor(-1, device=self.compute.device)
        self.listen_every = CHECK_EVERY if self.compute.on_gpu else 1
        self.judged_every = [self.objective.validation.every] if self.objective.validation else []

    def run(self, stop: Stop) -> None:
        done, training = self.done, self.training
        progress = Progress(self.job.label, training.steps, "steps", done.step)
        clock = self.compute.seconds() - done.seconds
        self.logged_at = done.step, time.monotonic()
        while not self.finished:
            self.step()
            self.objective.after_step(done.step, self.world)
            listens = self.world.size == 1 or self.due(self.listen_every)
            stops = listens and self.world.any(stop.requested, self.compute.device)
            if self.due(self.listen_every, training.log_every, training.checkpoint_every, *self.judged_every):
                self.check()
            validated = self.validate()
            if validated or stops or self.due(training.log_every, training.checkpoint_every):
                done.seconds = self.compute.seconds() - clock
            if validated or self.due(training.log_every):
                self.log(validated)
            if self.world.is_first:
                progress.update(done.step, f"loss {done.log[-1][LOSS]:.4f}" if done.log else "")
            if stops or self.finished or self.due(training.checkpoint_every):
                self.save()
            if stops and not self.finished:
                raise stop.error(self.job.label, done.step)
        if self.world.is_first and done.step < training.steps:
            say(self.job.label, f"nothing better since step {done.best_step}; stopped at step {done.step}")
        if done.best:
            self.objective.network.load_state_dict(done.best)

    def due(self, *every: int) -> bool:
        """Tell whether something that happens every so many steps, and at the end, happens now."""
        step = self.done.step
        return step == self.training.steps or any(step % each == 0 for each in every)

    @property
    def finished(self) -> bool:
        """Whether all steps are done, or the last validations brought nothing better."""
        validation, held_out = self.objective.validation, self.done.held_out
        if validation and validation.patience and held_out:
            since = sum(step > (self.done.best_step or 0) for _, step in held_out)
            if since >= validation.patience:
                return True
        return self.done.step >= self.training.steps

    def step(self) -> None:
        step = self.done.step
        optim.set_learning_rate(self.optimizer, optim.learning_rate(step, self.training))
        losses = self.backward(step)
        finite = torch.isfinite(losses[LOSS])
        for weights in self.clipped:
            norm = nn.utils.clip_grad_norm_(weights, self.training.max_grad_norm, foreach=True)
            finite = finite & torch.isfinite(norm)
        self.diverged_at = torch.where(finite | (self.diverged_at >= 0), self.diverged_at, step)
        if self.compute.on_gpu:  # the optimiser's kernel itself leaves the weights as they are
            self.optimizer.found_inf = (self.diverged_at >= 0).float()  # type: ignore[attr-defined]
        else:
            self.check()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.done.recent.append(losses)
        self.done.step += 1

    def backward(self, step: int) -> dict[str, Tensor]:
        """Leave the gradient of the whole batch in the weights and return the losses, averaged."""
        total: dict[str, Tensor] = {}
        for part in self.parts:
            torch.manual_seed(seed_of(self.job.seed, "network", step, part.start))  # for dropped paths
            losses = self.objective.loss(step, part)
            (losses[LOSS] / len(self.parts)).backward()  # type: ignore[no-untyped-call]
            for name, value in losses.items():
                value = value.detach() / len(self.parts)
                total[name] = total[name] + value if name in total else value
        gradients = [weight.grad for weight in self.weights if weight.grad is not None]
        self.world.average([*gradients, *total.values()])
        return total

    def check(self) -> None:
        step = int(self.diverged_at)
        if step < 0:
            return
        self.optimizer.zero_grad()
        losses = {name: float(value) for name, value in self.backward(step).items()}
        bad = [
            name
            for name, weight in self.objective.network.named_parameters()
            if weight.grad is not None and not weight.grad.isfinite().all()
        ]
        dump = {
            "step": step + 1,
            "learning_rate": optim.learning_rate(step, self.training),
            "losses": {name: repr(value) for name, value in losses.items()},
            "not_finite": bad[:SHOWN_NAMES],
            "samples": self.objective.feed.names(step),
        }
        if self.world.is_first:
            files.write_json(self.job.state / layout.DUMP, dump)
        raise DivergedError(
            f"{self.job.label} diverged at step {step + 1} (loss {losses[LOSS]}, {len(bad)} gradients not "
            f"finite; details in {self.job.state / layout.DUMP}); lower learning_rate or max_grad_norm, or "
            f"raise warmup_fraction, and delete {self.job.state} to start again."
        )

    def validate(self) -> dict[str, float]:
        """Return what the validation finds, if it is time for one, and keep the weights if they are best."""
        validation, done, network = self.objective.validation, self.done, self.objective.network
        if not validation or not self.due(validation.every):
            return {}
        network.eval()
        found = self.world.first_ones(validation.measure(done.step))
        network.train()
        if not math.isfinite(found[HELD_OUT]):
            raise DivergedError(
                f"{self.job.label} diverged: at step {done.step} the held-out loss is {found[HELD_OUT]}; "
                "lower learning_rate or max_grad_norm, or raise warmup_fraction."
            )
        done.held_out.append((found[HELD_OUT], done.step))
        if done.best_step == done.step:
            done.best = {name: value.detach().clone() for name, value in network.state_dict().items()}
        return found

    def log(self, validated: dict[str, float]) -> None:
        done = self.done
        recent = [{name: float(value) for name, value in each.items()} for each in done.recent]
        names = recent[-1].keys() if recent else ()
        (step, moment), now = self.logged_at, time.monotonic()
        self.logged_at = done.step, now
        rate = (done.step - step) * self.training.batch_size / max(now - moment, 1e-9)
        record = {
            "step": done.step,
            **{name: sum(each[name] for each in recent) / len(recent) for name in names},
            "learning_rate": optim.learning_rate(done.step - 1, self.training),
            "images_per_second": round(rate, 1),
            "mfu": round(self.compute.utilisation(rate * self.objective.flops / self.world.size), 3),
            "memory_mb": self.compute.memory_mb(),
            "seconds": round(done.seconds, 3),
            **validated,
        }
        done.recent.clear()
        done.log.append(record)
        if self.world.is_first:
            files.append_line(self.job.state / layout.LOG, json.dumps(record))

    def save(self) -> None:
        if self.world.is_first:
            state = checkpoint.pack(self.objective.network, self.optimizer)
            state |= {f"{BEST}{name}": value for name, value in self.done.best.items()}
            checkpoint.save(self.job.state, self.done.step, state, self.done.facts)
        self.world.wait()

    def resume(self) -> None:
        """Put the newest checkpoint back, with the log as it was then."""
        self.check_identity()
        log_file = self.job.state / layout.LOG
        known = records.read_log(log_file) if log_file.exists() else []  # none before the first line
        found = checkpoint.newest(self.job.state)
        if found is None:
            self.begin(known, log_file)
            return
        tensors, facts = found
        checkpoint.unpack(tensors, self.objective.network, self.optimizer)
        step = int(facts["step"])
        log = [record for record in known if record["step"] <= step]
        self.world.wait()
        if self.world.is_first:
            records.write_lines(log_file, log)
            say(self.job.label, f"resumed at step {step}")
        held_out = [(loss, step) for loss, step in facts["held_out"]]
        best = {name.removeprefix(BEST): value for name, value in tensors.items() if name.startswith(BEST)}
        self.done = Trained(step, float(facts["seconds"]), list(facts["recent"]), log, held_out, best)

    def begin(self, known: list[dict[str, Any]], log_file: Path) -> None:
        """Start at step 0, unless the log of this very training says that it had come further."""
        last = known[-1]["step"] if known else 0
        if last > self.training.checkpoint_every:
            raise IntegrityError(
                f"{self.job.state} holds the log of a training up to step {last} and no checkpoint; put the "
                "checkpoints back, or delete the folder to start from the beginning."
            )
        if self.world.is_first:
            log_file.unlink(missing_ok=True)
        self.world.wait()

    def check_identity(self) -> None:
        """Refuse to go on from the state of a training with other settings, or with unknown ones."""
        path, saved = self.job.state / layout.JOB, bool(checkpoint.saved(self.job.state))
        identity = json.loads(json.dumps(self.job.identity))
        known = records.read_json(path) if path.exists() else None
        if saved and known is None:
            raise IntegrityError(
                f"{self.job.state} holds an unfinished training whose settings ({layout.JOB}) are gone; put "
                "the file back, or delete the folder to start from the beginning."
            )
        if saved and known != identity:
            changed = "; ".join(
                f"{key}: {before} -> {now}" for key, (before, now) in differences(known, identity).items()
            )
            raise UsageError(
                f"{self.job.state} holds an unfinished training with other settings ({changed}); "
                "go back to those to finish it, or delete the folder to start again."
            )
        self.world.wait()
        if self.world.is_first and not saved:
            (self.job.state / layout.DUMP).unlink(missing_ok=True)
            if known != identity:  # the log is of another training, which lost nothing but its first steps
                (self.job.state / layout.LOG).unlink(missing_ok=True)
            files.write_json(path, identity)
        self.world.wait()
