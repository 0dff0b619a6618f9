"""The results page: every number, ROC curves and learning curves."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from facemae import charts, reading
from facemae.app import shell

STAGES = {"pretrain": "Pretraining", "finetune": "Fine-tuning"}


def render() -> None:
    """Show the page."""
    st.title("Results")
    with shell.explained():
        leaderboard = shell.load(reading.leaderboard)
        _numbers(leaderboard)
        _roc(leaderboard)
        _learning(leaderboard)


def _numbers(leaderboard: pd.DataFrame) -> None:
    names = leaderboard["metric"].unique().tolist()
    metric = st.selectbox("Metric", names, format_func=charts.metric_label, key="metric", bind="query-params")
    table = leaderboard[leaderboard["metric"] == metric]
    if table["value"].isna().all():
        st.info("This metric is refused: the evaluation is too small for it.", icon=":material/block:")
        st.text(str(table["note"].iloc[0]))
    st.dataframe(
        table.assign(strategy=table["strategy"].where(table["kind"] == "run", "control")),
        hide_index=True,
        column_config=_columns(),
        column_order=[name for name in _columns() if name in table],
        alt=f"Table: {charts.metric_label(metric)} of every run and control.",
    )
    st.caption("Mean over seeds, with the interval for new people and new training; controls train nothing.")
    with st.expander("Every seed"):
        each = shell.load(reading.summary)
        columns = ["run", "seed", "value", "ci_low", "ci_high", "n", "note"]
        st.dataframe(each.loc[each["metric"] == metric, columns], hide_index=True, column_config=_columns())
        st.caption("One seed's interval is for new people only and knows nothing of the luck of training.")
    st.download_button(
        "Download all as CSV", _csv(), "facemae-summary.csv", "text/csv", icon=":material/download:"
    )


def _csv() -> str:
    text: str = shell.load(reading.summary).to_csv(index=False)
    return text


def _columns() -> dict[str, Any]:
    return {
        "run": "Run",
        "seed": "Seed",
        "value": shell.number("Value", "%.3f"),
        "ci_low": shell.number("Interval from", "%.3f"),
        "ci_high": shell.number("to", "%.3f"),
        "n": "Behind it",
        "strategy": "Mask",
        "seeds": "Seeds",
        "people": "People",
        "seconds_pretrain": shell.number("Pretraining s", "%.0f"),
        "seconds_finetune": shell.number("Fine-tuning s", "%.0f"),
        "device": "Device",
        "note": "Note",
    }


def _roc(leaderboard: pd.DataFrame) -> None:
    st.subheader("ROC curves")
    every_seed = st.toggle("Every seed instead of the mean", key="every_seed", bind="query-params")
    controls = leaderboard.loc[leaderboard["kind"] == "baseline", "run"].unique().tolist()
    curves = shell.load(reading.roc_curves)
    shell.chart("roc", charts.roc_chart(curves, charts.palette(leaderboard), controls, every_seed=every_seed))


def _learning(leaderboard: pd.DataFrame) -> None:
    for stage, title in STAGES.items():
        curves = shell.load(reading.learning_curves, stage)
        if len(curves):
            st.subheader(title)
            shell.chart(stage, charts.learning_chart(curves, charts.palette(leaderboard)))
