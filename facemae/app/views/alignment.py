"""The alignment page: what became of every photo, which faces are doubtful, and one of them close up."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from facemae.app import elements, frame
from facemae.data.alignment import quality
from facemae.data.images import ImageError, encode_png, open_image, open_picture
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import read_photo
from facemae.report import curves, faces

ANY, EVERY = "any warning", "all faces"
ALL_SOURCES = "all sources"
GALLERY, TABLE_ROWS = 24, 10
FACE_WIDTH = 74  # pixels; eight fit side by side, and four on a telephone
PHOTO_SIDE = 640  # pixels
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
    total = tally.drop(columns="source").sum()
    counts = {
        "Photos": total["photos"], "Aligned faces": total["faces"], "Doubtful": total["doubtful"],
        "Rejected": total["photos"] - total["OK"],
    }  # fmt: skip
    elements.tiles({name: f"{count:,}" for name, count in counts.items()}, {"Doubtful": "used all the same"})
    ignored = {
        each.name: ", ".join(f"{count} {reason}" for reason, count in each.ignored.items())
        for each in frame.load(faces.sources)
    }
    columns = {str(name): name for name in tally} | {
        "source": "Source", "photos": "Photos", "faces": "Aligned faces", "doubtful": "Doubtful",
        "ignored": "Files that are no photos",
    }  # fmt: skip
    alt = "Table: photos, faces, doubtful faces and photos of each outcome, by source."
    elements.table(tally.assign(ignored=tally["source"].map(ignored)), alt, columns)
    with st.expander("Credits and licences"):
        for sentence in frame.load(faces.credits):
            st.text(sentence)


@frame.part
def _faces() -> None:
    """Show the faces that the reader asks for, and one of them close up; a choice redraws nothing else."""
    st.subheader("Faces")
    warnings = [ANY, *(code.lower() for code in quality.WARNINGS), EVERY]
    warning = st.pills("Warning", warnings, default=ANY, required=True, key="warning", bind="query-params")
    table = frame.load(faces.quality)
    sources = [each.name for each in frame.load(faces.sources)]
    if len(sources) > 1:
        source = elements.choose("Source", [ALL_SOURCES, *sources], "source")
        table = table if source == ALL_SOURCES else table[table["source"] == source]
    if warning == ANY:
        table = table[table["warnings"] != ""]
    table = faces.worst_first(table, None if warning in (ANY, EVERY) else warning.upper())
    count = f"{len(table):,} face{'' if len(table) == 1 else 's'}"
    if table.empty:
        st.text("There is no such face." if warning == EVERY else "No face is doubtful in this way.")
    elif warning in (ANY, EVERY):
        st.text(f"{count}, those with most warnings first.")
    else:
        st.text(f"{count}, the worst first: {quality.WARNINGS[warning.upper()]}.")
    if len(table):
        _gallery(_page(table, GALLERY, "faces_page"), warning)
        _look(elements.choose("Face", table["sample_id"].to_list(), "face"), table)


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
            name = row["sample_id"]
            label = row["warnings"].lower() or "no warning"
            if warning not in (ANY, EVERY):
                label = faces.doubtful_value(warning.upper(), row) or warning
            with st.container(width=FACE_WIDTH, gap=None):
                st.image(pictures[name], width=FACE_WIDTH, alt=name)
                st.button(
                    label, key=f"look_{place}", type="primary" if name == chosen else "tertiary",
                    on_click=st.session_state.update, args=({"face": name},), width="stretch",
                )  # fmt: skip


def _look(face: str, measured: pd.DataFrame) -> None:
    """Show one face: its photo with the landmarks, the aligned face, and what was measured."""
    row = measured[measured["sample_id"] == face].iloc[0]
    left, right = st.columns(2)
    with left:
        _photo(face)
    with right:
        st.image(frame.load(faces.face, face), width="stretch", alt=f"{face}, aligned")
        st.text("Aligned, as the networks see it")
    elements.tiles(
        {each.name: each.text(row[each.column]) or "not measured" for each in faces.MEASURES},
        {each.name: each.title for each in faces.MEASURES},
    )
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
    shown = encode_png(np.asarray(marked(picture.image, points)))
    st.image(shown, width="stretch", alt=f"{face}, the photo")
    st.text("The photo" if landmarks is None else "The photo, with the landmarks that were found")


def marked(image: Image.Image, landmarks: NDArray[np.float32] | None) -> Image.Image:
    """Return a photo, no larger than needed, with its landmarks (5, 2), if any, as dots."""
    small = image.copy()
    small.thumbnail((PHOTO_SIDE, PHOTO_SIDE))
    if landmarks is None:
        return small
    draw, radius = ImageDraw.Draw(small), max(2.0, max(small.size) / 90)
    for x, y in (landmarks * small.width / image.width).tolist():
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
            elements.chart(chart, captioned=False)


@frame.part
def _rejected() -> None:
    st.subheader("Rejected photos")
    outcomes = frame.load(faces.outcomes)
    rejected = outcomes[outcomes["code"] != "OK"]
    if rejected.empty:
        st.write("No photo was rejected.")
        return
    shown = _page(rejected, TABLE_ROWS, "rejected_page")
    places = frame.load(faces.photos, shown["sample_id"].to_list())
    elements.table(
        shown.assign(picture=shown["sample_id"].map(lambda name: _thumbnail(places.get(name)))),
        "Table of rejected photos with picture, name, reason and hint.",
        {"sample_id": "Name", "reason": "Why it was left out", "hint": "What helps", "code": "Outcome",
         "source": "Source"},
        {"picture": "Photo"},
    )  # fmt: skip


def _thumbnail(photo: Photo | None) -> str | None:
    if photo is None:
        return None
    try:
        image = open_image(read_photo(photo))
    except ImageError:
        return None
    image.thumbnail((2 * elements.THUMBNAIL,) * 2)
    return elements.picture(encode_png(np.asarray(image)))


@frame.part
def _overlaps() -> None:
    st.subheader(faces.TWICE)
    overlaps = frame.load(faces.overlaps)
    if overlaps.empty:
        st.write("No evaluation face was found again.")
        return
    counts = overlaps.value_counts(["kind", "action"]).reset_index().itertuples(index=False)
    lines = [f"{count:,}: {faces.overlap_words(kind, action)}" for kind, action, count in counts]
    st.text("\n".join(lines))
    shown = frame.with_faces(_page(overlaps, TABLE_ROWS, "overlaps_page"), "evaluation", "other")
    elements.table(
        shown,
        "Table of pairs of an evaluation face and another face that shows the same.",
        {"kind": "Kind", "distance": elements.number("Distance", "%.3g"), "action": "What was done",
         "evaluation": "Evaluation face", "other": "Face that shows the same"},
        {"evaluation_picture": "Evaluation", "other_picture": "The same"},
    )  # fmt: skip
