"""What can be taken away from the app, downloaded in a real browser and read again."""

import json
from pathlib import Path

import browsing
import pandas as pd
import pytest
from playwright.sync_api import Page

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]


def saved(page: Page, button: str, folder: Path) -> Path:
    """Press a button of the page, and return the file that comes."""
    with page.expect_download(timeout=browsing.LONG) as coming:
        page.get_by_role("button", name=button).first.click()
    file = folder / coming.value.suggested_filename
    coming.value.save_as(file)
    return file


def test_a_table_comes_as_csv_and_parquet(page: Page, address: str, tmp_path: Path) -> None:
    browsing.show(page, address, "results")
    text = saved(page, "This table as CSV", tmp_path)
    binary = saved(page, "This table as Parquet", tmp_path)
    assert (text.suffix, binary.suffix) == (".csv", ".parquet")
    columns = ["run", "value"]
    pd.testing.assert_frame_equal(pd.read_csv(text)[columns], pd.read_parquet(binary)[columns])
    assert len(pd.read_parquet(saved(page, "All numbers as Parquet", tmp_path))) > len(pd.read_csv(text))


def test_a_chart_comes_as_a_page_that_asks_no_network(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/compare?save=HTML")
    browsing.said(page, browsing.PAGES["compare"])
    browsing.settle(page)
    file = saved(page, "Save as HTML", tmp_path)
    with browsing.tab(page.context.browser, file.as_uri()) as alone:
        alone.goto(file.as_uri())
        alone.locator(".plot-container svg").first.wait_for(state="visible", timeout=browsing.LONG)


def test_a_chart_comes_as_a_picture(page: Page, address: str, tmp_path: Path) -> None:
    page.goto(f"{address}/compare?save=SVG")
    browsing.said(page, browsing.PAGES["compare"])
    browsing.settle(page)
    with page.expect_download(timeout=browsing.LONG) as coming:
        page.locator(".modebar-btn").first.click(force=True)
    assert coming.value.suggested_filename.endswith(".svg")
    coming.value.save_as(tmp_path / "chart.svg")
    assert "<svg" in (tmp_path / "chart.svg").read_text()


def test_the_gallery_comes_as_json(page: Page, address: str, nobody: Path, tmp_path: Path) -> None:
    browsing.show(page, address, "gallery")
    browsing.press(page, "Enrol the demo people")
    browsing.said(page, "12 demo people are enrolled.")
    page.get_by_text("Export or delete everybody").click()
    found = json.loads(saved(page, "Export everybody", tmp_path).read_text())
    assert len(found["people"]) == 12
    assert all(person["templates"] for person in found["people"])
