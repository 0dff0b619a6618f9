"""A small results folder made of invented faces, written by the stages' own writers; nothing is trained."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from facemae import compare, config, evaluate, files, results
from facemae.data.images import encode_png
from facemae.data.split import split_people
from facemae.masking import make_mask
from facemae.models.mae import build_mae
from facemae.models.weights import save_weights
from facemae.results import Results

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>"
HOSTILE_PHOTO = f"labelled/p03/{HOSTILE}.png"
PEOPLE, SHOTS = 24, 3


def make_experiment(folder: Path, **changes: Any) -> config.Experiment:
    """Return the tiny experiment with `changes` laid over it."""
    paths = [ROOT / "config.yaml", ROOT / "config" / "tiny.yaml"]
    content = config.load(paths).model_dump()
    content |= {"results": str(folder), "baselines": ["pixels"]}
    content["split"] |= {"folds": 2}
    content["evaluate"] |= {"resamples": 100}
    return config.parse(config.merge(content, changes))


def make_results(folder: Path, **changes: Any) -> config.Experiment:
    """Fill `folder` as the workflow would, and return the experiment."""
    experiment, paths = make_experiment(folder, **changes), Results(folder)
    files.write_json(paths.config, experiment.model_dump())
    _write_data(paths, experiment)
    for name in (*experiment.run_names, *experiment.baselines):
        for seed in experiment.seeds_of(name):
            if name not in experiment.baselines:
                _write_training(paths, experiment, name, seed)
            _write_evaluation(paths, experiment, name, seed)
    compare.compare(experiment, folder)
    return experiment


def _write_data(paths: Results, experiment: config.Experiment) -> None:
    size = experiment.data.image_size
    random = np.random.default_rng(0)
    rows, outcomes = [], []
    for person in range(PEOPLE):
        for shot in range(SHOTS):
            name = HOSTILE if person == 0 else f"p{person:02}"
            sample = f"labelled/{name}/{shot}.png"
            image = np.kron(random.integers(0, 255, (8, 8, 3)), np.ones((size // 8, size // 8, 1)))
            png = encode_png(image.astype(np.uint8))
            row = {"sample_id": sample, "person": name, "sha256": files.sha256(png), "image": png}
            rows.append(row)
            outcomes.append({"sample_id": sample, "person": name, "code": "OK", "reason": "", "hint": ""})
    photo = paths.root / "photo.png"
    files.atomic_write(photo, rows[0]["image"])
    outcomes.append(
        {
            "sample_id": HOSTILE_PHOTO,
            "person": None,
            "code": "NO_FACE",
            "reason": "No face found.",
            "hint": "Try [a brighter photo](https://example.org).",
        }
    )
    photos = pd.DataFrame(outcomes).assign(path=os.fsencode(photo))
    table = pd.DataFrame(rows)
    results.write_table(paths.photos, photos, results.PHOTO_COLUMNS)
    results.write_table(paths.faces, table, results.FACE_COLUMNS)
    results.write_table(paths.split, split_people(table, experiment.split), results.SPLIT_COLUMNS)
    results.write_lines(paths.outcomes, outcomes)


def _write_training(paths: Results, experiment: config.Experiment, name: str, seed: int) -> None:
    run = experiment.run(name)
    if run.pretrain:
        out = paths.stage(name, seed, "pretrain")
        results.write_lines(out / results.LOG, _log(run.pretrain.steps, 1.0, seed))
        files.write_json(
            out / results.CONFIG,
            {"run": name, "seed": seed, "image_size": experiment.data.image_size}
            | {section: run.model_dump()[section] for section in ("model", "pretrain")},
        )
        mae = build_mae(run.model, run.pretrain, experiment.data.image_size)
        save_weights(mae.encoder, out / results.ENCODER)
        save_weights(mae.decoder, out / results.DECODER)
        _write_reconstructions(out, run.pretrain, experiment.data.image_size, run.model.patch_size)
    out = paths.stage(name, seed, "finetune")
    results.write_lines(out / results.LOG, _log(run.finetune.steps, 3.0, seed))


def _write_reconstructions(out: Path, settings: config.Pretrain, size: int, patch: int) -> None:
    faces = torch.randint(0, 255, (3, size, size, 3), dtype=torch.uint8)
    mask = make_mask(settings.mask, settings.mask_ratio, 3, size // patch, torch.Generator().manual_seed(0))
    tensors = {"face": faces, "hidden": mask.hidden, "reconstruction": faces.clone()}
    content = safetensors.torch.save(tensors, {"sample_ids": json.dumps(["a", "b", "c"])})
    files.atomic_write(out / results.RECONSTRUCTIONS, content)


def _log(steps: int, start: float, seed: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": start / step + seed / 10} for step in range(2, steps + 1, 2)]


def _write_evaluation(paths: Results, experiment: config.Experiment, name: str, seed: int) -> None:
    """Score embeddings that show a person plus noise, the less the later in the list the run stands."""
    split = results.read_table(paths.split)
    table = split[split["role"] == results.ROLE_EVALUATION]
    names = [*experiment.baselines, *experiment.run_names]
    random = np.random.default_rng([seed, names.index(name)])
    noise = 1.5 - names.index(name) / len(names)
    person = pd.factorize(table["person"])[0]
    vectors = np.eye(PEOPLE)[person] + noise * random.normal(size=(len(table), PEOPLE)) / 4
    embeddings = paths.stage(name, seed, "embed")
    results.write_table(
        embeddings / results.EMBEDDINGS,
        table.assign(embedding=list(vectors.astype(np.float32))),
        results.EMBEDDING_COLUMNS,
    )
    seconds = {} if name in experiment.baselines else {"finetune": 5.0}
    if name not in experiment.baselines and experiment.run(name).pretrain:
        seconds["pretrain"] = 10.0
    results.write_metrics(embeddings, [], seed=seed, device=f"cpu {HOSTILE}", seconds=seconds)
    out = paths.stage(name, seed, "evaluate")
    evaluate.evaluate(experiment, name, seed, embeddings, paths.split, out)
