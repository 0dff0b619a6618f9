"""Identification by hand, against `metrics` and against loops."""

import numpy as np
import pytest

from facemae.core.errors import RefusedError
from facemae.evaluation.protocols import identification
from facemae.evaluation.protocols.identification import closed_set, low_far, open_set
from facemae.evaluation.statistics import identity_weights


def faces(people=40, images=5, noise=1.5, seed=0, features=16):
    rng = np.random.default_rng(seed)
    identity = rng.permutation(np.repeat(np.arange(people), images))
    directions = rng.normal(size=(people, features))
    return directions[identity] + noise * rng.normal(size=(len(identity), features)), identity


def first_of_each(identity):
    enrolled = np.zeros(len(identity), bool)
    enrolled[np.unique(identity, return_index=True)[1]] = True
    return enrolled


def at_angles(*degrees):
    return np.stack([np.cos(np.radians(degrees)), np.sin(np.radians(degrees))], axis=1)


def similarities(embeddings, identity, enrolled):
    """Return for each probe, by loops, whose it is and its best similarity to each enrolled person."""
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    found = []
    for probe in np.flatnonzero(~enrolled):
        best = {}
        for image in np.flatnonzero(enrolled):
            person, score = int(identity[image]), float(unit[probe] @ unit[image])
            best[person] = max(score, best.get(person, -2))
        found.append((int(identity[probe]), best))
    return found


@pytest.fixture
def in_blocks(monkeypatch):
    monkeypatch.setattr(identification, "_BLOCK_VALUES", 300)


@pytest.mark.parametrize("enrolled_images", [1, 2])
def test_ranks_as_loops_count_them(in_blocks, enrolled_images):
    embeddings, identity = faces()
    enrolled = np.zeros(200, bool)
    for person in range(40):
        enrolled[np.flatnonzero(identity == person)[:enrolled_images]] = True
    ranks = []
    for person, best in similarities(embeddings, identity, enrolled):
        ranks.append(sum(score >= best[person] for score in best.values()))
    found = closed_set(embeddings, identity, enrolled)
    assert [each.name for each in found] == ["rank1", "rank5", "rank20"]
    assert [each.value for each in found] == pytest.approx(
        [(np.array(ranks) <= rank).mean() for rank in (1, 5, 20)]
    )
    assert found[0].n == len(ranks)


def test_rank_1_is_that_of_probes_one_by_one_where_everyone_has_as_many():
    embeddings, identity = faces()
    enrolled, weights = first_of_each(identity), identity_weights(40, 30, 0)
    expected = identification.rank1(embeddings, identity, enrolled, weights)
    found = closed_set(embeddings, identity, enrolled, weights, ranks=[1])[0]
    assert (found.value, found.n) == (pytest.approx(expected.value), expected.n)
    np.testing.assert_allclose(found.samples, expected.samples)


def test_a_tie_counts_against_the_probe():
    embeddings = np.array([[1.0, 0], [1, 0], [0, 1], [1, 0], [0, 1]])
    enrolled = np.array([True, True, True, False, False])
    found = closed_set(embeddings, np.array([0, 1, 2, 0, 2]), enrolled, ranks=[1, 2])
    assert [each.value for each in found] == [0.5, 1.0]


def test_a_rank_that_everyone_reaches_is_refused():
    embeddings, identity = faces(people=20)
    found = closed_set(embeddings, identity, first_of_each(identity))
    assert found[1].value is not None
    assert found[2].value is None
    assert found[2].note == "needs more than 20 enrolled people, this gallery has 20"


def test_a_closed_set_has_no_strangers():
    embeddings, identity = faces()
    with pytest.raises(ValueError, match="person 7 has a probe but no enrolled image"):
        closed_set(embeddings, identity, first_of_each(identity) & (identity != 7))


def test_open_set_by_hand():
    """Gallery: people 0 at 0 degrees, 1 at 90. Ten strangers, one nearer than all others."""
    strangers = [40, *(44,) * 9]
    embeddings = at_angles(0, 90, 10, 39, 80, 50, *strangers)
    identity = np.array([0, 1, 0, 0, 1, 0, *range(2, 12)])
    probes = identification._search(embeddings, identity, np.arange(16) < 2)
    assert probes.mated.tolist() == [True] * 4 + [False] * 10
    assert probes.rank.tolist() == [1, 1, 1, 2] + [0] * 10
    everyone = np.ones((1, 12))
    # Person 0 is found by two probes of three and person 1 by the only one: 5/6 of a person on the average.
    # At an FPIR of 0 the stranger at 40 degrees has to be turned down, the probe at 39 need not be.
    for target, fpir in ((0.05, 0.0), (0.1, 0.1), (0.95, 0.1), (1.0, 1.0)):
        found = identification._at_fpir(probes, target, everyone)[:, 0]
        assert found == pytest.approx([5 / 6, fpir])
    # Without person 1's probe two of three are found; a stranger drawn twice is two of eleven.
    weights = np.array([[1, 0, *[1] * 10], [1, 1, 2, *[1] * 9]], float)
    tpir, fpir = identification._at_fpir(probes, 0.2, weights)
    assert tpir.tolist() == pytest.approx([2 / 3, 5 / 6])
    assert fpir.tolist() == pytest.approx([0.1, 2 / 11])


def test_a_stranger_of_many_photos_is_one_stranger():
    """One of ten strangers looks like somebody enrolled in each of 90 photos: an FPIR of 0.1, not 0.9."""
    embeddings = at_angles(0, 1, *[2] * 90, *[60] * 9)
    identity = np.array([0, 0, *[1] * 90, *range(2, 11)])
    found = open_set(embeddings, identity, np.arange(101) == 0, fpir_targets=[0.5, 0.9])
    values = {each.name: each.value for each in found}
    assert values == pytest.approx({
        "tpir_at_fpir=0.5": 1.0, "fpir_at_target=0.5": 0.1,
        "tpir_at_fpir=0.9": 1.0, "fpir_at_target=0.9": 0.1,
    })  # fmt: skip


def test_a_rank_is_the_mean_over_people():
    embeddings = at_angles(0, 90, 80, *[10] * 3, 100)
    found = closed_set(
        embeddings, np.array([0, 1, 0, 0, 0, 0, 1]), np.arange(7) < 2, np.array([[1, 1], [1, 3]]), [1]
    )
    assert found[0].value == pytest.approx((3 / 4 + 1) / 2)
    assert found[0].samples == pytest.approx([7 / 8, (3 / 4 + 3) / 4])
    assert found[0].note == "mean over 2 people, which is too few for a rate"


@pytest.mark.parametrize("target", [0.1, 0.25])
def test_open_set_as_loops_find_it(in_blocks, target):
    embeddings, identity = faces(people=160)
    enrolled = first_of_each(identity) & (identity % 2 == 0)
    mated, strangers = [], []
    for person, best in similarities(embeddings, identity, enrolled):
        top = max(best.values())
        if person in best:
            mated.append(top if best[person] == top else -2)
        else:
            strangers.append(top)
    cuts = [cut for cut in {*mated, *strangers} if np.mean(np.array(strangers) >= cut) <= target]
    tpir, fpir = open_set(embeddings, identity, enrolled, fpir_targets=[target])
    assert tpir.value == pytest.approx(np.mean(np.array(mated) >= min(cuts)))
    assert fpir.value == pytest.approx(np.mean(np.array(strangers) >= min(cuts)))
    assert (tpir.name, fpir.name) == (f"tpir_at_fpir={target}", f"fpir_at_target={target}")
    assert tpir.n == 400
    assert tpir.note == "320 mated probes; mean over 80 people"


def test_resamples_of_the_open_set_are_literal_copies():
    embeddings, identity = faces(people=160)
    enrolled = first_of_each(identity) & (identity % 2 == 0)
    weights = identity_weights(160, 3, 0)
    found = open_set(embeddings, identity, enrolled, weights, [0.1])[0]
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    probes = identification._search(unit, identity, enrolled)
    for row, sample in zip(weights, found.samples, strict=True):
        # Everyone drawn twice is two people with the same probes.
        drawn = [
            (np.flatnonzero(probes.person == person), number)
            for number, person in enumerate(np.repeat(np.arange(160), row))
        ]
        places = np.concatenate([own for own, _ in drawn])
        people = np.concatenate([np.full(len(own), number) for own, number in drawn])
        copies = identification._Probes(people, probes.mated[places], probes.rank[places], probes.top[places])
        once = identification._at_fpir(copies, 0.1, np.ones((1, len(drawn))))
        assert once[0, 0] == pytest.approx(sample)


def test_few_strangers_are_refused():
    embeddings, identity = faces()
    enrolled = first_of_each(identity) & (identity % 2 == 0)
    found = open_set(embeddings, identity, enrolled, fpir_targets=[0.3, 0.1])
    assert found[0].value is not None
    assert [each.note for each in found[2:]] == ["needs 300 non-mated probes, this evaluation has 100"] * 2
    assert [each.value for each in found[2:]] == [None, None]


def test_an_open_set_without_mated_probes_is_refused():
    embeddings, identity = faces()
    found = open_set(embeddings, identity, identity == 3, fpir_targets=[0.5])
    assert found[0].note == "needs probes of enrolled people, this evaluation has none"


def test_a_resample_without_strangers_has_no_value():
    embeddings, identity = faces()
    enrolled = first_of_each(identity) & (identity % 2 == 0)
    weights = np.stack([identity % 2 == 0, np.ones(200)])[:, np.unique(identity, return_index=True)[1]]
    samples = open_set(embeddings, identity, enrolled, weights.astype(int), [0.5])[0].samples
    assert np.isfinite(samples).tolist() == [False, True]


def test_low_far_is_the_mean_over_halves(monkeypatch):
    monkeypatch.setattr(identification, "BLUFR_DIR_AT", 0.1)  # which a tenth of the probes support
    embeddings, identity = faces(people=84, images=15, noise=0.6)
    tar, rate = low_far(embeddings, identity, trials=2)
    assert (tar.name, rate.name) == ("blufr_tar=0.001", "blufr_dir=0.1")
    assert 0.3 < tar.value < 1
    assert 0.3 < rate.value < 1
    assert tar.n == 630 * 629 // 2 - 42 * 15 * 14 // 2
    assert rate.n == 21 * 15
    assert tar.note.startswith("standard deviation 0.0")
    assert tar.note.endswith(" over 2 halves of the people; of the first half mean over 42 people")
    assert low_far(embeddings, identity, trials=2)[0].value == tar.value
    assert low_far(embeddings, identity, trials=2, seed=1)[0].value != tar.value


def test_low_far_refuses_what_half_of_the_people_cannot_support():
    found = low_far(*faces())
    assert [each.value for each in found] == [None, None]
    assert found[0].note == "needs 30000 impostor pairs, half of these people have 4750"
    assert found[1].note == "needs 3000 non-mated probes, this evaluation has 50"
    with pytest.raises(RefusedError, match="needs 4 people, got 3"):
        low_far(*faces(people=3))


@pytest.mark.parametrize("measure", [closed_set, open_set])
@pytest.mark.parametrize(("spoil", "message"), [
    (lambda e, i, g: (e * np.nan, i, g), "embedding 0 is not finite"),
    (lambda e, i, g: (e * 0, i, g), "embedding 0 is zero"),
    (lambda e, i, g: (e, i, ~g | g), "every image is enrolled"),
    (lambda e, i, g: (e, i, g & ~g), "no image is enrolled"),
])  # fmt: skip
def test_what_cannot_be_measured_is_named(measure, spoil, message):
    embeddings, identity = faces()
    with pytest.raises((RefusedError, ValueError), match=message):
        measure(*spoil(embeddings, identity, first_of_each(identity)))


def test_rank1_by_hand():
    east, north, south_east = [1.0, 0.0], [0.0, 1.0], [1.0, -1.0]
    embeddings = np.array([east, north, south_east, [3.0, 1.0], [1.0, 3.0], [1.0, 2.0]])
    identity = np.array([0, 1, 2, 0, 0, 1])
    enrolled = np.array([True, True, True, False, False, False])
    weights = np.array([[1, 2, 0], [3, 0, 0], [0, 0, 3]])
    found = identification.rank1(embeddings, identity, enrolled, weights)
    assert (found.value, found.n) == (pytest.approx(2 / 3), 3)
    assert found.samples == pytest.approx([3 / 4, 1 / 2, np.nan], nan_ok=True)


def test_rank1_counts_a_tie_with_another_person_as_wrong():
    enrolled = np.array([True, True, False, False])
    people = np.array([0, 1, 0, 1])
    assert identification.rank1(np.ones((4, 3)), people, enrolled, np.ones((1, 2), int)).value == 0


def test_rank1_refuses():
    embeddings, identity, once = np.eye(3), np.array([0, 1, 1]), np.ones((1, 2), int)
    with pytest.raises(RefusedError, match="every image is enrolled"):
        identification.rank1(embeddings, identity, np.array([True] * 3), once)
    with pytest.raises(ValueError, match="person 1 has a probe but no enrolled image"):
        identification.rank1(embeddings, identity, np.array([True, False, False]), once)
