import datetime
import io
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from results_folder import photos_are_orls

from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.recognition.enrolment import (
    THUMBNAIL,
    Shot,
    Terms,
    demo_people,
    enrol,
    known_as,
    people_in,
    read_templates,
    until,
)  # fmt: skip
from facemae.recognition.recogniser import Recogniser
from facemae.recognition.threshold import Threshold
from facemae.recognition.trained_models import models

NEVER, ALWAYS = Threshold(2.0), Threshold(-1.0)
TERMS = Terms(True, until(30))
ADDED = Terms(True, until(30), add=True)


def shots(photos, person, *numbers):
    return [Shot(f"{n}.pgm", photos[f"orl/s{person:02}/0{n}"]) for n in numbers]


def test_a_person_is_enrolled_from_several_photos(recogniser, gallery, photos):
    done = enrol([recogniser], gallery, "Ann", shots(photos, 1, 1, 2), TERMS, NEVER)
    assert (done.person.name, done.person.photos, done.refused) == ("Ann", 2, [])
    assert gallery.models() == {recogniser.fingerprint: 2}
    assert gallery.person("Ann").retain_until == datetime.date.today() + datetime.timedelta(days=30)


def test_photos_that_cannot_be_used_are_named_and_the_others_are(recogniser, gallery, photos, group):
    given = [*shots(photos, 1, 1), Shot("text.jpg", b"hello"), Shot("group.png", group)]
    done = enrol([recogniser], gallery, "Ann", given, TERMS, NEVER)
    assert done.person.photos == 1
    text, several = done.refused
    assert (text.shot.name, several.shot.name) == ("text.jpg", "group.png")
    assert "3 faces found; enrolment needs exactly one" in several.reason
    assert text.photo is None
    assert [each.number for each in several.photo.faces] == [1, 2, 3]
    nobody = enrol([recogniser], gallery, "Bob", given[1:], TERMS, NEVER)
    assert nobody.person is None
    assert [each.name for each in gallery.people()] == ["Ann"]


def test_one_of_several_faces_is_enrolled_by_its_number(recogniser, gallery, group):
    for number in (1, 3):
        enrol([recogniser], gallery, f"Face {number}", [Shot("group.png", group, number)], TERMS, NEVER)
    faces = recogniser.finder.find(group).faces
    vectors = recogniser.embed([faces[0].image, faces[2].image])
    found = gallery.search(vectors, recogniser.fingerprint, top=1)
    assert [(each.person.name, round(each.score, 4)) for (each,) in found] == [("Face 1", 1), ("Face 3", 1)]


def test_every_model_gives_a_template_of_each_photo(recogniser, gallery, photos, paths, finder):
    other = Recogniser(models(paths)[1], "cpu", finder)
    terms = Terms(True, until(30), True)
    done = enrol([recogniser, other], gallery, "Ann", shots(photos, 1, 1, 2), terms, NEVER)
    assert (done.person.photos, done.person.templates) == (2, 4)
    assert gallery.models() == {each.fingerprint: 2 for each in (recogniser, other)}
    kept = [each["thumbnail"] is not None for each in gallery.export("Ann")["people"][0]["templates"]]
    assert kept == [True, False] * 2
    face = other.finder.find(photos["orl/s01/01"]).faces[0].image
    assert gallery.search(other.embed([face]), other.fingerprint)[0][0].score == pytest.approx(1)
    assert enrol([other, recogniser], gallery, "Bob", shots(photos, 1, 1), TERMS, Threshold(0.999)).known_as


def test_a_face_that_is_known_is_enrolled_only_if_wanted(recogniser, gallery, photos):
    enrol([recogniser], gallery, "Ann", shots(photos, 1, 1), TERMS, NEVER)
    same = Threshold(0.9999)
    asked = enrol([recogniser], gallery, "Bob", shots(photos, 1, 1), TERMS, same)
    assert asked.person is None
    assert asked.known_as.person.name == "Ann"
    assert [each.name for each in gallery.people()] == ["Ann"]
    told = enrol([recogniser], gallery, "Bob", shots(photos, 1, 1), TERMS, same, anyway=True)
    assert told.person.name == "Bob"
    assert told.known_as.person.name == "Ann"
    assert [(a.name, b.name) for a, b, _ in gallery.lookalikes(recogniser.fingerprint, 0.9999)] == [
        ("Ann", "Bob")
    ]


def test_more_photos_of_a_person_are_no_double(recogniser, gallery, photos):
    enrol([recogniser], gallery, "Ann", shots(photos, 1, 1), TERMS, NEVER)
    with pytest.raises(UsageError, match="enrolled already"):
        enrol([recogniser], gallery, "Ann", shots(photos, 1, 2), TERMS, ALWAYS)
    done = enrol([recogniser], gallery, "Ann", shots(photos, 1, 2), ADDED, ALWAYS)
    assert done.person.photos == 2
    templates, _ = read_templates([recogniser], shots(photos, 1, 1), thumbnail=False)
    assert known_as(gallery, templates, "Ann", ALWAYS) is None


def test_a_name_is_the_same_however_it_is_typed(recogniser, gallery, photos):
    enrol([recogniser], gallery, "José", shots(photos, 1, 1), TERMS, NEVER)
    for typed in ("Jose\u0301", " José "):
        done = enrol([recogniser], gallery, typed, shots(photos, 1, 2), ADDED, ALWAYS)
        assert done.known_as is None
    assert gallery.person("José").photos == 3


def test_no_picture_is_kept_unless_a_thumbnail_is_wanted(recogniser, gallery, photos):
    enrol([recogniser], gallery, "Ann", shots(photos, 1, 1), TERMS, NEVER)
    enrol([recogniser], gallery, "Bob", shots(photos, 2, 1), Terms(True, until(30), True), NEVER)
    pictures = {each.name: gallery.thumbnails([each]).get(each.id) for each in gallery.people()}
    assert pictures["Ann"] is None
    kept = Image.open(io.BytesIO(pictures["Bob"]))
    assert kept.size == (THUMBNAIL, THUMBNAIL)


def test_nobody_is_enrolled_without_consent(recogniser, gallery, photos):
    with pytest.raises(UsageError, match="consent"):
        enrol([recogniser], gallery, "Ann", shots(photos, 1, 1), Terms(False, until(30)), NEVER)
    assert gallery.people() == []


def test_a_folder_of_people_is_read_by_name_and_content(tmp_path):
    for place in ("Ann/1.jpg", "Ann/2.PNG", "Ann/notes.txt", "Empty/readme.md", ".hidden/1.jpg", "loose.jpg"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        path.touch()
    (tmp_path / "Bob").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "Bob" / "no suffix", "JPEG")
    Image.new("RGB", (8, 8)).save(tmp_path / "Bob" / "x.jfif", "JPEG")
    found = people_in(tmp_path, Counter())
    assert {name: sorted(path.name for path in paths) for name, paths in found.items()} == {
        "Ann": ["1.jpg", "2.PNG"], "Bob": ["no suffix", "x.jfif"],
    }  # fmt: skip
    with pytest.raises(DataError, match="holds no photos"):
        people_in(tmp_path / "Empty", Counter())
    with pytest.raises(UsageError, match=r"person/photo\.jpg"):
        people_in(tmp_path / "Bob", Counter())
    with pytest.raises(UsageError, match="is not a folder"):
        people_in(tmp_path / "nowhere", Counter())


def test_only_orls_people_whom_nothing_was_trained_on_are_demo_people(paths, tmp_path):
    assert demo_people(paths) == []  # invented people, who agreed to nothing
    folder = tmp_path / "results"
    shutil.copytree(paths.root, folder)
    evaluated = photos_are_orls(folder)
    found = demo_people(Results(folder))
    assert [name for name, _ in found] == [f"Demo {str(each).rpartition('/')[2]}" for each in evaluated]
    assert all(face.shape[2] == 3 and face.dtype == np.uint8 for _, face in found)
