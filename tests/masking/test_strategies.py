import pytest
import torch
from draws import PARAMETERS, drawn, random_crops
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from facemae.compute.seeding import Noise
from facemae.config.masks import MASK_GUIDES, REGION_MASKS
from facemae.masking.mask import hidden_count
from facemae.masking.regions import region_map, region_maps
from facemae.masking.strategies import STRATEGIES, draw_mask, ratio_at

FIELDS = ("hidden", "visible_ids", "hidden_ids")
GUIDED, REGIONAL = list(MASK_GUIDES), sorted(REGION_MASKS)


def signals(batch, side, seed=0):
    return Noise(range(batch), seed, "signals").uniform(side * side)


def same(one, other):
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in FIELDS)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=50)
@given(
    ratio=st.floats(0.01, 0.99),
    side=st.integers(2, 16),
    batch=st.integers(1, 5),
    seed=st.integers(0, 99),
    progress=st.floats(0, 1),
)
def test_every_image_hides_exactly_its_share(strategy, ratio, side, batch, seed, progress):
    patches = side * side
    assume(1 <= round(ratio * patches) <= patches - 1)
    changes = {"start": ratio, "end": ratio} if strategy == "ratio_curriculum" else {}
    regions = region_maps(side, random_crops(batch, seed))
    mask = drawn(strategy, ratio, batch, side, seed, regions=regions, progress=progress, **changes)
    hidden = hidden_count(patches, ratio)
    assert mask.hidden.shape == (batch, patches)  # patches only: a class token cannot be hidden
    assert mask.hidden.dtype == torch.bool
    assert mask.visible_ids.shape == (batch, patches - hidden)
    assert mask.hidden_ids.shape == (batch, hidden)
    for row, visible, covered in zip(mask.hidden, mask.visible_ids, mask.hidden_ids, strict=True):
        assert covered.tolist() == [place for place in range(patches) if row[place]]  # ascending too
        assert visible.tolist() == [place for place in range(patches) if not row[place]]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_noise_is_the_only_source_of_randomness(strategy):
    signal = signals(64, 8)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = drawn(strategy, signal=signal)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = drawn(strategy, signal=signal), drawn(strategy, signal=signal, seed=1)
    assert same(first, again)
    assert not torch.equal(first.hidden, other.hidden)


@pytest.mark.parametrize("strategy", STRATEGIES)
@settings(max_examples=25)
@given(side=st.integers(4, 14), start=st.integers(0, 8), count=st.integers(1, 4), progress=st.floats(0, 1))
def test_a_mask_depends_on_its_own_place_alone(strategy, side, start, count, progress):
    batch, rows = 12, slice(start, start + count)
    regions, signal = region_maps(side, random_crops(batch)), signals(batch, side)
    whole = drawn(strategy, 0.6, batch, side, regions=regions, signal=signal, progress=progress)
    alone = drawn(
        strategy, 0.6, range(batch)[rows], side,
        regions=regions[rows], signal=signal[rows], progress=progress,
    )  # fmt: skip
    assert same(whole[rows], alone)
    others = region_maps(side, random_crops(batch, seed=1)), signals(batch, side, seed=1)
    for own, other in zip((regions, signal), others, strict=True):
        other[rows] = own[rows]
    beside = drawn(strategy, 0.6, batch, side, regions=others[0], signal=others[1], progress=progress)
    assert same(whole[rows], beside[rows])


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_places_in_any_order_keep_their_masks(strategy):
    order = torch.tensor([5, 63, 0, 17])
    regions, signal = region_maps(8, random_crops(64)), signals(64, 8)
    whole = drawn(strategy, regions=regions, signal=signal)
    assert same(whole[order], drawn(strategy, places=order, regions=regions[order], signal=signal[order]))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_images_of_a_batch_have_masks_of_their_own(strategy):
    signal = signals(1, 14).expand(64, -1)
    mask = drawn(strategy, 0.5, side=14, signal=signal)
    assert len({tuple(row) for row in mask.hidden.tolist()}) > 60  # rectangles may coincide


@pytest.mark.parametrize("strategy", sorted(set(STRATEGIES) - {"parts_first", "parts_last"}))
def test_over_many_images_every_patch_is_hidden_and_visible(strategy):
    often = drawn(strategy, 0.5, 500).hidden.float().mean(dim=0)
    assert often.min() > 0.1
    assert often.max() < 0.9


def test_face_parts_are_covered_in_the_order_of_their_strategies():
    side = 14
    parts = region_map(side) > 0
    share = {
        name: float(drawn(name, 0.5, 300, side).hidden[:, parts].float().mean())
        for name in ("parts_first", "region", "region_proportional", "random", "parts_last")
    }
    assert share["parts_first"] == 1.0
    assert 0.52 < share["region"] < 0.8
    assert share["region_proportional"] == pytest.approx(0.5, abs=0.01)
    assert share["random"] == pytest.approx(0.5, abs=0.02)
    assert share["parts_last"] == 0.0


def test_a_strategy_that_looks_at_no_regions_needs_none():
    for name in set(STRATEGIES) - set(REGIONAL):
        arguments = 0.75, PARAMETERS.get(name, {}), 8, Noise(range(9), 0)
        signal = signals(9, 8)
        without = draw_mask(name, *arguments, None, 0.5, signal)
        arguments = *arguments[:3], Noise(range(9), 0)
        assert same(without, draw_mask(name, *arguments, region_maps(14, random_crops(9)), 0.5, signal))


def test_a_strategy_is_shown_regions_only_if_it_says_so(monkeypatch):
    seen = []

    def look(context):
        seen.append(context.regions.clone())
        return context.noise.uniform(context.patches)

    regions = region_map(8).expand(3, -1)
    for says in (True, False):
        name = "region" if says else "random"
        monkeypatch.setitem(STRATEGIES, name, look)
        draw_mask(name, 0.5, {}, 8, Noise(range(3), 0), regions)
    assert torch.equal(seen[0], regions)
    assert torch.equal(seen[1], torch.zeros_like(regions))


@pytest.mark.parametrize("strategy", REGIONAL)
def test_a_strategy_without_its_regions_says_so(strategy):
    with pytest.raises(ValueError, match=f"{strategy} looks at face regions"):
        draw_mask(strategy, 0.5, {}, 8, Noise(range(2), 0))


@pytest.mark.parametrize("strategy", GUIDED)
def test_a_strategy_without_its_signal_says_so(strategy):
    with pytest.raises(ValueError, match="led by a guide"):
        draw_mask(strategy, 0.5, PARAMETERS[strategy], 8, Noise(range(2), 0))


@pytest.mark.parametrize("strategy", GUIDED)
def test_a_signal_of_half_precision_will_do(strategy):
    signal = signals(64, 8).bfloat16()
    assert same(drawn(strategy, signal=signal), drawn(strategy, signal=signal.float()))


def test_the_ratio_is_the_strategys_own_where_it_has_one():
    ramp = {"start": 0.5, "end": 0.9}
    assert [ratio_at("ratio_curriculum", 0.75, ramp, at) for at in (0.0, 0.5, 1.0)] == pytest.approx(
        [0.5, 0.7, 0.9]
    )
    assert ratio_at("block", 0.75, PARAMETERS["block"], 0.3) == 0.75


@pytest.mark.gpu
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_gpu_draws_the_same_masks(strategy):
    regions, signal = region_maps(14, random_crops(64)), signals(64, 14)
    arguments = strategy, 0.75, PARAMETERS.get(strategy, {}), 14
    here = draw_mask(*arguments, Noise(range(64), 0), regions, 0.5, signal)
    there = draw_mask(*arguments, Noise(range(64), 0, device="cuda"), regions.cuda(), 0.5, signal.cuda())
    assert there.hidden.is_cuda
    assert same(here, there.to("cpu"))
