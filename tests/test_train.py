import contextlib
import json
import os
import signal

import pytest
import torch

from facemae import results, train
from facemae.augment import random_view
from facemae.errors import DivergedError, IntegrityError, PreemptedError, StorageError, UsageError
from facemae.losses import full_margin, identity_loss, set_margin
from facemae.masking import make_mask
from facemae.models.embedder import build_embedder
from facemae.models.mae import build_mae, reconstruction_loss
from facemae.models.patches import to_input
from facemae.optim import adamw, ramp
from facemae.randomness import batch_ids, generator
from facemae.train import Job, fit

STEPS, LOG_EVERY, SAVE_EVERY = 10, 3, 4  # the small experiment's (conftest.py)


class BoomError(Exception):
    """What interrupts a training from within."""


@pytest.fixture
def job(tmp_path):
    return Job("pretrain test/0", 0, tmp_path / ".pretrain", "fingerprint")


def autoencoder(experiment, faces):
    run = experiment.run("random")
    torch.manual_seed(5)
    mae = build_mae(run.model, run.pretrain, 32)

    def loss_at(step):
        images = to_input(faces[batch_ids(len(faces), 4, step, 0)])
        mask = make_mask("block", 0.75, 4, 4, generator(0, "mask", step))
        return reconstruction_loss(mae(images, mask), images, mask, normalise=True)

    return mae, adamw(mae, run.pretrain), loss_at, run.pretrain


def recogniser(experiment, faces):
    """Batch norm, dropped paths, layer decay and a ramped margin: all that has a state of its own."""
    run = experiment.run("random")
    torch.manual_seed(5)
    embedder = build_embedder(run.model, 32, drop_path=0.5)
    network = torch.nn.ModuleDict({"embedder": embedder, "loss": identity_loss(run.finetune, 8, 8)})

    def loss_at(step):
        ids = batch_ids(len(faces), 4, step, 0)
        images = random_view(to_input(faces[ids]), run.finetune, generator(0, "view", step))
        set_margin(network["loss"], full_margin(run.finetune) * ramp(step, STEPS, 0.5))
        return network["loss"](network["embedder"](images), ids // 2)

    return (
        network,
        adamw(network, run.finetune, encoder=embedder.encoder, layer_decay=0.75),
        loss_at,
        run.finetune,
    )


NETWORKS = pytest.mark.parametrize("made", [autoencoder, recogniser])


@pytest.fixture
def faces(orl_images):
    return torch.from_numpy(orl_images)


def tensors(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def told(log):
    """Return what of a log does not depend on the clock."""
    return [{key: record[key] for key in ("step", "loss", "learning_rate")} for record in log]


def stopped_at(loss_at, step, action):
    """Return the loss function with something happening in the middle of a step."""

    def wrapped(number):
        loss = loss_at(number)
        return (action() or loss) if number == step else loss

    return wrapped


def boom():
    raise BoomError


@pytest.fixture(scope="module")
def uninterrupted(experiment, compute, orl_images, tmp_path_factory):
    """The end of each training that nothing disturbed, made once."""

    def run(made):
        network, optimizer, loss_at, training = made(experiment, torch.from_numpy(orl_images))
        folder = tmp_path_factory.mktemp("whole") / ".state"
        done = fit(network, optimizer, loss_at, training, compute, Job("whole", 0, folder, "fingerprint"))
        return tensors(network), told(done.log)

    return {made: run(made) for made in (autoencoder, recogniser)}


# --- an undisturbed training ---


@NETWORKS
def test_a_training_learns_logs_and_leaves_its_state(experiment, compute, faces, job, made):
    network, optimizer, loss_at, training = made(experiment, faces)
    before = tensors(network)
    losses = []

    def recorded(step):
        loss = loss_at(step)
        losses.append(float(loss.detach()))
        return loss

    done = fit(network, optimizer, recorded, training, compute, job)
    assert (done.step, len(losses)) == (STEPS, STEPS)
    assert not same(tensors(network), before)
    assert [record["step"] for record in done.log] == [3, 6, 9, 10]
    expected = [sum(losses[a:b]) / (b - a) for a, b in ((0, 3), (3, 6), (6, 9), (9, 10))]
    assert [record["loss"] for record in done.log] == pytest.approx(expected)
    assert results.read_log(job.folder / results.LOG) == done.log
    assert sorted(path.stem for path in job.folder.glob("*.json")) == ["step_00000008", "step_00000010"]
    assert done.seconds == done.log[-1]["seconds"] or done.seconds > 0


def test_two_trainings_are_the_same_to_the_bit_whatever_the_global_randomness(
    experiment, compute, faces, job, uninterrupted
):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    torch.manual_seed(12345)
    done = fit(network, optimizer, loss_at, training, compute, job)
    weights, log = uninterrupted[recogniser]
    assert same(tensors(network), weights)
    assert told(done.log) == log


# --- interruptions ---


@pytest.mark.parametrize(
    ("made", "step"),
    [(recogniser, step) for step in range(STEPS)] + [(autoencoder, step) for step in (3, 5, 8)],
)
def test_interrupted_at_any_step_it_ends_the_same(experiment, compute, faces, job, uninterrupted, made, step):
    network, optimizer, loss_at, training = made(experiment, faces)
    with pytest.raises(BoomError):
        fit(network, optimizer, stopped_at(loss_at, step, boom), training, compute, job)
    network, optimizer, loss_at, training = made(experiment, faces)
    steps = []
    done = fit(network, optimizer, lambda n: steps.append(n) or loss_at(n), training, compute, job)
    weights, log = uninterrupted[made]
    assert steps == list(range(step // SAVE_EVERY * SAVE_EVERY, STEPS))  # from the checkpoint, no step twice
    assert same(tensors(network), weights)
    assert told(done.log) == log
    assert told(results.read_log(job.folder / results.LOG)) == log


def test_interrupted_again_and_again_it_ends_the_same(experiment, compute, faces, job, uninterrupted):
    for step in (5, 4, 9, 6, 8, 9):
        network, optimizer, loss_at, training = recogniser(experiment, faces)
        with contextlib.suppress(BoomError):
            fit(network, optimizer, stopped_at(loss_at, step, boom), training, compute, job)
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    done = fit(network, optimizer, loss_at, training, compute, job)
    assert same(tensors(network), uninterrupted[recogniser][0])
    assert told(done.log) == uninterrupted[recogniser][1]


def test_a_damaged_checkpoint_costs_its_steps_and_nothing_else(
    experiment, compute, faces, job, uninterrupted
):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    fit(network, optimizer, loss_at, training, compute, job)
    with open(job.folder / "step_00000010.safetensors", "r+b") as file:
        file.truncate(50)
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    steps = []
    done = fit(network, optimizer, lambda n: steps.append(n) or loss_at(n), training, compute, job)
    assert steps == [8, 9]
    assert same(tensors(network), uninterrupted[recogniser][0])
    assert told(done.log) == uninterrupted[recogniser][1]


def test_a_finished_training_is_not_repeated(experiment, compute, faces, job, uninterrupted):
    for _ in range(2):
        network, optimizer, loss_at, training = recogniser(experiment, faces)
        done = fit(network, optimizer, loss_at, training, compute, job)
        loss_at = boom
    assert same(tensors(network), uninterrupted[recogniser][0])
    assert told(done.log) == uninterrupted[recogniser][1]


def test_another_fingerprint_starts_afresh(experiment, compute, faces, job):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    fit(network, optimizer, loss_at, training, compute, job)
    steps = []
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    other = Job(job.label, job.seed, job.state, "another")
    fit(network, optimizer, lambda n: steps.append(n) or loss_at(n), training, compute, other)
    assert steps == list(range(STEPS))


def test_when_every_checkpoint_is_damaged_nothing_is_trained(experiment, compute, faces, job):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    fit(network, optimizer, loss_at, training, compute, job)
    for path in job.folder.glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(IntegrityError):
        fit(network, optimizer, boom, training, compute, job)


def test_a_checkpoint_before_the_first_line_of_the_log(experiment, compute, faces, job):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    training = training.model_copy(update={"log_every": 8})
    with pytest.raises(BoomError):
        fit(network, optimizer, stopped_at(loss_at, 6, boom), training, compute, job)
    network, optimizer, loss_at, _ = recogniser(experiment, faces)
    done = fit(network, optimizer, loss_at, training, compute, job)
    assert [record["step"] for record in done.log] == [8, 10]


# --- signals ---

STOPS = [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]


@pytest.mark.parametrize(
    ("number", "code", "step"), [(*STOPS[0], 0), (*STOPS[1], 1), (*STOPS[2], 4), (*STOPS[0], 8)]
)
def test_a_signal_stops_after_the_step_and_the_run_goes_on(
    experiment, compute, faces, job, uninterrupted, number, code, step
):
    before = {each: signal.getsignal(each) for each, _ in STOPS}
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    loss_at = stopped_at(loss_at, step, lambda: os.kill(os.getpid(), number))
    with pytest.raises(PreemptedError, match=f"stopped at step {step + 1} and was saved") as caught:
        fit(network, optimizer, loss_at, training, compute, job)
    assert caught.value.exit_code == code
    assert PreemptedError.exit_code == 75
    assert {each: signal.getsignal(each) for each in before} == before

    network, optimizer, loss_at, training = recogniser(experiment, faces)
    steps = []
    done = fit(network, optimizer, lambda n: steps.append(n) or loss_at(n), training, compute, job)
    assert steps == list(range(step + 1, STEPS))
    assert same(tensors(network), uninterrupted[recogniser][0])
    assert told(done.log) == uninterrupted[recogniser][1]


def test_a_signal_in_the_last_step_changes_nothing(experiment, compute, faces, job, uninterrupted):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    loss_at = stopped_at(loss_at, STEPS - 1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    done = fit(network, optimizer, loss_at, training, compute, job)
    assert done.step == STEPS
    assert same(tensors(network), uninterrupted[recogniser][0])


def test_a_second_signal_ends_at_once(experiment, compute, faces, job):
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    with pytest.raises(KeyboardInterrupt):
        fit(network, optimizer, stopped_at(loss_at, 5, twice), training, compute, job)
    assert signal.getsignal(signal.SIGINT) == before
    assert sorted(path.stem for path in job.folder.glob("*.json")) == ["step_00000004"]


# --- divergence ---


def infinite_gradient(network):
    """Return a loss of 0 whose gradient is not a number."""
    return (next(network.parameters()) * 0).square().sum().sqrt()


@pytest.mark.parametrize("kind", ["nan loss", "inf loss", "gradient"])
def test_a_step_that_is_not_finite_is_not_taken(experiment, compute, faces, job, kind):
    network, optimizer, loss_at, training = autoencoder(experiment, faces)
    seen = {}

    def diverging(step):
        if step != 6:
            return loss_at(step)
        seen.update(tensors(network))
        factor = {"nan loss": float("nan"), "inf loss": float("inf"), "gradient": 1.0}[kind]
        return loss_at(step) * factor + (infinite_gradient(network) if kind == "gradient" else 0)

    with pytest.raises(DivergedError, match=r"pretrain test/0 diverged at step 7 \(loss ") as caught:
        fit(network, optimizer, diverging, training, compute, job)
    assert caught.value.exit_code == 6
    assert "lower learning_rate" in str(caught.value)
    assert same(tensors(network), seen)
    assert sorted(path.stem for path in job.folder.glob("*.json")) == ["step_00000004"]
    assert [record["step"] for record in results.read_log(job.folder / results.LOG)] == [3, 6]
    network, optimizer, loss_at, training = autoencoder(experiment, faces)
    assert fit(network, optimizer, loss_at, training, compute, job).step == STEPS  # what was saved is sound


def test_the_gradient_is_clipped(experiment, compute, faces, job):
    network, _, loss_at, training = autoencoder(experiment, faces)
    optimizer = torch.optim.SGD([{"params": list(network.parameters()), "lr_scale": 1.0}], lr=1.0)
    training = training.model_copy(
        update={"steps": 1, "clip_norm": 0.5, "learning_rate": 1.0, "warmup_share": 0.0}
    )
    before = tensors(network)
    fit(network, optimizer, lambda step: 1000 * loss_at(step), training, compute, job)
    moved = sum(float((before[name] - value).square().sum()) for name, value in network.state_dict().items())
    assert moved**0.5 == pytest.approx(0.5, rel=1e-3)


# --- the folder of the state ---


def test_one_job_has_one_trainer_at_a_time(job):
    other = Job("pretrain test/0", 0, job.state, "of another configuration")
    with train.lock(job):
        for second in (job, other):
            with pytest.raises(UsageError, match=f"in use by process {os.getpid()}"), train.lock(second):
                pass
        elsewhere = Job("finetune test/0", 0, job.state.with_name(".finetune"), "fingerprint")
        with train.lock(elsewhere):
            pass
    with train.lock(job):
        pass


def test_a_full_disk_at_a_checkpoint_keeps_the_last_one(experiment, compute, faces, job):
    network, optimizer, loss_at, training = autoencoder(experiment, faces)

    def fill():
        (job.folder / ".step_00000008.safetensors.tmp").symlink_to("/dev/full")

    with pytest.raises(StorageError, match="disk is full"):
        fit(network, optimizer, stopped_at(loss_at, 6, fill), training, compute, job)
    network, optimizer, loss_at, training = autoencoder(experiment, faces)
    steps = []
    fit(network, optimizer, lambda n: steps.append(n) or loss_at(n), training, compute, job)
    assert steps == [4, 5, 6, 7, 8, 9]


def test_a_full_disk_at_a_line_of_the_log_is_told(experiment, compute, faces, job):
    network, optimizer, loss_at, training = autoencoder(experiment, faces)

    def fill():
        job.folder.mkdir(parents=True, exist_ok=True)
        (job.folder / results.LOG).symlink_to("/dev/full")

    with pytest.raises(StorageError, match="disk is full"):
        fit(network, optimizer, stopped_at(loss_at, 0, fill), training, compute, job)


def test_a_log_torn_by_a_kill_is_mended(experiment, compute, faces, job, uninterrupted):
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    with pytest.raises(BoomError):
        fit(network, optimizer, stopped_at(loss_at, 7, boom), training, compute, job)
    log = job.folder / results.LOG
    log.write_text(log.read_text() + json.dumps({"step": 9, "loss": 1.0})[:-4])
    network, optimizer, loss_at, training = recogniser(experiment, faces)
    done = fit(network, optimizer, loss_at, training, compute, job)
    assert told(done.log) == uninterrupted[recogniser][1]
    assert results.read_log(log) == done.log
