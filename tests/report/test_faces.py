"""Photos and their faces, beside the same tables read by hand; warnings and overlaps in words."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_folder import CROPS, DOUBTFUL_NAMES, HOSTILE_PHOTO, LANDMARKS, PEOPLE, SHOTS, make_results

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.data.alignment import quality
from facemae.data.faces import overlaps
from facemae.data.images import open_image
from facemae.data.sources.manifest import read_photo
from facemae.report import charts, curves, faces, tables

FOUND = PEOPLE * SHOTS


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Results:
    folder = tmp_path_factory.mktemp("made")
    make_results(folder)
    return Results(folder)


def test_every_photo_has_an_outcome_and_its_source(paths: Results) -> None:
    table = faces.outcomes(paths).set_index("sample_id")
    assert table["source"].value_counts().to_dict() == {"labelled": FOUND + 1, "unlabelled": CROPS}
    assert table.loc[HOSTILE_PHOTO, "code"] == "NO_FACE"
    assert (table["code"] == "OK").sum() == FOUND + CROPS


def test_a_photo_that_is_listed_twice_is_one_sentence(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    photos = pd.read_parquet(paths.data.photos)
    files.atomic_write(own.data.outcomes, paths.data.outcomes.read_bytes())
    records.write_table(own.data.photos, pd.concat([photos, photos]), list(photos.columns))
    with pytest.raises(IntegrityError, match=r"photos.parquet cannot be read .a photo is there twice"):
        faces.outcomes(own)


def test_the_tally_counts_by_source(paths: Results) -> None:
    rows = faces.tally(paths).to_dict("records")
    assert rows == [
        {"source": "labelled", "photos": FOUND + 1, "faces": FOUND, "doubtful": 3, "OK": FOUND, "NO_FACE": 1},
        {"source": "unlabelled", "photos": CROPS, "faces": CROPS, "doubtful": 0, "OK": CROPS, "NO_FACE": 0},
    ]


def test_quality_has_known_warnings_shares_of_the_side_and_nothing_for_what_was_not_measured(
    paths: Results,
) -> None:
    table = faces.quality(paths).set_index("sample_id")
    assert table.loc[DOUBTFUL_NAMES, "warnings"].tolist() == ["TURNED, ODD", "TURNED", "UNSURE"]
    size = tables.experiment(paths).data.image_size
    assert table.loc[DOUBTFUL_NAMES[0], "residual"] == pytest.approx(12 / size)
    cropped = table[table["source"] == "unlabelled"]
    assert cropped[["score", "face_px", "residual", "yaw"]].isna().all(axis=None)
    assert cropped["sharpness"].notna().all()


def test_an_unknown_warning_is_left_out(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    files.write_json(own.config, records.read_json(paths.config))
    index = pd.read_parquet(paths.data.faces)
    index = index.assign(warnings=[["<b>", "ODD"]] * len(index))
    records.write_table(own.data.faces, index, list(index.columns))
    assert set(faces.quality(own)["warnings"]) == {"ODD"}


def test_a_column_that_was_stored_under_its_earlier_name_is_read(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    files.write_json(own.config, records.read_json(paths.config))
    index = pd.read_parquet(paths.data.faces).rename(columns={"warnings": "doubts"})
    records.write_table(own.data.faces, index, list(index.columns))
    assert faces.quality(own)["warnings"].equals(faces.quality(paths)["warnings"])
    records.write_table(own.data.faces, index.drop(columns="yaw"), [c for c in index if c != "yaw"])
    with pytest.raises(IntegrityError, match=r"lacks the column yaw; align the photos again\."):
        faces.quality(own)


def test_faces_are_found_in_their_shards_and_those_that_are_not_there_left_out(paths: Results) -> None:
    names = records.read_table(paths.data.faces)["sample_id"].to_list()
    cache = np.load(paths.data.cache)
    chosen = [names[0], names[-1], names[51]]
    found = faces.aligned(paths, [*chosen, "gone", HOSTILE_PHOTO])
    assert found.keys() == set(chosen)
    for name in chosen:
        np.testing.assert_array_equal(np.asarray(open_image(found[name])), cache[names.index(name)])
    with pytest.raises(IntegrityError):
        faces.face(paths, "gone")


def test_a_face_leads_to_its_photo(paths: Results) -> None:
    photo, landmarks = faces.origin(paths, DOUBTFUL_NAMES[0])
    assert photo.sample_id == DOUBTFUL_NAMES[0]
    assert open_image(read_photo(photo)).size == (64, 64)
    np.testing.assert_allclose(landmarks, LANDMARKS * 6.4)
    assert faces.origin(paths, "unlabelled/0.png")[1] is None
    with pytest.raises(IntegrityError):
        faces.origin(paths, "gone")


def test_one_of_several_faces_of_a_photo_leads_to_it_too(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    index = pd.read_parquet(paths.data.faces).head(1)
    index = index.assign(sample_id=index["sample_id"] + "#2", face=1)
    records.write_table(own.data.faces, index, list(index.columns))
    files.atomic_write(own.data.photos, paths.data.photos.read_bytes())
    assert faces.origin(own, index["sample_id"][0])[0].sample_id == DOUBTFUL_NAMES[0]


def test_photos_may_be_part_of_a_file(paths: Results, tmp_path: Path) -> None:
    own = Results(tmp_path)
    table = pd.read_parquet(paths.data.photos)
    table.loc[0, ["offset", "length"]] = [7, 100]
    records.write_table(own.data.photos, table, layout.PHOTO_COLUMNS)
    names = table["sample_id"].to_list()
    found = faces.photos(own, [names[0], names[1], "gone"])
    assert found.keys() == set(names[:2])
    assert [(found[name].offset, found[name].length) for name in names[:2]] == [(7, 100), (0, None)]


@pytest.mark.parametrize("content", [[], {}, [{"name": "a"}], ["a"], [{"ignored": 3}], None, "twice"])
def test_sources_that_cannot_be_understood_are_one_sentence(
    paths: Results, tmp_path: Path, content: object
) -> None:
    known = records.read_json(paths.data.sources)
    files.write_json(Results(tmp_path).data.sources, known[:1] * 2 if content == "twice" else content)
    with pytest.raises(IntegrityError, match=r"cannot be read|not as this version writes it"):
        faces.sources(Results(tmp_path))


def test_credits_name_every_source(paths: Results) -> None:
    sentences = faces.credits(paths)
    assert len(sentences) == 2
    assert all("Credit: us. Licence: that of [nobody](https://example.org)." in each for each in sentences)


@pytest.fixture
def measured() -> pd.DataFrame:
    """Five faces as a detector found them and one that was taken as it is."""
    missing = float("nan")
    return pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "score": [0.999, 0.9, 0.8, 0.999, 0.999, missing],
            "face_px": [100.0, 100.0, 20.0, 100.0, 100.0, missing],
            "residual": [0.01, 0.01, 0.01, 0.01, 0.01, missing],
            "yaw": [0.0, 50.0, 0.0, -70.0, 10.0, missing],
            "sharpness": [900.0, 900.0, 900.0, 900.0, 1.0, 500.0],
            "warnings": ["", "TURNED, UNSURE", "SMALL, UNSURE", "TURNED", "BLURRED", ""],
        }
    )


def test_every_warning_has_its_measure() -> None:
    assert quality.WARNINGS.keys() - faces.BY_WARNING.keys() == {quality.LYING}
    assert len({measure.column for measure in faces.MEASURES}) == len(faces.MEASURES)


@pytest.mark.parametrize(
    ("warning", "expected"),
    [("UNSURE", "cb"), ("TURNED", "db"), ("BLURRED", "e"), ("ODD", ""), (None, "bcedfa")],
)
def test_the_worst_face_is_first(measured: pd.DataFrame, warning: str | None, expected: str) -> None:
    found = faces.worst_first(measured, warning)
    assert "".join(found["sample_id"]) == expected
    assert list(found.columns) == list(measured.columns)


def test_a_warning_that_is_no_measurement_has_faces_but_no_value(measured: pd.DataFrame) -> None:
    turned = measured.assign(warnings=["LYING", *[""] * 5])
    assert faces.worst_first(turned, quality.LYING)["sample_id"].tolist() == ["a"]
    assert faces.doubtful_value(quality.LYING, {}) == ""


@pytest.mark.parametrize("measure", faces.MEASURES, ids=lambda measure: measure.column)
def test_a_histogram_counts_each_face_on_its_side_of_the_limit(measure: faces.Measure) -> None:
    values = measure.limit * np.array([0.1, 0.5, 0.99, 1.01, 1.5, 7.0])
    values = np.concatenate([values, -values]) if len(measure.limits) == 2 else values
    bins = faces.histogram(pd.DataFrame({measure.column: [*values, float("nan")]}), measure)
    assert bins["faces"].sum() == len(values)
    beyond = values < measure.limit if measure.low else abs(values) > measure.limit
    assert bins.loc[bins["doubtful"], "faces"].sum() == beyond.sum()


def test_every_overlap_has_words() -> None:
    kinds, actions = [*overlaps.LEAKAGE_CHECKS, "copy"], [overlaps.EXCLUDED, overlaps.DROPPED, overlaps.KEPT]
    for kind in kinds:
        for action in actions:
            assert faces.overlap_words(kind, action) != f"{kind}, {action}"
            assert action not in faces.overlap_words(kind, action).split(", ")
    assert faces.overlap_words("<b>", "gone") == "<b>, gone"


def test_a_confidence_of_one_is_not_drawn_beyond_one() -> None:
    scores = np.float32([1.0, 0.9999, 0.9951])
    bins = faces.histogram(pd.DataFrame({"score": scores}), faces.BY_WARNING["UNSURE"])
    assert bins["faces"].tolist() == [3]
    assert bins["centre"].tolist() == pytest.approx([0.9975])


def test_values_below_a_logarithmic_axis_are_drawn_at_its_end() -> None:
    bins = faces.histogram(pd.DataFrame({"sharpness": [0.0, 0.1]}), faces.BY_WARNING["BLURRED"])
    assert bins["faces"].tolist() == [2]
    assert bins["doubtful"].all()


def test_what_was_not_measured_is_written_as_nothing() -> None:
    turn = faces.BY_WARNING["TURNED"]
    assert [turn.text(value) for value in (None, float("nan"), -52.4)] == ["", "", "-52\N{DEGREE SIGN}"]


def test_quality_charts_tell_doubtful_faces_and_draw_the_limits(measured: pd.DataFrame) -> None:
    figure = charts.draw(curves.quality(measured, faces.BY_WARNING["TURNED"]))
    assert [int(sum(trace.y)) for trace in figure.data] == [3, 2]
    assert [line.x0 for line in figure.layout.shapes] == [-quality.MAX_YAW, quality.MAX_YAW]
    width = charts.draw(curves.quality(measured, faces.BY_WARNING["SMALL"]))
    assert width.layout.shapes[0].x0 == pytest.approx(np.log10(quality.MIN_FACE_PX))
    labels = dict(zip(width.layout.xaxis.ticktext, width.layout.xaxis.tickvals, strict=True))
    assert labels["50"] == pytest.approx(np.log10(50))
    assert not charts.draw(curves.quality(measured.head(0), faces.BY_WARNING["SMALL"])).data[0].y.size
