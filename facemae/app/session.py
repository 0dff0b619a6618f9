"""What recognition on the pages shares: the chosen model, its threshold, and the gallery.

What cannot be done is raised as a FaceMAEError: `frame.refusals_shown` makes a sentence of it.
"""

from __future__ import annotations

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from facemae.app import elements, frame
from facemae.app.parts import photo_input
from facemae.core.errors import UsageError
from facemae.data.images import in_grey, is_grey, open_image
from facemae.recognition import enrolment, named_models
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.model import Model
from facemae.recognition.recogniser import Recogniser
from facemae.recognition.settings import settings
from facemae.recognition.threshold import Card, Threshold, at_rate, rates

MAX_MODELS = 4


def every_model() -> list[Model]:
    """Return the models that are installed and the runs of the results shown, the most accurate first."""
    found, damage = frame.load(named_models.every_model)
    if damage:
        frame.say_damaged(damage)
    return [each for each in found if not each.missing]


def choose_model(key: str, label: str = "Model", first: Model | None = None) -> Model:
    """Let the visitor choose a model, at first this one or else the most accurate."""
    found = {each.name: each for each in every_model()}
    names = list(found)
    name = elements.choose(label, names, key, names.index(first.name) if first else 0)
    _warn(found[name])
    return found[name]


def choose_models() -> list[Model]:
    """Let the visitor choose one or more models to enrol with; at first the most accurate."""
    found = {each.name: each for each in every_model()}
    names = st.multiselect(
        "Models that enrol, the first one decides", list(found), default=[next(iter(found))], key="model",
        bind="query-params", max_selections=MAX_MODELS,
        help="A photo is enrolled with each of them, to compare them.",
    )  # fmt: skip
    if not names:
        raise UsageError("No model is chosen; choose one above.")
    for name in names:
        _warn(found[name])
    return [found[name] for name in names]


def _warn(model: Model) -> None:
    """Say what a user of a model has to know; a badge would be cut off in a narrow column."""
    if model.warning:
        st.warning(model.warning, icon=":material/warning:")


def second(first: Model) -> Model:
    """Return a model to compare with: of another run, with an autoencoder if any has one."""
    found = every_model()
    others = [each for each in found if each.run != first.run]
    whole = [each for each in others if each.pretrained is not None]
    return (whole or others or found)[0]


def recogniser(model: Model) -> Recogniser:
    """Return a model, loaded; every visitor shares it, and it keeps nothing."""
    return _recogniser(model, model.fingerprint)


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _recogniser(model: Model, fingerprint: str) -> Recogniser:
    return Recogniser(model, finder=photo_input.finder(model.image_size))


def as_seen(model: Model, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return a face (H, H, 3) as a model is given it: a note says so where it is turned grey."""
    return greyed(face, model.name) if model.trained_on.grey else face


def greyed(face: NDArray[np.uint8], *names: str) -> NDArray[np.uint8]:
    """Return a face (H, H, 3) in grey for models of these names, if any, and say so where that changes it."""
    if not names or is_grey(face):
        return face
    st.caption(f"Turned grey for {' and '.join(names)}, trained on grey photos.")
    return in_grey(face)


def card(model: Model) -> Card:
    """Return the thresholds of a model by false match rate, and on how many people they were measured."""
    return _card(model, model.fingerprint)


@st.cache_data(max_entries=32, show_spinner="Measuring the threshold on unseen people…")
def _card(_model: Model, fingerprint: str) -> Card:
    return _model.card()


def threshold(model: Model, rate: float | None = None) -> Threshold:
    """Return a model's threshold at a false match rate, or at the configured one."""
    return at_rate(*card(model), rate or settings().false_match_rate)


def choose_threshold(model: Model, key: str) -> Threshold:
    """Let the visitor choose how often two people may be taken for one, and return the threshold."""
    known = rates(*card(model))
    scores = [each.score for each in known.values()]
    rate = elements.choose(
        "Two people taken for one, at most", list(known), key, scores.index(threshold(model).score),
        format_func=lambda each: f"1 in {1 / each:,.0f} comparisons",
        help="Stricter rates need more evaluation people than these results have.",
    )  # fmt: skip
    return known[rate]


def gallery() -> Gallery:
    """Return the gallery that the configuration names; every visitor shares it."""
    _purged(settings().url)
    return _gallery(settings().url)


@st.cache_resource(ttl="1h", show_spinner=False)
def _purged(url: str) -> int:
    """Delete those whose time is over, once an hour."""
    return _gallery(url).purge()


@st.cache_resource(show_spinner=False)
def _gallery(url: str) -> Gallery:
    return Gallery(url)


def demo_people() -> list[tuple[str, NDArray[np.uint8]]]:
    """Return people of ORL whom no network was trained on, with a face each; of many results there are none.

    Without results nothing was trained on any of them.
    """
    found: list[tuple[str, NDArray[np.uint8]]] | None = frame.load_if_there(enrolment.demo_people)
    if found is not None:
        return found
    own = photo_input.orl_faces(photo_input.USUAL_SIZE)
    return [
        (f"Demo {name.split('/')[1]}", np.asarray(open_image(png)))
        for name, png in own.items()
        if name.endswith("/01")
    ]


def offers_demo() -> bool:
    """Tell whether there are demo people, without finding their faces."""
    found = frame.load_if_there(enrolment.demo_people)
    return found is None or bool(found)


def enrol_demo(model: Model) -> int:
    """Enrol the demo people with this model and one to compare with, and return how many were missing."""
    kept, last, done = gallery(), enrolment.until(settings().retention_days), set()
    with frame.turn(), st.spinner("Enrolling the demo people…"):
        for each in (model, second(model)):
            held = {person.name for person in kept.people(each.fingerprint)}
            for person, face in demo_people():
                if person not in held:
                    made = enrolment.template(recogniser(each), face, None, thumbnail=True)
                    kept.enrol(person, [made], consent=True, retain_until=last, add=True)
                    done.add(person)
    return len(done)
