import json
import os
import shutil
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from facemae.core import layout, records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.files import exclusive, sha256, write_json
from facemae.core.layout import DataFolder
from facemae.data.faces.cache import build_cache, open_faces
from facemae.data.images import open_image
from facemae.data.sources import manifest
from facemae.data.sources.locate import raw_dir
from facemae.data.sources.orl import orl_photos
from facemae.models.build import build_embedder
from facemae.models.weights import save_weights
from facemae.stages import data as prepare

PEOPLE = 8


def photo(person, shot):
    return open_image(orl_photos_by_name()[f"s{person:02}", shot])


_ORL = {}


def orl_photos_by_name():
    if not _ORL:
        _ORL.update({(each.person, int(each.sample_id[-2:])): each.path for each in orl_photos()})
    return _ORL


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight people with two photos each in different formats, and a flat folder of strangers."""
    folder = tmp_path_factory.mktemp("photos")
    for person in range(1, PEOPLE + 1):
        home = folder / "labelled" / f"person {person}"
        home.mkdir(parents=True)
        photo(person, 1).save(home / "a.png")
        photo(person, 2).save(home / "b.jpg", quality=95)
    strangers = folder / "unlabelled"
    strangers.mkdir()
    photo(20, 1).save(strangers / "x.webp", lossless=True)
    (strangers / "again.png").write_bytes((folder / "labelled" / "person 3" / "a.png").read_bytes())
    (strangers / "notes.jpg").write_text("no picture")
    (strangers / "notes.txt").write_text("no picture")
    Image.new("RGB", (92, 112), "grey").save(strangers / "wall.png")
    return folder


@pytest.fixture(scope="module")
def configured(small, corpus):
    def make(**data):
        folders = {"labelled": str(corpus / "labelled"), "unlabelled": [str(corpus / "unlabelled")]}
        return small(
            data=folders | {"image_size": 64, "max_skipped": 0.2} | data,
            defaults={"model": {"patch_size": 16}},
        )

    return make


def fetch(experiment, folder):
    data = experiment.data
    prepare.fetch(prepare.wanted_sources(data), raw_dir(data.raw_dir), folder)
    prepare.check_people(folder, data)


def align(experiment, folder, workers=1):
    prepare.align(experiment.data, folder, "cpu", workers)


@pytest.fixture(scope="module")
def prepared(configured, tmp_path_factory):
    """The data stages, run once on the corpus."""
    folder = DataFolder(tmp_path_factory.mktemp("results"))
    experiment = configured()
    fetch(experiment, folder)
    align(experiment, folder)
    build_cache(folder)
    prepare.split(experiment, folder)
    return folder


def test_fetch_lists_every_photo_with_its_person_and_place(prepared, corpus):
    table = records.read_table(prepared.photos)
    assert list(table.columns) == layout.PHOTO_COLUMNS
    assert len(table) == 2 * PEOPLE + 4
    named = table[table["person"].notna()]
    assert set(named["person"]) == {f"person {k}" for k in range(1, PEOPLE + 1)}
    assert set(named["set"]) == {layout.SET_LABELLED}
    assert sorted(table.loc[table["set"] == layout.SET_UNLABELLED, "sample_id"]) == [
        f"unlabelled/{name}" for name in ("again.png", "notes.jpg", "wall.png", "x.webp")
    ]
    for row in table.itertuples():
        path = corpus / row.sample_id
        assert os.fsdecode(row.path) == str(path)
        assert (row.sha256, row.bytes) == (sha256(path.read_bytes()), path.stat().st_size)


def test_crops_are_readable_by_their_owner_only(prepared):
    assert prepared.shards.stat().st_mode & 0o777 == 0o700
    assert prepared.unpacked.stat().st_mode & 0o777 == 0o700
    assert prepared.cache.stat().st_mode & 0o777 == 0o600


def test_files_beside_photos_are_counted(prepared):
    _, unlabelled = records.read_json(prepared.sources)
    assert unlabelled["ignored"] == {"no picture": 1}


def test_fetch_writes_down_where_the_photos_come_from(prepared):
    labelled, unlabelled = records.read_json(prepared.sources)
    assert (labelled["set"], labelled["photos"], labelled["people"]) == ("labelled", 2 * PEOPLE, PEOPLE)
    assert (unlabelled["set"], unlabelled["photos"], unlabelled["people"]) == ("unlabelled", 4, 0)
    assert labelled["licence"]


def test_photos_are_not_listed_while_others_are_aligned_in_the_folder(configured, tmp_path):
    data, folder = configured().data, DataFolder(tmp_path / "data")
    (folder.shards).mkdir(parents=True)
    with exclusive(folder.shards / ".lock"), pytest.raises(UsageError, match="is in use by process"):
        prepare.fetch(prepare.wanted_sources(data), raw_dir(data.raw_dir), folder)
    assert not folder.photos.exists()


def test_align_says_what_became_of_every_photo(prepared):
    outcomes = records.read_log(prepared.outcomes)
    listed = records.read_table(prepared.photos)["sample_id"].to_list()
    assert [each["sample_id"] for each in outcomes] == listed
    refused = {each["sample_id"]: each["code"] for each in outcomes if each["code"] != "OK"}
    assert refused == {"unlabelled/notes.jpg": "E_NOT_IMAGE", "unlabelled/wall.png": "NO_FACE"}
    assert all(each["reason"] and each["hint"] for each in outcomes if each["code"] != "OK")


def test_the_cache_holds_the_faces_of_the_size_asked_for(prepared):
    index = records.read_table(prepared.faces)
    faces = open_faces(prepared, index).loaded()
    assert faces.images.shape == (2 * PEOPLE + 2, 64, 64, 3)
    assert (faces.images.reshape(len(index), -1).std(axis=1) > 10).all()
    same, again = (
        faces.images[faces.sample_ids.index(name)]
        for name in ("labelled/person 3/a.png", "unlabelled/again.png")
    )
    assert np.array_equal(same, again)


def test_split_gives_every_face_a_role_and_leaves_out_the_copy(prepared, capsys, configured):
    table = records.read_table(prepared.split)
    assert list(table.columns) == layout.SPLIT_COLUMNS
    assert table["role"].value_counts().to_dict() == {"train": PEOPLE, "evaluation": PEOPLE, "unlabelled": 1}
    assert table.loc[table["role"] == "unlabelled", "sample_id"].to_list() == ["unlabelled/x.webp"]
    before = prepared.split.read_bytes()
    prepare.split(configured(), prepared)
    assert prepared.split.read_bytes() == before
    assert "evaluation: 8 faces of 4 people" in capsys.readouterr().err


@pytest.mark.parametrize("side", [64, 32])
def test_split_compares_faces_by_an_embedder_of_their_size_alone(prepared, configured, tmp_path, side):
    experiment, folder = configured(), DataFolder(tmp_path / "data")
    shutil.copytree(prepared.root, folder.root)
    model = experiment.defaults.model
    save_weights(build_embedder(model, side), tmp_path / layout.EMBEDDER)
    write_json(tmp_path / layout.CONFIG, {"model": model.model_dump(), "image_size": side})
    split = experiment.split.model_copy(update={"embedder": str(tmp_path), "same_cosine": 0.999999})
    asked = experiment.model_copy(update={"split": split})
    if side == 64:
        prepare.split(asked, folder)
        assert (records.read_table(folder.split)["role"] == "evaluation").sum() == PEOPLE
    else:
        with pytest.raises(UsageError, match="takes faces of 32 x 32 pixels"):
            prepare.split(asked, folder)


def test_split_draws_pairs_of_evaluation_people(prepared):
    pairs = records.read_table(prepared.pairs)
    evaluated = records.read_table(prepared.split).query("role == 'evaluation'").set_index("sample_id")
    people = evaluated["person"]
    assert pairs["genuine"].sum() == len(pairs) / 2 == 4
    same = pairs["first"].map(people).to_numpy() == pairs["second"].map(people).to_numpy()
    assert np.array_equal(same, pairs["genuine"])


def test_photos_that_come_later_are_aligned_alone_and_those_that_go_are_forgotten(
    configured, corpus, prepared, tmp_path, capsys
):
    home = tmp_path / "labelled"
    shutil.copytree(corpus / "labelled", home)
    folder, experiment = DataFolder(tmp_path / "data"), configured(labelled=str(home), unlabelled=[])
    fetch(experiment, folder)
    align(experiment, folder)
    (shard,) = folder.shards.rglob("*.parquet")
    before = shard.read_bytes()
    photo(30, 1).save(home / "person 1" / "c.png")
    fetch(experiment, folder)
    capsys.readouterr()
    align(experiment, folder)
    assert f"{2 * PEOPLE} of {2 * PEOPLE + 1} photos are aligned already" in capsys.readouterr().err
    assert shard.read_bytes() == before
    assert len(records.read_table(folder.faces)) == 2 * PEOPLE + 1
    (home / "person 1" / "c.png").unlink()
    fetch(experiment, folder)
    align(experiment, folder)
    assert len(records.read_table(folder.faces)) == 2 * PEOPLE
    assert [path.read_bytes() for path in folder.shards.rglob("*.parquet")] == [before]


def test_other_settings_make_other_faces_and_the_old_ones_go(configured, prepared, tmp_path):
    folder = DataFolder(tmp_path / "data")
    shutil.copytree(prepared.root, folder.root)
    (old,) = folder.shards.rglob("*.parquet")
    align(configured(image_size=96), folder)
    (new,) = folder.shards.rglob("*.parquet")
    assert new.parent != old.parent
    build_cache(folder)
    assert open_faces(folder, records.read_table(folder.faces)).loaded().images.shape[1] == 96


def test_too_many_photos_without_a_face_stop_the_run_and_are_listed(configured, prepared, tmp_path):
    folder = DataFolder(tmp_path)
    few = [
        entry
        for entry in manifest.read(prepared.photos)
        if any(part in entry.photo.sample_id for part in ("person 1", "notes", "wall"))
    ]
    manifest.write(folder.photos, few, {})
    shutil.copy(prepared.sources, folder.sources)
    with pytest.raises(DataError, match=r"2 of 4 photos \(50\.0%\) have no usable face, more than") as caught:
        align(configured(), folder)
    assert caught.value.exit_code == 3
    assert str(folder.rejected) in str(caught.value)
    codes = [json.loads(line)["code"] for line in folder.rejected.read_text().splitlines()]
    assert codes == ["E_NOT_IMAGE", "NO_FACE"]
    align(configured(max_skipped=0.5), folder)  # a share of exactly the limit is allowed
    manifest.write(folder.photos, few[-2:], {})
    with pytest.raises(DataError, match=r"2 of 2 photos \(100\.0%\)"):
        align(configured(max_skipped=1.0), folder)


def test_the_summary_has_at_most_ten_lines(prepared, capsys, tmp_path):
    folder = DataFolder(tmp_path)
    records.write_lines(folder.rejected, [{"code": f"E_{n}", "sample_id": f"photo {n}"} for n in range(20)])
    prepare._summarise(Counter({f"E_{n}": 1 for n in range(20)} | {"OK": 5}), folder)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == prepare.SUMMARY_LINES
    assert "[align] OK: 5" in lines
    assert "[align] E_0: 1 (photo 0)" in lines
    assert "13 photos of 13 other outcomes" in lines[-2]


def test_one_person_is_not_enough(configured, tmp_path, corpus):
    home = tmp_path / "photos" / "ann"
    home.mkdir(parents=True)
    (home / "a.png").write_bytes((corpus / "labelled" / "person 1" / "a.png").read_bytes())
    experiment = configured(labelled=str(home.parent), unlabelled=[])
    with pytest.raises(
        DataError, match=r"^data\.labelled: .* names 1 people where at least 2 are needed"
    ) as caught:
        fetch(experiment, DataFolder(tmp_path / "data"))
    assert caught.value.exit_code == 3


def test_a_flat_folder_names_nobody(configured, tmp_path, corpus):
    with pytest.raises(DataError, match="names 0 people"):
        fetch(configured(labelled=str(corpus / "unlabelled"), unlabelled=[]), DataFolder(tmp_path))


@pytest.mark.parametrize(
    ("places", "mend"),
    [
        (("faces/ann/a.png", "faces/bob/b.png"), "name the folder faces in it instead"),
        (("ann/2001/a.png", "bob/b/b.png"), "move them up"),
    ],
)
def test_a_folder_that_is_nested_too_deep_is_said_to_be_that(configured, tmp_path, corpus, places, mend):
    for place in places:
        (tmp_path / "photos" / place).parent.mkdir(parents=True)
        shutil.copy(corpus / "labelled" / "person 1" / "a.png", tmp_path / "photos" / place)
    experiment = configured(labelled=str(tmp_path / "photos"), unlabelled=[])
    with pytest.raises(
        DataError,
        match=rf"names 0 people .*2 photos lie one folder too deep, such as {places[0]}, .*{mend}\.$",
    ):
        fetch(experiment, DataFolder(tmp_path / "data"))


def test_folders_that_are_not_there(configured, tmp_path):
    for changes in ({"labelled": str(tmp_path / "nowhere")}, {"unlabelled": [str(tmp_path / "nowhere")]}):
        with pytest.raises(UsageError, match="is neither a known data set nor a folder or file"):
            fetch(configured(**changes), DataFolder(tmp_path))


def test_one_data_set_in_two_places_is_refused(configured, corpus):
    for changes in ({"labelled": "orl", "unlabelled": ["orl"]},
                    {"labelled": "lfw-funneled", "unlabelled": ["lfw-original"]}):  # fmt: skip
        with pytest.raises(UsageError, match="name each data set only once"):
            prepare.wanted_sources(configured(**changes).data)


def test_two_unlabelled_folders_are_told_apart(configured, corpus, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(corpus / "unlabelled", again)
    folder = DataFolder(tmp_path / "data")
    fetch(configured(unlabelled=[str(corpus / "unlabelled"), str(again)]), folder)
    assert len(records.read_table(folder.photos)) == 2 * PEOPLE + 8


def test_a_listing_that_lost_its_shards_is_refused(prepared, tmp_path):
    folder = DataFolder(tmp_path / "data")
    shutil.copytree(prepared.root, folder.root)
    shutil.rmtree(folder.shards)
    folder.cache.unlink()
    with pytest.raises(IntegrityError, match="is missing; align the photos again"):
        build_cache(folder)


def test_file_names_that_are_no_text_are_followed(configured, tmp_path, corpus):
    for person in (b"ann", b"b\xe9a"):
        home = os.path.join(os.fsencode(tmp_path / "photos"), person)  # noqa: PTH118 - bytes
        os.makedirs(home)  # noqa: PTH103
        with open(os.path.join(home, b"\xff.png"), "wb") as file:  # noqa: PTH118
            file.write((corpus / "labelled" / "person 1" / "a.png").read_bytes())
    folder = DataFolder(tmp_path / "data")
    fetch(configured(labelled=str(tmp_path / "photos"), unlabelled=[]), folder)
    photos = [entry.photo for entry in manifest.read(folder.photos)]
    assert [each.person for each in photos] == ["ann", "b\\udce9a"]
    assert all(open_image(each.path).size == (92, 112) for each in photos)


def test_a_photo_that_could_not_be_read_gets_another_chance(configured, corpus, tmp_path):
    """An unplugged drive is no property of the photos on it."""
    home, away = tmp_path / "labelled", tmp_path / "away"
    shutil.copytree(corpus / "labelled", home)
    folder, experiment = DataFolder(tmp_path / "data"), configured(labelled=str(home), unlabelled=[])
    fetch(experiment, folder)
    home.rename(away)
    with pytest.raises(DataError, match="have no usable face"):
        align(experiment, folder)
    assert {each["code"] for each in records.read_log(folder.outcomes)} == {"E_PERMISSION"}
    away.rename(home)
    align(experiment, folder)
    assert {each["code"] for each in records.read_log(folder.outcomes)} == {"OK"}


def test_results_inside_the_photos_are_refused(configured, corpus, tmp_path):
    home = tmp_path / "labelled"
    shutil.copytree(corpus / "labelled", home)
    with pytest.raises(UsageError, match="lies inside the photos' folder"):
        fetch(configured(labelled=str(home), unlabelled=[]), DataFolder(home / "out"))
    (home / "linked").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(
        UsageError, match=r"lies inside the photos' folder .*elsewhere, which a link in .* leads to"
    ):
        fetch(configured(labelled=str(home), unlabelled=[]), DataFolder(tmp_path / "elsewhere" / "out"))


def test_what_was_unpacked_for_a_source_that_is_gone_goes(configured, corpus, tmp_path):
    archive = shutil.make_archive(str(tmp_path / "people"), "zip", corpus / "labelled")
    folder = DataFolder(tmp_path / "data")
    fetch(configured(labelled=archive, unlabelled=[]), folder)
    assert [path for path in folder.unpacked.iterdir() if path.is_dir()]
    fetch(configured(unlabelled=[]), folder)
    assert [path for path in folder.unpacked.iterdir() if path.is_dir()] == []


def test_photos_that_name_nobody_among_the_labelled_are_told(configured, corpus, tmp_path, capsys):
    home = tmp_path / "labelled"
    shutil.copytree(corpus / "labelled", home)
    photo(30, 1).save(home / "loose.png")
    fetch(configured(labelled=str(home), unlabelled=[]), DataFolder(tmp_path / "data"))
    assert "1 photos name nobody" in capsys.readouterr().err
