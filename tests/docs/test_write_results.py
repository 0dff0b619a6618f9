"""The documented results: made from a folder, and never changed by hand."""

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import write_results as results_page
from PIL import Image
from results_folder import EVERYTHING, HOSTILE, make_results
from write_results import as_markdown, document

from facemae import config
from facemae.core import files
from facemae.core.errors import IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.stages.compare import compare

DOCUMENTED = Path(__file__).parents[2] / "docs" / "results"
CURVES = ("occlusion", "occlusion-kinds", "lighting", "illumination", "labels", "labels-per-person")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made") / "results-invented"
    make_results(root, **EVERYTHING)
    return root


@pytest.fixture(scope="module")
def made(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("docs")
    document(folder, out)
    return out


@pytest.fixture(scope="module")
def page(made: Path) -> str:
    return (made / "invented.md").read_text(encoding="utf-8")


def section(page: str, title: str) -> str:
    return page.split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]


def test_the_page_is_what_its_numbers_say(made: Path, page: str) -> None:
    assert as_markdown(json.loads((made / "invented.json").read_text())) == page


def test_the_same_folder_gives_the_same_bytes(folder: Path, made: Path, tmp_path: Path) -> None:
    document(folder, tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in made.iterdir()}
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (made / file.name).read_bytes(), file.name


def test_every_picture_is_there_small_and_described(made: Path, page: str) -> None:
    shown = re.findall(r"!\[([^\]]+)\]\(([^)]+)\)", page)
    assert [name for _, name in shown] == [f"invented-{name}.png" for name in ("leaderboard", *CURVES)]
    assert {file.name for file in made.glob("*.png")} == {name for _, name in shown}
    for text, name in shown:
        assert len(text) > 40
        content = (made / name).read_bytes()
        assert len(content) < 100_000
        assert Image.open(io.BytesIO(content)).width > 500


def test_the_tables_hold_the_leaderboards_numbers(folder: Path, page: str) -> None:
    board = pd.read_parquet(Results(folder).leaderboard)
    for run, metric, title in (
        ("random", "roc_auc", "All numbers, controls included"),
        ("simclr", "occlusion_accuracy", "Covered faces"),
        ("scratch", "labels_accuracy", "Fewer labels"),
    ):
        row = board[(board["run"] == run) & (board["metric"] == metric)].iloc[0]
        cell = f"{row['value']:.3f} ({row['ci_low']:.3f} to {row['ci_high']:.3f})"
        assert re.search(rf"\| `{run}` \|.*{re.escape(cell)}", section(page, title))
    assert "| 10 + 5 | 1,000 + 500 |" in section(page, "All numbers, controls included")


def pairs(table: str) -> list[list[str]]:
    return [line.removeprefix("| ").split(" | ")[:2] for line in table.splitlines() if line.startswith("| ")][
        2:
    ]


def test_the_primary_family_comes_first_and_the_rest_is_exploratory(page: str) -> None:
    assert pairs(section(page, "The verdicts that decide")) == [
        ["ROC AUC", f"`{a}` against `{b}`"]
        for a, b in (("random", "scratch"), ("region", "scratch"), ("region", "random"))
    ]
    rows = pairs(section(page, "Exploratory verdicts against scratch"))
    assert rows[0][0] == "ROC AUC"
    for run in ("patch_drop", "erasing", "simclr"):
        assert ["ROC AUC", f"`{run}` against `scratch`"] in rows
    assert ["ROC AUC", "`random` against `scratch`"] not in rows
    assert ["verification accuracy", "`random` against `scratch`"] in rows


def test_claims_facts_and_credits_are_told(page: str) -> None:
    claims = section(page, "What is claimed, and what was found")
    assert claims.count("| MAE pretraining") > 8
    assert "- Seeds: 0, 1" in page
    assert "Credit: us." in page
    assert "- Training data: " in page


def test_text_from_data_is_no_markup(page: str) -> None:
    assert HOSTILE not in page
    assert HOSTILE.replace("<", "&lt;") in page


def test_without_protocols_there_are_no_empty_sections(tmp_path: Path) -> None:
    make_results(tmp_path / "results-plain", runs={"random": None, "region": None}, baselines=[])
    document(tmp_path / "results-plain", tmp_path)
    page = (tmp_path / "plain.md").read_text()
    assert re.findall(r"^## (.+)$", page, re.MULTILINE) == [
        "What is claimed, and what was found", "All numbers, controls included", "The verdicts that decide",
        "Exploratory verdicts against scratch", "How it was measured",
    ]  # fmt: skip
    for title in ("The verdicts that decide", "Exploratory verdicts against scratch"):
        assert "Nothing was measured." in section(page, title)


def test_a_cell_stays_in_its_place() -> None:
    assert results_page._table(["a|b"], [["c\nd"]]) == "| a\\|b |\n| --- |\n| c d |"


def test_a_folder_without_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no verdict"):
        document(tmp_path, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_a_damaged_folder_is_one_sentence_and_writes_nothing(tmp_path: Path) -> None:
    paths = Results(tmp_path)
    files.write_json(paths.verdict, {})
    files.atomic_write(paths.leaderboard, b"PAR1")
    with pytest.raises((IntegrityError, FileNotFoundError)):
        document(tmp_path, tmp_path / "docs")
    assert not (tmp_path / "docs").exists()


def test_the_script_writes_the_page(folder: Path, tmp_path: Path) -> None:
    script = [sys.executable, DOCUMENTED.parent / "write_results.py"]
    subprocess.run([*script, "--results", folder, "--out", tmp_path], check=True, capture_output=True)
    assert (tmp_path / "invented.md").exists()


@pytest.mark.parametrize("measured", sorted((DOCUMENTED / "measured").iterdir()), ids=lambda path: path.name)
def test_a_page_comes_of_the_measurements_that_are_kept(measured: Path, tmp_path: Path) -> None:
    root = shutil.copytree(measured, tmp_path / f"results-{measured.name}")
    compare(config.load([Results(root).config]), root)
    document(root, tmp_path / "docs")
    for name in ("json", "md"):
        made = (tmp_path / "docs" / f"{measured.name}.{name}").read_text(encoding="utf-8")
        assert made == (DOCUMENTED / f"{measured.name}.{name}").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", sorted(DOCUMENTED.glob("*.json")), ids=lambda path: path.stem)
def test_every_run_is_held_against_the_control_wherever_that_stands_in_the_file(page: Path) -> None:
    content = json.loads(page.read_text(encoding="utf-8"))
    runs = {row["run"] for row in content["runs"] if row["kind"] == "run"}
    runs -= {content["control"], content["scratch"]}
    rows = [row for row in content["verdicts"] if row["metric"] == content["primary"]]
    assert runs <= {row["run_a"] for row in rows if row["run_b"] == content["control"]}


def test_the_documented_results_are_what_their_numbers_say() -> None:
    files_there = sorted(DOCUMENTED.glob("*.json"))
    if not files_there:
        pytest.skip(f"{DOCUMENTED} holds no results yet; `make readme` writes them")
    for file in files_there:
        content = json.loads(file.read_text(encoding="utf-8"))
        page = file.with_suffix(".md").read_text(encoding="utf-8")
        assert as_markdown(content) == page, f"{file.with_suffix('.md')}: make it again with `make readme`"
        for name in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page):
            assert (DOCUMENTED / name).exists(), name
