"""What recognition on the pages shares: the chosen model, its threshold, and the gallery."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from facemae.app import frame
from facemae.app.parts import photo_input
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.core.text import percent
from facemae.data.images import ImageError, in_grey, is_grey, open_image
from facemae.recognition.model import Model
from facemae.recognition.settings import settings
from facemae.recognition.threshold import Card, Threshold, at_rate, rates

if TYPE_CHECKING:
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.recogniser import Recogniser

MAX_MODELS = 4


def every_model() -> list[Model]:
    """Return the models that are installed and the runs of the results shown, the most accurate first."""
    found, damage = frame.load(_every_model)
    for error in damage:
        frame.say_damaged(error)
    return [each for each in found if not each.missing]


def _every_model(paths: Results) -> tuple[list[Model], list[Exception]]:
    from facemae.recognition.named_models import every_model as named

    damage: list[Exception] = []
    return named(paths, damage.append), damage


def choose_model(key: str, label: str = "Model", index: int = 0) -> Model:
    """Let the visitor choose a model; the first is the default. What a user of it has to know is said."""
    found = {each.name: each for each in every_model()}
    name = st.selectbox(label, list(found), index=min(index, len(found) - 1), key=key, bind="query-params")
    _warn(found[name])
    return found[name]


def _warn(model: Model) -> None:
    """Say what a user of a model has to know; a badge would be cut off in a narrow column."""
    if model.warning:
        st.warning(model.warning, icon=":material/warning:")


def choose_models(key: str, label: str) -> list[Model]:
    """Let the visitor choose one or more models, the first of which decides; at first the most accurate.

    Raises:
        UsageError: none is chosen.
    """
    found = {each.name: each for each in every_model()}
    names = st.multiselect(
        label, list(found), default=[next(iter(found))], key=key, bind="query-params",
        max_selections=MAX_MODELS, help="A photo is enrolled with each of them, to compare them.",
    )  # fmt: skip
    if not names:
        raise UsageError("No model is chosen; choose one above.")
    for name in names:
        _warn(found[name])
    return [found[name] for name in names]


def second(first: Model) -> int:
    """Return the place of a model to compare with: of another run, with an autoencoder if any has one."""
    found = every_model()
    others = [each for each in found if each.run != first.run]
    whole = [each for each in others if each.pretrained is not None]
    return found.index((whole or others or found)[0])


def recogniser(model: Model) -> Recogniser:
    """Return a model, loaded; every visitor shares it, and it keeps nothing.

    Raises:
        IntegrityError: its weights are damaged.
    """
    loaded: Recogniser = _recogniser(model, model.fingerprint)
    return loaded


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _recogniser(model: Model, fingerprint: str) -> Recogniser:
    from facemae.recognition.recogniser import Recogniser

    return Recogniser(model, finder=photo_input.finder(model.image_size))


def as_seen(face: NDArray[np.uint8], *names: str) -> NDArray[np.uint8]:
    """Return a face (H, H, 3) as models of these names, which know grey photos alone, are given it.

    A note says so where that changes it; without a name it stays as it is.
    """
    if not names or is_grey(face):
        return face
    st.caption(f"Turned grey for {' and '.join(names)}, trained on grey photos.")
    return in_grey(face)


def grey_only(*models: Model) -> list[str]:
    """Return the names of those models that were trained on grey photos alone."""
    return [each.name for each in models if each.trained_on.grey]


def card(model: Model) -> Card:
    """Return the thresholds of a model by false match rate, and on how many people they were measured.

    Raises:
        DataError, IntegrityError: no threshold can follow.
    """
    found: Card = _card(model, model.fingerprint)
    return found


@st.cache_data(max_entries=32, show_spinner="Measuring the threshold on unseen people…")
def _card(_model: Model, fingerprint: str) -> Card:
    return _model.card()


def choose_threshold(model: Model, key: str) -> Threshold:
    """Let the visitor choose how often two people may be taken for one, and return the threshold.

    Raises:
        UsageError: the data support no rate at all.
    """
    table, people = card(model)
    known = rates(table, people)
    usual = at_rate(table, people, settings().false_match_rate)
    found = list(known)
    index = [known[rate].score for rate in found].index(usual.score)
    rate = st.selectbox(
        "Two people taken for one, at most",
        found,
        index=index,
        format_func=lambda each: f"1 in {1 / each:,.0f} comparisons",
        key=key,
        bind="query-params",
        help="Stricter rates need more evaluation people than these results have.",
    )
    return known[rate]


def stands_for(threshold: Threshold, people: int, templates: int) -> str:
    """Return in words what a threshold stands for with so many people enrolled by so many templates."""
    text = f"Needed for a match: {threshold.score:.3f}."
    if threshold.fmr is not None:
        text += f" {percent(threshold.fmr)} of comparisons of two people reach it"
        if threshold.fmr_low is not None and threshold.fmr_high is not None:
            text += f" ({percent(threshold.fmr_low)} to {percent(threshold.fmr_high)}"
            text += f", measured on {threshold.people:,} people that it was not trained on;"
            text += " other photos may behave otherwise)"
        text += "."
    if threshold.fnmr is not None:
        text += f" {percent(threshold.fnmr)} of comparisons of one person miss it."
    alarm = threshold.false_alarm(templates)
    if templates > 1 and alarm is not None:
        text += (
            f" With {people} people enrolled by {templates} templates, a stranger is taken for one of them"
        )
        text += f" in about {percent(alarm)}."
    return text


def gallery() -> Gallery:
    """Return the gallery that the configuration names; every visitor shares it.

    Raises:
        FaceMAEError: it cannot be opened.
    """
    opened: Gallery = _gallery(settings().url)
    _purged(settings().url)
    return opened


@st.cache_resource(ttl="1h", show_spinner=False)
def _purged(url: str) -> int:
    """Delete those whose time is over, once an hour."""
    return _gallery(url).purge()


@st.cache_resource(show_spinner=False)
def _gallery(url: str) -> Gallery:
    from facemae.recognition.gallery.store import Gallery

    return Gallery(url)


@contextlib.contextmanager
def refusals_shown() -> Iterator[None]:
    """Show what cannot be done as a sentence, and go on with the page."""
    try:
        yield
    except ImageError as error:
        photo_input.say_refused(error)
    except frame.BusyError as error:
        st.warning(str(error), icon=":material/hourglass_top:")
    except FileNotFoundError:
        raise
    except FaceMAEError as error:
        st.warning("This cannot be done:", icon=":material/info:")
        st.text(frame.said(error))


def demo_people() -> list[tuple[str, NDArray[np.uint8]]]:
    """Return people of ORL whom no network was trained on, with a face each; of many results there are none.

    Without results nothing was trained on any of them.
    """
    found: list[tuple[str, NDArray[np.uint8]]] | None = frame.load_if_there(_demo)
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
    found = frame.load_if_there(_demo)
    return found is None or bool(found)


def _demo(paths: Results) -> list[tuple[str, NDArray[np.uint8]]]:
    from facemae.recognition.enrolment import demo_people

    return demo_people(paths)


def enrol_demo(model: Model) -> int:
    """Enrol the demo people with this model and one to compare with.

    Returns:
        How many were enrolled; those of an earlier time are left as they are.
    """
    from facemae.recognition.enrolment import template, until

    kept, wanted = gallery(), {each.name: each for each in (model, every_model()[second(model)])}
    last, done = until(settings().retention_days), set()
    with frame.turn(), st.spinner("Enrolling the demo people…"):
        held = {name: {each.name for each in kept.people(m.fingerprint)} for name, m in wanted.items()}
        for person, face in demo_people():
            missing = [each for name, each in wanted.items() if person not in held[name]]
            made = [template(recogniser(each), face, None, thumbnail=True) for each in missing]
            if made:
                kept.enrol(person, made, consent=True, retain_until=last, add=True)
                done.add(person)
    return len(done)
