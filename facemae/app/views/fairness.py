"""Fairness and limits: errors by group, thresholds, failures, what was not measured, and the model card."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from facemae import config
from facemae.app import elements, frame
from facemae.core import layout
from facemae.core.layout import Results
from facemae.evaluation.records import metric_label
from facemae.recognition import model_card
from facemae.recognition.threshold import Card, card_of
from facemae.recognition.trained_models import best_first
from facemae.report import charts, faces, known_errors, phrases, tables
from facemae.report.chart_spec import MORE_COLOURS

RATES = {"fmr": "False matches", "fnmr": "False non-matches"}
HOW_TO_READ = {
    "groups": (
        "Each dot is a group's error at the one threshold for everybody, each bar its interval over people. "
        "Groups whose bars lie apart are treated differently; bars that overlap prove no equality."
    ),
    "thresholds": (
        "For a false match rate of at most so much: the least cosine of a match, and the errors at it with "
        "their intervals over people. A rate is refused where there are too few pairs to measure it."
    ),
    "failures": (
        "The pairs that this model finds hardest: one person scored lowest, and two people scored highest. "
        "A threshold low enough for the former would accept the latter."
    ),
}


def render() -> None:
    """Show the page."""
    st.title("Fairness and limits")
    st.caption("For whom the errors were measured, for whom not, and what a model must not be used for.")
    with frame.explained(), frame.refusals_shown():
        setup, leaderboard = frame.load(tables.experiment), frame.load(tables.leaderboard)
        runs = best_first(setup, leaderboard)
        known = {f"{run}/{seed}": (run, seed) for run in runs for seed in setup.seeds}
        run, seed = known[elements.choose("Model (run/seed)", list(known), "model")]
        rows = frame.load(tables.summary)
        rows = rows[(rows["run"] == run) & (rows["seed"] == seed)]
        _groups(rows)
        _attributes(rows)
        _thresholds(run, seed)
        _failures(run, seed)
        _limits(setup)
        _card(run, seed)


def _groups(rows: pd.DataFrame) -> None:
    st.subheader("Errors by group")
    found = known_errors.groups(rows)
    if found.why_not:
        title = "Not measured." if found.rows.empty else "Not everything could be measured."
        st.info(title, icon=":material/block:")
        st.text(" ".join(each.replace("`", "") for each in found.why_not))
    if found.rows.empty:
        return
    rates = found.rows[found.rows["metric"].isin(RATES)]
    if len(rates):
        st.caption(HOW_TO_READ["groups"])
        alt = "Dot plot: false match and false non-match rate of each group, with intervals."
        elements.draw(group_chart(rates), "groups", alt)
    _table(found.rows.assign(condition=found.rows["condition"].replace("", "between groups")))


def _table(rows: pd.DataFrame) -> None:
    columns = {
        "condition": "Group", "metric": "Measured", "value": elements.number("Value", "%.4f"),
        "ci_low": elements.number("Interval from", "%.4f"), "ci_high": elements.number("to", "%.4f"),
        "note": "Note",
    }  # fmt: skip
    rows = rows.assign(metric=rows["metric"].map(metric_label))
    elements.table(rows, "Table: values with intervals by group.", columns)


def group_chart(rates: pd.DataFrame) -> go.Figure:
    """Draw each group's false match and false non-match rate with its interval."""
    figure = go.Figure()
    for metric, colour, symbol in zip(RATES, MORE_COLOURS[::3], ("circle", "diamond"), strict=True):
        part = rates[rates["metric"] == metric]
        ends = {
            "array": part["ci_high"] - part["value"], "arrayminus": part["value"] - part["ci_low"],
            "color": colour,
        }  # fmt: skip
        groups = [html.escape(each, quote=False) for each in part["condition"]]  # Plotly takes a few tags
        figure.add_scatter(
            x=part["value"], y=groups, mode="markers", name=metric_label(metric),
            marker={"color": colour, "size": 11, "symbol": symbol}, error_x=ends,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )  # fmt: skip
    charts.finish(figure, height=160 + 50 * rates["condition"].nunique())
    figure.update_xaxes(title="share of comparisons (lower is better)")
    return figure


def _attributes(rows: pd.DataFrame) -> None:
    rows = rows[rows["protocol"] == "attributes"]
    rows = rows[(rows["condition"] != "") & rows["value"].notna()]
    if rows.empty:
        return
    st.subheader("What else the encoder tells, by group")
    st.caption(
        "How well gender, race, age or expression can be read from the encoder, for each group of people. "
        "That they can be read at all is a risk: an embedding says more than who somebody is."
    )
    _table(rows)


def _thresholds(run: str, seed: int) -> None:
    st.subheader("Thresholds")
    with frame.refusals_shown():
        with st.spinner("Measuring the thresholds on unseen people…"):
            card, people = frame.load(_thresholds_of, run, seed)
        st.caption(f"{HOW_TO_READ['thresholds']} Measured on {people} people.")
        rows = [_in_words(row) for row in card.to_dict("records")]
        columns: dict[str, Any] = {"At most": "At most", "Threshold": "Threshold"}
        columns |= {name: st.column_config.TextColumn(width=170) for name in RATES.values()}
        alt = "Table: threshold and errors with intervals by wanted false match rate."
        elements.table(pd.DataFrame(rows), alt, columns)
        refused = card[card["note"] != ""]
        if len(refused):
            strictest = refused.iloc[0]
            st.text(f"Refused from {strictest['target_fmr']:g} on: {strictest['note']}.")


def _thresholds_of(paths: Results, run: str, seed: int) -> Card:
    return card_of(paths.stage(run, seed, "finetune") / layout.EMBEDDINGS)


def _in_words(row: dict[Any, Any]) -> dict[str, str]:
    """Return a row of a threshold card as text, few enough columns for a telephone."""
    shown = {
        "At most": np.format_float_positional(row["target_fmr"], trim="-"),
        "Threshold": "refused" if row["note"] else f"{row['threshold']:.3f}",
    }
    for rate, name in RATES.items():
        value, low, high = (row[f"{rate}{end}"] for end in ("", "_low", "_high"))
        shown[name] = "" if pd.isna(value) else f"{value:.3g}"
        if not (pd.isna(value) or pd.isna(low)):
            shown[name] += f" ({low:.2g} to {high:.2g})"
    return shown


def _failures(run: str, seed: int) -> None:
    st.subheader("Failure cases")
    with frame.refusals_shown():
        try:
            found = frame.load(known_errors.failures, run, seed)
        except FileNotFoundError:
            st.text("The embeddings of the evaluation people are not in this folder, so none can be shown.")
            return
        st.caption(HOW_TO_READ["failures"])
        what = {"genuine": "one person", "impostor": "two people"}
        elements.table(
            frame.with_faces(found.assign(kind=found["kind"].map(what)), "first", "second"),
            "Table: pairs of faces that the model finds hardest, with pictures, score and names.",
            {"score": elements.number("Score", "%.3f"), "kind": "Shows", "first": "First photo",
             "second": "Second photo"},
            {"first_picture": "First", "second_picture": "Second"},
        )  # fmt: skip


def _limits(setup: config.Experiment) -> None:
    found = frame.load(tables.headline)
    st.subheader("What this evaluation cannot tell")
    elements.words(*phrases.limits(setup, found.people))
    elements.claims(found.claims)
    st.subheader("Not measured at all")
    for name, sentence in model_card.UNMEASURED.items():
        elements.words(name, tag="b")
        elements.words(sentence)
    st.subheader("Use")
    for title, sentences in (("Meant for", model_card.INTENDED), ("Not to be used", model_card.FORBIDDEN)):
        elements.words(title, tag="b")
        elements.words(*(f"\N{BULLET} {sentence}" for sentence in sentences))
    st.subheader("Data and licences")
    elements.words(*frame.load(faces.credits))


def _card(run: str, seed: int) -> None:
    st.subheader("Model card")
    with frame.refusals_shown():
        card = frame.load(model_card.model_card, run, seed)
        st.caption("All of this and more in one file, to go along with the model wherever it goes.")
        name = f"facemae-{run}-{seed}-card.md"
        elements.download("Download the model card", card, name, "text/markdown")
        with st.expander("Show the model card"):
            st.code(card, language="markdown", wrap_lines=True)
