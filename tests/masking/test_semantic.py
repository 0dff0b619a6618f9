import pytest
import torch
from draws import drawn, random_crops

from facemae.masking.mask import hidden_count
from facemae.masking.regions import REGIONS, region_map, region_maps

LABELS = range(1, len(REGIONS) + 1)


def counts(mask, regions):
    """Return the hidden and all patches of each region in each image, (B, R) each."""
    own = torch.stack([regions == label for label in LABELS], dim=2)
    return (own & mask.hidden[:, :, None]).sum(dim=1), own.sum(dim=1)


def whole(mask, regions):
    """Tell for each image and region whether it is shown and hidden whole, (B, R)."""
    hidden, there = counts(mask, regions)
    return (hidden == there) & (there > 0)


def maps(side, batch):
    return region_map(side).expand(batch, -1)


# --- one region whole ---


@pytest.mark.parametrize("side", [3, 4, 7, 8, 14, 16, 28])
@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_region_always_hides_one_region_whole(side, ratio):
    regions = maps(side, 200)
    mask = drawn("region", ratio, 200, side)
    there = counts(mask, regions)[1][0]
    covered = whole(mask, regions)
    if there.max() <= hidden_count(side * side, ratio):
        assert covered.any(dim=1).all()
    assert covered.any(dim=0)[there > 0].all()  # and every region is drawn some time


def test_region_hides_one_of_those_its_own_crop_shows():
    regions = region_maps(14, random_crops(300))
    regions[0] = 0  # a crop of no region at all
    covered = whole(drawn("region", 0.6, 300, 14, regions=regions), regions)
    assert not covered[0].any()
    assert covered[1:].any(dim=1).all()


def test_region_hides_regions_far_more_often_than_random():
    for side, ratio in ((8, 0.5), (14, 0.5), (14, 0.75)):
        region, random = (
            whole(drawn(name, ratio, 300, side), maps(side, 300))[:, shown(side)].float().mean()
            for name in ("region", "random")
        )
        assert region > 0.18  # one of five
        assert random < region / 2


def shown(side):
    return [label - 1 for label in LABELS if (region_map(side) == label).any()]


def test_region_hides_the_rest_in_proportion():
    side, ratio = 14, 0.5
    labels, mask = region_map(side), drawn("region", ratio, 400, side)
    hidden, there = counts(mask, maps(side, 400))
    rest = (hidden / there)[hidden < there]
    assert rest.std() < 0.06  # each other region loses nearly the same share
    outside = mask.hidden[:, labels == 0].float().mean()
    assert rest.mean() == pytest.approx(float(outside), abs=0.05)


def test_a_region_larger_than_the_share_is_hidden_as_far_as_it_goes():
    side = 14
    labels, mask = region_map(side), drawn("region", 0.02, 200, side)
    for row in mask.hidden:
        assert len(set(labels[row].tolist())) == 1  # all 4 in the one region
        assert labels[row][0] > 0


# --- all in proportion ---


@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
def test_proportional_hides_the_same_share_of_every_region_of_its_crop(ratio):
    side = 14
    regions = region_maps(side, random_crops(100))
    mask = drawn("region_proportional", ratio, 100, side, regions=regions)
    hidden, there = counts(mask, regions)
    assert (
        hidden - ratio * there
    ).abs().max() < 1.5  # rounding of one region moves what is left to the others
    assert (hidden - ratio * there).abs().mean() < 0.5


# --- parts first and last ---


def test_parts_first_hides_region_after_region_in_random_order():
    regions = region_maps(14, random_crops(300))
    mask = drawn("parts_first", 0.2, 300, 14, regions=regions)  # 39 patches
    hidden, there = counts(mask, regions)
    parts = there.sum(dim=1)
    assert torch.equal(hidden.sum(dim=1), parts.clamp(max=39))  # the rest only once the parts are used up
    begun = (hidden > 0) & (hidden < there)
    assert begun.sum(dim=1).max() == 1  # one region after another
    often = (hidden > 0).float().mean(dim=0)
    assert often.min() > 0.2  # in an order that is drawn


def test_parts_last_hides_the_rest_and_then_region_after_region():
    regions = region_maps(14, random_crops(300))
    mask = drawn("parts_last", 0.4, 300, 14, regions=regions)  # 78 patches
    hidden, there = counts(mask, regions)
    rest = (regions == 0).sum(dim=1)
    assert torch.equal(hidden.sum(dim=1), (78 - rest).clamp(min=0))
    assert (rest > 78).any()
    assert (rest < 78).any()
    assert ((hidden > 0) & (hidden < there)).sum(dim=1).max() == 1


def test_a_region_that_is_begun_is_hidden_at_random():
    side = 14
    mask = drawn("parts_first", 0.02, 500, side)  # 4 patches, less than any region
    often = mask.hidden.float().mean(dim=0)
    assert (often[region_map(side) > 0] > 0).all()
    assert (often[region_map(side) == 0] == 0).all()


# --- where nothing is shown ---


@pytest.mark.parametrize("strategy", ["region", "region_proportional", "parts_first", "parts_last"])
def test_without_a_region_patches_are_hidden_at_random(strategy):
    often = (
        drawn(strategy, 0.5, 500, 2, regions=torch.zeros(500, 4, dtype=torch.int64)).hidden.float().mean(0)
    )
    assert (often - 0.5).abs().max() < 0.1
