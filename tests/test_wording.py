import pandas as pd
import pytest

from facemae.wording import (
    WHAT_A_TIE_MEANS,
    cheap_runs,
    masked_runs,
    rival_runs,
    scratch_runs,
    turned,
    verdict_in_words,
)

STRATEGIES = ["random", "block", "grid", "region"]


@pytest.fixture
def words(small):
    """Return a function that words the verdicts (better, worse, tie) of each run against scratch."""

    def make(
        against, among=(), controls=(), scratch=True, primary="roc_auc", values=None, seeds=(0, 1, 2),
        detectable=0.0234,
    ):  # fmt: skip
        dropped = {name: None for name in ("scratch", *STRATEGIES) if name not in against}
        dropped.pop("scratch", None) if scratch else None
        experiment = small(
            runs=dropped | {name: {} for name in against}, evaluate={"primary": primary},
            baselines=list(values or {}), seeds=list(seeds),
        )  # fmt: skip
        rows = [(name, "scratch", verdict) for name, verdict in against.items()] if scratch else []
        rows += [*among, *controls]
        sign = {"better": 1, "worse": -1, "tie": 0.001, "undecided": 1}
        verdicts = pd.DataFrame(
            [{"metric": primary, "run_a": a, "run_b": b, "verdict": verdict, "detectable": detectable,
              "difference": 0.05 * sign[verdict]} for a, b, verdict in rows]
            + [{"metric": "other", "run_a": "random", "run_b": "scratch", "verdict": "worse",
                "detectable": 9.0, "difference": -9.0}]
        )  # fmt: skip
        runs = [{"run": name, "kind": "run", "value": 0.8} for name in experiment.run_names]
        runs += [{"run": name, "kind": "baseline", "value": value} for name, value in (values or {}).items()]
        runs += [row | {"condition": "mask", "value": 0.9} for row in runs]  # which no sentence is about
        rows = [{"metric": primary, "people": 20, "condition": ""} | row for row in runs]
        leaderboard = pd.DataFrame(rows)
        return verdict_in_words(experiment, leaderboard, verdicts)

    return make


@pytest.mark.parametrize(
    ("against", "headline"),
    [
        (
            {"random": "better"},
            "Against training from scratch on 20 unseen people, by ROC AUC: random (+0.050) is better.",
        ),
        (
            {"random": "better", "block": "better"},
            "Against training from scratch on 20 unseen people, by ROC AUC: "
            "random (+0.050) and block (+0.050) are better.",
        ),
        (
            {"random": "better", "block": "worse", "grid": "tie"},
            "Against training from scratch on 20 unseen people, by ROC AUC: "
            "random (+0.050) is better and block (-0.050) is worse; grid ties.",
        ),
        (
            {"random": "better", "block": "better", "grid": "better", "region": "tie"},
            "Against training from scratch on 20 unseen people, by ROC AUC: "
            "random (+0.050), block (+0.050) and grid (+0.050) are better; region ties.",
        ),
        (
            {"random": "worse", "block": "tie", "grid": "tie"},
            "Against training from scratch on 20 unseen people, by ROC AUC: "
            "random (-0.050) is worse; block and grid tie.",
        ),
        (
            {"random": "tie"},
            "No masking strategy beat training from scratch on 20 unseen people, by ROC AUC: random ties; "
            "a difference of about 0.023 would have been seen.",
        ),
        (
            {"random": "tie", "block": "tie", "grid": "tie"},
            "No masking strategy beat training from scratch on 20 unseen people, by ROC AUC: "
            "random, block and grid all tie; a difference of about 0.023 would have been seen.",
        ),
        (
            {"random": "tie", "block": "tie"},
            "No masking strategy beat training from scratch on 20 unseen people, by ROC AUC: "
            "random and block both tie; a difference of about 0.023 would have been seen.",
        ),
    ],
)
def test_the_headline_says_who_wins(words, against, headline):
    found = words(against)
    assert found["headline"] == headline
    assert (found["metric"], found["people"], found["seeds"]) == ("roc_auc", 20, 3)
    assert found["sentences"][-1] == WHAT_A_TIE_MEANS


@pytest.mark.parametrize(
    ("primary", "name"),
    [("eer", "equal error rate"), ("accuracy", "verification accuracy"), ("rank1", "rank-1 identification")],
)
def test_the_headline_follows_the_primary_metric(words, primary, name):
    found = words({"random": "better"}, primary=primary)
    assert f"on 20 unseen people, by {name}: random" in found["headline"]
    assert found["metric"] == primary


def test_one_seed_has_no_verdict(words):
    found = words(
        {"random": "undecided", "block": "undecided"}, among=[("block", "random", "undecided")], seeds=[0]
    )
    assert found["headline"].startswith("No verdict: one seed cannot tell")
    assert found["sentences"] == [WHAT_A_TIE_MEANS]


def test_without_scratch_or_without_pretraining_there_is_no_verdict_on_it(words):
    expected = "No verdict on pretraining: that takes a run with pretraining and one without."
    assert words({"random": "tie", "block": "tie"}, scratch=False)["headline"] == expected
    assert words({})["headline"] == expected


def test_between_the_strategies(words):
    def sentence(*verdicts):
        pairs = [("block", "random"), ("grid", "random"), ("grid", "block")]
        among = [(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=True)]
        return words(dict.fromkeys(["random", "block", "grid"], "tie"), among=among)["sentences"][0]

    assert sentence("tie", "tie", "tie") == (
        "Between the masking strategies no difference was shown (3 pairs, all ties)."
    )
    assert sentence("worse", "tie", "tie") == (
        "Between the masking strategies, block is worse than random; the other 2 pairs tie."
    )
    assert sentence("worse", "better", "tie").startswith(
        "Between the masking strategies, block is worse than random and grid is better than random; the other"
    )


@pytest.mark.parametrize("verdicts", [("worse", "better", "tie"), ("worse", "better", "worse"), ("tie",)])
def test_between_the_strategies_in_the_singular(words, verdicts):
    pairs = [("block", "random"), ("grid", "random"), ("grid", "block")]
    among = [(*pair, verdict) for pair, verdict in zip(pairs, verdicts, strict=False)]
    names = ["random", "block", "grid"] if len(among) > 1 else ["random", "block"]
    sentence = words(dict.fromkeys(names, "tie"), among=among)["sentences"][0]
    assert "0 pairs" not in sentence
    assert "1 pairs" not in sentence


def test_the_best_control_is_named_with_who_beats_it(words):
    controls = [("random", "pca", "better"), ("block", "pca", "tie"), ("grid", "pca", "better"),
                ("random", "pixels", "worse"), ("scratch", "pca", "worse")]  # fmt: skip
    found = words(
        dict.fromkeys(["random", "block", "grid"], "tie"),
        controls=controls,
        values={"pixels": 0.7, "pca": 0.755},
    )
    assert found["sentences"][0] == (
        "The best control that trains no network is pca with 0.755: against it random and grid are better; "
        "scratch is worse; block ties."
    )


def test_the_best_control_of_an_error_rate_is_the_lowest(words):
    found = words({"random": "tie"}, primary="eer", values={"pixels": 0.3, "pca": 0.2})
    assert found["sentences"][0].startswith("The best control that trains no network is pca with 0.200")


def test_without_controls_nothing_is_said_of_them(words):
    assert words({"random": "tie"})["sentences"] == [WHAT_A_TIE_MEANS]


def test_what_could_never_have_been_seen_is_not_given_as_a_number(words):
    headline = words(dict.fromkeys(STRATEGIES, "tie"), detectable=1.117)["headline"]
    assert headline.endswith("so few seeds would hardly have shown any difference among so many comparisons.")
    assert "1.117" not in headline


def test_more_names_than_anybody_reads_are_counted(words):
    headline = words({f"run{number}": "tie" for number in range(9)})["headline"]
    assert "9 of them all tie" in headline
    headline = words({f"run{number}": "tie" for number in range(8)})["headline"]
    assert "run0, run1" in headline


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
    assert rival_runs(experiment) == ["views"]
    assert cheap_runs(experiment) == ["erasing"]
    assert scratch_runs(experiment) == ["plain", "erasing"]  # what hides nothing comes first


def test_a_rival_is_no_masking_strategy_of_the_headline(small):
    experiment = small(
        runs=dict.fromkeys(["block", "grid", "region"]) | {"views": {"pretrain": {"method": "simclr"}}},
        baselines=[],
    )
    pairs = [("random", "scratch", "tie"), ("views", "scratch", "better"), ("views", "random", "better")]
    verdicts = pd.DataFrame(
        {"metric": "roc_auc", "run_a": a, "run_b": b, "verdict": each, "detectable": 0.01, "difference": 0.1}
        for a, b, each in pairs
    )
    names = experiment.run_names
    leaderboard = pd.DataFrame({"run": names, "kind": "run", "metric": "roc_auc", "people": 9, "value": 0.5})
    words = verdict_in_words(experiment, leaderboard.assign(condition=""), verdicts)
    assert words["headline"].startswith("No masking strategy beat training from scratch")
    assert not any("views" in text for text in [words["headline"], *words["sentences"]])


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
    assert turned(row | {"verdict": "tie"}, "b")["verdict"] == "tie"
