"""The webcam in a real browser, filming a real face."""

from collections.abc import Callable, Iterator
from pathlib import Path

import browsing
import pytest
from playwright.sync_api import Browser, Page, expect

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not browsing.CHROMIUM, reason="chromium is not installed: apt-get install chromium"),
]
FRAMES = 60  # of the film, which is shown over and over
FAKE = ["--use-fake-ui-for-media-stream", "--use-fake-device-for-media-stream"]


@pytest.fixture(scope="module")
def browser(photo: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """Start a browser whose camera films one of ORL's people."""
    film = tmp_path_factory.mktemp("film") / "face.mjpeg"
    film.write_bytes(photo(8, size=(640, 480)).read_bytes() * FRAMES)
    with browsing.chromium(*FAKE, f"--use-file-for-fake-video-capture={film}") as started:
        yield started


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open a tab that may use the camera."""
    with browsing.tab(browser, address, permissions=["camera"]) as opened:
        yield opened


def shoot(page: Page) -> None:
    page.locator("video").scroll_into_view_if_needed()  # it films nothing where it cannot be seen
    page.wait_for_function("() => document.querySelector('video').currentTime > 0.5", timeout=browsing.LONG)
    page.get_by_role("button", name="Take Photo").click()


def test_who_is_enrolled_by_the_webcam_is_recognised_by_it(page: Page, address: str, nobody: Path) -> None:
    browsing.show(page, address, "gallery")
    browsing.choose(page, "From", "Webcam")
    shoot(page)
    page.get_by_label("Name", exact=True).fill("Cam")
    page.get_by_label("Name", exact=True).press("Tab")
    browsing.tick(page, "The people shown have agreed to this")
    browsing.settle(page)
    browsing.press(page, "Enrol")
    browsing.said(page, "Cam is enrolled with 1 photo")
    browsing.show(page, address, "recognise")
    browsing.choose(page, "Photo", "Webcam")
    shoot(page)
    expect(page.get_by_alt_text("Your photo, 1 face boxed and numbered")).to_be_visible(timeout=browsing.LONG)
    browsing.said(page, "Face 1: Cam")


def test_a_face_before_the_webcam_is_reconstructed(page: Page, address: str) -> None:
    page.goto(f"{address}/reconstruct")
    browsing.said(page, "Error on hidden patches")
    browsing.choose(page, "Face", "Webcam")
    expect(page.get_by_text("Error on hidden patches")).to_have_count(0, timeout=browsing.LONG)
    shoot(page)
    browsing.said(page, "Error on hidden patches")
