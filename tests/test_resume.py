"""Training killed with SIGKILL at random moments ends with the same bits as training left alone."""

import json
import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from store_folder import make_store

from facemae import config, files, results
from facemae.results import DataFolder
from facemae.task import Task

ROOT = Path(__file__).parent.parent
KILLS = 10
SIZE = 32

# Children fork from a server that has imported PyTorch already, so that most kills hit training.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload(["facemae.pretrain", "facemae.finetune"])


@pytest.fixture(scope="module")
def experiment() -> config.Experiment:
    content = config.load([ROOT / "config.yaml"]).model_dump()
    training = {"steps": 240, "batch_size": 8, "log_every": 7, "checkpoint_every": 5}
    difference = {
        "device": "cpu",
        "data": {"image_size": SIZE},
        "defaults": {
            "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "embedding": 8},
            "pretrain": {"decoder_width": 16, "decoder_heads": 2, **training},
            "finetune": training,
        },
    }
    return config.parse(config.merge(content, difference))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> DataFolder:
    """Make a store of random faces: 4 people to train on, 4 to evaluate."""
    draw = np.random.default_rng(0)
    names = [f"p{person}/{shot}" for person in range(8) for shot in range(4)]
    people = [name.partition("/")[0] for name in names]
    images = draw.integers(0, 256, (len(names), SIZE, SIZE, 3), dtype=np.uint8)
    folder = make_store(tmp_path_factory.mktemp("store"), images, names, people)
    roles = [results.ROLE_TRAIN if int(person[1]) < 4 else results.ROLE_EVALUATION for person in people]
    table = pd.DataFrame({"sample_id": names, "person": people, "role": roles, "sha256": names})
    table = table.assign(fold=[int(person[1]) % 2 for person in people], enrolled=True)
    results.write_table(folder.split, table, results.SPLIT_COLUMNS)
    return folder


def run_pretrain(task: Task) -> None:
    from facemae.pretrain import pretrain

    pretrain(task)


def run_finetune(task: Task) -> None:
    from facemae.finetune import finetune

    finetune(task, None)


def nothing(task: Task) -> None:
    """Do nothing, in a process of its own."""


def a_task(experiment: config.Experiment, store: DataFolder, out: Path) -> Task:
    return Task(experiment, "random", 0, store, out)


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
    log = [(record["step"], record["loss"]) for record in results.read_log(out / results.LOG)]
    return hashes | {"log": files.sha256(json.dumps(log).encode())}


@pytest.mark.timeout(240)
@pytest.mark.parametrize(("stage", "name"), [(run_pretrain, "pretrain"), (run_finetune, "finetune")])
def test_killed_training_ends_with_the_same_bits(stage, name, experiment, store, tmp_path):
    assert not attempt(nothing, None, None)  # so that the server's imports are not part of the time below
    undisturbed = a_task(experiment, store, tmp_path / "undisturbed" / name)
    started = time.monotonic()
    assert not attempt(stage, undisturbed, None)
    whole = time.monotonic() - started
    reference = outcome(undisturbed.out)

    killed = a_task(experiment, store, tmp_path / "killed" / name)
    draw = random.Random(0)
    kills, finished = 0, 0
    while kills < KILLS or not finished:
        last_chance = kills >= KILLS
        if attempt(stage, killed, None if last_chance else draw.uniform(0.1, 0.5) * whole):
            kills += 1
            continue
        finished += 1
        assert outcome(killed.out) == reference
        assert not killed.out.with_name(f".{name}").exists(), "the checkpoints outlived the result"
        if kills < KILLS:
            shutil.rmtree(killed.out)
    assert kills >= KILLS


def test_a_killed_run_goes_on_rather_than_starting_over(experiment, store, tmp_path, capsys):
    task = a_task(experiment, store, tmp_path / "pretrain")
    process = forked.Process(target=run_pretrain, args=(task,))
    process.start()
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".pretrain/*/step_*.json")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    run_pretrain(task)
    assert "resumed at step" in capsys.readouterr().err


def test_another_configuration_does_not_resume_this_ones_state(experiment, store, tmp_path):
    task = a_task(experiment, store, tmp_path / "pretrain")
    from facemae import device

    compute = device.choose("cpu", "float32", 1)
    other = config.parse(
        config.merge(experiment.model_dump(), {"runs": {"random": {"pretrain": {"mask_ratio": 0.5}}}})
    )
    first = task.job(task.settings("model", "pretrain"), compute)
    changed = a_task(other, store, task.out)
    second = changed.job(changed.settings("model", "pretrain"), compute)
    assert first.folder != second.folder
    assert first.folder == task.job(task.settings("model", "pretrain"), compute).folder
