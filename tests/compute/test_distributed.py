import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from stages import make_folder
from trainings import assert_close

from facemae import config
from facemae.compute.distributed import ALONE, World, local_rank, world
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.stages.task import Task

ROOT = Path(__file__).parents[2]
SIZE = 32
DIFFERENCE = {
    "device": "cpu",
    "precision": "float32",
    "data": {"image_size": SIZE},
    "defaults": {
        "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "embedding": 8, "class_token": True},
        "pretrain": {
            "decoder_width": 16, "decoder_heads": 2, "steps": 12, "batch_size": 8, "log_every": 5,
            "checkpoint_every": 4, "held_out": 0.25, "validate_every": 6, "ema": 0.5, "crop_min": 0.5,
        },
        "finetune": {"steps": 4, "batch_size": 8, "log_every": 5, "checkpoint_every": 4},
    },
    "runs": {"random": {}, "loss_ema": {"pretrain": {"mask": "loss_ema", "teacher_decay": 0.5}},
             "parts": {"pretrain": {"grad_accumulation": 2}}, "odd": {"pretrain": {"batch_size": 9}},
             "slow": {"pretrain": {"steps": 100}}},
}  # fmt: skip

forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["facemae.stages.pretrain", "facemae.stages.finetune"])


@pytest.fixture(scope="module")
def experiment():
    return config.parse(config.merge(config.content_of([ROOT / "config.yaml"]), DIFFERENCE))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("store"), SIZE)


def member(rank, size, port, stage, task, sink):
    """Be one of the processes that torchrun starts."""
    sys.stderr = open(sink, "w")  # noqa: SIM115 - until the process ends
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "TORCHELASTIC_RUN_ID": "test"}
    place |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    import torch

    from facemae.core.errors import FaceMAEError
    from facemae.stages.finetune import finetune
    from facemae.stages.pretrain import pretrain

    torch.set_num_threads(1)
    try:
        pretrain(task) if stage == "pretrain" else finetune(task, None)
    except FaceMAEError as error:
        print(error, file=sys.stderr, flush=True)
        os._exit(error.exit_code)


def together(task, stage="pretrain", size=2):
    """Start the processes; return them and the files that they write their errors to."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    task.out.parent.mkdir(parents=True, exist_ok=True)
    sinks = [task.out.parent / f"errors.{rank}" for rank in range(size)]
    group = [
        forked.Process(target=member, args=(rank, size, port, stage, task, sinks[rank]))
        for rank in range(size)
    ]
    for process in group:
        process.start()
    return group, sinks


def finish(group):
    for process in group:
        process.join(120)
    return [process.exitcode for process in group]


def alone(task):
    process = forked.Process(target=member, args=(0, 1, 0, "pretrain", task, task.out.parent / "errors"))
    task.out.parent.mkdir(parents=True, exist_ok=True)
    process.start()
    process.join(120)
    assert process.exitcode == 0


def weights(out):
    return {name: safetensors.torch.load_file(out / name) for name in (layout.ENCODER, layout.DECODER)}


def check_equal(out, other):
    """Check the weights of two runs, and the logs, up to the rounding of a sum."""
    for name, expected in weights(other).items():
        # 12 steps of 0.005 at most: a share of that where the gradient is little more than rounding.
        assert_close(weights(out)[name], expected, atol=1e-3)
    logs = [records.read_log(each / layout.LOG) for each in (out, other)]
    assert [record["step"] for record in logs[0]] == [record["step"] for record in logs[1]] == [5, 6, 10, 12]
    for found, expected in zip(*logs, strict=True):
        assert found.keys() == expected.keys()
        assert found["loss"] == pytest.approx(expected["loss"], rel=1e-4)
        assert found.get("held_out_loss", 0) == pytest.approx(expected.get("held_out_loss", 0), rel=1e-3)
    assert {path.name for path in out.iterdir()} == {path.name for path in other.iterdir()}


# --- without other processes ---


def test_a_process_by_itself_has_every_part():
    assert ALONE.is_first
    assert ALONE.parts(8, 1) == [slice(0, 8)]
    assert ALONE.parts(8, 4) == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    value = torch.ones(3)
    ALONE.average([value])
    ALONE.wait()
    assert torch.equal(value, torch.ones(3))
    assert ALONE.any(True, torch.device("cpu")) is True
    assert ALONE.any(False, torch.device("cpu")) is False


@pytest.mark.parametrize(("size", "accumulate"), [(2, 1), (2, 3), (3, 2), (4, 1)])
def test_the_parts_of_all_processes_are_the_batch(size, accumulate):
    parts = [World(rank, size).parts(24, accumulate) for rank in range(size)]
    assert {len(each) for each in parts} == {accumulate}
    places = [place for each in parts for part in each for place in range(24)[part]]
    assert places == list(range(24))
    assert [World(rank, size).is_first for rank in range(size)] == [True] + [False] * (size - 1)


def test_a_batch_that_does_not_divide_is_told_in_a_sentence():
    with pytest.raises(UsageError) as caught:
        World(0, 4).parts(30, 2)
    assert str(caught.value) == (
        "batch_size 30 does not divide into 4 processes times 2 parts; choose a multiple of 8."
    )


@pytest.mark.parametrize(
    "environment", [{}, {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "1"}, {"WORLD_SIZE": "4"}]
)
def test_only_torchrun_makes_a_world(monkeypatch, environment):
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with world(torch.device("cpu")) as found:
        assert found == ALONE
    assert not torch.distributed.is_initialized()
    assert local_rank() == 0
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_rank() == 3


# --- two processes ---


@pytest.mark.timeout(200)
@pytest.mark.parametrize("run", ["random", "loss_ema"])
def test_two_processes_end_as_one_does(experiment, store, tmp_path, run):
    one = Task(experiment, run, 0, store, tmp_path / "one" / "pretrain")
    two = Task(experiment, run, 0, store, tmp_path / "two" / "pretrain")
    alone(one)
    group, sinks = together(two)
    assert finish(group) == [0, 0], [sink.read_text() for sink in sinks]
    check_equal(two.out, one.out)
    assert not (tmp_path / "two" / ".pretrain").exists()
    first, second = (sink.read_text() for sink in sinks)
    assert "12/12 steps" in first
    assert second == ""  # one of them reports


@pytest.mark.timeout(200)
def test_parts_and_processes_together(experiment, store, tmp_path):
    one = Task(experiment, "random", 0, store, tmp_path / "one" / "pretrain")
    two = Task(experiment, "parts", 0, store, tmp_path / "two" / "pretrain")
    alone(one)
    group, _ = together(two)
    assert finish(group) == [0, 0]
    check_equal(two.out, one.out)


def wait_for_checkpoint(state, group):
    deadline = time.monotonic() + 90
    while not list(state.glob("step_*")) and time.monotonic() < deadline:
        assert all(each.is_alive() for each in group)
        time.sleep(0.005)


@pytest.mark.timeout(200)
@pytest.mark.parametrize("victims", [(0, 1), (1,)])
def test_killed_processes_go_on_together_or_alone(experiment, store, tmp_path, victims):
    task = Task(experiment, "slow", 0, store, tmp_path / "pretrain")
    group, _ = together(task)
    wait_for_checkpoint(tmp_path / ".pretrain", group)
    for victim in victims:
        os.kill(group[victim].pid, signal.SIGKILL)
    if len(victims) == 1:  # whoever is left notices, and does not go on with half a batch
        assert finish(group)[0] != 0
    finish(group)
    short = experiment.model_copy(update={"runs": {"slow": {"pretrain": {"steps": 100}}}})
    again, sinks = together(Task(short, "slow", 0, store, task.out))
    assert finish(again) == [0, 0]
    assert "resumed at step" in sinks[0].read_text()
    steps = [record["step"] for record in records.read_log(task.out / layout.LOG)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 100


@pytest.mark.timeout(200)
def test_a_signal_to_one_process_stops_them_all(experiment, store, tmp_path):
    task = Task(experiment, "slow", 0, store, tmp_path / "pretrain")
    group, sinks = together(task)
    wait_for_checkpoint(tmp_path / ".pretrain", group)
    os.kill(group[1].pid, signal.SIGTERM)
    assert finish(group) == [75, 75], [sink.read_text() for sink in sinks]
    said = sinks[0].read_text().strip().splitlines()[-1]
    stopped = int(said.split("stopped at step ")[1].split()[0])
    assert list((tmp_path / ".pretrain").glob(f"step_{stopped:08}.*"))


@pytest.mark.parametrize(
    ("run", "stage", "text"),
    [
        (
            "odd",
            "pretrain",
            "batch_size 9 does not divide into 2 processes times 1 parts; choose a multiple of 2.",
        ),
        ("random", "finetune", "run it in one process"),
    ],
)
def test_what_several_processes_cannot_do_is_told(experiment, store, tmp_path, run, stage, text):
    group, sinks = together(Task(experiment, run, 0, store, tmp_path / stage), stage)
    assert finish(group) == [2, 2]
    assert text in sinks[0].read_text()


# --- torchrun itself ---


def torchrun(store, out, overlay, run):
    options = [
        "--config",
        ROOT / "config.yaml",
        "--config",
        overlay,
        "--name",
        run,
        "--seed",
        "0",
        "--data",
        store.root,
    ]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*launcher, "-m", "facemae", "pretrain", *options, "--out", out]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        list(map(str, command)), stderr=subprocess.PIPE, text=True, env=environment, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_torchrun_ends_as_one_process_does_after_a_kill_too(experiment, store, tmp_path):
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(json.loads(json.dumps(DIFFERENCE))))
    one = Task(experiment, "random", 0, store, tmp_path / "one" / "pretrain")
    alone(one)
    process = torchrun(store, tmp_path / "two" / "pretrain", overlay, "random")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    check_equal(tmp_path / "two" / "pretrain", one.out)

    killed = tmp_path / "killed" / "pretrain"
    process = torchrun(store, killed, overlay, "slow")
    deadline = time.monotonic() + 120
    while not list(killed.with_name(".pretrain").glob("step_*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    # torchrun gives each of its processes a session of its own: they outlive it unless killed too.
    members = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert len(members) >= 2
    for victim in (process.pid, *map(int, members)):
        os.kill(victim, signal.SIGKILL)
    process.communicate()
    process = torchrun(store, killed, overlay, "slow")
    _, errors = process.communicate(timeout=200)
    assert process.returncode == 0, errors
    assert "resumed at step" in errors
    assert records.read_log(killed / layout.LOG)[-1]["step"] == 100
