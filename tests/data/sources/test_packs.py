"""Packs are written here byte by byte from the formats' descriptions, and read back."""

import codecs
import io
import os
import pickle
import struct
import sys
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from facemae.core.errors import IntegrityError
from facemae.data.sources import packs
from facemae.data.sources.packs import Record, read_bin, rec_images, rec_people, unpack_bin, unpacked

MAGIC = struct.pack("<I", 0xCED7230A)


def jpeg(seed):
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


IMAGES = [jpeg(seed) for seed in range(12)]
SAME = [True, False, True, True, False, False]


def peak_bytes(call):
    """Return the most memory that `call` held at once."""
    tracemalloc.start()
    try:
        call()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


# --- .rec: MXNet's RecordIO ---


def part(kind, data):
    return MAGIC + struct.pack("<I", kind << 29 | len(data)) + data + bytes(-len(data) % 4)


def record(data):
    """Write a record as MXNet does: the magic number at a multiple of four is taken out, and parts it."""
    cuts = [at for at in range(0, len(data) - 3, 4) if data[at : at + 4] == MAGIC]
    pieces = [
        data[start:end] for start, end in zip([0, *[cut + 4 for cut in cuts]], [*cuts, None], strict=True)
    ]
    if len(pieces) == 1:
        return part(0, data)
    kinds = [1, *[2] * (len(pieces) - 2), 3]
    return b"".join(part(kind, piece) for kind, piece in zip(kinds, pieces, strict=True))


def image_record(label, image, identifier=0):
    if isinstance(label, list):
        labels = struct.pack(f"<{len(label)}f", *label)
        return record(struct.pack("<IfQQ", len(label), 0, identifier, 0) + labels + image)
    return record(struct.pack("<IfQQ", 0, label, identifier, 0) + image)


def write_rec(folder, records):
    """Write train.rec and, as MXNet does, a line for each record to train.idx."""
    path, index = folder / "train.rec", folder / "train.idx"
    offsets = np.cumsum([0, *map(len, records)])
    path.write_bytes(b"".join(records))
    index.write_text("".join(f"{key}\t{offset}\n" for key, offset in enumerate(offsets[:-1])))
    return path, index


def pack_records(people=(0, 0, 1, 2, 2)):
    return [image_record(person, IMAGES[n], n + 1) for n, person in enumerate(people)]


# Four people's ranges of images, and before them or after, their own: [first of these records, end].
TABLE = [image_record([7.0, 11.0], b""), *[image_record([n, n + 1.0], b"") for n in range(1, 5)]]


def check_bytes(path, records, images):
    data = path.read_bytes()
    assert [data[each.offset : each.offset + each.length] for each in records] == images


@pytest.mark.parametrize(
    ("records", "first"),
    [
        (pack_records(), 0),
        (pack_records() + TABLE[1:] + TABLE[:1], 0),
        (pack_records() + TABLE, 0),
        (TABLE[:1] + pack_records() + TABLE[1:], 1),
    ],
    ids=["no table", "table at the end", "table's head first", "head at the start"],
)
def test_a_training_pack_gives_back_the_very_bytes(tmp_path, records, first):
    path, index = write_rec(tmp_path, records)
    ignored = Counter()
    found = list(rec_images(path, index, ignored))
    assert [each.number for each in found] == list(range(first, first + 5))
    assert [each.identity for each in found] == [0, 0, 1, 2, 2]
    check_bytes(path, found, IMAGES[:5])
    assert not ignored
    assert list(rec_images(path, None, Counter())) == found


def test_a_record_by_hand(tmp_path):
    # 24 bytes of header (no vector, label 7) and 5 of image make 29, padded to 32.
    data = bytes.fromhex("0a23d7ce 1d000000 00000000 0000e040") + bytes(16) + b"image" + bytes(3)
    (tmp_path / "one.rec").write_bytes(data)
    assert list(rec_images(tmp_path / "one.rec", None, Counter())) == [Record(0, 7, 32, 5)]


def test_the_first_of_several_labels_is_the_person(tmp_path):
    path, index = write_rec(tmp_path, [image_record([9.0, 1.0], IMAGES[0]), image_record([4.0], IMAGES[1])])
    found = list(rec_images(path, index, Counter()))
    assert [each.identity for each in found] == [9, 4]
    check_bytes(path, found, IMAGES[:2])


def test_records_that_are_no_single_range_or_empty_are_counted(tmp_path):
    split = image_record(1, IMAGES[0][:20] + MAGIC + IMAGES[0][24:])
    path, index = write_rec(tmp_path, [*pack_records(), split, image_record(3, b""), *pack_records()])
    ignored = Counter()
    found = list(rec_images(path, index, ignored))
    assert [each.number for each in found] == [0, 1, 2, 3, 4, 7, 8, 9, 10, 11]
    check_bytes(path, found, IMAGES[:5] * 2)
    assert ignored == {packs.SPLIT_RECORD: 1, packs.EMPTY_RECORD: 1}


@given(st.lists(st.lists(st.sampled_from([MAGIC, b"abcd", b"x"]), min_size=1), min_size=1))
@settings(max_examples=60)
def test_whatever_the_images_hold_the_others_are_found(tmp_path_factory, images):
    folder = tmp_path_factory.mktemp("rec")
    images = [b"".join(image) for image in images]
    path, index = write_rec(folder, [image_record(5, image) for image in images])
    whole = [
        image for image in images if all(image[at : at + 4] != MAGIC for at in range(0, len(image) - 3, 4))
    ]
    ignored = Counter()
    found = list(rec_images(path, index, ignored))
    check_bytes(path, found, whole)
    assert ignored[packs.SPLIT_RECORD] == len(images) - len(whole)


def header(labels, label, rest=b""):
    return struct.pack("<IfQQ", labels, label, 0, 0) + rest


GOOD = pack_records()[0]


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "ends within the record at byte 0"),
        (b"not a record pack, but text", "no record starts at byte 0"),
        (GOOD + b"\0" * 8, f"no record starts at byte {len(GOOD)}"),
        (GOOD + MAGIC, f"ends within the record at byte {len(GOOD)}"),
        (GOOD[:-1], f"goes on to byte {len(GOOD)} and the file ends at {len(GOOD) - 1}"),
        (part(0, header(0, 1) + b"image")[:-1], "goes on to byte 40 and the file ends at 39"),
        (
            MAGIC + struct.pack("<I", 2**29 - 1) + header(0, 1),
            "goes on to byte 536870920 and the file ends at 32",
        ),
        (part(0, b"short"), "record 0 has 5 bytes and claims"),
        (part(0, header(2**32 - 1, 0)), "claims 4294967295 labels"),
        (part(0, header(1, 0, b"abc")), "has 27 bytes and claims 1 labels"),
        (part(0, header(10_001, 0, bytes(4 * 10_001))), "claims 10001 labels"),
        (part(0, header(0, float("nan"), b"image")), "label of record 0 is nan"),
        (part(0, header(0, float("inf"), b"image")), "label of record 0 is inf"),
        (part(0, header(0, -1, b"image")), "label of record 0 is -1"),
        (part(0, header(0, 0.5, b"image")), r"label of record 0 is 0\.5"),
        (part(0, header(0, 2.0**25, b"image")), "not the number of a person"),
        (GOOD + part(0, header(1, 0, struct.pack("<f", 2.5))), "label of record 1"),
        (part(3, header(0, 1)), "no record starts at byte 0"),
        (part(4, header(0, 1)), "no record starts at byte 0"),
        (part(1, header(0, 1)), "ends within the record at byte 32"),
        (part(1, header(0, 1)) + GOOD, "no record starts at byte 32"),
        (GOOD + part(2, b""), "no record starts"),
    ],
)
def test_a_damaged_training_pack_is_refused(tmp_path, data, reason):
    path = tmp_path / "train.rec"
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=f"no whole RecordIO pack: .*{reason}"):
        list(rec_images(path, None, Counter()))


def test_half_a_gigabyte_of_claimed_labels_takes_no_memory(tmp_path):
    path = tmp_path / "train.rec"
    labels = 125_000_000
    path.write_bytes(MAGIC + struct.pack("<I", 24 + 4 * labels) + header(labels, 0))
    os.truncate(path, 32 + 4 * labels)

    def read():
        with pytest.raises(IntegrityError, match="claims 125000000 labels"):
            list(rec_images(path, None, Counter()))

    assert peak_bytes(read) < 1_000_000


def test_memory_does_not_grow_with_the_pack(tmp_path):
    count, length = 20_000, 4_000
    path, index = tmp_path / "train.rec", tmp_path / "train.idx"
    index.write_text("".join(f"{n + 1}\t{n * (length + 8)}\n" for n in range(count)))
    with open(path, "wb") as file:
        for n in range(count):
            file.seek(n * (length + 8))
            file.write(MAGIC + struct.pack("<I", length) + header(0, n))
        file.truncate(count * (length + 8))

    def read():
        assert sum(each.identity for each in rec_images(path, index, Counter())) == sum(range(count))

    assert peak_bytes(read) < 100_000


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda lines: lines[1:], "disagree about record 0;"),
        (lambda lines: lines[:-1], "disagree about record 4;"),
        (lambda lines: [*lines, "5\t99999\n"], "disagree about record 5;"),
        (lambda lines: [*lines[:2], "2\t4\n", *lines[3:]], "disagree about record 2;"),
        (lambda lines: [*lines[:2], "2\t-4\n"], "line 3 is no number, a tab and an offset"),
        (lambda lines: ["no index\n"], "line 1 is no number"),
        (lambda lines: ["1" * 100_000], "line 1 is no number|disagree"),
        (lambda lines: [], "disagree about record 0;"),
    ],
)
def test_an_index_of_another_pack_is_refused(tmp_path, change, reason):
    path, index = write_rec(tmp_path, pack_records())
    index.write_text("".join(change(index.read_text().splitlines(keepends=True))))
    with pytest.raises(IntegrityError, match=reason):
        list(rec_images(path, index, Counter()))


def test_a_pack_cut_off_between_records_is_noticed_by_its_index(tmp_path):
    path, index = write_rec(tmp_path, pack_records())
    os.truncate(path, len(b"".join(pack_records()[:3])))
    assert len(list(rec_images(path, None, Counter()))) == 3
    with pytest.raises(IntegrityError, match="disagree about record 3"):
        list(rec_images(path, index, Counter()))


MUTATION = st.tuples(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from(["set", "insert", "delete", "cut"]),
    st.binary(max_size=4),
)


def mutate(data, changes):
    for place, kind, new in changes:
        at = int(place * len(data))
        keep = {"set": at + len(new), "insert": at, "delete": at + 3, "cut": len(data)}[kind]
        data = data[:at] + new + data[keep:]
    return data


@given(st.lists(MUTATION, min_size=1, max_size=4))
@settings(max_examples=100)
def test_a_mutated_training_pack_is_read_or_refused(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("mutated")
    path, index = write_rec(folder, [image_record([n, 1.0], b"image") for n in range(4)] + TABLE)
    path.write_bytes(mutate(path.read_bytes(), changes))
    for idx in (None, index):
        try:
            found = list(rec_images(path, idx, Counter()))
        except IntegrityError:
            continue
        assert all(each.offset + each.length <= path.stat().st_size for each in found)


def test_the_property_file_promises_people(tmp_path):
    (tmp_path / "property").write_text("10572,112,112\n")
    assert rec_people(tmp_path / "property") == 10_572


@pytest.mark.parametrize("text", ["", "people,112,112", "-3,112,112", "1" * 1_000_000 + "x"])
def test_another_property_file_is_refused_in_little_memory(tmp_path, text):
    (tmp_path / "property").write_text(text)

    def read():
        with pytest.raises(IntegrityError, match="does not say how many people"):
            rec_people(tmp_path / "property")

    assert peak_bytes(read) < 500_000


# --- .bin: pickles, written by Python's own module and by hand ---


def write_bin(folder, data):
    path = folder / "lfw.bin"
    path.write_bytes(data)
    return path


def through_a_folder(path, target):
    """Return the images and truths of a pack, through the folder that it is unpacked to."""
    folder = unpack_bin(path, target)
    assert folder == target
    images, places, same = unpacked(folder)
    data = images.read_bytes()
    return [data[start : start + length] for start, length in places], same


def check_bin(folder, data, images=IMAGES, same=SAME):
    path = write_bin(folder, data)
    assert through_a_folder(path, folder / "unpacked") == (images, same)
    assert read_bin(path) == (images, same)


AS_IMAGES = {
    "bytes": IMAGES,
    "read-only arrays": [np.frombuffer(image, np.uint8) for image in IMAGES],
    "columns": [np.frombuffer(image, np.uint8).reshape(-1, 1).copy() for image in IMAGES],
}
AS_TRUTHS = {
    "bools": SAME,
    "numbers": [int(same) for same in SAME],
    "numpy bools": [np.bool_(same) for same in SAME],
    "array": np.array(SAME),
}


@pytest.mark.parametrize("protocol", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("images", AS_IMAGES)
@pytest.mark.parametrize("truths", AS_TRUTHS)
def test_what_python_3_pickles_is_read(tmp_path, protocol, images, truths):
    data = pickle.dumps((AS_IMAGES[images], AS_TRUTHS[truths]), protocol=protocol)
    loaded = pickle.loads(data)
    assert [bytes(image) for image in loaded[0]] == IMAGES
    assert [bool(same) for same in loaded[1]] == SAME
    check_bin(tmp_path, data)


def test_what_older_numpy_pickled_is_read(tmp_path):
    data = pickle.dumps((AS_IMAGES["columns"], AS_TRUTHS["numpy bools"]), protocol=2)
    older = data.replace(b"numpy._core.", b"numpy.core.")
    assert older != data
    check_bin(tmp_path, older)


def put(number):
    return b"q" + bytes([number]) if number < 256 else b"r" + struct.pack("<I", number)


def python_2(images=IMAGES, same=SAME):
    """Write a pack as Python 2 does: raw strings, in the memo from entry 1 on."""
    strings = b"".join(
        (b"U" + bytes([len(image)]) if len(image) < 256 else b"T" + struct.pack("<i", len(image)))
        + image
        + put(200 + number)
        for number, image in enumerate(images)
    )
    truths = b"".join(b"\x88" if each else b"\x89" for each in same)
    return b"\x80\x02]" + put(1) + b"(" + strings + b"e]" + put(2) + b"(" + truths + b"e\x86" + put(3) + b"."


def test_what_python_2_pickled_is_read(tmp_path):
    images = [image + bytes(70 * number) for number, image in enumerate(IMAGES)]
    images[0] = IMAGES[0][:255]  # a short string
    data = python_2(images)
    assert pickle.loads(data, encoding="bytes") == (images, SAME)
    check_bin(tmp_path, data, images)


def test_what_numpy_pickled_under_python_2_is_read(tmp_path):
    state = b"(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"
    kind = {code: b"cnumpy\ndtype\n(U\x02" + code + b"K\0K\1tR" + state for code in (b"u1", b"b1")}
    empty = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\0tU\x01btR"
    arrays = b"".join(
        empty + b"(K\1(M" + struct.pack("<H", len(image)) + b"t" + kind[b"u1"] + b"I00\n"
        b"T" + struct.pack("<i", len(image)) + image + b"tb"
        for image in IMAGES
    )
    scalar = b"cnumpy.core.multiarray\nscalar\n(" + kind[b"b1"] + b"U\x01"
    truths = b"".join(scalar + bytes([same]) + b"tR" for same in SAME)
    data = b"(](" + arrays + b"e](" + truths + b"et."
    loaded = pickle.loads(data, encoding="bytes")
    assert [bytes(image) for image in loaded[0]] == IMAGES
    assert loaded[1] == SAME
    check_bin(tmp_path, data)


def python_3_for_2(images=IMAGES, same=SAME):
    """Write a pack as Python 3 does for Python 2: bytes as text that has to be encoded."""
    encode = b"c_codecs\nencode\n" + put(1)
    name = b"X" + struct.pack("<I", 6) + b"latin1" + put(2)
    items = []
    for number, image in enumerate(images):
        text = image.decode("latin-1").encode()
        called = (encode, name) if number == 0 else (b"h\x01", b"h\x02")
        items.append(called[0] + b"X" + struct.pack("<I", len(text)) + text + called[1] + b"\x86R")
    truths = b"".join(b"\x88" if each else b"\x89" for each in same)
    return b"\x80\x02]" + b"(" + b"".join(items) + b"e](" + truths + b"e\x86."


def test_what_python_3_pickled_for_python_2_is_read(tmp_path):
    data = python_3_for_2()
    assert pickle.loads(data) == (IMAGES, SAME)
    check_bin(tmp_path, data)


def protocol_4(frame=None, images=IMAGES, same=SAME):
    """Write a pack in protocol 4: a frame, lengths of 8 bytes, and a memo that numbers itself."""
    items = b"".join(b"\x8e" + struct.pack("<Q", len(image)) + image + b"\x94" for image in images)
    truths = b"".join(b"\x88" if each else b"\x89" for each in same)
    body = b"]\x94(" + items + b"e]\x94(" + truths + b"e\x86\x94."
    return b"\x80\x04\x95" + struct.pack("<Q", len(body) if frame is None else frame) + body


def test_frames_are_read_and_may_be_too_short(tmp_path):
    assert pickle.loads(protocol_4()) == (IMAGES, SAME)
    check_bin(tmp_path, protocol_4())
    for frame in (0, 3):
        assert read_bin(write_bin(tmp_path, protocol_4(frame))) == (IMAGES, SAME)
    refused(write_bin(tmp_path, protocol_4(2**40)), f"an item has {2**40} bytes")


def test_an_image_of_several_pairs_is_written_once(tmp_path):
    images = [IMAGES[0]] * 6 + [IMAGES[1]] * 6
    path = write_bin(tmp_path, pickle.dumps((images, SAME), protocol=4))
    assert through_a_folder(path, tmp_path / "unpacked") == (images, SAME)
    assert unpacked(tmp_path / "unpacked")[0].read_bytes() == IMAGES[0] + IMAGES[1]


def test_an_array_that_is_named_often_takes_its_memory_once(tmp_path):
    content = b"\xff\xd8" + bytes(2**20)
    called = b"cnumpy.core.numeric\n_frombuffer\n\x94"
    kind = b"cnumpy\ndtype\n\x8c\x02u1\x85R\x94"
    held = b"\x96" + struct.pack("<Q", len(content)) + content + b"\x94"  # as numpy pickles in protocol 5
    path = write_bin(tmp_path, b"\x80\x05(" + called + kind + held + b"h\x00h\x02h\x01\x86R" * 500 + b"l.")
    assert peak_bytes(lambda: refused(path, "copies of an array")) < 50 * 2**20


def test_png_images_are_images(tmp_path):
    images = [b"\x89PNG\r\n\x1a\n" + bytes([number]) for number in range(2)]
    check_bin(tmp_path, pickle.dumps((images, [True])), images, [True])


def refused(path, reason=""):
    """Check that reading and unpacking a pack stop with a sentence, and leave nothing behind."""
    before = sorted(path.parent.iterdir())
    for read in (read_bin, lambda each: unpack_bin(each, each.parent / "unpacked")):
        with pytest.raises(IntegrityError, match=f"no verification pack of the known form .*{reason}"):
            read(path)
    assert sorted(path.parent.iterdir()) == before


class Trap:
    """A class whose making, or whose state, does something."""

    def __new__(cls, *_, **__):
        Path("marker").touch()
        return super().__new__(cls)

    def __setstate__(self, _):
        Path("marker").touch()


COMMAND = b"X\x0c\0\0\0touch marker"
TRAP = f"c{__name__}\nTrap\n".encode()
REALLY_RUN = {
    "reduce, protocol 0": b"cos\nsystem\n(S'touch marker'\ntR.",
    "reduce, protocol 2": b"\x80\x02cos\nsystem\n" + COMMAND + b"\x85R.",
    "stack global": b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch marker\x85R.",
    "inst": b"(S'touch marker'\nios\nsystem\n.",
    "obj": b"(cos\nsystem\n" + COMMAND + b"o.",
    "newobj": b"\x80\x02" + TRAP + b")\x81.",
    "newobj with keywords": b"\x80\x04" + TRAP + b")}\x92.",
    "build": b"\x80\x02" + TRAP + b")RN" + b"b.",
}


@pytest.mark.parametrize("form", REALLY_RUN)
def test_a_program_is_refused_and_not_run(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    pickle.loads(REALLY_RUN[form])  # the payload is no dud
    (tmp_path / "marker").unlink()
    path = write_bin(tmp_path, REALLY_RUN[form])
    refused(path, "opcode|none of the names")
    # The same inside an honest pack, as its first image.
    refused(
        write_bin(tmp_path, b"\x80\x04](" + REALLY_RUN[form].removesuffix(b".") + b"e](\x88e\x86."),
        "opcode|none of the names",
    )
    assert not (tmp_path / "marker").exists()


def image_4(image=IMAGES[0]):
    return b"B" + struct.pack("<I", len(image)) + image


PAIR = image_4() + image_4(IMAGES[1])
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\0\x85C\x01b\x87R"
BYTE_TYPE = b"cnumpy\ndtype\nX\x02\0\0\0u1\x85R"
STRANGE = {
    "build": (b"](" + PAIR + b"e}b.", "opcode"),
    "build of a list": (b"](" + PAIR + b"eNb.", "not a list of images and a list of truths"),
    "state of a list": (b"](" + PAIR + b"e](K\1eb.", "state is not a dictionary"),
    "persistent id": (b"Pmarker\n.", "opcode b'P', which a pack does not need"),
    "binary persistent id": (b"X\x01\0\0\0aQ.", "opcode"),
    "extension 1": (b"\x80\x02\x82\x01.", "opcode"),
    "extension 2": (b"\x80\x02\x83\x01\0.", "opcode"),
    "extension 4": (b"\x80\x02\x84\x01\0\0\0.", "opcode"),
    "dict": (b"}X\x01\0\0\0aK\1s.", "opcode"),
    "dict of marks": (b"(d.", "opcode"),
    "setitems": (b"](K\1K\2u.", "opcode"),
    "set": (b"\x8f.", "opcode"),
    "next buffer": (b"\x97.", "opcode"),
    "duplicate": (b"]2.", "opcode"),
    "quoted string": (b"S'image'\n.", "opcode"),
    "builtin": (b"cbuiltins\neval\n.", "'builtins eval' is none of the names"),
    "dotted name": (b"\x8c\x05numpy\x8c\x0cndarray.data\x93.", "is none of the names"),
    "long name": (b"\x8c\x02os\x8c\xff" + b"x" * 255 + b"\x93.", "is none of the names"),
    "name of a number": (b"\x8c\x02osK\1\x93.", "STACK_GLOBAL requires str"),
    "unreadable name": (b"c\xff\n\xff\n.", "codec can't decode"),
    "call of a class": (b"cnumpy\nndarray\nK\1\x85R.", "takes no arguments"),
    "call of no name": (b"]]R.", "argument list must be a tuple"),
    "call of a list": (b"]K\1\x85R.", "not callable"),
    "other encoding": (b"c_codecs\nencode\nX\1\0\0\0aX\5\0\0\0rot13\x86R.", "a text that a pack"),
    "encoded bytes": (b"c_codecs\nencode\nC\1aX\6\0\0\0latin1\x86R.", "no attribute 'encode'"),
    "object dtype": (b"cnumpy\ndtype\nX\x02\0\0\0O8\x85R.", "numbers of type 'O8'"),
    "array of objects": (ARRAY + b"(K\1K\1\x85" + BYTE_TYPE + b"\x89]tb.", "something else than bytes"),
    "array of text": (ARRAY + b"(K\1K\1\x85" + BYTE_TYPE + b"\x89X\1\0\0\0atb.", "something else"),
    "array of another class": (ARRAY.replace(b"cnumpy\nndarray\n", b"N") + b".", "an unknown class"),
    "empty array": (b"](" + ARRAY + PAIR + b"e](\x88e\x86.", "image 0 does not start like a JPEG or PNG"),
    "text for an image": (b"](X\3\0\0\0\xc3\xbf" + b"a" + PAIR + b"e](\x88e\x86.", "image 0 does not start"),
    "memo not set": (b"h\7.", "Memo value not found at index 7"),
    "memo before all": (b"]p-1\n.", "negative PUT argument"),
    "memo far away": (b"]r" + struct.pack("<I", 2**31) + b".", f"entry {2**31} of a memo"),
    "claimed bytes": (b"\x8e" + struct.pack("<Q", 2**60) + b"abc.", f"{2**60} bytes where 16000000 is"),
    "claimed bytearray": (b"\x96" + struct.pack("<Q", 2**40) + b"abc.", f"{2**40} bytes where"),
    "claimed text": (b"X" + struct.pack("<I", 2**32 - 1) + b"abc.", "an item has 4294967295 bytes"),
    "claimed Python 2 bytes": (b"T" + struct.pack("<i", -5) + b"abc.", "byte count < 0: -5"),
    "claimed number": (b"\x8b" + struct.pack("<i", 2**31 - 1) + b"abc.", "bytes where 16000000"),
    "endless line": (b"I" + b"1" * 5_000_000, "no newline"),
    "nothing to pop": (b"a.", "stack underflow"),
    "below the mark": (b"](\x85.", "MARK"),
    "no mark": (b"]e.", "could not find MARK"),
    "added to a number": (b"K\1K\2a.", "no attribute 'append'"),
    "empty": (b"", "exhausted before seeing STOP"),
    "no end": (protocol_4()[:-1], "exhausted before seeing STOP"),
    "cut off": (protocol_4()[:100], "but only 77 remain"),
    "no pickle": (b"\xff\xd8\xff not a pickle", "opcode"),
    "more after the end": (protocol_4() + b"x", "something follows its end"),
    "another pickle after the end": (protocol_4() * 2, "something follows its end"),
    "three parts": (b"](" + PAIR + b"e](\x88eN\x87.", "not a list of images and a list of truths"),
    "two values": (b"](" + PAIR + b"e](\x88e.", "not a list of images and a list of truths"),
    "a number": (b"K\1.", "not a list of images and a list of truths"),
    "images that are no list": (b"K\1](\x88e\x86.", "not a list of images and a list of truths"),
    "too few images": (b"](" + PAIR + b"e](\x88\x88e\x86.", "2 images for 2 pairs"),
    "odd images": (b"](" + PAIR + image_4() + b"e](\x88e\x86.", "3 images for 1 pairs"),
    "no images": (b"]]\x86.", "0 images for 0 pairs"),
    "text files": (b"](" + image_4(b"hello") + PAIR + b"e](\x88e\x86.", "image 0 does not start"),
    "nested images": (b"](](" + PAIR + b"e](\x88ee](\x88e\x86.", "image 0 does not start"),
    "other truths": (b"](" + PAIR + b"e](K\2e\x86.", "not a list of truths"),
    "no truths": (b"](" + PAIR + b"eN\x86.", "a list of truths"),
    "truths in text": (b"](" + PAIR + b"eX\1\0\0\0\1\x86.", "a list of truths"),
    "list in itself": (b"]q\0h\0ah\0\x86.", "image 0 does not start"),
    "truths in themselves": (b"](" + PAIR + b"e]q\0h\0a\x86.", "not a list of truths"),
}


@pytest.mark.parametrize("name", STRANGE)
def test_anything_else_is_refused_in_little_memory(tmp_path, name):
    data, reason = STRANGE[name]
    path = write_bin(tmp_path, data)
    assert peak_bytes(lambda: refused(path, reason)) < 3_000_000


def test_a_file_larger_than_any_pack_is_refused_unread(tmp_path):
    path = write_bin(tmp_path, b"(" * 1_000)
    os.truncate(path, 2**30)
    assert peak_bytes(lambda: refused(path, "1,073,741,824 bytes where")) < 1_000_000


def test_text_cannot_be_encoded_again_and_again(tmp_path):
    """A pack of a megabyte would take a gigabyte."""
    text = b"c_codecs\nencode\n" + put(1) + b"X" + struct.pack("<I", 10**6) + b"a" * 10**6 + put(2)
    again = (b"h\1h\2X\6\0\0\0latin1\x86R") * 1000
    path = write_bin(tmp_path, b"](" + text + again + b"e.")
    assert peak_bytes(lambda: refused(path, "a text that a pack does not need")) < 10_000_000


def test_depth_is_no_danger(tmp_path):
    refused(write_bin(tmp_path, b"N" + b"\x85" * 200_000 + b"."), "not a list of images")


def test_the_number_of_opcodes_is_limited(tmp_path, monkeypatch):
    monkeypatch.setattr(packs, "_MAX_OPCODES", 500)
    refused(write_bin(tmp_path, b"]" + b"Na" * 1_000 + b"."), "opcodes")


@pytest.mark.parametrize("text", ["\xff\xd8\xff\u20ac", "\xff\xd8\xff\ud800"])
def test_text_that_stands_for_no_bytes_is_refused(tmp_path, text):
    coded = text.encode("utf-8", "surrogatepass")
    call = b"c_codecs\nencode\nX" + struct.pack("<I", len(coded)) + coded + b"X\6\0\0\0latin1\x86R"
    path = write_bin(tmp_path, b"](" + call + PAIR[: len(image_4())] + b"e](\x88e\x86.")
    refused(path, "codec can't encode")


# What Python itself reports of a process: imports, files, programs.
WATCHED = None


def _watch(event, arguments):
    if WATCHED is not None and not event.startswith(("object.", "sys._getframe")):
        WATCHED.append((event, arguments[:2]))


sys.addaudithook(_watch)
codecs.lookup("raw_unicode_escape")  # which pickletools reads a text with, loaded at its first use
BENIGN = [
    python_2(IMAGES[:2], SAME[:1]),
    python_3_for_2(IMAGES[:2], SAME[:1]),
    protocol_4(None, IMAGES[:2], SAME[:1]),
    pickle.dumps((AS_IMAGES["columns"][:2], np.array(SAME[:1])), protocol=2),
    pickle.dumps((AS_IMAGES["columns"][:2], AS_TRUTHS["numpy bools"][:1]), protocol=5),
]


@given(st.sampled_from(BENIGN), st.lists(MUTATION, min_size=1, max_size=5), st.booleans())
@settings(max_examples=200)
def test_a_mutated_verification_pack_is_read_or_refused_and_nothing_else_happens(
    tmp_path_factory, benign, changes, sparse
):
    global WATCHED
    folder = tmp_path_factory.getbasetemp()
    if sparse:  # mutate the program rather than the pixels
        changes = [(place**6 if place < 0.9 else place, kind, new) for place, kind, new in changes]
    path = write_bin(folder, mutate(benign, changes))
    events = WATCHED = []
    try:
        found = read_bin(path)
    except IntegrityError:
        found = None
    finally:
        WATCHED = None
    assert {(event, arguments[0]) for event, arguments in events} == {("open", path)}
    if found:
        assert len(found.images) == 2 * len(found.same) > 0
