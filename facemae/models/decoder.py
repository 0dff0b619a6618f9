"""The decoders by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from facemae import config
from facemae.models.base import Encoder
from facemae.models.decoders import Cross, PerToken, Transformer
from facemae.models.deconv import Deconv
from facemae.models.mlp import Mlp, MlpImage


def fully_connected(encoder: Encoder, pretrain: config.Pretrain) -> nn.Module:
    """Return the decoder of layers on each token, or on the one vector of an encoder without tokens."""
    return MlpImage(encoder, pretrain) if isinstance(encoder, Mlp) else PerToken(encoder, pretrain)


# (encoder, pretrain) -> an untrained decoder; called with (encoding, mask or None, ids) -> pixels (B, Q, P)
DECODERS: dict[str, Callable[[Encoder, config.Pretrain], nn.Module]] = {
    "transformer": Transformer,
    "cross": Cross,
    "deconv": Deconv,
    "mlp": fully_connected,
}


def build_decoder(encoder: Encoder, pretrain: config.Pretrain) -> nn.Module:
    """Return an untrained decoder for an encoder."""
    return DECODERS[pretrain.decoder](encoder, pretrain)
