"""Where a source's files are on this machine: found, downloaded, unpacked or converted on first use."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from facemae.core import files
from facemae.core.errors import DataError, StorageError, UsageError
from facemae.core.progress import say
from facemae.data.images import starts_like_picture
from facemae.data.sources import SOURCES, VARIANTS, archives, download, folder, insightface
from facemae.data.sources.base import Place, Remote, Source
from facemae.data.sources.listing import as_text, folder_state

RAW_DIR_VARIABLE = "FACEMAE_RAW_DIR"
READY, DOWNLOADABLE, MISSING = "ready", "will be downloaded", "missing"


@dataclass(frozen=True)
class ChosenSource:
    """A source as the configuration names it."""

    source: Source
    set: str  # "labelled", "unlabelled" or "tested"
    path: Path | None  # that was named; None: it is looked for in the folder of raw data


def raw_dir(configured: str) -> Path:
    """Return the folder of raw data: the environment's, or else the configuration's."""
    return Path(os.environ.get(RAW_DIR_VARIABLE) or configured).expanduser()


def find(text: str, set_name: str, raw: Path, number: int = 0) -> ChosenSource:
    """Return what `text` names: a data set, `name:path`, a folder, an archive or a pack.

    `number` tells several folders of one set apart in their photos' names. A UsageError where there is
    nothing of that name.
    """
    known = [*SOURCES, *VARIANTS]
    if not text or text != as_text(text):
        what = f"{as_text(text)} holds bytes that are no UTF-8" if text else "it is empty"
        raise UsageError(f"This names no data: {what}; give a data set, or a folder or file of another name.")
    if text in known:
        return ChosenSource(_variant(text, raw), set_name, None)
    name, _, path = text.partition(":")
    of_known = bool(path) and name in known
    named = Path(path if of_known else text).expanduser()
    if not named.exists():
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {close[0]}?" if close else "`facemae data list` shows the known data sets."
        raise UsageError(f"{text} is neither a known data set nor a folder or file here; {hint}")
    if of_known:
        return ChosenSource(_variant(name, raw, named), set_name, named)
    if named.suffix == ".bin":
        return ChosenSource(insightface.bin_source(named), set_name, named)
    pack = named / "train.rec" if named.is_dir() else named
    if pack.suffix == ".rec" and pack.exists():
        return ChosenSource(insightface.rec_source(pack), set_name, pack)
    return ChosenSource(folder.folder_source(named, set_name, number), set_name, named)


def _variant(name: str, raw: Path, named: Path | None = None) -> Source:
    """Return the form of a data set that is there, or else is called like what is named, or can be had."""
    variants = [SOURCES[each] for each in VARIANTS.get(name, (name,))]
    there = [each for each in variants if _images(each, named or raw / each.folder)]
    if named is None:
        others = [each for each in variants if archive(each)]
    else:
        alike = [each for each in variants if named.name.replace("_", "-").startswith(each.images)]
        others = sorted(alike, key=lambda each: len(each.images), reverse=True)
    return next(iter(there + others + variants))


def locate(wanted: ChosenSource, raw: Path, unpacked: Path) -> Place:
    """Return where the photos are, downloading to `raw` and unpacking into `unpacked` what has to be.

    Raises:
        DataError: the files are missing, or cannot be downloaded.
        IntegrityError: a file is not what it should be.
    """
    source = wanted.source
    if not source.images:  # carried by a package
        return Place(Path(), {})
    base = wanted.path or raw / source.folder
    if not _photos_at(wanted, raw) and archive(source):
        for remote in source.downloads:
            download.download(remote, base)
    images = _photos_at(wanted, raw)
    if images is None:
        raise DataError(
            f"{source.title} is not in {base}: {source.how_to_get or source.address} "
            f"Licence: {source.licence}."
        )
    _complete(source, images.parent)
    sides = {name: images.parent / name for name in source.sides if (images.parent / name).exists()}
    with files.exclusive(files.private_folder(unpacked) / ".lock"):
        return Place(_unpacked(source, images, unpacked), sides)


def _complete(source: Source, beside: Path) -> None:
    """Download lists that are missing beside photos that are there; without them there is less to do."""
    for remote in source.downloads:
        if remote.filename in source.sides and not (beside / remote.filename).exists():
            try:
                download.download(remote, beside)
            except (DataError, StorageError) as error:
                say("fetch", f"going on without {remote.filename}: {error}")
                return


def _photos_at(wanted: ChosenSource, raw: Path) -> Path | None:
    """Return the folder, file or archive that holds the photos, or None where it is missing."""
    return _images(wanted.source, wanted.path or raw / wanted.source.folder) or wanted.path


def _images(source: Source, base: Path) -> Path | None:
    suffixes = ("",) if Path(source.images).suffix else ("", *archives.SUFFIXES)
    names = (base / f"{source.images}{suffix}" for suffix in suffixes)
    return next((path for path in names if path.exists()), None)


def archive(source: Source) -> Remote | None:
    """Return the file with the photos, if it can be downloaded."""
    return next((each for each in source.downloads if each.filename.startswith(source.images)), None)


def _unpacked(source: Source, images: Path, unpacked: Path) -> Path:
    is_archive = images.name.lower().endswith(archives.SUFFIXES)
    make = partial(archives.unpack, limits=source.limits) if is_archive else source.convert
    if images.is_dir() or make is None:
        return images
    say("fetch", f"checking {images.name}")
    target = unpacked / f"{source.name}-{files.sha256_of(images)[:12]}"
    made = target if target.exists() else make(images, target)
    return _inside(made) if is_archive else made


def _inside(folder: Path) -> Path:
    """Return the one folder that an archive wraps all others in, or the folder itself."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in entries if path.is_dir()]
    # One folder without others in it may be a person's, whose name has to stay.
    wraps = len(folders) == 1 and any(path.is_dir() for path in folders[0].iterdir())
    photos = any(starts_like_picture(path) for path in entries if path.is_file())
    return folders[0] if wraps and not photos else folder


def clear_unused(places: list[Place], unpacked: Path) -> None:
    """Delete what was unpacked for sources, or versions of them, that are not used any more."""
    used = {path for place in places for path in (place.images, *place.images.parents)}
    for old in unpacked.iterdir() if unpacked.is_dir() else ():
        if old.is_dir() and old not in used:
            shutil.rmtree(old)


def availability(wanted: ChosenSource, raw: Path) -> str:
    """Return whether a source can be used on this machine: `READY`, `DOWNLOADABLE` or `MISSING`."""
    if not wanted.source.images or _photos_at(wanted, raw):
        return READY
    return DOWNLOADABLE if archive(wanted.source) else MISSING


def state(wanted: ChosenSource, raw: Path) -> str:
    """Return a short hash that changes when the files of a source change, and not by being downloaded."""
    known = [wanted.source.name, *(_states(wanted, raw) if wanted.source.images else ())]
    return files.sha256("\n".join(known).encode())[:16]


def _states(wanted: ChosenSource, raw: Path) -> Iterator[str]:
    # What is downloaded is known by its checksum, before and after.
    yield from (remote.sha256 for remote in wanted.source.downloads)
    downloaded = {remote.filename: remote.bytes for remote in wanted.source.downloads}
    images = _photos_at(wanted, raw)
    for path in [images, *(images.parent / name for name in wanted.source.sides)] if images else []:
        if path.is_dir():
            yield folder_state(path)
        elif not path.exists():
            if path.name in downloaded:
                yield f"{path.name} missing"  # it may come with the next listing
        elif (status := path.stat()).st_size != downloaded.get(path.name):
            yield f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
