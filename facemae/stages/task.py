"""One stage of one run: its settings, what it reads and how its training is identified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError, IntegrityError
from facemae.data.faces.cache import Faces, OpenFaces, open_faces
from facemae.data.faces.split import learnt_from
from facemae.evaluation.records import Measurement, write_measured
from facemae.models import shipped_models

if TYPE_CHECKING:  # PyTorch takes seconds to load
    from facemae.compute.device import Compute
    from facemae.training.trainer import Job


@dataclass(frozen=True)
class Task:
    """One stage of one run."""

    experiment: config.Experiment
    name: str
    """Of the run, or of a baseline."""
    seed: int
    data: layout.DataFolder
    """The aligned faces and their roles."""
    out: Path
    """The stage's folder, whose name is the stage's."""
    threads: int = 1
    workers: int = 0
    """Threads that read batches ahead of the training."""
    parts: tuple[int, ...] | None = None
    """Parts of the evaluation people to train a model for; None: all."""

    @property
    def label(self) -> str:
        """Return what progress lines show, such as "pretrain block/0", or of a subset "labels-1 block/0"."""
        stage = f"{self.out.parent.name}-{self.out.name}" if self.out.name.isdigit() else self.out.name
        return f"{stage} {self.name}/{self.seed}"

    @property
    def state(self) -> Path:
        """Where the stage keeps what it needs to go on after a kill."""
        return self.out.with_name(f".{self.out.name}")

    @property
    def run(self) -> config.Run:
        """Return the run with its defaults filled in."""
        return self.experiment.run(self.name)

    @property
    def image_size(self) -> int:
        """Return the side of an aligned face in pixels."""
        return self.experiment.data.image_size

    @cached_property
    def compute(self) -> Compute:
        """Where to compute; PyTorch is set up for it at the first look."""
        from facemae.compute import device

        asked = self.experiment
        return device.choose(asked.device, asked.precision, self.threads, asked.compile)

    def inputs(self) -> dict[str, str]:
        """Return the checksums of the data that a result rests on."""
        read = {"faces": self.data.cache_hashes, "split": self.data.split}
        return {name: files.sha256_of(path) for name, path in read.items()}

    def rows(self, *roles: str) -> pd.DataFrame:
        """Return the split's rows with one of `roles`; a DataError where there are none."""
        table = records.read_table(self.data.split, layout.SPLIT_COLUMNS)
        rows = table[table["role"].isin(roles)]
        if rows.empty:
            raise DataError(
                f"{self.data.split} holds no face for {' or '.join(roles)}; check the data section."
            )
        return rows

    def check_unseen(self, init: str | None) -> None:
        """Stop if the model that a training starts from has seen somebody whom it would be evaluated on.

        That is an IntegrityError: the split was made before the run started from it.
        """
        if init not in shipped_models.WEIGHTS:
            return
        people = self.rows(layout.ROLE_EVALUATION)["person"].unique()
        if known := sorted(shipped_models.known_among(people, shipped_models.people(str(init)).training)):
            raise IntegrityError(
                f"{init} was trained on people with the names of {len(known)} of {len(people)} that this run "
                f"is evaluated on, {known[0]} for example; delete {self.data.split} and run the workflow "
                "again, which leaves them out."
            )

    @property
    def rotations(self) -> int:
        """Return how many parts the evaluation people are in, each evaluated by a training of its own."""
        return self.experiment.split.rotations

    @property
    def wanted_parts(self) -> tuple[int, ...]:
        """Return the parts to train a model for."""
        return tuple(range(self.rotations)) if self.parts is None else self.parts

    def training(self, part: int) -> pd.DataFrame:
        """Return the split's labelled rows that a part's model may learn from; a DataError without any."""
        rows = learnt_from(records.read_table(self.data.split, layout.SPLIT_COLUMNS), part)
        if rows.empty:
            raise DataError(f"{self.data.split} holds no face to train on; check the data section.")
        return rows

    def evaluated(self, part: int) -> pd.DataFrame:
        """Return the rows of the split that a part's model is evaluated on."""
        rows = self.rows(layout.ROLE_EVALUATION)
        return rows[rows["part"] == part]

    def load(self, rows: pd.DataFrame) -> Faces:
        """Return the faces of some rows in memory; an IntegrityError if damaged, or of another size."""
        return self.open(rows).loaded()

    def open(self, rows: pd.DataFrame) -> OpenFaces:
        """Return the faces of some rows, left on disk; errors as `load`."""
        faces = open_faces(self.data, rows)
        size, wanted = faces.file.shape[1], self.image_size
        if size != wanted:
            raise IntegrityError(
                f"{self.data.root} holds faces of {size} x {size} pixels, and data.image_size is {wanted}; "
                f"align them again, or set data.image_size to {size}."
            )
        return faces

    def job(self, settings: dict[str, Any], **inputs: Path) -> Job:
        """Return the training's identity: its settings, its precision and the content of its inputs."""
        from facemae.training.trainer import Job

        identity = {
            **settings,
            "device": f"{self.compute.device.type}, {self.compute.dtype}",
            "inputs": self.inputs() | {name: files.sha256_of(path) for name, path in inputs.items()},
            "versions": records.versions(),  # another version need not compute the same bits
        }
        return Job(self.label, self.seed, self.state, identity)

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return the resolved configuration that shapes this stage, to keep beside its result."""
        run = self.run.shaping()
        named = {"run": self.name, "seed": self.seed, "image_size": self.image_size}
        return named | {section: run[section] for section in sections}

    def write(self, measured: Sequence[Measurement], settings: Mapping[str, Any], **more: Any) -> None:
        """Write what was measured, with the settings beside; `more` is for `core.records.write_metrics`."""
        files.write_json(self.out / layout.CONFIG, {"run": self.name, "seed": self.seed, **settings})
        write_measured(self.out, measured, self.experiment.evaluate.level, seed=self.seed, **more)
