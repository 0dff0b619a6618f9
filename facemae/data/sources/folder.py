"""A folder of photos of the user's own, and what all sources share: walking folders and reading lists."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.data.sources.base import Pair, Photo, Place, Source

PAIRS = "pairs.csv"
NOT_A_PHOTO = "not a photo"
HIDDEN = "hidden"
IMAGE_SUFFIX = r"\.(?:jpe?g|png|webp)"

_SAME = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}
_FOLD = re.compile("[0-9]{1,6}")


def folder_source(path: Path, set_name: str, number: int = 0) -> Source:
    """Return the source of the photos in a folder or archive, of `person/photo.jpg` or at any depth.

    The folder that directly holds a photo and lies directly in the top folder names the person; photos at
    any other depth have none. Every visible entry is one photo, whatever its name or kind.

    Args:
        path: The folder or archive.
        set_name: "labelled" or "unlabelled"; the photos' sample_ids start with it.
        number: Tells several of one set apart; 0 adds nothing to their sample_ids.
    """
    name = f"{set_name}-{number}" if number else set_name
    return Source(
        name=name,
        title=printable(path.absolute().name),
        folder="",
        images=".",
        photos=partial(_photos, name),
        pairs=partial(_pairs, name),
        licence="that of the photos' owners",
        credit="the photos' owners",
        address="",
    )


def _photos(name: str, place: Place, ignored: Counter[str]) -> Iterator[Photo]:
    """Yield the photos.

    Raises:
        UsageError: there is no folder that can be listed.
        DataError: it holds no visible entry.
    """
    folder, shown = place.images, printable(str(place.images))
    if not folder.is_dir() or not os.access(folder, os.R_OK | os.X_OK):
        raise UsageError(f"{shown} is not a folder that can be read; check its spelling and permissions.")
    found = False
    for path in visible_files(folder, ignored):
        relative = path.relative_to(folder)
        if relative == Path(PAIRS):
            ignored["list of pairs"] += 1
            continue
        found = True
        person = printable(relative.parts[0]) if len(relative.parts) == 2 else None
        yield Photo(f"{name}/{printable(relative.as_posix())}", person, path)
    if not found:
        raise DataError(f"{shown} holds no photos; put some there, or name another folder.")


def _pairs(name: str, place: Place) -> Iterator[Pair]:
    """Yield the pairs of `pairs.csv`: two paths relative to the folder, `same`, and perhaps a `fold` from 0.

    Raises:
        IntegrityError: a line cannot be understood.
    """
    path = place.images / PAIRS
    if not path.is_file():
        return
    for line, row in rows(path, ("first", "second", "same")):
        same, fold = row["same"].strip().lower(), row.get("fold", "").strip() or "0"
        if same not in _SAME:
            raise malformed(path, line, f"same is {row['same']!r}, and 1 or 0 is needed")
        if not _FOLD.fullmatch(fold):
            raise malformed(path, line, f"fold is {fold!r}, and a whole number from 0 is needed")
        first, second = (_listed(name, path, line, row[column]) for column in ("first", "second"))
        yield Pair("pairs", int(fold), first, second, _SAME[same])


def _listed(name: str, path: Path, line: int, text: str) -> str:
    relative = PurePosixPath(text)
    if not relative.parts or relative.is_absolute() or ".." in relative.parts:
        raise malformed(path, line, f"{text!r} is no path of a photo relative to the folder")
    return f"{name}/{printable(relative.as_posix())}"


def folder_state(folder: Path) -> str:
    """Return a short hash that changes when an entry of `folder` is added, removed, renamed or changed."""
    digest = hashlib.sha256()
    for path in visible_files(folder):
        try:
            status = path.lstat()
            known = f" {status.st_mode} {status.st_size} {status.st_mtime_ns}\n"
        except OSError:  # deleted since it was listed, which is a change as well
            known = " gone\n"
        digest.update(os.fsencode(path) + known.encode())
    return digest.hexdigest()[:16]


def visible_files(folder: Path, ignored: Counter[str] | None = None) -> Iterator[Path]:
    """Yield every visible entry below `folder` that is no folder, sorted by name within each folder.

    Links are not followed. A folder that cannot be listed is yielded itself, so that what it hides does
    not vanish from the report. Hidden files are counted in `ignored`, if that is given.
    """
    top = _children(folder)
    if top is None:
        yield folder
        return
    stack = [(folder, False, top)]  # no recursion, which a deep folder would exhaust
    while stack:
        parent, inside_hidden, names = stack[-1]
        for name, is_folder in names:
            path, hidden = parent / name, inside_hidden or name.startswith(".")
            if hidden and ignored is None:
                continue
            children = _children(path) if is_folder else None
            if children is not None:
                stack.append((path, hidden, children))
                break
            if not hidden:
                yield path
            elif ignored is not None:
                ignored[HIDDEN] += 1
        else:
            stack.pop()


def _children(folder: Path) -> Iterator[tuple[str, bool]] | None:
    """Return the names in a folder, sorted, each with whether it is a folder itself; None: unreadable."""
    try:
        with os.scandir(folder) as entries:
            return iter(sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries))
    except OSError:
        return None


def printable(name: str) -> str:
    r"""Return a file name as text that any report can store; different names stay different.

    Bytes that are no UTF-8 arrive as lone surrogates and become \udcXX, and a real backslash is doubled so
    that no other name can look the same.
    """
    return name.replace("\\", "\\\\").encode("utf-8", "backslashreplace").decode()


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, without their ends, and their numbers from 1.

    Raises:
        UsageError: the file cannot be read.
    """
    for number, line in enumerate(_raw_lines(path), start=1):
        yield number, line.rstrip("\r\n")


def rows(path: Path, columns: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file by column, each with the number of its line; empty ones are left out.

    Raises:
        IntegrityError: one of `columns` is missing, or a row has more or fewer values than the first line.
        UsageError: the file cannot be read.
    """
    reader = csv.reader(_raw_lines(path))
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(columns) <= set(header):
            what = f"the columns {', '.join(columns)} are needed, and it names {', '.join(header) or 'none'}"
            raise malformed(path, 1, what)
        for values in reader:
            if len(values) == len(header):
                yield reader.line_num, dict(zip(header, values, strict=True))
            elif values:
                what = f"{len(header)} values are needed, and it has {len(values)}"
                raise malformed(path, reader.line_num, what)
    except csv.Error as error:
        raise malformed(path, reader.line_num, str(error)) from error


def _raw_lines(path: Path) -> Iterator[str]:
    try:
        # Undecodable bytes survive, as they do in file names: some lists are of file names.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            yield from file
    except OSError as error:
        raise UsageError(
            f"{printable(str(path))} cannot be read ({error.strerror}); check its permissions."
        ) from error


def malformed(path: Path, line: int, what: str) -> IntegrityError:
    """Return the error for a line of a list that cannot be understood; `what` says why."""
    shown = what if len(what) <= 200 else f"{what[:200]}..."
    text = f"{path}, line {line}: {shown}; get the file again, or correct it."
    return IntegrityError(text.encode("utf-8", "backslashreplace").decode())
