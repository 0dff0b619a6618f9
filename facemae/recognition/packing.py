"""A trained run as one of the models that come with the package: float16 weights, a card, lists of people.

Names of people stand as hashes (`shipped_models.hashed`), by which a run finds whom it may not evaluate with
the model. What takes a data set to measure, `facemae models measure` adds.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from numpy.typing import NDArray

from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.data.faces.split import learnt_from
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.models import shipped_models
from facemae.models.shipped_models import (
    AUTOENCODER,
    CARD,
    EMBEDDER,
    PEOPLE,
    README,
    VERSION,
    WEIGHTS,
    hashed,
)
from facemae.recognition.model import all_grey
from facemae.recognition.model_card import shipped_card
from facemae.report.known_errors import FAIRNESS

MOST_BYTES = 15_000_000  # of a model's weights
FACE = 112  # pixels: the side that all recognisers take
LICENCE = "non-commercial research only, as the photos that it was trained on"
SAMPLE_PEOPLE, SAMPLE_PHOTOS, HIDDEN = 40, 2, 0.75
SAMPLED = {
    AUTOENCODER: f"error on {HIDDEN:.0%} hidden patches, of guessing each patch's mean, on ORL's faces",
    EMBEDDER: "ROC AUC on ORL's faces",
}
MOST_DIFFERENCE = 0.01  # of the sample's value, between the weights as trained and as packed


def pack(stage: Path, name: str, out: Path, failures: list[str], notes: Sequence[str] = ()) -> None:
    """Write a trained stage as a model that comes with the package.

    Args:
        stage: Folder of a `pretrain` stage with a decoder, or of a `finetune` stage, in its results folder.
        name, out: A key of `shipped_models.WEIGHTS`, and the folder to write, which must not exist.
        failures, notes: Known failures, and what else belongs to how it was made, a sentence each.

    Raises:
        UsageError: the name is not known, the stage is of another kind, or `out` exists.
        DataError: the results tell not whom the model was trained on.
        IntegrityError: the weights are damaged, too many, or not to be had in float16, or the model was
            evaluated on people that it was trained on.
    """
    _check(stage, name, out)
    before = sample_value(stage)
    weights = {file: _in_half(stage / file) for file in WEIGHTS[name]}
    if (size := sum(map(len, weights.values()))) > MOST_BYTES:
        raise IntegrityError(
            f"{stage} takes {size / 1e6:.1f} MB in float16, and {MOST_BYTES / 1e6:g} are the most; train a "
            "smaller network."
        )
    facts, people = _facts(stage)
    content = weights | {layout.CONFIG: (stage / layout.CONFIG).read_bytes()}
    content |= {PEOPLE: files.dump_json(people)}
    card = {
        "schema_version": VERSION, "model": name, "licence": LICENCE,
        "weights": files.sha256(weights[WEIGHTS[name][0]]),
        "files": {file: files.sha256(data) for file, data in content.items()},
        **facts, "failures": failures, "notes": list(notes),
    }  # fmt: skip
    with files.atomic_folder(out, size) as folder:
        for file, data in content.items():
            files.write_blocks(folder / file, [data])
        card["sample"] = {"of": SAMPLED[WEIGHTS[name]], "value": round(sample_value(folder), 6)}
        if abs(card["sample"]["value"] - before) > MOST_DIFFERENCE:
            raise IntegrityError(
                f"{stage} changes too much in float16: {card['sample']['of']} was {before:.4f} and is "
                f"{card['sample']['value']:.4f}; keep its weights smaller."
            )
        files.write_blocks(folder / CARD, [files.dump_json(card, sort_keys=False)])
        files.write_blocks(folder / README, [shipped_card(card).encode()])
    say("models", f"{out}: {size / 1e6:.1f} MB; {card['sample']['of']} {card['sample']['value']:.4f}")


def write_readme(folder: Path) -> None:
    """Write the card of a packed model as Markdown beside it."""
    files.atomic_write(folder / README, shipped_card(records.read_json(folder / CARD)).encode())


def _check(stage: Path, name: str, out: Path) -> None:
    if name not in WEIGHTS:
        raise UsageError(f"There is no model {name} in the package; there are {', '.join(WEIGHTS)}.")
    if out.exists():
        raise UsageError(f"{out} exists already; name a new folder with --out, or delete this one.")
    kind = "finetune" if WEIGHTS[name] == EMBEDDER else "pretrain"
    if missing := next((file for file in WEIGHTS[name] if not (stage / file).is_file()), None):
        raise UsageError(
            f"{stage} holds no {missing}, which {name} has; name the folder of a {kind} stage, such as "
            f"results/random/0/{kind}."
        )
    if kind == "finetune" and (side := records.read_json(stage / layout.CONFIG)["image_size"]) != FACE:
        raise UsageError(f"{stage} takes faces of {side} pixels, and recognisers here take {FACE}.")


def _in_half(path: Path) -> bytes:
    tensors = safetensors.torch.load_file(path)
    half = {name: each.half() if each.is_floating_point() else each for name, each in tensors.items()}
    if not all(each.isfinite().all() for each in half.values()):
        raise IntegrityError(f"{path} holds numbers beyond float16, whose largest is 65504; train it again.")
    return safetensors.torch.save(half)


# --- what is known of it ---


def _facts(stage: Path) -> tuple[dict[str, Any], dict[str, list[str]]]:
    """Return what the results tell of a stage, and its people by their hashes."""
    paths = Results(stage.resolve().parents[2])
    try:
        split = records.read_table(paths.data.split, layout.SPLIT_COLUMNS)
    except FileNotFoundError as error:
        raise DataError(
            f"{stage} lies in no results folder whose split tells whom it was trained on "
            f"({paths.data.split} is missing); pack it where it was trained."
        ) from error
    made = records.read_metrics(stage)
    settings = records.read_json(stage / layout.CONFIG)
    taught = settings.get("finetune", {}).get("teacher")
    unlabelled = bool("pretrain" in settings or taught or (stage.parent / "pretrain").is_dir())
    learnt = learnt_from(split, unlabelled=unlabelled)
    evaluated = split[(split["role"] == layout.ROLE_EVALUATION) & (split["part"] == 0)]
    used = {(made.get("started_from") or {}).get("init"), taught} & set(WEIGHTS)
    people = {"training": _names(learnt), "evaluation": _names(evaluated)}
    people["training"].update(*(shipped_models.people(str(each)).training for each in used))
    if both := people["training"] & people["evaluation"]:
        raise IntegrityError(
            f"{len(both)} of the {len(people['evaluation'])} people whom {stage} was evaluated on are among "
            "those that it, or the model it started from, was trained on; leave them out and train it again."
        )
    facts = {
        "data": [
            {key: each[key] for key in ("title", "credit", "licence")}
            for each in records.read_json(paths.data.sources)
            if each.get("set") != layout.SET_TESTED
        ],
        "trained_on": {
            "photos": len(learnt), "people": int(learnt["person"].nunique()),
            "unnamed": int(learnt["person"].isna().sum()), "grey": all_grey(paths.data, learnt),
        },
        "evaluated_on": {"photos": len(evaluated), "people": int(evaluated["person"].nunique())},
        "metrics": [
            {key: each[key] for key in ("name", "value", "n", "note")} for each in made["metrics"]
        ],
        "groups": _groups(stage.parent / "evaluate"),
        "made": {
            key: made.get(key)
            for key in ("seed", "device", "seconds", "images_seen", "commit", "versions", "started_from")
        } | {"teacher": taught} | _with_its_start(made),
    }  # fmt: skip
    return facts, {side: sorted(each) for side, each in people.items()}


def _with_its_start(made: dict[str, Any]) -> dict[str, Any]:
    """Return what a training took with all that it started from, if that is known, and whether it is.

    There is nothing to add to a training from random weights, or from a model that has a card of its own.
    """
    start = made.get("started_from") or {}
    if start.get("init") is None or start["init"] in WEIGHTS:
        return {}
    weights = Path(start["init"])
    known = weights.is_file() and (weights.parent / layout.METRICS).is_file()
    if not known or files.sha256_of(weights) != start["sha256"]:
        return {"start_counted": False}
    earlier = records.read_metrics(weights.parent)
    earlier |= _with_its_start(earlier)
    if not earlier.get("start_counted", True):
        return {"start_counted": False}
    summed = {key: _by_stage(made, key) + _by_stage(earlier, key) for key in ("seconds", "images_seen")}
    return summed | {"start_counted": True}


def _by_stage(made: dict[str, Any], key: str) -> Counter[str]:
    found = made.get(key) or {}
    return Counter(found if isinstance(found, dict) else {"pretrain": found})


def _names(rows: pd.DataFrame) -> set[str]:
    return hashed(rows["person"].dropna().unique())


def _groups(evaluated: Path) -> list[dict[str, Any]]:
    """Return the errors by group that the run's evaluation has measured."""
    if not (evaluated / layout.METRICS).is_file():
        return []
    found = [each for each in records.read_metrics(evaluated)["metrics"] if each["protocol"] == FAIRNESS]
    keys = ("condition", "name", "value", "ci_low", "ci_high", "note")
    return [{key: each[key] for key in keys} for each in found if each["value"] is not None]


# --- a number that everybody can check ---


def sample_faces(size: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return faces (N, H, H, 3) of ORL, which every installation has, and the number of each one's person."""
    photos = [each for each in orl_photos() if int(each.sample_id.rpartition("/")[2]) <= SAMPLE_PHOTOS]
    squares = [open_image(each.path).crop((0, 10, 92, 102)).resize((size, size)) for each in photos]
    return np.stack([np.asarray(each) for each in squares]), np.arange(len(photos)) // SAMPLE_PHOTOS


@torch.inference_mode()
def sample_value(folder: Path) -> float:
    """Return a stage's error of completion, or its ROC AUC, on `sample_faces`, computed in float32.

    Raises:
        IntegrityError: the weights are damaged, or do not fit their configuration.
    """
    from facemae.compute.device import plain
    from facemae.compute.seeding import Noise
    from facemae.evaluation.metrics import roc_auc_score
    from facemae.evaluation.pairs import all_pairs
    from facemae.masking.strategies import draw_mask
    from facemae.models.embedder import embed_faces
    from facemae.models.patches import to_input
    from facemae.models.reconstruction import errors_of
    from facemae.models.weights import load_autoencoder, load_embedder

    images, person = sample_faces(records.read_json(folder / layout.CONFIG)["image_size"])
    compute = plain("cpu")
    if not (folder / layout.DECODER).is_file():
        network = load_embedder(folder)
        compute.place(network)
        pairs = all_pairs(embed_faces(network, images, compute), person)
        return float(np.ravel(roc_auc_score(pairs))[0])
    mae, pretrain = load_autoencoder(folder)
    compute.place(mae)
    side = mae.encoder.side
    mask = draw_mask("random", HIDDEN, {}, side, Noise(range(len(images)), 0), None)
    inputs = to_input(torch.from_numpy(images))
    return float(errors_of(mae, mae(inputs, mask), inputs, mask, pretrain).mean())
