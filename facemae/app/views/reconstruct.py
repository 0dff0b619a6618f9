"""The reconstruction page: hide parts of a face and see what trained masked autoencoders make of them."""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import streamlit as st

from facemae import config
from facemae.app import elements, frame, session
from facemae.app.parts import completion, paint, photo_input
from facemae.app.parts.completion import Completion, Hiding, Model
from facemae.app.parts.photo_input import Chosen
from facemae.config.masks import Masks
from facemae.core import layout
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.data.images import encode_png
from facemae.data.sources.listing import folder_state
from facemae.models import shipped_models
from facemae.recognition.model import training_faces
from facemae.report import faces, phrases, reconstructions, tables

if TYPE_CHECKING:
    from facemae.models.mae import MaskedAutoencoder

MOST_SHOWN = 4  # models at once
MAX_MODELS = 2 * MOST_SHOWN  # in memory
USUAL = "random"
SHIPPED, SHIPPED_SIZE = "face-mae", 112  # what the page opens with, for results of this size or none; pixels
EYES = (0.3, 0.55)  # from the top: the rows of an aligned face that are painted at first
HOW_TO_READ = "The error is that of each hidden patch, over the greyed face: the brighter the worse."


def render() -> None:
    """Show the page."""
    st.title("Reconstruct a face")
    st.caption("A masked autoencoder sees the visible patches only and guesses the hidden ones.")
    with frame.explained():
        setup = frame.load_if_there(tables.experiment)
        if frame.load_if_there(faces.faces) is None:
            setup = None
        size = setup.data.image_size if setup else SHIPPED_SIZE
        folders = _folders(setup, size)
        if not folders:
            raise FileNotFoundError
        if setup is None:
            frame.say_shipped(SHIPPED)
        chosen = photo_input.aligned_face("face", size)
        if chosen is not None:
            _show(folders, chosen)


def _folders(setup: config.Experiment | None, size: int) -> dict[str, Path]:
    """Return the folders of the shipped model and of pretrained ones by "run/seed", the best run first."""
    paths, folders = frame.results(), dict[str, Path]()
    if setup:
        for name, seed in itertools.product(phrases.masked_runs(setup), setup.seeds):
            folder = paths.stage(name, seed, "pretrain")
            if (folder / layout.DECODER).is_file():
                folders[f"{name}/{seed}"] = folder
    if folders:
        with contextlib.suppress(FileNotFoundError, FaceMAEError):  # a training is not done, or damaged
            best = frame.load(reconstructions.best)
            folders = dict(sorted(folders.items(), key=lambda each: not each[0].startswith(f"{best}/")))
    whole = size == SHIPPED_SIZE and not shipped_models.missing(SHIPPED)
    return ({SHIPPED: shipped_models.FOLDER / SHIPPED} if whole else {}) | folders


@frame.part
def _show(folders: Mapping[str, Path], chosen: Chosen) -> None:
    """Show the choice of models and mask, and what becomes of the face; a choice redraws nothing else."""
    names = st.multiselect(
        f"Models, up to {MOST_SHOWN} side by side", list(folders), default=[next(iter(folders))],
        max_selections=MOST_SHOWN, key="model", bind="query-params",
    )  # fmt: skip
    if not names:
        st.info("Choose at least one model.")
        return
    models = [_load(name, folders[name]) for name in names]
    own = [name for name in names if name != SHIPPED and frame.load(_learnt_grey)]
    chosen = replace(chosen, image=session.greyed(chosen.image, *own))
    columns = st.columns([3, 4, 2])
    offered, own_mask = [*completion.STRATEGIES, completion.BY_HAND], models[0].pretrain.mask
    usual = offered.index(own_mask if own_mask in offered else USUAL)
    strategy = elements.choose("Mask", offered, "mask", usual, columns[0])
    if strategy == completion.BY_HAND:
        board, beside = st.columns([5, 6], gap="medium")
        with board:
            hiding = _painted(models, chosen)
        if hiding is not None:
            with beside, frame.refusals_shown():
                _complete_all(chosen, models, hiding)
        return
    percent = columns[1].slider("Hidden patches (%)", 5, 95, 75, step=5, key="hidden", bind="query-params")
    seed = int(columns[2].number_input("Seed", 0, 9999, 0, key="seed", bind="query-params"))
    with frame.refusals_shown():
        _complete_all(chosen, models, Hiding(strategy, percent / 100, seed))
    _sheet(models[0], chosen, percent / 100, seed)


def _complete_all(chosen: Chosen, models: list[Model], hiding: Hiding) -> None:
    """Show what each model makes of the hiding, or say why it cannot be asked."""
    done: list[tuple[Model, Completion]] = []
    with frame.turn():
        for model in models:
            try:
                done.append((model, completion.complete(model, chosen.image, hiding)))
            except UsageError as error:
                st.info(f"{model.name}: {error}")
    if not done:
        return
    by_hand = hiding.painted is not None
    if by_hand:  # the pictures stand as high as the face that is painted
        _pictures(chosen, done, beside=True)
    _say_what_differs(chosen, [model for model, _ in done], hiding)
    if not by_hand:
        _pictures(chosen, done, beside=False)


def _sheet(model: Model, chosen: Chosen, ratio: float, seed: int) -> None:
    """Offer a picture to share: the face under every mask, and what the first model makes of each."""

    def drawn() -> bytes:
        with frame.turn():
            return completion.every_mask(model, chosen.image, ratio, seed)

    elements.download(
        "Your face under every mask (PNG)", drawn, "facemae-every-mask.png", "image/png",
        icon=":material/grid_on:",
        help=f"One picture with every mask and its completion by {model.name}; it is kept nowhere.",
    )  # fmt: skip


def _learnt_grey(paths: Results) -> bool:
    return training_faces(paths.data, unlabelled=True).grey


def _load(name: str, folder: Path) -> Model:
    network, pretrain = _model(str(folder), folder_state(folder))
    setup = None if name == SHIPPED else frame.load(tables.experiment)
    if setup and (own := setup.run(name.partition("/")[0]).pretrain):
        return Model(network, pretrain, own.masks, name)
    # A stage's folder holds the settings of its own mask alone, and the shipped model has no run beside it.
    masks = config.content_of([])["defaults"]["pretrain"]["masks"]
    return Model(network, pretrain, Masks.model_validate_json(json.dumps(masks)), name)


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _model(folder: str, state: str) -> tuple[MaskedAutoencoder, config.Pretrain]:
    # Imported here, since PyTorch takes seconds and the other pages do without it.
    from facemae.models.weights import load_autoencoder

    return load_autoencoder(Path(folder))


def _painted(models: list[Model], chosen: Chosen) -> Hiding | None:
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


def _say_what_differs(chosen: Chosen, models: list[Model], hiding: Hiding) -> None:
    """Say how the choice departs from what the models are made for."""
    if any(_has_seen(model, chosen.sample_id) for model in models):
        who = "The model was" if len(models) == 1 else "The models were"
        st.warning(f"{who} trained on this face, so its completion shows memory as well as skill.")
    asked = (hiding.strategy, round(100 * hiding.ratio))
    trained = [(each.pretrain.mask, round(100 * each.pretrain.mask_ratio)) for each in models]
    if set(trained) == {asked}:
        return
    if len(models) == 1:
        strategy, usual = trained[0]
        st.info(
            f"This model was trained with the {strategy} mask at {usual} %; "
            "another mask shows how it copes with a hiding that it never met."
        )
    elif asked not in trained:
        st.info("None of these models was trained with this mask; it is a hiding that they never met.")
    else:
        st.info(
            "Not all of these models were trained with this mask; to the others it is a hiding that they "
            "never met, so the comparison shows skill and habit together."
        )


def _has_seen(model: Model, sample_id: str | None) -> bool:
    """Tell whether a model was trained on a sample, or the shipped one on somebody of its person's name."""
    known = frame.load_if_there(faces.faces)
    if known is None or sample_id is None:
        return False
    row = known[known["sample_id"] == sample_id]
    if model.name == SHIPPED:
        people = row["person"].dropna()
        return bool(shipped_models.known_among(people, shipped_models.people(SHIPPED).training))
    return not row["role"].isin([layout.ROLE_EVALUATION, layout.ROLE_TESTED]).any()


# --- the pictures ---


def _pictures(chosen: Chosen, done: list[tuple[Model, Completion]], *, beside: bool) -> None:
    """Show each model's pictures in a row, `beside` a painted face without that face itself."""
    st.caption(HOW_TO_READ)
    comparable = len({(each.normalised, each.loss) for _, each in done}) == 1
    most = max(each.worst for _, each in done)
    for model, each in done:
        top = most if comparable else each.worst
        if len(done) > 1:
            st.text(f"{model.name}: error on hidden patches {each.error:.3f}")
        seen = {} if beside else {"the face": chosen.image, "what the encoder sees": each.masked}
        error = completion.error_map(chosen.image, each.errors, top)
        shown = seen | {"its reconstruction": each.completed, "the error": error}
        row, column = divmod(int(np.nanargmax(each.errors)), round(len(each.errors) ** 0.5))
        alt = (
            f". {model.name}: the face as it sees and completes it, and the error per patch; the worst, "
            f"{each.worst:.2f}, is that of the patch in row {row + 1}, column {column + 1}."
        )
        elements.pictures(shown, after=alt)
        if not comparable:
            _scale(top)
    with st.container(horizontal=True, gap="medium", vertical_alignment="bottom"):
        if len(done) == 1:
            st.metric("Visible patches", f"{each.visible} of {len(each.errors)}", width="content")
            st.metric("Error on hidden patches", f"{each.error:.3f}", width="content")
        if comparable:
            _scale(most)
    if not comparable:
        st.info("These models were trained on different errors, so their numbers do not compare.")
    for sentence in dict.fromkeys(_what_the_error_is(each) for _, each in done):
        st.caption(sentence)


def _scale(top: float) -> None:
    """Show which colour stands for which error."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content"):
        st.text("0", width="content")
        bar = encode_png(np.repeat(completion.shades()[None], 16, axis=0))
        st.image(bar, width=160, alt=f"Colour scale of the error per patch, from 0 to {top:.2f}")
        st.text(f"{top:.2f} error per patch", width="content")


def _what_the_error_is(done: Completion) -> str:
    if not done.normalised:
        return "The error is that of pixel values from -1 to 1, as trained; lower is better."
    guess = 0.8 if done.loss == "l1" else 1  # of a normal distribution
    return (
        "The error is measured on patches scaled to unit variance: guessing each patch's mean would give "
        f"about {guess:g}. The model predicts no brightness or contrast; in the picture the hidden "
        "patches borrow theirs from the original, which flatters it."
    )
