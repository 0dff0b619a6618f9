"""The photos and their aligned faces: what became of each, what was measured, and which were found twice."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.data.alignment import quality as face_quality
from facemae.data.faces import shards
from facemae.data.images import encode_png
from facemae.data.sources.base import Photo
from facemae.report.phrases import rows_of
from facemae.report.tables import experiment, lines_of, unreadable

QUALITY_COLUMNS = [
    "sample_id", "person", "source", "score", "face_px", "residual", "yaw", "sharpness", "warnings",
]  # fmt: skip
OUTCOME_COLUMNS = ["sample_id", "person", "code", "reason", "hint"]
PLACE_COLUMNS = ["key", "sample_id", "path", "offset", "length"]
TWICE = "Pictures and people found twice"  # the heading over what the split took out or passed on
_SHARED = {
    "name": "same name", "bytes": "same file", "copy": "same file", "hash": "nearly the same picture",
    "embedding": "nearly the same embedding",
}  # fmt: skip
_DONE = {
    "excluded": "taken out of training",
    "dropped": "the second evaluation face is left out",
    "kept": "faces of two evaluation people, both are kept",
}


@dataclass(frozen=True)
class Origin:
    """Where photos come from; `ignored` counts, by reason, the files found there that are no photos."""

    name: str
    title: str
    licence: str
    credit: str
    ignored: dict[str, int]


@dataclass(frozen=True)
class Measure:
    """Something measured on every aligned face, and the warning that it raises beyond its limit."""

    column: str  # where `quality` has it
    warning: str  # code in `face_quality.WARNINGS`
    name: str  # what it is, in a word or two
    title: str  # the same, with its unit
    limit: float  # where the warning begins
    low: bool  # low values are the doubtful ones, not those far from 0
    width: float  # of a histogram's bin, in tenfold steps if `tenfold`
    form: str  # how to write a value
    tenfold: bool = False  # the axis is logarithmic

    @property
    def limits(self) -> list[float]:
        """Return where lines are to be drawn: on both sides for what has a sign."""
        return [-self.limit, self.limit] if self.column == "yaw" else [self.limit]

    def text(self, value: float | None) -> str:
        """Return a value as text, "" where nothing was measured."""
        return "" if value is None or np.isnan(value) else self.form.format(value)


MEASURES = (
    Measure(
        "score", face_quality.UNSURE, "Confidence", "detector's confidence",
        face_quality.MIN_SURE_SCORE, low=True, width=0.005, form="{:.3f}",
    ),
    Measure(
        "face_px", face_quality.SMALL, "Face width", "width of the face in the photo, pixels",
        face_quality.MIN_FACE_PX, low=True, width=0.05, form="{:.0f} px", tenfold=True,
    ),
    Measure(
        "residual", face_quality.ODD, "Off template", "landmarks off the template, share of the side",
        face_quality.MAX_RESIDUAL_SHARE, low=False, width=0.0025, form="{:.1%}",
    ),
    Measure(
        "yaw", face_quality.TURNED, "Turn", "turn of the head, degrees",
        face_quality.MAX_YAW, low=False, width=2.5, form="{:+.0f}\N{DEGREE SIGN}",
    ),
    Measure(
        "sharpness", face_quality.BLURRED, "Sharpness", "sharpness (variance of the Laplacian)",
        face_quality.MIN_SHARPNESS, low=True, width=0.1, form="{:.0f}", tenfold=True,
    ),
)  # fmt: skip
BY_WARNING = {measure.warning: measure for measure in MEASURES}
_LEAST = 0.1  # of a logarithmic axis; less is drawn there


def sources(paths: Results) -> list[Origin]:
    """Return what the photos come from, the labelled source first."""
    found = records.read_record(paths.data.sources, list[Origin])
    if not found or len({each.name for each in found}) < len(found):
        raise IntegrityError(unreadable(paths.data.sources, "no source, or two of one name"))
    return found


def outcomes(paths: Results) -> pd.DataFrame:
    """Return what became of each input photo: sample_id, person, code, reason, hint and source."""
    found = lines_of(paths.data.outcomes, OUTCOME_COLUMNS).fillna("").astype(str)
    listed = records.read_table(paths.data.photos, ["sample_id", "source"])
    for path, known in ((paths.data.outcomes, found), (paths.data.photos, listed)):
        if known["sample_id"].duplicated().any():
            raise IntegrityError(unreadable(path, "a photo is there twice"))
    return found.merge(listed, on="sample_id", how="left").fillna({"source": ""})


def quality(paths: Results) -> pd.DataFrame:
    """Return what was measured on every aligned face, one row each; NaN is what could not be.

    `residual` is a share of the face's side; `warnings` are codes of WARNINGS with ", " between.
    """
    table = records.read_table(paths.data.faces).rename(columns=layout.RENAMED_COLUMNS)
    if missing := set(QUALITY_COLUMNS) - set(table):
        raise IntegrityError(f"{paths.data.faces} lacks the column {min(missing)}; align the photos again.")
    known = [
        ", ".join(code for code in codes if code in face_quality.WARNINGS) for codes in table["warnings"]
    ]
    share = table["residual"] / experiment(paths).data.image_size
    return table[QUALITY_COLUMNS].assign(warnings=known, residual=share)


def tally(paths: Results) -> pd.DataFrame:
    """Return by source its photos, aligned faces, doubtful faces, and photos of each outcome, OK first."""
    found, measured = outcomes(paths), quality(paths)
    codes = ["OK", *(code for code in found["code"].value_counts().index if code != "OK")]
    counted = {"photos": found, "faces": measured, "doubtful": measured[measured["warnings"] != ""]}
    counted |= {code: found[found["code"] == code] for code in codes}
    counts = {name: rows["source"].value_counts() for name, rows in counted.items()}
    table = pd.DataFrame(counts).reindex([each.name for each in sources(paths)])
    return table.fillna(0).astype("int64").rename_axis("source").reset_index()


def overlaps(paths: Results) -> pd.DataFrame:
    """Return the photos found on both sides of the split: kind, evaluation, training, distance and action."""
    return records.read_table(paths.data.overlaps, layout.OVERLAP_COLUMNS)


def faces(paths: Results) -> pd.DataFrame:
    """Return sample_id, person and role of every aligned face, those of evaluation people first."""
    split = records.read_table(paths.data.split, ["sample_id", "person", "role"]).sort_values("sample_id")
    return split.sort_values("role", key=lambda role: role != layout.ROLE_EVALUATION, kind="stable")


def samples(paths: Results, count: int) -> list[str]:
    """Return faces to choose from at a glance: two of each of the first people, those of evaluation first."""
    table = faces(paths)
    two = table[table.groupby(table["person"].fillna(table["sample_id"])).cumcount() < 2]
    return two["sample_id"].head(count).to_list()


def aligned(paths: Results, sample_ids: list[str]) -> dict[str, bytes]:
    """Return those of the aligned faces that there are, as PNG; only their shards are read."""
    index = records.read_table(paths.data.faces, ["sample_id", "shard", "row"])
    found: dict[str, bytes] = {}
    for shard, rows in index[index["sample_id"].isin(sample_ids)].groupby("shard"):
        pictures = shards.read_faces(paths.data, str(shard), rows["row"])
        found |= zip(rows["sample_id"], map(encode_png, pictures), strict=True)
    return found


def face(paths: Results, sample_id: str) -> bytes:
    """Return one aligned face as PNG."""
    found = aligned(paths, [sample_id])
    if sample_id not in found:
        raise IntegrityError(f"There is no face {sample_id!r} in {paths.data.faces}; choose another one.")
    return found[sample_id]


def photos(paths: Results, names: Collection[str], column: str = "sample_id") -> dict[str, Photo]:
    """Return the input photos whose column holds one of the names, with where they were when listed."""
    table = records.read_table(paths.data.photos, PLACE_COLUMNS)
    found = {}
    for row in rows_of(table[table[column].isin(names)]):
        length = None if pd.isna(row["length"]) else int(row["length"])
        place = Path(os.fsdecode(row["path"]))
        found[row["sample_id"]] = Photo(row["sample_id"], None, place, int(row["offset"]), length)
    return found


def origin(paths: Results, sample_id: str) -> tuple[Photo, NDArray[np.float32] | None]:
    """Return the photo that a face is from, and its landmarks: (5, 2) pixels of the upright photo, if any."""
    index = records.read_table(paths.data.faces, ["sample_id", "key", "landmarks"])
    rows = index[index["sample_id"] == sample_id].head(1)
    photo = next(iter(photos(paths, rows["key"].to_list(), "key").values()), None)
    if photo is None:
        raise IntegrityError(
            f"The photo of {sample_id!r} is not listed in {paths.data.photos}; choose another."
        )
    points = rows["landmarks"].iloc[0]
    return photo, None if points is None else np.asarray(points, np.float32).reshape(5, 2)


def credits(paths: Results) -> list[str]:
    """Return who is to be credited for the faces, and under which terms they may be used."""
    return [
        f"Faces: {each.title}. Credit: {each.credit}. Licence: {each.licence}." for each in sources(paths)
    ]


# --- warnings and overlaps, in words and for charts ---


def overlap_words(kind: str, action: str) -> str:
    """Return what two faces share and what was done about it."""
    return f"{_SHARED.get(kind, kind)}, {_DONE.get(action, action)}"


def doubtful_value(warning: str, row: Mapping[Any, Any]) -> str:
    """Return what was measured of a face and raised a warning, as text; "" where it is no measurement."""
    measure = BY_WARNING.get(warning)
    return measure.text(row[measure.column]) if measure else ""


def worst_first(measured: pd.DataFrame, warning: str | None = None) -> pd.DataFrame:
    """Return the faces of `quality` with a warning, the worst first; None: all, most warnings first."""
    if warning is None:
        fewer = -measured["warnings"].str.count(r"\w+")
        return measured.assign(fewer=fewer).sort_values(["fewer", "sharpness"]).drop(columns="fewer")
    part = measured[[warning in codes.split(", ") for codes in measured["warnings"]]]
    measure = BY_WARNING.get(warning)
    if measure is None:  # a photo that was turned upright: there is no more and less of it
        return part
    return part.sort_values(measure.column, key=abs, ascending=measure.low, kind="stable")


def histogram(measured: pd.DataFrame, measure: Measure) -> pd.DataFrame:
    """Return the bins that hold faces: centre on the axis, faces, doubtful. A limit lies between two bins."""
    values = on_axis(measured[measure.column].dropna().to_numpy(float), measure)
    limit = float(on_axis(np.array(measure.limit), measure))
    # Bins include their upper end, since a confidence of exactly 1 is common.
    place, count = np.unique(np.ceil((values - limit) / measure.width - 1e-6) - 1, return_counts=True)
    centre = limit + (place + 0.5) * measure.width
    doubtful = centre < limit if measure.low else abs(centre) > limit
    return pd.DataFrame({"centre": centre, "faces": count, "doubtful": doubtful})


def on_axis(values: NDArray[np.float64], measure: Measure) -> NDArray[np.float64]:
    """Return where values stand on a measure's axis: at their logarithm to base 10 if it is logarithmic."""
    return np.log10(np.maximum(values, _LEAST)) if measure.tenfold else values


def ticks(bins: pd.DataFrame, measure: Measure) -> dict[float, str] | None:
    """Return the labels of a logarithmic axis by place; None for another axis, which labels itself."""
    if not measure.tenfold:
        return None
    low, high = bins["centre"].min() - measure.width, bins["centre"].max() + measure.width
    steps = range(1, 10) if high - low < 0.7 else (1, 2, 5) if high - low < 2.5 else (1,)
    values = [step * 10.0**power for power in range(-1, 6) for step in steps]
    return {float(np.log10(value)): f"{value:g}" for value in values if low <= np.log10(value) <= high}
