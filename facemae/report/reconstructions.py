"""Faces as a run sees and completes them: pictures, what its masks are like, and the error of each patch.

What is read here is there once a run is pretrained; before, all but `by_step` raise a FileNotFoundError.

Shapes: B faces, H side of a face in pixels, N patches, S patches along a side. Bool masks: True = hidden.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.report.phrases import masked_runs
from facemae.report.tables import experiment, unreadable

PIXEL_GRID = 8  # most cells along a side that the errors of single hidden pixels are gathered in
LEAST_HIDDEN = 3  # times that a patch has to be hidden before its error is shown
HIDDEN_GREY = 128
GAP = 4  # pixels between the pictures of a strip

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Reconstructions:
    """A few faces of unseen people as a run sees and completes them."""

    face: Pixels  # (B, H, H, 3)
    hidden: NDArray[np.bool_]  # (B, N)
    reconstruction: Pixels  # (B, H, H, 3); visible patches are the face's own
    measures: dict[str, Any]  # what masks of this run are like over many faces (masking/coverage.py), by name


@dataclass(frozen=True)
class PatchErrors:
    """How well a run completes each patch of a face, from the few faces that its pretraining kept to show.

    `missed` is the share of a hidden patch's own variation that its completion misses: 0 is perfect, 1 as
    good as the patch's mean colour. It and `grey` are NaN where a patch was hidden fewer than LEAST_HIDDEN
    times.
    """

    missed: NDArray[np.float64]  # (S, S)
    grey: NDArray[np.float64]  # (S, S) root of the mean squared error in grey levels, 0 to 255
    times: NDArray[np.int64]  # (S, S), how often each patch was hidden
    face: Pixels  # (H, H, 3), the mean of the faces
    faces: int  # every seed completes the same ones under the same masks
    seeds: int  # how many trainings completed them


def reconstructions(paths: Results, run: str, seed: int) -> Reconstructions:
    """Return the faces that a run's pretraining kept to show."""
    file = paths.stage(run, seed, "pretrain") / layout.RECONSTRUCTIONS
    (face, hidden, completed), facts = _read(file, "face", "hidden", "reconstruction")
    side = round(hidden.shape[-1] ** 0.5)
    if face.ndim != 4 or face.shape != completed.shape or not side or face.shape[1] % side:
        raise IntegrityError(unreadable(file, "the faces and their masks do not belong together"))
    try:
        return Reconstructions(face, hidden, completed, dict(json.loads(facts[layout.FACTS])["mask"]))
    except (ValueError, TypeError, KeyError) as error:
        raise IntegrityError(unreadable(file, str(error))) from error


def by_step(paths: Results, run: str, seed: int) -> dict[int, Pixels]:
    """Return the completions that pretraining kept on its way, (B, H, H, 3) by step, or {}."""
    file = paths.stage(run, seed, "pretrain") / layout.PROGRESS
    if not file.is_file():
        return {}
    (steps, completed), _ = _read(file, "step", "reconstruction")
    if completed.ndim != 5 or steps.shape != completed.shape[:1]:
        raise IntegrityError(unreadable(file, "its steps and pictures do not belong together"))
    return dict(zip(steps.tolist(), completed, strict=True))


def _read(file: Path, *names: str) -> tuple[list[NDArray[Any]], dict[str, str]]:
    """Return arrays of a safetensors file, and its metadata."""
    try:
        with safe_open(file, framework="numpy") as content:
            return [content.get_tensor(name) for name in names], content.metadata() or {}
    except (SafetensorError, ValueError, TypeError, KeyError) as error:
        raise IntegrityError(unreadable(file, str(error))) from error


def patch_errors(paths: Results, run: str) -> PatchErrors:
    """Return how well a run completes each patch, over the faces and seeds that are kept to show."""
    seeds = experiment(paths).seeds
    shown = [reconstructions(paths, run, seed) for seed in seeds]
    side = _patches_along(shown[0])
    squares, variances, pixels = (np.zeros(side * side) for _ in range(3))
    for each in shown:  # every seed has the same faces under the same masks
        hidden = _in_patches(hidden_pixels(each.hidden, each.face.shape[1]), side)[..., 0]
        face, completed = (_in_patches(faces, side) for faces in (each.face, each.reconstruction))
        squares += (((completed - face) ** 2).mean(axis=3) * hidden).sum(axis=(0, 2))
        variances += (face.var(axis=2).mean(axis=2) * hidden.sum(axis=2)).sum(axis=0)
        pixels += hidden.sum(axis=(0, 2))
    times = hidden.any(axis=2).sum(axis=0)
    often = times >= LEAST_HIDDEN
    # Sums first: a flat patch would make a mean of ratios as great as one likes.
    missed, mean_square = (
        np.divide(squares, whole, out=np.full(side * side, np.nan), where=often & (whole > 0))
        for whole in (variances, pixels)
    )
    return PatchErrors(
        missed.reshape(side, side),
        np.sqrt(mean_square).reshape(side, side),
        times.reshape(side, side),
        shown[0].face.mean(axis=0).round().astype(np.uint8),
        len(shown[0].face),
        len(shown),
    )


def _patches_along(shown: Reconstructions) -> int:
    """Return S: the mask's patches along a side, or for a mask over single pixels a coarse grid of them."""
    side, size = int(shown.hidden.shape[1] ** 0.5 + 0.5), int(shown.face.shape[1])
    if side < size:
        return side
    return max(count for count in range(1, PIXEL_GRID + 1) if not size % count)


def hidden_pixels(hidden: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Return which pixels (B, H, H, 1) of faces with sides of `size` masks (B, N) hide."""
    side = round(hidden.shape[1] ** 0.5)
    grid = hidden.reshape(-1, side, side)
    return grid.repeat(size // side, axis=1).repeat(size // side, axis=2)[..., None]


def _in_patches(pixels: NDArray[Any], side: int) -> NDArray[np.float64]:
    """Return pictures (B, H, H, C) as (B, N, pixels of a patch, C)."""
    count, height, _, channels = pixels.shape
    size = height // side
    cut = pixels.reshape(count, side, size, side, size, channels).transpose(0, 1, 3, 2, 4, 5)
    return cut.reshape(count, side * side, size * size, channels).astype(np.float64)


def region_errors(found: PatchErrors, regions: NDArray[np.int64], names: list[str]) -> dict[str, float]:
    """Return the mean of `missed` over the patches of each face region; NaN for a region without any.

    Args:
        found: A run's.
        regions: (N,) the region of each patch (masking/regions.py): 0 is none, k the k-th of `names`.
        names: Of the regions; "rest" is added for the patches of none.
    """
    means = pd.Series(found.missed.ravel()).groupby(regions).mean().reindex(range(len(names) + 1))
    return dict(zip((*names, "rest"), np.roll(means, -1).tolist(), strict=True))


def best(paths: Results) -> str:
    """Return the masked autoencoder that completes unseen faces best; the first one where none compares."""
    table = masks(paths)
    known = table[table["error"].notna()]
    return str((known.sort_values("error", kind="stable") if len(known) else table)["run"].iloc[0])


def masks(paths: Results) -> pd.DataFrame:
    """Return what each masked autoencoder's masks are like and cost, a row per run.

    Columns: run, strategy, visible (tokens of an image), entropy (bits), clumping, one `hidden_*` per face
    region (the share of it that is hidden), error (of unseen faces under one and the same random mask; none
    where it would not compare with the first run's) and seconds (of processor or GPU, a pretraining's mean
    over seeds).
    """
    setup, rows = experiment(paths), []
    asked: dict[str, Any] = {}
    for name in masked_runs(setup):
        measures = reconstructions(paths, name, setup.seeds[0]).measures
        done = [records.read_metrics(paths.stage(name, seed, "pretrain")) for seed in setup.seeds]
        entries = [
            entry for each in done for entry in each["metrics"] if entry["name"] == layout.COMMON_ERROR
        ]
        errors = [entry["value"] for entry in entries if entry["value"] is not None]
        question = _question(setup.run(name))
        comparable = errors and question == (asked := asked or question)
        rows.append(
            {
                "run": name,
                "strategy": setup.run(name).strategy,
                "visible": int(measures["visible_tokens"]),
                "entropy": float(measures["entropy"]),
                "clumping": float(measures["clumping"]),
                **{f"hidden_{part}": share for part, share in measures["region_coverage"].items()},
                "error": float(np.mean(errors)) if comparable else np.nan,
                "seconds": float(np.mean([each["seconds"]["pretrain"] for each in done])),
            }
        )
    return pd.DataFrame(rows)


def _question(run: config.Run) -> dict[str, Any]:
    """Return what an error under the common mask depends on besides the network: only equal ones compare."""
    settings = run.shaping()["pretrain"]
    question = {name: settings[name] for name in ("mask_ratio", "loss", "loss_on", "normalise_target")}
    return question | {"patch_size": run.model.patch_size}


# --- pictures and words ---


def masked(face: Pixels, hidden: NDArray[np.bool_]) -> Pixels:
    """Return faces (B, H, H, 3) with their hidden patches in flat grey."""
    return np.where(hidden_pixels(hidden, face.shape[1]), np.uint8(HIDDEN_GREY), face)


def reconstruction_strip(face: Pixels, hidden: NDArray[np.bool_], reconstruction: Pixels) -> Pixels:
    """Return one RGBA picture with the rows original, masked and reconstructed, transparent between faces."""
    rows = np.stack([face, masked(face, hidden), reconstruction])  # (rows, B, H, H, 3)
    opaque = np.concatenate([rows, np.full_like(rows[..., :1], 255)], axis=-1)
    framed = np.pad(opaque, [(0, 0), (0, 0), (0, GAP), (0, GAP), (0, 0)])
    lines, columns, height, width, _ = framed.shape
    picture = framed.transpose(0, 2, 1, 3, 4).reshape(lines * height, columns * width, 4)
    return picture[:-GAP, :-GAP]


def mask_table(masks: pd.DataFrame) -> pd.DataFrame:
    """Return the table of masks (`masks`) in words: text in every cell, "" where nothing is known."""
    if masks.empty:  # no run has any
        return masks
    hidden = {name: "{:.0%}" for name in masks.columns if name.startswith("hidden_")}
    forms = {"visible": "{:,}", "entropy": "{:.2f}", "clumping": "{:.2f}", **hidden, "error": "{:.3f}"}
    table = masks[["run", "strategy"]].rename(columns={"run": "Run", "strategy": "Mask"})
    for name, form in forms.items():
        cells = ["" if pd.isna(value) else form.format(value) for value in masks[name]]
        table[name.removeprefix("hidden_").capitalize()] = cells
    usual = masks.loc[masks["strategy"] == "random", "seconds"].head(1).sum()  # 0 where no run has that mask
    table["Seconds"] = [
        f"{seconds:.0f}" + (f" ({seconds / usual:.2f}x)" if usual else "") for seconds in masks["seconds"]
    ]
    return table
