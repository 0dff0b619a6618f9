import pytest
import torch

from facemae import config
from facemae.compute.seeding import Noise
from facemae.config import compatibility
from facemae.masking.mask import hide_highest
from facemae.models.base import gather_tokens
from facemae.models.build import build_mae
from facemae.models.patches import patchify, to_input, unpatchify
from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct
from facemae.training.optimizer import adamw

SIZE, PATCH, SIDE, BATCH = 32, 8, 4, 4
ENCODERS = ("vit", "cnn", "mlp")
PAIRS = [(encoder, decoder) for encoder in ENCODERS for decoder in compatibility.DECODERS[encoder]]


@pytest.fixture
def images():
    return torch.rand(BATCH, 3, SIZE, SIZE, generator=torch.manual_seed(1)) * 2 - 1


@pytest.fixture
def mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(SIDE * SIDE), 12)


@pytest.fixture
def pixel_mask():
    return hide_highest(Noise(range(BATCH), "mask").uniform(SIZE * SIZE), 700)


def mae_of(experiment, encoder="vit", decoder="transformer", model=(), **pretrain):
    torch.manual_seed(0)
    settings = experiment.defaults.model.model_copy(update={"encoder": encoder, **dict(model)})
    chosen = experiment.defaults.pretrain.model_copy(update={"decoder": decoder, **pretrain})
    return build_mae(settings, chosen, SIZE)


def turned(images, hidden):
    """Return images with the pixels of some patches (B, N) changed."""
    patches = patchify(images, PATCH)
    return unpatchify(torch.where(hidden[:, :, None], -patches, patches), PATCH)


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_the_patches_asked_for_are_predicted_and_the_hidden_ones_by_default(
    experiment, images, mask, encoder, decoder
):
    mae = mae_of(experiment, encoder, decoder).eval()
    found = mae(images, mask)
    assert found.patches.shape == (BATCH, 12, PATCH * PATCH * 3)
    assert torch.equal(found.ids, mask.hidden_ids)
    few = mae(images, mask, mask.hidden_ids[:, 3:5])
    torch.testing.assert_close(few.patches, found.patches[:, 3:5], rtol=0, atol=1e-5)
    assert few.patches.shape[1] == 2


@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_pixels_of_hidden_patches_never_change_a_prediction(experiment, images, mask, encoder, decoder):
    mae = mae_of(experiment, encoder, decoder).eval()
    with torch.inference_mode():
        before = mae(images, mask).patches
        assert torch.equal(mae(turned(images, mask.hidden), mask).patches, before)
        assert not torch.equal(mae(turned(images, ~mask.hidden), mask).patches, before)


@pytest.mark.parametrize(("encoder", "decoder"), [pair for pair in PAIRS if pair[1] != "cross"])
def test_hidden_pixels_never_change_a_prediction(experiment, images, pixel_mask, encoder, decoder):
    mae = mae_of(experiment, encoder, decoder).eval()
    assert mae.hides_pixels(pixel_mask)
    hidden = pixel_mask.hidden.view(BATCH, 1, SIZE, SIZE)
    with torch.inference_mode():
        found = mae(images, pixel_mask)
        assert found.patches.shape == (BATCH, 16, PATCH * PATCH * 3)
        assert torch.equal(found.ids, torch.arange(16).expand(BATCH, -1))
        assert torch.equal(mae(torch.where(hidden, -images, images), pixel_mask).patches, found.patches)
        assert not torch.equal(mae(torch.where(hidden, images, -images), pixel_mask).patches, found.patches)


def test_every_weight_of_the_encoder_starts_the_same_whatever_the_decoder(experiment):
    first, *others = [mae_of(experiment, decoder=name).encoder for name in compatibility.DECODERS["vit"]]
    for other in others:
        for name, value in first.state_dict().items():
            assert torch.equal(other.state_dict()[name], value), name


def test_images_of_a_batch_do_not_mix(experiment, images, mask):
    mae = mae_of(experiment, model={"class_token": True}).eval()
    together = mae(images, mask).patches
    for image in range(BATCH):
        alone = mae(images[image : image + 1], mask[image : image + 1]).patches
        torch.testing.assert_close(alone[0], together[image], rtol=0, atol=1e-5)


def learn(mae, experiment, images, mask, steps, rate, normalise, ids=None):
    """Train on the same images and masks, and return each step's loss."""
    changes = {"weight_decay": 0.0, "learning_rate": rate, "normalise_target": normalise, "loss_on": "all"}
    settings = experiment.defaults.pretrain.model_copy(update=changes)
    optimizer, losses = adamw(mae, settings), []
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 20, 2.0 * (1 - step / steps))
        prediction = mae(images, mask, ids)
        loss = errors_of(mae, prediction, images, mask, settings).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(mae.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


@pytest.mark.parametrize("decoder", ["transformer", "cross", "deconv", "mlp"])
def test_eight_faces_are_learnt_by_heart(experiment, orl_images, decoder):
    images = to_input(torch.from_numpy(orl_images[::2]))
    mask = hide_highest(Noise(range(8), "mask").uniform(SIDE * SIDE), 8)
    mae = mae_of(experiment, decoder=decoder, model={"width": 64, "heads": 4}, decoder_width=64).train()
    losses = learn(mae, experiment, images, mask, 300, 3e-3, normalise=False)
    with torch.inference_mode():
        prediction = mae.eval()(images, mask)
        target = gather_tokens(patchify(images, PATCH), prediction.ids)
        error = float((prediction.patches - target).square().mean())
        picture = reconstruct(prediction, images, PATCH, normalised=False)
    # 1 would be as good as one grey. What it has not seen before it cannot know so well.
    assert error < 0.04 * float(target.var()), (losses[0], error, float(target.var()))
    assert float((picture - images).square().mean()) < 0.03 * float(images.var())


def test_eight_faces_are_learnt_normalised_and_through_pixel_masks(experiment, orl_images):
    images = to_input(torch.from_numpy(orl_images[::2]))
    mask = hide_highest(Noise(range(8), "mask").uniform(SIZE * SIZE), 700)
    mae = mae_of(experiment, model={"width": 64, "heads": 4}, decoder_width=64).train()
    losses = learn(mae, experiment, images, mask, 250, 3e-3, normalise=True)
    assert losses[-1] < 0.1  # of a variance of 1
    picture = reconstruct(mae.eval()(images, mask), images, PATCH, normalised=True)
    shown = keep_visible_pixels(picture, images, mask)
    hidden = mask.hidden.view(8, 1, SIZE, SIZE).expand_as(images)
    assert torch.equal(shown[~hidden], images[~hidden])
    assert torch.equal(shown[hidden], picture[hidden])


@pytest.mark.slow
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS)
def test_every_pair_learns_eight_faces_by_heart(experiment, orl_images, encoder, decoder):
    images = to_input(torch.from_numpy(orl_images[::2]))
    mask = hide_highest(Noise(range(8), "mask").uniform(SIDE * SIDE), 8)
    mae = mae_of(experiment, encoder, decoder, model={"width": 64, "heads": 4}, decoder_width=64).train()
    losses = learn(mae, experiment, images, mask, 800, 2e-3, normalise=False)
    assert losses[-1] < 0.02 * float(images.var()), losses[::100]


def test_the_configuration_is_what_is_built(experiment):
    mae = mae_of(experiment, decoder="cross", decoder_depth=2)
    assert len(mae.decoder.blocks) == 2
    assert isinstance(experiment.defaults.pretrain, config.Pretrain)
    assert {name.partition(".")[0] for name in mae.state_dict()} == {"encoder", "decoder"}
