"""Where recognition finds its settings: the configuration, and the variable that overrides the gallery."""

from __future__ import annotations

import os
from pathlib import Path

from facemae import config
from facemae.errors import UsageError

SHIPPED = Path(__file__).parents[2] / "config.yaml"
VARIABLE = "FACEMAE_GALLERY"


def settings(path: Path = Path("config.yaml")) -> config.GallerySettings:
    """Return the gallery's settings: of the configuration here, or else of the shipped one.

    The address in FACEMAE_GALLERY comes before the one in the file.

    Raises:
        UsageError: the configuration cannot be used, or there is none.
    """
    found = next((each for each in (path, SHIPPED) if each.is_file()), None)
    if found is None:
        raise UsageError(f"{path}: there is no such file; start from a copy of the shipped config.yaml.")
    gallery = config.load([found]).gallery
    address = os.environ.get(VARIABLE)
    # Unlike the file, the variable may hold a password: nothing copies it.
    return gallery.model_copy(update={"url": address}) if address else gallery
