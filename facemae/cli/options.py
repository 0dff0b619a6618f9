"""The command itself, and the options that several of its sub-commands share."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(
    name="facemae",
    help="What does masked-autoencoder pretraining buy for face recognition?\n\n"
    "The workflow runs these stages for you: snakemake --cores all. Run one by hand with the same options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def agreed(question: str) -> bool:
    """Ask a question and return whether the answer is yes; no answer, as from a timer, is none."""
    try:
        return typer.confirm(question)
    except typer.Abort:
        return False


def print_json(content: object) -> None:
    """Print plain values as JSON, indented."""
    typer.echo(json.dumps(content, indent=2))


STAGES = "Stages of the workflow, which calls them"

RawOption = Annotated[
    str, typer.Option("--raw-dir", help="Folder with the archives; FACEMAE_RAW_DIR overrides it.")
]
ConfigOption = Annotated[
    list[Path],
    typer.Option("--config", help="YAML file; given twice, the later one lies over the earlier. - is stdin."),
]
DEFAULT_CONFIG = [Path("config.yaml")]  # typer copies it
# Under torchrun, which takes --run for an option of its own cut short, --name says the same.
RunOption = Annotated[
    str, typer.Option("--run", "--name", help="Name of a run, or of a baseline where one is meant.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the run.")]
CacheOption = Annotated[
    Path, typer.Option("--cache", help="Folder that keeps faces and embeddings for the next time.")
]
DataOption = Annotated[
    Path, typer.Option("--data", help="Folder of photos and aligned faces, such as results/data.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes that align at a time.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write, named after the stage.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of results to read and write into.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
LastJsonOption = Annotated[bool, typer.Option("--json", help="End with a line of JSON.")]
CropOption = Annotated[
    Literal["auto", "landmarks", "crop"],
    typer.Option("--align", help="Find the face, or take photos that are faces already."),
]
ComputeOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]
