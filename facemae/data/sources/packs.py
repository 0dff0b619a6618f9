"""InsightFace's packs: `.rec` for training and `.bin` for verification, without MXNet and without unpickling.

A `.rec` is MXNet's RecordIO: chunks of a magic number, a length, and bytes padded to a multiple of four.
A `.bin` is a pickle, which is a program; what it would build is worked out here, and nothing in it is run.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickletools
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from facemae.core import files
from facemae.core.errors import IntegrityError

SPLIT_RECORD = "a record in several parts"
EMPTY_RECORD = "a record without a picture"

_MAGIC = 0xCED7230A
_FRAME = struct.Struct("<II")  # magic number; kind of part in 3 bits, length in 29
# Numbers of labels (0: one, and it follows here), label, id, id2; then the first label, if there are several.
_HEADER = struct.Struct("<IfQQf")
_HEADER_BYTES = 24
_HEAD_BYTES = _FRAME.size + _HEADER.size
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)
_MAX_LABELS = 10_000
_MAX_IDENTITY = 2**24  # above it float32, the type of a label, skips whole numbers

_MAX_ITEM_BYTES = 16_000_000  # one encoded face of 112 x 112 pixels takes about 5,000
_MAX_LINE_BYTES = 256
_MAX_OPCODES = 2_000_000  # a pack of 14,000 numpy arrays takes 400,000
_MAX_STACK = 20_000  # pickle adds to a list in batches of 1,000
_MAX_MARKS = 16
_HEAD_CHARACTERS = 32  # longer than every name in the format
_SIGNATURES = ("\xff\xd8\xff", "\x89PNG\r\n\x1a\n")  # a character a byte
_IMAGES, _RANGES = "images", "ranges.json"


class Record(NamedTuple):
    """An image of a `.rec`: its position among the records, its person, and its bytes in the file."""

    number: int
    identity: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Span:
    """Bytes of a file; `coded`: they are UTF-8 text with one character for each byte that is meant."""

    offset: int
    length: int
    coded: bool = False


@dataclass(frozen=True)
class Pack:
    """A verification pack: images 2n and 2n + 1 are pair n, which shows the same person where `same[n]`."""

    images: list[Span]
    same: list[bool]


def rec_images(rec: Path, idx: Path | None, ignored: Counter[str]) -> Iterator[Record]:
    """Yield the images of a training pack in the order of the file, in flat memory, reading their heads only.

    What is no image counts in `ignored` by reason, except the records that only list others. Only `rec`
    is read to find the images: InsightFace's writers put index 0, which says where the images end, after
    them, and some leave it out, but a record is an image exactly if something follows its labels. `idx`
    is compared on the way, since a pack cut off between two records looks whole without it.

    Raises:
        IntegrityError: `rec` is damaged or cut off, or `idx` belongs to another.
    """
    offsets = None if idx is None else _offsets(idx)
    index = -1
    with open(rec, "rb", buffering=0) as file:
        for position, part, length, head in _parts(file, rec):
            if part in (_MIDDLE, _LAST):
                continue
            index += 1
            if offsets is not None and next(offsets, -1) != position:
                raise _stale(rec, index)
            if part == _FIRST:
                # MXNet takes its magic number out of data that holds it, which happens to one face in some
                # three million: such an image is no range of bytes.
                ignored[SPLIT_RECORD] += 1
            elif (record := _record(rec, index, position, length, head)) is not None:
                if record.length:
                    yield record
                else:
                    ignored[EMPTY_RECORD] += 1
    if offsets is not None and next(offsets, -1) != -1:
        raise _stale(rec, index + 1)


def _parts(file: io.FileIO, path: Path) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield the position, kind, length and first bytes of every part; the rest is skipped over."""
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
        yield position, part, length, head
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


def _stale(rec: Path, index: int) -> IntegrityError:
    return IntegrityError(
        f"{rec} and its index disagree about record {index}; fetch both again, or remove the index if the "
        "pack is known to be whole, since it can be read without."
    )


def _damaged(path: Path, what: str) -> IntegrityError:
    return IntegrityError(f"{path} is no whole RecordIO pack: {what}; fetch it again.")


def rec_people(properties: Path) -> int:
    """Return how many people the file `property` beside a training pack promises.

    Raises:
        IntegrityError: it is no such file.
    """
    with open(properties, "rb") as file:
        people, comma, _ = file.read(_MAX_LINE_BYTES).partition(b",")
    if not comma or not people.isdigit():
        raise IntegrityError(
            f"{properties} does not say how many people its pack shows, as in 10572,112,112; "
            "fetch it again, or remove it, since the pack can be read without."
        )
    return int(people)


def unpack_bin(path: Path, target: Path) -> Path:
    """Copy the images of a verification pack to one file in a new folder `target`, ranges beside it.

    An image that several pairs share is written once, so the folder is never larger than the pack.

    Raises:
        IntegrityError: `path` is no verification pack.
        StorageError: `target` cannot be written.
    """
    pack = bin_images(path)
    ranges: dict[Span, tuple[int, int]] = {}
    with (
        _refusals(path),
        open(path, "rb") as file,
        files.atomic_folder(target, path.stat().st_size) as folder,
    ):

        def images() -> Iterator[bytes]:
            position = 0
            for span in dict.fromkeys(pack.images):
                data = _content(file, span)
                ranges[span] = (position, len(data))
                position += len(data)
                yield data

        files.write_blocks(folder / _IMAGES, images())
        listed = {"images": [ranges[span] for span in pack.images], "same": pack.same}
        files.write_json(folder / _RANGES, listed)
    return target


def unpacked(folder: Path) -> tuple[Path, Pack]:
    """Return the file of images in a folder that `unpack_bin` made, and where in it each image lies."""
    listed = json.loads((folder / _RANGES).read_bytes())
    return folder / _IMAGES, Pack([Span(*each) for each in listed["images"]], listed["same"])


def bin_images(path: Path) -> Pack:
    """Find the images and pairs of a verification pack, written by Python 2 or 3, as bytes or numpy arrays.

    Raises:
        IntegrityError: `path` is anything else than a pickle of such a pack.
    """
    with _refusals(path), _BoundedReader(io.FileIO(path)) as file:
        stack = _evaluate(file)
        end, size = file.tell(), os.fstat(file.fileno()).st_size
        if end != size:
            raise _RefusedError(f"the pickle ends at byte {end} of {size}")
        return _pack(stack, file)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except _RefusedError as error:
        raise IntegrityError(
            f"{path} is no verification pack of the known form ({error}); nothing in it was run; fetch it "
            "again from where the data set is offered."
        ) from error


class _RefusedError(Exception):
    """What was found in a `.bin`, where, and which limit it passes."""


class _BoundedReader(io.BufferedReader):
    """A file for `pickletools`, which would set memory aside for any length that a pickle claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or not 0 <= size <= _MAX_ITEM_BYTES:
            raise ValueError(f"an item has {size} bytes, more than {_MAX_ITEM_BYTES}")
        return super().read(size)

    def readline(self, size: int | None = -1, /) -> bytes:
        return super().readline(_MAX_LINE_BYTES)


# What a pickle builds is one of these, None, a number, a list or a tuple.


@dataclass(frozen=True, slots=True)
class _String:
    """A string or bytes where the file holds them; `head`: the first characters, one a byte for bytes."""

    span: Span
    head: str
    text: bool


@dataclass(frozen=True, slots=True)
class _Global:
    """A name that Python would import, which stays a name."""

    name: str


@dataclass(slots=True)
class _Array:
    """A numpy array of one byte an item: empty, then set by BUILD."""

    content: _String | None = None


class _ByteType:
    """Numpy's dtype of one byte an item, whether bool or uint8."""


@dataclass
class _Machine:
    """The stack and the memo of a pickle, with limits."""

    stack: list[Any] = field(default_factory=list)
    marks: list[int] = field(default_factory=list)
    memo: dict[int, Any] = field(default_factory=dict)

    def push(self, value: Any) -> None:
        if len(self.stack) >= _MAX_STACK:
            raise ValueError(f"more than {_MAX_STACK} items on the stack")
        self.stack.append(value)

    def pop(self, count: int = 1) -> list[Any]:
        start = len(self.stack) - count
        if start < (self.marks[-1] if self.marks else 0):
            raise ValueError("nothing left on the stack")
        taken = self.stack[start:]
        del self.stack[start:]
        return taken

    def mark(self, _: Any) -> None:
        if len(self.marks) >= _MAX_MARKS:
            raise ValueError(f"more than {_MAX_MARKS} open marks")
        self.marks.append(len(self.stack))

    def pop_mark(self) -> list[Any]:
        if not self.marks:
            raise ValueError("no mark on the stack")
        items = self.pop(len(self.stack) - self.marks[-1])
        self.marks.pop()
        return items

    def extend(self, items: list[Any]) -> None:
        (target,) = self.pop()
        if not isinstance(target, list):
            raise ValueError("an item is added to what is no list")
        target.extend(items)
        self.stack.append(target)

    def put(self, index: int) -> None:
        if not 0 <= index < _MAX_OPCODES:
            raise ValueError(f"memo entry {index}, more than {_MAX_OPCODES}")
        (value,) = self.pop()
        self.stack.append(value)
        self.memo[index] = value

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise ValueError(f"memo entry {index} is not set")
        self.push(self.memo[index])

    def find(self, name: str) -> None:
        if name not in _NAMES:
            raise ValueError(f"{name!r} is none of the names that a pack needs")
        self.push(_Global(name))

    def find_on_stack(self, _: Any) -> None:
        module, name = self.pop(2)
        if not isinstance(module, _String) or not isinstance(name, _String):
            raise ValueError("a name is no text")
        self.find(f"{module.head} {name.head}")

    def reduce(self, _: Any) -> None:
        function, arguments = self.pop(2)
        self.push(_call(function, arguments))

    def build(self, _: Any) -> None:
        target, state = self.pop(2)
        match target, state:
            case _Array(), (_, _, _ByteType(), _, _String(text=False) as content):
                target.content = content
            case _ByteType(), tuple():
                pass  # byte order, which one byte has not
            case _:
                raise ValueError("a state that a pack does not need")
        self.push(target)


def _call(function: Any, arguments: Any) -> Any:
    """Return what a known function would, without having it."""
    name = function.name if isinstance(function, _Global) else ""
    match name.replace("numpy._core", "numpy.core"), arguments:
        case "_codecs encode", (_String(text=True) as string, _String(head="latin1" | "latin-1")):
            return replace(string, span=replace(string.span, coded=True), text=False)
        case "numpy dtype", (_String(head="b1" | "u1"), *_):
            return _ByteType()
        case "numpy.core.multiarray _reconstruct", (_Global("numpy ndarray"), *_):
            return _Array()
        case "numpy.core.numeric _frombuffer", (_String(text=False) as content, _ByteType(), *_):
            return _Array(content)
        case "numpy.core.multiarray scalar", (_ByteType(), _String(head="\0" | "\1" as head, text=False)):
            return head == "\1"
    raise ValueError("a call that a pack does not need")


_NAMES = {
    "_codecs encode",
    "numpy dtype",
    "numpy ndarray",
    *(
        f"numpy.{core}.{name}"
        for core in ("core", "_core")
        for name in ("multiarray _reconstruct", "multiarray scalar", "numeric _frombuffer")
    ),
}
_LENGTH_BYTES = {  # between the opcode and its bytes or text
    "SHORT_BINSTRING": 1,
    "BINSTRING": 4,
    "SHORT_BINBYTES": 1,
    "BINBYTES": 4,
    "BINBYTES8": 8,
    "BYTEARRAY8": 8,
    "SHORT_BINUNICODE": 1,
    "BINUNICODE": 4,
    "BINUNICODE8": 8,
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, _: None),
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "INT", *_LENGTH_BYTES), _Machine.push),
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine.get),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": _Machine.mark,
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "LIST": lambda machine, _: machine.push(machine.pop_mark()),
    "APPEND": lambda machine, _: machine.extend(machine.pop()),
    "APPENDS": lambda machine, _: machine.extend(machine.pop_mark()),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_mark())),
    "TUPLE1": lambda machine, _: machine.push(tuple(machine.pop(1))),
    "TUPLE2": lambda machine, _: machine.push(tuple(machine.pop(2))),
    "TUPLE3": lambda machine, _: machine.push(tuple(machine.pop(3))),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": _Machine.find,
    "STACK_GLOBAL": _Machine.find_on_stack,
    "REDUCE": _Machine.reduce,
    "BUILD": _Machine.build,
}


# Read one at a time rather than by `pickletools.genops`, which decodes what an opcode carries before it can
# be refused.
_OPCODES = {opcode.code.encode("latin-1"): opcode for opcode in pickletools.opcodes}


def _evaluate(file: io.BufferedReader) -> list[Any]:
    """Return the stack that the pickle would leave, strings as places in the file."""
    machine = _Machine()
    for _ in range(_MAX_OPCODES):
        start, code = file.tell(), file.read(1)
        opcode = _OPCODES.get(code)
        if opcode is None:
            raise _RefusedError(f"no opcode at byte {start}")
        try:
            _step(machine, opcode, file)
        except ValueError as error:
            raise _RefusedError(f"opcode {opcode.name} at byte {start}: {error}") from error
        if opcode.name == "STOP":
            return machine.stack
    raise _RefusedError(f"more than {_MAX_OPCODES} opcodes")


def _step(machine: _Machine, opcode: pickletools.OpcodeInfo, file: io.BufferedReader) -> None:
    name = opcode.name
    if name not in _STEPS:
        raise ValueError("a pack does not need it")
    start = file.tell() + _LENGTH_BYTES.get(name, 0)
    argument = opcode.arg.reader(file) if opcode.arg else None
    if name in _LENGTH_BYTES:
        argument = _string(argument, Span(start, file.tell() - start), "UNICODE" in name)
    _STEPS[name](machine, argument)


def _string(argument: Any, span: Span, text: bool) -> _String:
    head = argument[:_HEAD_CHARACTERS]
    # Python 2's strings are bytes, which pickletools shows as text.
    return _String(span, head if isinstance(head, str) else head.decode("latin-1"), text)


def _pack(stack: list[Any], file: BinaryIO) -> Pack:
    match stack:
        case [[list(images), truths]]:
            spans = [_image(number, image) for number, image in enumerate(images)]
            same = _truths(truths, file)
        case _:
            raise _RefusedError("it is not a list of images and a list of truths")
    if not same or len(spans) != 2 * len(same):
        raise _RefusedError(f"it has {len(spans)} images for {len(same)} pairs")
    return Pack(spans, same)


def _image(number: int, value: Any) -> Span:
    match value:
        case (_String(text=False) as content) | _Array(_String() as content):
            if content.head.startswith(_SIGNATURES):
                return content.span
    raise _RefusedError(f"image {number} does not start like a JPEG or PNG")


def _truths(value: Any, file: BinaryIO) -> list[bool]:
    match value:
        case list():
            numbers = value
        case _Array(_String() as content):
            numbers = list(_content(file, content.span))
        case _:
            numbers = [None]
    if not all(isinstance(number, int) and number in (0, 1) for number in numbers):
        raise _RefusedError("what tells whether pairs are the same person is not a list of truths")
    return [bool(number) for number in numbers]


def _content(file: BinaryIO, span: Span) -> bytes:
    file.seek(span.offset)
    data = file.read(span.length)
    if not span.coded:
        return data
    try:
        return data.decode().encode("latin-1")
    except UnicodeError as error:
        raise _RefusedError(f"the text at byte {span.offset} does not stand for bytes") from error
