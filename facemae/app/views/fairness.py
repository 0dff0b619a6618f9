"""Fairness and limits: errors by group, thresholds, failures, what was not measured, and the model card."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import streamlit as st

from facemae import config
from facemae.app import frame, session
from facemae.core import layout
from facemae.core.layout import Results
from facemae.recognition import model_card
from facemae.recognition.threshold import threshold_card
from facemae.recognition.trained_models import best_first
from facemae.report import charts, faces, known_errors, phrases, tables
from facemae.report.chart_spec import MORE_COLOURS
from facemae.report.phrases import metric_label

THUMBNAIL = 64  # pixels
RATES = ("fmr", "fnmr")
_RATE_NAMES = ("False matches", "False non-matches")
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
    with frame.explained(), session.refusals_shown():
        setup, leaderboard = frame.load(tables.experiment), frame.load(tables.leaderboard)
        run, seed = _model(setup, leaderboard)
        rows = frame.load(tables.summary)
        rows = rows[(rows["run"] == run) & (rows["seed"] == seed)]
        _groups(rows)
        _attributes(rows)
        _thresholds(run, seed)
        _failures(run, seed)
        _limits(setup)
        _data()
        _card(run, seed)


def _model(setup: config.Experiment, leaderboard: pd.DataFrame) -> tuple[str, int]:
    """Let the reader choose a trained model; the best run comes first."""
    names = [f"{run}/{seed}" for run in best_first(setup, leaderboard) for seed in setup.seeds]
    chosen = st.selectbox("Model (run/seed)", names, key="model", bind="query-params")
    run, _, seed = str(chosen).rpartition("/")
    return run, int(seed)


# --- what was measured by group ---


def _groups(rows: pd.DataFrame) -> None:
    st.subheader("Errors by group")
    found = known_errors.groups(rows)
    if found.why_not:
        whole = found.rows.empty
        title = "Not measured." if whole else "Not everything could be measured."
        st.info(title, icon=":material/block:")
        st.text(" ".join(each.replace("`", "") for each in found.why_not))
    if found.rows.empty:
        return
    rates = found.rows[found.rows["metric"].isin(RATES)]
    if len(rates):
        st.caption(HOW_TO_READ["groups"])
        st.plotly_chart(
            group_chart(rates), key="groups", config={"displayModeBar": False},
            alt="Dot plot: false match and false non-match rate of each group, with intervals.",
        )  # fmt: skip
    _table(found.rows.assign(condition=found.rows["condition"].replace("", "between groups")), "Group")


def _table(rows: pd.DataFrame, condition: str) -> None:
    st.dataframe(
        rows.assign(metric=rows["metric"].map(metric_label)),
        hide_index=True,
        column_order=["condition", "metric", "value", "ci_low", "ci_high", "note"],
        column_config={
            "condition": condition, "metric": "Measured", "value": frame.number("Value", "%.4f"),
            "ci_low": frame.number("Interval from", "%.4f"), "ci_high": frame.number("to", "%.4f"),
            "note": "Note",
        },
        alt=f"Table: values with intervals by {condition.lower()}.",
    )  # fmt: skip


def group_chart(rates: pd.DataFrame) -> go.Figure:
    """Draw each group's false match and false non-match rate with its interval."""
    figure = go.Figure()
    for metric, colour, symbol in zip(RATES, MORE_COLOURS[::3], ("circle", "diamond"), strict=True):
        part = rates[rates["metric"] == metric]
        ends = {
            "array": part["ci_high"] - part["value"], "arrayminus": part["value"] - part["ci_low"],
            "color": colour,
        }  # fmt: skip
        figure.add_scatter(
            x=part["value"], y=part["condition"].map(plain), mode="markers", name=metric_label(metric),
            marker={"color": colour, "size": 11, "symbol": symbol}, error_x=ends,
            hovertemplate="%{y}: %{x:.4f}<extra></extra>",
        )  # fmt: skip
    charts.finish(figure, height=160 + 50 * rates["condition"].nunique())
    figure.update_xaxes(title="share of comparisons (lower is better)")
    return figure


def plain(text: str) -> str:
    """Return text that a chart shows as it is: Plotly takes a few tags, which it finds by their brackets."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


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
    _table(rows, "Group")


# --- thresholds and failures ---


def _thresholds(run: str, seed: int) -> None:
    st.subheader("Thresholds")
    with session.refusals_shown():
        with st.spinner("Measuring the thresholds on unseen people…"):
            card, people = frame.load(thresholds, run, seed)
        st.caption(f"{HOW_TO_READ['thresholds']} Measured on {people} people.")
        st.dataframe(
            in_words(card), hide_index=True,
            column_config=dict.fromkeys(_RATE_NAMES, st.column_config.TextColumn(width=170)),
            alt="Table: threshold and errors with intervals by wanted false match rate.",
        )  # fmt: skip
        refused = card[card["note"] != ""]
        if len(refused):
            strictest = refused.iloc[0]
            st.text(f"Refused from {strictest['target_fmr']:g} on: {strictest['note']}.")


def thresholds(paths: Results, run: str, seed: int) -> tuple[pd.DataFrame, int]:
    """Return the thresholds of a model by wanted false match rate, and on how many people they rest.

    Raises:
        DataError, IntegrityError: none can follow.
    """
    return threshold_card(paths.stage(run, seed, "finetune") / layout.EMBEDDINGS)


def in_words(card: pd.DataFrame) -> pd.DataFrame:
    """Return a threshold card as text, few enough columns for a telephone; what is not known is refused."""
    rows = [
        {
            "At most": np.format_float_positional(row["target_fmr"], trim="-"),
            "Threshold": "refused" if row["note"] else f"{row['threshold']:.3f}",
            **{words: _rate(row, rate) for rate, words in zip(RATES, _RATE_NAMES, strict=True)},
        }
        for row in card.to_dict("records")
    ]
    return pd.DataFrame(rows)


def _rate(row: dict[Any, Any], name: str) -> str:
    value, low, high = (row[f"{name}{end}"] for end in ("", "_low", "_high"))
    if pd.isna(value):
        return ""
    return f"{value:.3g}" if pd.isna(low) else f"{value:.3g} ({low:.2g} to {high:.2g})"


def _failures(run: str, seed: int) -> None:
    st.subheader("Failure cases")
    with session.refusals_shown():
        try:
            found = frame.load(known_errors.failures, run, seed)
        except FileNotFoundError:
            st.text("The embeddings of the evaluation people are not in this folder, so none can be shown.")
            return
        st.caption(HOW_TO_READ["failures"])
        names = sorted({*found["first"], *found["second"]})
        pictures = {name: frame.picture(png) for name, png in frame.load(faces.aligned, names).items()}
        what = {"genuine": "one person", "impostor": "two people"}
        st.dataframe(
            found.assign(
                kind=found["kind"].map(what),
                first_picture=found["first"].map(pictures), second_picture=found["second"].map(pictures),
            ),
            hide_index=True, row_height=THUMBNAIL, height="content",
            column_order=["first_picture", "second_picture", "score", "kind", "first", "second"],
            column_config={
                "first_picture": st.column_config.ImageColumn("First", width="small"),
                "second_picture": st.column_config.ImageColumn("Second", width="small"),
                "score": frame.number("Score", "%.3f"), "kind": "Shows",
                "first": "First photo", "second": "Second photo",
            },
            alt="Table: pairs of faces that the model finds hardest, with pictures, score and names.",
        )  # fmt: skip


# --- limits ---


def _limits(setup: config.Experiment) -> None:
    found = frame.load(tables.verdict)
    st.subheader("What this evaluation cannot tell")
    frame.words(*phrases.limits(setup, found.people))
    frame.claims(found.claims)
    st.subheader("Not measured at all")
    for name, sentence in model_card.UNMEASURED.items():
        frame.words(name, tag="b")
        frame.words(sentence)
    st.subheader("Use")
    for title, sentences in (("Meant for", model_card.INTENDED), ("Not to be used", model_card.FORBIDDEN)):
        frame.words(title, tag="b")
        frame.words(*(f"\N{BULLET} {sentence}" for sentence in sentences))


def _data() -> None:
    st.subheader("Data and licences")
    frame.words(*frame.load(faces.credits))


def _card(run: str, seed: int) -> None:
    st.subheader("Model card")
    with session.refusals_shown():
        card = frame.load(model_card.model_card, run, seed)
        st.caption("All of this and more in one file, to go along with the model wherever it goes.")
        st.download_button(
            "Download the model card", card, f"facemae-{run}-{seed}-card.md", "text/markdown",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        with st.expander("Show the model card"):
            st.code(card, language="markdown", wrap_lines=True)
