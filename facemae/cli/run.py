"""The front door: `facemae run --photos FOLDER` trains and evaluates on somebody's own photos."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from facemae.cli.options import app
from facemae.cli.tools import show_verdict
from facemae.core import files, records
from facemae.core.errors import UsageError
from facemae.core.layout import METRICS, Results
from facemae.core.progress import say
from facemae.core.text import shown

ROOT = Path(__file__).parents[2]
TRIAL_STEPS = 6
OVERHEAD_MINUTES = 2  # to embed, evaluate and report


@app.command()
def run(
    photos: Annotated[Path, typer.Option("--photos", help="Folder of person/photo.jpg.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the results.")] = Path("results-mine"),
    minutes: Annotated[float, typer.Option("--minutes", min=1, help="That the trainings may take.")] = 30,
    cores: Annotated[int, typer.Option("--cores", min=1, help="Processor cores.")] = os.cpu_count() or 1,
) -> None:
    """Say what a folder of photos can tell, train on some of its people, evaluate on the others."""
    from facemae.stages import own_photos

    photos = photos.expanduser()
    if not photos.is_dir():
        raise UsageError(f"{shown(photos)} is no folder; name one that has a folder for each person.")
    found = own_photos.look(photos)
    say("run", f"{shown(photos)}: {found}")
    own_photos.require_enough(found, photos, "photos")
    folder = own_photos.free_folder(out.expanduser(), photos)
    files.check_free(folder / ".workflow.lock")
    if folder != out.expanduser():
        say("run", f"{shown(out)} holds other results, so these go to {shown(folder)}")
    settings = folder / own_photos.SETTINGS
    if not (settings.exists() and "split" in records.read_json(settings)):
        _prepare(photos, folder, minutes, cores)
    _snakemake(folder, cores)
    typer.echo("")
    show_verdict(Results(folder))


def _prepare(photos: Path, folder: Path, minutes: float, cores: int) -> None:
    """Find the faces, choose the settings that fit them and say what will be done."""
    from facemae.stages import own_photos

    paths = Results(folder.absolute())
    own_photos.write(folder, own_photos.data_settings(photos, folder))
    say("run", "looking for the face on each photo")
    _snakemake(folder, cores, "data")
    found = own_photos.usable(paths.data)
    say("run", f"with a usable face: {found}")
    own_photos.require_enough(found, photos, "usable photos")
    chosen = own_photos.settings(photos, folder, found)
    trial = folder / ".trial.json"
    files.write_json(trial, chosen)
    _snakemake(folder, cores, str(paths.data.split), settings=trial)
    seconds = _trial(trial, paths)
    trial.unlink()
    needed = own_photos.scaled(chosen, seconds, minutes, cores)
    say("run", "2 ways are compared, 2 seeds each: from scratch, and pretrained as a masked autoencoder")
    say("run", f"this takes about {needed + OVERHEAD_MINUTES:.0f} minutes on this machine")
    say("run", own_photos.expectation(chosen, found))
    own_photos.write(folder, chosen)


def _trial(settings: Path, paths: Results) -> dict[str, float]:
    """Return the seconds of a step of pretraining and of fine-tuning, timed on this machine."""
    say("run", "timing a few steps of training")
    seconds = {}
    with tempfile.TemporaryDirectory(prefix="facemae-") as temporary:
        folder = Path(temporary)
        quick: dict[str, Any] = {"steps": TRIAL_STEPS, "held_out": 0.0, "validate_every": 0}
        files.write_json(folder / "trial.json", {"defaults": {"pretrain": quick, "finetune": quick}})
        for stage, name in (("pretrain", "random"), ("finetune", "scratch")):
            where = folder / name / "0" / stage
            command = [stage, "--config", settings, "--config", folder / "trial.json", "--run", name]
            done = _python(
                "facemae", *command, "--seed", 0, "--data", paths.data.root, "--out", where, quiet=True
            )
            if done.returncode:
                raise UsageError(f"The trial of {stage} failed: {done.stderr.strip().splitlines()[-1]}")
            seconds[stage] = float(records.read_json(where / METRICS)["seconds"][stage]) / TRIAL_STEPS
    return seconds


def _snakemake(folder: Path, cores: int, *targets: str, settings: Path | None = None) -> None:
    """Run the workflow with a results folder's settings; its lists and logs stay in that folder.

    Raises:
        SystemExit: it failed; it has said why.
    """
    from facemae.stages.own_photos import SETTINGS

    where = ["--snakefile", ROOT / "Snakefile", "--directory", folder]
    content = (settings or folder / SETTINGS).absolute()
    done = _python("snakemake", *targets, *where, "--configfile", content, "--cores", cores)
    if done.returncode:
        sys.exit(done.returncode)


def _python(module: str, *arguments: object, quiet: bool = False) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {"PATH": path}
    return subprocess.run(command, env=environment, capture_output=quiet, text=True, check=False)
