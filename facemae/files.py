"""The only writer: atomic, durable files, their checksums, and a lock that dies with its process."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from facemae.errors import StorageError, UsageError


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def atomic_write(path: Path, data: bytes) -> None:
    """Replace `path` by `data` so that a reader or a kill sees the old file or the new one, never half.

    The bytes and the folder entry are synced before and after the rename.

    Raises:
        StorageError: the disk is full or the folder cannot be written; `path` is untouched.
    """
    temporary = path.with_name(
        f".{path.name}.tmp"
    )  # a fixed name: a kill leaves one, the next write takes it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise _storage_error(path, len(data), error) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a log; a kill may tear the last one, which `results.read_log` leaves out.

    Raises:
        StorageError: the disk is full or the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "a", encoding="utf-8") as file:
            file.write(line + "\n")
    except OSError as error:
        raise _storage_error(path, len(line), error) from error


def _storage_error(path: Path, needed: int, error: OSError) -> StorageError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        folder = next(parent for parent in path.parents if parent.exists())
        free = shutil.disk_usage(folder).free
        return StorageError(
            f"The disk is full: {path} needs {needed / 1e6:.1f} MB and {free / 1e6:.1f} MB are free; "
            "make room and run the same command again, it goes on from the last checkpoint."
        )
    return StorageError(f"{path} cannot be written ({error.strerror}); check the folder's permissions.")


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def dump_json(value: Any, *, sort_keys: bool = True) -> bytes:
    """Encode `value` as canonical JSON: two spaces, one trailing newline, and keys sorted.

    With `sort_keys` False they keep their order, where it means something.
    """
    text = json.dumps(value, indent=2, sort_keys=sort_keys, allow_nan=False, ensure_ascii=False)
    return f"{text}\n".encode()


def write_json(path: Path, value: Any, *, sort_keys: bool = True) -> None:
    """Write `value` to `path` atomically as canonical JSON."""
    atomic_write(path, dump_json(value, sort_keys=sort_keys))


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock file `path`; the kernel frees it when the process ends, however it ends.

    Raises:
        UsageError: another live process holds it.
        StorageError: it cannot be made.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = open(path, "a+")  # noqa: SIM115 - closed below
    except OSError as error:
        raise _storage_error(path, 0, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise UsageError(
                f"{path.parent} is in use by process {holder}; wait for it to end, or stop it first."
            ) from error
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
