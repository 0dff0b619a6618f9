"""Where recognition finds its settings: the configuration, and the variable that overrides the gallery."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from facemae import config
from facemae.core.errors import UsageError

SHIPPED = Path(__file__).parents[2] / "config.yaml"
VARIABLE = "FACEMAE_GALLERY"


def settings(path: Path = Path("config.yaml")) -> config.GallerySettings:
    """Return the gallery's settings: of the configuration here, or else of the shipped one.

    A file in `url` is named from the configuration's folder, wherever the command runs. The address in
    FACEMAE_GALLERY comes before it.

    Raises:
        UsageError: the configuration cannot be used, or there is none.
    """
    found = next((each for each in (path, SHIPPED) if each.is_file()), None)
    if found is None:
        raise UsageError(f"{path}: there is no such file; start from a copy of the shipped config.yaml.")
    state = found.stat()
    gallery = _read(found, state.st_mtime_ns, state.st_size)
    return gallery.model_copy(update={"url": gallery_at(gallery.url, found.absolute().parent)})


def gallery_at(url: str, folder: Path) -> str:
    """Return the gallery's address: a file of the settings is named from the configuration's `folder`."""
    if address := os.environ.get(VARIABLE):
        return address  # unlike the file, the variable may hold a password: nothing copies it
    file = file_of(url)
    return url if file is None else str(folder / file)


def file_of(address: str) -> Path | None:
    """Return the file of an address, a path or "sqlite:///path"; None: it is a server's, or none."""
    scheme, named, path = address.rpartition(":///")
    if "://" not in address:
        return Path(address).expanduser()
    if not named or not path or scheme.partition("+")[0] != "sqlite":
        return None
    return Path(path.partition("?")[0]).expanduser()


@functools.lru_cache(maxsize=4)
def _read(path: Path, changed: int, size: int) -> config.GallerySettings:
    """Return a file's settings, read again only when it has changed: a page asks several times."""
    return config.load([path]).gallery
