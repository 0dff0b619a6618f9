"""The start page: the answer, pictures of masks and reconstructions, and where to go next."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from facemae import config
from facemae.app import frame
from facemae.app.parts import live_training, pictures
from facemae.report import faces, phrases, reconstructions, tables

QUESTION = (
    "What does masked-autoencoder pretraining buy for face recognition, and which masking strategy buys most?"
)
WAYS = {
    "reconstruct": ("See a mask", "Hide parts of a face and see what a trained model makes of it."),
    "recognise": ("Recognise someone", "Who is in a photo, and what a covered face does to recognition."),
    "results": ("Read the results", "Every number with its interval, and every chart."),
}
ABOUT = {
    "compare": "verdicts between the masking strategies, and what each hides and completes",
    "gallery": "enrol people, rename them and delete them",
    "explain": "which parts of two faces decided, and a map of all faces",
    "fairness": "errors by group, what was not measured, and the model card",
    "alignment": "the photos: what became of each, and which faces are doubtful",
}
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
        if note := frame.load(tables.earlier_settings):
            frame.words(note, tag="small")
        live_training.notice(setup)
        found = frame.load(tables.verdict)
        frame.words(found.headline, tag="h3")
        _ways(others)
        _pictures(setup)
        with st.expander("The numbers behind it"):
            frame.words(*found.sentences)
            _counts(setup, found)
        frame.claims(found.claims)
        with st.expander("What was run"):
            _experiment(setup)
        with st.expander("What this evaluation cannot tell"):
            frame.words(*phrases.limits(setup, found.people))
        frame.words(*frame.load(faces.credits), tag="small")
        return
    _ways(others)  # some pages do without results


def _ways(others: Sequence[StreamlitPage]) -> None:
    """Show three ways on as cards, and the other pages below them."""
    pages = {page.url_path: page for page in others}
    first = {path: page for path, page in pages.items() if path in WAYS}
    if first:
        for column, path in zip(st.columns(len(first)), WAYS, strict=True):
            with column.container(border=True, height="stretch"):
                st.page_link(pages[path], label=f"**{WAYS[path][0]}**", width="stretch")
                st.caption(WAYS[path][1])
    rest = [page for path, page in pages.items() if path not in WAYS]
    with st.container(horizontal=True, gap="small"):
        for page in rest:
            st.page_link(page, help=ABOUT[page.url_path], width="content")


def _pictures(setup: config.Experiment) -> None:
    """Show one face under each run's mask, and completions by the best model."""
    masked = phrases.masked_runs(setup)
    if not masked:
        return
    shown = {name: frame.load(reconstructions.reconstructions, name, setup.seeds[0]) for name in masked}
    st.subheader("What each strategy hides")
    pictures.row(
        {name: reconstructions.masked(each.face[:1], each.hidden[:1])[0] for name, each in shown.items()},
        alt="The same face under the mask of {}",
    )
    best = frame.load(reconstructions.best)
    each = shown[best]
    st.subheader("What a network makes of it")
    pictures.row(
        {"the face": each.face[0], "what it sees": reconstructions.masked(each.face[:1], each.hidden[:1])[0],
         "its completion": each.reconstruction[0]},
        alt=f"A face and {best}: {{}}",
    )  # fmt: skip
    frame.words(f"By {best}, of a person whom it has never seen.", tag="small")


def _counts(setup: config.Experiment, found: tables.Headline) -> None:
    with st.container(horizontal=True, gap="large"):
        for label, value, about in (
            ("Runs", len(setup.run_names), "trained once per seed"),
            ("Controls", len(setup.baselines), "scored alike, without training a network"),
            ("Unseen people", found.people, "by the networks that evaluate them"),
            ("Seeds", found.seeds, "a verdict needs at least two"),
        ):
            st.metric(label, value, help=about, width="content")


def _experiment(setup: config.Experiment) -> None:
    """Say what was run, on what, and where it was computed."""
    details, tally = frame.load(tables.details), frame.load(faces.tally)
    count, photos = int(tally["faces"].sum()), int(tally["photos"].sum())
    frame.words(
        *_what_was_run(setup),
        f"On {count:,} faces found in {photos:,} photos. "
        f"Computed on {details['device']}, data {details['dataset']}.",
    )


def _what_was_run(setup: config.Experiment) -> list[str]:
    """Return a sentence for each kind of run, with the names of its runs."""
    masked = [f"{name} ({setup.run(name).mask_ratio:.0%} hidden)" for name in phrases.masked_runs(setup)]
    kinds = (
        ("Pretrained as masked autoencoders, each with its own mask", masked),
        ("Pretrained by comparing views of a face", phrases.contrastive_runs(setup)),
        ("From scratch, without pretraining", phrases.scratch_runs(setup)),
        ("Started from finished weights, or taught by a finished network", _with_origins(setup)),
        ("Controls that train no network", list(setup.baselines)),
    )
    return [
        f"{title}: {phrases.names_of(found) if len(found) <= MOST_NAMED else f'{len(found)} runs'}."
        for title, found in kinds
        if found
    ]


def _with_origins(setup: config.Experiment) -> list[str]:
    return [f"{name} ({phrases.origin(setup.run(name))})" for name in phrases.started_runs(setup)]
