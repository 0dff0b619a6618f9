"""Every page: with results, without, with damaged ones, by deep link and by hand."""

import html
import os
import subprocess
import sys
from operator import attrgetter
from pathlib import Path

import pandas as pd
import pytest
from driving import open_page, run, written
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app import frame
from facemae.app.views import home
from facemae.core import layout, records
from facemae.core.layout import Results
from facemae.report.phrases import HOW_TO_READ

ROOT = Path(__file__).parents[2]
PAGES = (
    "home", "results", "compare", "reconstruct", "recognise", "gallery", "explain", "fairness", "alignment",
)  # fmt: skip
DO_WITHOUT = ("recognise", "gallery", "explain")  # results: others have trained a model for them


@pytest.mark.usefixtures("shown")
def test_app_starts_with_the_verdict() -> None:
    page = run(AppTest.from_file(str(ROOT / "app.py"), default_timeout=60))
    text = written(page)
    assert "of 1,000 comparisons of faces right" in text
    assert "Against training from scratch on 12 unseen people" in text
    assert len(page.get("page_link")) == 8
    assert all(about in [each.value for each in page.caption] for _, about in home.WAYS.values())


@pytest.mark.usefixtures("shown")
def test_home_says_what_it_rests_on() -> None:
    page = open_page("home")
    assert {metric.label: metric.value for metric in page.metric} == {
        "Runs": "3", "Controls": "1", "Unseen people": "12", "Seeds": "2",
    }  # fmt: skip
    text = written(page)
    assert f"On 76 faces found in 77 photos. Computed on cpu {html.escape(HOSTILE)}" in text
    assert "each with its own mask: random (75% hidden) and region (75% hidden)." in text
    assert "Controls that train no network: pixels." in text
    assert "What this evaluation cannot tell" in [expander.label for expander in page.expander]


@pytest.mark.usefixtures("shown")
def test_results_page_shows_numbers_and_charts() -> None:
    page = open_page("results")
    assert page.dataframe[0].value["run"].tolist() == ["scratch", "random", "region", "pixels"]
    assert len(page.get("download_button")) == 5
    page.selectbox(key="metric").set_value("tar_at_far=0.001")
    assert "impostor pairs" in written(run(page))


@pytest.mark.usefixtures("shown")
def test_every_chart_and_picture_has_an_alternative_text() -> None:
    for name, tab, count in (
        ("results", "ROC and DET", 2), ("results", "Training", 2), ("compare", "Ranking", 3),
        ("compare", "Completions", 2), ("compare", "Masks", 0),
    ):  # fmt: skip
        page = open_page(name, tab=tab)
        assert [bool(chart.proto.alt) for chart in page.get("plotly_chart")] == [True] * count
        assert all(image.alt for block in page.get("image") for image in block.proto.imgs)
        if tab == "Ranking":
            assert HOW_TO_READ["verdicts"] in written(page)


@pytest.mark.usefixtures("shown")
def test_compare_page_follows_the_metric() -> None:
    page = open_page("compare")
    table = page.dataframe[1].value
    assert set(zip(table["run_a"], table["run_b"], strict=True)) == {
        ("random", "scratch"), ("region", "scratch"), ("region", "random"),
        ("scratch", "pixels"), ("random", "pixels"), ("region", "pixels"),
    }  # fmt: skip
    page.selectbox(key="metric").set_value("eer")
    assert "The verdict is by ROC AUC" in written(run(page))


@pytest.mark.usefixtures("shown")
@pytest.mark.parametrize("name", ["results", "compare"])
def test_a_link_restores_the_metric(name: str) -> None:
    assert open_page(name, metric="equal error rate").selectbox(key="metric").value == "eer"
    assert open_page(name, metric=HOSTILE).selectbox(key="metric").value == "roc_auc"


@pytest.mark.usefixtures("everything")
def test_compare_page_has_a_chart_with_its_numbers_for_each_protocol() -> None:
    page = open_page("compare", tab="Harder conditions")
    text = written(page)
    for title in ("Covered faces", "Changed light", "Real light from the side", "Fewer labels"):
        assert title in [heading.value for heading in page.subheader]
    assert [bool(chart.proto.alt) for chart in page.get("plotly_chart")] == [True] * 6
    assert "Where the kinds differ" in text
    assert [each.label for each in page.expander].count("The same in numbers") == 6
    page = open_page("compare")
    page.selectbox(key="metric").set_value("labels_accuracy")
    page = run(page)
    assert "pixels" not in set(page.dataframe[1].value["run_b"])  # it trains on no labels
    completed = open_page("compare", tab="Completions")
    assert len(completed.get("image")) == 2  # a contrastive run has no masks


@pytest.mark.usefixtures("everything")
@pytest.mark.parametrize("name", ["home", "compare"])
def test_claims_are_told_with_what_was_found(name: str) -> None:
    page = open_page(name)
    assert "What is claimed of masked autoencoders, and what was found" in [
        each.label for each in page.expander
    ]
    assert "<b>MAE pretraining makes recognition more robust to occlusion.</b><p>Not supported: " in written(
        page
    ).replace("\n", "")


@pytest.mark.usefixtures("everything")
def test_results_page_shows_a_metric_under_one_condition_at_a_time() -> None:
    page = open_page("results", metric="verification accuracy")
    runs = ["scratch", "patch_drop", "erasing", "random", "region", "simclr", "pixels"]
    assert page.dataframe[0].value["run"].tolist() == runs
    page.selectbox(key="condition").set_value("sunglasses")
    table = run(page).dataframe[0].value
    assert table["amount"].tolist() == [0.1, 0.3, 0.5] * len(runs)
    page.selectbox(key="metric").set_value("roc_auc")
    page = run(page)
    assert page.dataframe[0].value["run"].tolist() == runs
    assert {"images_pretrain", "seconds_pretrain"} <= set(page.dataframe[0].value.columns)


@pytest.mark.usefixtures("everything")
def test_reconstruct_page_offers_no_rival() -> None:
    models = open_page("reconstruct").multiselect(key="model").options
    assert models
    assert not any("simclr" in model for model in models)


def test_results_of_an_older_version_are_one_sentence(own: Path) -> None:
    board = pd.read_parquet(Results(own).leaderboard).drop(columns=["condition", "amount"])
    records.write_table(Results(own).leaderboard, board, list(board.columns))
    for name in ("results", "compare"):
        assert "no table of ours" in written(open_page(name))


@pytest.mark.usefixtures("shown")
def test_reconstruct_page_hides_as_many_patches_as_asked() -> None:
    page = open_page("reconstruct")
    assert page.metric[0].value == "16 of 64"
    assert not page.warning
    assert not page.info
    page.slider(key="hidden").set_value(50)
    assert run(page).metric[0].value == "32 of 64"
    assert "trained with the random mask at 75 %" in written(page)
    page.multiselect(key="model").set_value(["region/1"])
    assert "trained with the region mask" in written(run(page))
    trained = page.selectbox(key="face").options[-1]
    page.selectbox(key="face").set_value(trained)
    assert "The model was trained on this face" in written(run(page))


@pytest.mark.usefixtures("shown")
def test_a_link_restores_a_reconstruction() -> None:
    page = open_page("reconstruct", model="region/1", mask="grid", hidden="25", seed="7")
    assert page.multiselect(key="model").value == ["region/1"]
    assert page.metric[0].value == "48 of 64"
    assert page.number_input(key="seed").value == 7


@pytest.mark.parametrize("name", [each for each in PAGES if each not in DO_WITHOUT])
def test_an_empty_folder_shows_the_command(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "missing"):
        monkeypatch.setenv("FACEMAE_RESULTS", str(folder))
        assert [code.value for code in open_page(name).code] == [frame.COMMAND]


@pytest.mark.parametrize(
    ("name", "file", "damages"),
    [
        *((name, file, (b"", b"{}")) for name, file in (
            ("home", "config"), ("home", "verdict"), ("home", "data.sources"), ("alignment", "data.sources"),
        )),
        *((name, file, (b"", b"\xff\x00PAR1")) for name, file in (
            ("results", "leaderboard"), ("results", "summary"), ("compare", "verdicts"),
            ("reconstruct", "data.faces"), ("alignment", "data.faces"), ("alignment", "data.photos"),
            ("alignment", "data.overlaps"),
        )),
    ],
)  # fmt: skip
def test_a_damaged_file_is_one_sentence(name: str, file: str, damages: tuple[bytes, ...], own: Path) -> None:
    for damage in damages:
        attrgetter(file)(Results(own)).write_bytes(damage)
        page = open_page(name)
        assert "These results cannot be shown." in written(page)
        assert frame.COMMAND in [code.value for code in page.code]


@pytest.mark.parametrize("file", ["config", "data.split"])
def test_reconstruct_without_a_model_of_ours_names_the_damage_and_the_command(file: str, own: Path) -> None:
    attrgetter(file)(Results(own)).write_bytes(b"{}")
    page = open_page("reconstruct")
    assert "These results are damaged, and the page does without them." in written(page)
    assert [code.value for code in page.code] == [frame.COMMAND]
    assert "no complete results" not in written(page)


@pytest.mark.parametrize("file", [layout.ENCODER, layout.CONFIG, layout.RECONSTRUCTIONS])
def test_a_damaged_model_is_one_sentence(file: str, own: Path) -> None:
    (Results(own).stage("random", 0, "pretrain") / file).write_bytes(b"{}")
    page = open_page(*["home"] if file == layout.RECONSTRUCTIONS else ["reconstruct"])
    assert "These results cannot be shown." in written(page)


def test_a_table_of_another_kind_is_one_sentence(own: Path) -> None:
    (own / "leaderboard.parquet").write_bytes((own / "data" / "split.parquet").read_bytes())
    assert "These results cannot be shown." in written(open_page("results"))


def test_new_results_are_read_without_a_restart(own: Path) -> None:
    open_page("home")
    verdict = own / "verdict.json"
    verdict.write_text(verdict.read_text().replace("Pretraining", "**Pretraining**"))
    assert "<h3>**Pretraining**" in written(open_page("home"))


def test_no_page_but_reconstruct_imports_torch(shown: Path) -> None:
    script = f"""
import sys
from streamlit.testing.v1 import AppTest
assert not AppTest.from_file({str(ROOT / "app.py")!r}, default_timeout=60).run().exception
for name in ("home", "results", "compare", "alignment"):
    code = f"from facemae.app.views import {{name}}; {{name}}.render()"
    page = AppTest.from_string(code, default_timeout=60)
    assert not page.run().exception
stages = ("pretrain", "finetune", "embed", "evaluate", "compare", "prepare", "train")
print([name for name in ("torch", *(f"facemae.{{stage}}" for stage in stages)) if name in sys.modules])
"""
    environment = os.environ | {"FACEMAE_RESULTS": str(shown)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"


def test_no_page_writes_unsafe_html() -> None:
    sources = [path.read_text() for path in (ROOT / "facemae" / "app").rglob("*.py")]
    assert len(sources) > 20
    assert not any("unsafe_allow" in source for source in sources)


def test_a_picture_may_have_braces_in_its_name() -> None:
    def page() -> None:
        import numpy as np

        from facemae.app import elements

        elements.pictures({"{x}": np.zeros((8, 8, 3), np.uint8)}, "{y}: ", " {}")

    found = run(AppTest.from_function(page))
    assert [each.alt for block in found.get("image") for each in block.proto.imgs] == ["{y}: {x} {}"]
