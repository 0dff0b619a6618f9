import math

import pytest
import torch
from draws import drawn

from facemae.masking.coverage import measures
from facemae.masking.mask import hide_highest
from facemae.masking.regions import region_map


def masks(*images):
    """Make masks from pictures in which # is hidden."""
    scores = torch.tensor([[float(patch == "#") for patch in image if patch in "#."] for image in images])
    return hide_highest(scores, int(scores[0].sum()))


CHESSBOARD = "#.# .#. #.#"
TOP = "### ##. ..."


def test_visible_tokens_are_counted():
    assert measures(masks(CHESSBOARD), None)["visible_tokens"] == 4


def test_clumping_is_the_share_of_neighbours_in_the_same_state():
    assert measures(masks(CHESSBOARD), None)["clumping"] == 0
    assert measures(masks("## #."), None)["clumping"] == 0.5
    # Of 6 pairs across, row 1 has 2 alike, row 2 one, row 3 two; of 6 down, columns have 1, 1 and 1.
    assert measures(masks(TOP), None)["clumping"] == pytest.approx(8 / 12)
    assert measures(masks(TOP, CHESSBOARD), None)["clumping"] == pytest.approx(4 / 12)


def test_entropy_is_zero_for_one_mask_and_one_for_a_coin():
    assert measures(masks(TOP, TOP), None)["entropy"] == 0
    assert measures(masks("## ..", ".. ##"), None)["entropy"] == 1
    # Four masks of one hidden patch: two positions hidden half of the time, two never.
    assert measures(masks("#. ..", ".# ..", "#. ..", ".# .."), None)["entropy"] == 0.5


def test_entropy_of_random_masks_is_that_of_their_ratio():
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert measures(drawn("random", 0.75, 4000, 8), None)["entropy"] == pytest.approx(expected, abs=0.005)


def test_coverage_is_the_hidden_share_of_each_regions_patches():
    mask = masks("### #.. ...", "... ..# ###")
    regions = torch.tensor([[1, 1, 1, 0, 0, 0, 3, 3, 3], [1, 1, 3, 3, 3, 3, 3, 3, 3]])
    # brows: 3 of 3 and 0 of 2; nose: 0 of 3 and 4 of 7; the rest: 1 of 3.
    assert measures(mask, regions)["region_coverage"] == pytest.approx(
        {"rest": 1 / 3, "brows": 3 / 5, "nose": 4 / 10}
    )


def test_without_regions_nothing_is_covered():
    assert measures(masks(TOP), None)["region_coverage"] == {}


def test_the_figures_tell_strategies_apart():
    regions = region_map(14).expand(300, -1)
    by = {name: measures(drawn(name, 0.5, 300, 14), regions)
          for name in ("random", "block", "inverse_block", "grid", "parts_first")}  # fmt: skip
    assert {each["visible_tokens"] for each in by.values()} == {98}
    assert by["grid"]["clumping"] < by["random"]["clumping"] == pytest.approx(0.5, abs=0.02)
    assert by["random"]["clumping"] < by["block"]["clumping"] < by["inverse_block"]["clumping"]
    assert by["parts_first"]["entropy"] < by["random"]["entropy"]
    assert {by["parts_first"]["region_coverage"][name] for name in ("eyes", "nose", "mouth")} == {1.0}
