"""The Extended Yale Face Database B, cropped: 38 people, each frontal under 64 directions of light."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from facemae.data.sources.base import Attribute, Photo, Place, Source
from facemae.data.sources.listing import NOT_A_PHOTO, visible_files

ADDRESS = "http://vision.ucsd.edu/~leekc/ExtYaleDatabase/ExtYaleB.html"

_FILE = re.compile(r"(yaleB[0-9]{2})_P00A([+-][0-9]{3})E([+-][0-9]{2})\.pgm")

# Pixels of a 168 x 192 photo: the square whose eyes, nose and mouth lie where ArcFace's template has them,
# fitted to the median landmarks of 156 photos with the light within 10 degrees of the camera. The photos
# are cut so close that it reaches far beyond them.
_LEFT, _TOP, _SIDE = -67, -92, 300
_WIDTH, _HEIGHT = 168, 192


def _photos(place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield yaleB01_P00A+005E-10.pgm and so on: the person, and the light's azimuth and elevation."""
    for path in visible_files(place.images, ignored):
        if match := _FILE.fullmatch(path.name):
            person, azimuth, elevation = match.groups()
            light = {"light_azimuth": int(azimuth), "light_elevation": int(elevation)}
            yield Photo(f"yaleb/{person}/{azimuth}{elevation}", person, path, attributes=light)
        elif path.name.endswith("_Ambient.pgm"):
            ignored["ambient light, no flash"] += 1
        else:
            ignored["marked bad by the authors" if path.name.endswith(".pgm.bad") else NOT_A_PHOTO] += 1


SOURCE = Source(
    name="yaleb",
    title="Extended Yale Face Database B, cropped",
    folder="yaleb",
    images="CroppedYale",
    photos=_photos,
    licence="research, with credit; not to be passed on within a larger data set",
    credit="Extended Yale Face Database B; Georghiades, Belhumeur & Kriegman, 2001; Lee, Ho & Kriegman, 2005",
    address=ADDRESS,
    how_to_get="Get CroppedYale.zip, the cropped images, from the University of California, San Diego, at "
    f"{ADDRESS} and put it into the folder yaleb of the raw data.",
    published_images=2_414,
    published_people=38,
    attributes={
        "light_azimuth": Attribute(
            "azimuth of the light, positive from the left of the picture, which is the person's right",
            "integer",
            "degrees",
        ),
        "light_elevation": Attribute("elevation of the light, positive from above", "integer", "degrees"),
    },
    align="crop",
    crop=(_LEFT / _WIDTH, _TOP / _HEIGHT, (_LEFT + _SIDE) / _WIDTH, (_TOP + _SIDE) / _HEIGHT),
)
