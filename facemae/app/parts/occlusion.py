"""A face with something in front of it, scored live by two models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae.app import frame, session
from facemae.app.parts import paint
from facemae.config import Occlusion
from facemae.core import layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.images import encode_png, open_image
from facemae.recognition.gallery.schema import Candidate
from facemae.recognition.model import Model
from facemae.recognition.threshold import Threshold
from facemae.report import faces

if TYPE_CHECKING:
    from facemae.recognition.occluded import Mitigation
    from facemae.recognition.recogniser import Found, Recogniser

NOTHING, DRAWN = "nothing", "draw it"
KINDS: dict[str, Occlusion] = {
    "sunglasses": "sunglasses", "mask": "mask", "block": "block", "scarf": "scarf", "hand": "hand",
    "left half": "left", "right half": "right",
}  # fmt: skip
WIDTH = 112  # pixels that a face is shown at
MOST_FACES = 400  # of evaluation people, that the mitigations are measured on

Pixels = NDArray[np.uint8]
Booleans = NDArray[np.bool_]


def render(model: Model, threshold: Threshold, faces: list[Found]) -> None:
    """Show what something in front of a face changes.

    Args:
        model: The first model.
        threshold: Its threshold.
        faces: Those of the photo.
    """
    st.subheader("Cover the face")
    st.caption("Put something in front of the face and watch score and decision, of two models side by side.")
    left, right = st.columns(2)
    with left:
        other = session.choose_model("other", "Second model", session.second(model))
    number = 1
    if len(faces) > 1:
        with right:
            number = int(st.selectbox("Face", [each.number for each in faces], key="cover_face"))
    _live(model, threshold, other, faces[number - 1].image)


@st.fragment
def _live(model: Model, threshold: Threshold, other: Model, face: Pixels) -> None:
    """Redraw this part alone when something is changed."""
    with session.refusals_shown():
        kind = st.segmented_control(
            "In front of the face", [NOTHING, *KINDS, DRAWN], default="sunglasses", required=True,
            key="cover_kind",
        )  # fmt: skip
        covered, hidden, area = _covered(face, kind)
        if hidden.all():
            raise UsageError("The whole face is covered, so there is nothing to recognise; cover less of it.")
        with st.container(horizontal=True):
            drop = st.toggle(
                "Patch drop", key="cover_drop", help="Hide the covered patches from the encoder."
            )
            fill = st.toggle(
                "Reconstruction",
                key="cover_fill",
                help="Let the run's masked autoencoder fill them in first.",
            )
        mitigations: list[Mitigation] = ["none"]
        mitigations += ["patch_drop"] if drop else []
        mitigations += ["reconstruct"] if fill else []
        if fill:
            st.warning(
                "Reconstruction invents what it cannot see: it draws a likely face, which may be another "
                "person's. A match that only it gives is no evidence.",
                icon=":material/warning:",
            )
        columns = st.columns(2)
        for place, each in enumerate((model, other)):
            with columns[place]:
                limit = threshold if each == model else _usual(each)
                _one(place, each, limit, face, covered, hidden, mitigations)
        if kind in KINDS and frame.load_if_there(faces.faces) is not None:
            _effect(model, threshold, other, KINDS[kind], area)


def _usual(model: Model) -> Threshold:
    from facemae.recognition.settings import settings
    from facemae.recognition.threshold import at_rate

    return at_rate(*session.card(model), settings().false_match_rate)


def _covered(face: Pixels, kind: str) -> tuple[Pixels, Booleans, float]:
    """Return the face with the chosen thing in front, which pixels that covers, and which share it is."""
    from facemae.recognition import occluded

    if kind == NOTHING:
        return face, np.zeros(face.shape[:2], np.bool_), 0.0
    if kind == DRAWN:
        cells = paint.cells("cover_cells", encode_png(face), occluded.CELLS)
        image, hidden = occluded.cover_painted(face, cells)
        return image, hidden, float(hidden.mean())
    left, right = st.columns(2)
    percent = left.slider("Covered (%)", 5, 70, 20, step=5, key="cover_area")
    seed = int(right.number_input("Which one", 0, 999, 0, key="cover_seed", help="Another of its kind."))
    image, hidden = occluded.cover(face, KINDS[kind], percent / 100, seed)
    return image, hidden, percent / 100


def _one(
    column: int, model: Model, threshold: Threshold, face: Pixels, covered: Pixels, hidden: Booleans,
    mitigations: list[Mitigation],
) -> None:  # fmt: skip
    """Show what one model makes of the covered face, with each mitigation."""
    frame.words(model.name, tag="b")
    covered = session.as_seen(covered, *session.grey_only(model))
    with frame.turn():
        rows, pictures = _tried(session.recogniser(model), threshold, face, covered, hidden, mitigations)
    with st.container(horizontal=True, gap="small"):
        for name, picture in pictures.items():
            with st.container(width=WIDTH, gap=None):
                st.image(picture, width=WIDTH, alt=f"The face, {name}")
                st.caption(name)
    enrolled = any(row["score"] is not None for row in rows)
    shown = ["face", "score", "decision"] if enrolled else ["face", "like"]
    st.dataframe(
        pd.DataFrame(rows)[shown].dropna(),
        hide_index=True,
        key=f"cover_table_{column}",
        column_config={
            "face": "Face",
            "like": frame.number("Like the uncovered face", "%.3f"),
            "score": frame.number("Best score", "%.3f"),
            "decision": "Decision",
        },
        alt=f"Table: score and decision of {model.name} for the face uncovered and covered.",
    )
    if not enrolled:
        st.caption("Nobody is enrolled with this model, so the face is compared with itself uncovered.")
    st.caption(f"Needed for a match: {threshold.score:.3f}.")


def _tried(
    recogniser: Recogniser, threshold: Threshold, face: Pixels, covered: Pixels, hidden: Booleans,
    mitigations: list[Mitigation],
) -> tuple[list[dict[str, object]], dict[str, Pixels]]:  # fmt: skip
    """Return a row for the face uncovered and for each mitigation, and pictures; say which cannot be."""
    from facemae.recognition import occluded

    reference = recogniser.embed([face])[0]
    rows, pictures = [_row("uncovered", recogniser, reference, None, threshold)], {"covered": covered}
    for mitigation in mitigations:
        try:
            vector = _embed(recogniser, covered, hidden, mitigation)
        except UsageError as error:
            st.caption(str(error))
            continue
        name = "covered" if mitigation == "none" else occluded.MITIGATIONS[mitigation]
        rows.append(_row(name, recogniser, vector, reference, threshold))
        if mitigation == "reconstruct" and recogniser.autoencoder:
            pictures["filled in"] = occluded.completed(recogniser.autoencoder, covered[None], hidden[None])[0]
    return rows, pictures


def _embed(
    recogniser: Recogniser, covered: Pixels, hidden: Booleans, mitigation: Mitigation
) -> NDArray[np.float32]:
    from facemae.recognition import occluded

    if mitigation == "none":
        return np.asarray(recogniser.embed([covered])[0])
    autoencoder = recogniser.autoencoder if mitigation == "reconstruct" else None
    vectors = occluded.embed_covered(
        recogniser.embedder, covered[None], hidden[None], mitigation, autoencoder
    )
    return np.asarray(vectors[0])


def _row(
    name: str,
    recogniser: Recogniser,
    vector: NDArray[np.float32],
    reference: NDArray[np.float32] | None,
    threshold: Threshold,
) -> dict[str, object]:
    from facemae.recognition.recogniser import decide

    candidates = _search(recogniser, vector)
    match = decide(candidates, threshold)
    return {
        "face": name,
        "like": None if reference is None else float(vector @ reference),
        "score": candidates[0].score if candidates else None,
        "decision": None if not candidates else match.person.name if match else "unknown",
    }


def _search(recogniser: Recogniser, vector: NDArray[np.float32]) -> list[Candidate]:
    kept = session.gallery()
    if recogniser.fingerprint not in kept.models():
        return []
    return kept.search(vector[None], recogniser.fingerprint, top=1)[0]


# --- what patch drop and reconstruction are worth ---


def _effect(model: Model, threshold: Threshold, other: Model, kind: Occlusion, area: float) -> None:
    """Offer to measure, on unseen people, what the occluder costs and the mitigations give back."""
    from facemae.recognition import occluded

    asked = (kind, area, model.name, other.name)
    if st.button("Measure this cover on unseen people", key="cover_measure"):
        st.session_state["cover_asked"] = asked
    if st.session_state.get("cover_asked") != asked:
        st.caption(
            "It takes up to half a minute, and says whether patch drop and reconstruction help or seem to."
        )
        return
    for each in dict.fromkeys((model, other)):
        with session.refusals_shown():  # of one model; the other may be measured
            limit = threshold if each == model else _usual(each)
            table = measured(each, each.fingerprint, kind, area, limit.score)
            frame.words(
                f"{each.name}, {int(table['probes'].iloc[0])} faces of {int(table['people'].iloc[0])} people",
                tag="b",
            )
            for mitigation in occluded.MITIGATIONS:
                st.text(occluded.verdict(table, mitigation))


@st.cache_data(max_entries=64, show_spinner="Measuring on people that nothing was trained on…")
def measured(_model: Model, fingerprint: str, kind: str, area: float, threshold: float) -> pd.DataFrame:
    """Return `occluded.measure` of a model; the faces are the results', so all visitors may share it."""
    from facemae.recognition import occluded

    faces, people = frame.load(_unseen)
    with frame.turn():
        recogniser = session.recogniser(_model)
        return occluded.measure(
            recogniser.embedder, recogniser.autoencoder, faces, people, kind, area, threshold
        )


def _unseen(paths: Results) -> tuple[Pixels, list[str]]:
    """Return faces (N, H, H, 3) of people whom no network was trained on, and whose they are."""
    table = faces.faces(paths)
    table = table[table["role"] == layout.ROLE_EVALUATION].head(MOST_FACES)
    pictures = faces.aligned(paths, table["sample_id"].to_list())
    images = [np.asarray(open_image(pictures[name])) for name in table["sample_id"]]
    return np.stack(images), table["person"].astype(str).to_list()
