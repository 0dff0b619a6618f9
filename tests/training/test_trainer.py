import contextlib
import itertools
import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from trainings import GUIDED, KINDS, assert_close, same, tensors, told

from facemae.compute.device import Compute
from facemae.core import files, layout, records
from facemae.core.errors import DivergedError, IntegrityError, PreemptedError, StorageError, UsageError
from facemae.training import checkpoint, trainer
from facemae.training.objective import HELD_OUT, LOSS, Objective, Validation
from facemae.training.trainer import Job

STEPS, LOG_EVERY, SAVE_EVERY = 10, 3, 4  # the small experiment's (conftest.py)
IDENTITY = {"pretrain": {"mask": "block", "steps": 10}, "seed": 0}


class BoomError(Exception):
    """What interrupts a training from within."""


def boom(*ignored):
    raise BoomError


@pytest.fixture
def job(tmp_path):
    return Job("pretrain test/0", 0, tmp_path / ".pretrain", IDENTITY)


@pytest.fixture
def make(experiment, compute, orl_images):
    """Return a function that makes a training of a kind, the same each time."""
    faces = torch.from_numpy(orl_images)
    return lambda kind, **changes: KINDS[kind](experiment, faces, compute, **changes)


@pytest.fixture(scope="module")
def uninterrupted(experiment, compute, orl_images, tmp_path_factory):
    """The end of each kind of training that nothing disturbed, made once when it is asked for."""
    known = {}

    def end(kind):
        if kind not in known:
            made = KINDS[kind](experiment, torch.from_numpy(orl_images), compute)
            folder = tmp_path_factory.mktemp("whole") / ".state"
            done = made.fit(compute, Job("whole", 0, folder, IDENTITY))
            known[kind] = tensors(made.network), told(done.log)
        return known[kind]

    return end


def checkpoints(job):
    return [path.name.partition(".")[0] for path in checkpoint.saved(job.state)]


def file_of(job, step):
    """The file of a checkpoint."""
    return next(path for path in checkpoint.saved(job.state) if checkpoint.step_of(path) == step)


def ended(made, done, expected):
    """Check that a training has come to the expected weights and log."""
    weights, log = expected
    assert same(tensors(made.network), weights)
    assert told(done.log) == log


# --- an undisturbed training ---


@pytest.mark.parametrize("kind", KINDS)
def test_a_training_learns_logs_and_leaves_its_state(make, compute, job, kind):
    made = make(kind)
    before, losses, per_step = tensors(made.network), [], made.objective.loss

    def recorded(step, part):
        found = per_step(step, part)
        losses.append(float(found[LOSS].detach()))
        return found

    made.objective.loss = recorded
    done = made.fit(compute, job)
    assert done.step == STEPS
    assert made.steps == list(range(STEPS))
    assert not same(tensors(made.network), before)
    bounds = [0, 3, 6, 9, 10] if kind == "finetune" else [0, 3, 4, 6, 8, 9, 10]  # validations are lines too
    spans = list(itertools.pairwise(bounds))
    assert [record["step"] for record in done.log] == bounds[1:]
    assert [record[LOSS] for record in done.log] == pytest.approx(
        [sum(losses[a:b]) / (b - a) for a, b in spans]
    )
    assert [HELD_OUT in record for record in done.log] == [
        kind != "finetune" and end in (4, 8, 10) for end in bounds[1:]
    ]
    assert records.read_log(job.state / layout.LOG) == done.log
    assert checkpoints(job) == ["step_00000008", "step_00000010"]
    assert json.loads((job.state / layout.JOB).read_text()) == IDENTITY
    assert done.log[-1]["seconds"] == pytest.approx(done.seconds, abs=0.001)
    assert all(record["images_per_second"] > 0 and record["memory_mb"] > 0 for record in done.log)


@pytest.mark.parametrize("kind", ["finetune", "hard_patches"])
def test_two_trainings_are_the_same_to_the_bit_whatever_the_global_randomness(
    make, compute, job, uninterrupted, kind
):
    made = make(kind)
    torch.manual_seed(12345)
    ended(made, made.fit(compute, job), uninterrupted(kind))


def test_the_gradient_is_clipped(make, compute, job):
    made = make("pretrain", steps=1, max_grad_norm=0.5, learning_rate=1.0, warmup_fraction=0.0,
                validate_every=0, held_out=0.0)  # fmt: skip
    weights = [weight for weight in made.network.parameters() if weight.requires_grad]
    made.optimizer = torch.optim.SGD([{"params": weights, "lr_scale": 1.0}], lr=1.0)
    made.at(0, lambda losses: {LOSS: 1000 * losses[LOSS]})
    before = [weight.detach().clone() for weight in weights]
    made.fit(compute, job)
    moved = sum(float((a - b.detach()).square().sum()) for a, b in zip(before, weights, strict=True))
    assert moved**0.5 == pytest.approx(0.5, rel=1e-3)


def test_utilisation_follows_from_the_counted_operations(make, job):
    class Counted(Compute):
        def utilisation(self, flops):
            return flops / 1e6

    made = make("finetune")
    made.objective.flops = 1e4
    done = made.fit(Counted(torch.device("cpu"), torch.float32), job)
    for record in done.log:
        assert record["mfu"] == pytest.approx(record["images_per_second"] * 1e4 / 1e6, abs=2e-3)


# --- parts of a batch ---


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mask": "pixel"},
        {"mask": "loss_ema"},
        {"decoder": "cross", "predict_ratio": 0.25},
    ],
    ids=str,
)
def test_a_batch_in_parts_gives_the_same_weights_up_to_rounding(make, compute, tmp_path, changes):
    ends = []
    for parts in (1, 2, 4):
        made = make("pretrain", grad_accumulation=parts, steps=4, **changes)
        made.fit(compute, Job("parts", 0, tmp_path / f".{parts}", IDENTITY))
        assert made.steps == [step for step in range(4) for _ in range(parts)]
        ends.append(tensors(made.network))
    for other in ends[1:]:
        # Rounding is 1e-7 of a gradient; AdamW makes more of it where the gradient itself is small.
        assert_close(other, ends[0], atol=2e-4)


def test_the_gradient_of_parts_is_that_of_the_whole(make, compute, job):
    gradients = []
    for parts in (1, 2, 4):
        made = make("pretrain", grad_accumulation=parts)
        loop = trainer._Loop(made.objective, made.optimizer, made.training, compute, job, trainer.ALONE)
        losses = loop.backward(3)
        gradients.append(([weight.grad for weight in loop.weights], losses))
    for grads, losses in gradients[1:]:
        assert float(losses[LOSS]) == pytest.approx(float(gradients[0][1][LOSS]), rel=1e-6)
        for found, expected in zip(grads, gradients[0][0], strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-7)


def test_each_part_drops_other_paths(make, compute, job):
    made = make("finetune", grad_accumulation=2)
    states = []
    made.at(0, lambda losses: states.append(torch.get_rng_state()))
    made.at(1, boom)
    with pytest.raises(BoomError):
        made.fit(compute, job)
    assert len(states) == 2
    assert not torch.equal(*states)


# --- interruptions ---


@pytest.mark.parametrize(
    ("kind", "step"),
    [("finetune", step) for step in range(STEPS)]
    + [("pretrain", step) for step in (3, 5, 8, 9)]
    + [(kind, 6) for kind in GUIDED],
)
def test_interrupted_at_any_step_it_ends_the_same(make, compute, job, uninterrupted, kind, step):
    with pytest.raises(BoomError):
        make(kind).at(step, boom).fit(compute, job)
    made = make(kind)
    done = made.fit(compute, job)
    assert made.steps == list(range(step // SAVE_EVERY * SAVE_EVERY, STEPS))  # from the checkpoint, each once
    ended(made, done, uninterrupted(kind))
    assert told(records.read_log(job.state / layout.LOG)) == uninterrupted(kind)[1]


@pytest.mark.parametrize("kind", ["finetune", "hard_patches"])
def test_interrupted_again_and_again_it_ends_the_same(make, compute, job, uninterrupted, kind):
    for step in (5, 4, 9, 6, 8, 9):
        with contextlib.suppress(BoomError):
            make(kind).at(step, boom).fit(compute, job)
    made = make(kind)
    ended(made, made.fit(compute, job), uninterrupted(kind))


def test_averaged_weights_of_fine_tuning_survive(make, compute, job, tmp_path):
    whole = make("finetune", ema=0.5)
    whole.fit(compute, Job("whole", 0, tmp_path / ".whole", IDENTITY))
    with pytest.raises(BoomError):
        make("finetune", ema=0.5).at(6, boom).fit(compute, job)
    made = make("finetune", ema=0.5)
    made.fit(compute, job)
    assert same(tensors(made.network), tensors(whole.network))


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(make, compute, job, uninterrupted):
    make("pretrain").fit(compute, job)
    with open(file_of(job, 10), "r+b") as file:
        file.truncate(50)
    made = make("pretrain")
    done = made.fit(compute, job)
    assert made.steps == [8, 9]
    ended(made, done, uninterrupted("pretrain"))


def test_a_finished_training_is_not_repeated(make, compute, job, uninterrupted):
    make("pretrain").fit(compute, job)
    made = make("pretrain")
    done = made.fit(compute, job)
    assert made.steps == []
    ended(made, done, uninterrupted("pretrain"))


def test_when_every_checkpoint_is_damaged_nothing_is_trained(make, compute, job):
    make("finetune").fit(compute, job)
    for path in job.state.glob("*.safetensors"):
        path.write_bytes(b"")
    made = make("finetune")
    with pytest.raises(IntegrityError, match="Every checkpoint") as caught:
        made.fit(compute, job)
    assert caught.value.exit_code == 4
    assert made.steps == []


def test_a_checkpoint_before_the_first_line_of_the_log(make, compute, job):
    with pytest.raises(BoomError):
        make("finetune", log_every=8).at(6, boom).fit(compute, job)
    done = make("finetune", log_every=8).fit(compute, job)
    assert [record["step"] for record in done.log] == [8, 10]


# --- a kill at every moment of saving ---

MOMENTS = ["before the file", "half a file", "before the rename", "before the old ones go"]


def killed_at(moment, stem, monkeypatch):
    """Interrupt the writing of the checkpoint `stem` at a moment, as a kill would: nothing is tidied up."""
    write, delete = files.atomic_write, checkpoint._delete

    def atomic_write(path, data):
        if not path.name.startswith(stem) or moment == MOMENTS[3]:
            return write(path, data)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")  # files.atomic_file's
        kept = (None, len(data) // 2, len(data))[MOMENTS.index(moment)]
        if kept is not None:
            temporary.write_bytes(data[:kept])
        raise BoomError

    def prune(paths):
        if moment == MOMENTS[3] and paths:
            raise BoomError
        delete(paths)

    monkeypatch.setattr(files, "atomic_write", atomic_write)
    monkeypatch.setattr(checkpoint, "_delete", prune)


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_while_saving_costs_an_interval_at_most(
    make, compute, job, uninterrupted, monkeypatch, moment
):
    last = moment == MOMENTS[3]  # there is nothing to prune before the third checkpoint
    with monkeypatch.context() as patched:
        killed_at(moment, "step_00000010" if last else "step_00000008", patched)
        with pytest.raises(BoomError):
            make("pretrain").fit(compute, job)
    made = make("pretrain")
    done = made.fit(compute, job)
    assert made.steps == ([] if last else list(range(4, STEPS)))
    ended(made, done, uninterrupted("pretrain"))


# --- best weights and early stop ---


def judged(make, losses, patience=0, every=2):
    """Return a training whose held-out losses are given, validation by validation."""
    made = make("finetune", steps=12)
    seen = {}

    def measure(step):
        seen[step] = tensors(made.network)
        assert not made.network.training
        return {HELD_OUT: losses[step // every - 1], "probe_auc": 0.5}

    made.objective.validation = Validation(every, patience, measure)
    return made, seen


def test_the_weights_that_were_best_are_the_result(make, compute, job):
    made, seen = judged(make, [0.5, 0.3, 0.4, 0.3, 0.9, 0.8])
    done = made.fit(compute, job)
    assert done.best_step == 4  # the first of equals
    assert same(tensors(made.network), seen[4])
    assert done.held_out == [(0.5, 2), (0.3, 4), (0.4, 6), (0.3, 8), (0.9, 10), (0.8, 12)]
    assert [record["probe_auc"] for record in done.log if HELD_OUT in record] == [0.5] * 6


@pytest.mark.parametrize("interruption", [None, 3, 5, 8, 9])
def test_an_early_stop_comes_at_the_same_step_after_an_interruption(make, compute, job, interruption):
    losses = [0.5, 0.3, 0.4, 0.35, 0.9, 0.1]
    if interruption:
        made, _ = judged(make, losses, patience=3)
        with pytest.raises(BoomError):
            made.at(interruption, boom).fit(compute, job)
    made, _ = judged(make, losses, patience=3)
    done = made.fit(compute, job)
    assert (done.step, done.best_step) == (10, 4)
    assert checkpoints(job)[-1] == "step_00000010"
    whole, seen_whole = judged(make, losses, patience=3)
    whole.fit(compute, replace(job, state=job.state.with_name(".whole")))
    assert same(tensors(made.network), tensors(whole.network))
    assert same(tensors(made.network), seen_whole[4])
    again, _ = judged(make, losses, patience=3)
    assert again.fit(compute, job).step == 10
    assert again.steps == []
    assert same(tensors(again.network), seen_whole[4])


def test_without_patience_it_goes_on_to_the_end(make, compute, job):
    made, _ = judged(make, [0.1, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert made.fit(compute, job).step == 12


def test_a_damaged_checkpoint_takes_its_best_weights_with_it(make, compute, job):
    losses = [0.5, 0.4, 0.3, 0.6, 0.7, 0.8]
    made, _ = judged(make, losses)
    with pytest.raises(BoomError):
        made.at(9, boom).fit(compute, job)  # best: step 6; checkpoints: steps 4 and 8
    file_of(job, 8).write_bytes(b"x")
    made, seen = judged(make, losses)
    done = made.fit(compute, job)
    assert made.steps == list(range(4, 12))
    assert done.best_step == 6
    assert same(tensors(made.network), seen[6])


# --- signals ---

STOPS = [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]


@pytest.mark.parametrize(
    ("number", "code", "step", "kind"),
    [
        (*STOPS[0], 0, "pretrain"),
        (*STOPS[1], 1, "finetune"),
        (*STOPS[2], 4, "finetune"),
        (*STOPS[0], 8, "hard_patches"),
    ],
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on(
    make, compute, job, uninterrupted, number, code, step, kind
):
    before = {each: signal.getsignal(each) for each, _ in STOPS}
    made = make(kind).at(step, lambda losses: os.kill(os.getpid(), number))
    with pytest.raises(PreemptedError, match=f"stopped at step {step + 1} and was saved") as caught:
        made.fit(compute, job)
    assert caught.value.exit_code == code
    assert PreemptedError.exit_code == 75
    assert {each: signal.getsignal(each) for each in before} == before

    made = make(kind)
    done = made.fit(compute, job)
    assert made.steps == list(range(step + 1, STEPS))
    ended(made, done, uninterrupted(kind))


def test_a_signal_in_the_last_step_changes_nothing(make, compute, job, uninterrupted):
    made = make("finetune").at(STEPS - 1, lambda losses: os.kill(os.getpid(), signal.SIGTERM))
    done = made.fit(compute, job)
    assert done.step == STEPS
    ended(made, done, uninterrupted("finetune"))


def test_a_second_signal_ends_at_once(make, compute, job):
    def twice(losses):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        make("finetune").at(5, twice).fit(compute, job)
    assert signal.getsignal(signal.SIGINT) == before
    assert checkpoints(job) == ["step_00000004"]


# --- divergence ---


def infinite_gradient(network):
    """Return a loss of 0 whose gradient is not a number."""
    return (next(each for each in network.parameters() if each.requires_grad) * 0).square().sum().sqrt()


SPOILT = {
    "nan loss": lambda losses, network: losses | {LOSS: losses[LOSS] * float("nan")},
    "inf loss": lambda losses, network: losses | {LOSS: losses[LOSS] * float("inf")},
    "gradient": lambda losses, network: losses | {LOSS: losses[LOSS] + infinite_gradient(network)},
}


@pytest.mark.parametrize("kind", SPOILT)
def test_a_step_that_is_not_finite_is_not_taken(make, compute, job, kind):
    made, seen = make("pretrain"), {}

    def spoil(losses):
        seen.update(tensors(made.network))
        return SPOILT[kind](losses, made.network)

    with pytest.raises(DivergedError, match=r"pretrain test/0 diverged at step 7 \(loss ") as caught:
        made.at(6, spoil).fit(compute, job)
    assert caught.value.exit_code == 6
    assert "lower learning_rate" in str(caught.value)
    assert same(tensors(made.network), seen)
    assert checkpoints(job) == ["step_00000004"]
    assert [record["step"] for record in records.read_log(job.state / layout.LOG)] == [3, 4, 6]
    again = make("pretrain")
    assert again.fit(compute, job).step == STEPS  # what was saved is sound


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("parts", [1, 2])
def test_what_diverged_is_written_down(make, compute, job, kind, parts):
    made = make("pretrain", grad_accumulation=parts)
    made.at(6, lambda losses: SPOILT[kind](losses, made.network))
    with pytest.raises(DivergedError) as caught:
        made.fit(compute, job)
    assert str(job.state / layout.DUMP) in str(caught.value)
    dump = json.loads((job.state / layout.DUMP).read_text())
    assert dump["step"] == 7
    assert dump["learning_rate"] == pytest.approx(trainer.optim.learning_rate(6, made.training))
    assert dump["losses"].keys() == {LOSS}
    assert kind == "gradient" or dump["losses"][LOSS] in ("nan", "inf")
    assert dump["samples"] == made.objective.feed.names(6)
    assert len(dump["samples"]) == made.training.batch_size
    first = next(name for name, each in made.network.named_parameters() if each.requires_grad)
    assert first in dump["not_finite"]
    assert kind != "gradient" or dump["not_finite"] == [first]


class LikeGpu(Compute):
    """A processor that is treated as a GPU is: what diverged is looked at only now and then."""

    @property
    def on_gpu(self):
        return True

    def autocast(self):
        return torch.autocast("cpu", enabled=False)

    def memory_mb(self):
        return 1

    def seconds(self):
        return float(next(self.ticks))

    def place(self, network):
        pass


@pytest.fixture
def like_gpu():
    compute = LikeGpu(torch.device("cpu"), torch.float32)
    object.__setattr__(compute, "ticks", iter(range(10**6)))
    return compute


@pytest.mark.parametrize("kind", SPOILT)
@pytest.mark.parametrize("bad", [0, 6])
def test_on_a_gpu_the_weights_stay_as_they_are_until_it_is_noticed(make, like_gpu, job, kind, bad):
    rare = {"steps": 50, "log_every": 50, "checkpoint_every": 50, "validate_every": 0, "held_out": 0.0}
    made, seen = make("pretrain", **rare), {}
    made.objective.validation = None
    trained = [name for name, each in made.network.named_parameters() if each.requires_grad]

    def spoil(losses):
        if not seen:
            seen.update({name: each.detach().clone() for name, each in made.network.named_parameters()})
        return SPOILT[kind](losses, made.network)

    with pytest.raises(DivergedError, match=f"diverged at step {bad + 1} "):
        made.at(bad, spoil).fit(like_gpu, job)
    assert max(made.steps) == trainer.CHECK_EVERY - 1  # it went on in vain until the next look
    weights = dict(made.network.named_parameters())
    assert all(torch.equal(weights[name], seen[name]) for name in trained)
    dump = json.loads((job.state / layout.DUMP).read_text())
    assert dump["step"] == bad + 1  # of the first bad step, not of those after it
    assert dump["samples"] == made.objective.feed.names(bad)
    assert checkpoints(job) == []


@pytest.mark.parametrize("bad", [1, 3, 5])
def test_on_a_gpu_nothing_is_saved_logged_or_judged_after_a_bad_step(make, like_gpu, job, bad):
    every = {"checkpoint_every": 4, "log_every": 3, "steps": 12}
    made = make("pretrain", **every)
    validated = []

    def measure(step):
        validated.append(step)
        return {HELD_OUT: 1.0}

    made.objective.validation = Validation(2, 2, measure)
    made.at(bad, lambda losses: SPOILT["nan loss"](losses, made.network))
    with pytest.raises(DivergedError, match=f"diverged at step {bad + 1} "):
        made.fit(like_gpu, job)
    assert all(step <= bad for step in validated)
    log = job.state / layout.LOG
    assert all(record["step"] <= bad for record in (records.read_log(log) if log.exists() else []))


def test_on_a_gpu_patience_does_not_take_weights_that_stand_still_for_the_end(make, like_gpu, job):
    made = make("pretrain", checkpoint_every=50, log_every=50, steps=50)
    made.objective.validation = Validation(2, 2, lambda step: {HELD_OUT: 1.0})
    made.at(1, lambda losses: SPOILT["nan loss"](losses, made.network))
    with pytest.raises(DivergedError, match="diverged at step 2 "):
        made.fit(like_gpu, job)
    assert checkpoints(job) == []


def test_without_a_bad_step_a_gpu_trains_as_ever(make, like_gpu, job, uninterrupted):
    made = make("pretrain")
    ended(made, made.fit(like_gpu, job), uninterrupted("pretrain"))


# --- the folder of the state ---


def test_one_job_has_one_trainer_at_a_time(job):
    other = replace(job, identity={"another": "configuration"})
    with trainer.lock(job):
        for second in (job, other):
            with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"), trainer.lock(second):
                pass
        elsewhere = replace(job, state=job.state.with_name(".finetune"))
        with trainer.lock(elsewhere):
            pass
    with trainer.lock(job):
        pass


def test_other_settings_do_not_go_on_from_this_state(make, compute, job):
    with pytest.raises(BoomError):
        make("finetune").at(6, boom).fit(compute, job)
    before = {path.name: path.read_bytes() for path in job.state.iterdir()}
    changed = {"pretrain": {"mask": "grid", "mask_ratio": 0.5}, "seed": 0}
    made = make("finetune")
    with pytest.raises(UsageError) as caught:
        made.fit(compute, replace(job, identity=changed))
    assert caught.value.exit_code == 2
    text = str(caught.value)
    for change in (
        "pretrain.mask: block -> grid",
        "pretrain.steps: 10 -> not set",
        "pretrain.mask_ratio: not set -> 0.5",
    ):
        assert change in text
    assert "seed" not in text
    assert str(job.state) in text
    assert "\n" not in text
    assert made.steps == []
    assert {path.name: path.read_bytes() for path in job.state.iterdir()} == before
    assert make("finetune").fit(compute, job).step == STEPS  # those it was begun with still may


def test_where_nothing_was_saved_other_settings_start_anew(make, compute, job):
    """As after a run that diverged at once and whose learning rate was lowered, as it was told."""
    with pytest.raises(BoomError):
        make("finetune").at(2, boom).fit(compute, job)
    assert not checkpoints(job)
    other = replace(job, identity={"another": "one"})
    assert make("finetune").fit(compute, other).step == STEPS
    assert records.read_json(job.state / layout.JOB) == {"another": "one"}


def test_parts_clipped_apart_do_not_shorten_each_others_steps(make, compute, job):
    alone = make("pretrain", max_grad_norm=0.01)
    alone.fit(compute, job)
    beside = make("pretrain", max_grad_norm=0.01)
    loud = nn.Linear(4, 4)
    network = nn.ModuleDict({"own": beside.network, "loud": loud})
    inner = beside.objective.loss

    def loss(step, part):
        losses = inner(step, part)
        own = 1000 * loud(torch.ones(1, 4)).square().mean()
        return {**losses, LOSS: losses[LOSS] + own - own.detach()}

    objective = beside.objective
    own, objective.network, objective.loss = objective.network, network, loss
    objective.validation, objective.clipped_apart = None, (loud,)
    optimizer = trainer.optim.adamw(network, beside.training)
    elsewhere = replace(job, state=job.state.with_name(".beside"))
    trainer.fit(objective, optimizer, beside.training, compute, elsewhere)
    unjudged = make("pretrain", max_grad_norm=0.01)
    unjudged.objective.validation = None
    unjudged.fit(compute, replace(job, state=job.state.with_name(".unjudged")))
    assert same(tensors(own), tensors(unjudged.network))


def test_a_key_that_is_new_and_null_is_named_too(make, compute, job):
    make("finetune").fit(compute, job)
    with pytest.raises(UsageError, match="init"):
        make("finetune").fit(compute, replace(job, identity=IDENTITY | {"init": None}))


def test_equal_settings_are_known_again_from_their_file(make, compute, job):
    identity = {"ratio": 0.1, "list": (1, 2), "text": "ü", "nothing": None, "deep": {"a": [{"b": True}]}}
    with pytest.raises(BoomError):
        make("finetune").at(6, boom).fit(compute, replace(job, identity=identity))
    made = make("finetune")
    made.fit(compute, replace(job, identity=identity))
    assert made.steps == list(range(4, STEPS))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_identity_is_no_licence_to_go_on(make, compute, job, content):
    with pytest.raises(BoomError):
        make("finetune").at(6, boom).fit(compute, job)
    (job.state / layout.JOB).write_bytes(content)
    made = make("finetune")
    with pytest.raises(IntegrityError, match=layout.JOB) as caught:
        made.fit(compute, job)
    assert caught.value.exit_code == 4
    assert made.steps == []


def test_a_kill_before_the_identity_was_written_is_a_start(make, compute, job, uninterrupted):
    job.state.mkdir(parents=True)
    (job.state / f".{layout.JOB}.tmp").write_bytes(b'{"half')
    made = make("finetune")
    ended(made, made.fit(compute, job), uninterrupted("finetune"))


def test_settings_that_are_gone_are_no_licence_to_go_on(make, compute, job):
    with pytest.raises(BoomError):
        make("finetune").at(6, boom).fit(compute, job)
    (job.state / layout.JOB).unlink()
    with pytest.raises(IntegrityError, match=r"whose settings \(job\.json\) are gone"):
        make("finetune").fit(compute, job)


def lost(path):
    """Take away what tells that a checkpoint is whole: its checksum."""
    path.rename(path.with_name(f"{path.name.partition('.')[0]}.safetensors"))


@pytest.mark.parametrize("lose", [Path.unlink, lost])
def test_lost_checkpoints_are_no_silent_start(make, compute, job, lose):
    with pytest.raises(BoomError):
        make("pretrain").at(9, boom).fit(compute, job)
    for path in checkpoint.saved(job.state):
        lose(path)
    log, made = (job.state / layout.LOG).read_bytes(), make("pretrain")
    with pytest.raises(IntegrityError, match=r"training up to step 9|Every checkpoint") as caught:
        made.fit(compute, job)
    assert caught.value.exit_code == 4
    assert made.steps == []
    assert (job.state / layout.LOG).read_bytes() == log


def test_a_kill_before_the_first_checkpoint_is_a_start(make, compute, job, uninterrupted):
    with pytest.raises(BoomError):
        make("pretrain").at(3, boom).fit(compute, job)
    assert records.read_log(job.state / layout.LOG)
    made = make("pretrain")
    ended(made, made.fit(compute, job), uninterrupted("pretrain"))


def test_the_state_of_another_version_is_told(make, compute, job):
    with pytest.raises(BoomError):
        make("finetune").at(6, boom).fit(compute, job)
    with pytest.raises(UsageError, match="saved by another version of this program; finish it with that"):
        make("pretrain").fit(compute, job)


def test_clocks_and_file_times_play_no_part(make, compute, job, uninterrupted, monkeypatch):
    """Ten years back and forth, by the clock and by the files: the newest is that of the last step."""
    years = itertools.cycle((-10, 10))
    monkeypatch.setattr(time, "time", lambda: 1.9e9 + next(years) * 3.2e8)
    with pytest.raises(BoomError):
        make("pretrain").at(9, boom).fit(compute, job)
    for age, path in enumerate(checkpoint.saved(job.state)):
        os.utime(path, times=(1.6e9 - age * 3.2e8,) * 2)
    made = make("pretrain")
    ended(made, made.fit(compute, job), uninterrupted("pretrain"))
    assert made.steps == [8, 9]


# --- a full disk ---


def test_a_full_disk_at_a_checkpoint_keeps_the_last_one(make, compute, job, uninterrupted, monkeypatch):
    write = files.atomic_write

    def fill(path, data):
        if path.name.startswith("step_00000008"):
            path.with_name(f".{path.name}.tmp").symlink_to("/dev/full")
        write(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(files, "atomic_write", fill)
        with pytest.raises(StorageError, match="disk is full") as caught:
            make("pretrain").fit(compute, job)
    assert caught.value.exit_code == 5
    made = make("pretrain")
    done = made.fit(compute, job)
    assert made.steps == [4, 5, 6, 7, 8, 9]
    ended(made, done, uninterrupted("pretrain"))


def test_a_full_disk_at_a_line_of_the_log_is_told(make, compute, job):
    def fill(losses):
        (job.state / layout.LOG).symlink_to("/dev/full")

    with pytest.raises(StorageError, match="disk is full"):
        make("finetune").at(0, fill).fit(compute, job)


def test_a_log_torn_by_a_kill_is_mended(make, compute, job, uninterrupted):
    with pytest.raises(BoomError):
        make("finetune").at(7, boom).fit(compute, job)
    log = job.state / layout.LOG
    log.write_text(log.read_text() + json.dumps({"step": 9, "loss": 1.0})[:-4])
    made = make("finetune")
    done = made.fit(compute, job)
    ended(made, done, uninterrupted("finetune"))
    assert records.read_log(log) == done.log


# --- odd validations ---


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_held_out_loss_that_is_not_finite_is_divergence_or_not_the_best(make, compute, job, value):
    made, seen = judged(make, [value, 0.3, value, 0.4, 0.5, 0.6])
    with contextlib.suppress(DivergedError):
        assert made.fit(compute, job).best_step == 4
        assert same(tensors(made.network), seen[4])


def test_best_weights_of_a_later_step_that_is_not_reached_again_alike(make, compute, job):
    """On a GPU a step taken again need not have the same bits, and what was best may no longer be."""
    made, _ = judged(make, [0.5, 0.4, 0.3, 0.6, 0.7, 0.8])
    with pytest.raises(BoomError):
        made.at(6, boom).fit(compute, job)  # best: step 6; newest checkpoint: step 4
    made, seen = judged(make, [0.5, 0.4, 0.45, 0.6, 0.7, 0.8])
    done = made.fit(compute, job)
    assert done.best_step == 4
    assert not seen.get(4)  # it was judged before the interruption


def test_an_objective_need_not_have_more_than_a_loss(compute, job, experiment):
    class Least(Objective):
        def loss(self, step, part):
            return {LOSS: self.model(torch.ones(part.stop, 2)).square().mean()}

    objective = Least(nn.Linear(2, 1), compute)
    optimizer = trainer.optim.adamw(objective.network, experiment.defaults.finetune)
    done = trainer.fit(objective, optimizer, experiment.defaults.finetune, compute, job)
    assert (done.step, done.best_step, done.held_out) == (STEPS, None, [])
    assert all(record["mfu"] == 0 for record in done.log)
    shutil.rmtree(job.state)
