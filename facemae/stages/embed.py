"""Evaluation people's faces as vectors: by a run, where its fine-tuning ends, or by a baseline."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.evaluation.baselines.controls import EmbedByPart, baseline, learnt_from
from facemae.evaluation.baselines.off_the_shelf import Embed
from facemae.models.embedder import embed_faces
from facemae.models.weights import load_embedder
from facemae.stages.task import Task


def embed_baselines(experiment: config.Experiment, paths: Results, threads: int) -> None:
    """Write the embeddings that every baseline gives the evaluation people: their `embed` stage."""
    experiment = experiment.model_copy(update={"device": "cpu"})  # that is where baselines compute
    for name in experiment.baselines:
        for seed in experiment.seeds_of(name):
            out = paths.stage(name, seed, experiment.embedding_stage(name))
            task = Task(experiment, name, seed, paths.data, out, threads)
            embed_people(task, None)
            files.write_json(out / layout.CONFIG, {"run": name, "seed": seed})
            records.write_metrics(
                out, [], seed=seed, device="cpu, float32", seconds={}, inputs=task.inputs(),
                images_seen={}, energy_joules={},
            )  # fmt: skip


def embed_people(task: Task, finetuned: Path | None) -> None:
    """Write the evaluation people's embeddings, each part's by its own model, into the stage's folder.

    `finetuned` is the folder of a run's embedders; None: `task.name` is a baseline.
    """
    recognise = recogniser(task, finetuned)
    tables = []
    for part in task.wanted_parts:
        faces = task.load(task.evaluated(part))
        say(task.label, f"{len(faces.images)} faces, part {part + 1} of {task.rotations}")
        vectors = recognise(faces.images, part).astype(np.float32)
        found = {"sample_id": faces.sample_ids, "person": faces.people, "part": part}
        weights = files.sha256_of(finetuned / layout.embedder_file(part)) if finetuned else ""
        tables.append(pd.DataFrame(found | {"embedding": list(vectors), layout.WEIGHTS: weights}))
    columns = [*layout.EMBEDDING_COLUMNS, layout.WEIGHTS]
    records.write_table(task.out / layout.EMBEDDINGS, pd.concat(tables), columns)


def recogniser(task: Task, finetuned: Path | None) -> EmbedByPart:
    """Return the embedding of a run, by its `finetune` stage, or of the baseline `task.name`."""
    compute = task.compute  # which sets up PyTorch for a baseline too
    if finetuned is None and task.name in task.experiment.run_names:
        raise UsageError(f"{task.name} is a run; name the folder of its finetune stage with --finetuned.")

    @functools.cache
    def of_part(part: int) -> Embed:
        if finetuned is None:
            rows = learnt_from(task.name, task.training(part), task.experiment.defaults.finetune.labels)
            return baseline(task.name, task.load(rows), task.experiment, task.seed)
        network = load_embedder(finetuned, part)
        compute.place(network)
        return lambda images: embed_faces(network, images, compute, task.label)

    return lambda images, part: of_part(part)(images)
