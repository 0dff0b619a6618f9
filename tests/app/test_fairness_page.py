"""Fairness and limits: groups measured and not, thresholds, failures, limits, and the model card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from driving import open_page, run, written
from results_folder import HOSTILE
from streamlit.testing.v1 import AppTest

from facemae.app import frame
from facemae.app.views import fairness
from facemae.core import layout, records
from facemae.core.layout import Results
from facemae.recognition import model_card
from facemae.recognition.threshold import card_of
from facemae.report import curves, known_errors, tables

ROOT = Path(__file__).parents[2]


def table(page: AppTest, column: str) -> pd.DataFrame:
    """Return the table that has a column."""
    return next(each.value for each in page.dataframe if column in each.value)


def with_groups(paths: Results, rows: list[tuple[str, str, float, float, float, str]]) -> None:
    """Add errors by group to the summary for every run and seed."""
    board = records.read_table(paths.summary)
    first = board.drop_duplicates(["run", "seed"])
    more = [
        first.assign(protocol="fairness", metric=metric, condition=group, amount=np.nan, note=note).assign(
            value=value, ci_low=low, ci_high=high
        )
        for metric, group, value, low, high, note in rows
    ]
    records.write_table(paths.summary, pd.concat([board, *more]), layout.SUMMARY_COLUMNS)


GROUPS = [
    ("fmr", "female", 0.002, 0.001, 0.004, "40 people"),
    ("fmr", HOSTILE, 0.01, 0.005, 0.02, "50 people"),
    ("fnmr", "female", 0.1, 0.08, 0.15, "40 people"),
    ("fnmr", HOSTILE, 0.3, 0.2, 0.4, "50 people"),
    ("fdr", "", 0.9, 0.85, 0.95, "2 groups"),
]
REFUSED = [("fmr", "male", np.nan, np.nan, np.nan, "this group has 12 people, and 30 are needed")]


@pytest.mark.usefixtures("shown")
def test_without_groups_the_page_says_why_and_what_it_takes() -> None:
    page = open_page("fairness")
    assert "Not measured." in [each.value for each in page.info]
    text = written(page)
    assert "name no group of people. It takes evaluation people whose group is known, 30 or more" in text
    assert not page.get("plotly_chart")


def test_groups_that_were_measured_have_a_chart_and_a_table(own: Path) -> None:
    with_groups(Results(own), GROUPS)
    page = open_page("fairness")
    assert not page.info
    assert fairness.HOW_TO_READ["groups"] in written(page)
    assert [bool(chart.proto.alt) for chart in page.get("plotly_chart")] == [True]
    assert HOSTILE not in page.get("plotly_chart")[0].proto.spec
    shown = table(page, "condition")
    assert shown["condition"].tolist() == ["female", HOSTILE, "female", HOSTILE, "between groups"]
    assert shown["value"].tolist() == [0.002, 0.01, 0.1, 0.3, 0.9]


def test_a_group_that_is_too_small_keeps_its_reason_beside_the_others(own: Path) -> None:
    with_groups(Results(own), GROUPS + REFUSED)
    page = open_page("fairness")
    assert "Not everything could be measured." in [each.value for each in page.info]
    assert "male: this group has 12 people, and 30 are needed." in written(page)
    assert len(table(page, "condition")) == 5


def test_larger_groups_are_not_asked_for_where_no_group_is_too_small(own: Path) -> None:
    rejected = "0.59 of the genuine pairs are rejected"
    with_groups(Results(own), [*GROUPS[:-1], ("fdr", "", np.nan, np.nan, np.nan, rejected)])
    text = written(open_page("fairness"))
    assert f"Between groups: {rejected}." in text
    assert known_errors.WHAT_GROUPS_TAKE.replace("`", "") not in text


@pytest.mark.parametrize("measured", [GROUPS[:1], []], ids=["one group", "none"])
def test_groups_are_asked_for_where_there_are_no_two_to_compare(own: Path, measured: list) -> None:
    with_groups(Results(own), [*measured, ("fdr", "", np.nan, np.nan, np.nan, "two are needed to compare")])
    text = written(open_page("fairness"))
    assert (
        f"Between groups: two are needed to compare. {known_errors.WHAT_GROUPS_TAKE}".replace("`", "") in text
    )


def test_only_groups_that_are_too_small_have_no_chart(own: Path) -> None:
    with_groups(Results(own), REFUSED)
    page = open_page("fairness")
    assert "Not measured." in [each.value for each in page.info]
    assert not page.get("plotly_chart")


def test_dots_and_bars_are_those_of_the_table() -> None:
    rows = pd.DataFrame(GROUPS, columns=["metric", "condition", "value", "ci_low", "ci_high", "note"])
    figure = fairness.group_chart(rows[rows["metric"].isin(fairness.RATES)])
    rate = figure.data[1]
    assert rate.name == "false non-match rate"
    assert list(rate.x) == [0.1, 0.3]
    np.testing.assert_allclose(rate.error_x.array, [0.05, 0.1])
    np.testing.assert_allclose(rate.error_x.arrayminus, [0.02, 0.1])
    assert list(rate.y) == ["female", "&lt;script&gt;alert(1)&lt;/script&gt;"]


@pytest.mark.usefixtures("everything")
def test_what_the_encoder_tells_of_groups_is_shown() -> None:
    page = open_page("fairness", model="random/0")
    assert "What else the encoder tells, by group" in [each.value for each in page.subheader]
    assert set(table(page, "condition")["condition"]) == {"female", "male"}


@pytest.mark.usefixtures("shown")
def test_the_best_run_comes_first_and_a_link_restores_another() -> None:
    page = open_page("fairness")
    found = page.selectbox(key="model")
    assert (found.value, found.options[-1]) == ("region/0", "scratch/1")
    assert open_page("fairness", model="scratch/1").selectbox(key="model").value == "scratch/1"
    assert open_page("fairness", model=HOSTILE).selectbox(key="model").value == "region/0"


def test_runs_without_the_primary_metric_come_last(shown: Path) -> None:
    setup, board = tables.experiment(Results(shown)), tables.leaderboard(Results(shown))
    primary = setup.evaluate.primary
    refused = board.assign(
        value=board["value"].where((board["run"] != "region") | (board["metric"] != primary))
    )
    assert fairness.best_first(setup, board)[0] == "region"
    assert fairness.best_first(setup, refused)[-1] == "region"
    assert curves.ranked(refused, primary)["run"].tolist()[0] == "pixels"


def test_thresholds_are_those_of_the_threshold_card(shown: Path) -> None:
    page = open_page("fairness", model="random/1")
    card, people = card_of(Results(shown).stage("random", 1, "finetune") / layout.EMBEDDINGS)
    rows = table(page, "Threshold")
    assert rows["Threshold"].tolist() == [
        "refused" if each["note"] else f"{each['threshold']:.3f}" for each in card.to_dict("records")
    ]
    first = card.iloc[0]
    assert rows["False matches"][0].startswith(f"{first['fmr']:.3g} (")
    assert rows["False non-matches"].tolist()[1:] == [""] * (len(card) - 1)
    assert f"Measured on {people} people." in written(page)
    assert f"Refused from 0.01 on: {card['note'][1]}." in written(page)


def test_failures_have_pictures_names_and_scores(shown: Path) -> None:
    page = open_page("fairness", model="random/0")
    found = known_errors.failures(Results(shown), "random", 0)
    rows = table(page, "first_picture")
    assert rows["first"].tolist() == found["first"].tolist()
    np.testing.assert_allclose(rows["score"], found["score"])
    assert all(each.startswith("data:image/png;base64,") for each in rows["second_picture"])
    assert set(rows["kind"]) == {"one person", "two people"}


@pytest.mark.usefixtures("everything")
def test_limits_claims_uses_and_licences_are_told() -> None:
    page = open_page("fairness")
    text = written(page).replace("&#x27;", "'")
    for sentence in (*model_card.UNMEASURED.values(), *model_card.INTENDED, *model_card.FORBIDDEN):
        assert sentence in text
    for words in ("a printed photo passes", "ISO/IEC 30107-3", "It rests on 12 people", "Licence: that of"):
        assert words in text
    assert "What is claimed of masked autoencoders, and what was found" in [
        each.label for each in page.expander
    ]
    assert HOSTILE not in "".join(each.proto.body for each in page.get("html"))


def test_the_model_card_is_shown_as_text_and_to_download(shown: Path) -> None:
    page = open_page("fairness", model="random/0")
    card = model_card.model_card(Results(shown), "random", 0)
    assert [each.value.strip() for each in page.code] == [card.strip()]
    assert page.code[0].language == "markdown"
    assert len(page.get("download_button")) == 1
    page = run(page.selectbox(key="model").set_value("scratch/0"))
    assert page.code[0].value.startswith("# Model card: `scratch/0`")


def test_without_embeddings_the_rest_of_the_page_is_there(own: Path) -> None:
    (Results(own).stage("region", 0, "finetune") / layout.EMBEDDINGS).unlink()
    page = open_page("fairness", model="region/0")
    assert "no threshold follows" in written(page)
    assert "none can be shown" in written(page)
    assert "Not known: the embeddings" in page.code[0].value
    assert "Data and licences" in [each.value for each in page.subheader]


def test_an_empty_folder_shows_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FACEMAE_RESULTS", str(tmp_path))
    assert [code.value for code in open_page("fairness").code] == [frame.COMMAND]


@pytest.mark.parametrize(("stage", "file"), [
    ("finetune", layout.EMBEDDINGS), ("evaluate", layout.METRICS),
])  # fmt: skip
def test_a_damaged_file_is_one_sentence(stage: str, file: str, own: Path) -> None:
    for path in own.glob(f"*/*/{stage}/{file}"):
        path.write_bytes(b"[")
    text = written(open_page("fairness"))
    assert "damaged" in text
    assert "Traceback" not in text


def test_the_page_imports_no_network_and_no_stage(shown: Path) -> None:
    script = """
import sys
from streamlit.testing.v1 import AppTest
page = AppTest.from_string("from facemae.app.views import fairness; fairness.render()", default_timeout=60)
assert not page.run().exception
names = (
    "timm",
    "facenet_pytorch",
    "facemae.training.trainer",
    "facemae.stages.evaluate",
    "facemae.stages.embed",
    "facemae.recognition.explanation",
)
print([name for name in names if name in sys.modules])
"""
    environment = os.environ | {"FACEMAE_RESULTS": str(shown)}
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, env=environment, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
