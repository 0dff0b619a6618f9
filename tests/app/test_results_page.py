"""The results page: filters, downloads, intervals, settings compared, and training in progress."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
from driving import open_page, run, written
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app import frame
from facemae.app.parts import live_training
from facemae.config import Experiment
from facemae.core import files, layout, records
from facemae.core.layout import Results
from facemae.report import live
from facemae.report.phrases import HOW_TO_READ


def runs(page: AppTest) -> list[str]:
    return list(page.dataframe[0].value["run"])


def begin(folder: Path, step: int) -> None:
    """Write what a pretraining of random/0 has written after some steps, by now."""
    state = folder / "random" / "0" / ".pretrain"
    files.write_json(state / layout.JOB, {"pretrain": {"steps": 40, "batch_size": 8, "log_every": 10}})
    for at in range(10, step + 1, 10):
        line = {"step": at, "loss": 0.5, "images_per_second": 8.0}
        files.append_line(state / layout.LOG, json.dumps(line))


def unfinished(folder: Path) -> None:
    """Take away what the workflow makes last."""
    for path in (Results(folder).leaderboard, Results(folder).verdict):
        path.unlink()


@pytest.mark.usefixtures("shown")
def test_runs_are_filtered_by_text_mask_and_kind() -> None:
    page = open_page("results")
    assert runs(page) == ["scratch", "random", "region", "pixels"]
    page.text_input(key="text").set_value(" R")
    assert runs(run(page)) == ["scratch", "random", "region"]
    page.selectbox(key="mask").set_value("region")
    assert runs(run(page)) == ["region"]
    page.text_input(key="text").set_value("[(")
    assert "No run fits these filters" in written(run(page))


def test_the_metric_that_decides_is_shown_first(own: Path) -> None:
    path = Results(own).config
    content = records.read_json(path)
    files.write_json(path, content | {"evaluate": content["evaluate"] | {"primary": "eer"}})
    page = open_page("results")
    assert page.selectbox(key="metric").value == "eer"
    assert open_page("results", metric="ROC AUC").selectbox(key="metric").value == "roc_auc"


@pytest.mark.usefixtures("shown")
def test_a_link_restores_the_filters() -> None:
    assert runs(open_page("results", kind="controls")) == ["pixels"]
    assert runs(open_page("results", text="RANDOM", mask="random")) == ["random"]
    assert runs(open_page("results", mask=HOSTILE, kind=HOSTILE)) == ["scratch", "random", "region", "pixels"]


@pytest.mark.usefixtures("everything")
def test_faces_as_they_are_stand_once_though_two_protocols_change_them() -> None:
    page = open_page("results")
    page.selectbox(key="metric").set_value("accuracy")
    run(page).selectbox(key="condition").set_value("none")
    names, seeds = runs(run(page)), page.dataframe[1].value[["run", "seed"]]
    assert len(names) == len(set(names)) > 2
    assert not seeds.duplicated().any()


@pytest.mark.usefixtures("shown")
def test_tables_are_offered_in_both_forms() -> None:
    labels = [each.proto.label for each in open_page("results").get("download_button")]
    assert labels == [
        "This table as CSV",
        "This table as Parquet",
        "All numbers as CSV",
        "All numbers as Parquet",
        "Leaderboard as LaTeX",
    ]


def test_downloads_hold_the_numbers_and_no_formulas() -> None:
    table = pd.DataFrame({"run": ["=1+1", "random"], "value": [-0.5, 0.25], "note": [None, "@x"]})
    text = records.csv_text(table)
    assert text.splitlines() == [b"run,value,note", b"'=1+1,-0.5,", b"random,0.25,'@x"]


@pytest.mark.usefixtures("shown")
def test_curves_have_intervals_and_say_of_what() -> None:
    page = open_page("results", tab="ROC and DET")
    assert HOW_TO_READ["bars"] in written(page)
    assert len(page.get("plotly_chart")) == 2
    every = open_page("results", tab="ROC and DET", every_seed="true")
    assert HOW_TO_READ["bars"] not in written(every)


@pytest.mark.usefixtures("shown")
def test_the_settings_of_two_runs_are_compared_and_a_link_restores_them() -> None:
    page = open_page("results", tab="Settings", first="random", second="region")
    table = page.dataframe[-1].value.set_index("setting")
    assert table.loc["pretrain.mask"].to_list() == ['"random"', '"region"']
    assert not any(name.startswith("finetune") for name in table.index)
    assert f"{len(table)} settings differ" in written(page)
    same = open_page("results", tab="Settings", first="random", second="random")
    assert "Choose two runs." in written(same)


@pytest.mark.usefixtures("shown")
def test_the_faces_are_one_click_away() -> None:
    (link,) = open_page("results", tab="Photos").get("page_link")
    assert link.proto.page == "alignment"


@pytest.mark.usefixtures("shown")
def test_where_all_is_done_the_page_says_so_and_does_not_look_again() -> None:
    page = open_page("results")
    assert "No training is under way." in written(page)
    assert "Training in progress" not in written(page)


def test_a_training_in_progress_is_followed_before_there_is_a_verdict(own: Path) -> None:
    unfinished(own)
    begin(own, 20)
    page = open_page("results")
    text = written(page)
    assert "random, seed 0, pretraining: step 20 of 40, loss 0.500, about 00:20 left" in text
    assert "verdict 0 of 1" in text
    assert HOW_TO_READ["progress"] in text
    assert "Nothing is being trained" not in text
    assert [code.value for code in page.code] == [frame.COMMAND]
    assert len(page.get("plotly_chart")) == 1 + 2  # its loss, and the finished trainings' curves
    begin(own, 30)
    assert "step 30 of 40" in written(run(page))


def test_a_training_begun_anew_stands_beside_the_old_results(own: Path) -> None:
    begin(own, 20)
    page = open_page("results")
    assert "Training in progress" in written(page)
    assert runs(page) == ["scratch", "random", "region", "pixels"]
    assert "1 training is under way. Done so far: photos listed 1 of 1" in written(open_page("home"))


def test_what_is_missing_and_not_under_way_names_the_command(own: Path) -> None:
    unfinished(own)
    page = open_page("results")
    assert "Nothing is being trained here now; the same command goes on with what is missing." in written(
        page
    )
    assert [code.value for code in page.code] == [frame.COMMAND]


def test_the_page_is_shown_anew_when_the_last_training_is_done(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part that looks again finds nothing left: the page around it is drawn anew, once, without it."""
    begin(own, 20)
    page = open_page("results")
    assert page.session_state[live_training.SEEN]
    looks, look = [], live.trainings

    def then_done(paths: Results, setup: Experiment) -> list[live.Training]:
        looks.append(found := look(paths, setup))
        shutil.rmtree(own / "random" / "0" / ".pretrain", ignore_errors=True)
        return found

    monkeypatch.setattr(live, "trainings", then_done)
    text = written(run(page))
    assert [len(found) for found in looks] == [1, 0, 0]  # the page, its part, and the page again
    assert "Training in progress" not in text
    assert "No training is under way." in text
    assert live_training.SEEN not in page.session_state
    assert runs(page) == ["scratch", "random", "region", "pixels"]


def test_many_trainings_are_counted(own: Path) -> None:
    for run_name in ("scratch", "random", "region"):
        for seed in (0, 1):
            for stage in ("finetune", "finetune-1"):
                state = own / run_name / str(seed) / f".{stage}"
                files.write_json(state / layout.JOB, {"finetune": {"steps": 9}})
    text = written(open_page("results"))
    assert text.count("starting, before its first step") == 6
    assert "And 6 more." in text


def test_between_two_trainings_a_running_workflow_is_said_to_run(own: Path) -> None:
    unfinished(own)
    with files.exclusive(own / live.WORKFLOW_LOCK):
        for name in ("home", "results"):
            text = written(open_page(name))
            assert "orkflow is running" in text
            assert "verdict 0 of 1" in text
        assert "A workflow is running in this folder" in written(open_page("compare"))
    assert "workflow is running" not in written(open_page("results"))
