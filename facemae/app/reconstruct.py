"""The reconstruction page: hide parts of a face and see what a trained masked autoencoder makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import streamlit as st

from facemae import charts, config, reading, results
from facemae.app import shell
from facemae.data.images import encode_png, open_image
from facemae.data.sources.folder import folder_state
from facemae.masking.parameters import MASK_GUIDES, PIXEL_MASKS, Masks
from facemae.results import Results

if TYPE_CHECKING:
    from facemae.models.mae import MaskedAutoencoder

MAX_MODELS = 4
# A guided strategy asks a network that is not kept beside the model, and this one how far the training is.
OF_MOMENT = ("ratio_curriculum",)
STRATEGIES = tuple(name for name in config.STRATEGIES if name not in (*MASK_GUIDES, *OF_MOMENT))
USUAL = "random"


@dataclass(frozen=True)
class Completion:
    """One face, masked and completed; `error` is the mean squared error on hidden patches, as trained."""

    masked: charts.Pixels
    completed: charts.Pixels
    visible: int
    patches: int
    error: float
    normalised: bool


def render() -> None:
    """Show the page."""
    st.title("Reconstruct a face")
    st.caption("A masked autoencoder sees the visible patches only and guesses the hidden ones.")
    with shell.explained():
        setup, faces = shell.load(reading.experiment), shell.load(reading.faces)
        models = _models(setup)
        if not models:
            raise FileNotFoundError
        _show(setup, faces, models)


def _models(setup: config.Experiment) -> dict[str, Path]:
    """Return the folder of every pretrained model there is, by "run/seed"."""
    paths = Results(shell.results_root())
    folders = {
        f"{name}/{seed}": paths.stage(name, seed, "pretrain")
        for name in reading.masked(setup)
        for seed in setup.seeds
    }
    return {name: folder for name, folder in folders.items() if (folder / results.DECODER).is_file()}


def _show(setup: config.Experiment, faces: pd.DataFrame, models: dict[str, Path]) -> None:
    left, right = st.columns(2)
    face = left.selectbox("Face", faces["sample_id"].to_list(), key="face", bind="query-params")
    model = right.selectbox("Trained model (run/seed)", list(models), key="model", bind="query-params")
    trained = setup.run(model.partition("/")[0])
    left, right = st.columns(2)
    usual = trained.strategy if trained.strategy in STRATEGIES else USUAL
    strategy = left.selectbox(
        "Mask", STRATEGIES, index=STRATEGIES.index(usual), key="mask", bind="query-params"
    )
    percent = right.slider("Hidden patches (%)", 5, 95, 75, step=5, key="hidden", bind="query-params")
    seed = int(st.number_input("Seed of the mask", 0, 9999, 0, key="seed", bind="query-params", width=200))
    _say_what_differs(faces, face, trained, strategy, percent)

    image = np.asarray(open_image(shell.load(reading.face, face)))
    network, pretrain = _model(str(models[model]), folder_state(models[model]))
    masks = trained.pretrain.masks if trained.pretrain else pretrain.masks
    done = complete(network, pretrain, masks, image, strategy, percent / 100, seed)
    _pictures(image, done)


def _say_what_differs(
    faces: pd.DataFrame, face: str, trained: config.Run, strategy: str, percent: int
) -> None:
    """Say how the choice departs from what the model is made for."""
    role = faces.loc[faces["sample_id"] == face, "role"].iloc[0]
    if role not in (results.ROLE_EVALUATION, results.ROLE_TESTED):
        st.warning("The model was trained on this face, so its completion shows memory as well as skill.")
    usual = round(100 * (trained.mask_ratio or 0))
    if (strategy, percent) != (trained.strategy, usual):
        st.info(
            f"This model was trained with the {trained.strategy} mask at {usual} %; "
            "another mask shows how it copes with a puzzle that it never met."
        )


@st.cache_resource(max_entries=MAX_MODELS, show_spinner="Loading the model…")
def _model(folder: str, state: str) -> tuple[MaskedAutoencoder, config.Pretrain]:
    return trained_model(Path(folder))


@reading.checked
def trained_model(folder: Path) -> tuple[MaskedAutoencoder, config.Pretrain]:
    """Return the masked autoencoder in a `pretrain` stage's folder."""
    # Imported here, since PyTorch takes seconds and the other pages do without it.
    from facemae.models.weights import load_autoencoder

    return load_autoencoder(folder)


def complete(
    network: MaskedAutoencoder,
    pretrain: config.Pretrain,
    masks: Masks,
    image: charts.Pixels,
    strategy: str,
    ratio: float,
    seed: int,
) -> Completion:
    """Hide part of one face (H, H, 3) and let the network fill it in."""
    import torch

    from facemae.masking.regions import region_map
    from facemae.masking.strategies import draw_mask
    from facemae.models.patches import to_faces, to_input
    from facemae.randomness import Noise
    from facemae.reconstruction import errors_of, keep_visible_pixels, reconstruct

    encoder = network.encoder
    side = image.shape[0] if strategy in PIXEL_MASKS else encoder.side
    patches = side * side
    least = 1 / patches  # at least one patch is hidden and one visible
    ratio = min(max(ratio, least), 1 - least)
    parameters = masks.parameters(strategy)
    regions = None if strategy in PIXEL_MASKS else region_map(side)[None]
    mask = draw_mask(strategy, ratio, parameters, side, Noise(range(1), seed), regions)
    with torch.inference_mode():
        images = to_input(torch.from_numpy(image.copy())[None])
        prediction = network(images, mask)
        error = errors_of(network, prediction, images, mask, pretrain).mean()
        completed = reconstruct(prediction, images, encoder.patch_size, normalised=pretrain.normalise_target)
        if network.hides_pixels(mask):
            completed = keep_visible_pixels(completed, images, mask)
    return Completion(
        masked=charts.masked(image[None], mask.hidden.numpy())[0],
        completed=to_faces(completed)[0].numpy(),
        visible=encoder.side**2 if network.hides_pixels(mask) else mask.visible_ids.shape[1],
        patches=encoder.side**2,
        error=float(error),
        normalised=pretrain.normalise_target,
    )


def _pictures(image: charts.Pixels, done: Completion) -> None:
    picture = charts.strip([np.stack([image, done.masked, done.completed])])
    title = "Original, what the encoder sees, and the reconstruction"
    st.image(encode_png(picture), caption=title, width="stretch", alt=title)
    with st.container(horizontal=True, gap="large"):
        st.metric("Visible patches", f"{done.visible} of {done.patches}", width="content")
        st.metric("Error on hidden patches", f"{done.error:.3f}", width="content")
    if done.normalised:
        st.caption(
            "The error is measured on patches scaled to unit variance: guessing each patch's mean would give "
            "about 1. The model predicts no brightness or contrast; in the picture the hidden patches borrow "
            "theirs from the original, which flatters it."
        )
    else:
        st.caption("The error is that of pixel values from -1 to 1, as trained; lower is better.")
