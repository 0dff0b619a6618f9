"""The comparison page: any runs, the masks drawn anew, where each run errs, and charts to take along."""

import io
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pytest
import safetensors.numpy
from driving import open_page, run, written
from PIL import Image
from results_folder import HOSTILE, make_experiment
from safetensors import safe_open
from streamlit.testing.v1 import AppTest

from facemae.app import elements
from facemae.app.parts import completion
from facemae.app.views import compare
from facemae.core import files, layout, records
from facemae.core.layout import Results
from facemae.data.images import encode_png
from facemae.masking.mask import hidden_count

ALL = ["scratch", "random", "region", "pixels"]


def alts(page: AppTest) -> list[str]:
    return [image.alt for block in page.get("image") for image in block.proto.imgs]


@pytest.mark.usefixtures("shown")
def test_everything_follows_the_runs() -> None:
    page = open_page("compare")
    assert page.multiselect(key="runs").value == ALL
    page.multiselect(key="runs").set_value(["region", "scratch"])
    page = run(page)
    ranking, verdicts = page.dataframe[0].value, page.dataframe[1].value
    assert set(ranking["run"]) == {"scratch", "region"}
    assert verdicts[["run_a", "run_b"]].values.tolist() == [["region", "scratch"]]
    completed = open_page("compare", tab="Completions", runs="region")
    assert len(alts(completed)) == 1
    assert not any("random" in alt for alt in alts(completed))


@pytest.mark.usefixtures("shown")
def test_a_link_restores_the_runs_and_a_wrong_one_is_no_error() -> None:
    page = open_page("compare", runs="random")
    assert page.multiselect(key="runs").value == ["random"]
    assert "Verdicts" not in [each.value for each in page.subheader]  # one run has no opponent
    assert open_page("compare", runs=HOSTILE).multiselect(key="runs").value == ALL


@pytest.mark.usefixtures("shown")
def test_without_any_run_the_page_asks_for_one() -> None:
    page = open_page("compare")
    page.multiselect(key="runs").set_value([])
    assert "None of these runs was measured; choose others." in written(run(page))


@pytest.mark.usefixtures("shown")
def test_runs_without_masks_leave_those_parts_out() -> None:
    page = open_page("compare", runs="scratch", tab="Completions")
    assert "No masked autoencoder is chosen." in written(page)
    assert page.get("image") == []


@pytest.mark.usefixtures("shown")
def test_masks_are_drawn_at_once_and_stand_still() -> None:
    page = open_page("compare", tab="Masks")
    assert alts(page) == ["random mask: one face under a mask.", "region mask: one face under a mask."]
    assert page.toggle(key="moving").value is False


@pytest.mark.usefixtures("shown")
def test_a_link_restores_moving_masks() -> None:
    page = open_page("compare", tab="Masks", moving="true", masks="grid", hidden="50")
    assert [alt for alt in alts(page) if alt.startswith("grid mask")]
    assert page.slider(key="hidden").value == 50
    served = [each for block in page.get("image") for each in block.proto.imgs if "grid mask" in each.alt]
    assert [each.url.rpartition(".")[2] for each in served] == [
        "png"
    ]  # what the server converts stands still


@pytest.mark.parametrize("strategy", completion.DRAWN)
def test_every_frame_is_a_mask_of_its_strategy(strategy: str, tmp_path: Path) -> None:
    parameters = compare._parameters(make_experiment(tmp_path))
    face = np.full((32, 32, 3), 200, np.uint8)
    drawn = completion.frames(face, strategy, 0.75, parameters[strategy], 4)
    assert drawn.shape == (completion.FRAMES, 32, 32, 3)
    assert set(np.unique(drawn)) == {128, 200}
    shares = (drawn[..., 0] == 128).mean(axis=(1, 2))
    if strategy == "ratio_curriculum":
        assert shares[0] < shares[-1]
    else:
        cells = 32 * 32 if strategy == "pixel" else 16
        assert shares.tolist() == [hidden_count(cells, 0.75) / cells] * completion.FRAMES
    assert any((drawn[0] != other).any() for other in drawn[1:])


def test_a_moving_picture_shows_every_frame_for_a_second() -> None:
    frames = np.stack([np.full((8, 8, 3), 20 * place, np.uint8) for place in range(5)])
    moving, still = (Image.open(io.BytesIO(completion.moving(part))) for part in (frames, frames[:1]))
    assert (moving.n_frames, moving.info["loop"]) == (5, 0)
    for place in range(5):
        moving.seek(place)
        assert moving.info["duration"] == completion.MILLISECONDS
        assert (np.asarray(moving.convert("RGB")) == 20 * place).all()
    assert getattr(still, "n_frames", 1) == 1


def test_pictures_are_the_same_for_the_same_choice() -> None:
    face = encode_png(np.zeros((32, 32, 3), np.uint8))
    first = completion.animation(face, "random", 0.5, {}, 4)
    completion.animation.clear()
    assert completion.animation(face, "random", 0.5, {}, 4) == first


@pytest.mark.usefixtures("shown")
def test_errors_are_drawn_for_each_run_with_what_they_cannot_tell() -> None:
    text = written(open_page("compare", tab="Completions"))
    assert "This rests on 3 faces of people not trained on, completed by 2 trainings" in text
    assert "it does not rank the runs" in text


def test_errors_by_region_come_on_request(own: Path) -> None:
    for seed in (0, 1):  # one run's completed faces are wrong, the other's are the faces themselves
        path = Results(own).stage("random", seed, "pretrain") / layout.RECONSTRUCTIONS
        with safe_open(path, "np") as file:
            facts, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tensors["reconstruction"] = 255 - tensors["reconstruction"]
        files.atomic_write(path, safetensors.numpy.save(tensors, facts))
    page = open_page("compare", tab="Completions", regions="true")
    assert len(open_page("compare", tab="Completions").dataframe) == len(page.dataframe) - 1
    table = page.dataframe[-1].value
    assert table["Run"].tolist() == ["random", "region"]
    assert list(table.columns) == ["Run", "Brows", "Eyes", "Nose", "Mouth", "Cheeks", "Rest"]
    wrong, right = table.drop(columns="Run").to_numpy(float)
    assert (wrong[~np.isnan(wrong)] > 0).all()
    assert (right[~np.isnan(right)] == 0).all()
    assert not np.isnan(wrong).all()
    assert not np.isnan(right).all()


def test_faces_that_were_not_aligned_have_no_regions(own: Path) -> None:
    path = Results(own).config
    content = records.read_json(path)
    content["data"]["align"] = "crop"
    content["runs"]["region"]["pretrain"]["mask"] = "grid"  # that of the regions is refused on such faces
    files.write_json(path, content, sort_keys=False)
    page = open_page("compare", tab="Completions", regions="true")
    assert "nobody knows where their regions lie" in written(page)


def test_a_damaged_file_of_faces_is_one_sentence(own: Path) -> None:
    (Results(own).stage("region", 1, "pretrain") / layout.RECONSTRUCTIONS).write_bytes(b"{}")
    assert "These results cannot be shown." in written(open_page("compare", tab="Completions"))


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("form", [elements.PNG, elements.SVG])
@pytest.mark.parametrize(("name", "tab"), [("compare", "Ranking"), ("results", "ROC and DET")])
def test_every_chart_can_be_saved_by_the_browser(name: str, tab: str, form: str) -> None:
    page = open_page(name, tab=tab, save=form)
    settings = [chart.proto.config for chart in page.get("plotly_chart")]
    assert settings
    assert all(f'"format": "{form.lower()}"' in each and '"toImage"' in each for each in settings)
    assert not any(
        'displayModeBar": true' in each.proto.config for each in open_page(name, tab=tab).get("plotly_chart")
    )


@pytest.mark.usefixtures("shown")
def test_every_chart_can_be_saved_as_a_page() -> None:
    page = open_page("compare", save=elements.HTML)
    saved = [each for each in page.get("download_button") if each.proto.label == "Save as HTML"]
    assert len(saved) == len(page.get("plotly_chart")) == 3


def test_a_saved_page_needs_no_other_file_and_quotes_what_it_says() -> None:
    figure = go.Figure(go.Scatter(x=[1], y=[2]))
    page = elements.page_of(figure, "<b>title", "read & <see>")
    assert "<p>read &amp; &lt;see&gt;</p>" in page
    assert "<title>&lt;b&gt;title</title>" in page
    assert "<script src=" not in page
    assert "<link" not in page.split("<script")[0]
    assert figure.layout.paper_bgcolor is None  # the chart on the page stays as it is


def test_completions_on_the_way_are_shown_by_their_step(own: Path) -> None:
    assert not open_page("compare", tab="Completions").select_slider
    for name in ("random", "region"):
        pictures = np.full((2, 3, 112, 112, 3), 7, np.uint8)
        file = Results(own).stage(name, 0, "pretrain") / layout.PROGRESS
        content = {"step": np.array([2, 30]), "reconstruction": pictures}
        files.atomic_write(file, safetensors.numpy.save(content))
    page = open_page("compare", tab="Completions")
    assert page.select_slider[0].value == 30
    page.select_slider[0].set_value(2)
    assert len(alts(run(page))) == 2


def test_of_the_steps_kept_the_last_before_the_one_chosen_is_shown() -> None:
    kept = {2: "early", 30: "late"}
    assert [compare._at(kept, step, "end") for step in (None, 1, 2, 29, 30)] == [
        "end", "end", "early", "early", "late",
    ]  # fmt: skip
