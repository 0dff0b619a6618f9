"""The comparison page: what each masking strategy bought, cost, hid and completed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae import config
from facemae.app import frame
from facemae.app.parts import animation, download
from facemae.data.images import encode_png
from facemae.report import charts, curves, tables
from facemae.report.phrases import METRIC_NAMES, metric_label, primary_first, scalars

SHOWN = 3  # faces of a strip, so that two strips fit side by side
FACE_WIDTH, MAP_WIDTH = 150, 222  # pixels, of which two fit side by side on a telephone, or one
NOTHING, STILL, MOVING = "nothing", "still", "moving"  # stillness is the default: not everybody bears motion
ALT_STILL = "One face under a mask."


def render() -> None:
    """Show the page."""
    st.title("Compare masking strategies")
    with frame.explained():
        setup = frame.load(tables.experiment)
        every, verdicts = frame.load(tables.leaderboard), frame.load(tables.verdicts)
        frame.claims(frame.load(tables.verdict).claims)
        chosen = _runs(every)
        leaderboard = every[every["run"].isin(chosen)]
        metric = _metric(setup, leaderboard)
        if metric is None:
            st.info("None of these runs was measured; choose others.", icon=":material/info:")
            return
        form, colours = download.choice("save"), charts.palette(tables.roster(setup))
        _leaderboard(leaderboard, metric, colours, form)
        _verdicts(setup, verdicts, metric, chosen, form)
        st.subheader("What the extra seconds bought")
        download.chart("cost", charts.cost_chart(leaderboard, metric, colours), form)
        _curves(setup, leaderboard, form)
        _animated(setup)
        masked = [name for name in tables.masked(setup) if name in chosen]
        if masked:
            _pictures(setup, masked)
            _errors(setup, masked, form)


def _runs(leaderboard: pd.DataFrame) -> list[str]:
    names = list(dict.fromkeys(leaderboard["run"]))
    chosen: list[str] = st.multiselect(
        "Runs and controls", names, default=names, key="runs", bind="query-params",
        help="Everything on this page follows, but for the claims above, which are judged on all.",
    )  # fmt: skip
    return [name for name in names if name in chosen]


def _leaderboard(leaderboard: pd.DataFrame, metric: str, colours: dict[str, str], form: str) -> None:
    download.chart("leaderboard", charts.leaderboard_chart(leaderboard, metric, colours), form)
    with st.expander("The ranking in numbers"):
        ranking = charts.ranked(leaderboard, metric).iloc[::-1]
        st.dataframe(
            ranking.assign(strategy=ranking["strategy"].where(ranking["kind"] == "run", "control")),
            hide_index=True,
            column_config=_ranking_columns(),
            column_order=list(_ranking_columns()),
            alt=f"Table: {metric_label(metric)} with its interval, runs first, the best on top.",
        )


def _curves(setup: config.Experiment, leaderboard: pd.DataFrame, form: str) -> None:
    """Show what was measured under ever more of something: small charts in pairs, then the wide ones."""
    roster = tables.roster(setup)
    colours, dashes = charts.palette(roster), charts.dashes(roster)
    found = curves.curves_of(leaderboard)
    small = [each for each in found if len(each.panels) == 1]
    for start in range(0, len(small), 2):
        pair = small[start : start + 2]
        for column, each in zip(st.columns(len(pair)), pair, strict=True):
            with column:
                _curve(each, colours, dashes, form)
    for each in found:
        if each not in small:
            _curve(each, colours, dashes, form)


def _curve(each: curves.Curves, colours: dict[str, str], dashes: dict[str, str], form: str) -> None:
    st.subheader(each.title)
    st.caption(each.read)
    figure = curves.chart(each, colours, dashes)
    download.draw(figure, form, key=each.name, alt=each.alt, read=each.read)
    with st.expander("The same in numbers"):
        for title, panel in each.panels.items():
            if title:
                st.text(title)
            table = curves.table_of(panel, each.x)
            st.dataframe(table, hide_index=True, alt=f"Table: {each.title} {title}".strip())


def _metric(setup: config.Experiment, leaderboard: pd.DataFrame) -> str | None:
    """Let the reader choose one of the metrics that the runs have a value of; None where there is none."""
    table = scalars(leaderboard)
    found = set(table.loc[table["value"].notna(), "metric"])
    names = [name for name in METRIC_NAMES if name in found]
    if not names:
        return None
    primary = setup.evaluate.primary
    metric: str = st.selectbox(
        "Metric",
        names,
        index=names.index(primary) if primary in names else 0,
        format_func=metric_label,
        key="metric",
        bind="query-params",
    )
    if metric != primary:
        st.caption(f"The headline verdict is by {metric_label(primary)}; this is exploratory.")
    return metric


def _verdicts(
    setup: config.Experiment, verdicts: pd.DataFrame, metric: str, chosen: list[str], form: str
) -> None:
    table = verdicts[verdicts["run_a"].isin(chosen) & verdicts["run_b"].isin(chosen)]
    table = table[table["metric"] == metric]
    if table.empty:
        return
    st.subheader("Verdicts")
    runs = [name for name in tables.run_names(setup) if name in chosen]
    controls = [name for name in setup.baselines if name in chosen]
    download.chart("verdicts", charts.verdict_matrix(table, metric, runs, controls), form)
    table = primary_first(table).drop(columns=["metric", "p_value"])
    with st.expander("The same in numbers", expanded=True):
        st.dataframe(
            table,
            hide_index=True,
            column_config=_columns(),
            column_order=list(_columns()),
            alt="Table of verdicts with their family, difference, interval and adjusted p value.",
        )
        st.caption(
            "The p value is adjusted for the number of comparisons of its family. The primary family was "
            "fixed before the run and decides; the other comparisons are exploratory."
        )


def _columns() -> dict[str, Any]:
    return {
        "run_a": "Run",
        "run_b": "Against",
        "verdict": "Verdict",
        "note": "Why",
        "family": "Family",
        "difference": frame.number("Difference", "%+.3f"),
        "ci_low": frame.number("Interval from", "%+.3f"),
        "ci_high": frame.number("to", "%+.3f"),
        "p_adjusted": frame.number("Adjusted p", "%.3f"),
        "seconds_difference": frame.number("Extra seconds", "%+.0f"),
        "budget_note": "Budget",
    }


def _ranking_columns() -> dict[str, Any]:
    return {
        "run": "Run",
        "strategy": "Mask",
        "value": frame.number("Value", "%.3f"),
        "ci_low": frame.number("Interval from", "%.3f"),
        "ci_high": frame.number("to", "%.3f"),
        "seeds": "Seeds",
        "people": "People",
    }


@st.fragment
@frame.explained()
def _animated(setup: config.Experiment) -> None:
    """Show one face under the masks of several strategies, still or moving, once the reader asks for it."""
    st.subheader("The masks, drawn anew")
    st.caption(charts.HOW_TO_READ["animated"])
    own = [run.strategy for name in tables.masked(setup) for run in [setup.run(name)]]
    parameters = _parameters(setup)
    known = [name for name in animation.STRATEGIES if name in parameters]
    usual = [name for name in dict.fromkeys(own) if name in known] or known[:4]
    chosen = st.multiselect("Masks", known, default=usual, key="masks", bind="query-params")
    left, right = st.columns(2)
    names = frame.load(tables.faces)["sample_id"].to_list()
    face = left.selectbox("Face", names, key="face", bind="query-params")
    share = round(100 * (setup.defaults.pretrain.mask_ratio if setup.defaults.pretrain else 0.75) / 5) * 5
    percent = right.slider("Hidden (%)", 5, 95, share, step=5, key="hidden", bind="query-params")
    drawn = st.segmented_control(
        "Show", [NOTHING, STILL, MOVING], default=NOTHING, required=True, key="play", bind="query-params"
    )
    if drawn == NOTHING or not chosen:
        st.text("Choose masks, and still or moving to draw them.")
        return
    picture = frame.load(tables.face, face)
    patches = setup.data.image_size // setup.defaults.model.patch_size
    with st.container(horizontal=True, gap="small"):
        for name in chosen:
            pair = animation.pictures(picture, name, percent / 100, parameters[name], patches)
            with st.container(width=FACE_WIDTH, gap=None):
                st.text(name)
                # As PNG and not scaled by the server, which would make a still of it.
                st.image(
                    pair[drawn == MOVING],
                    width="stretch",
                    output_format="PNG",
                    alt=f"{name} mask: {charts.ALT['animated'] if drawn == MOVING else ALT_STILL}",
                )


def _parameters(setup: config.Experiment) -> dict[str, dict[str, Any]]:
    """Return the parameters of each strategy that is configured, a run's own before the defaults'."""
    found: dict[str, dict[str, Any]] = {}
    own = [setup.run(name).masked for name in tables.masked(setup)]
    for settings in filter(None, (setup.defaults.pretrain, *reversed(own))):
        for name in config.STRATEGIES:
            if getattr(settings.masks, name) is not None:
                found[name] = settings.masks.parameters(name)
    return found


def _pictures(setup: config.Experiment, masked: list[str]) -> None:
    shown = {name: frame.load(tables.reconstructions, name, setup.seeds[0]) for name in masked}
    st.subheader("What each strategy hides")
    st.caption(charts.HOW_TO_READ["masks"])
    face = next(iter(shown.values())).face[0]
    _grid(setup, {name: charts.mask_grid(face, each.hidden, SHOWN) for name, each in shown.items()}, "masks")
    measured = frame.load(tables.masks)
    st.dataframe(
        charts.mask_table(measured[measured["run"].isin(masked)]),
        hide_index=True,
        alt=charts.ALT["measures"],
    )
    st.caption(charts.HOW_TO_READ["measures"])
    st.subheader("What each strategy completes")
    st.caption(charts.HOW_TO_READ["reconstructions"])
    strips = {
        name: charts.reconstruction_strip(each.face[:SHOWN], each.hidden[:SHOWN], each.reconstruction[:SHOWN])
        for name, each in shown.items()
    }
    _grid(setup, strips, "reconstructions")


def _grid(setup: config.Experiment, pictures: dict[str, charts.Pixels], kind: str) -> None:
    for place, (name, picture) in enumerate(pictures.items()):
        if place % 2 == 0:  # rows of two, so that a telephone shows them in order
            columns = st.columns(2)
        run = setup.run(name)
        with columns[place % 2]:
            st.text(f"{name} ({run.strategy} mask, {run.mask_ratio:.0%} hidden)")
            st.image(encode_png(picture), width="stretch", alt=f"{name}: {charts.ALT[kind]}")


@st.fragment
@frame.explained()
def _errors(setup: config.Experiment, masked: list[str], form: str) -> None:
    """Show where on the face each run completes badly, as heat maps and by face region."""
    st.subheader("Where each strategy errs")
    st.caption(charts.HOW_TO_READ["errors"])
    found = {name: frame.load(tables.patch_errors, name) for name in masked}
    with st.container(horizontal=True, gap="small"):
        for name, each in found.items():
            with st.container(width=MAP_WIDTH, gap=None):
                st.text(name)
                download.draw(
                    charts.error_map(each), form, key=f"errors_{name}",
                    alt=f"{name}: {charts.ALT['errors']}", read=charts.HOW_TO_READ["errors"],
                )  # fmt: skip
    first = next(iter(found.values()))
    st.caption(
        f"This rests on {first.faces} faces of people not trained on, completed by {first.seeds} trainings "
        "under each run's own masks. It shows where on a face a run errs; it does not rank the runs, since "
        "each hides other places (the error under one mask for all is in the table above), and where the "
        "target is normalised, brightness and contrast are borrowed from the original and count as right. "
        "It says nothing of recognition."
    )
    if st.toggle("By face region", key="regions", bind="query-params"):
        _by_region(setup, found)


def _by_region(setup: config.Experiment, found: dict[str, tables.PatchErrors]) -> None:
    if setup.data.align == "crop":
        st.info("These faces were taken as they are, so nobody knows where their regions lie.")
        return
    rows = []
    for name, errors in found.items():
        labels, names = _regions(len(errors.missed))
        shares = tables.region_errors(errors, labels, names)
        rows.append({"Run": name} | {title.capitalize(): 100 * share for title, share in shares.items()})
    table = pd.DataFrame(rows)
    st.dataframe(
        table,
        hide_index=True,
        column_config={name: frame.number(name, "%.0f%%") for name in table.columns if name != "Run"},
        alt="Table: the share of the variation that each run misses, by face region.",
    )
    st.caption("The mean over a region's patches; a region that no patch lies in mostly is empty.")


@st.cache_data(show_spinner="Finding the face regions…")
def _regions(side: int) -> tuple[NDArray[np.int64], list[str]]:
    # Imported here, since PyTorch takes seconds and the page opens without it.
    from facemae.masking.regions import REGIONS, region_map

    return region_map(side).numpy(), list(REGIONS)
