"""The known sources of faces, by the name that `config.yaml` gives them."""

from __future__ import annotations

from facemae.data.sources import celeba, ck48, fer2013, insightface, lfw, orl, utkface, yaleb
from facemae.data.sources.base import Source

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        orl.SOURCE,
        *lfw.SOURCES,
        utkface.SOURCE,
        yaleb.SOURCE,
        ck48.SOURCE,
        celeba.SOURCE,
        fer2013.SOURCE,
        *insightface.SOURCES,
    )
}
# Names for whichever of several forms of a data set is there, best first.
VARIANTS: dict[str, tuple[str, ...]] = {"lfw": ("lfw-deepfunneled", "lfw-funneled", "lfw-original")}
