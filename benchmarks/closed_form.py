"""What the closed-form head of a run costs: `python -m benchmarks.closed_form --data results/data --json`.

A run's encoder (`--run`; as it is drawn, or from `--pretrained`, the folder of its pretrain stage) reads all
faces that the run learns from or is evaluated on, and a head is fitted for each part, as at the end of a
fine-tuning. The last line is JSON: seconds, processor seconds, greatest memory in GB, and the ROC AUC on
training people who were held out.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import cores, finish
from benchmarks.ours import CONFIG
from facemae import config
from facemae.core import layout, records
from facemae.stages.finetune import start_embedder
from facemae.stages.task import Task
from facemae.stages.token_head import write_probe


def measure(
    paths: list[Path], data: Path, run: str, seed: int, pretrained: Path | None, threads: int
) -> dict[str, Any]:
    """Write the closed-form head's embeddings once and return what it took.

    Args:
        paths: Configuration files, laid over the shipped one.
        data: Folder of aligned faces with a split.
        run: Name of the run.
        seed: Its seed.
        pretrained: Folder of its pretrain stage; None: the encoder as it is drawn.
        threads: Processor threads.
    """
    experiment = config.load([CONFIG, *paths])
    with tempfile.TemporaryDirectory() as folder:
        task = Task(experiment, run, seed, layout.DataFolder(data), Path(folder) / "finetune", threads)
        compute, encoder = task.compute, start_embedder(task, pretrained).encoder
        began, used = time.perf_counter(), time.process_time()
        found = write_probe(task, encoder)
        taken = time.perf_counter() - began, time.process_time() - used
        faces = len(records.read_table(task.out / layout.PROBE, ["sample_id"]))
    return {
        "run": run, "seed": seed, "faces": faces, "parts": task.rotations, "auc": found["value"],
        "seconds": round(taken[0], 1), "processor_seconds": round(taken[1], 1),
        "memory_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "cores": cores(), "threads": threads, "device": str(compute), "note": found["note"],
    }  # fmt: skip


def main() -> None:
    """Measure one closed-form head."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path, default=Path("results/data"))
    parser.add_argument("--run", default="scratch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrained", type=Path)
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    finish(
        lambda: measure(asked.config, asked.data, asked.run, asked.seed, asked.pretrained, asked.threads),
        asked.json,
    )


if __name__ == "__main__":
    main()
