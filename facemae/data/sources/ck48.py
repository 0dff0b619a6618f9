"""CK+48: the last frames of CK+'s labelled sequences, cropped to 48 x 48 pixels, by expression."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from facemae.data.sources.base import EXPRESSION, Photo, Place, Source, Value
from facemae.data.sources.listing import named_files

ADDRESS = "http://www.pitt.edu/~emotion/ck-spread.htm"
EXPRESSIONS = ("anger", "contempt", "disgust", "fear", "happy", "sadness", "surprise")

_FILE = re.compile(r"(S[0-9]{3})_([0-9]{3})_([0-9]{8})\.png")

# Pixels of a 48 x 48 crop: the square whose eyes, nose and mouth lie where ArcFace's template has them,
# fitted to the median landmarks of all 981 crops.
_LEFT, _TOP, _SIDE = -2.6, -5.8, 53.8
_SIZE = 48


def _photos(place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield happy/S010_006_00000013.png and so on: the expression, the person, the sequence, the frame."""
    for path, match in named_files(place.images, _FILE, ignored):
        person, sequence, frame = match.groups()
        expression = path.parent.name
        known: dict[str, Value] = {"expression": expression} if expression in EXPRESSIONS else {}
        yield Photo(f"ck48/{person}/{sequence}/{frame}", person, path, attributes=known)


SOURCE = Source(
    name="ck48",
    title="Extended Cohn-Kanade (CK+), crops of 48 x 48 pixels",
    folder="ck48",
    images="CK+48",
    photos=_photos,
    licence="non-commercial research, by agreement with the owners of CK+",
    credit="CK+; Kanade, Cohn & Tian, 2000; Lucey, Cohn, Kanade, Saragih, Ambadar & Matthews, 2010",
    address=ADDRESS,
    how_to_get="Sign the agreement of CK+ with J. Cohn (University of Pittsburgh) at "
    f"{ADDRESS} and put CK+48, crops of the last three frames of its 327 labelled sequences, into the folder "
    "ck48 of the raw data, as a folder or an archive of files such as CK+48/happy/S010_006_00000013.png.",
    published_images=981,
    published_people=118,
    attributes={"expression": EXPRESSION},
    align="crop",
    crop=(_LEFT / _SIZE, _TOP / _SIZE, (_LEFT + _SIDE) / _SIZE, (_TOP + _SIDE) / _SIZE),
)
