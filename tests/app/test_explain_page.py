"""The explanation page: score, pictures over the faces, regions, the map, and what is refused."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from driving import open_page, run, written
from PIL import Image
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app.parts import faces_map, photo_input
from facemae.app.views import explain
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.sources.orl import orl_photos
from facemae.models.build import build_embedder
from facemae.models.weights import save_weights
from facemae.recognition import embedding_map
from facemae.recognition import explanation as explaining
from facemae.recognition.threshold import Threshold
from facemae.report import faces, tables


def score(page: AppTest) -> float:
    return float(page.metric[0].value)


@pytest.mark.usefixtures("shown")
def test_the_page_scores_two_faces_and_shows_what_the_score_reacts_to() -> None:
    page = open_page("explain")
    names = page.selectbox(key="explain_first").options
    assert page.selectbox(key="explain_first").value == names[0]
    assert page.selectbox(key="explain_second").value == names[1]
    assert -1 <= score(page) < 0.999
    text = written(page)
    assert explain.WARNING in text
    assert all(sentence in text for sentence in explain.HOW_TO_READ.values())
    assert "of the pairs of one person score lower" in text
    pictures = [image.alt for block in page.get("image") for image in block.proto.imgs]
    assert [each.partition("; ")[2] for each in pictures] == 2 * [
        "the face", "attention rollout", "reaction of the score",
    ]  # fmt: skip
    assert [bool(chart.proto.alt) for chart in page.get("plotly_chart")] == [True]
    assert page.dataframe[0].value["region"].tolist()[-1] == "elsewhere"


@pytest.mark.usefixtures("shown")
def test_one_face_twice_is_as_like_as_can_be() -> None:
    page = open_page("explain")
    first = page.selectbox(key="explain_first").value
    page = run(page.selectbox(key="explain_second").set_value(first))
    assert score(page) == 1
    table = page.dataframe[0].value
    by_photo = [part["change"].to_numpy() for _, part in table.groupby("photo")]
    np.testing.assert_allclose(*by_photo, atol=1e-5)
    assert "0% of the pairs of two people score as high" in written(page)


@pytest.mark.usefixtures("shown")
def test_a_model_by_others_is_explained_by_covering_and_held_against_its_card(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(explaining, "STRIDE", 7)  # four squares in place of 25: dlib takes its time
    page = open_page("explain", model="dlib")
    text = written(page)
    assert -1 <= score(page) < 0.999
    assert "people that the model was not trained on" in text
    assert "Attention rollout needs a vision Transformer" in text
    alts = [image.alt for block in page.get("image") for image in block.proto.imgs]
    assert [each.partition("; ")[2] for each in alts] == 2 * ["the face", "reaction of the score"]
    assert "choose one above" in written(open_page("explain", model="dlib", tab="All faces"))


def test_the_share_that_is_done_and_the_time_left_are_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[float, str]] = []
    monkeypatch.setattr(explain, "time", SimpleNamespace(monotonic=iter([10.0, 13.0]).__next__))
    place: Any = SimpleNamespace(progress=lambda share, text: said.append((share, text)))
    explain._told(place)(0.25)
    assert said == [(0.25, "25%, about 9 s left")]


def test_a_score_stands_among_those_of_two_people_by_the_models_thresholds() -> None:
    known = {0.1: Threshold(0.3, people=50), 0.01: Threshold(0.5, people=50)}
    assert "At most 1 in 10 comparisons of two people" in explain.standing_by_card(0.4, known)
    assert "At most 1 in 100 comparisons of two people" in explain.standing_by_card(0.5, known)
    assert "More than 1 in 10 comparisons" in explain.standing_by_card(0.2, known)


@pytest.mark.usefixtures("shown")
def test_patches_are_dropped_where_the_reader_says_so() -> None:
    page = open_page("explain")
    covered = page.dataframe[0].value["change"].to_numpy()
    page = run(page.segmented_control(key="left_out").set_value(explain.DROPPED))
    assert not np.allclose(page.dataframe[0].value["change"], covered)


@pytest.mark.usefixtures("shown")
def test_a_link_restores_the_pair_and_the_map() -> None:
    names = open_page("explain").selectbox(key="explain_first").options
    page = open_page("explain", model="region/1", explain_first=names[3], explain_second=names[5])
    assert page.selectbox(key="model").value == "region/1"
    assert page.selectbox(key="explain_first").value == names[3]
    assert page.selectbox(key="explain_second").value == names[5]
    page = open_page("explain", model="region/1", tab="All faces", map="t-SNE")
    assert "Only who is next to whom has a meaning" in written(page)


@pytest.mark.usefixtures("shown")
def test_a_face_of_training_is_said_to_be_one() -> None:
    page = open_page("explain")
    assert "may have been trained" not in written(page)
    trained = page.selectbox(key="explain_first").options[-1]
    assert "may have been trained" in written(run(page.selectbox(key="explain_first").set_value(trained)))


@pytest.mark.usefixtures("shown")
def test_the_explanation_stays_until_another_pair_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    page = open_page("explain")
    made: list[int] = []
    real = explain.explained
    monkeypatch.setattr(explain, "explained", lambda *given: made.append(1) or real(*given))
    page = run(page.segmented_control(key="left_out").set_value(explain.DROPPED))
    assert not made
    run(page.selectbox(key="explain_second").set_value(page.selectbox(key="explain_second").options[4]))
    assert made == [1]


def session(page: AppTest) -> dict[str, Any]:
    """Return everything that is kept in a visitor's session, widgets included."""
    return page.session_state._state.filtered_state


def holds(kept: Any, face: np.ndarray) -> bool:
    """Return whether a face (H, H, 3) is anywhere in what is kept, also as a part or a result's field."""
    if isinstance(kept, np.ndarray):
        return np.array_equal(kept, face)
    if dataclasses.is_dataclass(kept):
        return holds(vars(kept), face)
    if isinstance(kept, dict):
        return any(holds(each, face) for each in kept.values())
    return isinstance(kept, list | tuple) and any(holds(each, face) for each in kept)


@pytest.mark.usefixtures("shown")
def test_a_visitors_face_is_kept_in_the_visitors_session_alone() -> None:
    page = open_page("explain")
    page = run(page.segmented_control(key="explain_second_from").set_value(photo_input.UPLOAD))
    assert not page.metric  # there is no second face yet
    assert len(page.get("image")) == 0  # nor is anything explained
    buffer = io.BytesIO()
    Image.new("RGB", (300, 300), "white").save(buffer, "PNG")
    page.file_uploader[0].set_value((f"{HOSTILE}.png", buffer.getvalue(), "image/png"))
    page = run(page)
    assert "No face found." in written(page)
    assert HOSTILE not in written(page)
    page.file_uploader[0].set_value((f"{HOSTILE}.pgm", orl_photos()[0].path.read_bytes(), "image/x-pgm"))
    page = run(page)
    assert page.metric
    assert HOSTILE not in written(page)
    mine = session(page)
    face = mine["explain_second_found"][1].faces[0].image
    assert holds(mine, face)

    other = open_page("explain")
    assert other.metric
    theirs = session(other)
    assert "explain_second_found" not in theirs
    assert not holds(theirs, face)
    assert theirs["explained"] is not mine["explained"]
    other = run(other.segmented_control(key="explain_second_from").set_value(photo_input.UPLOAD))
    assert not other.metric  # a face kept for everybody would be chosen here
    assert "explain_second_found" not in other.session_state
    assert not holds(session(other), face)


def test_an_encoder_without_attention_is_explained_by_covering(own: Path) -> None:
    paths = Results(own)
    setup = tables.experiment(paths)
    for run_name in setup.run_names:
        for seed in setup.seeds:
            stage = paths.stage(run_name, seed, "finetune")
            settings = setup.run(run_name).model.model_copy(update={"encoder": "mlp"})
            save_weights(build_embedder(settings, setup.data.image_size), stage / layout.EMBEDDER)
            content = {"model": settings.model_dump(), "image_size": setup.data.image_size}
            files.write_json(stage / layout.CONFIG, content)
    page = open_page("explain")
    assert "needs a vision Transformer" in written(page)
    assert explain.HOW_TO_READ["attention"] not in written(page)
    alts = [image.alt for block in page.get("image") for image in block.proto.imgs]
    assert [each.partition("; ")[2] for each in alts] == 2 * ["the face", "reaction of the score"]
    assert not [each for each in page.segmented_control if each.key == "left_out"]


def test_without_umap_its_command_is_shown(shown: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding_map, "methods", lambda: ["PCA", "t-SNE"])
    page = open_page("explain", tab="All faces", map="UMAP")
    assert [each.value for each in page.code] == ["make extras"]
    assert not page.get("bidi_component")


def test_without_results_a_model_by_others_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path))
    monkeypatch.setattr(explaining, "STRIDE", 7)
    page = open_page("explain")
    assert page.selectbox(key="model").value == "dlib"
    assert -1 <= score(page) < 0.999


@pytest.mark.parametrize(("stage", "file"), [
    ("finetune", layout.EMBEDDER), ("finetune", layout.EMBEDDINGS), ("evaluate", layout.SCORES),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(stage: str, file: str, own: Path) -> None:
    for path in own.glob(f"*/*/{stage}/{file}"):
        path.write_bytes(b"{}")
    text = written(open_page("explain")) + written(open_page("explain", tab="All faces"))
    assert "damaged" in text or "cannot be read" in text
    assert str(own.parent) not in text
    assert "Traceback" not in text


def test_a_score_is_held_against_pairs_of_both_kinds() -> None:
    genuine, impostor = np.array([0.2, 0.5, 0.6, 0.9]), np.array([-0.5, 0.0, 0.1, 0.5, 0.55])
    said = explain.standing(0.5, genuine, impostor)
    assert "25% of the pairs of one person score lower" in said
    assert "40.0% of the pairs of two people score as high or higher" in said
    rare = explain.standing(0.5, genuine, np.append(np.zeros(5000), 0.7))
    assert "less than 0.1% of the pairs of two people" in rare
    assert "no scored pairs" in explain.standing(0.5, genuine[:0], impostor)


def test_scores_of_the_evaluation_are_parted_by_kind(shown: Path) -> None:
    genuine, impostor = explain.evaluated_scores(Results(shown), "random", 0)
    table = records.read_table(Results(shown).stage("random", 0, "evaluate") / layout.SCORES)
    assert set(table["part"]) == {0}
    assert len(genuine) == table["genuine"].sum()
    assert len(impostor) == (~table["genuine"]).sum()
    assert genuine.mean() > impostor.mean()


def test_colours_lie_over_the_patches_that_they_are_of() -> None:
    face = np.full((16, 16, 3), 100, np.uint8)
    change = np.zeros((4, 4))
    change[0, 3], change[2, 1] = -0.5, 0.25
    picture = explain.reacted(face, change, 0.5).astype(int)
    side = 16 * explain.SCALE // 4
    assert picture.shape == (16 * explain.SCALE, 16 * explain.SCALE, 3)
    patches = picture.reshape(4, side, 4, side, 3).swapaxes(1, 2)
    assert (patches.reshape(16, -1, 3).std(axis=1) == 0).all()
    red, blue, untouched = patches[0, 3, 0, 0], patches[2, 1, 0, 0], patches[1, 1, 0, 0]
    assert red[0] > red[2] + 50  # what lowered the score
    assert blue[2] > blue[0] + 20
    assert untouched.tolist() == [100, 100, 100]


def test_the_brightest_patch_is_the_one_most_attended_to() -> None:
    attention = np.linspace(0, 0.1, 16).reshape(4, 4)
    picture = explain.attended(np.full((16, 16, 3), 100, np.uint8), attention, 0.1)
    side = 16 * explain.SCALE // 4
    bright = picture[side // 2 :: side, side // 2 :: side].sum(axis=2)
    assert bright.argmax() == 15
    assert bright.argmin() == 0


def test_bars_are_those_of_the_table() -> None:
    table = pd.DataFrame(
        {"photo": ["first", "first", "second", "second"], "region": ["eyes", "nose"] * 2,
         "change": [-0.1, 0.2, -0.3, 0.0]}
    )  # fmt: skip
    figure = explain.region_chart(table)
    assert [bar.name for bar in figure.data] == ["first face", "second face"]
    assert [list(bar.x) for bar in figure.data] == [[-0.1, 0.2], [-0.3, 0.0]]
    assert list(figure.data[0].y) == ["eyes", "nose"]


def test_a_face_of_another_size_is_refused(shown: Path) -> None:
    from facemae.recognition.recogniser import Recogniser
    from facemae.recognition.trained_models import models

    found = Recogniser(models(Results(shown))[0])
    small = np.zeros((20, 20, 3), np.uint8)
    with pytest.raises(UsageError, match="20 x 20 pixels does not fit this model"):
        explain.explained(found, small, small)


def test_the_sheet_holds_the_faces_in_the_order_of_the_points(shown: Path) -> None:
    paths = Results(shown)
    names = faces.faces(paths)["sample_id"].to_list()[:5]
    found = np.asarray(Image.open(io.BytesIO(faces_map.sheet(paths, [*names, "gone"]))))
    assert faces_map.sheet_columns(6) == 3
    assert found.shape == (2 * faces_map.TILE, 3 * faces_map.TILE, 3)
    for place, name in enumerate(names):
        face = Image.open(io.BytesIO(faces.face(paths, name))).resize((faces_map.TILE,) * 2)
        row, column = divmod(place, 3)
        tile = found[row * faces_map.TILE :, column * faces_map.TILE :][: faces_map.TILE, : faces_map.TILE]
        assert np.abs(tile.astype(int) - np.asarray(face).astype(int)).mean() < 25
    assert (abs(found[faces_map.TILE :, 2 * faces_map.TILE :].astype(int) - 128) < 6).mean() > 0.95


@pytest.mark.usefixtures("shown")
def test_names_reach_the_map_as_data_and_never_as_markup() -> None:
    page = open_page("explain", tab="All faces")
    assert len(page.get("bidi_component")) == 1
    script = (Path(faces_map.__file__).parent / "faces_map.js").read_text()
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "fetch(",
        "import(",
    ):
        assert way not in script
    assert "http" not in script.replace("http://www.w3.org/2000/svg", "")


@pytest.mark.usefixtures("with_models")
def test_without_results_the_page_opens_with_the_shipped_recogniser(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path / "none"))
    page = open_page("explain")
    assert "this is face-embedder, which comes with FaceMAE" in written(page)
    assert page.selectbox(key="model").value == "face-embedder"
    assert -1 <= score(page) <= 1
    assert "measured on 2,000 people that the model was not trained on" in written(page)
    assert "choose one above" in written(open_page("explain", tab="All faces"))


@pytest.mark.usefixtures("with_models", "shown")
def test_the_shipped_recogniser_stands_beside_the_runs() -> None:
    chosen = open_page("explain").selectbox(key="model")
    assert "face-embedder" in chosen.options
    assert "/" in chosen.value  # a run of the results
