"""Pairs of photos to verify: the sources' own lists, or drawn from any labelled people.

An evaluation set is a list of pairs; which photos could be aligned does not change it, since a face that
was not found is a failure to be counted, not a pair to be dropped.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable
from dataclasses import asdict

import numpy as np
import pandas as pd

from facemae.core.errors import IntegrityError, RefusedError
from facemae.core.layout import PAIR_COLUMNS
from facemae.data.sources.base import Pair

GENERATED = "generated"
_SIDES = ("first", "second")
PER_FOLD = 300  # genuine pairs, and as many impostor pairs, as in LFW's View 2


def table(pairs: Iterable[Pair]) -> pd.DataFrame:
    """Return pairs as a table with the columns protocol, fold, first, second and genuine."""
    rows = pd.DataFrame([asdict(pair) for pair in pairs], columns=PAIR_COLUMNS)
    return rows.astype({"protocol": str, "fold": "int64", "first": str, "second": str, "genuine": bool})


def in_spelling_of(pairs: pd.DataFrame, sample_ids: Iterable[str]) -> pd.DataFrame:
    """Return the pairs with their photos named as they are listed.

    Systems spell accents in one character or two; where only that differs, and for one photo, they match. An
    IntegrityError where a photo is then paired with itself.
    """
    names = list(sample_ids)
    known = set(names)
    unknown = {*pairs["first"], *pairs["second"]} - known
    if not unknown:
        return pairs
    composed = pd.Series(names, index=[unicodedata.normalize("NFC", name) for name in names])
    composed = composed[~composed.index.duplicated(keep=False)]
    found = {name: composed.get(unicodedata.normalize("NFC", name), name) for name in unknown}
    pairs = pairs.assign(**{side: pairs[side].map(lambda each: found.get(each, each)) for side in _SIDES})
    if (alone := pairs["first"] == pairs["second"]).any():
        twice = pairs.loc[alone, "first"].iloc[0]
        raise IntegrityError(f"{twice} is compared with itself, in another spelling; correct the list.")
    return pairs


def check(pairs: pd.DataFrame, sample_ids: Iterable[str]) -> None:
    """Stop with an IntegrityError unless both photos of every pair are listed."""
    known = set(sample_ids)
    for column in _SIDES:
        lost = pairs.loc[~pairs[column].isin(known)]
        if len(lost):
            raise IntegrityError(
                f"{len(lost)} pairs of {lost['protocol'].iloc[0]} name photos that are not there, for "
                f"example {lost[column].iloc[0]}; the list and the photos do not belong together."
            )


def generate(people: pd.DataFrame, *, seed: int, per_fold: int = PER_FOLD) -> pd.DataFrame:
    """Draw as many genuine as impostor pairs in each fold, at most `per_fold` of each; no person is in two.

    Genuine pairs are drawn evenly over people first, so that those with many photos do not outweigh others.
    `people` has the columns sample_id, person and fold.

    Raises:
        RefusedError: a fold has no person with two photos, or only one person.
    """
    random = np.random.default_rng(seed)
    folds = people.sort_values("sample_id").groupby("fold")
    return table(pair for fold, part in folds for pair in _draw_fold(int(str(fold)), part, random, per_fold))


def _draw_fold(fold: int, part: pd.DataFrame, random: np.random.Generator, per_fold: int) -> list[Pair]:
    photos = {str(person): rows.to_list() for person, rows in part.groupby("person")["sample_id"]}
    genuine = _genuine(photos, random, per_fold)
    if not genuine or len(photos) < 2:
        raise RefusedError(
            f"Fold {fold} has {len(photos)} people and {len(genuine)} pairs of one person, and two are "
            "needed, at least one with two photos; add photos, or lower split.folds."
        )
    impostors = _impostors(photos, random, len(genuine))
    return [
        Pair(GENERATED, fold, first, second, same)
        for same, pairs in ((True, genuine[: len(impostors)]), (False, impostors))
        for first, second in pairs
    ]


def _genuine(photos: dict[str, list[str]], random: np.random.Generator, most: int) -> list[tuple[str, str]]:
    """Return distinct pairs of one person's photos: a pair of each person in turn, until there are enough."""
    decks = []
    for names in photos.values():
        count = math.comb(len(names), 2)
        drawn = random.choice(count, min(most, count), replace=False)
        decks.append([(names[first], names[second]) for first, second in map(_pair, drawn.tolist())])
    decks = [decks[each] for each in random.permutation(len(decks))]
    rounds = max((len(deck) for deck in decks), default=0)
    dealt = [deck[place] for place in range(rounds) for deck in decks if place < len(deck)]
    return dealt[:most]


def _pair(number: int) -> tuple[int, int]:
    """Return pair `number` of (0, 1), (0, 2), (1, 2), (0, 3) and so on; a list of them all may not fit."""
    second = (1 + math.isqrt(1 + 8 * number)) // 2
    return number - math.comb(second, 2), second


def _impostors(
    photos: dict[str, list[str]], random: np.random.Generator, count: int
) -> list[tuple[str, str]]:
    """Return distinct pairs of photos of different people; fewer than `count` if there are no more."""
    names = list(photos)
    possible = (sum(map(len, photos.values())) ** 2 - sum(len(each) ** 2 for each in photos.values())) // 2
    chosen: dict[tuple[str, str], None] = {}
    while len(chosen) < min(count, possible):
        one, other = sorted(random.choice(len(names), 2, replace=False).tolist())
        pair = tuple(photos[names[each]][random.integers(len(photos[names[each]]))] for each in (one, other))
        chosen[pair[0], pair[1]] = None
    return list(chosen)
