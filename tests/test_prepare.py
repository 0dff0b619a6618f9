import json
import os

import numpy as np
import pytest
from PIL import Image

from facemae import prepare, results
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.errors import DataError, IntegrityError, UsageError
from facemae.files import sha256

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
    (strangers / "notes.txt").write_text("no picture")
    Image.new("RGB", (92, 112), "grey").save(strangers / "wall.png")
    return folder


@pytest.fixture(scope="module")
def configured(small, corpus):
    def make(**data):
        folders = {"labelled": str(corpus / "labelled"), "unlabelled": str(corpus / "unlabelled")}
        return small(
            data=folders | {"image_size": 64, "max_skipped": 0.2} | data,
            defaults={"model": {"patch_size": 16}},
        )

    return make


@pytest.fixture(scope="module")
def prepared(configured, tmp_path_factory):
    """The data stages, run once on the corpus."""
    paths = results.Results(tmp_path_factory.mktemp("results"))
    experiment = configured()
    prepare.fetch(experiment, paths.photos)
    prepare.align(experiment, paths.photos, paths.faces, paths.outcomes, 1)
    prepare.split(experiment, paths.faces, paths.split)
    return paths


def test_fetch_lists_every_photo_with_its_person_and_place(prepared, corpus):
    table = results.read_table(prepared.photos)
    assert list(table.columns) == results.PHOTO_COLUMNS
    assert len(table) == 2 * PEOPLE + 4
    named = table[table["person"].notna()]
    assert set(named["person"]) == {f"person {k}" for k in range(1, PEOPLE + 1)}
    assert all(
        name.startswith(f"labelled/{person}/")
        for name, person in zip(named["sample_id"], named["person"], strict=True)
    )
    assert sorted(table.loc[table["person"].isna(), "sample_id"]) == [
        f"unlabelled/{name}" for name in ("again.png", "notes.txt", "wall.png", "x.webp")
    ]
    for name, path in zip(table["sample_id"], table["path"], strict=True):
        assert os.fsdecode(path) == str(corpus / name)


def test_align_says_what_became_of_every_photo(prepared):
    outcomes = results.read_log(prepared.outcomes)
    listed = results.read_table(prepared.photos)["sample_id"].to_list()
    assert [each["sample_id"] for each in outcomes] == listed
    refused = {each["sample_id"]: each["code"] for each in outcomes if each["code"] != "OK"}
    assert refused == {"unlabelled/notes.txt": "E_NOT_IMAGE", "unlabelled/wall.png": "NO_FACE"}
    assert all(each["reason"] and each["hint"] for each in outcomes if each["code"] != "OK")


def test_align_stores_faces_of_the_size_asked_for_with_the_hash_of_their_photo(prepared, corpus):
    table = results.read_table(prepared.faces)
    assert list(table.columns) == results.FACE_COLUMNS
    assert len(table) == 2 * PEOPLE + 2
    for row in table.itertuples():
        image = np.asarray(open_image(row.image))
        assert image.shape == (64, 64, 3)
        assert image.std() > 10
        assert row.sha256 == sha256((corpus / row.sample_id).read_bytes())


def test_two_photos_of_a_person_are_aligned_alike(prepared):
    """Different files, the same pixels but for compression: only the eyes' place matters."""
    table = results.read_table(prepared.faces).set_index("sample_id")
    same = np.asarray(open_image(table.loc["labelled/person 3/a.png", "image"])).astype(float)
    again = np.asarray(open_image(table.loc["unlabelled/again.png", "image"])).astype(float)
    assert np.array_equal(same, again)


def test_split_gives_every_face_a_role_and_leaves_out_the_copy(prepared, capsys, configured):
    table = results.read_table(prepared.split)
    assert list(table.columns) == results.SPLIT_COLUMNS
    assert table["role"].value_counts().to_dict() == {"train": PEOPLE, "evaluation": PEOPLE, "unlabelled": 1}
    assert table.loc[table["role"] == "unlabelled", "sample_id"].to_list() == ["unlabelled/x.webp"]
    before = prepared.split.read_bytes()
    prepare.split(configured(), prepared.faces, prepared.split)
    assert prepared.split.read_bytes() == before
    told = capsys.readouterr().err
    assert "evaluation: 8 faces of 4 people" in told
    assert "left out 1 faces" in told


def test_too_many_photos_without_a_face_stop_the_run_and_are_listed(configured, prepared, tmp_path):
    out, outcomes = tmp_path / "faces.parquet", tmp_path / "report.jsonl"
    listed = results.read_table(prepared.photos)
    few = listed[listed["sample_id"].str.contains("person 1|notes|wall")]
    results.write_table(tmp_path / "photos", few, results.PHOTO_COLUMNS)
    with pytest.raises(DataError, match=r"2 of 4 photos \(50%\) have no usable face, more than") as caught:
        prepare.align(configured(), tmp_path / "photos", out, outcomes, 1)
    assert caught.value.exit_code == 3
    listing = tmp_path / "rejected.jsonl"
    assert str(listing) in str(caught.value)
    assert [json.loads(line)["code"] for line in listing.read_text().splitlines()] == [
        "E_NOT_IMAGE",
        "NO_FACE",
    ]
    assert not out.exists()
    assert not outcomes.exists()


def test_a_share_of_exactly_the_limit_is_allowed_but_never_all(tmp_path):
    records = [{"code": "OK", "sample_id": "a"}, {"code": "NO_FACE", "sample_id": "b"}]
    prepare._report(records, 0.5, tmp_path / "report.jsonl")
    with pytest.raises(DataError, match=r"1 of 2 photos \(50%\)"):
        prepare._report(records, 0.49, tmp_path / "report.jsonl")
    with pytest.raises(DataError, match=r"1 of 1 photos \(100%\)"):
        prepare._report(records[1:], 1.0, tmp_path / "report.jsonl")


def test_the_list_of_rejected_photos_goes_once_they_are_accepted(tmp_path):
    records = [{"code": "OK", "sample_id": "a"}, {"code": "NO_FACE", "sample_id": "b"}]
    with pytest.raises(DataError):
        prepare._report(records, 0.1, tmp_path / "report.jsonl")
    prepare._report(records, 0.5, tmp_path / "report.jsonl")
    assert not (tmp_path / "rejected.jsonl").exists()


def test_one_person_is_not_enough(configured, tmp_path, corpus):
    home = tmp_path / "photos" / "ann"
    home.mkdir(parents=True)
    (home / "a.png").write_bytes((corpus / "labelled" / "person 1" / "a.png").read_bytes())
    experiment = configured(labelled=str(home.parent), unlabelled=None)
    with pytest.raises(
        DataError, match=r"^data\.labelled: .* names 1 people where at least 2 are needed"
    ) as caught:
        prepare.fetch(experiment, tmp_path / "out.parquet")
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out.parquet").exists()


def test_a_flat_folder_names_nobody(configured, tmp_path, corpus):
    with pytest.raises(DataError, match="names 0 people"):
        prepare.fetch(
            configured(labelled=str(corpus / "unlabelled"), unlabelled=None), tmp_path / "out.parquet"
        )


def test_folders_that_are_not_there(configured, tmp_path):
    for key in ("labelled", "unlabelled"):
        with pytest.raises(UsageError, match="is not a folder that can be read"):
            prepare.fetch(configured(**{key: str(tmp_path / "nowhere")}), tmp_path / "out.parquet")


def test_file_names_that_are_no_text_are_followed(configured, tmp_path, corpus):
    for person in (b"ann", b"b\xe9a"):
        home = os.path.join(os.fsencode(tmp_path / "photos"), person)  # noqa: PTH118 - bytes
        os.makedirs(home)  # noqa: PTH103
        with open(os.path.join(home, b"\xff.png"), "wb") as file:  # noqa: PTH118
            file.write((corpus / "labelled" / "person 1" / "a.png").read_bytes())
    prepare.fetch(configured(labelled=str(tmp_path / "photos"), unlabelled=None), tmp_path / "photos.parquet")
    photos = prepare._read_photos(tmp_path / "photos.parquet")
    assert [each.person for each in photos] == ["ann", "b\\udce9a"]
    assert all(open_image(each.path).size == (92, 112) for each in photos)


def test_the_packaged_faces_are_listed_as_they_are(small, tmp_path):
    prepare.fetch(small(), tmp_path / "photos.parquet")
    table = results.read_table(tmp_path / "photos.parquet")
    assert (len(table), table["person"].nunique()) == (400, 40)


def test_a_leaking_split_is_never_written(monkeypatch, configured, prepared, tmp_path):
    def leaking(table, settings):
        roles = results.read_table(prepared.split)
        roles.loc[roles["role"] == "train", "person"] = roles.loc[
            roles["role"] == "evaluation", "person"
        ].iloc[0]
        return roles

    monkeypatch.setattr(prepare, "split_people", leaking)
    with pytest.raises(IntegrityError, match="leaks"):
        prepare.split(configured(), prepared.faces, tmp_path / "split.parquet")
    assert not (tmp_path / "split.parquet").exists()
