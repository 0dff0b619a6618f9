"""The commands as a user types them, in this process."""

import json
import sys

import numpy as np
import pytest

from facemae.cli import recognition
from facemae.recognition import recogniser

RUN = ("--model", "region/1")


def test_enrol_identify_and_delete(facemae, photos, tmp_path):
    first, second = photos["orl/s01/01"], photos["orl/s02/01"]
    assert facemae("gallery", "add", "Ann", first, "--consent")[0] == 0
    assert facemae("gallery", "add", "Bob", second, "--consent", "--anyway")[0] == 0
    code, out, _ = facemae("identify", first, "--threshold", 0.9999, "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["enrolled"], found["model"]) == (2, "dlib")
    assert "warning" not in found
    (face,) = found["faces"]
    assert (face["decision"], face["person"]) == ("match", "Ann")
    assert [each["name"] for each in face["candidates"]] == ["Ann", "Bob"]
    assert face["candidates"][0]["score"] == pytest.approx(1, abs=1e-5)
    assert found["threshold"] == {
        "score": 0.9999, "false_match_rate": None, "fmr_low": None, "fmr_high": None,
        "false_non_match_rate": None, "people": 0,
    }  # fmt: skip
    assert facemae("gallery", "remove", "Ann")[0] == 0
    assert json.loads(facemae("gallery", "list", "--json")[1])[0]["name"] == "Bob"
    assert facemae("gallery", "erase", "--yes")[0] == 0
    assert "Nobody" in facemae("gallery", "list")[1]
    stored = b"".join(path.read_bytes() for path in (tmp_path / "kept").iterdir())
    assert b"Ann" not in stored
    assert b"Bob" not in stored


def test_identify_says_what_it_found_and_what_the_threshold_stands_for(facemae, photos, group):
    own = photos["orl/s01/01"], photos["orl/s01/02"]
    assert "it will fail on yours" in facemae("gallery", "add", "Ann", *own, "--consent", *RUN)[2]
    code, out, err = facemae("identify", group, "--fmr", 0.1, *RUN)
    assert code == 0
    assert [line.split(" at ")[0] for line in out.splitlines()[:3]] == ["face 1", "face 2", "face 3"]
    assert "of comparisons of two people reach it (" in out
    assert "With 1 person enrolled by 2 templates, a stranger is taken for one of them in about" in out
    assert "measured on 12 people" in out
    assert "Model: region/1." in out
    assert "region/1 was trained on" in err
    assert "it will fail on yours" in err


@pytest.mark.parametrize("model", [[], ["--model", "dlib"]])
def test_a_damaged_results_folder_stops_nobody_who_does_without_it(facemae, photos, tmp_path, model):
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "config.json").write_text("{")
    first, where = photos["orl/s01/01"], ["--results", tmp_path / "results", *model]
    code, _, err = facemae("gallery", "add", "Ann", first, "--consent", *where)
    assert code == 0
    assert ("the runs of these results are left out" in err) == (not model)
    code, out, _ = facemae("identify", first, "--json", *where)
    assert (code, json.loads(out)["faces"][0]["person"]) == (0, "Ann")
    assert facemae("verify", first, first, *where)[0] == 0
    assert "dlib" in facemae("models", "--results", tmp_path / "results")[1]
    assert facemae("verify", first, first, *where[:2], "--model", "region/1")[0] == 4


def test_identify_with_nobody_enrolled_knows_nobody(facemae, photos):
    code, out, _ = facemae("identify", photos["orl/s01/01"])
    assert code == 0
    assert "The gallery is empty: enrol someone first with facemae gallery add." in out
    assert "unknown person (nobody is enrolled" in out


def test_verify_compares_two_photos(facemae, photos):
    code, out, _ = facemae("verify", photos["orl/s01/01"], photos["orl/s01/01"], "--json")
    found = json.loads(out)
    assert code == 0
    assert found["match"]
    assert found["score"] == pytest.approx(1, abs=1e-5)
    _, out, _ = facemae("verify", photos["orl/s01/01"], photos["orl/s02/01"], "--threshold", 1)
    assert out.startswith("not shown to be the same person: score ")
    assert "its false match rate is not known" in out


def test_a_folder_is_imported_and_lookalikes_are_listed(facemae, photos, tmp_path):
    import shutil

    for name, photo in (("Ann", "orl/s01/01"), ("Ann's twin", "orl/s01/01"), ("Bob", "orl/s02/01")):
        (tmp_path / "people" / name).mkdir(parents=True)
        shutil.copy(photos[photo], tmp_path / "people" / name / "1.pgm")
    code, _, err = facemae("gallery", "add", "--folder", tmp_path / "people", "--consent")
    assert code == 0
    assert "enrolled 3 of 3 people" in err
    assert "Ann's twin looks like Ann" in err
    pairs = json.loads(facemae("gallery", "list", "--alike", "--json")[1])
    assert pairs[0] == {"first": "Ann", "second": "Ann's twin", "score": pytest.approx(1)}
    again = facemae("gallery", "add", "--folder", tmp_path / "people", "--consent")
    assert again[0] == 3
    assert again[2].count("is enrolled already") == 3  # everybody was tried
    code, out, _ = facemae("gallery", "list", "--alike")
    assert "1.000  Ann  Ann's twin" in out
    assert facemae("gallery", "merge", "Ann's twin", "Ann")[0] == 0
    assert "Ann  2 photos" in facemae("gallery", "list")[1]


def test_rename_find_and_export(facemae, photos, tmp_path):
    facemae("gallery", "add", "Ann <b>", photos["orl/s01/01"], "--consent", "--thumbnail", "--days", 3)
    assert facemae("gallery", "rename", "Ann <b>", "Änne")[0] == 0
    assert facemae("gallery", "find", "ÄN")[1].startswith("Änne  1 photo, until ")
    assert facemae("gallery", "export", "Änne", "--out", tmp_path / "mine.json")[0] == 0
    (person,) = json.loads((tmp_path / "mine.json").read_text())["people"]
    assert person["name"] == "Änne"
    assert len(person["templates"]) == 1
    assert (tmp_path / "mine.json").stat().st_mode & 0o777 == 0o600
    assert json.loads(facemae("gallery", "export")[1])["people"] == [person]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["gallery", "add", "Ann", "PHOTO"], 2, "needs the person's consent; say --consent"),
        (["gallery", "add", "--consent"], 2, "Give a name and photos, or --folder"),
        (["gallery", "add", "Ann", "--consent"], 2, "no photo was given"),
        (["gallery", "add", "Ann", "TEXT", "--consent"], 3, "Nobody was enrolled: no photo could be used."),
        (["gallery", "add", "x" * 10_000, "PHOTO", "--consent"], 2, "100"),
        (
            ["gallery", "add", "Ann", "PHOTO", "--consent", "--days", 5000],
            2,
            "People are kept until a day from",
        ),
        (["gallery", "remove", "Ann"], 2, "There is no gallery at"),
        (
            ["gallery", "erase", "--gallery", "postgresql+psycopg://u:secret@127.0.0.1:1/x", "--yes"],
            5,
            "cannot be reached",
        ),
        (["identify", "TEXT"], 3, "This file is not a picture we can read. Use JPEG, PNG or WebP."),
        (["identify", "nowhere.jpg"], 3, "cannot be read"),
        (["identify", "PHOTO", "--threshold", "0.5", "--fmr", "0.1"], 2, "give one of them"),
        (["identify", "PHOTO", "--threshold", "nan"], 2, "Invalid value for"),
        (["verify", "PHOTO", "PHOTO", "--fmr", "nan"], 2, "Invalid value for"),
        (["identify", "PHOTO", "--fmr", "0.001", *RUN], 2, "ask for 0.1 or more"),
        (["identify", "PHOTO", "--model", "nowhere"], 2, "nowhere is no model: it is neither a name that"),
        (["identify", "PHOTO", "--model", "region/1", "--results", "nowhere"], 2, "region/1 is no model"),
        (["identify", "PHOTO", "--model", "inception"], 2, "needs facenet-pytorch's weights"),
        (["identify", "FOLDER"], 2, "is a folder; name the file for its faces with --csv"),
        (["identify", "FOLDER", "--csv", "out.csv"], 3, "holds no photo"),
        (["verify", "PHOTO", "GROUP"], 3, "group.png: 3 faces found; verification needs exactly one. Crop"),
        (["explain", "GROUP", "PHOTO"], 3, "group.png: 3 faces found; an explanation needs exactly one."),
    ],
)
def test_bad_input_ends_with_a_sentence(facemae, photos, group, tmp_path, arguments, code, said):
    (tmp_path / "text.jpg").write_text("hello")
    (tmp_path / "empty").mkdir()
    known = {"PHOTO": photos["orl/s01/01"], "TEXT": tmp_path / "text.jpg", "GROUP": group}
    known["FOLDER"] = tmp_path / "empty"
    ended, out, err = facemae(*[known.get(each, each) for each in arguments])
    assert (ended, "Traceback" in out + err) == (code, False)
    assert said in err
    assert len(err.splitlines()[-1]) < 400
    assert "secret" not in err


@pytest.mark.parametrize("command", ["identify", "verify", "explain"])
def test_a_photo_that_is_none_is_told_before_a_network_is_loaded(facemae, photos, monkeypatch, command):
    monkeypatch.setattr(recognition, "open_recogniser", lambda *_: pytest.fail("a network was loaded"))
    others = [] if command == "identify" else [photos["orl/s01/01"]]
    code, _, err = facemae(command, *others, "nowhere.jpg")
    assert (code, "nowhere.jpg: The file cannot be read" in err) == (3, True)


def test_somebody_who_is_known_is_not_enrolled_under_another_name(facemae, photos):
    facemae("gallery", "add", "Ann", photos["orl/s01/01"], "--consent")
    code, _, err = facemae("gallery", "add", "Bob", photos["orl/s01/01"], "--consent")
    assert code == 3
    assert "Bob was not enrolled: the face is taken for Ann (score 1.000)" in err
    assert facemae("gallery", "add", "Bob", photos["orl/s01/01"], "--consent", "--anyway")[0] == 0


def test_erase_asks_first(facemae, photos, monkeypatch):
    import io

    facemae("gallery", "add", "Ann", photos["orl/s01/01"], "--consent")
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    code, _, err = facemae("gallery", "erase")
    assert (code, "Nobody was deleted" in err) == (2, True)
    assert "Ann" in facemae("gallery", "list")[1]


def test_models_are_listed_by_name_with_what_they_are_worth(facemae):
    code, out, _ = facemae("models", "--json")
    found = {each["name"]: each for each in json.loads(out)}
    assert code == 0
    assert [name for name, each in found.items() if each["default"]] == ["dlib"]
    assert found["dlib"]["ci_low"] < found["dlib"]["lfw_view2"] < found["dlib"]["ci_high"]
    assert found["dlib"]["licence"] == "CC0"
    assert found["inception"]["missing"]
    assert "will fail on yours" in found["region/1"]["warning"]
    shown = facemae("models")[1]
    assert all(name in shown for name in found)


def test_a_photo_of_fifty_people_is_looked_up_face_by_face_and_enrols_nobody(facemae, photos, crowd):
    code, _, err = facemae("gallery", "add", "Ann", crowd, "--consent")
    assert code != 0
    assert "50 faces found; enrolment needs exactly one" in err
    facemae("gallery", "add", "Ann", photos["orl/s01/01"], "--consent")
    code, out, _ = facemae("identify", crowd, "--json")
    found = json.loads(out)["faces"]
    assert (code, [each["number"] for each in found]) == (0, list(range(1, 51)))
    left, top = (np.array([each["box"][side] for each in found]) for side in (0, 1))
    assert len(set(zip(left // 92, top // 112, strict=True))) == 50  # each face of the photo once
    assert max(found, key=lambda each: each["candidates"][0]["score"])["box"][0] < 92  # in the first column


def test_a_folder_of_photos_gives_a_row_per_face(facemae, photos, group, tmp_path):
    import csv
    import shutil

    facemae("gallery", "add", "Ann", photos["orl/s01/01"], "--consent")
    (tmp_path / "in" / "deep").mkdir(parents=True)
    shutil.copy(group, tmp_path / "in" / "a")  # a picture is one whatever it is called
    shutil.copy(photos["orl/s01/02"], tmp_path / "in" / "deep" / "b.pgm")
    (tmp_path / "in" / "c.jpg").write_bytes(b"no picture")
    (tmp_path / "in" / "Thumbs.db").write_bytes(b"no picture")
    code, _, err = facemae("identify", tmp_path / "in", "--csv", tmp_path / "out.csv")
    rows = list(csv.DictReader((tmp_path / "out.csv").open()))
    assert code == 0
    assert [*rows[0]] == [*recogniser.COLUMNS, "model"]
    assert [(row["photo"][len(str(tmp_path)) + 4 :], row["face"][:1]) for row in rows] == [
        ("a", "1"), ("a", "2"), ("a", "3"), ("c.jpg", ""), ("deep/b.pgm", "1"),
    ]  # fmt: skip
    assert [row["person"] for row in rows].count("Ann") == 2
    assert "not a picture" in rows[3]["note"]
    assert "1 files are not used: no picture" in err
    assert "3 photos, 4 faces: 2 named, 2 unknown; 1 photos without a face" in err
    assert (tmp_path / "out.csv").stat().st_mode & 0o777 == 0o600  # it says who is where


def test_a_table_of_faces_holds_no_formulas_and_any_name_of_a_file(facemae, photos, tmp_path, monkeypatch):
    import shutil

    (tmp_path / "=in").mkdir()
    monkeypatch.chdir(tmp_path)
    facemae("gallery", "add", "=1+1", photos["orl/s01/01"], "--consent")
    shutil.copy(photos["orl/s01/01"], tmp_path / "=in" / "a\udcff.pgm")
    assert facemae("identify", "=in", "--csv", "out.csv")[0] == 0
    row = (tmp_path / "out.csv").read_text().splitlines()[1]
    assert row.startswith("'=in/a\\udcff.pgm,1,")
    assert ",'=1+1," in row


def test_a_table_that_cannot_be_written_is_told_before_any_photo_is_read(
    facemae, photos, tmp_path, monkeypatch
):
    monkeypatch.setattr(recogniser.Recogniser, "align", lambda *_: pytest.fail("read"))
    code, _, err = facemae("identify", photos["orl/s01/01"].parent, "--csv", tmp_path)
    assert (code, "is a folder and a file is to be written" in err) == (5, True)


def test_an_explanation_by_a_model_of_others(facemae, photos):
    code, out, _ = facemae("explain", photos["orl/s01/01"], photos["orl/s01/02"], "--json")
    found = json.loads(out)
    assert (code, found["model"]) == (0, "dlib")
    assert 0.8 < found["score"] < 1
    assert {row["region"] for row in found["regions"]} > {"eyes", "mouth"}
    for row in found["regions"]:
        assert row["change"] == pytest.approx(row["score"] - found["score"], abs=1e-6)
