"""The only writer: atomic, durable files and folders, checksums, and a lock that dies with its process.

Whatever writes raises a StorageError where the disk is full or the folder cannot be written. What an atomic
writer was to replace is untouched then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from facemae.core.errors import StorageError, UsageError


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's content, read in blocks."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_of_unchanged(path: Path) -> str:
    """Return `sha256_of` a file that is asked for often: read again once its time or size is another."""
    state = path.stat()
    return _sha256_at(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=64)
def _sha256_at(path: Path, changed: int, size: int) -> str:
    return sha256_of(path)


def atomic_write(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace `path` by `data` so that a reader or a kill sees the old file or the new one, never half."""
    with atomic_file(path, len(data), private=private) as file:
        file.write(data)


@contextlib.contextmanager
def atomic_file(path: Path, needed: int = 0, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a file that replaces `path`, as `atomic_write` does, when the block ends without an error.

    `needed` says how many bytes it will take, for the message when the disk is full; a private file is for
    its owner alone, from its first byte on. A link is followed, and a device or pipe, such as /dev/null, is
    written to and stays.
    """
    if path.is_dir():
        raise StorageError(f"{path} is a folder and a file is to be written; name a file in it.")
    if path.exists() and not path.is_file():
        with storage_errors(path), open(path, "wb") as file:
            yield file
        return
    target = Path(os.path.realpath(path))
    temporary = target.with_name(f".{target.name}.tmp")  # a fixed name: what a kill left is written over
    try:
        with storage_errors(path, needed):
            target.parent.mkdir(parents=True, exist_ok=True)
            if private:
                temporary.unlink(missing_ok=True)
            with open(
                temporary, "wb", opener=(lambda name, flags: os.open(name, flags, 0o600)) if private else None
            ) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(target)
            _sync_folder(target.parent)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: Path, needed: int = 0) -> Iterator[Path]:
    """Yield an empty folder to fill, which becomes `path` when the block ends without an error."""
    partial = path.with_name(f".{path.name}.partial")  # a fixed name: what a kill left is cleared away
    try:
        with storage_errors(path, needed):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
        yield partial
        with storage_errors(path, needed):
            os.sync()
            partial.replace(path)
            _sync_folder(path.parent)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def private_folder(path: Path) -> Path:
    """Make a folder, if it is not there, and let nobody but its owner look into it; return it."""
    with storage_errors(path):
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
    return path


@contextlib.contextmanager
def resume_file(path: Path, size: int) -> Iterator[BinaryIO]:
    """Open a file to go on writing after its first `size` bytes; what lies beyond them is cut off."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "ab") as file:
            file.truncate(size)
            yield file
            file.flush()
            os.fsync(file.fileno())


def publish(finished: Path, path: Path) -> None:
    """Rename a finished, synced file to the name under which others look for it."""
    with storage_errors(path):
        finished.replace(path)
        _sync_folder(path.parent)


def write_blocks(path: Path, blocks: Iterable[bytes]) -> int:
    """Write a new file inside a folder that `atomic_folder` yielded, and return its size."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "xb") as file:
            return sum(file.write(block) for block in blocks)


def append_line(path: Path, line: str) -> None:
    """Add a line to a log; a kill may tear the last one, which `records.read_log` leaves out."""
    with storage_errors(path, len(line)):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")


@contextlib.contextmanager
def storage_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Turn the operating system's error while writing `path` into a StorageError about the disk."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise StorageError(
                f"{path} cannot be written ({error.strerror}); check the folder's permissions."
            ) from error
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        free = shutil.disk_usage(folder).free
        wanted = f"{path} needs {needed / 1e6:.1f} MB" if needed else f"{path} cannot be written"
        raise StorageError(
            f"The disk is full: {wanted} and {free / 1e6:.1f} MB are free; "
            "make room and run the same command again, it goes on where it was."
        ) from error


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump_json(value: Any, *, sort_keys: bool = True) -> bytes:
    """Encode `value` as canonical JSON: two spaces, a trailing newline, and keys sorted or in their order."""
    text = json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode()


def write_json(path: Path, value: Any, *, sort_keys: bool = True) -> None:
    """Write `value` to `path` atomically as canonical JSON."""
    atomic_write(path, dump_json(value, sort_keys=sort_keys))


def is_held(path: Path) -> bool:
    """Tell whether a live process of this machine holds the lock file `path`; it is not kept from others."""
    try:
        with open(path, "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or the file system knows no locks
        return False
    return False


@contextlib.contextmanager
def exclusive(path: Path, *, waits: bool = False) -> Iterator[None]:
    """Hold the lock file `path`, which is made; the kernel frees it when the process ends, however it ends.

    Raises:
        UsageError: another live process holds it, and `waits` does not ask to wait for that one.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed below
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if waits else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise _in_use(path) from error
        except OSError as error:
            raise StorageError(
                f"{path.parent} is on a file system without locks ({error.strerror}); mount it with them "
                "(NFS 4, or Lustre with -o flock), or choose another folder."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def check_free(path: Path) -> None:
    """Stop with a UsageError if another live process holds the lock file `path`; it may be missing."""
    if is_held(path):
        raise _in_use(path)


def _in_use(path: Path) -> UsageError:
    holder = path.read_text().strip() or "unknown"
    return UsageError(f"{path.parent} is in use by process {holder}; wait for it to end, or stop it first.")
