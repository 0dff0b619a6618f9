"""Measured values as entries of metrics.json and columns of tables."""

import numpy as np
import pandas as pd
import pytest

from facemae.core import layout, records
from facemae.evaluation.records import Measurement, entry, higher_is_better, write_measured


def moved(spread):
    people = pd.MultiIndex.from_arrays([[0, 0, 1], [0, 1, 1]], names=["first", "second"])
    return pd.Series([spread, -2 * spread, spread], people)


def test_the_interval_of_a_share_stays_between_0_and_1():
    found = entry(Measurement("verification", "eer", 0.02, 9, "", None, influence=moved(0.3)), 0.95)
    assert (found["ci_low"], found["ci_high"]) == (0.0, 1.0)
    narrow = entry(Measurement("verification", "eer", 0.5, 9, "", None, influence=moved(0.001)), 0.95)
    assert 0.4 < narrow["ci_low"] < 0.5 < narrow["ci_high"] < 0.6


def test_what_has_too_few_resamples_has_no_interval_and_says_so():
    samples = np.append(np.full(60, np.nan), np.linspace(0, 1, 39))
    found = entry(Measurement("p", "rank1", 0.5, 9, "of nine", samples), 0.95)
    assert (found["value"], found["ci_low"]) == (0.5, None)
    assert found["note"] == "of nine; no interval: a 95% interval needs 40 finite samples, got 39"


def test_each_measurement_is_a_column_of_one_of_two_tables(tmp_path):
    measured = [
        Measurement("p", "accuracy", 0.5, 9, "", np.arange(3.0), "mask", 0.3),
        Measurement("p", "eer", 0.5, 9, "", None, influence=moved(0.1)),
        Measurement("p", "far_at_target=0.1", 0.1, 9, "", None),
    ]
    write_measured(tmp_path, measured, 0.95, seed=0, device="cpu", seconds={})
    written = records.read_metrics(tmp_path)
    assert set(written["tables"]) == {layout.RESAMPLES, layout.INFLUENCE}
    assert [each["name"] for each in written["metrics"]] == ["accuracy", "eer", "far_at_target=0.1"]
    samples, influence = (records.read_table(tmp_path / n) for n in (layout.RESAMPLES, layout.INFLUENCE))
    assert samples.to_dict("list") == {"accuracy@mask=0.3": [0.0, 1.0, 2.0]}
    assert influence.to_dict("list") == {"first": [0, 0, 1], "second": [0, 1, 1], "eer": [0.1, -0.2, 0.1]}


def test_every_measurement_has_a_direction():
    names = ("roc_auc", "eer", "tar_at_far=0.1", "far_at_target=0.1", "age_error", "blufr_dir=0.01")
    assert [name for name in names if higher_is_better(name)] == [
        "roc_auc",
        "tar_at_far=0.1",
        "blufr_dir=0.01",
    ]
    with pytest.raises(KeyError, match="f1"):
        higher_is_better("f1")
