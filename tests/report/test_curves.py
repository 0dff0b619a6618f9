"""Curves: which rows they take, how they are drawn in the app, and the numbers as text."""

import numpy as np
import pandas as pd
import pytest

from facemae.report import charts, curves

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


def by_run(panel: pd.DataFrame, run: str, column: str) -> list[object]:
    return panel.loc[panel["run"] == run, column].tolist()


def test_only_what_was_measured_has_a_chart(leaderboard: pd.DataFrame) -> None:
    names = [each.name for each in curves.curves_of(leaderboard)]
    assert names == ["occlusion", "occlusion-kinds", "lighting", "illumination", "labels"]
    assert curves.curves_of(leaderboard[leaderboard["protocol"] == "verification"]) == []
    assert curves.curves_of(leaderboard.head(0)) == []
    refused = leaderboard.assign(value=float("nan"))
    assert curves.curves_of(refused) == []


def test_the_mean_over_kinds_starts_at_uncovered_faces(leaderboard: pd.DataFrame) -> None:
    panel = curves.occlusion(leaderboard).panels[""]
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
    panel = curves.occlusion(leaderboard.assign(value=leaderboard["value"].mask(lost))).panels[""]
    assert by_run(panel, "random", "x") == [0.0, 0.1]
    assert by_run(panel, "scratch", "x") == [0.0, 0.1, 0.5]


def test_each_kind_is_a_panel_that_starts_at_the_same_point(leaderboard: pd.DataFrame) -> None:
    panels = curves.occlusion_kinds(leaderboard).panels
    assert list(panels) == ["rectangle", "mask"]
    assert by_run(panels["mask"], "scratch", "value") == pytest.approx([0.9, 0.8, 0.4])
    light = curves.lighting(leaderboard).panels["gamma"]  # its own clean faces are not listed twice
    assert by_run(light, "scratch", "x") == [0.0, 0.2, 0.4]


def test_subsets_of_light_are_in_order(leaderboard: pd.DataFrame) -> None:
    found = curves.illumination(leaderboard)
    assert list(found.ticks) == ["S2", "S3", "S5"]
    assert list(found.panels) == ["rank-1 identification"]
    assert by_run(next(iter(found.panels.values())), "random", "x") == ["S2", "S3", "S5"]


def test_label_curves_are_logarithmic_and_need_two_points(leaderboard: pd.DataFrame) -> None:
    found = curves.labels(leaderboard)
    assert found.log_x
    assert by_run(found.panels[""], "random", "x") == [0.1, 1.0]
    whole = leaderboard[~leaderboard["amount"].eq(0.1)]
    assert curves.labels(whole) is None


def roc() -> pd.DataFrame:
    curve = {"far": [0.001, 0.01, 0.1, 1.0], "tar": [0.1, 0.2, 0.5, 1.0], "impostors": 1000}
    return pd.concat(pd.DataFrame(curve).assign(run="random", seed=seed) for seed in (0, 1))


def test_det_is_the_other_side_of_the_roc_curve_without_zero() -> None:
    found = curves.det(roc())
    panel = found.panels[""]
    assert panel["value"].tolist() == pytest.approx([0.9, 0.8, 0.5])
    assert panel["x"].tolist() == [0.001, 0.01, 0.1]
    assert found.enough == pytest.approx(0.03)
    assert curves.det(roc().assign(impostors=20)).enough is None


def test_every_chart_says_how_to_read_it(leaderboard: pd.DataFrame) -> None:
    for each in (*curves.curves_of(leaderboard), curves.det(roc())):
        assert each.read.endswith(".")
        assert each.alt.startswith("Line chart")


def test_a_table_has_a_row_per_run_and_a_column_per_place(leaderboard: pd.DataFrame) -> None:
    found = curves.labels(leaderboard)
    table = curves.table_of(found.panels[""].query("not (run == 'random' and x == 1)"), found.x)
    assert list(table.columns) == ["Run, by share of the labels (logarithmic)", "0.1", "1"]
    assert table.to_numpy().tolist()[0] == ["scratch", "0.090 (-0.010 to 0.290)", "0.900 (0.800 to 1.100)"]
    assert table.to_numpy().tolist()[1][2] == ""


def test_groups_and_all_pairs_have_tables(leaderboard: pd.DataFrame) -> None:
    found = curves.grouped_tables(leaderboard)
    assert list(found) == ["All against all", "By group: false match rate"]
    assert found["All against all"]["verification accuracy"].tolist()[0].startswith("0.900")
    assert found["By group: false match rate"]["female"].tolist() == ["0.250 (0.150 to 0.450)"] * 3
    refused = curves.grouped_tables(leaderboard.assign(value=np.nan, ci_low=np.nan, ci_high=np.nan))
    assert refused["By group: false match rate"]["female"].tolist() == ["refused"] * 3
    assert curves.grouped_tables(leaderboard[leaderboard["condition"] == ""]) == {}


def test_the_app_draws_each_run_in_its_colour_and_names_it_once(leaderboard: pd.DataFrame) -> None:
    colours, dashes = charts.palette(leaderboard), charts.dashes(leaderboard)
    for each in curves.curves_of(leaderboard):
        figure = curves.chart(each, colours, dashes)
        named = [trace.name for trace in figure.data if trace.showlegend is not False]
        assert named == ["scratch", "random", "pixels"]
        lines = [trace for trace in figure.data if trace.fill is None]
        assert len(lines) == 3 * len(each.panels)
        assert all(trace.line.color == colours[trace.name] for trace in lines)
        assert all(trace.line.dash == dashes[trace.name] for trace in lines)
        assert figure.layout.paper_bgcolor == "rgba(0,0,0,0)"
        assert figure.layout.font.color is None


def test_bands_hold_the_interval_and_words_have_bars(leaderboard: pd.DataFrame) -> None:
    colours, dashes = charts.palette(leaderboard), charts.dashes(leaderboard)
    band = curves.chart(curves.labels(leaderboard), colours, dashes).data[0]
    assert band.fill == "toself"
    assert list(band.y) == pytest.approx([0.29, 1.1, 0.8, -0.01])
    bars = curves.chart(curves.illumination(leaderboard), colours, dashes)
    assert all(trace.error_y.array is not None for trace in bars.data)
    assert bars.data[0].error_y.arrayminus[0] == pytest.approx(0.1)


@pytest.mark.parametrize(("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 4), (6, 3), (7, 4)])
def test_panels_fill_their_rows(count: int, columns: int) -> None:
    assert curves.panel_columns(count) == columns


def test_det_has_the_ends_of_its_seeds_where_they_are_asked_for() -> None:
    table = roc().reset_index(drop=True)
    table["tar"] = table["tar"].where(table["seed"] == 0, (table["tar"] + 0.2).clip(upper=1.0))
    assert curves.det(table).panels[""][["ci_low", "ci_high"]].isna().all().all()
    panel = curves.det(table, spread=True).panels[""]
    assert panel["value"].tolist() == pytest.approx([0.8, 0.7, 0.4])
    assert panel["ci_low"].tolist() == pytest.approx([0.7, 0.6, 0.3])
    assert panel["ci_high"].tolist() == pytest.approx([0.9, 0.8, 0.5])


def test_a_seed_without_errors_ends_within_the_logarithmic_axis() -> None:
    table = roc().reset_index(drop=True)
    table.loc[(table["seed"] == 1) & (table["far"] == 0.1), "tar"] = 1.0
    panel = curves.det(table, spread=True).panels[""]
    assert panel["value"].tolist() == pytest.approx([0.9, 0.8, 0.25])
    assert panel["ci_low"].tolist() == pytest.approx([0.9, 0.8, 0.125])


def test_intervals_of_accepts_are_those_of_non_matches_the_other_way_round() -> None:
    rates = pd.DataFrame(
        {
            "run": ["a", "b", "c"], "far": [0.1, 0.1, 0.1], "value": [0.8, 0.9, 1.0],
            "ci_low": [0.7, 0.8, 1.0], "ci_high": [0.85, 1.05, 1.0],
        }
    )  # fmt: skip
    found = curves.det_intervals(rates)
    assert found["run"].tolist() == ["a", "b"]  # no errors have no place on a logarithmic axis
    assert found["value"].tolist() == pytest.approx([0.2, 0.1])
    assert found["ci_low"].tolist() == pytest.approx([0.15, 0.01])
    assert found["ci_high"].tolist() == pytest.approx([0.3, 0.2])
