"""Every page of the app in a real browser: shown, within the screen, and nothing leaves this machine."""

import os
import re
from pathlib import Path

import browsing
import pytest
from playwright.sync_api import Page, expect

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.mark.parametrize("path", browsing.PAGES)
def test_every_page_is_shown_and_fits_in_every_look(page: Page, address: str, path: str) -> None:
    """FACEMAE_SCREENSHOTS names a folder to write what is seen to."""
    browsing.show(page, address, path)
    expect(page.get_by_test_id("stException")).to_have_count(0)
    _keep(page, path, "light")
    page.emulate_media(color_scheme="dark")
    browsing.settle(page)
    assert _lightness(page) < 200
    _keep(page, path, "dark")
    page.emulate_media(color_scheme="light")
    page.set_viewport_size({"width": browsing.NARROW, "height": 844})
    browsing.settle(page)
    assert _lightness(page) > 600
    assert browsing.too_wide(page) == []
    _keep(page, path, "narrow")


def _keep(page: Page, path: str, look: str) -> None:
    folder = os.environ.get("FACEMAE_SCREENSHOTS")
    if folder:
        browsing.picture(page, Path(folder) / f"{path or 'home'}-{look}.png")


def _lightness(page: Page) -> int:
    """Return red, green and blue of the page's ground, added."""
    ground = page.get_by_test_id("stApp").evaluate("each => getComputedStyle(each).backgroundColor")
    return sum(map(int, re.findall(r"\d+", ground)[:3]))


def test_the_navigation_names_every_page(page: Page, address: str) -> None:
    page.goto(address)
    browsing.said(page, browsing.PAGES[""])
    links = page.get_by_test_id("stTopNavLink").evaluate_all("each => each.map((link) => link.pathname)")
    assert sorted(links) == sorted(f"/{path}" for path in browsing.PAGES)


def test_the_start_page_leads_to_the_others(page: Page, address: str) -> None:
    page.goto(address)
    page.get_by_role("link", name="Compare").last.click()
    browsing.said(page, browsing.PAGES["compare"])
    assert page.url.startswith(f"{address}/compare")


@pytest.mark.parametrize(
    ("path", "query", "seen"),
    [
        ("compare", "?metric=equal+error+rate", "The verdict is by ROC AUC"),
        ("results", "?text=reg&kind=runs", "Mean over seeds, with the interval"),
        ("reconstruct", "?model=region%2F0&hidden=50", "This model was trained with the region mask"),
        ("recognise", "?task=Same+person%3F", "Second photo: sample"),
    ],
)
def test_a_choice_is_in_the_address_and_survives_a_reload(
    page: Page, address: str, path: str, query: str, seen: str
) -> None:
    page.goto(f"{address}/{path}{query}")
    browsing.said(page, seen)
    browsing.settle(page)
    kept = page.url
    assert query.partition("=")[0] + "=" in kept
    if path == "results":  # what is seen of it stands there without a filter too
        _only_the_region_run(page)
    page.reload()
    browsing.said(page, seen)
    browsing.settle(page)
    assert page.url == kept
    if path == "results":
        _only_the_region_run(page)


def _only_the_region_run(page: Page) -> None:
    """Wait until the filters say so, and see that the table obeys."""
    expect(page.get_by_role("textbox", name="Name contains")).to_have_value("reg", timeout=browsing.LONG)
    expect(page.get_by_role("radio", name="runs", exact=True)).to_be_checked(timeout=browsing.LONG)
    shown = browsing.cells(page)
    assert "region" in shown
    assert not {"scratch", "random", "pixels"} & set(shown)


def test_a_choice_made_by_hand_comes_into_the_address(page: Page, address: str) -> None:
    browsing.show(page, address, "results")
    browsing.choose(page, "Kind", "controls")
    assert "kind=controls" in page.url
    page.reload()
    browsing.said(page, browsing.PAGES["results"])
    expect(page.get_by_role("radio", name="controls")).to_be_checked()


def test_a_face_of_the_photos_is_chosen_by_its_number_and_stays_in_the_address(
    page: Page, address: str
) -> None:
    page.goto(f"{address}/alignment?warning=turned")
    browsing.said(page, "2 faces, the worst first")
    page.get_by_role("button", name="+52").click()
    chosen = page.get_by_test_id("stMetricValue").filter(has_text="+52")
    expect(chosen).to_be_visible(timeout=browsing.LONG)
    page.reload()
    expect(chosen).to_be_visible(timeout=browsing.LONG)
    assert "warning=turned&face=" in page.url
