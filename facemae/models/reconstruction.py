"""The error of predicted patches, which the MAE loss averages, and the pictures that predictions complete.

Shapes: B batch, N patches, Q predicted, P pixel values per patch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from facemae import config
from facemae.masking.mask import PatchMask
from facemae.models.base import gather_tokens
from facemae.models.mae import MaskedAutoencoder, Prediction
from facemae.models.patches import patchify, unpatchify

EPSILON = 1e-6  # keeps the normalisation of a patch of one colour finite
# Power of the distance by which a visible patch counts less for the brightness of a hidden one. Of 1, 2, 3, 4
# and 6 it came nearest to the truth, or as near, on ORL's training people under random and block masks.
NEARNESS = 4.0

PIXEL_LOSSES: dict[str, Callable[..., Tensor]] = {"mse": F.mse_loss, "l1": F.l1_loss}


def errors_of(
    mae: MaskedAutoencoder, prediction: Prediction, images: Tensor, mask: PatchMask, settings: config.Pretrain
) -> Tensor:
    """Return the mean error of each predicted patch, (B, Q) in float32; the loss is their mean.

    With `normalise_target` a patch's pixels are predicted at zero mean and unit variance: MAE, section 4.
    Of a mask over pixels a patch weighs as much as it has hidden pixels, if the loss is on these alone.
    """
    size = mae.encoder.patch_size
    target = gather_tokens(patchify(images, size), prediction.ids)
    if settings.normalise_target:
        target = normalise_patches(target)[0]
    errors = PIXEL_LOSSES[settings.loss](prediction.patches.float(), target, reduction="none")
    if settings.loss_on == "all" or not mae.hides_pixels(mask):
        return errors.mean(dim=-1)
    hidden = hidden_pixels(mask, prediction.ids, size)
    return (errors * hidden).mean(dim=-1) / hidden.float().mean()


def hidden_pixels(mask: PatchMask, ids: Tensor, patch_size: int) -> Tensor:
    """Return which pixels of the patches `ids` (B, Q) a mask over pixels hides, (B, Q, P) bool."""
    size = round(mask.hidden.shape[1] ** 0.5)
    image = mask.hidden.view(-1, 1, size, size).expand(-1, 3, -1, -1)
    return gather_tokens(patchify(image, patch_size), ids)


def normalise_patches(patches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return patches (B, Q, P) at zero mean and unit variance, their means and deviations (B, Q, 1)."""
    mean = patches.mean(dim=-1, keepdim=True)
    centred = patches - mean
    # Tensor.var() computes the same, several times more slowly on a CPU.
    variance = centred.square().sum(dim=-1, keepdim=True) / (patches.shape[-1] - 1)
    deviation = (variance + EPSILON).sqrt()
    return centred / deviation, mean, deviation


def reconstruct(
    prediction: Prediction,
    images: Tensor,
    patch_size: int,
    *,
    normalised: bool,
    around: PatchMask | None = None,
) -> Tensor:
    """Return images (B, 3, H, H) with the predicted patches in place of their own.

    A prediction of normalised patches has no brightness or contrast of its own, and would look like noise. It
    is given the true patch's, which flatters the picture, so no score is taken on it; or, with the mask as
    `around`, those of the visible patches (`brightness_around`), where the original is not known, as behind
    an occluder. Pixels may leave [-1, 1]; `to_faces` cuts them off.
    """
    patches = patchify(images, patch_size)
    predicted = prediction.patches.float()
    if normalised and around is None:
        _, mean, deviation = normalise_patches(gather_tokens(patches, prediction.ids))
        predicted = predicted * deviation + mean
    elif normalised and around is not None:
        mean, deviation = (gather_tokens(each, prediction.ids) for each in brightness_around(patches, around))
        predicted = predicted * deviation + mean
    ids = prediction.ids[:, :, None].expand_as(predicted)
    return unpatchify(patches.scatter(1, ids, predicted), patch_size)


def keep_visible_pixels(picture: Tensor, images: Tensor, mask: PatchMask) -> Tensor:
    """Return the picture with the pixels that a mask over pixels left visible as they were."""
    size = images.shape[-1]
    return torch.where(mask.hidden.view(-1, 1, size, size), picture, images)


def brightness_around(patches: Tensor, mask: PatchMask) -> tuple[Tensor, Tensor]:
    """Return a mean and a deviation (B, N, 1) for each patch from the visible ones of patches (B, N, P).

    Visible patches weigh by their distance to the power of -`NEARNESS` (Shepard, A two-dimensional
    interpolation function for irregularly-spaced data, 1968); a visible patch has its own values.
    """
    _, mean, deviation = normalise_patches(gather_tokens(patches, mask.visible_ids))
    side = round(patches.shape[1] ** 0.5)
    place = torch.arange(patches.shape[1], device=patches.device)
    grid = torch.stack([place // side, place % side], dim=1).float()
    nearness = torch.cdist(grid, grid).clamp(min=1.0) ** -NEARNESS  # (N, N), finite on the diagonal
    weight = gather_tokens(nearness[None], mask.visible_ids)  # (B, V, N)
    weight = weight.transpose(1, 2) / weight.sum(dim=1)[:, :, None]
    around_mean, around_deviation = weight @ mean, weight @ deviation
    ids = mask.visible_ids[:, :, None]
    return around_mean.scatter(1, ids, mean), around_deviation.scatter(1, ids, deviation)
