"""The results page: what is being trained, every number, ROC, DET and learning curves, settings compared."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from facemae import config
from facemae.app import elements, frame
from facemae.app.parts import live_training
from facemae.app.views import alignment
from facemae.core import records
from facemae.evaluation.records import metric_label
from facemae.report import chart_spec, curves, tables
from facemae.report.latex import latex
from facemae.report.phrases import HOW_TO_READ

KINDS = {"all": "", "runs": "run", "controls": "baseline"}
ANY_MASK = "any mask"
WHOLE = 20  # rows of a table that is shown whole
OF_A_SEED = ("run", "seed", "amount", "value", "ci_low", "ci_high", "n", "note")
MAIN = ("roc_auc", "eer", "accuracy", "rank1")  # metrics of the table for a paper


def render() -> None:
    """Show the page."""
    st.title("Results")
    with frame.explained():
        setup = frame.load(tables.experiment)
        if note := frame.load(tables.earlier_settings):
            elements.words(note, tag="small")
        live_training.show(setup)
        looks = chart_spec.looks(tables.roster(setup))
        if not frame.results().leaderboard.is_file():
            _learning(looks)
        leaderboard = frame.load(tables.leaderboard)
        frame.tabs(
            {
                "Numbers": lambda: _numbers(leaderboard, setup.evaluate.primary),
                "ROC and DET": lambda: _roc(leaderboard, looks),
                "Training": lambda: _learning(looks),
                "Settings": lambda: _settings(setup),
                "Photos": _photos,
            }
        )


@frame.part
def _numbers(leaderboard: pd.DataFrame, primary: str) -> None:
    names = leaderboard["metric"].unique().tolist()
    first = names.index(primary) if primary in names else 0
    metric = elements.choose("Metric", names, "metric", first, format_func=metric_label)
    table = leaderboard[leaderboard["metric"] == metric]
    conditions = sorted(table["condition"].unique())
    condition = conditions[0]
    if len(conditions) > 1:
        condition = st.selectbox(
            "Measured on", conditions, format_func=lambda name: name or "faces as they are", key="condition"
        )
    # Faces as they are stand in every protocol that changes them.
    table = table[table["condition"] == condition].drop_duplicates(["run", "amount"])
    if table["value"].isna().all():
        st.info("This metric is refused: the evaluation is too small for it.", icon=":material/block:")
        st.text(str(table["note"].iloc[0]))
    found = _filtered(tables.told(frame.load(tables.experiment), table))
    if found.empty:
        st.info("No run fits these filters; clear the text or choose any mask.", icon=":material/search_off:")
        return
    height = "content" if len(found) <= WHOLE else "auto"
    alt = f"Table: {metric_label(metric)} of every run and control."
    elements.results_table(found, alt, height=height)
    st.caption(
        "Mean over seeds, with the interval for new people and new networks; controls train none. A click "
        "on a column's head sorts by it."
    )
    with st.expander("Every seed"):
        each = frame.load(tables.summary)
        each = each[(each["metric"] == metric) & (each["condition"] == condition)]
        each = each[each["run"].isin(found["run"])].drop_duplicates(["run", "seed", "amount"])
        elements.results_table(each, f"Table: {metric_label(metric)} of every seed.", OF_A_SEED)
        st.caption("One seed's interval is for new people only and says nothing of how much training varies.")
    _downloads(found)


def _filtered(table: pd.DataFrame) -> pd.DataFrame:
    """Let the reader choose runs by a part of their name, their mask and their kind."""
    left, middle, right = st.columns(3)
    text = left.text_input("Name contains", key="text", bind="query-params", max_chars=40).strip().lower()
    masks = [ANY_MASK, *dict.fromkeys(table["strategy"])]
    mask = elements.choose("Mask", masks, "mask", place=middle)
    kind = KINDS[elements.switch("Kind", list(KINDS), "kind", place=right, bind="query-params")]
    fits = table["run"].str.lower().str.contains(text, regex=False)
    if mask != ANY_MASK:
        fits &= table["strategy"] == mask
    if kind:
        fits &= table["kind"] == kind
    return table[fits]


def _downloads(shown: pd.DataFrame) -> None:
    """Offer the table above and every seed of every metric, and the leaderboard for a paper."""
    leaderboard, summary = frame.load(tables.leaderboard), frame.load(tables.summary)
    main = [name for name in MAIN if name in set(leaderboard["metric"])]
    with st.container(horizontal=True):
        for title, table, name in (("This table", shown, "table"), ("All numbers", summary, "summary")):
            csv, parquet = records.csv_text(table), table.to_parquet(index=False)
            elements.download(f"{title} as CSV", csv, f"facemae-{name}.csv", "text/csv")
            kind = "application/octet-stream"
            elements.download(f"{title} as Parquet", parquet, f"facemae-{name}.parquet", kind)
        elements.download(
            "Leaderboard as LaTeX", lambda: latex(leaderboard, main), "facemae-leaderboard.tex", "text/x-tex",
            help="Mean and interval by the usual metrics, the best run in bold.",
        )  # fmt: skip


@frame.part
def _roc(leaderboard: pd.DataFrame, looks: chart_spec.Looks) -> None:
    form = elements.chart_form("save")
    every_seed = st.toggle("Every seed instead of the mean", key="every_seed", bind="query-params")
    rates, bars = frame.load(tables.roc_curves), curves.rate_intervals(leaderboard)
    if not every_seed:
        st.caption(HOW_TO_READ["bars"])
    roc = curves.roc(rates, looks, every_seed=every_seed, bars=bars)
    _side_by_side([roc, curves.det(rates, looks, bars=bars)], form)


def _learning(looks: chart_spec.Looks) -> None:
    losses = {stage: frame.load(tables.learning_curves, stage) for stage in curves.TRAININGS}
    form = elements.chart_form("save_training")
    _side_by_side(
        [curves.learning(found, looks, stage) for stage, found in losses.items() if len(found)], form
    )


def _side_by_side(drawn: list[chart_spec.Chart], form: str) -> None:
    for column, each in zip(st.columns(len(drawn) or 1, gap="medium"), drawn, strict=False):
        with column:
            st.subheader(each.title)
            elements.chart(each, form)


@frame.part
def _settings(setup: config.Experiment) -> None:
    """Show the settings in which two runs differ, side by side."""
    st.text("Settings of two runs, compared")
    names = tables.run_names(setup)
    if len(names) < 2:
        st.text("There is one run only; a second one in config.yaml can be compared with it.")
        return
    left, right = st.columns(2)
    first = elements.choose("Run", names, "first", place=left)
    second = elements.choose("Against", names, "second", 1, place=right)
    found = tables.differences(setup, first, second)
    if found.empty:
        st.text("Their settings are the same." if first != second else "Choose two runs.")
        return
    st.text(f"{len(found)} settings differ; everything else is the same in both.")
    columns = {"setting": "Setting", "first": first, "second": second}
    elements.table(found, f"Table of the settings in which {first} and {second} differ.", columns)


def _photos() -> None:
    st.text("What became of every photo, which faces are doubtful, and each of them close up:")
    # Known by its address alone, so that this page need not be handed the app's list of pages.
    page = st.Page(alignment.render, title="Alignment", icon=":material/face:", url_path="alignment")
    st.page_link(page, label="Alignment: look through the faces")
