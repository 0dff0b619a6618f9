"""Labeled Faces in the Wild (LFW): photos from the news, and the two views of pairs that everybody quotes.

Its three forms show the same photos: as they were found, funneled (aligned as a whole) and deep-funneled
(aligned better). They share sample_ids, so that one list of pairs serves them all.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from facemae.data.sources import listing
from facemae.data.sources.base import GENDER, Pair, Photo, Place, Remote, Source, Value
from facemae.data.sources.listing import IMAGE_SUFFIX, lines, malformed, printable

ADDRESS = "http://vis-www.cs.umass.edu/lfw/"
GENDERS = "gender.csv"
PROTOCOLS = {
    "pairs.txt": "lfw-view2",
    "pairsDevTrain.txt": "lfw-view1-train",
    "pairsDevTest.txt": "lfw-view1-test",
}

_FILE = re.compile(rf"(.+)_([0-9]{{4}}){IMAGE_SUFFIX}", re.IGNORECASE | re.DOTALL)
_COUNTS = re.compile(r"(?:([1-9][0-9]{0,3})\s+)?([1-9][0-9]{0,3})\s*")
_PAIR = re.compile(
    r"(?P<person>\S+)\s+(?P<number>[0-9]{1,4})\s+(?:(?P<other>\S+)\s+)?(?P<other_number>[0-9]{1,4})\s*"
)


def _photos(place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield NAME/NAME_0001.jpg and so on; the folder names the person."""
    genders = _genders(place)
    for path in listing.visible_files(place.images, ignored):
        match = _FILE.fullmatch(path.name)
        if match is None or match[1] != path.parent.name:
            ignored[listing.NOT_A_PHOTO] += 1
            continue
        person = printable(path.parent.name)
        known: dict[str, Value] = {"gender": genders[person]} if person in genders else {}
        yield Photo(f"lfw/{person}/{match[2]}", person, path, attributes=known)


def _genders(place: Place) -> dict[str, str]:
    genders: dict[str, str] = {}
    path = place.sides.get(GENDERS)
    if path is None:
        return genders
    for line, row in listing.rows(path, ("name", "gender")):
        if row["gender"] not in ("female", "male"):
            raise malformed(path, line, f"gender is {row['gender']!r}, and female or male is needed")
        genders[row["name"]] = row["gender"]
    return genders


def _pairs(place: Place) -> Iterator[Pair]:
    """Yield the pairs of View 2, in ten folds, and of both halves of View 1, of lists that are there."""
    for side, protocol in PROTOCOLS.items():
        if side in place.sides:
            yield from _listed(place.sides[side], protocol)


def _listed(path: Path, protocol: str) -> Iterator[Pair]:
    """Yield the pairs of a list: in each fold the genuine ones, then as many impostor ones."""
    numbered, done = lines(path), 0
    _, first_line = next(numbered, (1, ""))
    counts = _COUNTS.fullmatch(first_line)
    if counts is None:
        raise malformed(path, 1, f"it reads {first_line!r}, and the number of pairs is needed")
    folds, each = int(counts[1] or 1), int(counts[2])
    for line, text in numbered:
        if not text.strip():
            continue
        fold, position = divmod(done, 2 * each)
        genuine, match = position < each, _PAIR.fullmatch(text)
        if match is None or (match["other"] is None) != genuine:
            needed = "a person and two numbers" if genuine else "two people, each with a number,"
            raise malformed(path, line, f"it reads {text!r}, and {needed} are needed")
        first = _sample_id(match["person"], match["number"])
        second = _sample_id(match["other"] or match["person"], match["other_number"])
        yield Pair(protocol, fold, first, second, genuine)
        done += 1
    if done != 2 * folds * each:
        raise malformed(path, 1, f"it promises {2 * folds * each} pairs, and there are {done}")


def _sample_id(person: str, number: str) -> str:
    return f"lfw/{printable(person)}/{int(number):04}"


# The copy that scikit-learn downloads, with its checksums.
_DOWNLOADS = {
    name: Remote(name, f"https://ndownloader.figshare.com/files/{number}", sha256, size)
    for name, number, size, sha256 in (
        ("lfw-funneled.tgz", 5976015, 243_346_528,
         "b47c8422c8cded889dc5a13418c4bc2abbda121092b3533a83306f90d900100a"),
        ("lfw.tgz", 5976018, 180_566_744,
         "055f7d9c632d7370e6fb4afc7468d40f970c34a80d4c6f50ffec63f5a8d536c0"),
        ("pairs.txt", 5976006, 155_335,
         "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592"),
        ("pairsDevTrain.txt", 5976012, 56_579,
         "1d454dada7dfeca0e7eab6f65dc4e97a6312d44cf142207be28d688be92aabfa"),
        ("pairsDevTest.txt", 5976009, 26_002,
         "7cb06600ea8b2814ac26e946201cdb304296262aad67d046a16a7ec85d0ff87c"),
    )
}  # fmt: skip


def _source(name: str, form: str, images: str) -> Source:
    return Source(
        name=name,
        title=f"Labeled Faces in the Wild, {form}",
        folder="lfw",
        images=images,
        photos=_photos,
        pairs=_pairs,
        licence="non-commercial research; the photos belong to their owners",
        credit="Labeled Faces in the Wild; Huang, Ramesh, Berg & Learned-Miller, 2007",
        address=ADDRESS,
        how_to_get=f"Get {images}.tgz from the University of Massachusetts, Amherst, at {ADDRESS} (it does "
        "not always answer) and put it into the folder lfw of the raw data, with pairs.txt, "
        "pairsDevTrain.txt and pairsDevTest.txt beside it; unpacked by hand, its folder has to be called "
        f"{images}.",
        published_images=13_233,
        published_people=5_749,
        sides=(*PROTOCOLS, GENDERS),
        downloads=tuple(_DOWNLOADS[each] for each in (f"{images}.tgz", *PROTOCOLS) if each in _DOWNLOADS),
        attributes={"gender": GENDER},
        subject="central",  # its photos were cut out around the person they are named after
    )


SOURCES = (
    _source("lfw-deepfunneled", "deep-funneled", "lfw-deepfunneled"),
    _source("lfw-funneled", "funneled", "lfw-funneled"),
    _source("lfw-original", "as found", "lfw"),
)
