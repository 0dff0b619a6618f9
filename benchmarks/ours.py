"""Our own contestants of the pretraining: the product's training loop on its shipped configuration."""

from __future__ import annotations

import contextlib
import io
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.peers import DECODERS, LEAST, PATCH, RATE, RATIO, READY, SIDE, Setup
from benchmarks.turns import Baton
from facemae import config
from facemae.compute.device import choose
from facemae.compute.seeding import batch_ids
from facemae.data.faces.cache import FaceFile, OpenFaces
from facemae.data.faces.loader import Feed
from facemae.masking.crops import Crops
from facemae.models.build import build_mae
from facemae.training.objectives.mae import Autoencoding, build_autoencoding
from facemae.training.optimizer import adamw
from facemae.training.trainer import LOSS, Job, Objective, fit

CONFIG = Path(__file__).parents[1] / "config.yaml"
RESIDENT = 20_000  # faces, of which the same few hundred are repeated
NEVER = 10**6  # steps; longer than any measurement


@dataclass(frozen=True)
class Ours:
    """What one of our contestants sets, of `Pretrain` and `Model`."""

    decoder: str
    predict_ratio: float
    class_token: bool


OURS = {
    "same": Ours("transformer", 1.0, class_token=False),
    "cross": Ours("cross", 0.25, class_token=False),
    "same_class": Ours("transformer", 1.0, class_token=True),
    "cross_class": Ours("cross", 0.25, class_token=True),
}


def train(name: str, setup: Setup, baton: Baton) -> None:
    """Train as the product does, for as long as it gets turns."""
    compute = choose(setup.device, setup.precision, setup.threads, "auto")  # type: ignore[arg-type]
    model, pretrain = _sections(name, setup)
    torch.manual_seed(0)
    mae = build_mae(model, pretrain, SIDE)
    compute.place(mae)
    faces = _repeated(setup)

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(faces.places), setup.batch, step, 0)

    with Feed(faces, ids_at, compute, workers=0) as feed, tempfile.TemporaryDirectory() as state:
        autoencoding = build_autoencoding(mae, feed, pretrain, compute, seed=0)
        if not setup.jpegs:
            autoencoding = Prepared.of(autoencoding)
        latest: list[Tensor] = []

        def loss(step: int, part: slice) -> dict[str, Tensor]:
            losses = autoencoding.loss(step, part)
            latest[:] = [losses[LOSS]]
            return losses

        objective = Objective(mae, loss, after_step=lambda step: baton.step_done(latest[0]))
        job = Job("benchmark", 0, Path(state), {})
        baton.begin(mae)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress to a far end
            fit(objective, adamw(mae, pretrain), pretrain, compute, job)


@dataclass(frozen=True)
class Prepared(Autoencoding):
    """The product's objective on batches that were read, cropped and converted before the clock started.

    Attributes:
        ready: Images (B, 3, H, H) and their crops, which are used over and over.
    """

    ready: list[tuple[Tensor, Crops]]

    @classmethod
    def of(cls, autoencoding: Autoencoding) -> Prepared:
        """Prepare the batches of an objective."""
        batch = slice(0, autoencoding.settings.batch_size)
        ready = [autoencoding._images(step, batch) for step in range(READY)]
        return cls(**vars(autoencoding), ready=ready)

    def _images(self, step: int, part: slice) -> tuple[Tensor, Crops]:
        return self.ready[step % len(self.ready)]


def _sections(name: str, setup: Setup) -> tuple[config.Model, config.Pretrain]:
    """Return the shipped configuration with what the race lays down."""
    run = config.load([CONFIG]).defaults
    assert run.pretrain is not None
    width, depth, heads = DECODERS[setup.size]
    ours = OURS[name]
    shape = {"size": setup.size, "patch_size": PATCH, "class_token": ours.class_token}
    changes = {
        "decoder": ours.decoder,
        "predict_ratio": ours.predict_ratio,
        "mask_ratio": RATIO,
        "crop_min": LEAST,
        "decoder_width": width,
        "decoder_depth": depth,
        "decoder_heads": heads,
        "batch_size": setup.batch,
        "learning_rate": RATE,
        "steps": NEVER,
        "warmup_fraction": 0.0,
        "log_every": NEVER,
        "checkpoint_every": NEVER,
        "held_out": 0.0,
        "validate_every": 0,
    }
    return run.model.model_copy(update=shape), run.pretrain.model_copy(update=changes)


def _repeated(setup: Setup) -> OpenFaces:
    """Return the faces, repeated to as many as a small training has."""
    shape = np.load(setup.faces, mmap_mode="r").shape
    places = np.resize(np.arange(shape[0]), RESIDENT)
    return OpenFaces(FaceFile(setup.faces, shape), places, [], [])
