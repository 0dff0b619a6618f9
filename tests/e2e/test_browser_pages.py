"""Tabs, samples chosen by their picture, completions by step, and the switch between results folders."""

import itertools
import shutil
from pathlib import Path

import browsing
import numpy as np
import pytest
import safetensors.numpy
from playwright.sync_api import Browser, Page, expect

from facemae.core import files, layout
from facemae.core.layout import Results

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]


@pytest.mark.parametrize(
    ("path", "tab", "seen"),
    [
        ("compare", "Masks", "What masks are like"),
        ("compare", "Completions", "Where each strategy errs"),
        ("results", "ROC and DET", "DET curves"),
        ("results", "Training", "Fine-tuning"),
        ("explain", "All faces", "each colour a person"),
    ],
)
def test_a_tab_opens_stays_in_the_address_and_fits_a_telephone(
    page: Page, address: str, path: str, tab: str, seen: str
) -> None:
    browsing.show(page, address, path)
    page.get_by_role("tab", name=tab).click()
    browsing.said(page, seen)
    assert "tab=" in page.url
    page.set_viewport_size({"width": browsing.NARROW, "height": 844})
    browsing.settle(page)
    assert browsing.too_wide(page) == []
    page.reload()
    browsing.said(page, seen)


@pytest.mark.parametrize("path", ["", "reconstruct", "explain"])
def test_pictures_are_wide_enough_on_a_telephone(page: Page, address: str, path: str) -> None:
    page.set_viewport_size({"width": browsing.NARROW, "height": 844})
    browsing.show(page, address, path)
    pictures = page.get_by_test_id("stImage").locator("img").all()
    widths = [box["width"] for each in pictures if (box := each.bounding_box())]
    assert len(widths) > 2
    assert min(widths) >= 150


@pytest.mark.parametrize("width", [browsing.NARROW, 800])
def test_what_a_model_was_trained_on_is_not_cut_off(page: Page, address: str, width: int) -> None:
    page.set_viewport_size({"width": width, "height": 900})
    browsing.show(page, address, "recognise", "?model=region%2F0&other=random%2F0")
    for name in ("region/0", "random/0"):
        expect(page.get_by_text(f"{name} was trained on").first).to_be_visible(timeout=browsing.LONG)
    assert browsing.cut_off(page) == []


def test_verdicts_are_scrolled_on_a_telephone_and_their_words_stay_apart(page: Page, address: str) -> None:
    page.set_viewport_size({"width": browsing.NARROW, "height": 844})
    browsing.show(page, address, "compare")
    matrix = page.locator(".st-key-verdict_matrix")
    words = matrix.locator(".hm .heatmap-label, .heatmap-label").all()
    boxes = sorted(
        (round(box["y"]), box["x"], box["x"] + box["width"]) for each in words if (box := each.bounding_box())
    )
    assert len(boxes) > 6
    for (row, _, end), (other, start, _) in itertools.pairwise(boxes):
        assert row != other or start >= end
    assert matrix.evaluate("each => each.scrollWidth > each.clientWidth")
    assert browsing.too_wide(page) == []


def test_a_sample_is_chosen_by_its_picture(page: Page, address: str) -> None:
    browsing.show(page, address, "reconstruct")
    faces = page.locator('[data-part="faces"] button')
    expect(faces.first).to_be_visible(timeout=browsing.LONG)
    expect(faces.first).to_have_attribute("aria-pressed", "true")
    name = faces.nth(3).get_attribute("title")
    assert name
    faces.nth(3).click()
    expect(faces.nth(3)).to_have_attribute("aria-pressed", "true", timeout=browsing.LONG)
    expect(page.get_by_role("combobox", name="Face: sample")).to_have_value(name, timeout=browsing.LONG)
    browsing.settle(page)
    assert "face=" in page.url


def test_completions_by_step_and_another_results_folder(made: Path, tmp_path: Path, browser: Browser) -> None:
    for name in ("results", "results-mine"):
        shutil.copytree(made, tmp_path / name)
    pictures = np.full((2, 3, 112, 112, 3), 7, np.uint8)
    content = safetensors.numpy.save({"step": np.array([5, 40]), "reconstruction": pictures})
    for run in ("random", "region"):
        files.atomic_write(Results(tmp_path / "results").stage(run, 0, "pretrain") / layout.PROGRESS, content)
    gallery = tmp_path / "kept" / "faces.sqlite"
    with browsing.serving(tmp_path / "results", gallery) as there, browsing.tab(browser, there) as page:
        page.goto(f"{there}/compare?tab=Completions")
        slider = page.get_by_role("slider", name="Step of pretraining")
        expect(slider).to_be_visible(timeout=browsing.LONG)
        slider.press("ArrowLeft")
        expect(page.get_by_test_id("stSlider").get_by_text("5", exact=True).first).to_be_visible(
            timeout=browsing.LONG
        )
        browsing.pick(page, "Results folder", "results-mine")
        expect(slider).to_have_count(0, timeout=browsing.LONG)  # that folder keeps no completions on the way
        assert "folder=results-mine" in page.url
        page.get_by_role("link", name="Home").first.click()
        browsing.said(page, browsing.PAGES[""])
        expect(page.get_by_role("combobox", name="Results folder")).to_have_value("results-mine")
