"""The front door: `facemae run --photos FOLDER` trains and evaluates on somebody's own photos."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from facemae import config
from facemae.cli.options import app
from facemae.cli.tools import show_verdict
from facemae.core import files
from facemae.core.errors import PreemptedError, UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.core.text import shown

ROOT = Path(__file__).parents[2]
OVERHEAD_MINUTES = 2  # to embed, evaluate and report


def _random() -> list[str]:
    return ["random"]


@app.command()
def run(
    photos: Annotated[Path, typer.Option("--photos", help="Folder of person/photo.jpg.")],
    mask: Annotated[
        list[str],
        typer.Option(
            help="To pretrain with; several are compared.", default_factory=_random, show_default="random"
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("results-mine"),
    minutes: Annotated[float, typer.Option("--minutes", min=1, help="That the trainings may take.")] = 30,
    cores: Annotated[int, typer.Option("--cores", min=1, help="Processor cores.")] = os.cpu_count() or 1,
) -> None:
    """Say what a folder of photos can tell, train on some of its people, evaluate on the others."""
    from facemae.stages import own_photos

    photos = photos.expanduser()
    if not photos.is_dir():
        raise UsageError(f"{shown(photos)} is no folder; name one that has a folder for each person.")
    if unknown := set(mask) - set(own_photos.MASKS):
        raise UsageError(
            f"{shown(min(unknown))} is none of the masks that take the time of random "
            f"({', '.join(own_photos.MASKS)}); compare others by a configuration (docs/masking.md)."
        )
    found = own_photos.look(photos)
    say("run", f"{shown(photos)}: {found}")
    own_photos.require_enough(found, photos, "photos")
    wanted = out.expanduser().resolve()
    folder = own_photos.free_folder(wanted, photos, mask)
    files.check_free(folder / ".workflow.lock")
    if folder != wanted:
        say("run", f"{shown(out)} holds other results, so these go to {shown(folder)}")
    chosen = own_photos.earlier(folder)
    if "split" in chosen:
        say("run", f"going on in {shown(folder)} with the settings, masks and minutes of its first start")
        own_photos.write(folder, chosen)
    else:
        _prepare(photos, folder, mask, minutes, cores)
    _snakemake(folder, cores)
    typer.echo("")
    show_verdict(Results(folder))


def _prepare(photos: Path, folder: Path, masks: Sequence[str], minutes: float, cores: int) -> None:
    """Find the faces, choose the settings that fit them and say what will be done."""
    from facemae.stages import own_photos

    own_photos.write(folder, own_photos.data_settings(photos, folder))
    say("run", "looking for the face on each photo")
    _snakemake(folder, cores, "data")
    found = own_photos.usable(Results(folder).data)
    say("run", f"with a usable face: {found}")
    own_photos.require_enough(found, photos, "usable photos")
    chosen = own_photos.settings(photos, folder, found, masks)
    seconds, on_gpu = _step_seconds(chosen, masks[0])
    needed = own_photos.scaled(chosen, seconds, minutes, 1 if on_gpu else cores)
    ways = [f"pretrained with the mask {name}" for name in list(chosen["runs"])[1:]]
    say("run", f"{len(ways) + 1} ways are compared, 2 seeds each: from scratch, {', '.join(ways)}")
    say("run", "each takes about the same time in all, so from scratch is trained for longer")
    say("run", f"this takes about {needed + OVERHEAD_MINUTES:.0f} min on this machine")
    say("run", own_photos.expectation(chosen, found))
    own_photos.write(folder, chosen)


def _step_seconds(chosen: dict[str, Any], run: str) -> tuple[dict[str, float], bool]:
    """Return the seconds of a step of a run's stages, and whether it is a GPU that takes them."""
    say("run", "timing a few steps of training")
    from facemae.compute import device
    from facemae.training.speed import step_seconds

    experiment = config.parse(config.merge(config.content_of([]), chosen))
    compute = device.choose(experiment.device, experiment.precision, threads=1)
    return step_seconds(experiment.run(run), experiment.data.image_size, compute), compute.on_gpu


def _snakemake(folder: Path, cores: int, *targets: str) -> None:
    """Run the workflow with a results folder's settings; its lists and logs stay in that folder."""
    from facemae.stages.own_photos import SETTINGS

    where = ["--snakefile", ROOT / "Snakefile", "--directory", folder]
    content = (folder / SETTINGS).absolute()
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = ["snakemake", *targets, *where, "--configfile", content, "--cores", cores]
    python = [sys.executable, "-m", *map(str, command)]
    code = _ended(python, os.environ | {"PATH": path})
    if code:
        sys.exit(code)


def _ended(command: list[str], environment: dict[str, str]) -> int:
    """Run a command to its end and return its exit code.

    It and its children are a process group, which is sent what would end this process: else they would train
    on unseen, or be killed before they have saved.
    """
    process = subprocess.Popen(command, env=environment, process_group=0)
    stopped: list[int] = []

    def hand_on(number: int, frame: object) -> None:
        stopped.append(number)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)

    watched = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {each: signal.getsignal(each) for each in watched}
    for each in watched:
        if before[each] != signal.SIG_IGN:  # as nohup sets it
            signal.signal(each, hand_on)
    try:
        code = process.wait()
    finally:
        for each in watched:
            signal.signal(each, before[each])
    if not stopped:
        return code
    say("run", "stopped; the same command goes on where it was")
    return 130 if signal.SIGINT in stopped else PreemptedError.exit_code
