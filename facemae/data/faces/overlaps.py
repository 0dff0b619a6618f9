"""Faces that show the same on both sides of a split, or twice on one: by name, bytes, hash and embedding."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core.errors import IntegrityError
from facemae.core.layout import OVERLAP_COLUMNS
from facemae.data.faces.duplicates import HASH_BYTES, Pairs, near_embeddings, near_pairs

# Two faces of one person this near are one picture; ORL's nearest photos, of one sitting, are 12 bits apart.
SAME_PICTURE_BITS = 10
EXCLUDED, DROPPED, KEPT = "excluded", "dropped", "kept"

_ACCENTS = dict.fromkeys(range(0x300, 0x370))

Array = NDArray[Any]


class Hits(NamedTuple):
    """Rows of the evaluation side and of the other that show the same, one pair per row of the other."""

    evaluation: NDArray[np.int64]
    other: NDArray[np.int64]
    distance: NDArray[np.float64]


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


def normal_names(table: pd.DataFrame) -> pd.Series:
    """Return the normal name of each face's person; None where it is empty or there is no person."""
    names = {person: normal_name(person) or None for person in table["person"].dropna().unique()}
    return table["person"].map(names)


def _same_name(evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, _: Array | None) -> Hits:
    found = [Hits(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))]
    for source in trained["source"].unique():
        others = np.flatnonzero(evaluated["source"] != source)
        own = np.flatnonzero((trained["source"] == source) & (trained["name"] >= 0))
        hits = _equal(evaluated["name"].iloc[others], trained["name"].iloc[own])
        found.append(Hits(others[hits.evaluation], own[hits.other], hits.distance))
    order = np.argsort(np.concatenate([each.other for each in found]), kind="stable")
    return Hits(*(np.concatenate(column)[order] for column in zip(*found, strict=True)))


def alike_in_a_source(evaluated: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Return the list of people of one source with equal normal names on both sides; both stay."""
    one, other = (
        side[side["name"] >= 0].drop_duplicates(["source", "person"]) for side in (evaluated, trained)
    )
    both = one.merge(other, on=["source", "name"])
    one, other = (both[[f"sample_id{side}"]].set_axis(["sample_id"], axis=1) for side in ("_x", "_y"))
    return _listed("name", one, other, KEPT)


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


LeakageCheck = Callable[[pd.DataFrame, pd.DataFrame, config.Split, Array | None], Hits]
LEAKAGE_CHECKS: dict[str, LeakageCheck] = {
    "name": _same_name,
    "bytes": lambda evaluated, trained, *_: _equal(evaluated["content"], trained["content"]),
    "hash": _same_hash,
    "embedding": _same_embedding,
}


def exclude(
    evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, embeddings: Array | None
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what may be trained on, and the list of what may not.

    Raises:
        IntegrityError: `split.overlap` is "stop" and there is something that may not.
    """
    listed = []
    for kind, check in LEAKAGE_CHECKS.items():
        hits = check(evaluated, trained, split, embeddings)
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


def without_copies(side: pd.DataFrame) -> pd.DataFrame:
    """Return the faces of the first photo of each content."""
    return side[side["photo"] == side.groupby("content")["photo"].transform("first")]


def once(
    evaluated: pd.DataFrame, split: config.Split, *, all_stay: bool
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the evaluation faces without copies and near-duplicates of one person, and the list of them."""
    kept = evaluated if all_stay else without_copies(evaluated)
    copies = evaluated.drop(kept.index)
    firsts = kept.drop_duplicates("content").set_index("content", drop=False).loc[copies["content"]]
    listed = [_listed("copy", firsts, copies, DROPPED)]
    bits, has = hash_rows(kept)
    rows = np.flatnonzero(has)
    pairs, distance = near_pairs(bits[rows], bits[rows], split.hash_bits)
    pairs, distance = pairs[later := pairs[:, 0] < pairs[:, 1]], distance[later]
    pairs = rows[pairs]
    people, photos = kept["person"].to_numpy()[pairs], kept["photo"].to_numpy()[pairs]
    alike = people[:, 0] == people[:, 1]
    others = ~alike & (photos[:, 0] != photos[:, 1])
    dropped = _later_ones(pairs, alike & (distance <= same_bits(split)) & (not all_stay))
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


def same_bits(split: config.Split) -> int:
    """Return within how many bits two faces of one person are the same picture."""
    return min(split.hash_bits, SAME_PICTURE_BITS)


def hash_rows(table: pd.DataFrame) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
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
