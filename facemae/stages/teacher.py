"""What a teacher makes of the faces that a run is distilled from: computed once, and kept beside the faces.

Shapes: N faces, M dimensions of the teacher's embedding.
"""

from __future__ import annotations

import contextlib
import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import Progress, say
from facemae.data.faces.cache import OpenFaces
from facemae.data.faces.split import learnt_from
from facemae.data.faces.workers import follow_parent, kill_explained
from facemae.evaluation.baselines.off_the_shelf import Embed, find_recogniser, recogniser
from facemae.evaluation.pairs import unit_rows
from facemae.stages.task import Task
from facemae.training import checkpoint
from facemae.training.preemption import stop_signal

Floats = NDArray[np.float32]
EmbedAll = Callable[[list[NDArray[np.uint8]]], list[Floats]]
"""From batches of faces (B, H, H, 3) to their embeddings (B, M)."""

BATCH = 64
SAVED_EVERY = 16  # batches, some minutes of a slow teacher's work
COMPARED = 1024  # faces at a time


def taught(task: Task, part: int, held_out: set[str]) -> tuple[pd.DataFrame, torch.Tensor, int]:
    """Return the rows that a student may learn from, their teacher's embeddings, and how many are left out.

    The rows (N) of the split are all faces that pretraining may see, but for the training people who are held
    out, and for faces without a name that the teacher takes for an evaluation person's: those are counted.
    None of them shows the evaluation people of the part. The embeddings are (N, M).
    """
    settings = task.run.finetune
    compares, roles = settings.teacher_apart < 1, [layout.ROLE_TRAIN, layout.ROLE_UNLABELLED]
    rows = task.rows(*roles, *([layout.ROLE_EVALUATION] if compares or task.rotations > 1 else []))
    vectors = _embeddings(task, rows)
    evaluated = ((rows["role"] == layout.ROLE_EVALUATION) & (rows["part"] == part)).to_numpy()
    learnt = rows.index.isin(learnt_from(rows, part, unlabelled=True).index)
    learnt &= ~rows["person"].isin(held_out).to_numpy()
    unnamed = (rows["role"] == layout.ROLE_UNLABELLED).to_numpy()
    shown = np.zeros(len(rows), bool)
    if compares:
        shown[unnamed] = _nearest(vectors[unnamed], vectors[evaluated]) >= settings.teacher_apart
        say(task.label, f"{shown.sum()} of {unnamed.sum()} unlabelled faces look like an evaluation person")
    chosen = learnt & ~shown
    if not chosen.any():
        raise DataError("finetune.teacher_apart leaves out every face; raise it.")
    return rows[chosen], torch.from_numpy(vectors[chosen]), int(shown.sum())


def _embeddings(task: Task, rows: pd.DataFrame) -> Floats:
    """Return the teacher's embeddings (N, M) of faces, each the mean over the face and its mirror image.

    They lie beside the aligned faces for all runs and seeds; a call that was cut off goes on.
    """
    name, faces = str(task.run.finetune.teacher), task.open(rows)
    key = records.digest([find_recogniser(name).key(), task.inputs()["faces"], faces.sample_ids])
    folder = task.data.root / f".teacher-{name}-{key}"
    with files.exclusive(folder.with_name(f"{folder.name}.lock"), waits=True):
        found = checkpoint.newest(folder)
        known = found[0]["vectors"].numpy() if found else None
        if known is not None and len(known) == len(faces):
            return known
        with _embedding(name, task.threads) as embed:
            return _embedded(task, embed, faces, known, folder)


def _embedded(task: Task, embed: EmbedAll, faces: OpenFaces, known: Floats | None, folder: Path) -> Floats:
    """Return the embeddings of all faces, `known` being those of the first ones; `folder` keeps them."""
    label = f"{task.label} teacher"
    parts = [embed([faces[:1]])[0][:0] if known is None else known]
    if (width := parts[0].shape[1]) != task.run.model.embedding:
        raise UsageError(
            f"model.embedding is {task.run.model.embedding}, and the teacher's embeddings have {width} "
            f"dimensions; set it to {width}."
        )
    done = len(parts[0])
    progress = Progress(label, len(faces), "faces", done)
    with stop_signal() as stop:
        while done < len(faces):
            end = min(done + task.threads * BATCH, len(faces))
            parts += embed([faces[start : start + BATCH] for start in range(done, end, BATCH)])
            done = end
            progress.update(done)
            if stop.requested or done == len(faces) or len(parts) > SAVED_EVERY:
                parts = [np.concatenate(parts)]
                checkpoint.save(folder, done, {"vectors": torch.from_numpy(parts[0])}, {})
            if stop.requested and done < len(faces):
                raise stop.error(label, done)
    return parts[0]


@contextlib.contextmanager
def _embedding(name: str, processes: int) -> Iterator[EmbedAll]:
    """Give the embedding of several batches by a teacher, which computes one batch a process at a time."""
    if processes == 1:
        embed = recogniser(name)
        yield lambda batches: [_with_mirror(embed, each) for each in batches]
        return
    context = multiprocessing.get_context("forkserver")
    with kill_explained("threads"), ProcessPoolExecutor(processes, context, follow_parent) as pool:
        yield lambda batches: list(pool.map(partial(_in_process, name), batches))


_loaded = cache(recogniser)


def _in_process(name: str, faces: NDArray[np.uint8]) -> Floats:
    return _with_mirror(_loaded(name), faces)


def _with_mirror(embed: Embed, faces: NDArray[np.uint8]) -> Floats:
    """Return the mean embedding (N, M) of faces (N, H, H, 3) and their mirror images."""
    both = embed(faces) + embed(np.ascontiguousarray(faces[:, :, ::-1]))
    return np.asarray(both / 2, np.float32)


def _nearest(vectors: Floats, others: Floats) -> Floats:
    """Return the greatest cosine of each vector (N, M) with any of the others."""
    compared = unit_rows(others).T
    starts = range(0, len(vectors), COMPARED)
    parts = [(unit_rows(vectors[start : start + COMPARED]) @ compared).max(axis=1) for start in starts]
    return np.concatenate([np.zeros(0), *parts]).astype(np.float32)
