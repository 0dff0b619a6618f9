"""Every file name, column and schema of a results folder: stages write through here, readers read.

<results>/config.json                 the experiment as it was run
<results>/data/                       photos, aligned faces, outcomes, split
<results>/<run>/<seed>/<stage>/       one folder per run, seed and stage
<results>/summary.parquet             one row per run, seed and metric
<results>/leaderboard.parquet, verdicts.parquet, verdict.json, report/overview.html, report.html
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIG = "config.json"
METRICS = "metrics.json"
LOG = "log.jsonl"
# In the hidden folder of a training that is not done: its settings, checkpoints by step, what it left when it
# diverged, and a finished part of a stage of several.
JOB, CHECKPOINT, DUMP, PART = "job.json", "step_", "diverged.json", "part.json"
ENCODER = "encoder.safetensors"
DECODER = "decoder.safetensors"
EMBEDDER = "embedder.safetensors"
PROBE_AUC = "probe_held_out_auc"  # metric of the finetune stage: its head on training people held out
RECONSTRUCTIONS = "reconstructions.safetensors"
PROGRESS = "progress.safetensors"  # completions of the same faces while pretraining goes on
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
RENAMED_COLUMNS = {"doubts": "warnings"}  # of aligned faces, in folders that were written before
SPLIT_COLUMNS = ["sample_id", "person", "role", "fold", "part", "trainable", "enrolled", "sha256"]
EMBEDDING_COLUMNS = ["sample_id", "person", "part", "embedding"]
WEIGHTS = "weights"  # column beside them: SHA-256 of the weights that made an embedding
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


class _Below:
    """A path below the root of the folder that it is an attribute of."""

    def __init__(self, *parts: str) -> None:
        self._parts = parts

    def __get__(self, folder: DataFolder | Results, _owner: object = None) -> Path:
        return folder.root.joinpath(*self._parts)


@dataclass(frozen=True)
class DataFolder:
    """The paths of one folder of photos and aligned faces: `<results>/data`, or one prepared by itself."""

    root: Path

    photos = _Below("photos.parquet")  # the manifest: one row per input photo
    sources = _Below("sources.json")  # what they come from: licence, credit, files that are no photos
    listed_pairs = _Below("listed_pairs.parquet")  # pairs of photos that the sources set out for verification
    pairs = _Below("pairs.parquet")  # those, and pairs drawn from the evaluation people
    unpacked = _Below(".unpacked")  # a folder per archive; hidden, since it can be made again
    shards = _Below("shards")  # aligned faces as Parquet, in a folder named after the settings that made them
    faces = _Below("faces.parquet")  # the index: one row per aligned face, without its image
    outcomes = _Below("report.jsonl")  # one JSON line per input photo: what became of it and why
    rejected = _Below("rejected.jsonl")  # those lines of `outcomes` that are not OK
    cache = _Below("faces.npy")  # the aligned faces decoded, in the index's order: (N, H, H, 3) uint8
    cache_hashes = _Below("faces.hashes.json")  # checksums of the cache, block by block
    split = _Below("split.parquet")  # role and fold of every aligned face
    overlaps = _Below("overlaps.parquet")  # photos found on both sides of the split, and what was done


@dataclass(frozen=True)
class Results:
    """The paths of one results folder."""

    root: Path

    config = _Below(CONFIG)  # the experiment, resolved, as JSON

    @property
    def data(self) -> DataFolder:
        """Photos, aligned faces and their roles."""
        return DataFolder(self.root / "data")

    @property
    def locks(self) -> list[Path]:
        """The lock files of the workflow and of stages, held or not."""
        places = (".workflow.lock", "*/*/.*.lock", "*/*/*/.*.lock", "data/*/.lock")
        return [path for place in places for path in self.root.glob(place)]

    summary = _Below("summary.parquet")  # one row per run, seed and metric
    leaderboard = _Below("leaderboard.parquet")  # one row per run and metric, over the seeds
    verdicts = _Below("verdicts.parquet")  # one row per pair of runs and metric
    verdict = _Below("verdict.json")  # the headline in words
    overview = _Below("report", "overview.html")  # the report's page of charts and tables
    report = _Below("report.html")  # the self-contained report, made by `snakemake --report`

    def stage(self, run: str, seed: int, stage: str) -> Path:
        """Return the folder of one stage of one run."""
        return self.root / run / str(seed) / stage

    def labels(self, run: str, seed: int, subset: int) -> Path:
        """Return the folder of a run's curve over fewer labels, for one random subset of them."""
        return self.stage(run, seed, "labels") / str(subset)


def embedder_file(part: int) -> str:
    """Return the name of the weights that evaluate a part of the folds; without rotations there is one."""
    return EMBEDDER if part == 0 else EMBEDDER.replace(".", f"-{part}.")
