"""The app on a port of its own and a browser that looks at it: for the tests here and for the tour."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
WIDE, NARROW = 1280, 390  # pixels: a laptop and a telephone
HIGHEST = 16_000  # pixels of a picture that the browser can make
START = 30.0  # seconds that the server may take to answer
LONG = 30_000  # milliseconds that a page may take on a busy machine
# By address, what is on each page once it stands.
PAGES = {
    "": "comparisons of faces right",
    "results": "Mean over seeds, with the interval",
    "compare": "What the extra seconds bought",
    "reconstruct": "Error on hidden patches",
    "recognise": "Cover the face",
    "gallery": "The people shown have agreed to this",
    "explain": "Where the score comes from",
    "fairness": "Not measured at all",
    "alignment": "Pictures and people found twice",
}


@contextmanager
def serving(results: Path, gallery: Path) -> Iterator[str]:
    """Serve the app on a free port of this machine, and yield its address.

    Args:
        results: The results folder that it shows.
        gallery: File of its gallery.

    Raises:
        RuntimeError: the server ended, or said nothing for START seconds.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    told = {"FACEMAE_RESULTS": str(results.resolve()), "FACEMAE_GALLERY": str(gallery)}
    server = subprocess.Popen([*command, "--server.headless=true"], cwd=ROOT, env=os.environ | told)
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait(health: str, server: subprocess.Popen[bytes]) -> None:
    last = time.monotonic() + START
    while time.monotonic() < last:
        if server.poll() is not None:
            raise RuntimeError("the server ended by itself")
        try:
            urllib.request.urlopen(health, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server did not answer within {START:g} s")


@contextmanager
def chromium(*more: str) -> Iterator[Browser]:
    """Start the browser of the machine with `more` arguments, and end it with the `with` block."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS, *more])
        yield started
        started.close()


@contextmanager
def tab(browser: Browser, address: str, **settings: Any) -> Iterator[Page]:
    """Open an empty tab; at the end, nothing may have gone wrong in it or left this machine.

    Args:
        browser: Where.
        address: Of the app.
        settings: Of the browser's context, as its size or colour scheme.
    """
    settings = {"viewport": {"width": WIDE, "height": 900}} | settings
    context = browser.new_context(accept_downloads=True, **settings)
    page, faults, asked = context.new_page(), list[str](), list[str]()
    page.on("console", lambda message: faults.append(_complaint(message)))
    page.on("pageerror", lambda error: faults.append(str(error)))
    page.on("dialog", lambda dialog: (faults.append(f"dialog: {dialog.message}"), dialog.dismiss()))
    context.on("request", lambda request: asked.append(request.url))
    page.on("websocket", lambda socket: asked.append(socket.url.replace("ws://", "http://", 1)))
    try:
        yield page
    finally:
        context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert [fault for fault in faults if fault] == []


def _complaint(message: ConsoleMessage) -> str:
    """Return an error's text and place; opened at /results, Streamlit first looks for itself below that."""
    place = str(message.location.get("url", ""))
    if message.type != "error" or "/_stcore/" in place:
        return ""
    return f"{message.text} ({place})"


def settle(page: Page) -> None:
    """Wait until the page is computed and its charts are drawn."""
    page.wait_for_timeout(300)  # a click takes a moment to be told to the server
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=LONG)
    expect(page.get_by_test_id("stSkeleton")).to_have_count(0, timeout=LONG)
    page.wait_for_timeout(500)  # charts draw after the script has ended


def show(page: Page, address: str, path: str, query: str = "") -> None:
    """Open a page of the app by its address, and wait until it stands."""
    page.goto(f"{address}/{path}{query}")
    expect(page.get_by_text(PAGES[path]).first).to_be_visible(timeout=LONG)
    settle(page)


def enlarge(page: Page) -> None:
    """Make the window as high as the page: what scrolls is a part of it, and else it would be cut off."""
    width = (page.viewport_size or {"width": WIDE})["width"]
    for _ in range(2):  # a higher window may hold more
        height = page.get_by_test_id("stMain").evaluate("each => each.scrollHeight")
        page.set_viewport_size({"width": width, "height": min(int(height), HIGHEST)})
        settle(page)


def picture(page: Page, file: Path) -> None:
    """Write a picture of the whole page."""
    size = page.viewport_size
    enlarge(page)
    page.screenshot(path=file)
    if size:
        page.set_viewport_size(size)


def too_wide(page: Page) -> list[str]:
    """Return what stands out of the window at its right: the page, or what scrolls it."""
    return page.evaluate(
        """() => {
            const found = []
            const main = document.querySelector('[data-testid="stMain"]')
            for (const each of [document.documentElement, main])
                if (each.scrollWidth > window.innerWidth) found.push(`${each.tagName} ${each.scrollWidth}`)
            return found
        }"""
    )


def cut_off(page: Page) -> list[str]:
    """Return the texts on the page that end in three dots since they do not fit."""
    return page.evaluate(
        """() => [...document.querySelectorAll('[data-testid="stMain"] *')].filter((each) =>
            getComputedStyle(each).textOverflow === 'ellipsis' && each.clientWidth > 0
            && each.scrollWidth > each.clientWidth + 1).map((each) => each.innerText)"""
    )


# --- what a visitor does ---


def choose(page: Page, label: str, option: str) -> None:
    """Choose an option of a row of buttons, by the row's label."""
    group = page.get_by_test_id("stButtonGroup").filter(has=page.get_by_text(label, exact=True))
    group.get_by_role("radio", name=option, exact=True).click()
    settle(page)


def pick(page: Page, label: str, option: str) -> None:
    """Choose an option of a list that opens, by the list's label."""
    field = page.get_by_test_id("stSelectbox").filter(has=page.get_by_role("combobox", name=label))
    field.scroll_into_view_if_needed()
    page.wait_for_timeout(300)  # a list that is open closes while the page scrolls
    field.get_by_role("button", name="Open").click()
    page.get_by_role("option", name=option, exact=True).click()
    settle(page)


def upload(page: Page, *files: Path, place: int = 0) -> None:
    """Give files to an upload field."""
    page.get_by_test_id("stFileUploader").nth(place).locator("input[type=file]").set_input_files(list(files))


def tick(page: Page, label: str) -> None:
    """Tick a box or turn a switch."""
    page.get_by_test_id("stCheckbox").filter(has_text=label).locator("label").click()


def press(page: Page, name: str) -> None:
    """Press a button."""
    page.get_by_role("button", name=name, exact=True).click()


def cells(page: Page, place: int = 0) -> list[str]:
    """Return the texts of a table; it is drawn when it is in sight, and told to screen readers then."""
    table = page.get_by_test_id("stDataFrame").nth(place)
    table.scroll_into_view_if_needed()
    expect(table.locator("td").first).to_be_attached(timeout=LONG)
    return table.locator("td").all_text_contents()


def said(page: Page, text: str) -> Locator:
    """Wait until a text is on the page, and return where."""
    found = page.get_by_text(text).first
    expect(found).to_be_visible(timeout=LONG)
    return found
