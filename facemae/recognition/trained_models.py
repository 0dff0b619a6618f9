"""The trained recognisers of a results folder: which there are, and which of them does best."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd

from facemae import config
from facemae.core import layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.evaluation.records import higher_is_better
from facemae.recognition.model import Model
from facemae.report import tables
from facemae.report.phrases import scalars


def models(paths: Results) -> list[Model]:
    """Return the trained recognisers of a results folder, the best run by the primary metric first.

    Raises:
        FileNotFoundError: there are no results.
        IntegrityError: they are damaged.
    """
    setup, ranked = tables.experiment(paths), paths.leaderboard.is_file()
    names = best_first(setup, tables.leaderboard(paths)) if ranked else tables.run_names(setup)
    found = [_in_stage(paths.stage(name, seed, "finetune")) for name in names for seed in setup.seeds]
    return [each if setup.run(each.run).masked else replace(each, pretrained=None) for each in found if each]


def best_first(setup: config.Experiment, leaderboard: pd.DataFrame) -> list[str]:
    """Return the runs, the best by the primary metric first, and last those that have no value of it."""
    primary = setup.evaluate.primary
    value = scalars(leaderboard, primary).set_index("run")["value"].dropna().to_dict()
    sign = -1 if higher_is_better(primary) else 1
    names = tables.run_names(setup)
    return sorted(names, key=lambda name: sign * value[name] if name in value else float("inf"))


def model_at(folder: Path) -> Model:
    """Return the recogniser in the folder of a `finetune` stage, or of its run and seed.

    Raises:
        UsageError: there is none.
    """
    for stage in (folder, folder / "finetune", folder.parent):
        if found := _in_stage(stage):
            return found
    raise UsageError(
        f"{folder} is no model: it is neither a name that facemae models lists nor a folder of a finetune "
        "stage, such as results/random/0/finetune."
    )


def _in_stage(stage: Path) -> Model | None:
    """Return the recogniser in the folder of a `finetune` stage, named by the folders around it, if any."""
    if not all((stage / file).is_file() for file in (layout.EMBEDDER, layout.CONFIG)):
        return None
    pretrained, seed = stage.parent / "pretrain", stage.parent.name
    whole = (pretrained / layout.DECODER).is_file()
    name = stage.parent.parent.name or "model"
    return Model(name, int(seed) if seed.isdigit() else 0, pretrained if whole else None, stage)
