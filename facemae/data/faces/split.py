"""Who is trained on and who is evaluated on: by person, with gates that stop a leak.

Roles: `train` people are pretrained on and fine-tuned on, `evaluation` people neither, `unlabelled`
photos are pretrained on only, `tested` photos are in no training at all. What is trained on may not show an
evaluation or tested photo, or a person of that name, again: such photos are taken out and listed, or stop the
run.

With `rotations` above 1 the evaluation people are in so many parts, by whole folds. Each part has a model of
its own, which is fine-tuned on the people of the other parts besides: of these, on what is `trainable`, as no
other part shows the same picture.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.layout import (
    OVERLAP_COLUMNS,
    ROLE_EVALUATION,
    ROLE_TESTED,
    ROLE_TRAIN,
    ROLE_UNLABELLED,
    SET_LABELLED,
    SET_TESTED,
    SPLIT_COLUMNS,
)
from facemae.data.faces.duplicates import HASH_BYTES, Pairs, near_embeddings, near_pairs

MIN_FOLD_PEOPLE = 2  # a fold with one person has no impostor pair
MIN_TRAIN_PEOPLE = 2
# Two faces of one person this near are one picture; ORL's nearest photos, of one sitting, are 12 bits apart.
SAME_PICTURE_BITS = 10
EXCLUDED, DROPPED, KEPT = "excluded", "dropped", "kept"

_FACE_NUMBER = r"#[0-9]+$"  # which ends the sample_id of a photo's second face and those after it
_ACCENTS = dict.fromkeys(range(0x300, 0x370))

Array = NDArray[Any]


class Hits(NamedTuple):
    """Rows of the evaluation side and of the other that show the same, one pair per row of the other."""

    evaluation: NDArray[np.int64]
    other: NDArray[np.int64]
    distance: NDArray[np.float64]


def split_people(
    faces: pd.DataFrame,
    split: config.Split,
    embeddings: NDArray[np.floating] | None = None,
    listed: Mapping[str, int] | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the role of every usable face, and the faces that were found on both sides or twice.

    Evaluation people are those `listed`, or drawn among those with two or more different pictures, since a
    genuine pair needs two; the first face of each is `enrolled`, the gallery of identification. Spellings
    that `normal_name` makes equal are one person, called by the first of them. A labelled photo that names
    nobody may show an evaluation person, so it is left out.

    A face to train on goes, with its photo, if an evaluation face has its name, its bytes, nearly its
    perceptual hash or nearly its embedding; the first of these that applies is listed ("excluded"). Within
    a side only the first photo of the same bytes stays. Among evaluation faces of one person that look
    the same the first stays (the others are listed as "dropped"); of two people, both ("kept"). Those of
    `listed` people all stay, since a list of pairs names each.

    Args:
        faces: Columns sample_id, person (None: not known), source, set, sha256 and hash (may be empty).
        split: Share, folds, seed, and what to do with overlaps.
        embeddings: (len(faces), D); None: not compared.
        listed: The fold of each person that a list of pairs names; None: evaluation people are drawn.

    Returns:
        SPLIT_COLUMNS and OVERLAP_COLUMNS; in rows about evaluation faces only, `training` is the later one.

    Raises:
        DataError: there are too few people.
        IntegrityError: `split.overlap` is "stop" and something is on both sides.
    """
    table = _with_roles(_usable(faces), split, listed)
    evaluated, tested = (table[table["role"] == role] for role in (ROLE_EVALUATION, ROLE_TESTED))
    trained = table.drop([*evaluated.index, *tested.index])
    trained, excluded = _exclude(pd.concat([evaluated, tested]).sort_index(), trained, split, embeddings)
    evaluated, twice = _once(evaluated, split, all_stay=listed is not None)
    roles = pd.concat([evaluated, _without_copies(trained), tested]).sort_index()
    _check_enough(roles, split)
    roles["enrolled"] = (roles["role"] == ROLE_EVALUATION) & ~roles.duplicated(["role", "name"])
    roles["trainable"] = _trainable(roles, twice, split)
    overlaps = pd.concat([excluded, twice], ignore_index=True)
    return roles[SPLIT_COLUMNS].reset_index(drop=True), overlaps


def _with_roles(table: pd.DataFrame, split: config.Split, listed: Mapping[str, int] | None) -> pd.DataFrame:
    """Return the faces with fold, part and role."""
    labelled, tested = ((table["set"] == each).to_numpy() for each in (SET_LABELLED, SET_TESTED))
    folds = _folds(table[labelled], split) if listed is None else _named(table[labelled | tested], listed)
    fold = table["person"].map(folds).where(labelled | tested).astype("Int64")
    evaluated = fold.notna().to_numpy()
    roles = [ROLE_EVALUATION, ROLE_TRAIN, ROLE_TESTED]
    role = np.select([evaluated, labelled, tested], roles, ROLE_UNLABELLED)
    return table.assign(fold=fold, part=_parts(fold, split, folds), role=role)


def listed_people(
    pairs: pd.DataFrame, people: Mapping[str, str | None], split: config.Split
) -> dict[str, int]:
    """Return the fold of each person that the list of pairs `split.pairs` names.

    Args:
        pairs: All lists (PAIR_COLUMNS).
        people: The person of each sample_id.
        split: Which list, and in how many parts.

    Raises:
        UsageError: no source has this list.
        DataError: it names a photo of nobody, or people are in too many or too few folds for the rotations.
    """
    rows = evaluated_pairs(pairs, split)
    rows = rows[rows["protocol"] == split.pairs]
    if rows.empty:
        known = ", ".join(sorted(pairs["protocol"].unique())) or "none"
        raise UsageError(f"split.pairs: no data set here has the list {split.pairs}; there are: {known}.")
    named = pd.concat([rows[["first", "fold"]].set_axis(["id", "fold"], axis=1),
                       rows[["second", "fold"]].set_axis(["id", "fold"], axis=1)])  # fmt: skip
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
    if split.rotations > rows["fold"].nunique():
        raise DataError(
            f"split.rotations: {split.rotations} are more than {split.pairs} has folds, "
            f"{rows['fold'].nunique()}."
        )
    return {str(person): int(fold) for person, fold in folds.min().items()}


def evaluated_pairs(pairs: pd.DataFrame, split: config.Split) -> pd.DataFrame:
    """Return the lists of pairs (PAIR_COLUMNS), that of `split.pairs` without the folds that train.

    Raises:
        UsageError: the list has fewer folds than are to be evaluated on.
    """
    if split.pair_folds is None:
        return pairs
    own = pairs["protocol"] == split.pairs
    folds = sorted(pairs.loc[own, "fold"].unique())
    if own.any() and split.pair_folds > len(folds):
        raise UsageError(
            f"split.pair_folds: {split.pair_folds} are more than {split.pairs} has folds, {len(folds)}."
        )
    return pairs[~own | pairs["fold"].isin(folds[: split.pair_folds])]


def _named(table: pd.DataFrame, listed: Mapping[str, int]) -> dict[str, int]:
    """Return the fold of each listed person, by the spelling that the table has."""
    keys = {normal_name(person) or person: fold for person, fold in listed.items()}
    people = [str(person) for person in table["person"].dropna().unique()]
    return {person: keys[key] for person in people if (key := normal_name(person) or person) in keys}


def _parts(fold: pd.Series, split: config.Split, folds: Mapping[str, int]) -> pd.Series:
    """Return the part of each face's fold: neighbouring folds together, as many in each as can be."""
    count = max(folds.values(), default=0) + 1
    return (fold * split.rotations // max(count, split.rotations)).astype("Int64")


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


def check_split(table: pd.DataFrame) -> None:
    """Stop unless no person, name, photo or content is both trained on and evaluated on.

    Raises:
        IntegrityError: the split leaks; the message names an example.
    """
    is_evaluated = table["role"].isin([ROLE_EVALUATION, ROLE_TESTED])
    evaluated, trained = table[is_evaluated], table[~is_evaluated]
    labelled = trained[trained["role"] == ROLE_TRAIN]
    sides = {
        "person": (set(evaluated["person"]), set(labelled["person"].dropna())),
        "name": (_names(evaluated), _names(trained)),
        "photo": (_photos(evaluated), _photos(trained)),
        "file content": (set(evaluated["sha256"]), set(trained["sha256"])),
    }
    for what, (one, other) in sides.items():
        shared = sorted(one & other)
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


def normal_name(name: str) -> str:
    """Return a name without case, accents and punctuation, its words apart by one space.

    "George_W_Bush" and "george w. bush" become the same. The result is empty for a name that says nothing
    outside its source, as it has only digits or no letter at all.
    """
    text = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", name).casefold())
    # Marks other than accents are letters' vowels in many scripts.
    kept = (c if c.isalnum() or unicodedata.category(c)[0] == "M" else " " for c in text.translate(_ACCENTS))
    words = " ".join("".join(kept).split())
    return words if any(c.isalpha() for c in words) else ""


def _names(table: pd.DataFrame) -> set[str]:
    return {normal_name(person) for person in table["person"].dropna().unique()} - {""}


def _photos(table: pd.DataFrame) -> set[str]:
    return set(table["sample_id"].str.replace(_FACE_NUMBER, "", regex=True))


def _usable(faces: pd.DataFrame) -> pd.DataFrame:
    """Return the faces that can have a role, ordered by set and sample_id, with numbers for what they share.

    These columns are row (in `faces`), name (-1: none), content and photo.
    """
    usable = faces["person"].notna() | (faces["set"] != SET_LABELLED)
    table = faces.assign(row=np.arange(len(faces)))[usable]
    table = table.sort_values(["set", "sample_id"], ignore_index=True)
    table["name"] = _name_numbers(table)
    table["content"] = pd.factorize(table["sha256"])[0]
    table["photo"] = pd.factorize(table["sample_id"].str.replace(_FACE_NUMBER, "", regex=True))[0]
    named = table["name"] >= 0
    first = table[named & (table["set"] == SET_LABELLED)].groupby("name")["person"].min()
    spelling = table["name"].map(first)
    table["person"] = spelling.where(spelling.notna(), table["person"])
    return table


def _name_numbers(table: pd.DataFrame) -> Array:
    """Return a number for each person, the same for all spellings; -1 where there is none."""
    people, spellings = pd.factorize(table["person"])
    sources, source_names = pd.factorize(table["source"])
    each, where = np.unique(people * len(source_names) + sources, return_inverse=True)
    keys: list[str | None] = []
    for number in each:
        person, source = divmod(int(number), len(source_names))
        keys.append(_key(str(spellings[person]), str(source_names[source])) if person >= 0 else None)
    return pd.factorize(pd.Series(keys, dtype=object))[0][where]


def _key(person: str, source: str) -> str:
    """Return what the spellings of one person share; no normal name holds a NUL."""
    return normal_name(person) or f"{source}\0{person}"


def _folds(labelled: pd.DataFrame, split: config.Split) -> dict[str, int]:
    """Return the evaluation people, each with a fold."""
    once = labelled.drop_duplicates("content")
    people = sorted(once["person"].unique())
    first = ~once.duplicated("person")
    place = np.flatnonzero(first)[pd.factorize(once["person"])[0]]
    bits, has = _hash_rows(once)
    apart = np.bitwise_count(bits ^ bits[place]).sum(axis=1, dtype=np.int64)
    differs = ~first & ((apart > _same_bits(split)) | ~has | ~has[place])
    evaluated = _draw(people, set(once["person"][differs]), split)
    return {person: place % split.folds for place, person in enumerate(evaluated)}


def _draw(people: list[str], paired: set[str], split: config.Split) -> list[str]:
    """Return the evaluation people, of those in `paired`, in random order."""
    wanted = round(split.evaluation_share * len(people))
    needed = max(wanted, MIN_FOLD_PEOPLE * split.folds)
    if min(wanted, len(paired)) < needed or len(people) - wanted < MIN_TRAIN_PEOPLE:
        raise DataError(
            f"There are too few people: {len(people)}, of whom {len(paired)} have two or more usable faces; "
            f"evaluating on a share of {split.evaluation_share} in {split.folds} folds takes {needed} of "
            f"those and {MIN_TRAIN_PEOPLE} others to train on. Add people, lower split.folds or change "
            "split.evaluation_share."
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
            "of the others show evaluation photos again; add people or lower split.evaluation_share."
        )


# --- what both sides may not share ---


def _same_name(evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, _: Array | None) -> Hits:
    return _equal(evaluated["name"], trained["name"].where(trained["name"] >= 0))


def _same_bytes(evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, _: Array | None) -> Hits:
    return _equal(evaluated["content"], trained["content"])


def _equal(evaluated: pd.Series, trained: pd.Series) -> Hits:
    """Return the rows whose value an evaluation row has, with the first that has it."""
    first = ~evaluated.duplicated().to_numpy()
    place = pd.Index(evaluated[first]).get_indexer(pd.Index(trained))
    other = np.flatnonzero(place >= 0)
    return Hits(np.flatnonzero(first)[place[other]], other, np.zeros(len(other)))


def _same_hash(evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, _: Array | None) -> Hits:
    """Compare each different hash once, however many faces share it."""
    number, hashes = _distinct_hashes(trained)
    known, known_hashes = _distinct_hashes(evaluated)
    found = _nearest(*near_pairs(known_hashes, hashes, split.hash_bits))
    nearest = np.full(len(hashes) + 1, -1)  # one more, which the number -1 of no hash stands for
    distance = np.zeros(len(hashes) + 1)
    nearest[found.other], distance[found.other] = found.evaluation, found.distance
    other = np.flatnonzero(nearest[number] >= 0)
    numbers, first = np.unique(known, return_index=True)
    first = first[numbers >= 0]
    return Hits(first[nearest[number[other]]], other, distance[number[other]])


def _same_embedding(
    evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, embeddings: Array | None
) -> Hits:
    if embeddings is None:
        return Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))
    pairs, cosines = near_embeddings(
        embeddings[evaluated["row"]], embeddings[trained["row"]], split.same_cosine
    )
    return _nearest(pairs, 1 - cosines)


Gate = Callable[[pd.DataFrame, pd.DataFrame, config.Split, Array | None], Hits]
GATES: dict[str, Gate] = {
    "name": _same_name,
    "bytes": _same_bytes,
    "hash": _same_hash,
    "embedding": _same_embedding,
}


def _exclude(
    evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, embeddings: Array | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what may be trained on, and the list of what may not.

    Raises:
        IntegrityError: `split.overlap` is "stop" and there is something that may not.
    """
    listed = []
    for kind, gate in GATES.items():
        hits = gate(evaluated, trained, split, embeddings)
        listed.append(
            _listed(kind, evaluated.iloc[hits.evaluation], trained.iloc[hits.other], EXCLUDED, hits)
        )
        trained = trained[~trained["photo"].isin(trained["photo"].iloc[hits.other])]
    overlaps = pd.concat(listed, ignore_index=True)
    if split.overlap == "stop" and len(overlaps):
        training, evaluation = overlaps.loc[0, ["other", "evaluation"]]
        counts = ", ".join(f"{count} by {kind}" for kind, count in overlaps["kind"].value_counts().items())
        raise IntegrityError(
            f"split.overlap is stop, and {len(overlaps)} faces to train on show an evaluation photo or "
            f"person again ({counts}), for example {training}, as {evaluation}; take them out, or set "
            "split.overlap to exclude."
        )
    return trained, overlaps


# --- what one side may not have twice ---


def _without_copies(side: pd.DataFrame) -> pd.DataFrame:
    """Return the faces of the first photo of each content."""
    return side[side["photo"] == side.groupby("content")["photo"].transform("first")]


def _once(
    evaluated: pd.DataFrame, split: config.Split, *, all_stay: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the evaluation faces without copies and near-duplicates of one person, and the list of them."""
    kept = evaluated if all_stay else _without_copies(evaluated)
    copies = evaluated.drop(kept.index)
    firsts = kept.drop_duplicates("content").set_index("content", drop=False).loc[copies["content"]]
    listed = [_listed("copy", firsts, copies, DROPPED)]
    bits, has = _hash_rows(kept)
    rows = np.flatnonzero(has)
    pairs, distance = near_pairs(bits[rows], bits[rows], split.hash_bits)
    pairs, distance = pairs[later := pairs[:, 0] < pairs[:, 1]], distance[later]
    pairs = rows[pairs]
    names, photos = kept["name"].to_numpy()[pairs], kept["photo"].to_numpy()[pairs]
    alike = names[:, 0] == names[:, 1]
    others = ~alike & (photos[:, 0] != photos[:, 1])
    dropped = _later_ones(pairs, alike & (distance <= _same_bits(split)) & (not all_stay))
    for which, action in ((dropped, DROPPED), (others, KEPT)):
        hits = Hits(pairs[which, 0], pairs[which, 1], distance[which].astype(np.float64))
        listed.append(_listed("hash", kept.iloc[hits.evaluation], kept.iloc[hits.other], action, hits))
    gone = kept.index[np.unique(pairs[dropped, 1])]
    return kept.drop(gone), pd.concat(listed, ignore_index=True)


def _later_ones(pairs: Pairs, alike: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return which pairs cost their second face its place: those that are alike and whose first has one.

    The pairs ascend, so that a face's own place is settled before it can cost another's.
    """
    gone: set[int] = set()
    chosen = []
    for place in np.flatnonzero(alike):
        first, second = pairs[place].tolist()
        if first not in gone and second not in gone:
            gone.add(second)
            chosen.append(place)
    return np.array(chosen, np.int64)


# --- helpers of both ---


def _same_bits(split: config.Split) -> int:
    return min(split.hash_bits, SAME_PICTURE_BITS)


def _hash_rows(table: pd.DataFrame) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the hashes (N, 32), zeros where there is none, and where there is one."""
    number, hashes = _distinct_hashes(table)
    return np.concatenate([hashes, np.zeros((1, HASH_BYTES), np.uint8)])[number], number >= 0


def _distinct_hashes(table: pd.DataFrame) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
    """Return each face's number of its hash, -1 for none, and the different hashes (K, 32)."""
    column = table["hash"].astype(object)
    number, values = pd.factorize(column.where(column != b"", None))
    return number, np.frombuffer(b"".join(values), np.uint8).reshape(-1, HASH_BYTES)


def _nearest(pairs: Pairs, distance: Array) -> Hits:
    """Return of each second row's pairs the nearest, of equally near ones the first."""
    order = np.lexsort((pairs[:, 0], distance, pairs[:, 1]))
    other, first = np.unique(pairs[order, 1], return_index=True)
    chosen = order[first]
    return Hits(pairs[chosen, 0], other, distance[chosen].astype(np.float64))


def _listed(
    kind: str, evaluated: pd.DataFrame, others: pd.DataFrame, action: str, hits: Hits | None = None
) -> pd.DataFrame:
    rows = {
        "kind": kind,
        "evaluation": evaluated["sample_id"].to_numpy(),
        "other": others["sample_id"].to_numpy(),
        "distance": hits.distance if hits else np.zeros(len(others)),
        "action": action,
    }
    table = pd.DataFrame(rows, columns=OVERLAP_COLUMNS, index=range(len(others)))
    return table.astype({"kind": str, "evaluation": str, "other": str, "distance": float, "action": str})
