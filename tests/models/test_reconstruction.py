from types import SimpleNamespace

import numpy as np
import pytest
import torch

from facemae import config
from facemae.compute.seeding import Noise
from facemae.masking.mask import hide_highest
from facemae.models.base import Encoding, gather_tokens
from facemae.models.mae import Prediction
from facemae.models.patches import patchify
from facemae.models.reconstruction import (
    PIXEL_LOSSES,
    brightness_around,
    errors_of,
    hidden_pixels,
    keep_visible_pixels,
    normalise_patches,
    reconstruct,
)

SIZE, PATCH, BATCH = 32, 8, 4
VALUES = PATCH * PATCH * 3
NOTHING = Encoding(torch.empty(0), torch.empty(0))


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(16), 12)


@pytest.fixture
def whole():
    """What a decoder would say of every patch."""
    return torch.randn(BATCH, 16, VALUES, generator=torch.manual_seed(2))


def of(patches, ids):
    """Return the prediction of the patches `ids` out of one of all patches."""
    return Prediction(gather_tokens(patches, ids), ids, NOTHING)


def errors(prediction, images, kind="mse", normalise=False, pixels=None, patch=PATCH):
    """Return the errors of patches; `pixels` is the mask, if it hides single pixels."""
    mae = SimpleNamespace(
        encoder=SimpleNamespace(patch_size=patch), hides_pixels=lambda mask: mask is not None
    )
    settings = SimpleNamespace(loss=kind, normalise_target=normalise, loss_on="hidden")
    return errors_of(mae, prediction, images, pixels, settings)


def loss(prediction, images, kind="mse", normalise=True):
    return errors(prediction, images, kind, normalise).mean()


# --- the loss ---


@pytest.mark.parametrize("normalise", [False, True])
def test_loss_is_that_of_the_published_implementation(whole, images, mask, normalise):
    # facebookresearch/mae and transformers' ViTMAE: error per patch, then the mean weighted by the mask.
    target = patchify(images, PATCH)
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    error = ((whole - target) ** 2).mean(-1)
    weight = mask.hidden.float()
    expected = (error * weight).sum() / weight.sum()
    found = loss(of(whole, mask.hidden_ids), images, normalise=normalise)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize(("kind", "second", "third"), [("mse", (0 + 0.25 + 1) / 3, 0.25), ("l1", 0.5, 0.5)])
def test_loss_by_hand(kind, second, third):
    images = torch.zeros(1, 3, 2, 2)
    images[0, :, 0, 1] = torch.tensor([0.5, 0.0, -0.5])  # the second of four patches of one pixel
    prediction = Prediction(torch.full((1, 2, 3), 0.5), torch.tensor([[1, 2]]), NOTHING)
    # Second patch: errors 0, 0.5, 1; third: 0.5 three times.
    found = errors(prediction, images, kind, patch=1)
    assert found.tolist() == [pytest.approx([second, third])]


def test_the_losses_are_those_that_the_configuration_offers():
    assert set(PIXEL_LOSSES) == set(config.Pretrain.model_fields["loss"].annotation.__args__)


@pytest.mark.parametrize("normalise", [False, True])
def test_only_what_is_predicted_counts(whole, images, mask, normalise):
    prediction = of(whole, mask.hidden_ids)
    before = loss(prediction, images, normalise=normalise)
    seen = (~mask.hidden).view(BATCH, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    elsewhere = torch.where(seen, -images, images)  # other targets where patches are visible
    assert torch.equal(loss(prediction, elsewhere, normalise=normalise), before)
    assert not torch.equal(loss(prediction, torch.where(seen, images, -images), normalise=normalise), before)
    perfect = of(patchify(images, PATCH), mask.hidden_ids)
    if normalise:
        perfect = of(normalise_patches(patchify(images, PATCH))[0], mask.hidden_ids)
    assert float(loss(perfect, images, normalise=normalise)) < 1e-10


@pytest.mark.parametrize("kind", PIXEL_LOSSES)
def test_loss_in_half_precision_is_computed_in_full(whole, images, mask, kind):
    low = of(whole.bfloat16(), mask.hidden_ids)
    expected = loss(of(whole.bfloat16().float(), mask.hidden_ids), images, kind)
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(low, images, kind)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_of_a_mask_over_pixels_only_hidden_pixels_count(whole, images):
    mask = hide_highest(Noise(range(BATCH), "pixels").uniform(SIZE * SIZE), 700)
    ids = torch.arange(16).expand(BATCH, -1)
    hidden = hidden_pixels(mask, ids, PATCH)
    found = errors(of(whole, ids), images, pixels=mask)
    assert found.shape == (BATCH, 16)
    image = mask.hidden.view(BATCH, 1, SIZE, SIZE).expand(-1, 3, -1, -1)
    error = (patchify(images, PATCH) - whole).square()
    expected = error[patchify(image, PATCH)].mean()  # the plain mean over every hidden pixel of the batch
    assert float(found.mean()) == pytest.approx(float(expected), rel=1e-5)
    other = Prediction(torch.where(hidden, whole, whole + 9), ids, NOTHING)
    assert torch.equal(errors(other, images, pixels=mask), found)


def test_which_pixels_a_mask_hides(images):
    mask = hide_highest(Noise(range(BATCH), "pixels").uniform(SIZE * SIZE), 100)
    ids = torch.tensor([[5, 0]] * BATCH)
    hidden = hidden_pixels(mask, ids, PATCH)
    picture = mask.hidden.view(BATCH, SIZE, SIZE)
    for image in range(BATCH):
        expected = picture[image, 8:16, 8:16].reshape(-1, 1).expand(-1, 3).reshape(-1)
        assert torch.equal(hidden[image, 0], expected)
        assert torch.equal(hidden[image, 1], picture[image, :8, :8].reshape(-1, 1).expand(-1, 3).reshape(-1))


# --- normalisation ---


def test_normalised_patches_agree_with_numpy(images):
    patches = patchify(images, PATCH)
    normalised, mean, deviation = normalise_patches(patches)
    values = patches.numpy().astype(np.float64)
    expected = (values - values.mean(-1, keepdims=True)) / values.std(-1, ddof=1, keepdims=True)
    np.testing.assert_allclose(normalised, expected, atol=1e-4)
    np.testing.assert_allclose(mean, values.mean(-1, keepdims=True), atol=1e-6)
    torch.testing.assert_close(normalised * deviation + mean, patches)


def test_a_patch_of_one_colour_is_all_zero_and_finite():
    normalised, mean, _ = normalise_patches(torch.full((1, 2, 12), 0.25))
    assert torch.equal(normalised, torch.zeros(1, 2, 12))
    assert torch.equal(mean, torch.full((1, 2, 1), 0.25))


def test_errors_are_those_of_the_patches_that_were_asked_for(images):
    ids = torch.tensor([[3, 9], [0, 1], [15, 2], [7, 7]])
    for normalise in (False, True):
        every = patchify(images, PATCH)
        every = normalise_patches(every)[0] if normalise else every
        assert not errors(of(every, ids), images, normalise=normalise).any()


# --- the picture ---


@pytest.mark.parametrize("normalised", [False, True])
def test_a_reconstruction_keeps_what_was_not_predicted_exactly(whole, images, mask, normalised):
    picture = reconstruct(of(whole, mask.hidden_ids), images, PATCH, normalised=normalised)
    hidden = mask.hidden[:, :, None].expand_as(patchify(images, PATCH))
    before, after = patchify(images, PATCH), patchify(picture, PATCH)
    assert torch.equal(after[~hidden], before[~hidden])
    assert not torch.isclose(after[hidden], before[hidden], atol=1e-3).all()


def test_what_overshoots_has_a_gradient_all_the_same(whole, images, mask):
    """A loss on the picture has to pull it back."""
    far = (5 * whole).requires_grad_()
    reconstruct(of(far, mask.hidden_ids), images, PATCH, normalised=False).square().sum().backward()
    hidden = mask.hidden[:, :, None].expand_as(far)
    assert far.grad[hidden].all()
    assert not far.grad[~hidden].any()


def test_a_perfect_prediction_is_the_image(images, mask):
    target = patchify(images, PATCH)
    plain = reconstruct(of(target, mask.hidden_ids), images, PATCH, normalised=False)
    torch.testing.assert_close(plain, images, rtol=0, atol=1e-6)
    restored = reconstruct(of(normalise_patches(target)[0], mask.hidden_ids), images, PATCH, normalised=True)
    torch.testing.assert_close(restored, images, rtol=0, atol=1e-5)


def test_a_prediction_is_pasted_where_it_belongs(images, mask):
    picture = reconstruct(
        of(torch.zeros(BATCH, 16, VALUES), mask.hidden_ids), images, PATCH, normalised=False
    )
    covered = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    assert torch.equal(picture, torch.where(covered, torch.zeros_like(images), images))


def test_visible_pixels_are_put_back(images):
    mask = hide_highest(Noise(range(BATCH), "pixels").uniform(SIZE * SIZE), 700)
    shown = keep_visible_pixels(torch.zeros_like(images), images, mask)
    hidden = mask.hidden.view(BATCH, 1, SIZE, SIZE)
    assert torch.equal(shown, torch.where(hidden, torch.zeros_like(images), images))


# --- the picture where the original is not known ---


def test_brightness_around_by_hand():
    patches = torch.tensor([9.0, 1.0, 2.0, 4.0])[:, None] + torch.tensor([[-3.0, 0.0, 3.0]])
    patches[3] = torch.tensor([3.0, 4.0, 5.0])  # values 1 apart, where the others are 3 apart
    mask = hide_highest(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), 1)
    mean, deviation = brightness_around(patches[None], mask)
    # The hidden patch is 1, 1 and the root of 2 away, so that the third counts a quarter of the others.
    assert mean[0, :, 0].tolist() == pytest.approx([(1 + 2 + 4 / 4) / 2.25, 1, 2, 4], rel=1e-5)
    assert deviation[0, :, 0].tolist() == pytest.approx([(3 + 3 + 1 / 4) / 2.25, 3, 3, 1], rel=1e-5)


def test_brightness_around_lies_between_that_of_the_visible_patches(images, mask):
    mean, deviation = brightness_around(patchify(images, PATCH), mask)
    for found in (mean, deviation):
        seen = found.gather(1, mask.visible_ids[:, :, None])
        assert (found >= seen.amin(dim=1, keepdim=True) - 1e-6).all()
        assert (found <= seen.amax(dim=1, keepdim=True) + 1e-6).all()


@pytest.mark.parametrize("normalised", [False, True])
def test_filling_in_does_not_look_at_what_is_hidden(whole, images, mask, normalised):
    hidden = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    prediction = of(whole, mask.hidden_ids)
    found, other = (
        reconstruct(prediction, shown, PATCH, normalised=normalised, around=mask)
        for shown in (images, torch.where(hidden, -images, images))
    )
    assert torch.equal(found, other)
    assert torch.equal(found[~hidden.expand_as(found)], images[~hidden.expand_as(images)])
    borrowed = reconstruct(prediction, images, PATCH, normalised=normalised)
    assert torch.equal(found, borrowed) == (not normalised)


def test_filling_in_gives_a_prediction_the_brightness_and_contrast_around_it(images, mask):
    flat = of(torch.zeros(BATCH, 16, VALUES), mask.hidden_ids)
    steep = of(torch.ones(BATCH, 16, VALUES), mask.hidden_ids)
    mean, deviation = brightness_around(patchify(images, PATCH), mask)
    for prediction, expected in ((flat, mean), (steep, mean + deviation)):
        found = patchify(reconstruct(prediction, images, PATCH, normalised=True, around=mask), PATCH)
        torch.testing.assert_close(found[mask.hidden], expected[mask.hidden].expand(-1, VALUES))
