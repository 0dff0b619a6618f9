"""Archives of photos: tar and zip, checked while they are read, unpacked whole or not at all.

Only plain files and folders come out, under names that mean the same on every system and stay where they
were put. Whatever else an archive holds, or says in two ways that differ, refuses the whole of it: such
an archive is damaged or made to harm, and half a data set is worse than none.

Python's `tarfile` and `zipfile` forgive too much to be asked: a damaged header counts as the end, a cut
stream as whole, a zip's directory is believed against its entries, a name they dislike becomes another.
So the structure is read here, and the libraries do what they are strict at: header fields, compression.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import io
import lzma
import os
import re
import reprlib
import shutil
import stat
import struct
import tarfile
import unicodedata
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

from facemae.core import files
from facemae.core.errors import IntegrityError
from facemae.core.progress import Progress
from facemae.data.sources.base import Limits

SUFFIXES: tuple[str, ...] = (".tgz", ".tar.gz", ".tar.xz", ".txz", ".tar.bz2", ".tar", ".zip")

_LIMITS = Limits()
_BLOCK = 1 << 20
_MB = 1_000_000
_RATIO_FROM = 10 * _MB  # less than this fills no disk, and a few blank images do shrink a hundredfold


class _RefusedError(Exception):
    """Why the archive is refused, in words that can follow its name and a colon."""


def unpack(archive: Path, target: Path, limits: Limits = _LIMITS) -> Path:
    """Unpack `archive` into the folder `target`, all of it or nothing; return `target`.

    Its first bytes say what it is: a tar, plain or compressed by gzip, bzip2 or xz, or a zip. A `target`
    that exists is a complete earlier unpacking and stays as it is; what a killed attempt left is cleared.
    Permissions and dates are not restored. What macOS adds (`__MACOSX`, `.DS_Store`, `._*`) is left out.

    Raises:
        IntegrityError: it is no archive, is damaged, or breaks a rule or a limit; nothing is left of it.
        StorageError: the disk is full or the folder cannot be written; nothing is left of it.
    """
    if target.exists():
        return target
    try:
        with files.atomic_folder(target) as folder, _opened(archive) as file:
            _fill(folder, file, limits)
    except _RefusedError as refusal:
        raise IntegrityError(
            f"{archive.name} was not unpacked: {refusal}; "
            "fetch it again from its source, or unpack it yourself if you trust it."
        ) from refusal
    return target


def _fill(folder: Path, file: _File, limits: Limits) -> None:
    needed, members = _members(file, limits)
    with files.storage_errors(folder, needed):
        if shutil.disk_usage(folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    gate = _Gate(limits, file.size)
    written = 0
    for member in members:
        parts = gate.admit(member)
        path = folder.joinpath(*parts)
        if _is_noise(parts):
            deque(member.blocks, maxlen=0)
        elif member.folder:
            deque(member.blocks, maxlen=0)
            with files.storage_errors(path):
                path.mkdir(parents=True, exist_ok=True)
        else:
            files.write_blocks(path, _no_archive(member))
            written += 1
    if not written:
        raise _RefusedError("it holds no file")
    file.finished()


# --- what may come out ---

_DEPTH = 32
_ARCHIVES = (
    *SUFFIXES, ".7z", ".ar", ".bz2", ".cab", ".cpio", ".deb", ".gz", ".iso", ".jar", ".lz4", ".lzma",
    ".rar", ".rpm", ".tbz", ".tbz2", ".tzst", ".whl", ".xz", ".z", ".zst",
)  # fmt: skip
_ARCHIVE_MAGIC = re.compile(
    rb"PK\x03\x04|PK\x05\x06|PK\x07\x08|\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\x00|7z\xbc\xaf\x27\x1c"
    rb"|Rar!\x1a\x07|\x28\xb5\x2f\xfd|\x04\x22\x4d\x18|.{257}ustar",
    re.DOTALL,
)
_UNPRINTABLE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u2028\u2029"  # control characters and line ends
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]"  # those that turn the direction of writing
)
_RESERVED = {"con", "prn", "aux", "nul", "conin$", "conout$"} | {
    f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"
}
_RULES: Mapping[str, Callable[[str], object]] = {
    "has an empty part or '.' or '..' in its name": lambda part: part in ("", ".", ".."),
    "has a backslash in its name": lambda part: "\\" in part,
    "has a drive letter in its name": re.compile("[A-Za-z]:").match,
    "has a control character in its name": _UNPRINTABLE.search,
    "has a part in its name that ends in a dot or a space": lambda part: part.endswith((".", " ")),
    "has a name that is a device on Windows": lambda part: (
        part.partition(".")[0].rstrip().casefold() in _RESERVED
    ),
    "has a part in its name of over 255 bytes": lambda part: len(_encoded(part)) > 255,
}

_SHOWN = reprlib.Repr()
_SHOWN.maxstring = 80


@dataclass(frozen=True)
class _Member:
    """An entry of an archive; `blocks` is its content, to be read before the next entry is asked for."""

    name: str
    folder: bool
    size: int
    blocks: Iterator[bytes]


class _Gate:
    """Lets entries pass that break no rule and no limit, each name once."""

    def __init__(self, limits: Limits, archive_bytes: int) -> None:
        self._limits, self._archive_bytes = limits, archive_bytes
        self._entries = self._bytes = 0
        self._seen: dict[str, tuple[str, bool]] = {}

    def admit(self, member: _Member) -> tuple[str, ...]:
        """Return the parts of the entry's path; none for the archive's own folder."""
        self._entries += 1
        self._bytes += member.size
        if not 0 <= member.size <= self._limits.file_bytes:
            raise _about(
                member.name, f"has {member.size:,} bytes where {self._limits.file_bytes:,} is the limit"
            )
        _check_total(self._bytes, self._archive_bytes, self._limits)
        if member.folder and member.name in (".", "./"):
            return ()
        parts = _parts(member)
        for depth in range(1, len(parts)):
            self._claim(member, "/".join(parts[:depth]), folder=True)
        self._claim(member, "/".join(parts), member.folder)
        if max(self._entries, len(self._seen)) > self._limits.entries:
            raise _RefusedError(f"it holds over {self._limits.entries:,} files and folders, the limit")
        return parts

    def _claim(self, member: _Member, name: str, folder: bool) -> None:
        # Two names that one file system tells apart and another does not are one name here.
        same = unicodedata.normalize("NFD", unicodedata.normalize("NFD", name).casefold())
        other = self._seen.get(same)
        if other is not None and not (folder and other == (name, True)):
            raise _about(member.name, f"takes the place of {_SHOWN.repr(other[0])}")
        self._seen[same] = (name, folder)


def _parts(member: _Member) -> tuple[str, ...]:
    name = member.name.removesuffix("/") if member.folder else member.name
    if name.startswith("/"):
        raise _about(name, "has an absolute name")
    if len(_encoded(name)) > 1000:
        raise _about(name, f"has a name of {len(_encoded(name))} bytes where 1000 is the limit")
    parts = tuple(name.removeprefix("./").split("/"))
    for why, breaks in _RULES.items():
        if any(breaks(part) for part in parts):
            raise _about(name, why)
    if len(parts) > _DEPTH:
        raise _about(name, f"lies {len(parts)} folders deep where {_DEPTH} is the limit")
    if not member.folder and parts[-1].casefold().endswith(_ARCHIVES):
        raise _about(name, "is an archive itself")
    return parts


def _no_archive(member: _Member) -> Iterator[bytes]:
    """Pass on the content of an entry unless it is that of an archive."""
    stream = _Stream(member.blocks)
    start = stream.read(512)
    if _ARCHIVE_MAGIC.match(start):
        raise _about(member.name, "is an archive itself")
    yield start
    while block := stream.read(_BLOCK):
        yield block


def _is_noise(parts: tuple[str, ...]) -> bool:
    """Return whether an entry is what macOS adds beside the files."""
    return bool(parts) and (parts[0] == "__MACOSX" or parts[-1] == ".DS_Store" or parts[-1].startswith("._"))


def _check_total(unpacked: int, archive_bytes: int, limits: Limits) -> None:
    if unpacked > limits.total_bytes:
        raise _RefusedError(
            f"it unpacks to at least {unpacked:,} bytes where {limits.total_bytes:,} is the limit"
        )
    if unpacked > max(_RATIO_FROM, limits.ratio * archive_bytes):
        raise _RefusedError(
            f"it unpacks to at least {unpacked / archive_bytes:.0f} times its size "
            f"where {limits.ratio} is the limit"
        )


def _about(name: str, why: str) -> _RefusedError:
    # repr() escapes what is not printable, so that no name can command a terminal.
    return _RefusedError(f"its entry {_SHOWN.repr(name)} {why}")


def _encoded(name: str) -> bytes:
    return name.encode("utf-8", "surrogateescape")


# --- streams ---


class _File:
    """The archive on disk, read in blocks, with progress by the bytes read."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file, self._name = file, name
        self.size = os.fstat(file.fileno()).st_size
        self._total = -(-self.size // _MB)
        self._progress = Progress("unpack", self._total, "MB")

    def read(self, start: int, size: int) -> bytes:
        """Return the `size` bytes from `start` on."""
        data = self._read(start, size)
        if len(data) < size:
            raise _RefusedError("it is cut short")
        return data

    def blocks(self, start: int, stop: int) -> Iterator[bytes]:
        """Yield the bytes from `start` to `stop`, or to the end if that is sooner."""
        while block := self._read(start, min(_BLOCK, stop - start)):
            start += len(block)
            yield block
            self._progress.update(min(start // _MB, self._total - 1), self._name)

    def finished(self) -> None:
        """Record that all of it is unpacked."""
        self._progress.update(self._total, self._name)

    def _read(self, start: int, size: int) -> bytes:
        with _reading():
            self._file.seek(start)
            return self._file.read(size)


@contextlib.contextmanager
def _opened(archive: Path) -> Iterator[_File]:
    with contextlib.ExitStack() as stack:
        with _reading():
            file = stack.enter_context(open(archive, "rb"))
        yield _File(file, archive.name)


@contextlib.contextmanager
def _reading() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise _RefusedError(f"it cannot be read ({error.strerror})") from error


class _Stream:
    """Blocks of bytes, read forward in pieces of any size."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._block = io.BytesIO()

    def read(self, size: int) -> bytes:
        """Return the next `size` bytes, fewer only at the end."""
        piece = self._block.read(size)
        while len(piece) < size and (block := next(self._blocks, b"")):
            self._block = io.BytesIO(block)
            piece += self._block.read(size - len(piece))
        return piece

    def pieces(self, size: int) -> Iterator[bytes]:
        """Yield the next `size` bytes, a block at a time."""
        while size > 0:
            piece = self.read(min(size, _BLOCK))
            if not piece:
                raise _RefusedError("it is cut short")
            size -= len(piece)
            yield piece


class _Engine(Protocol):
    """What the decompressors have in common: they give no more than they are asked for."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


class _Inflate:
    """zlib's decompressor with the manners of the others."""

    def __init__(self, window: int) -> None:
        self._engine = zlib.decompressobj(window)
        self.needs_input = True

    @property
    def eof(self) -> bool:
        return self._engine.eof

    @property
    def unused_data(self) -> bytes:
        return self._engine.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        piece = self._engine.decompress(self._engine.unconsumed_tail + data, max_length)
        self.needs_input = len(piece) < max_length
        return piece


_GZIP, _BARE = 16 + zlib.MAX_WBITS, -zlib.MAX_WBITS
_XZ_MEMORY = 128 << 20  # the strongest usual setting takes 65 MiB; a header may ask for 4 GiB
_COMPRESSIONS: Mapping[bytes, Callable[[], _Engine]] = {
    b"\x1f\x8b": lambda: _Inflate(_GZIP),
    b"BZh": bz2.BZ2Decompressor,
    b"\xfd7zXZ\x00": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY),
}


def _expanded(blocks: Iterator[bytes], start: Callable[[], _Engine]) -> Iterator[bytes]:
    """Yield what `blocks` unpack to, in blocks; several compressed streams may follow each other."""
    rest = b""
    while rest := rest or next(blocks, b""):
        engine = start()
        while not engine.eof:
            if engine.needs_input and not (rest := rest or next(blocks, b"")):
                raise _RefusedError("it is cut short")
            try:
                piece = engine.decompress(rest, _BLOCK)
            except (zlib.error, lzma.LZMAError, OSError, EOFError) as error:
                raise _RefusedError(
                    "its compressed data are damaged, or something else follows them"
                ) from error
            rest = b""
            if piece:
                yield piece
        rest = engine.unused_data


def _metered(blocks: Iterator[bytes], archive_bytes: int, limits: Limits) -> Iterator[bytes]:
    """Pass on `blocks` until they are more than the limits allow, whatever the archive declares."""
    unpacked = 0
    for block in blocks:
        unpacked += len(block)
        _check_total(unpacked, archive_bytes, limits)
        yield block


def _members(file: _File, limits: Limits) -> tuple[int, Iterator[_Member]]:
    """Return the bytes that the archive will take, 0 if it does not say, and its entries."""
    start = next(file.blocks(0, 6), b"")
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _zip(file, limits)
    blocks = file.blocks(0, file.size)
    for magic, engine in _COMPRESSIONS.items():
        if start.startswith(magic):
            return 0, _tar(_Stream(_metered(_expanded(blocks, engine), file.size, limits)))
    return file.size, _tar(_Stream(_metered(blocks, file.size, limits)))


# --- tar: headers of 512 bytes, each followed by the content it announces, and zeros at the end ---

_TAR = 512
_EXTENSION_BYTES = 1 << 16
_PAX_LENGTH = re.compile(rb"([1-9][0-9]{0,5}) ")
_OTHER_TYPES = {
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.LNKTYPE: "a hard link",
    tarfile.GNUTYPE_LONGLINK: "a link with a long name",
    tarfile.CHRTYPE: "a device",
    tarfile.BLKTYPE: "a device",
    tarfile.FIFOTYPE: "a pipe",
    tarfile.GNUTYPE_SPARSE: "a sparse file",
}


def _tar(stream: _Stream) -> Iterator[_Member]:
    said: dict[bytes, bytes] = {}  # what extension headers say about the next entry, by keyword
    kinds: set[bytes] = set()
    found = False
    while (block := stream.read(_TAR)) != bytes(_TAR):
        header = _tar_header(block, found)
        found = True
        if header.type in _EXTENSIONS:
            content = _tar_extension(stream, header)
            if header.type in kinds or said.keys() & content.keys():
                raise _about(header.name, "is described twice")
            kinds.add(header.type)
            said |= content
            continue
        yield _tar_member(stream, header, block, said)
        deque(stream.pieces(-header.size % _TAR), maxlen=0)
        said, kinds = {}, set()
    if kinds:
        raise _RefusedError("it ends after a header that announces another entry")
    while block := stream.read(_BLOCK):
        if block.strip(b"\0"):
            raise _RefusedError("something follows its end")


def _tar_header(block: bytes, found: bool) -> tarfile.TarInfo:
    if found and len(block) < _TAR:
        raise _RefusedError("it is cut short")
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise _RefusedError(
            "a header in it is damaged" if found else "it is no tar or zip archive"
        ) from error


def _tar_member(
    stream: _Stream, header: tarfile.TarInfo, block: bytes, said: Mapping[bytes, bytes]
) -> _Member:
    name = said[b"path"].decode("utf-8", "surrogateescape") if b"path" in said else header.name
    if header.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE):
        raise _about(name, f"is {_OTHER_TYPES.get(header.type, 'neither a file nor a folder')}")
    if any(key.startswith(b"GNU.sparse") for key in said):
        raise _about(name, "is a sparse file")
    if said.get(b"size", b"%d" % header.size) != b"%d" % header.size:
        raise _about(name, "has two sizes")
    if header.isdir() and header.size:
        raise _about(name, "is a folder with content")
    if any(b"\0" in block[start:stop].rstrip(b"\0") for start, stop in ((0, 100), (345, 500))):
        raise _about(name, "has more in its name after the end of it")
    _check_mode(name, header.mode)
    return _Member(name, header.isdir(), header.size, stream.pieces(header.size))


def _tar_extension(stream: _Stream, header: tarfile.TarInfo) -> dict[bytes, bytes]:
    if not 0 <= header.size <= _EXTENSION_BYTES:
        raise _about(
            header.name, f"is a header of {header.size:,} bytes where {_EXTENSION_BYTES:,} is the limit"
        )
    content = b"".join(stream.pieces(header.size))
    deque(stream.pieces(-header.size % _TAR), maxlen=0)
    return _EXTENSIONS[header.type](content)


def _pax(content: bytes) -> dict[bytes, bytes]:
    """Return the records of an extended header, each "length keyword=value" and a line end."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(content):
        length = _PAX_LENGTH.match(content, position)
        record = content[length.end() : position + int(length[1])] if length else b""
        keyword, _, value = record.partition(b"=")
        if not length or not value.endswith(b"\n") or keyword in records:
            raise _RefusedError("an extended header in it is damaged")
        records[keyword] = value[:-1]
        position += int(length[1])
    if position > len(content):
        raise _RefusedError("an extended header in it is damaged")
    return records


def _pax_for_all(content: bytes) -> dict[bytes, bytes]:
    # A remark such as git's is all that can be true of every entry that follows.
    for keyword in _pax(content):
        if keyword in (b"path", b"linkpath", b"size") or keyword.startswith(b"GNU."):
            raise _RefusedError("a header in it gives all its entries the same name or size")
    return {}


_EXTENSIONS: Mapping[bytes, Callable[[bytes], dict[bytes, bytes]]] = {
    tarfile.GNUTYPE_LONGNAME: lambda content: {b"path": content.removesuffix(b"\0")},
    tarfile.XHDTYPE: _pax,
    tarfile.XGLTYPE: _pax_for_all,
}


def _check_mode(name: str, mode: int) -> None:
    if mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX):
        raise _about(name, "has a set-user, set-group or sticky bit")


# --- zip: entries, each behind a header of its own, then a directory that repeats them, then its end ---

_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_END_64_PLACE = struct.Struct("<4sLQL")
_DIRECTORY = struct.Struct("<4s6H3L5H2L")
_LOCAL = struct.Struct("<4s5H3L2H")
_WIDE = 0xFFFF_FFFF  # says that the value stands in a zip64 field
_ENCRYPTED, _PATCHED, _SIZES_FOLLOW, _UTF_8 = 0x2041, 0x20, 0x08, 0x800
_FLAGS = _ENCRYPTED | _PATCHED | _SIZES_FOLLOW | _UTF_8  # the others are hints that writers disagree on
_STORED, _DEFLATED = 0, 8


@dataclass(frozen=True)
class _ZipEntry:
    """What a zip's directory says about an entry; sizes and place in bytes."""

    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    place: int
    mode: int

    @property
    def name(self) -> str:
        try:
            return self.raw_name.decode()
        except UnicodeDecodeError:
            return self.raw_name.decode("cp437")


def _zip(file: _File, limits: Limits) -> tuple[int, Iterator[_Member]]:
    count, start, stop = _zip_end(file)
    if count > limits.entries:
        raise _RefusedError(f"it holds {count:,} files and folders where {limits.entries:,} is the limit")
    entries = sorted(_zip_directory(file, count, start, stop), key=lambda entry: entry.place)
    total = sum(entry.size for entry in entries)
    _check_total(total, file.size, limits)
    return total, _zip_members(file, entries, start)


def _zip_end(file: _File) -> tuple[int, int, int]:
    """Return how many entries the directory has, where it starts and where it stops."""
    tail_at = max(0, file.size - _END.size - 0xFFFF)
    tail = file.read(tail_at, file.size - tail_at)
    at = tail.rfind(b"PK\x05\x06")
    if not 0 <= at <= len(tail) - _END.size:
        raise _RefusedError("it is cut short")
    _, *values, comment = _END.unpack_from(tail, at)
    if at + _END.size + comment != len(tail):
        raise _RefusedError("something follows its end")
    stop = tail_at + at
    if tail[max(0, at - _END_64_PLACE.size) : at].startswith(b"PK\x06\x07"):
        stop -= _END_64_PLACE.size + _END_64.size
        values = _zip_end_64(file, stop, values)
    disk, first_disk, here, count, length, start = values
    if disk or first_disk or here != count or start + length != stop:
        raise _contradiction()
    return count, start, stop


def _zip_end_64(file: _File, at: int, narrow: list[int]) -> list[int]:
    if at < 0:
        raise _contradiction()
    mark, length, _, _, *values = _END_64.unpack(file.read(at, _END_64.size))
    _, _, place, disks = _END_64_PLACE.unpack(file.read(at + _END_64.size, _END_64_PLACE.size))
    agree = all(old in (new, 0xFFFF, _WIDE) for old, new in zip(narrow, values, strict=True))
    if mark != b"PK\x06\x06" or length != _END_64.size - 12 or place != at or disks != 1 or not agree:
        raise _contradiction()
    return values


def _contradiction() -> _RefusedError:
    return _RefusedError("its zip directory contradicts itself")


def _zip_directory(file: _File, count: int, start: int, stop: int) -> Iterator[_ZipEntry]:
    for _ in range(count):
        mark, _, _, flags, method, _, _, crc, packed, size, *lengths, disk, _, mode, place = (
            _DIRECTORY.unpack(file.read(start, _DIRECTORY.size))
        )
        if mark != b"PK\x01\x02" or disk:
            raise _contradiction()
        start += _DIRECTORY.size
        texts = file.read(start, sum(lengths))
        start += len(texts)
        name, extra = texts[: lengths[0]], texts[lengths[0] : lengths[0] + lengths[1]]
        size, packed, place = _widened([size, packed, place], extra)
        yield _allowed(_ZipEntry(name, flags, method, crc, packed, size, place, mode >> 16))
    if start != stop:
        raise _contradiction()


def _widened(values: list[int], extra: bytes) -> list[int]:
    """Return `values` with those that stand in the zip64 field of `extra` taken from there."""
    field = b""
    while len(extra) >= 4:
        kind, length = struct.unpack_from("<2H", extra)
        field = extra[4 : 4 + length] if kind == 1 else field
        extra = extra[4 + length :]
    wide = (number for (number,) in struct.iter_unpack("<Q", field[: len(field) // 8 * 8]))
    wider = [next(wide, _WIDE) if value == _WIDE else value for value in values]
    if _WIDE in wider:
        raise _contradiction()
    return wider


def _allowed(entry: _ZipEntry) -> _ZipEntry:
    expected = stat.S_IFDIR if entry.name.endswith("/") else stat.S_IFREG
    if entry.flags & _ENCRYPTED:
        raise _about(entry.name, "is encrypted")
    if entry.method not in (_STORED, _DEFLATED) or entry.flags & _PATCHED:
        raise _about(entry.name, f"is compressed by method {entry.method} where only deflate is known")
    if stat.S_IFMT(entry.mode) == stat.S_IFLNK:
        raise _about(entry.name, "is a symbolic link")
    if stat.S_IFMT(entry.mode) not in (0, expected):
        raise _about(entry.name, "is neither a file nor a folder")
    if entry.name.endswith("/") and entry.size:
        raise _about(entry.name, "is a folder with content")
    _check_mode(entry.name, entry.mode)
    return entry


def _zip_members(file: _File, entries: list[_ZipEntry], directory: int) -> Iterator[_Member]:
    """Yield the entries, which must fill the archive up to its directory without overlap or gap."""
    places = [*(entry.place for entry in entries), directory]
    if places[0]:
        raise _RefusedError("something lies before its first entry")
    for entry, after in zip(entries, places[1:], strict=True):
        start = _zip_content(file, entry)
        stop = start + entry.packed
        if not 0 <= after - stop <= 24:
            raise _about(entry.name, "overlaps another or leaves a gap")
        if file.read(stop, after - stop) not in _descriptors(entry):
            raise _differs(entry)
        blocks = _zip_blocks(file, start, entry)
        yield _Member(entry.name, entry.name.endswith("/"), entry.size, blocks)


def _zip_content(file: _File, entry: _ZipEntry) -> int:
    """Return where the content starts, if the header before it agrees with the directory."""
    mark, _, flags, method, _, _, crc, packed, size, *lengths = _LOCAL.unpack(
        file.read(entry.place, _LOCAL.size)
    )
    texts = file.read(entry.place + _LOCAL.size, sum(lengths))
    name, extra = texts[: lengths[0]], texts[lengths[0] :]
    size, packed = _widened([size, packed], extra)
    expected = (b"PK\x03\x04", entry.raw_name, entry.flags & _FLAGS, entry.method)
    if (mark, name, flags & _FLAGS, method) != expected:
        raise _differs(entry)
    may_lack = (0,) if flags & _SIZES_FOLLOW else ()
    for value, known in ((crc, entry.crc), (packed, entry.packed), (size, entry.size)):
        if value not in (known, *may_lack):
            raise _differs(entry)
    return entry.place + _LOCAL.size + len(texts)


def _descriptors(entry: _ZipEntry) -> set[bytes]:
    """Return what may stand between an entry's content and the next header."""
    if not entry.flags & _SIZES_FOLLOW:
        return {b""}
    wide = struct.pack("<L2Q", entry.crc, entry.packed, entry.size)
    narrow = struct.pack("<3L", entry.crc, entry.packed & _WIDE, entry.size & _WIDE)
    return {mark + values for mark in (b"", b"PK\x07\x08") for values in (wide, narrow)}


def _differs(entry: _ZipEntry) -> _RefusedError:
    return _about(entry.name, "is not what the zip directory says it is")


def _zip_blocks(file: _File, start: int, entry: _ZipEntry) -> Iterator[bytes]:
    """Yield the content of an entry, which must have the size and checksum that the directory says."""
    blocks = file.blocks(start, start + entry.packed)
    if entry.method == _DEFLATED:
        blocks = _expanded(blocks, lambda: _Inflate(_BARE))
    crc = size = 0
    for block in blocks:
        crc = zlib.crc32(block, crc)
        size += len(block)
        if size > entry.size:
            break
        yield block
    if (crc, size) != (entry.crc, entry.size):
        raise _about(entry.name, "is damaged: its size or checksum is wrong")
