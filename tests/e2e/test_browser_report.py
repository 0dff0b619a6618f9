"""The report in a real browser: alone, and in the frame in which Snakemake shows it."""

import base64
import re
from pathlib import Path
from typing import Literal

import browsing
import pytest
from playwright.sync_api import Browser, expect

from facemae.core.layout import Results
from facemae.report import page, tables

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_shown_as_snakemake_embeds_it(
    browser: Browser, made: Path, tmp_path: Path, scheme: Literal["light", "dark"]
) -> None:
    """Snakemake's report holds the page as a data: address in a frame."""
    out = tmp_path / "overview.html"
    page.report(tables.experiment(Results(made)), made, out)
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
    page.report(tables.experiment(Results(made)), made, out)
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(out.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    tab.close()


def _lightness(colour: str) -> int:
    return sum(map(int, re.findall(r"\d+", colour)[:3]))
