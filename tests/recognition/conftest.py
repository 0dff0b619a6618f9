"""An invented results folder with trained-looking models, real faces, and an empty gallery."""

from pathlib import Path

import numpy as np
import pytest
from results_folder import make_results

from facemae.core.layout import Results
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition.gallery.store import Gallery
from facemae.recognition.recogniser import FaceFinder, Recogniser
from facemae.recognition.trained_models import models


@pytest.fixture(scope="session")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("results")
    make_results(folder)
    return folder


@pytest.fixture(scope="session")
def paths(made) -> Results:
    return Results(made)


@pytest.fixture(scope="session")
def finder() -> FaceFinder:
    return FaceFinder(112)


@pytest.fixture(scope="session")
def recogniser(paths, finder) -> Recogniser:
    return Recogniser(models(paths)[0], "cpu", finder)


@pytest.fixture(scope="session")
def photos() -> dict[str, Path]:
    """The first two photos of every person of ORL, by name."""
    return {each.sample_id: each.path for each in orl_photos() if each.sample_id.endswith(("/01", "/02"))}


@pytest.fixture(scope="session")
def group(photos, tmp_path_factory) -> Path:
    """Three faces side by side on one photo."""
    faces = [np.asarray(open_image(photos[f"orl/s{person:02}/01"])) for person in (1, 2, 3)]
    from PIL import Image

    wide = Image.fromarray(np.concatenate(faces, axis=1))
    path = tmp_path_factory.mktemp("photos") / "group.png"
    wide.resize((wide.width * 2, wide.height * 2)).save(path)
    return path


@pytest.fixture(scope="session")
def crowd(photos, tmp_path_factory) -> Path:
    """Fifty faces on one photo, in five rows."""
    from PIL import Image

    each = [open_image(path) for path in [*photos.values()][:50]]
    width, height = each[0].size
    whole = Image.new("RGB", (10 * width, 5 * height))
    for place, face in enumerate(each):
        whole.paste(face, (place % 10 * width, place // 10 * height))
    path = tmp_path_factory.mktemp("photos") / "crowd.png"
    whole.save(path)
    return path


@pytest.fixture
def gallery(tmp_path):
    with Gallery(tmp_path / "faces.sqlite") as opened:
        yield opened
