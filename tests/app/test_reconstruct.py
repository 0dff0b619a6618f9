"""The reconstruction page: strategies and painted masks, errors by patch, and several models at once."""

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from driving import open_page, run, written
from PIL import Image
from results_folder import make_experiment
from streamlit.testing.v1 import AppTest

from facemae.app import frame
from facemae.app.parts import completion, photo_input
from facemae.app.parts.completion import BY_HAND, Hiding, Model
from facemae.app.views import reconstruct
from facemae.config.masks import Masks
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.models import shipped_models
from facemae.models.build import build_mae
from facemae.models.weights import save_weights
from facemae.recognition import model as models
from facemae.report import faces

PAINTED = "painted_8"  # the board of the tiny models' 8 x 8 patches
SIZE, PATCH = 32, 8


def alts(page: AppTest) -> list[str]:
    return [image.alt for block in page.get("image") for image in block.proto.imgs]


def choose(page: AppTest, *names: str) -> AppTest:
    page.multiselect(key="model").set_value(list(names))
    return run(page)


def by_hand(cells: list[int] | None = None, **query: str) -> AppTest:
    page = open_page("reconstruct", mask=BY_HAND, **query)
    if cells is not None:
        page.session_state[PAINTED] = {"cells": cells}
        run(page)
    return page


# --- the page ---


@pytest.mark.usefixtures("shown")
def test_a_face_is_shown_with_its_errors_and_their_scale() -> None:
    page = open_page("reconstruct")
    assert [metric.label for metric in page.metric] == ["Visible patches", "Error on hidden patches"]
    assert page.metric[0].value == "16 of 64"
    assert "error per patch" in written(page)
    *pictures, scale = alts(page)
    assert [each.partition(".")[0] for each in pictures] == [
        "the face", "what the encoder sees", "its reconstruction", "the error",
    ]  # fmt: skip
    assert all("random/0: " in each and "row " in each for each in pictures)
    assert "Colour scale" in scale
    assert page.get("download_button")[0].proto.label == "Your face under every mask (PNG)"


@pytest.mark.usefixtures("shown")
def test_up_to_four_models_are_shown_one_below_the_other() -> None:
    page = choose(open_page("reconstruct"), "random/0", "random/1", "region/0", "region/1")
    named = [alt.partition(". ")[2].partition(":")[0] for alt in alts(page)[:-1:4]]
    assert named == ["random/0", "random/1", "region/0", "region/1"]
    assert len(alts(page)) == 4 * 4 + 1  # and one scale for all
    lines = [text.value for text in page.text if "error on hidden patches" in text.value]
    assert len(lines) == 4
    assert "Not all of these models were trained with this mask" in written(page)
    assert page.multiselect(key="model").proto.max_selections == reconstruct.MOST_SHOWN


@pytest.mark.usefixtures("shown")
def test_a_mask_that_no_model_knows_is_said_to_be() -> None:
    page = open_page("reconstruct", mask="grid")
    assert "This model was trained with the random mask at 75 %" in written(page)
    assert "None of these models" in written(choose(page, "random/0", "region/0"))
    page.selectbox(key="mask").set_value("random")
    assert "never met" not in written(choose(page, "random/0"))
    assert "never met" not in written(choose(page, "random/0", "random/1"))


def test_the_page_starts_with_the_run_that_completes_unseen_faces_best(own: Path) -> None:
    for run_name, error in (("random", 0.9), ("region", 0.4)):
        for seed in (0, 1):
            path = Results(own).stage(run_name, seed, "pretrain") / layout.METRICS
            content = records.read_json(path)
            entry = {**content["metrics"][0], "name": layout.COMMON_ERROR, "value": error}
            kept = [each for each in content["metrics"] if each["name"] != layout.COMMON_ERROR]
            files.write_json(path, content | {"metrics": [*kept, entry]})
    assert open_page("reconstruct").multiselect(key="model").value == ["region/0"]


@pytest.mark.usefixtures("shown")
def test_without_a_model_the_page_asks_for_one() -> None:
    page = choose(open_page("reconstruct"))
    assert "Choose at least one model." in written(page)
    assert not page.get("image")


@pytest.mark.usefixtures("shown")
def test_links_restore_several_models() -> None:
    page = AppTest.from_string(
        "from facemae.app.views import reconstruct\nreconstruct.render()", default_timeout=60
    )
    page.query_params["model"] = ["region/1", "random/0"]
    page.query_params["seed"] = "7"
    run(page)
    assert page.multiselect(key="model").value == ["region/1", "random/0"]
    assert page.number_input(key="seed").value == 7


@pytest.mark.usefixtures("shown")
def test_a_face_of_the_training_is_a_warning(shown: Path) -> None:
    known = faces.faces(Results(shown))
    learnt = known.loc[known["role"] == layout.ROLE_TRAIN, "sample_id"].iloc[0]
    page = open_page("reconstruct", face=learnt)
    assert "memory as well as skill" in written(page)
    assert "The models were trained on this face" in written(choose(page, "random/0", "region/0"))


@pytest.mark.usefixtures("shown")
def test_a_visitors_face_is_no_memory_and_nothing_is_shown_without_one(
    shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    face = np.full((112, 112, 3), 90, np.uint8)
    monkeypatch.setattr(
        photo_input, "aligned_face", lambda *_: photo_input.Chosen(face, "face 1 of your photo")
    )
    page = open_page("reconstruct")
    assert page.metric[0].value == "16 of 64"
    assert not page.warning
    assert not page.info
    monkeypatch.setattr(photo_input, "aligned_face", lambda *_: None)
    assert not open_page("reconstruct").metric


# --- painted by hand ---


@pytest.mark.usefixtures("shown")
def test_what_is_painted_is_hidden() -> None:
    page = by_hand()
    start = reconstruct.eye_patches(8)
    assert page.metric[0].value == f"{64 - len(start)} of 64"
    assert not page.slider
    page.session_state[PAINTED] = {"cells": [0, 9, 63]}
    assert run(page).metric[0].value == "61 of 64"
    assert "another mask" in written(page)


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize(
    ("cells", "sentence"), [([], "No patch is painted"), (list(range(64)), "Every patch is painted")]
)
def test_nothing_or_everything_painted_is_a_sentence(cells: list[int], sentence: str) -> None:
    page = by_hand(cells)
    assert sentence in written(page)
    assert not page.metric
    page.session_state[PAINTED] = {"cells": [5]}
    assert run(page).metric[0].value == "63 of 64"


def test_models_of_other_patches_are_not_painted_together(own: Path) -> None:
    paths = Results(own)
    folder = paths.stage("region", 0, "pretrain")
    _replace_model(folder, patch_size=16)
    page = choose(by_hand(), "random/0", "region/0")
    assert "7 by 7 and 8 by 8 patches" in written(page)
    page.selectbox(key="mask").set_value("random")
    assert "16 of 64 patches" not in written(run(page))
    assert len([text for text in page.text if "error on hidden" in text.value]) == 2


def test_a_model_trained_on_another_error_is_not_compared(own: Path) -> None:
    _replace_model(Results(own).stage("region", 0, "pretrain"), pretrain={"normalise_target": False})
    page = choose(open_page("reconstruct"), "random/0", "region/0")
    assert "their numbers do not compare" in written(page)
    assert len(alts(page)) == 2 * 5  # each with a scale of its own
    assert "flatters" in written(page)
    assert "pixel values from -1 to 1" in written(page)


def test_a_model_that_cannot_be_asked_so_is_left_out_with_a_sentence(own: Path) -> None:
    _replace_model(Results(own).stage("region", 0, "pretrain"), pretrain={"decoder": "cross"})
    page = open_page("reconstruct", mask="pixel", model="region/0")
    assert "region/0: This model's decoder predicts whole hidden patches only" in written(page)
    assert not page.metric
    assert page.selectbox(key="mask").value == "pixel"
    assert len(choose(page, "random/0", "region/0").metric) == 2


def _replace_model(folder: Path, pretrain: dict[str, Any] | None = None, **model: Any) -> None:
    """Put an untrained model with other settings in the place of one."""
    experiment = make_experiment(folder)
    run_of = experiment.run("region")
    assert run_of.pretrain
    settings = run_of.pretrain.model_copy(update=pretrain or {})
    shape = run_of.model.model_copy(update=model)
    mae = build_mae(shape, settings, experiment.data.image_size)
    save_weights(mae.encoder.trunk, folder / layout.ENCODER)
    save_weights(mae.decoder, folder / layout.DECODER)
    content = records.read_json(folder / layout.CONFIG)
    content["pretrain"] |= pretrain or {}
    content["model"] |= model
    files.write_json(folder / layout.CONFIG, content)


def test_eyes_are_painted_at_first() -> None:
    for side in (2, 4, 7, 8, 14, 28):
        cells = reconstruct.eye_patches(side)
        assert 0 < len(cells) < side * side
        rows = np.array(cells) // side
        assert rows.min() / side <= 0.5 <= (rows.max() + 1) / side + 0.1
    assert reconstruct.eye_patches(8) == [17, 18, 19, 20, 21, 22, 25, 26, 27, 28, 29, 30]


def test_none_and_all_patches_cannot_be_hidden() -> None:
    grid = np.zeros((4, 4), np.bool_)
    with pytest.raises(UsageError, match="nothing to guess"):
        completion.painted_by_hand(grid)
    with pytest.raises(UsageError, match="would see nothing"):
        completion.painted_by_hand(~grid)
    grid[0, :2] = True
    assert completion.painted_by_hand(grid).ratio == 2 / 16


# --- what is computed ---


@pytest.fixture(scope="module")
def complete_with(experiment: Any) -> Any:
    """Return a function that completes a face with an untrained model of some settings."""

    def complete(face: Any, hiding: Hiding, model: dict[str, Any], **pretrain: Any) -> Any:
        torch.manual_seed(0)
        shape = experiment.defaults.model.model_copy(update=model)
        settings = experiment.defaults.pretrain.model_copy(update=pretrain)
        network = build_mae(shape, settings, SIZE).eval()
        masks = Masks.model_validate(experiment.defaults.pretrain.masks.model_dump() | {"pixel": {}})
        return completion.complete(Model(network, settings, masks), face, hiding)

    return complete


def test_a_run_without_settings_for_a_mask_says_so(experiment: Any, orl_images: Any) -> None:
    network = build_mae(experiment.defaults.model, experiment.defaults.pretrain, SIZE)
    model = Model(network, experiment.defaults.pretrain, Masks())
    with pytest.raises(UsageError, match="no settings for the block mask"):
        completion.complete(model, orl_images[0], Hiding("block", 0.5, 0))


def painted(side: int, *cells: int) -> Hiding:
    grid = np.zeros((side, side), np.bool_)
    grid.flat[list(cells)] = True
    return completion.painted_by_hand(grid)


MODELS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({}, {}),
    ({}, {"decoder": "deconv", "loss_on": "all"}),
    ({}, {"decoder": "cross"}),
    ({"patch_size": 16, "class_token": True}, {}),
    ({}, {"mask": "pixel", "normalise_target": False, "loss": "l1"}),
    ({"encoder": "cnn"}, {"decoder": "deconv"}),
    ({"encoder": "cnn"}, {"mask": "pixel", "loss_on": "hidden"}),
    ({"encoder": "mlp"}, {"decoder": "mlp"}),
    ({"encoder": "mlp"}, {"decoder": "mlp", "mask": "pixel"}),
]


@pytest.mark.parametrize(("model", "pretrain"), MODELS)
def test_every_kind_of_model_completes_what_is_painted(
    complete_with: Any, orl_images: Any, model: Any, pretrain: Any
) -> None:
    face, patch = orl_images[0], model.get("patch_size", PATCH)
    side = SIZE // patch
    done = complete_with(face, painted(side, 0, side + 1), model, **pretrain)
    assert (done.visible, len(done.errors)) == (side**2 - 2, side**2)
    assert np.flatnonzero(~np.isnan(done.errors)).tolist() == [0, side + 1]
    assert np.nanmean(done.errors) == pytest.approx(done.error, rel=1e-5)
    hidden = np.zeros((SIZE, SIZE), np.bool_)
    hidden[:patch, :patch] = hidden[patch : 2 * patch, patch : 2 * patch] = True
    np.testing.assert_array_equal(done.completed[~hidden], face[~hidden])
    assert (done.completed[hidden] != face[hidden]).mean() > 0.5
    assert (done.masked[hidden] == 128).all()


@pytest.mark.parametrize(("model", "pretrain"), MODELS)
@pytest.mark.parametrize("strategy", completion.STRATEGIES)
def test_every_kind_of_model_completes_every_strategy_or_says_why_not(
    complete_with: Any, orl_images: Any, model: Any, pretrain: Any, strategy: str
) -> None:
    def complete() -> Any:
        return complete_with(orl_images[0], Hiding(strategy, 0.5, 3), model, **pretrain)

    if strategy == "pixel" and pretrain.get("decoder") == "cross":
        with pytest.raises(UsageError, match="leaves every patch in sight"):
            complete()
        return
    done, patches = complete(), (SIZE // model.get("patch_size", PATCH)) ** 2
    assert np.isfinite(done.error)
    assert done.worst >= done.error
    assert (~np.isnan(done.errors)).sum() == (patches if strategy == "pixel" else patches // 2)


# --- the error map ---


def test_the_error_map_by_hand() -> None:
    face = np.zeros((4, 4, 3), np.uint8)
    face[:2] = 200
    found = completion.error_map(face, np.array([np.nan, 0.0, 1.0, 2.0]), top=2.0)
    shades = completion.shades()
    assert (found[:2, 2:] == shades[0]).all()
    assert (found[2:, 2:] == shades[-1]).all()
    assert (found[2:, :2] == shades[128]).all()
    grey = found[:2, :2]
    assert (grey == grey[0, 0, 0]).all()
    assert grey[0, 0, 0] > 200  # pale


def test_an_error_beyond_the_scale_has_its_last_colour_and_none_at_all_its_first() -> None:
    face = np.zeros((2, 2, 3), np.uint8)
    assert (completion.error_map(face, np.full(4, 9.0), top=1.0) == completion.shades()[-1]).all()
    assert (completion.error_map(face, np.zeros(4), top=0.0) == completion.shades()[0]).all()


def test_the_scale_grows_brighter() -> None:
    shades = completion.shades()
    assert shades.shape == (completion.SHADES, 3)
    lightness = shades @ np.array([0.2126, 0.7152, 0.0722])
    assert (np.diff(lightness) > -0.5).all()
    assert lightness[-1] - lightness[0] > 150


# --- pictures to share, and grey photos ---


def test_one_picture_shows_the_face_under_every_mask(experiment: Any, orl_images: Any) -> None:
    settings, shape = experiment.defaults.pretrain, experiment.defaults.model
    network = build_mae(shape, settings, SIZE).eval()
    masks = Masks.model_validate(settings.masks.model_dump() | {"pixel": {}})
    known = [name for name in completion.STRATEGIES if getattr(masks, name) is not None]
    model = Model(network, settings, masks)
    drawn = completion.every_mask(model, orl_images[0], 0.5, 0)
    width, height = Image.open(io.BytesIO(drawn)).size
    assert width == completion.SHEET_COLUMNS * (completion.SHEET_SIDE + completion.GAP) + completion.GAP
    rows = -(-(1 + len(known)) // completion.SHEET_COLUMNS)
    assert height > rows * 2 * completion.SHEET_SIDE
    assert completion.every_mask(model, orl_images[0], 0.5, 0) == drawn


@pytest.mark.usefixtures("shown")
def test_a_colour_photo_is_turned_grey_for_networks_that_saw_grey_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    colour = np.zeros((112, 112, 3), np.uint8)
    colour[..., 0] = 200
    chosen = photo_input.Chosen(colour, "face 1 of your photo")
    monkeypatch.setattr(photo_input, "aligned_face", lambda *_: chosen)
    assert "Turned grey" not in written(open_page("reconstruct"))  # these faces are in colour
    monkeypatch.setattr(models, "all_grey", lambda *_: True)
    frame._load.clear()
    seen = []
    real = completion.complete
    monkeypatch.setattr(completion, "complete", lambda *given: seen.append(given[1]) or real(*given))
    assert "Turned grey for region/" in written(open_page("reconstruct", model="region/0"))
    assert (seen[0] == seen[0][..., :1]).all()
    frame._load.clear()


# --- the model that comes with the package ---


@pytest.mark.usefixtures("with_models")
def test_without_results_the_page_opens_with_the_shipped_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path / "none"))
    page = open_page("reconstruct")
    assert "this is face-mae, which comes with FaceMAE" in written(page)
    assert page.multiselect(key="model").options == ["face-mae"]
    assert page.selectbox(key="face").options[0] == "orl/s01/01"
    assert len(page.selectbox(key="face").options) >= 10
    assert len(alts(page)) == 5
    page = open_page("reconstruct", mask="block")
    assert "another mask shows how it copes" in written(page)
    assert len(alts(page)) == 5


@pytest.mark.usefixtures("with_models", "shown")
def test_the_page_opens_with_the_shipped_model_before_those_of_the_results() -> None:
    page = open_page("reconstruct")
    models = page.multiselect(key="model")
    assert (models.options[:2], models.value) == (["face-mae", "random/0"], ["face-mae"])
    assert "comes with FaceMAE" not in written(page)
    page = choose(page, "random/0", "face-mae")
    assert [alt.partition(". ")[2].partition(":")[0] for alt in alts(page)[:-1:4]] == ["random/0", "face-mae"]


@pytest.mark.usefixtures("with_models")
def test_a_damaged_shipped_model_is_not_offered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, packed: Path
) -> None:
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path / "none"))
    shutil.copytree(packed, tmp_path / "damaged")
    (tmp_path / "damaged" / "face-mae" / layout.DECODER).write_bytes(b"")
    monkeypatch.setattr(shipped_models, "FOLDER", tmp_path / "damaged")
    assert [code.value for code in open_page("reconstruct").code] == [frame.COMMAND]
