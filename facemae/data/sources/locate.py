"""Where a source's files are on this machine: found, downloaded, unpacked or converted on first use."""

from __future__ import annotations

import difflib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
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
    """A source as the configuration names it, `set` "labelled" or "unlabelled".

    `path` is the folder, archive or file that was named; None: it is looked for in the folder of raw data.
    """

    source: Source
    set: str
    path: Path | None


def raw_dir(configured: str) -> Path:
    """Return the folder of raw data: the environment's, or else the configuration's."""
    return Path(os.environ.get(RAW_DIR_VARIABLE) or configured).expanduser()


def find(text: str, set_name: str, raw: Path, number: int = 0) -> ChosenSource:
    """Return what `text` names: a data set, `name:path`, a folder, an archive or a pack.

    `set_name` is "labelled" or "unlabelled"; `number` tells several folders of one set apart in their photos'
    names.

    Raises:
        UsageError: there is nothing of that name.
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
        return ChosenSource(_variant_of_path(name, named), set_name, named)
    if named.suffix == ".bin":
        return ChosenSource(insightface.bin_source(named), set_name, named)
    pack = named / "train.rec" if named.is_dir() else named
    if pack.suffix == ".rec" and pack.exists():
        return ChosenSource(insightface.rec_source(pack), set_name, pack)
    return ChosenSource(folder.folder_source(named, set_name, number), set_name, named)


def _variant(name: str, raw: Path) -> Source:
    """Return the form of a data set that is there, or the one that can be had."""
    variants = [SOURCES[each] for each in VARIANTS.get(name, (name,))]
    ready = [each for each in variants if _images(each, raw / each.folder)]
    return next(iter(ready + [each for each in variants if _remote(each)] + variants))


def _variant_of_path(name: str, path: Path) -> Source:
    variants = [SOURCES[each] for each in VARIANTS.get(name, (name,))]
    inside = [each for each in variants if path.is_dir() and _images(each, path)]
    if inside:
        return inside[0]
    alike = [each for each in variants if path.name.replace("_", "-").startswith(each.images)]
    return max(alike, key=lambda each: len(each.images)) if alike else variants[0]


def locate(wanted: ChosenSource, raw: Path, unpacked: Path) -> Place:
    """Return where the photos are, downloading, unpacking and converting what has to be.

    Downloads go to `raw`, what archives hold into folders of `unpacked`.

    Raises:
        DataError: the files are missing, or cannot be downloaded.
        IntegrityError: a file is not what it should be.
    """
    source = wanted.source
    if not source.images:  # carried by a package
        return Place(Path(), {})
    base = wanted.path or raw / source.folder
    images = _photos_at(wanted, raw)
    if images is None and not wanted.path and _remote(source):
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
    source, path = wanted.source, wanted.path
    if path is None:
        return _images(source, raw / source.folder)
    return (_images(source, path) or path) if path.is_dir() else path


def _images(source: Source, base: Path) -> Path | None:
    """Return the folder, file or archive below `base` that holds the photos."""
    names = [source.images]
    if not Path(source.images).suffix:
        names += [source.images + suffix for suffix in archives.SUFFIXES]
    return next((base / name for name in names if (base / name).exists()), None)


def _remote(source: Source) -> Remote | None:
    return next((each for each in source.downloads if each.filename.startswith(source.images)), None)


def _unpacked(source: Source, images: Path, unpacked: Path) -> Path:
    if images.is_dir():
        return images
    is_archive = images.name.lower().endswith(archives.SUFFIXES)
    if not is_archive and source.convert is None:
        return images
    say("fetch", f"checking {images.name}")
    target = unpacked / f"{source.name}-{files.sha256_of(images)[:12]}"
    if is_archive:
        return _inside(archives.unpack(images, target, source.limits))
    assert source.convert is not None
    return target if target.exists() else source.convert(images, target)


def clear_unused(places: list[Place], unpacked: Path) -> None:
    """Delete what was unpacked for sources, or versions of them, that are not used any more."""
    used = {path for place in places for path in (place.images, *place.images.parents)}
    for old in unpacked.iterdir() if unpacked.is_dir() else ():
        if old.is_dir() and old not in used:
            shutil.rmtree(old)


def _inside(folder: Path) -> Path:
    """Return the one folder that an archive wraps all others in, or the folder itself."""
    entries = [path for path in folder.iterdir() if not path.name.startswith(".")]
    folders = [path for path in entries if path.is_dir()]
    # One folder without others in it may be a person's, whose name has to stay.
    wraps = len(folders) == 1 and any(path.is_dir() for path in folders[0].iterdir())
    photos = any(starts_like_picture(path) for path in entries if path.is_file())
    return folders[0] if wraps and not photos else folder


def availability(wanted: ChosenSource, raw: Path) -> str:
    """Return whether a source can be used on this machine: `READY`, `DOWNLOADABLE` or `MISSING`."""
    if not wanted.source.images or _photos_at(wanted, raw):
        return READY
    return DOWNLOADABLE if _remote(wanted.source) else MISSING


def state(wanted: ChosenSource, raw: Path) -> str:
    """Return a short hash that changes when the files of a source change, and not by being downloaded."""
    parts = [wanted.source.name, *_states(wanted, raw)]
    return files.sha256("\n".join(parts).encode())[:16]


def _states(wanted: ChosenSource, raw: Path) -> Iterator[str]:
    source = wanted.source
    if not source.images:
        return
    # What is downloaded is known by its checksum, before and after.
    yield from (remote.sha256 for remote in source.downloads)
    checked = {(remote.filename, remote.bytes) for remote in source.downloads}
    images = _photos_at(wanted, raw)
    for path in [images, *(images.parent / name for name in source.sides)] if images else []:
        if path.is_dir():
            yield folder_state(path)
        elif not path.exists():
            if path.name in {name for name, _ in checked}:
                yield f"{path.name} missing"  # it may come with the next listing
        elif (path.name, path.stat().st_size) not in checked:
            status = path.stat()
            yield f"{path.absolute()} {status.st_size} {status.st_mtime_ns}"
