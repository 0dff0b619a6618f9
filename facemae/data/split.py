"""Who is trained on and who is evaluated on: by person, with a gate that stops a leak.

Roles: `train` people are pretrained on and fine-tuned on, `evaluation` people neither, `unlabelled`
photos (no person known) are pretrained on only.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from facemae import config
from facemae.errors import DataError, IntegrityError
from facemae.results import ROLE_EVALUATION, ROLE_TRAIN, ROLE_UNLABELLED, SPLIT_COLUMNS

MIN_FOLD_PEOPLE = 2  # a fold with one person has no impostor pair


def split_people(faces: pd.DataFrame, split: config.Split) -> pd.DataFrame:
    """Return one row per usable face: sample_id, person, role, fold, enrolled.

    Evaluation people are drawn among those with two or more faces, since a genuine pair needs two;
    the first face of each is `enrolled`, the gallery of identification. A photo that also stands,
    byte for byte, under an evaluation person is left out of training.

    Args:
        faces: Columns sample_id, person (None: not known) and sha256.
        split: Share, folds and seed.

    Raises:
        DataError: there are too few people.
    """
    counts = faces["person"].dropna().value_counts()
    people = sorted(counts.index)
    paired = [person for person in people if counts[person] >= 2]
    wanted = round(split.evaluation_share * len(people))
    evaluated = _draw(paired, wanted, people, split)
    fold = {person: place % split.folds for place, person in enumerate(evaluated)}

    table = faces[["sample_id", "person", "sha256"]].sort_values("sample_id", ignore_index=True)
    table["role"] = [_role(person, fold) for person in table["person"]]
    table["fold"] = pd.array([fold.get(person) for person in table["person"]], dtype="Int64")
    table["enrolled"] = (table["role"] == ROLE_EVALUATION) & ~table.duplicated("person")
    return _without_copies(table)[SPLIT_COLUMNS]


def check_split(table: pd.DataFrame) -> None:
    """Stop unless no person and no photo is both trained on and evaluated on.

    Raises:
        IntegrityError: the split leaks; the message names an example.
    """
    evaluated = table[table["role"] == ROLE_EVALUATION]
    trained = table[table["role"] != ROLE_EVALUATION]
    for column, what in (("person", "person"), ("sample_id", "photo"), ("sha256", "file content")):
        shared = sorted(set(evaluated[column].dropna()) & set(trained[column].dropna()))
        if shared:
            raise IntegrityError(
                f"The split leaks: {len(shared)} {what}(s) are both trained on and evaluated on, for example "
                f"{shared[0]}; delete the split file and run again."
            )


def _draw(paired: list[str], wanted: int, people: list[str], split: config.Split) -> list[str]:
    needed = MIN_FOLD_PEOPLE * split.folds
    if wanted < needed or len(paired) < wanted or len(people) - wanted < 2:
        raise DataError(
            f"{len(people)} people ({len(paired)} with two or more usable faces) are too few: evaluating on a "
            f"share of {split.evaluation_share} with {split.folds} folds takes {max(needed, wanted)} people with "
            "two or more faces and 2 others to train on; add people or lower split.folds."
        )
    order = np.random.default_rng(split.seed).permutation(len(paired))
    return [paired[place] for place in order[:wanted]]


def _role(person: object, evaluated: dict[str, int]) -> str:
    if not isinstance(person, str):
        return ROLE_UNLABELLED
    return ROLE_EVALUATION if person in evaluated else ROLE_TRAIN


def _without_copies(table: pd.DataFrame) -> pd.DataFrame:
    evaluated = set(table.loc[table["role"] == ROLE_EVALUATION, "sha256"])
    copy = (table["role"] != ROLE_EVALUATION) & table["sha256"].isin(evaluated)
    return table[~copy].reset_index(drop=True)
