"""The README's numbers are those of the result pages, its commands and files exist, and it stays short."""

import re
from pathlib import Path

import pytest
import write_readme as readme

from facemae.core import files, records
from facemae.core.errors import UsageError

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "results"
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def block_of(text):
    return text.split(readme.BEGIN)[1].split(readme.END)[0].strip()


@pytest.fixture
def pages(tmp_path):
    """One page's JSON, small, under every name that the README shows."""
    number = {
        "protocol": "verification",
        "metric": "roc_auc",
        "condition": "",
        "ci_low": 0.25,
        "ci_high": 0.75,
    }
    verdict = {
        "metric": "roc_auc",
        "run_a": "random",
        "run_b": "scratch",
        "difference": 0.125,
        "ci_low": -0.25,
        "family": "primary",
    }
    run = {"kind": "run", "seconds_finetune": 12.0}
    untrained = {"kind": "baseline", "seconds_pretrain": 0.0, "seconds_finetune": 0.0}
    page = {
        "headline": "It wins.",
        "primary": "roc_auc",
        "control": "scratch",
        "facts": {"People evaluated on": "20", "Seeds": "0, 1", "Device": "a processor"},
        "runs": [
            run | {"run": "scratch", "seconds_pretrain": 0.0},
            run | {"run": "random", "seconds_pretrain": 30.0},
            run | {"run": "mae", "seconds_pretrain": 30.0},
            untrained | {"run": "pca"},
            untrained | {"run": "pixels"},
        ],
        "numbers": [
            number | {"run": "scratch", "value": 0.5},
            number | {"run": "random", "value": 0.625},
            number | {"run": "pca", "value": 0.3},
            number | {"run": "pixels", "value": 0.2},
            number | {"run": "random", "value": 0.01, "condition": "mask"},
        ],
        "verdicts": [
            verdict | {"ci_high": 0.5, "verdict": "undecided"},
            verdict | {"metric": "eer", "ci_high": 0.5, "verdict": "better"},
            verdict | {"run_a": "mae", "ci_high": 0.5, "verdict": "better", "family": "exploratory"},
        ],
    }
    for name in readme.ANSWERS:
        files.write_json(tmp_path / f"{name}.json", page | {"name": name})
    return tmp_path


def test_the_answer_holds_headline_value_and_difference(pages):
    block = readme.answer_block(pages)
    assert block.count("> **It wins.**") == len(readme.ANSWERS)
    assert block.count("| `scratch` | 0.500 (0.250 to 0.750) |  | 12 |") == 1  # of the first page alone
    assert "| `random` | 0.625 (0.250 to 0.750) | +0.125 (-0.250 to +0.500), **undecided** | 42 |" in block
    assert "| `mae` | not measured | +0.125 (-0.250 to +0.500), **better** (exploratory) | 42 |" in block
    assert "| `pca` | 0.300 (0.250 to 0.750) |  |  |" in block
    assert "`pixels`" not in block  # of the controls only the best
    assert "0.010" not in block  # what was measured under a condition has its own place
    where = "people kept out of training, 2 trainings of each run, on a processor. [Every number]"
    assert f"orl: 20 {where}(docs/results/orl.md)." in block
    assert block.count("A comparison is right where two photos of one person") == 1


def test_only_the_block_is_replaced_and_twice_is_once(tmp_path):
    file = tmp_path / "README.md"
    file.write_text(f"before\n{readme.BEGIN}\nold\n{readme.END}\nafter\n")
    readme.write_between(file, "new")
    once = file.read_text()
    readme.write_between(file, "new")
    assert file.read_text() == once == f"before\n{readme.BEGIN}\n\nnew\n\n{readme.END}\nafter\n"


def test_a_file_without_markers_is_refused(tmp_path):
    file = tmp_path / "README.md"
    file.write_text("nothing")
    with pytest.raises(UsageError, match="no lines"):
        readme.write_between(file, "new")


def test_the_readme_shows_what_the_pages_hold():
    assert block_of(TEXT) == readme.answer_block(PAGES)
    for name in readme.ANSWERS:
        assert records.read_json(PAGES / f"{name}.json")["headline"] in TEXT


def test_the_list_of_data_sets_is_what_the_code_knows():
    block = block_of((ROOT / "docs" / "datasets.md").read_text("utf-8"))
    assert block == readme.data_sets_block()
    assert "non-commercial" in block


@pytest.mark.parametrize(
    "page", ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
)
def test_a_page_names_files_that_exist(page):
    path = ROOT / page
    for name in re.findall(r"\]\(((?!http)[^)#]+)\)", path.read_text("utf-8")):
        assert (path.parent / name).exists(), name


def test_every_make_target_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|    )make ([a-z-]+)", TEXT)) <= targets


def test_the_readme_is_read_in_some_minutes():
    assert len(TEXT.split()) < 1500
