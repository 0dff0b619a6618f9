"""The reconstruction page: hide parts of a face and see what trained masked autoencoders make of them.

Shapes: H side of a face in pixels, N patches.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import plotly.colors
import streamlit as st
from numpy.typing import NDArray

from facemae import config
from facemae.app import frame
from facemae.app.parts import paint, photo_input
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, Masks
from facemae.core import layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.images import encode_png
from facemae.data.sources.listing import folder_state
from facemae.report import charts, tables

if TYPE_CHECKING:
    from streamlit.delta_generator import DeltaGenerator

    from facemae.masking.mask import PatchMask
    from facemae.models.mae import MaskedAutoencoder

MOST_SHOWN = 4  # models at once
MAX_MODELS = 2 * MOST_SHOWN  # in memory
# A guided strategy asks a network that is not kept beside the model, and this one how far the training is.
OF_MOMENT = ("ratio_curriculum",)
STRATEGIES = tuple(name for name in config.STRATEGIES if name not in (*MASK_GUIDES, *OF_MOMENT))
USUAL = "random"
BY_HAND = "painted by hand"
EYES = (0.3, 0.55)  # from the top: the rows of an aligned face that are painted at first
HEAT = "Viridis"
SHADES = 256
DIMMED = 0.35  # of the contrast of visible patches is left under the error map
ERRORS = "the error of each hidden patch over the greyed face, the brighter the worse."
HOW_TO_READ = f"From left to right: the face, what the encoder sees, its reconstruction, and {ERRORS}"
HOW_TO_READ_BESIDE = (
    f"Left the reconstruction, right {ERRORS}"  # of the pictures beside a face that is painted
)


@dataclass(frozen=True)
class Completion:
    """One face, masked and completed.

    Attributes:
        masked, completed: (H, H, 3) uint8.
        visible, patches: How many patches the encoder saw, and of how many.
        errors: (N,) error of each patch as trained; NaN where nothing is hidden.
        error: Their mean, as the training counts them.
        normalised: Whether patches were predicted at zero mean and unit variance.
        loss: Key of `reconstruction.PIXEL_LOSSES`.
    """

    masked: charts.Pixels
    completed: charts.Pixels
    visible: int
    patches: int
    errors: NDArray[np.float64]
    error: float
    normalised: bool
    loss: str

    @property
    def unit(self) -> tuple[bool, str]:
        """Return what errors have to share to be compared."""
        return self.normalised, self.loss


@dataclass(frozen=True)
class Puzzle:
    """What is to be hidden: by a strategy, or the (side, side) patches that were painted."""

    strategy: str
    ratio: float
    seed: int
    painted: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Loaded:
    """A trained model: its "run/seed", its run, the network, and how it was trained."""

    name: str
    run: config.Run
    network: MaskedAutoencoder
    pretrain: config.Pretrain


def render() -> None:
    """Show the page."""
    st.title("Reconstruct a face")
    st.caption("A masked autoencoder sees the visible patches only and guesses the hidden ones.")
    with frame.explained():
        setup, faces = frame.load(tables.experiment), frame.load(tables.faces)
        folders = _folders(setup)
        if not folders:
            raise FileNotFoundError
        chosen = photo_input.aligned_face("face", setup.data.image_size)
        if chosen is not None:
            _show(setup, faces, folders, chosen)


def _folders(setup: config.Experiment) -> dict[str, Path]:
    """Return the folder of every pretrained model there is, by "run/seed"."""
    paths = Results(frame.results_root())
    folders = {
        f"{name}/{seed}": paths.stage(name, seed, "pretrain")
        for name in tables.masked(setup)
        for seed in setup.seeds
    }
    return {name: folder for name, folder in folders.items() if (folder / layout.DECODER).is_file()}


@st.fragment
@frame.explained()
def _show(
    setup: config.Experiment, faces: pd.DataFrame, folders: Mapping[str, Path], chosen: photo_input.Chosen
) -> None:
    """Show the choice of models and mask, and what becomes of the face; a choice redraws nothing else."""
    names = st.multiselect(
        f"Trained models (run/seed), up to {MOST_SHOWN} side by side",
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
    columns = st.columns([3, 4, 2])
    strategy = _strategy(models[0].run, columns[0])
    if strategy == BY_HAND:
        board, beside = st.columns([5, 6], gap="medium")
        with board:
            puzzle = _painted(models, chosen)
        if puzzle is not None:
            with beside:
                _complete_all(faces, chosen, models, puzzle)
        return
    percent = columns[1].slider("Hidden patches (%)", 5, 95, 75, step=5, key="hidden", bind="query-params")
    seed = int(columns[2].number_input("Seed", 0, 9999, 0, key="seed", bind="query-params"))
    _complete_all(faces, chosen, models, Puzzle(strategy, percent / 100, seed))


def _complete_all(
    faces: pd.DataFrame, chosen: photo_input.Chosen, models: list[Loaded], puzzle: Puzzle
) -> None:
    try:
        with frame.turn():
            tried = {model.name: _tried(model, chosen, puzzle) for model in models}
    except frame.BusyError as error:
        st.warning(str(error), icon=":material/hourglass_top:")
        return
    for name, each in tried.items():
        if isinstance(each, UsageError):
            st.info(f"{name}: {each}")
    done = [each for each in tried.values() if isinstance(each, Completion)]
    models = [model for model in models if isinstance(tried[model.name], Completion)]
    if not models:
        return
    by_hand = puzzle.painted is not None
    if not by_hand:
        _say_what_differs(faces, chosen, models, puzzle)
    _pictures(chosen, models, done, beside=by_hand)
    if by_hand:  # the pictures stand as high as the face that is painted
        _say_what_differs(faces, chosen, models, puzzle)


def _tried(model: Loaded, chosen: photo_input.Chosen, puzzle: Puzzle) -> Completion | UsageError:
    """Return what a model makes of the puzzle, or why it cannot be asked."""
    masks = model.run.pretrain.masks if model.run.pretrain else model.pretrain.masks
    try:
        return complete(model.network, model.pretrain, masks, chosen.image, puzzle)
    except UsageError as error:
        return error


def _load(setup: config.Experiment, name: str, folder: Path) -> Loaded:
    network, pretrain = _model(str(folder), folder_state(folder))
    return Loaded(name, setup.run(name.partition("/")[0]), network, pretrain)


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _model(folder: str, state: str) -> tuple[MaskedAutoencoder, config.Pretrain]:
    return trained_model(Path(folder))


@tables.checked
def trained_model(folder: Path) -> tuple[MaskedAutoencoder, config.Pretrain]:
    """Return the masked autoencoder in a `pretrain` stage's folder."""
    # Imported here, since PyTorch takes seconds and the other pages do without it.
    from facemae.models.weights import load_autoencoder

    return load_autoencoder(folder)


# --- the mask ---


def _strategy(first: config.Run, place: DeltaGenerator) -> str:
    """Let the visitor choose what hides patches, at first what did in the first model's training."""
    offered = [*STRATEGIES, BY_HAND]
    usual = first.strategy if first.strategy in STRATEGIES else USUAL
    return place.selectbox("Mask", offered, index=offered.index(usual), key="mask", bind="query-params")


def _painted(models: list[Loaded], chosen: photo_input.Chosen) -> Puzzle | None:
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
        return hand_made(painted)
    except UsageError as error:
        st.info(str(error))
        return None


def eye_patches(side: int) -> list[int]:
    """Return the patches, counted row by row, that are painted at first: a bar over the eyes."""
    rows = range(round(EYES[0] * side), max(round(EYES[1] * side), round(EYES[0] * side) + 1))
    edge = side // 8
    return [row * side + column for row in rows for column in range(edge, side - edge)]


def hand_made(painted: NDArray[np.bool_]) -> Puzzle:
    """Return the puzzle of painted patches (side, side).

    Raises:
        UsageError: none is painted, or all are.
    """
    if not painted.any():
        raise UsageError("No patch is painted, so there is nothing to guess: press and drag over the face.")
    if painted.all():
        raise UsageError("Every patch is painted, so the encoder would see nothing: wipe at least one.")
    return Puzzle(BY_HAND, float(painted.mean()), 0, painted)


def _say_what_differs(
    faces: pd.DataFrame, chosen: photo_input.Chosen, models: list[Loaded], puzzle: Puzzle
) -> None:
    """Say how the choice departs from what the models are made for."""
    role = faces.loc[faces["sample_id"] == chosen.sample_id, "role"]
    unseen = role.isin([layout.ROLE_EVALUATION, layout.ROLE_TESTED])
    if chosen.sample_id is not None and not unseen.any():
        st.warning(
            ("The model was" if len(models) == 1 else "The models were")
            + " trained on this face, so its completion shows memory as well as skill."
        )
    asked = (puzzle.strategy, round(100 * puzzle.ratio))
    trained = {_trained_with(each.run) for each in models}
    if len(models) == 1 and asked != _trained_with(models[0].run):
        strategy, usual = _trained_with(models[0].run)
        st.info(
            f"This model was trained with the {strategy} mask at {usual} %; "
            "another mask shows how it copes with a puzzle that it never met."
        )
    elif len(models) > 1 and asked not in trained:
        st.info("None of these models was trained with this mask; it is a puzzle that they never met.")
    elif len(models) > 1 and trained != {asked}:
        st.info(
            "Not all of these models were trained with this mask; to the others it is a puzzle that they "
            "never met, so the comparison shows skill and habit together."
        )


def _trained_with(run: config.Run) -> tuple[str, int]:
    return run.strategy, round(100 * (run.mask_ratio or 0))


def complete(
    network: MaskedAutoencoder,
    pretrain: config.Pretrain,
    masks: Masks,
    image: charts.Pixels,
    puzzle: Puzzle,
) -> Completion:
    """Hide part of one face (H, H, 3) and let the network fill it in.

    Raises:
        UsageError: the network cannot be asked so.
    """
    import torch

    from facemae.models.patches import to_faces, to_input
    from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct

    if puzzle.strategy in PIXEL_MASKS and pretrain.decoder == "cross":
        raise UsageError(
            "This model's decoder predicts whole hidden patches only, and a mask of pixels leaves every "
            "patch in sight; choose another mask."
        )
    encoder = network.encoder
    mask = _mask(puzzle, masks, image.shape[0] if puzzle.strategy in PIXEL_MASKS else encoder.side)
    with torch.inference_mode():
        images = to_input(torch.from_numpy(image.copy())[None])
        prediction = network(images, mask)
        errors = errors_of(network, prediction, images, mask, pretrain)[0]
        completed = reconstruct(prediction, images, encoder.patch_size, normalised=pretrain.normalise_target)
        if network.hides_pixels(mask):
            completed = keep_visible_pixels(completed, images, mask)
    of_patch = np.full(encoder.side**2, np.nan)
    of_patch[prediction.ids[0].numpy()] = errors.numpy()
    return Completion(
        masked=charts.masked(image[None], mask.hidden.numpy())[0],
        completed=to_faces(completed)[0].numpy(),
        visible=encoder.side**2 if network.hides_pixels(mask) else mask.visible_ids.shape[1],
        patches=encoder.side**2,
        errors=of_patch,
        error=float(errors.mean()),
        normalised=pretrain.normalise_target,
        loss=pretrain.loss,
    )


def _mask(puzzle: Puzzle, masks: Masks, side: int) -> PatchMask:
    """Return the mask over side x side patches, or pixels.

    Raises:
        UsageError: the run says nothing of such a mask.
    """
    import torch

    from facemae.compute.seeding import Noise
    from facemae.masking.mask import hide_highest
    from facemae.masking.regions import region_map
    from facemae.masking.strategies import draw_mask

    if puzzle.painted is not None:
        painted = torch.from_numpy(puzzle.painted.reshape(1, -1)).float()
        return hide_highest(painted, int(painted.sum()))
    if getattr(masks, puzzle.strategy) is None:
        raise UsageError(
            f"This run's configuration has no settings for the {puzzle.strategy} mask; choose another mask."
        )
    least = 1 / side**2  # at least one patch is hidden and one visible
    ratio = min(max(puzzle.ratio, least), 1 - least)
    regions = None if puzzle.strategy in PIXEL_MASKS else region_map(side)[None]
    parameters = masks.parameters(puzzle.strategy)
    return draw_mask(puzzle.strategy, ratio, parameters, side, Noise(range(1), puzzle.seed), regions)


# --- the pictures ---


def _pictures(
    chosen: photo_input.Chosen, models: list[Loaded], done: list[Completion], *, beside: bool
) -> None:
    """Show each model's pictures in a row, `beside` a painted face without that face itself."""
    st.caption(HOW_TO_READ_BESIDE if beside else HOW_TO_READ)
    comparable = len({each.unit for each in done}) == 1
    most = max(worst(each) for each in done)
    for model, each in zip(models, done, strict=True):
        top = most if comparable else worst(each)
        if len(models) > 1:
            st.text(f"{model.name}: error on hidden patches {each.error:.3f}")
        seen = [] if beside else [chosen.image, each.masked]
        row = np.stack([*seen, each.completed, error_map(chosen.image, each.errors, top)])
        st.image(encode_png(charts.strip([row])), width="stretch", alt=_alt(model.name, each))
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


def worst(done: Completion) -> float:
    """Return the greatest error of a patch."""
    return float(np.nanmax(done.errors))


def error_map(image: charts.Pixels, errors: NDArray[np.float64], top: float) -> charts.Pixels:
    """Return a face (H, H, 3) in pale grey with its hidden patches in the colour of their error.

    Args:
        image: (H, H, 3) uint8.
        errors: (N,), NaN where a patch is not hidden.
        top: The error that has the brightest colour.
    """
    side = round(len(errors) ** 0.5)
    patch = image.shape[0] // side
    shade = np.nan_to_num(errors / (top or 1.0)).clip(0, 1) * (SHADES - 1)
    colours = shades()[shade.round().astype(int)].reshape(side, side, 3)
    grey = np.uint8(255 * (1 - DIMMED)) + (DIMMED * image.mean(axis=2, keepdims=True)).astype(np.uint8)
    hidden = ~np.isnan(errors).reshape(side, side, 1)
    spread = [each.repeat(patch, axis=0).repeat(patch, axis=1) for each in (hidden, colours)]
    return np.where(spread[0], spread[1], grey.repeat(3, axis=2)).astype(np.uint8)


@functools.cache
def shades() -> NDArray[np.uint8]:
    """Return the colours from no error to the greatest, (SHADES, 3)."""
    places = np.linspace(0, 1, SHADES).tolist()
    found = plotly.colors.sample_colorscale(HEAT, places, colortype="tuple")
    return (np.array(found) * 255).round().astype(np.uint8)


def _scale(top: float) -> None:
    """Show which colour stands for which error."""
    with st.container(horizontal=True, gap="small", vertical_alignment="center", width="content"):
        st.text("0", width="content")
        bar = encode_png(np.repeat(shades()[None], 16, axis=0))
        st.image(bar, width=160, alt=f"Colour scale of the error per patch, from 0 to {top:.2f}")
        st.text(f"{top:.2f} error per patch", width="content")


def _alt(name: str, done: Completion) -> str:
    side = round(done.patches**0.5)
    row, column = divmod(int(np.nanargmax(done.errors)), side)
    return (
        f"{name}: the face as it sees and completes it, and the error per patch; the worst, "
        f"{worst(done):.2f}, is that of the patch in row {row + 1}, column {column + 1}."
    )


def _what_the_error_is(done: Completion) -> str:
    if done.normalised:
        guess = 0.8 if done.loss == "l1" else 1  # of a normal distribution
        return (
            "The error is measured on patches scaled to unit variance: guessing each patch's mean would give "
            f"about {guess:g}. The model predicts no brightness or contrast; in the picture the hidden "
            "patches borrow theirs from the original, which flatters it."
        )
    return "The error is that of pixel values from -1 to 1, as trained; lower is better."
