"""Data sets: what is known, and preparing one by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from facemae.cli.options import (
    ComputeOption,
    CropOption,
    JsonOption,
    RawOption,
    WorkersOption,
    app,
    print_json,
)
from facemae.core import layout

data_app = typer.Typer(help="Data sets: what is known, and preparing one by itself.", no_args_is_help=True)
app.add_typer(data_app, name="data")


@data_app.command("list")
def list_data(as_json: JsonOption = False, raw: RawOption = "data/raw") -> None:
    """Show the known data sets: people, images, licence, source and whether they are on this machine."""
    from facemae.data.sources.catalogue import as_table, catalogue
    from facemae.data.sources.locate import raw_dir

    entries = catalogue(raw_dir(raw))
    if as_json:
        print_json(entries)
    else:
        typer.echo(as_table(entries))


@data_app.command("prepare")
def prepare_data(
    source: Annotated[str, typer.Argument(help="A data set, name:path, or a folder or archive of photos.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write: manifest, aligned faces and report.")],
    workers: WorkersOption = 1,
    raw: RawOption = "data/raw",
    size: Annotated[int, typer.Option("--size", min=32, max=448, help="Side of an aligned face.")] = 112,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Least confidence of the detector.")
    ] = 0.9,
    mode: CropOption = "auto",
    faces: Annotated[
        Literal["auto", "largest", "central", "all"], typer.Option("--faces", help="Which face of a photo.")
    ] = "auto",
    max_skipped: Annotated[
        float, typer.Option("--max-skipped", min=0, max=1, help="Share of photos that may be unusable.")
    ] = 0.05,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="No folder names a person.")] = False,
    device: ComputeOption = "auto",
) -> None:
    """Align one data set: from archive or folder to manifest and aligned Parquet; goes on after a kill."""
    from facemae.data.sources.locate import find, raw_dir
    from facemae.stages import data as prepare

    wanted = find(source, layout.SET_UNLABELLED if unlabelled else layout.SET_LABELLED, raw_dir(raw))
    data = prepare.one_source(
        source, raw, image_size=size, align=mode, faces=faces, min_score=min_score, max_skipped=max_skipped
    )
    folder = layout.DataFolder(out)
    prepare.fetch([wanted], raw_dir(raw), folder)
    prepare.align(data, folder, device, workers)
