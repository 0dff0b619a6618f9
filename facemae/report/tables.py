"""What the report and the app show, read from a results folder into tables; nothing here needs PyTorch."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import FaceMAEError, IntegrityError
from facemae.core.layout import Results
from facemae.data.alignment.quality import DOUBTS
from facemae.data.faces import shards
from facemae.data.images import encode_png, open_image
from facemae.data.sources.base import Photo
from facemae.evaluation import metrics
from facemae.evaluation.pairs import Comparisons
from facemae.report.claims import FINDINGS, Claim
from facemae.report.phrases import masked_runs, rival_runs, scratch_runs

P = ParamSpec("P")
T = TypeVar("T")

ROC_POINTS = 160
QUALITY_COLUMNS = [
    "sample_id", "person", "source", "score", "face_px", "residual", "yaw", "sharpness", "doubts",
]  # fmt: skip
OUTCOME_COLUMNS = ["sample_id", "person", "code", "reason", "hint"]
PIXEL_GRID = 8  # most cells along a side that the errors of single hidden pixels are gathered in
LEAST_HIDDEN = 3  # times that a patch has to be hidden before its error is told
IN_PARTS = "as below"
NOT_SET = "not set"  # a setting that one of two runs does not have
PLACE_COLUMNS = ["key", "sample_id", "path", "offset", "length"]
RUN_DETAILS = ["commit", "versions", "device", "dataset", "people"]


@dataclass(frozen=True)
class Headline:
    """The verdict in words: the content of verdict.json."""

    metric: str
    people: int
    seeds: int
    headline: str
    sentences: list[str]
    claims: list[Claim] = field(default_factory=list)
    setting: str = ""
    noise: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Origin:
    """Where photos come from; `ignored` counts, by reason, the files found there that are no photos."""

    name: str
    title: str
    licence: str
    credit: str
    ignored: dict[str, int]


@dataclass(frozen=True)
class Reconstructions:
    """A few faces of unseen people as a run sees and completes them.

    Attributes:
        face: (B, H, H, 3) uint8.
        hidden: (B, N) bool, True = hidden.
        reconstruction: (B, H, H, 3) uint8; visible patches are the face's own.
        measures: What masks of this run are like over many faces (masking/measure.py), by name.
    """

    face: NDArray[np.uint8]
    hidden: NDArray[np.bool_]
    reconstruction: NDArray[np.uint8]
    measures: dict[str, Any]


@dataclass(frozen=True)
class PatchErrors:
    """How well a run completes each patch of a face, from the few faces that its pretraining kept to show.

    Attributes:
        missed: (S, S), S patches along a side: the share of a hidden patch's own variation that its
            completion misses. 0 is perfect, 1 as good as the patch's mean colour; NaN where it was hidden
            fewer than LEAST_HIDDEN times.
        grey: (S, S) root of the mean squared error in grey levels, 0 to 255; NaN as above.
        times: (S, S) int64, how often each patch was hidden.
        face: (H, H, 3) uint8, the mean of the faces.
        faces: How many there are; every seed completes the same ones under the same masks.
        seeds: How many trainings completed them.
    """

    missed: NDArray[np.float64]
    grey: NDArray[np.float64]
    times: NDArray[np.int64]
    face: NDArray[np.uint8]
    faces: int
    seeds: int


def checked(read: Callable[P, T]) -> Callable[P, T]:
    """Turn whatever a damaged file provokes into one sentence; a missing file stays FileNotFoundError."""

    @functools.wraps(read)
    def reading(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return read(*args, **kwargs)
        except (FaceMAEError, FileNotFoundError):
            raise
        except (OSError, ValueError, TypeError, LookupError, SafetensorError) as error:
            what = read.__name__.replace("_", " ")
            raise IntegrityError(
                f"The {what} in this results folder cannot be read ({type(error).__name__}): a file is "
                "damaged or was made by another version; delete the folder and run the workflow again."
            ) from error

    return reading


@checked
def experiment(paths: Results) -> config.Experiment:
    """Return the experiment as it was run."""
    return config.parse(records.read_json(paths.config))


@checked
def verdict(paths: Results) -> Headline:
    """Return the verdict in words."""
    found = records.read_json(paths.verdict)
    return Headline(
        str(found["metric"]),
        int(found["people"]),
        int(found["seeds"]),
        str(found["headline"]),
        [str(sentence) for sentence in list(found["sentences"])],
        [_claim(dict(each)) for each in list(found.get("claims", []))],
        str(found.get("setting", "")),
        {str(name): float(value) for name, value in dict(found.get("noise", {})).items()},
    )


def _claim(found: dict[str, Any]) -> Claim:
    finding = FINDINGS[FINDINGS.index(found["finding"])]
    difference, low, high, p_adjusted = (
        None if found[name] is None else float(found[name])
        for name in ("difference", "ci_low", "ci_high", "p_adjusted")
    )
    return Claim(
        str(found["claim"]), finding, str(found["sentence"]), str(found["metric"]),
        str(found["run"]), str(found["against"]), difference, low, high, p_adjusted,
    )  # fmt: skip


@checked
def leaderboard(paths: Results) -> pd.DataFrame:
    """Return one row per run, metric, condition and amount: from scratch first, pretrained, baselines last.

    A condition "" is none: `wording.scalars` returns those rows alone, at most one per run and metric.
    """
    return _ordered(paths, _whole(paths.leaderboard, layout.LEADERBOARD_COLUMNS))


@checked
def summary(paths: Results) -> pd.DataFrame:
    """Return one row per run, seed and metric."""
    return _ordered(paths, _whole(paths.summary, layout.SUMMARY_COLUMNS))


@checked
def verdicts(paths: Results) -> pd.DataFrame:
    """Return one row per pair of runs and metric, runs against each other first, then against controls."""
    table, known = _whole(paths.verdicts, layout.VERDICT_COLUMNS), _names(paths)
    return table[table["run_a"].isin(known) & table["run_b"].isin(known)].reset_index(drop=True)


def _whole(path: Path, columns: list[str]) -> pd.DataFrame:
    """Return a table that has all the columns; a table of an older version lacks some (LookupError)."""
    table = records.read_table(path)
    missing = [name for name in columns if name not in table]
    if missing:
        raise LookupError(f"no {missing}")
    return table


def _ordered(paths: Results, table: pd.DataFrame) -> pd.DataFrame:
    known = {name: place for place, name in enumerate(_names(paths))}
    table = table[table["run"].isin(known)]
    return table.sort_values("run", key=lambda run: run.map(known), kind="stable").reset_index(drop=True)


def _names(paths: Results) -> list[str]:
    """Return the runs and baselines that the configuration names; it has checked how they are spelt."""
    setup = experiment(paths)
    return [*run_names(setup), *setup.baselines]


@checked
def details(paths: Results) -> dict[str, Any]:
    """Return what the first evaluated run says of commit, versions, device, data set and people."""
    setup = experiment(paths)
    folder = paths.stage(setup.run_names[0], setup.seeds[0], "evaluate")
    found = records.read_json(folder / layout.METRICS)
    return {name: found[name] for name in RUN_DETAILS}


@checked
def roc_curves(paths: Results) -> pd.DataFrame:
    """Return the ROC curve of every run, baseline and seed at common false accept rates.

    The columns are run, seed, far, tar and impostors, the number of impostor pairs behind it.
    """
    setup = experiment(paths)
    curves = []
    for name in [*run_names(setup), *setup.baselines]:
        for seed in setup.seeds_of(name):
            file = paths.stage(name, seed, "evaluate") / layout.SCORES
            scores = records.read_table(file, ["genuine", "score", "part"])
            curves.append(_roc(scores).assign(run=name, seed=seed))
    return pd.concat(curves, ignore_index=True)


def _roc(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the mean curve over the parts: two networks' scores have no threshold in common."""
    parts = [part for _, part in scores.groupby("part")]
    impostors = min(int((~part["genuine"]).sum()) for part in parts)
    far = np.geomspace(1 / impostors, 1.0, ROC_POINTS)
    tar = np.mean([_true_accepts(part, far) for part in parts], axis=0)
    return pd.DataFrame({"far": far, "tar": tar, "impostors": impostors})


def _true_accepts(scores: pd.DataFrame, far: NDArray[np.float64]) -> NDArray[np.float64]:
    genuine = scores["genuine"].to_numpy(bool)
    side = np.zeros(len(scores), dtype=np.int64)
    curve = metrics.roc(Comparisons(scores["score"].to_numpy(float), side, side + ~genuine))
    # The last threshold that keeps to a rate; between two thresholds nothing is assumed.
    return curve.tar[np.searchsorted(curve.far, far * (1 + 1e-9), side="right") - 1]


@checked
def learning_curves(paths: Results, stage: str) -> pd.DataFrame:
    """Return run, seed, part, step and loss of every log of a training stage ("pretrain" or "finetune")."""
    setup = experiment(paths)
    logs = [
        pd.DataFrame(records.read_log(file), columns=["step", "loss", "part"]).assign(run=name, seed=seed)
        for name, seed, file in _stage_files(paths, setup, stage, layout.LOG)
    ]
    empty = pd.DataFrame(columns=["step", "loss", "part", "run", "seed"])
    table = pd.concat(logs, ignore_index=True) if logs else empty
    return table.fillna({"part": 0}).astype({"step": float, "loss": float, "part": int})


def _stage_files(
    paths: Results, setup: config.Experiment, stage: str, filename: str
) -> Iterator[tuple[str, int, Path]]:
    for name in run_names(setup):
        for seed in setup.seeds:
            file = paths.stage(name, seed, stage) / filename
            if file.is_file():
                yield name, seed, file


@checked
def reconstructions(paths: Results, run: str, seed: int) -> Reconstructions:
    """Return the faces that a run's pretraining kept to show.

    Raises:
        FileNotFoundError: the run has no pretraining, or not yet.
    """
    file = paths.stage(run, seed, "pretrain") / layout.RECONSTRUCTIONS
    with safe_open(file, framework="numpy") as content:
        face, hidden, completed = (content.get_tensor(n) for n in ("face", "hidden", "reconstruction"))
        measures = json.loads(content.metadata()[layout.FACTS])["mask"]
    shown = Reconstructions(face, hidden, completed, measures)
    side = round(shown.hidden.shape[1] ** 0.5)
    if shown.face.shape != shown.reconstruction.shape or shown.face.shape[1] % side:
        raise ValueError("the faces and their masks do not belong together")
    return shown


@checked
def patch_errors(paths: Results, run: str) -> PatchErrors:
    """Return how well a run completes each patch, over the faces and seeds that are kept to show.

    Raises:
        FileNotFoundError: the pretraining of a seed is not done yet.
    """
    seeds = experiment(paths).seeds
    shown = [reconstructions(paths, run, seed) for seed in seeds]
    side = _patches_along(shown[0])
    squares, variances, pixels, times = (np.zeros(side * side) for _ in range(4))
    for each in shown:
        hidden = _in_patches(_hidden_pixels(each), side)[..., 0]
        face, completed = (_in_patches(faces, side) for faces in (each.face, each.reconstruction))
        squares += (((completed - face) ** 2).mean(axis=3) * hidden).sum(axis=(0, 2))
        variances += (face.var(axis=2).mean(axis=2) * hidden.sum(axis=2)).sum(axis=0)
        pixels += hidden.sum(axis=(0, 2))
    # Every seed has the same faces under the same masks.
    times += _in_patches(_hidden_pixels(shown[0]), side)[..., 0].any(axis=2).sum(axis=0)
    # Sums first: a flat patch would make a mean of ratios as great as one likes.
    missed, mean_square = _over(squares, variances, times), _over(squares, pixels, times)
    return PatchErrors(
        missed.reshape(side, side),
        np.sqrt(mean_square).reshape(side, side),
        times.astype(np.int64).reshape(side, side),
        shown[0].face.mean(axis=0).round().astype(np.uint8),
        len(shown[0].face),
        len(shown),
    )


def _over(
    total: NDArray[np.float64], whole: NDArray[np.float64], times: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the quotient by patch, NaN where it was hidden too rarely or there is nothing to divide by."""
    known = (times >= LEAST_HIDDEN) & (whole > 0)
    quotient = np.full(len(total), np.nan)
    quotient[known] = total[known] / whole[known]
    return quotient


def _patches_along(shown: Reconstructions) -> int:
    """Return S: the mask's patches along a side, or for a mask over single pixels a coarse grid of them."""
    side, size = int(shown.hidden.shape[1] ** 0.5 + 0.5), int(shown.face.shape[1])
    if side < size:
        return side
    return max(count for count in range(1, PIXEL_GRID + 1) if not size % count)


def _hidden_pixels(shown: Reconstructions) -> NDArray[np.bool_]:
    """Return which pixels are hidden, (B, H, H, 1)."""
    side = round(shown.hidden.shape[1] ** 0.5)
    size = shown.face.shape[1] // side
    grid = shown.hidden.reshape(-1, side, side).repeat(size, axis=1).repeat(size, axis=2)
    return grid[..., None]


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
    values = found.missed.ravel()
    means = {}
    for place, name in enumerate(["rest", *names]):
        of_region = values[(regions == place) & ~np.isnan(values)]
        means[name] = float(of_region.mean()) if len(of_region) else float("nan")
    return {name: means[name] for name in (*names, "rest")}


@checked
def masks(paths: Results) -> pd.DataFrame:
    """Return what each masked autoencoder's masks are like and cost, a row per run.

    Columns: run, strategy, visible (tokens of an image), entropy (bits), clumping, one `hidden_*` per face
    region (the share of it that is hidden), error (of unseen faces under one and the same random mask; none
    where it would not compare with the first run's) and seconds (of processor or GPU, a pretraining's mean
    over seeds).

    Raises:
        FileNotFoundError: a run's pretraining is not done yet.
    """
    setup, rows = experiment(paths), []
    asked: dict[str, Any] = {}
    for name in masked(setup):
        measures = reconstructions(paths, name, setup.seeds[0]).measures
        done = [
            records.read_json(paths.stage(name, seed, "pretrain") / layout.METRICS) for seed in setup.seeds
        ]
        errors = [
            entry["value"]
            for each in done
            for entry in each["metrics"]
            if entry["name"] == layout.COMMON_ERROR
        ]
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


def roster(setup: config.Experiment) -> pd.DataFrame:
    """Return run, kind, strategy and mask_ratio of every run and baseline, ordered as the leaderboard is."""
    rows: list[dict[str, Any]] = [
        {"run": name, "kind": "run", "strategy": run.strategy, "mask_ratio": run.mask_ratio}
        for name in run_names(setup)
        for run in [setup.run(name)]
    ]
    rows += [
        {"run": name, "kind": "baseline", "strategy": name, "mask_ratio": None} for name in setup.baselines
    ]
    return pd.DataFrame(rows)


def differences(setup: config.Experiment, first: str, second: str) -> pd.DataFrame:
    """Return the settings in which two runs differ: setting, and its value as JSON in each run's column.

    Only what shapes a run counts: not, say, the parameters of a mask that it does not use.

    Raises:
        UsageError: there is no such run.
    """
    before, after = (_leaves(setup.run(name).shaping()) for name in (first, second))
    names = [*before, *(name for name in after if name not in before)]
    rows = [
        (name, *(_value(name, leaves) for leaves in (before, after)))
        for name in names
        if before.get(name) != after.get(name)
    ]
    return pd.DataFrame(rows, columns=["setting", "first", "second"])


def _value(name: str, leaves: dict[str, str]) -> str:
    """Return a setting's value; a section that only the other run leaves out whole has its values below."""
    section = any(each.startswith(f"{name}.") for each in leaves)
    return leaves.get(name, IN_PARTS if section else NOT_SET)


def _leaves(tree: dict[str, Any], where: str = "") -> dict[str, str]:
    """Return every value of nested settings as JSON, by its path, such as "pretrain.mask"."""
    found: dict[str, str] = {}
    for name, value in tree.items():
        nested = isinstance(value, dict) and value
        found |= _leaves(value, f"{where}{name}.") if nested else {f"{where}{name}": json.dumps(value)}
    return found


def run_names(setup: config.Experiment) -> list[str]:
    """Return the names of the runs: from scratch first, which the others are held against, rivals last."""
    return [*scratch_runs(setup), *masked_runs(setup), *rival_runs(setup)]


def masked(setup: config.Experiment) -> list[str]:
    """Return the names of the runs that have masks to show: masked autoencoders, not their rivals."""
    return masked_runs(setup)


@checked
def sources(paths: Results) -> list[Origin]:
    """Return what the photos come from, the labelled source first."""
    found = [
        Origin(
            name=str(each["name"]),
            title=str(each["title"]),
            licence=str(each["licence"]),
            credit=str(each["credit"]),
            ignored={str(reason): int(count) for reason, count in dict(each["ignored"]).items()},
        )
        for each in list(records.read_json(paths.data.sources))
    ]
    if not found or len({each.name for each in found}) < len(found):
        raise ValueError("no source, or two of one name")
    return found


@checked
def outcomes(paths: Results) -> pd.DataFrame:
    """Return what became of each input photo: sample_id, person, code, reason, hint and source."""
    found = (
        pd.DataFrame(records.read_log(paths.data.outcomes), columns=OUTCOME_COLUMNS).fillna("").astype(str)
    )
    listed = records.read_table(paths.data.photos, ["sample_id", "source"])
    return found.merge(listed, on="sample_id", how="left", validate="one_to_one").fillna({"source": ""})


@checked
def quality(paths: Results) -> pd.DataFrame:
    """Return what was measured on every aligned face, one row each; NaN is what could not be.

    `residual` is a share of the face's side, and `doubts` are codes of DOUBTS with ", " between, "" for none.
    """
    table = records.read_table(paths.data.faces, QUALITY_COLUMNS)
    doubts = [", ".join(code for code in codes if code in DOUBTS) for codes in table["doubts"]]
    return table.assign(doubts=doubts, residual=table["residual"] / experiment(paths).data.image_size)


@checked
def tally(paths: Results) -> pd.DataFrame:
    """Return by source its photos, aligned faces, doubtful faces, and photos of each outcome, OK first."""
    names = [each.name for each in sources(paths)]
    found, measured = outcomes(paths), quality(paths)
    codes = ["OK", *(code for code in found["code"].value_counts().index if code != "OK")]
    doubtful = measured[measured["doubts"] != ""]
    counts = {
        "photos": found["source"].value_counts(),
        "faces": measured["source"].value_counts(),
        "doubtful": doubtful["source"].value_counts(),
    } | {code: found.loc[found["code"] == code, "source"].value_counts() for code in codes}
    table = pd.DataFrame({name: count.reindex(names) for name, count in counts.items()}, index=names)
    return table.fillna(0).astype("int64").rename_axis("source").reset_index()


@checked
def overlaps(paths: Results) -> pd.DataFrame:
    """Return the photos found on both sides of the split: kind, evaluation, training, distance and action."""
    return records.read_table(paths.data.overlaps, layout.OVERLAP_COLUMNS)


@checked
def faces(paths: Results) -> pd.DataFrame:
    """Return sample_id, person and role of every aligned face, those of evaluation people first."""
    split = records.read_table(paths.data.split, ["sample_id", "person", "role"])
    first = split["role"] != layout.ROLE_EVALUATION
    return split.assign(first=first).sort_values(["first", "sample_id"], kind="stable").drop(columns="first")


@checked
def aligned(paths: Results, sample_ids: list[str]) -> dict[str, bytes]:
    """Return those of the aligned faces that there are, as PNG; only their shards are read."""
    index = records.read_table(paths.data.faces, ["sample_id", "shard", "row"])
    found: dict[str, bytes] = {}
    for shard, rows in index[index["sample_id"].isin(sample_ids)].groupby("shard"):
        images = shards.read_images(paths.data, str(shard))
        for name, row in zip(rows["sample_id"], rows["row"], strict=True):
            image = images[row]
            if image is None:
                raise ValueError("the index names a row that has no image")
            found[name] = encode_png(np.asarray(open_image(image)))
    return found


@checked
def face(paths: Results, sample_id: str) -> bytes:
    """Return one aligned face as PNG."""
    return aligned(paths, [sample_id])[sample_id]


@checked
def photos(paths: Results, sample_ids: list[str]) -> dict[str, Photo]:
    """Return the input photos of those names, with where they were when they were listed."""
    table = records.read_table(paths.data.photos, PLACE_COLUMNS)
    return {photo.sample_id: photo for photo in _photos(table[table["sample_id"].isin(sample_ids)])}


@checked
def origin(paths: Results, sample_id: str) -> tuple[Photo, NDArray[np.float32] | None]:
    """Return the photo that a face is from, and its landmarks: (5, 2) pixels of the upright photo, if any."""
    index = records.read_table(paths.data.faces, ["sample_id", "key", "landmarks"])
    row = index[index["sample_id"] == sample_id].iloc[0]
    table = records.read_table(paths.data.photos, PLACE_COLUMNS)
    photo = next(_photos(table[table["key"] == row["key"]].head(1)), None)
    if photo is None:
        raise LookupError("the face is of a photo that is not listed")
    points = row["landmarks"]
    return photo, None if points is None else np.asarray(points, np.float32).reshape(5, 2)


def _photos(table: pd.DataFrame) -> Iterator[Photo]:
    for row in table.to_dict("records"):
        length = None if pd.isna(row["length"]) else int(row["length"])
        yield Photo(row["sample_id"], None, Path(os.fsdecode(row["path"])), int(row["offset"]), length)


@checked
def credits(paths: Results) -> list[str]:
    """Return who is to be credited for the faces, and under which terms they may be used."""
    return [
        f"Faces: {each.title}. Credit: {each.credit}. Licence: {each.licence}." for each in sources(paths)
    ]


def limits(setup: config.Experiment, people: int) -> list[str]:
    """Return what the evaluation cannot tell, one sentence each."""
    sentences = [
        f"It rests on {people} people, so only large differences can be seen; undecided is no proof of "
        "equality.",
        "Errors by group are shown where the data name groups, which says little about other groups.",
        "It says nothing about attacks with photos or masks, nor about any use for access or surveillance.",
    ]
    if setup.data.labelled == "orl":
        sentences.insert(
            0,
            "The faces are those of 40 adults photographed between 1992 and 1994 in one laboratory, mostly "
            "white men, frontal and in good light; other people and other cameras may give another order.",
        )
    return sentences
