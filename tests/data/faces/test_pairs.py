import math
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from facemae.core import layout, records
from facemae.core.errors import DataError, IntegrityError
from facemae.data.faces import pairs
from facemae.data.sources.base import Pair


def people(*folds):
    """Return a table of photos; each fold is the number of photos of each of its people."""
    rows = [
        {"sample_id": f"{fold}-{person}/{photo:05}", "person": f"{fold}-{person}", "fold": fold}
        for fold, counts in enumerate(folds)
        for person, count in enumerate(counts)
        for photo in range(count)
    ]
    return pd.DataFrame(rows, columns=["sample_id", "person", "fold"]).astype({"fold": "Int64"})


def person_of(name):
    return name.partition("/")[0]


COUNTS = st.lists(st.integers(1, 6), min_size=2, max_size=6).filter(lambda counts: max(counts) > 1)


# --- drawn pairs ---


@given(st.lists(COUNTS, min_size=1, max_size=3), st.integers(1, 40), st.integers(0, 5))
def test_drawn_pairs_are_distinct_balanced_and_what_they_say(folds, per_fold, seed):
    table = pairs.generate(people(*folds), seed=seed, per_fold=per_fold)
    assert list(table.columns) == layout.PAIR_COLUMNS
    assert set(table["protocol"]) == {"generated"}
    assert len({frozenset(pair) for pair in zip(table["first"], table["second"], strict=True)}) == len(table)
    for row in table.itertuples():
        assert row.first != row.second
        assert (person_of(row.first) == person_of(row.second)) == row.genuine
        assert row.first.startswith(f"{row.fold}-")
        assert row.second.startswith(f"{row.fold}-")
    for fold, counts in enumerate(folds):
        genuine = sum(math.comb(count, 2) for count in counts)
        impostors = math.comb(sum(counts), 2) - genuine
        drawn = table[table["fold"] == fold]
        assert drawn["genuine"].sum() == (~drawn["genuine"]).sum() == min(per_fold, genuine, impostors)


def test_the_seed_alone_decides():
    table = people([4, 3, 5], [2, 6])
    first = pairs.generate(table, seed=1, per_fold=5)
    shuffled = table.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(pairs.generate(shuffled, seed=1, per_fold=5), first)
    assert not pairs.generate(table, seed=2, per_fold=5).equals(first)


def test_genuine_pairs_are_spread_evenly_over_people():
    table = pairs.generate(people([200, 3, 3, 2, 2]), seed=0, per_fold=12)
    counts = table[table["genuine"]]["first"].map(person_of).value_counts().to_dict()
    assert counts == {"0-0": 4, "0-1": 3, "0-2": 3, "0-3": 1, "0-4": 1}


def test_impostor_pairs_are_spread_over_people_too():
    table = pairs.generate(people([200, *[4] * 9]), seed=0, per_fold=60)
    drawn = table[~table["genuine"]]
    counts = pd.concat([drawn["first"], drawn["second"]]).map(person_of).value_counts()
    assert len(counts) == 10
    assert counts.max() < 30  # by photos the first would have nearly all 60


def test_without_a_limit_there_are_as_many_as_in_a_fold_of_lfw():
    table = pairs.generate(people([10] * 20), seed=0)
    assert table["genuine"].value_counts().to_dict() == {True: 300, False: 300}


def test_drawing_ends_when_impostor_pairs_run_out():
    table = pairs.generate(people([40, 1]), seed=0)
    assert table["genuine"].value_counts().to_dict() == {True: 40, False: 40}  # of 780 and 40 possible
    table = pairs.generate(people([2, 1, 1, 1]), seed=0, per_fold=5)
    assert table["genuine"].to_list() == [True, False]


def test_photos_of_nobody_and_of_no_fold_are_in_no_pair():
    table = people([3, 3])
    table.loc[0, "person"] = None
    table.loc[5, "fold"] = pd.NA
    drawn = pairs.generate(table, seed=0)
    assert not {table["sample_id"][0], table["sample_id"][5]} & {*drawn["first"], *drawn["second"]}


@pytest.mark.parametrize("counts", [[5], [1, 1, 1], [1]])
def test_a_fold_without_both_kinds_of_pairs_is_told(counts):
    with pytest.raises(DataError, match=rf"^Fold 1 has {len(counts)} people and \d+ pairs") as caught:
        pairs.generate(people([2, 2], counts), seed=0)
    assert caught.value.exit_code == 3
    assert "\n" not in str(caught.value)


def test_many_photos_of_one_person_take_little_memory():
    table = people([8000, 8000, 2])
    tracemalloc.start()
    try:
        pairs.generate(table, seed=0, per_fold=10)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 30e6  # one number for each of their 32 million pairs is 256 MB


@given(st.integers(2, 60))
def test_the_numbers_of_pairs_name_each_pair_once(count):
    named = [pairs._pair(number) for number in range(math.comb(count, 2))]
    assert sorted(named) == [(one, other) for one in range(count) for other in range(one + 1, count)]


@given(st.integers(0, 2**62))
def test_numbers_of_pairs_are_exact_however_large(number):
    first, second = pairs._pair(number)
    assert 0 <= first < second
    assert math.comb(second, 2) + first == number


# --- the table ---


def test_a_list_of_pairs_becomes_a_table():
    table = pairs.table([Pair("lfw", 3, "a", "b", True), Pair("lfw", 4, "a", "c", False)])
    assert table.to_dict("list") == {
        "protocol": ["lfw", "lfw"],
        "fold": [3, 4],
        "first": ["a", "a"],
        "second": ["b", "c"],
        "genuine": [True, False],
    }


def test_no_pairs_are_a_table_of_the_same_types(tmp_path):
    empty, full = pairs.table([]), pairs.table([Pair("lfw", 0, "a", "b", True)])
    assert len(empty) == 0
    assert empty.dtypes.to_dict() == full.dtypes.to_dict()
    both = pd.concat([empty, full])
    assert both.dtypes.to_dict() == full.dtypes.to_dict()
    records.write_table(tmp_path / "p", empty, layout.PAIR_COLUMNS)
    read = records.read_table(tmp_path / "p")
    assert list(read.columns) == layout.PAIR_COLUMNS
    assert (read["fold"].dtype, read["genuine"].dtype) == (np.int64, np.bool_)
    joined = pd.concat([read, full])
    assert (joined["fold"].dtype, joined["genuine"].dtype) == (np.int64, np.bool_)


# --- the check ---

NAMES = st.lists(st.sampled_from("abcdef"), min_size=2, max_size=2)


@given(st.lists(NAMES, max_size=6), st.sets(st.sampled_from("abcdef")))
def test_every_photo_of_every_pair_has_to_be_listed(named, known):
    table = pairs.table(Pair("lfw", 0, first, second, True) for first, second in named)
    if {name for pair in named for name in pair} <= known:
        pairs.check(table, known)
    else:
        with pytest.raises(IntegrityError, match="pairs of lfw name photos that are not there"):
            pairs.check(table, known)


def test_a_lost_photo_is_named():
    table = pairs.table([Pair("x", 0, "a", "b", True), Pair("lfw", 0, "a", "gone", True)])
    with pytest.raises(IntegrityError, match=r"^1 pairs of lfw .* for example gone; [^.]*\.$") as caught:
        pairs.check(table, ["a", "b"])
    assert caught.value.exit_code == 4


def test_photos_are_found_in_either_spelling_of_their_accents():
    composed, decomposed = ("own/Zo\u00eb/1", "own/Zoe\u0308/1")
    listed = ((composed, "own/x"), (decomposed, "own/gone"))
    both = pairs.table(Pair("list", 0, *names, False) for names in listed)
    found = pairs.in_spelling_of(both, [decomposed, "own/x"])
    assert found["first"].to_list() == [decomposed, decomposed]
    assert found["second"].to_list() == ["own/x", "own/gone"]
    # Where both are there each is itself.
    found = pairs.in_spelling_of(both, [decomposed, composed, "own/x"])
    assert found["first"].to_list() == [composed, decomposed]
