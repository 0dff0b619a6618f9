"""Verdicts on a family of comparisons: hand-computed cases."""

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.evaluation import verdict
from facemae.evaluation.statistics import Estimate

MARGIN = 0.1


def a_difference(value, error=1.0, freedom=10.0, covers_seeds=True):
    return Estimate(value, error, freedom, covers_seeds, 0.95)


def test_holm_by_hand():
    # Sorted .005 .01 .03 .04 times 4 3 2 1: .02 .03 .06 .04, and .04 may not be below .06.
    assert verdict.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert verdict.holm([0.4, 0.9]) == pytest.approx([0.8, 0.9])
    assert verdict.holm([0.6, 0.9]) == pytest.approx([1.0, 1.0])
    assert verdict.holm([0.3]) == pytest.approx([0.3])
    assert len(verdict.holm([])) == 0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50, deadline=None)
def test_holm_lies_between_the_p_value_and_bonferroni_and_keeps_the_order(p_values):
    p, adjusted = np.array(p_values), verdict.holm(p_values)
    assert (adjusted >= p).all()
    assert (adjusted <= np.minimum(len(p) * p, 1)).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


@pytest.mark.parametrize("higher", [True, False])
def test_a_clear_difference_is_called_and_turns_round(higher):
    family = [a_difference(9.0), a_difference(-9.0), a_difference(0.5)]
    better, worse = ("better", "worse") if higher else ("worse", "better")
    found = verdict.verdicts(family, higher, MARGIN)
    assert [each.verdict for each in found] == [better, worse, "undecided"]
    expected = verdict.holm([each.p_value for each in family])
    assert [each.p_adjusted for each in found] == pytest.approx(expected)
    assert [each.estimate for each in found] == family


def test_the_family_is_corrected():
    close = a_difference(2.4)
    assert close.p_value == pytest.approx(0.037, abs=0.001)
    assert verdict.verdicts([close], True, MARGIN)[0].verdict == "better"
    assert verdict.verdicts([close, a_difference(0.0)], True, MARGIN)[0].verdict == "undecided"


def test_an_interval_within_the_margin_is_equivalent_at_the_level_of_the_family():
    half = scipy.stats.t.ppf(0.975, 10)
    assert verdict.verdicts([a_difference(1.0)], True, 1.01 + half)[0].verdict == "equivalent"
    assert verdict.verdicts([a_difference(1.0)], True, 0.99 + half)[0].verdict == "undecided"
    wider = scipy.stats.t.ppf(1 - 0.05 / 4, 10)
    family = [a_difference(-1.0), a_difference(0.0)]
    assert verdict.verdicts(family, True, 1.01 + wider)[0].verdict == "equivalent"
    assert verdict.verdicts(family, True, 0.99 + wider)[0].verdict == "undecided"
    # A difference that is there, and too small to matter.
    assert verdict.verdicts([a_difference(9.0)], True, 20.0)[0].verdict == "equivalent"


def test_what_is_refused_and_single_seeds_are_undecided_and_ease_no_correction():
    single, close = a_difference(50.0, covers_seeds=False), a_difference(2.4)
    found = verdict.verdicts([single, close], True, MARGIN)
    assert [each.verdict for each in found] == ["undecided", "undecided"]
    assert [each.note for each in found] == [verdict.ONE_SEED, ""]
    assert found[0].p_value < 1e-6
    assert found[0].p_adjusted == 1
    assert found[1].p_adjusted == pytest.approx(2 * close.p_value)
    refused = verdict.verdicts([a_difference(50.0)], True, 100.0, refusals=["it has not learnt"])[0]
    assert (refused.verdict, refused.note, refused.p_adjusted) == ("undecided", "it has not learnt", 1)


def test_runs_that_make_no_error_at_all_are_not_equivalent():
    perfect = a_difference(0.0, error=0.0)
    found = verdict.verdicts([perfect, a_difference(2.4)], True, MARGIN)
    assert [each.verdict for each in found] == ["undecided", "undecided"]
    assert found[0].note == verdict.NO_SPREAD


def test_detectable_by_hand():
    found = verdict.verdicts([a_difference(0.0, error=0.02, freedom=8.0)] * 5, True, 0.001)
    expected = (scipy.stats.t.ppf(1 - 0.05 / 10, 8) + scipy.stats.t.ppf(0.8, 8)) * 0.02
    assert [each.detectable for each in found] == pytest.approx([expected] * 5)
