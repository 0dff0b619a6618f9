"""The results page: what is being trained, every number, ROC, DET and learning curves, settings compared."""

from __future__ import annotations

import io
from typing import Any

import pandas as pd
import streamlit as st

from facemae import config
from facemae.app import frame
from facemae.app.parts import download, live_training
from facemae.app.views import alignment
from facemae.core import records
from facemae.core.layout import Results
from facemae.report import chart_spec, curves, tables
from facemae.report.latex import latex
from facemae.report.phrases import HOW_TO_READ, ORIGIN, metric_label

KINDS = {"all": "", "runs": "run", "controls": "baseline"}
ANY_MASK = "any mask"
WHOLE = 20  # rows of a table that is shown whole
MAIN = ("roc_auc", "eer", "accuracy", "rank1")  # metrics of the table for a paper


def render() -> None:
    """Show the page."""
    st.title("Results")
    with frame.explained():
        setup = frame.load(tables.experiment)
        if note := frame.load(tables.earlier_settings):
            frame.words(note, tag="small")
        live_training.show(setup)
        looks = chart_spec.looks(tables.roster(setup))
        if not Results(frame.results_root()).leaderboard.is_file():
            _learning(looks)
        leaderboard = frame.load(tables.leaderboard)
        frame.tabs(
            {
                "Numbers": lambda: _numbers(leaderboard),
                "ROC and DET": lambda: _roc(leaderboard, looks),
                "Training": lambda: _learning(looks),
                "Settings": lambda: _settings(setup),
                "Photos": _photos,
            }
        )


@st.fragment
@frame.explained()
def _numbers(leaderboard: pd.DataFrame) -> None:
    names = leaderboard["metric"].unique().tolist()
    metric = st.selectbox("Metric", names, format_func=metric_label, key="metric", bind="query-params")
    table = leaderboard[leaderboard["metric"] == metric]
    condition = _condition(table)
    table = table[table["condition"] == condition]
    if table["value"].isna().all():
        st.info("This metric is refused: the evaluation is too small for it.", icon=":material/block:")
        st.text(str(table["note"].iloc[0]))
    table = tables.told(frame.load(tables.experiment), table)
    found = _filtered(table)
    if found.empty:
        st.info("No run fits these filters; clear the text or choose any mask.", icon=":material/search_off:")
        return
    st.dataframe(
        found,
        hide_index=True,
        column_config=_columns(),
        column_order=[name for name in _columns() if name in found and found[name].notna().any()],
        height="content" if len(found) <= WHOLE else "auto",
        alt=f"Table: {metric_label(metric)} of every run and control.",
    )
    st.caption(
        "Mean over seeds, with the interval for new people and new networks; controls train none. A click "
        "on a column's head sorts by it."
    )
    with st.expander("Every seed"):
        each = frame.load(tables.summary)
        columns = ["run", "seed", "amount", "value", "ci_low", "ci_high", "n", "note"]
        each = each[(each["metric"] == metric) & (each["condition"] == condition)]
        each = each.loc[each["run"].isin(found["run"]), columns]
        st.dataframe(each.dropna(axis=1, how="all"), hide_index=True, column_config=_columns())
        st.caption("One seed's interval is for new people only and says nothing of how much training varies.")
    _downloads(found)


def _filtered(table: pd.DataFrame) -> pd.DataFrame:
    """Let the reader choose runs by a part of their name, their mask and their kind."""
    left, middle, right = st.columns(3)
    text = left.text_input("Name contains", key="text", bind="query-params", max_chars=40).strip().lower()
    masks = [ANY_MASK, *dict.fromkeys(table["strategy"])]
    mask = middle.selectbox("Mask", masks, key="mask", bind="query-params")
    kind = right.segmented_control(
        "Kind", list(KINDS), default="all", required=True, key="kind", bind="query-params"
    )
    fits = table["run"].str.lower().str.contains(text, regex=False)
    if mask != ANY_MASK:
        fits &= table["strategy"] == mask
    if KINDS[kind or "all"]:
        fits &= table["kind"] == KINDS[kind]
    return table[fits]


def _downloads(shown: pd.DataFrame) -> None:
    """Offer the table above and every seed of every metric, and the leaderboard for a paper."""
    with st.container(horizontal=True):
        for title, table, name in (
            ("This table", shown, "facemae-table"),
            ("All numbers", frame.load(tables.summary), "facemae-summary"),
        ):
            for form, make, kind in (
                ("CSV", records.csv_text, "text/csv"),
                ("Parquet", _parquet, "application/octet-stream"),
            ):
                st.download_button(
                    f"{title} as {form}",
                    make(table),
                    f"{name}.{form.lower()}",
                    kind,
                    key=f"{name}_{form}",
                    on_click="ignore",
                    icon=":material/download:",
                )
        leaderboard = frame.load(tables.leaderboard)
        main = [name for name in MAIN if name in set(leaderboard["metric"])]
        st.download_button(
            "Leaderboard as LaTeX", lambda: latex(leaderboard, main), "facemae-leaderboard.tex", "text/x-tex",
            key="facemae_latex", on_click="ignore", icon=":material/download:",
            help="Mean and interval by the usual metrics, the best run in bold.",
        )  # fmt: skip


def _parquet(table: pd.DataFrame) -> bytes:
    buffer = io.BytesIO()
    table.to_parquet(buffer, index=False)
    return buffer.getvalue()


def _condition(table: pd.DataFrame) -> str:
    """Return the condition to show a metric under: the one there is, or the one chosen."""
    found = sorted(table["condition"].unique())
    if len(found) == 1:
        return str(found[0])
    chosen: str = st.selectbox(
        "Measured on", found, format_func=lambda name: name or "faces as they are", key="condition"
    )
    return chosen


def _columns() -> dict[str, Any]:
    return {
        "run": "Run",
        "seed": "Seed",
        "amount": frame.number("Amount", "%.3g"),
        "value": frame.number("Value", "%.3f"),
        "ci_low": frame.number("Interval from", "%.3f"),
        "ci_high": frame.number("to", "%.3f"),
        "n": "Behind it",
        "strategy": "Mask",
        "origin": ORIGIN,
        "seeds": "Seeds",
        "people": "People",
        "seconds_pretrain": frame.number("Pretraining s", "%.0f"),
        "seconds_finetune": frame.number("Fine-tuning s", "%.0f"),
        "images_pretrain": frame.number("Images pretraining", "localized"),
        "images_finetune": frame.number("Images fine-tuning", "localized"),
        "joules": frame.number("Joules", "%.0f"),
        "device": "Device",
        "note": "Note",
    }


@st.fragment
@frame.explained()
def _roc(leaderboard: pd.DataFrame, looks: chart_spec.Looks) -> None:
    form = download.choice("save")
    every_seed = st.toggle("Every seed instead of the mean", key="every_seed", bind="query-params")
    roc, bars = frame.load(tables.roc_curves), curves.rate_intervals(leaderboard)
    if not every_seed:
        st.caption(HOW_TO_READ["bars"])
    drawn = [curves.roc(roc, looks, every_seed=every_seed, bars=bars), curves.det(roc, looks, bars=bars)]
    _side_by_side(drawn, form)


def _learning(looks: chart_spec.Looks) -> None:
    losses = {stage: frame.load(tables.learning_curves, stage) for stage in curves.TRAININGS}
    form = download.choice("save_training")
    _side_by_side(
        [curves.learning(found, looks, stage) for stage, found in losses.items() if len(found)], form
    )


def _side_by_side(drawn: list[chart_spec.Chart], form: str) -> None:
    for column, each in zip(st.columns(len(drawn) or 1, gap="medium"), drawn, strict=False):
        with column:
            st.subheader(each.title)
            download.chart(each, form)


@st.fragment
@frame.explained()
def _settings(setup: config.Experiment) -> None:
    """Show the settings in which two runs differ, side by side."""
    st.text("Settings of two runs, compared")
    names = tables.run_names(setup)
    if len(names) < 2:
        st.text("There is one run only; a second one in config.yaml can be compared with it.")
        return
    left, right = st.columns(2)
    first = left.selectbox("Run", names, key="first", bind="query-params")
    second = right.selectbox("Against", names, index=1, key="second", bind="query-params")
    found = tables.differences(setup, first, second)
    if found.empty:
        st.text("Their settings are the same." if first != second else "Choose two runs.")
        return
    st.text(f"{len(found)} settings differ; everything else is the same in both.")
    st.dataframe(
        found,
        hide_index=True,
        column_config={"setting": "Setting", "first": first, "second": second},
        alt=f"Table of the settings in which {first} and {second} differ.",
    )


def _photos() -> None:
    st.text("What became of every photo, which faces are doubtful, and each of them close up:")
    # Known by its address alone, so that this page need not be handed the app's list of pages.
    page = st.Page(alignment.render, title="Alignment", icon=":material/face:", url_path="alignment")
    st.page_link(page, label="Alignment: look through the faces")
