"""The gallery page: enrol people, see who is enrolled and until when, and delete them again."""

from __future__ import annotations

import datetime
import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

import pandas as pd
import streamlit as st

from facemae.app import frame, session
from facemae.app.parts import photo_input
from facemae.core.errors import FaceMAEError
from facemae.recognition.settings import settings

if TYPE_CHECKING:
    from facemae.recognition.enrolment import Outcome, Terms
    from facemae.recognition.gallery.schema import Person
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.trained_models import Model

NAME_LENGTH = 100
UPLOAD, WEBCAM, FOLDER = "Photos", "Webcam", "Folder of people"
WORD = "ERASE"
PENDING = "gallery_pending"  # an enrolment that waits for an answer; of one visitor, gone with the session
SAID, TURN = "gallery_said", "gallery_turn"  # what was done last, and how often: each time the form is new
MERGES = 10


@dataclass
class Pending:
    """A person whose face is taken for somebody else's: what was asked for, and whom it is taken for."""

    name: str
    photos: list[tuple[str, bytes]] = field(repr=False)
    known_as: str
    score: float


def render() -> None:
    """Show the page."""
    st.title("Gallery")
    st.caption(
        "The people whom the Recognise page can name. Photos are not kept, only what a model makes of them."
    )
    with frame.explained(), session.told():
        kept = session.gallery()
        model = session.choose_model("model", "Model that enrols (run/seed)")
        _numbers(kept, model)
        _enrol(kept, model)
        people = kept.people()
        if people:
            _people(kept, people)
            with session.told():
                _merges(kept, model)
            _erase(kept, len(people))


def _numbers(kept: Gallery, model: Model) -> None:
    people = kept.people()
    with st.container(horizontal=True, gap="large"):
        st.metric("People", f"{len(people):,}", width="content")
        st.metric("Templates", f"{sum(kept.models().values()):,}", width="content")
        own = kept.models().get(model.fingerprint, 0)
        st.metric("Of this model", f"{own:,}", width="content")
    if not people:
        st.info(
            "Nobody is enrolled yet. Enrol somebody below, or try it with demo people:",
            icon=":material/info:",
        )
    if st.button("Enrol the demo people", icon=":material/group_add:", key="gallery_demo"):
        with session.told():
            count = session.enrol_demo(model)
            _done(f"{count} demo people are enrolled." if count else "The demo people are enrolled already.")
    said = st.session_state.pop(SAID, None)
    with st.container():  # there also when empty: else what stands below would be drawn anew, and close
        if said:
            st.toast("Done.", icon=":material/check:")
            st.success("Done.", icon=":material/check:")
            st.text(said)


# --- enrolling ---


def _enrol(kept: Gallery, model: Model) -> None:
    st.subheader("Enrol")
    if PENDING in st.session_state:
        _ask(kept, model, st.session_state[PENDING])
        return
    source = st.segmented_control(
        "From", [UPLOAD, WEBCAM, FOLDER], default=UPLOAD, required=True, key="gallery_from"
    )
    name = "" if source == FOLDER else st.text_input("Name", max_chars=NAME_LENGTH, key=_fresh("name"))
    photos = _photos(source)
    terms = _terms()
    add = st.checkbox("Add to a person who is enrolled already", key=_fresh("add"))
    ready = bool(photos) and terms.consent and (source == FOLDER or bool(name.strip()))
    if st.button("Enrol", type="primary", disabled=not ready, key="gallery_enrol"):
        with session.told():
            if source == FOLDER:
                _import(kept, model, photos, terms, add)
            else:
                _enrol_one(kept, model, name, photos, terms, add=add)
    elif not ready:
        st.caption("Needed: a photo, a name, and consent.")


def _fresh(name: str) -> str:
    """Return a key that is new after everything that was done: each person's consent is asked for anew."""
    return f"gallery_{name}_{st.session_state.get(TURN, 0)}"


def _photos(source: str) -> list[tuple[str, bytes]]:
    if source == WEBCAM:
        photo_input.say_where_cameras_work()
        shot = st.camera_input("Take a photo", key=_fresh("camera"))
        return [] if shot is None else [("the photo", shot.getvalue())]
    several: Any = "directory" if source == FOLDER else True
    label = "A folder that holds a folder for each person" if source == FOLDER else "Photos, one face on each"
    found = st.file_uploader(
        label, type=photo_input.KINDS, accept_multiple_files=several, max_upload_size=photo_input.MAX_UPLOAD,
        key=_fresh(source),
    )  # fmt: skip
    return [(each.name, each.getvalue()) for each in found or []]


def _terms() -> Terms:
    from facemae.recognition.enrolment import Terms, until
    from facemae.recognition.gallery.store import LONGEST_RETENTION

    days = settings().retention_days
    with st.container(border=True):
        st.markdown(
            "**What is stored**: the name, and for every photo a list of numbers by which a model can tell "
            "the face again. That is biometric data: a face can be guessed from it, so it is not anonymous. "
            "**Who sees it**: everybody who can open this page. **For how long**: until the date below; "
            "deleting below removes it at once. **What for**: trying out recognition, not for access control."
        )
        last = st.date_input(
            "Keep until",
            value=until(days),
            min_value=until(1),
            max_value=until(LONGEST_RETENTION),
            key=_fresh("until"),
        )
        thumbnail = st.checkbox(
            "Keep a picture of 64 pixels to recognise the entry by", key=_fresh("thumbnail")
        )
        consent = st.checkbox("The people shown have agreed to this", key=_fresh("consent"))
    assert isinstance(last, datetime.date)
    return Terms(consent, last, thumbnail)


def _enrol_one(
    kept: Gallery,
    model: Model,
    name: str,
    photos: Sequence[tuple[str, bytes]],
    terms: Terms,
    *,
    add: bool = False,
    anyway: bool = False,
) -> None:
    from facemae.recognition.enrolment import enrol

    threshold = _threshold(model)
    with frame.turn(), st.spinner("Enrolling…"):
        done = enrol(session.recogniser(model), kept, name, photos, terms, threshold, add=add, anyway=anyway)
    if done.person is None and done.known_as is not None:
        st.session_state[PENDING] = Pending(
            name, list(photos), done.known_as.person.name, done.known_as.score
        )
        st.session_state["gallery_terms"] = terms
        st.rerun()
    _say_refused(done)
    if done.person is not None:
        _answered()
        used = len(photos) - len(done.refused)
        photos_used = f"{used} photo{'' if used == 1 else 's'}"
        _finish(
            f"{done.person.name} is enrolled with {photos_used}, until {terms.retain_until:%d %B %Y}.",
            not done.refused,
        )


def _finish(said: str, clean: bool) -> None:
    """Say what was done; where nothing was refused, with an empty form."""
    if clean:
        _done(said)
    st.success("Done.", icon=":material/check:")
    st.text(said)


def _say_refused(done: Outcome) -> None:
    for place, reason in done.refused:
        st.warning("A photo was not used:", icon=":material/image_not_supported:")
        st.text(f"{PurePosixPath(place).name[:60]}: {reason}")


def _threshold(model: Model) -> Any:
    from facemae.recognition.threshold import at_rate

    return at_rate(*session.card(model), settings().false_match_rate)


def _ask(kept: Gallery, model: Model, pending: Pending) -> None:
    """Ask what to do with a face that is taken for somebody else; nothing is merged without an answer."""
    terms = st.session_state["gallery_terms"]
    st.warning("This face is taken for somebody who is enrolled.", icon=":material/group:")
    st.text(f"New: {pending.name}\nEnrolled: {pending.known_as} (score {pending.score:.3f})")
    name = st.text_input("Name of another person", pending.name, max_chars=NAME_LENGTH, key="pending_name")
    with st.container(horizontal=True), session.told():
        if st.button("Add the photos to the enrolled person", key="pending_add"):
            _enrol_one(kept, model, pending.known_as, pending.photos, terms, add=True, anyway=True)
        if st.button("Enrol as another person", key="pending_new"):
            _enrol_one(kept, model, name, pending.photos, terms, anyway=True)
        if st.button("Do nothing", key="pending_none"):
            _answered()
            st.rerun()


def _answered() -> None:
    st.session_state.pop(PENDING, None)
    st.session_state.pop("gallery_terms", None)


def _import(
    kept: Gallery, model: Model, photos: Sequence[tuple[str, bytes]], terms: Terms, add: bool
) -> None:
    """Enrol everybody of a folder of person/photo.jpg, one after the other, with a bar."""
    from facemae.recognition.enrolment import enrol

    people = people_of(photos)
    if not people:
        st.warning("The folder holds no folders with photos: arrange them as person/photo.jpg.")
        return
    if left := len(photos) - sum(map(len, people.values())):
        st.info(f"{left} files do not lie directly in a person's folder and are left out.")
    threshold, bar, done = _threshold(model), st.progress(0.0, "Enrolling…"), 0
    for count, (name, shots) in enumerate(people.items()):
        try:
            with frame.turn():
                outcome = enrol(
                    session.recogniser(model), kept, name, shots, terms, threshold, add=add, anyway=True
                )
            _say_refused(outcome)
            done += outcome.person is not None
        except FaceMAEError as error:
            st.warning("A person was not enrolled:", icon=":material/person_off:")
            st.text(str(error))
        bar.progress((count + 1) / len(people), f"{count + 1} of {len(people)} people")
    _finish(
        f"{done} of {len(people)} people are enrolled; look below for those who may be one.",
        done == len(people),
    )


def people_of(photos: Sequence[tuple[str, bytes]]) -> dict[str, list[tuple[str, bytes]]]:
    """Return the photos of an uploaded folder by person: those at folder/person/photo.jpg, no others."""
    people: dict[str, list[tuple[str, bytes]]] = {}
    for path, data in photos:
        parts = PurePosixPath(path).parts
        if len(parts) == 3:
            people.setdefault(parts[1], []).append((path, data))
    return people


# --- who is enrolled ---


def _people(kept: Gallery, people: list[Person]) -> None:
    st.subheader("Who is enrolled")
    text = st.text_input("Find", key="gallery_find", placeholder="a part of the name")
    shown = kept.find(text) if text else people
    table = pd.DataFrame(
        {
            "name": [each.name for each in shown],
            "photos": [each.photos for each in shown],
            "since": [each.created.date() for each in shown],
            "until": [each.retain_until for each in shown],
            "number": [each.id for each in shown],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        column_config={
            "name": "Name",
            "photos": "Templates",
            "since": "Since",
            "until": "Kept until",
            "number": "No.",
        },
        alt="Table of the people enrolled, with the number of templates and until when they are kept.",
    )
    chosen = st.selectbox(
        "Rename, export or delete", shown, index=None, format_func=lambda each: each.name,
        placeholder="Choose a person", key=_fresh("person"),
    )  # fmt: skip
    if chosen is not None:
        _person(kept, chosen)


def _person(kept: Gallery, person: Person) -> None:
    with st.container(border=True):
        frame.words(person.name, tag="b")
        picture = kept.thumbnails([person]).get(person.id)
        if picture:
            st.image(picture, width=64, alt="The enrolled face, 64 pixels")
        new = st.text_input("New name", value=person.name, max_chars=NAME_LENGTH, key=f"rename_{person.id}")
        with st.container(horizontal=True), session.told():
            if st.button("Rename", disabled=new == person.name, key="person_rename"):
                kept.rename(person.name, new)
                _done(f"The person is renamed. {kept.residue or ''}")
            st.download_button(
                "Export all that is stored",
                lambda: _exported(kept, person.id),
                "facemae-person.json",
                "application/json",
                key="person_export",
            )
            if st.button("Delete", icon=":material/delete:", key="person_delete"):
                kept.remove(person.name)
                _done(f"The person is deleted. {_left(kept)}")


def _exported(kept: Gallery, person: int) -> str:
    """Return all that is stored of a person as JSON; nothing where they are gone or renamed meanwhile."""
    name = next((each.name for each in kept.people() if each.id == person), None)
    content = {"people": []} if name is None else kept.export(name)
    return json.dumps(content, indent=2, ensure_ascii=False)


def _left(kept: Gallery) -> str:
    """Return what is left of somebody who was deleted."""
    return kept.residue or "Nothing of them is left in the gallery."


def _done(said: str) -> None:
    """Draw the page anew, with an empty form and a sentence of what was done."""
    st.session_state[TURN] = st.session_state.get(TURN, 0) + 1
    st.session_state[SAID] = said
    st.rerun()


def _merges(kept: Gallery, model: Model) -> None:
    """Suggest to make two people one where their faces match; the visitor decides."""
    asked = _fresh(f"alike_{model.fingerprint}")
    if st.button("Look for people who may be one", key="gallery_alike"):  # of all with all, so not each time
        with frame.turn(), st.spinner("Comparing everybody with everybody…"):
            st.session_state[asked] = kept.lookalikes(model.fingerprint, _threshold(model).score)
    alike = st.session_state.get(asked)
    if alike is None:
        return
    with st.expander(f"Perhaps one person ({len(alike)})", expanded=True):
        if not alike:
            st.write("Nobody looks like anybody else.")
        for one, other, score in alike[:MERGES]:
            names = [f"<bdi>{html.escape(each.name)}</bdi>" for each in (one, other)]
            st.html(f"{names[0]} and {names[1]}, score {score:.3f}")
            if st.button("Make them one, under the first name", key=f"merge_{one.id}_{other.id}"):
                with session.told():
                    kept.merge(other.name, one.name)
                    _done(f"They are one person now. {kept.residue or ''}")


def _erase(kept: Gallery, count: int) -> None:
    with st.expander("Export or delete everybody"):
        st.download_button(
            "Export everybody",
            lambda: json.dumps(kept.export(), indent=2, ensure_ascii=False),
            "facemae-gallery.json",
            "application/json",
            key="gallery_export",
        )
        typed = st.text_input(f"To delete all {count} people, type {WORD}", key="gallery_word")
        if st.button(
            "Delete everybody", icon=":material/delete_forever:", disabled=typed != WORD, key="erase"
        ):
            with session.told():
                _done(f"{kept.erase()} people are deleted. {_left(kept)}")
