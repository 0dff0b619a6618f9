import pytest
import torch
from draws import drawn
from hypothesis import given
from hypothesis import strategies as st

from facemae.masking.mask import hidden_count, hide_highest, ranks


def test_hidden_count():
    assert [hidden_count(64, ratio) for ratio in (0.75, 0.5, 0.01, 0.99)] == [48, 32, 1, 63]
    assert hidden_count(2, 0.5) == 1
    for patches, ratio in ((64, 0.007), (64, 0.993), (1, 0.5), (4, 0.0), (4, 1.0)):
        with pytest.raises(ValueError, match="leaves none hidden or none visible"):
            hidden_count(patches, ratio)


def test_the_highest_scores_are_hidden_and_ties_fall_to_the_first():
    mask = hide_highest(torch.tensor([[0.1, 0.9, 0.5, 0.7], [1.0, 1.0, 1.0, 1.0]]), 2)
    assert mask.hidden.tolist() == [[False, True, False, True], [True, True, False, False]]
    assert mask.visible_ids.tolist() == [[0, 2], [2, 3]]
    assert mask.hidden_ids.tolist() == [[1, 3], [0, 1]]


def test_a_mask_can_be_cut_and_moved():
    mask = drawn("random")
    for chosen in (slice(3, 9), torch.tensor([5, 0, 63])):
        part = mask[chosen].to("cpu")
        for field in ("hidden", "visible_ids", "hidden_ids"):
            assert torch.equal(getattr(part, field), getattr(mask, field)[chosen])


@given(st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 5)), min_size=1, max_size=12))
def test_ranks_are_places_in_falling_order_and_ties_decide(pairs):
    scores, ties = torch.tensor(pairs).T
    order = sorted(range(len(pairs)), key=lambda patch: (-pairs[patch][0], pairs[patch][1], patch))
    expected = [order.index(patch) for patch in range(len(pairs))]
    assert ranks(scores.expand(2, -1), ties.expand(2, -1)).tolist() == [expected] * 2
