"""The start page: the verdict in words, what it rests on, and where to go next."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from facemae import config
from facemae.app import frame
from facemae.app.parts import live_training
from facemae.report import phrases, tables

QUESTION = (
    "What does masked-autoencoder pretraining buy for face recognition, and which masking strategy buys most?"
)
ABOUT = {
    "results": "every number with its interval, ROC, DET and learning curves, and training in progress",
    "compare": "verdicts between the masking strategies, robustness, fewer labels, and what each hides",
    "reconstruct": "hide parts of a face and see what a trained model makes of it",
    "recognise": "who is in a photo, and how recognition holds when the face is covered",
    "gallery": "enrol people, rename them and delete them; demo people in one click",
    "explain": "which parts of two faces decided, and a map of all faces",
    "fairness": "errors by group, what was not measured, and the model card",
    "alignment": "the photos: what became of each, and which faces are doubtful",
}
ROW = 3  # pages side by side
MOST_NAMED = 12  # runs that are named one by one


def render(others: Sequence[StreamlitPage] = ()) -> None:
    """Show the page.

    Args:
        others: The pages to go on to.
    """
    st.title("FaceMAE")
    st.caption(QUESTION)
    with frame.explained():
        setup = frame.load(tables.experiment)
        underway = live_training.told(setup)
        if underway:
            st.info(underway, icon=":material/hourglass_top:")
        found = frame.load(tables.verdict)
        _verdict(setup, found)
        _experiment(setup)
        _small_print(setup, found)
    _links(others)  # also where there are no results: some pages do without


def _verdict(setup: config.Experiment, found: tables.Headline) -> None:
    frame.words(found.headline, tag="h3")
    frame.words(*found.sentences)
    frame.claims(found.claims)
    with st.container(horizontal=True, gap="large"):
        st.metric("Runs", len(setup.run_names), help="trained once per seed", width="content")
        st.metric("Controls", len(setup.baselines), help="scored alike, without a network", width="content")
        st.metric(
            "Unseen people",
            found.people,
            help="by the networks that evaluate them",
            width="content",
        )
        st.metric("Seeds", found.seeds, help="a verdict needs at least two", width="content")


def _experiment(setup: config.Experiment) -> None:
    """Say what was run, on what, and where it was computed."""
    details, tally = frame.load(tables.details), frame.load(tables.tally)
    faces, photos = int(tally["faces"].sum()), int(tally["photos"].sum())
    st.text("\n".join(_what_was_run(setup)))
    st.text(
        f"On {faces:,} faces found in {photos:,} photos. "
        f"Computed on {details['device']}, data {details['dataset']}."
    )


def _what_was_run(setup: config.Experiment) -> list[str]:
    """Return a sentence for each kind of run, with the names of its runs."""
    masked, rivals = phrases.masked_runs(setup), phrases.rival_runs(setup)
    names = [f"{name} ({setup.run(name).mask_ratio:.0%} hidden)" for name in masked]
    kinds = (
        ("Pretrained as masked autoencoders, each with its own mask", names),
        ("Pretrained by comparing views of a face", rivals),
        ("From scratch, without pretraining", phrases.scratch_runs(setup)),
        ("Controls that train no network", list(setup.baselines)),
    )
    return [
        f"{title}: {phrases.names_of(found) if len(found) <= MOST_NAMED else f'{len(found)} runs'}."
        for title, found in kinds
        if found
    ]


def _links(others: Sequence[StreamlitPage]) -> None:
    """Show the way to each page and what is there."""
    if others:
        st.subheader("Where to go next")
    for start in range(0, len(others), ROW):
        for column, page in zip(st.columns(ROW), others[start : start + ROW], strict=False):
            with column.container(border=True, height="stretch"):
                st.page_link(page, width="stretch")
                st.caption(ABOUT[page.url_path])


def _small_print(setup: config.Experiment, found: tables.Headline) -> None:
    with st.expander("What this evaluation cannot tell"):
        for sentence in tables.limits(setup, found.people):
            st.text(sentence)
    for sentence in frame.load(tables.credits):
        st.text(sentence)
