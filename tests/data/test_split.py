import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.config import Split
from facemae.data.split import check_split, split_people
from facemae.errors import DataError, IntegrityError
from facemae.results import SPLIT_COLUMNS


def faces_of(people, unlabelled=0):
    """A table with so many faces of each person, every photo with a content of its own."""
    named = [(f"labelled/{name}/{shot}", name) for name, count in people.items() for shot in range(count)]
    rows = [*named, *((f"unlabelled/{shot}", None) for shot in range(unlabelled))]
    return pd.DataFrame(
        {"sample_id": [row[0] for row in rows], "person": [row[1] for row in rows],
         "sha256": [f"content of {row[0]}" for row in rows]}
    )  # fmt: skip


def settings_of(share=0.5, folds=2, seed=0):
    return Split(evaluation_share=share, folds=folds, seed=seed)


def people_in(table, *roles):
    return set(table.loc[table["role"].isin(roles), "person"].dropna())


CORPORA = st.builds(
    faces_of,
    st.integers(0, 12).flatmap(
        lambda singles: st.integers(12, 25).map(
            lambda pairs: {f"p{k:02}": 1 if k < singles else 2 + k % 3 for k in range(singles + pairs)}
        )
    ),
    st.integers(0, 6),
)


@settings(max_examples=60)
@given(
    faces=CORPORA, share=st.sampled_from([0.2, 0.3, 0.5]), folds=st.integers(2, 4),
    seed=st.integers(0, 9), copies=st.integers(0, 10), order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_split_keeps_people_photos_and_contents_apart(faces, share, folds, seed, copies, order):
    places = list(range(len(faces)))
    order.shuffle(places)
    faces.loc[places[:copies], "sha256"] = faces.loc[places[-1], "sha256"]  # the same photo under many names
    faces = faces.iloc[places]
    try:
        table = split_people(faces, settings_of(share, folds, seed))
    except DataError:
        kept = faces.sort_values("sample_id").drop_duplicates("sha256")
        counts = kept["person"].value_counts()
        wanted = round(share * len(counts))
        # Refused only for a reason: not enough for the folds, or too few with a pair.
        assert wanted < 2 * folds or (counts >= 2).sum() < wanted or len(counts) - wanted < 2
        return
    check_split(table)
    assert list(table.columns) == SPLIT_COLUMNS
    assert not table["sha256"].duplicated().any()
    assert set(table["sha256"]) == set(faces["sha256"])  # one of each content stays
    evaluated, trained = table[table["role"] == "evaluation"], table[table["role"] != "evaluation"]
    for column in ("person", "sample_id", "sha256"):
        assert not set(evaluated[column].dropna()) & set(trained[column].dropna())
    # The share is of all people, drawn from those with a pair.
    assert evaluated["person"].nunique() == round(share * table["person"].nunique())
    assert (evaluated["person"].value_counts() >= 2).all()
    # Nobody unlabelled is evaluated, everybody named is somewhere.
    assert set(table.loc[table["person"].isna(), "role"]) <= {"unlabelled"}
    assert set(table.loc[table["person"].notna(), "role"]) == {"train", "evaluation"}
    # Folds are people's, as even as can be, and only evaluation people have one.
    by_person = evaluated.groupby("person")["fold"].agg(["nunique", "first"])
    assert (by_person["nunique"] == 1).all()
    sizes = by_person["first"].value_counts()
    assert set(sizes.index) == set(range(folds))
    assert sizes.max() - sizes.min() <= 1
    assert sizes.min() >= 2
    assert trained["fold"].isna().all()
    # One enrolled face per evaluation person, the first.
    enrolled = table[table["enrolled"]]
    assert set(enrolled["sample_id"]) == set(evaluated.groupby("person")["sample_id"].min())


def test_a_split_follows_its_seed_and_not_the_order_of_the_table():
    faces = faces_of({f"p{k:02}": 3 for k in range(20)}, unlabelled=4)
    first = split_people(faces, settings_of(seed=1))
    pd.testing.assert_frame_equal(split_people(faces, settings_of(seed=1)), first)
    pd.testing.assert_frame_equal(
        split_people(faces.sample(frac=1, random_state=3), settings_of(seed=1)), first
    )
    others = {
        frozenset(people_in(split_people(faces, settings_of(seed=seed)), "evaluation")) for seed in range(6)
    }
    assert len(others) > 3


def test_a_split_leaves_the_table_it_was_given_alone():
    faces = faces_of({f"p{k:02}": 3 for k in range(10)})
    before = faces.copy()
    split_people(faces, settings_of())
    pd.testing.assert_frame_equal(faces, before)


def test_a_copy_keeps_its_labelled_name():
    faces = faces_of({f"p{k:02}": 3 for k in range(10)}, unlabelled=3)
    faces.loc[faces["sample_id"] == "unlabelled/1", "sha256"] = "content of labelled/p03/2"
    table = split_people(faces, settings_of())
    assert set(faces["sample_id"]) - set(table["sample_id"]) == {"unlabelled/1"}


def test_people_with_one_face_are_trained_on():
    faces = faces_of({f"p{k:02}": 1 if k < 8 else 2 for k in range(16)})
    table = split_people(faces, settings_of(0.5))
    assert people_in(table, "evaluation") == {f"p{k:02}" for k in range(8, 16)}
    assert people_in(table, "train") == {f"p{k:02}" for k in range(8)}


def test_a_copy_can_cost_a_person_the_second_face():
    faces = faces_of({f"p{k:02}": 2 for k in range(9)})
    faces.loc[1, "sha256"] = faces.loc[0, "sha256"]  # p00's two photos are one
    table = split_people(faces, settings_of(0.6))
    assert "p00" not in people_in(table, "evaluation")


@pytest.mark.parametrize(
    ("people", "share", "folds"),
    [
        ({f"p{k}": 3 for k in range(7)}, 0.5, 5),  # 4 evaluation people do not fill 5 folds by two
        ({f"p{k}": 3 for k in range(5)}, 0.8, 2),  # one person left to train on
        ({f"p{k}": 1 for k in range(20)}, 0.5, 2),  # nobody with a pair
        ({f"p{k}": 1 if k else 3 for k in range(20)}, 0.5, 2),
        ({"only": 5}, 0.5, 2),
        ({}, 0.5, 2),
    ],
)
def test_too_few_people_are_told_with_their_number(people, share, folds):
    faces = faces_of(people, unlabelled=3)
    with pytest.raises(DataError, match=f"There are too few people: {len(people)}, of whom") as caught:
        split_people(faces, settings_of(share, folds))
    assert caught.value.exit_code == 3


def test_the_smallest_corpus_that_can_be_split():
    table = split_people(faces_of({f"p{k}": 2 for k in range(8)}), settings_of(0.5, 2))
    assert len(people_in(table, "evaluation")) == len(people_in(table, "train")) == 4


# --- the gate ---


@pytest.fixture
def table():
    return split_people(faces_of({f"p{k:02}": 2 for k in range(10)}, unlabelled=3), settings_of())


@pytest.mark.parametrize("side", ["train", "unlabelled"])
@pytest.mark.parametrize(
    ("column", "what"), [("person", "person"), ("sample_id", "photo"), ("sha256", "file content")]
)
def test_a_leak_of_any_kind_is_stopped(table, side, column, what):
    check_split(table)
    source = table.index[table["role"] == "evaluation"][3]
    target = table.index[table["role"] == side][1]
    table.loc[target, column] = table.loc[source, column]
    with pytest.raises(
        IntegrityError, match=rf"leaks: 1 {what}\(s\) .*for example {table.loc[source, column]};"
    ):
        check_split(table)


def test_a_person_moved_over_by_half_is_a_leak(table):
    table.loc[table.index[table["role"] == "evaluation"][0], "role"] = "train"
    with pytest.raises(IntegrityError, match=r"person\(s\) are both trained on and evaluated on") as caught:
        check_split(table)
    assert caught.value.exit_code == 4


def test_a_photo_of_nobody_among_the_labelled_ones_is_not_trained_on():
    """labelled/p03/old/1 may well show p03, who may well be evaluated on."""
    faces = faces_of({f"p{k:02}": 2 for k in range(10)})
    faces.loc[len(faces)] = ["labelled/p03/old/1", None, "content of its own"]
    assert "labelled/p03/old/1" not in set(split_people(faces, settings_of())["sample_id"])
