import numpy as np
import pytest
import torch

from facemae.masking import PatchMask, make_mask
from facemae.models.encoder import encode
from facemae.models.mae import build_mae, normalise_patches, reconstruct, reconstruction_loss
from facemae.models.patches import patchify, to_input, unpatchify
from facemae.optim import adamw
from facemae.randomness import generator

SIZE, PATCH, BATCH = 32, 8, 4


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return make_mask("random", 0.75, BATCH, SIZE // PATCH, generator("mask"))


@pytest.fixture
def prediction():
    return torch.randn(BATCH, 16, PATCH * PATCH * 3, generator=torch.manual_seed(2))


def mae_of(experiment, **model):
    torch.manual_seed(0)
    settings = experiment.defaults.model.model_copy(update=model)
    return build_mae(settings, experiment.defaults.pretrain, SIZE)


# --- the loss ---


@pytest.mark.parametrize("normalise", [False, True])
def test_loss_is_that_of_the_published_implementation(prediction, images, mask, normalise):
    # facebookresearch/mae and transformers' ViTMAE: error per patch, then the mean weighted by the mask.
    target = patchify(images, PATCH)
    if normalise:
        target = (target - target.mean(-1, keepdim=True)) / (target.var(-1, keepdim=True) + 1e-6) ** 0.5
    error = ((prediction - target) ** 2).mean(-1)
    weight = mask.hidden.float()
    expected = (error * weight).sum() / weight.sum()
    found = reconstruction_loss(prediction, images, mask, normalise=normalise)
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_loss_by_hand():
    images = torch.zeros(1, 3, 2, 2)
    images[0, :, 0, 1] = torch.tensor([0.5, 0.0, -0.5])  # the second of four patches of one pixel
    hidden = torch.tensor([[False, True, True, False]])
    mask = PatchMask(hidden, torch.tensor([[0, 3]]))
    prediction = torch.full((1, 4, 3), 0.5)
    # Second patch: errors 0, 0.5, 1; third: 0.5 three times.
    expected = ((0 + 0.25 + 1) / 3 + 0.25) / 2
    assert float(reconstruction_loss(prediction, images, mask, normalise=False)) == pytest.approx(expected)


@pytest.mark.parametrize("normalise", [False, True])
def test_only_hidden_patches_count(prediction, images, mask, normalise):
    def loss(values):
        return reconstruction_loss(values, images, mask, normalise=normalise)

    elsewhere = torch.where(mask.hidden[:, :, None], prediction, torch.full_like(prediction, 1e6))
    assert torch.equal(loss(elsewhere), loss(prediction))
    one_pixel = prediction.clone()
    row, patch = mask.hidden.nonzero()[5].tolist()
    one_pixel[row, patch, 0] += 1
    assert not torch.equal(loss(one_pixel), loss(prediction))
    target = patchify(images, PATCH)
    assert float(loss(normalise_patches(target)[0] if normalise else target)) < 1e-10


def test_loss_in_half_precision_is_computed_in_full(prediction, images, mask):
    low = prediction.bfloat16()
    found = reconstruction_loss(low, images, mask, normalise=True)
    assert found.dtype == torch.float32
    assert torch.equal(found, reconstruction_loss(low.float(), images, mask, normalise=True))


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


# --- the picture ---


@pytest.mark.parametrize("normalised", [False, True])
def test_a_reconstruction_keeps_what_was_visible_exactly(prediction, images, mask, normalised):
    picture = reconstruct(prediction, images, mask, normalised=normalised)
    hidden = mask.hidden[:, :, None].expand_as(patchify(images, PATCH))
    before, after = patchify(images, PATCH), patchify(picture, PATCH)
    assert torch.equal(after[~hidden], before[~hidden])
    assert not torch.isclose(after[hidden], before[hidden], atol=1e-3).all()
    assert picture.abs().max() <= 1


def test_a_perfect_prediction_is_the_image(images, mask):
    target = patchify(images, PATCH)
    plain = reconstruct(target, images, mask, normalised=False)
    torch.testing.assert_close(plain, images, rtol=0, atol=1e-6)
    restored = reconstruct(normalise_patches(target)[0], images, mask, normalised=True)
    torch.testing.assert_close(restored, images, rtol=0, atol=1e-5)


def test_a_prediction_is_pasted_where_it_belongs(images, mask):
    marked = torch.zeros(BATCH, 16, PATCH * PATCH * 3)
    picture = reconstruct(marked, images, mask, normalised=False)
    covered = mask.hidden.view(BATCH, 1, 4, 4).repeat_interleave(PATCH, 2).repeat_interleave(PATCH, 3)
    assert torch.equal(picture, torch.where(covered, torch.zeros_like(images), images))


# --- the network ---


@pytest.mark.parametrize("class_token", [False, True])
def test_every_weight_learns(experiment, images, mask, class_token):
    mae = mae_of(experiment, class_token=class_token)
    prediction = mae(images, mask)
    assert prediction.shape == (BATCH, 16, PATCH * PATCH * 3)
    reconstruction_loss(prediction, images, mask, normalise=True).backward()
    untouched = [
        name for name, weight in mae.named_parameters() if weight.grad is None or not weight.grad.any()
    ]
    assert untouched == []


def test_the_decoder_sees_visible_tokens_at_their_place_and_mask_tokens_elsewhere(experiment, images, mask):
    mae = mae_of(experiment, class_token=True).eval()
    decoder, seen = mae.decoder, []
    decoder.blocks[0].register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.inference_mode():
        mae(images, mask)
        tokens = decoder.embed(encode(mae.encoder, images, mask.visible_ids)[:, 1:])
    for image in range(BATCH):
        visible = mask.visible_ids[image].tolist()
        for place in range(16):
            token = tokens[image, visible.index(place)] if place in visible else decoder.mask_token[0, 0]
            expected = token + decoder.position[place]
            torch.testing.assert_close(seen[0][image, place], expected, rtol=0, atol=1e-6)


def test_predictions_depend_on_visible_pixels_only(experiment, images, mask):
    mae = mae_of(experiment).eval()
    hidden = mask.hidden[:, :, None]
    changed = unpatchify(torch.where(hidden, -patchify(images, PATCH), patchify(images, PATCH)), PATCH)
    with torch.inference_mode():
        assert torch.equal(mae(changed, mask), mae(images, mask))
        assert not torch.equal(mae(-images, mask), mae(images, mask))


def test_the_fixed_positions_are_not_saved_or_trained(experiment):
    decoder = mae_of(experiment).decoder
    assert "position" not in decoder.state_dict()
    assert "position" not in dict(decoder.named_parameters())


@pytest.mark.parametrize("normalise", [False, True])
def test_eight_faces_are_learnt_by_heart(experiment, orl_images, normalise):
    images = to_input(torch.from_numpy(orl_images[::2]))
    mae = mae_of(experiment, width=64, heads=4).train()
    settings = experiment.defaults.pretrain.model_copy(update={"weight_decay": 0.0, "learning_rate": 5e-3})
    optimizer = adamw(mae, settings)
    mask = make_mask("random", 0.5, len(images), SIZE // PATCH, generator("mask"))
    losses = []
    for _ in range(60):
        loss = reconstruction_loss(mae(images, mask), images, mask, normalise=normalise)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    with torch.inference_mode():
        picture = reconstruct(mae.eval()(images, mask), images, mask, normalised=normalise)
    covered = mask.hidden.view(-1, 1, 4, 4).repeat_interleave(8, 2).repeat_interleave(8, 3).expand_as(images)
    error = (picture - images)[covered].square().mean()
    assert error < 0.6 * images[covered].var()  # closer than one grey, the best guess without learning
