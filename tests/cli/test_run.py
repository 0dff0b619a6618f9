"""The front door: what is missing is said before any work, and a run ends with its verdict."""

import itertools
import json
import signal
import subprocess
import sys

import pytest
from PIL import ImageOps
from typer.testing import CliRunner

from facemae.__main__ import app
from facemae.cli import run as front_door
from facemae.core.files import exclusive
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.stages import own_photos


def people(folder, count, photos):
    """Write photos of `count` people under names with spaces and accents, and files beside them.

    They are ORL's; more than its 40 people are these mirrored and then narrower, more than 10 photos turned.
    """
    known = {photo.sample_id: photo.path for photo in orl_photos()}
    for person, number in itertools.product(range(count), range(photos)):
        image = open_image(known[f"orl/s{person % 40 + 1:02}/{number % 10 + 1:02}"])
        image = ImageOps.mirror(image) if person // 40 % 2 else image
        size = (276 - 40 * (person // 80), 336)
        turned = image.resize(size).rotate(4 * (number // 10), fillcolor="grey")
        home = folder / f"Zoë {person + 1} Łęcka"
        home.mkdir(parents=True, exist_ok=True)
        turned.save(home / f"a photo {number + 1}.jpg", quality=95)
    (folder / "Thumbs.db").write_bytes(b"x")
    (folder / "notes of nobody.txt").write_bytes(b"x")
    return folder


def run(*arguments):
    return CliRunner().invoke(app, ["run", *map(str, arguments)])


def test_too_few_people_are_told_before_anything_is_written(tmp_path):
    done = run("--photos", people(tmp_path / "faces", 3, 3), "--out", tmp_path / "out")
    assert "3 people have 3 photos or more, and 4 are needed" in str(done.exception)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["nowhere", "a.jpg"])
def test_what_is_no_folder_of_people_is_refused(name, tmp_path):
    (tmp_path / "a.jpg").write_bytes(b"x")
    done = run("--photos", tmp_path / name, "--out", tmp_path / "out")
    assert "is no folder; name one that has a folder for each person" in str(done.exception)


def test_an_unknown_mask_is_told_before_the_photos_are_looked_at(tmp_path):
    for mask in (
        "blok",
        "attention_high",
        "pixel",
    ):  # the last two take longer, and scratch would get too little
        done = run("--photos", people(tmp_path / "faces", 4, 3), "--out", tmp_path / "out", "--mask", mask)
        assert f"{mask} is none of the masks that take the time of random (random, block, " in str(
            done.exception
        )
    assert not (tmp_path / "out").exists()


def test_results_in_use_are_refused_at_once(tmp_path):
    with exclusive(tmp_path / "out" / ".workflow.lock"):
        (tmp_path / "out" / "settings.json").write_text(
            json.dumps({"data": {"labelled": str(tmp_path / "faces")}})
        )
        done = run("--photos", people(tmp_path / "faces", 4, 3), "--out", tmp_path / "out")
    assert "in use by process" in str(done.exception)


@pytest.mark.slow
@pytest.mark.timeout(2 * 3600)  # most of it for the largest
@pytest.mark.parametrize(("count", "photos"), [(4, 3), (10, 6), (105, 50)])
def test_a_folder_of_photos_ends_with_a_verdict(count, photos, tmp_path, capfd):
    place = people(tmp_path / "faces", count, photos)
    done = run("--photos", place, "--out", tmp_path / "out", "--minutes", 1)
    assert done.exit_code == 0, capfd.readouterr().err
    assert "Verdict  " in done.output
    assert (tmp_path / "out" / "report" / "overview.html").exists()
    assert f": {count} people" in done.output


@pytest.mark.parametrize("out", [".", "../faces", "out"])
def test_results_are_not_written_among_the_photos(tmp_path, monkeypatch, out):
    monkeypatch.chdir(people(tmp_path / "faces", 4, 3))
    done = run("--photos", ".", "--out", out)
    assert "lies inside the photos' folder; name another one with --out" in str(done.exception)
    assert not list(tmp_path.rglob("settings.json"))


def test_a_folder_that_was_moved_is_gone_on_with_where_it_is(tmp_path, monkeypatch):
    place, calls = people(tmp_path / "faces", 4, 3), []
    kept = own_photos.data_settings(place, tmp_path / "old") | {"split": {}}
    own_photos.write(tmp_path / "new", kept)
    monkeypatch.setattr(front_door, "_snakemake", lambda folder, *_: calls.append(folder))
    done = run("--photos", place, "--out", tmp_path / "new")
    assert calls == [tmp_path / "new"]
    assert json.loads((tmp_path / "new" / "settings.json").read_text())["results"] == str(tmp_path / "new")
    assert "There is no verdict in" in str(done.exception)


STOPPED = '''
import signal, sys
from facemae.cli.run import _ended
child = f"""import os, signal, sys
signal.signal(signal.{sys.argv[1]}, lambda *_: sys.exit(os.write(1, b'saved') - 5))
print('on', flush=True)
signal.pause()"""
sys.exit(_ended([sys.executable, "-c", child], {}))
'''


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGHUP", 75), ("SIGINT", 130)])
def test_what_stops_the_command_stops_its_trainings_and_waits_for_them(name, code):
    command = [sys.executable, "-c", STOPPED, name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "on\n"
        process.send_signal(signal.Signals[name])
        out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("saved", code)
    assert "the same command goes on where it was" in err
