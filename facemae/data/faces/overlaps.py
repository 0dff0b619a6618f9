"""Faces that show the same on both sides of a split, or twice on one: by name, bytes, hash and embedding."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from facemae import config
from facemae.core.errors import IntegrityError
from facemae.core.layout import OVERLAP_COLUMNS
from facemae.data.faces.duplicates import HASH_BYTES, Pairs, near_embeddings, near_pairs

# Two faces of one person this near are one picture; ORL's nearest photos, of one sitting, are 12 bits apart.
SAME_PICTURE_BITS = 10
EXCLUDED, DROPPED, KEPT = "excluded", "dropped", "kept"

_ACCENTS = dict.fromkeys(range(0x300, 0x370))

Array = NDArray[Any]


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


# A check returns hits: rows of both sides that show the same, counted from 0 on each, and their distance.
def _nearest(pairs: Array, distance: Array) -> pd.DataFrame:
    """Return hits from pairs of rows (K, 2): of each second row the nearest, of equally near the first."""
    hits = pd.DataFrame({"evaluation": pairs[:, 0], "other": pairs[:, 1], "distance": distance.astype(float)})
    return hits.sort_values(["other", "distance", "evaluation"]).drop_duplicates("other")


def _equal(evaluated: pd.DataFrame, trained: pd.DataFrame, column: str) -> pd.DataFrame:
    """Return the pairs of rows with an equal value, but of each source's evaluation rows only the first."""
    one, other = (side[["source", column]].assign(row=range(len(side))) for side in (evaluated, trained))
    return one.drop_duplicates(["source", column]).merge(other, on=column)


def _same_name(evaluated: pd.DataFrame, trained: pd.DataFrame, *_: object) -> pd.DataFrame:
    pairs = _equal(evaluated, trained, "name")
    pairs = pairs[(pairs["name"] >= 0) & (pairs["source_x"] != pairs["source_y"])]
    return _nearest(pairs[["row_x", "row_y"]].to_numpy(), np.zeros(len(pairs)))


def _same_bytes(evaluated: pd.DataFrame, trained: pd.DataFrame, *_: object) -> pd.DataFrame:
    pairs = _equal(evaluated, trained, "content")
    return _nearest(pairs[["row_x", "row_y"]].to_numpy(), np.zeros(len(pairs)))


def _same_hash(
    evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, _: Array | None
) -> pd.DataFrame:
    """Compare each different hash once, however many faces share it."""
    known, known_hashes = _distinct_hashes(evaluated)
    number, hashes = _distinct_hashes(trained)
    found = _nearest(*near_pairs(known_hashes, hashes, split.hash_bits))
    first = pd.Series(range(len(known)), index=known).groupby(level=0).first()
    found["evaluation"] = first[found["evaluation"]].to_numpy()
    rows = pd.DataFrame({"row": range(len(number)), "other": number}).merge(found, on="other")
    return rows.assign(other=rows["row"])


def _same_embedding(
    evaluated: pd.DataFrame, trained: pd.DataFrame, split: config.Split, embeddings: Array | None
) -> pd.DataFrame:
    if embeddings is None:
        return _nearest(np.zeros((0, 2), np.int64), np.zeros(0))
    one, other = (embeddings[side["row"]] for side in (evaluated, trained))
    pairs, cosines = near_embeddings(one, other, split.same_cosine)
    return _nearest(pairs, 1 - cosines)


LeakageCheck = Callable[[pd.DataFrame, pd.DataFrame, config.Split, Array | None], pd.DataFrame]
LEAKAGE_CHECKS: dict[str, LeakageCheck] = {
    "name": _same_name,
    "bytes": _same_bytes,
    "hash": _same_hash,
    "embedding": _same_embedding,
}


def alike_in_a_source(evaluated: pd.DataFrame, trained: pd.DataFrame) -> pd.DataFrame:
    """Return the list of people of one source with equal normal names on both sides; both stay."""
    one, other = (
        side[side["name"] >= 0].drop_duplicates(["source", "person"]) for side in (evaluated, trained)
    )
    both = one.merge(other, on=["source", "name"])
    return _listed("name", both["sample_id_x"], both["sample_id_y"], KEPT)


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
        shown, found = evaluated.iloc[hits["evaluation"]], trained.iloc[hits["other"]]
        listed.append(_listed(kind, shown["sample_id"], found["sample_id"], EXCLUDED, hits["distance"]))
        trained = trained[~trained["photo"].isin(found["photo"])]
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
    listed = [_listed("copy", firsts["sample_id"], copies["sample_id"], DROPPED)]
    bits, has = hash_rows(kept)
    rows = np.flatnonzero(has)
    pairs, distance = near_pairs(bits[rows], bits[rows], split.hash_bits)
    pairs, distance = pairs[later := pairs[:, 0] < pairs[:, 1]], distance[later]
    pairs = rows[pairs]
    people, photos, names = (kept[column].to_numpy()[pairs] for column in ("person", "photo", "sample_id"))
    alike = people[:, 0] == people[:, 1]
    others = ~alike & (photos[:, 0] != photos[:, 1])
    dropped = _later_ones(pairs, alike & (distance <= same_bits(split)) & (not all_stay))
    for which, action in ((dropped, DROPPED), (others, KEPT)):
        listed.append(_listed("hash", names[which, 0], names[which, 1], action, distance[which]))
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


def _listed(
    kind: str, evaluation: ArrayLike, other: ArrayLike, action: str, distance: ArrayLike = 0.0
) -> pd.DataFrame:
    """Return a list of overlaps (OVERLAP_COLUMNS) from the sample_ids of both sides."""
    names = {"evaluation": np.asarray(evaluation, object), "other": np.asarray(other, object)}
    table = pd.DataFrame(names).assign(kind=kind, distance=np.asarray(distance), action=action)
    types = {"kind": str, "evaluation": str, "other": str, "distance": float, "action": str}
    return table[OVERLAP_COLUMNS].astype(types)
