import json

import pytest

from facemae.data.sources import SOURCES, VARIANTS
from facemae.data.sources.catalogue import as_table, catalogue
from facemae.data.sources.locate import DOWNLOADABLE, MISSING, READY


@pytest.fixture
def entries(tmp_path):
    return catalogue(tmp_path)


def test_every_data_set_is_listed_once_with_what_a_user_has_to_know(entries):
    assert [each["name"] for each in entries] == [*VARIANTS, *SOURCES]
    for each in entries:
        for key in ("title", "licence", "source", "credit", "state"):
            assert isinstance(each[key], str)
            assert each[key], (each["name"], key)
        assert each["source"].startswith("http")
        assert each["state"] in (READY, DOWNLOADABLE, MISSING)
        assert each["how_to_get"] or each["state"] != MISSING
        assert each["align"] in ("landmarks", "crop")
        source = SOURCES[each["variant"]]
        assert (each["people"], each["images"]) == (source.published_people, source.published_images)
        assert each["pairs"] == (source.pairs is not None)
        assert each["attributes"].keys() == source.attributes.keys()
        assert all(attribute["meaning"] for attribute in each["attributes"].values())


def test_the_list_is_plain_json(entries):
    assert json.loads(json.dumps(entries, allow_nan=False)) == entries


def test_the_state_is_that_of_this_machine(tmp_path, entries):
    states = {each["name"]: each["state"] for each in entries}
    assert states["orl"] == READY
    assert states["celeba"] == MISSING
    assert states["lfw-funneled"] == states["lfw"] == DOWNLOADABLE
    for path in ("celeba/img_align_celeba", "lfw/lfw-deepfunneled"):
        (tmp_path / path).mkdir(parents=True)
    now = {each["name"]: each for each in catalogue(tmp_path)}
    assert now["celeba"]["state"] == now["lfw"]["state"] == READY
    assert now["lfw"]["variant"] == "lfw-deepfunneled"
    assert now["lfw"]["folder"] == str(tmp_path / "lfw")
    assert now["orl"]["folder"] is None


def test_the_table_has_a_line_for_each_in_columns(entries):
    head, *lines = as_table(entries).splitlines()
    column = head.index("title")
    for each, line in zip(entries, lines, strict=False):
        assert line[column:] == each["title"]
        name, people, images = line.split()[:3]
        assert name == each["name"]
        assert people == (f"{each['people']:,}" if each["people"] is not None else "-")
        assert images == (f"{each['images']:,}" if each["images"] is not None else "-")
        assert f" {each['state']} " in line
    assert "--json" in lines[-1]
