"""InsightFace's packs: `.rec` for training and `.bin` for verification, read without MXNet.

A `.rec` is MXNet's RecordIO: chunks of a magic number, a length, and bytes padded to a multiple of four.
A `.bin` is a pickle of images and truths, read by an unpickler that knows nothing else.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from facemae.core import files
from facemae.core.errors import IntegrityError

SPLIT_RECORD = "a record in several parts"
EMPTY_RECORD = "a record without a picture"

_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")  # magic number; kind of part in 3 bits, length in 29
# Number of labels (0: one, which follows here), label, id, id2; then the first label, if there are several.
_HEADER, _HEADER_BYTES = struct.Struct("<IfQQf"), 24
_HEAD_BYTES = _FRAME.size + _HEADER.size
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MAX_LABELS = 10_000
_MAX_IDENTITY = 2**24  # above it float32, the type of a label, skips whole numbers

_MAX_PACK_BYTES = 1_000_000_000  # ten times the largest known
_MAX_ITEM_BYTES = 16_000_000  # one encoded face of 112 x 112 pixels takes about 5,000
_MAX_LINE_BYTES = 256
_MAX_OPCODES = 2_000_000  # a pack of 14,000 numpy arrays takes 400,000
_SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")
_IMAGES, _RANGES = "images", "ranges.json"


class Record(NamedTuple):
    """An image of a `.rec`: its position among the records, its person, and its bytes in the file."""

    number: int
    identity: int
    offset: int
    length: int


class Pack(NamedTuple):
    """A verification pack: images 2n and 2n + 1 are pair n, which shows the same person where `same[n]`."""

    images: list[bytes]
    same: list[bool]


def rec_images(rec: Path, idx: Path | None, ignored: Counter[str]) -> Iterator[Record]:
    """Yield the images of a training pack in the order of the file, in flat memory, reading their heads only.

    What is no image counts in `ignored` by reason, except the records that only list others: a record is an
    image exactly if something follows its labels. `idx` is compared on the way, since a pack cut off between
    two records looks whole without it.

    Raises:
        IntegrityError: `rec` is damaged or cut off, or `idx` belongs to another.
    """
    offsets = None if idx is None else _offsets(idx)

    def compare(index: int, position: int) -> None:
        if offsets is not None and next(offsets, -1) != position:
            raise IntegrityError(
                f"{rec} and its index disagree about record {index}; fetch both again, or remove the index "
                "if the pack is known to be whole, since it can be read without."
            )

    index = 0
    with open(rec, "rb", buffering=0) as file:
        for index, (position, split, length, head) in enumerate(_records(file, rec)):
            compare(index, position)
            if split:
                ignored[SPLIT_RECORD] += 1
            elif (record := _record(rec, index, position, length, head)) is not None:
                if record.length:
                    yield record
                else:
                    ignored[EMPTY_RECORD] += 1
    compare(index + 1, -1)


def _records(file: io.FileIO, path: Path) -> Iterator[tuple[int, bool, int, bytes]]:
    """Yield the position of every record, whether it is split, its length and first bytes.

    MXNet takes its magic number out of data that holds it, which happens to one face in some three million:
    such a record has several parts, and its image is no range of bytes.
    """
    descriptor, size = file.fileno(), os.fstat(file.fileno()).st_size
    position, unfinished = 0, False
    while position < size or unfinished or size == 0:  # an empty file is cut off, too
        head = os.pread(descriptor, _HEAD_BYTES, position)
        if len(head) < _FRAME.size:
            raise _damaged(path, f"it ends within the record at byte {position}")
        magic, packed = _FRAME.unpack_from(head)
        part, length = packed >> 29, packed & (1 << 29) - 1
        if magic != _MAGIC or part > _LAST or unfinished != (part in (_MIDDLE, _LAST)):
            raise _damaged(path, f"no record starts at byte {position}")
        following = position + _FRAME.size + (length + 3) // 4 * 4
        if following > size:
            raise _damaged(path, f"a record goes on to byte {following} and the file ends at {size}")
        if part in (_WHOLE, _FIRST):
            yield position, part == _FIRST, length, head
        position, unfinished = following, part in (_FIRST, _MIDDLE)


def _record(path: Path, index: int, position: int, length: int, head: bytes) -> Record | None:
    """Return the image of a record; None if it only lists others."""
    labels, label, _, _, first = _HEADER.unpack_from(head.ljust(_HEAD_BYTES, b"\0"), _FRAME.size)
    before = _HEADER_BYTES + 4 * labels
    if labels > _MAX_LABELS or before > length:
        raise _damaged(path, f"record {index} has {length} bytes and claims {labels} labels")
    if before == length and labels > 1:
        return None
    identity = first if labels else label
    if not 0 <= identity <= _MAX_IDENTITY or identity != int(identity):
        raise _damaged(path, f"the label of record {index} is {identity:g}, not the number of a person")
    return Record(index, int(identity), position + _FRAME.size + before, length - before)


def _offsets(idx: Path) -> Iterator[int]:
    with open(idx, "rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(_MAX_LINE_BYTES), b""), start=1):
            offset = line.rstrip(b"\r\n").rpartition(b"\t")[2]
            if not offset.isdigit():
                raise IntegrityError(
                    f"{idx} is no index of records: line {number} is no number, a tab and an offset; "
                    "fetch it again, or remove it, since the pack can be read without."
                )
            yield int(offset)


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path} is no whole RecordIO pack: {what}; fetch it again.")


def rec_people(properties: Path) -> int:
    """Return how many people the file `property` beside a training pack promises."""
    with open(properties, "rb") as file:
        people, comma, _ = file.read(_MAX_LINE_BYTES).partition(b",")
    if not comma or not people.isdigit():
        raise IntegrityError(
            f"{properties} does not say how many people its pack shows, as in 10572,112,112; "
            "fetch it again, or remove it, since the pack can be read without."
        )
    return int(people)


def unpack_bin(path: Path, target: Path) -> Path:
    """Copy the images of a verification pack to one file in a new folder `target`, their places beside it.

    An image that several pairs share is written once, so the folder is never larger than the pack.
    """
    pack = read_bin(path)
    places: dict[bytes, tuple[int, int]] = {}
    position = 0
    for image in pack.images:
        if image not in places:
            places[image] = (position, len(image))
            position += len(image)
    with files.atomic_folder(target, position) as folder:
        files.write_blocks(folder / _IMAGES, places)
        listed = {"images": [places[image] for image in pack.images], "same": pack.same}
        files.write_json(folder / _RANGES, listed)
    return target


def unpacked(folder: Path) -> tuple[Path, list[tuple[int, int]], list[bool]]:
    """Return what `unpack_bin` made: the file of images, each one's place in it, and the truth of pairs."""
    listed = json.loads((folder / _RANGES).read_bytes())
    return folder / _IMAGES, [(start, length) for start, length in listed["images"]], listed["same"]


def read_bin(path: Path) -> Pack:
    """Read a verification pack, written by Python 2 or 3, as bytes or numpy arrays.

    Raises:
        IntegrityError: `path` is anything else than a pickle of such a pack.
    """
    try:
        with _Bounded(io.FileIO(path)) as file:
            size = os.fstat(file.fileno()).st_size
            if size > _MAX_PACK_BYTES:
                raise ValueError(f"it has {size:,} bytes where {_MAX_PACK_BYTES:,} is the limit")
            _check_opcodes(file)
            file.seek(0)
            return _pack(_Unpickler(file, size).load())
    except Exception as error:  # hostile bytes make a pickle raise nearly everything
        reason = ascii(" ".join(str(error).split()))[1:-1][:120] or type(error).__name__
        raise IntegrityError(
            f"{path} is no verification pack of the known form ({reason}); nothing in it was run; fetch it "
            "again from where the data set is offered."
        ) from error


class _Bounded(io.BufferedReader):
    """A file whose reads have a limit: a pickle may claim items of any length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_ITEM_BYTES:
            raise ValueError(f"an item has {size} bytes where {_MAX_ITEM_BYTES} is the limit")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_MAX_LINE_BYTES)


def _check_opcodes(file: _Bounded) -> None:
    """Refuse a pickle that does anything which a pack does not need, before it is unpickled."""
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file), start=1):
        if number > _MAX_OPCODES:
            raise ValueError(f"more than {_MAX_OPCODES} opcodes")
        if opcode.name not in _OPCODES:
            raise ValueError(f"opcode {opcode.code.encode('latin-1')!r}, which a pack does not need")
        if opcode.name.endswith("PUT") and (argument or 0) > _MAX_OPCODES:  # the memo is an array up to there
            raise ValueError(f"entry {argument} of a memo that a pack does not need")
    if file.read(1):
        raise ValueError("something follows its end")


class _Unpickler(pickle.Unpickler):
    """Builds bytes, numbers, lists, tuples and stand-ins of numpy's arrays; imports and calls no more."""

    def __init__(self, file: _Bounded, size: int) -> None:
        super().__init__(file, encoding="bytes")
        self._copied = size  # bytes at most: what is in the file once

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name."""
        full = f"{module.replace('numpy._core', 'numpy.core')} {name}"
        if full == "_codecs encode":
            return self._encode
        if full == "numpy.core.numeric _frombuffer":
            return self._frombuffer
        if full not in _KNOWN:
            raise ValueError(f"{full!a:.80} is none of the names that a pack needs")
        return _KNOWN[full]

    def _encode(self, text: str, encoding: str) -> bytes:
        self._copied -= len(text)
        if encoding not in ("latin1", "latin-1") or self._copied < 0:
            raise ValueError("a text that a pack does not need")
        return text.encode("latin-1")

    def _frombuffer(self, content: Any, kind: Any, *_: Any) -> bytes:
        if isinstance(content, bytearray):
            self._copied -= len(content)
            if self._copied < 0:
                raise ValueError("copies of an array that a pack does not need")
            content = bytes(content)
        return _content(content, kind)


class _ByteType:
    """Stands for numpy's dtype of one byte an item, whose state is a byte order that one byte has not."""

    def __setstate__(self, state: Any) -> None:
        pass


_BYTE = _ByteType()


class _Array:
    """Stands for a numpy array: of its state only the bytes are of use."""

    content = b""

    def __setstate__(self, state: Any) -> None:
        _, _, kind, _, content = state
        self.content = _content(content, kind)


def _content(content: Any, kind: Any) -> bytes:
    if kind is not _BYTE or not isinstance(content, bytes):
        raise ValueError("an array of something else than bytes")
    return content


def _dtype(code: Any, *_: Any) -> _ByteType:
    if code not in ("b1", "u1", b"b1", b"u1"):
        raise ValueError(f"numbers of type {code!a:.20}")
    return _BYTE


def _reconstruct(kind: Any, *_: Any) -> _Array:
    if kind is not _Array:
        raise ValueError("an array of an unknown class")
    return _Array()


_KNOWN: dict[str, Any] = {
    "numpy dtype": _dtype,
    "numpy ndarray": _Array,
    "numpy.core.multiarray _reconstruct": _reconstruct,
    "numpy.core.multiarray scalar": lambda kind, content: _content(content, kind)[0],
}
_OPCODES = {
    "PROTO", "FRAME", "STOP", "MARK", "NONE", "NEWTRUE", "NEWFALSE", "INT", "BININT", "BININT1", "BININT2",
    "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "BINUNICODE",
    "SHORT_BINUNICODE", "BINUNICODE8", "EMPTY_LIST", "LIST", "APPEND", "APPENDS", "EMPTY_TUPLE", "TUPLE",
    "TUPLE1", "TUPLE2", "TUPLE3", "PUT", "BINPUT", "LONG_BINPUT", "GET", "BINGET", "LONG_BINGET", "MEMOIZE",
    "GLOBAL", "STACK_GLOBAL", "REDUCE", "BUILD",
}  # fmt: skip


def _pack(value: Any) -> Pack:
    match value:
        case (list(images), list() | bytes() | _Array() as truths):
            same = list(truths.content if isinstance(truths, _Array) else truths)
        case _:
            raise ValueError("it is not a list of images and a list of truths")
    content = [image.content if isinstance(image, _Array) else image for image in images]
    for number, image in enumerate(content):
        if not isinstance(image, bytes) or not image.startswith(_SIGNATURES):
            raise ValueError(f"image {number} does not start like a JPEG or PNG")
    if not all(isinstance(each, int) and each in (0, 1) for each in same):
        raise ValueError("what tells whether pairs are the same person is not a list of truths")
    if not same or len(content) != 2 * len(same):
        raise ValueError(f"it has {len(content)} images for {len(same)} pairs")
    return Pack(content, [bool(each) for each in same])
