import errno
import json
import os
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core import files
from facemae.core.errors import StorageError, UsageError

OLD, NEW = b"old" * 10, b"new" * 20  # small enough to wait in a buffer


def failing(error):
    def fail(*_):
        raise OSError(error, os.strerror(error))

    return fail


def fail_after(_, error):
    raise error


def listing(folder):
    return sorted(path.name for path in folder.iterdir())


def test_sha256_of_known_bytes():
    assert files.sha256(b"abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


# --- atomic writing ---


def test_a_write_makes_its_folders_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a" / "b" / "file.bin"
    for content in (OLD, NEW, b""):
        files.atomic_write(path, content)
        assert path.read_bytes() == content
    assert listing(path.parent) == ["file.bin"]


def test_bytes_are_synced_whole_before_the_rename_and_the_folder_after_it(tmp_path, monkeypatch):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    events = []
    sync, replace = os.fsync, Path.replace

    def fsync(descriptor):
        status = os.fstat(descriptor)
        events.append("folder" if stat.S_ISDIR(status.st_mode) else f"{status.st_size} bytes")
        sync(descriptor)

    def rename(self, target):
        assert path.read_bytes() == OLD
        events.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(Path, "replace", rename)
    files.atomic_write(path, NEW)
    assert events == [f"{len(NEW)} bytes", "rename", "folder"]
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(("owner", "name"), [(os, "fsync"), (Path, "replace")])
@pytest.mark.parametrize("there_before", [True, False])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, replaced, owner, name, there_before):
    path = tmp_path / "file.bin"
    if there_before:
        path.write_bytes(OLD)
    with replaced(owner, name, failing(errno.EIO)), pytest.raises(StorageError, match="Input/output error"):
        files.atomic_write(path, NEW)
    assert listing(tmp_path) == (["file.bin"] if there_before else [])
    assert not there_before or path.read_bytes() == OLD


def test_a_full_disk_is_told_in_megabytes(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    (tmp_path / ".file.bin.tmp").symlink_to("/dev/full")  # every write to it meets a full disk
    with pytest.raises(
        StorageError, match=r"disk is full: .*file\.bin needs 2\.5 MB and \d+\.\d MB"
    ) as caught:
        files.atomic_write(path, bytes(2_500_000))
    assert caught.value.exit_code == 5
    assert path.read_bytes() == OLD
    assert listing(tmp_path) == ["file.bin"]


def test_a_file_larger_than_the_limit_is_a_full_disk_too(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    code = (
        "import pathlib, resource, sys\n"
        "from facemae.core import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try: files.atomic_write(pathlib.Path(sys.argv[1]), bytes(300_000))\n"
        "except errors.StorageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert "The disk is full" in done.stdout
    assert "needs 0.3 MB" in done.stdout
    assert path.read_bytes() == OLD
    assert listing(tmp_path) == ["file.bin"]


def test_a_folder_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written"):
        files.atomic_write(tmp_path / "file" / "below.json", NEW)
    assert listing(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("os.fsync = lambda d: os.kill(os.getpid(), 9)", OLD),
        ("pathlib.Path.replace = lambda *a: os.kill(os.getpid(), 9)", OLD),
        ("files._sync_folder = lambda *a: os.kill(os.getpid(), 9)", NEW),
    ],
    ids=["before the bytes are synced", "before the rename", "after the rename"],
)
def test_a_kill_leaves_the_old_file_or_the_new_one(tmp_path, where, kept):
    path = tmp_path / "file.bin"
    path.write_bytes(OLD)
    code = (
        "import os, pathlib, sys\nfrom facemae.core import files\n"
        f"{where}\nfiles.atomic_write(pathlib.Path(sys.argv[1]), b'new' * 20)"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert path.read_bytes() == kept
    files.atomic_write(path, b"next")  # takes over whatever the kill left
    assert path.read_bytes() == b"next"
    assert listing(tmp_path) == ["file.bin"]


# --- files and folders that are filled bit by bit ---


def test_sha256_of_a_file_is_that_of_its_bytes_in_little_memory(tmp_path):
    path = tmp_path / "file.bin"
    path.write_bytes(os.urandom(1000) * 20_000)
    tracemalloc.start()
    try:
        found = files.sha256_of(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found == files.sha256(path.read_bytes())
    assert peak < 2e6


def test_a_file_is_replaced_when_its_block_ends_and_not_before(tmp_path):
    path = tmp_path / "deep" / "file.bin"
    files.atomic_write(path, OLD)
    with files.atomic_file(path) as file:
        for part in (NEW, OLD):
            file.write(part)
            file.flush()
            assert path.read_bytes() == OLD
    assert path.read_bytes() == NEW + OLD
    assert listing(path.parent) == ["file.bin"]


@pytest.mark.parametrize("error", [ZeroDivisionError, KeyboardInterrupt, UsageError])
def test_an_error_of_the_block_is_its_own_and_leaves_the_old(tmp_path, error):
    files.atomic_write(tmp_path / "file", OLD)
    with pytest.raises(error), files.atomic_file(tmp_path / "file") as file:
        fail_after(file.write(NEW), error)
    with pytest.raises(error), files.atomic_folder(tmp_path / "folder") as folder:
        fail_after(files.write_blocks(folder / "a", [NEW]), error)
    assert listing(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == OLD


def test_a_folder_appears_whole_and_clears_what_a_kill_left(tmp_path):
    path = tmp_path / "a" / "folder"
    left = path.parent / ".folder.partial"
    left.mkdir(parents=True)
    (left / "half").touch()
    with files.atomic_folder(path) as folder:
        assert listing(folder) == []
        assert files.write_blocks(folder / "deep" / "x", iter([OLD, b"", NEW])) == len(OLD + NEW)
        assert not path.exists()
    assert (path / "deep" / "x").read_bytes() == OLD + NEW
    assert listing(path.parent) == ["folder"]


def test_a_folder_that_is_there_is_not_replaced(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "mine").touch()
    with pytest.raises(StorageError, match="cannot be written"), files.atomic_folder(path) as folder:
        files.write_blocks(folder / "x", [NEW])
    assert listing(tmp_path) == ["folder"]
    assert listing(path) == ["mine"]


@pytest.mark.parametrize(
    ("where", "there"),
    [
        ("os.sync = lambda: os.kill(os.getpid(), 9)", False),
        ("pathlib.Path.replace = lambda *a: os.kill(os.getpid(), 9)", False),
        ("files._sync_folder = lambda *a: os.kill(os.getpid(), 9)", True),
    ],
    ids=["before the bytes are synced", "before the rename", "after the rename"],
)
def test_a_kill_leaves_the_whole_folder_or_none(tmp_path, where, there):
    path = tmp_path / "folder"
    code = (
        "import os, pathlib, sys\nfrom facemae.core import files\n"
        f"{where}\n"
        "with files.atomic_folder(pathlib.Path(sys.argv[1])) as folder:\n"
        "    for name in 'ab': files.write_blocks(folder / name, [b'new'])"
    )
    assert subprocess.run([sys.executable, "-c", code, path]).returncode == -signal.SIGKILL
    assert path.exists() == there
    if not there:
        with files.atomic_folder(path) as folder:
            for name in "ab":
                files.write_blocks(folder / name, [b"new"])
    assert listing(path) == ["a", "b"]
    assert listing(tmp_path) == ["folder"]


def test_a_new_file_in_a_folder_takes_the_place_of_none(tmp_path):
    (tmp_path / "x").write_bytes(OLD)
    with pytest.raises(StorageError, match="File exists"):
        files.write_blocks(tmp_path / "x", [NEW])
    assert (tmp_path / "x").read_bytes() == OLD


@pytest.mark.parametrize("size", [0, 1, 17, len(OLD)])
def test_a_file_is_gone_on_with_after_its_first_bytes(tmp_path, size):
    path = tmp_path / "deep" / "file.bin"
    files.atomic_write(path, OLD)
    with files.resume_file(path, size) as file:
        assert path.stat().st_size == size
        file.write(NEW)
    assert path.read_bytes() == OLD[:size] + NEW


def test_a_file_that_is_not_there_is_begun(tmp_path):
    with files.resume_file(tmp_path / "deep" / "file.bin", 0) as file:
        file.write(NEW)
    assert (tmp_path / "deep" / "file.bin").read_bytes() == NEW


def test_what_was_written_before_an_error_is_kept(tmp_path):
    with pytest.raises(ZeroDivisionError), files.resume_file(tmp_path / "f", 0) as file:
        fail_after(file.write(NEW), ZeroDivisionError)
    assert (tmp_path / "f").read_bytes() == NEW


def test_a_disk_that_fills_up_keeps_what_was_written_and_is_told(tmp_path):
    path = tmp_path / "file.bin"
    code = (
        "import pathlib, resource, sys\n"
        "from facemae.core import errors, files\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        "    with files.resume_file(pathlib.Path(sys.argv[1]), 0) as file:\n"
        "        for _ in range(30): file.write(bytes(10_000)); file.flush()\n"
        "except errors.StorageError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, check=True)
    assert f"The disk is full: {path} cannot be written and" in done.stdout
    assert path.stat().st_size == 100_000


def test_publishing_renames_and_syncs_the_folder(tmp_path, monkeypatch):
    finished, path = tmp_path / "finished", tmp_path / "file.bin"
    finished.write_bytes(NEW)
    path.write_bytes(OLD)
    events = []
    sync = files._sync_folder
    monkeypatch.setattr(
        files, "_sync_folder", lambda folder: events.append(path.read_bytes()) or sync(folder)
    )
    files.publish(finished, path)
    assert events == [NEW]
    assert listing(tmp_path) == ["file.bin"]
    with pytest.raises(StorageError, match=r"file\.bin cannot be written \(No such file or directory\)"):
        files.publish(finished, path)
    assert path.read_bytes() == NEW


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EDQUOT, "The disk is full"),
        (errno.EFBIG, "The disk is full"),
        (errno.EACCES, "Permission denied"),
        (errno.EROFS, "Read-only file system"),
    ],
)
def test_errors_of_the_disk_become_one_sentence(tmp_path, number, text):
    path = tmp_path / "not" / "yet" / "there"
    with pytest.raises(StorageError, match=text) as caught, files.storage_errors(path):
        failing(number)()
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_other_errors_are_none_of_the_disk(tmp_path):
    with pytest.raises(KeyError), files.storage_errors(tmp_path):
        raise KeyError


# --- canonical JSON ---

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


def backwards(value):
    """Return the value with the keys of every object in reversed order."""
    if isinstance(value, dict):
        return {key: backwards(value[key]) for key in reversed(value)}
    return [backwards(item) for item in value] if isinstance(value, list) else value


@given(JSON)
def test_canonical_json_depends_on_the_value_alone(value):
    data = files.dump_json(value)
    assert json.loads(data) == value
    assert files.dump_json(backwards(value)) == data
    assert files.dump_json(json.loads(data)) == data


def test_json_keeps_the_order_of_keys_where_it_is_told_to(tmp_path):
    value = {"b": {"z": 1, "a": 2}, "a": 0}
    files.write_json(tmp_path / "a.json", value, sort_keys=False)
    assert json.dumps(json.loads((tmp_path / "a.json").read_text())) == json.dumps(value)
    assert files.dump_json(value) == files.dump_json({"a": 0, "b": {"a": 2, "z": 1}}, sort_keys=False)


def test_canonical_json_by_hand(tmp_path):
    files.write_json(tmp_path / "a.json", {"b": [1, 0.1], "a": "é"})
    assert (tmp_path / "a.json").read_text("utf-8") == '{\n  "a": "é",\n  "b": [\n    1,\n    0.1\n  ]\n}\n'
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="not JSON compliant"):
            files.dump_json([value])


# --- the lock ---

HOLDER = (
    "import pathlib, sys, time\nfrom facemae.core import files\n"
    "with files.exclusive(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(60)"
)


def test_the_lock_names_its_holder_and_dies_with_it(tmp_path):
    path = tmp_path / "state" / "run.lock"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, path], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        for _ in range(2):  # being refused does not free it
            with pytest.raises(UsageError, match=f"in use by process {holder.pid};") as caught:
                files.exclusive(path).__enter__()
        assert caught.value.exit_code == 2
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()
    with files.exclusive(path):
        assert path.read_text() == str(os.getpid())


def test_the_lock_is_free_after_use_and_after_a_failure(tmp_path):
    path = tmp_path / "run.lock"
    with pytest.raises(ZeroDivisionError), files.exclusive(path):
        _ = 1 / 0
    with files.exclusive(path), pytest.raises(UsageError, match=f"process {os.getpid()};"):
        files.exclusive(path).__enter__()
    with files.exclusive(path):
        pass


def test_a_lock_that_cannot_be_made_is_a_storage_error(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StorageError), files.exclusive(tmp_path / "file" / "run.lock"):
        pass


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch):
    def flock(file, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", flock)
    with (
        pytest.raises(StorageError, match=r"without locks \(No locks available\); mount it with them"),
        files.exclusive(tmp_path / ".lock"),
    ):
        pass


@pytest.mark.parametrize("name", [".", "/", "..", "folder"])
def test_a_folder_is_no_file_to_write(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    with pytest.raises(StorageError, match="is a folder and a file is to be written"):
        files.atomic_write(Path(name), b"x")


def test_a_device_or_pipe_is_written_to_and_stays(tmp_path):
    pipe, got = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    files.atomic_write(pipe, b"told")
    reader.join(10)
    assert (got, pipe.is_fifo()) == ([b"told"], True)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "real")
    files.atomic_write(tmp_path / "link", b"told")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"told"
