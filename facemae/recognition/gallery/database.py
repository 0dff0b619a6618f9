"""A gallery's database: opened and brought up to date; transactions that overwrite what they remove."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Self

from sqlalchemy import Connection, insert, make_url, select, update
from sqlalchemy.exc import ArgumentError, DBAPIError, TimeoutError

from facemae.core.errors import StorageError, UsageError
from facemae.recognition.gallery import rows, schema
from facemae.recognition.gallery.postgres import Postgres
from facemae.recognition.gallery.schema import COUNTERS
from facemae.recognition.gallery.sqlite import Sqlite
from facemae.recognition.settings import file_of


class ResidueWarning(UserWarning):
    """Something was removed, and copies of it may be left in a file or on the server."""


class Database:
    """An SQLite file or a PostgreSQL database with the tables of a gallery.

    Attributes:
        residue: Why the last removal may have left something behind, as a sentence; None if it has not.
    """

    def __init__(self, url: str | Path, create: bool) -> None:
        """Open a database, or make its tables if `create` is set; `url` as `store.Gallery` takes it."""
        self._create = create
        self._backend = _backend(url, create)
        self._opening = threading.RLock()
        self.residue: str | None = None
        try:
            self._open()
            self._wipe()  # what a process that was killed had no time for
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections and forget all templates; the last to close a file empties its log."""
        self._backend.close()

    def _open(self) -> None:
        """Make the tables where they are missing, and bring those of an earlier FaceMAE up to this one's."""
        with self._transaction(writes=True) as connection:
            self._backend.create(connection)
            held = dict(connection.execute(select(COUNTERS.c.name, COUNTERS.c.value)).tuples().all())
            if not held:
                first = [{"name": name, "value": value} for name, value in schema.FIRST.items()]
                connection.execute(insert(COUNTERS), first)
            elif held.get("schema") in (1, 2):
                rows.upgrade(connection, held["schema"])
            self._backend.settle(connection)
            rows.counters(connection)

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool = False) -> Iterator[Connection]:
        options: dict[str, bool] = {"gallery_writes": writes}
        with (
            self._told(),  # which may open the file again, with another engine
            self._backend.engine.connect().execution_options(**options) as connection,
            connection.begin(),
        ):
            yield connection

    @contextlib.contextmanager
    def _writing(self, *counters: Literal["removals"]) -> Iterator[Connection]:
        """Begin a transaction that writes, after all others of this gallery have ended."""
        with self._transaction(writes=True) as connection:
            # On a server the row's lock makes the writers take turns; in a file the database does.
            counted = COUNTERS.c.name.in_(["revision", *counters])
            connection.execute(update(COUNTERS).where(counted).values(value=COUNTERS.c.value + 1))
            yield connection

    @contextlib.contextmanager
    def _removing(self) -> Iterator[Connection]:
        """Begin a transaction after which what it took away is overwritten on the disk."""
        with self._writing("removals") as connection:
            yield connection
        self._wipe()

    def _wipe(self) -> None:
        """Overwrite what was removed since the last time, unless another process has done so."""
        with self._transaction() as connection:
            held = rows.counters(connection)
        if held["wiped"] >= held["removals"]:
            return
        with self._told():
            done, reason = self._backend.wipe()
        if done:
            older = (COUNTERS.c.name == "wiped") & (COUNTERS.c.value < held["removals"])
            with self._transaction(writes=True) as connection:
                connection.execute(update(COUNTERS).where(older).values(value=held["removals"]))
        self.residue = None
        if reason is not None:
            retry = "" if done else ", which is tried again with the next removal or opening"
            self.residue = f"It is removed, and bytes of it may be left on the disk: {reason}{retry}."
            warnings.warn(self.residue, ResidueWarning, stacklevel=4)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the database's errors into sentences, and open a file that was replaced again."""
        with self._opening:
            if isinstance(self._backend, Sqlite) and self._backend.replaced():
                self.close()
                self._backend = Sqlite(self._backend.path, self._create)
                self._open()
        try:
            yield
        except DBAPIError as error:
            refusal = self._backend.sentence(error)
            if refusal is None:
                raise
            raise refusal from error
        except TimeoutError as error:
            raise StorageError("The gallery is busy with other requests; try again in a moment.") from error


def _backend(url: str | Path, create: bool) -> Sqlite | Postgres:
    file = file_of(str(url))
    if file is not None:
        return Sqlite(file, create)
    try:
        parsed = make_url(str(url))
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The address may hold a password, so it is not repeated, nor is the error that repeats it.
        kind, parsed = "", None
    if kind == "postgresql" and parsed is not None:
        return Postgres(parsed, create)
    raise UsageError(
        "The gallery's address cannot be read; give a file, or postgresql://user:password@host/database."
    )
