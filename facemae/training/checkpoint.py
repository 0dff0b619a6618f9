"""Checkpoints that survive a kill at any moment and notice damage.

A checkpoint is one safetensors file `step_00000123.safetensors`, facts included; its manifest
`step_00000123.json`, with the checksum, is written after it. A file without a manifest that fits is no
checkpoint: the newest valid one wins, and the one before it is the reserve.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.progress import say

KEPT = 2
NETWORK = "network."


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
    name = f"step_{step:08d}"
    _write(folder, name, tensors, {"step": step, **facts})
    manifests = sorted(folder.glob("step_*.json"))
    own = manifests.index(folder / f"{name}.json") + 1
    _delete(manifests[own:])  # later ones were damaged, else training had gone on from there
    _delete(manifests[: max(0, own - KEPT)])


def newest(folder: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return the tensors and facts of the newest valid checkpoint, or None if there is none at all.

    Raises:
        IntegrityError: there are checkpoints and every one is damaged.
    """
    manifests = sorted(folder.glob("step_*.json"), reverse=True)
    for manifest in manifests:
        found = _read(manifest)
        if found:
            return found
        say("resume", f"{manifest.stem} is damaged; using the checkpoint before it")
    if manifests:
        raise IntegrityError(f"Every checkpoint in {folder} is damaged; delete the folder to start afresh.")
    return None


def _write(folder: Path, name: str, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    contiguous = {key: tensor.contiguous() for key, tensor in tensors.items()}
    data = safetensors.torch.save(contiguous, {layout.FACTS: json.dumps(facts)})
    files.atomic_write(folder / f"{name}.safetensors", data)
    files.write_json(folder / f"{name}.json", {"sha256": files.sha256(data)})


def _read(manifest: Path) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    """Return a checkpoint's tensors and facts, or None where anything about it is not as it was written."""
    try:
        data = manifest.with_suffix(".safetensors").read_bytes()
        if files.sha256(data) != records.read_json(manifest)["sha256"]:
            return None
    except (OSError, LookupError, TypeError, IntegrityError):
        return None
    return safetensors.torch.load(data), _facts(data)


def _facts(data: bytes) -> dict[str, Any]:
    """Return the facts in a safetensors file's header: its length in 8 bytes, then JSON."""
    length = int.from_bytes(data[:8], "little")
    facts: dict[str, Any] = json.loads(json.loads(data[8 : 8 + length])["__metadata__"][layout.FACTS])
    return facts


def _delete(manifests: list[Path]) -> None:
    for manifest in manifests:
        manifest.unlink()
        manifest.with_suffix(".safetensors").unlink(missing_ok=True)


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
    """Put back what `pack` returned."""
    weights = {key.removeprefix(NETWORK): value for key, value in tensors.items() if key.startswith(NETWORK)}
    network.load_state_dict(weights)
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
