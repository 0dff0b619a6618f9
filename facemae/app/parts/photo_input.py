"""Choosing a face: a sample of the results, a photo of one's own, or the webcam.

What a visitor shows stays in that visitor's session and is gone with it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae.app import elements, frame
from facemae.data.alignment import quality
from facemae.data.images import encode_png, is_animated, open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition.recogniser import FaceFinder, Found, Photo, some_faces
from facemae.report import faces

SOURCES = SAMPLE, UPLOAD, WEBCAM = "Sample", "Your photo", "Webcam"
# Any picture, also of a kind that is refused: then by a sentence that says what to do. Some computers do not
# know that HEIC is a picture.
KINDS = ("image", "heic", "heif")
MAX_UPLOAD = 20  # MB, of a photo of 50 megapixels; server.maxUploadSize says the same
PHOTO_SIDE = 900  # pixels; a photo is shown no larger
BOX_COLOUR = "#00E5FF"
USUAL_SIZE = 112  # side of the aligned faces of all models but those of other results
LOCAL = ("localhost", "127.0.0.1", "::1")
SHOWN, SIDE = 12, 64  # samples that are shown as pictures, and pixels of each

_samples = elements.component("thumbnails", '<div class="faces" data-part="faces" role="group"></div>')


@dataclass(frozen=True)
class Chosen:
    """An aligned face (H, H, 3) to work with."""

    image: NDArray[np.uint8]
    name: str  # in alternative texts; never a visitor's file name
    sample_id: str | None = None  # of a sample; None: it is the visitor's


def aligned_face(key: str, size: int, label: str = "Face", place: int = 0) -> Chosen | None:
    """Let the visitor choose a face, and return it aligned, `size` pixels a side.

    The key of the choice is the page's only one; `place` is of the sample that is chosen at first. None while
    nothing is chosen, or where no face was found: then a sentence says so.
    """
    source = elements.switch(label, SOURCES, f"{key}_from")
    if source == SAMPLE:
        return sample(key, label, place, size)
    photo = photo_from(key, size, source)
    if photo is None:
        return None
    found = photo.faces[0]
    if len(photo.faces) > 1:
        show(photo)
        numbers = [each.number for each in photo.faces]
        found = photo.faces[int(elements.switch("Which face", numbers, f"{key}_number")) - 1]
    say_doubts(found)
    return Chosen(found.image, f"face {found.number} of your photo")


def two_faces(key: str, what: str, size: int) -> tuple[Chosen, Chosen] | None:
    """Let the visitor choose two faces side by side, as `aligned_face`; None while one is missing."""
    left, right = st.columns(2)
    with left:
        first = aligned_face(f"{key}first", size, f"First {what}")
    with right:
        second = aligned_face(f"{key}second", size, f"Second {what}", place=1)
    return None if first is None or second is None else (first, second)


# --- samples ---


def sample(key: str, label: str, place: int, size: int) -> Chosen | None:
    """Let the visitor choose a face of the results, or of ORL where there are none; as `aligned_face`."""
    table = frame.load_if_there(faces.faces)
    own = orl_faces(size) if table is None else {}
    names = list(own) if table is None else table["sample_id"].to_list()
    name = choose_sample(key, f"{label}: sample", names, place, own or None)
    if name is None:
        return None
    png = own[name] if own else frame.load(faces.face, name)
    return Chosen(np.asarray(open_image(png)), name, name)


def choose_sample(
    key: str, label: str, names: list[str], place: int = 0, pictures: Mapping[str, bytes] | None = None
) -> str | None:
    """Let the visitor choose a face by its name, or of the first by its picture; None where there is none.

    The pictures are PNGs by name; None: they are the results'.
    """
    name = elements.choose(label, names, key, min(place, len(names) - 1) if names else None)
    shown = names[:SHOWN]
    if pictures is None:
        shown = [each for each in frame.load(faces.samples, SHOWN) if each in names]
        pictures = frame.load(faces.aligned, shown)

    def click() -> None:
        sent = (st.session_state.get(f"{key}_pictures") or {}).get("chosen")
        if sent in names:
            st.session_state[key] = sent

    known = [each for each in shown if each in pictures]
    tiles = [{"name": each, "picture": elements.picture(pictures[each])} for each in known]
    data = {"faces": tiles, "chosen": name, "label": label, "side": SIDE}
    _samples(key=f"{key}_pictures", data=data, on_chosen_change=click)
    return name


@st.cache_data(max_entries=2, show_spinner="Aligning a few faces of ORL…")
def orl_faces(size: int) -> dict[str, bytes]:
    """Return some aligned faces of ORL, which every installation has, as PNG by name."""
    photos = [each for each in orl_photos() if each.sample_id.endswith(("/01", "/02"))][:SHOWN]
    found = zip(photos, finder(size).find_all([each.path for each in photos]), strict=True)
    return {photo.sample_id: encode_png(each.faces[0].image) for photo, each in found if each.faces}


# --- photos ---


def photo_from(key: str, size: int, source: str) -> Photo | None:
    """Return a photo with faces from the visitor's disk or webcam; None: not yet, or refused."""
    if source == WEBCAM:
        shot = webcam(f"{key}_camera")
    else:
        shot = st.file_uploader(
            "Photo: JPEG, PNG or WebP", type=KINDS, max_upload_size=MAX_UPLOAD, key=f"{key}_file"
        )
    if shot is None:
        st.session_state.pop(f"{key}_found", None)
        return None
    data = shot.getvalue()
    with frame.refusals_shown():
        token = (hashlib.sha256(data).hexdigest(), size)
        photo = frame.kept(f"{key}_found", token, lambda: _searched(data, size))
        if is_animated(data):
            st.caption("This picture moves; its first frame is used.")
        some_faces(photo)
        return photo
    return None


def webcam(key: str) -> Any:
    """Return a picture that the visitor takes, or None, and say where the browser will refuse the camera."""
    address = urlsplit(st.context.url or "")
    if address.scheme == "http" and address.hostname not in LOCAL:
        st.info(
            "Browsers give the camera to pages over https or on this machine only, and this page is neither: "
            f"choose “{UPLOAD}”, or ask for the https address.",
            icon=":material/no_photography:",
        )
    else:
        st.caption("Nothing happens? Allow the camera for this page in the browser, or upload a photo.")
    return st.camera_input("Take a photo", key=key)


def _searched(data: bytes, size: int) -> Photo:
    """Return a photo's faces, and the photo no larger than it is shown: a session keeps no more of it."""
    with frame.turn(), st.spinner("Looking for faces…"):
        photo = finder(size).find(data)
        photo.image.thumbnail((PHOTO_SIDE, PHOTO_SIDE), Image.Resampling.BILINEAR)
        return photo


@st.cache_resource(max_entries=2, show_spinner="Loading the face detector…")
def finder(size: int) -> FaceFinder:
    """Return the detector for faces of a size; every visitor shares it, and it keeps nothing."""
    return FaceFinder(size)


def show(photo: Photo, width: int = PHOTO_SIDE) -> None:
    """Show a photo with its faces boxed and numbered, a small one no more than twice as large."""
    count = len(photo.faces)
    alt = f"Your photo, {count} face{'' if count == 1 else 's'} boxed and numbered"
    st.image(boxed(photo), width=min(width, 2 * photo.image.width), alt=alt)


def say_doubts(found: Found) -> None:
    """Say what is doubtful about a face."""
    for code in found.face.warnings:
        st.caption(f"Doubtful: {quality.WARNINGS[code]}.")


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
        end = (left + height * (0.35 + 0.6 * len(text)), place[1] + height * 1.2)
        draw.rectangle((*place, *end), fill="black")
        draw.text((left + height * 0.2, place[1]), text, fill=BOX_COLOUR, font_size=height)
    return encode_png(np.asarray(drawn))
