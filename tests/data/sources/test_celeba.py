from collections import Counter

import pytest

from facemae.core.errors import IntegrityError
from facemae.data.sources.base import Place
from facemae.data.sources.celeba import NAMES, SOURCE

HEADER = " ".join(NAMES).encode() + b" \n"
MALE_ONLY = b" ".join(b" 1" if name == "Male" else b"-1" for name in NAMES)
ALL_BUT_YOUNG = b" ".join(b"-1" if name == "Young" else b" 1" for name in NAMES)
ATTRIBUTES = b"2\n" + HEADER + b"000001.jpg " + MALE_ONLY + b"\n000003.jpg " + ALL_BUT_YOUNG + b"\n"
IDENTITIES = b"000001.jpg 2880\n000002.jpg 2937\n000003.jpg 2880\n"
PARTITIONS = b"000001.jpg 0\n000002.jpg 1\n000003.jpg 2\n"
LISTS = {
    "list_attr_celeba.txt": ATTRIBUTES,
    "identity_CelebA.txt": IDENTITIES,
    "list_eval_partition.txt": PARTITIONS,
}


@pytest.fixture
def listed(tmp_path):
    """Return a function that lists three photos and a stray file with the given lists."""

    def make(lists):
        folder = tmp_path / "img_align_celeba"
        folder.mkdir(exist_ok=True)
        for name in ("000003.jpg", "000001.jpg", "000002.jpg", "1.jpg"):
            (folder / name).touch()
        for name, text in lists.items():
            (tmp_path / name).write_bytes(text)
        ignored = Counter()
        place = Place(folder, {name: tmp_path / name for name in lists})
        return list(SOURCE.photos(place, ignored)), ignored

    return make


def test_lists_name_people_parts_and_attributes(listed):
    photos, ignored = listed(LISTS)
    assert [(photo.sample_id, photo.person) for photo in photos] == [
        ("celeba/000001", "celeba-2880"),
        ("celeba/000002", "celeba-2937"),
        ("celeba/000003", "celeba-2880"),
    ]
    assert [photo.attributes["partition"] for photo in photos] == ["train", "valid", "test"]
    first, second, third = (
        {k: v for k, v in photo.attributes.items() if k != "partition"} for photo in photos
    )
    assert [name for name, value in first.items() if value is True] == ["attr_male"]
    assert second == {}  # not in the list
    assert [name for name, value in third.items() if value is False] == ["attr_young"]
    assert list(first) == list(third)
    assert len(first) == 40
    assert {*first, "partition"} == set(SOURCE.attributes)
    assert ignored == {"not a photo": 1}


def test_attributes_have_plain_names_and_meanings():
    assert "attr_5_o_clock_shadow" in SOURCE.attributes
    assert SOURCE.attributes["attr_wearing_hat"].meaning == "wearing hat, as the data set labels it"
    assert {each.kind for name, each in SOURCE.attributes.items() if name != "partition"} == {"boolean"}


@pytest.mark.parametrize("lacking", LISTS)
def test_every_list_may_be_absent(listed, lacking):
    photos, _ = listed({name: text for name, text in LISTS.items() if name != lacking})
    assert len(photos) == 3
    assert (photos[0].person is None) == (lacking == "identity_CelebA.txt")
    assert ("partition" in photos[0].attributes) == (lacking != "list_eval_partition.txt")
    assert ("attr_male" in photos[0].attributes) == (lacking != "list_attr_celeba.txt")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list_attr_celeba.txt", b"", "line 2: it reads ''"),
        ("list_attr_celeba.txt", ATTRIBUTES.replace(b"Bald", b"Hairy"), "line 2: it reads '5_o_Clock"),
        (
            "list_attr_celeba.txt",
            ATTRIBUTES.replace(b"Bald Bangs", b"Bangs Bald"),
            "line 2: it reads '5_o_Clock",
        ),
        ("list_attr_celeba.txt", b"3" + ATTRIBUTES[1:], r"line 1: it promises '3' photos, and there are 2"),
        ("list_attr_celeba.txt", ATTRIBUTES[:-4], "line 4: it reads '000003.jpg"),
        ("list_attr_celeba.txt", ATTRIBUTES.replace(b"-1\n", b" 0\n"), "line 3: it reads '000001.jpg"),
        ("list_attr_celeba.txt", ATTRIBUTES + b"hello\n", "line 5: it reads 'hello'"),
        ("identity_CelebA.txt", IDENTITIES + b"000004.jpg\n", "line 4: it reads '000004.jpg'"),
        ("identity_CelebA.txt", b"000001.jpg x\n", "line 1: it reads '000001.jpg x'"),
        ("list_eval_partition.txt", PARTITIONS + b"\n000004.jpg 3\n", "line 5: it reads '000004.jpg 3'"),
    ],
)
def test_a_malformed_line_is_named(listed, name, text, message):
    with pytest.raises(IntegrityError, match=rf"{name}, {message}"):
        listed({name: text})


def test_the_archive_is_within_the_limits():
    assert SOURCE.limits.entries > 202_599
    assert SOURCE.published_images == 202_599
