"""The reconstruction page: hide parts of a face and see what trained masked autoencoders make of them."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from facemae import config
from facemae.app import frame, session
from facemae.app.parts import completion, paint, photo_input, pictures
from facemae.config.masks import Masks
from facemae.core import layout
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.data.images import encode_png
from facemae.data.sources.listing import folder_state
from facemae.models import shipped_models
from facemae.recognition.trained_models import training_faces
from facemae.report import faces, phrases, reconstructions, tables

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from facemae.models.mae import MaskedAutoencoder

MOST_SHOWN = 4  # models at once
MAX_MODELS = 2 * MOST_SHOWN  # in memory
USUAL = "random"
SHIPPED, SHIPPED_SIZE = "face-mae", 112  # what the page opens with, for results of this size or none; pixels
EYES = (0.3, 0.55)  # from the top: the rows of an aligned face that are painted at first
HOW_TO_READ = "The error is that of each hidden patch, over the greyed face: the brighter the worse."


@dataclass(frozen=True)
class Loaded:
    """A trained model: its "run/seed" or name, the network, how it was trained, and every mask's settings."""

    name: str
    network: MaskedAutoencoder
    pretrain: config.Pretrain
    masks: Masks

    @property
    def trained_with(self) -> tuple[str, int]:
        """Return the mask of its training, and how many percent that hid."""
        return self.pretrain.mask, round(100 * self.pretrain.mask_ratio)


def render() -> None:
    """Show the page."""
    st.title("Reconstruct a face")
    st.caption("A masked autoencoder sees the visible patches only and guesses the hidden ones.")
    with frame.explained():
        setup, known = frame.load_if_there(tables.experiment), frame.load_if_there(faces.faces)
        if known is None:
            setup, known = None, pd.DataFrame(columns=["sample_id", "person", "role"])
        size = setup.data.image_size if setup else SHIPPED_SIZE
        folders = _folders(setup, size)
        if not folders:
            raise FileNotFoundError
        if setup is None:
            frame.say_shipped(SHIPPED)
        chosen = photo_input.aligned_face("face", size)
        if chosen is not None:
            _show(setup, known, folders, chosen)


def _folders(setup: config.Experiment | None, size: int) -> dict[str, Path]:
    """Return the folders of the shipped model and of pretrained ones by "run/seed", the best run first."""
    paths = Results(frame.results_root())
    folders = {
        f"{name}/{seed}": paths.stage(name, seed, "pretrain")
        for name in (phrases.masked_runs(setup) if setup else ())
        for seed in (setup.seeds if setup else ())
    }
    folders = {name: folder for name, folder in folders.items() if (folder / layout.DECODER).is_file()}
    if folders:
        with contextlib.suppress(FileNotFoundError, FaceMAEError):  # a training is not done, or damaged
            best = frame.load(reconstructions.best)
            folders = dict(sorted(folders.items(), key=lambda each: not each[0].startswith(f"{best}/")))
    return ({SHIPPED: shipped_models.FOLDER / SHIPPED} if size == SHIPPED_SIZE and _whole() else {}) | folders


def _whole() -> bool:
    return not shipped_models.missing(SHIPPED)


@st.fragment
@frame.explained()
def _show(
    setup: config.Experiment | None,
    known: pd.DataFrame,
    folders: Mapping[str, Path],
    chosen: photo_input.Chosen,
) -> None:
    """Show the choice of models and mask, and what becomes of the face; a choice redraws nothing else."""
    names = st.multiselect(
        f"Models, up to {MOST_SHOWN} side by side",
        list(folders),
        default=[next(iter(folders))],
        max_selections=MOST_SHOWN,
        key="model",
        bind="query-params",
    )
    if not names:
        st.info("Choose at least one model.")
        return
    models = [_load(setup, name, folders[name]) for name in names]
    own = [name for name in names if name != SHIPPED and frame.load(_learnt_grey)]
    chosen = replace(chosen, image=session.as_seen(chosen.image, *own))
    columns = st.columns([3, 4, 2])
    strategy = _strategy(models[0], columns[0])
    if strategy == completion.BY_HAND:
        board, beside = st.columns([5, 6], gap="medium")
        with board:
            hiding = _painted(models, chosen)
        if hiding is not None:
            with beside:
                _complete_all(known, chosen, models, hiding)
        return
    percent = columns[1].slider("Hidden patches (%)", 5, 95, 75, step=5, key="hidden", bind="query-params")
    seed = int(columns[2].number_input("Seed", 0, 9999, 0, key="seed", bind="query-params"))
    _complete_all(known, chosen, models, completion.Hiding(strategy, percent / 100, seed))
    _sheet(models[0], chosen, percent / 100, seed)


def _complete_all(
    known: pd.DataFrame, chosen: photo_input.Chosen, models: list[Loaded], hiding: completion.Hiding
) -> None:
    try:
        with frame.turn():
            tried = {model.name: _tried(model, chosen, hiding) for model in models}
    except frame.BusyError as error:
        st.warning(str(error), icon=":material/hourglass_top:")
        return
    for name, each in tried.items():
        if isinstance(each, UsageError):
            st.info(f"{name}: {each}")
    done = [each for each in tried.values() if isinstance(each, completion.Completion)]
    models = [model for model in models if isinstance(tried[model.name], completion.Completion)]
    if not models:
        return
    by_hand = hiding.painted is not None
    if not by_hand:
        _say_what_differs(known, chosen, models, hiding)
    _pictures(chosen, models, done, beside=by_hand)
    if by_hand:  # the pictures stand as high as the face that is painted
        _say_what_differs(known, chosen, models, hiding)


def _sheet(model: Loaded, chosen: photo_input.Chosen, ratio: float, seed: int) -> None:
    """Offer a picture to share: the face under every mask, and what the first model makes of each."""

    def drawn() -> bytes:
        with frame.turn():
            return completion.every_mask(
                model.network, model.pretrain, model.masks, chosen.image, ratio, seed
            )

    st.download_button(
        "Your face under every mask (PNG)", drawn, "facemae-every-mask.png", "image/png", key="sheet",
        on_click="ignore", icon=":material/grid_on:",
        help=f"One picture with every mask and its completion by {model.name}; it is kept nowhere.",
    )  # fmt: skip


def _tried(
    model: Loaded, chosen: photo_input.Chosen, hiding: completion.Hiding
) -> completion.Completion | UsageError:
    """Return what a model makes of the hiding, or why it cannot be asked."""
    try:
        return completion.complete(model.network, model.pretrain, model.masks, chosen.image, hiding)
    except UsageError as error:
        return error


def _learnt_grey(paths: Results) -> bool:
    return training_faces(paths.data, unlabelled=True).grey


def _load(setup: config.Experiment | None, name: str, folder: Path) -> Loaded:
    network, pretrain = _model(str(folder), folder_state(folder))
    if name != SHIPPED and setup and (own := setup.run(name.partition("/")[0]).pretrain):
        return Loaded(name, network, pretrain, own.masks)
    # A stage's folder holds the settings of its own mask alone, and the shipped model has no run beside it.
    masks = config.content_of([])["defaults"]["pretrain"]["masks"]
    return Loaded(name, network, pretrain, Masks.model_validate_json(json.dumps(masks)))


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _model(folder: str, state: str) -> tuple[MaskedAutoencoder, config.Pretrain]:
    return trained_model(Path(folder))


def trained_model(folder: Path) -> tuple[MaskedAutoencoder, config.Pretrain]:
    """Return the masked autoencoder in a `pretrain` stage's folder."""
    # Imported here, since PyTorch takes seconds and the other pages do without it.
    from facemae.models.weights import load_autoencoder

    return load_autoencoder(folder)


# --- the mask ---


def _strategy(first: Loaded, place: DeltaGenerator) -> str:
    """Let the visitor choose what hides patches, at first what did in the first model's training."""
    offered = [*completion.STRATEGIES, completion.BY_HAND]
    mask = first.pretrain.mask
    usual = mask if mask in completion.STRATEGIES else USUAL
    return place.selectbox("Mask", offered, index=offered.index(usual), key="mask", bind="query-params")


def _painted(models: list[Loaded], chosen: photo_input.Chosen) -> completion.Hiding | None:
    sides = {model.network.encoder.side for model in models}
    if len(sides) > 1:
        grids = " and ".join(f"{side} by {side}" for side in sorted(sides))
        st.info(f"These models cut a face into {grids} patches; to paint, choose models of one kind.")
        return None
    side = sides.pop()
    st.caption("Press and drag over the face to hide patches, or to show them again; so do arrows and space.")
    picture = encode_png(chosen.image)
    painted = paint.cells(f"painted_{side}", picture, side, start=eye_patches(side), unit="patches")
    try:
        return completion.painted_by_hand(painted)
    except UsageError as error:
        st.info(str(error))
        return None


def eye_patches(side: int) -> list[int]:
    """Return the patches, counted row by row, that are painted at first: a bar over the eyes."""
    rows = range(round(EYES[0] * side), max(round(EYES[1] * side), round(EYES[0] * side) + 1))
    edge = side // 8
    return [row * side + column for row in rows for column in range(edge, side - edge)]


def _say_what_differs(
    known: pd.DataFrame, chosen: photo_input.Chosen, models: list[Loaded], hiding: completion.Hiding
) -> None:
    """Say how the choice departs from what the models are made for."""
    if any(_has_seen(model, known, chosen.sample_id) for model in models):
        st.warning(
            ("The model was" if len(models) == 1 else "The models were")
            + " trained on this face, so its completion shows memory as well as skill."
        )
    asked = (hiding.strategy, round(100 * hiding.ratio))
    trained = {each.trained_with for each in models}
    if len(models) == 1 and asked != models[0].trained_with:
        strategy, usual = models[0].trained_with
        st.info(
            f"This model was trained with the {strategy} mask at {usual} %; "
            "another mask shows how it copes with a hiding that it never met."
        )
    elif len(models) > 1 and asked not in trained:
        st.info("None of these models was trained with this mask; it is a hiding that they never met.")
    elif len(models) > 1 and trained != {asked}:
        st.info(
            "Not all of these models were trained with this mask; to the others it is a hiding that they "
            "never met, so the comparison shows skill and habit together."
        )


def _has_seen(model: Loaded, known: pd.DataFrame, sample_id: str | None) -> bool:
    """Tell whether a model was trained on a sample, or the shipped one on somebody of its person's name."""
    row = known[known["sample_id"] == sample_id]
    if model.name == SHIPPED:
        people = row["person"].dropna()
        return bool(shipped_models.known_among(people, shipped_models.people(SHIPPED).training))
    return sample_id is not None and not row["role"].isin([layout.ROLE_EVALUATION, layout.ROLE_TESTED]).any()


# --- the pictures ---


def _pictures(
    chosen: photo_input.Chosen, models: list[Loaded], done: list[completion.Completion], *, beside: bool
) -> None:
    """Show each model's pictures in a row, `beside` a painted face without that face itself."""
    st.caption(HOW_TO_READ)
    comparable = len({each.unit for each in done}) == 1
    most = max(each.worst for each in done)
    for model, each in zip(models, done, strict=True):
        top = most if comparable else each.worst
        if len(models) > 1:
            st.text(f"{model.name}: error on hidden patches {each.error:.3f}")
        seen = {} if beside else {"the face": chosen.image, "what the encoder sees": each.masked}
        error = completion.error_map(chosen.image, each.errors, top)
        shown = seen | {"its reconstruction": each.completed, "the error": error}
        pictures.row(shown, alt=f"{{}}. {_alt(model.name, each)}")
        if not comparable:
            _scale(top)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        if len(models) == 1:
            st.metric("Visible patches", f"{done[0].visible} of {done[0].patches}", width="content")
            st.metric("Error on hidden patches", f"{done[0].error:.3f}", width="content")
        if comparable:
            _scale(most)
    if not comparable:
        st.info("These models were trained on different errors, so their numbers do not compare.")
    for sentence in dict.fromkeys(map(_what_the_error_is, done)):
        st.caption(sentence)


def _scale(top: float) -> None:
    """Show which colour stands for which error."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content"):
        st.text("0", width="content")
        bar = encode_png(np.repeat(completion.shades()[None], 16, axis=0))
        st.image(bar, width=160, alt=f"Colour scale of the error per patch, from 0 to {top:.2f}")
        st.text(f"{top:.2f} error per patch", width="content")


def _alt(name: str, done: completion.Completion) -> str:
    side = round(done.patches**0.5)
    row, column = divmod(int(np.nanargmax(done.errors)), side)
    return (
        f"{name}: the face as it sees and completes it, and the error per patch; the worst, "
        f"{done.worst:.2f}, is that of the patch in row {row + 1}, column {column + 1}."
    )


def _what_the_error_is(done: completion.Completion) -> str:
    if done.normalised:
        guess = 0.8 if done.loss == "l1" else 1  # of a normal distribution
        return (
            "The error is measured on patches scaled to unit variance: guessing each patch's mean would give "
            f"about {guess:g}. The model predicts no brightness or contrast; in the picture the hidden "
            "patches borrow theirs from the original, which flatters it."
        )
    return "The error is that of pixel values from -1 to 1, as trained; lower is better."
