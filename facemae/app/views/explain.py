"""The explanation page: what a model's score of two faces reacts to, and where it puts all faces."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st
from numpy.typing import NDArray
from PIL import Image, ImageColor
from streamlit.delta_generator import DeltaGenerator

from facemae.app import elements, frame, session
from facemae.app.parts import faces_map
from facemae.app.parts.completion import shades
from facemae.app.parts.photo_input import Chosen, two_faces
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.recognition.model import Model
from facemae.recognition.named_models import ShippedModel
from facemae.recognition.recogniser import Recogniser
from facemae.recognition.threshold import Threshold, rates
from facemae.report import charts, faces
from facemae.report.chart_spec import MORE_COLOURS
from facemae.report.reconstructions import Pixels

SIDES = ("first", "second")
COVERED, DROPPED = "Covered", "Dropped"
SCALE = 3  # times that a face is enlarged, so that its patches have sharp edges
# What spoke for a match when it was there, and what against it; apart for colour-blind readers too.
FOR_COLOUR, AGAINST_COLOUR = "#D1495B", "#2E6FB7"
BAR_COLOURS = (MORE_COLOURS[0], MORE_COLOURS[3])
WARNING = (
    "An explanation shows what the score reacts to, not why two people are alike: a face with a part covered "
    "is a picture unlike any that the model was trained on."
)
COLUMNS: dict[str, Any] = {
    "photo": "Face", "region": "Left out", "share": elements.number("Share of the face", "percent"),
    "score": elements.number("Score", "%.3f"), "change": elements.number("Change", "%+.3f"),
}  # fmt: skip
HOW_TO_READ = {
    "attention": (
        "Attention rollout: the brighter a patch the more of it flows into the embedding by "
        "attention; what the network does with it is not in there."
    ),
    "reaction": (
        "Reaction of the score: what covering a square around each patch does to the score. Red lowers "
        "it: the place spoke for a match. Blue raises it: the place spoke against one."
    ),
    "regions": (
        "Bars to the left: without this region the score is lower, so it spoke for a match; to the right it "
        "spoke against one. Larger regions can do more, so mind the share of the face in the table."
    ),
}

Floats = NDArray[np.float64]


class Explained(NamedTuple):
    """What was found of a pair of faces."""

    score: float  # cosine similarity
    attention: Floats | None  # (2, side, side) of either face, where the encoder has any
    refusal: str  # why there is none
    reaction: Floats  # (2, side, side) changes of the score
    regions: dict[str, pd.DataFrame]  # by how they were hidden, the table of `explanation.leave_out`


def render() -> None:
    """Show the page."""
    st.title("Explain")
    st.caption("What a model's score of two faces reacts to, and where the model puts all evaluation faces.")
    with frame.explained(), frame.refusals_shown():
        found = session.every_model()
        runs = [each for each in found if each.results]
        shipped = [each for each in found if isinstance(each, ShippedModel)]
        known = frame.load_if_there(faces.faces)
        model = session.choose_model("model", first=(runs or shipped or found)[0])
        if known is None and isinstance(model, ShippedModel):
            frame.say_shipped(model.name)
        frame.tabs({"Two faces": lambda: _two_faces(model), "All faces": lambda: _map(model)})


def _two_faces(model: Model) -> None:
    with frame.refusals_shown():
        pair = two_faces("explain_", "face", model.image_size)
        if pair is None:
            return
        first, second = (replace(each, image=session.as_seen(model, each.image)) for each in pair)
        recogniser = session.recogniser(model)

        def made() -> Explained:
            with frame.turn(), st.spinner("Covering one part after the other…"):
                return explained(recogniser, first.image, second.image)

        content = hashlib.sha256(first.image.tobytes() + second.image.tobytes()).hexdigest()
        found = frame.kept("explained", (model.name, model.fingerprint, content), made)
        st.metric("Score (cosine similarity)", f"{found.score:.3f}", width="content")
        if model.results:
            st.text(standing(found.score, *frame.load(evaluated_scores, model.run, model.seed)))
            for sentence in _known_of(first, second):
                st.text(sentence)
        else:
            st.text(standing_by_card(found.score, rates(*session.card(model))))
        st.info(WARNING, icon=":material/lightbulb:")
        _overlays(found, first, second)
        _regions(found)


def explained(recogniser: Recogniser, first: Pixels, second: Pixels) -> Explained:
    """Explain the score of two aligned faces (H, H, 3); a UsageError says that they are of another size."""
    import torch

    from facemae.models.embedder import Embedder
    from facemae.models.patches import to_input
    from facemae.recognition import explanation

    network, bar = recogniser.network, st.empty()
    if not isinstance(network, Embedder):
        network = explanation.watched(network, _told(bar))
    regions = {COVERED: explanation.leave_out(network, first, second)}
    if explanation.can_drop(network):
        regions[DROPPED] = explanation.leave_out(network, first, second, drop=True)
    attention, refusal = None, ""
    try:
        images = to_input(torch.from_numpy(np.stack([first, second])))
        attention = explanation.rollout(network, images.to(recogniser.device)).double().cpu().numpy()
    except UsageError as error:
        refusal = str(error)
    found = Explained(
        explanation.score(network, first, second), attention, refusal,
        explanation.sensitivity(network, first, second), regions,
    )  # fmt: skip
    bar.empty()
    return found


def _told(place: DeltaGenerator) -> Callable[[float], None]:
    """Return what shows in a place which share is done, and the time left."""
    started = time.monotonic()

    def tell(share: float) -> None:
        left = (time.monotonic() - started) * (1 - share) / share
        place.progress(share, f"{share:.0%}, about {left:.0f} s left")

    return tell


def evaluated_scores(paths: Results, run: str, seed: int) -> tuple[Floats, Floats]:
    """Return the scores of the evaluation's pairs of one person, and of two.

    Of several parts those of the first, whose network it is that explains.
    """
    folder = paths.stage(run, seed, "evaluate")
    table = records.read_measured(folder, layout.SCORES, ["genuine", "score", "part"]).dropna()
    table = table[table["part"] == table["part"].min()]
    genuine, scores = table["genuine"].to_numpy(bool), table["score"].to_numpy(np.float64)
    return scores[genuine], scores[~genuine]


def standing(score: float, genuine: Floats, impostor: Floats) -> str:
    """Say where a score stands among those of the evaluation's pairs."""
    if not len(genuine) or not len(impostor):
        return "There are no scored pairs of the evaluation to hold it against."
    lower, higher = (genuine < score).mean(), (impostor >= score).mean()
    share = "less than 0.1%" if 0 < higher < 0.001 else f"{higher:.1%}"
    return (
        f"Among unseen people {lower:.0%} of the pairs of one person score lower, and {share} of the pairs "
        "of two people score as high or higher."
    )


def standing_by_card(score: float, known: Mapping[float, Threshold]) -> str:
    """Say how often two people score as high, by a model's thresholds by false match rate."""
    reached = [rate for rate, each in known.items() if each.matches(score)]
    people = max((each.people for each in known.values()), default=0)
    often = f"At most 1 in {1 / min(reached):,.0f}" if reached else f"More than 1 in {1 / max(known):,.0f}"
    return (
        f"{often} comparisons of two people score as high or higher, measured on {people:,} people that the "
        "model was not trained on."
    )


def _known_of(*chosen: Chosen) -> list[str]:
    """Return what the results know of the samples among the faces, in sentences."""
    table = frame.load(faces.faces).set_index("sample_id")
    rows = [table.loc[each.sample_id] for each in chosen if each.sample_id in table.index]
    sentences = []
    people = [row["person"] for row in rows if isinstance(row["person"], str)]
    if len(people) == len(chosen):
        same = len(set(people)) == 1
        sentences.append("The photos show the same person." if same else "The photos show two people.")
    if any(row["role"] not in (layout.ROLE_EVALUATION, layout.ROLE_TESTED) for row in rows):
        sentences.append(
            "A model may have been trained on a photo shown here, which makes it surer than usual."
        )
    return sentences


# --- pictures over the faces ---


def _overlays(found: Explained, first: Chosen, second: Chosen) -> None:
    st.subheader("Where the score comes from")
    if found.attention is None:
        st.text(found.refusal)
    else:
        st.caption(HOW_TO_READ["attention"])
    reach = float(np.abs(found.reaction).max())
    st.caption(HOW_TO_READ["reaction"] + f" The strongest colour is a change of {reach:.2f}.")
    for side, (chosen, column) in enumerate(zip((first, second), st.columns(2), strict=True)):
        shown = {"the face": enlarged(chosen.image)}
        if found.attention is not None:
            most = float(found.attention.max())
            shown["attention rollout"] = attended(chosen.image, found.attention[side], most)
        shown["reaction of the score"] = reacted(chosen.image, found.reaction[side], reach)
        title = f"{SIDES[side].capitalize()}: {chosen.name}"
        with column:
            st.text(title)
            elements.pictures(shown, f"{title}; ")


def enlarged(face: Pixels) -> Pixels:
    """Return a face (H, H, 3), enlarged."""
    size = (face.shape[1] * SCALE, face.shape[0] * SCALE)
    return np.asarray(Image.fromarray(face).resize(size, Image.Resampling.BICUBIC))


def attended(face: Pixels, attention: Floats, most: float) -> Pixels:
    """Return a face (H, H, 3) in grey below its attention (side, side), whose brightest colour is `most`."""
    place = np.clip(attention / max(most, 1e-12) * 255, 0, 255).round().astype(int)
    return _blended(face, shades()[place], np.full(attention.shape, 0.6))


def reacted(face: Pixels, change: Floats, reach: float) -> Pixels:
    """Return a face (H, H, 3) in grey below the score's changes (side, side), strongest at `reach`."""
    colours = np.where((change < 0)[..., None], *map(ImageColor.getrgb, (FOR_COLOUR, AGAINST_COLOUR)))
    return _blended(face, colours, 0.85 * np.clip(np.abs(change) / max(reach, 1e-12), 0, 1))


def _blended(face: Pixels, colours: NDArray[Any], opacity: Floats) -> Pixels:
    """Lay colours (side, side, 3) over an enlarged grey face, each as opaque (side, side) as given."""
    grey = enlarged(face).mean(axis=2, keepdims=True)
    rows, columns = (np.arange(length) * len(opacity) // length for length in grey.shape[:2])
    over, share = colours[rows][:, columns], opacity[rows][:, columns, None]
    return np.asarray((grey * (1 - share) + over * share).round(), np.uint8)


@st.fragment
def _regions(found: Explained) -> None:
    st.subheader("Leaving one region out")
    how = COVERED
    if len(found.regions) > 1:
        about = (
            f"{COVERED}: painted in the photo's mean colour. {DROPPED}: its patches are kept from the "
            "encoder."
        )
        ways = list(found.regions)
        how = elements.switch("How a region is left out", ways, "left_out", bind="query-params", help=about)
    st.caption(HOW_TO_READ["regions"])
    table = found.regions[how]
    alt = "Bar chart: change of the score without each face region, for the first and the second face."
    elements.draw(region_chart(table), "regions", alt)
    with st.expander("The same in numbers"):
        elements.table(table, "Table: score and its change without each region of either face.", COLUMNS)


def region_chart(table: pd.DataFrame) -> go.Figure:
    """Draw the changes of the score by region, a bar for each of the two faces."""
    figure = go.Figure()
    for photo, colour, pattern in zip(SIDES, BAR_COLOURS, ("", "/"), strict=True):
        part = table[table["photo"] == photo]
        figure.add_bar(
            x=part["change"], y=part["region"], orientation="h", name=f"{photo} face",
            marker={"color": colour, "pattern": {"shape": pattern, "fillmode": "replace"}},
            hovertemplate="%{y}: %{x:+.3f}<extra>" + photo + " face</extra>",
        )  # fmt: skip
    charts.finish(figure, height=380)
    figure.update_xaxes(title="change of the score without the region")
    figure.update_layout(barmode="group", bargap=0.25)
    figure.update_yaxes(autorange="reversed")
    return figure


@frame.part
def _map(model: Model) -> None:
    """Show the evaluation faces in a plane; another method redraws nothing else."""
    from facemae.recognition import embedding_map

    if not model.results:
        st.info("The map shows runs of these results; choose one above.", icon=":material/info:")
        return
    method = elements.switch(
        "Laid out by", embedding_map.METHODS, "map", embedding_map.PCA, bind="query-params"
    )
    if method not in embedding_map.methods():
        st.info("UMAP is not installed here. One command adds it:", icon=":material/info:")
        st.code("make extras", language="bash")
        return
    wait = "Laying out the faces; the first time UMAP takes some ten seconds…"
    with frame.refusals_shown(), st.spinner(wait):
        found = frame.load(embedding_map.embedding_map, model.run, model.seed, method)
        st.caption(
            "Each point is a face, each colour a person; point at one, tap it or walk with the arrow keys to "
            f"see the face. {found.note}"
        )
        faces_map.show(found.table, f"Map of embeddings by {model.name}, {method}")
        with st.expander("The same in numbers"):
            columns = {str(name): name for name in found.table} | {"sample_id": "Face", "person": "Person"}
            elements.table(found.table, "Table: every face of the map with its person and place.", columns)
