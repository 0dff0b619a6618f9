"""A gallery in one file: SQLite, with write-ahead log, for one machine.

Deleted bytes are overwritten at once (`secure_delete`), but copies stay in the write-ahead log, and a few
where pages were split or merged (of 6,500 pieces removed, none to three were still found); `wipe` rewrites
the file and empties the log.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import threading
import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import URL, Connection, Table, create_engine, event, inspect
from sqlalchemy.exc import DBAPIError

from facemae.core.errors import FaceMAEError, IntegrityError, StorageError, UsageError
from facemae.recognition.gallery import retention, rows, schema
from facemae.recognition.gallery.schema import COUNTERS
from facemae.recognition.gallery.search import Matrix, Scored

PATIENCE = 60.0  # seconds that a writer waits for its turn
_ROOM = 1_000_000  # bytes
READERS = 10.0  # seconds that wiping waits for those who are reading
MODELS = 2  # whose matrices are held at a time
_BESIDE = ("-wal", "-shm", "-journal")
_MAGIC = b"SQLite format 3\0"  # how every such file begins
_SETTINGS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",  # what is acknowledged survives a power cut
    "PRAGMA secure_delete = ON",
    "PRAGMA foreign_keys = ON",
    "PRAGMA temp_store = MEMORY",  # rewriting the file leaves no copy in a temporary folder
    "PRAGMA trusted_schema = OFF",
)


class Sqlite:
    """The file of a gallery, and its templates in memory."""

    def __init__(self, path: Path, create: bool) -> None:
        """Open the file, or make it if `create` is set."""
        self.path, self._create = path.absolute(), create
        if not create and not os.path.lexists(self.path):
            raise UsageError(_MISSING.format(self.path))
        self._lock = threading.Lock()
        self._matrices: dict[str, tuple[tuple[int, date], Matrix]] = {}
        self._file = _prepare(self.path, create)
        url = URL.create("sqlite", database=str(self.path))
        # Parameters are names and templates, which no message may repeat.
        self.engine = create_engine(
            url, hide_parameters=True, pool_size=8, max_overflow=56, connect_args={"timeout": PATIENCE}
        )
        event.listen(self.engine, "connect", _settle)
        event.listen(self.engine, "begin", _begin)

    def close(self) -> None:
        """Close all connections, and let go of the templates in memory."""
        self.engine.dispose()
        with self._lock:
            self._matrices.clear()

    def create(self, connection: Connection) -> None:
        """Make the tables of a new gallery, inside a transaction that writes; refuse other files."""
        held = inspect(connection).get_table_names()
        if not held and not self._create:
            raise UsageError(_MISSING.format(self.path))
        if held and COUNTERS.name not in held:
            raise IntegrityError(_FOREIGN)
        # A damaged page may hide people instead of failing; reading 200 MB takes a third of a second.
        if held and connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar() != "ok":
            raise IntegrityError(schema.DAMAGED)
        schema.METADATA.create_all(connection)
        _check_columns(connection, COUNTERS)

    def replaced(self) -> bool:
        """Return whether the file was removed or another one put in its place since it was opened."""
        try:
            return _file_of(self.path) != self._file
        except FileNotFoundError:
            return True

    def settle(self, connection: Connection) -> None:
        """Check the columns of the tables, whose names are text in the file as all else."""
        _check_columns(connection, *schema.METADATA.sorted_tables)

    def prepare_model(self, connection: Connection, model: str, dimension: int) -> None:
        """Make ready for the first template of a model: nothing to do here."""

    def sentence(self, error: DBAPIError) -> FaceMAEError | None:
        """Return what a database error means for the user, or None where it is a bug."""
        code = getattr(error.orig, "sqlite_errorcode", 0) & 0xFF  # without the extension
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return IntegrityError(schema.DAMAGED)
        # SQLite also needs room beside the file, and calls its lack an error of input and output.
        if code == sqlite3.SQLITE_IOERR and shutil.disk_usage(self.path.parent).free < _ROOM:
            code = sqlite3.SQLITE_FULL
        return StorageError(_TOLD[code]) if code in _TOLD else None

    def wipe(self) -> tuple[bool, str | None]:
        """Rewrite the file and empty the log; return whether nothing is left behind, else the reason."""
        with self.engine.connect() as connection:
            driver = connection.connection.driver_connection
            assert driver is not None
            try:
                driver.execute("VACUUM")
                emptied = _empty_log(driver)
            except sqlite3.Error as error:
                reason = _NOT_NOW.get(error.sqlite_errorcode & 0xFF)
                if reason is None:
                    raise DBAPIError(None, None, error, hide_parameters=True) from error
                return False, reason
        if not emptied:
            return False, "another program is reading the gallery and keeps its write-ahead log"
        return True, None

    def best(self, queries: NDArray[np.float32], model: str, top: int) -> list[Scored]:
        """Return the `top` people for each query (Q, D), best first."""
        with self._lock:  # held while searching: others would move the rows
            matrix = self._fresh(model)
            return [[] for _ in queries] if matrix is None else matrix.best(queries, top)

    def _fresh(self, model: str) -> Matrix | None:
        """Return the templates of a model as they are now, reading only what has changed."""
        held, matrix = self._matrices.pop(model, ((0, date.min), None))
        with self.engine.connect() as connection:
            counters = rows.counters(connection)
            today = retention.clock(counters["day"]).day
            key = counters["removals"], today
            if matrix is not None and (held > key or not rows.still_holds(connection, matrix)):
                matrix = None  # perhaps an older copy was put in place
            gone = rows.expired(connection, today)
            if matrix is not None and held != key:
                rows.keep(connection, model, matrix, gone)
            matrix = rows.load(connection, model, matrix, gone)
        if matrix is not None:
            self._matrices[model] = key, matrix
            for other in list(self._matrices)[:-MODELS]:
                del self._matrices[other]
        return matrix


_MISSING = "There is no gallery at {}; name another with --gallery, or enrol somebody first."
_FOREIGN = "The gallery's file is a database of another program; choose another file for the gallery."
_BUSY = (
    f"The gallery is busy: another program has been writing to it for {PATIENCE:.0f} seconds; "
    "wait for it to end and try again."
)
_NO_ACCESS = "The gallery's file cannot be read or written; check the permissions of its folder."
_TOLD = {
    sqlite3.SQLITE_BUSY: _BUSY, sqlite3.SQLITE_LOCKED: _BUSY,
    sqlite3.SQLITE_FULL: "The disk is full and the gallery is as it was; make room and try again.",
    sqlite3.SQLITE_READONLY: _NO_ACCESS, sqlite3.SQLITE_CANTOPEN: _NO_ACCESS,
    sqlite3.SQLITE_IOERR: _NO_ACCESS, sqlite3.SQLITE_PERM: _NO_ACCESS, sqlite3.SQLITE_AUTH: _NO_ACCESS,
}  # fmt: skip
_NOT_NOW = {
    sqlite3.SQLITE_BUSY: "another program is writing to the gallery",
    sqlite3.SQLITE_LOCKED: "another program is writing to the gallery",
    sqlite3.SQLITE_FULL: "the disk is too full to rewrite the gallery",
}


def _prepare(path: Path, create: bool) -> tuple[int, int]:
    """Make folder and file where they are missing, for nobody but their owner; return which file it is."""
    try:
        path.parent.mkdir(parents=True, mode=0o700, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        for each in (path, *(path.parent / f"{path.name}{end}" for end in _BESIDE)):
            if each.is_symlink() or (each.exists() and not each.is_file()):
                raise IntegrityError(
                    "The gallery's file is a link, a folder or a device; name the file itself."
                )
        _check_own(path, create)
        if path.stat().st_mode & 0o077:  # the log beside it gets the same permissions from SQLite
            path.chmod(0o600)
        return _file_of(path)
    except OSError as error:
        raise StorageError(
            f"The gallery's file cannot be opened ({error.strerror}); check its folder's permissions."
        ) from error


def _check_own(path: Path, create: bool) -> None:
    """Stop before anything is changed if the file is no gallery, nor empty where one is to be made.

    SQLite is told that nobody writes to the file: else it would make others beside it. It does not see then
    what is in the write-ahead log alone, so the name of a table is looked for there.
    """
    with open(path, "rb") as file:
        if file.read(len(_MAGIC)) not in (b"", _MAGIC):
            raise IntegrityError(schema.DAMAGED)
    log, name = path.with_name(f"{path.name}-wal"), COUNTERS.name.encode()
    for wait in (0.0, 0.1, 1.0):  # another process may be making the tables
        time.sleep(wait)
        logged = log.read_bytes() if log.exists() else b""
        tables = [] if name in logged else _tables(path)
        if tables or not logged or name in logged:
            break
    if name in logged or name in tables:
        return
    if tables or logged:
        raise IntegrityError(_FOREIGN)
    if not create:
        raise UsageError(_MISSING.format(path))


def _tables(path: Path) -> list[bytes]:
    """Return the tables of a file to which nobody writes; an IntegrityError if it is damaged."""
    try:
        with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro&immutable=1", uri=True)) as held:
            held.text_factory = bytes
            return [row[0] for row in held.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:  # of a message that repeats a damaged name
        raise IntegrityError(schema.DAMAGED) from error


def _check_columns(connection: Connection, *tables: Table) -> None:
    for table in tables:
        found = connection.exec_driver_sql(f"PRAGMA table_info({table.name})").all()
        if {row[1] for row in found} != {column.name for column in table.columns}:
            raise IntegrityError(schema.DAMAGED)


def _file_of(path: Path) -> tuple[int, int]:
    """Return which file a path names now."""
    found = path.stat(follow_symlinks=False)
    return found.st_dev, found.st_ino


def _settle(connection: Any, record: Any) -> None:
    """Set a new connection up; transactions are begun by `_begin` instead of by the driver."""
    connection.isolation_level = None
    # A flipped bit may leave bytes that are no text; then the checksum is wrong.
    connection.text_factory = lambda data: data.decode(errors="replace")
    ending = time.monotonic() + PATIENCE
    for setting in _SETTINGS:
        while True:
            try:
                connection.execute(setting)
                break
            except sqlite3.OperationalError as error:
                # Turning the log on in a new file needs it alone, and SQLite does not wait for that.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > ending:
                    raise
                time.sleep(0.02)
            except UnicodeDecodeError as error:  # a name of a table, which the message would repeat
                raise IntegrityError(schema.DAMAGED) from error


def _empty_log(driver: Any) -> bool:
    """Bring the log into the file and cut it to nothing; return False where others are in the way."""
    ending = time.monotonic() + READERS
    driver.execute(f"PRAGMA busy_timeout = {READERS * 1000:.0f}")
    try:
        # SQLite waits for readers, but not for another one who is emptying the log.
        while driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]:
            if time.monotonic() > ending:
                return False
            time.sleep(0.02)
    finally:
        driver.execute(f"PRAGMA busy_timeout = {PATIENCE * 1000:.0f}")
    return True


def _begin(connection: Connection) -> None:
    writes = connection.get_execution_options().get("gallery_writes", False)
    # A transaction that reads first and then writes could not wait for its turn.
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
