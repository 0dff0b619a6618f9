"""Make the README's pictures of the app: python tests/e2e/tour.py --results results

The app is served on a port of its own with demo people in a gallery that is gone afterwards.
"""

import argparse
import io
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import browsing
from PIL import Image
from playwright.sync_api import Page

IMAGES = browsing.ROOT / "docs" / "images"
COLOURS = 128  # of a picture; photos are grey and surfaces plain, so more are hardly seen
LARGEST = 250_000  # bytes


@dataclass(frozen=True)
class View:
    """One picture: the address, what is done on the page first, and the part that is shown.

    Attributes:
        path: Of `browsing.PAGES`.
        query: What is chosen by the address.
        top, height: From where, below the top of the page, and how much is shown, in pixels.
        act: What a visitor does before.
    """

    path: str
    query: str
    height: int
    top: int = 0
    act: Callable[[Page], None] | None = None


def _aids(page: Page) -> None:
    browsing.tick(page, "Patch drop")
    browsing.tick(page, "Reconstruction")
    browsing.settle(page)


VIEWS = {
    "compare": View("compare", "", 1300),
    "reconstruct": View("reconstruct", "?model=random%2F0&model=region%2F0", 1200),
    "recognise": View("recognise", "", 1700, act=_aids),
    "gallery": View("gallery", "", 1100),
    "explain": View("explain", "", 1500),
}


def tour(results: Path, folder: Path) -> None:
    """Write the pictures app-*.png of a results folder into a folder.

    Raises:
        RuntimeError: the app did not start, or a picture became too large.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as kept,
        browsing.serving(results, Path(kept) / "faces.sqlite") as address,
        browsing.chromium() as browser,
    ):
        with browsing.tab(browser, address) as page:
            browsing.show(page, address, "recognise")
            browsing.press(page, "Enrol the demo people")
            browsing.said(page, "people are enrolled with this model.")
        for name, view in VIEWS.items():
            size = {"width": browsing.WIDE, "height": view.top + view.height}
            with browsing.tab(browser, address, viewport=size) as page:
                browsing.show(page, address, view.path, view.query)
                if view.act:
                    view.act(page)
                seen = {"x": 0, "y": view.top, "width": browsing.WIDE, "height": view.height}
                _write(page.screenshot(clip=seen, animations="disabled"), folder / f"app-{name}.png")


def _write(picture: bytes, file: Path) -> None:
    """Write a picture with few colours, which takes a fraction of the bytes."""
    few = Image.open(io.BytesIO(picture)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    few.save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        raise RuntimeError(f"{file.name} takes {file.stat().st_size:,} bytes, of {LARGEST:,} allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=IMAGES)
    chosen = parser.parse_args()
    tour(chosen.results, chosen.out)
