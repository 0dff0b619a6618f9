"""Choosing a sample face by its picture, or by its name where there are too many to show."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from facemae.app import frame
from facemae.report import faces

SHOWN = 12  # pictures at once
SIDE = 64  # pixels of a picture

_HTML = '<div class="faces" data-part="faces" role="group"></div>'
_grid = frame.component("thumbnails", _HTML)


def choose(
    key: str, label: str, names: list[str], place: int = 0, pictures: Mapping[str, bytes] | None = None
) -> str | None:
    """Let the visitor choose a face, and return its name; None where there is none.

    Args:
        key: Of the choice in the address.
        label: What the face is for.
        names: To choose from; some also as pictures.
        place: Of the one that is chosen at first.
        pictures: Of the faces, as PNG; None: they are the results'.
    """
    first = min(place, len(names) - 1) if names else None
    clicked = st.session_state.pop(f"{key}_clicked", None)
    if clicked in names:
        st.session_state[key] = clicked
    name = st.selectbox(label, names, index=first, key=key, bind="query-params")
    shown = names[:SHOWN]
    if pictures is None:
        shown = [each for each in frame.load(faces.samples, SHOWN) if each in names]
        pictures = frame.load(faces.aligned, shown)
    found = {each: pictures[each] for each in shown if each in pictures}

    def click() -> None:
        sent = (st.session_state.get(f"{key}_pictures") or {}).get("chosen")
        if isinstance(sent, str) and sent in names:
            st.session_state[f"{key}_clicked"] = sent

    _grid(
        key=f"{key}_pictures",
        data={
            "faces": [{"name": each, "picture": frame.picture(png)} for each, png in found.items()],
            "chosen": name, "label": label, "side": SIDE,
        },
        on_chosen_change=click,
    )  # fmt: skip
    return name
