"""What the measurements share: the photos they take, the machine they name, how they end."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.progress import say, track
from facemae.data.images import ImageError, open_image

SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".webp"}


def choose_photos(folder: Path, limit: int, label: str) -> list[Path]:
    """Return about `limit` photos, evenly from all below a folder, that can be decoded.

    Decoding them all once also brings them into memory, so that no contestant waits for the disk.

    Raises:
        UsageError: there is no such folder, or no usable photo in it.
    """
    if not folder.is_dir():
        raise UsageError(f"There is no folder {folder}; name one with photos, at any depth.")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    step = max(1, len(paths) / limit)
    chosen = [paths[int(place * step)] for place in range(min(limit, len(paths)))]
    usable = [path for path in track(chosen, len(chosen), label, "photos decoded") if _decodes(path)]
    if not usable:
        raise UsageError(f"No photo below {folder} can be used; name a folder with JPEG, PNG or WebP files.")
    say(label, f"{len(usable)} of {len(paths)} files, {len(chosen) - len(usable)} more cannot be decoded")
    return usable


def _decodes(path: Path) -> bool:
    try:
        open_image(path)
    except ImageError:
        return False
    return True


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def versions(*packages: str) -> dict[str, str]:
    """Return the installed versions of packages."""
    return {package: metadata.version(package) for package in packages}


def finish(measure: Callable[[], dict[str, Any]], as_json: bool) -> None:
    """Run a measurement and end the process as it ends; the last line of the output is its JSON."""
    try:
        results = measure()
    except FaceMAEError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    for name, value in results.items():
        print(f"{name:>20}  {value}", file=sys.stderr)
    if as_json:
        print(json.dumps(results))
