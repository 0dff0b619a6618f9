"""The data stages: list the photos, align the faces, split the people."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from facemae import config, results
from facemae.data.align import Outcome, align_photos
from facemae.data.images import encode_png
from facemae.data.sources import Photo, folder_photos, orl_photos
from facemae.data.split import UNLABELLED, check_split, split_people
from facemae.errors import DataError
from facemae.progress import say, track

NAMED_EXAMPLES = 3


def fetch(experiment: config.Experiment, out: Path) -> None:
    """List every photo of the experiment with its person and path; the photos stay where they are.

    Raises:
        UsageError, DataError: a folder is missing or empty.
        IntegrityError: the packaged faces are not the published ones.
    """
    photos = _labelled(experiment.data) + _unlabelled(experiment.data)
    table = pd.DataFrame(
        {
            "sample_id": [photo.sample_id for photo in photos],
            "person": [photo.person for photo in photos],
            # As bytes, since a file name need not be text.
            "path": [os.fsencode(photo.path.absolute()) for photo in photos],
        }
    )
    people = table["person"].nunique()
    say(
        "fetch",
        f"{len(photos)} photos, {people} people, {int(table['person'].isna().sum())} photos without a person",
    )
    if people < 2:
        raise DataError(
            f"data.labelled: {experiment.data.labelled} names {people} people where at least 2 are needed; "
            "put each person's photos in a folder of their own, and photos of unknown people under "
            "data.unlabelled."
        )
    results.write_table(out, table, results.PHOTO_COLUMNS)


def align(experiment: config.Experiment, photos: Path, faces: Path, outcomes: Path, threads: int) -> None:
    """Detect, warp and store the largest face of every photo, and record what became of each photo.

    Raises:
        DataError: more photos than `data.max_skipped` have no usable face.
    """
    import torch

    from facemae import device
    from facemae.data.detect import MtcnnDetector

    compute = device.choose(experiment.device, "float32", threads)
    listed = _read_photos(photos)
    say("align", f"{len(listed)} photos to {experiment.data.image_size} px, {compute}")
    detector = MtcnnDetector(str(compute.device))
    aligned = align_photos(
        listed, detector, size=experiment.data.image_size, min_score=experiment.data.min_score
    )
    records, rows = [], []
    with torch.inference_mode():
        for outcome, image in track(aligned, len(listed), "align", "photos"):
            records.append(asdict(outcome))
            if image is not None:
                rows.append(_face_row(outcome, image))
    _report(records, experiment.data.max_skipped, outcomes)
    results.write_lines(outcomes, records)
    results.write_table(faces, pd.DataFrame(rows), results.FACE_COLUMNS)


def split(experiment: config.Experiment, faces: Path, out: Path) -> None:
    """Give every face its role, and stop if anyone is both trained on and evaluated on.

    Raises:
        DataError: there are too few people.
        IntegrityError: the split leaks.
    """
    table = results.read_table(faces, ["sample_id", "person", "sha256"])
    roles = split_people(table, experiment.split)
    check_split(roles)
    results.write_table(out, roles, results.SPLIT_COLUMNS)
    copies = len(table) - len(roles)
    for role, part in roles.groupby("role"):
        say("split", f"{role}: {len(part)} faces of {part['person'].nunique()} people")
    if copies:
        say(
            "split",
            f"left out {copies} faces: copies of another photo, or among the labelled without a person",
        )


def _labelled(data: config.Data) -> list[Photo]:
    if data.labelled == "orl":
        return orl_photos()
    return [_under("labelled", photo) for photo in folder_photos(Path(data.labelled), labelled=True)]


def _unlabelled(data: config.Data) -> list[Photo]:
    if data.unlabelled is None:
        return []
    return [_under(UNLABELLED, photo) for photo in folder_photos(Path(data.unlabelled), labelled=False)]


def _under(prefix: str, photo: Photo) -> Photo:
    return replace(photo, sample_id=f"{prefix}/{photo.sample_id}")


def _read_photos(path: Path) -> list[Photo]:
    table = results.read_table(path)
    people = [person if isinstance(person, str) else None for person in table["person"]]
    paths = [Path(os.fsdecode(name)) for name in table["path"]]
    return [Photo(*row) for row in zip(table["sample_id"], people, paths, strict=True)]


def _face_row(outcome: Outcome, image: np.ndarray) -> dict[str, Any]:
    return {
        "sample_id": outcome.sample_id,
        "person": outcome.person,
        "sha256": outcome.sha256,
        "image": encode_png(image),
    }


def _report(records: list[dict[str, Any]], limit: float, outcomes: Path) -> None:
    """Print a summary by outcome; stop when too many photos have no usable face."""
    for code, count in Counter(record["code"] for record in records).most_common():
        examples = [r["sample_id"] for r in records if r["code"] == code][:NAMED_EXAMPLES]
        say("align", f"{code}: {count}" + ("" if code == "OK" else f" ({', '.join(examples)})"))
    listing = outcomes.with_name("rejected.jsonl")
    listing.unlink(missing_ok=True)  # of an earlier attempt
    skipped = [record for record in records if record["code"] != "OK"]
    share = len(skipped) / len(records)
    if share > limit or len(skipped) == len(records):
        # Beside the declared output, which the workflow deletes when the stage fails.
        results.write_lines(listing, skipped)
        raise DataError(
            f"{len(skipped)} of {len(records)} photos ({share:.0%}) have no usable face, more than "
            f"data.max_skipped {limit:.0%} allows; {listing} lists each with its reason."
        )
