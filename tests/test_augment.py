import math

import pytest
import torch

from facemae.augment import random_flip, random_view
from facemae.models.patches import to_input
from facemae.randomness import generator

SIDE = 32
STILL = {"shift": 0.0, "scale_jitter": 0.0, "rotation": 0.0, "brightness": 0.0}


@pytest.fixture
def settings(experiment):
    def make(**changes):
        return experiment.defaults.finetune.model_copy(update=STILL | changes)

    return make


@pytest.fixture
def images():
    return torch.rand(16, 3, SIDE, SIDE, generator=torch.manual_seed(1)) * 2 - 1


def unflipped(monkeypatch):
    """Leave the mirror out, so that the rest can be seen alone."""
    monkeypatch.setattr("facemae.augment.random_flip", lambda images, generator: images)


def blob(x, y, images=1):
    """A soft bright spot on black, as its centre of mass can be found between pixels."""
    place = torch.arange(SIDE) + 0.5
    spot = torch.exp(-((place[None, :] - x) ** 2 + (place[:, None] - y) ** 2) / 8)
    return (2 * spot - 1).expand(images, 3, SIDE, SIDE)


def centres(images):
    """Return the centre of mass of each image as (B, 2) x and y."""
    weight = (images[:, 0] + 1) / 2
    weight = weight / weight.sum(dim=(1, 2), keepdim=True)
    place = torch.arange(SIDE) + 0.5
    return torch.stack(
        [(weight * place[None, None, :]).sum((1, 2)), (weight * place[None, :, None]).sum((1, 2))], 1
    )


def test_a_flip_is_the_image_or_its_exact_mirror():
    images = torch.rand(400, 3, 4, 4)
    flipped = random_flip(images, generator("flip"))
    same = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(same, ~mirrored)
    assert 150 < mirrored.sum() < 250


def test_faces_flip_as_their_network_inputs_do():
    faces = torch.randint(256, (20, 4, 4, 3), dtype=torch.uint8)
    before, after = (
        to_input(random_flip(faces, generator("flip"), axis=2)),
        random_flip(to_input(faces), generator("flip")),
    )
    assert torch.equal(before, after)
    assert not torch.equal(before, to_input(faces))


def test_settings_of_zero_leave_the_image_as_it_is(settings, images):
    viewed = random_view(images, settings(), generator("view"))
    expected = random_flip(images, generator("view"))
    torch.testing.assert_close(viewed, expected, rtol=0, atol=1e-5)


def test_the_generator_is_the_only_source_of_randomness(experiment, images):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (random_view(images, experiment.defaults.finetune, generator(k)) for k in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_shift_moves_the_picture_by_its_share_of_the_side(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(16, 16, 300)
    moved = centres(random_view(spots, settings(shift=0.1), generator("view"))) - centres(spots)
    assert moved.abs().max() <= 0.1 * SIDE + 0.05
    assert moved.abs().max() > 0.09 * SIDE  # the whole range is used, on both axes and both ways
    assert (moved.amin(0) < -0.08 * SIDE).all()
    assert (moved.amax(0) > 0.08 * SIDE).all()
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.2


def test_a_known_shift_moves_a_dot_by_whole_pixels(settings, monkeypatch):
    unflipped(monkeypatch)
    draws = torch.tensor([0.0, 0.0, 0.5, -1.0])[:, None]  # angle, scale, x and y
    monkeypatch.setattr("facemae.augment._signed", lambda generator, *shape: draws[: shape[0]])
    dot = torch.full((1, 3, SIDE, SIDE), -1.0)
    dot[:, :, 10, 20] = 1.0
    moved = random_view(dot, settings(shift=0.25), generator("view"))
    # The sampling place moves by +4 and -8 pixels, so the picture moves the other way.
    assert (moved[0, 0] > 0).nonzero().tolist() == [[10 + 8, 20 - 4]]
    assert moved[0, 0, 18, 16] == pytest.approx(1.0, abs=1e-4)


def test_a_rotation_turns_about_the_centre_by_at_most_its_angle(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(24, 16, 300)
    moved = centres(random_view(spots, settings(rotation=20.0), generator("view"))) - SIDE / 2
    radius = moved.norm(dim=1)
    angle = torch.rad2deg(torch.atan2(moved[:, 1], moved[:, 0]))
    torch.testing.assert_close(radius, torch.full((300,), 8.0), rtol=0, atol=0.15)
    assert angle.abs().max() <= 20.5
    assert angle.min() < -18
    assert angle.max() > 18


def test_scaling_stretches_about_the_centre(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(22, 16, 300)
    moved = centres(random_view(spots, settings(scale_jitter=0.2), generator("view"))) - SIDE / 2
    assert moved[:, 1].abs().max() < 0.05
    assert moved[:, 0].min() == pytest.approx(6 / 1.2, abs=0.15)
    assert moved[:, 0].max() == pytest.approx(6 / 0.8, abs=0.15)


def test_light_changes_brightness_and_contrast_and_nothing_else(settings, monkeypatch):
    unflipped(monkeypatch)
    images = torch.rand(50, 3, SIDE, SIDE) - 0.5  # far from the ends, so nothing is clipped
    lit = random_view(images, settings(brightness=0.2), generator("view"))
    flat, lit_flat = images.flatten(1), lit.flatten(1)
    contrast = lit_flat.std(1) / flat.std(1)
    shift = lit_flat.mean(1) - flat.mean(1)
    assert contrast.min() > 0.799
    assert contrast.max() < 1.201
    assert shift.abs().max() <= 0.201
    assert contrast.std() > 0.05
    assert shift.std() > 0.05
    mean = flat.mean(1, keepdim=True)
    torch.testing.assert_close(
        lit_flat, (flat - mean) * contrast[:, None] + mean + shift[:, None], rtol=0, atol=1e-4
    )


def test_a_view_stays_in_range_and_keeps_its_shape(experiment, images):
    wild = experiment.defaults.finetune.model_copy(
        update={"shift": 0.25, "scale_jitter": 0.5, "rotation": 45.0, "brightness": 1.0}
    )
    viewed = random_view(images, wild, generator("view"))
    assert viewed.shape == images.shape
    assert viewed.abs().max() <= 1
    assert viewed.isfinite().all()


def test_outside_the_picture_its_border_continues(settings, monkeypatch):
    unflipped(monkeypatch)
    white = torch.ones(20, 3, SIDE, SIDE)
    viewed = random_view(white, settings(shift=0.25, rotation=45.0, scale_jitter=0.5), generator("view"))
    torch.testing.assert_close(viewed, white)


def test_every_image_is_changed_in_its_own_way(experiment):
    same = torch.rand(1, 3, SIDE, SIDE).expand(8, -1, -1, -1)
    viewed = random_view(same, experiment.defaults.finetune, generator("view"))
    assert torch.cdist(viewed.flatten(1), viewed.flatten(1)).fill_diagonal_(math.inf).min() > 0.1
