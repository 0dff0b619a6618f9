"""A gallery on a server: PostgreSQL with pgvector, for many processes and machines.

Nothing is held in memory: an HNSW index (Malkov and Yashunin, 2018) names candidates, which are scored
exactly. It finds nearly all, not all; each model has an index of its own.
"""

from __future__ import annotations

import hashlib
import importlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError, ProgrammingError

from facemae.core.errors import FaceMAEError, StorageError, UsageError
from facemae.recognition.gallery import rows, schema
from facemae.recognition.gallery.schema import PEOPLE, TEMPLATES
from facemae.recognition.gallery.search import Scored, best_people, exact_scores

READERS = 10.0  # seconds that wiping waits for those who still see what was removed
_CANDIDATES = 20  # times the people asked for
_EXACT = 2000  # candidates beyond which the index is left aside
_INDEXED = 2000  # numbers that an HNSW index takes; longer templates are searched without
_MAKING, _WIPING = 0x66616365, 0x66616366  # advisory locks
_NEEDED = (0, 8)  # pgvector's version: earlier ones end a scan too early
_LOCKED = "55P03"  # the state of a statement that gave up waiting for a lock
_NO_EXTENSION = (
    "The gallery's database needs pgvector 0.8 or newer; ask whoever runs it for CREATE EXTENSION vector."
)
# What keeps old write-ahead log, and so what was removed, for longer than the next checkpoint.
_KEEPERS = {"wal_recycle": "off", "archive_mode": "off", "wal_keep_size": "0"}


class Postgres:
    """A gallery's database on a server."""

    def __init__(self, url: sa.URL, create: bool) -> None:
        """Prepare connections; none is made yet. Tables are made later if `create` is set."""
        for package in ("psycopg", "pgvector"):
            try:
                importlib.import_module(package)
            except ImportError as error:
                raise UsageError(
                    f"A gallery on a server takes the package {package}; run: make extras"
                ) from error
        self._create = create
        url = url.set(drivername="postgresql+psycopg")
        waits = {} if "connect_timeout" in url.query else {"connect_timeout": 10}
        # Parameters are names and templates, which no message may repeat.
        self.engine = sa.create_engine(
            url, hide_parameters=True, pool_pre_ping=True, pool_size=8, max_overflow=24, connect_args=waits
        )
        sa.event.listen(self.engine, "connect", _settle)

    def close(self) -> None:
        """Close all connections."""
        self.engine.dispose()

    def create(self, connection: sa.Connection) -> None:
        """Make the tables of a new gallery, inside a transaction that writes; refuse what has no pgvector."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_MAKING)))
        _check_extension(connection)
        if sa.inspect(connection).has_table(PEOPLE.name):
            return
        if not self._create:
            raise UsageError("There is no gallery in this database; name another, or enrol somebody first.")
        schema.METADATA.create_all(connection)

    def settle(self, connection: sa.Connection) -> None:
        """Keep values out of the planner's statistics, which are samples that would outlive a person."""
        hidden = {
            PEOPLE: ["name", "digest"],
            TEMPLATES: ["vector", "digest", "thumbnail", "thumbnail_digest"],
        }
        for table, columns in hidden.items():
            unset = (
                "SELECT count(*) FROM pg_attribute WHERE attrelid = CAST(:table AS regclass) "
                "AND attname = ANY(:columns) AND attstattarget IS DISTINCT FROM 0"
            )
            if connection.scalar(sa.text(unset), {"table": table.name, "columns": columns}):
                changes = ", ".join(f"ALTER {column} SET STATISTICS 0" for column in columns)
                connection.execute(sa.text(f"ALTER TABLE {table.name} {changes}"))

    def prepare_model(self, connection: sa.Connection, model: str, dimension: int) -> None:
        """Make the index of a model that has no template yet, inside a transaction that writes.

        `dimension` is of its templates; those of more than 2000 numbers get no index.
        """
        name = "ix_gallery_hnsw_" + hashlib.sha256(model.encode()).hexdigest()[:16]
        connection.execute(sa.text(f"DROP INDEX IF EXISTS {name}"))
        if dimension > _INDEXED:
            return
        quoted = sa.literal(model).compile(dialect=connection.dialect, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(
            f"CREATE INDEX {name} ON {TEMPLATES.name} USING hnsw ((vector::vector({dimension})) "
            f"vector_ip_ops) WHERE model = {quoted}"
        )
        connection.execute(sa.text(f"ALTER INDEX {name} ALTER COLUMN 1 SET STATISTICS 0"))

    def sentence(self, error: DBAPIError) -> FaceMAEError | None:
        """Return what a database error means for the user, or None where it is a bug."""
        state = getattr(error.orig, "sqlstate", None) or ""
        if state == "42501":
            return UsageError(
                "The gallery's account may not do this on its server; give it the rights to its tables."
            )
        if state in ("53100", "53200"):
            return StorageError("The gallery's server is out of disk or memory; make room and try again.")
        if isinstance(error, OperationalError | InterfaceError):
            return StorageError(
                "The gallery's server cannot be reached or refuses the account; check that it runs, and the "
                "address and password of gallery.url."
            )
        return None

    def best(self, queries: NDArray[np.float32], model: str, top: int) -> list[Scored]:
        """Return the `top` people for each query (Q, D), best first."""
        with self.engine.connect() as connection:
            connection.execute(sa.text("SET LOCAL hnsw.iterative_scan = relaxed_order"))
            gone = rows.expired(connection, rows.clock(connection).day)
            return [_search(connection, query, model, top, gone) for query in queries]

    def wipe(self) -> tuple[bool, str | None]:
        """Rewrite the tables and let go of the old log.

        Returns whether the tables hold nothing of what was removed, and what else may, in words.
        """
        automatic = self.engine.execution_options(isolation_level="AUTOCOMMIT")
        with automatic.connect() as connection:
            # Not with pg_advisory_lock: one who waits in it still sees what was removed.
            while not connection.scalar(sa.select(sa.func.pg_try_advisory_lock(_WIPING))):
                time.sleep(0.05)
            try:
                if not _owned(connection):
                    return False, "the account does not own the tables and may not rewrite them"
                if not (_wait_for_readers(connection) and _rewrite(connection)):
                    return False, "a transaction on the server still sees what was removed"
                return True, _end_log(connection)
            finally:
                connection.execute(sa.select(sa.func.pg_advisory_unlock(_WIPING)))


def _settle(connection: Any, record: Any) -> None:
    """Set a new connection up: what is acknowledged is on the disk, whatever the server's default."""
    with connection.cursor() as cursor:
        cursor.execute("SET synchronous_commit = on")
    connection.commit()


def _check_extension(connection: sa.Connection) -> None:
    version = "SELECT extversion FROM pg_extension WHERE extname = 'vector'"
    try:
        if connection.scalar(sa.text(version)) is None:
            connection.execute(sa.text("CREATE EXTENSION vector"))
        found = str(connection.scalar(sa.text(version)))
    except (OperationalError, ProgrammingError) as error:
        raise UsageError(_NO_EXTENSION) from error
    if tuple(int(part) for part in found.split(".")[:2]) < _NEEDED:
        raise UsageError(_NO_EXTENSION)


def _search(
    connection: sa.Connection, query: NDArray[np.float32], model: str, top: int, gone: NDArray[np.int64]
) -> Scored:
    """Return the `top` people for one query (D,), asking for more candidates until there are as many."""
    wanted = _CANDIDATES * top
    while True:
        near = _nearest(connection, query, model, wanted)
        found: Scored = []
        if near:
            owners = np.array([row["person"] for row in near], np.int64)
            kept = ~np.isin(owners, gone)
            vectors = schema.unpacked([row["vector"] for row in near])[kept]
            found = best_people(owners[kept], exact_scores(vectors, query), top)
        # Fewer people than asked for: a few with many photos may hide the others, or the index ran dry.
        if len(found) == top or (wanted > _EXACT and len(near) < wanted):
            return found
        wanted = wanted * 10 if len(near) == wanted else max(wanted * 10, _EXACT + 1)


def _nearest(
    connection: sa.Connection, query: NDArray[np.float32], model: str, limit: int
) -> Sequence[sa.RowMapping]:
    """Return the rows of the nearest templates, by the index up to `_EXACT` of them."""
    from pgvector.sqlalchemy import VECTOR

    kind = VECTOR(len(query))
    # Said outright: without fresh statistics the planner takes them for few and sorts all of them.
    indexed = limit <= _EXACT
    connection.execute(sa.text(f"SET LOCAL enable_indexscan = {'on' if indexed else 'off'}"))
    connection.execute(sa.text(f"SET LOCAL enable_sort = {'off' if indexed else 'on'}"))
    connection.execute(sa.text(f"SET LOCAL hnsw.ef_search = {min(max(limit, 40), 1000)}"))
    # The partial index serves only a query in which the model stands as a constant, and looks dear to the
    # planner in one that does not say how many rows it wants.
    of_model = TEMPLATES.c.model == sa.bindparam("model", model, literal_execute=True)
    distance = sa.cast(TEMPLATES.c.vector, kind).op("<#>")(sa.bindparam("query", query, type_=kind))
    nearest = rows.TEMPLATE.where(of_model).order_by(distance)
    return rows.template_rows(connection, nearest.limit(sa.bindparam("most", limit, literal_execute=True)))


def _owned(connection: sa.Connection) -> bool:
    """Return whether the account may rewrite the tables; PostgreSQL passes over others without an error."""
    owned = "SELECT bool_and(pg_has_role(relowner, 'USAGE')) FROM pg_class WHERE relname = ANY(:names)"
    found = connection.scalar(sa.text(owned), {"names": [PEOPLE.name, TEMPLATES.name]})
    return bool(found)


def _wait_for_readers(connection: sa.Connection) -> bool:
    """Wait until no transaction sees what was removed before now; return whether that is so."""
    now = connection.scalar(sa.text("SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text"))
    older = sa.text(
        "SELECT count(*) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = current_database()"
        " AND backend_xmin IS NOT NULL AND age(backend_xmin) > age(CAST(:now AS xid))"
    )
    ending = time.monotonic() + READERS
    while connection.scalar(older, {"now": now}):
        if time.monotonic() > ending:
            return False
        time.sleep(0.05)
    return True


def _rewrite(connection: sa.Connection) -> bool:
    """Write the tables without what was removed; return whether nobody was using them for too long."""
    connection.execute(sa.text(f"SET lock_timeout = {READERS * 1000:.0f}"))
    try:
        for table in (TEMPLATES, PEOPLE):
            connection.execute(sa.text(f"VACUUM (FULL) {table.name}"))
    except OperationalError as error:
        if getattr(error.orig, "sqlstate", None) != _LOCKED:
            raise
        return False
    finally:
        connection.execute(sa.text("RESET lock_timeout"))
    return True


def _end_log(connection: sa.Connection) -> str | None:
    """Begin new write-ahead log and let go of the old; return what keeps it nevertheless, in words."""
    try:
        for statement in ("CHECKPOINT", "SELECT pg_switch_wal()", "CHECKPOINT"):
            connection.execute(sa.text(statement))
    except (OperationalError, ProgrammingError):
        return "the account may not end the server's write-ahead log, which keeps it for a while"
    for setting, wanted in _KEEPERS.items():
        if connection.scalar(sa.select(sa.func.current_setting(setting))) != wanted:
            return f"the server keeps its write-ahead log: {setting} is not {wanted}"
    replicas = (
        "SELECT (SELECT count(*) FROM pg_replication_slots) + (SELECT count(*) FROM pg_stat_replication)"
    )
    return "a replica keeps the server's write-ahead log" if connection.scalar(sa.text(replicas)) else None
