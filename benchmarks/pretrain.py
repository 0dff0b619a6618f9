"""Pretraining against its peers: `python -m benchmarks.pretrain --size tiny --precision bf16 --json`.

Images a second of forward pass, backward pass and AdamW at 112 px, patch 8, three quarters hidden. Ours is
the product's own training loop, with its masks, clipping and checks, once with a decoder of self-attention
that predicts every hidden patch, as the peers do ("same"), and once with the cross-attention decoder that
predicts a quarter of all patches ("cross"): ours.py. The peers are those of peers.py.

All take turns in processes of their own, in every round in the other order. The clock is the processor's time
of the process with one thread, so that neighbours count little, and the wall's where threads, a GPU or worker
processes share the work.

Ours has no class token, which is the product's default; both peers have one, so they encode 50 tokens an
image and ours 49. With `--variants` ours runs with one besides ("same_class", "cross_class"), and so does a
lightly that was told to leave PyTorch's fused attention ("lightly_plain"): what is left of the ratio then.

On a CPU all find their batches ready in memory, cropped and converted: this is a race of networks, and the
way from stored faces to batches has one of its own (input.py). With `--jpegs`, and with `--device cuda`
always, the whole pipeline counts: theirs decodes JPEG files in worker processes, ours reads its feed. On a
GPU each also runs at its best batch size, and ours is compiled, which is the product's default there.
"""

from __future__ import annotations

import argparse
import functools
import statistics
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks import ours, peers
from benchmarks.common import cores, finish, versions
from benchmarks.ours import OURS
from benchmarks.peers import DECODERS, PEERS, SIDE, TUNED, Setup
from benchmarks.turns import Baton, Order, Turn, contest
from facemae.core.progress import say
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos

PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}
BATCHES = {"cpu": [64], "cuda": [512, 1024, 2048, 4096]}
STEPS = {"cpu": 2, "cuda": 30}  # on the clock, per turn
ROUNDS = {"cpu": 7, "cuda": 5}
PREFETCHED = 2  # batches that a worker of a loader has ready
QUALITY = 95
SAME_PARAMETERS = 0.02


def measure(
    setup: Setup, names: Sequence[str], batches: Sequence[int], rounds: int, steps: int, profiled: bool
) -> dict[str, Any]:
    """Race the contestants `names`, keys of `OURS`, `PEERS` and `TUNED`; return the figures.

    Raises:
        RuntimeError: a contestant is of another size, or does not learn.
    """
    with tempfile.TemporaryDirectory() as scratch:
        setup = _prepare(setup, Path(scratch))
        order = Order(PREFETCHED * cores() + 1 if setup.jpegs else 0, steps)
        setups = {name: _best(name, setup, batches, order) for name in names}
        turns, parameters, profiles = race(setups, order, rounds, profiled)
    _check(parameters, turns)
    rates = {
        name: [setups[name].batch * steps / turn.seconds for turn in taken[1:]]
        for name, taken in turns.items()
    }
    return {
        **compare(rates),
        "size": setup.size,
        "precision": setup.precision,
        "device": torch.cuda.get_device_name() if setup.device == "cuda" else _processor(),
        "threads": setup.threads,
        "cores": cores(),
        "clock": "wall" if _wall_clock(setup) else "processor",
        "data": "files" if setup.jpegs else "ready in memory",
        "batch": {name: each.batch for name, each in setups.items()},
        "rounds": rounds,
        "parameters": parameters,
        "losses": {
            name: [round(taken[0].loss, 3), round(taken[-1].loss, 3)] for name, taken in turns.items()
        },
        "profile": profiles,
        "versions": versions("facemae", "torch", "timm", "transformers", "lightly"),
    }


def race(
    setups: dict[str, Setup], order: Order, rounds: int, profiled: bool = False
) -> tuple[dict[str, list[Turn]], dict[str, int], dict[str, dict[str, float]]]:
    """Give every contestant a turn to warm up and one per round; return turns, parameters and profiles."""
    some = next(iter(setups.values()))
    plays = {name: _play(name, setup) for name, setup in setups.items()}
    with contest(plays, some.device, _wall_clock(some)) as contestants:
        turns = {name: [each.turn(order)] for name, each in contestants.items()}
        for turn in range(rounds):
            for name in list(contestants)[:: -1 if turn % 2 else 1]:
                turns[name].append(contestants[name].turn(order))
            latest = (
                f"{name} {setups[name].batch * order.steps / taken[-1].seconds:.1f}"
                for name, taken in turns.items()
            )
            say("pretrain", f"round {turn + 1}/{rounds}  images a second: {', '.join(latest)}")
        parameters = {name: each.parameters for name, each in contestants.items()}
        profiles = {
            name: each.turn(replace(order, profiled=True)).profile
            for name, each in contestants.items()
            if profiled and name in OURS
        }
    return turns, parameters, profiles


def compare(rates: dict[str, list[float]]) -> dict[str, Any]:
    """Return the median ratio of ours against the faster peer and the tuned one, and the median rates.

    Args:
        rates: Images a second, round by round, by contestant.
    """
    medians = {name: statistics.median(values) for name, values in rates.items()}
    peer = max((name for name in PEERS if name in rates), key=lambda name: medians[name])
    found: dict[str, Any] = {}
    for rival in (peer, *(name for name in TUNED if name in rates)):
        for name in (name for name in OURS if name in rates):
            ratios = np.divide(rates[name], rates[rival])
            told = f"ratio_{name}" if rival == peer else f"ratio_{name}_to_{rival}"
            found[told] = round(float(np.median(ratios)), 2)
            found[f"{told}_range"] = [round(float(ratios.min()), 2), round(float(ratios.max()), 2)]
    return {**found, "faster_peer": peer, "per_s": {name: round(rate, 1) for name, rate in medians.items()}}


def _check(parameters: dict[str, int], turns: dict[str, list[Turn]]) -> None:
    if max(parameters.values()) > (1 + SAME_PARAMETERS) * min(parameters.values()):
        raise RuntimeError(f"the contestants are of different sizes: {parameters}")
    for name, taken in turns.items():
        if not taken[-1].loss < taken[0].loss:
            raise RuntimeError(f"the loss of {name} does not fall: {taken[0].loss} to {taken[-1].loss}")


def _best(name: str, setup: Setup, batches: Sequence[int], order: Order) -> Setup:
    """Return the setup with the batch size at which a contestant is fastest."""
    setups = {batch: replace(setup, batch=batch) for batch in batches}
    if len(setups) == 1:
        return setups.popitem()[1]
    rates = {}
    for batch, each in setups.items():
        with contest({name: _play(name, each)}, each.device, _wall_clock(each)) as contestants:
            try:
                contestants[name].turn(order)
                rates[batch] = batch * order.steps / contestants[name].turn(order).seconds
            except OverflowError as error:
                say("pretrain", f"{name} at batch {batch}: {error}")
                break
        say("pretrain", f"{name} at batch {batch}: {rates[batch]:.0f} images a second")
    return setups[max(rates, key=lambda batch: rates[batch])]


def _play(name: str, setup: Setup) -> Callable[[Baton], None]:
    if name in OURS:
        return functools.partial(ours.train, name, setup)
    return functools.partial(peers.train, name, setup)


def _prepare(setup: Setup, folder: Path) -> Setup:
    """Write the ORL faces as the product's decoded cache and, for a GPU, as the peers' JPEG files."""
    faces = np.stack([_face(photo.path) for photo in orl_photos()])
    np.save(folder / "faces.npy", faces)
    for place, face in enumerate(faces if setup.jpegs else ()):
        Image.fromarray(face).save(folder / f"{place}.jpg", quality=QUALITY)
    return replace(setup, faces=folder / "faces.npy", jpegs=folder if setup.jpegs else None)


def _face(path: Path) -> NDArray[np.uint8]:
    return np.asarray(open_image(path).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def _wall_clock(setup: Setup) -> bool:
    """Tell whether others work for a contestant: further threads, a GPU, the workers of a loader."""
    return setup.device == "cuda" or setup.threads > 1 or setup.jpegs is not None


def _processor() -> str:
    """Name what decides how fast a CPU multiplies matrices of bfloat16."""
    tiles = getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()
    return f"cpu, {torch.backends.cpu.get_cpu_capability()}{', AMX' if tiles else ''}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Read the command line and measure."""
    lines = (__doc__ or "").splitlines()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pretrain", description=lines[0])
    parser.add_argument("--size", choices=DECODERS, default="tiny")
    parser.add_argument("--precision", choices=PRECISIONS, default="bf16")
    parser.add_argument("--device", choices=BATCHES, default="cpu")
    parser.add_argument("--threads", type=int, default=1, help="of PyTorch, on a CPU")
    parser.add_argument("--batches", type=int, nargs="+", help="batch sizes of which each takes its best")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--steps", type=int, help="steps on the clock in a turn")
    parser.add_argument("--jpegs", action="store_true", help="count the data on a CPU too")
    parser.add_argument("--variants", action="store_true", help="run ours with a class token, a tuned peer")
    parser.add_argument("--profile", action="store_true", help="tell what ours spends its time on")
    parser.add_argument("--json", action="store_true", help="print the figures as one line of JSON")
    options = parser.parse_args(arguments)
    device = options.device
    jpegs = Path() if options.jpegs or device == "cuda" else None
    precision = PRECISIONS[options.precision]
    setup = Setup(options.size, device, precision, options.threads, 0, Path(), jpegs)
    names = [name for name, each in OURS.items() if options.variants or not each.class_token]
    names += [*PEERS, *(TUNED if options.variants else ())]
    finish(
        lambda: measure(
            setup,
            names,
            options.batches or BATCHES[device],
            options.rounds or ROUNDS[device],
            options.steps or STEPS[device],
            options.profile,
        ),
        options.json,
    )


if __name__ == "__main__":
    main()
