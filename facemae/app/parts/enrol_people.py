"""Enrolling people on the gallery page: photos, a webcam shot or a folder of people, and what was refused.

Of the models that enrol, the first tells people apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

import streamlit as st

from facemae.app import frame, session
from facemae.app.parts import photo_input
from facemae.core.errors import FaceMAEError
from facemae.core.text import shown
from facemae.recognition.enrolment import Outcome, Refused, Shot, Terms, enrol, not_enrolled, until
from facemae.recognition.gallery import names
from facemae.recognition.gallery.schema import Candidate
from facemae.recognition.gallery.store import LONGEST_RETENTION
from facemae.recognition.model import Model
from facemae.recognition.settings import settings

NAME_LENGTH = names.LONGEST
SOURCES = UPLOAD, WEBCAM, FOLDER, UNSORTED = "Photos", "Webcam", "Folder of people", "Unsorted photos"
PENDING = "gallery_pending"  # who waits for an answer, and whom they are taken for; of this visitor alone
REFUSED = "gallery_refused"  # photos that were not used, until the visitor has seen to them
SAID, TURN = "gallery_said", "gallery_turn"  # what was done last, and how often: each time the form is new


class Enrolment(NamedTuple):
    """Whom to enrol, from which photos and under which terms."""

    name: str
    shots: Sequence[Shot]
    terms: Terms


def key(name: str) -> str:
    """Return a key that is new after everything that was done: consent is asked for each time."""
    return f"gallery_{name}_{st.session_state.get(TURN, 0)}"


def done(said: str) -> None:
    """Draw the page again, with an empty form and a sentence of what was done."""
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1
    st.session_state[SAID] = said
    st.rerun()


def render(models: list[Model], source: str) -> None:
    """Show the form for photos, the webcam or a folder of people."""
    if PENDING in st.session_state:
        _ask(models, *st.session_state[PENDING])
        return
    name = "" if source == FOLDER else st.text_input("Name", max_chars=NAME_LENGTH, key=key("name"))
    shots = _shots(source)
    terms = choose_terms()
    ready = bool(shots) and terms.consent and (source == FOLDER or bool(name.strip()))
    if st.button("Enrol", type="primary", disabled=not ready, key="gallery_enrol"):
        with frame.refusals_shown():
            if source == FOLDER:
                _import(models, shots, terms)
            else:
                if terms.add:
                    session.gallery().person(name)  # a name that is misspelt would be another person
                _enrol(models, Enrolment(name, shots, terms))
    elif not ready:
        st.caption("Needed: a photo, a name, and consent.")


def _shots(source: str) -> list[Shot]:
    if source == WEBCAM:
        shot = photo_input.webcam(key("camera"))
        return [] if shot is None else [Shot("the photo", shot.getvalue())]
    if source == FOLDER:
        return uploaded("A folder that holds a folder for each person", source, "directory")
    return uploaded("Photos, one face on each", source, True)


def uploaded(label: str, name: str, several: Literal[True, "directory"]) -> list[Shot]:
    """Let the visitor choose photos, or a directory of them."""
    found = st.file_uploader(
        label, type=photo_input.KINDS, accept_multiple_files=several,
        max_upload_size=photo_input.MAX_UPLOAD, key=key(name),
    )  # fmt: skip
    return [Shot(each.name, each.getvalue()) for each in found or []]


def choose_terms() -> Terms:
    """Let the visitor say that people agreed, until when they are kept, and whether they may be known."""
    with st.container(border=True):
        st.markdown(
            "**What is stored**: the name, and for every photo a list of numbers by which a model can tell "
            "the face again. That is biometric data: a face can be guessed from it, so it is not anonymous. "
            "**Who sees it**: everybody who can open this page. **For how long**: until the date below; "
            "deleting below removes it at once. **What for**: trying out recognition, not for access control."
        )
        usual, longest = until(settings().retention_days), until(LONGEST_RETENTION)
        last = st.date_input("Keep until", usual, until(1), longest, key=key("until"))
        thumbnail = st.checkbox("Keep a picture of 64 pixels to recognise the entry by", key=key("thumbnail"))
        consent = st.checkbox("The people shown have agreed to this", key=key("consent"))
    add = st.checkbox("Add to a person who is enrolled already", key=key("add"))
    return Terms(consent, last, thumbnail, add)


def _enrol(models: list[Model], asked: Enrolment, *, anyway: bool = False) -> None:
    """Enrol one person, and draw the page again; a face that somebody else has is asked about first."""
    with st.spinner("Enrolling…"):
        outcome = _outcome(models, asked, anyway)
    if outcome.person is None and outcome.known_as is not None:
        st.session_state[PENDING] = (asked, outcome.known_as)
        st.rerun()
    st.session_state.pop(PENDING, None)
    keep_refused(outcome, asked.terms)
    if outcome.person is None:
        st.rerun()
    used = len(asked.shots) - len(outcome.refused)
    photos = f"{used} photo{'' if used == 1 else 's'}"
    by = f" by {len(models)} models" if len(models) > 1 else ""
    done(f"{outcome.person.name} is enrolled with {photos}{by}, until {asked.terms.retain_until:%d %B %Y}.")


def _outcome(models: list[Model], asked: Enrolment, anyway: bool) -> Outcome:
    recognisers = [session.recogniser(each) for each in models]
    threshold = session.threshold(models[0])
    with frame.turn():
        return enrol(recognisers, session.gallery(), *asked, threshold, anyway=anyway)


def _import(models: list[Model], shots: Sequence[Shot], terms: Terms) -> None:
    """Enrol everybody of a folder of person/photo.jpg, one after the other, with a bar."""
    people, enrolled = people_of(shots), 0
    if not people:
        st.warning("The folder holds no folders with photos: arrange them as person/photo.jpg.")
        return
    for each in models:  # a damaged one is told once, not of everybody
        session.recogniser(each)
    session.threshold(models[0])
    bar = st.progress(0.0, "Enrolling…")
    for count, (name, own) in enumerate(people.items(), 1):
        try:
            outcome = _outcome(models, Enrolment(name, own, terms), anyway=True)
        except frame.BusyError:
            raise  # the folder stays, and the same button goes on with those who are missing
        except FaceMAEError as error:
            outcome = not_enrolled(name, error)
        keep_refused(outcome, terms)
        enrolled += outcome.person is not None
        bar.progress(count / len(people), f"{count} of {len(people)} people")
    left = len(shots) - sum(map(len, people.values()))
    files = f" {left} files do not lie directly in a person's folder and are left out." if left else ""
    done(f"{enrolled} of {len(people)} people are enrolled; look below for those who may be one.{files}")


def people_of(shots: Sequence[Shot]) -> dict[str, list[Shot]]:
    """Return the photos of an uploaded folder by person: those at folder/person/photo.jpg, no others."""
    people: dict[str, list[Shot]] = {}
    for shot in shots:
        parts = PurePosixPath(shot.name).parts
        if len(parts) == 3:
            people.setdefault(parts[1], []).append(shot)
    return people


# --- questions that stay until they are answered ---


def _ask(models: list[Model], asked: Enrolment, known: Candidate) -> None:
    """Ask what to do with a face that is taken for somebody else; nothing is merged without an answer."""
    other = known.person.name
    st.warning("This face is taken for somebody who is enrolled.", icon=":material/group:")
    st.text(f"New: {asked.name}\nEnrolled: {other} (score {known.score:.3f})")
    name = st.text_input("Name of another person", asked.name, max_chars=NAME_LENGTH, key="pending_name")
    with st.container(horizontal=True), frame.refusals_shown():
        if st.button("Add the photos to the enrolled person", key="pending_add"):
            session.gallery().person(other)  # who may be gone by now
            _enrol(models, asked._replace(name=other, terms=replace(asked.terms, add=True)), anyway=True)
        if st.button("Enrol as another person", key="pending_new"):
            _enrol(models, asked._replace(name=name, terms=replace(asked.terms, add=False)), anyway=True)
        if st.button("Do nothing", key="pending_none"):
            st.session_state.pop(PENDING, None)
            st.rerun()


def keep_refused(outcome: Outcome, terms: Terms) -> None:
    """Show photos that were not used, and why, until the list is cleared.

    A face that is chosen on one of them joins the person, where somebody of that name is enrolled.
    """
    terms = replace(terms, add=terms.add or outcome.person is not None)
    asked = Enrolment(outcome.name, [], terms)
    st.session_state.setdefault(REFUSED, []).extend((each, asked) for each in outcome.refused)


def show_refused(models: list[Model]) -> None:
    """Show what was not used, with its reason; of several faces on a photo one can be chosen."""
    left: list[tuple[Refused, Enrolment]] = st.session_state.get(REFUSED, [])
    if not left:
        return
    with st.container(border=True):
        photos = "1 photo was" if len(left) == 1 else f"{len(left)} photos were"
        st.warning(f"{photos} not used:", icon=":material/image_not_supported:")
        for number, (refused, asked) in enumerate(left):
            st.text(f"{shown(PurePosixPath(refused.shot.name).name, 60)}: {refused.reason}")
            if refused.photo is not None:
                photo_input.show(refused.photo, 480)
                faces = [each.number for each in refused.photo.faces]
                _choose_face(models, number, asked, refused.shot, faces)
        if st.button("Clear this list", key="refused_clear"):
            st.session_state.pop(REFUSED)
            st.rerun()


def _choose_face(models: list[Model], number: int, asked: Enrolment, shot: Shot, faces: list[int]) -> None:
    st.text(f"One of these faces is {asked.name}.")
    with st.container(horizontal=True, vertical_alignment="bottom"), frame.refusals_shown():
        face = st.segmented_control("Which face is it?", faces, key=key(f"face_{number}"))
        if st.button("Enrol this face", disabled=face is None, key=key(f"face_enrol_{number}")):
            left = st.session_state[REFUSED]
            st.session_state[REFUSED] = left[:number] + left[number + 1 :]
            try:
                _enrol(models, asked._replace(shots=[replace(shot, face=face)]))
            except FaceMAEError:
                st.session_state[REFUSED] = left
                raise
