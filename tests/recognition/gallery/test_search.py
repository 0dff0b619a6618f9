import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from facemae.recognition.gallery import schema, search
from facemae.recognition.gallery.search import Matrix, best_people, exact_scores


def drawn(count, size=8, seed=0):
    return schema.units(np.random.default_rng(seed).normal(size=(count, size)))


def filled(vectors, owners, ids=None):
    matrix = Matrix(vectors.shape[1])
    matrix.add(np.arange(1, len(vectors) + 1) if ids is None else ids, np.asarray(owners), vectors)
    return matrix


def by_hand(vectors, owners, query, top):
    best = {}
    for owner, vector in zip(owners, vectors, strict=True):
        score = min(float(np.dot(vector.astype(float), query.astype(float))), 1.0)  # rounding may exceed it
        best[int(owner)] = max(score, best.get(int(owner), -2.0))
    return sorted(best.items(), key=lambda item: (-item[1], item[0]))[:top]


def test_scores_by_hand():
    vectors = np.float32([[1, 0], [0.6, 0.8], [0, -1]])
    np.testing.assert_allclose(exact_scores(vectors, np.float32([0.8, 0.6])), [0.8, 0.96, -0.6], atol=1e-7)
    longer = np.float32([[1.0001, 0]])
    assert exact_scores(longer, np.float32([1, 0])) == [1.0]


def test_a_person_scores_with_the_best_and_equals_stand_by_id():
    found = best_people(np.array([5, 3, 5, 9, 3]), np.array([0.1, 0.7, 0.7, 0.9, -1.0]), 3)
    assert found == [(9, 0.9), (3, 0.7), (5, 0.7)]
    assert best_people(np.array([], int), np.array([]), 3) == []


@pytest.mark.parametrize("queries", [1, 2, 16, 33])
def test_the_best_are_those_of_all(queries):
    vectors, asked = drawn(500), drawn(queries, seed=1)
    owners = np.random.default_rng(2).integers(0, 120, 500)
    for query, found in zip(asked, filled(vectors, owners).best(asked, 9), strict=True):
        expected = by_hand(vectors, owners, query, 9)
        assert [person for person, _ in found] == [person for person, _ in expected]
        np.testing.assert_allclose(
            [score for _, score in found], [score for _, score in expected], atol=1e-12
        )


def test_people_whom_float32_cannot_tell_apart_are_in_the_right_order():
    base = drawn(1, 512)[0].astype(float)
    vectors = np.stack([base + 3e-8 * each * drawn(1, 512, seed=each + 1)[0] for each in range(12)])
    vectors = schema.units(vectors)
    owners = np.arange(12)[::-1]
    exact = best_people(owners, exact_scores(vectors, vectors[0]), 5)
    assert filled(vectors, owners).best(vectors[:1], 5) == [exact]
    assert exact != best_people(owners, (vectors @ vectors[0]).astype(float), 5)  # so it matters


def test_a_score_does_not_depend_on_the_company():
    vectors, asked = drawn(300, 64), drawn(20, 64, seed=1)
    whole = filled(vectors, np.arange(300)).best(asked, 300)
    alone = filled(vectors[7:8], [7]).best(asked[3:4], 1)[0]
    assert alone[0] in whole[3]


def test_an_empty_matrix_finds_nobody():
    matrix = Matrix(8, 100)
    assert matrix.best(drawn(2), 5) == [[], []]
    assert matrix.pairs(0.0) == []
    assert (len(matrix), matrix.last) == (0, 0)


@settings(max_examples=60)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 2**16)), max_size=12))
@example([(True, 65534), (False, 65533)])  # a template is looked for, and is longer than 1 by a rounding
def test_a_matrix_that_changes_is_one_made_anew(steps):
    """Templates come and go and change hands, in any order."""
    matrix, held, last = Matrix(4), {}, 0
    for adds, seed in steps:
        random = np.random.default_rng(seed)
        if adds:
            count = int(random.integers(1, 9))
            ids = np.arange(last + 1, last + 1 + count)
            owners, vectors = random.integers(0, 5, count), drawn(count, 4, seed)
            matrix.add(ids, owners, vectors)
            held |= {
                int(each): (int(owner), vector)
                for each, owner, vector in zip(ids, owners, vectors, strict=True)
            }
            last += count
        else:
            held = {each: (int(random.integers(0, 5)), vector) for each, (_, vector) in held.items()
                    if random.random() < 0.6}  # fmt: skip
            ids = np.array(sorted(held), int)
            matrix.keep(ids, np.array([held[each][0] for each in ids.tolist()], int))
        assert (len(matrix), matrix.last) == (len(held), last)
        if held:
            owners, vectors = zip(*held.values(), strict=True)
            query = drawn(1, 4, seed + 1)
            found = matrix.best(query, 3)[0]
            expected = by_hand(np.stack(vectors), owners, query[0], 3)
            assert found == [(person, pytest.approx(score, abs=1e-12)) for person, score in expected]


def test_one_more_person_seldom_moves_the_others():
    matrix, moved, place = filled(drawn(1000), np.arange(1000)), 0, None
    for number in range(300):
        matrix.add(np.array([2000 + number]), np.array([2000 + number]), drawn(1))
        moved += matrix._vectors is not place
        place = matrix._vectors
    assert moved <= 4


@pytest.mark.parametrize("threshold", [0.2, 0.9, 0.99])
def test_pairs_are_those_of_all_with_all(threshold, monkeypatch):
    monkeypatch.setattr(search, "_BLOCK", 7)  # so that there are many
    monkeypatch.setattr(search, "MOST_PAIRS", 10_000)
    vectors = drawn(60, 3)
    owners = np.random.default_rng(3).integers(0, 40, 60)
    scores, expected = vectors.astype(float) @ vectors.astype(float).T, {}
    for one in range(60):
        for other in range(60):
            if owners[one] < owners[other] and scores[one, other] >= threshold:
                pair = int(owners[one]), int(owners[other])
                expected[pair] = max(scores[one, other], expected.get(pair, -1))
    found = filled(vectors, owners).pairs(threshold)
    assert {(one, other): score for one, other, score in found} == pytest.approx(expected)
    assert expected
    assert [score for *_, score in found] == sorted((score for *_, score in found), reverse=True)


def test_no_more_pairs_than_anybody_reads():
    found = filled(np.ones((60, 1), np.float32), np.arange(60)).pairs(0.5)
    assert len(found) == search.MOST_PAIRS < 60 * 59 / 2
