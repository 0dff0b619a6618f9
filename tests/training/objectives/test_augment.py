import math

import pytest
import torch
from torchvision.transforms.v2 import functional as peer

from facemae.compute.seeding import Noise
from facemae.masking.regions import Crops
from facemae.models.patches import to_input
from facemae.training.objectives import augment
from facemae.training.objectives.augment import apply_crops, random_crops, random_flip, random_view

SIDE = 32
STILL = {"shift": 0.0, "scale_jitter": 0.0, "rotation": 0.0, "brightness": 0.0}
PARTS = [(0, 1), (5, 6), (3, 20), (16, 32), (1, 40), (39, 40)]  # of a batch of 40


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
    monkeypatch.setattr("facemae.training.objectives.augment.random_flip", lambda images, noise: images)


def noise(count, *key):
    return Noise(range(count), "test", *key)


def draw_faces(count, side=SIDE):
    return torch.randint(
        256, (count, side, side, 3), dtype=torch.uint8, generator=torch.manual_seed(count + side)
    )


def crops_of(boxes, flipped=False):
    boxes = torch.tensor(boxes, dtype=torch.float32)
    return Crops(boxes, torch.full((len(boxes),), flipped))


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


# --- crops ---


@pytest.mark.parametrize("least", [0.1, 0.5, 0.9])
def test_crops_take_any_share_of_the_area_at_any_place(least):
    boxes = random_crops(noise(20_000), least).boxes.double()
    left, top, right, bottom = boxes.unbind(1)
    assert boxes.min() >= 0
    assert boxes.max() <= 1
    width, height = right - left, bottom - top
    area = width * height
    assert area.min() >= least - 1e-6
    deciles = torch.quantile(area, torch.linspace(0, 1, 11, dtype=torch.float64))
    assert torch.allclose(deciles, torch.linspace(least, 1, 11, dtype=torch.float64), atol=0.02)
    ratio = (width / height).log()
    assert ratio.abs().max() <= math.log(4 / 3) + 1e-5
    assert ratio.min() < -0.8 * min(math.log(4 / 3), -math.log(least))
    assert ratio.max() > 0.8 * min(math.log(4 / 3), -math.log(least))
    assert abs(ratio.mean()) < 0.01
    for start, extent in ((left, width), (top, height)):
        place = (start / (1 - extent))[extent < 0.99]
        assert abs(place.mean() - 0.5) < 0.02
        assert abs(place.std() - 12**-0.5) < 0.02


def test_half_of_the_crops_are_mirrored_unless_none_shall_be():
    crops = random_crops(noise(2000), 0.5)
    still = random_crops(noise(2000), 0.5, flip=False)
    assert 900 < crops.flipped.sum() < 1100
    assert not still.flipped.any()
    assert torch.equal(crops.boxes, still.boxes)  # nothing else changes


def test_no_crop_is_the_whole_face_and_comes_back_exactly():
    faces = draw_faces(20)
    crops = random_crops(noise(20), 1.0)
    assert torch.equal(crops.boxes, torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(20, 4))
    flipped = crops.flipped[:, None, None, None]
    expected = to_input(torch.where(flipped, faces.flip(2), faces))
    assert 0 < flipped.sum() < 20
    assert torch.equal(apply_crops(faces, crops), expected)


@pytest.mark.parametrize("side", [32, 33, 112])
def test_a_flipped_crop_is_the_exact_mirror_of_the_crop(side):
    faces, crops = draw_faces(20, side), random_crops(noise(20), 0.2)
    plain, mirrored = (
        apply_crops(faces, Crops(crops.boxes, torch.full((20,), flipped))) for flipped in (False, True)
    )
    assert torch.equal(mirrored, plain.flip(-1))
    whole = crops_of([[0.0, 0.0, 1.0, 1.0]] * 20, flipped=True)
    assert torch.equal(apply_crops(faces, whole), to_input(faces.flip(2)))


def test_crops_are_those_of_torchvision():
    """Within one of 255 grey levels: half of one for each axis, where places are rounded to 1/256 pixel."""
    faces = draw_faces(60, 48)
    random = torch.randint(0, 48, (60, 4), generator=torch.manual_seed(0))
    pixels = torch.stack(
        [random[:, :2].amin(1), random[:, 2:].amin(1), random[:, :2].amax(1) + 1, random[:, 2:].amax(1) + 1],
        1,
    )
    cropped = apply_crops(faces, Crops(pixels / 48, torch.zeros(60, dtype=torch.bool)))
    for face, (left, top, right, bottom), ours in zip(faces, pixels.tolist(), cropped, strict=True):
        theirs = peer.resized_crop(
            face.permute(2, 0, 1).double(), top, left, bottom - top, right - left, [48, 48], antialias=True
        )
        torch.testing.assert_close(ours.double(), theirs / 127.5 - 1, rtol=0, atol=1 / 127.5)


def test_crops_are_exact_so_that_the_order_of_summation_cannot_matter():
    faces, crops = draw_faces(30, 40), random_crops(noise(30), 0.1)
    left, top, right, bottom = crops.boxes.unbind(1)

    def matrix(low, high, flipped):
        """Return the same blend as a matrix product over all pixels of an axis, in double precision."""
        taps = augment._taps(low, high, 40, flipped)
        weights = torch.zeros(30, 40, 40, dtype=torch.float64)
        weights.scatter_add_(2, taps.first[..., None], 1 - taps.weight.double()[..., None])
        return weights.scatter_add_(2, taps.second[..., None], taps.weight.double()[..., None])

    down, across = matrix(top, bottom, torch.zeros(30).bool()), matrix(left, right, crops.flipped)
    expected = torch.einsum("bij,bjkc,blk->bilc", down, faces.double(), across)
    assert torch.equal(expected.float().double(), expected)
    assert torch.equal(apply_crops(faces, crops), to_input(expected.float()))


@pytest.mark.parametrize("flipped", [False, True])
@pytest.mark.parametrize("box", [(0.2, 0.1, 0.9, 0.75), (0.0, 0.3, 0.83, 1.0), (0.11, 0.13, 0.97, 0.89)])
def test_a_painted_landmark_lands_where_crops_say(box, flipped):
    left, top, right, bottom = box
    x, y = 0.55, 0.52
    faces = ((blob(x * SIDE, y * SIDE) + 1) * 127.5).to(torch.uint8).permute(0, 2, 3, 1)
    (found,) = centres(apply_crops(faces, crops_of([box], flipped)))
    across, down = (x - left) / (right - left), (y - top) / (bottom - top)
    expected = torch.tensor([1 - across if flipped else across, down]) * SIDE
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1)


@pytest.mark.parametrize("side", [32, 37])
def test_a_crop_has_the_same_bits_whatever_else_is_in_the_batch(side):
    faces = draw_faces(40, side)
    crops = random_crops(noise(40), 0.2)
    images = apply_crops(faces, crops)
    for first, last in PARTS:
        alone = random_crops(Noise(range(first, last), "test"), 0.2)
        assert torch.equal(alone.boxes, crops.boxes[first:last])
        assert torch.equal(alone.flipped, crops.flipped[first:last])
        assert torch.equal(apply_crops(faces[first:last], alone), images[first:last])


@pytest.mark.parametrize("boxes", [[], [[0.5, 0.5, 0.5, 0.5]], [[0.99, 0.0, 1.0, 0.01]]])
def test_no_face_and_tiny_boxes_are_no_trouble(boxes):
    crops = Crops(torch.tensor(boxes).reshape(-1, 4), torch.zeros(len(boxes), dtype=torch.bool))
    images = apply_crops(draw_faces(len(boxes)), crops)
    assert images.shape == (len(boxes), 3, SIDE, SIDE)
    assert images.isfinite().all()


def test_crops_leave_the_faces_as_they_are():
    faces = draw_faces(3)
    before = faces.clone()
    apply_crops(faces, random_crops(noise(3), 0.2)).zero_()
    assert torch.equal(faces, before)


@pytest.mark.gpu
def test_crops_are_the_same_on_a_gpu():
    faces, crops = draw_faces(3000), random_crops(noise(3000), 0.2)
    there = apply_crops(faces.cuda(), Crops(crops.boxes.cuda(), crops.flipped.cuda()))
    torch.testing.assert_close(there.cpu(), apply_crops(faces, crops), rtol=0, atol=1e-6)


# --- views ---


def test_a_flip_is_the_image_or_its_exact_mirror():
    images = torch.rand(400, 3, 4, 4)
    flipped = random_flip(images, noise(400))
    same = (flipped == images).flatten(1).all(dim=1)
    mirrored = (flipped == images.flip(-1)).flatten(1).all(dim=1)
    assert torch.equal(same, ~mirrored)
    assert 150 < mirrored.sum() < 250


def test_settings_of_zero_leave_the_image_as_it_is(settings, images):
    viewed = random_view(images, settings(), noise(16))
    expected = random_flip(images, noise(16))
    torch.testing.assert_close(viewed, expected, rtol=0, atol=1e-5)


def test_the_noise_is_the_only_source_of_randomness(experiment, images):
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first, again, other = (
        random_view(images, experiment.defaults.finetune, noise(16, key)) for key in (0, 0, 1)
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_shift_moves_the_picture_by_its_share_of_the_side(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(16, 16, 300)
    moved = centres(random_view(spots, settings(shift=0.1), noise(300))) - centres(spots)
    assert moved.abs().max() <= 0.1 * SIDE + 0.05
    assert moved.abs().max() > 0.09 * SIDE  # the whole range is used, on both axes and both ways
    assert (moved.amin(0) < -0.08 * SIDE).all()
    assert (moved.amax(0) > 0.08 * SIDE).all()
    assert abs(float(torch.corrcoef(moved.T)[0, 1])) < 0.2


def test_a_known_shift_moves_a_dot_by_whole_pixels(settings, monkeypatch):
    unflipped(monkeypatch)
    draws = torch.tensor([[0.0, 0.0, 0.5, -1.0]])  # angle, scale, x and y
    monkeypatch.setattr("facemae.training.objectives.augment._signed", lambda noise, count: draws[:, :count])
    dot = torch.full((1, 3, SIDE, SIDE), -1.0)
    dot[:, :, 10, 20] = 1.0
    moved = random_view(dot, settings(shift=0.25), noise(1))
    # The sampling place moves by +4 and -8 pixels, so the picture moves the other way.
    assert (moved[0, 0] > 0).nonzero().tolist() == [[10 + 8, 20 - 4]]
    assert moved[0, 0, 18, 16] == pytest.approx(1.0, abs=1e-4)


def test_a_rotation_turns_about_the_centre_by_at_most_its_angle(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(24, 16, 300)
    moved = centres(random_view(spots, settings(rotation=20.0), noise(300))) - SIDE / 2
    radius = moved.norm(dim=1)
    angle = torch.rad2deg(torch.atan2(moved[:, 1], moved[:, 0]))
    torch.testing.assert_close(radius, torch.full((300,), 8.0), rtol=0, atol=0.15)
    assert angle.abs().max() <= 20.5
    assert angle.min() < -18
    assert angle.max() > 18


def test_scaling_stretches_about_the_centre(settings, monkeypatch):
    unflipped(monkeypatch)
    spots = blob(22, 16, 300)
    moved = centres(random_view(spots, settings(scale_jitter=0.2), noise(300))) - SIDE / 2
    assert moved[:, 1].abs().max() < 0.05
    assert moved[:, 0].min() == pytest.approx(6 / 1.2, abs=0.15)
    assert moved[:, 0].max() == pytest.approx(6 / 0.8, abs=0.15)


def test_light_changes_brightness_and_contrast_and_nothing_else(settings, monkeypatch):
    unflipped(monkeypatch)
    images = torch.rand(50, 3, SIDE, SIDE) - 0.5  # far from the ends, so nothing is clipped
    lit = random_view(images, settings(brightness=0.2), noise(50))
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
    viewed = random_view(images, wild, noise(16))
    assert viewed.shape == images.shape
    assert viewed.abs().max() <= 1
    assert viewed.isfinite().all()


def test_outside_the_picture_its_border_continues(settings, monkeypatch):
    unflipped(monkeypatch)
    white = torch.ones(20, 3, SIDE, SIDE)
    viewed = random_view(white, settings(shift=0.25, rotation=45.0, scale_jitter=0.5), noise(20))
    torch.testing.assert_close(viewed, white)


def test_every_image_is_changed_in_its_own_way(experiment):
    same = torch.rand(1, 3, SIDE, SIDE).expand(8, -1, -1, -1)
    viewed = random_view(same, experiment.defaults.finetune, noise(8))
    assert torch.cdist(viewed.flatten(1), viewed.flatten(1)).fill_diagonal_(math.inf).min() > 0.1


@pytest.mark.parametrize(("threads", "side"), [(1, 33), (2, 112)])
def test_a_view_has_the_same_bits_whatever_else_is_in_the_batch(experiment, threads, side):
    torch.set_num_threads(threads)  # which divide the work of one large image and of many in other ways
    images = torch.rand(40, 3, side, side) * 2 - 1
    viewed = random_view(images, experiment.defaults.finetune, noise(40))
    for first, last in PARTS:
        alone = random_view(
            images[first:last], experiment.defaults.finetune, Noise(range(first, last), "test")
        )
        assert torch.equal(alone, viewed[first:last])


# --- rectangles and coarse images ---


def holes(images, changed):
    """Return which pixels were changed, (B, H, W)."""
    return (images != changed).any(dim=1)


def test_an_erased_rectangle_has_its_area_and_shape():
    images = torch.rand(3000, 1, 100, 100, generator=torch.manual_seed(0)) * 2 - 1
    hole = holes(images, augment.erase(images, 1.0, noise(3000)))
    heights, widths = hole.any(dim=2).sum(dim=1), hole.any(dim=1).sum(dim=1)
    assert torch.equal(hole.sum(dim=(1, 2)), heights * widths)  # a rectangle, filled whole
    area = (heights * widths) / 100**2
    slack = 0.02  # a pixel on each side
    assert area.min() >= 0.02 - slack / 2
    assert area.max() <= 0.33 + slack
    assert area.mean() == pytest.approx((0.02 + 0.33) / 2, abs=0.01)
    ratio = (heights / widths).log()
    assert ratio.abs().max() <= math.log(3.3) + 0.2
    assert ratio.max() > 0.8 * math.log(3.3)
    assert abs(ratio.mean()) < 0.05
    places = hole.any(dim=2).float().argmax(dim=1) / (100 - heights).clamp(min=1)
    assert abs(places[heights < 95].mean() - 0.5) < 0.03


def test_a_rectangle_is_filled_with_the_images_mean_colour(images):
    erased = augment.erase(images, 1.0, noise(16))
    hole = holes(images, erased)
    for before, after, where in zip(images, erased, hole, strict=True):
        expected = before.mean(dim=(1, 2))
        torch.testing.assert_close(after[:, where], expected[:, None].expand(3, int(where.sum())))
        assert torch.equal(after[:, ~where], before[:, ~where])


def test_so_many_of_the_images_are_changed():
    images = torch.rand(2000, 1, 16, 16, generator=torch.manual_seed(0))
    for change in (augment.erase, augment.low_resolution):
        changed = holes(images, change(images, 0.3, noise(2000))).flatten(1).any(dim=1)
        assert 0.25 < changed.float().mean() < 0.35


def test_a_coarse_image_has_only_so_much_left(images):
    """What is finer than the coarse pixel is gone, what is coarser is kept."""
    checks = ((torch.arange(SIDE)[:, None] + torch.arange(SIDE)) % 2 * 2.0 - 1.0).expand(16, 3, SIDE, SIDE)
    coarse = augment.low_resolution(checks, 1.0, noise(16))
    assert coarse.abs().max() < 0.35  # at a third of 32 pixels the areas are uneven
    plain = torch.full((16, 3, SIDE, SIDE), 0.25)
    torch.testing.assert_close(augment.low_resolution(plain, 1.0, noise(16)), plain)
    expected = {}
    for times in (2, 3, 4):
        small = torch.nn.functional.adaptive_avg_pool2d(images, round(SIDE / times))
        expected[times] = peer.resize(small, [SIDE, SIDE], antialias=False)
    found = augment.low_resolution(images, 1.0, noise(16))
    which = [
        [times for times, each in expected.items() if torch.allclose(each[i], found[i], atol=1e-5)]
        for i in range(16)
    ]
    assert all(len(each) == 1 for each in which)
    assert {each[0] for each in which} == {2, 3, 4}


def test_changes_are_the_same_bits_whatever_else_is_in_the_batch(settings):
    images = torch.rand(40, 3, SIDE, SIDE, generator=torch.manual_seed(3)) * 2 - 1
    changes = settings(erasing=0.5, low_resolution=0.5)
    whole = random_view(images, changes, noise(40))
    for first, last in PARTS:
        alone = random_view(images[first:last], changes, Noise(range(first, last), "test"))
        assert torch.equal(alone, whole[first:last])


def test_without_them_a_view_is_what_it_was(settings, images):
    """The new draws come after the old ones."""
    plain = random_view(images, settings(shift=0.1, brightness=0.2), noise(16))
    erased = random_view(images, settings(shift=0.1, brightness=0.2, erasing=1.0), noise(16))
    same = ~holes(plain, erased)
    assert 0.5 < same.float().mean() < 0.98
