"""What the pages share: the results folder, cached reading, tabs, and what is shown instead of results."""

from __future__ import annotations

import base64
import contextlib
import html
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import streamlit as st

from facemae.core.errors import FaceMAEError
from facemae.core.layout import CONFIG, Results
from facemae.data.sources.listing import folder_state
from facemae.report import live
from facemae.report.claims import Claim

P = ParamSpec("P")
T = TypeVar("T")

COMMAND = "snakemake --cores all"
DAMAGE = "damage"  # what was said of the results on this page
WAIT, QUEUE = 10.0, 9  # seconds that a visitor waits for a turn, and how many may wait

# Networks run for one visitor at a time: two at once would each take more than twice as long.
_turn, _waiting = threading.Lock(), threading.BoundedSemaphore(QUEUE + 1)


class BusyError(Exception):
    """Too many visitors are waiting; the message is for the visitor."""


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait until no other visitor's photo is being worked on, and keep the others waiting.

    Raises:
        BusyError: too many wait already, or the wait took too long.
    """
    if not _waiting.acquire(blocking=False):
        raise BusyError(f"Busy: {QUEUE} others are waiting already. Try again in half a minute.")
    try:
        if not _turn.acquire(timeout=WAIT):
            raise BusyError(f"Busy: your turn did not come within {WAIT:g} seconds. Try again.")
        try:
            yield
        finally:
            _turn.release()
    finally:
        _waiting.release()


def results_root() -> Path:
    """Return the results folder that the visitor has chosen, at first that of FACEMAE_RESULTS."""
    first = Path(os.environ.get("FACEMAE_RESULTS", "results"))
    return results_folders().get(st.session_state.get("folder", ""), first)


def results_folders() -> dict[str, Path]:
    """Return by name the folder of FACEMAE_RESULTS, or else `results`, and other results beside it.

    Nothing else on this machine is offered, since visitors may be strangers.
    """
    first = Path(os.environ.get("FACEMAE_RESULTS", "results"))
    beside = sorted(each.parent for each in first.absolute().parent.glob(f"*/{CONFIG}"))
    others = {each.name: each for each in beside if Results(each).data.photos.is_file()}
    return {first.name: first} | {name: each for name, each in others.items() if name != first.name}


def choose_results() -> None:
    """Let the visitor choose a results folder, where there are several; every page follows."""
    st.session_state.pop(DAMAGE, None)
    names = list(results_folders())
    if len(names) > 1:
        st.selectbox("Results folder", names, key="folder", bind="query-params", width=260)


def tabs(sections: Mapping[str, Callable[[], None]], key: str = "tab") -> None:
    """Show sections in tabs, of which only the chosen one is computed; it stands in the address."""
    for tab, show in zip(
        st.tabs(list(sections), key=key, bind="query-params"), sections.values(), strict=True
    ):
        if tab.open:
            with tab, explained():
                show()


def load(read: Callable[Concatenate[Results, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function of `facemae.report.tables` finds, read again only when the folder changed."""
    root = results_root()
    name = f"{read.__module__}.{read.__qualname__}"  # two modules may call theirs alike
    found: T = _load(name, folder_state(root), str(root), args, kwargs, read)
    return found


def load_if_there(read: Callable[Concatenate[Results, P], T], *args: P.args, **kwargs: P.kwargs) -> T | None:
    """Return the same as `load`, or None where there are no results, or damaged ones: that is said."""
    try:
        return load(read, *args, **kwargs)
    except FileNotFoundError:
        return None
    except FaceMAEError as error:
        say_damaged(error)
        return None


def say_damaged(error: Exception) -> None:
    """Say that the page does without these results, and why; once a page."""
    told: set[str] = st.session_state.setdefault(DAMAGE, set())
    if str(error) not in told:
        told.add(str(error))
        st.warning("These results are damaged, and the page does without them.", icon=":material/warning:")
        st.text(said(error))


def say_shipped(name: str) -> None:
    """Say that a model that comes with the package stands in for results, where none are damaged."""
    if st.session_state.get(DAMAGE):
        return
    st.info(
        f"There are no results here yet, so this is {name}, which comes with FaceMAE. One command trains "
        f"networks of your own: {COMMAND}",
        icon=":material/info:",
    )


@st.cache_data(max_entries=64, show_spinner=False)
def _load(name: str, state: str, root: str, args: Any, kwargs: Any, _read: Callable[..., Any]) -> Any:
    return _read(Results(Path(root)), *args, **kwargs)


@contextlib.contextmanager
def explained() -> Iterator[None]:
    """Show a sentence and the command to run where results are missing or damaged."""
    try:
        yield
    except FileNotFoundError:
        if live.workflow_runs(Results(results_root())):
            st.info(
                "A workflow is running in this folder, and what this page shows is not made yet; the pages "
                "Home and Results say how far it is.", icon=":material/hourglass_top:",
            )  # fmt: skip
            return
        if st.session_state.get(DAMAGE):  # which is said already
            st.code(COMMAND, language="bash")
            return
        st.info("There are no complete results here yet. One command makes them:", icon=":material/info:")
        st.code(COMMAND, language="bash")
        st.caption(
            "It trains every run and compares them, and goes on where it stopped. "
            "The app reads the folder in the environment variable FACEMAE_RESULTS, or else `results`."
        )
    except FaceMAEError as error:
        st.warning("These results cannot be shown.", icon=":material/warning:")
        st.text(said(error))
        st.code(COMMAND, language="bash")


def said(error: Exception) -> str:
    """Return what an error says, without where on this machine the results lie."""
    return str(error).replace(f"{results_root().absolute().parent}{os.sep}", "")


def component(name: str, markup: str) -> Any:
    """Return a component of our own, whose script and style are the files of its name in `parts`.

    They are given to Streamlit as text, so that nothing is loaded from elsewhere.
    """
    beside = resources.files("facemae.app.parts")
    style, script = (beside.joinpath(f"{name}.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return st.components.v2.component(f"facemae_{name}", html=markup, css=style, js=script)


def picture(png: bytes) -> str:
    """Return a picture as an address, for a table's column of pictures."""
    return "data:image/png;base64," + base64.b64encode(png).decode()


def number(label: str, form: str) -> Any:
    """Return the set-up of a table's column of numbers."""
    return st.column_config.NumberColumn(label, format=form)


def words(*sentences: str, tag: str = "p") -> None:
    """Write sentences that came from a file, literally, each in a paragraph of its own."""
    st.html("".join(f"<{tag}>{html.escape(sentence)}</{tag}>" for sentence in sentences))


def claims(found: Sequence[Claim]) -> None:
    """Show each claim about masked autoencoders with what became of it; nothing where none was judged."""
    if found:
        with st.expander("What is claimed of masked autoencoders, and what was found"):
            for claim in found:
                words(f"{claim.claim}.", tag="b")
                words(claim.sentence)
