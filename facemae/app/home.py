"""The start page: the verdict in words, what it rests on, and where to go next."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from facemae import config, reading
from facemae.app import shell

QUESTION = (
    "What does masked-autoencoder pretraining buy for face recognition, and which masking strategy buys most?"
)
ABOUT = {
    "results": "every number with its interval, ROC, DET and learning curves",
    "alignment": "the photos: what became of each, and which faces are doubtful",
    "compare": "verdicts between the masking strategies, robustness, fewer labels, and what each hides",
    "reconstruct": "hide parts of a face and see what a trained model makes of it",
}


def render(others: Sequence[StreamlitPage] = ()) -> None:
    """Show the page.

    Args:
        others: The pages to go on to.
    """
    st.title("FaceMAE")
    st.caption(QUESTION)
    with shell.explained():
        setup, found = shell.load(reading.experiment), shell.load(reading.verdict)
        _verdict(setup, found)
        _links(others)
        _small_print(setup, found)


def _verdict(setup: config.Experiment, found: reading.Headline) -> None:
    details = shell.load(reading.details)
    shell.words(found.headline, tag="h3")
    shell.words(*found.sentences)
    shell.claims(found.claims)
    with st.container(horizontal=True, gap="large"):
        st.metric("Runs", len(setup.run_names), help="trained once per seed", width="content")
        st.metric("Controls", len(setup.baselines), help="scored alike; they train nothing", width="content")
        st.metric(
            "Unseen people",
            found.people,
            help="by the networks that evaluate them",
            width="content",
        )
        st.metric("Seeds", found.seeds, help="a verdict needs at least two", width="content")
    st.text(f"Computed on {details['device']}, data {details['dataset']}.")


def _links(others: Sequence[StreamlitPage]) -> None:
    """Show the way to each page and what is there."""
    for column, page in zip(st.columns(len(others)) if others else [], others, strict=True):
        with column.container(border=True, height="stretch"):
            st.page_link(page, width="stretch")
            st.caption(ABOUT[page.url_path])


def _small_print(setup: config.Experiment, found: reading.Headline) -> None:
    with st.expander("What this evaluation cannot tell"):
        for sentence in reading.limits(setup, found.people):
            st.text(sentence)
    for sentence in shell.load(reading.credits):
        st.text(sentence)
