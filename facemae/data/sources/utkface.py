"""UTKFace: faces of unnamed people whose file names give age, gender and race."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator

from facemae.data.sources.base import AGE, GENDER, RACE, Photo, Place, Source, Value
from facemae.data.sources.listing import IMAGE_SUFFIX, named_files, printable

ADDRESS = "https://susanqq.github.io/UTKFace/"

_FILE = re.compile(rf"(.+?)(?:\.jpg\.chip)?{IMAGE_SUFFIX}", re.IGNORECASE | re.DOTALL)
_TIME = re.compile("[0-9]{14,}")
_AGE = re.compile("[0-9]{1,3}")
_GENDERS = {"0": "male", "1": "female"}
_RACES = {"0": "white", "1": "black", "2": "asian", "3": "indian", "4": "other"}
_LABELS: tuple[tuple[str, Callable[[str], Value]], ...] = (
    ("age", lambda label: int(label) if _AGE.fullmatch(label) else None),
    ("gender", _GENDERS.get),
    ("race", _RACES.get),
)


def _photos(place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield every picture, AGE_GENDER_RACE_TIME; where a label is missing, those before it still count."""
    for path, match in named_files(place.images, _FILE, ignored):
        *labels, time = [part for part in match[1].split("_") if part] or [""]
        known = {}
        if _TIME.match(time):
            read = {name: of(label) for (name, of), label in zip(_LABELS, labels, strict=False)}
            known = {name: value for name, value in read.items() if value is not None}
        yield Photo(f"utkface/{printable(match[1])}", None, path, attributes=known)


SOURCE = Source(
    name="utkface",
    title="UTKFace",
    folder="utkface",
    images="UTKFace",
    photos=_photos,
    licence="non-commercial research; the photos belong to their owners",
    credit="UTKFace; Zhang, Song & Qi, 2017",
    address=ADDRESS,
    how_to_get="Get UTKFace.tar.gz, the aligned and cropped faces, from Y. Song and Z. Zhang (University of "
    f"Tennessee, Knoxville) at {ADDRESS} and put it into the folder utkface of the raw data.",
    # Its page says "over 20,000". Copies hold 23,705 to 23,708, as doubtful names were kept or not.
    published_images=23_706,
    attributes={"age": AGE, "gender": GENDER, "race": RACE},
)
