"""The alignment page: what became of every photo, which faces are doubtful, and one of them close up."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae.app import frame
from facemae.app.parts import download
from facemae.data.alignment import quality
from facemae.data.images import ImageError, encode_png, open_image, open_picture
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import read_photo
from facemae.report import curves, faces

ANY, EVERY = "any warning", "all faces"
ALL_SOURCES = "all sources"
GALLERY, TABLE_ROWS = 24, 10
FACE_WIDTH = 74  # pixels; eight fit side by side, and four on a telephone
THUMBNAIL, PHOTO_SIDE = 64, 640  # pixels
LANDMARK_COLOUR = "#00E5FF"


def render() -> None:
    """Show the page."""
    st.title("Alignment")
    st.caption("What became of every photo, and which aligned faces are worth a look.")
    with frame.explained():
        _numbers(frame.load(faces.tally))
        _faces()
        _histograms(frame.load(faces.quality))
        _rejected()
        _overlaps()


def _numbers(tally: pd.DataFrame) -> None:
    with st.container(horizontal=True, gap="large"):
        st.metric("Photos", f"{tally['photos'].sum():,}", width="content")
        st.metric("Aligned faces", f"{tally['faces'].sum():,}", width="content")
        st.metric("Doubtful", f"{tally['doubtful'].sum():,}", help="used all the same", width="content")
        st.metric("Rejected", f"{(tally['photos'] - tally['OK']).sum():,}", width="content")
    origins = {each.name: each for each in frame.load(faces.sources)}
    ignored = [
        ", ".join(f"{count} {reason}" for reason, count in origins[name].ignored.items())
        for name in tally["source"]
    ]
    names = {"source": "Source", "photos": "Photos", "faces": "Aligned faces", "doubtful": "Doubtful"}
    st.dataframe(
        tally.assign(ignored=ignored),
        hide_index=True,
        column_config=names | {"ignored": "Files that are no photos"},
        alt="Table: photos, faces, doubtful faces and photos of each outcome, by source.",
    )
    with st.expander("Credits and licences"):
        for sentence in frame.load(faces.credits):
            st.text(sentence)


@st.fragment
@frame.explained()
def _faces() -> None:
    """Show the faces that the reader asks for, and one of them close up; a choice redraws nothing else."""
    st.subheader("Faces")
    measured = frame.load(faces.quality)
    sources = [each.name for each in frame.load(faces.sources)]
    table, warning = _filtered(measured, sources)
    if len(table):
        _gallery(_page(table, GALLERY, "faces_page"), warning)
        face = st.selectbox("Face", table["sample_id"].to_list(), key="face", bind="query-params")
        _look(face, table)


def _filtered(measured: pd.DataFrame, sources: list[str]) -> tuple[pd.DataFrame, str]:
    """Let the reader choose a warning and a source, and return the faces that fit."""
    warning = st.pills(
        "Warning",
        [ANY, *(code.lower() for code in quality.WARNINGS), EVERY],
        default=ANY,
        required=True,
        key="warning",
        bind="query-params",
    )
    source = ALL_SOURCES
    if len(sources) > 1:
        source = st.selectbox("Source", [ALL_SOURCES, *sources], key="source", bind="query-params")
    part = measured if source == ALL_SOURCES else measured[measured["source"] == source]
    table = _ordered(part, warning)
    st.text(_sentence(len(table), warning))
    return table, warning


def _ordered(measured: pd.DataFrame, warning: str) -> pd.DataFrame:
    if warning == EVERY:
        return faces.worst_first(measured)
    if warning == ANY:
        return faces.worst_first(measured[measured["warnings"] != ""])
    return faces.worst_first(measured, warning.upper())


def _sentence(count: int, warning: str) -> str:
    if count == 0:
        return "There is no such face." if warning == EVERY else "No face is doubtful in this way."
    faces = f"{count:,} face{'' if count == 1 else 's'}"
    if warning in (ANY, EVERY):
        return f"{faces}, those with most warnings first."
    return f"{faces}, the worst first: {quality.WARNINGS[warning.upper()]}."


def _page(table: pd.DataFrame, rows: int, key: str) -> pd.DataFrame:
    """Return so many rows of a long table, the first or those that the reader turns to."""
    pages = math.ceil(len(table) / rows)
    page = min(st.pagination(pages, key=key), pages) if pages > 1 else 1
    return table.iloc[(page - 1) * rows : page * rows]


def _gallery(table: pd.DataFrame, warning: str) -> None:
    """Show faces side by side, each above a button that says what was measured and chooses it."""
    pictures = frame.load(faces.aligned, table["sample_id"].to_list())
    chosen = st.session_state.get("face")
    with st.container(horizontal=True, gap="small"):
        for place, row in enumerate(table.to_dict("records")):
            with st.container(width=FACE_WIDTH, gap=None):
                st.image(pictures[row["sample_id"]], width=FACE_WIDTH, alt=row["sample_id"])
                st.button(
                    _label(row, warning),
                    key=f"look_{place}",
                    type="primary" if row["sample_id"] == chosen else "tertiary",
                    on_click=_choose,
                    args=(row["sample_id"],),
                    width="stretch",
                )


def _label(row: dict[Any, Any], warning: str) -> str:
    if warning in (ANY, EVERY):
        return row["warnings"].lower() or "no warning"
    return faces.doubtful_value(warning.upper(), row) or warning


def _choose(face: str) -> None:
    st.session_state["face"] = face


def _png(image: Image.Image) -> bytes:
    return encode_png(np.asarray(image))


def _look(face: str, measured: pd.DataFrame) -> None:
    """Show one face: its photo with the landmarks, the aligned face, and what was measured."""
    row = measured[measured["sample_id"] == face].iloc[0]
    left, right = st.columns(2)
    with left:
        _photo(face)
    with right:
        st.image(frame.load(faces.face, face), width="stretch", alt=f"{face}, aligned")
        st.text("Aligned, as the networks see it")
    with st.container(horizontal=True, gap="large"):
        for measure in faces.MEASURES:
            value = measure.text(row[measure.column]) or "not measured"
            st.metric(measure.name, value, help=measure.title, width="content")
    for code in filter(None, row["warnings"].split(", ")):
        st.text(f"Doubtful: {quality.WARNINGS[code]}.")


def _photo(face: str) -> None:
    photo, landmarks = frame.load(faces.origin, face)
    try:
        picture = open_picture(read_photo(photo))
    except ImageError as error:
        st.info("The photo cannot be opened any more.")
        st.text(error.reason)
        return
    points = None if landmarks is None else np.asarray(landmarks / picture.scale, np.float32)
    st.image(_png(marked(picture.image, points)), width="stretch", alt=f"{face}, the photo")
    st.text("The photo" if landmarks is None else "The photo, with the landmarks that were found")


def marked(image: Image.Image, landmarks: NDArray[np.float32] | None) -> Image.Image:
    """Return a photo, no larger than needed, with its landmarks (5, 2), if any, as dots."""
    share = min(1.0, PHOTO_SIDE / max(image.size))
    small = image.resize((max(1, round(image.width * share)), max(1, round(image.height * share))))
    if landmarks is None:
        return small
    draw, radius = ImageDraw.Draw(small), max(2.0, max(small.size) / 90)
    for x, y in (landmarks * share).tolist():
        draw.circle((x, y), radius, fill=LANDMARK_COLOUR, outline="black")
    return small


def _histograms(measured: pd.DataFrame) -> None:
    st.subheader("What was measured")
    known = [measure for measure in faces.MEASURES if measured[measure.column].notna().any()]
    drawn = [curves.quality(measured, measure) for measure in known]
    if drawn:
        st.caption(drawn[0].read)
    grid = st.grid(3, min_column_width=280)
    for chart in drawn:
        with grid.cell():
            download.chart(chart, captioned=False)


@st.fragment
@frame.explained()
def _rejected() -> None:
    st.subheader("Rejected photos")
    outcomes = frame.load(faces.outcomes)
    rejected = outcomes[outcomes["code"] != "OK"]
    if rejected.empty:
        st.write("No photo was rejected.")
        return
    shown = _page(rejected, TABLE_ROWS, "rejected_page")
    places = frame.load(faces.photos, shown["sample_id"].to_list())
    st.dataframe(
        shown.assign(picture=shown["sample_id"].map(lambda name: _thumbnail(places.get(name)))),
        hide_index=True,
        row_height=THUMBNAIL,
        height="content",
        column_order=["picture", "sample_id", "reason", "hint", "code", "source"],
        column_config={
            "picture": st.column_config.ImageColumn("Photo", width="small"),
            "sample_id": "Name",
            "reason": "Why it was left out",
            "hint": "What helps",
            "code": "Outcome",
            "source": "Source",
        },
        alt="Table of rejected photos with picture, name, reason and hint.",
    )


def _thumbnail(photo: Photo | None) -> str | None:
    if photo is None:
        return None
    try:
        image = open_image(read_photo(photo))
    except ImageError:
        return None
    image.thumbnail((2 * THUMBNAIL, 2 * THUMBNAIL))
    return frame.picture(_png(image))


@st.fragment
@frame.explained()
def _overlaps() -> None:
    st.subheader(faces.TWICE)
    overlaps = frame.load(faces.overlaps)
    if overlaps.empty:
        st.write("No evaluation face was found again.")
        return
    counts = overlaps.value_counts(["kind", "action"]).reset_index()
    st.text(
        "\n".join(
            f"{row['count']:,}: {faces.overlap_words(row['kind'], row['action'])}"
            for row in counts.to_dict("records")
        )
    )
    shown = _page(overlaps, TABLE_ROWS, "overlaps_page")
    names = sorted({str(name) for name in (*shown["evaluation"], *shown["other"])})
    pictures = {name: frame.picture(png) for name, png in frame.load(faces.aligned, names).items()}
    sides = {f"{side}_picture": shown[side].map(pictures) for side in ("evaluation", "other")}
    st.dataframe(
        shown.assign(**sides),
        hide_index=True,
        row_height=THUMBNAIL,
        height="content",
        column_order=[
            "evaluation_picture", "other_picture", "kind", "distance", "action", "evaluation", "other",
        ],
        column_config={
            "evaluation_picture": st.column_config.ImageColumn("Evaluation", width="small"),
            "other_picture": st.column_config.ImageColumn("The same", width="small"),
            "kind": "Kind",
            "distance": frame.number("Distance", "%.3g"),
            "action": "What was done",
            "evaluation": "Evaluation face",
            "other": "Face that shows the same",
        },
        alt="Table of pairs of an evaluation face and another face that shows the same.",
    )  # fmt: skip
