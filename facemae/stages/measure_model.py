"""What a model that others have trained is worth on LFW: its threshold card, View 2, and faces a second.

The thresholds are measured on a seeded half of LFW's people, so that the other half can test them.
N photos, D dimensions of an embedding.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import files
from facemae.core.progress import say
from facemae.evaluation import records
from facemae.evaluation.baselines.off_the_shelf import IMAGE_SIZE, find_recogniser
from facemae.evaluation.embedding_file import from_table
from facemae.evaluation.embedding_report import Settings, evaluate
from facemae.evaluation.pairs import EveryPair
from facemae.evaluation.protocols import calibration
from facemae.evaluation.statistics import identity_weights
from facemae.stages.embed_dataset import embeddings_of

SEED, RESAMPLES, LEVEL = 0, 1000, 0.95
TIMED = 32  # faces


def measure(name: str, raw_dir: str, cache: Path, workers: int, out: Path) -> None:
    """Write the card of a model as JSON.

    Args:
        name: A key of `RECOGNISERS`.
        raw_dir: Folder with LFW.
        cache: Folder that keeps aligned faces and embeddings for the next time.
        workers: Processes that align.
        out: File to write.
    """
    table, pairs = embeddings_of(name, "lfw", raw_dir, cache, "lfw-view2", workers, everybody=True)
    files.write_json(out, card(name, table, pairs), sort_keys=False)
    say("models", f"written: {out}")


def card(name: str, table: pd.DataFrame, pairs: pd.DataFrame) -> dict[str, Any]:
    """Return what is measured of a model.

    Args:
        name: A key of `RECOGNISERS`.
        table: Columns sample_id, person and embedding, of all photos of LFW.
        pairs: Its View 2.
    """
    chosen = table[table["person"].isin(card_people(table["person"]))]
    names, identity = np.unique(chosen["person"], return_inverse=True)
    everybody = EveryPair.of(np.stack(chosen["embedding"].to_list()), identity.astype(np.int64))
    weights = identity_weights(len(names), RESAMPLES, SEED)
    rows = calibration.threshold_card(everybody, weights, LEVEL)
    report = evaluate(from_table(table, name), pairs, Settings())
    accuracy = next(each for each in report.measured if each.name == "accuracy")
    entry = records.entry(accuracy, LEVEL)
    model = find_recogniser(name)
    return {
        "model": name, "weights": files.sha256_of(model.weights()), "framing": model.framing,
        "measured_on": f"{len(chosen)} photos of {len(names)} people of LFW, drawn by seed {SEED}",
        "people": len(names), "photos": len(chosen),
        "lfw_view2": {
            "lfw_view2": entry["value"], "ci_low": entry["ci_low"], "ci_high": entry["ci_high"]
        },
        "faces_per_second": _speed(name),
        "thresholds": [_plain(row) for row in rows.to_dict("records")],
    }  # fmt: skip


def card_people(people: pd.Series) -> set[str]:
    """Return the half of LFW's people whom thresholds are measured on, always the same."""
    names = np.array(sorted(people.unique()))
    return set(np.random.default_rng(SEED).permutation(names)[: len(names) // 2].tolist())


def _speed(name: str) -> float:
    model = find_recogniser(name)
    embed = model.load(model.weights())
    faces: NDArray[np.uint8] = np.zeros((TIMED, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)
    embed(faces[:1])
    before = time.process_time()  # on one core, whatever else the machine does
    embed(faces)
    return round(TIMED / (time.process_time() - before), 1)


def _plain(row: dict[Any, Any]) -> dict[str, Any]:
    return {str(name): None if pd.isna(value) else value for name, value in row.items()}
