"""A folder of random aligned faces with a split: all that a training stage reads."""

from pathlib import Path

import numpy as np
import pandas as pd
from store_folder import make_store

from facemae.core import files, layout, records
from facemae.core.layout import DataFolder

SOURCE = {"name": "made", "align": "landmarks", "crop": [0.0, 0.0, 1.0, 1.0]}


def make_folder(root: Path, size: int, people: int = 8, shots: int = 4, images=None) -> DataFolder:
    """Fill `root`: the first half of the people to train on, the others to evaluate."""
    names = [f"p{person}/{shot}" for person in range(people) for shot in range(shots)]
    owners = [name.partition("/")[0] for name in names]
    if images is None:
        draw = np.random.default_rng(0)
        images = draw.integers(0, 256, (len(names), size, size, 3), dtype=np.uint8)
    folder = make_store(root, images, names, owners)
    trained = [int(person[1:]) < people // 2 for person in owners]
    roles = [layout.ROLE_TRAIN if each else layout.ROLE_EVALUATION for each in trained]
    table = pd.DataFrame({"sample_id": names, "person": owners, "role": roles, "sha256": names})
    table = table.assign(
        fold=[int(person[1:]) % 2 for person in owners], part=0, trainable=trained, enrolled=True
    )
    records.write_table(folder.split, table, layout.SPLIT_COLUMNS)
    files.write_json(folder.sources, [SOURCE])
    return folder
