"""The invented results folder, served, and a tab to look at it; photos of real faces to show it."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import browsing
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page
from results_folder import make_results, photos_are_orls

from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition.gallery.store import Gallery


@dataclass(frozen=True)
class Served:
    """A running app: its address, and the file of its gallery."""

    address: str
    gallery: Path


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a results folder to show."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    photos_are_orls(folder)
    return folder


@pytest.fixture(scope="session")
def served(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Serve the results with a gallery of their own."""
    gallery = tmp_path_factory.mktemp("kept") / "faces.sqlite"
    with browsing.serving(made, gallery) as address:
        yield Served(address, gallery)


@pytest.fixture(scope="session")
def address(served: Served) -> str:
    """Return where the app is."""
    return served.address


@pytest.fixture
def nobody(served: Served) -> Path:
    """Empty the gallery, as another process, and return its file."""
    with Gallery(served.gallery) as kept:
        kept.erase()
    return served.gallery


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Start a browser without a camera."""
    with browsing.chromium() as started:
        yield started


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    """Open an empty tab, and check afterwards what it asked for and complained of."""
    with browsing.tab(browser, address) as opened:
        yield opened


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return what writes ORL's people, side by side and enlarged, as one JPEG, and returns the file."""
    folder = tmp_path_factory.mktemp("photos")
    known = {each.sample_id: each.path for each in orl_photos()}

    def write(*people: int, shot: int = 1, size: tuple[int, int] | None = None) -> Path:
        faces = [np.asarray(open_image(known[f"orl/s{person:02}/{shot:02}"])) for person in people]
        wide = Image.fromarray(np.concatenate(faces, axis=1))
        width, height = size or (4 * wide.width, 4 * wide.height)
        scale = min(width / wide.width, height / wide.height)
        wide = wide.resize((round(wide.width * scale), round(wide.height * scale)), Image.Resampling.BICUBIC)
        framed = Image.new("RGB", (width, height), (96, 96, 96))
        framed.paste(wide, ((width - wide.width) // 2, (height - wide.height) // 2))
        file = folder / f"{'-'.join(map(str, people))}-{shot}-{width}.jpg"
        framed.save(file, quality=90)
        return file

    return write
