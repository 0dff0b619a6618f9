"""Checkpoints that survive a kill at any moment and notice damage.

A checkpoint is one safetensors file, `step_00000123.0123456789abcdef.safetensors`: the step and the first 16
digits of its SHA-256. It gets its name last, by a rename; one whose content does not have the checksum is
damaged. The newest undamaged one wins, and the one before it is the reserve. Times of files play no part.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from facemae.core import files, layout
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.progress import say

KEPT = 2
DIGITS = 16
NETWORK = "network."


def saved(folder: Path) -> list[Path]:
    """Return all files of checkpoints in a state folder, damaged ones included, by their step."""
    return sorted(folder.glob(f"{layout.CHECKPOINT}*"))


def step_of(path: Path) -> int:
    """Return the step of a checkpoint's file; 0 where the name does not say."""
    digits = path.name.removeprefix(layout.CHECKPOINT).partition(".")[0]
    return int(digits) if digits.isdecimal() else 0


def save(folder: Path, step: int, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write the state after `step` steps, then drop all but the newest `KEPT` checkpoints."""
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, {layout.FACTS: json.dumps({"step": step, **facts})})
    path = folder / f"{layout.CHECKPOINT}{step:08d}.{files.sha256(data)[:DIGITS]}.safetensors"
    files.atomic_write(path, data)
    # Others of this step and later ones were damaged, else training had gone on from there.
    _delete([each for each in saved(folder) if step_of(each) >= step and each != path])
    _delete(saved(folder)[:-KEPT])


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and facts of the newest undamaged checkpoint, or None if there is none at all.

    Raises:
        IntegrityError: there are checkpoints and every one is damaged.
    """
    found = saved(folder)
    for path in reversed(found):
        if path.is_file() and path.name.split(".")[1:] == [files.sha256_of(path)[:DIGITS], "safetensors"]:
            data = path.read_bytes()
            header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])  # after its length
            return safetensors.torch.load(data), json.loads(header["__metadata__"][layout.FACTS])
        say("resume", f"{path.name} is damaged; using the checkpoint before it")
    if found:
        raise IntegrityError(
            f"Every checkpoint in {folder} is damaged; put a copy of them back, or delete the folder to "
            "start from the beginning."
        )
    return None


def _delete(paths: list[Path]) -> None:
    for path in paths:
        path.unlink()


def remove(folder: Path) -> None:
    """Delete a run's state once its results are written."""
    shutil.rmtree(folder, ignore_errors=True)


def pack(network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the state of a network and its optimiser as flat names and tensors."""
    tensors = {f"{NETWORK}{name}": value for name, value in network.state_dict().items()}
    for index, state in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
    return tensors


def unpack(tensors: dict[str, Tensor], network: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put back what `pack` returned.

    Raises:
        UsageError: it is of another network, as another version of this program builds it.
    """
    weights = {key.removeprefix(NETWORK): value for key, value in tensors.items() if key.startswith(NETWORK)}
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    try:
        network.load_state_dict(weights)
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    except (RuntimeError, ValueError) as error:
        raise UsageError(
            "The unfinished training was saved by another version of this program; finish it with that, or "
            "delete its folder to start from the beginning."
        ) from error
