"""The closed-form head on a frozen encoder's tokens: what an encoder tells of identity, without any training.

All tokens side by side are the features. The labels are those that fine-tuning learns from, and each part of
the evaluation people has a head of its own. Shapes: N faces, D numbers of all tokens.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from torch import Tensor

from facemae.core import layout, records
from facemae.core.errors import DataError
from facemae.core.progress import say
from facemae.data.faces.subsets import labelled_subset
from facemae.evaluation.baselines import closed_form
from facemae.models.base import Encoder
from facemae.models.embedder import all_tokens, in_batches, token_count
from facemae.stages.task import Task

COMPONENTS = 400
MOST_FACES = 10_000  # that a head is fitted to: 0.5 GB of 64 tokens of 192, and as much again
MOST_BYTES = 2e9  # of all faces' tokens

Floats = NDArray[np.floating]


def write_probe(task: Task, encoder: Encoder) -> dict[str, Any]:
    """Write the evaluation people's embeddings by closed-form heads on an encoder into the stage's folder.

    The encoder is as fine-tuning finds it, pretrained or not. Where the faces allow no head, the table is
    empty. Returns the entry of `metrics.json`: ROC AUC on held-out training people, or why there is none.
    """
    try:
        tables, values = _embedded(task, encoder)
        note = "closed-form head on the encoder's tokens, training people held out"
        entry = records.metric(layout.PROBE_AUC, float(np.mean(values)), n=len(values), note=note)
    except DataError as error:
        say(task.label, f"no closed-form head: {error}")
        tables = [pd.DataFrame(columns=layout.EMBEDDING_COLUMNS)]
        entry = records.metric(layout.PROBE_AUC, None, n=0, note=str(error).rstrip("."))
    records.write_table(task.out / layout.PROBE, pd.concat(tables), layout.EMBEDDING_COLUMNS)
    return entry


def _embedded(task: Task, encoder: Encoder) -> tuple[list[pd.DataFrame], list[float]]:
    """Return each part's EMBEDDING_COLUMNS and the AUC of its head."""
    labels = task.run.finetune.labels
    learnt = [_some(labelled_subset(task.training(part), labels)) for part in task.wanted_parts]
    evaluated = [task.evaluated(part) for part in task.wanted_parts]
    rows = pd.concat([*learnt, *evaluated]).drop_duplicates("sample_id")
    tokens, place = _tokens(task, rows, encoder), pd.Index(rows["sample_id"])
    tables, values = [], []
    for part, known, asked in zip(task.wanted_parts, learnt, evaluated, strict=True):
        features = tokens[place.get_indexer(known["sample_id"])].astype(np.float32)
        head = closed_form.fit(features, known["person"].to_list(), COMPONENTS, "The closed-form head")
        say(task.label, f"closed-form head on {len(features)} faces: {head}")
        vectors = head(tokens[place.get_indexer(asked["sample_id"])].astype(np.float32))
        table = asked[["sample_id", "person"]].assign(part=part, embedding=list(vectors.astype(np.float32)))
        tables.append(table)
        values.append(head.held_out_auc)
    return tables, values


def _some(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of people with two photos or more; of too many, some people drawn at random."""
    sizes = rows.groupby("person").size()
    drawn = sizes[sizes > 1].sample(frac=1, random_state=0).cumsum()
    return rows[rows["person"].isin(drawn.index[drawn <= MOST_FACES])]


def _tokens(task: Task, rows: pd.DataFrame, encoder: Encoder) -> NDArray[np.float16]:
    """Return all tokens of each face side by side, (N, D); without patches there is one vector."""
    if (size := 2 * len(rows) * token_count(encoder) * encoder.width) > MOST_BYTES:
        raise DataError(
            f"{size / 1e9:.1f} GB of tokens are more than the {MOST_BYTES / 1e9:g} GB that a closed-form "
            "head takes; use fewer faces, larger patches or a narrower encoder."
        )
    task.compute.place(encoder.eval())

    def look(images: Tensor) -> Tensor:
        return all_tokens(encoder, images).half()

    return in_batches(look, task.open(rows), task.compute, f"{task.label} tokens")
