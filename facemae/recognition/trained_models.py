"""The trained recognisers of a results folder: which there are, and which of them does best."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from facemae import config
from facemae.core import files, layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.evaluation.records import higher_is_better
from facemae.report import tables
from facemae.report.phrases import scalars


@dataclass(frozen=True)
class Model:
    """One trained recogniser.

    Attributes:
        run, seed: Which training.
        finetuned: Folder of its `finetune` stage.
        pretrained: Folder of its `pretrain` stage with a masked autoencoder; None: it has none.
    """

    run: str
    seed: int
    finetuned: Path
    pretrained: Path | None

    @property
    def name(self) -> str:
        """Return "run/seed"."""
        return f"{self.run}/{self.seed}"

    @property
    def fingerprint(self) -> str:
        """Return what tells this model's embeddings from any other's: the start of its weights' SHA-256."""
        path = self.finetuned / layout.EMBEDDER
        state = path.stat()
        return _fingerprint(path, state.st_mtime_ns, state.st_size)

    @property
    def embeddings(self) -> Path:
        """The evaluation people's embeddings, from which its threshold follows."""
        return self.finetuned / layout.EMBEDDINGS


@functools.lru_cache(maxsize=64)
def _fingerprint(path: Path, changed: int, size: int) -> str:
    return files.sha256_of(path)[:16]


def models(paths: Results) -> list[Model]:
    """Return the trained recognisers of a results folder, the best run by the primary metric first.

    Raises:
        FileNotFoundError: there are no results.
        IntegrityError: they are damaged.
    """
    setup, ranked = tables.experiment(paths), paths.leaderboard.is_file()
    found = [
        Model(name, seed, folder, _autoencoder(paths, setup, name, seed))
        for name in (best_first(setup, tables.leaderboard(paths)) if ranked else tables.run_names(setup))
        for seed in setup.seeds
        if all((folder := paths.stage(name, seed, "finetune")).joinpath(file).is_file() for file in _FILES)
    ]
    return found


_FILES = (layout.EMBEDDER, layout.CONFIG)


def _autoencoder(paths: Results, setup: config.Experiment, name: str, seed: int) -> Path | None:
    folder = paths.stage(name, seed, "pretrain")
    whole = setup.run(name).masked and (folder / layout.DECODER).is_file()
    return folder if whole else None


def best_first(setup: config.Experiment, leaderboard: pd.DataFrame) -> list[str]:
    """Return the runs, the best by the primary metric first, and last those that have no value of it."""
    primary = setup.evaluate.primary
    table = scalars(leaderboard)
    value = table[table["metric"] == primary].set_index("run")["value"].dropna().to_dict()
    sign = -1 if higher_is_better(primary) else 1
    names = tables.run_names(setup)
    return sorted(names, key=lambda name: sign * value[name] if name in value else float("inf"))


def model_at(folder: Path) -> Model:
    """Return the recogniser in the folder of a `finetune` stage, or of its run and seed.

    Raises:
        UsageError: there is none.
    """
    for stage in (folder, folder / "finetune", folder.parent):
        if all((stage / file).is_file() for file in _FILES):
            pretrained = stage.parent / "pretrain"
            whole = (pretrained / layout.DECODER).is_file()
            seed = stage.parent.name
            name = stage.parent.parent.name or "model"
            return Model(name, int(seed) if seed.isdigit() else 0, stage, pretrained if whole else None)
    raise UsageError(
        f"{folder} holds no trained recogniser; name the folder of a finetune stage, such as "
        "results/random/0/finetune."
    )


def best(paths: Results) -> Model:
    """Return the recogniser that does best by the primary metric.

    Raises:
        UsageError: there is none.
    """
    try:
        found = models(paths)
    except FileNotFoundError:
        found = []
    if not found:
        raise UsageError(
            f"There is no trained recogniser in {paths.root}; run: snakemake --cores all, or name one with "
            "--model."
        )
    return found[0]
