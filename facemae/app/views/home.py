"""The start page: the answer, pictures of masks and reconstructions, and where to go next."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st
from streamlit.navigation.page import StreamlitPage

from facemae import config
from facemae.app import elements, frame
from facemae.app.parts import live_training
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
COUNTED = {
    "Runs": "trained once per seed",
    "Controls": "scored alike, without training a network",
    "Unseen people": "by the networks that evaluate them",
    "Seeds": "a verdict needs at least two",
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
            elements.words(note, tag="small")
        live_training.notice(setup)
        found = frame.load(tables.headline)
        elements.words(found.headline, tag="h3")
        _ways(others)
        _pictures(setup)
        with st.expander("The numbers behind it"):
            elements.words(*found.sentences)
            counts = (len(setup.run_names), len(setup.baselines), found.people, found.seeds)
            elements.tiles(dict(zip(COUNTED, counts, strict=True)), COUNTED)
        elements.claims(found.claims)
        with st.expander("What was run"):
            _experiment(setup)
        with st.expander("What this evaluation cannot tell"):
            elements.words(*phrases.limits(setup, found.people))
        for credit in frame.load(faces.credits):
            elements.words(credit, tag="small")
        return
    _ways(others)  # some pages do without results


def _ways(others: Sequence[StreamlitPage]) -> None:
    """Show three ways on as cards, and the other pages below them."""
    if not others:
        return
    pages = {page.url_path: page for page in others}
    for column, (path, (label, about)) in zip(st.columns(len(WAYS)), WAYS.items(), strict=True):
        with column.container(border=True, height="stretch"):
            st.page_link(pages[path], label=f"**{label}**", width="stretch")
            st.caption(about)
    with st.container(horizontal=True, gap="small"):
        for path, about in ABOUT.items():
            st.page_link(pages[path], help=about, width="content")


def _pictures(setup: config.Experiment) -> None:
    """Show one face under each run's mask, and completions by the best model."""
    masked = phrases.masked_runs(setup)
    if not masked:
        return
    shown = {name: frame.load(reconstructions.reconstructions, name, setup.seeds[0]) for name in masked}
    seen = {name: reconstructions.masked(each.face[:1], each.hidden[:1])[0] for name, each in shown.items()}
    st.subheader("What each strategy hides")
    elements.pictures(seen, "The same face under the mask of ")
    best = frame.load(reconstructions.best)
    face, completion = shown[best].face[0], shown[best].reconstruction[0]
    st.subheader("What a network makes of it")
    steps = {"the face": face, "what it sees": seen[best], "its completion": completion}
    elements.pictures(steps, f"A face and {best}: ")
    elements.words(f"By {best}, of a person whom it has never seen.", tag="small")


def _experiment(setup: config.Experiment) -> None:
    """Say what was run, a sentence for each kind of run, on what, and where it was computed."""
    details, tally = frame.load(tables.details), frame.load(faces.tally)
    count, photos = int(tally["faces"].sum()), int(tally["photos"].sum())
    masked = [f"{name} ({setup.run(name).mask_ratio:.0%} hidden)" for name in phrases.masked_runs(setup)]
    started = [f"{name} ({phrases.origin(setup.run(name))})" for name in phrases.started_runs(setup)]
    kinds: dict[str, list[str]] = {
        "Pretrained as masked autoencoders, each with its own mask": masked,
        "Pretrained by comparing views of a face": phrases.contrastive_runs(setup),
        "From scratch, without pretraining": phrases.scratch_runs(setup),
        "Started from finished weights, or taught by a finished network": started,
        "Controls that train no network": list(setup.baselines),
    }
    elements.words(
        *(
            f"{title}: {phrases.names_of(found) if len(found) <= MOST_NAMED else f'{len(found)} runs'}."
            for title, found in kinds.items()
            if found
        ),
        f"On {count:,} faces found in {photos:,} photos. "
        f"Computed on {details['device']}, data {details['dataset']}.",
    )
