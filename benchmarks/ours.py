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
from facemae.compute.distributed import World
from facemae.compute.seeding import batch_ids
from facemae.data.faces.cache import FaceFile, OpenFaces
from facemae.data.faces.loader import Feed
from facemae.masking.regions import Crops
from facemae.models.build import build_mae
from facemae.training.objective import LOSS
from facemae.training.objectives.mae import MaskedPretraining
from facemae.training.optimizer import adamw
from facemae.training.trainer import Job, fit

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
    faces = _repeated(setup)

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(faces), setup.batch, step, 0)

    objective = (Timed if setup.jpegs else Prepared)(mae, pretrain, compute, 0)
    with Feed(faces, ids_at, compute, workers=0) as objective.feed, tempfile.TemporaryDirectory() as state:
        objective.begin(baton)
        job = Job("benchmark", 0, Path(state), {})
        baton.begin(mae)
        with contextlib.redirect_stderr(io.StringIO()):  # its progress to a far end
            fit(objective, adamw(objective.network, pretrain), pretrain, compute, job)


class Timed(MaskedPretraining):
    """The product's objective, which tells the race of each step."""

    def begin(self, baton: Baton) -> None:
        """Tell this one of each step."""
        self.baton = baton

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses, and keep them for the race."""
        self.latest = super().loss(step, part)
        return self.latest

    def after_step(self, step: int, world: World) -> None:
        """Tell the race of the step; nothing follows the weights of a random mask."""
        self.baton.step_done(self.latest[LOSS])


class Prepared(Timed):
    """The same on batches that were read, cropped and converted before the clock started."""

    def begin(self, baton: Baton) -> None:
        """Prepare images (B, 3, H, H) and their crops, which are used over and over."""
        batch = slice(0, self.settings.batch_size)
        self.ready = [super(Prepared, self)._images(step, batch) for step in range(READY)]
        super().begin(baton)

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
