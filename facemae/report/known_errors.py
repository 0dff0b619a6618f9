"""The errors of a run that its users should know: by group of people, and the hardest pairs of faces."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import layout, records
from facemae.core.layout import Results
from facemae.evaluation.pairs import unit_rows
from facemae.report.phrases import rows_of

WHAT_GROUPS_TAKE = (
    "It takes evaluation people whose group is known, 30 or more in each of two groups, such as those of "
    "config/lfw.yaml, or `facemae evaluate --embeddings` on a table with a column `group`."
)
FAIRNESS = "fairness"
FAILURES = 5  # pairs of either kind
_BLOCK = 1024  # faces that are compared with all others at a time

Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Errors by group of people."""

    rows: pd.DataFrame  # of the protocol "fairness" that have a value; columns as in the summary
    why_not: list[str]  # sentences on what was not measured and what it would take; none where all was


def groups(measured: pd.DataFrame) -> Groups:
    """Return the errors by group of one run, from its rows of the summary or leaderboard."""
    rows = measured[measured["protocol"] == FAIRNESS]
    if rows.empty:
        return Groups(rows, ["The evaluated photos name no group of people.", WHAT_GROUPS_TAKE])
    refused = rows[rows["value"].isna()].drop_duplicates(["condition", "note"])
    reasons = [f"{row['condition'] or 'Between groups'}: {row['note']}." for row in rows_of(refused)]
    known = rows[rows["value"].notna()]
    compared = known.loc[known["condition"] != "", "condition"].nunique()
    too_few = compared < 2 or (refused["condition"] != "").any()
    return Groups(known, [*reasons, WHAT_GROUPS_TAKE] if reasons and too_few else reasons)


def failures(paths: Results, run: str, seed: int, count: int = FAILURES) -> pd.DataFrame:
    """Return the pairs of evaluation faces that a network finds hardest, at most so many of either kind.

    Of several parts it is the first's network, as of the card.

    Returns:
        Columns kind ("genuine": one person, the lowest scores; "impostor": two people, the highest), first,
        second (sample ids), person_first, person_second and score (cosine similarity), hardest first.

    Raises:
        FileNotFoundError: there are no embeddings.
    """
    path = paths.stage(run, seed, "finetune") / layout.EMBEDDINGS
    faces = records.read_table(path, layout.EMBEDDING_COLUMNS)
    faces = faces[faces["part"] == faces["part"].min()].sort_values("sample_id", ignore_index=True)
    number = pd.factorize(faces["person"])[0]
    unit = unit_rows(np.stack(faces["embedding"].to_list())).astype(np.float32)
    found = [_hardest(unit, number, start, count) for start in range(0, len(unit), _BLOCK)]
    pairs = pd.concat(found).sort_values(["cost", "i", "j"])
    shown = pd.concat([pairs[pairs["kind"] == kind].head(count) for kind in ("genuine", "impostor")])
    sides = {
        name + side: faces[column].astype(str).to_numpy()[shown[end]]
        for side, end in (("first", "i"), ("second", "j"))
        for name, column in (("", "sample_id"), ("person_", "person"))
    }
    score = shown["cost"].where(shown["kind"] == "genuine", -shown["cost"])
    return pd.DataFrame({"kind": shown["kind"], **sides, "score": score}).reset_index(drop=True)


def _hardest(unit: NDArray[np.float32], person: Integers, start: int, count: int) -> pd.DataFrame:
    """Return the hardest pairs (i, j) of a block of faces with those after them; a low cost is hard."""
    scores = unit[start : start + _BLOCK] @ unit.T
    first, second = np.ogrid[start : start + len(scores), : len(unit)]
    same = person[first] == person[second]
    parts = []
    for kind, mask, costs in (("genuine", same, scores), ("impostor", ~same, -scores)):
        costs = np.where(mask & (second > first), costs, np.inf).ravel()
        places = np.argpartition(costs, min(count, len(costs)) - 1)[:count]
        places = places[np.isfinite(costs[places])]
        i, j = np.divmod(places, len(unit))
        parts.append(pd.DataFrame({"kind": kind, "cost": costs[places], "i": i + start, "j": j}))
    return pd.concat(parts)
