"""Archives made to harm, and damaged ones: built byte by byte, since the usual writers refuse to.

Every one but the shortest starts with a good photo, so that there is something to take back.
"""

import bz2
import gzip
import lzma
import stat
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from facemae.data.sources.base import Limits

PHOTO = b"\xff\xd8\xff\xe0 a photo"
MB = 1_000_000


# --- tar ---


def header(name=b"a.jpg", size=0, kind=b"0", mode=0o644, link=b"", magic=b"ustar\x0000", wide=None):
    """Return a header of 512 bytes; `wide` are the 12 bytes of the size as they are to stand there."""
    fields = [
        (name, 100),
        (b"%07o\0" % mode, 8),
        (b"0000000\0", 8),
        (b"0000000\0", 8),
        (b"%011o\0" % size if wide is None else wide, 12),
        (b"00000000000\0", 12),
        (b" " * 8, 8),
        (kind, 1),
        (link, 100),
        (magic, 8),
    ]
    block = bytearray(
        b"".join(value[:width].ljust(width, b"\0") for value, width in fields).ljust(512, b"\0")
    )
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def entry(name=b"a.jpg", content=PHOTO, **fields):
    """Return a header and its content, filled up to a multiple of 512 bytes."""
    return header(name, len(content), **fields) + content + bytes(-len(content) % 512)


def record(keyword, value):
    """Return a record of an extended header; its length counts its own digits."""
    rest = b" %s=%s\n" % (keyword, value)
    length = len(rest)
    while length != len(b"%d" % length) + len(rest):
        length = len(b"%d" % length) + len(rest)
    return b"%d%s" % (length, rest)


def pax(kind=b"x", **records):
    """Return an extended header; two underscores in a keyword stand for a dot."""
    content = b"".join(record(key.replace("__", ".").encode(), value) for key, value in records.items())
    return entry(b"pax", content, kind=kind)


def long_name(name):
    return entry(b"././@LongLink", name + b"\0", kind=b"L", magic=b"ustar  \0")


GOOD = entry(b"faces/good.jpg")
END = bytes(1024)


def tar(*entries, end=END):
    return GOOD + b"".join(entries) + end


def gzipped(data):
    return gzip.compress(data, 1, mtime=0)


# --- zip ---


@dataclass
class Zipped:
    """An entry of a zip; `local` and `central` are where its two headers do not say what they should."""

    name: bytes = b"a.jpg"
    content: bytes = PHOTO
    method: int = 8
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644
    packed: bytes | None = None
    local: dict = field(default_factory=dict)
    central: dict = field(default_factory=dict)
    extra: bytes = b""
    local_extra: bytes = b""
    descriptor: bytes | None = None
    gap: bytes = b""

    def __post_init__(self):
        if self.packed is None:
            engine = zlib.compressobj(wbits=-15)
            self.packed = engine.compress(self.content) + engine.flush() if self.method == 8 else self.content

    def values(self, changes):
        facts = {
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.content),
            "packed": len(self.packed),
            "size": len(self.content),
            "name": self.name,
        }
        return facts | changes

    def local_part(self):
        hidden = {"crc": 0, "packed": 0, "size": 0} if self.flags & 8 else {}
        says = self.values(hidden | self.local)
        fixed = struct.pack(
            "<4s5H3L2H", b"PK\3\4", 20, says["flags"], says["method"], 0, 33, says["crc"], says["packed"],
            says["size"], len(says["name"]), len(self.local_extra),
        )  # fmt: skip
        after = self.descriptor
        if after is None:
            after = b"PK\7\x08" + struct.pack(
                "<3L", zlib.crc32(self.content), len(self.packed), len(self.content)
            )
            after = after if self.flags & 8 else b""
        return fixed + says["name"] + self.local_extra + self.packed + after + self.gap

    def central_part(self, place):
        says = {"disk": 0, "place": place} | self.values(self.central)
        return struct.pack(
            "<4s6H3L5H2L", b"PK\1\2", 0x314, 20, says["flags"], says["method"], 0, 33, says["crc"],
            says["packed"], says["size"], len(says["name"]), len(self.extra), 0, says["disk"], 0,
            self.mode << 16, says["place"],
        ) + says["name"] + self.extra  # fmt: skip


def zipped(*entries, good=True, end=None, end_64=None, prefix=b"", comment=b"", after=b"", between=b""):
    """Return a zip; `end` and `end_64` are what its last records say other than they should."""
    entries = ([Zipped(b"faces/good.jpg")] if good else []) + list(entries)
    data, central = prefix, b""
    for each in entries:
        central += each.central_part(len(data))
        data += each.local_part()
    data += between
    facts = {
        "disk": 0,
        "first_disk": 0,
        "here": len(entries),
        "count": len(entries),
        "length": len(central),
        "start": len(data),
        "comment": len(comment),
    }
    stop = len(data) + len(central)
    data += central
    if end_64 is not None:
        says = facts | {"mark": b"PK\6\6", "record": 44, "place": stop, "disks": 1} | end_64
        data += struct.pack(
            "<4sQ2H2L4Q", says["mark"], says["record"], 45, 45, says["disk"], says["first_disk"],
            says["here"], says["count"], says["length"], says["start"],
        ) + struct.pack("<4sLQL", b"PK\6\7", 0, says["place"], says["disks"])  # fmt: skip
        facts |= {"here": 0xFFFF, "count": 0xFFFF, "length": 0xFFFFFFFF, "start": 0xFFFFFFFF}
    says = facts | (end or {})
    last = struct.pack(
        "<4s4H2LH", b"PK\5\6", says["disk"], says["first_disk"], says["here"], says["count"], says["length"],
        says["start"], says["comment"],
    )  # fmt: skip
    return data + last + comment + after


def wide(*values):
    """Return a zip64 field."""
    return struct.pack(f"<2H{len(values)}Q", 1, 8 * len(values), *values)


def same_bytes_twice():
    """Return a zip whose directory lists one content under two names, as bombs do."""
    data = bytearray(zipped(Zipped(b"b.jpg"), Zipped(b"c.jpg")))
    places = [at for at in range(len(data)) if data.startswith(b"PK\1\2", at)]
    data[places[2] + 42 : places[2] + 46] = data[places[1] + 42 : places[1] + 46]
    return bytes(data)


def inside_another():
    """Return a zip with an entry whose header lies in the content of another."""
    inner = Zipped(b"b.jpg", method=0)
    outer = Zipped(b"c.jpg", inner.local_part(), method=0)
    data = zipped(outer)
    place = data.index(inner.local_part())
    central = inner.central_part(place)
    cut = data.rindex(b"PK\5\6")
    end = list(struct.unpack("<4s4H2LH", data[cut:]))
    end[3], end[4], end[5] = 3, 3, end[5] + len(central)
    return data[:cut] + central + struct.pack("<4s4H2LH", *end)


def unmarked_directory():
    """Return a zip with an entry in its directory that does not start as one."""
    data = zipped(Zipped())
    return changed(data, data.rindex(b"PK\1\2"), b"XXXX")


# --- what hides in archives ---


def gigabyte():
    """Return a gigabyte of zeros in a tar of a megabyte: a compressed block of ten of them, 100 times."""
    engine = zlib.compressobj(9, wbits=-15)
    start = engine.compress(GOOD + header(b"big.bmp", 1000 * MB)) + engine.flush(zlib.Z_FULL_FLUSH)
    block = engine.compress(bytes(10 * MB)) + engine.flush(zlib.Z_FULL_FLUSH)
    return b"\x1f\x8b\x08\0\0\0\0\0\0\xff" + start + block * 100 + engine.flush()


def changed(data, at, value):
    return data[:at] + value + data[at + len(value) :]


@dataclass
class Case:
    """How to build an archive, and words of the reason for which it is refused."""

    build: Callable[[], bytes]
    says: str
    limits: Limits = field(default_factory=Limits)


NAMES = {
    "parent": (b"../up.jpg", "'..' in its name"),
    "parent-inside": (b"a/../../up.jpg", "'..' in its name"),
    "parent-that-stays": (b"a/../b.jpg", "'..' in its name"),
    "absolute": (b"/etc/passwd.jpg", "absolute"),
    "absolute-twice": (b"//host/share.jpg", "absolute"),
    "part-too-long": (b"a" * 252 + b".jpg", "over 255 bytes"),
    "part-too-long-in-bytes": ("é".encode() * 126 + b".jpg", "over 255 bytes"),
    "too-deep": (b"a/" * 32 + b"b.jpg", "32 is the limit"),
    "file-below-file": (b"faces/good.jpg/a.jpg", "takes the place of"),
    "file-for-folder": (b"faces", "takes the place of"),
    "twice": (b"faces/good.jpg", "takes the place of"),
}

# What this system can store.
TAKEN_NAMES = [
    b"a/./b.jpg", b"a//b.jpg", b"./b.jpg", b"C:up.jpg", b"a/c:/up.jpg", b"..\\up.jpg", b"\\up.jpg",
    b"a\nb.jpg", b"a\x1b[2J\x1b]0;owned\x07.jpg", "a\u202egpj.exe".encode(), b"con", b"people/Aux .jpg",
    b"Sam Jr./a.jpg", b"people/a.jpg ", b".../a.jpg", b"/".join([b"a" * 99] * 11), b"more.zip",
    b"faces/GOOD.jpg", "faces/Zoe\u0308.jpg".encode(), "faces/Zo\u00eb.jpg".encode(),
]  # fmt: skip


def _name_cases():
    for key, (name, says) in NAMES.items():
        if not name.endswith(b"/"):
            yield f"tar-name-{key}", Case(lambda name=name: tar(pax(path=name), entry()), says)
            yield f"zip-name-{key}", Case(lambda name=name: zipped(Zipped(name)), says)


TAR_CASES = {
    "symlink": (lambda: tar(header(b"a", kind=b"2", link=b"/etc")), "neither a regular file nor a folder"),
    "symlink-then-through-it": (
        lambda: tar(header(b"a", kind=b"2", link=b"/tmp"), entry(b"a/up.jpg")),
        "neither a regular file nor a folder",
    ),
    "hardlink": (
        lambda: tar(header(b"a", kind=b"1", link=b"/etc/passwd")),
        "neither a regular file nor a folder",
    ),
    "hardlink-to-deeper-symlink": (
        lambda: tar(header(b"x", kind=b"1", link=b"a/b/c"), header(b"a/b/c", kind=b"2", link=b"../../..")),
        "neither a regular file nor a folder",
    ),
    "long-link": (lambda: tar(entry(b"x", b"/etc\0", kind=b"K")), "damaged or cut short"),
    "character-device": (lambda: tar(header(b"a", kind=b"3")), "neither a regular file nor a folder"),
    "block-device": (lambda: tar(header(b"a", kind=b"4")), "neither a regular file nor a folder"),
    "fifo": (lambda: tar(header(b"a", kind=b"6")), "neither a regular file nor a folder"),
    "contiguous": (lambda: tar(entry(kind=b"7")), "neither a regular file nor a folder"),
    "volume-label": (lambda: tar(header(b"a", kind=b"V")), "neither a regular file nor a folder"),
    "long-name-up": (lambda: tar(long_name(b"../" * 60 + b"up.jpg"), entry()), "'..' in its name"),
    "long-name-of-a-megabyte": (lambda: tar(long_name(b"a" * MB), entry()), "damaged or cut short"),
    "long-name-of-nothing": (lambda: tar(long_name(b"a")), "damaged or cut short"),
    "pax-nul-in-name": (lambda: tar(pax(path=b"a\0b.jpg"), entry()), "NUL in its name"),
    "pax-size-no-number": (lambda: tar(pax(size=b"-1"), entry()), "damaged or cut short"),
    "pax-for-all-path": (lambda: tar(pax(b"g", path=b"../up.jpg"), entry()), "'..' in its name"),
    "pax-long-length": (lambda: tar(entry(b"p", b"99 path=b\n", kind=b"x"), entry()), "NUL in its name"),
    "pax-chain": (lambda: tar(pax(a=b"1") * 1000, entry()), "damaged or cut short"),
    "sparse-old": (lambda: tar(entry(kind=b"S", magic=b"ustar  \0")), "neither a regular file nor a folder"),
    "sparse-pax": (
        lambda: tar(
            pax(GNU__sparse__major=b"1", GNU__sparse__minor=b"0", GNU__sparse__name=b"../b"), entry()
        ),
        "a sparse file",
    ),
    "sparse-map": (
        lambda: tar(pax(GNU__sparse__map=b"0,999999999"), entry()),
        "neither a regular file nor a folder",
    ),
    "negative-size": (lambda: tar(header(wide=b"\xff" * 10 + b"\xfc\x00")), "damaged or cut short"),
    "huge-size": (lambda: tar(header(wide=b"\x80" + b"\x7f" * 11)), "50,000,000 is the limit"),
    "folder-with-content": (lambda: tar(entry(b"d/", kind=b"5")), "damaged or cut short"),
    "second-header-damaged": (lambda: tar(changed(entry(), 0, b"b")), "damaged"),
    "garbage-for-header": (lambda: tar(b"x" * 512), "damaged"),
    "no-end": (lambda: tar(entry(), end=b""), "cut short"),
    "cut-in-header": (lambda: tar(entry()[:100], end=b""), "cut short"),
    "cut-in-content": (lambda: tar(entry(content=bytes(5000))[:2000], end=b""), "cut short"),
    "more-after-the-end": (lambda: tar() + entry(b"hidden.jpg"), "follows its end"),
    "words-after-the-end": (lambda: tar() + b"and more", "follows its end"),
    "empty": (lambda: END, "holds no file"),
    "folders-only": (lambda: header(b"d/", kind=b"5") + END, "holds no file"),
    "noise-only": (lambda: entry(b"__MACOSX/a.jpg") + entry(b"b/.DS_Store") + END, "holds no file"),
    "noise-that-leaves": (lambda: tar(entry(b"__MACOSX/../../up.jpg")), "'..' in its name"),
}

STREAM_CASES = {
    "gz-cut": (lambda: gzipped(tar(entry(content=bytes(range(256)) * 40)))[:-60], "cut short"),
    "gz-cut-in-checksum": (lambda: gzipped(tar())[:-3], "cut short"),
    "gz-checksum": (lambda: changed(gzipped(tar()), -8, b"\0\0\0\0")[: len(gzipped(tar()))], "damaged"),
    "gz-garbage-after": (lambda: gzipped(tar()) + b"garbage", "damaged or cut short"),
    "gz-second-stream": (lambda: gzipped(tar()) + gzipped(entry(b"hidden.jpg")), "follows its end"),
    "gz-of-text": (lambda: gzipped(b"<html>please log in</html>" * 100), "no tar or zip"),
    "gz-of-nothing": (lambda: gzipped(b""), "no tar or zip"),
    "gz-of-zip": (lambda: gzipped(zipped()), "no tar or zip"),
    "gz-magic-only": (lambda: b"\x1f\x8b", "cut short"),
    "bz2-cut": (lambda: bz2.compress(tar())[:-10], "cut short"),
    "bz2-damaged": (lambda: changed(bz2.compress(tar()), 30, b"\0\0\0\0"), "damaged"),
    "xz-cut": (lambda: lzma.compress(tar())[:-10], "cut short"),
    "xz-damaged": (lambda: changed(lzma.compress(tar()), 40, b"\0\0\0\0"), "damaged"),
    "nothing": (lambda: b"", "no tar or zip"),
    "text": (lambda: b"<html>please log in</html>" * 100, "no tar or zip"),
    "short-text": (lambda: b"404", "no tar or zip"),
    "rar": (lambda: b"Rar!\x1a\x07\x01\x00" + bytes(2000), "no tar or zip"),
}

FAR = 0xFFFFFFFF
ZIP_CASES = {
    "symlink": (
        lambda: zipped(Zipped(b"a", b"/etc", mode=stat.S_IFLNK | 0o777)),
        "neither a regular file nor a folder",
    ),
    "device": (lambda: zipped(Zipped(mode=stat.S_IFCHR | 0o644)), "neither a regular file nor a folder"),
    "fifo": (lambda: zipped(Zipped(mode=stat.S_IFIFO | 0o644)), "neither a regular file nor a folder"),
    "no-name": (lambda: zipped(Zipped(b"")), "damaged or cut short"),
    "encrypted": (lambda: zipped(Zipped(flags=1)), "encrypted"),
    "strongly-encrypted": (lambda: zipped(Zipped(flags=0x40)), "damaged or cut short"),
    "patch": (lambda: zipped(Zipped(flags=0x20)), "damaged or cut short"),
    "bzip2": (lambda: zipped(Zipped(method=12)), "only deflate"),
    "aes": (lambda: zipped(Zipped(method=99)), "only deflate"),
    "deflate64": (lambda: zipped(Zipped(method=9)), "only deflate"),
    "checksum": (lambda: zipped(Zipped(local={"crc": 1}, central={"crc": 1})), "damaged or cut short"),
    "stored-checksum": (lambda: zipped(Zipped(method=0, packed=b"x" * len(PHOTO))), "damaged or cut short"),
    "more-than-declared": (
        lambda: zipped(Zipped(content=PHOTO * 9, local={"size": 5}, central={"size": 5})),
        "damaged or cut short",
    ),
    "deflate-damaged": (lambda: zipped(Zipped(packed=b"\xff" * 20)), "damaged"),
    "deflate-cut": (
        lambda: zipped(
            Zipped(content=bytes(range(256)), packed=Zipped(content=bytes(range(256))).packed[:-9])
        ),
        "cut short",
    ),
    "two-names": (lambda: zipped(Zipped(local={"name": b"../up.jpg"})), "damaged or cut short"),
    "overlap": (same_bytes_twice, "overlaps"),
    "overlap-inside": (inside_another, "overlaps"),
    "place-beyond-the-end": (lambda: zipped(Zipped(central={"place": 10**6})), "damaged or cut short"),
    "place-in-the-directory": (lambda: zipped(Zipped(central={"place": 120})), "damaged or cut short"),
    "directory-unmarked": (unmarked_directory, "damaged or cut short"),
    "directory-elsewhere": (lambda: zipped(Zipped(), end={"start": 5}), "damaged or cut short"),
    "directory-too-long": (lambda: zipped(Zipped(), end={"length": 10**6}), "damaged or cut short"),
    "no-directory": (lambda: zipped(Zipped())[: -22 - 60], "cut short"),
    "end-cut": (lambda: zipped(Zipped())[:-3], "cut short"),
    "another-file-before": (lambda: zipped(Zipped(), prefix=b"MZ program"), "no tar or zip"),
    "zip64-start": (lambda: zipped(end_64={"start": 1 << 60}), "overlaps another"),
    "zip64-unmarked": (lambda: zipped(end_64={"mark": b"PK\7\7"}), "damaged or cut short"),
    "zip64-disks": (lambda: zipped(end_64={"disks": 2}), "damaged or cut short"),
    "zip64-nothing-before": (lambda: b"PK\5\6" + zipped(end_64={})[-42:], "damaged or cut short"),
    "zip64-without-field": (lambda: zipped(Zipped(central={"size": FAR})), "where 50,000,000 is the limit"),
    "zip64-short-field": (
        lambda: zipped(Zipped(central={"size": FAR}, extra=struct.pack("<2HL", 1, 4, 9))),
        "damaged or cut short",
    ),
    "zip64-size": (
        lambda: zipped(Zipped(central={"size": FAR}, extra=wide(1 << 62))),
        "where 50,000,000 is the limit",
    ),
    "zip64-place": (
        lambda: zipped(Zipped(central={"place": FAR}, extra=wide((1 << 64) - 1))),
        "damaged or cut short",
    ),
    "empty": (lambda: zipped(good=False), "holds no file"),
}


LIMIT_CASES = {
    "tar-too-many": Case(lambda: tar(header(b"d/", kind=b"5") * 100), "over 100 files", Limits(entries=100)),
    "tar-too-many-by-their-folders": Case(
        lambda: tar(*(entry(b"%d/b/c/d.jpg" % n) for n in range(30))), "over 100 files", Limits(entries=100)
    ),
    "tar-file-too-big": Case(lambda: tar(header(size=100)), "99 is the limit", Limits(file_bytes=99)),
    "tar-total-too-big": Case(
        lambda: tar(*(entry(b"%d.jpg" % n) for n in range(30))), "bytes, the limit", Limits(total_bytes=9999)
    ),
    "tar-total-declared": Case(
        lambda: gzipped(tar(header(size=40 * MB))), "damaged or cut short", Limits(total_bytes=30 * MB)
    ),
    "zip-too-many": Case(
        lambda: zipped(*(Zipped(b"%d.jpg" % n) for n in range(30))),
        "files and folders, the limit",
        Limits(entries=30),
    ),
    "zip-too-many-by-their-folders": Case(
        lambda: zipped(*(Zipped(b"%d/b/c/d.jpg" % n) for n in range(30))), "over 99", Limits(entries=99)
    ),
    "zip-file-too-big": Case(
        lambda: zipped(Zipped(content=bytes(100))), "99 is the limit", Limits(file_bytes=99)
    ),
    "zip-total-too-big": Case(
        lambda: zipped(*(Zipped(b"%d.jpg" % n) for n in range(30))),
        "bytes, the limit",
        Limits(total_bytes=99),
    ),
    "gz-gigabyte-from-a-megabyte": Case(
        gigabyte, "times its size, the limit", Limits(file_bytes=2000 * MB, total_bytes=2000 * MB)
    ),
    "gz-gigabyte-in-a-file": Case(gigabyte, "50,000,000 is the limit"),
    "gz-zeros-at-the-end": Case(lambda: gzipped(tar(end=bytes(20 * MB))), "times its size, the limit"),
    "bz2-bomb": Case(lambda: bz2.compress(tar(entry(content=bytes(20 * MB)))), "times its size, the limit"),
    "xz-bomb": Case(
        lambda: lzma.compress(tar(entry(content=bytes(20 * MB))), preset=0), "times its size, the limit"
    ),
    "zip-bomb": Case(lambda: zipped(Zipped(content=bytes(20 * MB))), "times its size, the limit"),
}

CASES: dict[str, Case] = {
    **dict(_name_cases()),
    **{f"tar-{key}": Case(*value) for key, value in TAR_CASES.items()},
    **{key: Case(*value) for key, value in STREAM_CASES.items()},
    **{f"zip-{key}": Case(*value) for key, value in ZIP_CASES.items()},
    **LIMIT_CASES,
}
