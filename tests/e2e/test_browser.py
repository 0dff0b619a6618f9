"""The app and the report in a real browser: every page is shown, and nothing leaves this machine."""

import base64
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from facemae import reading, report
from facemae.results import Results

ROOT = Path(__file__).parents[2]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
SEEN = {
    "": "Against training from scratch",
    "results": "ROC curves",
    "compare": "What each strategy hides",
    "reconstruct": "Error on hidden patches",
    "alignment": "Pictures and people found twice",
}

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.fixture(scope="module")
def address(made: Path) -> Iterator[str]:
    """Serve the app on a free port of this machine."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "streamlit", "run", "app.py", f"--server.port={port}"]
    server = subprocess.Popen(
        [*command, "--server.headless=true"], cwd=ROOT, env=os.environ | {"FACEMAE_RESULTS": str(made)}
    )
    try:
        _wait(f"http://127.0.0.1:{port}/_stcore/health", server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=20)


def _wait(health: str, server: subprocess.Popen[bytes]) -> None:
    for _ in range(300):
        assert server.poll() is None, "the server ended by itself"
        try:
            urllib.request.urlopen(health, timeout=1).close()
            return
        except OSError:
            time.sleep(0.1)
    pytest.fail("the server did not answer within 30 s")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open an empty tab, and check afterwards what it asked for and complained of."""
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    complaints: list[str] = []
    requests: list[str] = []
    tab.on("console", lambda message: complaints.append(_complaint(message)))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    yield tab
    tab.close()
    elsewhere = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert elsewhere == []
    assert [complaint for complaint in complaints if complaint] == []


def _complaint(message: ConsoleMessage) -> str:
    """Return an error's text and place; opened at /results, Streamlit first looks for itself below that."""
    place = str(message.location.get("url", ""))
    if message.type != "error" or "/_stcore/" in place:
        return ""
    return f"{message.text} ({place})"


@pytest.mark.parametrize("path", SEEN)
def test_every_page_is_shown(page: Page, address: str, path: str) -> None:
    page.goto(f"{address}/{path}")
    expect(page.get_by_text(SEEN[path]).first).to_be_visible(timeout=30_000)
    _settle(page)
    folder = os.environ.get("FACEMAE_SCREENSHOTS")
    if folder:
        page.screenshot(path=Path(folder) / f"{path or 'home'}.png", full_page=True)


def test_a_choice_is_in_the_address_and_survives_a_reload(page: Page, address: str) -> None:
    page.goto(f"{address}/compare?metric=equal+error+rate")
    expect(page.get_by_text("The headline verdict is by ROC AUC")).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.get_by_text("The headline verdict is by ROC AUC")).to_be_visible(timeout=30_000)
    assert "metric=equal" in page.url


def test_the_start_page_leads_to_the_others(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("link", name="Compare").last.click()
    expect(page.get_by_text("What each strategy hides")).to_be_visible(timeout=30_000)
    assert page.url.startswith(f"{address}/compare")


def test_a_face_of_the_gallery_is_chosen_by_its_number_and_stays_in_the_address(
    page: Page, address: str
) -> None:
    page.goto(f"{address}/alignment?doubt=turned")
    expect(page.get_by_text("2 faces, the worst first")).to_be_visible(timeout=30_000)
    page.get_by_role("button", name="+52").click()
    expect(page.get_by_test_id("stMetricValue").filter(has_text="+52")).to_be_visible(timeout=30_000)
    page.reload()
    expect(page.get_by_test_id("stMetricValue").filter(has_text="+52")).to_be_visible(timeout=30_000)
    assert "doubt=turned&face=" in page.url


def test_the_alignment_page_fits_a_telephone(page: Page, address: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}/alignment")
    expect(page.get_by_text("Pictures and people found twice")).to_be_visible(timeout=30_000)
    _settle(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_shown_as_snakemake_embeds_it(
    browser: Browser, made: Path, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """Snakemake's report holds the page as a data: address in a frame."""
    out = tmp_path / "overview.html"
    report.report(reading.experiment(Results(made)), made, out)
    content = base64.b64encode(out.read_bytes()).decode()
    tab = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
    requests: list[str] = []
    tab.on("request", lambda request: requests.append(request.url))
    tab.set_content(
        f'<iframe src="data:text/html;charset=utf8;base64,{content}" width="1200" height="850"></iframe>'
    )
    frame = tab.frame_locator("iframe")
    expect(frame.locator(".headline")).to_be_visible()
    expect(frame.locator("#chart-verdicts td b").first).to_be_visible()
    expect(frame.locator(".chart svg")).to_have_count(11)
    text, ground = (
        frame.locator(place).first.evaluate(f"each => getComputedStyle(each).{colour}")
        for place, colour in ((".chart svg text", "fill"), ("body", "backgroundColor"))
    )
    assert (_lightness(text) < _lightness(ground)) == (scheme == "light")
    assert [url for url in requests if not url.startswith("data:")] == []
    tab.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_report_is_no_wider_than_the_screen(
    browser: Browser, made: Path, tmp_path: Path, width: int
) -> None:
    out = tmp_path / "overview.html"
    report.report(reading.experiment(Results(made)), made, out)
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(out.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


def _lightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def _settle(page: Page) -> None:
    expect(page.get_by_test_id("stStatusWidget")).to_have_count(0, timeout=30_000)
    page.wait_for_timeout(500)  # charts draw after the script has ended
