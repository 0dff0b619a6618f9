"""Trainings in progress: told from the files that a training really keeps, in every state it can be in."""

import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from results_folder import make_experiment

from facemae import config
from facemae.core import files, layout
from facemae.core.layout import Results
from facemae.report import live
from facemae.training import checkpoint

STEPS, BATCH, EVERY = 40, 16, 10
NOW = 1_000_000.0
SETTINGS = {"steps": STEPS, "batch_size": BATCH, "log_every": EVERY}


@pytest.fixture
def setup(tmp_path: Path) -> config.Experiment:
    return make_experiment(tmp_path)


def begin(
    root: Path,
    step: int,
    *,
    folder: str = "random/0/.pretrain",
    saved: int = 0,
    ago: float = 0.0,
    **more: Any,
) -> Path:
    """Write what a training has written after `step` steps, `ago` seconds before NOW."""
    state = root / folder
    stage = "pretrain" if "pretrain" in folder else "finetune"
    files.write_json(state / layout.JOB, {"model": {}, stage: SETTINGS})
    for at in range(EVERY, step + 1, EVERY):
        line = {"step": at, "loss": 1 / at, "images_per_second": 8.0} | more
        files.append_line(state / layout.LOG, json.dumps(line))
    if saved:
        checkpoint.save(state, saved, {"a": torch.zeros(1)}, {})
    for path in state.iterdir():
        os.utime(path, (NOW - ago, NOW - ago))
    return state


def look(root: Path, setup: config.Experiment) -> list[live.Training]:
    return live.trainings(Results(root), setup, NOW)


def test_a_folder_without_trainings_has_none(tmp_path: Path, setup: config.Experiment) -> None:
    assert look(tmp_path, setup) == []
    assert look(tmp_path / "missing", setup) == []


def test_a_running_training_tells_step_loss_and_time_left(tmp_path: Path, setup: config.Experiment) -> None:
    begin(tmp_path, 20, saved=20, ago=3.0, held_out_loss=0.5)
    (found,) = look(tmp_path, setup)
    assert (found.run, found.seed, found.stage, found.state, found.live) == (
        "random", 0, "pretrain", "running", True,
    )  # fmt: skip
    assert (found.step, found.steps, found.share) == (20, 40, 0.5)
    assert found.seconds_left == pytest.approx((STEPS - 20) * BATCH / 8.0)  # by hand: 20 steps of 2 s
    assert found.sentence == (
        "random, seed 0, pretraining: step 20 of 40, loss 0.050, 0.500 on faces held out, "
        "about 00:40 left, last sign of life 00:03 ago."
    )


def test_the_time_left_follows_the_last_lines(tmp_path: Path, setup: config.Experiment) -> None:
    state = begin(tmp_path, 0)
    for step, rate in ((10, 1000.0), *((20 + at, 4.0) for at in range(live.RATED))):
        line = {"step": step, "loss": 1.0, "images_per_second": rate}
        files.append_line(state / layout.LOG, json.dumps(line))
    os.utime(state / layout.LOG, (NOW, NOW))
    (found,) = look(tmp_path, setup)
    assert found.seconds_left == pytest.approx((STEPS - found.step) * BATCH / 4.0)


def test_a_quiet_training_stopped_and_says_where_it_goes_on(tmp_path: Path, setup: config.Experiment) -> None:
    # Lines are 30 s apart, so that it takes three of them without a sign, not 60 s.
    begin(tmp_path, 20, saved=10, ago=59.0)
    assert look(tmp_path, setup)[0].state == "running"
    begin(tmp_path, 0, saved=10, ago=61.0)
    (found,) = look(tmp_path, setup)
    assert (found.state, found.live, found.seconds_left) == ("stopped", False, None)
    assert (
        "stopped at step 20 of 40, 01:01 ago; the same command goes on from its last checkpoint."
        in found.sentence
    )


def test_a_training_that_has_all_its_steps_is_writing(tmp_path: Path, setup: config.Experiment) -> None:
    begin(tmp_path, STEPS)
    (found,) = look(tmp_path, setup)
    assert found.state == "writing"
    assert "its results are being written" in found.sentence


def test_a_diverged_training_says_what_helps(tmp_path: Path, setup: config.Experiment) -> None:
    state = begin(tmp_path, 20)
    files.write_json(state / layout.DUMP, {"step": 27})
    (found,) = look(tmp_path, setup)
    assert not found.live
    assert "diverged at step 27 of 40; lower learning_rate" in found.sentence


def test_parts_and_label_curves_are_found_and_a_part_that_is_done_is_not(
    tmp_path: Path, setup: config.Experiment
) -> None:
    begin(tmp_path, 20, folder="scratch/0/.finetune", ago=900.0)
    files.write_json(tmp_path / "scratch/0/.finetune" / layout.PART, {})
    os.utime(tmp_path / "scratch/0/.finetune" / layout.PART, (NOW - 900, NOW - 900))
    begin(tmp_path, 20, folder="scratch/0/.finetune-2")
    begin(tmp_path, 10, folder="region/1/labels/.0/share-0.1-abc/.finetune")
    begin(tmp_path, 10, folder="gone/0/.pretrain")  # no run of this configuration
    found = look(tmp_path, setup)
    assert [(each.run, each.stage, each.part, each.state) for each in found] == [
        ("scratch", "finetune", 2, "running"),
        ("region", "labels", 0, "running"),
    ]
    assert "fine-tuning, part 3: step 20" in found[0].sentence
    assert "fine-tuning on fewer labels: step 10" in found[1].sentence


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"[]", b'{"pretrain": 3}', b'{"step": 1}\n{"st'])
@pytest.mark.parametrize("name", [layout.JOB, layout.LOG, layout.DUMP])
def test_files_caught_half_written_stop_nothing(
    name: str, damage: bytes, tmp_path: Path, setup: config.Experiment
) -> None:
    state = begin(tmp_path, 20)
    (state / name).write_bytes(damage)
    os.utime(state / name, (NOW, NOW))
    (found,) = look(tmp_path, setup)
    assert found.sentence
    assert live.losses([found])["step"].tolist() in ([], [10, 20])


def test_losses_are_those_of_the_unfinished_logs(tmp_path: Path, setup: config.Experiment) -> None:
    begin(tmp_path, 20)
    begin(tmp_path, 10, folder="random/0/.finetune-1")
    begin(tmp_path, 10, folder="random/0/labels/.0/share-0.1-abc/.finetune")
    table = live.losses(look(tmp_path, setup))
    expected = pd.DataFrame(
        {
            "run": "random", "seed": 0, "part": [0, 0, 1], "stage": ["pretrain", "pretrain", "finetune"],
            "step": [10, 20, 10], "loss": [0.1, 0.05, 0.1],
        }
    )  # fmt: skip
    pd.testing.assert_frame_equal(table, expected)


def test_what_is_done_is_counted_by_stage(tmp_path: Path, setup: config.Experiment) -> None:
    paths = Results(tmp_path)
    for run, seed, stage in (("random", 0, "pretrain"), ("random", 0, "finetune"), ("pixels", 0, "evaluate")):
        files.write_json(paths.stage(run, seed, stage) / layout.METRICS, {})
    files.atomic_write(paths.data.photos, b"")
    counted = live.done(paths, setup).set_index("stage")[["done", "of"]].to_dict("index")
    assert counted["photos listed"] == {"done": 1, "of": 1}
    assert counted["faces aligned"] == {"done": 0, "of": 1}
    assert counted["pretraining"] == {"done": 1, "of": 4}  # two runs of three, two seeds
    assert counted["fine-tuning"] == {"done": 1, "of": 6}
    assert counted["evaluation"] == {"done": 1, "of": 7}  # the control has one seed
    assert counted["verdict"] == {"done": 0, "of": 1}
    assert "fewer labels" not in counted


def test_a_workflow_is_seen_by_its_lock_and_not_kept_from_it(tmp_path: Path) -> None:
    paths = Results(tmp_path)
    assert not live.workflow_runs(paths)
    with files.exclusive(tmp_path / live.WORKFLOW_LOCK):
        assert live.workflow_runs(paths)
    assert not live.workflow_runs(paths)  # the file is left behind, the lock is not
    with files.exclusive(tmp_path / live.WORKFLOW_LOCK):
        pass
