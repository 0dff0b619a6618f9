"""A face under a grid of cells that are painted with mouse, finger or keyboard."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np
import streamlit as st
from numpy.typing import NDArray

from facemae.app import elements

WIDTH = 280  # pixels: on a telephone it leaves a margin to scroll the page by
GREY = "#808080"  # what reconstructions.masked paints hidden patches in

_HTML = """
<div class="board">
  <div class="frame" data-part="frame">
    <img data-part="image" alt="" draggable="false">
    <canvas data-part="canvas" tabindex="0" role="application"></canvas>
  </div>
  <div class="row">
    <button type="button" data-part="clear">Clear</button>
    <button type="button" data-part="invert">Invert</button>
    <span class="count" data-part="count"></span>
    <span class="spoken" data-part="spoken" aria-live="polite"></span>
  </div>
</div>
"""
_board = elements.component("paint", _HTML)


def cells(
    key: str, picture: bytes, side: int, start: Sequence[int] = (), unit: str = "cells"
) -> NDArray[np.bool_]:
    """Show a square picture (PNG) to paint on, and return which of its cells (side, side) are painted.

    Pressing and dragging paints, or wipes where it starts on a painted cell; arrows move, space paints.
    The page runs again when the pointer is released. What is painted belongs to the key, of which another
    number of cells needs another; cells that are painted at first are counted row by row.
    """
    # Streamlit forgets an element that a run leaves out; what was painted shall be there when it is back.
    kept = st.session_state.get(f"{key}_kept", list(start))
    shown = st.session_state.get(key) or {}
    data = {
        "picture": base64.b64encode(picture).decode(),
        "side": side, "width": WIDTH, "colour": GREY, "unit": unit,
        "start": list(start), "cells": np.flatnonzero(mask_of(shown.get("cells", kept), side)).tolist(),
        "label": f"Paint over the picture, {side} by {side} {unit}: arrow keys move, space paints or wipes.",
    }  # fmt: skip
    found = _board(key=key, data=data, default={"cells": kept}, on_cells_change=lambda: None)
    painted = mask_of(found.get("cells"), side)
    st.session_state[f"{key}_kept"] = np.flatnonzero(painted).tolist()
    return painted


def mask_of(painted: Any, side: int) -> NDArray[np.bool_]:
    """Return (side, side) bool of a list of cells as a browser sent it; what is no cell is left out."""
    mask = np.zeros(side * side, np.bool_)
    if isinstance(painted, list):
        known = [cell for cell in painted[: 2 * side * side] if type(cell) is int and 0 <= cell < side * side]
        mask[known] = True
    return mask.reshape(side, side)
