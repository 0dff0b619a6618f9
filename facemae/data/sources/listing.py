"""Walking folders of photos and reading lists: what the sources share.

Whatever reads a list raises a UsageError where the file cannot be read.
"""

from __future__ import annotations

import csv
import hashlib
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import NamedTuple

from facemae.core.errors import IntegrityError, UsageError

NOT_A_PHOTO = "not a photo"
HIDDEN = "hidden"
LISTED_ANYWAY = "a link to a folder that is listed anyway"
IMAGE_SUFFIX = r"\.(?:jpe?g|png|webp)"

_SAME = {
    "1": True, "true": True, "yes": True, "same": True,
    "0": False, "false": False, "no": False, "different": False,
}  # fmt: skip
_LONGEST = 2**20  # characters of a line, which is cut there
_NUMBER = re.compile(r"([0-9]{1,6})(?:\.0+)?")


def folder_state(folder: Path) -> str:
    """Return a short hash that changes when an entry of `folder` is added, removed, renamed or changed."""
    digest = hashlib.sha256()
    for path in visible_files(folder):
        try:
            status = path.stat() if path.exists() else path.lstat()
            known = f" {status.st_mode} {status.st_size} {status.st_mtime_ns}\n"
        except OSError:  # deleted since it was listed, which is a change as well
            known = " gone\n"
        digest.update(os.fsencode(path) + known.encode())
    return digest.hexdigest()[:16]


def visible_files(folder: Path, ignored: Counter[str] | None = None) -> Iterator[Path]:
    """Yield every visible entry below `folder` that is no folder, sorted by name within each folder.

    Links are followed; a folder that links lead to is walked once, and not at all if it is walked without
    them. A folder that cannot be listed is yielded itself, so that what it hides does not vanish from the
    report. Hidden files, and links that are not followed, are counted in `ignored`, if that is given.
    """
    top = _children(folder)
    if top is None:
        yield folder
        return
    real_top = Path(os.path.realpath(folder))
    followed = {real_top}
    stack = [(folder, False, False, top)]  # no recursion, which a deep folder would exhaust
    while stack:
        parent, inside_hidden, linked, names = stack[-1]
        for name, is_folder, is_link in names:
            path, hidden = parent / name, inside_hidden or name.startswith(".")
            if hidden and (ignored is None or is_link):
                is_folder = False
            elif is_folder and (is_link or linked) and not _leads_elsewhere(path, real_top, followed):
                if ignored is not None:
                    ignored[LISTED_ANYWAY] += 1
                continue
            children = _children(path) if is_folder else None
            if children is not None:
                stack.append((path, hidden, linked or is_link, children))
                break
            if not hidden:
                yield path
            elif ignored is not None:
                ignored[HIDDEN] += 1
        else:
            stack.pop()


def _leads_elsewhere(path: Path, top: Path, followed: set[Path]) -> bool:
    """Tell whether a link, or a folder below one, is still to be walked, and add it to those `followed`."""
    target = Path(os.path.realpath(path))
    if target in followed:
        return False
    followed.add(target)
    if not target.is_relative_to(top):
        return True
    return any(part.startswith(".") for part in target.relative_to(top).parts)


def _children(folder: Path) -> Iterator[tuple[str, bool, bool]] | None:
    """Return the names in a folder, sorted, each with whether it is a folder and a link; None: unreadable."""
    try:
        with os.scandir(folder) as entries:
            found = [(each.name, os.path.isdir(each), each.is_symlink()) for each in entries]  # noqa: PTH112
    except OSError:
        return None
    return iter(sorted(found))


def linked_folders(folder: Path) -> Iterator[Path]:
    """Yield the folders that links in `folder` or below it lead to."""
    for parent, names, _ in os.walk(folder):
        paths = (Path(parent, name) for name in names)
        yield from (path.resolve() for path in paths if path.is_symlink())


def named_files(
    folder: Path, name: re.Pattern[str], ignored: Counter[str]
) -> Iterator[tuple[Path, re.Match[str]]]:
    """Yield the visible files below `folder` whose whole name matches; others count as no photos."""
    for path in visible_files(folder, ignored):
        if match := name.fullmatch(path.name):
            yield path, match
        else:
            ignored[NOT_A_PHOTO] += 1


def printable(name: str) -> str:
    r"""Return a file name as text that any report can store; different names stay different.

    Bytes that are no UTF-8 arrive as lone surrogates and become \udcXX, and a real backslash is doubled so
    that no other name can look the same.
    """
    return as_text(name.replace("\\", "\\\\"))


def as_text(name: str) -> str:
    """Return a name with bytes that are no UTF-8 written out, so that any report can store it."""
    return name.encode("utf-8", "backslashreplace").decode()


class ListedPair(NamedTuple):
    """A line of a list of pairs; names may hold lone surrogates, as file names do."""

    line: int
    first: str
    second: str
    same: bool
    fold: int = 0


def read_pairs(path: Path) -> list[ListedPair]:
    """Read a list of pairs: a CSV file with the columns first, second, same (or genuine) and perhaps fold.

    Folds are whole numbers from 0 or, if one of them is no number, any texts, numbered in their order.

    Raises:
        IntegrityError: a column is missing, or a line cannot be understood or contradicts another.
    """
    listed: list[ListedPair] = []
    folds: list[str] = []
    answers: dict[tuple[str, ...], bool] = {}
    for line, row in rows(path, ("first", "second")):
        if {"same", "genuine"} <= row.keys():
            raise malformed(path, 1, "same and genuine are two names of one column, and it has both")
        answer = row.get("same", row.get("genuine"))
        if answer is None:
            raise malformed(path, 1, f"a column same is needed, and it names {', '.join(row)}")
        same = _SAME.get(answer.strip().lower())
        if same is None:
            raise malformed(path, line, f"same is {answer!r}, and 1 or 0 is needed")
        if row["first"] == row["second"]:
            raise malformed(path, line, f"{row['first']!r} is compared with itself")
        pair = tuple(sorted((row["first"], row["second"])))
        if answers.setdefault(pair, same) != same:
            raise malformed(path, line, f"{pair[0]!r} and {pair[1]!r} are listed as same and as different")
        folds.append(row.get("fold", "").strip())
        if bool(folds[-1]) != bool(folds[0]):
            raise malformed(path, line, "some lines have a fold and others have none")
        listed.append(ListedPair(line, row["first"], row["second"], same))
    numbers = [_NUMBER.fullmatch(fold or "0") for fold in folds]
    if all(numbers):
        number = {fold: int(found[1]) for fold, found in zip(folds, numbers, strict=True) if found}
    else:
        number = {fold: place for place, fold in enumerate(sorted(set(folds)))}
    return [pair._replace(fold=number[fold]) for pair, fold in zip(listed, folds, strict=True)]


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file, without their ends, and their numbers from 1."""
    for number, line in enumerate(_raw_lines(path), start=1):
        yield number, line.rstrip("\r\n")


def rows(path: Path, columns: Collection[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the rows of a CSV file by column, each with the number of its line; empty ones are left out.

    Raises:
        IntegrityError: one of `columns` is missing or there twice, or a row has another number of values.
    """
    reader = csv.reader(_raw_lines(path), skipinitialspace=True)
    try:
        header = [name.strip() for name in next(reader, [])]
        if not set(columns) <= set(header):
            what = f"the columns {', '.join(columns)} are needed, and it names {', '.join(header) or 'none'}"
            raise malformed(path, 1, what)
        if twice := [name for name, count in Counter(header).items() if name and count > 1]:
            raise malformed(path, 1, f"the column {twice[0]} is there twice")
        for values in reader:
            if len(values) == len(header):
                yield reader.line_num, dict(zip(header, values, strict=True))
            elif values:
                what = f"{len(header)} values are needed, and it has {len(values)}"
                raise malformed(path, reader.line_num, what)
    except csv.Error as error:
        raise malformed(path, reader.line_num, str(error)) from error


def _raw_lines(path: Path) -> Iterator[str]:
    try:  # Undecodable bytes survive, as they do in file names: some lists are of file names.
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST), ""), start=1):
                if "\0" in line:
                    raise malformed(path, number, "it holds a NUL, as text in UTF-16 does; save it as UTF-8")
                yield line
    except OSError as error:
        raise UsageError(
            f"{printable(str(path))} cannot be read ({error.strerror}); check its permissions."
        ) from error


def malformed(path: Path, line: int, what: str) -> IntegrityError:
    """Return the error for a line of a list that cannot be understood; `what` says why."""
    shown = what if len(what) <= 200 else f"{what[:200]}..."
    return IntegrityError(as_text(f"{path}, line {line}: {shown}; get the file again, or correct it."))
