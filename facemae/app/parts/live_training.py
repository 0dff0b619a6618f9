"""The part of a page that follows the trainings in progress, and looks again every few seconds."""

from __future__ import annotations

import streamlit as st

from facemae import config
from facemae.app import elements, frame
from facemae.core.layout import Results
from facemae.report import chart_spec, curves, live, tables
from facemae.report.phrases import HOW_TO_READ, rows_of

EVERY = 3.0  # seconds between two looks
SHOWN = 6  # trainings that are shown one by one
SEEN = "progress_unfinished"  # in the session: whether the last look found something unfinished


def show(setup: config.Experiment) -> None:
    """Show what is being trained until there is a verdict and nothing runs; then a sentence."""
    if not _unfinished(frame.results(), setup):
        st.caption("No training is under way.")
        return
    st.subheader("Training in progress")
    st.session_state[SEEN] = True
    st.fragment(_look, run_every=EVERY)(setup)


def notice(setup: config.Experiment) -> None:
    """Say whether a workflow runs here and how far it is; nothing where all is finished and still."""
    paths = frame.results()
    found, runs = live.trainings(paths, setup), live.workflow_runs(paths)
    going = sum(each.live for each in found)
    stopped = 0 if runs else len(found) - going
    parts = ["a workflow is running"] * runs
    for number, what in ((going, "under way"), (stopped, "stopped unfinished")):
        if number:
            parts.append(f"{number} training{' is' if number == 1 else 's are'} {what}")
    if parts:
        text = " and ".join(parts)
        st.info(
            f"{text[0].upper()}{text[1:]}. {_overall(paths, setup)} Results shows more.",
            icon=":material/hourglass_top:",
        )


def _unfinished(paths: Results, setup: config.Experiment) -> bool:
    return live.workflow_runs(paths) or not paths.verdict.is_file() or bool(live.trainings(paths, setup))


@frame.explained()
def _look(setup: config.Experiment) -> None:
    paths = frame.results()
    if not _unfinished(paths, setup) and st.session_state.pop(SEEN, False):
        st.rerun()  # the whole page: there are results to show now
    found = live.trainings(paths, setup)
    if live.workflow_runs(paths):
        st.text("A workflow is running in this folder.")
    elif not any(each.live for each in found):
        st.text("Nothing is being trained here now; the same command goes on with what is missing.")
        if paths.leaderboard.is_file():  # else the page names the command below
            st.code(frame.COMMAND, language="bash")
    for each in found[:SHOWN]:
        st.text(each.sentence)
        if each.steps:
            st.progress(each.share)
    if len(found) > SHOWN:
        st.text(f"And {len(found) - SHOWN} more.")
    st.text(_overall(paths, setup))
    logged = live.losses(found)
    if len(logged):
        st.caption(HOW_TO_READ["progress"])
    looks = chart_spec.looks(tables.roster(setup))
    for stage in logged["stage"].unique():
        chart = curves.learning(logged[logged["stage"] == stage], looks, stage)
        st.text(chart.title)
        elements.chart(chart, key=f"progress_{stage}", captioned=False)


def _overall(paths: Results, setup: config.Experiment) -> str:
    parts = [f"{row['stage']} {row['done']} of {row['of']}" for row in rows_of(live.done(paths, setup))]
    return f"Done so far: {', '.join(parts)}."
