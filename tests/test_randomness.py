import os
import subprocess
import sys

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.randomness import batch_ids, generator, seed_of


def test_seeds_are_fixed_for_good():
    # Interrupted runs go on with these: other values would change their results without a word.
    assert seed_of(0, "weights") == 5147875554478041081
    assert seed_of(7, "mask", 12) == 913338574494433916
    assert batch_ids(5, 3, 0, 0).tolist() + batch_ids(5, 3, 1, 0).tolist() == [2, 1, 3, 4, 0, 3]
    assert torch.rand(2, generator=generator(1, "x")).tolist() == [0.27743208408355713, 0.3507925868034363]


def test_seeds_are_the_same_in_another_process():
    code = "from facemae.randomness import seed_of; print(seed_of(7, 'mask', 12))"
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
