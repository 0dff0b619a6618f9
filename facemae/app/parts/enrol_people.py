"""Enrolling people on the gallery page: photos, a webcam shot or a folder of people, and what was refused."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

import streamlit as st

from facemae.app import frame, session
from facemae.app.parts import photo_input
from facemae.core.errors import FaceMAEError
from facemae.core.text import shown
from facemae.recognition.settings import settings

if TYPE_CHECKING:
    from facemae.recognition.enrolment import Outcome, Refused, Shot, Terms
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.model import Model
    from facemae.recognition.threshold import Threshold

NAME_LENGTH = 100
UPLOAD, WEBCAM, FOLDER, UNSORTED = "Photos", "Webcam", "Folder of people", "Unsorted photos"
PENDING = "gallery_pending"  # an enrolment that waits for an answer; of one visitor, gone with the session
REFUSED = "gallery_refused"  # photos that were not used, until the visitor has seen to them
SAID, TURN = "gallery_said", "gallery_turn"  # what was done last, and how often: each time the form is new


class Where(NamedTuple):
    """Where people are enrolled: the gallery and the models, of which the first tells people apart."""

    gallery: Gallery
    models: list[Model]

    def threshold(self, rate: float | None = None) -> Threshold:
        """Return the first model's threshold of a false match rate, or of the settings'."""
        from facemae.recognition.threshold import at_rate

        return at_rate(*session.card(self.models[0]), rate or settings().false_match_rate)

    def recognisers(self) -> list[Any]:
        """Return the models, loaded."""
        return [session.recogniser(each) for each in self.models]


@dataclass(frozen=True)
class Pending:
    """A person whose face is taken for somebody else's: what was asked for, and whom it is taken for."""

    name: str
    shots: list[Shot] = field(repr=False)
    terms: Terms
    known_as: str
    score: float


@dataclass(frozen=True)
class Left:
    """A photo that was not used: for whom it was, under which terms, and whether they are enrolled."""

    name: str
    refused: Refused
    terms: Terms
    add: bool


def key(name: str) -> str:
    """Return a key that is new after everything that was done: consent is asked for each time."""
    return f"gallery_{name}_{st.session_state.get(TURN, 0)}"


def done(said: str) -> None:
    """Draw the page again, with an empty form and a sentence of what was done."""
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1
    st.session_state[SAID] = said
    st.rerun()


def render(where: Where, source: str) -> None:
    """Show the form for photos, the webcam or a folder of people."""
    if PENDING in st.session_state:
        _ask(where, st.session_state[PENDING])
        return
    name = "" if source == FOLDER else st.text_input("Name", max_chars=NAME_LENGTH, key=key("name"))
    shots = _shots(source)
    terms = choose_terms()
    add = st.checkbox("Add to a person who is enrolled already", key=key("add"))
    ready = bool(shots) and terms.consent and (source == FOLDER or bool(name.strip()))
    if st.button("Enrol", type="primary", disabled=not ready, key="gallery_enrol"):
        with session.refusals_shown():
            if source == FOLDER:
                _import(where, shots, terms, add)
            else:
                if add:
                    where.gallery.person(name)  # a name that is misspelt would be another person
                _enrol(where, name, shots, terms, add=add)
    elif not ready:
        st.caption("Needed: a photo, a name, and consent.")


def _shots(source: str) -> list[Shot]:
    from facemae.recognition.enrolment import Shot

    if source == WEBCAM:
        photo_input.say_where_cameras_work()
        shot = st.camera_input("Take a photo", key=key("camera"))
        return [] if shot is None else [Shot("the photo", shot.getvalue())]
    label = "A folder that holds a folder for each person" if source == FOLDER else "Photos, one face on each"
    return uploaded(label, source, folder=source == FOLDER)


def uploaded(label: str, name: str, *, folder: bool) -> list[Shot]:
    """Let the visitor choose photos, or a folder of them."""
    from facemae.recognition.enrolment import Shot

    several: Any = "directory" if folder else True
    found = st.file_uploader(
        label, type=photo_input.KINDS, accept_multiple_files=several,
        max_upload_size=photo_input.MAX_UPLOAD, key=key(name),
    )  # fmt: skip
    return [Shot(each.name, each.getvalue()) for each in found or []]


def choose_terms() -> Terms:
    """Let the visitor say until when people are kept, whether with a picture, and that they agreed."""
    from facemae.recognition.enrolment import Terms, until
    from facemae.recognition.gallery.store import LONGEST_RETENTION

    with st.container(border=True):
        st.markdown(
            "**What is stored**: the name, and for every photo a list of numbers by which a model can tell "
            "the face again. That is biometric data: a face can be guessed from it, so it is not anonymous. "
            "**Who sees it**: everybody who can open this page. **For how long**: until the date below; "
            "deleting below removes it at once. **What for**: trying out recognition, not for access control."
        )
        last = st.date_input(
            "Keep until",
            value=until(settings().retention_days),
            min_value=until(1),
            max_value=until(LONGEST_RETENTION),
            key=key("until"),
        )
        thumbnail = st.checkbox("Keep a picture of 64 pixels to recognise the entry by", key=key("thumbnail"))
        consent = st.checkbox("The people shown have agreed to this", key=key("consent"))
    assert isinstance(last, datetime.date)
    return Terms(consent, last, thumbnail)


def _enrol(
    where: Where, name: str, shots: Sequence[Shot], terms: Terms, *, add: bool = False, anyway: bool = False
) -> None:
    from facemae.recognition.enrolment import enrol

    threshold = where.threshold()
    with frame.turn(), st.spinner("Enrolling…"):
        outcome = enrol(
            where.recognisers(), where.gallery, name, shots, terms, threshold, add=add, anyway=anyway
        )
    if outcome.person is None and outcome.known_as is not None:
        known = outcome.known_as
        st.session_state[PENDING] = Pending(name, list(shots), terms, known.person.name, known.score)
        st.rerun()
    st.session_state.pop(PENDING, None)
    _keep_refused(outcome, terms, add)
    if outcome.person is None:
        st.rerun()
    used = len(shots) - len(outcome.refused)
    photos, models = f"{used} photo{'' if used == 1 else 's'}", len(where.models)
    by = f" by {models} models" if models > 1 else ""
    done(f"{outcome.person.name} is enrolled with {photos}{by}, until {terms.retain_until:%d %B %Y}.")


def _import(where: Where, shots: Sequence[Shot], terms: Terms, add: bool) -> None:
    """Enrol everybody of a folder of person/photo.jpg, one after the other, with a bar."""
    from facemae.recognition.enrolment import Outcome, Refused, Shot, enrol

    people = people_of(shots)
    if not people:
        st.warning("The folder holds no folders with photos: arrange them as person/photo.jpg.")
        return
    left = len(shots) - sum(map(len, people.values()))
    threshold, recognisers, enrolled = where.threshold(), where.recognisers(), 0
    bar = st.progress(0.0, "Enrolling…")
    for count, (name, own) in enumerate(people.items()):
        try:
            with frame.turn():
                outcome = enrol(recognisers, where.gallery, name, own, terms, threshold, add=add, anyway=True)
        except FaceMAEError as error:
            outcome = Outcome(name, None, [Refused(Shot(name, b""), str(error))])
        _keep_refused(outcome, terms, add)
        enrolled += outcome.person is not None
        bar.progress((count + 1) / len(people), f"{count + 1} of {len(people)} people")
    said = f"{enrolled} of {len(people)} people are enrolled; look below for those who may be one."
    if left:
        said += f" {left} files do not lie directly in a person's folder and are left out."
    done(said)


def people_of(shots: Sequence[Shot]) -> dict[str, list[Shot]]:
    """Return the photos of an uploaded folder by person: those at folder/person/photo.jpg, no others."""
    people: dict[str, list[Shot]] = {}
    for shot in shots:
        parts = PurePosixPath(shot.name).parts
        if len(parts) == 3:
            people.setdefault(parts[1], []).append(shot)
    return people


# --- questions that stay until they are answered ---


def _ask(where: Where, pending: Pending) -> None:
    """Ask what to do with a face that is taken for somebody else; nothing is merged without an answer."""
    st.warning("This face is taken for somebody who is enrolled.", icon=":material/group:")
    st.text(f"New: {pending.name}\nEnrolled: {pending.known_as} (score {pending.score:.3f})")
    name = st.text_input("Name of another person", pending.name, max_chars=NAME_LENGTH, key="pending_name")
    shots, terms = pending.shots, pending.terms
    with st.container(horizontal=True), session.refusals_shown():
        if st.button("Add the photos to the enrolled person", key="pending_add"):
            where.gallery.person(pending.known_as)  # who may be gone by now
            _enrol(where, pending.known_as, shots, terms, add=True, anyway=True)
        if st.button("Enrol as another person", key="pending_new"):
            _enrol(where, name, shots, terms, anyway=True)
        if st.button("Do nothing", key="pending_none"):
            st.session_state.pop(PENDING, None)
            st.rerun()


def _keep_refused(outcome: Outcome, terms: Terms, add: bool) -> None:
    left = [Left(outcome.name, each, terms, add or outcome.person is not None) for each in outcome.refused]
    st.session_state[REFUSED] = [*st.session_state.get(REFUSED, []), *left]


def keep_refused(refused: Sequence[Refused], terms: Terms) -> None:
    """Show photos that nobody was named for, and why they were not used, until the list is cleared."""
    left = [Left("", replace(each, photo=None), terms, False) for each in refused]
    st.session_state[REFUSED] = [*st.session_state.get(REFUSED, []), *left]


def show_refused(where: Where) -> None:
    """Show what was not used, with its reason; of several faces on a photo one can be chosen."""
    left: list[Left] = st.session_state.get(REFUSED, [])
    if not left:
        return
    with st.container(border=True):
        count = len(left)
        st.warning(
            f"{count} photo{' was' if count == 1 else 's were'} not used:",
            icon=":material/image_not_supported:",
        )
        for number, each in enumerate(left):
            st.text(f"{shown(PurePosixPath(each.refused.shot.name).name, 60)}: {each.refused.reason}")
            if each.refused.photo is not None:
                _choose_face(where, number, each)
        if st.button("Clear this list", key="refused_clear"):
            st.session_state.pop(REFUSED)
            st.rerun()


def _choose_face(where: Where, number: int, left: Left) -> None:
    photo = left.refused.photo
    assert photo is not None
    st.image(photo_input.boxed(photo), width=480, alt=photo_input.described(photo))
    st.text(f"One of these faces is {left.name}.")
    with st.container(horizontal=True, vertical_alignment="bottom"), session.refusals_shown():
        faces = [each.number for each in photo.faces]
        face = st.segmented_control("Which face is it?", faces, key=key(f"face_{number}"))
        if st.button("Enrol this face", disabled=face is None, key=key(f"face_enrol_{number}")):
            others = st.session_state[REFUSED]
            st.session_state[REFUSED] = [each for each in others if each is not left]
            try:
                _enrol(where, left.name, [replace(left.refused.shot, face=face)], left.terms, add=left.add)
            except FaceMAEError:
                st.session_state[REFUSED] = others
                raise
