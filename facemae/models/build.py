"""Every network by name, untrained."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from facemae import config
from facemae.models.base import Encoder
from facemae.models.cnn import Cnn
from facemae.models.decoders import Cross, PerToken, Transformer
from facemae.models.deconv import Deconv
from facemae.models.embedder import Embedder
from facemae.models.mae import MaskedAutoencoder
from facemae.models.mlp import Mlp, MlpImage
from facemae.models.vit import Vit

# (model, image size, drop path) -> an untrained encoder
ENCODERS: dict[str, Callable[[config.Model, int, float], Encoder]] = {"vit": Vit, "cnn": Cnn, "mlp": Mlp}


def build_encoder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> Encoder:
    """Return an untrained encoder."""
    return ENCODERS[model.encoder](model, image_size, drop_path)


# (encoder, pretrain) -> an untrained decoder; called with (encoding, mask or None, ids) -> pixels (B, Q, P)
DECODERS: dict[str, Callable[[Encoder, config.Pretrain], nn.Module]] = {
    "transformer": Transformer,
    "cross": Cross,
    "deconv": Deconv,
    "mlp": PerToken,
}


def build_decoder(encoder: Encoder, pretrain: config.Pretrain) -> nn.Module:
    """Return an untrained decoder for an encoder; one without tokens has a decoder of its own."""
    kind = MlpImage if isinstance(encoder, Mlp) else DECODERS[pretrain.decoder]
    return kind(encoder, pretrain)


def build_mae(model: config.Model, pretrain: config.Pretrain, image_size: int) -> MaskedAutoencoder:
    """Return an untrained masked autoencoder."""
    encoder = build_encoder(model, image_size)
    return MaskedAutoencoder(encoder, build_decoder(encoder, pretrain))


def build_embedder(model: config.Model, image_size: int, *, drop_path: float = 0.0) -> Embedder:
    """Return an untrained face embedder."""
    return Embedder(build_encoder(model, image_size, drop_path=drop_path), model.embedding, model.head)
