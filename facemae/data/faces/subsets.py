"""Which labelled faces a fine-tuning learns from, and on whom it is validated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import torch

from facemae import config
from facemae.compute.seeding import generator
from facemae.core.errors import DataError

MIN_PEOPLE = 2  # recognition takes somebody else to be told from
VALIDATED_PEOPLE = 200  # enough for two digits, and little memory
VALIDATED_PHOTOS = 5  # of a person
KNOWN_PHOTOS = 2


def labelled_subset(rows: pd.DataFrame, labels: config.Labels) -> pd.DataFrame:
    """Return the rows of the faces whose labels are used, in their order.

    Faces are ranked at random, a face of each person first, so that each person keeps one as long as there
    are as many faces as people, and the smaller fractions of a subset lie within the larger ones.

    Raises:
        DataError: fewer than two people remain.
    """
    rows = rows[rows.groupby("person")["person"].transform("size") >= labels.min_per_person]
    order = torch.randperm(len(rows), generator=generator("labels", labels.subset)).numpy()
    nth = rows.iloc[order].groupby("person", sort=False).cumcount().to_numpy()  # of its person, from 0
    allowed = nth < (labels.per_person or len(rows))
    ranked = order[allowed][np.argsort(nth[allowed] > 0, kind="stable")]
    chosen = rows.iloc[np.sort(ranked[: round(labels.fraction * len(ranked))])]
    if chosen["person"].nunique() < MIN_PEOPLE:
        raise DataError(
            f"finetune.labels: {labels.fraction} of {len(ranked)} faces, of people with at least "
            f"{labels.min_per_person}, shows {chosen['person'].nunique()} people, and it takes two to tell "
            "apart; raise fraction, or lower min_per_person."
        )
    return chosen


def people_apart(rows: pd.DataFrame, share: float) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows to learn from, and those of people that are held out, the same for every run and seed.

    Held out are a share of the people with two photos or more, and of them no more than validation takes.

    Raises:
        DataError: fewer than two people remain on either side.
    """
    if not share:
        return rows, rows[:0]
    sizes = rows.groupby("person", sort=True).size()
    several = sizes.index[sizes > 1]
    order = torch.randperm(len(several), generator=generator("held out people")).numpy()
    held_out = several[order[: round(share * len(several))]]
    if len(held_out) < MIN_PEOPLE or len(sizes) - len(held_out) < MIN_PEOPLE:
        raise DataError(
            f"finetune.held_out {share} of {len(several)} people with two photos leaves fewer than two "
            "to learn from or to validate on; change it, or set held_out and validate_every to 0."
        )
    apart = rows[rows["person"].isin(held_out)]
    return rows.drop(apart.index), _some_of(apart, list(held_out), VALIDATED_PHOTOS)


def known_faces(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of two faces each of some people, to look at while they are learnt.

    Of nobody where fewer than two people are shown twice, since there would be no impostor pair.
    """
    sizes = rows.groupby("person", sort=True).size()
    several = sizes.index[sizes > 1]
    return _some_of(rows, list(several), KNOWN_PHOTOS) if len(several) >= MIN_PEOPLE else rows[:0]


def shown_twice(rows: pd.DataFrame, photos: int, most: int) -> pd.DataFrame:
    """Return up to `photos` rows of each of at most `most // photos` people with two or more."""
    some = rows.groupby("person", sort=False).head(photos)
    sizes = some.groupby("person", sort=False).size()
    people = pd.DataFrame({"person": sizes.index[sizes > 1]})
    return some[some["person"].isin(evenly(people, max(1, most // photos))["person"])]


def _some_of(rows: pd.DataFrame, people: list[str], photos: int) -> pd.DataFrame:
    some = evenly(pd.DataFrame({"person": np.sort(people)}), VALIDATED_PEOPLE)["person"]
    return rows[rows["person"].isin(some)].groupby("person", sort=False).head(photos)


def evenly(rows: pd.DataFrame, most: int | None) -> pd.DataFrame:
    """Return at most `most` rows, spread evenly over the table."""
    if most is None or len(rows) <= most:
        return rows
    return rows.iloc[np.linspace(0, len(rows) - 1, most).astype(int)]
