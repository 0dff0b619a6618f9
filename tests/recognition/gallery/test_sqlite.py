import os
import sqlite3
import stat

import numpy as np
import pytest

from facemae.core.errors import IntegrityError, StorageError, UsageError
from facemae.recognition.gallery import sqlite, templates
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


def test_a_database_of_another_program_is_refused_and_left_alone(in_file):
    in_file.parent.mkdir()
    with sqlite3.connect(in_file) as connection:
        connection.execute("CREATE TABLE photos (id INTEGER)")
    with pytest.raises(IntegrityError, match="another program"):
        Gallery(in_file)
    with sqlite3.connect(in_file) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
    assert tables == [("photos",)]


def test_a_newer_gallery_is_refused(gallery, in_file):
    gallery.close()
    with sqlite3.connect(in_file) as connection:
        connection.execute("UPDATE gallery_counters SET value = 2 WHERE name = 'schema'")
    with pytest.raises(IntegrityError, match="schema 2 and this FaceMAE knows 1"):
        Gallery(in_file)


def test_what_is_no_database_is_refused_and_left_alone(in_file):
    in_file.parent.mkdir()
    in_file.write_bytes(b"These are my notes.\n" * 500)
    with pytest.raises(IntegrityError, match="damaged or not a gallery"):
        Gallery(in_file)
    assert in_file.read_bytes() == b"These are my notes.\n" * 500


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


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be opened"):
        Gallery(tmp_path / "file" / "gallery.sqlite")


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
    monkeypatch.setattr(templates.schema, "check_digest", lambda *given: checked.append(given))
    query = np.ones((1, 4))

    def read():
        checked.clear()
        gallery.search(query, "model-a")
        return len(checked)

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


def test_few_models_are_held_in_memory(gallery, enrol):
    for number in range(5):
        enrol(gallery, f"{number}", [1, 0], model=f"model-{number}")
        gallery.search(np.eye(2), f"model-{number}")
    assert isinstance(gallery._backend, Sqlite)
    assert list(gallery._backend._matrices) == ["model-3", "model-4"]
