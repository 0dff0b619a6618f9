"""Aligned faces on disk: one Parquet row per face, the image as PNG bytes.

Shapes: N faces, H side of an aligned face in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from facemae import results
from facemae.data.images import ImageError, open_image
from facemae.errors import IntegrityError


@dataclass(frozen=True)
class Faces:
    """Aligned faces in memory.

    Attributes:
        images: (N, H, H, 3) uint8.
        sample_ids: (N,) names of the photos.
        people: (N,) person of each face, or None where it is not known.
    """

    images: np.ndarray
    sample_ids: list[str]
    people: list[str | None]


def load_faces(faces: Path, rows: pd.DataFrame) -> Faces:
    """Return the faces that `rows` (with a column sample_id) names, in its order.

    Raises:
        IntegrityError: the store is damaged, or lacks a face.
    """
    table = results.read_table(faces, ["sample_id", "person", "image"]).set_index("sample_id")
    try:
        chosen = table.loc[rows["sample_id"].to_list()]
        images = np.stack([np.asarray(open_image(data)) for data in chosen["image"]])
    except KeyError as error:
        raise IntegrityError(
            f"{faces} lacks a face of the split ({error}); align the photos again."
        ) from error
    except (ImageError, ValueError) as error:  # ValueError: faces of different sizes
        raise IntegrityError(f"{faces} holds a damaged face ({error}); align the photos again.") from error
    people = [person if isinstance(person, str) else None for person in chosen["person"]]
    return Faces(images, chosen.index.to_list(), people)
