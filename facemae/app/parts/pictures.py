"""Pictures side by side, none narrower than can be seen on a telephone."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st

from facemae.data.images import encode_png
from facemae.report.reconstructions import Pixels

NARROWEST, WIDEST, GAP = 150, 240, 8  # pixels of a picture and between two


def row(
    pictures: Mapping[str, Pixels | bytes],
    *,
    alt: str = "{}",
    narrowest: int = NARROWEST,
    widest: int = WIDEST,
) -> None:
    """Show pictures with their names, as many side by side as fit.

    Args:
        pictures: By name, (H, W, 3 or 4) or as PNG.
        alt: What stands for one where it cannot be seen, with {} for its name.
        narrowest, widest: Of each, in pixels.
    """
    if not pictures:
        return
    count = len(pictures)
    grid = st.grid(count, min_column_width=narrowest, gap=GAP, width=count * (widest + GAP) - GAP)
    for name, picture in pictures.items():
        with grid.cell(), st.container(gap="xxsmall"):
            png = picture if isinstance(picture, bytes) else encode_png(picture)
            # As PNG, since a JPEG blurs the edges of patches, and of a moving picture it makes a still.
            st.image(png, width="stretch", output_format="PNG", alt=alt.format(name))
            st.caption(name, text_alignment="center")
