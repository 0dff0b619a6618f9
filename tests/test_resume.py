"""Stages killed with SIGKILL at random moments end with the same bits as those left alone."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from stages import make_folder

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import DataFolder
from facemae.stages.task import Task
from facemae.training.objectives.contrastive import METHODS

ROOT = Path(__file__).parent.parent
SIZE = 32
TRAINING = {"steps": 100, "batch_size": 8, "log_every": 7, "checkpoint_every": 5, "ema": 0.9}
MASKS = ("random", "attention_high", "hard_patches", "loss_ema")
DIFFERENCE = {
    "device": "cpu",
    "data": {"image_size": SIZE},
    "defaults": {
        "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "embedding": 8},
        "pretrain": {
            "decoder_width": 16, "decoder_heads": 2, "teacher_decay": 0.9, "crop_min": 0.5,
            "held_out": 0.25, "validate_every": 24, "patience": 5, **TRAINING,
        },
        "finetune": TRAINING,
    },
    "runs": {mask: {"pretrain": {"mask": mask}} for mask in MASKS}
    | {method: {"pretrain": {"method": method}} for method in METHODS},
}  # fmt: skip

# Children fork from a server that has imported PyTorch already, so that most kills hit training.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(
    ["facemae.stages.pretrain", "facemae.stages.finetune", "lightly.loss", "lightly.models"]
)


@pytest.fixture(scope="module")
def experiment() -> config.Experiment:
    return config.parse(config.merge(config.content_of([ROOT / "config.yaml"]), DIFFERENCE))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DataFolder:
    """Make a store of random faces: 4 people to train on, 4 to evaluate."""
    return make_folder(tmp_path_factory.mktemp("store"), SIZE)


def run_pretrain(task: Task) -> None:
    from facemae.stages.pretrain import pretrain

    pretrain(task)


def run_finetune(task: Task) -> None:
    from facemae.stages.finetune import finetune

    finetune(task, None)


STAGES = {"pretrain": run_pretrain, "finetune": run_finetune}


def nothing(task: Task) -> None:
    """Do nothing, in a process of its own."""


def attempt(stage: Callable[[Task], None], task: Task, kill_after: float | None) -> bool:
    """Run a stage in a process of its own; kill it after some seconds. Return whether the kill hit."""
    process = forked.Process(target=stage, args=(task,))
    process.start()
    process.join(kill_after)
    hit = process.is_alive()
    if hit:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    else:
        assert process.exitcode == 0
    return hit


def outcome(out: Path) -> dict[str, str]:
    """Return a hash per weight file, and one of the log without its timings."""
    hashes = {path.name: files.sha256(path.read_bytes()) for path in sorted(out.glob("*.safetensors"))}
    timed = ("seconds", "images_per_second", "mfu", "memory_mb")
    log = [
        {key: value for key, value in record.items() if key not in timed}
        for record in records.read_log(out / layout.LOG)
    ]
    return hashes | {"log": files.sha256(json.dumps(log).encode())}


def check_kills(task: Task, workers: tuple[int, ...], kills: int, seed: int) -> None:
    """Run the stage whole, then in pieces by one of `workers` after the other, and compare."""
    stage = STAGES[task.out.name]
    assert not attempt(nothing, task, None)  # so that the server's imports are not part of the time below
    whole_task = replace(task, out=task.out.parent / "whole" / task.out.name)
    started = time.monotonic()
    assert not attempt(stage, whole_task, None)
    whole = time.monotonic() - started
    reference = outcome(whole_task.out)
    draw = random.Random(seed)
    for count in workers:
        killed, hits = replace(task, workers=count), 0
        while attempt(stage, killed, draw.uniform(0.1, 0.5) * whole if hits < kills else None):
            hits += 1
        if hits < kills:  # it came to its end before the last kill: that counts, and so do the kills to come
            assert outcome(killed.out) == reference
            shutil.rmtree(killed.out)
            while attempt(stage, killed, draw.uniform(0.1, 0.5) * whole if hits < kills else None):
                hits += 1
        assert outcome(killed.out) == reference
        assert not killed.out.with_name(f".{killed.out.name}").exists(), "checkpoints outlived the result"
        shutil.rmtree(killed.out)


@pytest.mark.timeout(280)
@pytest.mark.parametrize(
    ("name", "run", "workers"),
    [("pretrain", "hard_patches", 2), ("pretrain", "dino", 0), ("finetune", "random", 2)],
)
def test_killed_training_ends_with_the_same_bits(name, run, workers, experiment, store, tmp_path):
    task = Task(experiment, run, 0, store, tmp_path / name)
    check_kills(task, workers=(workers,), kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("name", "run"),
    [("finetune", "random")] + [("pretrain", run) for run in (*MASKS, *METHODS)],
)
def test_training_killed_many_times_ends_with_the_same_bits(name, run, experiment, store, tmp_path):
    task = Task(experiment, run, 1, store, tmp_path / name)
    check_kills(task, workers=(0, 2), kills=25, seed=1)


def test_a_killed_run_goes_on_rather_than_starting_over(experiment, store, tmp_path, capsys):
    task = Task(experiment, "random", 0, store, tmp_path / "pretrain")
    process = forked.Process(target=run_pretrain, args=(task,))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".pretrain/step_*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    run_pretrain(task)
    assert "resumed at step" in capsys.readouterr().err


def test_another_configuration_does_not_resume_this_ones_state(experiment, store, tmp_path):
    task = Task(experiment, "random", 0, store, tmp_path / "pretrain")
    other = config.parse(
        config.merge(experiment.model_dump(), {"runs": {"random": {"pretrain": {"mask_ratio": 0.5}}}})
    )
    attempt(run_pretrain, task, 0.0)
    state = tmp_path / ".pretrain"
    files.write_json(state / "step_00000005.0.safetensors", {})  # something to lose: its checkpoint
    files.write_json(state / "job.json", task.job(task.settings("model", "pretrain")).identity)
    with pytest.raises(UsageError, match=r"pretrain\.mask_ratio: 0\.75 -> 0\.5\)"):
        run_pretrain(replace(task, experiment=other))
    # What does not shape the result may change: where it goes, other runs, another strategy's settings.
    same = {"results": "elsewhere", "runs": {"random": {"pretrain": {"masks": {"block": {"rounds": 3}}}}}}
    same = config.parse(config.merge(experiment.model_dump(), same))
    assert replace(task, experiment=same).settings("model", "pretrain") == task.settings("model", "pretrain")


def command(stage: str, store: DataFolder, out: Path, overlay: Path) -> list[str]:
    options = [
        "--config",
        str(ROOT / "config.yaml"),
        "--config",
        str(overlay),
        "--run",
        "random",
        "--seed",
        "0",
    ]
    return ["-m", "facemae", stage, *options, "--data", str(store.root), "--out", str(out)]


def test_the_command_line_is_preempted_with_75_and_goes_on(experiment, store, tmp_path):
    """SIGTERM to the real command: the state is saved at the next step, and whoever goes on ends the same."""
    overlay = tmp_path / "small.yaml"
    overlay.write_text(yaml.safe_dump(DIFFERENCE))
    task = Task(experiment, "random", 0, store, tmp_path / "pretrain")
    process = subprocess.Popen(
        [sys.executable, *command("pretrain", store, task.out, overlay), "--workers", "2"],
        stderr=subprocess.PIPE,
        text=True,
    )
    log = tmp_path / ".pretrain" / layout.LOG
    deadline = time.monotonic() + 120
    while not log.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    last = errors.strip().splitlines()[-1]
    assert "was saved; run the same command to go on" in last
    stopped = int(last.split("stopped at step ")[1].split()[0])
    assert list((tmp_path / ".pretrain").glob(f"step_{stopped:08}.*"))
    assert not attempt(run_pretrain, task, None)
    undisturbed = replace(task, out=tmp_path / "whole" / "pretrain")
    assert not attempt(run_pretrain, undisturbed, None)
    assert outcome(task.out) == outcome(undisturbed.out)


def test_two_trainers_of_one_run(experiment, store, tmp_path):
    task = Task(experiment, "random", 0, store, tmp_path / "finetune")
    process = forked.Process(target=run_finetune, args=(task,))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".finetune/step_*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGSTOP)  # so that it cannot end before the second one comes
    try:
        started = time.process_time()
        with pytest.raises(UsageError, match=f"in use by process {process.pid}") as caught:
            run_finetune(task)
        assert time.process_time() - started < 2
        assert caught.value.exit_code == 2
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    run_finetune(task)  # the lock died with its process
    assert (task.out / layout.EMBEDDER).exists()
