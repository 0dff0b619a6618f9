"""Deleting what was made from faces: every place is named, with what it holds, before it is removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from facemae import config
from facemae.cli.options import app
from facemae.core import files
from facemae.core.layout import DataFolder, Results
from facemae.core.text import shown

CACHE = Path("data/evaluated")  # of `facemae evaluate`
DEPTH = 2  # folders below this one in which results and prepared data sets are looked for
SKIPPED = {".venv", ".git", ".tools", "node_modules"}


@dataclass(frozen=True)
class Place:
    """A file or folder that holds faces, embeddings or names, and what it is."""

    path: Path
    what: str
    gallery: bool = False

    @property
    def megabytes(self) -> float:
        """Return its size, of all that lies below it."""
        below = self.path.rglob("*") if self.path.is_dir() and not self.path.is_symlink() else [self.path]
        return sum(each.lstat().st_size for each in below) / 1e6


def places(experiment: config.Experiment, here: Path = Path()) -> list[Place]:
    """Return every place below `here` that holds what was made from faces, hidden ones too.

    They are results folders and data sets prepared by themselves (with the photos unpacked for them, crops,
    checkpoints and what a kill left unfinished), the cache of evaluated files, logs, which name people, and
    the gallery. The photos themselves and downloaded archives are not among them.
    """
    found = [*_made(here, DEPTH), Place(here / CACHE, "faces and embeddings of evaluated files")]
    named = here / experiment.results
    if _is_results(named) and named not in {each.path for each in found}:
        found.append(Place(named, RESULTS))
    found += [
        Place(here / "logs", "logs, which name people"),
        Place(here / ".snakemake", "the workflow's records"),
    ]
    url = experiment.gallery.url
    if "://" not in url:
        beside = sorted((here / url).parent.glob(f"*{Path(url).name}*"))  # its log, locks
        found += [Place(path, "people enrolled for recognition", gallery=True) for path in beside]
    return [each for each in found if each.path.exists()]


RESULTS, PREPARED = "results: faces, networks and embeddings", "a prepared data set: faces"


def _made(folder: Path, depth: int) -> Iterator[Place]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path.is_symlink() or path.name in SKIPPED:
            continue
        if _is_results(path):
            yield Place(path, RESULTS)
        elif DataFolder(path).photos.exists() or DataFolder(path).shards.exists():
            yield Place(path, PREPARED)
        elif depth > 1:
            yield from _made(path, depth - 1)


def _is_results(path: Path) -> bool:
    paths = Results(path)
    return any(
        each.exists() for each in (paths.config, paths.data.photos, paths.data.unpacked, paths.verdict)
    )


@app.command()
def clean(
    every: Annotated[bool, typer.Option("--all", help="The people enrolled in the gallery, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config_files: Annotated[list[Path], typer.Option("--config", help="YAML file.")] = [Path("config.yaml")],  # noqa: B006
) -> None:
    """Delete results, caches of faces, logs and, with --all, the gallery; photos stay."""
    experiment = config.load([path for path in config_files if path.exists()])
    found = places(experiment)
    chosen = [each for each in found if every or not each.gallery]
    for each in chosen:
        typer.echo(f"{shown(each.path)}  {each.megabytes:,.1f} MB  {each.what}")
        files.check_free(each.path / ".workflow.lock")
    if len(chosen) < len(found):
        typer.echo("Kept: the people enrolled; --all deletes them too.")
    if every and "://" in experiment.gallery.url:
        typer.echo("Kept: the gallery in a database; facemae gallery erase deletes its people.")
    raw = Path(experiment.data.raw_dir)
    if raw.is_dir():
        typer.echo(f"Kept: {shown(raw)}, archives that were downloaded or put there.")
    if not chosen:
        typer.echo("There is nothing to delete.")
    elif yes or typer.confirm("Delete all of these?"):
        for each in chosen:
            _remove(each.path)
        typer.echo(f"Deleted: {len(chosen)} places.")


def _remove(path: Path) -> None:
    with files.storage_errors(path):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
