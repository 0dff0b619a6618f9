"""A small results folder made of invented faces, written by the stages' own writers; nothing is trained."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch

from facemae import config
from facemae.compute.seeding import Noise
from facemae.core import files, layout, records
from facemae.core.layout import SET_LABELLED, SET_UNLABELLED, Results
from facemae.data.alignment import quality
from facemae.data.alignment.align import Aligned, Outcome
from facemae.data.faces import shards as store
from facemae.data.faces.cache import build_cache
from facemae.data.faces.pairs import generate
from facemae.data.faces.split import split_people
from facemae.data.images import encode_png
from facemae.data.sources import manifest
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import Entry
from facemae.data.sources.orl import orl_photos
from facemae.evaluation.records import Measurement, write_measured
from facemae.masking.coverage import measures
from facemae.masking.regions import region_map
from facemae.masking.strategies import draw_mask
from facemae.models.build import build_embedder, build_mae
from facemae.models.weights import save_weights
from facemae.stages import compare, evaluate
from facemae.stages.label_curve import points
from facemae.stages.task import Task

ROOT = Path(__file__).parents[1]
HOSTILE = "<script>alert(1)</script>"
HOSTILE_PHOTO = f"labelled/p03/{HOSTILE}.png"
PEOPLE, SHOTS, CROPS = 24, 3, 4
DOUBTFUL = {
    f"labelled/{HOSTILE}/0.png": {"yaw": -71.0, "residual": 12.0},
    f"labelled/{HOSTILE}/1.png": {"yaw": 52.0},
    "labelled/p01/0.png": {"score": 0.9},
}
RUNS: dict[str, Any] = {
    "scratch": {"pretrain": None}, "random": {}, "region": {"pretrain": {"mask": "region"}},
}  # fmt: skip
# Laid over the configuration: every protocol, two cheap controls and a rival.
EVERYTHING: dict[str, Any] = {
    "runs": {
        "patch_drop": {"pretrain": None, "finetune": {"patch_drop": 0.5}},
        "erasing": {"pretrain": None, "finetune": {"erasing": 0.5}},
        "simclr": {"pretrain": {"method": "simclr"}},
    },
    "robustness": {
        "runs": ["all"],
        "occlusions": ["block", "sunglasses", "mask", "scarf", "hand", "left", "right"],
        "areas": [0.1, 0.3, 0.5],
        "lights": ["exposure", "gamma", "side"],
        "strengths": [0.5, 1.0],
    },
    "label_curve": {"runs": ["all"], "fractions": [0.1, 0.25, 0.5], "per_person": [1, 2], "subsets": 3},
    "attributes": {"runs": ["all"], "tasks": {"gender": "orl"}},
}
LANDMARKS = np.array([(3, 4), (7, 4), (5, 6), (4, 8), (6, 8)], np.float32)
DOUBTFUL_NAMES = list(DOUBTFUL)


def make_experiment(folder: Path, **changes: Any) -> config.Experiment:
    """Return the tiny experiment with `changes` laid over it."""
    paths = [ROOT / "config.yaml", ROOT / "config" / "tiny.yaml"]
    content = config.load(paths).model_dump()
    content |= {"results": str(folder), "baselines": ["pixels"], "runs": RUNS}
    for protocol in ("robustness", "label_curve", "attributes"):
        content[protocol]["runs"] = []
    content["attributes"]["tasks"] = {}
    content["split"] |= {"folds": 2}
    content["evaluate"] |= {"resamples": 100}
    return config.parse(config.merge(content, changes))


def make_results(folder: Path, **changes: Any) -> config.Experiment:
    """Fill `folder` as the workflow would, and return the experiment."""
    experiment, paths = make_experiment(folder, **changes), Results(folder)
    files.write_json(paths.config, experiment.model_dump(), sort_keys=False)
    _write_data(paths, experiment)
    for name in (*experiment.run_names, *experiment.baselines):
        for seed in experiment.seeds_of(name):
            if name not in experiment.baselines:
                _write_training(paths, experiment, name, seed)
            _write_evaluation(paths, experiment, name, seed)
        _write_protocols(paths, experiment, name)
    compare.compare(experiment, folder)
    return experiment


def _write_data(paths: Results, experiment: config.Experiment) -> None:
    """Write two sources: faces that a detector might have found, and photos taken as faces."""
    data, size = paths.data, experiment.data.image_size
    outcomes = [*_found(paths.root / "photos", size), *_cropped(paths.root / "photos", size)]
    manifest.write(data.photos, [outcome.entry for outcome in outcomes], {})
    files.write_json(data.sources, [_source("labelled", {"not a photo": 2}), _source("unlabelled", {})])
    shards = data.shards / "made"
    for number, start in enumerate(range(0, len(outcomes), 50)):
        part = outcomes[start : start + 50]
        store.write_shard(store.shard_path(shards, number), part, store.schema([]))
    store.finish(data, shards)
    build_cache(data)
    _write_split(paths, experiment)


def photos_are_orls(folder: Path) -> list[str]:
    """Say of the evaluation people's photos that they hold what ORL's do; return the people in order."""
    paths = Results(folder)
    table = records.read_table(paths.data.split)
    own = table["role"] == layout.ROLE_EVALUATION
    table.loc[own, "sha256"] = [files.sha256_of(each.path) for each in orl_photos()[: own.sum()]]
    records.write_table(paths.data.split, table, layout.SPLIT_COLUMNS)
    return list(table[own].sort_values("sample_id")["person"].drop_duplicates())


def _source(name: str, ignored: dict[str, int]) -> dict[str, Any]:
    facts = {"title": f"{name} {HOSTILE}", "licence": "that of [nobody](https://example.org)", "credit": "us"}
    return {"name": name, "ignored": ignored} | facts


def _found(photos: Path, size: int) -> list[Outcome]:
    outcomes = []
    for person in range(PEOPLE):
        for shot in range(SHOTS):
            name = HOSTILE if person == 0 else f"p{person:02}"
            entry = _entry(photos, f"labelled/{name}/{shot}.png", name, SET_LABELLED)
            outcomes.append(Outcome(entry, found=1, score=0.99, faces=(_face(entry, size),)))
    rejected = _entry(photos, HOSTILE_PHOTO, None, SET_LABELLED)
    hint = "Try [a brighter photo](https://example.org)."
    return [*outcomes, Outcome(rejected, "NO_FACE", "No face found.", hint)]


def _cropped(photos: Path, size: int) -> list[Outcome]:
    entries = [_entry(photos, f"unlabelled/{shot}.png", None, SET_UNLABELLED) for shot in range(CROPS)]
    return [
        Outcome(entry, found=1, faces=(Aligned(_pixels(entry.photo.sample_id, size), 800.0),))
        for entry in entries
    ]


def _entry(photos: Path, sample_id: str, person: str | None, set_name: str) -> Entry:
    path = photos / f"{files.sha256(sample_id.encode())[:8]}.png"
    files.atomic_write(path, encode_png(_pixels(sample_id, 64)))
    return manifest.enter(Photo(sample_id, person, path), set_name, set_name)


def _pixels(sample_id: str, size: int) -> np.ndarray:
    """Return squares in random colours that are a photo's own."""
    random = np.random.default_rng(list(sample_id.encode()))
    squares = random.integers(0, 255, (8, 8, 3), np.uint8)
    return squares.repeat(size // 8, axis=0).repeat(size // 8, axis=1)


def _face(entry: Entry, size: int) -> Aligned:
    name = entry.photo.sample_id
    measured = {"score": 0.99, "face_px": 60.0, "residual": 1.0, "yaw": 2.0} | DOUBTFUL.get(name, {})
    face = Aligned(_pixels(name, size), sharpness=900.0, landmarks=LANDMARKS * 6.4, **measured)
    return replace(face, warnings=quality.warnings(size, sharp=face.sharpness, **measured))


def _write_split(paths: Results, experiment: config.Experiment) -> None:
    columns = ["sample_id", "person", "source", "set", "sha256", "hash"]
    roles, _ = split_people(records.read_table(paths.data.faces, columns), experiment.split)
    records.write_table(paths.data.split, roles, layout.SPLIT_COLUMNS)
    evaluated = roles.loc[roles["role"] == layout.ROLE_EVALUATION, "sample_id"]
    row = {"kind": "hash", "evaluation": evaluated.iloc[0], "distance": 3.0, "action": "excluded"}
    rows = [row | {"other": name} for name in (DOUBTFUL_NAMES[0], "unlabelled/gone.png")]
    drawn = generate(roles[roles["role"] == layout.ROLE_EVALUATION], seed=0)
    records.write_table(paths.data.pairs, drawn, layout.PAIR_COLUMNS)
    records.write_table(paths.data.overlaps, pd.DataFrame(rows), layout.OVERLAP_COLUMNS)


def _write_training(paths: Results, experiment: config.Experiment, name: str, seed: int) -> None:
    run = experiment.run(name)
    if run.pretrain:
        out = paths.stage(name, seed, "pretrain")
        records.write_lines(out / layout.LOG, _log(run.pretrain.steps, 1.0, seed))
        files.write_json(
            out / layout.CONFIG,
            {"run": name, "seed": seed, "image_size": experiment.data.image_size}
            | {section: run.shaping()[section] for section in ("model", "pretrain")},
        )
        if run.masked:
            mae = build_mae(run.model, run.pretrain, experiment.data.image_size)
            save_weights(mae.encoder.trunk, out / layout.ENCODER)
            save_weights(mae.decoder, out / layout.DECODER)
            _write_reconstructions(out, run.pretrain, experiment.data.image_size, run.model.patch_size)
        scored = ["reconstruction_error_random"] if run.masked and run.strategy != "pixel" else []
        records.write_metrics(
            out,
            [records.metric(name_of, 0.5, n=3, note="") for name_of in scored],
            seed=seed, device="cpu", seconds={"pretrain": 10.0 + seed}, inputs={},
        )  # fmt: skip
    out = paths.stage(name, seed, "finetune")
    records.write_lines(out / layout.LOG, _log(run.finetune.steps, 3.0, seed))
    torch.manual_seed(100 * experiment.run_names.index(name) + seed)
    save_weights(build_embedder(run.model, experiment.data.image_size), out / layout.EMBEDDER)
    shaping = {section: run.shaping()[section] for section in ("model", "finetune")}
    files.write_json(
        out / layout.CONFIG, {"run": name, "seed": seed, "image_size": experiment.data.image_size} | shaping
    )


def _write_reconstructions(out: Path, settings: config.Pretrain, size: int, patch: int) -> None:
    faces = torch.randint(0, 255, (3, size, size, 3), dtype=torch.uint8)
    side, noise = size // patch, Noise(range(3), "test")
    regions = region_map(side).expand(3, -1)
    mask = draw_mask(settings.mask, settings.mask_ratio, settings.mask_parameters, side, noise, regions)
    tensors = {"face": faces, "hidden": mask.hidden, "reconstruction": faces.clone()}
    facts = {"sample_ids": ["a", "b", "c"], "mask": measures(mask, regions)}
    content = safetensors.torch.save(tensors, {layout.FACTS: json.dumps(facts)})
    files.atomic_write(out / layout.RECONSTRUCTIONS, content)


def _weights(stage: Path) -> str:
    embedder = stage / layout.EMBEDDER
    return files.sha256_of(embedder) if embedder.is_file() else ""


def _log(steps: int, start: float, seed: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": start / step + seed / 10} for step in range(2, steps + 1, 2)]


def _write_evaluation(paths: Results, experiment: config.Experiment, name: str, seed: int) -> None:
    """Score embeddings that show a person plus noise, the less the later in the list the run stands."""
    split = records.read_table(paths.data.split)
    table = split[split["role"] == layout.ROLE_EVALUATION]
    names = [*experiment.baselines, *experiment.run_names]
    random = np.random.default_rng([seed, names.index(name)])
    noise = 1.5 - names.index(name) / len(names)
    person = pd.factorize(table["person"])[0]
    vectors = np.eye(PEOPLE)[person] + noise * random.normal(size=(len(table), PEOPLE)) / 4
    embeddings = paths.stage(name, seed, experiment.embedding_stage(name))
    records.write_table(
        embeddings / layout.EMBEDDINGS,
        table.assign(embedding=list(vectors.astype(np.float32)), weights=_weights(embeddings)),
        [*layout.EMBEDDING_COLUMNS, layout.WEIGHTS],
    )
    seconds = {} if name in experiment.baselines else {"finetune": 5.0}
    if name not in experiment.baselines and experiment.run(name).pretrain:
        seconds["pretrain"] = 10.0
    seen = {stage: 100 * round(taken) for stage, taken in seconds.items()}
    records.write_metrics(
        embeddings, [], seed=seed, device=f"cpu {HOSTILE}", seconds=seconds, images_seen=seen,
        precision=dict.fromkeys(seconds, "float32"),
        energy_joules=dict.fromkeys(seconds), inputs={},
    )  # fmt: skip
    out = paths.stage(name, seed, "evaluate")
    evaluate.evaluate(Task(experiment, name, seed, paths.data, out), embeddings)


def _write_protocols(paths: Results, experiment: config.Experiment, name: str) -> None:
    """Write what the configuration asks for besides: the later in the list a run stands, the better it is."""
    level = 0.8 + 0.1 * experiment.names[::-1].index(name) / len(experiment.names)
    level = 1.7 - level if name not in experiment.baselines else 0.7
    for seed in experiment.seeds_of(name):
        random = np.random.default_rng([seed, experiment.names.index(name)])
        if name in experiment.chosen(experiment.robustness.runs):
            rows = _robustness(experiment, level)
            _write_stage(experiment, paths.stage(name, seed, "robustness"), rows, random, seed)
        if name in experiment.chosen_runs(experiment.attributes.runs):
            rows = [
                ("attributes", f"gender_{kind}", "", None, level) for kind in ("accuracy", "balanced", "f1")
            ]
            rows += [("attributes", "gender_accuracy", group, None, level) for group in ("female", "male")]
            _write_stage(experiment, paths.stage(name, seed, "attributes"), rows, random, seed)
    if name in experiment.chosen_runs(experiment.label_curve.runs):
        for subset in range(experiment.label_curve.subsets):
            random = np.random.default_rng([subset, experiment.names.index(name)])
            seed = experiment.label_seed(subset)
            folder = paths.labels(name, seed, subset)
            _write_stage(experiment, folder, _labels(experiment, level), random, seed)


Row = tuple[str, str, str, float | None, float]


def _robustness(experiment: config.Experiment, level: float) -> list[Row]:
    settings, rows = experiment.robustness, list[Row]()
    for protocol, kinds, amounts in (
        ("occlusion", settings.occlusions, settings.areas),
        ("lighting", settings.lights, settings.strengths),
    ):
        rows.append((protocol, "accuracy", "none", 0.0, level))
        for place, kind in enumerate(kinds):
            drop = 0.2 + 0.03 * place
            rows += [(protocol, "accuracy", kind, amount, level - drop * amount) for amount in amounts]
    rows += [("illumination", "rank1", f"S{place}", None, level - place / 10) for place in range(2, 6)]
    rows += [("illumination", "eer", f"S{place}", None, 1 - level + place / 20) for place in range(2, 6)]
    rows.append(("occlusion", "occlusion_accuracy", "", None, level - 0.1))
    rows.append(("lighting", "light_accuracy", "", None, level - 0.15))
    return [*rows, ("illumination", "illumination_rank1", "", None, level - 0.35)]


def _labels(experiment: config.Experiment, level: float) -> list[Row]:
    few: list[Row] = [
        ("labels", "accuracy", point.condition, point.amount, level - 0.1 / (0.3 + point.amount))
        for point in points(experiment.label_curve)
    ]
    whole: Row = ("labels", "accuracy", "share", 1.0, level - 0.077)
    return [whole, *few, ("labels", "labels_accuracy", "", None, level - 0.15)]


def _write_stage(
    experiment: config.Experiment, folder: Path, rows: list[Row], random: np.random.Generator, seed: int
) -> None:
    """Write measurements, each (protocol, metric, condition, amount, value), a little off the value."""
    luck = 0.005 * random.normal()
    spread = 0.01 * random.normal(size=experiment.evaluate.resamples)
    measured = [
        Measurement(protocol, metric, value + luck, 100, "", value + luck + spread, condition, amount)
        for protocol, metric, condition, amount, value in rows
    ]
    level = experiment.evaluate.level
    write_measured(folder, measured, level, seed=seed, device="cpu", seconds={}, people=12, inputs={})


def pack_models(folder: Path, out: Path) -> None:
    """Make the models face-mae and face-embedder of a results folder, as those that come with the package."""
    from facemae.recognition.packing import pack

    pack(folder / "random" / "0" / "pretrain", "face-mae", out / "face-mae", [], ["It took long."])
    pack(folder / "random" / "0" / "finetune", "face-embedder", out / "face-embedder", ["It squints."])
