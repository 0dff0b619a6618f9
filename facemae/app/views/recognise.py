"""The recognition page: who is on a photo, whether two show one person, and what an occlusion does to it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae.app import elements, frame, session
from facemae.app.parts import occlusion, photo_input
from facemae.data.alignment import quality
from facemae.data.alignment.align import Aligned
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.model import Model
from facemae.recognition.recogniser import Found, Identified
from facemae.recognition.threshold import Threshold
from facemae.report import phrases

WHO, SAME = "Who is it?", "Same person?"
CROP = 150  # pixels that an aligned face is shown at
BESIDE = 320  # pixels of what stands beside it, or below it on a telephone
CARD = 540  # pixels of both: two beside each other where there is room
SHOWN = 12  # faces of one photo; more are left out, the smallest first


def render() -> None:
    """Show the page."""
    st.title("Recognise")
    st.caption("Find every face of a photo and look it up among the people enrolled, or compare two photos.")
    with frame.explained(), frame.refusals_shown():
        session.every_model()  # what is wrong with the results is said above the columns
        left, right = st.columns(2)
        with left:
            model = session.choose_model("model")
        with right:
            threshold = session.choose_threshold(model, "fmr")
        task = elements.switch("Task", [WHO, SAME], "task", bind="query-params", label_visibility="collapsed")
        if task == WHO:
            _identify(model, threshold)
        else:
            _verify(model, threshold)
        st.caption(
            "A printed photo passes as a face, and nobody should get in or out by this page: it shows what a "
            "model does, not who somebody is."
        )


def _identify(model: Model, threshold: Threshold) -> None:
    gallery = session.gallery()
    enrolled = len(gallery.people(model.fingerprint))
    _say_who_is_enrolled(gallery, model, enrolled)
    faces = _faces(model)
    if not faces:
        return
    with frame.turn(), st.spinner("Comparing…"):
        found = [Identified(each, [], None) for each in faces]
        if enrolled:
            found = session.recogniser(model).identify(faces, gallery, threshold)
    with st.container(horizontal=True, gap="medium"):
        for each in found:
            _show(model, each, threshold)
    st.caption(threshold.in_words(enrolled, gallery.models().get(model.fingerprint, 0)))
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
    source = elements.switch("Photo", photo_input.SOURCES, "recognise_from")
    if source == photo_input.SAMPLE:
        # Of the demo people the first photo is enrolled: another one is the honest probe.
        chosen = photo_input.sample("face", "Photo", 1, model.image_size)
        if chosen is None:
            return []
        height, width, _ = chosen.image.shape
        aligned = Aligned(chosen.image, quality.sharpness(chosen.image))
        return [Found(1, np.array([0, 0, width, height], np.float32), aligned)]
    taken = photo_input.photo_from("recognise", model.image_size, source)
    if taken is None:
        return []
    photo_input.show(taken)
    count = len(taken.faces)
    if count > SHOWN:
        st.info(f"{count} faces found; the {SHOWN} largest are looked up. Crop the photo for the others.")
    return taken.faces[:SHOWN]


def _show(model: Model, each: Identified, threshold: Threshold) -> None:
    """Show one face: its crop, the decision, and the people it is most like."""
    number, candidates = each.found.number, each.candidates
    with st.container(border=True, horizontal=True, gap="medium", width=CARD):
        _crop(model, each.found.image, f"Face {number}, aligned")
        with st.container(width=BESIDE, gap="small"):
            if each.match is not None:
                st.badge("match", icon=":material/check:", color="green")
                elements.words(f"Face {number}: {each.match.person.name}", tag="b")
            else:
                st.badge("unknown", icon=":material/question_mark:", color="gray")
                elements.words(f"Face {number}: unknown person", tag="b")
            if candidates:
                st.text(f"Best score {candidates[0].score:.3f}, needed {threshold.score:.3f}.")
                _candidates(each, threshold)
            photo_input.say_doubts(each.found)


def _crop(model: Model, face: NDArray[np.uint8], alt: str) -> None:
    with st.container(width=CROP, gap="small"):
        st.image(session.as_seen(model, face), width=CROP, alt=alt)


def _candidates(each: Identified, threshold: Threshold) -> None:
    rows = [(found.person.name, found.score, threshold.matches(found.score)) for found in each.candidates]
    columns = {
        "person": "Most like",
        "score": st.column_config.ProgressColumn("Score", min_value=-1, max_value=1, format="%.3f"),
        "match": st.column_config.CheckboxColumn("Reaches it", help="the score needed for a match"),
    }
    number = each.found.number
    alt = f"Table: the people that face {number} is most like, with scores."
    elements.table(pd.DataFrame(rows, columns=list(columns)), alt, columns, key=f"candidates_{number}")


def _verify(model: Model, threshold: Threshold) -> None:
    pair = photo_input.two_faces("", "photo", model.image_size)
    if pair is None:
        st.info("Choose two faces to compare.", icon=":material/info:")
        return
    first, second = (each.image for each in pair)
    with frame.turn():
        score = session.recogniser(model).similarity(first, second)
    with st.container(horizontal=True, gap="small"):
        _crop(model, first, "The first face, aligned")
        _crop(model, second, "The second face, aligned")
    scores = f"score {score:.3f}, needed {threshold.score:.3f}."
    if threshold.matches(score):
        st.success(f"A match: {scores}", icon=":material/check:")
    else:
        st.info(f"No match: {scores} They may still be one person.", icon=":material/question_mark:")
    st.caption(threshold.in_words(1, 1))
