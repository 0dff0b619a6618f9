"""The trained recognisers of a results folder: which there are, and which of them does best."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae import config
from facemae.core import layout, records
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.layout import DataFolder, Results
from facemae.data.images import is_grey
from facemae.evaluation.records import higher_is_better
from facemae.recognition.model import Device, Facts, Model, TrainingFaces, View2
from facemae.recognition.threshold import Card, threshold_card
from facemae.report import tables
from facemae.report.phrases import origin, scalars

if TYPE_CHECKING:
    from facemae.compute.device import Compute
    from facemae.models.embedder import Embedder

LOOKED_AT = 16  # training faces, to tell grey ones from coloured ones
FOLDER = Path()
VIEW2 = "lfw-view2"


@dataclass(frozen=True)
class TrainedModel(Model):
    """One trained run of a results folder.

    Attributes:
        finetuned: Folder of its `finetune` stage.
    """

    finetuned: Path = FOLDER

    @property
    def name(self) -> str:
        """Return "run/seed"."""
        return f"{self.run}/{self.seed}"

    @property
    def weights(self) -> Path:
        """Return the file of its weights."""
        return self.finetuned / layout.EMBEDDER

    @property
    def image_size(self) -> int:
        """Return the side of the faces that it takes, in pixels."""
        return int(records.read_json(self.finetuned / layout.CONFIG)["image_size"])

    @cached_property
    def trained_on(self) -> TrainingFaces:
        """Return what it was trained on, as far as the results around it tell."""
        if not self.results:
            return TrainingFaces()
        run = tables.experiment(self.results).run(self.run)
        return replace(training_faces(self.results.data), origin=origin(run))

    @property
    def results(self) -> Results | None:
        """Return the results that it belongs to, if any."""
        around = self.finetuned.resolve().parents[2:3]
        return next((Results(root) for root in around if Results(root).config.is_file()), None)

    def card(self) -> Card:
        """Return the thresholds that follow from the evaluation people's embeddings by these weights."""
        return threshold_card(self.finetuned / layout.EMBEDDINGS, self.weights_sha256)

    @property
    def view2(self) -> View2:
        """Return its run's accuracy on LFW's View 2, where the results are of that list."""
        paths = self.results
        if not paths or not paths.leaderboard.is_file() or tables.experiment(paths).split.pairs != VIEW2:
            return View2()
        rows = scalars(tables.leaderboard(paths), "accuracy").dropna(subset="value")
        rows = rows[rows["run"] == self.run]
        return View2(*rows.iloc[0][["value", "ci_low", "ci_high"]].astype(float)) if len(rows) else View2()

    def facts(self) -> Facts:
        """Return what a list of models says of it."""
        licence, size = "as the photos it was trained on", self.weights.stat().st_size
        known, damage = TrainingFaces(), ""
        try:
            known = self.trained_on
        except FaceMAEError as error:
            damage = str(error)
        warning = known.warning(self.name)
        return Facts(self.name, *self.view2, str(known), licence, None, size, damage, warning)

    def load(self, device: Device = "auto") -> TrainedEmbedder:
        """Return its embedding, as the evaluation makes it."""
        from facemae.compute import device as devices
        from facemae.models.weights import load_embedder

        compute, network = devices.plain(device), load_embedder(self.finetuned)
        compute.place(network)
        return TrainedEmbedder(network, compute, self.as_seen)


@dataclass(frozen=True)
class TrainedEmbedder:
    """The network of a trained run at work, and what makes of faces what it is given."""

    network: Embedder
    compute: Compute
    as_seen: Callable[[NDArray[np.uint8]], NDArray[np.uint8]]

    def __call__(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the embeddings (N, D), of length 1, of aligned faces (N, H, H, 3)."""
        from facemae.models.embedder import embed_faces

        return embed_faces(self.network, self.as_seen(faces), self.compute)


def training_faces(folder: DataFolder, *, unlabelled: bool = False) -> TrainingFaces:
    """Return what runs were trained on that were split in this folder; what is not there is not known.

    Args:
        folder: Photos, faces and split.
        unlabelled: Count in the photos that are pretrained on only.
    """
    from facemae.data.faces.split import learnt_from

    try:
        learnt = learnt_from(records.read_table(folder.split, layout.SPLIT_COLUMNS), unlabelled=unlabelled)
        return TrainingFaces(learnt["person"].nunique(), len(learnt), all_grey(folder, learnt))
    except (OSError, LookupError):
        return TrainingFaces()


def all_grey(folder: DataFolder, learnt: pd.DataFrame) -> bool:
    """Tell by some faces of a split's rows whether all are grey, as those of ORL; none are not."""
    from facemae.data.faces.cache import load_faces

    some = learnt.iloc[:: max(1, len(learnt) // LOOKED_AT)]
    return len(some) > 0 and is_grey(load_faces(folder, some).images)


def models(paths: Results) -> list[TrainedModel]:
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


def model_at(folder: Path) -> TrainedModel:
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


def _in_stage(stage: Path) -> TrainedModel | None:
    """Return the recogniser in the folder of a `finetune` stage, named by the folders around it, if any."""
    if not all((stage / file).is_file() for file in (layout.EMBEDDER, layout.CONFIG)):
        return None
    pretrained, seed = stage.parent / "pretrain", stage.parent.name
    whole = (pretrained / layout.DECODER).is_file()
    name = stage.parent.parent.name or "model"
    return TrainedModel(name, int(seed) if seed.isdigit() else 0, pretrained if whole else None, stage)
