import pytest
import torch
from draws import random_crops
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facemae.compute.seeding import Noise
from facemae.data.alignment.warp import ARCFACE_TEMPLATE
from facemae.masking.regions import (
    REGION_OVERLAP,
    REGIONS,
    TEMPLATE_SIZE,
    Crops,
    quantiles,
    region_map,
    region_maps,
)

PAINTED = 4 * TEMPLATE_SIZE  # side in pixels of the painted layers: every box begins and ends between pixels


def crops_of(boxes, flipped):
    return Crops(torch.tensor(boxes, dtype=torch.float32), torch.tensor(flipped))


@pytest.mark.parametrize("side", range(1, 33))
def test_regions_are_their_own_mirror_image(side):
    labels = region_map(side).view(side, side)
    assert torch.equal(labels, labels.flip(1))


@pytest.mark.parametrize("side", [5, 7, 8, 14, 16, 28])
def test_every_region_is_there(side):
    assert set(region_map(side).tolist()) == set(range(len(REGIONS) + 1))


def test_regions_lie_around_their_landmarks():
    def holds(name, point):
        return any(left < point[0] < right and top < point[1] < bottom
                   for left, top, right, bottom in REGIONS[name])  # fmt: skip

    left_eye, right_eye, nose, *mouth = ARCFACE_TEMPLATE
    assert holds("eyes", left_eye)
    assert holds("eyes", right_eye)
    assert holds("nose", nose)
    assert all(holds("mouth", corner) for corner in mouth)
    for name in REGIONS:  # a landmark is in the region of its name alone
        assert [holds(name, point) for point in (left_eye, right_eye)] == [name == "eyes"] * 2


def test_a_fine_region_map_is_the_boxes_drawn():
    side = TEMPLATE_SIZE // 2
    labels = region_map(side).view(side, side)
    centres = (torch.arange(side) + 0.5) * 2
    for row, y in enumerate(centres.tolist()):
        for column, x in enumerate(centres.tolist()):
            inside = [
                label
                for label, boxes in enumerate(REGIONS.values(), start=1)
                for left, top, right, bottom in boxes
                if left < x < right and top < y < bottom
            ]
            assert int(labels[row, column]) in (inside or [0])


# --- under crops ---


@pytest.mark.parametrize("side", range(1, 33))
def test_a_crop_of_everything_changes_nothing_and_mirrors(side):
    whole = region_maps(side, crops_of([[0, 0, 1, 1]] * 3, [False, True, False]))
    assert whole.shape == (3, side * side)
    assert whole.dtype == torch.int64
    assert (whole == region_map(side)).all()  # the template is its own mirror image


@pytest.fixture(scope="module")
def painted():
    """One layer of pixels per region, 1 inside its boxes: (R, PAINTED, PAINTED)."""
    layers = torch.zeros(len(REGIONS), PAINTED, PAINTED)
    for layer, boxes in zip(layers, REGIONS.values(), strict=True):
        for box in boxes:
            left, top, right, bottom = (int(PAINTED / TEMPLATE_SIZE * edge) for edge in box)
            layer[top:bottom, left:right] = 1
    return layers


TIE = 1e-4  # of a patch; a box in float32 moves an edge of a small crop by a tenth of that


@settings(max_examples=150)
@given(data=st.data(), side=st.sampled_from([4, 7, 8, 14, 16]), flipped=st.booleans())
def test_regions_move_with_the_pixels_of_a_crop(painted, data, side, flipped):
    """Cut and mirror a painted image, and look at what each patch then shows."""
    height, width = (
        side * data.draw(st.integers(4, PAINTED // side), label="pixels of a patch") for _ in "yx"
    )
    top, left = (data.draw(st.integers(0, PAINTED - size), label="start") for size in (height, width))
    cut = painted[:, top : top + height, left : left + width]
    cut = cut.flip(-1) if flipped else cut
    patches = cut.double().reshape(len(REGIONS), side, height // side, side, width // side)
    shares = patches.mean(dim=(2, 4)).flatten(1)
    shares = torch.cat([torch.full_like(shares[:1], REGION_OVERLAP), shares])
    assume(
        ((shares * 1e5) % 1 - 0.5).abs().min() > 1e-6
    )  # where rounding to five decimals could fall either way
    box = [left / PAINTED, top / PAINTED, (left + width) / PAINTED, (top + height) / PAINTED]
    crops = crops_of([box], [flipped])
    exact = region_maps(side, Crops(torch.tensor([box], dtype=torch.float64), crops.flipped))
    assert exact[0].tolist() == shares.round(decimals=5).argmax(dim=0).tolist()
    labels = region_maps(side, crops)
    assert (shares.gather(0, labels)[0] > shares.amax(dim=0) - TIE).all()


def test_each_crop_of_a_batch_is_labelled_for_itself():
    crops = random_crops(32)
    labels = region_maps(14, crops)
    assert len({tuple(row) for row in labels.tolist()}) == 32
    for row in range(0, 32, 5):
        alone = Crops(crops.boxes[row : row + 1], crops.flipped[row : row + 1])
        assert torch.equal(region_maps(14, alone)[0], labels[row])


def test_a_crop_may_show_no_region_or_only_one():
    labels = region_maps(8, crops_of([[0, 0, 0.2, 0.2], [0.45, 0.55, 0.55, 0.7]], [False, True]))
    assert (labels[0] == 0).all()
    assert (labels[1] == 1 + list(REGIONS).index("nose")).all()


# --- quantiles ---


@settings(max_examples=60)
@given(groups=st.integers(1, 6), patches=st.integers(1, 40), seed=st.integers(0, 99), height=st.floats(0, 1))
def test_quantiles_spread_every_group_evenly(groups, patches, seed, height):
    batch = 5
    labels = Noise(range(batch), seed, "labels").integers(groups, patches)
    values = quantiles(labels, groups, Noise(range(batch), seed))
    assert values.min() >= 0
    assert values.max() <= 1
    for row, own in zip(values, labels, strict=True):
        for group in set(own.tolist()):
            members = row[own == group]
            assert (members.sort().values * len(members)).floor().clamp(max=len(members) - 1).tolist() == [
                *range(len(members))
            ]
            assert abs(int((members > height).sum()) - len(members) * (1 - height)) < 1 + 1e-4


def test_the_order_within_a_group_is_drawn():
    firsts = quantiles(torch.zeros(4000, 4, dtype=torch.int64), 1, Noise(range(4000), 0)).argmax(dim=1)
    assert (firsts.bincount(minlength=4) / 4000 - 0.25).abs().max() < 0.03


def test_what_rounding_leaves_falls_to_every_group_alike():
    alone = torch.arange(4).expand(4000, -1)  # each patch a group of its own: only rounding decides
    firsts = quantiles(alone, 4, Noise(range(4000), 0)).argmax(dim=1)
    assert (firsts.bincount(minlength=4) / 4000 - 0.25).abs().max() < 0.03
