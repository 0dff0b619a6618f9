"""What the pages share: the results folder, cached reading, tabs, and what is shown instead of results."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import pandas as pd
import streamlit as st

from facemae.app import elements
from facemae.core.errors import FaceMAEError
from facemae.core.layout import CONFIG, Results
from facemae.data.images import ImageError
from facemae.data.sources.listing import folder_state
from facemae.report import faces, live

P = ParamSpec("P")
T = TypeVar("T")

COMMAND = "snakemake --cores all"
DAMAGE = "damage"  # what was said of the results on this page
WAIT, QUEUE = 10.0, 9  # seconds that a visitor waits for a turn, and how many may wait

# Networks run for one visitor at a time: two at once would each take more than twice as long.
_turn, _waiting = threading.Lock(), threading.BoundedSemaphore(QUEUE + 1)


class BusyError(FaceMAEError):
    """Too many visitors are waiting; the message is for the visitor."""


@contextlib.contextmanager
def turn() -> Iterator[None]:
    """Wait until no other visitor's photo is being worked on, and keep the others waiting.

    Raises:
        BusyError: too many wait already, or the wait took too long.
    """
    with contextlib.ExitStack() as held:
        if not _waiting.acquire(blocking=False):
            raise BusyError(f"Busy: {QUEUE} others are waiting already. Try again in half a minute.")
        held.callback(_waiting.release)
        if not _turn.acquire(timeout=WAIT):
            raise BusyError(f"Busy: your turn did not come within {WAIT:g} seconds. Try again.")
        held.callback(_turn.release)
        yield


def results() -> Results:
    """Return the results folder that the visitor has chosen, at first that of FACEMAE_RESULTS."""
    folders = results_folders()
    return Results(folders.get(st.session_state.get("folder", ""), next(iter(folders.values()))))


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
        elements.choose("Results folder", names, "folder", width=260)


def tabs(sections: Mapping[str, Callable[[], None]]) -> None:
    """Show sections in tabs, of which only the chosen one is computed; it stands in the address."""
    shown = st.tabs(list(sections), key="tab", bind="query-params")
    for tab, show in zip(shown, sections.values(), strict=True):
        if tab.open:
            with tab, explained():
                show()


def load(read: Callable[Concatenate[Results, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what a function of `facemae.report.tables` finds, read again only when the folder changed."""
    root = results().root
    name = f"{read.__module__}.{read.__qualname__}"  # two modules may call theirs alike
    found: T = _load(name, folder_state(root), str(root), args, kwargs, read)
    return found


def with_faces(table: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Return a table with the aligned face, if any, of each name in a column as `{column}_picture`."""
    names = sorted({str(name) for column in columns for name in table[column]})
    known = {name: elements.picture(png) for name, png in load(faces.aligned, names).items()}
    return table.assign(**{f"{column}_picture": table[column].map(known) for column in columns})


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
        if live.workflow_runs(results()):
            st.info(
                "A workflow is running in this folder, and what this page shows is not made yet; the pages "
                "Home and Results say how far it is.", icon=":material/hourglass_top:",
            )  # fmt: skip
            return
        told = bool(st.session_state.get(DAMAGE))
        if not told:
            st.info("There are no complete results here yet. One command makes them:", icon=":material/info:")
        st.code(COMMAND, language="bash")
        if not told:
            st.caption(
                "It trains every run and compares them, and goes on where it stopped. "
                "The app reads the folder in the environment variable FACEMAE_RESULTS, or else `results`."
            )
    except FaceMAEError as error:
        st.warning("These results cannot be shown.", icon=":material/warning:")
        st.text(said(error))
        st.code(COMMAND, language="bash")


def part(show: Callable[P, None]) -> Callable[P, None]:
    """Return a part of a page that a choice in it draws again alone."""
    return st.fragment(explained()(show))


@contextlib.contextmanager
def refusals_shown() -> Iterator[None]:
    """Show what cannot be done as a sentence, and go on with the page."""
    try:
        yield
    except ImageError as error:
        st.warning(str(error), icon=":material/image_not_supported:")
    except BusyError as error:
        st.warning(str(error), icon=":material/hourglass_top:")
    except FileNotFoundError:
        raise
    except FaceMAEError as error:
        st.warning("This cannot be done:", icon=":material/info:")
        st.text(said(error))


def said(error: Exception) -> str:
    """Return what an error says, without where on this machine the results lie."""
    return str(error).replace(f"{results().root.absolute().parent}{os.sep}", "")


def kept(key: str, token: object, make: Callable[[], T]) -> T:
    """Return what was made for this visitor, made again when the token is another."""
    held = st.session_state.get(key)
    if held is None or held[0] != token:
        held = st.session_state[key] = (token, make())
    made: T = held[1]
    return made
