"""The score above which two faces are taken for one person, and the errors that it stands for.

It follows from people whom the network was not trained on: of all comparisons of two of them, the wanted
share lies at or above it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from facemae.core import layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.text import percent

RESAMPLES, SEED, LEVEL = 200, 0, 0.95


class Card(NamedTuple):
    """Thresholds by wanted false match rate (`calibration.threshold_card`), and the people behind them."""

    rows: pd.DataFrame
    people: int


@dataclass(frozen=True)
class Threshold:
    """The least cosine similarity of a match, -1 to 1, and what it stands for; None is what is not known.

    Attributes:
        fmr, fmr_low, fmr_high: Share of comparisons of two people at or above it (false match rate), and its
            95 % interval over people.
        fnmr: Share of comparisons of one person below it (false non-match rate).
        people: Of how many people the rates were measured.
    """

    score: float
    fmr: float | None = None
    fmr_low: float | None = None
    fmr_high: float | None = None
    fnmr: float | None = None
    people: int = 0

    def matches(self, score: float) -> bool:
        """Tell whether a score is a match."""
        return score >= self.score

    def false_alarm(self, templates: int) -> float | None:
        """Return how likely a stranger is taken for somebody who is enrolled with one of so many templates.

        A stranger is compared with each of them: 1 - (1 - FMR) ** templates, if comparisons were independent.
        Those of one person are not, so it is rather too high where people have several.
        """
        return None if self.fmr is None else 1 - (1 - self.fmr) ** templates

    def in_words(self, people: int, templates: int) -> str:
        """Return what it stands for where so many people are enrolled by so many templates."""
        text = f"Needed for a match: {self.score:.3f}."
        if self.fmr is None:
            return f"{text} It was given, so its false match rate is not known."
        text += f" {percent(self.fmr)} of comparisons of two people reach it"
        if self.fmr_low is not None and self.fmr_high is not None:
            text += (
                f" ({percent(self.fmr_low)} to {percent(self.fmr_high)}, measured on {self.people:,} people "
                "that it was not trained on; other photos may behave otherwise)"
            )
        text += "."
        if self.fnmr is not None:
            text += f" {percent(self.fnmr)} of comparisons of one person miss it."
        alarm = self.false_alarm(templates)
        if templates > 1 and alarm is not None:
            enrolled = f"{people} {'person' if people == 1 else 'people'} enrolled by {templates} templates"
            text += f" With {enrolled}, a stranger is taken for one of them in about {percent(alarm)}."
        return text

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "score": self.score, "false_match_rate": self.fmr, "fmr_low": self.fmr_low,
            "fmr_high": self.fmr_high, "false_non_match_rate": self.fnmr, "people": self.people,
        }  # fmt: skip


def card_of(embeddings: Path, weights: str | None = None) -> Card:
    """Return the thresholds that follow from a `finetune` stage's embeddings of the evaluation people.

    Of several parts it is the first, since the others have networks of their own. `weights` is the SHA-256 of
    the weights that have to have made them; None: whichever.

    Raises:
        DataError: there is no such file.
        IntegrityError: it is damaged, or made with other weights.
    """
    from facemae.evaluation.pairs import EveryPair
    from facemae.evaluation.protocols import calibration
    from facemae.evaluation.statistics import identity_weights

    try:
        table = records.read_table(embeddings)
    except FileNotFoundError as error:
        raise DataError(
            "This model comes without embeddings of people it has not seen, so no threshold follows from it; "
            "give one with --threshold."
        ) from error
    if missing := set(layout.EMBEDDING_COLUMNS) - set(table):
        raise IntegrityError(f"{embeddings} lacks the column {min(missing)}; embed the people again.")
    table = table[table["part"] == table["part"].min()]
    if weights is not None:
        found = set(table[layout.WEIGHTS]) if layout.WEIGHTS in table else set()
        check_weights(found, weights, embeddings, "train or embed the run again (snakemake --cores all)")
    names, identity = np.unique(table["person"].astype(str), return_inverse=True)
    if len(names) < 2:
        raise IntegrityError("The embeddings beside this model show fewer than two people; make them again.")
    vectors = np.stack(table["embedding"].to_list())
    resamples = identity_weights(len(names), RESAMPLES, SEED)
    pairs = EveryPair.of(vectors, identity.astype(np.int64))
    return Card(calibration.threshold_card(pairs, resamples, LEVEL), len(names))


def check_weights(found: set[str], expected: str, path: Path, fix: str) -> None:
    """Stop unless what a file holds was made with the weights of this SHA-256.

    Raises:
        IntegrityError: it was made with others, or does not say with which.
    """
    if found != {expected}:
        named = f"weights {min(found)[:16]}" if any(found) else "weights that it does not name"
        raise IntegrityError(
            f"{path} was made with {named}, and the model's are {expected[:16]}, so its thresholds are "
            f"another model's; {fix}."
        )


def rates(card: pd.DataFrame, people: int) -> dict[float, Threshold]:
    """Return the thresholds that a card's data support, by wanted false match rate, the highest first."""
    return {
        float(row["target_fmr"]): Threshold(
            float(row["threshold"]), _known(row, "fmr"), _known(row, "fmr_low"), _known(row, "fmr_high"),
            _known(row, "fnmr"), people,
        )
        for row in card[card["note"] == ""].to_dict("records")
    }  # fmt: skip


def _known(row: dict[Any, Any], name: str) -> float | None:
    return None if pd.isna(row.get(name)) else float(row[name])


def at_rate(card: pd.DataFrame, people: int, target: float, *, strictly: bool = False) -> Threshold:
    """Return the threshold of a false match rate: of the card's rates the next lower one is taken.

    Where the data support none, it is the lowest supported, or with `strictly` a refusal.

    Raises:
        UsageError: the data support no rate at all, or not this one.
    """
    known = rates(card, people)
    if not known:
        note = str(card["note"].iloc[0])
        raise UsageError(f"No threshold follows from these people: {note}; give one with --threshold.")
    strict = [rate for rate in known if rate <= target * (1 + 1e-9)]
    if strictly and not strict:
        note = next(iter(card.loc[card["note"] != "", "note"]), "it is below all rates that are looked at")
        raise UsageError(
            f"A false match rate of {target:g} cannot be measured on these people ({note}); ask for "
            f"{min(known):g} or more."
        )
    return known[max(strict, default=min(known))]
