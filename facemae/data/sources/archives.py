"""Archives of photos, tar and zip: unpacked whole or not at all.

`tarfile` and `zipfile` read the formats; the rules are here. Only regular files and folders come out, under
names rebuilt from their parts and within limits. A link, a device or damage refuses the whole archive, since
half a data set is worse than none. Permissions and dates are not restored.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import lzma
import os
import reprlib
import shutil
import stat
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

from facemae.core import files
from facemae.core.errors import IntegrityError, StorageError
from facemae.core.progress import Progress
from facemae.data.sources.base import Limits

SUFFIXES: tuple[str, ...] = (".tgz", ".tar.gz", ".tar.xz", ".txz", ".tar.bz2", ".tar", ".zip")

_LIMITS = Limits()
_BLOCK = 1 << 20
_MB = 1_000_000
_RATIO_FROM = 10 * _MB  # less than this fills no disk, and a few blank images do shrink a hundredfold
_DEPTH = 32
_PART_BYTES = 255  # that a file system can store
_EXTENSION_BYTES = 1 << 16  # of a header that says more about the next entry
_UTF_8 = 0x800  # flag of a zip's entry: its name is in UTF-8
_LOCAL_HEADER_BYTES = 30  # of an entry in a zip, before its name
_DIRECTORY_BYTES = 1000  # of an entry in a zip's directory, which is read at once
_SHOWN = reprlib.Repr()
_SHOWN.maxstring = 80


class _RefusedError(Exception):
    """Why the archive is refused, in words that can follow its name and a colon."""


def unpack(archive: Path, target: Path, limits: Limits = _LIMITS) -> Path:
    """Unpack `archive` into the folder `target`, all of it or nothing; return `target`.

    Its first bytes say what it is: a tar, plain or compressed by gzip, bzip2 or xz, or a zip. A `target`
    that exists is a complete earlier unpacking and stays as it is; what a killed attempt left is cleared.
    What macOS adds (`__MACOSX`, `.DS_Store`, `._*`) is left out.

    Raises:
        IntegrityError: it is no archive, is damaged, or breaks a rule or a limit; nothing is left of it.
        StorageError: the disk is full or the folder cannot be written; nothing is left of it.
    """
    if target.exists():
        return target
    try:
        with files.atomic_folder(target) as folder, _damage(), open(archive, "rb") as file:
            _fill(folder, file, archive.name, limits)
    except _RefusedError as refusal:
        raise IntegrityError(
            f"{archive.name} was not unpacked: {refusal}; "
            "fetch it again from its source, or unpack it yourself if you trust it."
        ) from refusal
    return target


@contextlib.contextmanager
def _damage() -> Iterator[None]:
    try:
        yield
    except (_RefusedError, StorageError):
        raise
    except Exception as error:  # hostile bytes make the libraries raise nearly everything
        if isinstance(error, OSError) and error.errno:
            raise _RefusedError(f"it cannot be read ({error.strerror})") from error
        reason = ascii(" ".join(str(error).split()))[1:-1].replace(". ", ", ").rstrip(".")[:80]
        raise _RefusedError(f"it is damaged or cut short ({reason or 'it ends too early'})") from error


def _fill(folder: Path, file: BinaryIO, name: str, limits: Limits) -> None:
    unpacking = _Unpacking(folder, file, name, limits)
    start = file.read(6)
    file.seek(0)
    (_zip if start.startswith((b"PK\3\4", b"PK\5\6")) else _tar)(file, start, unpacking)
    unpacking.finish()


def _make_folder(path: Path, name: str) -> None:
    with files.storage_errors(path):
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError) as error:
            raise _about(name, "takes the place of another") from error


def _parts(name: str) -> tuple[str, ...]:
    """Return the parts of a name below the target folder; none for that folder itself.

    Every name that this system can store is taken.
    """
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/"):
        raise _about(name, "has an absolute name")
    if ".." in parts:
        raise _about(name, "has '..' in its name")
    if "\0" in name:
        raise _about(name, "has a NUL in its name")
    if any(len(os.fsencode(part)) > _PART_BYTES for part in parts):
        raise _about(name, f"has a part in its name of over {_PART_BYTES} bytes")
    if len(parts) > _DEPTH:
        raise _about(name, f"lies {len(parts)} folders deep where {_DEPTH} is the limit")
    return parts


def _about(name: str, why: str) -> _RefusedError:
    # repr() escapes what is not printable, so that no name can command a terminal.
    return _RefusedError(f"its entry {_SHOWN.repr(name)} {why}")


class _Unpacking:
    """Puts entries into a folder, and refuses more of them than the limits allow."""

    def __init__(self, folder: Path, file: BinaryIO, name: str, limits: Limits) -> None:
        self.folder, self.file, self.name, self.limits = folder, file, name, limits
        self.archive_bytes = os.fstat(file.fileno()).st_size
        self._bytes = self._entries = self._written = 0
        self._folders: set[tuple[str, ...]] = set()
        self._made, self._named = {folder}, dict[Path, str]()
        with files.storage_errors(folder, self.archive_bytes):
            if shutil.disk_usage(folder).free < self.archive_bytes:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._total = -(-self.archive_bytes // _MB)
        self._progress = Progress("unpack", self._total, "MB")

    def take(self, name: str, size: int, content: IO[bytes] | _Counted | None) -> None:
        """Put an entry of so many bytes into the folder; no content: a folder."""
        parts = _parts(name)
        if size > self.limits.file_bytes:
            raise _about(name, f"has {size:,} bytes where {self.limits.file_bytes:,} is the limit")
        self._entries += 1
        self.check_entries(self._entries, parts)
        if not parts or parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._"):
            return  # what macOS adds beside the files, or the archive's own folder
        path = self.folder.joinpath(*parts)
        if content is None:  # made with its first file or last of all: to remove 200,000 again takes minutes
            self._named[path] = name
        elif path in self._named or os.path.lexists(path):
            raise _about(name, "takes the place of another")
        else:
            if path.parent not in self._made:
                _make_folder(path.parent, name)
                self._made.add(path.parent)
            files.write_blocks(path, _blocks(content))
            self._written += 1
        self._progress.update(min(self.file.tell() // _MB, self._total - 1), self.name)

    def check_entries(self, number: int, parts: tuple[str, ...]) -> None:
        """Stop if so many entries are too many, with the folders that their names and those `parts` make."""
        for depth in range(len(parts) - 1, 0, -1):
            if parts[:depth] in self._folders:
                break
            self._folders.add(parts[:depth])
        if number + len(self._folders) > self.limits.entries:
            raise _RefusedError(f"it holds over {self.limits.entries:,} files and folders, the limit")

    def count(self, size: int) -> None:
        """Count bytes that have come out."""
        self._bytes += size
        if self._bytes > self.limits.total_bytes:
            raise _RefusedError(f"it unpacks to over {self.limits.total_bytes:,} bytes, the limit")
        if self._bytes > max(_RATIO_FROM, self.limits.ratio * self.archive_bytes):
            raise _RefusedError(f"it unpacks to over {self.limits.ratio} times its size, the limit")

    def finish(self) -> None:
        """Make the folders that are left."""
        if not self._written:
            raise _RefusedError("it holds no file")
        for path, name in self._named.items():
            _make_folder(path, name)
        self._progress.update(self._total, self.name)


class _Counted:
    """A stream whose bytes are counted while they are read, whatever its headers declare."""

    def __init__(self, stream: IO[bytes], unpacking: _Unpacking) -> None:
        self._stream, self._unpacking = stream, unpacking

    def read(self, size: int) -> bytes:
        data = self._stream.read(size)
        self._unpacking.count(len(data))
        return data


def _blocks(stream: IO[bytes] | _Counted) -> Iterator[bytes]:
    """Yield the bytes of an entry; what goes wrong here is the archive's fault and not the disk's."""
    with _damage():
        while block := stream.read(_BLOCK):
            yield block


# --- tar ---

_COMPRESSIONS: Mapping[bytes, Callable[[BinaryIO], Any]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\0": lzma.open,
}
_EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME,
    tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


class _Header(tarfile.TarInfo):
    """A header that is refused where it is damaged or missing, which `tarfile` takes for the end."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> _Header:
        """Read a header."""
        if not any(buf) and len(buf) == tarfile.BLOCKSIZE:
            return super().frombuf(buf, encoding, errors)  # the end
        try:
            header = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"{error} where an entry should begin") from error
        if header.size < 0 or (header.type in _EXTENSIONS and header.size > _EXTENSION_BYTES):
            raise tarfile.ReadError(f"a header with {header.size:,} bytes")
        return header

    def _proc_gnusparse_10(self, *_: object) -> None:  # which would read a list of any length
        raise tarfile.ReadError("a sparse file")


def _tar(file: BinaryIO, start: bytes, unpacking: _Unpacking) -> None:
    opener = next((each for magic, each in _COMPRESSIONS.items() if start.startswith(magic)), None)
    stream = _Counted(opener(file) if opener else file, unpacking)
    try:
        archive = tarfile.open(fileobj=stream, mode="r|", bufsize=_BLOCK, tarinfo=_Header)  # type: ignore[call-overload] # noqa: SIM115
    except tarfile.ReadError as error:
        raise _RefusedError("it is no tar or zip archive") from error
    with archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # or all headers stay in memory
            if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.issparse():
                raise _about(member.name, "is neither a regular file nor a folder")
            unpacking.take(member.name, member.size, archive.extractfile(member))
        while block := archive.fileobj.read(_BLOCK):  # to the end, where a checksum may stand
            if block.strip(b"\0"):
                raise _RefusedError("something follows its end")


# --- zip ---


class _Zip:
    """A zip whose directory, which `zipfile` reads at once, may list so many entries and no more."""

    def __init__(self, file: BinaryIO, most_entries: int, what: str) -> None:
        self._file, self.what = file, what
        self.most_entries: int | None = most_entries  # None: the directory has been read
        self.seek, self.tell, self.seekable = file.seek, file.tell, file.seekable

    def read(self, size: int = -1, /) -> bytes:
        if self.most_entries is None:
            return self._file.read(size)
        if size > max(_BLOCK, self.most_entries * _DIRECTORY_BYTES):
            raise zipfile.BadZipFile(f"its directory has {size:,} bytes")
        data = self._file.read(size)
        if data.count(b"PK\1\2") > self.most_entries:
            raise zipfile.BadZipFile(f"over {self.most_entries:,} {self.what}, the limit")
        return data


def open_zip(file: BinaryIO, most_entries: int, what: str) -> zipfile.ZipFile:
    """Open a zip archive of at most so many entries, called `what`; a `BadZipFile` if it has more."""
    counted = _Zip(file, most_entries, what)
    archive = zipfile.ZipFile(counted)
    counted.most_entries = None
    return archive


def _zip_name(info: zipfile.ZipInfo) -> str:
    name = info.filename
    if not info.flag_bits & _UTF_8:  # macOS writes it without saying so
        with contextlib.suppress(UnicodeError):
            name = name.encode("cp437").decode()
    # Some writers on Windows put backslashes between folders.
    return name.replace("\\", "/") if info.create_system == 0 else name


def _zip(file: BinaryIO, _: bytes, unpacking: _Unpacking) -> None:
    with open_zip(file, unpacking.limits.entries, "files and folders") as archive:
        for info in archive.infolist():  # before anything is unpacked
            unpacking.check_entries(len(archive.infolist()), _parts(_zip_name(info)))
        free = 0  # where the next entry may start
        for info in sorted(archive.infolist(), key=lambda each: each.header_offset):
            if info.header_offset < free:
                raise _about(info.filename, "overlaps another")
            free = info.header_offset + _LOCAL_HEADER_BYTES + info.compress_size
            name = _zip_name(info)
            if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
                raise _about(name, "is neither a regular file nor a folder")
            if info.flag_bits & 1:
                raise _about(name, "is encrypted")
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise _about(name, f"is compressed by method {info.compress_type}, and only deflate is known")
            folder = info.is_dir() or name.endswith("/")
            unpacking.take(name, info.file_size, None if folder else _Counted(archive.open(info), unpacking))
