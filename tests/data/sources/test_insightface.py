import io
import pickle
import struct
from collections import Counter

import pytest
from PIL import Image

from facemae.core.errors import IntegrityError
from facemae.data.images import open_image
from facemae.data.sources import insightface
from facemae.data.sources.base import Place
from facemae.data.sources.insightface import SOURCES, bin_source, rec_source

NAMED = {source.name: source for source in SOURCES}
TRAINING = [source for source in SOURCES if source.pairs is None]
VERIFICATION = [source for source in SOURCES if source.pairs is not None]


@pytest.fixture
def images():
    """Forty real pictures: the same one, told apart by what follows its end."""
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112), "red").save(buffer, "JPEG")
    return [buffer.getvalue() + bytes([number]) for number in range(40)]


def write_pack(folder, people, images):
    """Write train.rec, train.idx and property as InsightFace's writer does, its table at the end."""
    payloads = [
        struct.pack("<IfQQ", 0, person, number, 0) + image
        for number, (person, image) in enumerate(zip(people, images, strict=False), start=1)
    ]
    end = len(people) + 1
    payloads += [struct.pack("<IfQQ2f", 2, 0, n, 0, n, n + 1) for n in range(end, end + 2)]
    payloads += [struct.pack("<IfQQ2f", 2, 0, 0, 0, end, end + 2)]
    records = [struct.pack("<II", 0xCED7230A, len(each)) + each + bytes(-len(each) % 4) for each in payloads]
    lines, offset = [], 0
    for number, each in enumerate(records, start=1):
        lines.append(f"{number}\t{offset}\n")
        offset += len(each)
    (folder / "train.rec").write_bytes(b"".join(records))
    (folder / "train.idx").write_text("".join(lines))
    (folder / "property").write_text(f"{max(people) + 1},112,112\n")


def training_place(folder, *sides):
    return Place(folder / "train.rec", {side: folder / side for side in sides})


def content(photo):
    return photo.path.read_bytes()[photo.offset : photo.offset + photo.length]


def test_the_packs_have_names_of_their_own():
    assert sorted(NAMED) == sorted(
        [
            *("casia-webface", "ms1mv2", "ms1mv3", "vggface2", "glint360k"),
            *("lfw-bin", "cfp-fp", "agedb-30", "calfw", "cplfw"),
        ]
    )
    assert len({(source.folder, source.images) for source in SOURCES}) == len(SOURCES)


@pytest.mark.parametrize("name", NAMED)
def test_every_pack_says_what_it_is_and_that_it_is_aligned(name):
    source = NAMED[name]
    assert (source.align, source.crop) == ("crop", (0.0, 0.0, 1.0, 1.0))
    assert "non-commercial research" in source.licence
    assert "own terms" in source.licence
    assert source.credit
    assert source.address in source.how_to_get
    assert source.images.endswith((".rec", ".bin"))


def test_what_came_from_ms_celeb_says_that_it_was_withdrawn():
    withdrawn = {name for name, source in NAMED.items() if "Microsoft withdrew in 2019" in source.licence}
    assert withdrawn == {"ms1mv2", "ms1mv3"}


@pytest.mark.parametrize("sides", [(), ("train.idx",), ("train.idx", "property")])
def test_a_training_pack_becomes_photos_of_numbered_people(tmp_path, images, sides):
    people = [0, 0, 1, 2]
    write_pack(tmp_path, people, images)
    ignored = Counter()
    photos = list(NAMED["casia-webface"].photos(training_place(tmp_path, *sides), ignored))
    assert [photo.sample_id for photo in photos] == [f"casia-webface/{n:08}" for n in range(4)]
    assert [photo.person for photo in photos] == [f"casia-webface-{person}" for person in people]
    assert [content(photo) for photo in photos] == images[:4]
    assert open_image(content(photos[3])).size == (112, 112)
    assert not ignored


def test_the_same_number_in_two_packs_is_two_people(tmp_path, images):
    write_pack(tmp_path, [0, 1], images)
    place = training_place(tmp_path)
    people = [{photo.person for photo in source.photos(place, Counter())} for source in TRAINING]
    assert len(set.union(*people)) == 2 * len(TRAINING)


def test_more_people_than_promised_are_refused(tmp_path, images):
    write_pack(tmp_path, [0, 1, 2], images)
    (tmp_path / "property").write_text("2,112,112\n")
    with pytest.raises(IntegrityError, match=r"promises 2 people and record 2 .* shows person 2"):
        list(NAMED["ms1mv2"].photos(training_place(tmp_path, "property"), Counter()))
    assert len(list(NAMED["ms1mv2"].photos(training_place(tmp_path), Counter()))) == 3


def test_an_index_beside_the_pack_is_compared(tmp_path, images):
    write_pack(tmp_path, [0, 1], images)
    (tmp_path / "train.idx").write_text("0\t0\n")
    with pytest.raises(IntegrityError, match="disagree"):
        list(NAMED["vggface2"].photos(training_place(tmp_path, "train.idx"), Counter()))


def verification_place(source, folder, images, same):
    path = folder / source.images
    path.write_bytes(pickle.dumps((images, same), protocol=4))
    return Place(source.convert(path, folder / "unpacked"), {})


def test_a_verification_pack_becomes_photos_of_nobody_and_pairs(tmp_path, images):
    source, same = NAMED["cfp-fp"], [number % 3 == 0 for number in range(20)]
    place = verification_place(source, tmp_path, images, same)
    ignored = Counter()
    photos = {photo.sample_id: photo for photo in source.photos(place, ignored)}
    assert [content(photo) for photo in photos.values()] == images
    assert {photo.person for photo in photos.values()} == {None}
    assert not ignored
    pairs = list(source.pairs(place))
    assert {pair.protocol for pair in pairs} == {"cfp-fp"}
    assert [pair.genuine for pair in pairs] == same
    assert [content(photos[pair.first]) for pair in pairs] == images[0::2]
    assert [content(photos[pair.second]) for pair in pairs] == images[1::2]
    assert [pair.fold for pair in pairs] == [fold for fold in range(10) for _ in range(2)]


@pytest.mark.parametrize(("pairs", "sizes"), [(3, [1, 1, 1]), (7, [1] * 7), (15, [2, 1] * 5)])
def test_folds_are_tenths_even_where_ten_does_not_divide(tmp_path, images, pairs, sizes):
    source = NAMED["agedb-30"]
    place = verification_place(source, tmp_path, images[: 2 * pairs], [True] * pairs)
    folds = [pair.fold for pair in source.pairs(place)]
    assert folds == sorted(folds)
    assert list(Counter(folds).values()) == sizes
    assert max(folds) < insightface.FOLDS


def test_a_verification_pack_that_is_a_program_is_refused(tmp_path):
    path = tmp_path / "lfw.bin"
    path.write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(IntegrityError, match="nothing in it was run"):
        NAMED["lfw-bin"].convert(path, tmp_path / "unpacked")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("path", "name", "index"),
    [
        ("faces_umd/train.rec", "faces_umd", "train.idx"),
        ("packs/asian.rec", "asian", "asian.idx"),
    ],
)
def test_any_other_training_pack_is_known_by_its_path(tmp_path, images, path, name, index):
    file = tmp_path / path
    file.parent.mkdir()
    write_pack(file.parent, [0, 5], images)
    for suffix in (".rec", ".idx"):
        (file.parent / f"train{suffix}").rename(file.with_suffix(suffix))
    source = rec_source(file)
    assert (source.name, source.images) == (name, file.name)
    assert source.sides == (index, "property")
    place = Place(file, {side: file.parent / side for side in source.sides})
    assert [photo.person for photo in source.photos(place, Counter())] == [f"{name}-0", f"{name}-5"]
    file.with_suffix(".idx").write_text("0\t4\n")
    with pytest.raises(IntegrityError, match="disagree"):
        list(source.photos(place, Counter()))


def test_any_other_verification_pack_is_known_by_its_path(tmp_path, images):
    source = bin_source(tmp_path / "vgg2_fp.bin")
    place = verification_place(source, tmp_path, images[:4], [True, False])
    assert next(source.photos(place, Counter())).sample_id == "vgg2_fp/000000"
    assert {pair.protocol for pair in source.pairs(place)} == {"vgg2_fp"}


def test_a_path_that_is_no_text_gives_a_name_that_is(tmp_path):
    source = bin_source(tmp_path / "caf\udce9.bin")
    assert source.name == "caf\\udce9"
    source.name.encode()
