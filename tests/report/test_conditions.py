"""Charts of conditions: which rows they take, and the numbers as text."""

import numpy as np
import pandas as pd
import pytest

from facemae.report import chart_spec, charts, conditions
from facemae.report.chart_spec import Chart

KINDS, AREAS = ("block", "mask"), (0.1, 0.5)


def row(
    run: str, protocol: str, metric: str, condition: str, amount: float, value: float
) -> dict[str, object]:
    return {
        "run": run, "kind": "baseline" if run == "pixels" else "run", "strategy": run, "protocol": protocol,
        "metric": metric, "condition": condition, "amount": amount, "value": value, "ci_low": value - 0.1,
        "ci_high": value + 0.2,
    }  # fmt: skip


def board(rows: list[dict[str, object]]) -> pd.DataFrame:
    return pd.DataFrame(rows).astype({"value": float, "amount": float})


@pytest.fixture
def leaderboard() -> pd.DataFrame:
    rows, nothing = [], float("nan")
    for run, level in (("scratch", 0.9), ("random", 0.8), ("pixels", 0.7)):
        rows.append(row(run, "verification", "accuracy", "", nothing, level))
        rows.append(row(run, "verification", "accuracy", "all pairs", nothing, level))
        rows.append(row(run, "occlusion", "accuracy", "none", 0.0, level))
        for place, kind in enumerate(KINDS):
            rows += [row(run, "occlusion", "accuracy", kind, area, level - place * area) for area in AREAS]
        rows += [
            row(run, "lighting", "accuracy", "gamma", strength, level - strength) for strength in (0.2, 0.4)
        ]
        rows += [row(run, "illumination", "rank1", f"S{place}", nothing, level) for place in (5, 2, 3)]
        rows += [row(run, "labels", "accuracy", "share", share, level * share) for share in (1.0, 0.1)]
        rows.append(row(run, "fairness", "fmr", "female", nothing, 0.25))
        rows.append(row(run, "occlusion", "occlusion_accuracy", "", nothing, level))
    return board(rows)


def made(leaderboard: pd.DataFrame) -> dict[str, Chart]:
    return {each.name: each for each in conditions.conditions(leaderboard, chart_spec.looks(leaderboard))}


def panel_of(chart: Chart, title: str = "") -> pd.DataFrame:
    return conditions.numbers(chart.panels[title])


def by_run(panel: pd.DataFrame, run: str, column: str) -> list[object]:
    return panel.loc[panel["run"] == run, column].tolist()


def test_only_what_was_measured_has_a_chart(leaderboard: pd.DataFrame) -> None:
    assert list(made(leaderboard)) == ["occlusion", "occlusion-kinds", "lighting", "illumination", "labels"]
    assert made(leaderboard[leaderboard["protocol"] == "verification"]) == {}
    assert made(leaderboard.head(0)) == {}
    refused = leaderboard.assign(value=float("nan"))
    assert made(refused) == {}


def test_the_mean_over_kinds_starts_at_uncovered_faces(leaderboard: pd.DataFrame) -> None:
    panel = panel_of(made(leaderboard)["occlusion"])
    assert list(dict.fromkeys(panel["run"])) == ["scratch", "random", "pixels"]
    assert by_run(panel, "scratch", "x") == [0.0, 0.1, 0.5]
    assert by_run(panel, "scratch", "value") == pytest.approx([0.9, 0.85, 0.65])
    assert by_run(panel, "scratch", "ci_low") == pytest.approx([0.8, 0.75, 0.55])
    assert by_run(panel, "scratch", "ci_high") == pytest.approx([1.1, 1.05, 0.85])


def test_a_mean_over_fewer_kinds_is_left_out(leaderboard: pd.DataFrame) -> None:
    lost = (
        (leaderboard["run"] == "random")
        & (leaderboard["condition"] == "mask")
        & (leaderboard["amount"] == 0.5)
    )
    panel = panel_of(made(leaderboard.assign(value=leaderboard["value"].mask(lost)))["occlusion"])
    assert by_run(panel, "random", "x") == [0.0, 0.1]
    assert by_run(panel, "scratch", "x") == [0.0, 0.1, 0.5]


def test_each_kind_is_a_panel_that_starts_at_the_same_point(leaderboard: pd.DataFrame) -> None:
    found = made(leaderboard)["occlusion-kinds"]
    assert list(found.panels) == ["rectangle", "mask"]
    assert by_run(panel_of(found, "mask"), "scratch", "value") == pytest.approx([0.9, 0.8, 0.4])
    light = panel_of(made(leaderboard)["lighting"], "gamma")  # its own clean faces are not listed twice
    assert by_run(light, "scratch", "x") == [0.0, 0.2, 0.4]


def test_subsets_of_light_are_in_order(leaderboard: pd.DataFrame) -> None:
    found = made(leaderboard)["illumination"]
    assert list(found.x.words) == ["S2", "S3", "S5"]
    assert list(found.panels) == ["rank-1 identification"]
    assert by_run(panel_of(found, "rank-1 identification"), "random", "x") == ["S2", "S3", "S5"]


def test_label_curves_are_logarithmic_and_need_two_points(leaderboard: pd.DataFrame) -> None:
    found = made(leaderboard)["labels"]
    assert found.x.log
    assert by_run(panel_of(found), "random", "x") == [0.1, 1.0]
    assert "labels" not in made(leaderboard[~leaderboard["amount"].eq(0.1)])


def test_every_chart_says_how_to_read_it(leaderboard: pd.DataFrame) -> None:
    for each in made(leaderboard).values():
        assert each.read.endswith(".")
        assert each.alt.startswith("Line chart")


def test_a_table_has_a_row_per_run_and_a_column_per_place(leaderboard: pd.DataFrame) -> None:
    lost = (leaderboard["run"] == "random") & (leaderboard["amount"] == 1)
    found = made(leaderboard[~lost])["labels"]
    table = conditions.table_of(panel_of(found), found.x.title)
    assert list(table.columns) == ["Run, by share of the labels (logarithmic)", "0.1", "1"]
    assert table.to_numpy().tolist()[0] == ["scratch", "0.090 (-0.010 to 0.290)", "0.900 (0.800 to 1.100)"]
    assert table.to_numpy().tolist()[1][2] == ""


def test_groups_and_all_pairs_have_tables(leaderboard: pd.DataFrame) -> None:
    found = conditions.grouped_tables(leaderboard)
    assert list(found) == ["All against all", "By group: false match rate"]
    assert found["All against all"]["verification accuracy"].tolist()[0].startswith("0.900")
    assert found["By group: false match rate"]["female"].tolist() == ["0.250 (0.150 to 0.450)"] * 3
    refused = conditions.grouped_tables(leaderboard.assign(value=np.nan, ci_low=np.nan, ci_high=np.nan))
    assert refused["By group: false match rate"]["female"].tolist() == ["refused"] * 3
    assert conditions.grouped_tables(leaderboard[leaderboard["condition"] == ""]) == {}


def test_the_app_draws_each_run_in_its_colour_and_names_it_once(leaderboard: pd.DataFrame) -> None:
    looks = chart_spec.looks(leaderboard)
    for each in made(leaderboard).values():
        figure = charts.draw(each)
        named = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert named == ["scratch", "random", "pixels"]
        lines = [trace for trace in figure.data if trace.fill is None]
        assert len(lines) == 3 * len(each.panels)
        assert all(trace.line.color == looks[trace.name].colour for trace in lines)
        assert all(trace.line.dash == looks[trace.name].dash for trace in lines)
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None


def test_bands_hold_the_interval_and_words_have_bars(leaderboard: pd.DataFrame) -> None:
    band = charts.draw(made(leaderboard)["labels"]).data[0]
    assert band.fill == "toself"
    assert list(band.y) == pytest.approx([0.29, 1.1, 0.8, -0.01])
    bars = charts.draw(made(leaderboard)["illumination"])
    assert all(trace.error_y.array is not None for trace in bars.data)
    assert bars.data[0].error_y.arrayminus[0] == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 3), (7, 4)])
def test_panels_fill_their_rows(count: int, columns: int) -> None:
    axis, panels = chart_spec.Axis(), {str(place): [] for place in range(count)}
    assert Chart("a", "", "", "", panels, axis, axis).columns == columns
