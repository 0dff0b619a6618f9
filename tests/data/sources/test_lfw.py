import os
import re
import tarfile
from collections import Counter
from pathlib import Path

import pytest

from facemae.core.errors import IntegrityError
from facemae.data.sources.base import Pair, Place
from facemae.data.sources.lfw import SOURCES

SOURCE = SOURCES[0]
VIEW_1 = b"1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBo\t1\n"
VIEW_2 = b"2\t1\nAnn_Lee\t1\t2\nAnn_Lee\t1\tBo\t1\nBo\t1\t12\nBo\t12\tAnn_Lee\t2\n"


@pytest.fixture
def place(tmp_path):
    """Return a function that lays out LFW's folder and lists; it takes the lists' bytes by stem."""

    def make(**lists):
        for name in (
            "Ann_Lee/Ann_Lee_0001.jpg",
            "Ann_Lee/Ann_Lee_0002.jpg",
            "Bo/Bo_0001.jpg",
            "Bo/Bo_0012.jpg",
        ):
            path = tmp_path / "lfw" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
        sides = {name: tmp_path / name for name in SOURCE.sides if name.partition(".")[0] in lists}
        for name, path in sides.items():
            path.write_bytes(lists[name.partition(".")[0]])
        return Place(tmp_path / "lfw", sides)

    return make


def listed(place):
    ignored = Counter()
    return list(SOURCE.photos(place, ignored)), ignored


def test_photos_are_named_after_person_and_number(place):
    photos, ignored = listed(place())
    assert [(photo.sample_id, photo.person) for photo in photos] == [
        ("lfw/Ann_Lee/0001", "Ann_Lee"),
        ("lfw/Ann_Lee/0002", "Ann_Lee"),
        ("lfw/Bo/0001", "Bo"),
        ("lfw/Bo/0012", "Bo"),
    ]
    assert {tuple(photo.attributes) for photo in photos} == {()}
    assert not ignored


def test_other_files_are_counted(place):
    here = place()
    for name in ("pairs_01.txt", "Bo/Ann_Lee_0003.jpg", "Bo/Bo_1.jpg", "Bo/.Bo_0002.jpg", "Bo/Bo_0001.txt"):
        (here.images / name).touch()
    photos, ignored = listed(here)
    assert len(photos) == 4
    assert ignored == {"not a photo": 4, "hidden": 1}


def test_the_three_forms_share_their_sample_ids_and_lists(place):
    here = place(pairs=VIEW_2)
    found = {
        source.name: ([photo.sample_id for photo in source.photos(here, Counter())], list(source.pairs(here)))
        for source in SOURCES
    }
    assert list(found) == ["lfw-deepfunneled", "lfw-funneled", "lfw-original"]
    assert found["lfw-deepfunneled"] == found["lfw-funneled"] == found["lfw-original"]
    assert {source.folder for source in SOURCES} == {"lfw"}


def test_genders_are_told_where_they_are_known(place):
    photos, _ = listed(place(gender=b"name,gender\nBo,male\r\nNobody,female\r\n"))
    assert [photo.attributes for photo in photos] == [{}, {}, {"gender": "male"}, {"gender": "male"}]
    assert set(SOURCE.attributes) == {"gender"}


def test_an_unknown_gender_is_named(place):
    with pytest.raises(IntegrityError, match=r"gender\.csv, line 3: gender is 'm'"):
        listed(place(gender=b"name,gender\nBo,male\nAnn_Lee,m\n"))


def test_pairs_of_view_2_have_folds(place):
    assert list(SOURCE.pairs(place(pairs=VIEW_2))) == [
        Pair("lfw-view2", 0, "lfw/Ann_Lee/0001", "lfw/Ann_Lee/0002", True),
        Pair("lfw-view2", 0, "lfw/Ann_Lee/0001", "lfw/Bo/0001", False),
        Pair("lfw-view2", 1, "lfw/Bo/0001", "lfw/Bo/0012", True),
        Pair("lfw-view2", 1, "lfw/Bo/0012", "lfw/Ann_Lee/0002", False),
    ]


def test_pairs_of_view_1_have_none(place):
    found = list(SOURCE.pairs(place(pairsDevTrain=VIEW_1, pairsDevTest=VIEW_1 + b"\n")))
    assert [(pair.protocol, pair.fold, pair.genuine) for pair in found] == [
        ("lfw-view1-train", 0, True),
        ("lfw-view1-train", 0, False),
        ("lfw-view1-test", 0, True),
        ("lfw-view1-test", 0, False),
    ]


def test_without_lists_there_are_no_pairs(place):
    assert list(SOURCE.pairs(place())) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "line 1: it reads ''"),
        (b"ten 300\n", "line 1: it reads 'ten 300'"),
        (b"0\n", "line 1: it reads '0'"),
        (b"1 2 3\n", "line 1: it reads '1 2 3'"),
        (
            VIEW_2.replace(b"Bo\t1\t12", b"Bo\t1\tAnn_Lee\t1"),
            "line 4: .* a person and two numbers are needed",
        ),
        (
            VIEW_2.replace(b"Ann_Lee\t1\tBo\t1", b"Bo\t1\t12"),
            "line 3: .* two people, each with a number, are",
        ),
        (VIEW_2.replace(b"Bo\t1\t12", b"Bo\tone\t12"), "line 4: it reads 'Bo\\\\tone"),
        (VIEW_2.replace(b"Bo\t1\t12", b"Bo"), "line 4: it reads 'Bo'"),
        (VIEW_2.replace(b"2\t1\n", b"3\t1\n"), "line 1: it promises 6 pairs, and there are 4"),
        (VIEW_2.replace(b"2\t1\n", b"1\t1\n"), "line 1: it promises 2 pairs, and there are 4"),
    ],
)
def test_a_malformed_list_is_named(place, text, message):
    with pytest.raises(IntegrityError, match=rf"pairs\.txt, {message}"):
        list(SOURCE.pairs(place(pairs=text)))


def test_what_can_be_downloaded_says_what_it_should_be():
    archives = {}
    for source in SOURCES:
        archives[source.name] = [
            each.filename for each in source.downloads if each.filename not in source.sides
        ]
        for remote in source.downloads:
            assert re.fullmatch("[0-9a-f]{64}", remote.sha256)
            assert remote.url.startswith("https://")
            assert remote.filename in (*source.sides, f"{source.images}.tgz")
    assert archives == {
        "lfw-deepfunneled": [],
        "lfw-funneled": ["lfw-funneled.tgz"],
        "lfw-original": ["lfw.tgz"],
    }


@pytest.mark.shared_data
def test_the_real_photos_and_lists_belong_together(tmp_path):
    raw = Path(os.environ.get("FACEMAE_RAW_DIR", "")) / SOURCE.folder
    archive = raw / "lfw-deepfunneled.tgz"
    if not archive.is_file():
        pytest.skip(f"FACEMAE_RAW_DIR holds no {archive.name}")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    place = Place(tmp_path / SOURCE.images, {name: raw / name for name in SOURCE.sides})
    photos, ignored = listed(place)
    names = {photo.sample_id for photo in photos}
    assert (len(names), len({photo.person for photo in photos})) == (13_233, 5_749)
    assert (SOURCE.published_images, SOURCE.published_people) == (13_233, 5_749)
    assert not ignored
    pairs = list(SOURCE.pairs(place))
    assert Counter(pair.protocol for pair in pairs) == {
        "lfw-view2": 6_000,
        "lfw-view1-train": 2_200,
        "lfw-view1-test": 1_000,
    }
    assert all(pair.first in names and pair.second in names for pair in pairs)
    assert Counter((pair.fold, pair.genuine) for pair in pairs if pair.protocol == "lfw-view2") == {
        (fold, genuine): 300 for fold in range(10) for genuine in (True, False)
    }
    genders = {photo.person: photo.attributes["gender"] for photo in photos if photo.attributes}
    assert Counter(genders.values()) == {"male": 1_554, "female": 551}
    for remote in SOURCE.downloads:
        assert (raw / remote.filename).stat().st_size == remote.bytes
