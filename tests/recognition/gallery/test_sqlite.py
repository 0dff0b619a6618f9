import contextlib
import hashlib
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from datetime import date
from types import SimpleNamespace

import numpy as np
import pytest
from recognition.gallery.test_schema import png
from sqlalchemy.exc import DBAPIError

from facemae.core.errors import IntegrityError, StorageError, UsageError
from facemae.recognition.gallery import retention, rows, sqlite
from facemae.recognition.gallery.schema import Template, digest
from facemae.recognition.gallery.sqlite import Sqlite
from facemae.recognition.gallery.store import Gallery


@pytest.fixture
def gallery(in_file):
    with Gallery(in_file) as made:
        yield made


def test_file_and_folder_are_their_owners_alone(gallery, enrol, in_file):
    enrol(gallery, "Ada", [1, 0])
    assert stat.S_IMODE(in_file.parent.stat().st_mode) == 0o700
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in in_file.parent.iterdir()}
    assert modes == {f"gallery.sqlite{end}": 0o600 for end in ("", "-wal", "-shm")}


def test_a_file_that_others_could_read_is_shut(gallery, in_file):
    gallery.close()
    in_file.chmod(0o644)
    Gallery(in_file).close()
    assert stat.S_IMODE(in_file.stat().st_mode) == 0o600


def test_an_address_may_be_a_path_a_text_or_a_url(tmp_path, enrol):
    path = tmp_path / "a b?c#d%20.sqlite"
    for number, address in enumerate([path, str(path)]):
        with Gallery(address) as gallery:
            enrol(gallery, f"{number}", [1, 0])
    plain = tmp_path / "plain"
    with Gallery(f"sqlite:///{plain}") as gallery:
        enrol(gallery, "Ada", [1, 0])
    with Gallery(plain) as gallery:
        assert len(gallery.people()) == 1
    with Gallery(path) as gallery:
        assert len(gallery.people()) == 2
    assert {each.name for each in tmp_path.iterdir()} == {path.name, "plain"}


@pytest.mark.parametrize("address", ["mysql://a:secret@b/c", "foo://secret", "sqlite://", "http://[secret"])
def test_an_address_that_is_none_is_refused_without_being_repeated(address):
    with pytest.raises(UsageError, match="address cannot be read") as refused:
        Gallery(address)
    assert "secret" not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("beside", ["", "-wal", "-shm", "-journal"])
def test_a_link_is_refused(tmp_path, beside):
    target = tmp_path / "target"
    target.write_bytes(b"")
    path = tmp_path / "gallery.sqlite"
    (tmp_path / f"gallery.sqlite{beside}").symlink_to(target)
    with pytest.raises(IntegrityError, match="link"):
        Gallery(path)
    assert target.read_bytes() == b""


def test_a_folder_or_a_pipe_is_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(IntegrityError, match="folder or a device"):
            Gallery(path)


def photos_in_a_log(path):
    """Leave a database of another program as a kill does: all that it holds is in its write-ahead log."""
    code = (
        f"import os, sqlite3; held = sqlite3.connect({str(path)!r}); "
        "held.execute('PRAGMA journal_mode = WAL'); held.execute('CREATE TABLE photos (id INTEGER)'); "
        "held.commit(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def photos_in_a_file(path):
    with contextlib.closing(sqlite3.connect(path)) as held:
        held.execute("CREATE TABLE photos (id INTEGER)")


def nothing_yet(path):
    path.touch()


def no_tables(path):
    with contextlib.closing(sqlite3.connect(path)) as held:
        held.execute("PRAGMA user_version = 7")


@pytest.mark.parametrize(("make", "create"), [
    (photos_in_a_file, True), (photos_in_a_file, False), (photos_in_a_log, True), (photos_in_a_log, False),
    (nothing_yet, False), (no_tables, False),
])  # fmt: skip
def test_a_file_that_is_no_gallery_is_refused_and_stays_as_it_was(in_file, make, create):
    in_file.parent.mkdir()
    make(in_file)
    in_file.chmod(0o644)

    def state():
        return {each.name: (each.read_bytes(), each.stat().st_mode, each.stat().st_mtime_ns)
                for each in in_file.parent.iterdir()}  # fmt: skip

    before = state()
    told = (UsageError, "no gallery") if make in (nothing_yet, no_tables) else (IntegrityError, "another")
    with pytest.raises(told[0], match=told[1]):
        Gallery(in_file, create=create)
    assert state() == before


def test_a_gallery_whose_tables_are_in_its_log_alone_is_opened(in_file):
    """As after a kill just behind the first transaction."""
    code = (
        "import os, sys; from facemae.recognition.gallery.store import Gallery; "
        f"Gallery({str(in_file)!r}); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    assert b"gallery_counters" not in in_file.read_bytes()
    with Gallery(in_file, create=False) as again:
        assert again.people() == []


def test_a_newer_gallery_is_refused(gallery, in_file):
    gallery.close()
    with sqlite3.connect(in_file) as connection:
        connection.execute("UPDATE gallery_counters SET value = 4 WHERE name = 'schema'")
    with pytest.raises(IntegrityError, match="schema 4 and this FaceMAE knows 3"):
        Gallery(in_file)


def test_what_is_no_database_is_refused_and_left_alone(in_file):
    in_file.parent.mkdir()
    in_file.write_bytes(b"These are my notes.\n" * 500)
    in_file.chmod(0o644)
    with pytest.raises(IntegrityError, match="damaged or not a gallery"):
        Gallery(in_file)
    assert in_file.read_bytes() == b"These are my notes.\n" * 500
    assert in_file.stat().st_mode & 0o777 == 0o644
    with pytest.raises(IntegrityError, match="is a link, a folder or a device"):
        Gallery("/")


def test_a_damaged_file_is_told_in_a_sentence(gallery, enrol, in_file):
    """Wherever the bytes are wrong: the answer is right or refused, and nothing else is raised."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 64))
    for number, vector in enumerate(vectors):
        enrol(gallery, f"Person {number}", vector)
    gallery.close()
    whole, told = in_file.read_bytes(), []
    for start in range(0, len(whole) - 1000, 1500):
        damaged = bytearray(whole)
        damaged[start : start + 1000] = random.bytes(1000)
        in_file.write_bytes(damaged)
        try:
            with Gallery(in_file) as again:
                found = again.search(vectors, "model-a", top=1)
                assert [each.person.name for (each,) in found] == [f"Person {number}" for number in range(40)]
                assert len(again.export()["people"]) == 40
        except IntegrityError as error:
            told.append(str(error))
    assert len(told) > len(whole) / 1500 / 2
    assert all("damaged" in each for each in told)


def everything(gallery, vectors):
    people = gallery.people()
    found = [[(each.person.name, each.score) for each in row] for row in gallery.search(vectors, "model-a")]
    return gallery.export()["people"], people, gallery.thumbnails(people), gallery.models(), found


def test_no_flipped_bit_changes_anything_unnoticed(gallery, in_file, until):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(6, 16)).astype(np.float32)
    for number, vector in enumerate(vectors):
        pictured = Template(vector, "model-a", 0.5, png(20, 20))
        gallery.enrol(f"Person {number}", [pictured], consent=True, retain_until=until)
    told, _ = everything(gallery, vectors), gallery.close()
    whole, refused = in_file.read_bytes(), 0
    for number in range(80):  # half of them in the first page, with the names of tables and columns
        place = int(random.integers(4096 if number % 2 else len(whole)))
        damaged = bytearray(whole)
        damaged[place] ^= 1 << random.integers(8)
        in_file.write_bytes(damaged)
        try:
            with Gallery(in_file) as again:
                assert everything(again, vectors) == told, place
        except IntegrityError:
            refused += 1
    assert refused > 10


@pytest.mark.parametrize(("table", "change"), [
    ("people", "consent = '2020-01-01 00:00:00.000000'"),
    ("people", "created = 'yesterday'"),
    ("people", "retain_until = '2020-01-01'"),
    ("people", "retain_until = '2028-01-01'"),
    ("people", "name = 'Eve'"),
    ("people", "id = 3"),
    ("templates", "created = '2020-01-01 00:00:00.000000'"),
    ("templates", "quality = 0.5"),
    ("templates", "person = 2"),
    ("templates", "person = 999"),
    ("people", "retain_until = '0000-99-99'"),
    ("templates", "thumbnail_digest = NULL"),
    ("templates", "thumbnail = x'00'"),
])  # fmt: skip
def test_a_changed_row_is_told_and_its_person_can_be_removed(gallery, enrol, until, in_file, table, change):
    pictured = Template(np.ones(2, np.float32), "model-a", 0.25, png(20, 20))
    person = gallery.enrol("Ada", [pictured], consent=True, retain_until=until)
    enrol(gallery, "Bob", [1, 0])
    gallery.close()
    with sqlite3.connect(in_file) as connection:
        connection.execute(f"UPDATE gallery_{table} SET {change} WHERE id = 1")
    with pytest.raises(IntegrityError, match="damaged"), Gallery(in_file) as again:
        everything(again, np.ones((1, 2)))
    with Gallery(in_file, purge=False) as again:
        assert again.count() == 2
        again.remove(3 if change == "id = 3" else person.id)
        assert [each.name for each in again.people()] == ["Bob"]
        if "person = 2" not in change:  # that template is Bob's, whom the message names
            assert len(again.search(np.ones((1, 2)), "model-a")[0]) == 1


def test_a_gallery_of_the_first_schema_is_brought_up_to_date(in_file):
    vector = np.array([0.6, 0.8], ">f4").tobytes()
    digest = hashlib.sha256(vector + b"model-a").hexdigest()
    in_file.parent.mkdir()
    with contextlib.closing(sqlite3.connect(in_file)) as held:
        held.executescript(FIRST_SCHEMA)
        picture, created = png(20, 20), "2026-01-02 03:04:05.000006"
        template = (1, 1, "model-a", vector, digest, 0.5, picture, created)
        held.execute("INSERT INTO gallery_templates VALUES (?, ?, ?, ?, ?, ?, ?, ?)", template)
        held.commit()
    with Gallery(in_file, purge=False) as gallery:
        [told] = gallery.export()["people"]
        assert told["consent"] == "2026-01-02T03:04:05.000006+00:00"
        assert gallery.thumbnails(gallery.people()) == {1: picture}
        assert gallery.search(np.array([[3.0, 4.0]]), "model-a")[0][0].person.name == "Ada"
        assert retention._read(counters_of(gallery)["day"]) == date(2026, 1, 2)
    with Gallery(in_file, purge=False) as again:
        assert again.export()["people"] == [told]


FIRST_SCHEMA = """
CREATE TABLE gallery_people (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE,
    created DATETIME NOT NULL, consent DATETIME NOT NULL, retain_until DATE NOT NULL);
CREATE INDEX ix_gallery_people_retain_until ON gallery_people (retain_until);
CREATE TABLE gallery_templates (id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    person INTEGER NOT NULL REFERENCES gallery_people (id) ON DELETE CASCADE, model VARCHAR(200) NOT NULL,
    vector BLOB NOT NULL, digest VARCHAR(64) NOT NULL, quality FLOAT, thumbnail BLOB,
    created DATETIME NOT NULL);
CREATE INDEX ix_gallery_templates_model ON gallery_templates (model, id, person);
CREATE INDEX ix_gallery_templates_person ON gallery_templates (person);
CREATE TABLE gallery_counters (name VARCHAR(20) NOT NULL PRIMARY KEY, value BIGINT NOT NULL);
INSERT INTO gallery_counters VALUES ('schema', 1), ('revision', 4), ('removals', 1), ('wiped', 1);
INSERT INTO gallery_people VALUES (1, 'Ada', '2026-01-01 00:00:00.000000', '2026-01-02 03:04:05.000006',
    '2999-01-01');
"""


def test_a_gallery_of_the_second_schema_gets_checksums_that_cover_the_numbers(gallery, enrol, in_file):
    for name in ("Ada", "Bob"):
        enrol(gallery, name, [1, 0])
    told = gallery.export()["people"][0] | {"digest": ""}
    fields = gallery.people()[0]
    gallery.close()
    moments = (each.replace(tzinfo=None) for each in (fields.created, fields.consent))
    old = digest("Ada", *moments, fields.retain_until)
    with contextlib.closing(sqlite3.connect(in_file)) as held:
        held.execute("UPDATE gallery_counters SET value = 2 WHERE name = 'schema'")
        held.execute(
            "UPDATE gallery_people SET digest = ? WHERE id = 1", [old]
        )  # Bob's is wrong for schema 2
        held.commit()
    with Gallery(in_file, purge=False) as again:
        assert again.export("Ada")["people"][0] | {"digest": ""} == told
        with pytest.raises(IntegrityError, match='Person 2, read as "Bob", is damaged'):
            again.people()


def counters_of(gallery):
    with gallery._transaction() as connection:
        return rows.counters(connection)


def test_nothing_is_made_where_none_is_to_be(tmp_path):
    for path in (tmp_path / "none" / "faces.sqlite", tmp_path / "empty.sqlite"):
        with pytest.raises(UsageError, match="There is no gallery at"):
            Gallery(path, create=False)
        assert not path.exists()
        assert not path.parent.exists() or path.parent == tmp_path
        (tmp_path / "empty.sqlite").touch()
        with pytest.raises(UsageError, match="There is no gallery at"):
            Gallery(tmp_path / "empty.sqlite", create=False)
        (tmp_path / "empty.sqlite").unlink()


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        Gallery(tmp_path / "file" / "gallery.sqlite")


@pytest.mark.parametrize(("free", "told"), [(1000, "disk is full"), (10**9, "cannot be read or written")])
def test_a_disk_without_room_for_the_files_beside_is_called_full(gallery, monkeypatch, free, told):
    error = sqlite3.OperationalError("disk I/O error")
    error.sqlite_errorcode = sqlite3.SQLITE_IOERR_SHMSIZE
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    assert told in str(gallery._backend.sentence(DBAPIError(None, None, error)))


def test_a_writer_who_does_not_end_is_told(gallery, enrol, in_file, monkeypatch):
    enrol(gallery, "Ada", [1, 0])
    gallery.close()
    monkeypatch.setattr(sqlite, "PATIENCE", 0.1)
    with Gallery(in_file) as impatient, sqlite3.connect(in_file, isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageError, match="busy"):
            enrol(impatient, "Bob", [1, 0])
        assert len(impatient.people()) == 1  # reading goes on
        assert impatient.search(np.eye(2), "model-a")[0]


def test_a_file_that_is_taken_away_is_made_anew(gallery, enrol, in_file):
    enrol(gallery, "Ada", [1, 0])
    assert gallery.search(np.eye(2), "model-a")[0]
    for path in list(in_file.parent.iterdir()):
        path.unlink()
    assert gallery.people() == []
    enrol(gallery, "Bob", [1, 0])
    assert [each.person.name for each in gallery.search(np.eye(2), "model-a")[0]] == ["Bob"]
    with Gallery(in_file) as again:
        assert [person.name for person in again.people()] == ["Bob"]


def test_settings_that_keep_what_is_promised(gallery):
    with gallery._backend.engine.connect() as connection:
        wanted = {
            "journal_mode": "wal",
            "synchronous": 2,
            "secure_delete": 1,
            "foreign_keys": 1,
            "temp_store": 2,
        }
        found = {name: connection.exec_driver_sql(f"PRAGMA {name}").scalar() for name in wanted}
    assert found == wanted


def test_only_what_is_new_is_read(gallery, enrol, monkeypatch):
    for number in range(30):
        enrol(gallery, f"Person {number}", np.random.default_rng(number).normal(size=4))
    checked = []
    monkeypatch.setattr(rows, "check_template", checked.append)
    query = np.ones((1, 4))

    def read():
        checked.clear()
        gallery.search(query, "model-a")
        return len(checked) - 1  # one says how many numbers the templates have

    assert read() == 30
    assert read() == 0
    enrol(gallery, "Another", [1, 0, 0, 0])
    assert read() == 1
    gallery.remove("Person 3")
    gallery.rename("Person 4", "Person 44")
    gallery.merge("Person 5", "Person 6")
    assert read() == 0
    enrol(gallery, "One more", [1, 0, 0, 0])
    gallery.remove("Person 7")
    assert read() == 1
    assert len(gallery.search(query, "model-a", top=100)[0]) == 29


@pytest.mark.parametrize("more", [0, 1, 3])
def test_a_copy_that_is_restored_below_an_open_gallery_is_searched_as_it_is(gallery, enrol, in_file, more):
    """The numbers of people and templates are given again: what was read before is another's."""
    faces = np.eye(6, dtype=np.float32)
    enrol(gallery, "Ada", faces[0])
    with contextlib.closing(sqlite3.connect(":memory:")) as copy:
        with contextlib.closing(sqlite3.connect(in_file)) as held:
            held.backup(copy)
        enrol(gallery, "Bob", faces[1])
        assert [each.person.name for each in gallery.search(faces[1:2], "model-a")[0]] == ["Bob", "Ada"]
        with contextlib.closing(sqlite3.connect(in_file)) as held:
            copy.backup(held)
    with Gallery(in_file) as other:
        for number in range(more):
            enrol(other, f"New {number}", faces[2 + number])
    for number, who in enumerate(["Ada", None, *(f"New {each}" for each in range(more))]):
        best = gallery.search(faces[[number]], "model-a")[0][0]
        assert (best.person.name if best.score > 0.5 else None) == who


def test_few_models_are_held_in_memory(gallery, enrol):
    for number in range(5):
        enrol(gallery, f"{number}", [1, 0], model=f"model-{number}")
        gallery.search(np.eye(2), f"model-{number}")
    assert isinstance(gallery._backend, Sqlite)
    assert list(gallery._backend._matrices) == ["model-3", "model-4"]


def test_a_closed_gallery_holds_no_templates_in_memory(gallery, enrol):
    enrol(gallery, "Ada", [1, 0])
    gallery.search(np.eye(2), "model-a")
    assert isinstance(gallery._backend, Sqlite)
    assert gallery._backend._matrices
    gallery.close()
    assert not gallery._backend._matrices
