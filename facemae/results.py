"""Every file name, column and schema of a results folder: stages write through here, readers read.

<results>/config.json                 the experiment as it was run
<results>/data/                       photos, aligned faces, outcomes, split
<results>/<run>/<seed>/<stage>/       one folder per run, seed and stage
<results>/summary.parquet             one row per run, seed and metric
<results>/leaderboard.parquet, verdicts.parquet, verdict.json, report/overview.html, report.html
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from facemae import __version__, files
from facemae.errors import IntegrityError

SCHEMA_VERSION = 1

CONFIG = "config.json"
METRICS = "metrics.json"
LOG = "log.jsonl"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
EMBEDDER = "embedder.safetensors"
PROBE_AUC = "probe_held_out_auc"  # metric of the finetune stage: its head on training people held out
RECONSTRUCTIONS = "reconstructions.safetensors"
COMMON_ERROR = "reconstruction_error_random"  # metric of the pretrain stage: under the mask common to all
FACTS = "facts"  # key of a safetensors file's metadata, of which there is one
EMBEDDINGS = "embeddings.parquet"
PROBE = "probe.parquet"  # the same by the closed-form head on the encoder before fine-tuning
SCORES = "scores.parquet"
RESAMPLES = "resamples.parquet"
INFLUENCE = "influence.parquet"

PHOTO_COLUMNS = ["key", "sample_id", "person", "source", "set", "path", "offset", "length", "sha256", "bytes"]
PAIR_COLUMNS = ["protocol", "fold", "first", "second", "genuine"]
OVERLAP_COLUMNS = ["kind", "evaluation", "other", "distance", "action"]
SPLIT_COLUMNS = ["sample_id", "person", "role", "fold", "part", "trainable", "enrolled", "sha256"]
EMBEDDING_COLUMNS = ["sample_id", "person", "part", "embedding"]
SCORE_COLUMNS = ["first", "second", "genuine", "score", "part"]
PRIMARY, EXPLORATORY = "primary", "exploratory"  # families of verdicts
SUMMARY_COLUMNS = [
    "run", "kind", "strategy", "mask_ratio", "seed", "dataset", "protocol", "metric", "condition", "amount",
    "value", "ci_low", "ci_high", "n", "note", "seconds", "device",
]  # fmt: skip
LEADERBOARD_COLUMNS = [
    "run", "kind", "strategy", "mask_ratio", "protocol", "metric", "condition", "amount",
    "value", "ci_low", "ci_high", "seeds", "people", "seconds_pretrain", "seconds_finetune",
    "images_pretrain", "images_finetune", "joules", "device", "note",
]  # fmt: skip
VERDICT_COLUMNS = [
    "metric", "family", "run_a", "run_b", "difference", "ci_low", "ci_high", "p_value", "p_adjusted",
    "verdict", "detectable", "note", "seconds_difference", "budget_note",
]  # fmt: skip

SET_LABELLED, SET_UNLABELLED, SET_TESTED = "labelled", "unlabelled", "tested"
ROLE_EVALUATION, ROLE_TRAIN, ROLE_UNLABELLED, ROLE_TESTED = "evaluation", "train", "unlabelled", "tested"


@dataclass(frozen=True)
class DataFolder:
    """The paths of one folder of photos and aligned faces: `<results>/data`, or one prepared by itself."""

    root: Path

    @property
    def photos(self) -> Path:
        """The manifest: one row per input photo."""
        return self.root / "photos.parquet"

    @property
    def sources(self) -> Path:
        """What the photos come from, with licence, credit and the files that are no photos."""
        return self.root / "sources.json"

    @property
    def listed_pairs(self) -> Path:
        """Pairs of photos that the sources set out for verification."""
        return self.root / "listed_pairs.parquet"

    @property
    def pairs(self) -> Path:
        """Those, and pairs drawn from the evaluation people."""
        return self.root / "pairs.parquet"

    @property
    def unpacked(self) -> Path:
        """The content of archives, a folder for each; hidden, since it can be made again."""
        return self.root / ".unpacked"

    @property
    def shards(self) -> Path:
        """The aligned faces as Parquet, in a folder named after the settings they were made with."""
        return self.root / "shards"

    @property
    def faces(self) -> Path:
        """The index: one row per aligned face, without its image."""
        return self.root / "faces.parquet"

    @property
    def outcomes(self) -> Path:
        """One JSON line per input photo: what became of it and why."""
        return self.root / "report.jsonl"

    @property
    def rejected(self) -> Path:
        """Those lines of `outcomes` that are not OK."""
        return self.root / "rejected.jsonl"

    @property
    def cache(self) -> Path:
        """The aligned faces decoded, in the index's order: (N, H, H, 3) uint8."""
        return self.root / "faces.npy"

    @property
    def cache_hashes(self) -> Path:
        """Checksums of the cache, block by block."""
        return self.root / "faces.hashes.json"

    @property
    def split(self) -> Path:
        """Role and fold of every aligned face."""
        return self.root / "split.parquet"

    @property
    def overlaps(self) -> Path:
        """Photos found on both sides of the split, and what was done about it."""
        return self.root / "overlaps.parquet"


@dataclass(frozen=True)
class Results:
    """The paths of one results folder."""

    root: Path

    @property
    def config(self) -> Path:
        """The experiment, resolved, as JSON."""
        return self.root / CONFIG

    @property
    def data(self) -> DataFolder:
        """Photos, aligned faces and their roles."""
        return DataFolder(self.root / "data")

    @property
    def summary(self) -> Path:
        """One row per run, seed and metric."""
        return self.root / "summary.parquet"

    @property
    def leaderboard(self) -> Path:
        """One row per run and metric, over the seeds."""
        return self.root / "leaderboard.parquet"

    @property
    def verdicts(self) -> Path:
        """One row per pair of runs and metric."""
        return self.root / "verdicts.parquet"

    @property
    def verdict(self) -> Path:
        """The headline in words."""
        return self.root / "verdict.json"

    @property
    def overview(self) -> Path:
        """The report's page of charts and tables."""
        return self.root / "report" / "overview.html"

    @property
    def report(self) -> Path:
        """The self-contained report, made by `snakemake --report`."""
        return self.root / "report.html"

    def stage(self, run: str, seed: int, stage: str) -> Path:
        """Return the folder of one stage of one run."""
        return self.root / run / str(seed) / stage

    def labels(self, run: str, seed: int, subset: int) -> Path:
        """Return the folder of a run's curve over fewer labels, for one random subset of them."""
        return self.stage(run, seed, "labels") / str(subset)


def embedder_file(part: int) -> str:
    """Return the name of the weights that evaluate a part of the folds; without rotations there is one."""
    return EMBEDDER if part == 0 else EMBEDDER.replace(".", f"-{part}.")


def digest(value: Any) -> str:
    """Return a short hash that identifies a JSON value, such as a resolved configuration."""
    return files.sha256(files.dump_json(value))[:16]


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`.

    Raises:
        IntegrityError: the file is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise IntegrityError(f"{path} is damaged ({error}); make it again.") from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `log.jsonl`; a torn last line (from a kill) is left out."""
    return list(iterate_log(path))


def iterate_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `.jsonl` file; a torn last line (from a kill) is left out."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                return
            yield record


def write_table(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    """Write `columns` of `table` as Parquet, atomically.

    Raises:
        KeyError: a column is missing.
    """
    buffer = io.BytesIO()
    table[columns].to_parquet(buffer, index=False)
    files.atomic_write(path, buffer.getvalue())


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a Parquet table.

    Raises:
        IntegrityError: the file is damaged or lacks a column.
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        try:
            return pd.read_parquet(file, columns=columns)
        except Exception as error:  # pyarrow has no common base class for damaged files
            reason = " ".join(str(error).split())
            raise IntegrityError(
                f"{path} is damaged or no table of ours ({reason}); make it again."
            ) from error


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    lines = [json.dumps(record, ensure_ascii=True, allow_nan=False) for record in records]
    files.atomic_write(path, "".join(line + "\n" for line in lines).encode())


def metric(
    name: str,
    value: float | None,
    *,
    n: int,
    interval: tuple[float, float] | None = None,
    protocol: str = "training",
    condition: str = "",
    amount: float | None = None,
    note: str = "",
    people: int | None = None,
) -> dict[str, Any]:
    """Return one entry of `metrics.json`; a refused metric has no value and says why in `note`.

    One metric may be measured several times: under a `condition`, such as "sunglasses", of some `amount`.
    `people` says on how many it rests where these are others than those of the whole stage.
    """
    low, high = interval or (None, None)
    others = {} if people is None else {"people": people}
    return others | {
        "protocol": protocol, "name": name, "condition": condition, "amount": amount, "value": value,
        "ci_low": low, "ci_high": high, "n": n, "note": note,
    }  # fmt: skip


def column(name: str, condition: str = "", amount: float | None = None) -> str:
    """Return the column of a table of resamples that holds a metric: its name, and its circumstances.

    >>> column("accuracy", "sunglasses", 0.3)
    'accuracy@sunglasses=0.3'
    """
    where = f"@{condition}" if condition else ""
    return name + where + ("" if amount is None else f"={amount:g}")


def write_metrics(
    folder: Path,
    metrics: list[dict[str, Any]],
    *,
    seed: int,
    device: str,
    seconds: Mapping[str, float],
    **more: Any,
) -> None:
    """Write a stage's `metrics.json`.

    Args:
        folder: The stage's folder.
        metrics: Entries made by `metric`.
        seed: The run's seed.
        device: What computed it, such as "cpu, bfloat16".
        seconds: Processor seconds (GPU seconds on a GPU) per training stage so far.
        more: Further plain values, such as the number of evaluation people.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "device": device,
        "processor": processor(),
        "seconds": dict(seconds),
        "commit": commit(),
        "versions": versions(),
        "metrics": metrics,
        **more,
    }
    files.write_json(folder / METRICS, content)


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor, or of its architecture."""
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a number depends on."""
    names = ("torch", "timm", "numpy", "facenet-pytorch", "pytorch-metric-learning")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"facemae": __version__, "python": platform.python_version()} | found


@functools.cache
def commit() -> str:
    """Return the commit of the code, with "+" when it was changed since, or "unknown"."""
    here = Path(__file__).parent
    git = ["git", "-C", str(here)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "."], capture_output=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed else "")
