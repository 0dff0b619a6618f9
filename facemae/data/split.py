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

UNLABELLED = "unlabelled"  # first part of the name of a photo from `data.unlabelled`
MIN_FOLD_PEOPLE = 2  # a fold with one person has no impostor pair


def split_people(faces: pd.DataFrame, split: config.Split) -> pd.DataFrame:
    """Return one row per usable face: sample_id, person, role, fold, enrolled, sha256.

    Evaluation people are drawn among those with two or more faces, since a genuine pair needs two;
    the first face of each is `enrolled`, the gallery of identification. Of photos that are the same
    byte for byte only the first is kept, so none can be on both sides. A photo in the labelled data
    that names nobody may show an evaluation person, so it is left out.

    Args:
        faces: Columns sample_id, person (None: not known) and sha256.
        split: Share, folds and seed.

    Raises:
        DataError: there are too few people.
    """
    named = faces["person"].notna() | faces["sample_id"].str.startswith(f"{UNLABELLED}/")
    table = faces[named].sort_values("sample_id").drop_duplicates("sha256", ignore_index=True)
    counts = table["person"].dropna().value_counts()
    evaluated = _draw(sorted(counts.index), set(counts.index[counts >= 2]), split)
    fold = {person: place % split.folds for place, person in enumerate(evaluated)}
    table["role"] = [_role(person, fold) for person in table["person"]]
    table["fold"] = pd.array([fold.get(person) for person in table["person"]], dtype="Int64")
    table["enrolled"] = (table["role"] == ROLE_EVALUATION) & ~table.duplicated("person")
    return table[SPLIT_COLUMNS]


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


def _draw(people: list[str], paired: set[str], split: config.Split) -> list[str]:
    """Return the evaluation people, of those in `paired`, in random order."""
    wanted = round(split.evaluation_share * len(people))
    needed = max(wanted, MIN_FOLD_PEOPLE * split.folds)
    if min(wanted, len(paired)) < needed or len(people) - wanted < 2:
        raise DataError(
            f"There are too few people: {len(people)}, of whom {len(paired)} have two or more usable faces; "
            f"evaluating on a share of {split.evaluation_share} in {split.folds} folds takes {needed} of "
            "those and 2 others to train on. Add people, lower split.folds or change split.evaluation_share."
        )
    candidates = sorted(paired)
    order = np.random.default_rng(split.seed).permutation(len(candidates))
    return [candidates[place] for place in order[:wanted]]


def _role(person: object, evaluated: dict[str, int]) -> str:
    if not isinstance(person, str):
        return ROLE_UNLABELLED
    return ROLE_EVALUATION if person in evaluated else ROLE_TRAIN
