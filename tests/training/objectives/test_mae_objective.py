import itertools

import pytest
import torch
from trainings import Fed

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import ALONE
from facemae.compute.seeding import Noise
from facemae.config import compatibility
from facemae.core.errors import UsageError
from facemae.masking.mask import hide_highest
from facemae.masking.regions import whole
from facemae.masking.strategies import STRATEGIES
from facemae.models.build import build_mae
from facemae.models.patches import to_input
from facemae.models.reconstruction import errors_of
from facemae.training.objective import LOSS
from facemae.training.objectives.mae import MaskedPretraining, predicted_ids

SIZE, SIDE, BATCH = 32, 4, 4
MASKS = ["random", "region", "pixel", "attention_high", "hard_patches", "loss_ema",
         "ratio_curriculum"]  # fmt: skip
ENCODERS, DECODERS, LOSS_ON = compatibility.DECODERS, compatibility.DECODERS["vit"], ("hidden", "all")
EVERY = list(itertools.product(ENCODERS, DECODERS, MASKS, LOSS_ON))


@pytest.fixture
def faces(orl_images):
    return torch.from_numpy(orl_images)


@pytest.fixture
def make(experiment, faces, compute):
    """Return a function that makes the objective of a run, without a check of its settings."""

    def build(model=(), where=compute, **changes):
        settings = config.merge(experiment.defaults.pretrain.model_dump(), {"teacher_decay": 0.5, **changes})
        settings = config.Pretrain.model_validate(settings)
        torch.manual_seed(0)
        mae = build_mae(experiment.defaults.model.model_copy(update=dict(model)), settings, SIZE)
        objective = MaskedPretraining(mae, settings, where, 0)
        objective.feed = Fed(faces, BATCH)
        return objective

    return build


def possible(experiment, encoder, decoder, mask, loss_on):
    model = experiment.defaults.model.model_copy(update={"encoder": encoder})
    pretrain = experiment.defaults.pretrain.model_copy(
        update={"decoder": decoder, "mask": mask, "loss_on": loss_on}
    )
    return compatibility.problem(model, pretrain, None, SIZE, aligned=True)


def shake(network):
    """Move what starts at zero, which would hide what flows through it."""
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.1 * torch.randn_like(weight))


@pytest.mark.parametrize(("encoder", "decoder"), sorted({each[:2] for each in EVERY}))
def test_the_gradient_reaches_every_weight_of_every_possible_combination(experiment, make, encoder, decoder):
    tried = 0
    for mask, loss_on in itertools.product(MASKS, LOSS_ON):
        if possible(experiment, encoder, decoder, mask, loss_on):
            continue
        tried += 1
        made = make(
            {"encoder": encoder, "class_token": encoder == "vit"}, decoder=decoder, mask=mask, loss_on=loss_on
        )
        shake(made.model)
        if made.guide:
            shake(made.guide)
        losses = made.loss(0, slice(0, BATCH))
        assert losses[LOSS].dtype == torch.float32
        losses[LOSS].backward()
        trained = dict(made.model.named_parameters(prefix="model"))
        if made.guide:
            trained |= {
                name: each for name, each in made.guide.named_parameters(prefix="guide") if each.requires_grad
            }
        without = {name for name, each in trained.items() if each.grad is None or not each.grad.any()}
        # Where no patch is hidden nothing stands in for one.
        spare = {name for name in trained if name.endswith(("mask_token", "hidden")) and mask == "pixel"}
        assert without <= spare, (mask, loss_on)
        assert all(torch.isfinite(each.grad).all() for each in trained.values() if each.grad is not None)
    assert tried or encoder == "mlp"


def test_what_is_refused_is_told_with_what_is_possible(experiment):
    refused = 0
    for encoder, decoder, mask, loss_on in EVERY:
        found = possible(experiment, encoder, decoder, mask, loss_on)
        if found is None:
            continue
        refused += 1
        if decoder not in compatibility.DECODERS[encoder]:
            for name in compatibility.DECODERS[encoder]:
                assert name in found.partition("choose")[2]
        else:
            assert "choose" in found
        others = [
            (d, m, on)
            for d, m, on in itertools.product(DECODERS, MASKS, LOSS_ON)
            if possible(experiment, encoder, d, m, on) is None
        ]  # fmt: skip
        assert others  # there is a way out with every encoder
        assert found.startswith(("pretrain.decoder: ", "pretrain.mask: ", "pretrain.loss_on: "))
    assert 0 < refused < len(EVERY)


def test_what_is_refused_never_gets_to_a_training(small):
    with pytest.raises(UsageError, match=r"^runs\.odd\.pretrain\.decoder: .*; choose mlp\.$"):
        small(runs={"odd": {"model": {"encoder": "mlp"}, "pretrain": {"decoder": "cross"}}})


@pytest.mark.parametrize("mask", STRATEGIES)
def test_every_strategy_trains(make, mask):
    made = make(mask=mask)
    for step in range(3):
        losses = made.loss(step, slice(0, BATCH))
        losses[LOSS].backward()
        made.after_step(step, ALONE)
        assert torch.isfinite(losses[LOSS])


# --- what is predicted ---


@pytest.mark.parametrize(("share", "count"), [(0.25, 4), (0.5, 8), (0.75, 12), (1.0, 12), (0.01, 1)])
def test_exactly_that_share_of_the_patches_is_predicted(make, share, count):
    made = make(predict_ratio=share)
    mask = hide_highest(Noise(range(64), "mask").uniform(16), 12)
    ids = predicted_ids(made.model, mask, made.settings, Noise(range(64), "mask", 1))
    assert ids.shape == (64, count)
    assert mask.hidden.gather(1, ids).all()
    assert (ids.diff(dim=1) > 0).all()  # each once, in order
    if count < 12:
        assert len({tuple(row) for row in ids.tolist()}) > (10 if count > 1 else 5)  # chosen image by image
        assert set(ids.flatten().tolist()) == set(range(16))


def test_an_images_choice_does_not_depend_on_the_others(make):
    made = make(predict_ratio=0.25)
    mask = hide_highest(Noise(range(8), "mask").uniform(16), 12)
    together = predicted_ids(made.model, mask, made.settings, Noise(range(8), "mask", 1))
    alone = predicted_ids(made.model, mask[3:5], made.settings, Noise(range(3, 5), "mask", 1))
    assert torch.equal(alone, together[3:5])


@pytest.mark.parametrize(("mask", "loss_on"), [("random", "all"), ("pixel", "hidden"), ("pixel", "all")])
def test_all_patches_are_predicted_where_that_is_meant(make, mask, loss_on):
    made = make(mask=mask, loss_on=loss_on)
    images = to_input(made.feed.batch(0))
    drawn = made.draw_mask(images, whole(BATCH), Noise(range(BATCH), "mask"), 0.0)
    ids = predicted_ids(made.model, drawn, made.settings, Noise(range(BATCH), "mask"))
    assert torch.equal(ids, torch.arange(16).expand(BATCH, -1))


def test_a_loss_on_all_patches_counts_the_visible_ones_too(make):
    images = to_input(make().feed.batch(0))
    hidden_only, everything = make(loss_on="hidden"), make(loss_on="all")
    mask = hidden_only.draw_mask(images, whole(BATCH), Noise(range(BATCH), "mask"), 0.0)
    ids = everything.model.all_ids(BATCH, images.device)
    prediction = everything.model(images, mask, ids)
    errors = errors_of(everything.model, prediction, images, mask, everything.settings)
    prediction = hidden_only.model(images, mask)
    only = errors_of(hidden_only.model, prediction, images, mask, hidden_only.settings)
    assert errors.shape == (BATCH, 16)
    torch.testing.assert_close(errors.gather(1, mask.hidden_ids), only)
    assert not torch.isclose(errors.mean(), only.mean(), rtol=1e-3)


# --- the loss ---


@pytest.mark.parametrize("loss", ["mse", "l1"])
def test_the_loss_is_float32_in_half_precision_too(make, loss):
    low = make(where=Compute(torch.device("cpu"), torch.bfloat16), loss=loss)
    full = make(loss=loss)
    found, expected = (each.loss(0, slice(0, BATCH))[LOSS] for each in (low, full))
    assert found.dtype == expected.dtype == torch.float32
    assert not torch.equal(found, expected)
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


@pytest.mark.parametrize("mask", ["random", "block", "region", "pixel", "attention_high", "hard_patches"])
def test_a_loss_depends_on_the_step_and_the_seed_alone(make, mask):
    made = make(mask=mask, crop_min=0.5)
    part = slice(0, BATCH)
    first = [float(made.loss(step, part)[LOSS].detach()) for step in (0, 1, 5)]
    torch.manual_seed(77)
    again = [float(made.loss(step, part)[LOSS].detach()) for step in (5, 1, 0)]
    assert again == first[::-1]
    assert len(set(first)) == 3


@pytest.mark.parametrize("mask", ["random", "pixel", "region", "hard_patches"])
def test_a_loss_of_the_batch_is_the_mean_of_its_parts(make, mask):
    made = make(mask=mask, crop_min=0.5)
    batch = float(made.loss(3, slice(0, 4))[LOSS].detach())
    parts = [float(made.loss(3, slice(at, at + 2))[LOSS].detach()) for at in (0, 2)]
    assert sum(parts) / 2 == pytest.approx(batch, rel=1e-5)


def test_a_guides_loss_changes_no_gradient_of_the_autoencoder(make):
    grads = []
    for shaken in (False, True):
        made = make(mask="hard_patches")
        made.settings.mask_parameters["final_led"] = 0.0
        if shaken:
            with torch.no_grad():
                for weight in made.guide.predictor.parameters():
                    weight.add_(0.3 * torch.randn_like(weight))
        losses = made.loss(0, slice(0, BATCH))  # at step 0 nothing is led yet: the same masks
        assert float(losses[LOSS].detach()) == pytest.approx(float(made_loss(made).detach()), rel=1e-5)
        losses[LOSS].backward()
        grads.append([weight.grad.clone() for weight in made.model.parameters()])
    for first, second in zip(*grads, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-7)


def made_loss(made):
    """Return the loss of step 0 without a guide."""
    images, crops = made._images(0, slice(0, BATCH))
    noise = made.noise("mask", 0, slice(0, BATCH))
    mask = made.draw_mask(images, crops, noise, 0.0)
    prediction = made.model(images, mask)
    return errors_of(made.model, prediction, images, mask, made.settings).mean().detach()


def test_a_perceptual_loss_comes_beside_the_pixels(make):
    made = make(perceptual={"weight": 2.0, "network": "ema", "weights": None})
    losses = made.loss(0, slice(0, BATCH))
    assert losses.keys() == {LOSS, "pixel_loss", "perceptual_loss"}
    values = {name: float(value.detach()) for name, value in losses.items()}
    assert values[LOSS] == pytest.approx(values["pixel_loss"] + 2.0 * values["perceptual_loss"])
    assert values["perceptual_loss"] > 0
    losses["perceptual_loss"].backward()
    assert all(weight.grad is not None for weight in made.model.decoder.parameters())
    assert not [weight for weight in made.perceptual.parameters() if weight.requires_grad]


def test_without_crops_a_face_is_whole_or_mirrored(make, faces):
    made = make(crop_min=1.0)
    shown, _ = made._images(0, slice(0, BATCH))
    plain = to_input(made.feed.batch(0))
    for image, face in zip(shown, plain, strict=True):
        assert torch.equal(image, face) or torch.equal(image, face.flip(-1))
    cropped, crops = make(crop_min=0.3)._images(0, slice(0, BATCH))
    assert not any(torch.equal(image, face) for image, face in zip(cropped, plain, strict=True))
    assert crops.boxes.shape == (BATCH, 4)


def test_faces_are_lit_and_grey_as_contrastive_views_are(make, faces):
    plain = make()._images(0, slice(0, BATCH))[0]
    grey = make(grey=1.0)._images(0, slice(0, BATCH))[0]
    assert torch.equal(grey, grey[:, :1].expand_as(grey))
    weights = torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]
    torch.testing.assert_close(grey[:, 0], (plain * weights).sum(dim=1))
    lit = make(brightness=0.4)._images(0, slice(0, BATCH))[0]
    assert not torch.equal(lit, plain)
    assert (lit - plain).abs().max() <= 0.4 * 2 + 0.4 * 2  # brightness, and contrast of a range of 2
    halves = [make(brightness=0.4)._images(0, part)[0] for part in (slice(0, 1), slice(1, BATCH))]
    assert torch.equal(torch.cat(halves), lit)


def test_regions_move_with_the_crop(make):
    made = make(mask="parts_first", mask_ratio=0.25)
    images = to_input(made.feed.batch(0))
    noise = Noise(range(BATCH), "mask")
    upright = made.draw_mask(images, whole(BATCH), noise, 0.0)
    crops = whole(BATCH)
    boxes = torch.tensor([[0.0, 0.5, 1.0, 1.0]]).expand(BATCH, -1)  # the lower half: mouth and cheeks
    lower = made.draw_mask(images, type(crops)(boxes, crops.flipped), Noise(range(BATCH), "mask"), 0.0)
    assert not torch.equal(upright.hidden, lower.hidden)
