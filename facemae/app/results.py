"""The results page: every number, ROC, DET and learning curves."""

from __future__ import annotations

from typing import Any

import pandas as pd
import streamlit as st

from facemae import charts, curves, reading
from facemae.app import shell
from facemae.wording import metric_label

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
    metric = st.selectbox("Metric", names, format_func=metric_label, key="metric", bind="query-params")
    table = leaderboard[leaderboard["metric"] == metric]
    condition = _condition(table)
    table = table[table["condition"] == condition]
    if table["value"].isna().all():
        st.info("This metric is refused: the evaluation is too small for it.", icon=":material/block:")
        st.text(str(table["note"].iloc[0]))
    st.dataframe(
        table.assign(strategy=table["strategy"].where(table["kind"] == "run", "control")),
        hide_index=True,
        column_config=_columns(),
        column_order=[name for name in _columns() if name in table and table[name].notna().any()],
        alt=f"Table: {metric_label(metric)} of every run and control.",
    )
    st.caption("Mean over seeds, with the interval for new people and new training; controls train nothing.")
    with st.expander("Every seed"):
        each = shell.load(reading.summary)
        columns = ["run", "seed", "amount", "value", "ci_low", "ci_high", "n", "note"]
        each = each.loc[(each["metric"] == metric) & (each["condition"] == condition), columns]
        st.dataframe(each.dropna(axis=1, how="all"), hide_index=True, column_config=_columns())
        st.caption("One seed's interval is for new people only and knows nothing of the luck of training.")
    st.download_button(
        "Download all as CSV", _csv(), "facemae-summary.csv", "text/csv", icon=":material/download:"
    )


def _condition(table: pd.DataFrame) -> str:
    """Return the condition to show a metric under: the one there is, or the one chosen."""
    found = sorted(table["condition"].unique())
    if len(found) == 1:
        return str(found[0])
    chosen: str = st.selectbox(
        "Measured on", found, format_func=lambda name: name or "faces as they are", key="condition"
    )
    return chosen


def _csv() -> str:
    text: str = shell.load(reading.summary).to_csv(index=False)
    return text


def _columns() -> dict[str, Any]:
    return {
        "run": "Run",
        "seed": "Seed",
        "amount": shell.number("Amount", "%.3g"),
        "value": shell.number("Value", "%.3f"),
        "ci_low": shell.number("Interval from", "%.3f"),
        "ci_high": shell.number("to", "%.3f"),
        "n": "Behind it",
        "strategy": "Mask",
        "seeds": "Seeds",
        "people": "People",
        "seconds_pretrain": shell.number("Pretraining s", "%.0f"),
        "seconds_finetune": shell.number("Fine-tuning s", "%.0f"),
        "images_pretrain": shell.number("Images pretraining", "%.0f"),
        "images_finetune": shell.number("Images fine-tuning", "%.0f"),
        "joules": shell.number("Joules", "%.0f"),
        "device": "Device",
        "note": "Note",
    }


def _roc(leaderboard: pd.DataFrame) -> None:
    st.subheader("ROC curves")
    every_seed = st.toggle("Every seed instead of the mean", key="every_seed", bind="query-params")
    roc = shell.load(reading.roc_curves)
    colours, dashes = charts.palette(leaderboard), charts.dashes(leaderboard)
    shell.chart("roc", charts.roc_chart(roc, colours, dashes, every_seed=every_seed))
    st.subheader("DET curves")
    shell.chart("det", curves.chart(curves.det(roc), colours, dashes))


def _learning(leaderboard: pd.DataFrame) -> None:
    for stage, title in STAGES.items():
        losses = shell.load(reading.learning_curves, stage)
        if len(losses):
            st.subheader(title)
            shell.chart(stage, charts.learning_chart(losses, charts.palette(leaderboard)))
