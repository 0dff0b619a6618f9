import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.compute.seeding import Noise, batch_ids, generator
from facemae.core.seeds import seed_of


def test_seeds_are_fixed_for_good():
    # Interrupted runs go on with these: other values would change their results without a word.
    assert seed_of(0, "weights") == 5147875554478041081
    assert seed_of(7, "mask", 12) == 913338574494433916
    assert batch_ids(5, 3, 0, 0).tolist() + batch_ids(5, 3, 1, 0).tolist() == [2, 1, 3, 4, 0, 3]
    assert torch.rand(2, generator=generator(1, "x")).tolist() == [0.27743208408355713, 0.3507925868034363]


def test_seeds_are_the_same_in_another_process():
    code = "from facemae.core.seeds import seed_of; print(seed_of(7, 'mask', 12))"
    environment = os.environ | {"PYTHONHASHSEED": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, env=environment)
    assert int(done.stdout) == seed_of(7, "mask", 12)


def test_another_key_is_another_seed():
    keys = [(0, "a"), (0, "b"), (1, "a"), ("0", "a"), (0, "a", 0), ("0, 'a'",), (0,), (10,), (1, 0), ()]
    seeds = [seed_of(*key) for key in keys]
    assert len(set(seeds)) == len(keys)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_generator_is_fresh_and_leaves_the_global_one_alone():
    state = torch.get_rng_state()
    first, again = (torch.rand(5, generator=generator(3, "mask", 4)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first, torch.rand(5, generator=generator(3, "mask", 5)))
    batch_ids(10, 4, 2, 0)
    assert torch.equal(torch.get_rng_state(), state)


@settings(max_examples=60)
@given(count=st.integers(1, 20), batch=st.integers(1, 50), seed=st.integers(0, 5))
def test_every_epoch_holds_every_face_once(count, batch, seed):
    steps = -(-3 * count // batch)  # at least three epochs
    walk = torch.cat([batch_ids(count, batch, step, seed) for step in range(steps)]).tolist()
    assert len(walk) == steps * batch
    for start in range(0, len(walk) - count + 1, count):
        assert sorted(walk[start : start + count]) == list(range(count))


def test_epochs_and_seeds_are_shuffled_differently():
    orders = {tuple(batch_ids(50, 50, epoch, seed).tolist()) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25


def test_a_batch_does_not_depend_on_what_was_drawn_before():
    forwards = [batch_ids(7, 3, step, 1).tolist() for step in range(30)]
    backwards = [batch_ids(7, 3, step, 1).tolist() for step in reversed(range(30))]
    assert forwards == backwards[::-1]


def test_what_a_caller_does_to_a_batch_stays_there():
    batch_ids(5, 5, 0, 9).zero_()
    assert sorted(batch_ids(5, 5, 0, 9).tolist()) == [0, 1, 2, 3, 4]


# --- noise ---


WORD = 2**64 - 1


def mixed(bits):
    """SplitMix64's finalizer, in whole numbers without a bound."""
    bits = ((bits ^ (bits >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    bits = ((bits ^ (bits >> 27)) * 0x94D049BB133111EB) & WORD
    return bits ^ (bits >> 31)


def test_noise_is_fixed_for_good():
    """Interrupted runs go on with it; and it is what the paper's arithmetic says."""
    assert mixed(0x9E3779B97F4A7C15) == 0xE220A8397B1DCDAF  # the first number of SplitMix64 seeded with 0
    found = Noise(range(2, 4), 7, "mask", 3).uniform(5)
    for row, place in enumerate((2, 3)):
        key = mixed((seed_of(7, "mask", 3) + place * 0x9E3779B97F4A7C15) & WORD)
        expected = [mixed(key ^ mixed(n * 0x9E3779B97F4A7C15 & WORD)) >> 40 for n in range(5)]
        assert found[row].tolist() == [number / 2**24 for number in expected]
    assert found[0, 0].item() == 0.03522634506225586


def test_a_samples_noise_does_not_depend_on_the_rest_of_the_batch():
    whole = Noise(range(8), 0, "mask", 3)
    drawn = [whole.uniform(3, 2), whole.uniform(), whole.integers(10, 4)]
    for places in (range(2, 5), torch.tensor([2, 3, 4]), torch.tensor([4, 2, 3]), range(2, 5, 2)):
        part = Noise(places, 0, "mask", 3)
        rows = [int(place) for place in places]
        for expected in drawn:
            shape = expected.shape[1:]
            found = part.integers(10, *shape) if expected.dtype == torch.int64 else part.uniform(*shape)
            assert torch.equal(found, expected[rows])


def test_a_draw_does_not_depend_on_its_shape():
    flat = Noise(range(3), "x").uniform(12)
    noise = Noise(range(3), "x")
    split = torch.cat([noise.uniform(2, 2).flatten(1), noise.uniform(8)], dim=1)
    assert torch.equal(split, flat)
    assert Noise(range(3), "x").uniform().shape == (3,)
    assert len(noise) == 3


def test_other_keys_places_and_draws_are_other_noise():
    drawn = {
        tuple(Noise(range(place, place + 1), *key).uniform(4)[0].tolist())
        for place in range(50)
        for key in ((0, "mask", 1), (0, "mask", 2), (1, "mask", 1), (0, "crop", 1))
    }
    assert len(drawn) == 200


def test_noise_is_uniform_and_independent():
    noise = Noise(range(2000), 3, "test")
    drawn = noise.uniform(50)
    assert 0 <= float(drawn.min()) < 1e-4
    assert 1 - 1e-4 < float(drawn.max()) < 1
    counts = (drawn.flatten() * 64).long().bincount(minlength=64)
    expected = drawn.numel() / 64
    assert float(((counts - expected) ** 2 / expected).sum()) < 120  # chi-squared, 63 degrees: p < 1e-5
    centred = drawn - 0.5
    for a, b in ((centred[:-1], centred[1:]), (centred[:, :-1], centred[:, 1:])):  # between samples and draws
        correlation = float((a * b).mean()) * 12
        assert abs(correlation) < 5 / a.numel() ** 0.5
    other = Noise(range(2000), 4, "test").uniform(50) - 0.5
    assert abs(float((centred * other).mean()) * 12) < 5 / other.numel() ** 0.5


@settings(max_examples=30)
@given(high=st.integers(1, 1000), seed=st.integers(0, 99))
def test_whole_numbers_stay_below_their_bound(high, seed):
    drawn = Noise(range(20), seed).integers(high, 30)
    assert drawn.dtype == torch.int64
    assert 0 <= int(drawn.min()) <= int(drawn.max()) < high
    assert high < 20 or len(drawn.unique()) > 10


def test_noise_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    Noise(range(4), 0).uniform(10)
    assert torch.equal(torch.get_rng_state(), state)
