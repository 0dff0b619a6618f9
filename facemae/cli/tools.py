"""Beside the workflow: plan it, find its results, check this machine, hand networks on."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Literal

import typer

from facemae import config
from facemae.cli.options import DEFAULT_CONFIG, ConfigOption, LastJsonOption, RunOption, SeedOption, app
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.core.text import MAX_LINE, shown


@app.command()
def plan(
    config_files: ConfigOption = DEFAULT_CONFIG,
    root: Annotated[
        Path | None, typer.Option("--results", help="Results to plan with; the configuration's if not given.")
    ] = None,
    as_json: LastJsonOption = False,
) -> None:
    """Say before a run what difference its people and seeds can decide, and what it costs."""
    from facemae.report import plan as planning

    experiment = _startable(config_files)
    found = planning.plan(experiment, root or Path(experiment.results))
    typer.echo(planning.in_words(found, experiment))
    if as_json:
        typer.echo(json.dumps(asdict(found)))


@app.command()
def estimate(
    config_files: ConfigOption = DEFAULT_CONFIG,
    cores: Annotated[int, typer.Option("--cores", min=1, help="Processor cores.")] = os.cpu_count() or 1,
) -> None:
    """Say how long the trainings take on this machine, by a few steps that are timed."""
    experiment = _startable(config_files)
    from facemae.compute import device
    from facemae.training.speed import minutes

    compute = device.choose(experiment.device, experiment.precision, threads=1)
    needed = minutes(experiment, compute, 1 if compute.on_gpu else cores)
    trainings = len(experiment.run_names) * len(experiment.seeds)
    say("estimate", f"{trainings} trainings take about {max(needed, 1):.0f} min on this machine ({compute})")


def _startable(config_files: list[Path]) -> config.Experiment:
    """Return the configuration, if the weights that its runs start from fit."""
    from facemae.stages.starts import check_starts

    experiment = config.load(config_files)
    check_starts(experiment)
    return experiment


@app.command()
def where(config_files: ConfigOption = DEFAULT_CONFIG) -> None:
    """Print the verdict and where results, report and app are."""
    show_verdict(Results(Path(config.load(config_files).results)))


def show_verdict(paths: Results) -> None:
    """Print the verdict of a results folder, and where its page and the app are; a UsageError without one."""
    if not paths.verdict.exists():
        raise UsageError(f"There is no verdict in {shown(paths.root)} yet; run: snakemake --cores all")
    from facemae.report import tables  # loads pandas

    typer.echo(f"Verdict  {shown(tables.headline(paths).headline, MAX_LINE)}")
    typer.echo(f"Page     {shown(paths.overview)}")
    typer.echo(f"Results  {shown(paths.summary)}")
    usual = paths.root == Path("results")
    typer.echo(f"App      {'make app' if usual else f'facemae app --results {shown(paths.root)}'}")


@app.command("app")
def open_app(
    results: Annotated[Path, typer.Option("--results", help="Folder of results to show.")] = Path("results"),
) -> None:
    """Open the app on a results folder."""
    if not results.is_dir():
        raise UsageError(f"{shown(results)} is no folder of results; run make, or facemae run, first.")
    script = Path(__file__).parents[2] / "app.py"
    command = [sys.executable, "-m", "streamlit", "run", str(script)]
    os.execve(sys.executable, command, os.environ | {"FACEMAE_RESULTS": str(results.absolute())})


@app.command()
def card(
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")],
    run: RunOption,
    seed: SeedOption,
    out: Annotated[Path, typer.Option("--out", help="Markdown file to write.")],
) -> None:
    """Write a trained run's model card: what it is for, what was measured, and what was not."""
    from facemae.recognition.model_card import write_card

    write_card(Results(results), run, seed, out)
    say("card", f"written: {out}")


@app.command()
def doctor(config_files: ConfigOption = DEFAULT_CONFIG) -> None:
    """Tell whether the main job can run here: versions, device, disk, data, locks."""
    from facemae.cli.doctor import doctor as check

    raise typer.Exit(check(config_files))


@app.command()
def export(
    stage: Annotated[
        Path,
        typer.Argument(
            help="Folder of a pretrain stage; for timm also of a finetune stage, for onnx of that."
        ),
    ],
    library: Annotated[
        Literal["timm", "huggingface", "onnx"],
        typer.Option(
            "--format",
            help="timm: the encoder. huggingface: encoder and decoder, as ViTMAE. onnx: the face embedder.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
) -> None:
    """Write a trained network for another library (docs/interoperability.md)."""
    from facemae.models.interop.export import export as write

    write(stage, library, out)
    say("export", f"{library}: {out}")
