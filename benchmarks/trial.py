"""One trial of a fine-tuning recipe: `python -m benchmarks.trial --config config/lfw-small.yaml --json`.

A run (`--run`, from `--pretrained`, the folder of its pretrain stage) is fine-tuned as the workflow does,
on a part of its training people; the others judge it. So a recipe is chosen without a look at the evaluation
people; where they rotate, it is the first part's training. The encoder of `--pretrained` has seen the photos
of those held out, without names, as it never has an evaluation person's: compare recipes by this, and a
pretrained start with one from scratch only if that encoder was pretrained without them. With `--set
learning_rate=0.001` a key of `finetune` takes another value. The last line is JSON: 1 - ROC AUC on the people
held out, what health.py says of the training, and the faces it took in per second.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import finish
from benchmarks.ours import CONFIG
from facemae import config
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.stages.finetune import finetune
from facemae.stages.task import Task

HELD_OUT = 0.2  # of the training people


def measure(
    paths: list[Path], data: Path, run: str, seed: int, pretrained: Path | None, changes: list[str]
) -> dict[str, Any]:
    """Fine-tune once and return what the people held out, and the training itself, say of it.

    Args:
        paths: Configuration files, laid over the shipped one.
        data: Folder of aligned faces with a split.
        run: Name of the run.
        seed: Its seed.
        pretrained: Folder of its pretrain stage; None: from scratch.
        changes: "key=value", keys of the run's `finetune` section.

    Raises:
        UsageError: a change is not of this form, or the configuration does not allow it.
    """
    settings = dict(_change(each) for each in changes)
    experiment = config.load([CONFIG, *paths])
    steps = settings.get("steps", experiment.run(run).finetune.steps)
    judged = settings | {"held_out": HELD_OUT, "validate_every": steps}
    own = config.merge(experiment.runs[run] or {}, {"finetune": judged})
    experiment = config.parse(experiment.model_dump() | {"runs": experiment.runs | {run: own}})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "finetune"
        task = Task(experiment, run, seed, layout.DataFolder(data), out, parts=(0,))
        finetune(task, pretrained)
        found = records.read_json(task.out / layout.METRICS)
    values = {each["name"]: each["value"] for each in found["metrics"]}
    health = found["health"][0] if found["health"] else {}  # mode knn trains nothing
    seconds = found["seconds"]["finetune"]
    rate = found["images_seen"]["finetune"] / seconds if seconds else 0.0
    trained = {"run": run, "seed": seed, "pretrained": pretrained is not None} | settings
    return trained | values | health | {"faces_per_second": round(rate, 1), "device": found["device"]}


def _change(text: str) -> tuple[str, Any]:
    key, found, value = text.partition("=")
    if not found:
        raise UsageError(f"--set {text}: write key=value, such as learning_rate=0.001.")
    return key, yaml.safe_load(value)


def main() -> None:
    """Run one trial."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, action="append", default=[])
    parser.add_argument("--data", type=Path, default=Path("results/data"))
    parser.add_argument("--run", default="scratch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pretrained", type=Path)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    parser.add_argument("--json", action="store_true")
    asked = parser.parse_args()
    finish(
        lambda: measure(asked.config, asked.data, asked.run, asked.seed, asked.pretrained, asked.changes),
        asked.json,
    )


if __name__ == "__main__":
    main()
