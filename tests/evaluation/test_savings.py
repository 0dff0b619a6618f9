"""Labels saved, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from facemae.evaluation.savings import Saved, labels_saved, share_needed


def test_the_share_needed_is_linear_in_its_logarithm():
    # Half-way between 0.1 and 0.4 in the logarithm is 0.2; a quarter of the way from 0.01 to 0.16 is 0.02.
    assert share_needed([0.1, 0.4], [0.6, 0.8], 0.7) == pytest.approx(0.2)
    assert share_needed([0.01, 0.16, 1.0], [0.5, 0.9, 0.95], 0.6) == pytest.approx(0.02)
    assert share_needed([0.1, 0.4], [0.6, 0.8], 0.8) == pytest.approx(0.4)
    assert share_needed([0.1, 0.4], [0.6, 0.8], 0.5) == 0.1
    assert share_needed([0.1, 0.4], [0.6, 0.8], 0.81) == math.inf
    assert share_needed([1.0], [0.8], 0.8) == 1.0


def test_the_share_needed_is_the_first_that_reaches():
    assert share_needed([0.1, 0.2, 0.4, 0.8], [0.5, 0.7, 0.6, 0.9], 0.7) == pytest.approx(0.2)
    assert share_needed([0.1, 0.2, 0.4], [0.7, 0.6, 0.9], 0.7) == 0.1


def curve(values: list[float], half: float) -> pd.DataFrame:
    value = np.array(values)
    amount = [0.25, 0.5, 1.0]
    return pd.DataFrame({"amount": amount, "value": value, "ci_low": value - half, "ci_high": value + half})


def test_labels_saved_by_hand():
    # Scratch reaches 0.9 with all labels, the other with half of them: half is saved.
    saved = labels_saved(curve([0.8, 0.9, 1.0], 0.0), curve([0.7, 0.8, 0.9], 0.0))
    assert saved == Saved(0.9, 0.5, 0.5, 0.5)
    # With ends 0.05 off and a third curve that goes on: ours reaches 0.9 at its lower end at 2^-0.5, where
    # theirs does at its upper end; ours at its upper end at 2^-1.5, theirs at its lower end with all labels.
    theirs = curve([0.75, 0.85, 0.9], 0.05).assign(ci_low=[0.7, 0.8, 0.9], ci_high=[0.75, 0.85, 0.95])
    saved = labels_saved(curve([0.8, 0.9, 1.0], 0.05), theirs)
    assert (saved.accuracy, saved.value) == (0.9, 0.5)
    assert (saved.low, saved.high) == pytest.approx((0.0, 1 - 2**-1.5))


def test_an_open_end_is_no_saving():
    ours, theirs = curve([0.8, 0.9, 1.0], 0.05), curve([0.7, 0.8, 0.9], 0.05)
    assert labels_saved(ours, theirs) is None  # their lower end reaches 0.9 nowhere
    assert labels_saved(theirs, ours) is None
    assert labels_saved(curve([0.7, 0.8, 0.9], 0.05), curve([0.7, 0.8, 0.9], 0.05)) is None  # both


def test_more_labels_needed_are_a_saving_below_zero():
    saved = labels_saved(curve([0.7, 0.8, 0.9], 0.0), curve([0.8, 0.9, 1.0], 0.0))
    assert saved.value == pytest.approx(-1.0)


def test_without_a_curve_nothing_is_saved():
    assert labels_saved(curve([0.8, 0.9, 1.0], 0.0).head(0), curve([0.7, 0.8, 0.9], 0.0)) is None
