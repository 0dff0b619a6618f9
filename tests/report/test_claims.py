"""Claims: who is judged by what, and what a verdict makes of them."""

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from facemae import config
from facemae.core import layout
from facemae.evaluation.records import METRICS, higher_is_better
from facemae.report import claims
from facemae.report.claims import Claim
from facemae.stages import compare

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
    return table.reindex(columns=layout.LEADERBOARD_COLUMNS).astype({"value": float})


def judged(
    *pairs: tuple[str, str, str],
    metric: str = "roc_auc",
    difference: float = 0.03,
    p_value: float = 0.0001,
    note: str = "",
) -> pd.DataFrame:
    """Return verdicts (run_a, run_b, verdict) of one metric."""
    sign = {"better": 1, "worse": -1, "equivalent": 0.1, "undecided": 0.1}
    table = pd.DataFrame(
        {
            "metric": metric, "run_a": a, "run_b": b, "verdict": verdict,
            "difference": difference * sign[verdict], "ci_low": difference * sign[verdict] - 0.01,
            "ci_high": difference * sign[verdict] + 0.01, "p_value": p_value, "note": note,
            "seconds_difference": 12.4,
        }
        for a, b, verdict in pairs
    )  # fmt: skip
    return table.reindex(columns=layout.VERDICT_COLUMNS)


def found(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame, about: str
) -> Claim:
    return next(each for each in claims.claims(experiment, leaderboard, verdicts) if about in each.claim)


@pytest.mark.parametrize("mode", ["probe", "full"])
def test_a_control_that_nothing_trained_is_called_so(small, mode):
    experiment = small(runs=ONLY_RANDOM, attributes={"mode": mode})
    board = rows({"scratch": 0.8, "random": 0.83}, "gender_balanced")
    verdicts = judged(("random", "scratch", "better"), metric="gender_balanced")
    claim = found(experiment, board, verdicts, "tells gender")
    told = "Heads stand on frozen encoders, and that of scratch is untrained." in claim.sentence
    assert told == (mode == "probe")


def test_what_controls_see_of_a_face_is_told_beside(small):
    asked = {"runs": ["random", "hog_lda", "scratch"], "tasks": {"gender": "utkface"}}
    experiment = small(
        runs=ONLY_RANDOM, attributes=asked, baselines=["pca", "hog_lda"], data={"tested": ["utkface"]}
    )
    board = rows({"scratch": 0.6, "random": 0.7, "hog_lda": 0.8}, "gender_balanced")
    verdicts = judged(
        ("random", "scratch", "better"), ("random", "hog_lda", "worse"), metric="gender_balanced"
    )
    claim = found(experiment, board, verdicts, "tells gender")
    assert (claim.finding, claim.against) == ("supported", "scratch")
    assert "Against what controls see of a face: hog_lda: worse (-0.030)." in claim.sentence


def test_every_claim_is_judged_by_a_metric_that_is_compared():
    for question in claims.QUESTIONS:
        metric = "roc_auc" if question.metric == claims.PRIMARY else question.metric
        assert metric in compare.COMPARED
        assert metric in METRICS
        assert higher_is_better(metric) in (True, False)


@pytest.mark.parametrize(
    ("verdict", "finding", "words"),
    [
        ("better", "supported", "random is better than scratch, ROC AUC +0.030 (+0.020 to +0.040)"),
        ("worse", "not supported", "random is worse than scratch, ROC AUC -0.030 (-0.040 to -0.020)"),
        ("equivalent", "not supported", "random is equivalent to scratch, ROC AUC +0.003"),
        ("equivalent", "not supported", "; the interval lies within 0.01."),
        ("undecided", "undecided", "; these people and seeds cannot tell."),
    ],
)
def test_a_verdict_decides(small, verdict, finding, words):
    experiment = small(runs=ONLY_RANDOM)
    leaderboard = rows({"scratch": 0.8, "random": 0.83})
    verdicts = judged(("random", "scratch", verdict))
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert claim.finding == finding
    assert claim.sentence.startswith(f"{finding.capitalize()}: random ")
    assert words in claim.sentence
    assert "+12 s of training" in claim.sentence
    assert (claim.run, claim.against, claim.metric) == ("random", "scratch", "roc_auc")


def test_how_large_a_difference_would_have_been_seen_decides_nothing(small):
    verdicts = judged(("random", "scratch", "undecided"))
    for detectable in (1e-9, 0.5):
        claim = found(
            small(runs=ONLY_RANDOM), rows({"scratch": 0.8, "random": 0.8}),
            verdicts.assign(detectable=detectable), "more accurate",
        )  # fmt: skip
        assert claim.finding == "undecided"


def test_a_refused_verdict_gives_its_reason(small):
    verdicts = judged(("random", "scratch", "undecided"), note="random has not learnt: it has collapsed")
    claim = found(small(runs=ONLY_RANDOM), rows({"scratch": 0.8, "random": 0.8}), verdicts, "more accurate")
    assert claim.finding == "undecided"
    assert claim.sentence.endswith("; random has not learnt: it has collapsed.")


def test_the_claims_are_corrected_as_one_family(small):
    """Two claims were judged, so p counts twice (Holm), as if both had p = 0.03; alone it would be below."""
    accuracy = judged(("random", "scratch", "better"), p_value=0.03)
    gender = judged(("random", "scratch", "better"), p_value=0.03, metric="gender_balanced")
    board = pd.concat(
        [rows({"scratch": 0.8, "random": 0.83}, each) for each in ("roc_auc", "gender_balanced")]
    )
    alone = found(small(runs=ONLY_RANDOM), board, accuracy, "more accurate")
    assert (alone.finding, alone.p_adjusted) == ("supported", 0.03)
    both = found(small(runs=ONLY_RANDOM), board, pd.concat([accuracy, gender]), "more accurate")
    assert (both.finding, both.p_adjusted) == ("undecided", 0.06)
    assert both.sentence.endswith("; corrected for the number of claims p is 0.06.")


def test_a_refused_verdict_does_not_ease_the_correction_of_the_others(small):
    """Its p value, however small, stands behind no verdict."""
    accuracy = judged(("random", "scratch", "better"), p_value=0.03)
    gender = judged(("random", "scratch", "undecided"), p_value=1e-9, metric="gender_balanced")
    board = pd.concat(
        [rows({"scratch": 0.8, "random": 0.83}, each) for each in ("roc_auc", "gender_balanced")]
    )
    claim = found(small(runs=ONLY_RANDOM), board, pd.concat([accuracy, gender]), "more accurate")
    assert (claim.finding, claim.p_adjusted) == ("undecided", 0.06)


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
    verdicts = judged(("random", "scratch", "undecided"), ("block", "scratch", "better"))
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert (claim.finding, claim.run) == ("undecided", "random")
    assert claim.sentence.endswith("The other masks against scratch: better: block (+0.030).")
    without = small(runs={"grid": None, "region": None, "random": None})
    assert found(without, leaderboard, verdicts, "more accurate").run == "block"


def test_the_first_control_that_is_named_decides_and_the_others_are_told_beside_it(small):
    """So a run from scratch for as long as pretraining and fine-tuning take comes before a shorter one."""
    runs = ONLY_RANDOM | {"long": {"pretrain": None, "finetune": {"steps": 9}}}
    experiment = small(runs=runs, evaluate={"against": ["long", "scratch"]})
    leaderboard = rows({"scratch": 0.8, "long": 0.83, "random": 0.83})
    verdicts = judged(("random", "scratch", "better"), ("random", "long", "undecided"))
    claim = found(experiment, leaderboard, verdicts, "more accurate")
    assert (claim.finding, claim.against) == ("undecided", "long")
    assert claim.sentence.endswith("Against the other runs without pretraining: scratch: better (+0.030).")


def test_a_mask_may_have_any_name(small):
    experiment = small(
        runs={"random": None, "region": None, "grid": None, "mine": {"pretrain": {"mask": "random"}}}
    )
    leaderboard = rows({"scratch": 0.8, "block": 0.9, "mine": 0.8})
    verdicts = judged(("block", "scratch", "better"), ("mine", "scratch", "worse"))
    assert found(experiment, leaderboard, verdicts, "more accurate").finding == "not supported"


@pytest.mark.parametrize("metric", ["occlusion_accuracy", "light_accuracy", "illumination_rank1"])
@pytest.mark.parametrize(
    ("against", "control"),
    [(["scratch", "random"], "patch_drop"), (["erasing"], "erasing"), ([], "patch_drop")],
)
def test_robustness_is_held_against_the_cheap_run_that_the_configuration_names(
    small, metric, against, control
):
    """Whichever came out strongest: here scratch, in each case."""
    experiment = small(runs=ONLY_RANDOM | CONTROLS, evaluate={"against": against})
    leaderboard = rows({"scratch": 0.7, "patch_drop": 0.6, "erasing": 0.65, "random": 0.68}, metric)
    verdicts = judged(
        ("random", "scratch", "worse"), ("random", "patch_drop", "better"), ("random", "erasing", "better"),
        metric=metric,
    )  # fmt: skip
    claim = next(each for each in claims.claims(experiment, leaderboard, verdicts) if each.metric == metric)
    assert (claim.finding, claim.against) == ("supported", control)
    other = {"patch_drop": "erasing", "erasing": "patch_drop"}[control]
    told = ["scratch: worse (-0.030)", f"{other}: better (+0.030)"]
    told = told if against == ["scratch", "random"] else told[::-1]
    assert set(claim.sentence.split("without pretraining: ")[1].removesuffix(".").split(", ")) == set(told)


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


def test_the_control_of_a_claim_is_the_one_that_the_configuration_holds_masked_runs_against(small):
    runs = ONLY_RANDOM | {"plain": {"pretrain": None}}
    leaderboard = rows({"scratch": 0.7, "plain": 0.6, "random": 0.65})
    verdicts = judged(("random", "plain", "better"), ("random", "scratch", "worse"))
    for against in ("scratch", "plain"):
        experiment = small(runs=runs, evaluate={"against": [against]})
        assert found(experiment, leaderboard, verdicts, "more accurate").against == against


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
    ("verdicts", "finding"),
    [
        (("equivalent", "undecided", "better"), "supported"),
        (("equivalent", "equivalent", "equivalent"), "not supported"),
        (("equivalent", "undecided", "equivalent"), "undecided"),
        (("undecided", "undecided", "undecided"), "undecided"),
    ],
)
def test_masks_matter_where_any_two_differ(small, verdicts, finding):
    experiment = small(runs={"region": None})
    leaderboard = rows({"scratch": 0.6, "random": 0.7, "block": 0.7, "grid": 0.73})
    pairs = [("block", "random"), ("grid", "random"), ("grid", "block")]
    table = judged(*[(*pair, each) for pair, each in zip(pairs, verdicts, strict=True)])
    claim = found(experiment, leaderboard, table, "matters")
    assert claim.finding == finding
    if finding == "supported":
        assert "grid is better than block" in claim.sentence
        assert claim.sentence.endswith("Of 3 pairs of masks 1 differs.")
        assert claim.p_adjusted == pytest.approx(3 * 0.0001)  # any of them would have supported it


def test_two_runs_with_one_mask_say_nothing_about_masks(small):
    experiment = small(runs=ONLY_RANDOM | {"longer": {"pretrain": {"steps": 20}}})
    leaderboard = rows({"scratch": 0.6, "random": 0.7, "longer": 0.8})
    verdicts = judged(("longer", "random", "better"))
    assert found(experiment, leaderboard, verdicts, "matters").finding == "not measured"


def test_of_the_age_a_smaller_error_is_better_and_equivalence_is_in_years(small):
    experiment = small(runs=ONLY_RANDOM)
    leaderboard = rows({"scratch": 6.0, "random": 5.9}, "age_error", protocol="attributes")
    same = judged(("random", "scratch", "equivalent"), metric="age_error")
    assert "; the interval lies within 0.25." in found(experiment, leaderboard, same, "age").sentence
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
    answers = claims.claims(small(runs=ONLY_RANDOM), leaderboard, judged(("random", "scratch", "equivalent")))
    for each in answers:
        assert {type(value) for value in asdict(each).values()} <= {str, float, type(None)}


def curve(values: list[float], half: float) -> pd.DataFrame:
    value = np.array(values)
    amount = [0.25, 0.5, 1.0]
    return pd.DataFrame({"amount": amount, "value": value, "ci_low": value - half, "ci_high": value + half})


@pytest.mark.parametrize(
    ("half", "words"),
    [
        (0.0, "At an accuracy of 0.900 it saves 50% of the labels (savings from 50% to 50% "),
        (0.01, "How many labels that saves is open"),  # scratch's lower end reaches 0.9 nowhere
    ],
)
def test_the_claim_about_labels_says_how_many_are_saved(small, half, words):
    table = [rows({"scratch": 0.7, "random": 0.8}, "labels_accuracy", protocol="labels")]
    for run, values in (("random", [0.8, 0.9, 1.0]), ("scratch", [0.7, 0.8, 0.9])):
        for point in curve(values, half).to_dict("records"):
            more = {"protocol": "labels", "condition": "share"} | {
                str(key): each for key, each in point.items()
            }
            table.append(rows({run: point["value"]}, "accuracy", **more))
    verdicts = judged(("random", "scratch", "better"), metric="labels_accuracy")
    claim = found(small(runs=ONLY_RANDOM), pd.concat(table), verdicts, "labels")
    assert claim.finding == "supported"
    assert words in claim.sentence
