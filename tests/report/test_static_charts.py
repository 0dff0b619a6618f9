"""The report's figures: what the SVG holds, and that it fits any page, theme and number of neighbours."""

import io
import re
import xml.etree.ElementTree as ET

import matplotlib
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from facemae.report import chart_spec, curves, faces, static_charts
from facemae.report.chart_spec import Axis, Chart, Look, Series
from facemae.report.static_charts import svg

LOOKS = {"random": Look("#0072B2"), "pixels": Look("#9E9E9E", "dot")}


@pytest.fixture(scope="module")
def leaderboard() -> pd.DataFrame:
    strategies = {"scratch": "none", "random": "random", "block": "block", "pixels": "pixels", "pca": "pca"}
    return pd.DataFrame(
        {
            "run": name, "kind": "baseline" if strategy[0] == "p" else "run", "strategy": strategy,
            "metric": metric, "condition": "", "value": value + place / 100,
            "ci_low": value - 0.1, "ci_high": value + 0.2,
            "seconds_pretrain": 10.0 * (strategy in ("random", "block")),
            "seconds_finetune": 5.0 * (strategy[0] != "p"),
        }
        for metric, value in (("roc_auc", 0.7), ("eer", 0.2), ("tar_at_far=0.001", float("nan")))
        for place, (name, strategy) in enumerate(strategies.items())
    )  # fmt: skip


@pytest.fixture(scope="module")
def roc() -> pd.DataFrame:
    curve = {"far": [0.001, 0.01, 0.1, 1.0], "tar": [0.1, 0.2, 0.5, 1.0], "impostors": 1000}
    return pd.concat(pd.DataFrame(curve).assign(run=run, seed=seed) for run in LOOKS for seed in (0, 1))


@pytest.fixture(scope="module")
def learning() -> pd.DataFrame:
    curve = {"part": 0, "step": range(1, 2001), "loss": [1 / step for step in range(1, 2001)]}
    return pd.concat(pd.DataFrame(curve).assign(run="random", seed=seed) for seed in (0, 1))


@pytest.fixture(scope="module")
def measured() -> pd.DataFrame:
    spread = pd.Series(range(1, 201)) / 200
    return pd.DataFrame(
        {"score": 1 - spread / 5, "face_px": 400 * spread, "residual": spread / 8, "yaw": 160 * spread - 80}
        | {"sharpness": 9000 * spread**3}
    )


@pytest.fixture(scope="module")
def drawn(
    measured: pd.DataFrame, leaderboard: pd.DataFrame, roc: pd.DataFrame, learning: pd.DataFrame
) -> dict[str, str]:
    looks = chart_spec.looks(leaderboard)
    made = [
        curves.leaderboard(leaderboard, "roc_auc", looks),
        curves.cost(leaderboard, "roc_auc", looks),
        curves.roc(roc, LOOKS),
        curves.learning(learning, LOOKS, "pretrain"),
        curves.learning(learning, LOOKS, "finetune"),
        curves.det(roc, LOOKS),
        several(1),
        several(7),
        in_words(),
        *(curves.quality(measured, each) for each in faces.MEASURES),
    ]
    return {each.name: svg(each) for each in made}


def several(panels: int) -> Chart:
    lines = [
        Series(name, [0.0, 0.5], [0.9, 0.7], look, [0.8, 0.6], [1.0, 0.8], marker="circle", band=True)
        for name, look in LOOKS.items()
    ]
    names = [""] if panels == 1 else [f"kind {place}" for place in range(panels)]
    drawn = dict.fromkeys(names, lines)
    return Chart(f"several-{panels}", "", "", "", drawn, Axis("share"), Axis("accuracy"))


def in_words() -> Chart:
    line = Series("random", ["S2", "S3"], [0.9, 0.7], LOOKS["random"], [0.8, 0.6], [1.0, 0.8])
    return Chart("light", "", "", "", {"": [line]}, Axis("light", words=["S2", "S3"]), Axis("rate"))


def leaderboard_svg(table: pd.DataFrame, metric: str) -> str:
    return svg(curves.leaderboard(table, metric, chart_spec.looks(table)))


def words(text: str) -> list[str]:
    return [node.text for node in ET.fromstring(text).iter() if node.text and node.text.strip()]


def heights(text: str, names: list[str]) -> list[str]:
    """Return the names from the top of the figure to its bottom."""
    found = {node.text: float(node.attrib["y"]) for node in ET.fromstring(text).iter() if node.text in names}
    return sorted(found, key=found.__getitem__)


def test_leaderboard_has_the_best_on_top_and_controls_below(leaderboard: pd.DataFrame) -> None:
    names = list(leaderboard["run"].unique())
    best_high = leaderboard_svg(leaderboard, "roc_auc")
    assert heights(best_high, names) == ["block", "random", "scratch", "pca", "pixels"]
    best_low = leaderboard_svg(leaderboard, "eer")
    assert heights(best_low, names) == ["scratch", "random", "block", "pixels", "pca"]
    assert {"0.720", curves.axis_title("roc_auc")} <= set(words(best_high))


def test_a_refused_metric_leaves_the_axes_empty(leaderboard: pd.DataFrame) -> None:
    for make in (curves.leaderboard, curves.cost):
        drawn = svg(make(leaderboard, "tar_at_far=0.001", chart_spec.looks(leaderboard)))
        assert "true accept rate at a FAR of 0.001 (higher is better)" in words(drawn)
        assert "scratch" not in words(drawn)


def test_roc_names_every_curve_and_the_limit_of_what_can_be_told(drawn: dict[str, str]) -> None:
    shown = words(drawn["roc"])
    assert {"random", "pixels", curves.CHANCE, curves.ENOUGH, "0.001", "0.1", "1"} <= set(shown)
    assert curves.FAR in shown
    assert chart_spec.STRATEGY_COLOURS["random"].lower() in drawn["roc"]


def test_too_few_impostors_for_the_limit_draw_none(roc: pd.DataFrame) -> None:
    assert curves.ENOUGH not in words(svg(curves.roc(roc.assign(impostors=20), LOOKS)))


def test_learning_curves_are_thin_per_seed_and_bold_for_the_mean(drawn: dict[str, str]) -> None:
    styles = re.findall(r'style="fill: none; stroke: #0072b2;[^"]*"', drawn["pretrain"])
    thin = [style for style in styles if "stroke-opacity: 0.4" in style]
    assert len(thin) == 2
    assert len(styles) == 4  # the mean, and its line in the legend
    assert words(drawn["pretrain"]).count("random") == 1


def test_long_curves_are_thinned_and_keep_their_ends(drawn: dict[str, str]) -> None:
    paths = re.findall(r'd="([^"]*)" clip-path', drawn["pretrain"])
    assert max(path.count("L") for path in paths) < static_charts.MAX_POINTS
    assert len(drawn["pretrain"]) < 40_000
    kept = static_charts._thinned(2000)
    assert (kept[0], kept[-1], len(static_charts._thinned(3))) == (0, 1999, 3)


def test_figures_are_the_same_every_time(leaderboard: pd.DataFrame, drawn: dict[str, str]) -> None:
    assert leaderboard_svg(leaderboard, "roc_auc") == drawn["leaderboard"]
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "red", "svg.fonttype": "path"}):
        assert leaderboard_svg(leaderboard, "roc_auc") == drawn["leaderboard"]


def test_drawing_leaves_the_settings_alone(leaderboard: pd.DataFrame) -> None:
    before = dict(matplotlib.rcParams)
    leaderboard_svg(leaderboard, "roc_auc")
    assert dict(matplotlib.rcParams) == before


def test_figures_share_no_id_and_miss_none(drawn: dict[str, str]) -> None:
    page = "".join(drawn.values())
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids)) > 0
    for found in drawn.values():
        assert set(re.findall(r"#([mp]\w{10})\b", found)) <= set(re.findall(r'\bid="([^"]+)"', found))


def test_figures_bring_no_style_script_date_or_background(drawn: dict[str, str]) -> None:
    for found in drawn.values():
        assert found.startswith("<svg ")
        for unwanted in ("<style", "<script", "<metadata", "<!DOCTYPE", "#ffffff", "#000000", "font-family"):
            assert unwanted not in found
        assert all("fill: currentColor" in tag for tag in re.findall(r"<text[^>]*>", found))
        assert set(re.findall(r"https?://[^\"]*", found)) <= {
            "http://www.w3.org/2000/svg",
            "http://www.w3.org/1999/xlink",
        }


def test_names_stay_text(leaderboard: pd.DataFrame) -> None:
    hostile = "<script>$x^2$ & co</script>"
    drawn = leaderboard_svg(leaderboard.replace({"run": {"random": hostile}}), "roc_auc")
    assert "<script" not in drawn
    assert hostile in words(drawn)


@pytest.mark.parametrize(
    ("labels", "columns"), [(["a"], 1), (["run"] * 5, 5), (["run"] * 9, 5), (["x" * 40] * 3, 1)]
)
def test_a_legend_has_as_many_columns_as_fit(labels: list[str], columns: int) -> None:
    assert static_charts._columns(labels) == columns


def test_quality_figures_name_the_measure_and_colour_what_is_doubtful(drawn: dict[str, str]) -> None:
    for measure in faces.MEASURES:
        found = drawn[f"quality-{measure.column}"]
        assert {measure.title, curves.FACES} <= set(words(found))
        assert {curves.FACE_COLOUR.lower(), curves.WARNING_COLOUR.lower()} <= set(
            re.findall(r"#\w{6}", found)
        )
        assert found.count(chart_spec.GUIDE_COLOUR.lower() + "; stroke-width: 1.2") == len(measure.limits)
        assert len(found) < 30_000
    assert {"8%", "10%"} <= set(words(drawn["quality-residual"]))
    assert {"10", "100", "1000"} <= set(words(drawn["quality-sharpness"]))


def test_one_face_is_drawn_too(measured: pd.DataFrame) -> None:
    for measure in faces.MEASURES:
        assert curves.FACES in words(svg(curves.quality(measured.head(1), measure)))


def test_curves_name_their_panels_axes_and_runs_once(drawn: dict[str, str]) -> None:
    found = words(drawn["several-7"])
    assert [found.count(f"kind {place}") for place in range(7)] == [1] * 7
    assert found.count("random") == found.count("pixels") == 1
    assert {"share", "accuracy"} <= set(found)
    assert {"S2", "S3", "rate"} <= set(words(drawn["light"]))


def test_curves_have_each_run_in_its_colour_and_line(drawn: dict[str, str]) -> None:
    bands = re.findall(r"fill: (#\w{6}); fill-opacity: 0.13", drawn["several-1"])
    assert bands == [look.colour.lower() for look in LOOKS.values()]
    for run, dashed in (("random", False), ("pixels", True)):
        styles = re.findall(
            rf'style="(fill: none;[^"]*stroke: {LOOKS[run].colour.lower()}[^"]*)"', drawn["several-1"]
        )
        assert styles
        assert all(("stroke-dasharray" in style) == dashed for style in styles)


def test_curves_without_an_interval_have_no_band(drawn: dict[str, str]) -> None:
    assert "fill-opacity: 0.13" not in drawn["det"]
    assert {curves.FAR, curves.ENOUGH} <= set(words(drawn["det"]))


def test_pictures_are_small_on_white_paper_and_the_same_every_time(leaderboard: pd.DataFrame) -> None:
    def draw() -> bytes:
        return static_charts.png(curves.leaderboard(leaderboard, "roc_auc", chart_spec.looks(leaderboard)))

    picture = Image.open(io.BytesIO(draw()))
    assert picture.format == "PNG"
    assert picture.width > 600
    assert len(draw()) < 40_000
    pixels = np.asarray(picture.convert("RGB"))
    assert (pixels[0] == 255).all()
    assert (1, 2, 3) not in set(map(tuple, pixels.reshape(-1, 3).tolist()))
    assert draw() == draw()
