"""A map of faces: points in a plane, and the face of the one under the pointer."""

from __future__ import annotations

import base64
import io
import math

import numpy as np
import pandas as pd
from PIL import Image

from facemae.app import elements, frame
from facemae.core import files
from facemae.core.layout import Results
from facemae.data.images import open_image
from facemae.report import faces

TILE = 64  # pixels of a face in the sheet
QUALITY = 80  # of the sheet's JPEG: 2,000 faces take some 4 MB

_HTML = """
<div class="map" data-part="frame">
  <svg data-part="plane" tabindex="0" role="application"></svg>
  <div class="card" data-part="card">
    <div class="face" data-part="face" role="img"></div>
    <div class="name" data-part="name" aria-live="polite"></div>
  </div>
</div>
"""
_map = elements.component("faces_map", _HTML)


def show(table: pd.DataFrame, what: str) -> None:
    """Show a map of sample_id, person, x and y: a point shows its face and name when it is pointed at."""
    names = table["sample_id"].to_list()
    columns = sheet_columns(len(names))
    number, people = pd.factorize(table["person"])
    picture: bytes = frame.load(sheet, names)
    points = np.round(table[["x", "y"]].to_numpy(float), 4).tolist()
    label = (
        f"{what}: {len(names)} faces of {len(people)} people. Left and right arrows go from face to face, up "
        "and down from person to person; the same is in the table below."
    )
    data = {
        "token": files.sha256(repr((points, names)).encode())[:16], "points": points, "names": names,
        "person": number.tolist(), "people": [str(each) for each in people], "label": label,
        "columns": columns, "rows": math.ceil(len(names) / columns),
        "sheet": base64.b64encode(picture).decode(),
    }  # fmt: skip
    _map(key="faces_map", data=data)


def sheet_columns(count: int) -> int:
    """Return how many faces of so many stand side by side in a sheet."""
    return max(1, math.ceil(math.sqrt(count)))


def sheet(paths: Results, sample_ids: list[str]) -> bytes:
    """Return the aligned faces of those names in rows as one JPEG; grey where there is none."""
    columns = sheet_columns(len(sample_ids))
    rows = math.ceil(len(sample_ids) / columns)
    whole = Image.new("RGB", (columns * TILE, max(1, rows) * TILE), "grey")
    pictures = faces.aligned(paths, sample_ids)
    for place, name in enumerate(sample_ids):
        if name in pictures:
            tile = open_image(pictures[name]).resize((TILE, TILE), Image.Resampling.BILINEAR)
            whole.paste(tile, (place % columns * TILE, place // columns * TILE))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
