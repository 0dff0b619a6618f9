import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facemae import masking
from facemae.data.warp import ARCFACE_TEMPLATE
from facemae.masking import REGIONS, STRATEGIES, hidden_count, make_mask, region_map
from facemae.randomness import generator

IMAGES = 64


def drawn(strategy, ratio=0.75, batch=IMAGES, side=8, seed=0):
    return make_mask(strategy, ratio, batch, side, generator(seed, "test"))


def smallest_side(strategy):
    return 3 if strategy == "region" else 2  # on 2 x 2 patches no region owns one


# --- what every strategy keeps to ---


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=60)
@given(ratio=st.floats(0.01, 0.99), side=st.integers(2, 16), batch=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_image_hides_exactly_its_share(strategy, ratio, side, batch, seed):
    patches = side * side
    assume(1 <= round(ratio * patches) <= patches - 1 and side >= smallest_side(strategy))
    mask = drawn(strategy, ratio, batch, side, seed)
    hidden = hidden_count(patches, ratio)
    assert mask.hidden.shape == (batch, patches)  # patches only: a class token cannot be hidden
    assert mask.hidden.dtype == torch.bool
    assert mask.hidden.sum(dim=1).tolist() == [hidden] * batch
    assert mask.visible_ids.shape == (batch, patches - hidden)
    for row, visible in zip(mask.hidden, mask.visible_ids, strict=True):
        assert visible.tolist() == [place for place in range(patches) if not row[place]]  # ascending too


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_generator_is_the_only_source_of_randomness(strategy):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(strategy)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = drawn(strategy), drawn(strategy, seed=1)
    assert torch.equal(first.hidden, again.hidden)
    assert torch.equal(first.visible_ids, again.visible_ids)
    assert not torch.equal(first.hidden, other.hidden)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_of_a_batch_have_masks_of_their_own(strategy):
    assert len({tuple(row) for row in drawn(strategy, 0.5, side=14).hidden.tolist()}) == IMAGES


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_over_many_images_every_patch_is_hidden_and_visible(strategy):
    often = drawn(strategy, 0.5, batch=500).hidden.float().mean(dim=0)
    assert often.min() > 0.1
    assert often.max() < 0.9


def test_hidden_count():
    assert [hidden_count(64, ratio) for ratio in (0.75, 0.5, 0.01, 0.99)] == [48, 32, 1, 63]
    assert hidden_count(2, 0.5) == 1
    for patches, ratio in ((64, 0.007), (64, 0.993), (1, 0.5), (4, 0.0), (4, 1.0)):
        with pytest.raises(ValueError, match="leaves none hidden or none visible"):
            hidden_count(patches, ratio)


def test_the_highest_scores_are_hidden_and_ties_fall_to_the_first():
    mask = masking.hide_highest(torch.tensor([[0.1, 0.9, 0.5, 0.7], [1.0, 1.0, 1.0, 1.0]]), 2)
    assert mask.hidden.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert mask.visible_ids.tolist() == [[0, 2], [2, 3]]


def test_a_mask_can_be_cut_and_moved():
    mask = drawn("random")
    for chosen in (slice(3, 9), torch.tensor([5, 0, 63])):
        part = mask[chosen].to("cpu")
        assert torch.equal(part.hidden, mask.hidden[chosen])
        assert torch.equal(part.visible_ids, mask.visible_ids[chosen])


# --- random ---


def test_random_hides_every_patch_equally_often_and_pairs_independently():
    images, patches, hidden = 4000, 16, 12
    masks = drawn("random", 0.75, images, 4).hidden.double()
    expected = images * hidden / patches
    # With M of N drawn without putting back, sum((count - E)^2) / (E (1 - M/N)) * (N-1)/N is chi-square, N-1.
    statistic = ((masks.sum(dim=0) - expected) ** 2).sum() / (expected * (1 - hidden / patches))
    statistic *= (patches - 1) / patches
    assert 3.5 < statistic < 44  # all but 0.0001 on either side, at 15 degrees of freedom
    together = (masks.T @ masks / images)[~torch.eye(patches, dtype=torch.bool)]
    assert together.mean() == pytest.approx(hidden * (hidden - 1) / (patches * (patches - 1)), abs=1e-9)
    assert together.std() < 0.02


# --- block ---


def hidden_neighbours(mask, side):
    """Return the mean number of neighbouring pairs of which both are hidden."""
    grid = mask.hidden.view(-1, side, side)
    across, down = grid[:, :, 1:] & grid[:, :, :-1], grid[:, 1:] & grid[:, :-1]
    return float(across.sum(dim=(1, 2)).float().mean() + down.sum(dim=(1, 2)).float().mean())


@pytest.mark.parametrize(("side", "ratio"), [(8, 0.4), (14, 0.4), (14, 0.6), (16, 0.75)])
def test_block_hides_neighbours_random_does_not_and_grid_least(side, ratio):
    block, random, grid = (
        hidden_neighbours(drawn(name, ratio, 300, side), side) for name in ("block", "random", "grid")
    )
    pairs = 2 * side * (side - 1)
    patches = side * side
    hidden = hidden_count(patches, ratio)
    by_chance = pairs * hidden * (hidden - 1) / (patches * (patches - 1))
    assert random == pytest.approx(by_chance, rel=0.05)
    assert block > 1.15 * by_chance
    assert grid < random


@settings(max_examples=40)
@given(side=st.integers(2, 16), ratio=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_blocks_never_cover_more_than_may_be_hidden(side, ratio, seed):
    hidden = round(ratio * side * side)
    scores = masking.block_scores(20, side, hidden, generator(seed))
    covered = (scores >= 1).sum(dim=1)
    assert covered.max() <= hidden
    assert scores.min() >= 0


def test_blocks_cover_nearly_all_that_is_hidden():
    scores = masking.block_scores(200, 14, 98, generator(0))
    assert ((scores >= 1).sum(dim=1) / 98).mean() > 0.9


def test_rectangles_are_rectangles_inside_the_image():
    side = 14
    for rectangle in masking._rectangles(torch.full((200,), 100), side, generator(0)):
        rows, columns = rectangle.any(dim=1), rectangle.any(dim=0)
        assert rectangle.any()
        assert torch.equal(rectangle, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            places = line.nonzero().flatten()
            assert len(places) == places[-1] - places[0] + 1
        height, width = int(rows.sum()), int(columns.sum())
        assert height * width >= 0.5 * 16 / 196 * side * side
        assert max(height, width) <= side


# --- grid ---


def cells(mask, side):
    """Return how many patches are hidden in each 2 x 2 cell, (B, cells)."""
    grid = mask.hidden.view(-1, side // 2, 2, side // 2, 2)
    return grid.sum(dim=(2, 4)).flatten(1)


@pytest.mark.parametrize("side", [2, 4, 8, 14, 16])
def test_grid_keeps_exactly_one_of_each_cell_at_three_quarters(side):
    mask = drawn("grid", 0.75, 200, side)
    assert (cells(mask, side) == 3).all()
    # Which one is kept is drawn: each corner of a cell about equally often.
    kept = (~mask.hidden).view(-1, side // 2, 2, side // 2, 2).sum(dim=(0, 1, 3)).flatten().float()
    share = kept / kept.sum()
    assert (share - 0.25).abs().max() < 4 * math.sqrt(0.25 * 0.75 / float(kept.sum()))


@settings(max_examples=40)
@given(half=st.integers(1, 8), ratio=st.floats(0.05, 0.95), seed=st.integers(0, 99))
def test_grid_spreads_any_share_evenly(half, ratio, seed):
    side = 2 * half
    assume(1 <= round(ratio * side * side) <= side * side - 1)
    counts = cells(drawn("grid", ratio, 5, side, seed), side)
    assert (counts.max(dim=1).values - counts.min(dim=1).values).max() <= 1


# --- region ---


def whole_regions(mask, side):
    """Tell for each image and region whether it is hidden whole, (B, regions present)."""
    labels = region_map(side)
    present = [label for label in range(1, len(REGIONS) + 1) if (labels == label).any()]
    return torch.stack([mask.hidden[:, labels == label].all(dim=1) for label in present], dim=1)


@pytest.mark.parametrize("side", [3, 4, 7, 8, 14, 16, 28])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_region_always_hides_one_region_whole(side, ratio):
    labels = region_map(side)
    largest = max(int((labels == label).sum()) for label in range(1, len(REGIONS) + 1))
    mask = drawn("region", ratio, 200, side)
    if largest <= hidden_count(side * side, ratio):
        assert whole_regions(mask, side).any(dim=1).all()
    assert whole_regions(mask, side).any(dim=0).all()  # and every region is drawn some time


def test_region_hides_regions_far_more_often_than_random():
    for side, ratio in ((8, 0.5), (14, 0.5), (14, 0.75)):
        region, random = (
            whole_regions(drawn(name, ratio, 300, side), side).float().mean() for name in ("region", "random")
        )
        assert region > 0.18  # one of five
        assert random < region / 2


def test_region_hides_the_rest_in_proportion():
    side, ratio = 14, 0.5
    labels, mask = region_map(side), drawn("region", ratio, 400, side)
    whole = whole_regions(mask, side)
    shares = torch.stack(
        [mask.hidden[:, labels == label].float().mean(dim=1) for label in range(1, len(REGIONS) + 1)], dim=1
    )
    rest = shares[~whole]
    assert rest.std() < 0.06  # each other region loses nearly the same share
    outside = mask.hidden[:, labels == 0].float().mean()
    assert rest.mean() == pytest.approx(float(outside), abs=0.05)


def test_a_region_larger_than_the_share_is_hidden_as_far_as_it_goes():
    side = 14
    labels, mask = region_map(side), drawn("region", 0.02, 200, side)
    for row in mask.hidden:
        assert len(set(labels[row].tolist())) == 1  # all 4 in the one region
        assert labels[row][0] > 0


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
    side = masking.TEMPLATE_SIZE // 2
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


def test_region_masks_on_four_patches():
    assert drawn("region", 0.5, 5, 2).hidden.sum(dim=1).tolist() == [2] * 5
