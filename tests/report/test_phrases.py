"""Words for metrics and lists, and rows told from either side."""

import numpy as np
import pandas as pd

from facemae.report import page, tables
from facemae.report.phrases import (
    contrastive_runs,
    difference,
    hides,
    masked_runs,
    origin,
    primary_first,
    scratch_runs,
    started_runs,
    turned,
)


def test_what_decides_is_told_first():
    table = pd.DataFrame({"run_a": list("abcd"), "family": ["exploratory", "primary"] * 2})
    assert primary_first(table)["run_a"].tolist() == ["b", "d", "a", "c"]


def test_a_difference_without_an_interval_says_so():
    row = {"difference": 0.0124, "ci_low": -0.01, "ci_high": 0.02}
    assert difference(row) == "+0.012 (-0.010 to +0.020)"
    assert difference(row | {"ci_low": np.nan, "ci_high": np.nan}) == "+0.012 (no interval)"


def test_runs_are_told_apart_by_how_they_learn(small):
    experiment = small(
        runs=dict.fromkeys(["scratch", "block", "grid", "region"])
        | {
            "erasing": {"pretrain": None, "finetune": {"erasing": 0.5}},
            "views": {"pretrain": {"method": "dino"}},
        }
        | {"plain": {"pretrain": None}}
    )
    assert masked_runs(experiment) == ["random"]
    assert contrastive_runs(experiment) == ["views"]
    assert [name for name in experiment.run_names if hides(experiment.run(name))] == ["erasing"]
    assert scratch_runs(experiment) == ["plain", "erasing"]  # what hides nothing comes first


def test_what_a_run_starts_from_and_is_taught_by_is_told(small):
    from_file = {"pretrain": {"init": "weights/mae.safetensors"}, "finetune": {"teacher": "dlib"}}
    runs = {
        "started": {"pretrain": None, "finetune": {"init": "face-mae"}},
        "taught": {"pretrain": None, "finetune": {"teacher": "dlib"}}, "both": from_file,
    }  # fmt: skip
    experiment = small(runs=dict.fromkeys(["block", "grid", "region"]) | runs)
    told = {name: origin(experiment.run(name)) for name in experiment.run_names}
    assert told == {
        "scratch": "", "random": "", "started": "from face-mae", "taught": "taught by dlib",
        "both": "from mae.safetensors, taught by dlib",
    }  # fmt: skip
    assert started_runs(experiment) == ["started", "taught"]
    assert scratch_runs(experiment) == ["scratch"]
    assert sorted(tables.run_names(experiment)) == sorted(experiment.run_names)
    board = pd.DataFrame({"run": [*told, "pixels"], "kind": ["run"] * len(told) + ["baseline"]})
    board["strategy"] = ["none", "random", "face-mae", "none", "random", "pixels"]
    board = board.set_index("run").loc[["random", "started", "pixels"]].reset_index()
    found = tables.told(experiment, board)
    assert found["strategy"].tolist() == ["random", "none", "control"]
    assert found["origin"].tolist() == ["", "from face-mae", ""]
    (table,) = page._leaderboards(
        found.assign(
            metric="roc_auc", condition="", protocol="verification", value=0.9, ci_low=0.8, ci_high=1.0,
            note="", people=20, seeds=2, device="cpu", **dict.fromkeys(page.BUDGET, 0.0),
        )
    )  # fmt: skip
    told = {run: entries["roc_auc"].get("origin") for run, entries in table["runs"].items()}
    assert told == {"random": "", "started": "from face-mae", "pixels": ""}


def test_a_comparison_turned_twice_is_itself():
    row = {"run_a": "a", "run_b": "b", "verdict": "better", "difference": 0.2, "ci_low": 0.1, "ci_high": 0.4}
    row |= {"seconds_difference": 3.0}
    other = turned(row, "b")
    assert other == {
        "run_a": "b", "run_b": "a", "verdict": "worse", "difference": -0.2, "ci_low": -0.4, "ci_high": -0.1,
        "seconds_difference": -3.0,
    }  # fmt: skip
    assert turned(other, "a") == row
    assert turned(row, "a") == row
    assert turned(row | {"verdict": "equivalent"}, "b")["verdict"] == "equivalent"
