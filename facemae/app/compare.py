"""The comparison page: what each masking strategy bought, cost, hid and completed."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from facemae import charts, config, curves, reading
from facemae.app import shell
from facemae.data.images import encode_png
from facemae.reading import Reconstructions
from facemae.wording import METRIC_NAMES, metric_label, scalars

SHOWN = 3  # faces of a strip, so that two strips fit side by side


def render() -> None:
    """Show the page."""
    st.title("Compare masking strategies")
    with shell.explained():
        setup = shell.load(reading.experiment)
        leaderboard, verdicts = shell.load(reading.leaderboard), shell.load(reading.verdicts)
        shell.claims(shell.load(reading.verdict).claims)
        metric = _metric(setup, leaderboard)
        shell.chart("leaderboard", charts.leaderboard_chart(leaderboard, metric))
        if (verdicts["metric"] == metric).any():
            _verdicts(setup, verdicts, metric)
        st.subheader("What the extra seconds bought")
        shell.chart("cost", charts.cost_chart(leaderboard, metric))
        _curves(leaderboard)
        _pictures(setup)


def _curves(leaderboard: pd.DataFrame) -> None:
    """Show what was measured under ever more of something, each chart with its numbers."""
    colours, dashes = charts.palette(leaderboard), charts.dashes(leaderboard)
    for each in curves.curves_of(leaderboard):
        st.subheader(each.title)
        st.caption(each.read)
        figure = curves.chart(each, colours, dashes)
        st.plotly_chart(figure, key=each.name, config={"displayModeBar": False}, alt=each.alt)
        with st.expander("The same in numbers"):
            for title, panel in each.panels.items():
                if title:
                    st.text(title)
                table = curves.table_of(panel, each.x)
                st.dataframe(table, hide_index=True, alt=f"Table: {each.title} {title}".strip())


def _metric(setup: config.Experiment, leaderboard: pd.DataFrame) -> str:
    table = scalars(leaderboard)
    found = set(table.loc[table["value"].notna(), "metric"])
    names = [name for name in METRIC_NAMES if name in found]
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
        st.caption(f"The headline verdict is by {metric_label(primary)}; this is another view of it.")
    return metric


def _verdicts(setup: config.Experiment, verdicts: pd.DataFrame, metric: str) -> None:
    st.subheader("Verdicts")
    runs = reading.run_names(setup)
    shell.chart("verdicts", charts.verdict_matrix(verdicts, metric, runs, setup.baselines))
    table = verdicts[verdicts["metric"] == metric].drop(columns=["metric", "p_value"])
    with st.expander("The same in numbers", expanded=True):
        st.dataframe(
            table,
            hide_index=True,
            column_config=_columns(),
            column_order=list(_columns()),
            alt="Table of verdicts with difference, interval, adjusted p value and detectable difference.",
        )
        st.caption(
            "The p value is adjusted for the number of comparisons; a true difference as large as the "
            "detectable one would be called in four of five such evaluations."
        )


def _columns() -> dict[str, Any]:
    return {
        "run_a": "Run",
        "run_b": "Against",
        "verdict": "Verdict",
        "difference": shell.number("Difference", "%+.3f"),
        "ci_low": shell.number("Interval from", "%+.3f"),
        "ci_high": shell.number("to", "%+.3f"),
        "p_adjusted": shell.number("Adjusted p", "%.2g"),
        "detectable": shell.number("Detectable", "%.3f"),
        "seconds_difference": shell.number("Extra seconds", "%+.0f"),
        "budget_note": "Budget",
    }


def _pictures(setup: config.Experiment) -> None:
    shown = {name: _shown(name, setup.seeds[0]) for name in reading.masked(setup)}
    if not shown:
        return
    st.subheader("What each strategy hides")
    st.caption(charts.HOW_TO_READ["masks"])
    face = next(iter(shown.values())).face[0]
    _grid(setup, {name: charts.mask_grid(face, each.hidden, SHOWN) for name, each in shown.items()}, "masks")
    st.dataframe(
        charts.mask_table(shell.load(reading.masks)),
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


def _shown(run: str, seed: int) -> Reconstructions:
    return shell.load(reading.reconstructions, run, seed)


def _grid(setup: config.Experiment, pictures: dict[str, charts.Pixels], kind: str) -> None:
    columns = st.columns(2)
    for place, (name, picture) in enumerate(pictures.items()):
        run = setup.run(name)
        with columns[place % 2]:
            st.text(f"{name} ({run.strategy} mask, {run.mask_ratio:.0%} hidden)")
            st.image(encode_png(picture), width="stretch", alt=f"{name}: {charts.ALT[kind]}")
