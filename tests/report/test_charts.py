"""Charts: what they draw, in which colour, and the pictures' pixels."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from facemae.data.alignment import quality
from facemae.data.faces import split
from facemae.evaluation.records import higher_is_better
from facemae.report import charts, tables
from facemae.report import static_charts as figures
from facemae.report.phrases import METRIC_NAMES, metric_label

RUNS = {"scratch": "none", "random": "random", "block": "block", "random-50": "random"}


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


@pytest.fixture
def verdicts() -> pd.DataFrame:
    row = {"metric": "roc_auc", "ci_low": 0.01, "ci_high": 0.03, "p_value": 0.001, "p_adjusted": 0.002}
    row |= {"difference": 0.02, "seconds_difference": 10.0, "budget_note": ""}
    pairs = [
        ("random", "scratch", "better", "primary", ""), ("block", "random", "equivalent", "exploratory", ""),
        ("random", "pixels", "undecided", "exploratory", "random has not learnt"),
    ]  # fmt: skip
    names = ("run_a", "run_b", "verdict", "family", "note")
    return pd.DataFrame([row | dict(zip(names, pair, strict=True)) for pair in pairs])


def test_colours_are_fixed_and_distinct(leaderboard: pd.DataFrame) -> None:
    colours = charts.palette(leaderboard)
    assert colours["random"] == charts.STRATEGY_COLOURS["random"]
    assert colours["block"] == charts.STRATEGY_COLOURS["block"]
    assert colours["scratch"] == charts.SCRATCH_COLOUR
    assert colours["pixels"] == charts.BASELINE_COLOUR
    assert len(set(colours.values())) == len(colours)


def test_every_chart_has_both_texts() -> None:
    assert charts.HOW_TO_READ.keys() == charts.ALT.keys()
    assert "do not make two runs equal" in charts.HOW_TO_READ["leaderboard"]


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


@pytest.mark.parametrize("name", METRIC_NAMES)
def test_every_named_metric_has_a_direction(name: str) -> None:
    assert higher_is_better(name) in (True, False)
    assert ("higher" in charts.axis_title(name)) == higher_is_better(name)


def test_what_is_no_masked_autoencoder_has_its_own_colour_and_line() -> None:
    runs = {"scratch": "none", "erasing": "none", "drop": "none", "random": "random", "views": "simclr"}
    rows = [{"run": run, "kind": "run", "strategy": strategy} for run, strategy in runs.items()]
    rows += [{"run": name, "kind": "baseline", "strategy": name} for name in ("pixels", "pca")]
    table = pd.DataFrame(rows)
    colours, lines = charts.palette(table), charts.dashes(table)
    assert colours["scratch"] == charts.SCRATCH_COLOUR
    assert colours["views"] == charts.STRATEGY_COLOURS["simclr"]
    assert len({colours[run] for run in runs}) == len(runs)
    assert [lines[run] for run in ("scratch", "random", "views")] == ["solid", "solid", charts.RIVAL_DASH]
    assert len({lines[run] for run in ("scratch", "erasing", "drop")}) == 3
    assert lines["pixels"] != lines["pca"]
    assert set(lines.values()) <= figures._LINES.keys()


def test_what_was_measured_under_a_condition_is_in_no_ranking(leaderboard: pd.DataFrame) -> None:
    covered = leaderboard[leaderboard["metric"] == "roc_auc"].assign(condition="mask", value=0.99)
    both = pd.concat([leaderboard, covered])
    pd.testing.assert_frame_equal(charts.ranked(both, "roc_auc"), charts.ranked(leaderboard, "roc_auc"))
    assert charts.cost_chart(both, "roc_auc") == charts.cost_chart(leaderboard, "roc_auc")


def test_leaderboard_has_the_best_on_top_and_baselines_below(leaderboard: pd.DataFrame) -> None:
    def order(metric: str) -> list[str]:
        return [trace.y[0] for trace in charts.leaderboard_chart(leaderboard, metric).data]

    assert order("roc_auc") == ["pixels", "scratch", "random", "block", "random-50"]
    assert order("eer") == ["pixels", "random-50", "block", "random", "scratch"]
    trace = charts.leaderboard_chart(leaderboard, "roc_auc").data[-1]
    assert trace.error_x.array[0] == pytest.approx(0.07)
    assert trace.error_x.arrayminus[0] == pytest.approx(0.13)


def test_a_refused_metric_draws_nothing(leaderboard: pd.DataFrame) -> None:
    assert not charts.leaderboard_chart(leaderboard, "tar_at_far=0.001").data
    assert not charts.cost_chart(leaderboard, "tar_at_far=0.001").data


def test_matrix_says_verdicts_in_words_from_both_sides(verdicts: pd.DataFrame) -> None:
    heat = charts.verdict_matrix(verdicts, "roc_auc", ["scratch", "random", "block"], ["pixels"]).data[0]
    text = {row: list(cells) for row, cells in zip(heat.y, heat.text, strict=True)}
    assert text["scratch"] == ["", "<b>better</b><br>+0.020<br>primary", ""]
    assert text["random"] == ["<b>worse</b><br>-0.020<br>primary", "", "<b>equivalent</b><br>+0.020"]
    assert text["pixels"] == ["", "<b>undecided</b><br>+0.020", ""]
    hover = heat.hovertext[1][0]
    assert "scratch against random: worse" in hover
    assert "-0.020 (-0.030 to -0.010)" in hover
    assert hover.endswith("adjusted p: 0.002, primary")
    assert heat.hovertext[3][1].endswith("exploratory<br>random has not learnt")


def test_matrix_text_is_readable_on_every_verdict() -> None:
    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    for colour in charts.VERDICT_COLOURS.values():
        assert 1.05 / (luminance(colour) + 0.05) >= 4.5


def curves() -> pd.DataFrame:
    far = [0.01, 0.1, 1.0]
    return pd.concat(
        pd.DataFrame({"far": far, "tar": [0.1 + seed / 10, 0.5, 1.0], "impostors": 1000}).assign(
            run=run, seed=seed
        )
        for run in ("random", "pixels")
        for seed in (0, 1)
    )


def test_roc_draws_the_mean_or_every_seed() -> None:
    colours = {"random": "#0072B2", "pixels": "#9E9E9E"}
    lines = {"random": "solid", "pixels": "dot"}
    mean = charts.roc_chart(curves(), colours, lines)
    assert [trace.name for trace in mean.data] == ["random", "pixels", "chance", "30 false accepts"]
    assert mean.data[0].y[0] == pytest.approx(0.15)
    assert mean.data[1].line.dash == "dot"
    assert mean.data[3].x[0] == pytest.approx(0.03)
    assert mean.layout.xaxis.type == "log"
    every = charts.roc_chart(curves(), colours, lines, every_seed=True)
    assert len(every.data) == 6
    assert [trace.showlegend for trace in every.data[:4]] == [True, False, True, False]


def test_learning_curves_are_thin_per_seed_and_bold_for_the_mean() -> None:
    table = pd.DataFrame(
        {
            "run": "random", "seed": [0, 0, 1, 1], "part": 0, "step": [1, 2, 1, 2],
            "loss": [1.0, 0.5, 2.0, 1.5],
        }
    )  # fmt: skip
    figure = charts.learning_chart(table, {"random": "#0072B2"})
    assert [trace.line.width for trace in figure.data] == [1, 1, 2.5]
    assert list(figure.data[2].y) == [1.5, 1.0]


def test_cost_chart_adds_up_the_training(leaderboard: pd.DataFrame) -> None:
    figure = charts.cost_chart(leaderboard, "roc_auc")
    assert {trace.name: trace.x[0] for trace in figure.data}["random"] == 15.0
    assert len({trace.marker.symbol for trace in figure.data}) == len(figure.data)


def test_no_chart_paints_its_background(leaderboard: pd.DataFrame, verdicts: pd.DataFrame) -> None:
    figures: list[go.Figure] = [
        charts.leaderboard_chart(leaderboard, "roc_auc"),
        charts.cost_chart(leaderboard, "roc_auc"),
        charts.verdict_matrix(verdicts, "roc_auc", ["scratch", "random"], []),
    ]
    assert {figure.layout.paper_bgcolor for figure in figures} == {"rgba(0,0,0,0)"}
    assert {figure.layout.font.color for figure in figures} == {None}


def test_masked_greys_out_hidden_patches_only() -> None:
    face = np.full((1, 4, 4, 3), 200, dtype=np.uint8)
    hidden = np.array([[True, False, False, False]])
    picture = charts.masked(face, hidden)[0, ..., 0]
    assert (picture[:2, :2] == 128).all()
    assert (picture[2:] == 200).all()
    assert (picture[:2, 2:] == 200).all()


def test_strips_have_transparent_gaps() -> None:
    face = np.full((2, 8, 8, 3), 200, dtype=np.uint8)
    hidden = np.zeros((2, 4), dtype=bool)
    picture = charts.reconstruction_strip(face, hidden, face)
    assert picture.shape == (3 * 8 + 2 * 4, 2 * 8 + 4, 4)
    assert picture[0, 0].tolist() == [200, 200, 200, 255]
    assert picture[9, 0, 3] == 0
    assert charts.mask_grid(face[0], np.zeros((5, 4), dtype=bool), 2).shape == (20, 20, 4)
    assert charts.mask_grid(face[0], np.zeros((1, 4), dtype=bool), 2).shape == (8, 8, 4)


@pytest.fixture
def measured() -> pd.DataFrame:
    """Five faces as a detector found them and one that was taken as it is."""
    missing = float("nan")
    return pd.DataFrame(
        {
            "sample_id": list("abcdef"),
            "score": [0.999, 0.9, 0.8, 0.999, 0.999, missing],
            "face_px": [100.0, 100.0, 20.0, 100.0, 100.0, missing],
            "residual": [0.01, 0.01, 0.01, 0.01, 0.01, missing],
            "yaw": [0.0, 50.0, 0.0, -70.0, 10.0, missing],
            "sharpness": [900.0, 900.0, 900.0, 900.0, 1.0, 500.0],
            "doubts": ["", "TURNED, UNSURE", "SMALL, UNSURE", "TURNED", "BLURRED", ""],
        }
    )


def test_every_doubt_has_its_measure() -> None:
    assert charts.BY_DOUBT.keys() == quality.DOUBTS.keys()
    assert len({measure.column for measure in charts.MEASURES}) == len(charts.MEASURES)


@pytest.mark.parametrize(
    ("doubt", "expected"),
    [("UNSURE", "cb"), ("TURNED", "db"), ("BLURRED", "e"), ("ODD", ""), (None, "bcedfa")],
)
def test_the_worst_face_is_first(measured: pd.DataFrame, doubt: str | None, expected: str) -> None:
    found = charts.worst_first(measured, doubt)
    assert "".join(found["sample_id"]) == expected
    assert list(found.columns) == list(measured.columns)


@pytest.mark.parametrize("measure", charts.MEASURES, ids=lambda measure: measure.column)
def test_a_histogram_counts_each_face_on_its_side_of_the_limit(measure: charts.Measure) -> None:
    values = measure.limit * np.array([0.1, 0.5, 0.99, 1.01, 1.5, 7.0])
    values = np.concatenate([values, -values]) if len(measure.limits) == 2 else values
    bins = charts.histogram(pd.DataFrame({measure.column: [*values, float("nan")]}), measure)
    assert bins["faces"].sum() == len(values)
    beyond = values < measure.limit if measure.low else abs(values) > measure.limit
    assert bins.loc[bins["doubtful"], "faces"].sum() == beyond.sum()


def test_every_overlap_has_words() -> None:
    kinds, actions = [*split.GATES, "copy"], [split.EXCLUDED, split.DROPPED, split.KEPT]
    for kind in kinds:
        for action in actions:
            assert charts.overlap_words(kind, action) != f"{kind}, {action}"
            assert action not in charts.overlap_words(kind, action).split(", ")
    assert charts.overlap_words("<b>", "gone") == "<b>, gone"


def test_a_confidence_of_one_is_not_drawn_beyond_one() -> None:
    scores = np.float32([1.0, 0.9999, 0.9951])
    bins = charts.histogram(pd.DataFrame({"score": scores}), charts.BY_DOUBT["UNSURE"])
    assert bins["faces"].tolist() == [3]
    assert bins["centre"].tolist() == pytest.approx([0.9975])


def test_values_below_a_logarithmic_axis_are_drawn_at_its_end() -> None:
    bins = charts.histogram(pd.DataFrame({"sharpness": [0.0, 0.1]}), charts.BY_DOUBT["BLURRED"])
    assert bins["faces"].tolist() == [2]
    assert bins["doubtful"].all()


def test_what_was_not_measured_is_written_as_nothing() -> None:
    turn = charts.BY_DOUBT["TURNED"]
    assert [turn.text(value) for value in (None, float("nan"), -52.4)] == ["", "", "-52\N{DEGREE SIGN}"]


def test_quality_chart_tells_doubtful_faces_and_draws_the_limits(measured: pd.DataFrame) -> None:
    figure = charts.quality_chart(measured, charts.BY_DOUBT["TURNED"])
    assert [int(sum(trace.y)) for trace in figure.data] == [3, 2]
    assert [line.x0 for line in figure.layout.shapes] == [-quality.MAX_YAW, quality.MAX_YAW]
    width = charts.quality_chart(measured, charts.BY_DOUBT["SMALL"])
    assert width.layout.shapes[0].x0 == pytest.approx(np.log10(quality.MIN_FACE_PX))
    labels = dict(zip(width.layout.xaxis.ticktext, width.layout.xaxis.tickvals, strict=True))
    assert labels["50"] == pytest.approx(np.log10(50))
    assert not charts.quality_chart(measured.head(0), charts.BY_DOUBT["SMALL"]).data[0].y.size


def test_masks_in_words() -> None:
    masks = pd.DataFrame(
        {
            "run": ["random", "pixel"], "strategy": ["random", "pixel"], "visible": [16, 3136],
            "entropy": [0.811, 0.5], "clumping": [0.62, 0.6], "hidden_nose": [0.75, None],
            "error": [0.789, None], "seconds": [20.0, 60.0],
        }
    )  # fmt: skip
    assert charts.mask_table(masks).to_dict("records") == [
        {
            "Run": "random", "Mask": "random", "Visible": "16", "Entropy": "0.81", "Clumping": "0.62",
            "Nose": "75%", "Error": "0.789", "Seconds": "20 (1.00x)",
        },
        {
            "Run": "pixel", "Mask": "pixel", "Visible": "3,136", "Entropy": "0.50", "Clumping": "0.60",
            "Nose": "", "Error": "", "Seconds": "60 (3.00x)",
        },
    ]  # fmt: skip
    alone = charts.mask_table(masks[masks["run"] == "pixel"])
    assert alone["Seconds"].tolist() == ["60"]  # there is no random mask to hold it against
    assert charts.mask_table(pd.DataFrame()).empty


def test_intervals_at_wanted_rates_stand_side_by_side() -> None:
    rows = [
        {"run": run, "metric": metric, "condition": "", "value": value, "ci_low": 0.1, "ci_high": 0.9}
        for run, value in (("scratch", 0.5), ("random", 0.6))
        for metric in ("tar_at_far=0.1", "far_at_target=0.1", "roc_auc")
    ]
    refused = rows[0] | {"metric": "tar_at_far=0.001", "value": None}
    covered = rows[0] | {"condition": "mask"}
    found = charts.rate_intervals(pd.DataFrame([*rows, refused, covered]))
    assert found[["run", "value"]].values.tolist() == [["scratch", 0.5], ["random", 0.6]]
    assert found["far"].prod() == pytest.approx(0.01)  # set apart evenly to both sides of the rate
    assert np.log10(found["far"].iloc[1] / found["far"].iloc[0]) == pytest.approx(charts.BAR_STEP)
    assert charts.rate_intervals(pd.DataFrame([refused])).empty


def test_roc_has_a_band_over_its_seeds_and_bars_at_the_rates() -> None:
    colours = {"random": "#0072B2", "pixels": "#9E9E9E"}
    bars = pd.DataFrame({"run": ["random"], "far": [0.1], "value": [0.5], "ci_low": [0.3], "ci_high": [0.6]})
    figure = charts.roc_chart(curves(), colours, dict.fromkeys(colours, "solid"), bars=bars)
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [trace.name for trace in bands] == ["random", "pixels"]
    assert list(bands[0].y) == pytest.approx([0.2, 0.5, 1.0, 1.0, 0.5, 0.1])  # up one way, down the other
    (bar,) = [trace for trace in figure.data if trace.error_y.array is not None]
    assert (bar.error_y.array[0], bar.error_y.arrayminus[0]) == pytest.approx((0.1, 0.2))
    assert bar.marker.color == colours["random"]
    every = charts.roc_chart(curves(), colours, dict.fromkeys(colours, "solid"), every_seed=True, bars=bars)
    assert not [trace for trace in every.data if trace.fill == "toself" or trace.error_y.array is not None]


def test_some_runs_alone_keep_the_colours_of_all(leaderboard: pd.DataFrame) -> None:
    colours = charts.palette(leaderboard)
    alone = leaderboard[leaderboard["run"] == "random-50"]
    assert charts.palette(alone)["random-50"] != colours["random-50"]  # else there is nothing to test
    assert charts.leaderboard_chart(alone, "roc_auc", colours).data[0].marker.color == colours["random-50"]
    assert charts.cost_chart(alone, "roc_auc", colours).data[0].marker.color == colours["random-50"]


def test_an_error_map_has_the_face_below_and_says_what_is_unknown() -> None:
    errors = tables.PatchErrors(
        missed=np.array([[0.25, np.nan], [1.5, 0.0]]),
        grey=np.array([[10.0, np.nan], [40.0, 0.0]]),
        times=np.array([[6, 2], [6, 6]]),
        face=np.zeros((4, 4, 3), np.uint8),
        faces=6,
        seeds=1,
    )
    figure = charts.error_map(errors)
    heat = figure.data[0]
    assert (heat.zmin, heat.zmax) == (0, 1)
    assert list(heat.hovertext[0]) == [
        "missed 25%<br>10 grey levels<br>hidden 6 times",
        "hidden 2 times, too rarely",
    ]
    (picture,) = figure.layout.images
    assert picture.source.startswith("data:image/png;base64,")
    assert (picture.sizex, picture.sizey, picture.layer) == (2, 2, "below")
    assert figure.layout.yaxis.range == (1.5, -0.5)  # the first row is the forehead
