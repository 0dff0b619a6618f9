"""Unsorted photos on the gallery page: their faces grouped by person, to be named, merged or left out.

Nothing is stored before the groups are named and the people have agreed.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from facemae.app import frame, session
from facemae.app.parts import enrol_people
from facemae.app.parts.enrol_people import NAME_LENGTH, Where, key
from facemae.core.errors import FaceMAEError
from facemae.data.images import ImageError

if TYPE_CHECKING:
    from facemae.recognition.enrolment import Refused, Shot, Terms
    from facemae.recognition.gallery.schema import Template

GROUPS = "gallery_groups"  # what was found on the visitor's photos, until it is enrolled or dropped
SHOWN, PICTURES = 20, 12  # groups at a time, and pictures of each
RATE = 1e-3  # false match rate at which faces are one person's; lower the more faces there are


@dataclass(frozen=True)
class Grouped:
    """The faces of unsorted photos: their templates, the groups as rows, and the photos without a face."""

    faces: list[list[Template]] = field(repr=False)
    groups: list[NDArray[np.int64]]
    refused: list[Refused]
    models: list[str]


def render(where: Where) -> None:
    """Show the form: photos, then their groups."""
    found: Grouped | None = st.session_state.get(GROUPS)
    if found is None or found.models != [each.name for each in where.models]:
        shots = enrol_people.uploaded("A folder of unsorted photos", enrol_people.UNSORTED, folder=True)
        if st.button("Group the faces", type="primary", disabled=not shots, key="gallery_group"):
            with session.refusals_shown():
                st.session_state[GROUPS] = _grouped(where, shots)
                st.rerun()
        st.caption(
            "Every face is found and faces of one person are put together. Nothing is stored before you have "
            "named them."
        )
        return
    _show(where, found)


def _grouped(where: Where, shots: Sequence[Shot]) -> Grouped:
    """Find, embed and group all faces, with a bar.

    Raises:
        UsageError: there are too few faces, or too many.
    """
    from facemae.recognition.enrolment import Refused, every_face
    from facemae.recognition.grouping import group

    recognisers, bar = where.recognisers(), st.progress(0.0, "Looking for faces…")
    faces: list[list[Template]] = []
    refused: list[Refused] = []
    for number, shot in enumerate(shots):
        try:
            with frame.turn():
                faces += every_face(recognisers, shot)
        except ImageError as error:
            refused.append(Refused(shot, f"{error.reason} {error.hint}"))
        bar.progress((number + 1) / len(shots), f"{number + 1} of {len(shots)} photos, {len(faces)} faces")
    bar.empty()
    vectors = np.stack([each[0].vector for each in faces]) if faces else np.zeros((0, 1), np.float32)
    with frame.turn(), st.spinner("Grouping…"):
        threshold = where.threshold(min(RATE, 1 / max(len(faces), 1)))
        return Grouped(faces, group(vectors, threshold.score), refused, [each.name for each in where.models])


def _show(where: Where, found: Grouped) -> None:
    inside = sum(map(len, found.groups))
    groups = len(found.groups)
    st.text(f"{len(found.faces)} faces, {groups} group{'' if groups == 1 else 's'}.")
    st.caption(
        "Name the groups that you want to enrol. Two groups with one name become one person; a group without "
        "a name is left out."
    )
    more = st.session_state.setdefault(key("groups_shown"), SHOWN)
    names: dict[str, list[int]] = {}
    for number, rows in enumerate(found.groups[:more]):
        with st.container(border=True):
            pictures(found.faces[row] for row in rows[:PICTURES])
            label = f"Name of group {number + 1}, {len(rows)} faces"
            name = st.text_input(label, max_chars=NAME_LENGTH, key=key(f"group_{number}")).strip()
            if name:
                names.setdefault(name, []).extend(map(int, rows))
    if groups > more and st.button("Show more groups", key="groups_more"):
        st.session_state[key("groups_shown")] = more + SHOWN
        st.rerun()
    if alone := sorted(set(range(len(found.faces))) - set(np.concatenate([[], *found.groups]).tolist())):
        with st.expander(f"{len(found.faces) - inside} faces are like no other and are left out"):
            pictures(found.faces[row] for row in alone[: 4 * PICTURES])
    terms = enrol_people.choose_terms()
    add = st.checkbox("Add to people who are enrolled already", key=key("add"))
    with st.container(horizontal=True), session.refusals_shown():
        ready = bool(names) and terms.consent
        if st.button("Enrol the named people", type="primary", disabled=not ready, key="groups_enrol"):
            _enrol(where, found, names, terms, add)
        if st.button("Drop all faces", key="groups_drop"):
            del st.session_state[GROUPS]
            enrol_people.done("The faces are dropped; nothing was stored.")


def pictures(faces: Iterable[Sequence[Template]]) -> None:
    """Show small pictures in a row that wraps."""
    shown = "".join(
        f'<img alt="A face of this group" width="64" height="64" style="border-radius:4px" '
        f'src="data:image/png;base64,{base64.b64encode(each[0].thumbnail or b"").decode()}">'
        for each in faces
    )
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:6px">{shown}</div>')


def _enrol(where: Where, found: Grouped, names: dict[str, list[int]], terms: Terms, add: bool) -> None:
    """Enrol everybody who was named; who cannot be enrolled does not keep the others out."""
    from facemae.recognition.enrolment import Refused, Shot

    enrolled, refused = 0, list(found.refused)
    for name, rows in names.items():
        kept = [each for row in rows for each in found.faces[row]]
        if not terms.thumbnail:
            kept = [replace(each, thumbnail=None) for each in kept]
        try:
            where.gallery.enrol(name, kept, consent=terms.consent, retain_until=terms.retain_until, add=add)
            enrolled += 1
        except FaceMAEError as error:
            refused.append(Refused(Shot(name, b""), str(error)))
    enrol_people.keep_refused(refused, terms)
    del st.session_state[GROUPS]
    enrol_people.done(f"{enrolled} of {len(names)} people are enrolled; look below for those who may be one.")
