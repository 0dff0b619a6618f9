"""What the app draws with Plotly."""

import pandas as pd
import pytest

from facemae.report import charts, curves
from facemae.report.chart_spec import Axis, Chart, Look, Series


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


def test_points_have_their_interval_along_the_axis_it_lies_on() -> None:
    dot = Series("a", [0.5], ["a"], Look("#102030"), [0.4], [0.7], line=0, marker="circle", text=["0.5"])
    chart = Chart("c", "", "", "", {"": [dot]}, Axis(), Axis(words=["a"]), across=True)
    (trace,) = charts.draw(chart).data
    assert (trace.mode, trace.marker.symbol) == ("markers", "circle")
    assert (trace.error_x.array[0], trace.error_x.arrayminus[0]) == pytest.approx((0.2, 0.1))
    assert trace.hovertemplate.startswith("a: %{customdata}<")


def test_guides_are_named_and_logarithmic_axes_span_what_they_say() -> None:
    line = Series("a", [0.1, 1.0], [1, 2], Look("#102030"))
    chart = Chart(
        "c", "", "", "", {"": [line]}, Axis(log=True, span=(0.01, 1)), Axis(), guides={0.03: curves.ENOUGH}
    )
    figure = charts.draw(chart)
    assert [trace.name for trace in figure.data] == ["a", curves.ENOUGH]
    assert figure.layout.shapes[0].x0 == 0.03
    assert (figure.layout.xaxis.type, figure.layout.xaxis.range) == ("log", (-2, 0))


def test_no_chart_paints_its_background(verdicts: pd.DataFrame) -> None:
    line = Chart("c", "", "", "", {"": [Series("a", [1], [1], Look("#102030"))]}, Axis(), Axis())
    for figure in (charts.draw(line), charts.verdict_matrix(verdicts, "roc_auc", ["scratch", "random"], [])):
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None
