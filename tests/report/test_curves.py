"""Charts as data: how runs look, what is ranked, and where points and intervals lie."""

import numpy as np
import pandas as pd
import pytest

from facemae.evaluation.records import METRICS, higher_is_better, metric_label
from facemae.report import chart_spec, curves, static_charts
from facemae.report.chart_spec import Look

RUNS = {"scratch": "none", "random": "random", "block": "block", "random-50": "random"}
LOOKS = {"random": Look("#0072B2"), "pixels": Look("#9E9E9E", "dot")}
NO_BARS = pd.DataFrame(columns=["run", "x", "value", "ci_low", "ci_high"], dtype=float)


@pytest.fixture
def leaderboard() -> pd.DataFrame:
    rows = [
        {
            "run": name, "kind": "baseline" if name == "pixels" else "run", "strategy": strategy,
            "metric": metric, "condition": "", "value": value + place / 100,
            "ci_low": value - 0.1, "ci_high": value + 0.1,
            "seconds_pretrain": 10.0 * (strategy in ("random", "block")), "seconds_finetune": 5.0,
        }
        for metric, value in (("roc_auc", 0.8), ("eer", 0.2), ("tar_at_far=0.001", None))
        if value
        for place, (name, strategy) in enumerate([*RUNS.items(), ("pixels", "pixels")])
    ]  # fmt: skip
    refused = rows[0] | {"metric": "tar_at_far=0.001", "value": None, "ci_low": None, "ci_high": None}
    return pd.DataFrame([*rows, refused])


def test_colours_are_fixed_and_distinct(leaderboard: pd.DataFrame) -> None:
    looks = chart_spec.looks(leaderboard)
    assert looks["random"].colour == chart_spec.STRATEGY_COLOURS["random"]
    assert looks["block"].colour == chart_spec.STRATEGY_COLOURS["block"]
    assert looks["scratch"].colour == chart_spec.SCRATCH_COLOUR
    assert looks["pixels"].colour == chart_spec.BASELINE_COLOUR
    assert len({each.colour for each in looks.values()}) == len(looks)


@pytest.mark.parametrize(
    ("name", "label"),
    [
        ("roc_auc", "ROC AUC"),
        ("tar_at_far=0.1", "true accept rate at a FAR of 0.1"),
        ("far_at_target=0.1", "FAR achieved for 0.1"),
        ("tpir_at_fpir=0.01", "true identification rate at an FPIR of 0.01"),
        ("blufr_dir=0.01", "BLUFR identification rate at a FAR of 0.01"),
        ("race_f1", "race: macro F1"),
        ("unheard_of", "unheard_of"),
    ],
)
def test_metrics_have_names_in_words(name: str, label: str) -> None:
    assert metric_label(name) == label


@pytest.mark.parametrize("name", METRICS)
def test_every_named_metric_has_a_direction(name: str) -> None:
    assert higher_is_better(name) in (True, False)
    assert ("higher" in curves.axis_title(name)) == higher_is_better(name)


def test_what_is_no_masked_autoencoder_has_its_own_colour_and_line() -> None:
    runs = {"scratch": "none", "erasing": "none", "drop": "none", "random": "random", "views": "simclr"}
    rows = [{"run": run, "kind": "run", "strategy": strategy} for run, strategy in runs.items()]
    rows += [{"run": name, "kind": "baseline", "strategy": name} for name in ("pixels", "pca")]
    looks = chart_spec.looks(pd.DataFrame(rows))
    lines = {name: each.dash for name, each in looks.items()}
    assert looks["scratch"].colour == chart_spec.SCRATCH_COLOUR
    assert looks["views"].colour == chart_spec.STRATEGY_COLOURS["simclr"]
    assert len({looks[run].colour for run in runs}) == len(runs)
    assert [lines[run] for run in ("scratch", "random", "views")] == [
        "solid", "solid", chart_spec.CONTRASTIVE_DASH,
    ]  # fmt: skip
    assert len({lines[run] for run in ("scratch", "erasing", "drop")}) == 3
    assert lines["pixels"] != lines["pca"]
    assert set(lines.values()) <= static_charts._LINES.keys()


def test_what_was_measured_under_a_condition_is_in_no_ranking(leaderboard: pd.DataFrame) -> None:
    covered = leaderboard[leaderboard["metric"] == "roc_auc"].assign(condition="mask", value=0.99)
    both = pd.concat([leaderboard, covered])
    pd.testing.assert_frame_equal(curves.ranked(both, "roc_auc"), curves.ranked(leaderboard, "roc_auc"))


def test_leaderboard_has_the_best_on_top_and_baselines_below(leaderboard: pd.DataFrame) -> None:
    looks = chart_spec.looks(leaderboard)

    def order(metric: str) -> list[str]:
        return [each.name for each in curves.leaderboard(leaderboard, metric, looks).panels[""]]

    assert order("roc_auc") == ["pixels", "scratch", "random", "block", "random-50"]
    assert order("eer") == ["pixels", "random-50", "block", "random", "scratch"]
    assert curves.leaderboard(leaderboard, "roc_auc", looks).rules == [0.5]


def test_a_refused_metric_draws_nothing(leaderboard: pd.DataFrame) -> None:
    looks = chart_spec.looks(leaderboard)
    for make in (curves.leaderboard, curves.cost):
        assert not make(leaderboard, "tar_at_far=0.001", looks).panels[""]


def test_cost_adds_up_the_training_and_sets_equals_side_by_side(leaderboard: pd.DataFrame) -> None:
    dots = curves.cost(leaderboard, "roc_auc", chart_spec.looks(leaderboard)).panels[""]
    places = {each.name: each.x[0] for each in dots}
    assert places["random"] == pytest.approx(15.0, abs=1)
    assert len(set(places.values())) == len(places)
    assert len({each.marker for each in dots}) == len(dots)
    controls = leaderboard[leaderboard["kind"] == "baseline"].assign(seconds_finetune=0.0)
    assert curves.cost(controls, "roc_auc", chart_spec.looks(leaderboard)).x.span == (-0.08, 1.08)


def test_intervals_at_wanted_rates_stand_side_by_side() -> None:
    rows = [
        {"run": run, "metric": metric, "condition": "", "value": value, "ci_low": 0.1, "ci_high": 0.9}
        for run, value in (("scratch", 0.5), ("random", 0.6))
        for metric in ("tar_at_far=0.1", "far_at_target=0.1", "roc_auc")
    ]
    refused = rows[0] | {"metric": "tar_at_far=0.001", "value": None}
    covered = rows[0] | {"condition": "mask"}
    found = curves.rate_intervals(pd.DataFrame([*rows, refused, covered]))
    assert found[["run", "value"]].values.tolist() == [["scratch", 0.5], ["random", 0.6]]
    assert found["x"].prod() == pytest.approx(0.01)  # set apart evenly to both sides of the rate
    assert np.log10(found["x"].iloc[1] / found["x"].iloc[0]) == pytest.approx(curves.BAR_STEP)
    assert curves.rate_intervals(pd.DataFrame([refused])).empty


def both() -> pd.DataFrame:
    far = [0.01, 0.1, 1.0]
    return pd.concat(
        pd.DataFrame({"far": far, "tar": [0.1 + seed / 10, 0.5, 1.0], "impostors": 1000}).assign(
            run=run, seed=seed
        )
        for run in ("random", "pixels")
        for seed in (0, 1)
    )


def test_roc_has_the_mean_or_every_seed() -> None:
    mean = curves.roc(both(), LOOKS)
    assert [each.name for each in mean.panels[""]] == ["random", "pixels", curves.CHANCE]
    assert mean.panels[""][0].y[0] == pytest.approx(0.15)
    assert list(mean.guides) == pytest.approx([0.03])
    assert not curves.roc(both().assign(impostors=20), LOOKS).guides
    every = curves.roc(both(), LOOKS, every_seed=True).panels[""]
    assert [each.legend for each in every[:4]] == [True, False, True, False]


def test_roc_has_a_band_over_its_seeds_and_bars_at_the_rates() -> None:
    bars = pd.DataFrame({"run": ["random"], "x": [0.1], "value": [0.5], "ci_low": [0.3], "ci_high": [0.6]})
    random, pixels, bar, _ = curves.roc(both(), LOOKS, bars=bars).panels[""]
    assert [random.band, pixels.band] == [True, True]
    assert list(random.low) == pytest.approx([0.1, 0.5, 1.0])
    assert list(random.high) == pytest.approx([0.2, 0.5, 1.0])
    assert (bar.name, bar.line, list(bar.low), list(bar.high)) == ("random", 0, [0.3], [0.6])
    every = curves.roc(both(), LOOKS, every_seed=True, bars=bars).panels[""]
    assert all(each.low is None for each in every)


def roc() -> pd.DataFrame:
    curve = {"far": [0.001, 0.01, 0.1, 1.0], "tar": [0.1, 0.2, 0.5, 1.0], "impostors": 1000}
    return pd.concat(pd.DataFrame(curve).assign(run="random", seed=seed) for seed in (0, 1))


def test_det_is_the_other_side_of_the_roc_curve_without_zero() -> None:
    found = curves.det(roc(), LOOKS)
    (line,) = found.panels[""]
    assert list(line.y) == pytest.approx([0.9, 0.8, 0.5])
    assert list(line.x) == [0.001, 0.01, 0.1]
    assert list(found.guides) == pytest.approx([0.03])
    assert not curves.det(roc().assign(impostors=20), LOOKS).guides


def test_det_has_the_ends_of_its_seeds_where_they_are_asked_for() -> None:
    table = roc().reset_index(drop=True)
    table["tar"] = table["tar"].where(table["seed"] == 0, (table["tar"] + 0.2).clip(upper=1.0))
    assert curves.det(table, LOOKS).panels[""][0].low is None
    (line,) = curves.det(table, LOOKS, bars=NO_BARS).panels[""]
    assert list(line.y) == pytest.approx([0.8, 0.7, 0.4])
    assert list(line.low) == pytest.approx([0.7, 0.6, 0.3])
    assert list(line.high) == pytest.approx([0.9, 0.8, 0.5])


def test_a_seed_without_errors_ends_within_the_logarithmic_axis() -> None:
    table = roc().reset_index(drop=True)
    table.loc[(table["seed"] == 1) & (table["far"] == 0.1), "tar"] = 1.0
    (line,) = curves.det(table, LOOKS, bars=NO_BARS).panels[""]
    assert list(line.y) == pytest.approx([0.9, 0.8, 0.25])
    assert list(line.low) == pytest.approx([0.9, 0.8, 0.125])


def test_intervals_of_accepts_are_those_of_non_matches_the_other_way_round() -> None:
    rates = pd.DataFrame(
        {
            "run": ["a", "b", "c"], "x": [0.1, 0.1, 0.1], "value": [0.8, 0.9, 1.0],
            "ci_low": [0.7, 0.8, 1.0], "ci_high": [0.85, 1.05, 1.0],
        }
    )  # fmt: skip
    found = curves.det_intervals(rates)
    assert found["run"].tolist() == ["a", "b"]  # no errors have no place on a logarithmic axis
    assert found["value"].tolist() == pytest.approx([0.2, 0.1])
    assert found["ci_low"].tolist() == pytest.approx([0.15, 0.01])
    assert found["ci_high"].tolist() == pytest.approx([0.3, 0.2])


def test_learning_curves_are_thin_per_seed_and_bold_for_the_mean() -> None:
    table = pd.DataFrame(
        {
            "run": "random", "seed": [0, 0, 1, 1], "part": 0, "step": [1, 2, 1, 2],
            "loss": [1.0, 0.5, 2.0, 1.5],
        }
    )  # fmt: skip
    *thin, bold = curves.learning(table, LOOKS, "pretrain").panels[""]
    assert [(each.line, each.legend) for each in thin] == [(1, False)] * 2
    assert bold.line > 1
    assert list(bold.y) == [1.5, 1.0]


def test_some_runs_alone_keep_the_colours_of_all(leaderboard: pd.DataFrame) -> None:
    looks, alone = chart_spec.looks(leaderboard), leaderboard[leaderboard["run"] == "random-50"]
    assert chart_spec.looks(alone)["random-50"] != looks["random-50"]  # else there is nothing to test
    for make in (curves.leaderboard, curves.cost):
        assert make(alone, "roc_auc", looks).panels[""][0].look == looks["random-50"]
