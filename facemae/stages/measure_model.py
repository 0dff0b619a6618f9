"""What a model with a name is worth on LFW: its threshold card, View 2, and faces a second.

The thresholds of a model that others have trained are measured on a seeded half of LFW's people, so that the
other half can test them; those of a model that comes with the package on the people of its card.
N photos, D dimensions of an embedding.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import files, records
from facemae.core.errors import DataError
from facemae.core.progress import say
from facemae.evaluation.baselines.off_the_shelf import IMAGE_SIZE, find_recogniser, recogniser
from facemae.evaluation.embedding_file import from_table
from facemae.evaluation.embedding_report import Settings, as_json, evaluate
from facemae.evaluation.pairs import EveryPair
from facemae.evaluation.protocols import calibration
from facemae.evaluation.statistics import identity_weights
from facemae.models import shipped_models
from facemae.stages.embed_dataset import embeddings_of, pair_cosines

SEED, RESAMPLES, LEVEL = 0, 1000, 0.95
TIMED = 32  # faces
SCORE_COLUMNS = ["fold", "first", "second", "genuine", "score"]  # people by number


def measure(name: str, raw_dir: str, cache: Path, workers: int, out: Path) -> None:
    """Write the card of a model as JSON; of a model that comes with the package, into the card it has.

    `name` is a key of `RECOGNISERS`, or a recogniser that comes with the package. Scores of View 2's pairs go
    beside the card of a shipped model. The other arguments are those of `embeddings_of`.

    Raises:
        DataError: nobody of LFW is among those that a shipped model's card is about.
    """
    table, pairs = embeddings_of(name, "lfw", raw_dir, cache, "lfw-view2", workers, everybody=True)
    if name in shipped_models.WEIGHTS:
        _add_to_card(name, table, pairs, out)
    else:
        people = card_people(table["person"])
        files.write_json(out, card(name, table, people, f", drawn by seed {SEED}", pairs), sort_keys=False)
    say("models", f"written: {out}")


def card(name: str, table: pd.DataFrame, people: set[str], drawn: str, pairs: pd.DataFrame) -> dict[str, Any]:
    """Return what is measured of a model, its thresholds on some people of LFW and, given pairs, View 2.

    `table` has sample_id, person and embedding of all photos of LFW; `drawn` says how the people were chosen.
    """
    chosen = table[table["person"].isin(people)]
    names, identity = np.unique(chosen["person"], return_inverse=True)
    everybody = EveryPair.of(np.stack(chosen["embedding"].to_list()), identity.astype(np.int64))
    weights = identity_weights(len(names), RESAMPLES, SEED)
    thresholds = calibration.threshold_card(everybody, weights, LEVEL).astype(object)
    model = find_recogniser(name)
    return {
        "model": name, "weights": files.sha256_of(model.weights()), "framing": model.framing,
        "measured_on": f"{len(chosen)} photos of {len(names)} people of LFW{drawn}",
        "people": len(names), "photos": len(chosen),
        "lfw_view2": _accuracy(table, pairs, "lfw_view2") if len(pairs) else None,
        "faces_per_second": _speed(name),
        "thresholds": thresholds.where(thresholds.notna(), None).to_dict("records"),
    }  # fmt: skip


def _add_to_card(name: str, table: pd.DataFrame, pairs: pd.DataFrame, out: Path) -> None:
    """Measure a shipped model on the people of its card, and on the folds of View 2 that it has not seen."""
    seen, everybody = shipped_models.people(name), set(table["person"])
    people = shipped_models.known_among(everybody, seen.evaluation)
    if not people:
        raise DataError(f"Nobody of LFW is among the people of {name}'s card; pack it from results on LFW.")
    person = dict(zip(table["sample_id"], table["person"], strict=True))
    one, other = pairs["first"].map(person), pairs["second"].map(person)
    learnt = shipped_models.known_among(everybody, seen.training)
    unseen = ~pairs["fold"].isin(pairs.loc[one.isin(learnt) | other.isin(learnt), "fold"])
    listed = pairs[unseen].reset_index(drop=True)
    found = card(name, table, people, " whom it has not seen", listed)
    found["lfw_view2_pairs"] = len(listed)
    found["card_people"] = _accuracy(table[table["person"].isin(people)], None, "accuracy")
    files_of = dict(shipped_models.card(name)["files"])
    if len(listed):
        number = pd.Series(range(len(everybody)), sorted(everybody))
        written = listed.assign(
            first=one[unseen].map(number).to_numpy(),
            second=other[unseen].map(number).to_numpy(),
            score=pair_cosines(listed, table),
        )
        records.write_table(out.with_name(shipped_models.SCORES), written, SCORE_COLUMNS)
        files_of[shipped_models.SCORES] = files.sha256_of(out.with_name(shipped_models.SCORES))
    files.write_json(out, shipped_models.card(name) | found | {"files": files_of}, sort_keys=False)


def _accuracy(table: pd.DataFrame, pairs: pd.DataFrame | None, name: str) -> dict[str, Any]:
    """Return the accuracy, under a name, with its interval over people."""
    found = as_json(evaluate(from_table(table, name, {"plain_names": True}), pairs, Settings()), LEVEL)
    return {name: found["accuracy"], "ci_low": found["ci_low"], "ci_high": found["ci_high"]}


def card_people(people: pd.Series) -> set[str]:
    """Return the half of LFW's people whom thresholds are measured on, always the same."""
    names = np.array(sorted(people.unique()))
    return set(np.random.default_rng(SEED).permutation(names)[: len(names) // 2].tolist())


def _speed(name: str) -> float:
    embed = recogniser(name)
    faces: NDArray[np.uint8] = np.zeros((TIMED, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    embed(faces[:1])
    before = time.process_time()  # on one core, whatever else the machine does
    embed(faces)
    return round(TIMED / (time.process_time() - before), 1)
