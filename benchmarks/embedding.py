"""Faces to embeddings against facenet-pytorch and dlib: `python -m benchmarks.embedding --json`.

Images a second at batch 64 and one thread: our untrained embedders of ViT-Tiny with patches of 8 and 16 at
112 px, through the steps of `facemae embed`, and facenet-pytorch's InceptionResnetV1 at 160 px, as its
documentation runs it. All begin with bytes. Ours embeds every face and its mirror image, and so passes twice
through its network, in the precision that the product chooses (`--precision`). With `--variants` ours also
runs without the mirror image ("tiny8_once"), and the peer in our precision ("inception_autocast").

The recognisers with a name run besides, as far as they are installed, each as `facemae evaluate --recogniser`
has it: dlib from aligned faces (one pass), and what comes with the package in float32 (two passes).
"face-tiny-int8" is its export to ONNX in eight bits, one pass, by ONNX Runtime. "ratio_tiny" and the like are
against dlib.

All take turns in processes of their own, in every round in the other order. The clock is the processor's time
of the process, so that neighbours count little.
"""

from __future__ import annotations

import argparse
import functools
import importlib.util
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from facenet_pytorch import InceptionResnetV1
from torch import Tensor

from benchmarks.common import cores, finish, versions
from benchmarks.ours import CONFIG
from benchmarks.turns import Baton, Order, contest
from facemae import config
from facemae.compute.device import Compute, choose, fused_attention
from facemae.core.progress import say
from facemae.evaluation.baselines.off_the_shelf import find_recogniser
from facemae.models import shipped_models
from facemae.models.build import build_embedder
from facemae.models.embedder import embed
from facemae.models.interop import onnx_file
from facemae.models.patches import to_input

PEER = "inception"
OURS = ("tiny8", "tiny16")
VARIANTS = ("tiny8_once", "tiny16_once", "inception_autocast")
DLIB, INT8 = "dlib", "face-tiny-int8"
NAMED = {"embedder": "face-embedder", "tiny": "face-tiny", "tiny_int8": INT8}  # by their key in the results
SIDES = {"ours": 112, "peer": 160}
STEPS = 2  # on the clock, per turn
ROUNDS = 7


def measure(names: Sequence[str], precision: str, batch: int, rounds: int, steps: int) -> dict[str, Any]:
    """Race contestants and return the median ratios of images a second to the peer's.

    Args:
        names: Of `OURS`, `PEER`, `VARIANTS` and `installed`; the peer has to be among them.
        precision: As in `config.yaml`: "auto", "float32" or "bfloat16".
        batch: Images at a time.
        rounds: Turns of each contestant.
        steps: Batches in a turn.
    """
    plays: dict[str, Callable[[Baton], None]] = {
        name: functools.partial(play, name, precision, batch) for name in names
    }
    rates: dict[str, list[float]] = {name: [] for name in names}
    with contest(plays, "cpu", wall_clock=False) as contestants:
        parameters = {name: each.parameters for name, each in contestants.items() if each.parameters}
        for turn in range(rounds + 1):
            for name in list(contestants)[:: -1 if turn % 2 else 1]:
                taken = contestants[name].turn(Order(0, steps))
                if turn:  # the first is to warm up
                    rates[name].append(batch * steps / taken.seconds)
            if turn:
                latest = ", ".join(f"{name} {each[-1]:.1f}" for name, each in rates.items())
                say("embedding", f"round {turn}/{rounds}  images a second: {latest}")
    return {
        **compare(rates),
        "device": str(choose("cpu", precision, 1)),  # type: ignore[arg-type]
        "batch": batch,
        "threads": 1,
        "cores": cores(),
        "clock": "processor",
        "rounds": rounds,
        "parameters": parameters,
        "versions": versions("facemae", "torch", "timm", "facenet-pytorch"),
    }


def compare(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return each contestant's median ratio to the peer or to dlib with its range, and the median rates.

    Args:
        rates: Images a second, round by round, by contestant.
    """
    found: dict[str, Any] = {}
    pairs = {name: (name, PEER) for name in rates if name in (*OURS, *VARIANTS)}
    pairs |= {key: (name, DLIB) for key, name in NAMED.items() if name in rates and DLIB in rates}
    for key, (name, other) in pairs.items():
        ratios = np.divide(rates[name], rates[other])
        found[f"ratio_{key}"] = round(float(np.median(ratios)), 2)
        found[f"ratio_{key}_range"] = [round(float(ratios.min()), 2), round(float(ratios.max()), 2)]
    return found | {"per_s": {name: round(statistics.median(each), 1) for name, each in rates.items()}}


def play(name: str, precision: str, batch: int, baton: Baton) -> None:
    """Embed the same faces over and over, for as long as there are turns."""
    compute = choose("cpu", precision, 1)  # type: ignore[arg-type]
    torch.manual_seed(0)
    side = SIDES["peer" if name.startswith(PEER) else "ours"]
    faces = np.random.default_rng(0).integers(0, 256, (batch, side, side, 3), np.uint8)
    if name in (DLIB, *NAMED.values()):
        network: torch.nn.Module = torch.nn.Identity()
        step = _named(name)
    else:
        network, step = _peer(name, compute) if name.startswith(PEER) else _ours(name, compute)
    baton.begin(network)
    while True:
        baton.step_done(step(torch.from_numpy(faces)).abs().mean())


def _ours(name: str, compute: Compute) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
    patch, _, once = name.removeprefix("tiny").partition("_")
    shipped = config.load([CONFIG]).defaults.model.model_dump()
    model = config.Model(**shipped | {"size": "tiny", "patch_size": int(patch)})
    network = build_embedder(model, SIDES["ours"]).eval()
    compute.place(network)

    def step(faces: Tensor) -> Tensor:
        with compute.autocast(), torch.inference_mode(), fused_attention(network):
            if once:
                return F.normalize(network(to_input(faces)).float(), dim=1)
            return embed(network, to_input(faces))

    return network, step


def _peer(name: str, compute: Compute) -> tuple[torch.nn.Module, Callable[[Tensor], Tensor]]:
    network = InceptionResnetV1().eval()
    enabled = name.endswith("_autocast") and compute.dtype != torch.float32
    torch.use_deterministic_algorithms(False)  # what `choose` set is ours alone

    def step(faces: Tensor) -> Tensor:
        images = (faces.permute(0, 3, 1, 2).float() - 127.5) / 128.0
        with torch.autocast("cpu", compute.dtype, enabled=enabled), torch.inference_mode():
            embeddings: Tensor = network(images)
        return embeddings.float()

    return network, step


def installed() -> list[str]:
    """Return the recognisers with a name that can be run here."""
    own = [name for name in ("face-embedder", "face-tiny") if not shipped_models.missing(name)]
    runs_onnx = importlib.util.find_spec("onnxruntime") is not None and "face-tiny" in own
    return [DLIB, *own, *([INT8] if runs_onnx else [])]


def _named(name: str) -> Callable[[Tensor], Tensor]:
    """Return the embedding by a recogniser with a name, of faces (N, 112, 112, 3) uint8."""
    if name != INT8:
        model = find_recogniser(name)
        embed_faces = model.load(model.weights())
        return lambda faces: torch.from_numpy(embed_faces(faces.numpy()))
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    network = onnx_file.onnx_files(shipped_models.find("face-tiny"))[onnx_file.INT8]
    session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    return lambda faces: torch.from_numpy(session.run(None, {"images": to_input(faces).numpy()})[0])


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding", description=lines[0])
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--steps", type=int, default=STEPS, help="batches in a turn")
    parser.add_argument("--variants", action="store_true", help="no mirror image; peer in our precision")
    parser.add_argument("--json", action="store_true", help="the last line of the output is a JSON object")
    given = parser.parse_args(arguments)
    names = [*OURS, PEER, *(VARIANTS if given.variants else ()), *installed()]
    finish(lambda: measure(names, given.precision, given.batch, given.rounds, given.steps), given.json)


if __name__ == "__main__":
    main()
