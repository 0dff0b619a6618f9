"""The part of a page that follows the trainings in progress, and looks again every few seconds."""

from __future__ import annotations

import pandas as pd
import streamlit as st

from facemae import config
from facemae.app import frame
from facemae.core.layout import Results
from facemae.report import charts, live, tables
from facemae.report.live import Underway

EVERY = 3.0  # seconds between two looks
SHOWN = 6  # trainings that are told one by one
SEEN = "progress_unfinished"  # in the session: whether the last look found something unfinished


def show(setup: config.Experiment) -> None:
    """Show what is being trained until there is a verdict and no training is left; then a sentence."""
    paths = Results(frame.results_root())
    if not _unfinished(paths, live.underway(paths, setup)):
        st.caption("No training is under way.")
        return
    st.subheader("Training in progress")
    st.session_state[SEEN] = True
    st.fragment(_look, run_every=EVERY)(setup)


def told(setup: config.Experiment) -> str | None:
    """Return in one sentence how many trainings go on or stopped, None where there are none."""
    found = live.underway(Results(frame.results_root()), setup)
    going = sum(each.live for each in found)
    stopped = len(found) - going
    parts = [_count(going, "under way"), _count(stopped, "stopped unfinished")]
    return f"{' and '.join(filter(None, parts))}; Results shows how far." if found else None


def _count(number: int, what: str) -> str:
    trainings = "training is" if number == 1 else "trainings are"
    return f"{number} {trainings} {what}" if number else ""


def _unfinished(paths: Results, found: list[Underway]) -> bool:
    return bool(found) or not paths.verdict.is_file()


@frame.explained()
def _look(setup: config.Experiment) -> None:
    paths = Results(frame.results_root())
    found = live.underway(paths, setup)
    if not _unfinished(paths, found) and st.session_state.pop(SEEN, False):
        st.rerun()  # the whole page: there are results to show now
    if not any(each.live for each in found):
        st.text("Nothing is being trained here now; the same command goes on with what is missing.")
        if paths.leaderboard.is_file():  # else the page names the command below
            st.code(frame.COMMAND, language="bash")
    for each in found[:SHOWN]:
        st.text(each.sentence)
        if each.steps:
            st.progress(each.share)
    if len(found) > SHOWN:
        st.text(f"And {len(found) - SHOWN} more.")
    st.text(_overall(live.done(paths, setup)))
    _losses(setup, live.losses(paths, found))


def _overall(done: pd.DataFrame) -> str:
    parts = [f"{row['stage']} {row['done']} of {row['of']}" for row in charts.rows_of(done)]
    return f"Done so far: {', '.join(parts)}."


def _losses(setup: config.Experiment, logged: pd.DataFrame) -> None:
    if logged.empty:
        return
    st.caption(charts.HOW_TO_READ["progress"])
    colours = charts.palette(tables.roster(setup))
    for stage in logged["stage"].unique():
        st.text(live.STAGES[stage].capitalize())
        frame.draw(
            "progress",
            charts.learning_chart(logged[logged["stage"] == stage], colours),
            key=f"progress_{stage}",
        )
