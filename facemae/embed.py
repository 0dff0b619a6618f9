"""The embedding stage: evaluation people's faces as vectors, by a trained run or by a baseline."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch

from facemae import files, results
from facemae.baselines import BASELINES
from facemae.data.cache import Faces
from facemae.device import Compute
from facemae.errors import UsageError
from facemae.models.embedder import embed as embed_batch
from facemae.models.patches import to_input
from facemae.models.weights import load_embedder
from facemae.progress import say, track
from facemae.task import Task

BATCH = 64


def embed(task: Task, finetuned: Path) -> None:
    """Write the embeddings that a run's face embedder gives the evaluation people.

    Args:
        task: The stage.
        finetuned: Folder of the run's `finetune` stage.
    """
    compute = task.compute()
    faces = task.load(results.ROLE_EVALUATION)
    say(task.label, f"{len(faces.images)} faces, {compute}")
    embeddings = embed_images(finetuned, faces.images, compute, task.label)
    trained = results.read_json(finetuned / results.METRICS)
    _write(task, faces, embeddings, str(compute), trained["seconds"])


def embed_baseline(task: Task) -> None:
    """Write the vectors that the baseline `task.name` gives the evaluation people.

    Raises:
        UsageError: there is no such baseline.
    """
    if task.name not in BASELINES:
        raise UsageError(f"There is no baseline {task.name!r}; known are {', '.join(BASELINES)}.")
    compute = task.compute()
    training, faces = task.load(results.ROLE_TRAIN), task.load(results.ROLE_EVALUATION)
    say(task.label, f"{len(faces.images)} faces, trains nothing, {compute}")
    embeddings = BASELINES[task.name](training.images, faces.images, task.experiment, task.seed)
    _write(task, faces, embeddings, "cpu, float32", {})


def embed_images(finetuned: Path, faces: np.ndarray, compute: Compute, label: str) -> np.ndarray:
    """Return the embeddings (N, D) of aligned faces (N, H, H, 3) uint8 by the embedder in a folder."""
    embedder = load_embedder(finetuned)
    compute.place(embedder)
    starts = range(0, len(faces), BATCH)
    parts = []
    for start in track(starts, len(starts), label, "batches"):
        images = torch.from_numpy(faces[start : start + BATCH]).to(compute.device)
        with compute.autocast():
            parts.append(embed_batch(embedder, to_input(images)).cpu())
    return torch.cat(parts).numpy()


def _write(task: Task, faces: Faces, embeddings: np.ndarray, device: str, seconds: dict[str, float]) -> None:
    table = pd.DataFrame(
        {
            "sample_id": faces.sample_ids,
            "person": faces.people,
            "embedding": list(embeddings.astype(np.float32)),
        }
    )
    results.write_table(task.out / results.EMBEDDINGS, table, results.EMBEDDING_COLUMNS)
    files.write_json(task.out / results.CONFIG, {"run": task.name, "seed": task.seed})
    results.write_metrics(task.out, [], seed=task.seed, device=device, seconds=seconds, inputs=task.inputs())
