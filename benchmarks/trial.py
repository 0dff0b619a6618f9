"""One trial of a fine-tuning recipe: `python -m benchmarks.trial --config config/lfw-small.yaml --json`.

A run (`--run`, from `--pretrained`, the folder of its pretrain stage) is fine-tuned as the workflow does,
on a part of its training people; the others judge it. So a recipe is chosen without a look at the evaluation
people; where they rotate, it is the first part's training. The encoder of `--pretrained` has seen the photos
of those held out, without names, as it never has an evaluation person's: compare recipes by this, and a
pretrained start with one from scratch only if that encoder was pretrained without them. With `--set
learning_rate=0.001` a key of `finetune` takes another value. The last line is JSON: what health.py says of
the training, the faces it took in per second, and how well the finished embedder compares every two faces of
the people held out, as they were aligned and moved as in training. `held_out_loss`, 1 - ROC AUC, is of
the same people before the embedding is whitened, each pair weighing alike.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from benchmarks.common import finish
from benchmarks.ours import CONFIG
from facemae import config
from facemae.compute.seeding import Noise
from facemae.core import layout, records
from facemae.core.errors import UsageError
from facemae.data.faces.subsets import labelled_subset, people_apart
from facemae.evaluation.pairs import one_by_one
from facemae.evaluation.protocols import pair_list
from facemae.models.embedder import BATCH, embed
from facemae.models.patches import to_input
from facemae.models.weights import load_embedder
from facemae.stages.finetune import finetune
from facemae.stages.task import Task
from facemae.training.objectives.augment import random_view

HELD_OUT = 0.2  # of the training people
FAR_TARGETS = (0.01, 0.001)


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
    held_out = settings | {"held_out": HELD_OUT, "validate_every": steps}
    own = config.merge(experiment.runs[run] or {}, {"finetune": held_out})
    experiment = config.parse(experiment.model_dump() | {"runs": experiment.runs | {run: own}})
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "finetune"
        task = Task(experiment, run, seed, layout.DataFolder(data), out, parts=(0,))
        finetune(task, pretrained)
        found, judged = records.read_json(task.out / layout.METRICS), judge(task)
    values = {each["name"]: each["value"] for each in found["metrics"]}
    health = found["health"][0] if found["health"] else {}  # mode knn trains nothing
    seconds = found["seconds"]["finetune"]
    rate = found["images_seen"]["finetune"] / seconds if seconds else 0.0
    trained = {"run": run, "seed": seed, "pretrained": pretrained is not None} | settings
    told = {"faces_per_second": round(rate, 1), "device": found["device"]}
    return trained | values | health | told | judged


def judge(task: Task) -> dict[str, dict[str, float]]:
    """Return ROC AUC, equal error rate and TAR on all pairs of the people held out; everyone weighs alike."""
    settings, network = task.run.finetune, load_embedder(task.out)
    task.compute.place(network)
    device, named = task.compute.device, task.training(0)
    named = named if settings.teacher else labelled_subset(named, settings.labels)
    _, held_out = people_apart(named, settings.held_out)
    faces = to_input(torch.from_numpy(task.load(held_out).images))
    moved = random_view(faces, settings, Noise(range(len(faces)), "moved", task.seed))
    people = pd.factorize(held_out["person"])[0]
    found = {}
    for name, images in (("aligned", faces), ("moved", moved)):
        vectors = torch.cat([embed(network, each.to(device)).cpu() for each in images.split(BATCH)])
        measured = pair_list.measure_rates(one_by_one(vectors.numpy(), people), FAR_TARGETS)
        found[name] = {each.name: round(each.value, 4) for each in measured if each.value is not None}
    return found


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
