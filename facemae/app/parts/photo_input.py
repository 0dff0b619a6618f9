"""Choosing a face: a sample of the results, a photo of one's own, or the webcam.

What a visitor shows stays in that visitor's session and is gone with it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae.app import frame
from facemae.app.parts import thumbnails
from facemae.data.alignment import quality
from facemae.data.alignment.align import BETTER_PHOTO
from facemae.data.images import ImageError, encode_png, is_animated, open_image
from facemae.data.sources.orl import orl_photos
from facemae.report import faces

if TYPE_CHECKING:
    from facemae.recognition.recogniser import FaceFinder, Found, Photo

SAMPLE, UPLOAD, WEBCAM = "Sample", "Your photo", "Webcam"
# Any picture, also of a kind that is refused: then by a sentence that says what to do. Some computers do not
# know that HEIC is a picture.
KINDS = ("image", "heic", "heif")
MAX_UPLOAD = 20  # MB, of a photo of 50 megapixels; server.maxUploadSize says the same
PHOTO_SIDE = 900  # pixels; a photo is shown no larger
BOX_COLOUR = "#00E5FF"
USUAL_SIZE = 112  # side of the aligned faces of all models but those of other results
LOCAL = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Chosen:
    """A face to work with.

    Attributes:
        image: (H, H, 3) uint8, aligned.
        name: What it is called in alternative texts; never a visitor's file name.
        sample_id: Of a sample; None: it is the visitor's.
    """

    image: NDArray[np.uint8]
    name: str
    sample_id: str | None = None


def aligned_face(key: str, size: int, label: str = "Face", place: int = 0) -> Chosen | None:
    """Let the visitor choose a face, and return it aligned.

    Args:
        key: Of the choice in the address; no two on a page are the same.
        size: Side H of the aligned face.
        label: What the face is for.
        place: Of the sample that is chosen at first.

    Returns:
        None while nothing is chosen, or where no face was found: then a sentence says so.
    """
    source = st.segmented_control(
        label, [SAMPLE, UPLOAD, WEBCAM], default=SAMPLE, required=True, key=f"{key}_from"
    )
    if source == SAMPLE:
        return sample(key, label, place, size)
    photo = photo_from(key, size, source)
    if photo is None:
        return None
    if not photo.faces:
        say_refused(ImageError("NO_FACE", "No face found.", BETTER_PHOTO))
        return None
    found = photo.faces[0]
    if len(photo.faces) > 1:
        found = _one_of(key, photo)
    for code in found.face.warnings:
        st.caption(f"Doubtful: {quality.WARNINGS[code]}.")
    return Chosen(found.image, f"face {found.number} of your photo")


def sample(key: str, label: str, place: int, size: int) -> Chosen | None:
    """Let the visitor choose a face of the results, or of ORL where there are none; as `aligned_face`."""
    table = frame.load_if_there(faces.faces)
    own = orl_faces(size) if table is None else {}
    names = list(own) if table is None else table["sample_id"].to_list()
    name = thumbnails.choose(key, f"{label}: sample", names, place, own or None)
    if name is None:
        return None
    png = own[name] if own else frame.load(faces.face, name)
    return Chosen(np.asarray(open_image(png)), str(name), str(name))


@st.cache_data(max_entries=2, show_spinner="Aligning a few faces of ORL…")
def orl_faces(size: int) -> dict[str, bytes]:
    """Return some aligned faces of ORL, which every installation has, as PNG by name."""
    photos = [each for each in orl_photos() if each.sample_id.endswith(("/01", "/02"))][: thumbnails.SHOWN]
    found = zip(photos, finder(size).find_all([each.path for each in photos]), strict=True)
    return {photo.sample_id: encode_png(each.faces[0].image) for photo, each in found if each.faces}


def show(photo: Photo) -> None:
    """Show a photo with its faces boxed and numbered, a small one no more than twice as large."""
    st.image(boxed(photo), width=min(PHOTO_SIDE, 2 * photo.image.width), alt=described(photo))


def _one_of(key: str, photo: Photo) -> Found:
    show(photo)
    numbers = [each.number for each in photo.faces]
    number = st.segmented_control("Which face", numbers, default=1, required=True, key=f"{key}_number")
    return photo.faces[int(number) - 1]


def photo_from(key: str, size: int, source: str) -> Photo | None:
    """Return a photo from the visitor's disk or webcam with its faces; None: not yet, or refused."""
    if source == WEBCAM:
        say_where_cameras_work()
        shot = st.camera_input("Take a photo", key=f"{key}_camera")
    else:
        shot = st.file_uploader(
            "Photo: JPEG, PNG or WebP", type=KINDS, max_upload_size=MAX_UPLOAD, key=f"{key}_file"
        )
    if shot is None:
        st.session_state.pop(f"{key}_found", None)
        return None
    return found_in(key, shot.getvalue(), size)


def found_in(key: str, data: bytes, size: int) -> Photo | None:
    """Return the faces of a photo, found once as long as the photo stays; None: it was refused."""
    token = (hashlib.sha256(data).hexdigest(), size)
    kept = st.session_state.get(f"{key}_found")
    if kept is None or kept[0] != token:
        try:
            with frame.turn(), st.spinner("Looking for faces…"):
                kept = (token, _small(finder(size).find(data)), is_animated(data))
        except ImageError as error:
            say_refused(error)
            return None
        except frame.BusyError as error:
            st.warning(str(error))
            return None
        st.session_state[f"{key}_found"] = kept
    if kept[2]:
        st.caption("This picture moves; its first frame is used.")
    photo: Photo = kept[1]
    return photo


def _small(photo: Photo) -> Photo:
    """Return a photo no larger than it is shown, which is what a session keeps of it."""
    share = min(1.0, PHOTO_SIDE / max(photo.image.size))
    size = (max(1, round(photo.image.width * share)), max(1, round(photo.image.height * share)))
    return replace(photo, image=photo.image.resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


@st.cache_resource(max_entries=2, show_spinner="Loading the face detector…")
def finder(size: int) -> FaceFinder:
    """Return the detector for faces of a size; every visitor shares it, and it keeps nothing."""
    from facemae.recognition.recogniser import FaceFinder

    return FaceFinder(size)


def say_refused(error: ImageError) -> None:
    """Say why a photo was refused, and the next step."""
    st.warning(f"{error.reason} {error.hint}", icon=":material/image_not_supported:")


def described(photo: Photo) -> str:
    """Return the alternative text of a photo with its faces boxed."""
    count = len(photo.faces)
    return f"Your photo, {count} face{'' if count == 1 else 's'} boxed and numbered"


def boxed(photo: Photo) -> bytes:
    """Return a photo as PNG, its faces boxed and numbered."""
    drawn = photo.image.copy()
    draw = ImageDraw.Draw(drawn)
    line = max(2, round(max(drawn.size) / 300))
    share = np.tile(np.divide(drawn.size, photo.size), 2)
    for each in photo.faces:
        left, top, right, bottom = (float(edge) for edge in each.box * share)
        draw.rectangle((left, top, right, bottom), outline=BOX_COLOUR, width=line)
        text = str(each.number)
        height = max(14.0, min(28.0, (bottom - top) / 3))
        place = (left, max(0.0, top - height * 1.2))
        draw.rectangle(
            (*place, place[0] + height * (0.35 + 0.6 * len(text)), place[1] + height * 1.2), fill="black"
        )
        draw.text((place[0] + height * 0.2, place[1]), text, fill=BOX_COLOUR, font_size=height)
    return encode_png(np.asarray(drawn))


def say_where_cameras_work() -> None:
    """Say it where the browser will refuse the camera, before the visitor wonders."""
    address = urlsplit(st.context.url or "")
    if address.scheme == "http" and address.hostname not in LOCAL:
        st.info(
            "Browsers give the camera to pages over https or on this machine only, and this page is neither: "
            f"choose “{UPLOAD}”, or ask for the https address.",
            icon=":material/no_photography:",
        )
    else:
        st.caption("Nothing happens? Allow the camera for this page in the browser, or upload a photo.")
