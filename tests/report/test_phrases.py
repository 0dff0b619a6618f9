"""Words for metrics and lists, and rows told from either side."""

import pandas as pd

from facemae.report.phrases import (
    contrastive_runs,
    hiding_runs,
    masked_runs,
    primary_first,
    scratch_runs,
    turned,
)


def test_what_decides_is_told_first():
    table = pd.DataFrame({"run_a": list("abcd"), "family": ["exploratory", "primary"] * 2})
    assert primary_first(table)["run_a"].tolist() == ["b", "d", "a", "c"]


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
    assert hiding_runs(experiment) == ["erasing"]
    assert scratch_runs(experiment) == ["plain", "erasing"]  # what hides nothing comes first


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
