import errno
import os
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from facemae.compute.seeding import batch_ids
from facemae.core.errors import IntegrityError
from facemae.data.faces import cache
from facemae.data.faces import loader as module
from facemae.data.faces.cache import FaceFile, OpenFaces
from facemae.data.faces.loader import Feed, home_for

SIDE, STORED, CHOSEN, BATCH = 32, 50, 40, 8


@pytest.fixture(scope="module")
def pixels():
    return np.random.default_rng(0).integers(0, 256, (STORED, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.fixture
def faces(tmp_path, pixels):
    """Forty of the fifty stored faces, in an order of their own."""
    np.save(tmp_path / "faces.npy", pixels)
    places = np.random.default_rng(1).permutation(STORED)[:CHOSEN]
    file = FaceFile(tmp_path / "faces.npy", pixels.shape)
    return OpenFaces(file, places, [f"a/{place}" for place in places], [None] * CHOSEN)


@pytest.fixture
def expected(faces, pixels):
    """Return a function that tells a step's batch, from memory."""
    return lambda step: torch.from_numpy(pixels[faces.places[ids_at(step).numpy()]])


@pytest.fixture(params=[0, 1, 2])
def feed(request, faces, compute):
    with Feed(faces, ids_at, compute, request.param) as feed:
        yield feed


def ids_at(step):
    return batch_ids(CHOSEN, BATCH, step, seed=3)


def threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("feed")]


# --- where faces live ---


@pytest.mark.parametrize(
    ("size", "free", "home"),
    [
        (1, None, "disk"),
        (10**15, None, "disk"),
        (8 * 10**9, 10**10, "gpu"),
        (8 * 10**9 + 1, 10**10, "staged"),
        (1, 0, "staged"),
    ],
)
def test_the_home_follows_from_the_sizes(size, free, home):
    assert home_for(size, free) == home


def test_the_size_is_that_of_the_chosen_faces(faces):
    assert faces.size == CHOSEN * SIDE * SIDE * 3


def test_without_a_gpu_faces_stay_on_disk(faces, compute):
    with Feed(faces, ids_at, compute, 0) as feed:
        assert feed.home == "disk"


def test_faces_that_fit_are_loaded_once_and_never_read_again(faces, compute, expected, monkeypatch):
    """On this machine's own device, since only where the tensor lies differs."""
    monkeypatch.setattr(module, "_free_memory", lambda compute, reserved: 2 * faces.size)
    monkeypatch.setattr(module, "LOADED_AT_ONCE", 7)
    with Feed(faces, ids_at, compute, 2) as feed:
        assert feed.home == "gpu"
        monkeypatch.setattr(OpenFaces, "read", None)
        for step in (0, 7, 3):
            assert torch.equal(feed.batch(step), expected(step))
            assert torch.equal(feed.batch(step, slice(2, 5)), expected(step)[2:5])
        assert not threads()


@pytest.mark.gpu
@pytest.mark.parametrize("home", ["gpu", "staged"])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_gpu_gets_the_same_faces(faces, compute, expected, monkeypatch, home, workers):
    monkeypatch.setattr(module, "home_for", lambda size, free: home)
    with Feed(faces, ids_at, replace(compute, device=torch.device("cuda")), workers) as feed:
        for step in [*range(50), 7, 3]:
            batch = feed.batch(step)
            assert batch.is_cuda
            assert torch.equal(batch.cpu(), expected(step))


# --- what a batch is ---


def test_batches_are_those_of_the_ids_whatever_the_number_of_workers(feed, expected):
    for step in range(12):
        batch = feed.batch(step)
        assert batch.shape == (BATCH, SIDE, SIDE, 3)
        assert batch.dtype == torch.uint8
        assert torch.equal(batch, expected(step))


def test_any_step_can_be_asked_for_in_any_order(feed, expected):
    for step in [9, 3, 4, 3, 100, 0, 101, 102, 102, 1]:
        assert torch.equal(feed.batch(step), expected(step))


def test_parts_make_up_the_batch(feed, expected):
    for step in range(4):
        parts = [feed.batch(step, slice(start, start + 3)) for start in range(0, BATCH, 3)]
        assert [len(part) for part in parts] == [3, 3, 2]
        assert torch.equal(torch.cat(parts), expected(step))
        assert torch.equal(feed.batch(step, slice(1, None, 4)), expected(step)[1::4])


def test_changing_a_batch_changes_neither_the_file_nor_a_later_batch(feed, expected):
    for step in (0, 1, 1):
        batch = feed.batch(step)
        assert torch.equal(batch, expected(step))
        batch.zero_()


def test_a_cache_that_is_made_anew_changes_nothing(feed, faces, expected, tmp_path):
    np.save(tmp_path / "other.npy", np.zeros(faces.file.shape, np.uint8))
    (tmp_path / "other.npy").replace(faces.file.path)
    assert torch.equal(feed.batch(5), expected(5))


# --- reading ahead ---


def test_workers_read_the_same_part_of_the_next_steps(faces, compute):
    with Feed(faces, ids_at, compute, 2) as feed:
        for start in (0, 4):
            feed.batch(10, slice(start, start + 4))
        assert sorted(key[:2] for key in feed._ahead) == [
            (step, start) for step in (11, 12) for start in (0, 4)
        ]


def test_what_was_read_ahead_is_not_read_again(faces, compute):
    asked = []

    def counted(step):
        asked.append(step)
        return ids_at(step)

    with Feed(faces, counted, compute, 2) as feed:
        for step in range(20):
            feed.batch(step)
    assert len(asked) == len(set(asked))
    assert set(range(20)) <= set(asked) <= set(range(22))


def test_little_is_kept_however_the_steps_jump(faces, compute):
    with Feed(faces, ids_at, compute, 2) as feed:
        for step in range(0, 3000, 30):
            feed.batch(step)
            feed.batch(step, slice(0, 4))
            assert len(feed._ahead) <= 4


# --- errors ---


def run(feed, steps):
    for step in steps:
        feed.batch(step)


def cut(faces):
    os.truncate(faces.file.path, 200)


def test_a_file_that_is_cut_short_is_told_in_one_sentence(feed, faces):
    feed.batch(0)
    cut(faces)
    with pytest.raises(IntegrityError, match=r"faces\.npy is cut short; delete it and run again\.$"):
        run(feed, range(1, 5))  # the next ones may have been read already


def test_a_disk_that_fails_is_told_in_one_sentence(feed, monkeypatch):
    def fail(*arguments):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    feed.batch(0)
    monkeypatch.setattr(os, "preadv", fail)
    with pytest.raises(IntegrityError, match=r"faces\.npy cannot be read \(Input/output error\)") as caught:
        run(feed, range(1, 5))
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_a_step_comes_with_that_step_and_no_other(faces, compute, expected, workers):
    def last_is_5(step):
        if step > 5:
            raise LookupError(step)
        return ids_at(step)

    with Feed(faces, last_is_5, compute, workers) as feed:
        for step in range(6):
            assert torch.equal(feed.batch(step), expected(step))
        with pytest.raises(LookupError, match="6"):
            feed.batch(6)
        assert torch.equal(feed.batch(0), expected(0))  # and it goes on


# --- the end ---


def test_no_thread_is_left(faces, compute):
    with Feed(faces, ids_at, compute, 2) as feed:
        feed.batch(0)
        assert threads()
    assert not threads()
    feed.close()  # twice is fine


def test_no_thread_is_left_after_an_error(faces, compute):
    def train():
        with Feed(faces, ids_at, compute, 2) as feed:
            feed.batch(0)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train()
    assert not threads()


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def open_files():
    return len(list(Path("/proc/self/fd").iterdir()))


@needs_proc
def test_no_file_is_left_open(tmp_path, pixels):
    np.save(tmp_path / "faces.npy", pixels)
    before = open_files()
    file = FaceFile(tmp_path / "faces.npy", pixels.shape)
    assert open_files() == before + 1
    del file
    assert open_files() == before


# --- memory ---


@needs_proc
@pytest.mark.parametrize("workers", [0, 2])
def test_faces_are_not_brought_into_memory(tmp_path, compute, workers):
    """Reading all of 200 MB, most of them a hole in the file, takes no more than some batches' memory."""
    side, count = 256, 1000
    path = tmp_path / "large.npy"
    path.write_bytes(cache._header((count, side, side, 3)))
    os.truncate(path, path.stat().st_size + count * side * side * 3)
    faces = OpenFaces(FaceFile(path, (count, side, side, 3)), np.arange(count), [], [])

    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    with Feed(faces, lambda step: batch_ids(count, 20, step, 0), compute, workers) as feed:
        for step in range(5):
            feed.batch(step)
        before = resident()
        grown = 0
        for step in range(5, 55):
            feed.batch(step)
            grown = max(grown, resident() - before)
    assert faces.size > 190e6
    assert grown < 40e6
