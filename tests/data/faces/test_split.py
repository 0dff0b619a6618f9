import hashlib
import unicodedata

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.config import Split
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.layout import OVERLAP_COLUMNS, SPLIT_COLUMNS
from facemae.data.faces.overlaps import LEAKAGE_CHECKS, normal_name
from facemae.data.faces.pairs import table as pairs_table
from facemae.data.faces.split import (
    check_split,
    evaluated_pairs,
    listed_people,
    split_people,
)
from facemae.data.sources.base import Pair


def hash_of(text):
    """256 bits that have nothing to do with those of another text."""
    return hashlib.sha256(text.encode()).digest()


def turned(value, bits):
    """A hash with its first bits turned over."""
    flips = np.packbits(np.arange(256) < bits)
    return (np.frombuffer(value, np.uint8) ^ flips).tobytes()


def rows_of(rows):
    """A table of faces, each of a content and a picture of its own, from (sample_id, person, set)."""
    names = [row[0] for row in rows]
    return pd.DataFrame(
        {"sample_id": names, "person": [row[1] for row in rows],
         "source": [name.split("/")[0] for name in names], "set": [row[2] for row in rows],
         "sha256": [f"content of {name}" for name in names], "hash": [hash_of(name) for name in names]}
    )  # fmt: skip


def faces_of(people, unlabelled=0):
    """A table with so many faces of each person, and of nobody."""
    named = [
        (f"own/{name}/{shot}", name, "labelled") for name, count in people.items() for shot in range(count)
    ]
    return rows_of([*named, *((f"more/{shot}", None, "unlabelled") for shot in range(unlabelled))])


def settings_of(
    share=0.5,
    folds=2,
    seed=0,
    overlap="exclude",
    hash_bits=7,
    same_cosine=0.9,
    pairs=None,
    rotations=1,
    pair_folds=None,
):
    return Split(
        pairs=pairs, rotations=rotations, evaluation_fraction=share, folds=folds, seed=seed, overlap=overlap,
        hash_bits=hash_bits, embedder=None, same_cosine=same_cosine, pair_folds=pair_folds,
    )  # fmt: skip


def split_of(faces, **changes):
    return split_people(faces, settings_of(**changes))[0]


def people_in(table, *roles):
    return set(table.loc[table["role"].isin(roles), "person"].dropna())


def tuples(overlaps):
    return [tuple(row) for row in overlaps.itertuples(index=False)]


TEN = {f"p{k:02}": 3 for k in range(10)}

# Seed 0, half of the people, five folds.
ORL_FOLDS = {
    0: "s03 s11 s12 s31",
    1: "s04 s23 s28 s38",
    2: "s05 s21 s35 s39",
    3: "s18 s19 s25 s27",
    4: "s01 s02 s24 s29",
}

CORPORA = st.builds(
    faces_of,
    st.integers(0, 12).flatmap(
        lambda singles: st.integers(12, 25).map(
            lambda pairs: {f"p{k:02}": 1 if k < singles else 2 + k % 3 for k in range(singles + pairs)}
        )
    ),
    st.integers(0, 6),
)


@settings(max_examples=25)
@given(
    faces=CORPORA, share=st.sampled_from([0.2, 0.3, 0.5]), folds=st.integers(2, 4),
    seed=st.integers(0, 9), copies=st.integers(0, 10), order=st.randoms(use_true_random=False),
)  # fmt: skip
def test_a_split_keeps_people_photos_and_contents_apart(faces, share, folds, seed, copies, order):
    places = list(range(len(faces)))
    order.shuffle(places)
    for column in ("sha256", "hash"):  # the same photo under many names
        for place in places[:copies]:
            faces.at[place, column] = faces.at[places[-1], column]
    faces = faces.iloc[places]
    once = faces.sort_values(["set", "sample_id"]).drop_duplicates("sha256")
    counts = once["person"].value_counts()
    wanted = round(share * len(counts))
    try:
        table, overlaps = split_people(faces, settings_of(share, folds, seed))
    except DataError:
        # Refused only for a reason: not enough for the folds, or too few with a pair.
        assert wanted < 2 * folds or (counts >= 2).sum() < wanted or len(counts) - wanted < 2
        return
    check_split(table)
    assert list(table.columns) == SPLIT_COLUMNS
    assert list(overlaps.columns) == OVERLAP_COLUMNS
    assert not table["sha256"].duplicated().any()
    assert set(table["sha256"]) == set(faces["sha256"])  # one of each content stays
    evaluated, trained = table[table["role"] == "evaluation"], table[table["role"] != "evaluation"]
    for column in ("person", "sample_id", "sha256"):
        assert not set(evaluated[column].dropna()) & set(trained[column].dropna())
    # Of a photo that is on both sides the evaluation's stays.
    everybody = faces[faces["person"].isin(people_in(table, "evaluation"))]
    assert set(everybody["sha256"]) == set(evaluated["sha256"])
    # The share is of all people, drawn from those with a pair.
    assert evaluated["person"].nunique() == wanted
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
    faces = faces_of({f"p{k:02}": 3 for k in range(20)}, unlabelled=9)
    for other in range(4):  # near-duplicates of several kinds, with ties
        faces.at[60 + other, "hash"] = turned(faces.at[5 * other, "hash"], 3)
        faces.at[30 + other, "hash"] = turned(faces.at[5 * other, "hash"], 3)
    faces.at[66, "sha256"] = faces.at[67, "sha256"]
    embeddings = np.random.default_rng(0).normal(size=(len(faces), 4))
    split = settings_of(seed=1)
    first, overlaps = split_people(faces, split, embeddings)
    assert {"hash", "embedding"} <= set(overlaps["kind"])
    for state in range(3):
        order = np.random.default_rng(state).permutation(len(faces))
        table, listed = split_people(faces.iloc[order], split, embeddings[order])
        pd.testing.assert_frame_equal(table, first)
        pd.testing.assert_frame_equal(listed, overlaps)
    others = {frozenset(people_in(split_of(faces, seed=seed), "evaluation")) for seed in range(6)}
    assert len(others) > 3


def test_a_split_leaves_the_table_it_was_given_alone():
    faces = faces_of(TEN)
    before = faces.copy()
    split_of(faces)
    pd.testing.assert_frame_equal(faces, before)


def test_the_draw_of_the_forty_people_of_orl_stays_what_it_was():
    faces = faces_of({f"s{k:02}": 10 for k in range(1, 41)})
    table = split_of(faces, folds=5)
    evaluated = table[table["role"] == "evaluation"].drop_duplicates("person")
    assert evaluated.groupby("fold")["person"].agg(" ".join).to_dict() == ORL_FOLDS
    assert len(table) == 400


def test_unlabelled_photos_change_no_other_role():
    alone = split_of(faces_of(TEN))
    table = split_of(faces_of(TEN, unlabelled=50))
    pd.testing.assert_frame_equal(table[table["role"] != "unlabelled"].reset_index(drop=True), alone)


def test_people_with_one_face_are_trained_on():
    faces = faces_of({f"p{k:02}": 1 if k < 8 else 2 for k in range(16)})
    table = split_of(faces)
    assert people_in(table, "evaluation") == {f"p{k:02}" for k in range(8, 16)}
    assert people_in(table, "train") == {f"p{k:02}" for k in range(8)}


@pytest.mark.parametrize(("column", "bits"), [("sha256", 0), ("hash", 0), ("hash", 7)])
def test_a_picture_seen_again_can_cost_a_person_the_second_face(column, bits):
    faces = faces_of({f"p{k:02}": 2 for k in range(9)})
    assert "p00" in people_in(split_of(faces, share=0.6, seed=1), "evaluation")
    value = faces.at[0, column]  # p00's two photos are one
    faces.at[1, column] = turned(value, bits) if column == "hash" else value
    assert all("p00" not in people_in(split_of(faces, share=0.6, seed=k), "evaluation") for k in range(9))


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
        split_of(faces, share=share, folds=folds)
    assert caught.value.exit_code == 3


def test_the_smallest_corpus_that_can_be_split():
    table = split_of(faces_of({f"p{k}": 2 for k in range(8)}))
    assert len(people_in(table, "evaluation")) == len(people_in(table, "train")) == 4


def test_overlaps_that_leave_too_few_to_train_on_are_told():
    faces = faces_of({f"p{k}": 2 for k in range(8)})
    table = split_of(faces)
    mine = table.loc[table["role"] == "evaluation", "sample_id"]
    theirs = faces.index[faces["person"].isin(sorted(people_in(table, "train"))[1:])]
    for place, name in zip(theirs, mine, strict=False):
        faces.at[place, "hash"] = turned(hash_of(name), 5)
    with pytest.raises(DataError, match="too few people: 1 to train on where 2 are needed"):
        split_of(faces)


def test_a_photo_of_nobody_among_the_labelled_ones_is_not_trained_on():
    """own/p03/old/1 may well show p03, who may well be evaluated on."""
    faces = pd.concat([faces_of(TEN), rows_of([("own/p03/old/1", None, "labelled")])], ignore_index=True)
    assert "own/p03/old/1" not in set(split_of(faces)["sample_id"])


# --- what may be on one side only ---


@pytest.fixture
def faces():
    return faces_of(TEN, unlabelled=4)


@pytest.fixture
def shown(faces):
    """Rows of the second faces of the evaluation people."""
    evaluated = people_in(split_of(faces), "evaluation")
    return faces.index[faces["person"].isin(evaluated) & faces["sample_id"].str.endswith("/1")]


def planted(faces, shown, kind):
    """Show an evaluation face, or person, to the last unlabelled face again; return the embeddings."""
    source, target = shown[2], faces.index[-1]
    embeddings = np.eye(len(faces))
    if kind == "name":
        faces.at[target, "person"] = faces.at[source, "person"].upper() + "."
    elif kind == "bytes":
        faces.at[target, "sha256"] = faces.at[source, "sha256"]
    elif kind == "hash":
        faces.at[target, "hash"] = turned(faces.at[source, "hash"], 7)
    else:
        embeddings[target] = 3 * embeddings[source] + embeddings[target]
    return embeddings


DISTANCES = {"name": 0, "bytes": 0, "hash": 7, "embedding": 1 - 3 / 10**0.5}


def test_every_gate_is_tested():
    assert list(LEAKAGE_CHECKS) == list(DISTANCES)


@pytest.mark.parametrize("kind", DISTANCES)
def test_a_planted_leak_is_taken_out_and_listed(faces, shown, kind, monkeypatch):
    before = split_of(faces)
    embeddings = planted(faces, shown, kind)
    source, target = faces.at[shown[2], "sample_id"], faces["sample_id"].iloc[-1]
    table, overlaps = split_people(faces, settings_of(), embeddings)
    assert set(before["sample_id"]) - set(table["sample_id"]) == {target}
    same = table["sample_id"].isin(before["sample_id"])
    pd.testing.assert_frame_equal(table[same], before[before["sample_id"] != target])
    if kind == "name":
        source = f"{source[:-1]}0"  # a person's first face stands for the name
    assert tuples(overlaps) == [(kind, source, target, pytest.approx(DISTANCES[kind], abs=1e-6), "excluded")]
    # Without its check it would have been trained on.
    monkeypatch.delitem(LEAKAGE_CHECKS, kind)
    assert target in set(split_people(faces, settings_of(), embeddings)[0]["sample_id"])


@pytest.mark.parametrize("kind", DISTANCES)
def test_a_planted_leak_stops_if_it_should(faces, shown, kind):
    split_people(faces, settings_of(overlap="stop"), np.eye(len(faces)))
    embeddings = planted(faces, shown, kind)
    with pytest.raises(
        IntegrityError,
        match=rf"1 faces to train on .* \(1 by {kind}\), for example more/3, as own/p.*exclude\.$",
    ) as caught:
        split_people(faces, settings_of(overlap="stop"), embeddings)
    assert caught.value.exit_code == 4


def test_a_face_further_away_stays(faces, shown):
    faces.at[faces.index[-1], "hash"] = turned(faces.at[shown[0], "hash"], 8)
    embeddings = np.eye(len(faces))
    embeddings[-1] = embeddings[shown[0]] + 0.6 * embeddings[-1]  # cosine 0.857
    assert len(split_people(faces, settings_of(), embeddings)[1]) == 0
    assert len(split_people(faces, settings_of(hash_bits=8), embeddings)[1]) == 1
    assert len(split_people(faces, settings_of(same_cosine=0.85), embeddings)[1]) == 1


def test_the_nearest_evaluation_face_is_the_one_listed(faces, shown):
    faces.at[shown[1], "hash"] = turned(faces.at[shown[0], "hash"], 3)
    faces.at[faces.index[-1], "hash"] = turned(faces.at[shown[0], "hash"], 4)
    _, overlaps = split_people(faces, settings_of())
    first, second = faces.loc[shown[:2], "sample_id"]
    assert tuples(overlaps) == [
        ("hash", second, "more/3", 1.0, "excluded"),
        ("hash", first, second, 3.0, "kept"),
    ]


def test_labelled_people_to_train_on_are_compared_as_well(faces):
    table = split_of(faces)
    mine, theirs = (table.loc[table["role"] == role, "sample_id"].iloc[1] for role in ("evaluation", "train"))
    place = faces.index[faces["sample_id"] == theirs][0]
    faces.at[place, "hash"] = turned(hash_of(mine), 5)
    again, overlaps = split_people(faces, settings_of())
    assert set(table["sample_id"]) - set(again["sample_id"]) == {theirs}
    assert tuples(overlaps) == [("hash", mine, theirs, 5.0, "excluded")]


def test_faces_without_a_hash_are_not_alike(faces):
    table = split_of(faces)
    for place in range(0, len(faces), 2):
        faces.at[place, "hash"] = b""
    faces.at[1, "hash"] = None
    again, overlaps = split_people(faces, settings_of())
    pd.testing.assert_frame_equal(again, table)
    assert len(overlaps) == 0


@pytest.mark.parametrize("kind", ["bytes", "hash"])
def test_a_photo_goes_with_all_its_faces(faces, shown, kind):
    more = rows_of([("more/3#2", None, "unlabelled"), ("more/2#2", None, "unlabelled")])
    more["sha256"] = ["content of more/3", "content of more/2"]
    faces = pd.concat([faces, more], ignore_index=True)
    assert {"more/3#2", "more/2#2"} < set(split_of(faces)["sample_id"])
    target = faces["sample_id"].isin(["more/3", "more/3#2"] if kind == "bytes" else ["more/3#2"])
    column = "sha256" if kind == "bytes" else "hash"
    for place in faces.index[target]:
        faces.at[place, column] = faces.at[shown[0], column]
    left = set(split_of(faces)["sample_id"])
    assert not {"more/3", "more/3#2"} & left
    assert {"more/2", "more/2#2"} < left


# --- what one side has twice ---


def test_copies_on_one_side_leave_the_first(faces, shown):
    table = split_of(faces)
    first, later = shown[0], shown[0] + 1
    faces.at[later, "sha256"] = faces.at[first, "sha256"]
    faces.loc[faces["sample_id"].isin(["more/1", "more/3"]), "sha256"] = "the same"
    again, overlaps = split_people(faces, settings_of())
    gone = {faces.at[later, "sample_id"], "more/3"}
    assert set(table["sample_id"]) - set(again["sample_id"]) == gone
    names = faces.loc[[first, later], "sample_id"]
    assert tuples(overlaps) == [("copy", *names, 0.0, "dropped")]


def test_one_persons_near_duplicates_leave_those_that_differ(faces, shown):
    """a ~ b ~ c, but not a ~ c: b goes, and then c has no double left."""
    a, b, c = (faces.index[shown[0] + step] for step in (-1, 0, 1))
    faces.at[b, "hash"] = turned(faces.at[a, "hash"], 6)
    faces.at[c, "hash"] = turned(faces.at[a, "hash"], 12)
    table, overlaps = split_people(faces, settings_of())
    names = faces["sample_id"]
    assert tuples(overlaps) == [("hash", names[a], names[b], 6.0, "dropped")]
    assert names[b] not in set(table["sample_id"])
    assert {names[a], names[c]} < set(table["sample_id"])


@pytest.mark.parametrize(("apart", "dropped"), [(10, 1), (11, 0)])
def test_photos_of_one_sitting_are_no_near_duplicates(faces, shown, apart, dropped):
    """However far `split.hash_bits` looks across the sides."""
    faces.at[shown[0], "hash"] = turned(faces.at[shown[0] + 1, "hash"], apart)
    assert len(split_people(faces, settings_of(hash_bits=31))[1]) == dropped


def test_two_peoples_near_duplicates_both_stay_and_are_listed(faces, shown):
    table = split_of(faces)
    faces.at[shown[1], "hash"] = turned(faces.at[shown[0], "hash"], 2)
    again, overlaps = split_people(faces, settings_of())
    pd.testing.assert_frame_equal(again, table)
    assert tuples(overlaps) == [("hash", *faces.loc[shown[:2], "sample_id"], 2.0, "kept")]


def test_a_photo_under_two_names_stays_with_the_person_evaluated_on(faces):
    """Even where the name of the person trained on comes first."""
    table = split_of(faces)
    theirs = table.loc[table["role"] == "train", "sample_id"].iloc[0]
    mine = table.loc[(table["role"] == "evaluation") & (table["sample_id"] > theirs), "sample_id"].iloc[0]
    faces.loc[faces["sample_id"] == mine, "sha256"] = f"content of {theirs}"
    again, overlaps = split_people(faces, settings_of())
    assert set(table["sample_id"]) - set(again["sample_id"]) == {theirs}
    assert tuples(overlaps) == [("bytes", mine, theirs, 0.0, "excluded")]


# --- names ---


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        ("George_W_Bush", "george w bush"),
        ("george w. bush", "george w bush"),
        (" JOSÉ-María  Aznar", "jose maria aznar"),
        ("Straße", "strasse"),
        ("\uff21\uff22", "ab"),
        ("が", "か\u3099"),  # a mark that is not an accent makes another letter
        ("ms1mv2-17", "ms1mv2 17"),
        ("17", ""),
        ("0-1", ""),
        ("...", ""),
        ("", ""),
    ],
)
def test_the_normal_form_of_a_name(name, normal):
    assert normal_name(name) == normal


@given(st.text(max_size=20))
def test_the_normal_form_is_one_and_does_not_hang_on_spelling(name):
    normal = normal_name(name)
    assert normal_name(normal) == normal
    assert normal == " ".join(normal.split())
    assert normal_name(unicodedata.normalize("NFC", name)) == normal_name(unicodedata.normalize("NFD", name))
    assert normal_name(f"_{name}. ") == normal


@given(st.text("abcdefghijklmnopqrstuvwxyzßéñçøΣд ", min_size=1, max_size=20))
def test_upper_and_lower_case_are_one(name):
    assert normal_name(name.upper()) == normal_name(name.lower()) == normal_name(name.title())


def renamed(faces, old, new, every=1):
    places = faces.index[faces["person"] == old][::every]
    faces.loc[places, "person"] = new


def test_people_of_a_source_whose_names_differ_a_little_are_different_people():
    """In accents, case or punctuation; that they may be one is listed where they are on both sides."""
    people = ["Andr\u00e9", "Andre", "MAX", "Max", "ada lovelace", "Ada_Lovelace", "Ola", "Per", "Eva", "Ida"]
    faces = faces_of(dict.fromkeys(people, 3))
    for seed in range(6):
        table, overlaps = split_people(faces, settings_of(seed=seed, overlap="stop"))
        check_split(table)
        assert people_in(table, "train", "evaluation") == set(people)
        assert len(table) == 30
        assert table["enrolled"].sum() == table.loc[table["role"] == "evaluation", "person"].nunique()
        sides = table.groupby("person")["role"].first()
        apart = sum(sides[one] != sides[two] for one, two in (people[:2], people[2:4], people[4:6]))
        assert overlaps["kind"].to_list() == ["name"] * apart
        assert set(overlaps["action"]) <= {"kept"}


def test_names_are_compared_loosely_with_every_other_source(faces, shown):
    """Also where a labelled person is called alike, which says nothing."""
    mine = faces.at[shown[0], "person"]
    faces.loc[faces["sample_id"].isin(["more/1", "more/3"]), "person"] = mine.upper()
    table, overlaps = split_people(faces, settings_of())
    check_split(table)
    assert overlaps[["kind", "other", "action"]].to_numpy().tolist() == [
        ["name", "more/1", "excluded"], ["name", "more/3", "excluded"]
    ]  # fmt: skip


def test_numbers_are_names_within_a_source_only():
    faces = faces_of({str(k): 2 for k in range(10)}, unlabelled=2)
    evaluated = sorted(people_in(split_of(faces), "evaluation"))
    assert len(evaluated) == 5  # not one person without a name
    for other in ("unlabelled", "tested"):
        more = faces["set"] != "labelled"
        faces.loc[more, "set"] = other
        faces.loc[more, "person"] = sorted(people_in(split_of(faces), "train", "evaluation"))[:2]
        table, overlaps = split_people(faces, settings_of())
        check_split(table)
        assert len(overlaps) == 0
        assert set(table.loc[table["role"] == other, "sample_id"]) == {"more/0", "more/1"}


def test_a_person_named_in_the_unlabelled_set_is_unlabelled(faces):
    faces.loc[faces["sample_id"] == "more/0", "person"] = "somebody else"
    table = split_of(faces)
    assert table.set_index("sample_id")["role"]["more/0"] == "unlabelled"
    train = sorted(people_in(table, "train") - {"somebody else"})[0]
    faces.loc[faces["sample_id"] == "more/0", "person"] = train  # who is trained on anyway
    assert split_of(faces).set_index("sample_id")["role"]["more/0"] == "unlabelled"


# --- the last check ---


@pytest.fixture
def table():
    return split_of(faces_of({f"p{k:02}": 2 for k in range(10)}, unlabelled=3))


@pytest.mark.parametrize(
    ("side", "column", "what"),
    [
        ("train", "person", "person"), ("unlabelled", "person", "name"),
        ("train", "sample_id", "photo"), ("unlabelled", "sample_id", "photo"),
        ("train", "sha256", "file content"), ("unlabelled", "sha256", "file content"),
    ],
)  # fmt: skip
def test_a_leak_of_any_kind_is_stopped(table, side, column, what):
    check_split(table)
    source = table.index[table["role"] == "evaluation"][3]
    target = table.index[table["role"] == side][1]
    table.loc[target, column] = table.loc[source, column]
    with pytest.raises(
        IntegrityError, match=rf"leaks: 1 {what}\(s\) .*for example (own/)?{table.loc[source, column]};"
    ):
        check_split(table)


@pytest.mark.parametrize("side", ["train", "unlabelled"])
def test_another_face_of_a_photo_is_a_leak_and_in_another_source_another_spelling(table, side):
    source = table.index[table["role"] == "evaluation"][3]
    target = table.index[table["role"] == side][1]
    spelt = table.copy()
    spelt.loc[target, "person"] = f"_{table.loc[source, 'person'].upper()}"
    if side == "train":
        check_split(spelt)
    else:
        with pytest.raises(IntegrityError, match=r"leaks: 1 name\(s\)"):
            check_split(spelt)
    table.loc[target, "sample_id"] = table.loc[source, "sample_id"] + "#3"
    with pytest.raises(IntegrityError, match=r"leaks: 1 photo\(s\)"):
        check_split(table)


def test_a_person_moved_over_by_half_is_a_leak(table):
    table.loc[table.index[table["role"] == "evaluation"][0], "role"] = "train"
    with pytest.raises(IntegrityError, match=r"person\(s\) are both trained on and evaluated on") as caught:
        check_split(table)
    assert caught.value.exit_code == 4


# --- people that a list of pairs names ---


def list_of(*pairs, protocol="list"):
    """A list of pairs from (fold, first, second), by person and shot; genuine if the person is the same."""
    return pairs_table(
        Pair(protocol, fold, f"own/{a}/{i}", f"own/{b}/{j}", a == b) for fold, (a, i), (b, j) in pairs
    )


FOUR = list_of(
    (0, ("a", 0), ("a", 1)), (0, ("a", 0), ("b", 0)), (1, ("c", 0), ("c", 1)), (1, ("c", 0), ("d", 0))
)
SIX = {"a": 2, "b": 1, "c": 2, "d": 1, "e": 3, "f": 1}


def listed(faces, lists=FOUR, **changes):
    settings = settings_of(pairs="list", **changes)
    people = dict(zip(faces["sample_id"], faces["person"], strict=True))
    return split_people(faces, settings, None, listed_people(lists, people, settings))


def test_the_people_of_a_list_are_evaluated_in_its_folds():
    table, _ = listed(faces_of(SIX, unlabelled=2))
    check_split(table)
    evaluated = table[table["role"] == "evaluation"]
    assert dict(zip(evaluated["person"], evaluated["fold"], strict=True)) == {"a": 0, "b": 0, "c": 1, "d": 1}
    assert people_in(table, "train") == {"e", "f"}
    assert (evaluated["part"] == 0).all()
    assert not evaluated["trainable"].any()
    assert table.loc[table["role"] != "evaluation", "trainable"].all()


def test_with_rotations_each_part_holds_whole_folds_and_may_train_the_other():
    table, _ = listed(faces_of(SIX), rotations=2)
    check_split(table)
    evaluated = table[table["role"] == "evaluation"]
    assert dict(zip(evaluated["fold"], evaluated["part"], strict=True)) == {0: 0, 1: 1}
    assert evaluated["trainable"].all()


@pytest.mark.parametrize(("folds", "rotations"), [(10, 2), (10, 10), (10, 3), (5, 5), (7, 2)])
def test_parts_share_out_the_folds_evenly(folds, rotations):
    lists = list_of(*((k, (f"p{k}", 0), (f"p{k}", 1)) for k in range(folds)))
    faces = faces_of({f"p{k}": 2 for k in range(folds)} | {"x": 2, "y": 2})
    table, _ = listed(faces, lists, rotations=rotations)
    evaluated = table[table["role"] == "evaluation"]
    counts = evaluated.groupby("part")["fold"].nunique()
    assert list(counts.index) == list(range(rotations))
    assert counts.max() - counts.min() <= 1
    assert evaluated.groupby("fold")["part"].nunique().eq(1).all()


def test_a_picture_that_two_parts_show_trains_neither():
    faces = faces_of(SIX)
    row = faces.set_index("sample_id").index
    faces.loc[row.get_loc("own/c/0"), "hash"] = turned(hash_of("own/a/0"), 3)
    table, overlaps = listed(faces, rotations=2)
    lost = set(table.loc[~table["trainable"], "sample_id"])
    assert lost == {"own/a/0", "own/c/0"}
    assert list(overlaps["action"]) == ["kept"]


def test_listed_photos_all_stay_however_alike():
    faces = faces_of(SIX)
    where = faces["sample_id"].isin(["own/a/0", "own/a/1"])
    faces.loc[where, ["hash", "sha256"]] = [hash_of("one"), "one"]
    table, _ = listed(faces)
    assert {"own/a/0", "own/a/1"} <= set(table["sample_id"])


def test_a_planted_person_in_two_parts_stops_the_run():
    table, _ = listed(faces_of(SIX), rotations=2)
    table.loc[table["sample_id"] == "own/a/1", "part"] = 1
    with pytest.raises(IntegrityError, match="1 people are in several parts, for example a"):
        check_split(table)


@pytest.mark.parametrize(
    ("lists", "changes", "error", "message"),
    [
        (FOUR, {"pairs": "other"}, UsageError, "no data set here has the list other; there are: list"),
        (FOUR[:0], {}, UsageError, "there are: none"),
        (FOUR, {"rotations": 3}, DataError, "3 are more than list has folds, 2"),
        (
            list_of((0, ("a", 0), ("a", 1)), (1, ("a", 0), ("b", 0))),
            {"rotations": 2},
            DataError,
            "in several",
        ),
        (FOUR, {"pair_folds": 3}, UsageError, "3 are more than list has folds, 2"),
        (FOUR, {"pair_folds": -3}, UsageError, "3 are more than list has folds, 2"),
        (list_of((0, ("a", 0), ("ghost", 7))), {}, DataError, "own/ghost/7, a photo of nobody known"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused(lists, changes, error, message):
    faces = faces_of(SIX)
    people = dict(zip(faces["sample_id"], faces["person"], strict=True))
    with pytest.raises(error, match=message):
        listed_people(lists, people, settings_of(**({"pairs": "list"} | changes)))


def test_people_of_folds_that_are_not_evaluated_on_are_trained_on():
    lists = pd.concat([FOUR, list_of((2, ("e", 0), ("e", 1)), (2, ("e", 0), ("f", 0)))], ignore_index=True)
    table, _ = listed(faces_of(SIX), lists, pair_folds=2)
    check_split(table)
    assert people_in(table, "evaluation") == {"a", "b", "c", "d"}
    assert people_in(table, "train") == {"e", "f"}
    assert table.loc[table["role"] == "train", "trainable"].all()
    other = lists.assign(protocol="other")
    kept = evaluated_pairs(pd.concat([lists, other]), settings_of(pairs="list", pair_folds=2))
    assert set(kept.loc[kept["protocol"] == "list", "fold"]) == {0, 1}
    assert len(kept[kept["protocol"] == "other"]) == len(other)


def test_the_last_folds_can_be_evaluated_on():
    lists = pd.concat([FOUR, list_of((2, ("e", 0), ("e", 1)), (2, ("e", 0), ("f", 0)))], ignore_index=True)
    table, _ = listed(faces_of(SIX), lists, pair_folds=-2, rotations=2)
    check_split(table)
    assert people_in(table, "train") == {"a", "b"}
    parts = table[table["role"] == "evaluation"].groupby("part")["person"].agg(set)
    assert parts.to_list() == [{"c", "d"}, {"e", "f"}]


@pytest.mark.parametrize("count", [-1, 0, 1])
def test_fewer_than_two_folds_of_a_list_are_refused(count):
    with pytest.raises(ValueError, match=f"pair_folds {count} are too few: at least 2, or -2 for the last"):
        settings_of(pairs="list", pair_folds=count)


def test_folds_of_no_list_are_refused():
    with pytest.raises(ValueError, match="pair_folds is about a list of pairs"):
        settings_of(pair_folds=2)


def test_more_rotations_than_folds_are_refused():
    with pytest.raises(ValueError, match="rotations 3 are more than there are folds, 2"):
        settings_of(rotations=3)


def test_tested_photos_train_nothing_and_cost_those_that_show_them_again_their_place():
    faces = faces_of({f"p{k}": 3 for k in range(8)}, unlabelled=3)
    tested = rows_of([("light/0", "q", "tested"), ("light/1", None, "tested")])
    tested.loc[0, "hash"] = turned(hash_of("more/1"), 2)
    table, overlaps = split_people(pd.concat([faces, tested], ignore_index=True), settings_of())
    check_split(table)
    assert set(table.loc[table["role"] == "tested", "sample_id"]) == {"light/0", "light/1"}
    assert not table.loc[table["role"] == "tested", "trainable"].any()
    assert "more/1" not in set(table["sample_id"])
    assert tuples(overlaps)[0][:3] == ("hash", "light/0", "more/1")


def test_tested_people_of_a_list_are_evaluated_and_never_trained_on():
    faces = faces_of(SIX)
    faces.loc[faces["person"].isin(["a", "b"]), "set"] = "tested"
    table, _ = listed(faces, rotations=2)
    evaluated = table[table["role"] == "evaluation"]
    assert set(evaluated["person"]) == {"a", "b", "c", "d"}
    assert set(evaluated.loc[evaluated["trainable"], "person"]) == {"c", "d"}


def test_equal_bytes_in_two_parts_train_neither():
    faces = faces_of(SIX)
    faces.loc[faces["sample_id"].isin(["own/a/0", "own/c/0"]), "sha256"] = "one"
    faces["hash"] = b""
    table, _ = listed(faces, rotations=2)
    assert set(table.loc[~table["trainable"], "sample_id"]) == {"own/a/0", "own/c/0"}


# --- people whom a model has seen that a run starts from ---


def test_people_whom_a_model_has_seen_are_not_evaluated():
    faces = faces_of({f"p{number:02}": 3 for number in range(12)})
    drawn = people_in(split_of(faces), "evaluation")
    seen = sorted(drawn)[:2]
    roles, _ = split_people(faces, settings_of(), seen=seen)
    assert drawn == people_in(split_people(faces, settings_of(), seen={"nobody"})[0], "evaluation")
    assert not people_in(roles, "evaluation") & set(seen)
    assert people_in(roles, "train") >= set(seen)
    listed = {f"p{number:02}": number % 2 for number in range(6)}
    roles, _ = split_people(faces, settings_of(pairs="list"), listed=listed, seen=["p01", "p09"])
    assert people_in(roles, "evaluation") == {"p00", "p02", "p03", "p04", "p05"}


def test_tested_people_whom_a_model_has_seen_go():
    faces = pd.concat(
        [faces_of({f"p{n}": 3 for n in range(8)}), rows_of([("t/a", "a", "tested"), ("t/b", "b", "tested")])]
    )
    roles, _ = split_people(faces.reset_index(drop=True), settings_of(), seen=["a"])
    assert people_in(roles, "tested") == {"b"}
    assert "a" not in set(roles["person"])


def test_a_run_may_stop_at_people_whom_a_model_has_seen():
    faces = faces_of({f"p{number}": 3 for number in range(8)})
    some = sorted(people_in(split_of(faces), "evaluation"))[:1]
    with pytest.raises(IntegrityError, match=f"1 people to be .* example {some[0]}, .*exclude"):
        split_people(faces, settings_of(overlap="stop"), seen=some)
