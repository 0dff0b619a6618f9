"""The verdict in words: the answer without statistics, and the numbers behind it."""

from typing import get_args

import pandas as pd
import pytest

from facemae import config
from facemae.models import shipped_models
from facemae.report.headline import MEANT, NO_FAMILY, verdict_in_words

STRATEGIES = ["random", "block", "grid", "region"]


MEANS = (
    "Equivalent means that the interval of the difference lies within 0.01 either way; undecided means that "
    "these people and seeds cannot tell, which is no proof of equality. The comparisons against {} "
    "decide and are corrected together; all others are exploratory."
)


@pytest.fixture
def words(small):
    """Return a function that words verdicts: of each run against scratch, and (run_a, run_b, verdict)."""

    def make(
        against, more=(), primary="roc_auc", values=None, note="", controls=("scratch",), low=0.7, high=0.9,
        seconds=None, beside=None,
    ):  # fmt: skip
        dropped = {name: None for name in STRATEGIES if name not in against}
        experiment = small(
            runs=dropped | {name: {} for name in against} | (beside or {}),
            evaluate={"primary": primary, "against": list(controls)},
            baselines=[name for name in values or {} if name in get_args(config.Baseline)],
        )
        rows = [(name, "scratch", verdict) for name, verdict in against.items()]
        sign = {"better": 1, "worse": -1, "equivalent": 0.001, "undecided": 1}
        verdicts = pd.DataFrame(
            [{"metric": primary, "run_a": a, "run_b": b, "verdict": verdict, "note": note, "ci_low": 0.0,
              "ci_high": 0.0, "seconds_difference": 0.0, "difference": 0.05 * sign[verdict]}
             for a, b, verdict in [*rows, *more]]
            + [{"metric": "other", "run_a": "random", "run_b": "scratch", "verdict": "worse"}]
        )  # fmt: skip
        runs = [
            {"run": name, "kind": "run", "value": 0.8, "ci_low": low, "ci_high": high,
             "seconds_pretrain": 0.0, "seconds_finetune": (seconds or {}).get(name, 0.0)}
            for name in experiment.run_names
        ]  # fmt: skip
        runs += [{"run": name, "kind": "baseline", "value": value} for name, value in (values or {}).items()]
        runs += [row | {"condition": "mask", "value": 0.9} for row in runs]  # which no sentence is about
        rows = [{"metric": primary, "people": 20, "condition": ""} | row for row in runs]
        return verdict_in_words(experiment, pd.DataFrame(rows), verdicts)

    return make


@pytest.mark.parametrize(
    ("against", "told"),
    [
        ({"random": "better"}, "random (+0.050) is better."),
        (
            {"random": "better", "block": "better"},
            "random (+0.050) and block (+0.050) are better.",
        ),
        (
            {"random": "better", "block": "worse", "grid": "equivalent"},
            "random (+0.050) is better; block (-0.050) is worse; grid is equivalent.",
        ),
        (
            {"random": "worse", "block": "undecided", "grid": "undecided", "region": "equivalent"},
            "random (-0.050) is worse; region is equivalent; block and grid are undecided.",
        ),
        ({"random": "equivalent", "block": "equivalent"}, "random and block are equivalent."),
        ({"random": "undecided"}, "random is undecided."),
    ],
)
def test_the_numbers_say_who_wins(words, against, told):
    found = words(against)
    assert found["sentences"][1] == f"Against training from scratch on 20 unseen people, by ROC AUC: {told}"
    assert (found["metric"], found["people"], found["seeds"]) == ("roc_auc", 20, 2)
    assert [found["sentences"][0], *found["sentences"][2:]] == [MEANT["roc_auc"], MEANS.format("scratch")]


@pytest.mark.parametrize(
    ("primary", "name"),
    [("eer", "equal error rate"), ("accuracy", "verification accuracy"), ("rank1", "rank-1 identification")],
)
def test_the_headline_follows_the_primary_metric(words, primary, name):
    found = words(
        {"random": "better"}, primary=primary, **{"low": 0.2, "high": 0.3} if primary == "eer" else {}
    )
    assert f"on 20 unseen people, by {name}: random" in found["sentences"][1]
    assert found["metric"] == primary


def test_each_control_of_the_primary_family_has_its_sentence(words):
    found = words(
        {"random": "undecided", "block": "better", "grid": "better"},
        more=[("block", "random", "worse"), ("random", "grid", "better")],
        controls=("scratch", "random"),
    )
    assert found["sentences"][1].startswith("Against training from scratch on 20 unseen people")
    assert found["sentences"][2:] == [
        "Against random: block (-0.050) and grid (-0.050) are worse.",
        MEANS.format("scratch and random"),
    ]


def test_how_long_the_control_trained_is_part_of_the_answer(words):
    def answer(scratch, random):
        return words({"random": "better"}, seconds={"scratch": scratch, "random": random})["headline"]

    told = (
        "Pretraining with masks helped: with it networks get 800 of 1,000 comparisons of faces right, "
        "without it 800{}; "
    )
    assert answer(100.0, 250.0).startswith(told.format(" in 40% of the training time"))
    assert answer(95.0, 100.0).startswith(told.format(" in as much training time"))
    assert answer(0.0, 0.0).startswith(told.format(""))


def test_a_control_of_equal_time_answers_first_and_the_shorter_one_beside_it(words):
    """Better than a short training, and no better than one as long: the second is the answer."""
    found = words(
        {"random": "better", "block": "better"},
        more=[("random", "long", "undecided"), ("block", "long", "undecided")],
        controls=("long", "scratch"),
        beside={"long": {"pretrain": None, "finetune": {"steps": 9}}},
        seconds={"scratch": 50.0, "long": 100.0, "random": 100.0, "block": 100.0},
    )
    assert found["headline"].startswith("Whether pretraining with masks helps cannot be told yet: with it ")
    assert "without it 800 in as much training time; with 20 people" in found["headline"]
    assert found["headline"].endswith("Against scratch, with 800 in 50% of the training time, it helped.")
    assert (
        found["sentences"][1]
        == "Against long on 20 unseen people, by ROC AUC: random and block are undecided."
    )
    assert found["sentences"][2] == "Against scratch: random (+0.050) and block (+0.050) are better."


def test_a_control_beside_the_first_says_nothing_of_networks_that_have_not_learnt(words):
    """And where the control that decides was not measured, that comes first."""
    more, beside = [("random", "long", "better")], {"long": {"pretrain": None, "finetune": {"steps": 9}}}
    found = words({"random": "better"}, more=more, controls=("long", "scratch"), beside=beside, low=0.4)
    assert found["headline"].startswith("Nothing was learnt")
    assert "Against" not in found["headline"]
    found = words({"random": "better"}, controls=("long", "scratch"), beside=beside)
    assert found["headline"].startswith(
        "long, which decides, was not measured. Pretraining with masks helped"
    )


def test_a_masked_run_that_is_named_first_is_not_missed_where_it_is_the_only_one(words):
    """There is nothing that it could be compared with, so the next control decides."""
    found = words({"random": "better"}, controls=("random", "scratch"))
    assert found["headline"].startswith("Pretraining with masks helped")


def test_a_reason_is_told_once(words):
    note = "one seed cannot separate a run from chance in its training; use two or more"
    found = words({"random": "undecided", "block": "undecided"}, note=note)
    assert found["sentences"][1].endswith("random and block are undecided.")
    assert found["sentences"][2:] == [f"Undecided because {note}.", MEANS.format("scratch")]


def test_a_run_that_has_not_learnt_is_named(words):
    found = words({"random": "undecided"}, note="random has not learnt: its embedding has collapsed")
    assert found["sentences"][2] == "Undecided because random has not learnt: its embedding has collapsed."


def test_without_a_family_there_is_no_verdict_and_all_is_exploratory(words):
    for found in (words({"random": "better"}, controls=()), words({})):
        assert found["headline"] == NO_FAMILY
        assert found["sentences"][-1].endswith(
            "evaluate.against names no run, so all comparisons are exploratory."
        )


def test_a_family_without_numbers_has_no_verdict(words):
    found = words({"random": "better"}, controls=("random",))
    assert found["headline"] == NO_FAMILY  # a run is not held against itself
    found = words({"random": "better", "block": "better"}, controls=("random",))
    assert found["headline"] == "No verdict: ROC AUC was not measured; the tables say why."


def test_between_the_other_strategies_all_is_exploratory(words):
    def sentence(*verdicts):
        pairs = [("block", "random"), ("grid", "random"), ("grid", "block")]
        more = [(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
        return words(dict.fromkeys(["random", "block", "grid"], "undecided"), more=more)["sentences"][2]

    start = "Between the other masking strategies (exploratory): "
    assert sentence("undecided", "undecided", "undecided") == f"{start}3 pairs are undecided."
    assert sentence("equivalent", "undecided", "undecided") == (
        f"{start}1 pair is equivalent and 2 pairs are undecided."
    )
    assert sentence("worse", "better", "undecided") == (
        f"{start}block is worse than random and grid is better than random; 1 pair is undecided."
    )


def test_a_pair_of_the_primary_family_is_not_told_again(words):
    found = words(
        {"random": "undecided", "block": "better"},
        more=[("block", "random", "worse")],
        controls=("scratch", "random"),
    )
    assert sum("worse" in sentence for sentence in found["sentences"]) == 1


def test_the_best_control_is_named_with_who_beats_it(words):
    more = [("random", "pca", "better"), ("block", "pca", "undecided"), ("grid", "pca", "better"),
            ("random", "pixels", "worse"), ("scratch", "pca", "worse")]  # fmt: skip
    found = words(
        dict.fromkeys(["random", "block", "grid"], "undecided"), more=more,
        values={"pixels": 0.7, "pca": 0.755},
    )  # fmt: skip
    assert found["sentences"][2] == (
        "The best control that trains no network is pca with 0.755: against it random (+0.050) and grid "
        "(+0.050) are better; scratch (-0.050) is worse; block is undecided (exploratory)."
    )


def test_a_control_that_learns_from_the_same_labels_comes_before_a_better_one_that_does_not(words):
    found = words(
        {"random": "undecided"}, more=[("random", "fisherfaces", "better"), ("random", "pca", "worse")],
        values={"pca": 0.9, "fisherfaces": 0.823, "hog_lda": 0.8},
    )  # fmt: skip
    assert found["sentences"][2] == (
        "The best control that learns from the same labels is fisherfaces with 0.823: against it random "
        "(+0.050) is better (exploratory)."
    )


def test_the_best_control_of_an_error_rate_is_the_lowest(words):
    found = words({"random": "undecided"}, primary="eer", values={"pixels": 0.3, "pca": 0.2})
    assert found["sentences"][2] == "The best control that trains no network is pca with 0.200."


def test_more_names_than_anybody_reads_are_counted(words):
    told = words({f"run{number}": "undecided" for number in range(9)})["sentences"][1]
    assert "9 of them are undecided" in told
    told = words({f"run{number}": "undecided" for number in range(8)})["sentences"][1]
    assert "run0, run1" in told


def test_a_rival_is_no_masking_strategy_of_the_headline(small):
    experiment = small(
        runs=dict.fromkeys(["block", "grid", "region"]) | {"views": {"pretrain": {"method": "simclr"}}},
        baselines=[],
    )
    pairs = [("random", "scratch", "worse"), ("views", "scratch", "better"), ("views", "random", "better")]
    verdicts = pd.DataFrame(
        {"metric": "roc_auc", "run_a": a, "run_b": b, "verdict": each, "note": "", "difference": 0.1}
        for a, b, each in pairs
    )
    names = experiment.run_names
    leaderboard = pd.DataFrame({"run": names, "kind": "run", "metric": "roc_auc", "people": 9, "value": 0.7})
    leaderboard = leaderboard.assign(ci_low=0.6, ci_high=0.8, seconds_pretrain=0.0, seconds_finetune=0.0)
    words = verdict_in_words(experiment, leaderboard.assign(condition=""), verdicts)
    assert words["sentences"][1].endswith("by ROC AUC: random (+0.100) is worse.")
    assert not any("views" in text for text in [words["headline"], *words["sentences"]])


@pytest.mark.parametrize(
    ("against", "answer"),
    [
        (
            {"random": "better", "block": "better"},
            "Pretraining with masks helped: with it networks get 800 of 1,000 comparisons of faces right, "
            "without it 800; with 20 people and 2 trainings of each network, chance alone hardly does "
            "that.",
        ),
        ({"random": "worse"}, "Pretraining with masks hurt: with it networks get 800 of 1,000 "),
        (
            {"random": "equivalent"},
            "Pretraining with masks made no difference that matters: with it networks get 800 of 1,000 "
            "comparisons of faces right, without it 800; with 20 people and 2 trainings of each network, "
            "more than 10 in 1,000 either way is ruled out.",
        ),
        (
            {"random": "undecided"},
            "Whether pretraining with masks helps cannot be told yet: with it networks ",
        ),
        (
            {"random": "better", "block": "worse", "grid": "undecided"},
            "Pretraining with masks helped with random, hurt with block and is shown neither to help nor to "
            "hurt with grid: with it networks get 800 of 1,000 comparisons of faces right, without it 800; "
            "where neither is shown, chance alone can do that.",
        ),
    ],
)
def test_the_answer_says_what_helped_by_how_much_and_how_sure(words, against, answer):
    headline = words(against)["headline"]
    assert headline.startswith(answer)
    assert not any(term in headline for term in ("AUC", "interval", "equivalent"))


def test_networks_that_guess_have_learnt_nothing(words):
    found = words({"random": "equivalent", "block": "better"}, low=0.48, high=0.55)
    assert found["headline"] == (
        "Nothing was learnt: the networks recognise people no better than guessing (20 unseen people), so "
        "this says nothing about pretraining."
    )
    assert "random is equivalent" in found["sentences"][1]  # the numbers stay


def test_networks_below_a_control_that_trains_nothing_have_learnt_nothing(words):
    more = [("random", "pixels", "worse"), ("scratch", "pixels", "worse")]
    found = words({"random": "better"}, more=more, values={"pixels": 0.9})
    assert found["headline"].startswith(
        "Nothing was learnt: the networks recognise people worse than pixels, which trains no network"
    )
    found = words({"random": "worse"}, more=more[:1], values={"pixels": 0.9})
    assert found["headline"].startswith("Pretraining with masks did not help: the pretrained networks ")
    learns = [("random", "fisherfaces", "worse"), ("scratch", "fisherfaces", "worse")]
    found = words({"random": "better"}, more=learns, values={"fisherfaces": 0.9})
    assert found["headline"].startswith("Pretraining with masks helped")  # that control learns from labels


def test_a_run_that_has_not_learnt_is_left_out_of_the_answer(words):
    note = "random has not learnt: its embedding has collapsed"
    found = words({"random": "undecided", "block": "better"}, note=note)
    assert found["headline"].startswith("Pretraining with masks helped: ")


def test_an_error_rate_is_told_as_what_was_right(words):
    found = words({"random": "better"}, primary="eer", low=0.2, high=0.3)
    assert "judge 200 of 1,000 pairs of photos rightly" in found["headline"]


def test_a_run_from_finished_weights_is_told_apart_and_decides_nothing(small, monkeypatch, tmp_path):
    """Its network is larger and has seen more; the family that decides does not know it."""
    runs = {name: None for name in STRATEGIES if name != "random"}
    runs["face_mae"] = {"model": {"width": 32}, "pretrain": None, "finetune": {"init": "face-mae"}}
    experiment = small(runs=runs, evaluate={"primary": "roc_auc", "against": ["scratch"]}, baselines=[])
    assert experiment.primary_pairs == [("random", "scratch")]
    monkeypatch.setattr(shipped_models, "missing", lambda name: "")
    monkeypatch.setattr(shipped_models, "card", lambda name: {"trained_on": {"photos": 24784}})
    row = {"metric": "roc_auc", "run_b": "scratch", "verdict": "better", "note": "", "difference": 0.05}
    row |= {"ci_low": 0.0, "ci_high": 0.0, "seconds_difference": 0.0}
    verdicts = pd.DataFrame([row | {"run_a": name} for name in ("random", "face_mae")])
    board = [{"run": name, "kind": "run", "value": 0.8, "ci_low": 0.7, "ci_high": 0.9, "metric": "roc_auc",
              "people": 20, "condition": "", "seconds_pretrain": 0.0, "seconds_finetune": 0.0}
             for name in experiment.run_names]  # fmt: skip
    said = verdict_in_words(experiment, pd.DataFrame(board), verdicts)
    assert "face_mae" not in said["headline"]
    (told,) = [each for each in said["sentences"] if each.startswith("face_mae starts from face-mae")]
    assert told == (
        "face_mae starts from face-mae, which has seen 24,784 other faces and is of another size (2 blocks "
        "of width 32, not 2 blocks of width 16): it shows what a finished network buys, not what a mask does "
        "(exploratory); against scratch face_mae (+0.050) is better."
    )


def test_a_teacher_and_a_start_of_pretraining_are_told(small, monkeypatch):
    """A taught run decides nothing; that a masked one started from elsewhere is said where it is judged."""
    monkeypatch.setattr(shipped_models, "missing", lambda name: "")
    monkeypatch.setattr(shipped_models, "card", lambda name: {"trained_on": {"photos": 24784}})
    runs = {name: None for name in STRATEGIES if name != "random"}
    runs["taught"] = {"pretrain": None, "finetune": {"teacher": "dlib"}}
    runs["further"] = {"pretrain": {"init": "face-mae"}, "finetune": {"teacher": "dlib"}}
    experiment = small(runs=runs, evaluate={"primary": "roc_auc", "against": ["scratch"]}, baselines=[])
    row = {"metric": "roc_auc", "run_b": "scratch", "verdict": "better", "note": "", "difference": 0.0315}
    # A tie in binary, on the other side of it from what a page keeps of it.
    row |= {"difference": 0.0315 - 1e-12, "ci_low": 0.0, "ci_high": 0.0, "seconds_difference": 0.0}
    verdicts = pd.DataFrame([row | {"run_a": name} for name in ("random", "taught", "further")])
    board = [{"run": name, "kind": "run", "value": 0.8, "ci_low": 0.7, "ci_high": 0.9, "metric": "roc_auc",
              "people": 20, "condition": "", "seconds_pretrain": 0.0, "seconds_finetune": 0.0}
             for name in experiment.run_names]  # fmt: skip
    said = verdict_in_words(experiment, pd.DataFrame(board), verdicts)
    assert [each for each in said["sentences"] if each.startswith(("taught is", "further starts"))] == [
        "taught is taught by dlib, which has seen 3,000,000 other faces: it shows what a finished network "
        "buys, not what a mask does (exploratory); against scratch taught (+0.032) is better.",
        "further starts from face-mae, which has seen 24,784 other faces and is taught by dlib, which has "
        "seen 3,000,000 other faces: it shows what that and its pretraining buy together, not what a mask "
        "does.",
    ]
