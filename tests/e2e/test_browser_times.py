"""How long a visitor waits. The limits are several times what a quiet machine takes.

Seen with `pytest -m e2e -s tests/e2e/test_browser_times.py`; `benchmarks/app_load.py --strict` judges finely.
"""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import browsing
import pytest
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]
MEGAPIXELS_12 = (4000, 3000)


@pytest.fixture(scope="module")
def address(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Serve the app anew: nothing is loaded yet."""
    with browsing.serving(made, tmp_path_factory.mktemp("kept") / "faces.sqlite") as started:
        yield started


def judge(what: str, seconds: float, limit: float) -> None:
    print(f"\n{what}: {seconds:.2f} s", end="")
    assert seconds < limit, what


def test_the_waits_of_a_visitor(page: Page, address: str, photo: Callable[..., Path]) -> None:
    for what, limit in (("first page on a fresh server", 20), ("first page again", 8)):
        start = time.perf_counter()
        page.goto(address)
        browsing.said(page, browsing.PAGES[""])
        judge(what, time.perf_counter() - start, limit)
    page.goto(f"{address}/recognise")
    browsing.said(page, "Needed for a match")
    browsing.choose(page, "Photo", "Your photo")
    before = ""
    for number, what in enumerate(("first time", "warm", "warm, another"), start=1):
        file, start = photo(number, size=MEGAPIXELS_12), time.perf_counter()
        browsing.upload(page, file)
        found = page.get_by_text("Face 1: unknown person")
        seen = page.get_by_alt_text("Face 1, aligned")
        expect(seen).not_to_have_attribute("src", before, timeout=browsing.LONG)
        expect(found).to_be_visible(timeout=browsing.LONG)
        before = seen.get_attribute("src") or ""
        judge(f"Recognise, 12 megapixels, {what}", time.perf_counter() - start, 30 if number == 1 else 8)
        browsing.settle(page)


def test_the_waits_at_the_slider_of_reconstruct(page: Page, address: str) -> None:
    browsing.show(page, address, "reconstruct")
    slider = page.get_by_role("slider")
    slider.focus()
    picture = page.get_by_test_id("stImage").locator("img").first
    waits = []
    for _ in range(6):
        before, start = picture.get_attribute("alt") or "", time.perf_counter()
        page.keyboard.press("ArrowRight" if len(waits) % 2 else "ArrowLeft")
        expect(picture).not_to_have_attribute("alt", before, timeout=browsing.LONG)  # it tells the errors
        waits.append(time.perf_counter() - start)
        page.wait_for_timeout(200)
    judge("slider on Reconstruct, median", sorted(waits)[len(waits) // 2], 3)
