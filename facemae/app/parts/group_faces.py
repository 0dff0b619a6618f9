"""Unsorted photos on the gallery page: their faces grouped by person, to be named, merged or left out.

Nothing is stored before the groups are named and the people have agreed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from facemae.app import elements, frame, session
from facemae.app.parts import enrol_people
from facemae.app.parts.enrol_people import NAME_LENGTH, key
from facemae.core.errors import FaceMAEError
from facemae.data.images import ImageError
from facemae.recognition.enrolment import Outcome, Refused, Shot, Terms, every_face, not_enrolled
from facemae.recognition.gallery.schema import Template
from facemae.recognition.model import Model

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


def render(models: list[Model]) -> None:
    """Show the form: photos, then their groups."""
    found: Grouped | None = st.session_state.get(GROUPS)
    if found is not None and found.models == [each.name for each in models]:
        _show(found)
        return
    shots = enrol_people.uploaded("A folder of unsorted photos", enrol_people.UNSORTED, "directory")
    if st.button("Group the faces", type="primary", disabled=not shots, key="gallery_group"):
        with frame.refusals_shown():
            st.session_state[GROUPS] = _grouped(models, shots)
            st.rerun()
    st.caption(
        "Every face is found and faces of one person are put together. Nothing is stored before you have "
        "named them."
    )


def _grouped(models: list[Model], shots: Sequence[Shot]) -> Grouped:
    """Find, embed and group all faces, with a bar.

    Raises:
        UsageError: there are too few faces, or too many.
    """
    from facemae.recognition.grouping import group

    recognisers = [session.recogniser(each) for each in models]
    bar = st.progress(0.0, "Looking for faces…")
    faces: list[list[Template]] = []
    refused: list[Refused] = []
    for number, shot in enumerate(shots, 1):
        try:
            with frame.turn():
                faces += every_face(recognisers, shot)
        except ImageError as error:
            refused.append(Refused(shot, str(error)))
        bar.progress(number / len(shots), f"{number} of {len(shots)} photos, {len(faces)} faces")
    bar.empty()
    vectors = np.stack([each[0].vector for each in faces]) if faces else np.zeros((0, 1), np.float32)
    with frame.turn(), st.spinner("Grouping…"):
        threshold = session.threshold(models[0], min(RATE, 1 / max(len(faces), 1)))
        return Grouped(faces, group(vectors, threshold.score), refused, [each.name for each in models])


def _show(found: Grouped) -> None:
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
            _pictures(found.faces[row] for row in rows[:PICTURES])
            label = f"Name of group {number + 1}, {len(rows)} faces"
            name = st.text_input(label, max_chars=NAME_LENGTH, key=key(f"group_{number}")).strip()
            if name:
                names.setdefault(name, []).extend(map(int, rows))
    if groups > more and st.button("Show more groups", key="groups_more"):
        st.session_state[key("groups_shown")] = more + SHOWN
        st.rerun()
    if alone := sorted(set(range(len(found.faces))) - set(np.concatenate([[], *found.groups]).tolist())):
        with st.expander(f"{len(alone)} faces are like no other and are left out"):
            _pictures(found.faces[row] for row in alone[: 4 * PICTURES])
    terms = enrol_people.choose_terms()
    with st.container(horizontal=True), frame.refusals_shown():
        ready = bool(names) and terms.consent
        if st.button("Enrol the named people", type="primary", disabled=not ready, key="groups_enrol"):
            _enrol(found, names, terms)
        if st.button("Drop all faces", key="groups_drop"):
            del st.session_state[GROUPS]
            enrol_people.done("The faces are dropped; nothing was stored.")


def _pictures(faces: Iterable[Sequence[Template]]) -> None:
    """Show small pictures in a row that wraps."""
    shown = "".join(
        '<img alt="A face of this group" width="64" height="64" style="border-radius:4px" '
        f'src="{elements.picture(each[0].thumbnail or b"")}">'
        for each in faces
    )
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:6px">{shown}</div>')


def _enrol(found: Grouped, names: dict[str, list[int]], terms: Terms) -> None:
    """Enrol everybody who was named; who cannot be enrolled does not keep the others out."""
    gallery, enrolled, refused = session.gallery(), 0, list(found.refused)
    for name, rows in names.items():
        kept = [each for row in rows for each in found.faces[row]]
        if not terms.thumbnail:
            kept = [replace(each, thumbnail=None) for each in kept]
        try:
            gallery.enrol(name, kept, consent=terms.consent, retain_until=terms.retain_until, add=terms.add)
            enrolled += 1
        except FaceMAEError as error:
            refused += not_enrolled(name, error).refused
    enrol_people.keep_refused(Outcome("", None, refused), terms)
    del st.session_state[GROUPS]
    enrol_people.done(f"{enrolled} of {len(names)} people are enrolled; look below for those who may be one.")
