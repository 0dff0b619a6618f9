import io
import os
import tarfile
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from facemae.core import files
from facemae.core.errors import DataError, StorageError, UsageError
from facemae.core.layout import SET_LABELLED, SET_UNLABELLED
from facemae.data.sources import SOURCES, VARIANTS, archives, download, locate
from facemae.data.sources.base import Photo, Place, Remote, Source
from facemae.data.sources.listing import visible_files
from facemae.data.sources.locate import DOWNLOADABLE, MISSING, READY, find

PEOPLE = {"ann/1.jpg": b"ann one", "ann/2.jpg": b"ann two", "bob/1.jpg": b"bob one"}
LFW = {"lfw-funneled/Ann_Lee/Ann_Lee_0001.jpg": b"ann", "lfw-funneled/Bo/Bo_0001.jpg": b"bo"}
LIST = b"1 1\nAnn_Lee 1 1\nAnn_Lee 1 Bo 1\n"


def make_folder(path, content):
    for name, data in content.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def make_zip(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return path


def make_tar(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
        for name, data in content.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def remote(name, data):
    return Remote(name, "https://example.org/file", files.sha256(data), len(data))


def tree(folder):
    """Return every entry below a folder with what a change of it would change."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_mtime_ns, path.is_file() and path.read_bytes())
        for path in folder.rglob("*")
    }


@pytest.fixture
def raw(tmp_path):
    folder = tmp_path / "raw"
    folder.mkdir()
    return folder


@pytest.fixture
def listed(raw, tmp_path):
    """Return a function that lists what a text of the configuration names."""

    def photos(text, set_name=SET_LABELLED):
        wanted = find(text, set_name, raw)
        place = locate.locate(wanted, raw, tmp_path / "unpacked")
        return [(photo.sample_id, photo.person) for photo in wanted.source.photos(place, Counter())]

    return photos


@pytest.fixture
def net(replaced):
    """Stand in for the downloads: a dict of what can be had by name, and the list of what was asked for."""
    there, asked = {}, []

    def fake(remote, folder):
        asked.append(remote.filename)
        if remote.filename not in there:
            raise DataError(f"{remote.filename} could not be downloaded; fetch it yourself.")
        files.atomic_write(folder / remote.filename, there[remote.filename])
        return folder / remote.filename

    with replaced(download, "download", fake):
        yield there, asked


@pytest.fixture
def held(monkeypatch, tmp_path):
    """A data set of one archive and two lists, of which one is needed, that can be downloaded."""
    archive = make_zip(tmp_path / "made.zip", {"held/1.jpg": b"one", "held/2.jpg": b"two"}).read_bytes()
    content = {"held.zip": archive, "list.txt": b"a list", "more.txt": b"another"}

    def photos(place, ignored):
        for path in visible_files(place.images, ignored):
            yield Photo(f"held/{path.stem}", None, path)

    source = Source(
        name="held",
        title="The Held Faces",
        folder="there",
        images="held",
        photos=photos,
        licence="by agreement",
        credit="us",
        address="https://example.org/held",
        sides=("list.txt", "more.txt", "own.csv"),
        downloads=tuple(remote(name, data) for name, data in content.items()),
    )
    monkeypatch.setitem(SOURCES, "held", source)
    return source, content


# --- what a text names ---


def test_a_name_is_a_data_set(raw):
    for name, source in SOURCES.items():
        wanted = find(name, SET_UNLABELLED, raw)
        assert (wanted.source, wanted.set, wanted.path) == (source, "unlabelled", None)


@pytest.mark.parametrize(
    ("there", "variant"),
    [
        ("lfw-deepfunneled.tgz", "lfw-deepfunneled"),
        ("lfw-funneled/", "lfw-funneled"),
        ("lfw.tgz", "lfw-original"),
        ("", "lfw-funneled"),  # the first that can be downloaded
    ],
)
def test_a_data_set_of_several_forms_is_the_one_that_is_there(raw, there, variant):
    (raw / "lfw").mkdir()
    if there:
        path = raw / "lfw" / there
        path.mkdir() if there.endswith("/") else path.touch()
    assert find("lfw", SET_LABELLED, raw).source.name == variant


def test_of_several_forms_that_are_there_the_best_is_taken(raw):
    for name in ("lfw.tgz", "lfw-funneled.tgz", "lfw-deepfunneled.zip"):
        make_folder(raw / "lfw", {name: b""})
    assert find("lfw", SET_LABELLED, raw).source.name == VARIANTS["lfw"][0]


@pytest.mark.parametrize(
    ("text", "named", "name"),
    [
        ("yaleb:{}/CroppedYale", "CroppedYale/", "yaleb"),
        ("yaleb:{}", "CroppedYale/", "yaleb"),
        ("utkface:{}/UTKFace.tar", "UTKFace.tar", "utkface"),
        ("celeba:{}/anything", "anything/", "celeba"),
        ("ms1mv2:{}/train.rec", "train.rec", "ms1mv2"),
        ("lfw:{}/lfw_funneled", "lfw_funneled/", "lfw-funneled"),
        ("lfw:{}/lfw-deepfunneled.tgz", "lfw-deepfunneled.tgz", "lfw-deepfunneled"),
        ("lfw:{}/lfw", "lfw/", "lfw-original"),
        ("lfw:{}/lfw", "lfw/lfw-funneled.tgz", "lfw-funneled"),  # the folder of raw data, not of photos
        ("lfw:{}", "lfw-deepfunneled.zip", "lfw-deepfunneled"),
        ("lfw:{}/faces", "faces/", "lfw-deepfunneled"),
        ("lfw-original:{}/faces", "faces/", "lfw-original"),
    ],
)
def test_a_name_with_a_path_is_that_data_set_there(raw, tmp_path, text, named, name):
    path = tmp_path / named
    path.mkdir() if named.endswith("/") else make_folder(tmp_path, {named: b""})
    wanted = find(text.format(tmp_path), SET_LABELLED, raw)
    assert wanted.source is SOURCES[name]
    assert wanted.path == Path(text.format(tmp_path).partition(":")[2])


def test_a_path_is_a_folder_an_archive_or_a_pack(raw, tmp_path):
    make_folder(
        tmp_path, {"mine/ann/1.jpg": b"", "mine.zip": b"", "faces/train.rec": b"", "x.rec": b"", "y.bin": b""}
    )
    names = ["mine", "mine.zip", "faces", "faces/train.rec", "x.rec", "y.bin"]
    found = [find(str(tmp_path / name), SET_LABELLED, raw).source.name for name in names]
    assert found == ["labelled", "labelled", "faces", "faces", "x", "y"]
    assert find(str(tmp_path / "faces"), SET_LABELLED, raw).path == tmp_path / "faces" / "train.rec"
    assert find(str(tmp_path / "mine"), SET_UNLABELLED, raw, 2).source.name == "unlabelled-2"


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("utkfaec", "did you mean utkface?"),
        ("utkfaec:/x/UTKFace.tar", "did you mean utkface?"),
        ("lwf", "did you mean lfw?"),
        ("utkface:/no/such.tar", "utkface:/no/such.tar is neither"),
        ("/no/such/folder", "`facemae data list` shows the known data sets."),
        ("lfw:", "did you mean lfw?"),
        ("zzz", "`facemae data list` shows the known data sets."),
    ],
)
def test_what_is_not_there_is_told_with_the_name_that_was_meant(raw, text, hint):
    with pytest.raises(UsageError) as caught:
        find(text, SET_LABELLED, raw)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_environment_says_where_raw_data_is(monkeypatch):
    monkeypatch.delenv("FACEMAE_RAW_DIR", raising=False)
    assert locate.raw_dir("data/raw") == Path("data/raw")
    monkeypatch.setenv("FACEMAE_RAW_DIR", "/elsewhere")
    assert locate.raw_dir("data/raw") == Path("/elsewhere")
    monkeypatch.setenv("FACEMAE_RAW_DIR", "")
    assert locate.raw_dir("data/raw") == Path("data/raw")


# --- photos of every form ---


@pytest.mark.parametrize(
    "form",
    [
        "folder",
        "zip",
        "tar.gz",
        "tar",
        "ZIP",
        "tgz inside one folder",
        "zip with a file beside the one folder",
    ],
)
def test_a_folder_and_an_archive_of_people_are_the_same_photos(listed, tmp_path, form):
    names = {
        "folder": lambda: make_folder(tmp_path / "mine", PEOPLE),
        "zip": lambda: make_zip(tmp_path / "mine.zip", PEOPLE),
        "tar.gz": lambda: make_tar(tmp_path / "mine.tar.gz", PEOPLE),
        "tar": lambda: make_tar(tmp_path / "mine.tar", PEOPLE),
        "ZIP": lambda: make_zip(tmp_path / "MINE.ZIP", PEOPLE),
        "tgz inside one folder": lambda: make_tar(
            tmp_path / "mine.tgz", {f"mine/{name}": data for name, data in PEOPLE.items()}
        ),
        "zip with a file beside the one folder": lambda: make_zip(
            tmp_path / "mine.zip", {"READ ME.txt": b"hello"} | {f"mine/{n}": d for n, d in PEOPLE.items()}
        ),
    }
    assert listed(str(names[form]())) == [
        ("labelled/ann/1.jpg", "ann"), ("labelled/ann/2.jpg", "ann"), ("labelled/bob/1.jpg", "bob"),
    ]  # fmt: skip


def test_the_one_person_of_an_archive_keeps_the_name(listed, tmp_path):
    path = make_zip(tmp_path / "mine.zip", {"ann/1.jpg": b"one", "ann/2.jpg": b"two"})
    assert listed(str(path)) == [("labelled/ann/1.jpg", "ann"), ("labelled/ann/2.jpg", "ann")]


def test_photos_without_folders_in_an_archive_name_nobody(listed, tmp_path):
    path = make_zip(tmp_path / "mine.zip", {"1.jpg": b"one", "2.jpg": b"two"})
    assert listed(str(path)) == [("labelled/1.jpg", None), ("labelled/2.jpg", None)]


@pytest.mark.parametrize("where", ["raw", "folder", "archive", "folder of raw data"])
def test_a_data_set_is_read_wherever_it_lies(listed, raw, tmp_path, where, net):
    content = {"CroppedYale/yaleB01/yaleB01_P00A+005E-10.pgm": b"x"}
    text = {
        "raw": lambda: make_zip(raw / "yaleb" / "CroppedYale.zip", content) and "yaleb",
        "folder": lambda: f"yaleb:{make_folder(tmp_path / 'x', content)}/CroppedYale",
        "archive": lambda: f"yaleb:{make_tar(tmp_path / 'other.tgz', content)}",
        "folder of raw data": lambda: f"yaleb:{make_folder(tmp_path / 'x', content)}",
    }[where]()
    assert listed(text) == [("yaleb/yaleB01/+005-10", "yaleB01")]


def test_the_faces_that_a_package_carries_need_no_place(raw, tmp_path):
    wanted = find("orl", SET_LABELLED, raw)
    assert locate.locate(wanted, raw, tmp_path / "unpacked").sides == {}
    assert locate.availability(wanted, raw) == READY
    assert not (tmp_path / "unpacked").exists()


def test_lists_are_found_beside_the_photos(raw, tmp_path, net):
    make_folder(tmp_path / "x", {"lfw_funneled/Bo/Bo_0001.jpg": b"x", "pairs.txt": LIST})
    wanted = find(f"lfw:{tmp_path}/x/lfw_funneled", SET_LABELLED, raw)
    place = locate.locate(wanted, raw, tmp_path / "unpacked")
    assert place.images == tmp_path / "x" / "lfw_funneled"
    assert place.sides == {"pairs.txt": tmp_path / "x" / "pairs.txt"}


def test_what_is_converted_is_converted_once(raw, tmp_path, monkeypatch, held):
    source, _ = held
    calls = []

    def convert(file, target):
        calls.append(file)
        with files.atomic_folder(target) as folder:
            files.write_blocks(folder / "1.jpg", [file.read_bytes()])
        return target

    monkeypatch.setitem(SOURCES, "held", replace(source, images="held.csv", convert=convert, downloads=()))
    make_folder(raw / "there", {"held.csv": b"first"})
    for _ in range(2):
        place = locate.locate(find("held", SET_LABELLED, raw), raw, tmp_path / "unpacked")
        assert (place.images / "1.jpg").read_bytes() == b"first"
    assert len(calls) == 1
    make_folder(raw / "there", {"held.csv": b"again"})
    place = locate.locate(find("held", SET_LABELLED, raw), raw, tmp_path / "unpacked")
    assert (place.images / "1.jpg").read_bytes() == b"again"
    locate.clear_unused([place], tmp_path / "unpacked")
    assert len(list((tmp_path / "unpacked").glob("held-*"))) == 1


# --- unpacking ---


def test_an_archive_is_unpacked_once_and_again_when_it_changed(raw, tmp_path, monkeypatch):
    unpacked = tmp_path / "unpacked"
    calls = []
    unpack = archives._fill
    monkeypatch.setattr(archives, "_fill", lambda *args: calls.append(1) or unpack(*args))
    path = make_zip(tmp_path / "mine.zip", PEOPLE)

    def images():
        return locate.locate(find(str(path), SET_LABELLED, raw), raw, unpacked).images

    first = images()
    assert images() == first
    assert len(calls) == 1
    os.utime(path, (1, 1))  # another date alone is no other archive
    assert images() == first
    assert len(calls) == 1
    make_zip(path, PEOPLE | {"cy/1.jpg": b"cy"})
    second = images()
    assert len(calls) == 2
    assert second != first
    assert {path.parent.name for path in second.rglob("*.jpg")} == {"ann", "bob", "cy"}


def test_what_no_source_uses_any_more_goes(tmp_path):
    """An older version, another source's, and what a killed unpacking left; not what is in use."""
    unpacked = tmp_path / "unpacked"
    for name in ("a[b]-1/photos", "a[b]-2/photos", "other-1", ".a[b]-3.partial"):
        (unpacked / name).mkdir(parents=True)
    (unpacked / ".lock").touch()
    locate.clear_unused([Place(unpacked / "a[b]-2" / "photos", {}), Place(Path(), {})], unpacked)
    assert sorted(path.name for path in unpacked.iterdir()) == [".lock", "a[b]-2"]
    assert (unpacked / "a[b]-2" / "photos").is_dir()


def test_nothing_is_written_beside_raw_data_that_is_whole(raw, tmp_path, listed):
    make_tar(raw / "lfw" / "lfw-funneled.tgz", LFW)
    make_folder(raw / "lfw", dict.fromkeys(("pairs.txt", "pairsDevTrain.txt", "pairsDevTest.txt"), LIST))
    before = tree(raw)
    for path in (raw / "lfw", raw):
        path.chmod(0o555)
    try:
        assert listed("lfw") == [("lfw/Ann_Lee/0001", "Ann_Lee"), ("lfw/Bo/0001", "Bo")]
        assert tree(raw) == before
    finally:
        for path in (raw, raw / "lfw"):
            path.chmod(0o755)


def test_two_processes_do_not_unpack_at_a_time(raw, tmp_path):
    path = make_zip(tmp_path / "mine.zip", PEOPLE)
    with (
        files.exclusive(tmp_path / "unpacked" / ".lock"),
        pytest.raises(UsageError, match="in use by process"),
    ):
        locate.locate(find(str(path), SET_LABELLED, raw), raw, tmp_path / "unpacked")


# --- what is missing ---


@pytest.mark.parametrize(
    "name", [name for name, source in SOURCES.items() if source.images and not source.downloads]
)
def test_a_data_set_behind_a_form_is_told_where_to_get(raw, tmp_path, name):
    source = SOURCES[name]
    wanted = find(name, SET_LABELLED, raw)
    assert locate.availability(wanted, raw) == MISSING
    with pytest.raises(DataError) as caught:
        locate.locate(wanted, raw, tmp_path / "unpacked")
    message = str(caught.value)
    for part in (source.title, str(raw / source.folder), source.address, source.licence):
        assert part in message
    assert caught.value.exit_code == 3
    assert "\n" not in message
    assert list(tmp_path.iterdir()) == [raw]


# --- downloads ---


def test_what_is_missing_is_downloaded_with_its_lists(raw, listed, net, held):
    content = held[1]
    there, asked = net
    there.update(content)
    wanted = find("held", SET_LABELLED, raw)
    assert locate.availability(wanted, raw) == DOWNLOADABLE
    assert listed("held") == [("held/1", None), ("held/2", None)]
    assert asked == ["held.zip", "list.txt", "more.txt"]
    assert locate.availability(wanted, raw) == READY
    assert listed("held") == [("held/1", None), ("held/2", None)]
    assert len(asked) == 3, "what is there is not asked for again"
    assert {path.name for path in (raw / "there").iterdir()} >= set(content)


def test_missing_images_that_cannot_be_downloaded_stop(raw, listed, net, held):
    with pytest.raises(DataError, match=r"held\.zip could not be downloaded; fetch it yourself"):
        listed("held")


def test_lists_missing_beside_photos_are_fetched_and_only_those(raw, tmp_path, net, held):
    content = held[1]
    there, asked = net
    there.update(content)
    make_folder(raw / "there", {"held.zip": content["held.zip"], "more.txt": b"my own"})
    place = locate.locate(find("held", SET_LABELLED, raw), raw, tmp_path / "unpacked")
    assert asked == ["list.txt"]
    assert {name: path.read_bytes() for name, path in place.sides.items()} == {
        "list.txt": b"a list", "more.txt": b"my own",
    }  # fmt: skip


@pytest.mark.parametrize("error", [DataError, StorageError])
def test_without_a_network_lists_are_done_without_and_a_line_says_so(
    raw, tmp_path, replaced, held, capsys, error
):
    asked = []

    def offline(remote, folder):
        asked.append(remote.filename)
        raise error("no way out")

    make_folder(raw / "there", {"held.zip": held[1]["held.zip"]})
    with replaced(download, "download", offline):
        place = locate.locate(find("held", SET_LABELLED, raw), raw, tmp_path / "unpacked")
    assert place.sides == {}
    assert asked == ["list.txt"], "one try is enough to know"
    assert "going on without list.txt: no way out" in capsys.readouterr().err


def test_a_named_path_is_not_filled_by_downloads(raw, tmp_path, net, held):
    net[0].update(held[1])
    (tmp_path / "empty").mkdir()
    wanted = find(f"held:{tmp_path}/empty", SET_LABELLED, raw)
    place = locate.locate(wanted, raw, tmp_path / "unpacked")
    assert place.images == tmp_path / "empty"
    assert "held.zip" not in net[1]


# --- the state ---


def test_the_state_is_the_same_before_and_after_a_download(raw, listed, net, held):
    net[0].update(held[1])
    before = locate.state(find("held", SET_LABELLED, raw), raw)
    listed("held")
    assert locate.state(find("held", SET_LABELLED, raw), raw) == before


def test_the_state_changes_with_every_file_that_counts(raw, held):
    def state():
        return locate.state(find("held", SET_LABELLED, raw), raw)

    states = [state()]
    make_folder(raw / "there", {"held.tar": b"an archive of my own"})
    states.append(state())
    make_folder(raw / "there", {"own.csv": b"labels"})
    states.append(state())
    make_folder(raw / "there", {"own.csv": b"labels changed"})
    states.append(state())
    os.utime(raw / "there" / "held.tar", (1, 1))
    states.append(state())
    make_folder(raw / "there", {"list.txt": b"not the published one"})
    states.append(state())
    make_folder(raw / "there", {"held/1.jpg": b"unpacked by hand"})
    states.append(state())
    make_folder(raw / "there", {"held/2.jpg": b"one more"})
    states.append(state())
    (raw / "there" / "held" / "1.jpg").unlink()
    states.append(state())
    assert len(set(states)) == len(states)
    make_folder(raw / "there", {"unrelated.txt": b""})
    assert state() == states[-1]


def test_the_state_of_a_folder_and_an_archive_of_ones_own(raw, tmp_path):
    texts = [str(make_folder(tmp_path / "mine", PEOPLE)), str(make_zip(tmp_path / "mine.zip", PEOPLE)), "orl"]

    def states():
        return [locate.state(find(text, SET_LABELLED, raw), raw) for text in texts]

    before = states()
    assert states() == before
    assert len(set(before)) == 3
    make_folder(tmp_path / "mine", {"cy/1.jpg": b""})
    make_zip(tmp_path / "mine.zip", {"ann/1.jpg": b"other"})
    after = states()
    assert after[2] == before[2]
    assert not set(after[:2]) & set(before)


@pytest.mark.shared_data
def test_the_real_archives_are_found_and_unpacked(tmp_path):
    folder = os.environ.get("FACEMAE_RAW_DIR")
    if not folder or not (Path(folder) / "ck48").is_dir():
        pytest.skip("needs the folder ck48 below FACEMAE_RAW_DIR")
    wanted = find("ck48", SET_LABELLED, Path(folder))
    place = locate.locate(wanted, Path(folder), tmp_path)
    assert sum(1 for _ in wanted.source.photos(place, Counter())) == 981
