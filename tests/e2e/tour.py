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
from playwright.sync_api import FloatRect, Page

IMAGES = browsing.ROOT / "docs" / "images"
WIDTH, SCALE = 960, 4 / 3  # of the window in pixels, and how many of the picture stand for one of them
MARGIN = 12  # pixels of the window above what is shown
FREQUENT, RARE = 176, 80  # colours of a picture: those of greys and surfaces, and of the few bright patches
ALMOST = 249  # of 255: a colour's part beyond it counts as full
LARGEST = 250_000  # bytes


@dataclass(frozen=True)
class View:
    """One picture.

    Attributes:
        path: Of `browsing.PAGES`.
        first: Text at which it begins.
        last: Text below that, before which it ends.
        query: What is chosen by the address.
        act: What a visitor does before.
    """

    path: str
    first: str
    last: str
    query: str = ""
    act: Callable[[Page], None] | None = None


def _masks(page: Page) -> None:
    page.get_by_role("tab", name="Masks").click()
    browsing.said(page, "What masks are like")
    browsing.settle(page)


def _person(page: Page) -> None:
    browsing.pick(page, "Rename, export or delete", "Demo s05")


MODEL, TWO_MODELS = "?model=dlib", "?model=face-mae&model=region%2F0"
VIEWS = {
    "compare": View("compare", "Compare masking strategies", "Visible: tokens of an image", act=_masks),
    "reconstruct": View("reconstruct", "Reconstruct a face", "The error is measured on", TWO_MODELS),
    "recognise": View("recognise", "Recognise", "Measure this cover", MODEL),
    "gallery": View("gallery", "Who is enrolled", "Export or delete everybody", MODEL, act=_person),
    "explain": View("explain", "Where the score comes from", "The same in numbers"),
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
            browsing.show(page, address, "recognise", MODEL)
            browsing.press(page, "Enrol the demo people")
            browsing.said(page, "people are enrolled with this model.")
        for name, view in VIEWS.items():
            window = {"width": WIDTH, "height": 900}
            with browsing.tab(browser, address, viewport=window, device_scale_factor=SCALE) as page:
                browsing.show(page, address, view.path, view.query)
                if view.act:
                    view.act(page)
                browsing.enlarge(page)
                _write(page.screenshot(clip=_part(page, view)), folder / f"app-{name}.png")


def _part(page: Page, view: View) -> FloatRect:
    """Return where on the page a view is."""
    first = _tops(page, view.first, exact=True)[0]
    last = next(top for top in _tops(page, view.last) if top > first + MARGIN)
    return {"x": 0, "y": first - MARGIN, "width": WIDTH, "height": last - first}


def _tops(page: Page, text: str, *, exact: bool = False) -> list[float]:
    """Return how far below the page's top a text is, wherever it is."""
    places = page.get_by_test_id("stMain").get_by_text(text, exact=exact)
    boxes = [each.bounding_box() for each in places.all()]
    return sorted(box["y"] for box in boxes if box)


def _write(picture: bytes, file: Path) -> None:
    """Write a picture with few colours, which takes a fraction of the bytes."""
    whole = Image.open(io.BytesIO(picture)).convert("RGB")
    frequent = whole.quantize(FREQUENT, Image.Quantize.MEDIANCUT).getpalette() or []
    rare = whole.quantize(RARE, Image.Quantize.MAXCOVERAGE).getpalette() or []
    both = Image.new("P", (1, 1))
    colours = [*frequent[: 3 * FREQUENT], *rare[: 3 * RARE]]
    both.putpalette([255 if each > ALMOST else each for each in colours])  # the page's ground stays white
    whole.quantize(palette=both, dither=Image.Dither.NONE).save(file, optimize=True)
    if file.stat().st_size > LARGEST:
        raise RuntimeError(f"{file.name} takes {file.stat().st_size:,} bytes, of {LARGEST:,} allowed")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=Path("results"))
    parser.add_argument("--out", type=Path, default=IMAGES)
    chosen = parser.parse_args()
    tour(chosen.results, chosen.out)
