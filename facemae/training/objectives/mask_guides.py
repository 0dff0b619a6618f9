"""What leads a dynamic masking strategy: it learns beside the autoencoder which patches matter.

A guide never trains the autoencoder. What it trains itself gets its gradient from `Guide.loss`; copies of the
autoencoder's weights are running means (`pretrain.teacher_decay`) and get none.

Shapes: B batch, N patches, V visible, Q predicted, K prefix (class) tokens, D encoder width, E decoder width,
P pixel values per patch, H side of the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae import config
from facemae.compute.distributed import World
from facemae.masking.mask import PatchMask
from facemae.models.base import Encoder, Encoding
from facemae.models.decoders import Transformer
from facemae.models.mae import MaskedAutoencoder, Prediction
from facemae.models.vit import Vit
from facemae.training.optimizer import averaged

TINY = torch.finfo(torch.float32).tiny


class Guide(nn.Module):
    """The form of every guide; `GUIDES` lists them. Their state is part of a training's checkpoint."""

    def signal(self, images: Tensor) -> Tensor:
        """Return what the guide says of each patch of images (B, 3, H, H): (B, N), float32, no gradient.

        It follows from the weights and each image alone.
        """
        raise NotImplementedError

    def loss(self, images: Tensor, mask: PatchMask, prediction: Prediction, errors: Tensor) -> Tensor | None:
        """Return the guide's own loss, a float32 scalar without a gradient for the autoencoder, or None.

        `errors` (B, Q) are those of each predicted patch, without a gradient.
        """
        return None

    def observe(self, ids: Tensor, errors: Tensor) -> None:
        """Remember the errors (B, Q) of the patches `ids` (B, Q) until the next `update`."""

    def update(self, mae: MaskedAutoencoder, world: World) -> None:
        """Follow the autoencoder after a step of the optimiser, alike in all processes."""

    def train(self, mode: bool = True) -> Self:
        """Train, or no longer; averaged copies are only looked at, and never normalise by a batch."""
        super().train(mode)
        for part in self.children():
            if isinstance(part, AveragedModel):
                part.eval()
        return self


class Attention(Guide):
    """The attention that each patch gets in the last block of a teacher, the averaged encoder.

    Kakogeorgiou et al., What to Hide from Your Students: Attention-Guided Masked Image Modeling, ECCV 2022.
    As there, the teacher sees the whole image, and the heads are averaged.
    """

    def __init__(self, mae: MaskedAutoencoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        self.teacher = averaged(mae.encoder, pretrain.teacher_decay)

    @torch.no_grad()
    def signal(self, images: Tensor) -> Tensor:
        """Return the share of the attention that each patch gets, (B, N)."""
        teacher = self.teacher.module
        assert isinstance(teacher, Vit), "config refuses other encoders"
        *blocks, last = teacher.trunk.blocks
        tokens = teacher.embed(images)
        for block in blocks:
            tokens = block(tokens)
        return attention_received(last, tokens, teacher.prefix_tokens)

    def update(self, mae: MaskedAutoencoder, world: World) -> None:
        """Move the teacher towards the encoder."""
        self.teacher.update_parameters(mae.encoder)


class PredictedLoss(Guide):
    """A second decoder that predicts how hard each patch is: Wang et al., Hard Patches Mining, CVPR 2023.

    It learns from the visible patches to rank the predicted ones by their error; the averaged encoder and
    predictor then rank all patches of the whole image. As a guide trains nothing but itself, the ranking
    loss does not reach the encoder, which it does in the paper.
    """

    def __init__(self, mae: MaskedAutoencoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        self.predictor = Transformer(mae.encoder, pretrain)
        self.predictor.head.pixels = nn.Linear(pretrain.decoder_width, 1, bias=False)  # an order has no level
        self.teacher = averaged(self._student(mae), pretrain.teacher_decay)

    @torch.no_grad()
    def signal(self, images: Tensor) -> Tensor:
        """Return the predicted loss of each patch, (B, N); only the order has a meaning."""
        encoder, predictor = cast(nn.ModuleList, self.teacher.module)
        patches = cast(Encoder, encoder).side ** 2
        ids = torch.arange(patches, device=images.device).expand(len(images), -1)
        return _per_patch(predictor(encoder(images), None, ids))

    def loss(self, images: Tensor, mask: PatchMask, prediction: Prediction, errors: Tensor) -> Tensor:
        """Return the ranking loss of the predictor."""
        seen = Encoding(prediction.encoding.prefix.detach(), prediction.encoding.tokens.detach())
        return ranking_loss(_per_patch(self.predictor(seen, mask, prediction.ids)), errors)

    def update(self, mae: MaskedAutoencoder, world: World) -> None:
        """Move the averaged encoder and predictor towards theirs."""
        self.teacher.update_parameters(self._student(mae))

    def _student(self, mae: MaskedAutoencoder) -> nn.ModuleList:
        return nn.ModuleList([mae.encoder, self.predictor])


class PositionLoss(Guide):
    """The running mean of the reconstruction error at each position of the image, the same for all images.

    It takes no network: on aligned faces a position is a part of the face. Sums and counts decay alike, so
    that every error weighs `teacher_decay` to the power of its age in steps, and a position that is
    predicted seldom is no less exact for it. Before anything was observed all positions are 0.
    """

    errors: Tensor
    counts: Tensor
    new_errors: Tensor
    new_counts: Tensor

    def __init__(self, mae: MaskedAutoencoder, pretrain: config.Pretrain) -> None:
        super().__init__()
        self.decay = pretrain.teacher_decay
        for name in ("errors", "counts", "new_errors", "new_counts"):
            self.register_buffer(name, torch.zeros(mae.encoder.side**2))

    def signal(self, images: Tensor) -> Tensor:
        """Return the mean error at each position, (B, N)."""
        return (self.errors / self.counts.clamp(min=TINY)).expand(len(images), -1)

    @torch.no_grad()
    def observe(self, ids: Tensor, errors: Tensor) -> None:
        """Add errors (B, Q) at the positions `ids` (B, Q) to those of this step."""
        errors = errors.flatten().float()
        self.new_errors.index_add_(0, ids.flatten(), errors)
        self.new_counts.index_add_(0, ids.flatten(), torch.ones_like(errors))

    def update(self, mae: MaskedAutoencoder, world: World) -> None:
        """Let older errors count less, and add those of this step in all processes."""
        world.average([self.new_errors, self.new_counts])
        for mean, new in ((self.errors, self.new_errors), (self.counts, self.new_counts)):
            mean.mul_(self.decay).add_(new)
            new.zero_()


def attention_received(block: Any, tokens: Tensor, prefix: int) -> Tensor:
    """Return the attention that each patch gets in a block of timm's, mean over heads, (B, N) in float32.

    `tokens` (B, K + N, D) enter the block. With a class token (`prefix` K) its attention is taken, without
    one the mean of all patches'.
    """
    layer = block.attn
    batch, count, _ = tokens.shape
    projected = layer.qkv(block.norm1(tokens)).view(batch, count, 3, layer.num_heads, -1)
    query, key, _ = projected.permute(2, 0, 3, 1, 4)  # (B, heads, K + N, D / heads) each
    query, key = layer.q_norm(query), layer.k_norm(key)
    asking = query[:, :, :prefix] if prefix else query
    weights: Tensor = (asking * layer.scale @ key.transpose(2, 3)).float().softmax(dim=-1)
    return weights.mean(dim=(1, 2))[:, prefix:]


def ranking_loss(predicted: Tensor, errors: Tensor) -> Tensor:
    """Return how badly predictions (B, Q) rank errors (B, Q): Wang et al., CVPR 2023.

    The mean over the pairs of an image of the binary cross-entropy of sigmoid(p_i - p_j) against which of
    the two errors is greater; pairs of equal errors count as 0.
    """
    count = errors.shape[1]
    harder = errors[:, :, None] > errors[:, None, :]
    costs = F.softplus(predicted[:, None, :] - predicted[:, :, None])  # -log sigmoid(p_i - p_j)
    pairs = len(errors) * max(1, count * (count - 1) // 2)
    return (costs * harder).sum() / pairs


def _per_patch(values: Tensor) -> Tensor:
    return values.squeeze(-1).float()


GUIDES: dict[str, Callable[[MaskedAutoencoder, config.Pretrain], Guide]] = {
    "attention": Attention,
    "predicted_loss": PredictedLoss,
    "position_loss": PositionLoss,
}
"""Guides by the key that a strategy names (config/masks.py)."""
