"""Claims: who is judged by what, what a verdict makes of them, and labels saved by hand."""

import math
from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from facemae import claims, compare, config, results
from facemae.claims import Claim, labels_saved, share_needed
from facemae.metrics import higher_is_better
from facemae.wording import METRIC_NAMES

CONTROLS = {
    "patch_drop": {"pretrain": None, "finetune": {"patch_drop": 0.5}},
    "erasing": {"pretrain": None, "finetune": {"erasing": 0.5}},
}
RIVALS = {"views": {"pretrain": {"method": "simclr"}}, "queue": {"pretrain": {"method": "moco"}}}
ONLY_RANDOM = {"block": None, "grid": None, "region": None}


def rows(values: dict[str, float | None], metric: str = "roc_auc", **more: object) -> pd.DataFrame:
    """Return a leaderboard of one metric: its value by run."""
    table = pd.DataFrame(
        {"run": run, "metric": metric, "value": value, "protocol": "verification", "condition": ""}
        | {"note": "" if value is not None else "too few pairs"} | more
        for run, value in values.items()
    )  # fmt: skip
    return table.reindex(columns=results.LEADERBOARD_COLUMNS).astype({"value": float})


def judged(
    *pairs: tuple[str, str, str], metric: str = "roc_auc", detectable: float = 0.05, difference: float = 0.03
) -> pd.DataFrame:
    """Return verdicts (run_a, run_b, verdict) of one metric."""
    sign = {"better": 1, "worse": -1, "tie": 0.1, "undecided": 0.1}
    table = pd.DataFrame(
        {
            "metric": metric, "run_a": a, "run_b": b, "verdict": verdict,
            "difference": difference * sign[verdict], "ci_low": difference * sign[verdict] - 0.01,
            "ci_high": difference * sign[verdict] + 0.01, "detectable": detectable, "p_adjusted": 0.5,
            "seconds_difference": 12.4,
        }
        for a, b, verdict in pairs
    )  # fmt: skip
    return table.reindex(columns=results.VERDICT_COLUMNS)


def found(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame, about: str
) -> Claim:
    return next(each for each in claims.claims(experiment, leaderboard, verdicts) if about in each.claim)


def test_every_claim_is_judged_by_a_metric_that_is_compared():
    for question in claims.QUESTIONS:
        metric = "roc_auc" if question.metric == claims.PRIMARY else question.metric
        assert metric in compare.COMPARED
        assert metric in METRIC_NAMES
        assert higher_is_better(metric) in (True, False)


@pytest.mark.parametrize(
    ("verdict", "detectable", "finding", "words"),
    [
        ("better", 0.05, "supported", "random is better than scratch, ROC AUC +0.030 (+0.020 to +0.040)"),
        ("worse", 0.05, "not supported", "random is worse than scratch, ROC AUC -0.030 (-0.040 to -0.020)"),
        ("tie", 0.019, "not supported", "a difference of 0.019 would have been seen"),
        ("tie", 0.021, "undecided", "a difference below 0.021 may have gone unseen"),
        ("undecided", 0.01, "undecided", "one seed cannot tell"),
    ],
)
def test_a_verdict_decides(small, verdict, detectable, finding, words):
    experiment = small(runs=ONLY_RANDOM)
    leaderboard = rows({"scratch": 0.8, "random": 0.83})
    verdicts = judged(("random", "scratch", verdict), detectable=detectable)
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert claim.finding == finding
    assert claim.sentence.startswith(f"{finding.capitalize()}: random ")
    assert words in claim.sentence
    assert "+12 s of training" in claim.sentence
    assert (claim.run, claim.against, claim.metric) == ("random", "scratch", "roc_auc")


def test_a_comparison_is_read_from_either_side(small):
    experiment = small(runs=ONLY_RANDOM)
    leaderboard = rows({"scratch": 0.8, "random": 0.83})
    claim = found(experiment, leaderboard, judged(("scratch", "random", "worse")), "more accurate")
    assert claim.finding == "supported"
    assert claim.difference == pytest.approx(0.03)
    assert (claim.ci_low, claim.ci_high) == pytest.approx((0.02, 0.04))
    assert "-12 s of training" in claim.sentence


def test_the_run_judged_does_not_depend_on_who_won(small):
    """The best of several would be a winner by chance; the others are told beside it."""
    experiment = small(runs={"grid": None, "region": None})
    leaderboard = rows({"scratch": 0.8, "random": 0.8, "block": 0.9})
    verdicts = judged(("random", "scratch", "tie"), ("block", "scratch", "better"))
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert (claim.finding, claim.run) == ("undecided", "random")
    assert claim.sentence.endswith("The other masks against scratch: better: block (+0.030).")
    without = small(runs={"grid": None, "region": None, "random": None})
    assert found(without, leaderboard, verdicts, "more accurate").run == "block"


def test_a_mask_may_have_any_name(small):
    experiment = small(
        runs={"random": None, "region": None, "grid": None, "mine": {"pretrain": {"mask": "random"}}}
    )
    leaderboard = rows({"scratch": 0.8, "block": 0.9, "mine": 0.8})
    verdicts = judged(("block", "scratch", "better"), ("mine", "scratch", "worse"))
    assert found(experiment, leaderboard, verdicts, "more accurate").finding == "not supported"


@pytest.mark.parametrize("metric", ["occlusion_accuracy", "light_accuracy", "illumination_rank1"])
def test_robustness_is_held_against_the_strongest_run_without_pretraining(small, metric):
    experiment = small(runs=ONLY_RANDOM | CONTROLS)
    leaderboard = rows({"scratch": 0.6, "patch_drop": 0.7, "erasing": 0.65, "random": 0.68}, metric)
    verdicts = judged(
        ("random", "scratch", "better"), ("random", "patch_drop", "worse"), ("random", "erasing", "better"),
        metric=metric,
    )  # fmt: skip
    claim = next(each for each in claims.claims(experiment, leaderboard, verdicts) if each.metric == metric)
    assert (claim.finding, claim.against) == ("not supported", "patch_drop")
    assert "Best of the 3 runs without pretraining: patch_drop." in claim.sentence


def test_robustness_without_a_cheap_control_says_so(small):
    leaderboard = rows({"scratch": 0.6, "random": 0.68}, "occlusion_accuracy")
    verdicts = judged(("random", "scratch", "better"), metric="occlusion_accuracy")
    claim = found(small(runs=ONLY_RANDOM), leaderboard, verdicts, "occlusion")
    assert claim.finding == "supported"
    assert "No run with patch_drop or erasing" in claim.sentence


def test_accuracy_is_held_against_training_from_scratch_not_a_cheap_control(small):
    experiment = small(runs=ONLY_RANDOM | {"scratch": None} | CONTROLS | {"plain": {"pretrain": None}})
    leaderboard = rows({"patch_drop": 0.7, "erasing": 0.9, "plain": 0.6, "random": 0.65})
    verdicts = judged(("random", "plain", "better"), ("random", "erasing", "worse"))
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert (claim.finding, claim.against) == ("supported", "plain")


def test_each_rival_is_a_claim_of_its_own(small):
    experiment = small(runs=ONLY_RANDOM | RIVALS)
    leaderboard = rows({"scratch": 0.6, "random": 0.7, "views": 0.65, "queue": 0.8})
    verdicts = judged(("random", "views", "better"), ("queue", "random", "better"))
    about = [each for each in claims.claims(experiment, leaderboard, verdicts) if "beats" in each.claim]
    assert [(each.claim, each.finding) for each in about] == [
        ("MAE pretraining beats views", "supported"),
        ("MAE pretraining beats queue", "not supported"),
    ]


@pytest.mark.parametrize(
    ("verdicts", "detectable", "finding"),
    [
        (("tie", "tie", "better"), 0.1, "supported"),
        (("tie", "tie", "tie"), 0.01, "not supported"),
        (("tie", "tie", "tie"), 0.1, "undecided"),
        (("undecided", "undecided", "undecided"), 0.01, "undecided"),
    ],
)
def test_masks_matter_where_any_two_differ(small, verdicts, detectable, finding):
    experiment = small(runs={"region": None})
    leaderboard = rows({"scratch": 0.6, "random": 0.7, "block": 0.7, "grid": 0.73})
    pairs = [("block", "random"), ("grid", "random"), ("grid", "block")]
    table = judged(
        *[(*pair, each) for pair, each in zip(pairs, verdicts, strict=True)], detectable=detectable
    )
    claim = found(experiment, leaderboard, table, "matters")
    assert claim.finding == finding
    if finding == "supported":
        assert "grid is better than block" in claim.sentence
        assert claim.sentence.endswith("Of 3 pairs of masks 1 differ.")


def test_two_runs_with_one_mask_say_nothing_about_masks(small):
    experiment = small(runs=ONLY_RANDOM | {"longer": {"pretrain": {"steps": 20}}})
    leaderboard = rows({"scratch": 0.6, "random": 0.7, "longer": 0.8})
    verdicts = judged(("longer", "random", "better"))
    assert found(experiment, leaderboard, verdicts, "matters").finding == "not measured"


def test_of_the_age_a_smaller_error_is_better_and_a_small_difference_is_one_in_years(small):
    experiment = small(runs=ONLY_RANDOM)
    leaderboard = rows({"scratch": 6.0, "random": 5.9}, "age_error", protocol="attributes")
    tie = judged(("random", "scratch", "tie"), metric="age_error", detectable=0.4)
    assert found(experiment, leaderboard, tie, "age").finding == "not supported"
    tie = judged(("random", "scratch", "tie"), metric="age_error", detectable=0.6)
    assert found(experiment, leaderboard, tie, "age").finding == "undecided"
    better = judged(("random", "scratch", "better"), metric="age_error", difference=-1.0)
    assert found(experiment, leaderboard, better, "age").sentence.startswith("Supported: random is better")


def test_what_has_no_rows_is_not_measured_and_says_what_that_takes(small):
    experiment = small(runs=ONLY_RANDOM)
    answers = claims.claims(experiment, rows({}), judged())
    assert {each.finding for each in answers} == {"not measured"}
    assert len(answers) == len(claims.QUESTIONS)
    assert all(each.sentence.startswith("Not measured: ") for each in answers)
    assert all(each.difference is None for each in answers)
    assert "robustness.runs" in next(each.sentence for each in answers if "occlusion" in each.claim)
    assert "label_curve.runs" in next(each.sentence for each in answers if "labels" in each.claim)


def test_a_refused_metric_gives_its_reason(small):
    leaderboard = rows({"scratch": None, "random": None}, "occlusion_accuracy")
    claim = found(small(runs=ONLY_RANDOM), leaderboard, judged(), "occlusion")
    assert claim.sentence.startswith("Not measured: too few pairs")


@pytest.mark.parametrize(
    ("runs", "words"),
    [
        (ONLY_RANDOM | {"random": None}, "no masked autoencoder"),
        (ONLY_RANDOM | {"scratch": None}, "no run without pretraining"),
    ],
)
def test_without_one_side_there_is_no_claim(small, runs, words):
    names = {name: 0.8 for name in ("scratch", "random") if name not in runs}
    claim = found(small(runs=runs), rows(names), judged(), "more accurate")
    assert claim.finding == "not measured"
    assert words in claim.sentence


def test_a_row_under_a_condition_is_no_value_of_the_metric(small):
    leaderboard = rows({"scratch": 0.8, "random": 0.8}, condition="all pairs")
    claim = found(small(runs=ONLY_RANDOM), leaderboard, judged(("random", "scratch", "better")), "accurate")
    assert claim.finding == "not measured"


def test_claims_are_plain_values(small):
    leaderboard = rows({"scratch": 0.8, "random": 0.8})
    answers = claims.claims(small(runs=ONLY_RANDOM), leaderboard, judged(("random", "scratch", "tie")))
    for each in answers:
        assert {type(value) for value in asdict(each).values()} <= {str, float, type(None)}


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


@pytest.mark.parametrize(
    ("shares", "values"),
    [([], []), ([0.1], [0.1, 0.2]), ([0.2, 0.1], [0.1, 0.2]), ([0.0, 0.1], [0.1, 0.2])],
)
def test_shares_that_are_none_are_refused(shares, values):
    with pytest.raises(ValueError, match="share"):
        share_needed(shares, values, 0.5)


def curve(values: list[float], half: float) -> pd.DataFrame:
    value = np.array(values)
    amount = [0.25, 0.5, 1.0]
    return pd.DataFrame({"amount": amount, "value": value, "ci_low": value - half, "ci_high": value + half})


def test_labels_saved_by_hand():
    # Scratch reaches 0.9 with all labels, the other with half of them: half is saved.
    saved = labels_saved(curve([0.8, 0.9, 1.0], 0.0), curve([0.7, 0.8, 0.9], 0.0))
    assert saved == claims.Saved(0.9, 0.5, 0.5, 0.5)
    # With ends 0.05 off: ours at its lower end reaches 0.9 at 2^-0.5, scratch's upper end there too; ours at
    # its upper end at 2^-1.5, scratch's lower end nowhere.
    saved = labels_saved(curve([0.8, 0.9, 1.0], 0.05), curve([0.7, 0.8, 0.9], 0.05))
    assert (saved.accuracy, saved.value, saved.high) == (0.9, 0.5, None)
    assert saved.low == pytest.approx(0.0)


def test_more_labels_needed_are_a_saving_below_zero():
    saved = labels_saved(curve([0.7, 0.8, 0.9], 0.0), curve([0.8, 0.9, 1.0], 0.0))
    assert saved.value == pytest.approx(-1.0)


def test_without_a_curve_nothing_is_saved():
    assert labels_saved(curve([0.8, 0.9, 1.0], 0.0).head(0), curve([0.7, 0.8, 0.9], 0.0)) is None


def test_the_claim_about_labels_says_how_many_are_saved(small):
    table = [rows({"scratch": 0.7, "random": 0.8}, "labels_accuracy", protocol="labels")]
    for run, values in (("random", [0.8, 0.9, 1.0]), ("scratch", [0.7, 0.8, 0.9])):
        for point in curve(values, 0.01).to_dict("records"):
            more = {"protocol": "labels", "condition": "share"} | {
                str(key): each for key, each in point.items()
            }
            table.append(rows({run: point["value"]}, "accuracy", **more))
    verdicts = judged(("random", "scratch", "better"), metric="labels_accuracy")
    claim = found(small(runs=ONLY_RANDOM), pd.concat(table), verdicts, "labels")
    assert claim.finding == "supported"
    assert "At an accuracy of 0.900 it saves 50% of the labels (savings from " in claim.sentence
