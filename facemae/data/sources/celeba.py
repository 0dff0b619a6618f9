"""CelebA, aligned and cropped: celebrities, with 40 attributes and identities as numbers."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from facemae.data.sources.base import Attribute, Limits, Photo, Place, Source, Value
from facemae.data.sources.listing import lines, malformed, named_files

ADDRESS = "https://mmlab.ie.cuhk.edu.hk/projects/CelebA.html"
ATTRIBUTES = "list_attr_celeba.txt"
IDENTITIES = "identity_CelebA.txt"
PARTITIONS = "list_eval_partition.txt"
NAMES = (
    "5_o_Clock_Shadow", "Arched_Eyebrows", "Attractive", "Bags_Under_Eyes", "Bald", "Bangs", "Big_Lips",
    "Big_Nose", "Black_Hair", "Blond_Hair", "Blurry", "Brown_Hair", "Bushy_Eyebrows", "Chubby",
    "Double_Chin", "Eyeglasses", "Goatee", "Gray_Hair", "Heavy_Makeup", "High_Cheekbones", "Male",
    "Mouth_Slightly_Open", "Mustache", "Narrow_Eyes", "No_Beard", "Oval_Face", "Pale_Skin",
    "Pointy_Nose", "Receding_Hairline", "Rosy_Cheeks", "Sideburns", "Smiling", "Straight_Hair",
    "Wavy_Hair", "Wearing_Earrings", "Wearing_Hat", "Wearing_Lipstick", "Wearing_Necklace",
    "Wearing_Necktie", "Young",
)  # fmt: skip

_COLUMNS = {f"attr_{name.lower()}": name for name in NAMES}
_FILE = re.compile(r"([0-9]{6})\.(?:jpg|png)")
_IDENTITY = re.compile(r"([0-9]{6})\.jpg\s+([1-9][0-9]{0,5})")
_PARTITION = re.compile(r"([0-9]{6})\.jpg\s+([012])")
_PARTS = ("train", "valid", "test")


def _photos(place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield 000001.jpg and so on, with the attributes that its lists give, as far as they are there."""
    bits = _bits(place)
    identities = _numbers(place, IDENTITIES, _IDENTITY)
    parts = _numbers(place, PARTITIONS, _PARTITION)
    for path, match in named_files(place.images, _FILE, ignored):
        number = int(match[1])
        person = f"celeba-{identities[number]}" if number in identities else None
        known: dict[str, Value] = {"partition": _PARTS[parts[number]]} if number in parts else {}
        if number in bits:
            known |= {column: bool(bits[number] >> bit & 1) for bit, column in enumerate(_COLUMNS)}
        yield Photo(f"celeba/{match[1]}", person, path, attributes=known)


def _numbers(place: Place, side: str, pattern: re.Pattern[str]) -> dict[int, int]:
    """Return the number that a list gives each photo, by the photo's own; an absent list gives none."""
    path = place.sides.get(side)
    if path is None:
        return {}
    found = {}
    for line, text in lines(path):
        match = pattern.fullmatch(text.strip())
        if match:
            found[int(match[1])] = int(match[2])
        elif text.strip():
            raise malformed(path, line, f"it reads {text!r}, and a photo and a number are needed")
    return found


def _bits(place: Place) -> dict[int, int]:
    """Return each photo's attributes as one number, the first as its lowest bit: 200,000 rows stay small."""
    path = place.sides.get(ATTRIBUTES)
    if path is None:
        return {}
    numbered, found = lines(path), {}
    _, promised = next(numbered, (1, ""))
    _, names = next(numbered, (2, ""))
    if tuple(names.split()) != NAMES:
        raise malformed(path, 2, f"it reads {names!r}, and the names of CelebA's 40 attributes are needed")
    for line, text in numbered:
        photo, *values = text.split() or [""]
        match = _FILE.fullmatch(photo)
        if match and len(values) == len(NAMES) and set(values) <= {"1", "-1"}:
            found[int(match[1])] = sum(1 << bit for bit, value in enumerate(values) if value == "1")
        elif text.strip():
            raise malformed(path, line, f"it reads {text!r}, and a photo and 40 times 1 or -1 are needed")
    if promised.strip() != str(len(found)):
        raise malformed(path, 1, f"it promises {promised!r} photos, and there are {len(found)}")
    return found


SOURCE = Source(
    name="celeba",
    title="CelebA, aligned and cropped",
    folder="celeba",
    images="img_align_celeba",
    photos=_photos,
    licence="non-commercial research, by agreement; not to be passed on",
    credit="CelebA; Liu, Luo, Wang & Tang, 2015",
    address=ADDRESS,
    how_to_get="Agree to the terms of MMLAB (The Chinese University of Hong Kong) at "
    f"{ADDRESS} and get img_align_celeba.zip, {ATTRIBUTES}, {PARTITIONS} and, on request, {IDENTITIES}; put "
    "them into the folder celeba of the raw data. Without the last one nobody is named.",
    published_images=202_599,
    published_people=10_177,
    sides=(ATTRIBUTES, IDENTITIES, PARTITIONS),
    attributes={
        "partition": Attribute("part of the data set, as its authors divide it", "text"),
        **{
            column: Attribute(f"{name.replace('_', ' ').lower()}, as the data set labels it", "boolean")
            for column, name in _COLUMNS.items()
        },
    },
    limits=Limits(entries=250_000, total_bytes=4_000_000_000),
)
