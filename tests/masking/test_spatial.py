import math

import pytest
import torch
from draws import PARAMETERS, drawn
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facemae.compute.seeding import Noise
from facemae.masking import spatial
from facemae.masking.mask import Context, hidden_count
from facemae.masking.regions import region_map


def context(batch, side, hidden, seed=0):
    return Context(side, hidden, Noise(range(batch), seed), region_map(side).expand(batch, -1))


def spans(rectangles):
    """Return top, height, left and width of each of (B, side, side) bool, all of which are rectangles."""
    found = []
    for image in rectangles:
        rows, columns = (image.any(dim=dim).nonzero().flatten() for dim in (1, 0))
        height, width = len(rows), len(columns)
        assert int(image.sum()) == height * width > 0
        assert int(rows[-1] - rows[0]) == height - 1
        assert int(columns[-1] - columns[0]) == width - 1
        found.append((int(rows[0]), height, int(columns[0]), width))
    return torch.tensor(found).T


# --- random and pixel ---


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


def test_pixels_are_hidden_one_by_one():
    mask = drawn("pixel", 0.75, 2, 112)
    assert mask.hidden.sum(dim=1).tolist() == [9408, 9408]
    by_chance = 2 * 112 * 111 * 0.75**2
    assert hidden_neighbours(mask, 112) == pytest.approx(by_chance, rel=0.02)


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
    assume(hidden > 0)
    scores = spatial.block(context(20, side, hidden, seed), **PARAMETERS["block"])
    assert (scores >= 1).sum(dim=1).max() <= hidden
    assert scores.min() >= 0


@pytest.mark.parametrize("hidden", [12, 40, 98, 147])  # 12 is less than the least area
def test_blocks_cover_nearly_all_that_is_hidden(hidden):
    scores = spatial.block(context(300, 14, hidden), **PARAMETERS["block"])
    assert ((scores >= 1).sum(dim=1) / hidden).mean() > 0.9


def test_the_first_block_keeps_to_its_area_and_its_aspects():
    side, hidden, least = 28, 400, 0.1
    scores = spatial.block(context(400, side, hidden), min_area=least, min_aspect=0.5, rounds=1)
    first = (scores >= 1).view(-1, side, side)
    _, height, _, width = spans(first[first.any(dim=(1, 2))])
    area, aspect = height * width, height / width
    assert len(area) > 350  # rounding makes a few too large
    assert least * side * side * 0.9 < area.min() < 100
    assert 380 < area.max() <= hidden
    assert 0.45 < aspect.min() < 0.6 < 1.7 < aspect.max() < 2.2
    assert (aspect > 1).float().mean() == pytest.approx(0.5, abs=0.1)


def test_more_rounds_cover_more():
    covered = [
        (spatial.block(context(100, 14, 147), min_area=0.08, min_aspect=0.3, rounds=rounds) >= 1).sum()
        for rounds in (1, 4, 12)
    ]
    assert covered[0] < covered[1] < covered[2]


def test_rectangles_lie_where_noise_puts_them():
    size = torch.tensor([2.0, 2.0])
    corners = spatial._rectangles(size, size + 1, torch.tensor([[0.0, 0.0], [0.9999, 0.9999]]), 4)
    assert spans(corners).T.tolist() == [[0, 2, 0, 3], [2, 2, 1, 3]]


# --- inverse block ---


@settings(max_examples=40)
@given(side=st.integers(2, 16), ratio=st.floats(0.02, 0.98), seed=st.integers(0, 99))
def test_what_an_inverse_block_leaves_visible_lies_in_one_rectangle(side, ratio, seed):
    hidden = round(ratio * side * side)
    assume(1 <= hidden < side * side)
    visible = side * side - hidden
    scores = spatial.inverse_block(context(20, side, hidden, seed), min_aspect=0.5)
    _, height, _, width = spans((scores < 1).view(-1, side, side))
    assert (height * width >= visible).all()
    assert ((width - 1) * height < visible).all()  # no smaller one of its height would do


def test_an_inverse_block_has_its_aspects_and_lies_anywhere():
    side = 28
    scores = spatial.inverse_block(context(400, side, 588), min_aspect=0.5)
    top, height, left, width = spans((scores < 1).view(-1, side, side))
    aspect = height / width
    assert 0.45 < aspect.min() < 0.6 < 1.7 < aspect.max() < 2.2
    for start, length in ((top, height), (left, width)):
        room = start / (side - length)
        assert room.min() == 0
        assert room.max() == 1
        assert room.mean() == pytest.approx(0.5, abs=0.06)


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
