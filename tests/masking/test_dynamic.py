import pytest
import torch
from draws import drawn
from hypothesis import given
from hypothesis import strategies as st

from facemae.compute.seeding import Noise
from facemae.masking import dynamic
from facemae.masking.mask import Context
from facemae.masking.regions import REGIONS, region_map

SIDE, PATCHES, HIDDEN = 14, 196, 98  # at a ratio of 0.5


def planted(batch=64, patches=PATCHES, seed=0):
    """Return signals (B, N), 0 to N - 1 in another order for each image, and the patches as they fall."""
    signal = Noise(range(batch), seed, "planted").uniform(patches).argsort(dim=1).argsort(dim=1)
    return signal.float(), signal.argsort(dim=1, descending=True)


def hidden_in_order(strategy, signal, order, **settings):
    """Return whether the patches are hidden, (B, N), from the highest signal to the lowest."""
    mask = drawn(strategy, 0.5, len(signal), SIDE, signal=signal, **settings)
    return mask.hidden.gather(1, order)


# --- attention ---


@pytest.mark.parametrize(("strategy", "end"), [("attention_high", 1), ("attention_low", -1)])
def test_attention_hides_its_share_of_one_end_and_the_rest_at_random(strategy, end):
    signal, order = planted(500)
    hidden = hidden_in_order(
        strategy, signal, order[:, ::1] if end == 1 else order.flip(1), min_led=0.5, max_led=0.5
    )
    assert hidden[:, :49].all()
    others = hidden[:, 49:].float().mean(dim=0)  # 49 of 147
    assert others.mean() == pytest.approx(1 / 3)
    assert (others - 1 / 3).abs().max() < 0.1


def test_the_share_that_attention_leads_is_drawn_for_each_image():
    signal, order = planted(1000)
    hidden = hidden_in_order("attention_high", signal, order, min_led=0.2, max_led=0.6)
    led = hidden.long().cumprod(dim=1).sum(dim=1)  # the hidden ones up to the first visible one
    assert led.min() >= round(0.2 * HIDDEN)
    often = [float((led > count).float().mean()) for count in (20, 39, 58, 68)]
    assert often[0] > 0.95
    assert often[1] == pytest.approx(0.5, abs=0.1)
    assert often[2] < 0.1
    assert often[3] == 0


@pytest.mark.parametrize("strategy", ["attention_high", "attention_low", "attention_hint"])
def test_attention_that_leads_nothing_changes_nothing(strategy):
    settings = {"min_led": 0.0, "max_led": 0.0}
    one, other = (drawn(strategy, signal=planted(64, 64, seed)[0], **settings) for seed in (0, 1))
    assert torch.equal(one.hidden, other.hidden)


def test_hints_are_some_of_the_most_attended():
    signal, order = planted(500)
    hidden = hidden_in_order("attention_hint", signal, order, min_led=0.5, max_led=0.5, reveal=0.2)
    assert (~hidden[:, :39]).sum(dim=1).tolist() == [10] * 500  # a fifth of 49, among a fifth of 196
    assert hidden[:, 39:49].all()
    shown = (~hidden[:, :39]).float().mean(dim=0)
    assert (shown - 10 / 39).abs().max() < 0.09  # which ones is drawn


@given(ratio=st.floats(0.02, 0.98), reveal=st.floats(0, 1), led=st.floats(0, 1))
def test_hints_never_change_how_many_are_hidden(ratio, reveal, led):
    mask = drawn("attention_hint", ratio, 4, 7, min_led=led, max_led=led, reveal=reveal)
    assert mask.hidden.sum(dim=1).tolist() == [round(ratio * 49)] * 4


def test_equal_signals_are_hidden_at_random():
    signal = torch.zeros(500, 16)
    for strategy in ("attention_high", "attention_low", "hard_patches", "loss_ema"):
        often = drawn(strategy, 0.5, 500, 4, signal=signal, progress=1.0).hidden.float().mean(dim=0)
        assert (often - 0.5).abs().max() < 0.12


# --- predicted loss ---


@pytest.mark.parametrize(("progress", "led"), [(0.0, 0), (0.5, 24), (1.0, 49)])
def test_hard_patches_are_led_ever_more(progress, led):
    signal, order = planted(500)
    hidden = hidden_in_order("hard_patches", signal, order, progress=progress, final_led=0.5)
    assert hidden[:, :led].all()
    others = hidden[:, led:].float().mean(dim=0)
    chance = (HIDDEN - led) / (PATCHES - led)
    assert (others - chance).abs().max() < 0.1


# --- running loss ---


def chances(z, temperature):
    return torch.softmax(torch.tensor(z) / temperature, dim=0)


ERROR = [0.2, 0.4, 0.4, 1.0]
Z = [-1.0, -1 / 3, -1 / 3, 5 / 3]  # less the mean 0.5, over the standard deviation 0.3


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_positions_are_drawn_in_proportion_to_the_softmax_of_their_error(temperature):
    batch = 20_000
    signal = torch.tensor(ERROR).expand(batch, -1)
    settings = {"progress": 1.0, "final_led": 1.0, "temperature": temperature}
    one, two = (
        drawn("loss_ema", ratio, batch, 2, signal=signal, **settings).hidden.double().mean(dim=0)
        for ratio in (0.25, 0.5)
    )
    first = chances(Z, temperature)
    assert one.tolist() == pytest.approx(first.tolist(), abs=0.015)
    # Without replacement: the second in proportion to what the first left.
    second = first * ((first / (1 - first)).sum() - first / (1 - first))
    assert two.tolist() == pytest.approx((first + second).tolist(), abs=0.015)


def test_the_unit_of_the_error_does_not_matter():
    signal = planted()[0]
    one, other = (
        drawn("loss_ema", 0.5, 64, SIDE, signal=each, progress=1.0) for each in (signal, 1e-6 * signal + 3e-4)
    )
    assert (one.hidden == other.hidden).float().mean() > 0.999


@pytest.mark.parametrize(("progress", "led"), [(0.0, 0), (0.5, 24), (1.0, 49)])
def test_the_error_leads_ever_more(progress, led):
    signal, order = planted(500)
    cold = {"final_led": 0.5, "temperature": 1e-6}  # then the highest errors are drawn
    hidden = hidden_in_order("loss_ema", signal, order, progress=progress, **cold)
    assert hidden[:, :led].all()
    assert hidden[:, led:].float().mean() == pytest.approx((HIDDEN - led) / (PATCHES - led))


# --- a learnt score ---


def test_gumbel_noise_is_finite_even_at_zero():
    class Zeros(Noise):
        def uniform(self, *shape):
            return torch.zeros(len(self), *shape)

    assert dynamic._gumbel(Context(2, 1, Zeros(range(3), 0), torch.zeros(3, 4))).isfinite().all()


# --- curricula ---


@pytest.mark.parametrize(("progress", "hidden"), [(0.0, 98), (0.5, 132), (1.0, 167)])
def test_the_ratio_moves_on_a_line(progress, hidden):
    settings = {"start": 0.5, "end": 0.85, "progress": progress}
    assert drawn("ratio_curriculum", 0.1, 4, SIDE, **settings).hidden.sum(dim=1).tolist() == [hidden] * 4


def parts():
    labels = region_map(SIDE).expand(1, -1)
    return dynamic._parts(Context(SIDE, HIDDEN, Noise(range(1), 0), labels))[0]


def test_parts_are_the_regions_and_four_sides_of_the_rest():
    grid, regions = parts().view(SIDE, SIDE), region_map(SIDE).view(SIDE, SIDE)
    assert torch.equal(grid >= 4, regions > 0)
    assert torch.equal((grid - 3)[regions > 0], regions[regions > 0])
    assert [int(grid[place]) for place in ((0, 6), (13, 6), (7, 0), (7, 13))] == [0, 1, 2, 3]
    sizes = parts().bincount(minlength=dynamic.PARTS)
    assert len(sizes) == dynamic.PARTS == 4 + len(REGIONS)
    assert sizes.min() >= 8
    assert sizes[2] == sizes[3]  # the template is its own mirror image


def part_shares(progress, batch=200, ratio=0.5):
    hidden = drawn("part_curriculum", ratio, batch, SIDE, progress=progress).hidden
    return torch.stack(
        [hidden[:, parts() == part].float().mean(dim=1) for part in range(dynamic.PARTS)], dim=1
    )


def test_a_part_curriculum_begins_with_a_share_of_every_part():
    sizes = parts().bincount()
    assert ((part_shares(0.0) - 0.5) * sizes).abs().max() < 1.5


def test_a_part_curriculum_ends_with_whole_parts_in_random_order():
    shares = part_shares(1.0)
    begun = (shares > 0) & (shares < 1)
    assert begun.sum(dim=1).max() == 1
    assert ((shares == 1).float().mean(dim=0) > 0.2).all()  # every part some time


def test_halfway_a_part_curriculum_does_both():
    sizes = parts().bincount()
    shares = part_shares(0.5)
    within = 0.75 * 0.5  # (1 - progress^2) of M
    assert ((within - shares) * sizes).max() < 1.5  # at least so much of every part
    assert (shares == 1).sum(dim=1).float().mean() > 1  # 24 patches are left for whole parts
    more = (shares - within) * sizes > 1.5
    assert ((shares < 1) & more).sum(dim=1).max() <= 1  # what is beyond it is whole parts but for one


def test_a_part_that_is_begun_is_hidden_at_random():
    mask = drawn("part_curriculum", 0.02, 500, SIDE, progress=1.0)  # 4 patches, less than any part
    assert (mask.hidden.float().mean(dim=0) > 0).sum() > 0.95 * PATCHES
