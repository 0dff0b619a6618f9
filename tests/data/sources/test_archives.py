"""What comes out of an archive is what was packed, or nothing at all."""

import bz2
import errno
import gzip
import hashlib
import io
import lzma
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hostile_archives import (
    CASES,
    PHOTO,
    TAKEN_NAMES,
    Zipped,
    entry,
    header,
    long_name,
    pax,
    tar,
    wide,
    zipped,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core import progress
from facemae.core.errors import IntegrityError, StorageError
from facemae.data.sources import archives
from facemae.data.sources.archives import unpack
from facemae.data.sources.base import Limits

FILES = {
    "faces/Anna/Anna_0001.jpg": PHOTO,
    "faces/Anna/empty.txt": b"",
    "faces/Zoë 李/ö ∆ 🙂.jpg": bytes(range(256)) * 300,
    "/".join(["a" * 99] * 3) + "/deep.jpg": PHOTO * 2,
    "README": b"read me\n",
}
FOLDERS = {"faces", "faces/nobody", "faces/Anna"}
NOISE = random.Random(0).randbytes(2_500_000)
TAR_FORMATS = {"": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}


@pytest.fixture(autouse=True)
def _no_sync(monkeypatch):
    # What a power cut leaves is tested elsewhere; hundreds of syncs of a busy disk take minutes.
    monkeypatch.setattr(os, "sync", lambda: None)


def tree(folder):
    """Return everything below a folder: the content of files, None for folders."""
    return {
        path.relative_to(folder).as_posix(): None if path.is_dir() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
    }


def packed_tar(form=tarfile.PAX_FORMAT):
    memory = io.BytesIO()
    with tarfile.open(fileobj=memory, mode="w", format=form) as archive:
        for name in sorted(FOLDERS):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o700
            archive.addfile(folder)
        for name, content in FILES.items():
            file = tarfile.TarInfo(name)
            file.size, file.mode, file.mtime = len(content), 0o400, 1.5
            archive.addfile(file, io.BytesIO(content))
    return memory.getvalue()


class Pipe(io.BytesIO):
    """Where a writer cannot go back, sizes follow the content."""

    def seekable(self):
        return False

    def tell(self):
        raise io.UnsupportedOperation


def packed_zip(method=zipfile.ZIP_DEFLATED, stream=False):
    memory = Pipe() if stream else io.BytesIO()
    with zipfile.ZipFile(memory, "w", method) as archive:
        for name in sorted(FOLDERS):
            archive.writestr(name + "/", b"")
        for name, content in FILES.items():
            with archive.open(name, "w", force_zip64=stream and name == "README") as file:
                file.write(content)
    return memory.getvalue()


GOOD = {
    **{f"tar-{name}": (lambda pack=pack: pack(packed_tar())) for name, pack in TAR_FORMATS.items()},
    "tar-gnu": lambda: packed_tar(tarfile.GNU_FORMAT),
    "tar-in-two-streams": lambda: gzip.compress(packed_tar()[:3000]) + gzip.compress(packed_tar()[3000:]),
    "zip": packed_zip,
    "zip-stored": lambda: packed_zip(zipfile.ZIP_STORED),
    "zip-streamed": lambda: packed_zip(stream=True),
}


def expected():
    parents = {parent.as_posix() for name in FILES for parent in Path(name).parents if parent != Path()}
    return dict.fromkeys(FOLDERS | parents) | FILES


# --- good archives ---


@pytest.mark.parametrize("name", GOOD)
def test_everything_comes_back_whatever_the_file_is_called(name, tmp_path):
    path = tmp_path / "photos.of.mine"
    path.write_bytes(GOOD[name]())
    target = tmp_path / "unpacked" / "photos"
    assert unpack(path, target) == target
    assert tree(target) == expected()
    assert sorted(each.name for each in tmp_path.iterdir()) == ["photos.of.mine", "unpacked"]
    assert [each.name for each in target.parent.iterdir()] == ["photos"]


def test_permissions_and_dates_are_not_restored(tmp_path):
    path = tmp_path / "photos.tar"
    path.write_bytes(packed_tar())
    started = time.time() - 5
    file = unpack(path, tmp_path / "photos") / "faces/Anna/Anna_0001.jpg"
    (tmp_path / "usual").touch()
    assert file.stat().st_mode == (tmp_path / "usual").stat().st_mode
    assert file.stat().st_mtime > started


ODD_BUT_GOOD = {
    "tar-with-its-own-folder": (
        lambda: header(b"./", kind=b"5") + tar(header(b"./faces/", kind=b"5"), entry(b"./a.jpg")),
        {"faces": None, "faces/good.jpg": PHOTO, "a.jpg": PHOTO},
    ),
    "tar-with-a-folder-twice": (
        lambda: tar(header(b"faces/", kind=b"5"), header(b"faces", kind=b"5")),
        {"faces": None, "faces/good.jpg": PHOTO},
    ),
    "tar-with-a-remark": (
        lambda: pax(b"g", comment=b"0123") + tar(pax(mtime=b"1.5", size=b"12"), entry()),
        {"faces": None, "faces/good.jpg": PHOTO, "a.jpg": PHOTO},
    ),
    "tar-with-a-long-name": (
        lambda: tar(long_name(b"b" * 200), entry()),
        {"faces": None, "faces/good.jpg": PHOTO, "b" * 200: PHOTO},
    ),
    "tar-with-a-latin-1-name": (
        lambda: tar(entry(b"J\xf6rg.jpg")),
        {"faces": None, "faces/good.jpg": PHOTO, "J\udcf6rg.jpg": PHOTO},
    ),
    "tar-of-1979": (
        lambda: tar(header(b"old/", kind=b"\0", magic=b""), entry(kind=b"\0", magic=b"")),
        {"faces": None, "faces/good.jpg": PHOTO, "old": None, "a.jpg": PHOTO},
    ),
    "tar-with-noise": (
        lambda: tar(entry(b"__MACOSX/a/b.jpg"), entry(b"faces/.DS_Store"), entry(b"faces/._good.jpg")),
        {"faces": None, "faces/good.jpg": PHOTO},
    ),
    "zip-with-a-comment": (lambda: zipped(comment=b"hello"), {"faces": None, "faces/good.jpg": PHOTO}),
    "zip64": (lambda: zipped(end_64={}), {"faces": None, "faces/good.jpg": PHOTO}),
    "zip64-throughout": (
        lambda: zipped(
            Zipped(
                central={"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF},
                extra=b"\x55\x54\1\0x" + wide(len(PHOTO), len(Zipped().packed)),
                local={"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF},
                local_extra=wide(len(PHOTO), len(Zipped().packed)),
            ),
            end_64={},
        ),
        {"faces": None, "faces/good.jpg": PHOTO, "a.jpg": PHOTO},
    ),
    "zip-without-unix-modes": (
        lambda: zipped(Zipped(mode=0), Zipped(b"d/", b"", mode=0)),
        {"faces": None, "faces/good.jpg": PHOTO, "a.jpg": PHOTO, "d": None},
    ),
    "zip-of-the-eighties": (
        lambda: zipped(Zipped(b"J\x94rg.jpg")),
        {"faces": None, "faces/good.jpg": PHOTO, "Jörg.jpg": PHOTO},
    ),
    "blank-images": (
        lambda: gzip.compress(tar(entry(b"blank.bmp", bytes(8_000_000)))),
        {"faces": None, "faces/good.jpg": PHOTO, "blank.bmp": bytes(8_000_000)},
    ),
    **{
        f"{name}-of-many-blocks": (
            lambda pack=pack: pack(tar(entry(b"noise.bmp", NOISE))),
            {"faces": None, "faces/good.jpg": PHOTO, "noise.bmp": NOISE},
        )
        for name, pack in TAR_FORMATS.items()
    },
    "zip-of-many-blocks": (
        lambda: zipped(Zipped(b"noise.bmp", NOISE)),
        {"faces": None, "faces/good.jpg": PHOTO, "noise.bmp": NOISE},
    ),
    "tar-of-a-shared-drive": (
        lambda: tar(header(b"d/", kind=b"5", mode=0o2775), entry(b"d/a.jpg", mode=0o4755)),
        {"faces": None, "faces/good.jpg": PHOTO, "d": None, "d/a.jpg": PHOTO},
    ),
    "zip-of-macos": (
        lambda: zipped(Zipped("Zoë 李.jpg".encode())),
        {"faces": None, "faces/good.jpg": PHOTO, "Zoë 李.jpg": PHOTO},
    ),
    "zip-of-windows": (
        lambda: zipped(Zipped(b"d\\e\\a.jpg", mode=0)).replace(b"PK\1\2\x14\3", b"PK\1\2\x14\0"),
        {"faces": None, "faces/good.jpg": PHOTO, "d": None, "d/e": None, "d/e/a.jpg": PHOTO},
    ),
}


@pytest.mark.parametrize("name", ODD_BUT_GOOD)
def test_what_honest_writers_do_is_taken(name, tmp_path):
    build, content = ODD_BUT_GOOD[name]
    path = tmp_path / "photos"
    path.write_bytes(build())
    assert tree(unpack(path, tmp_path / "out")) == content


def test_an_earlier_unpacking_is_left_as_it_is(tmp_path):
    target = tmp_path / "photos"
    target.mkdir()
    (target / "mine.txt").write_text("mine")
    assert unpack(tmp_path / "absent.tar", target) == target
    assert tree(target) == {"mine.txt": b"mine"}


def test_what_a_killed_attempt_left_is_cleared(tmp_path):
    path = tmp_path / "photos.tar"
    path.write_bytes(tar())
    left = tmp_path / ".out.partial" / "faces"
    left.mkdir(parents=True)
    (left / "good.jpg").write_bytes(b"half")
    assert tree(unpack(path, tmp_path / "out")) == {"faces": None, "faces/good.jpg": PHOTO}
    assert not left.exists()


def test_limits_are_inclusive(tmp_path):
    path = tmp_path / "photos.zip"
    path.write_bytes(zipped())
    limits = Limits(entries=2, total_bytes=len(PHOTO), file_bytes=len(PHOTO), ratio=1)
    assert unpack(path, tmp_path / "out", limits).is_dir()


@pytest.mark.parametrize("build", [
    lambda: tar(header(b"d/", kind=b"5") * 100),
    lambda: zipped(*(Zipped(b"%d/b/c.jpg" % n) for n in range(40))),
])  # fmt: skip
def test_too_many_folders_are_refused_before_one_is_made(tmp_path, monkeypatch, build):
    path = tmp_path / "photos"
    path.write_bytes(build())
    made = []
    monkeypatch.setattr(archives, "_make_folder", lambda path, name: made.append(name) or path.mkdir())
    assert "over 100 files and folders" in refused(path, tmp_path / "out", Limits(entries=100))
    assert len(made) <= 1  # that of the good photo that each begins with


def test_progress_counts_the_megabytes_of_the_archive(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "FIRST_SECONDS", 0)
    monkeypatch.setattr(progress, "EVERY_SECONDS", 0)
    path = tmp_path / "photos.tar"
    path.write_bytes(tar(*(entry(b"%d.jpg" % n, os.urandom(1_000_000)) for n in range(4))))
    unpack(path, tmp_path / "out")
    lines = capsys.readouterr().err.splitlines()
    assert any(line.startswith("[unpack] 2/5 MB") and "eta" in line for line in lines)
    assert [line for line in lines if line.startswith("[unpack] 5/5 MB")] == lines[-1:]


# --- hostile archives ---


def refused(path, target, limits):
    """Return why an archive is refused, having checked that this is said well and leaves no trace."""
    around = tree(target.parent)
    with pytest.raises(IntegrityError) as caught:
        unpack(path, target, limits)
    assert tree(target.parent) == around
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 400
    assert message.startswith(path.name)
    assert message.endswith("if you trust it.")
    assert ". " not in message
    return message


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.parametrize("name", TAKEN_NAMES)
def test_a_name_that_this_system_can_store_is_taken(name, kind, tmp_path):
    (tmp_path / "a").write_bytes(
        tar(pax(path=name), entry()) if kind == "tar" else zipped(Zipped(name, flags=0x800))
    )
    target = unpack(tmp_path / "a", tmp_path / "out")
    assert (target / os.fsdecode(name)).read_bytes() == PHOTO
    assert len([path for path in target.rglob("*") if path.is_file()]) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "out"]


@pytest.mark.parametrize("name", CASES)
def test_a_hostile_archive_is_refused_for_what_it_is_and_leaves_nothing(name, tmp_path):
    case = CASES[name]
    beside = tmp_path / "beside"
    for number in range(3):
        (beside / str(number)).mkdir(parents=True)
        (beside / str(number) / "canary").write_bytes(b"alive")
    path = beside / "hostile-archive"
    path.write_bytes(case.build())
    assert case.says in refused(path, beside / "0" / "target", case.limits)
    assert len(tree(tmp_path)) == 8


@pytest.mark.parametrize("kind", ["tar", "zip"])
def test_the_message_shortens_a_long_name(kind, tmp_path):
    path = tmp_path / "hostile"
    name = b"a" * 60_000
    path.write_bytes(tar(long_name(name), entry()) if kind == "tar" else zipped(Zipped(name)))
    assert "aaa...aaa" in refused(path, tmp_path / "out", Limits())


@pytest.mark.parametrize("name", ["absent", "folder"])
def test_what_cannot_be_read_is_refused(name, tmp_path):
    (tmp_path / "folder").mkdir()
    assert "cannot be read" in refused(tmp_path / name, tmp_path / "out", Limits())


@pytest.mark.parametrize("name", GOOD)
def test_every_cut_is_noticed(name, tmp_path):
    data = GOOD[name]()
    used = len(data.rstrip(b"\0")) if name in ("tar-", "tar-gnu") else len(data) - 1
    path = tmp_path / "cut"
    for length in {0, 1, 511, 512, *range(2, used, max(1, used // 15)), used}:
        path.write_bytes(data[:length])
        refused(path, tmp_path / "out", Limits())


NASTY = st.text(
    st.sampled_from("aAb./\\:. \0\n\x1b\u202e\u0301é🙂") | st.characters(exclude_categories=["Cs"]),
    max_size=12,
)


@settings(max_examples=80)
@given(name=NASTY | st.lists(NASTY, max_size=4).map("/".join), kind=st.sampled_from(["tar", "zip"]))
def test_a_name_is_taken_as_it_is_or_the_archive_is_refused(name, kind):
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        target = outer / "inner" / "target"
        raw = name.encode()
        data = tar(pax(path=raw), entry()) if kind == "tar" else zipped(Zipped(raw, flags=0x800))
        (outer / "archive").write_bytes(data)
        try:
            unpack(outer / "archive", target)
        except IntegrityError:
            assert tree(outer) == {"archive": data, "inner": None}
        else:
            found = {key: value for key, value in tree(target).items() if value is not None}
            own = "/".join(part for part in name.partition("\0")[0].split("/") if part not in ("", "."))
            noise = own.startswith("__MACOSX") or Path(own).name.startswith("._") or not own
            is_folder = kind == "zip" and name.partition("\0")[0].endswith("/")
            assert found == {"faces/good.jpg": PHOTO} | ({} if noise or is_folder else {own: PHOTO})
            assert {path.name for path in outer.iterdir()} == {"archive", "inner"}


CHANGE = st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255))


@settings(max_examples=100)
@given(name=st.sampled_from(sorted(GOOD)), changes=st.lists(CHANGE, min_size=1, max_size=4))
def test_damage_is_refused_or_harmless(name, changes):
    data = bytearray(GOOD[name]())
    for place, value in changes:
        data[int(place * len(data))] = value
    with tempfile.TemporaryDirectory() as folder:
        outer = Path(folder)
        (outer / "archive").write_bytes(data)
        try:
            unpack(outer / "archive", outer / "target")
        except IntegrityError:
            assert {path.name for path in outer.iterdir()} == {"archive"}
        else:
            assert {path.name for path in outer.iterdir()} == {"archive", "target"}


# --- the machine ---


def test_a_full_disk_is_known_before_anything_is_written(tmp_path, monkeypatch):
    path = tmp_path / "photos.zip"
    path.write_bytes(zipped())
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 90, 10))
    monkeypatch.setattr(archives.files, "write_blocks", lambda *_: pytest.fail("written"))
    with pytest.raises(StorageError, match="The disk is full"):
        unpack(path, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["photos.zip"]


def test_a_disk_that_fills_up_leaves_nothing(tmp_path, monkeypatch):
    def full(path, blocks):
        with archives.files.storage_errors(path):
            raise OSError(errno.ENOSPC, "no space")

    path = tmp_path / "photos.tgz"
    path.write_bytes(gzip.compress(tar()))
    monkeypatch.setattr(archives.files, "write_blocks", full)
    with pytest.raises(StorageError, match="The disk is full"):
        unpack(path, tmp_path / "out")
    assert [each.name for each in tmp_path.iterdir()] == ["photos.tgz"]


def test_an_archive_that_cannot_be_read_on_is_not_the_disks_fault(tmp_path, monkeypatch):
    path = tmp_path / "photos.tgz"
    path.write_bytes(gzip.compress(tar(entry(b"big.jpg", NOISE))))

    class Failing(gzip.GzipFile):
        def read(self, size=-1):
            if self.tell() > 1_000_000:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    monkeypatch.setitem(archives._COMPRESSIONS, b"\x1f\x8b", lambda file: Failing(fileobj=file))
    assert "Input/output error" in refused(path, tmp_path / "out", Limits())


BIG = 40_000_000


@pytest.mark.parametrize("name", ["tar", "gz", "zip"])
def test_memory_stays_flat(name, tmp_path):
    pack = {
        "tar": lambda content: tar(entry(b"big.bmp", content)),
        "gz": lambda content: gzip.compress(tar(entry(b"big.bmp", content)), 1),
        "zip": lambda content: zipped(Zipped(b"big.bmp", content)),
    }
    path = tmp_path / "big"
    path.write_bytes(pack[name](bytes(BIG)))
    tracemalloc.start()
    try:
        target = unpack(path, tmp_path / "out", Limits(ratio=10_000))
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()
    assert (target / "big.bmp").stat().st_size == BIG


CHILD = """
import sys
from pathlib import Path
from facemae.data.sources.archives import unpack
unpack(Path(sys.argv[1]), Path(sys.argv[2]))
"""


def digest(folder):
    whole = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        whole.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return whole.hexdigest()


def survive_kills(path, folder, kills):
    """Kill an unpacking at random moments; return how often that was in the middle of it."""
    started = time.monotonic()
    undisturbed = digest(unpack(path, folder / "undisturbed"))
    seconds = time.monotonic() - started
    target, partial = folder / "out", folder / ".out.partial"
    command = [sys.executable, "-c", CHILD, str(path), str(target)]
    chance = random.Random(kills)
    midway = 0
    for _ in range(kills):
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        left = {each.stat().st_ino for each in [partial] if each.exists()}
        while process.poll() is None and not (partial.exists() and partial.stat().st_ino not in left):
            time.sleep(0.001)
        time.sleep(chance.uniform(0, seconds))
        process.send_signal(signal.SIGKILL)
        process.wait()
        midway += partial.exists()
        if target.exists():
            assert digest(target) == undisturbed
            shutil.rmtree(target)
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    assert digest(target) == undisturbed
    assert not partial.exists()
    return midway


def many_photos(count):
    memory = io.BytesIO()
    noise = os.urandom(50_000)
    with tarfile.open(fileobj=memory, mode="w:gz", compresslevel=1) as archive:
        for number in range(count):
            file = tarfile.TarInfo(f"faces/{number % 100}/{number}.jpg")
            content = noise[number % 40_000 :][:8000]
            file.size = len(content)
            archive.addfile(file, io.BytesIO(content))
    return memory.getvalue()


def test_kills_leave_nothing_half(tmp_path):
    path = tmp_path / "photos.tgz"
    path.write_bytes(many_photos(1500))
    assert survive_kills(path, tmp_path, kills=2) >= 1


@pytest.mark.slow
def test_many_kills_leave_nothing_half(tmp_path):
    path = tmp_path / "photos.tgz"
    path.write_bytes(many_photos(5_000))
    assert survive_kills(path, tmp_path, kills=20) >= 10


@pytest.mark.slow
def test_a_million_entries_are_too_many(tmp_path):
    path = tmp_path / "many.tar"
    path.write_bytes(tar(header(b"d/", kind=b"5") * 1_000_000))
    assert "200,000" in refused(path, tmp_path / "out", Limits())


# --- real data ---

REAL = {
    "lfw/lfw-deepfunneled.tgz": 13_233,
    "utkface/UTKFace.tar": 23_706,
    "yaleb/CroppedYale.tar.xz": 2546,
    "ck48/CK+48.tar": 981,
}


@pytest.mark.shared_data
@pytest.mark.parametrize("name", REAL)
def test_real_data_sets_come_out_whole(name, tmp_path):
    raw = os.environ.get("FACEMAE_RAW_DIR")
    if not raw or not (Path(raw) / name).exists():
        pytest.skip(f"FACEMAE_RAW_DIR holds no {name}")
    target = unpack(Path(raw) / name, tmp_path / "out")
    paths = {path.relative_to(target).as_posix(): path for path in target.rglob("*") if path.is_file()}
    assert len(paths) == REAL[name]
    with tarfile.open(Path(raw) / name) as archive:
        for member in archive:
            if member.isfile():
                file = archive.extractfile(member)
                assert file is not None
                assert paths.pop(member.name).read_bytes() == file.read()
    assert not paths
