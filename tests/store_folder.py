"""A folder of aligned faces made from arrays, by the stages' own writers and without a detector."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from facemae.core import files
from facemae.core.layout import SET_LABELLED, DataFolder
from facemae.data.alignment.align import Aligned, Outcome
from facemae.data.faces import shards as store
from facemae.data.faces.cache import build_cache
from facemae.data.images import encode_png
from facemae.data.sources import manifest
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import Entry


def make_entries(
    folder: Path, images: np.ndarray, names: Sequence[str], people: Sequence[str | None]
) -> list[Entry]:
    """Write each image as a photo and return its row of the manifest."""
    entries = []
    for number, (image, name, person) in enumerate(zip(images, names, people, strict=True)):
        path = folder / f"{number:05}.png"
        files.atomic_write(path, encode_png(image))
        entries.append(manifest.enter(Photo(name, person, path), "folder", SET_LABELLED))
    return entries


def make_outcome(entry: Entry, image: np.ndarray) -> Outcome:
    """Return the outcome of a photo that is an aligned face."""
    points = np.array([(3, 4), (7, 4), (5, 6), (4, 8), (6, 8)], np.float32) * image.shape[0] / 10
    face = Aligned(image, sharpness=50.0, score=0.99, landmarks=points, face_px=60.0, residual=1.0, yaw=2.0)
    return Outcome(entry, found=1, score=0.99, faces=(face,))


def make_store(
    root: Path, images: np.ndarray, names: Sequence[str], people: Sequence[str | None]
) -> DataFolder:
    """Fill `root` with a manifest, one shard, its index and the decoded cache."""
    folder = DataFolder(root)
    entries = make_entries(root / "photos", images, names, people)
    manifest.write(folder.photos, entries, {})
    shards = folder.shards / "made"
    outcomes = [make_outcome(entry, image) for entry, image in zip(entries, images, strict=True)]
    store.write_shard(store.shard_path(shards, 0), outcomes, store.schema([]))
    store.finish(folder, shards)
    build_cache(folder)
    return folder
