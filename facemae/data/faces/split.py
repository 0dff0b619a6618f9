"""Who is trained on and who is evaluated on: by person, with checks that stop leakage.

Roles: `train` people are pretrained on and fine-tuned on, `evaluation` people neither, `unlabelled`
photos are pretrained on only, `tested` photos are in no training at all. What is trained on may not show an
evaluation or tested photo again, or a person of that name in another source: such photos are taken out and
listed, or stop the run.

With `rotations` above 1 the evaluation people are in so many parts, by whole folds. Each part has a model of
its own, which is fine-tuned on the people of the other parts besides: of these, on what is `trainable`, as no
other part shows the same picture.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.layout import (
    ROLE_EVALUATION,
    ROLE_TESTED,
    ROLE_TRAIN,
    ROLE_UNLABELLED,
    SET_LABELLED,
    SET_TESTED,
    SPLIT_COLUMNS,
)
from facemae.data.faces import overlaps

MIN_FOLD_PEOPLE = 2  # a fold with one person has no impostor pair
MIN_TRAIN_PEOPLE = 2

_FACE_NUMBER = r"#[0-9]+$"  # which ends the sample_id of a photo's second face and those after it

Array = NDArray[Any]


def split_people(
    faces: pd.DataFrame,
    split: config.Split,
    embeddings: NDArray[np.floating] | None = None,
    listed: Mapping[str, int] | None = None,
    seen: Collection[str] = (),
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the role of every usable face (SPLIT_COLUMNS), and what was found on both sides or twice.

    Evaluation people are those `listed`, or drawn among those with two or more different pictures, since a
    genuine pair needs two; the first face of each is `enrolled`, the gallery of identification. A labelled
    photo that names nobody may show an evaluation person, so it is left out.

    A face to train on goes, with its photo, if an evaluation face of another source has an equal
    `normal_name`, or if any has its bytes, nearly its perceptual hash or nearly its embedding. Equal normal
    names within a source are only listed. Within a side only the first photo of the same bytes stays. Among
    evaluation faces of one person that look the same the first stays; of two or of `listed` people, all.

    Args:
        faces: Columns sample_id, person (None: not known), source, set, sha256 and hash (may be empty).
        split: Share, folds, seed, and what to do with overlaps.
        embeddings: (len(faces), D); None: not compared.
        listed: The fold of each person that a list of pairs names; None: evaluation people are drawn.
        seen: People whom a model was trained on that a run starts from: nobody is evaluated on them.

    Raises:
        DataError: there are too few people.
        IntegrityError: `split.overlap` is "stop" and something is on both sides.
    """
    table = _with_roles(*_unseen(_usable(faces), split, listed, seen), split)
    evaluated, tested = (table[table["role"] == role] for role in (ROLE_EVALUATION, ROLE_TESTED))
    kept_apart = pd.concat([evaluated, tested]).sort_index()
    trained, excluded = overlaps.exclude(kept_apart, table.drop(kept_apart.index), split, embeddings)
    alike = overlaps.alike_in_a_source(evaluated, trained)
    evaluated, twice = overlaps.once(evaluated, split, all_stay=listed is not None)
    roles = pd.concat([evaluated, overlaps.without_copies(trained), tested]).sort_index()
    _check_enough(roles, split)
    roles["enrolled"] = (roles["role"] == ROLE_EVALUATION) & ~roles.duplicated(["role", "person"])
    roles["trainable"] = _trainable(roles, twice, split)
    return roles[SPLIT_COLUMNS].reset_index(drop=True), pd.concat([excluded, alike, twice], ignore_index=True)


def _unseen(
    table: pd.DataFrame, split: config.Split, listed: Mapping[str, int] | None, seen: Collection[str]
) -> tuple[pd.DataFrame, Mapping[str, int]]:
    """Return the faces, and the fold of each evaluation person; nobody `seen` is tested or evaluated."""
    labelled = table[table["set"] == SET_LABELLED]
    folds = _folds(labelled, split) if listed is None else listed
    tested = table["set"] == SET_TESTED
    known = sorted({*folds, *table.loc[tested, "person"].dropna()} & set(seen))
    if not known:
        return table, folds
    if split.overlap == "stop":
        raise IntegrityError(
            f"split.overlap is stop, and {len(known)} people to be evaluated on, for example {known[0]}, "
            "have names of people that a model was trained on from which a run starts; take the run out, or "
            "set split.overlap to exclude, which evaluates on the others."
        )
    if listed is None:
        folds = _folds(labelled[~labelled["person"].isin(seen)], split)
    else:
        folds = {person: fold for person, fold in listed.items() if person not in seen}
    return table[~(tested & table["person"].isin(known))], folds


def _with_roles(table: pd.DataFrame, folds: Mapping[str, int], split: config.Split) -> pd.DataFrame:
    labelled, tested = ((table["set"] == each).to_numpy() for each in (SET_LABELLED, SET_TESTED))
    fold = table["person"].map(folds).where(labelled | tested).astype("Int64")
    evaluated = fold.notna().to_numpy()
    roles = [ROLE_EVALUATION, ROLE_TRAIN, ROLE_TESTED]
    role = np.select([evaluated, labelled, tested], roles, ROLE_UNLABELLED)
    return table.assign(fold=fold, part=_parts(fold, split, folds), role=role)


def listed_people(
    pairs: pd.DataFrame, people: Mapping[str, str | None], split: config.Split
) -> dict[str, int]:
    """Return the fold of each person that a list of pairs names: `split.pairs`, of all lists (PAIR_COLUMNS).

    Raises:
        UsageError: no source has this list.
        DataError: it names a photo of nobody, or people are in too many or too few folds for the rotations.
    """
    rows = evaluated_pairs(pairs, split)
    rows = rows[rows["protocol"] == split.pairs]
    if rows.empty:
        known = ", ".join(sorted(pairs["protocol"].unique())) or "none"
        raise UsageError(f"split.pairs: no data set here has the list {split.pairs}; there are: {known}.")
    named = rows.melt("fold", ["first", "second"], value_name="id")
    named["person"] = named["id"].map(people)
    if named["person"].isna().any():
        photo = named.loc[named["person"].isna(), "id"].iloc[0]
        raise DataError(f"split.pairs: {split.pairs} names {photo}, a photo of nobody known.")
    folds = named.groupby("person")["fold"]
    if split.rotations > 1 and (folds.nunique() > 1).any():
        raise DataError(
            f"split.rotations: in {split.pairs} a person is in several folds, so that no fold can be trained "
            "without the people of another; set split.rotations to 1."
        )
    if split.rotations > (count := rows["fold"].nunique()):
        raise DataError(f"split.rotations: {split.rotations} are more than {split.pairs} has folds, {count}.")
    return {str(person): int(fold) for person, fold in folds.min().items()}


def evaluated_pairs(pairs: pd.DataFrame, split: config.Split) -> pd.DataFrame:
    """Return the lists of pairs (PAIR_COLUMNS), that of `split.pairs` without the folds that train."""
    if split.pair_folds is None:
        return pairs
    own = pairs["protocol"] == split.pairs
    folds = sorted(pairs.loc[own, "fold"].unique())
    if own.any() and abs(split.pair_folds) > len(folds):
        raise UsageError(
            f"split.pair_folds: {abs(split.pair_folds)} are more than {split.pairs} has folds, {len(folds)}."
        )
    chosen = folds[: split.pair_folds] if split.pair_folds > 0 else folds[split.pair_folds :]
    return pairs[~own | pairs["fold"].isin(chosen)]


def _parts(fold: pd.Series, split: config.Split, folds: Mapping[str, int]) -> pd.Series:
    """Return the part of each face's fold: neighbouring folds together, as many in each as can be."""
    first, last = min(folds.values(), default=0), max(folds.values(), default=0)
    count = max(last - first + 1, split.rotations)
    return ((fold - first) * split.rotations // count).astype("Int64")


def _trainable(roles: pd.DataFrame, twice: pd.DataFrame, split: config.Split) -> pd.Series:
    """Tell which faces may be trained on: of evaluation faces those whose picture is in no other part."""
    evaluated = roles["role"] == ROLE_EVALUATION
    if split.rotations == 1:
        return ~evaluated & (roles["set"] != SET_TESTED)
    part = roles[evaluated].set_index("sample_id")["part"]
    shared = twice[twice["evaluation"].map(part) != twice["other"].map(part)]
    copies = roles[evaluated].groupby("content")["part"].nunique()
    lost = roles["sample_id"].isin({*shared["evaluation"], *shared["other"]})
    lost |= roles["content"].isin(copies.index[copies > 1])
    return ~(evaluated & lost) & (roles["set"] != SET_TESTED)


def learnt_from(roles: pd.DataFrame, part: int = 0, *, unlabelled: bool = False) -> pd.DataFrame:
    """Return the rows of a split that a part's model may learn from; `unlabelled`: or be pretrained on.

    Of the evaluation people those of the other parts are among them.
    """
    others = (roles["role"] == ROLE_EVALUATION) & (roles["part"] != part) & roles["trainable"]
    trained = [ROLE_TRAIN, ROLE_UNLABELLED] if unlabelled else [ROLE_TRAIN]
    return roles[roles["role"].isin(trained) | others]


def check_split(table: pd.DataFrame) -> None:
    """Stop with an IntegrityError if a person, name, photo or content is trained on and evaluated on."""
    is_evaluated = table["role"].isin([ROLE_EVALUATION, ROLE_TESTED])
    # What a sample_id begins with every source has of its own.
    table = table.assign(source=table["sample_id"].str.partition("/")[0], name=overlaps.normal_names(table))
    table["named"] = table["source"] + "/" + table["person"]
    table["photo"] = table["sample_id"].str.replace(_FACE_NUMBER, "", regex=True)
    evaluated, trained = table[is_evaluated], table[~is_evaluated]
    labelled = trained[trained["role"] == ROLE_TRAIN]
    names = [side[["name", "source"]].dropna().drop_duplicates() for side in (evaluated, trained)]
    alike = names[0].merge(names[1], on="name").query("source_x != source_y")["name"]
    for what, one, other in (
        ("person", evaluated["named"], labelled["named"]),
        ("photo", evaluated["photo"], trained["photo"]),
        ("file content", evaluated["sha256"], trained["sha256"]),
        ("name", alike, alike),
    ):
        shared = sorted({*one.dropna()} & {*other.dropna()})
        if shared:
            raise IntegrityError(
                f"The split leaks: {len(shared)} {what}(s) are both trained on and evaluated on, for example "
                f"{shared[0]}; delete the split file and run again."
            )
    parts = evaluated.groupby("person")["part"].nunique()
    if (parts > 1).any():
        raise IntegrityError(
            f"The split leaks: {int((parts > 1).sum())} people are in several parts, for example "
            f"{parts.index[parts > 1][0]}; delete the split file and run again."
        )


def _usable(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the faces that can have a role, ordered by set and sample_id, with numbers for what they share.

    These columns are row (in `faces`), name (-1: none), content and photo.
    """
    usable = faces["person"].notna() | (faces["set"] != SET_LABELLED)
    table = faces.assign(row=np.arange(len(faces)))[usable]
    table = table.sort_values(["set", "sample_id"], ignore_index=True)
    table["name"] = pd.factorize(overlaps.normal_names(table))[0]
    table["content"] = pd.factorize(table["sha256"])[0]
    table["photo"] = pd.factorize(table["sample_id"].str.replace(_FACE_NUMBER, "", regex=True))[0]
    return table


def _folds(labelled: pd.DataFrame, split: config.Split) -> dict[str, int]:
    different = labelled.drop_duplicates("content")
    people = sorted(different["person"].unique())
    first = ~different.duplicated("person")
    place = np.flatnonzero(first)[pd.factorize(different["person"])[0]]
    bits, has = overlaps.hash_rows(different)
    apart = np.bitwise_count(bits ^ bits[place]).sum(axis=1, dtype=np.int64)
    differs = ~first & ((apart > overlaps.same_bits(split)) | ~has | ~has[place])
    evaluated = _draw(people, set(different["person"][differs]), split)
    return {person: place % split.folds for place, person in enumerate(evaluated)}


def _draw(people: list[str], paired: set[str], split: config.Split) -> list[str]:
    """Return the evaluation people, of those in `paired`, in random order."""
    wanted = round(split.evaluation_fraction * len(people))
    needed = max(wanted, MIN_FOLD_PEOPLE * split.folds)
    if min(wanted, len(paired)) < needed or len(people) - wanted < MIN_TRAIN_PEOPLE:
        raise DataError(
            f"There are too few people: {len(people)}, of whom {len(paired)} have two or more usable faces; "
            f"evaluating on a share of {split.evaluation_fraction} in {split.folds} folds takes {needed} of "
            f"those and {MIN_TRAIN_PEOPLE} others to train on. Add people, lower split.folds or change "
            "split.evaluation_fraction."
        )
    candidates = sorted(paired)
    order = np.random.default_rng(split.seed).permutation(len(candidates))
    return [candidates[place] for place in order[:wanted]]


def _check_enough(roles: pd.DataFrame, split: config.Split) -> None:
    left = roles.loc[roles["role"] == ROLE_TRAIN, "person"].nunique()
    if split.pairs and roles.loc[roles["role"] == ROLE_EVALUATION, "person"].nunique() < MIN_FOLD_PEOPLE:
        raise DataError(f"split.pairs: no usable face shows people of {split.pairs}; check the data section.")
    if left < MIN_TRAIN_PEOPLE and split.rotations == 1:
        raise DataError(
            f"There are too few people: {left} to train on where {MIN_TRAIN_PEOPLE} are needed, since photos "
            "of the others show evaluation photos again; add people or lower split.evaluation_fraction."
        )
