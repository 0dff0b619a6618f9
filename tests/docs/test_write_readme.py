"""The README's numbers come from a results folder, and its commands exist."""

import re
from pathlib import Path

import pandas as pd
import pytest
import write_readme as readme

from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def folder(tmp_path) -> Path:
    paths = Results(tmp_path / "results")
    rows = [
        {
            "run": run,
            "kind": "run",
            "strategy": run,
            "metric": metric,
            "value": value,
            "ci_low": 0.25,
            "condition": "",
        }
        | {"ci_high": 0.75, "seconds_pretrain": 12.4, "seconds_finetune": 3.0}
        for run, value in (("scratch", 0.5), ("random", 0.625))
        for metric in readme.SHOWN
        if (run, metric) != ("scratch", "rank1")
    ]
    rows += [row | {"condition": "mask", "amount": 0.3, "value": 0.01} for row in rows]
    verdict = {"metric": "roc_auc", "run_a": "random", "run_b": "scratch", "difference": 0.125}
    verdict |= {
        "ci_low": -0.25,
        "ci_high": 0.5,
        "p_adjusted": 0.3,
        "verdict": "undecided",
        "family": "primary",
    }
    verdict |= {"note": ""}
    empty = pd.DataFrame(columns=layout.LEADERBOARD_COLUMNS)
    records.write_table(paths.leaderboard, pd.concat([empty, pd.DataFrame(rows)]), layout.LEADERBOARD_COLUMNS)
    table = pd.DataFrame([verdict]).reindex(columns=layout.VERDICT_COLUMNS)
    records.write_table(paths.verdicts, table, layout.VERDICT_COLUMNS)
    files.write_json(
        paths.verdict,
        {
            "metric": "roc_auc",
            "headline": "It wins.",
            "sentences": ["So it is."],
            "trained_on": ["a processor"],
        },
    )
    return paths.root


def test_the_block_holds_the_headline_and_both_tables(folder):
    block = readme.results_block(folder)
    assert block.startswith("> **It wins.**\n>\n> So it is.\n>\n> Trained on a processor.\n")
    assert "| `random` | 0.625 (0.250 to 0.750) |" in block
    assert "| 12 + 3 |" in block
    assert "0.010" not in block  # what was measured under a condition has its own place
    assert re.search(r"\| `scratch` .* \| not measured \|", block)
    assert (
        "| `random` against `scratch` | +0.125 (-0.250 to +0.500) | 0.300 | **undecided** | primary |"
        in block
    )


def test_only_the_block_is_replaced_and_twice_is_once(folder, tmp_path):
    file = tmp_path / "README.md"
    file.write_text(
        f"before\n{readme.DATA_BEGIN}\n{readme.DATA_END}\n{readme.BEGIN}\nold\n{readme.END}\nafter\n"
    )
    readme.write_readme(file, folder)
    once = file.read_text()
    readme.write_readme(file, folder)
    assert file.read_text() == once
    assert once.startswith("before\n")
    assert once.endswith("\nafter\n")
    assert "old" not in once


def test_a_readme_without_the_block_and_a_folder_without_results_are_refused(folder, tmp_path):
    file = tmp_path / "README.md"
    file.write_text("nothing")
    with pytest.raises(UsageError, match="no lines"):
        readme.write_readme(file, folder)
    with pytest.raises(UsageError, match="no verdict"):
        readme.results_block(tmp_path / "nowhere")


def test_the_readme_names_files_that_exist():
    for name in re.findall(r"\]\(((?!http)[^)#]+)\)", TEXT):
        assert (ROOT / name).exists(), name


def test_the_readme_shows_measured_results():
    block = TEXT.split(readme.BEGIN)[1].split(readme.END)[0]
    assert "| `scratch` |" in block
    assert "against `scratch`" in block


def test_every_make_target_the_readme_names_exists():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)`", TEXT)) <= targets


def test_the_readme_lists_every_data_set_as_the_code_knows_it():
    block = TEXT.split(readme.DATA_BEGIN)[1].split(readme.DATA_END)[0]
    assert block.strip() == readme.data_block()
    assert "non-commercial" in block
