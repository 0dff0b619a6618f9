"""Deleting what was made from faces: every place is named, with what it holds, before it is removed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from facemae import config
from facemae.cli.options import agreed, app
from facemae.core import files
from facemae.core.errors import UsageError
from facemae.core.layout import DataFolder, Results
from facemae.core.text import shown
from facemae.recognition.settings import file_of, gallery_at

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
        below = self.path.resolve().rglob("*") if self.path.is_dir() else [self.path]
        return sum(each.lstat().st_size for each in below) / 1e6


def places(experiment: config.Experiment, gallery: Path | None) -> list[Place]:
    """Return every place here that holds what was made from faces, hidden ones too, and the gallery.

    They are results folders and data sets prepared by themselves (with the photos unpacked for them, crops,
    checkpoints and what a kill left unfinished), the cache of evaluated files, logs, which name people, and
    the gallery. The photos themselves and downloaded archives are not among them.
    """
    found = [*_made(Path(), DEPTH), Place(CACHE, "faces and embeddings of evaluated files")]
    named = Path(experiment.results)
    if _is_results(named) and named not in {each.path for each in found}:
        found.append(Place(named, RESULTS))
    found.append(Place(Path("logs"), "logs, which name people"))
    found.append(Place(Path(".snakemake"), "the workflow's records"))
    if gallery is not None:
        enrolled = [gallery.parent / f"{gallery.name}{end}" for end in ("", "-wal", "-shm", "-journal")]
        found += [Place(path, "people enrolled for recognition", gallery=True) for path in enrolled]
    return [each for each in found if each.path.exists()]


RESULTS, PREPARED = "results: faces, networks and embeddings", "a prepared data set: faces"


def _made(folder: Path, depth: int) -> Iterator[Place]:
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        if not path.is_dir() or path.name in SKIPPED:
            continue
        if _is_results(path):
            yield Place(path, RESULTS)
        elif DataFolder(path).photos.exists() or any(DataFolder(path).shards.glob("*/*.parquet")):
            yield Place(path, PREPARED)
            if path.name.startswith(".") and path.name.endswith(".parquet.faces"):  # of facemae embed
                made = path.name[1 : -len(".faces")]
                yield from (Place(folder / each, "embeddings of photos") for each in (made, f"{made}.json"))
        elif depth > 1 and not path.is_symlink():
            yield from _made(path, depth - 1)


def _is_results(path: Path) -> bool:
    paths = Results(path)
    # Other programs have a config.json too; in ours it stands beside folders of run and seed.
    begun = paths.config.exists() and any(path.glob("*/[0-9]*"))
    return begun or any(each.exists() for each in (paths.data.photos, paths.data.unpacked, paths.verdict))


@app.command()
def clean(
    every: Annotated[bool, typer.Option("--all", help="The people enrolled in the gallery, too.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    config_files: Annotated[
        list[Path], typer.Option("--config", help="YAML file; config.yaml if there.")
    ] = [],  # noqa: B006
) -> None:
    """Delete results, caches of faces, logs and, with --all, the gallery; photos stay."""
    used = config_files or [path for path in (Path("config.yaml"),) if path.exists()]
    experiment = config.load(used)
    folder = (used or [Path("config.yaml")])[-1].absolute().parent
    gallery = file_of(gallery_at(experiment.gallery.url, folder))
    found = places(experiment, gallery)
    chosen = [each for each in found if every or not each.gallery]
    for each in chosen:
        leads = f" -> {shown(each.path.resolve())}" if each.path.is_symlink() else ""
        typer.echo(f"{shown(each.path)}{leads}  {each.megabytes:,.1f} MB  {each.what}")
        for lock in Results(each.path).locks:
            files.check_free(lock)
    _check_kept(experiment, chosen, None if every else gallery)
    if len(chosen) < len(found):
        typer.echo("Kept: the people enrolled; --all deletes them too.")
    if every and gallery is None:
        typer.echo("Kept: the gallery in a database; facemae gallery erase deletes its people.")
    raw = Path(experiment.data.raw_dir)
    if raw.is_dir():
        typer.echo(f"Kept: {shown(raw)}, archives that were downloaded or put there.")
    if not chosen:
        typer.echo("There is nothing to delete.")
    elif yes or agreed("Delete all of these?"):
        for each in chosen:
            with files.storage_errors(each.path):
                if each.path.is_dir():
                    shutil.rmtree(each.path.resolve())  # what a link leads to, which is where the faces are
                if each.path.is_symlink() or each.path.is_file():
                    each.path.unlink(missing_ok=True)
        typer.echo(f"Deleted: {len(chosen)} places.")
    else:
        raise UsageError("Nothing was deleted; answer y, or say --yes.")


def _check_kept(experiment: config.Experiment, chosen: list[Place], gallery: Path | None) -> None:
    """Stop with a UsageError where photos, archives or a gallery that stays lie inside what is to go."""
    data = experiment.data
    named = [each.partition(":")[2] or each for each in (data.labelled, *data.unlabelled, *data.tested)]
    kept = [*map(Path, (data.raw_dir, *named)), *([] if gallery is None else [gallery])]
    for each in chosen:
        for path in kept:
            if not each.gallery and path.exists() and path.resolve().is_relative_to(each.path.resolve()):
                raise UsageError(
                    f"{each.path} holds {path}, which is to stay; move it out first. Nothing was deleted."
                )
