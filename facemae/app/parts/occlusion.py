"""A face with something in front of it, scored live by two models side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae.app import elements, frame, session
from facemae.app.parts import paint
from facemae.config import Occlusion
from facemae.core import layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.images import encode_png, open_image
from facemae.recognition.model import Model
from facemae.recognition.recogniser import Found, Recogniser, decide
from facemae.recognition.threshold import Threshold
from facemae.report import faces
from facemae.report.reconstructions import Pixels

if TYPE_CHECKING:
    from facemae.recognition.occluded import Mitigation

NOTHING, DRAWN = "nothing", "draw it"
KINDS: dict[str, Occlusion] = {
    "sunglasses": "sunglasses", "mask": "mask", "block": "block", "scarf": "scarf", "hand": "hand",
    "left half": "left", "right half": "right",
}  # fmt: skip
WIDTH = 112  # pixels that a face is shown at
MOST_FACES = 400  # of evaluation people, that the mitigations are measured on


class Cover(NamedTuple):
    """A face (H, H, 3), with something in front of it, which pixels (H, H) that covers, and which share."""

    face: Pixels
    covered: Pixels
    hidden: NDArray[np.bool_]
    area: float


def render(model: Model, threshold: Threshold, faces: list[Found]) -> None:
    """Show what something in front of one of these faces changes, by a model with its threshold."""
    st.subheader("Cover the face")
    st.caption("Put something in front of the face and watch score and decision, of two models side by side.")
    left, right = st.columns(2)
    with left:
        other = session.choose_model("other", "Second model", session.second(model))
    number = 1
    if len(faces) > 1:
        number = right.selectbox("Face", [each.number for each in faces], key="cover_face")
    _live(model, threshold, other, faces[number - 1].image)


@st.fragment
def _live(model: Model, threshold: Threshold, other: Model, face: Pixels) -> None:
    """Redraw this part alone when something is changed."""
    with frame.refusals_shown():
        kinds = [NOTHING, *KINDS, DRAWN]
        kind = elements.switch("In front of the face", kinds, "cover_kind", "sunglasses")
        cover = _covered(face, kind)
        if cover.hidden.all():
            raise UsageError("The whole face is covered, so there is nothing to recognise; cover less of it.")
        mitigations = _choose_mitigations()
        for place, (column, each) in enumerate(zip(st.columns(2), (model, other), strict=True)):
            with column:
                limit = threshold if each == model else session.threshold(each)
                _one(place, each, limit, cover, mitigations)
        if kind in KINDS and frame.load_if_there(faces.faces) is not None:
            _effect(model, threshold, other, KINDS[kind], cover.area)


def _covered(face: Pixels, kind: str) -> Cover:
    from facemae.recognition import occluded

    if kind == NOTHING:
        return Cover(face, face, np.zeros(face.shape[:2], np.bool_), 0.0)
    if kind == DRAWN:
        cells = paint.cells("cover_cells", encode_png(face), occluded.CELLS)
        covered, hidden = occluded.cover_painted(face, cells)
        return Cover(face, covered, hidden, float(hidden.mean()))
    left, right = st.columns(2)
    percent = left.slider("Covered (%)", 5, 70, 20, step=5, key="cover_area")
    seed = int(right.number_input("Which one", 0, 999, 0, key="cover_seed", help="Another of its kind."))
    return Cover(face, *occluded.cover(face, KINDS[kind], percent / 100, seed), percent / 100)


def _choose_mitigations() -> list[Mitigation]:
    with st.container(horizontal=True):
        drop = st.toggle("Patch drop", key="cover_drop", help="Hide the covered patches from the encoder.")
        about = "Let the run's masked autoencoder fill them in first."
        fill = st.toggle("Reconstruction", key="cover_fill", help=about)
    if fill:
        st.warning(
            "Reconstruction invents what it cannot see: it draws a likely face, which may be another "
            "person's. A match that only it gives is no evidence.",
            icon=":material/warning:",
        )
    chosen: dict[Mitigation, bool] = {"none": True, "patch_drop": drop, "reconstruct": fill}
    return [name for name, wanted in chosen.items() if wanted]


def _one(place: int, model: Model, threshold: Threshold, cover: Cover, mitigations: list[Mitigation]) -> None:
    """Show what one model makes of the covered face, with each mitigation."""
    elements.words(model.name, tag="b")
    cover = cover._replace(covered=session.as_seen(model, cover.covered))
    with frame.turn():
        rows, pictures = _tried(session.recogniser(model), threshold, cover, mitigations)
    with st.container(horizontal=True, gap="small"):
        for name, picture in pictures.items():
            with st.container(width=WIDTH, gap=None):
                st.image(picture, width=WIDTH, alt=f"The face, {name}")
                st.caption(name)
    columns = {"face": "Face", "like": elements.number("Like the uncovered face", "%.3f")}
    if enrolled := rows["score"].notna().any():
        columns = {"face": "Face", "score": elements.number("Best score", "%.3f"), "decision": "Decision"}
    alt = f"Table: score and decision of {model.name} for the face uncovered and covered."
    elements.table(rows[list(columns)].dropna(), alt, columns, key=f"cover_table_{place}")
    if not enrolled:
        st.caption("Nobody is enrolled with this model, so the face is compared with itself uncovered.")
    st.caption(f"Needed for a match: {threshold.score:.3f}.")


def _tried(
    recogniser: Recogniser, threshold: Threshold, cover: Cover, mitigations: list[Mitigation]
) -> tuple[pd.DataFrame, dict[str, Pixels]]:
    """Return a row for the face uncovered and for each mitigation, and pictures; say which cannot be."""
    from facemae.recognition import occluded

    vectors, pictures = {"uncovered": recogniser.embed([cover.face])[0]}, {"covered": cover.covered}
    covered, hidden = cover.covered[None], cover.hidden[None]
    for mitigation in mitigations:
        if mitigation == "none":
            vectors["covered"] = recogniser.embed(covered)[0]
            continue
        try:
            whole = recogniser.autoencoder if mitigation == "reconstruct" else None
            found = occluded.embed_covered(recogniser.embedder, covered, hidden, mitigation, whole)
        except UsageError as error:
            st.caption(str(error))
            continue
        vectors[occluded.MITIGATIONS[mitigation]] = found[0]
        if whole:
            pictures["filled in"] = occluded.completed(whole, covered, hidden)[0]
    kept, rows = session.gallery(), []
    known = recogniser.fingerprint in kept.models()
    for name, vector in vectors.items():
        like = None if name == "uncovered" else float(vector @ vectors["uncovered"])
        candidates = kept.search(vector[None], recogniser.fingerprint, top=1)[0] if known else []
        match = decide(candidates, threshold)
        decision = match.person.name if match else "unknown" if candidates else None
        rows.append((name, like, candidates[0].score if candidates else None, decision))
    return pd.DataFrame(rows, columns=["face", "like", "score", "decision"]), pictures


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
        with frame.refusals_shown():  # of one model; the other may be measured
            limit = threshold if each == model else session.threshold(each)
            table = measured(each, each.fingerprint, kind, area, limit.score)
            probes, people = table[["probes", "people"]].iloc[0]
            elements.words(f"{each.name}, {probes} faces of {people} people", tag="b")
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
