import time

import numpy as np
import pytest

from facemae.core.errors import UsageError
from facemae.recognition.grouping import LEAST, MOST, group


def faces(people, noise, size=128, seed=0):
    """Return embeddings of people, a number for each face, around a direction of their own."""
    numbers = np.random.default_rng(seed)
    people = np.asarray(people)
    vectors = numbers.normal(size=(people.max() + 1, size))[people] + noise * numbers.normal(
        size=(len(people), size)
    )
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_people_are_told_apart_and_strangers_are_in_no_group():
    people = np.repeat(np.arange(30), [5, 9, *[1] * 10, *range(2, 20)])
    order = np.random.default_rng(1).permutation(len(people))
    found = group(faces(people[order], 0.5), 0.5)
    assert sorted(map(len, found), reverse=True) == [len(rows) for rows in found]
    assert {tuple(sorted(rows)) for rows in found} == {
        tuple(np.flatnonzero(people[order] == each)) for each in range(30) if (people == each).sum() > 1
    }


@pytest.mark.parametrize(("people", "expected"), [([0] * 12, [12]), (range(12), [])])
def test_one_person_is_one_group_and_strangers_none(people, expected):
    assert [len(rows) for rows in group(faces(list(people), 0.5), 0.5)] == expected


@pytest.mark.parametrize(("count", "advice"), [
    (0, "enrol them one by one"), (LEAST - 1, "enrol them one by one"), (MOST + 1, "a part of the photos"),
])  # fmt: skip
def test_too_few_and_too_many_are_refused_with_a_sentence(count, advice):
    with pytest.raises(UsageError, match=advice) as refused:
        group(np.zeros((count, 2), np.float32), 0.5)
    assert f"{count:,} faces were found and 10 to 10,000 can be grouped" in str(refused.value)


@pytest.mark.slow
def test_ten_thousand_faces_take_less_than_a_minute():
    people = np.random.default_rng(2).integers(0, 2000, MOST)
    vectors, start = faces(people, 0.6, 512), time.perf_counter()
    found = group(vectors, 0.4)
    assert time.perf_counter() - start < 60
    assert all(len(set(people[rows])) == 1 for rows in found)
