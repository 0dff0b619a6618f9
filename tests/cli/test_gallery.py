"""The commands that keep the gallery, also as a timer runs them."""

import contextlib
import io
import json
import re
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from facemae.recognition.gallery import retention
from facemae.recognition.gallery.schema import Template
from facemae.recognition.gallery.store import Gallery


@pytest.fixture
def file(tmp_path):
    """The gallery that the commands use, with Ann for a month and Bob for a day."""
    file, today = tmp_path / "kept" / "faces.sqlite", datetime.now(UTC).date()
    with Gallery(file) as kept:
        for name, days in (("Ann", 30), ("Bob", 1)):
            template = Template(np.ones(4, np.float32), "model-a")
            kept.enrol(name, [template], consent=True, retain_until=today + timedelta(days))
    return file


def in_days(monkeypatch, days):
    day = datetime.now(UTC).date() + timedelta(days)
    monkeypatch.setattr(retention, "today", lambda: day)


def test_a_purge_deletes_whose_time_is_over_and_says_how_many(facemae, file, monkeypatch):
    assert json.loads(facemae("gallery", "purge", "--json")[1]) == {
        "removed": 0, "kept": 2, "residue": None, "clock": None
    }  # fmt: skip
    in_days(monkeypatch, 2)
    code, _, err = facemae("gallery", "purge")
    assert (code, err) == (0, "[gallery] deleted 1 people whose time is over; 1 are kept\n")
    assert b"Bob" not in file.read_bytes()


@pytest.mark.parametrize(
    "command", [["purge"], ["remove", "Ann"], ["erase", "--yes"], ["export"], ["rename", "Ann", "Eve"]]
)
def test_where_no_gallery_is_none_is_made_and_the_command_fails(facemae, tmp_path, command):
    code, out, err = facemae("gallery", *command)
    assert (code, out) == (2, "")
    assert f"There is no gallery at {tmp_path}/kept/faces.sqlite" in err
    assert not (tmp_path / "kept").exists()


def test_a_clock_that_jumped_is_told_and_confirmed(facemae, file, monkeypatch):
    in_days(monkeypatch, 900)
    code, out, err = facemae("gallery", "purge", "--json")
    assert code == 3
    assert "this machine's clock says" in json.loads(out)["clock"].lower()
    assert "Nobody was deleted" in err
    assert "so nobody is deleted" in facemae("gallery", "list")[2]
    assert facemae("gallery", "purge", "--yes")[0] == 0
    assert facemae("gallery", "list")[1] == "Nobody: enrol someone with facemae gallery add.\n"


def test_a_person_is_removed_by_the_number_that_the_list_shows(facemae, file):
    (row,) = json.loads(facemae("gallery", "find", "ann", "--json")[1])
    assert facemae("gallery", "remove")[0] == 2
    assert facemae("gallery", "remove", "--number", 10**30)[0] == 2
    assert facemae("gallery", "remove", "--number", row["id"])[0] == 0
    assert "Ann" not in facemae("gallery", "list")[1]
    code, _, err = facemae("gallery", "remove", "--number", row["id"])
    assert code == 2
    assert f"Nobody is enrolled with number {row['id']}" in err


@pytest.mark.parametrize("damage", ["people SET retain_until = '2020-01-01'", "people SET created = 'x'",
                                    "templates SET person = 999"])  # fmt: skip
def test_who_is_damaged_is_removed_as_the_message_says(facemae, file, damage):
    with contextlib.closing(sqlite3.connect(file)) as held:
        held.execute(f"UPDATE gallery_{damage} WHERE id = 1")
        held.commit()
    code, _, err = facemae("gallery", "export")
    while "--number" in err:  # a damaged template may be nobody's
        assert code == 4
        number = re.search(r"--number (\d+)", err)[1]
        assert facemae("gallery", "remove", "--number", number)[0] == 0
        code, _, err = facemae("gallery", "export")
    if code:  # a date that is none is told without a number
        assert facemae("gallery", "erase", "--yes")[0] == 0
    assert facemae("gallery", "export")[0] == 0


def test_nobody_to_ask_is_no_yes(facemae, file, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    code, _, err = facemae("gallery", "erase")
    assert (code, "say --yes" in err) == (2, True)


def test_more_photos_are_not_added_to_a_name_that_is_misspelt(facemae, file, photos):
    code, _, err = facemae("gallery", "add", "Anne", photos["orl/s01/01"], "--more", "--consent")
    assert code == 2
    assert 'Nobody is enrolled as "Anne"; did you mean "Ann"?' in err
    assert json.loads(facemae("gallery", "find", "Anne", "--json")[1]) == []


def test_photos_that_are_nobodys_are_counted(facemae, file, photos, tmp_path):
    for place in ("in/Cyd/1", "in/loose", "in/Dan/deep/1"):
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(photos["orl/s01/01"], tmp_path / place)
    (tmp_path / "in" / "Cyd" / "Thumbs.db").write_bytes(b"x")
    code, _, err = facemae("gallery", "add", "--folder", tmp_path / "in", "--consent")
    assert code == 0
    assert "2 files are not used: not directly in a person's folder" in err
    assert "1 files are not used: no picture" in err
    assert "enrolled 1 of 1 people" in err
