"""The encoders by name."""

from __future__ import annotations

from collections.abc import Callable

from facemae import config
from facemae.models.base import Encoder
from facemae.models.cnn import Cnn
from facemae.models.mlp import Mlp
from facemae.models.vit import Vit

# (model, image size, drop path) -> an untrained encoder
ENCODERS: dict[str, Callable[[config.Model, int, float], Encoder]] = {"vit": Vit, "cnn": Cnn, "mlp": Mlp}


def build_encoder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> Encoder:
    """Return an untrained encoder."""
    return ENCODERS[model.encoder](model, image_size, drop_path)
