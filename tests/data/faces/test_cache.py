import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from store_folder import make_entries, make_outcome

from facemae.core import files, records
from facemae.core.errors import DataError, IntegrityError
from facemae.core.layout import DataFolder
from facemae.data.alignment.align import Outcome
from facemae.data.faces import cache, shards
from facemae.data.sources import manifest

SIDE, COUNT, BLOCK = 32, 11, 3
NAMES = [f"a/{number:02}" for number in range(COUNT)]
PEOPLE = [None if number % 4 == 0 else f"p{number % 3}" for number in range(COUNT)]
FACE_BYTES = SIDE * SIDE * 3


def draw(seed=0, side=SIDE):
    return np.random.default_rng(seed).integers(0, 256, (COUNT, side, side, 3), dtype=np.uint8)


def fill(root, pixels, lost=()):
    """Write a manifest, shards of four photos and their index; the photos in `lost` have no face."""
    folder = DataFolder(root)
    entries = make_entries(root / "photos", pixels, NAMES[: len(pixels)], PEOPLE[: len(pixels)])
    manifest.write(folder.photos, entries, {})
    outcomes = [
        Outcome(entry, "NO_FACE", "No face found.", "Try another.")
        if number in lost
        else make_outcome(entry, image)
        for number, (entry, image) in enumerate(zip(entries, pixels, strict=True))
    ]
    for number, start in enumerate(range(0, len(outcomes), 4)):
        path = shards.shard_path(folder.shards / "x", number)
        shards.write_shard(path, outcomes[start : start + 4], shards.schema([]))
    shards.finish(folder, folder.shards / "x")
    return folder


def rows(*places):
    return pd.DataFrame({"sample_id": [NAMES[place] for place in places]})


@pytest.fixture(autouse=True)
def _small_blocks(replaced):
    with replaced(cache, "BLOCK", BLOCK):
        yield


@pytest.fixture
def images():
    return draw()


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    return fill(tmp_path_factory.mktemp("filled"), draw())


@pytest.fixture
def folder(tmp_path, filled):
    return DataFolder(shutil.copytree(filled.root, tmp_path / "data"))


@pytest.fixture
def partial(folder):
    return folder.root / ".faces.npy.partial", folder.root / ".faces.npy.blocks"


class StopError(Exception):
    """Ends a build where a kill would."""


def stopped(folder, replaced, blocks):
    """Build until so many blocks are written and noted."""
    count = 0
    append = files.append_line

    def line(path, text):
        nonlocal count
        append(path, text)
        count += 1
        if count == blocks:
            raise StopError

    with replaced(files, "append_line", line), pytest.raises(StopError):
        cache.build_cache(folder)


# --- what is built ---


def test_the_cache_is_a_plain_array_of_the_very_pixels(folder, images):
    cache.build_cache(folder)
    array = np.load(folder.cache)
    assert np.array_equal(array, images)
    known = json.loads(folder.cache_hashes.read_text())
    assert known["shape"] == [COUNT, SIDE, SIDE, 3]
    assert known["index"] == files.sha256_of(folder.faces)
    blocks = [array[start : start + BLOCK].tobytes() for start in range(0, COUNT, BLOCK)]
    assert known["sha256"] == [files.sha256(block) for block in blocks]
    assert {path.name for path in folder.root.iterdir()} == {
        "photos", "photos.parquet", "shards", "faces.parquet", "report.jsonl", "rejected.jsonl",
        "faces.npy", "faces.hashes.json",
    }  # fmt: skip


def test_a_file_that_numpy_wrote_is_the_same(folder, images, tmp_path):
    cache.build_cache(folder)
    np.save(tmp_path / "numpy.npy", images)
    assert folder.cache.read_bytes() == (tmp_path / "numpy.npy").read_bytes()


def test_photos_without_a_face_take_no_place(tmp_path, images):
    folder = fill(tmp_path, images, lost={0, 1, 2, 3, 9})
    cache.build_cache(folder)
    assert np.array_equal(np.load(folder.cache), images[[4, 5, 6, 7, 8, 10]])


@pytest.mark.parametrize("block", [1, COUNT - 1, COUNT, COUNT + 1, 512])
def test_the_size_of_a_block_changes_no_pixel(folder, images, replaced, block):
    with replaced(cache, "BLOCK", block):
        cache.build_cache(folder)
        assert np.array_equal(np.load(folder.cache), images)
        assert np.array_equal(cache.open_faces(folder, rows(10, 0)).loaded().images, images[[10, 0]])


def test_what_is_built_is_not_built_again(folder, capsys):
    cache.build_cache(folder)
    before = folder.cache.stat().st_ino
    cache.build_cache(folder)
    assert folder.cache.stat().st_ino == before
    assert f"{COUNT} faces are decoded already" in capsys.readouterr().err


def test_a_new_index_gets_a_new_cache(folder, tmp_path):
    cache.build_cache(folder)
    other = draw(1)
    fill(folder.root, other)
    cache.build_cache(folder)
    assert np.array_equal(np.load(folder.cache), other)


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff"])
def test_damaged_checksums_are_made_again(folder, images, damage):
    cache.build_cache(folder)
    folder.cache_hashes.write_bytes(damage)
    cache.build_cache(folder)
    assert np.array_equal(cache.open_faces(folder, rows(3)).loaded().images, images[[3]])


def test_an_index_without_faces_is_told(tmp_path, images):
    folder = fill(tmp_path, images, lost=range(COUNT))
    with pytest.raises(DataError, match=r"faces\.parquet lists no face; see .*report\.jsonl"):
        cache.build_cache(folder)


def test_faces_of_several_sizes_are_refused(tmp_path):
    pixels = [*draw()[:5], *draw(side=48)[5:]]
    folder = fill(tmp_path, pixels)
    with pytest.raises(IntegrityError, match="holds a face of another size; align again"):
        cache.build_cache(folder)
    assert not folder.cache.exists()


@pytest.mark.parametrize("damage", ["missing", "cut", "no image"])
def test_a_shard_that_is_damaged_is_told(folder, damage):
    path = folder.shards / "x" / "000001.parquet"
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        table = pd.read_parquet(path)
        table["image"] = [image[:60] for image in table["image"]]
        table.to_parquet(path)
    with pytest.raises(IntegrityError) as caught:
        cache.build_cache(folder)
    assert caught.value.exit_code == 4
    assert "\n" not in str(caught.value)
    assert not folder.cache.exists()


# --- stopped and resumed ---


@pytest.mark.parametrize("blocks", range(1, 5))  # the last of the four blocks is short
def test_a_build_goes_on_after_its_last_whole_block(folder, images, partial, replaced, blocks, tmp_path):
    stopped(folder, replaced, blocks)
    decoded = []
    decode = shards.open_image

    def counted(*args):
        decoded.append(1)
        return decode(*args)

    with replaced(shards, "open_image", counted):
        cache.build_cache(folder)
    assert len(decoded) - 1 == max(COUNT - blocks * BLOCK, 0)  # one is decoded for its size
    np.save(tmp_path / "numpy.npy", images)
    assert folder.cache.read_bytes() == (tmp_path / "numpy.npy").read_bytes()
    assert not any(path.exists() for path in partial)


@pytest.mark.parametrize(
    "kept", [0, 50, 128, 128 + FACE_BYTES, 128 + BLOCK * FACE_BYTES, 128 + 5 * FACE_BYTES]
)
@pytest.mark.parametrize("which", [0, 1], ids=["pixels", "journal"])
def test_whatever_a_crash_cuts_off_is_made_again(folder, images, partial, replaced, which, kept):
    stopped(folder, replaced, 3)
    data = partial[which].read_bytes()
    partial[which].write_bytes(data[: kept if which == 0 else len(data) * kept // (128 + 5 * FACE_BYTES)])
    cache.build_cache(folder)
    assert np.array_equal(np.load(folder.cache), images)
    assert np.array_equal(cache.open_faces(folder, rows(*range(COUNT))).loaded().images, images)


@pytest.mark.parametrize("place", [0, 128, 128 + BLOCK * FACE_BYTES, 128 + 3 * BLOCK * FACE_BYTES - 1])
def test_a_damaged_block_is_made_again(folder, images, partial, replaced, place):
    stopped(folder, replaced, 3)
    data = bytearray(partial[0].read_bytes())
    data[place] ^= 1
    partial[0].write_bytes(data)
    cache.build_cache(folder)
    assert np.array_equal(np.load(folder.cache), images)


def test_what_was_begun_for_another_index_is_not_gone_on_with(folder, replaced):
    stopped(folder, replaced, 3)
    other = draw(1)
    fill(folder.root, other)
    cache.build_cache(folder)
    assert np.array_equal(np.load(folder.cache), other)


# One process makes another, which builds and is killed, so that the packages are loaded only once.
KILLED = """
import os, random, signal, sys, time
from pathlib import Path
from facemae.core import files
from facemae.data.faces import cache
from facemae.core.layout import DataFolder

folder, what, kills, known = DataFolder(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3]), sys.argv[4]
cache.BLOCK = 6
sys.stderr = open(os.devnull, "w")

def build(prepare=lambda: None):
    child = os.fork()
    if child == 0:
        prepare()
        try:
            cache.build_cache(folder)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return child

def end(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

# What was there before: the cache of another index, or nothing.
before = {path: path.read_bytes() for path in (folder.cache, folder.cache_hashes) if path.exists()}

def check():
    assert files.sha256_of(folder.cache) == known
    for path in (folder.cache, folder.cache_hashes):
        path.unlink()
    for path, data in before.items():
        path.write_bytes(data)

def at(number):
    left = [number]
    def wrap(owner, name):
        call = getattr(owner, name)
        def counted(*args, **more):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **more)
        setattr(owner, name, counted)
    for owner, name in [(files, "append_line"), (Path, "replace"), (Path, "unlink"), (os, "_exit")]:
        wrap(owner, name)

if what == "at every step":
    number = 1
    while end(build(lambda: at(number))) == -9:
        assert end(build()) == 0
        check()
        number += 1
    check()
    print(number - 1)
else:
    random.seed(int(sys.argv[5]))
    started = time.monotonic()
    assert end(build()) == 0
    lasted = time.monotonic() - started
    check()
    done = 0
    while done < kills:
        child = build()
        time.sleep(random.uniform(0, lasted))
        os.kill(child, signal.SIGKILL)
        code = end(child)
        assert code in (0, -9), code
        done += code == -9
        if code == 0:
            check()
    assert end(build()) == 0
    check()
    print(done)
"""


def killed(folder, images, tmp_path, *arguments):
    np.save(tmp_path / "numpy.npy", images)
    known = files.sha256_of(tmp_path / "numpy.npy")
    what, kills, *more = arguments
    command = [sys.executable, "-c", KILLED, folder.root, what, str(kills), known, *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


def test_a_kill_beside_the_cache_of_another_index_leaves_no_wrong_one(folder, images, tmp_path):
    cache.build_cache(folder)  # of as many faces as the next
    other = draw(1)
    fill(folder.root, other)
    assert killed(folder, other, tmp_path, "at every step", 0) >= 8


@pytest.mark.parametrize("kills", [5, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_end_in_the_same_bytes(folder, images, tmp_path, kills):
    assert killed(folder, images, tmp_path, "at random", kills, str(kills)) == kills


# --- reading ---


@pytest.mark.parametrize("places", [range(COUNT), (10, 0, 5), (4,), (2, 2, 9), ()])
def test_faces_come_back_to_the_bit_in_the_order_asked_for(folder, images, places):
    cache.build_cache(folder)
    faces = cache.open_faces(folder, rows(*places)).loaded()
    assert faces.images.dtype == np.uint8
    assert faces.images.shape == (len(places), SIDE, SIDE, 3)
    assert np.array_equal(faces.images, images[list(places)])
    assert faces.sample_ids == [NAMES[place] for place in places]
    assert faces.people == [PEOPLE[place] for place in places]


def test_a_changed_face_in_memory_does_not_reach_the_file(folder, images):
    cache.build_cache(folder)
    cache.open_faces(folder, rows(0)).loaded().images[:] = 0
    assert np.array_equal(np.load(folder.cache), images)


def test_a_face_that_is_not_in_the_index(folder):
    cache.build_cache(folder)
    with pytest.raises(IntegrityError, match=r"faces\.parquet lacks the face a/eve of the split"):
        cache.open_faces(folder, pd.DataFrame({"sample_id": ["a/00", "a/eve"]}))


def test_a_cache_of_another_index_is_refused(folder):
    cache.build_cache(folder)
    index = records.read_table(folder.faces)
    records.write_table(folder.faces, index.iloc[::-1], list(index.columns))
    with pytest.raises(IntegrityError, match=r"faces\.npy was made for other faces; delete it and run again"):
        cache.open_faces(folder, rows(0))
    cache.build_cache(folder)
    assert cache.open_faces(folder, rows(0)).loaded().sample_ids == ["a/00"]


@pytest.mark.parametrize("face", [0, 4, 10])
def test_one_turned_bit_is_told_with_its_block_when_it_is_read(folder, images, face):
    cache.build_cache(folder)
    data = bytearray(folder.cache.read_bytes())
    data[128 + face * FACE_BYTES + 7] ^= 4
    folder.cache.write_bytes(data)
    with pytest.raises(
        IntegrityError, match=rf"wrong checksum of block {face // BLOCK}\); delete it and run"
    ):
        cache.open_faces(folder, rows(face))
    elsewhere = (face + BLOCK) % COUNT
    assert np.array_equal(cache.open_faces(folder, rows(elsewhere)).loaded().images, images[[elsewhere]])
    folder.cache.unlink()  # as the message says
    cache.build_cache(folder)
    assert np.array_equal(cache.open_faces(folder, rows(face)).loaded().images, images[[face]])


@pytest.mark.parametrize("damage", ["empty", "cut", "header", "another array", "text"])
def test_a_file_that_is_no_such_array_is_told(folder, images, damage):
    cache.build_cache(folder)
    data = folder.cache.read_bytes()
    if damage == "another array":
        np.save(folder.cache, images[:5])
    else:
        replacement = {
            "empty": b"",
            "cut": data[:-1],
            "header": data[:8] + b"x" + data[9:],
            "text": b"x" * 999,
        }
        folder.cache.write_bytes(replacement[damage])
    with pytest.raises(IntegrityError, match="delete it and run again"):
        cache.open_faces(folder, rows(10))


def test_an_array_of_objects_is_never_unpickled(folder):
    cache.build_cache(folder)
    np.save(folder.cache, np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(IntegrityError, match="delete it and run again"):
        cache.open_faces(folder, rows(0)).loaded()


# --- left on disk ---


def test_open_faces_are_those_that_would_be_loaded(folder):
    cache.build_cache(folder)
    opened = cache.open_faces(folder, rows(10, 0, 5, 0))
    loaded = opened.loaded()
    assert (opened.sample_ids, opened.people) == (loaded.sample_ids, loaded.people)
    assert opened.size == loaded.images.nbytes
    out = np.zeros((3, SIDE, SIDE, 3), np.uint8)
    opened.read(np.array([3, 1, 2]), out)
    assert np.array_equal(out, loaded.images[[3, 1, 2]])


def test_every_block_that_is_used_is_read_once_and_no_other(folder, monkeypatch):
    cache.build_cache(folder)
    read = []
    read_from = cache.FaceFile.read_from
    monkeypatch.setattr(
        cache.FaceFile, "read_from", lambda *args: (read.append((args[1], len(args[2]))), read_from(*args))
    )
    cache.open_faces(folder, rows(10, 0, 1, 9))
    assert read == [(0, BLOCK), (9, COUNT - 9)]


def test_a_file_that_is_cut_short_later_is_told_and_not_fatal(folder):
    cache.build_cache(folder)
    faces = cache.open_faces(folder, rows(*range(COUNT)))
    os.truncate(folder.cache, 128 + 5 * FACE_BYTES + 10)
    out = np.zeros((1, SIDE, SIDE, 3), np.uint8)
    faces.read(np.array([4]), out)
    with pytest.raises(IntegrityError, match=r"faces\.npy is cut short; delete it and run again"):
        faces.read(np.array([5]), out)


def test_short_reads_are_gone_on_with(folder, images, monkeypatch):
    cache.build_cache(folder)
    read = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, parts, start: read(file, [parts[0][:1000]], start))
    assert np.array_equal(cache.open_faces(folder, rows(*range(COUNT))).loaded().images, images)


def test_a_missing_file_is_told(folder):
    cache.build_cache(folder)
    folder.cache.unlink()
    with pytest.raises(IntegrityError, match=r"faces\.npy is damaged \(.*\); delete it and run again"):
        cache.open_faces(folder, rows(0))


@pytest.mark.parametrize(("seconds", "shown"), [(3600.0, False), (-1.0, True)])
def test_a_check_shows_its_progress_only_when_it_takes_long(folder, monkeypatch, capsys, seconds, shown):
    cache.build_cache(folder)
    capsys.readouterr()
    monkeypatch.setattr(cache, "SILENT_SECONDS", seconds)
    cache.open_faces(folder, rows(*range(COUNT)))
    assert ("4/4 blocks checked" in capsys.readouterr().err) == shown


def test_a_damaged_index_is_one_sentence(folder):
    folder.faces.write_bytes(folder.faces.read_bytes()[:-20])
    with pytest.raises(IntegrityError, match=r"faces\.parquet is damaged"):
        cache.build_cache(folder)
