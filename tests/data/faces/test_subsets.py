from itertools import pairwise

import pandas as pd
import pytest

from facemae import config
from facemae.core.errors import DataError
from facemae.data.faces.subsets import (
    KNOWN_PHOTOS,
    VALIDATED_PHOTOS,
    known_faces,
    labelled_subset,
    people_apart,
    shown_twice,
)


@pytest.fixture
def faces():
    """Twelve people, of whom p0 has one photo and p11 twelve."""
    people = [f"p{person}" for person in range(12) for _ in range(person + 1)]
    return pd.DataFrame({"person": people, "sample_id": [f"{n}" for n in range(len(people))]})


def labels(share=1.0, per_person=0, min_per_person=1, subset=0):
    return config.Labels(fraction=share, per_person=per_person, min_per_person=min_per_person, subset=subset)


def names(rows):
    return set(rows["sample_id"])


def test_all_labels_are_all_rows_in_their_order(faces):
    assert labelled_subset(faces, labels()).equals(faces)


@pytest.mark.parametrize("subset", [0, 1])
def test_smaller_shares_lie_within_greater_ones(faces, subset):
    subsets = [labelled_subset(faces, labels(share, subset=subset)) for share in (0.05, 0.1, 0.25, 0.5, 1.0)]
    assert [len(each) for each in subsets] == [4, 8, 20, 39, 78]
    for small, great in pairwise(subsets):
        assert names(small) < names(great)
        assert small["sample_id"].astype(int).is_monotonic_increasing


def test_everybody_keeps_a_face_as_long_as_there_are_enough(faces):
    assert labelled_subset(faces, labels(12 / 78))["person"].nunique() == 12
    few = labelled_subset(faces, labels(5 / 78))
    assert few["person"].is_unique
    assert len(few) == 5


def test_of_a_person_so_many_faces_are_used(faces):
    for most in (1, 3):
        sizes = labelled_subset(faces, labels(per_person=most)).groupby("person").size()
        assert sizes.to_dict() == {f"p{person}": min(person + 1, most) for person in range(12)}
    assert names(labelled_subset(faces, labels(per_person=1))) < names(
        labelled_subset(faces, labels(per_person=3))
    )
    both = labelled_subset(faces, labels(share=0.5, per_person=3))
    assert len(both) == round(0.5 * (1 + 2 + 3 * 10))
    assert both.groupby("person").size().max() <= 3


def test_people_with_few_faces_are_left_out(faces):
    found = labelled_subset(faces, labels(min_per_person=5))
    assert found.equals(faces[faces["person"].isin([f"p{person}" for person in range(4, 12)])])
    assert len(labelled_subset(faces, labels(min_per_person=5, share=0.5))) == round(0.5 * len(found))


def test_subsets_are_others_and_each_the_same_again(faces):
    first, second = (labelled_subset(faces, labels(0.25, subset=number)) for number in (0, 1))
    assert names(first) != names(second)
    assert names(labelled_subset(faces, labels(0.25, subset=0))) == names(first)
    met = [names(labelled_subset(faces, labels(0.5, subset=number))) for number in range(60)]
    often = [sum(str(face) in each for each in met) for face in range(66, 78)]  # of the one with twelve
    assert min(often) > 0.15 * 60
    assert max(often) < 0.85 * 60


def test_one_person_alone_is_refused(faces):
    with pytest.raises(DataError, match="it takes two to tell apart; raise fraction, or lower"):
        labelled_subset(faces, labels(0.01))
    with pytest.raises(DataError, match="shows 1 people"):
        labelled_subset(faces[faces["person"] == "p11"], labels())


# --- people held out ---


def test_people_are_held_out_whole(faces):
    learnt, held_out = people_apart(faces, 0.3)
    assert set(learnt["person"]).isdisjoint(held_out["person"])
    assert held_out["person"].nunique() == 3  # of 11 with two photos or more
    assert held_out.groupby("person").size().between(2, VALIDATED_PHOTOS).all()
    assert set(faces["person"]) == set(learnt["person"]) | set(held_out["person"])
    assert learnt["person"].isin(held_out["person"]).sum() == 0
    again, nobody = people_apart(faces, 0.0)
    assert len(again) == len(faces)
    assert nobody.empty


def test_too_few_people_to_validate_on_are_refused(faces):
    for share in (0.05, 0.95):
        with pytest.raises(DataError, match="fewer than two to learn from or to validate on"):
            people_apart(faces[faces["person"].isin([f"p{n}" for n in range(6, 9)])], share)


def test_the_faces_to_look_at_are_two_each_of_people_shown_twice(faces):
    found = known_faces(faces)
    assert found.groupby("person").size().to_dict() == {f"p{n}": KNOWN_PHOTOS for n in range(1, 12)}


@pytest.mark.parametrize("people", [["p0", "p1", "p1"], ["p0", "p1", "p2"]])
def test_there_is_nobody_to_look_at_where_no_two_people_are_shown_twice(people):
    assert known_faces(pd.DataFrame({"person": people, "sample_id": ["a", "b", "c"]})).empty


def test_people_shown_twice_are_drawn_from_all_over_the_table():
    people = [f"p{number:05}" for number in range(3000)]
    rows = pd.DataFrame({"person": [name for name in people for _ in range(8)] + ["alone"]})
    counts = shown_twice(rows, photos=5, most=1000)["person"].value_counts()
    assert len(counts) == 200
    assert set(counts) == {5}
    assert {"p00000", "p02999"} <= set(counts.index)
    assert shown_twice(pd.DataFrame({"person": ["a", "b", "a"]}), 5, 1000)["person"].tolist() == ["a", "a"]
    assert shown_twice(pd.DataFrame({"person": ["a", "b"]}), 5, 1000).empty
