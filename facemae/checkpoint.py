"""Checkpoints that survive a kill at any moment and notice damage.

A checkpoint is one safetensors file `step_00000123.safetensors`; its manifest `step_00000123.json`,
with the checksum, is written after it. A file without a manifest that fits is not a checkpoint, so the newest
valid one wins and the one before it is the reserve.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from facemae import files, progress, results
from facemae.errors import IntegrityError

KEPT = 2


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state after `step` steps, then drop all but the newest `KEPT` checkpoints.

    Args:
        folder: The run's state folder.
        step: Steps done.
        tensors: Everything needed to go on.
        facts: Plain values to keep with them.

    Raises:
        StorageError: the disk is full; the previous checkpoint is untouched.
    """
    data = safetensors.torch.save({name: tensor.contiguous() for name, tensor in tensors.items()})
    name = f"step_{step:08d}"
    files.atomic_write(folder / f"{name}.safetensors", data)
    files.write_json(folder / f"{name}.json", {"step": step, "sha256": files.sha256(data), **facts})
    for manifest in sorted(folder.glob("step_*.json"))[:-KEPT]:
        manifest.unlink()
        manifest.with_suffix(".safetensors").unlink(missing_ok=True)


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and facts of the newest valid checkpoint, or None if there is none at all.

    Raises:
        IntegrityError: there are checkpoints and every one is damaged.
    """
    manifests = sorted(folder.glob("step_*.json"), reverse=True)
    for manifest in manifests:
        try:
            facts = results.read_json(manifest)
            data = manifest.with_suffix(".safetensors").read_bytes()
            if files.sha256(data) == facts["sha256"]:
                return safetensors.torch.load(data), facts
        except (OSError, ValueError, KeyError, IntegrityError):
            pass  # told below, like a wrong checksum
        progress.say("resume", f"{manifest.stem} is damaged; using the checkpoint before it")
    if manifests:
        raise IntegrityError(f"Every checkpoint in {folder} is damaged; delete the folder to start afresh.")
    return None


def remove(folder: Path) -> None:
    """Delete a run's state once its results are written."""
    shutil.rmtree(folder, ignore_errors=True)


def pack(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of a network and its optimiser as flat names and tensors."""
    tensors = {f"network.{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return tensors


def unpack(tensors: dict[str, Tensor], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `pack` returned."""
    prefix = "network."
    network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
