"""The recognition page: who is on a photo, whether two show one person, and what an occlusion does to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae.app import frame, session
from facemae.app.parts import occlusion, photo_input
from facemae.data.alignment import quality
from facemae.data.alignment.align import BETTER_PHOTO, Aligned
from facemae.data.images import ImageError
from facemae.recognition.threshold import Threshold
from facemae.report import phrases

if TYPE_CHECKING:
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.model import Model
    from facemae.recognition.recogniser import Found, Identified, Recogniser

WHO, SAME = "Who is it?", "Same person?"
CROP = 150  # pixels that an aligned face is shown at
BESIDE = 320  # pixels of what stands beside it, or below it on a telephone
CARD = 540  # pixels of both: two beside each other where there is room
SHOWN = 12  # faces of one photo; more are left out, the smallest first


def render() -> None:
    """Show the page."""
    st.title("Recognise")
    st.caption("Find every face of a photo and look it up among the people enrolled, or compare two photos.")
    with frame.explained(), session.refusals_shown():
        session.every_model()  # what is wrong with the results is said above the columns
        left, right = st.columns(2)
        with left:
            model = session.choose_model("model")
        with right:
            threshold = session.choose_threshold(model, "fmr")
        task = st.segmented_control(
            "Task", [WHO, SAME], default=WHO, required=True, key="task", bind="query-params",
            label_visibility="collapsed",
        )  # fmt: skip
        if task == WHO:
            _identify(model, threshold)
        else:
            _verify(model, threshold)
        st.caption(
            "A printed photo passes as a face, and nobody should get in or out by this page: it shows what a "
            "model does, not who somebody is."
        )


# --- who is it ---


def _identify(model: Model, threshold: Threshold) -> None:
    gallery = session.gallery()
    enrolled = len(gallery.people(model.fingerprint))
    _say_who_is_enrolled(gallery, model, enrolled)
    faces = _faces(model)
    if not faces:
        return
    with frame.turn(), st.spinner("Comparing…"):
        recogniser = session.recogniser(model)
        found = _looked_up(recogniser, gallery, faces, threshold, enrolled)
    with st.container(horizontal=True, gap="medium"):
        for each in found:
            _show(model, each, threshold)
    st.caption(session.stands_for(threshold, enrolled, gallery.models().get(model.fingerprint, 0)))
    occlusion.render(model, threshold, [each.found for each in found])


def _say_who_is_enrolled(gallery: Gallery, model: Model, enrolled: int) -> None:
    if enrolled:
        st.caption(f"{enrolled} people are enrolled with this model.")
        return
    others = [name for name in gallery.models() if name != model.fingerprint]
    if others:
        known = {each.fingerprint: each.name for each in session.every_model()}
        names = phrases.names_of(known.get(each, f"one that is not here ({each[:4]})") for each in others)
        st.warning(
            f"Nobody is enrolled with {model.name}, but with {names}. Choose another model above, or enrol "
            f"people with {model.name}.",
            icon=":material/sync_problem:",
        )
    else:
        st.info("The gallery is empty, so everybody is unknown. Enrol someone first.", icon=":material/info:")
    if session.offers_demo() and st.button(
        "Enrol the demo people", icon=":material/group_add:", key="recognise_demo"
    ):
        session.enrol_demo(model)
        st.rerun()


def _faces(model: Model) -> list[Found]:
    """Return the faces to look up; of a photo all of them, boxed and numbered on it."""
    size = model.image_size
    source = st.segmented_control(
        "Photo", [photo_input.SAMPLE, photo_input.UPLOAD, photo_input.WEBCAM], required=True,
        default=photo_input.SAMPLE,
        key="recognise_from",
    )  # fmt: skip
    if source == photo_input.SAMPLE:
        # Of the demo people the first photo is enrolled: another one is the honest probe.
        chosen = photo_input.sample("face", "Photo", 1, size)
        return [] if chosen is None else [_as_found(chosen.image)]
    taken = photo_input.photo_from("recognise", size, source)
    if taken is None:
        return []
    if not taken.faces:
        photo_input.say_refused(ImageError("NO_FACE", "No face found.", BETTER_PHOTO))
        return []
    count = len(taken.faces)
    photo_input.show(taken)
    if count > SHOWN:
        st.info(f"{count} faces found; the {SHOWN} largest are looked up. Crop the photo for the others.")
    return taken.faces[:SHOWN]


def _as_found(image: NDArray[np.uint8]) -> Found:
    from facemae.recognition.recogniser import Found

    box = np.array([0, 0, image.shape[1], image.shape[0]], np.float32)
    return Found(1, box, Aligned(image, quality.sharpness(image)))


def _looked_up(
    recogniser: Recogniser, gallery: Gallery, faces: list[Found], threshold: Threshold, enrolled: int
) -> list[Identified]:
    from facemae.recognition.recogniser import Identified

    if not enrolled:
        return [Identified(each, [], None) for each in faces]
    return recogniser.identify(faces, gallery, threshold)


def _show(model: Model, each: Identified, threshold: Threshold) -> None:
    """Show one face: its crop, the decision, and the people it is most like."""
    number = each.found.number
    with st.container(border=True, horizontal=True, gap="medium", width=CARD):
        with st.container(width=CROP, gap="small"):
            face = session.as_seen(each.found.image, *session.grey_only(model))
            st.image(face, width=CROP, alt=f"Face {number}, aligned")
        with st.container(width=BESIDE, gap="small"):
            _decision(each, threshold)
            if each.candidates:
                _candidates(each, threshold, f"candidates_{number}")
            for code in each.found.face.warnings:
                st.caption(f"Doubtful: {quality.WARNINGS[code]}.")


def _decision(each: Identified, threshold: Threshold) -> None:
    number = each.found.number
    best = each.candidates[0].score if each.candidates else None
    if each.match is not None:
        st.badge("match", icon=":material/check:", color="green")
        frame.words(f"Face {number}: {each.match.person.name}", tag="b")
    else:
        st.badge("unknown", icon=":material/question_mark:", color="gray")
        frame.words(f"Face {number}: unknown person", tag="b")
    if best is not None:
        st.text(f"Best score {best:.3f}, needed {threshold.score:.3f}.")


def _candidates(each: Identified, threshold: Threshold, key: str) -> None:
    table = pd.DataFrame(
        {
            "person": [candidate.person.name for candidate in each.candidates],
            "score": [candidate.score for candidate in each.candidates],
            "match": [threshold.matches(candidate.score) for candidate in each.candidates],
        }
    )
    st.dataframe(
        table,
        hide_index=True,
        key=key,
        column_config={
            "person": "Most like",
            "score": st.column_config.ProgressColumn("Score", min_value=-1, max_value=1, format="%.3f"),
            "match": st.column_config.CheckboxColumn("Reaches it", help="the score needed for a match"),
        },
        alt=f"Table: the people that face {each.found.number} is most like, with scores.",
    )


# --- the same person ---


def _verify(model: Model, threshold: Threshold) -> None:
    size = model.image_size
    left, right = st.columns(2)
    with left:
        first = photo_input.aligned_face("first", size, "First photo")
    with right:
        other = photo_input.aligned_face("second", size, "Second photo", place=1)
    if first is None or other is None:
        st.info("Choose two faces to compare.", icon=":material/info:")
        return
    with frame.turn():
        found = session.recogniser(model).verify(first.image, other.image, threshold)
    with st.container(horizontal=True, gap="small"):
        for name, each in (("first", first), ("second", other)):
            with st.container(width=CROP, gap="small"):
                face = session.as_seen(each.image, *session.grey_only(model))
                st.image(face, width=CROP, alt=f"The {name} face, aligned")
    if found.match:
        st.success(
            f"A match: score {found.score:.3f}, needed {threshold.score:.3f}.", icon=":material/check:"
        )
    else:
        st.info(
            f"No match: score {found.score:.3f}, needed {threshold.score:.3f}. They may still be one person.",
            icon=":material/question_mark:",
        )
    st.caption(session.stands_for(threshold, 1, 1))
