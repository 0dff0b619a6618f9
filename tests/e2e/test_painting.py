"""Painting on a picture in a real browser: with the mouse, a finger and the keyboard."""

import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
SIDE, START = 4, [0, 1]
SCRIPT = f"""
import numpy as np
import streamlit as st
from facemae.app.parts import paint
from facemae.data.images import encode_png

@st.fragment
def board():
    if st.toggle("Show", value=True):
        found = paint.cells("board", encode_png(np.full((32, 32, 3), 200, np.uint8)), {SIDE}, start={START})
        st.text(f"painted {{np.flatnonzero(found).tolist()}}")

board()
"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve a page with nothing but a board to paint on."""
    script = tmp_path_factory.mktemp("page") / "page.py"
    script.write_text(SCRIPT)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", str(script), f"--server.port={port}"]
    server = subprocess.Popen([*command, "--server.headless=true"], cwd=ROOT)
    try:
        for _ in range(300):
            assert server.poll() is None, "the server ended by itself"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    context = browser.new_context(has_touch=True, viewport={"width": 390, "height": 844})
    tab = context.new_page()
    complaints: list[str] = []
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto(address)
    expect(canvas(tab)).to_be_visible(timeout=30_000)
    _painted(tab, START)
    yield tab
    context.close()
    assert complaints == []


def canvas(page: Page) -> Locator:
    return page.get_by_role("application")


def _painted(page: Page, cells: list[int]) -> None:
    expect(page.get_by_text(f"painted {cells}", exact=True)).to_be_visible(timeout=15_000)


def _middle(page: Page, row: int, column: int) -> tuple[float, float]:
    box = canvas(page).bounding_box()
    assert box is not None
    return box["x"] + (column + 0.5) * box["width"] / SIDE, box["y"] + (row + 0.5) * box["height"] / SIDE


def _shade(page: Page, row: int, column: int) -> list[int]:
    return canvas(page).evaluate(
        """(each, [row, column, side]) => {
            const [x, y] = [column, row].map((place) => ((place + 0.5) * each.width) / side)
            return [...each.getContext("2d").getImageData(x, y, 1, 1).data]
        }""",
        [row, column, SIDE],
    )


def test_dragging_paints_every_cell_on_the_way_and_is_told_at_its_end(page: Page) -> None:
    page.mouse.move(*_middle(page, 1, 0))
    page.mouse.down()
    page.mouse.move(*_middle(page, 1, 3), steps=1)  # one leap over two cells
    assert _shade(page, 1, 2) == [128, 128, 128, 255]
    assert _shade(page, 2, 2)[3] == 0
    _painted(page, START)
    page.mouse.move(*_middle(page, 3, 3), steps=5)
    page.mouse.up()
    _painted(page, [0, 1, 4, 5, 6, 7, 11, 15])
    expect(page.get_by_text("8 of 16 cells painted")).to_be_visible()


def test_a_stroke_that_starts_on_a_painted_cell_wipes(page: Page) -> None:
    page.mouse.move(*_middle(page, 0, 1))
    page.mouse.down()
    page.mouse.move(*_middle(page, 2, 1), steps=5)
    page.mouse.move(-50, -50)  # off the picture: the nearest cell counts
    page.mouse.up()
    _painted(page, [])
    assert _shade(page, 0, 0)[3] == 0


def test_strokes_while_the_page_is_computing_are_kept(page: Page) -> None:
    for column in range(4):
        page.mouse.click(*_middle(page, 3, column))
    _painted(page, [0, 1, 12, 13, 14, 15])


def test_a_finger_paints(page: Page) -> None:
    page.touchscreen.tap(*_middle(page, 2, 2))
    _painted(page, [0, 1, 10])
    assert canvas(page).evaluate("each => getComputedStyle(each).touchAction") == "none"


def test_arrows_and_space_paint(page: Page) -> None:
    canvas(page).focus()
    page.keyboard.press("Space")  # the middle
    for key in ("ArrowRight", "ArrowRight", "ArrowDown", "Space"):
        page.keyboard.press(key)
    _painted(page, [0, 1, 10, 15])
    expect(page.get_by_text("Row 4, column 4: painted")).to_be_attached()


def test_clear_and_invert(page: Page) -> None:
    page.get_by_role("button", name="Invert").click()
    _painted(page, list(range(2, 16)))
    page.get_by_role("button", name="Clear").click()
    _painted(page, [])


def test_what_was_painted_is_there_again_after_the_board_was_away(page: Page) -> None:
    page.mouse.click(*_middle(page, 3, 3))
    _painted(page, [0, 1, 15])
    page.get_by_text("Show").click()
    expect(canvas(page)).to_have_count(0)
    page.get_by_text("Show").click()
    _painted(page, [0, 1, 15])
    expect(page.get_by_text("3 of 16 cells painted")).to_be_visible()
    assert _shade(page, 3, 3) == [128, 128, 128, 255]


def test_the_board_fits_a_telephone(page: Page) -> None:
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    box = canvas(page).bounding_box()
    assert box is not None
    assert box["width"] == box["height"] <= 300
