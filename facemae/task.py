"""One stage of one run: what it is told, what it reads and how its training is identified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from facemae import config, device, files, results
from facemae.data.cache import Faces, load_faces
from facemae.errors import DataError
from facemae.train import Job


@dataclass(frozen=True)
class Task:
    """One stage of one run."""

    experiment: config.Experiment
    name: str
    """Of the run, or of a baseline."""
    seed: int
    data: results.DataFolder
    """The aligned faces and their roles."""
    out: Path
    """The stage's folder, whose name is the stage's."""
    threads: int = 1

    @property
    def label(self) -> str:
        """Return what progress lines show, such as "pretrain block/0"."""
        return f"{self.out.name} {self.name}/{self.seed}"

    @property
    def run(self) -> config.Run:
        """Return the run with its defaults filled in."""
        return self.experiment.run(self.name)

    @property
    def image_size(self) -> int:
        """Return the side of an aligned face in pixels."""
        return self.experiment.data.image_size

    def compute(self) -> device.Compute:
        """Return where to compute, with PyTorch set up for it."""
        return device.choose(self.experiment.device, self.experiment.precision, self.threads)

    def inputs(self) -> dict[str, str]:
        """Return the checksums of the data that a result rests on."""
        return {
            "faces": files.sha256_of(self.data.cache_hashes),
            "split": files.sha256_of(self.data.split),
        }

    def load(self, *roles: str, most: int | None = None) -> Faces:
        """Return the faces with one of `roles`, or `most` of them, evenly chosen.

        Raises:
            DataError: there are none.
        """
        table = results.read_table(self.data.split)
        rows = table[table["role"].isin(roles)]
        if rows.empty:
            raise DataError(
                f"{self.data.split} holds no face for {' or '.join(roles)}; check the data section."
            )
        if most is not None and len(rows) > most:
            rows = rows.iloc[np.linspace(0, len(rows) - 1, most).astype(int)]
        return load_faces(self.data, rows)

    def job(self, settings: dict[str, Any], compute: device.Compute, *inputs: Path) -> Job:
        """Return the training's identity: its settings, its precision and the content of its inputs."""
        content = [*self.inputs().values(), *(files.sha256_of(path) for path in inputs)]
        versions = results.versions()  # another version need not compute the same bits
        fingerprint = results.digest([settings, str(compute), self.seed, content, versions])
        return Job(self.label, self.seed, self.out.with_name(f".{self.out.name}"), fingerprint)

    def settings(self, *sections: str) -> dict[str, Any]:
        """Return the resolved configuration that shapes this stage, to keep beside its result."""
        run = self.run.model_dump()
        named = {"run": self.name, "seed": self.seed, "image_size": self.image_size}
        return named | {section: run[section] for section in sections}


def on_device(images: np.ndarray, compute: device.Compute) -> Tensor:
    """Return the images (N, H, H, 3) uint8 on the device, where batches are cut from them."""
    return torch.from_numpy(images).to(compute.device)
