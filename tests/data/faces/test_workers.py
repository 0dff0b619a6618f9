"""Alignment by several processes: the same faces whatever the number of workers and however often killed."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from store_folder import make_entries

from facemae.core.errors import StorageError
from facemae.core.files import sha256
from facemae.core.layout import SET_LABELLED
from facemae.data.alignment.align import Settings
from facemae.data.faces import shards as store
from facemae.data.faces import workers as pool
from facemae.data.sources import manifest
from facemae.data.sources.orl import orl_photos

CROP = Settings(32, 0.9, {}, {"folder": (0.0, 0.0, 1.0, 1.0)}, "")
COUNT = 60

SCRIPT = """
import sys
from pathlib import Path
from facemae.data.faces import shards as store, workers as pool
from facemae.data.alignment.align import Settings
if __name__ == "__main__":
    photos, shards, workers = sys.argv[1:]
    store.ROWS = 4
    settings = Settings(32, 0.9, {}, {"folder": (0.0, 0.0, 1.0, 1.0)}, "")
    pool.align_all(pool.Plan(Path(photos), Path(shards), settings, "cpu"), int(workers))
"""


@pytest.fixture
def photos(tmp_path):
    """Sixty small pictures that are taken as faces, so that no detector has to be loaded."""
    images = np.random.default_rng(0).integers(0, 256, (COUNT, 40, 40, 3), dtype=np.uint8)
    names = [f"p/{number}" for number in range(COUNT)]
    path = tmp_path / "photos.parquet"
    manifest.write(path, make_entries(tmp_path / "pictures", images, names, [None] * COUNT), {})
    return path


def hashes(folder):
    return {path.name: sha256(path.read_bytes()) for path in store.shard_paths(folder)}


def run(photos, shards, workers, **options):
    command = [sys.executable, "-c", SCRIPT, str(photos), str(shards), str(workers)]
    return subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True, **options)


def align(photos, shards, workers, rows):
    """Run in this process, with small shards."""
    pool.align_all(pool.Plan(photos, shards, CROP, "cpu"), workers)


def test_the_number_of_workers_does_not_show(photos, tmp_path, replaced):
    with replaced(store, "ROWS", 16):
        for workers in (1, 2, 3):
            align(photos, tmp_path / str(workers), workers, 16)
    assert len(hashes(tmp_path / "1")) == 4
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2") == hashes(tmp_path / "3")


def test_what_is_there_is_not_made_again(photos, tmp_path, replaced, capsys):
    shards = tmp_path / "shards"
    with replaced(store, "ROWS", 16):
        align(photos, shards, 1, 16)
        before = hashes(shards)
        (shards / "000001.parquet").unlink()
        times = {path.name: path.stat().st_mtime_ns for path in store.shard_paths(shards)}
        capsys.readouterr()
        align(photos, shards, 1, 16)
    assert "44 of 60 photos are aligned already" in capsys.readouterr().err
    assert hashes(shards) == before
    assert all((shards / name).stat().st_mtime_ns == when for name, when in times.items())


def test_real_faces_do_not_depend_on_the_workers(tmp_path, replaced):
    entries = [manifest.enter(photo, "orl", SET_LABELLED) for photo in orl_photos()[:8]]
    manifest.write(tmp_path / "photos.parquet", entries, {})
    settings = Settings(64, 0.9, {"orl": "largest"}, {}, "a detector")
    with replaced(store, "ROWS", 4):
        for workers in (1, 2):
            plan = pool.Plan(tmp_path / "photos.parquet", tmp_path / str(workers), settings, "cpu")
            pool.align_all(plan, workers)
    assert hashes(tmp_path / "1") == hashes(tmp_path / "2")
    assert len(hashes(tmp_path / "1")) == 2


def test_a_worker_that_is_killed_is_told_in_one_sentence(photos, tmp_path, replaced):
    with (
        replaced(pool, "_work", _die),
        replaced(store, "ROWS", 4),
        pytest.raises(StorageError, match="A worker was killed, most likely because memory ran out"),
    ):
        align(photos, tmp_path / "shards", 2, 4)


def _die(task):
    os.kill(os.getpid(), signal.SIGKILL)


def kill_often(photos, shards, kills, whole):
    """Kill the command `kills` times within the seconds that a whole run takes, then let it finish."""
    draw, killed = random.Random(0), []
    while kills:
        process = run(photos, shards, 2)
        time.sleep(draw.uniform(0.3, 0.9) * whole)
        if process.poll() is None:
            kills -= 1
            killed.append(process.pid)
        else:  # it was faster than the kill: begin anew
            shutil.rmtree(shards)
        process.kill()  # the parent alone: its workers have to notice by themselves
        process.wait()
    assert run(photos, shards, 2).wait() == 0
    deadline = time.monotonic() + 10
    while any(map(_alive_in_group, killed)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [_alive_in_group(each) for each in killed] == [[]] * len(killed)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_alignment_ends_with_the_same_bytes(photos, tmp_path, kills):
    started = time.monotonic()
    assert run(photos, tmp_path / "undisturbed", 2).wait() == 0
    kill_often(photos, tmp_path / "killed", kills, time.monotonic() - started)  # and its workers leave
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "undisturbed")
    assert len(hashes(tmp_path / "killed")) == COUNT / 4


def _alive_in_group(group):
    found = []
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as file:
                    state, _, its_group = file.read().rpartition(")")[2].split()[:3]
            except OSError:
                continue
            if int(its_group) == group and state != "Z":
                found.append(int(entry))
    return found


def test_the_test_can_tell_processes_apart():
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(5,))
    child.start()
    assert child.pid in _alive_in_group(os.getpgid(0))
    child.kill()
    child.join()
