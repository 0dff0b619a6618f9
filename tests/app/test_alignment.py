"""The alignment page: numbers, doubtful faces, one face close up, rejected photos and overlaps."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import open_page, run, written
from PIL import Image
from results_folder import CROPS, DOUBTFUL_NAMES, HOSTILE_PHOTO, PEOPLE, SHOTS
from streamlit.testing.v1 import AppTest

from facemae.app.views import alignment
from facemae.core import layout, records
from facemae.core.layout import Results
from facemae.report import faces

FACES = PEOPLE * SHOTS + CROPS


def chosen(page: AppTest) -> str:
    return str(page.selectbox(key="face").value)


def numbers(page: AppTest) -> dict[str, str]:
    return {metric.label: metric.value for metric in page.metric}


def change_faces(own: Path, **columns: object) -> None:
    path = Results(own).data.faces
    table = pd.read_parquet(path)
    records.write_table(path, table.assign(**columns), list(table.columns))


@pytest.mark.usefixtures("shown")
def test_photos_are_counted_by_outcome_and_source() -> None:
    page = open_page("alignment")
    counted = {"Photos": "77", "Aligned faces": "76", "Doubtful": "3", "Rejected": "1"}
    assert counted.items() <= numbers(page).items()
    table = page.dataframe[0].value.set_index("source")
    assert table["ignored"].to_dict() == {"labelled": "2 not a photo", "unlabelled": ""}
    assert table["NO_FACE"].to_dict() == {"labelled": 1, "unlabelled": 0}
    assert "Licence: that of [nobody](https://example.org)." in "\n".join(each.value for each in page.text)


@pytest.mark.usefixtures("shown")
def test_doubtful_faces_are_shown_first_and_the_worst_of_them_close_up() -> None:
    page = open_page("alignment")
    assert page.selectbox(key="face").options == DOUBTFUL_NAMES
    assert chosen(page) == DOUBTFUL_NAMES[0]
    expected = {"Confidence": "0.990", "Face width": "60 px", "Turn": "-71\N{DEGREE SIGN}"}
    assert expected.items() <= numbers(page).items()
    assert "with the landmarks that were found" in written(page)
    assert "Doubtful: the head is turned" in written(page)
    assert len(page.get("plotly_chart")) == len(faces.MEASURES)


@pytest.mark.usefixtures("shown")
def test_faces_are_filtered_by_warning_and_source() -> None:
    page = open_page("alignment", warning="unsure")
    assert page.selectbox(key="face").options == [DOUBTFUL_NAMES[2]]
    assert "1 face, the worst first: the detector's confidence" in written(page)
    page.selectbox(key="source").set_value("unlabelled")
    assert "No face is doubtful in this way." in written(run(page))
    assert not [box for box in page.selectbox if box.key == "face"]
    page.get("button_group")[0].set_value("all faces")
    assert len(run(page).selectbox(key="face").options) == CROPS


@pytest.mark.usefixtures("shown")
def test_a_face_is_chosen_by_its_button_and_by_link() -> None:
    page = open_page("alignment", warning="turned")
    page.button(key="look_1").click()
    assert chosen(run(page)) == DOUBTFUL_NAMES[1]
    assert page.query_params["face"] in (DOUBTFUL_NAMES[1], [DOUBTFUL_NAMES[1]])
    assert chosen(open_page("alignment", warning="turned", face=DOUBTFUL_NAMES[1])) == DOUBTFUL_NAMES[1]
    assert chosen(open_page("alignment", warning="<b>", face="gone", source="gone")) == DOUBTFUL_NAMES[0]


@pytest.mark.usefixtures("shown")
def test_a_photo_taken_as_a_face_has_no_landmarks_and_no_numbers_but_one() -> None:
    page = open_page("alignment", warning="all faces", source="unlabelled")
    shown = numbers(page)
    assert [shown[each.name] for each in faces.MEASURES] == ["not measured"] * 4 + ["800"]
    assert "with the landmarks" not in written(page)


@pytest.mark.usefixtures("shown")
def test_many_faces_come_in_pages() -> None:
    page = open_page("alignment", warning="all faces")
    assert len([button for button in page.button if str(button.key).startswith("look_")]) == alignment.GALLERY
    assert len(page.selectbox(key="face").options) == FACES


@pytest.mark.usefixtures("shown")
def test_rejected_photos_have_reason_hint_and_picture() -> None:
    table = open_page("alignment").dataframe[1].value
    assert table["sample_id"].tolist() == [HOSTILE_PHOTO]
    assert table["hint"].tolist() == ["Try [a brighter photo](https://example.org)."]
    assert table["picture"][table.index[0]].startswith("data:image/png;base64,")


@pytest.mark.usefixtures("shown")
def test_overlaps_have_both_pictures_where_there_are_faces() -> None:
    page = open_page("alignment")
    table = page.dataframe[2].value
    assert table["other"].tolist() == [DOUBTFUL_NAMES[0], "unlabelled/gone.png"]
    assert table["evaluation_picture"].notna().all()
    assert table["other_picture"].notna().tolist() == [True, False]
    assert "2: nearly the same picture, taken out of training" in written(page)


def test_photos_that_are_gone_are_said_to_be(own: Path) -> None:
    listed = Results(own).data.photos
    records.write_table(listed, pd.read_parquet(listed).assign(path=b"/gone"), layout.PHOTO_COLUMNS)
    page = open_page("alignment")
    assert "cannot be opened any more" in written(page)
    assert page.dataframe[1].value["picture"].isna().all()


def test_without_warnings_rejected_photos_and_overlaps_the_page_says_so(own: Path) -> None:
    data = Results(own).data
    change_faces(own, warnings=[[]] * FACES)
    records.write_lines(
        data.outcomes, [each for each in records.read_log(data.outcomes) if each["code"] == "OK"]
    )
    records.write_table(data.overlaps, pd.read_parquet(data.overlaps).head(0), layout.OVERLAP_COLUMNS)
    page = open_page("alignment")
    for sentence in (
        "No face is doubtful in this way.",
        "No photo was rejected.",
        "No evaluation face was found again.",
    ):
        assert sentence in written(page)


def test_only_faces_that_were_not_measured_have_one_chart(own: Path) -> None:
    missing = dict.fromkeys(["score", "face_px", "residual", "yaw"], np.nan)
    change_faces(own, **missing, landmarks=None, warnings=[[]] * FACES)
    page = open_page("alignment", warning="all faces")
    assert len(page.get("plotly_chart")) == 1
    assert numbers(page)["Turn"] == "not measured"


def test_a_lost_shard_is_one_sentence(own: Path) -> None:
    shutil.rmtree(Results(own).data.shards)
    assert "These results cannot be shown." in written(open_page("alignment"))


def test_landmarks_are_drawn_where_they_are_on_a_photo_of_any_size() -> None:
    points = np.array([[20, 10]] * 5, np.float32)
    for scale in (1, 40):
        photo = Image.new("RGB", (60 * scale, 30 * scale))
        picture = alignment.marked(photo, points * scale)
        assert max(picture.size) <= alignment.PHOTO_SIDE
        place = (picture.width * 20 // 60, picture.height * 10 // 30)
        assert picture.getpixel(place) == (0, 229, 255)
        assert picture.getpixel((picture.width - 1, picture.height - 1)) == (0, 0, 0)
    assert alignment.marked(Image.new("RGB", (60, 30)), None).getbbox() is None
