"""The data stages: list the photos, align the faces, decode them, split the people."""

from __future__ import annotations

import contextlib
import itertools
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import SET_LABELLED, SET_TESTED, SET_UNLABELLED, DataFolder
from facemae.core.progress import say, track
from facemae.data.alignment.align import Settings
from facemae.data.alignment.detect import mtcnn_version
from facemae.data.faces import pairs
from facemae.data.faces import shards as store
from facemae.data.faces import workers as pool
from facemae.data.faces.cache import open_faces
from facemae.data.faces.split import check_split, evaluated_pairs, listed_people, split_people
from facemae.data.sources import manifest
from facemae.data.sources.base import Attribute, Box, Place
from facemae.data.sources.listing import linked_folders
from facemae.data.sources.locate import ChosenSource, clear_unused, find, locate, raw_dir
from facemae.data.sources.manifest import Entry
from facemae.models import shipped_models

Device = Literal["auto", "cpu", "cuda"]

SUMMARY_LINES = 10
NAMED_EXAMPLES = 3
MIN_SCORE = 0.9  # of the detector, for a data set that is prepared by itself


@dataclass(frozen=True)
class _Listed:
    """A source with its place on this machine, and what was counted while it was listed."""

    wanted: ChosenSource
    place: Place
    counted: Counter[str] = field(default_factory=Counter)
    ignored: Counter[str] = field(default_factory=Counter)
    deep: dict[str, str] = field(default_factory=dict)
    """For each folder at the top an example of the photos too deep below it to name a person."""


def wanted_sources(data: config.Data) -> list[ChosenSource]:
    """Return the sources that the configuration names, the labelled one first.

    Raises:
        UsageError: one is not there, or two are the same, forms of the same, or give photos the same names.
    """
    raw = raw_dir(data.raw_dir)
    wanted = [find(data.labelled, SET_LABELLED, raw)]
    more = [(text, SET_UNLABELLED) for text in data.unlabelled] + [(text, SET_TESTED) for text in data.tested]
    wanted += [find(text, part, raw, number) for number, (text, part) in enumerate(more)]
    for other, each in itertools.combinations(wanted, 2):
        same_form = each.source.folder and each.source.photos is other.source.photos
        same_path = each.path and other.path and each.path.resolve() == other.path.resolve()
        if each.source.name == other.source.name or same_form or same_path:
            raise UsageError(
                f"{each.source.name} and {other.source.name} hold the same photos or give them the same "
                "names; name each data set only once, and rename one of two packs of the same name."
            )
    return wanted


def one_source(text: str, raw: str, **settings: Any) -> config.Data:
    """Return the settings of a data set that is prepared by itself; photos without a face do not matter."""
    usual = {"unlabelled": [], "tested": [], "align": "auto", "faces": "auto", "min_score": MIN_SCORE}
    return config.Data.model_validate(
        usual | {"max_skipped": 1.0, "labelled": text, "raw_dir": raw} | settings
    )


def fetch(wanted: list[ChosenSource], raw: Path, folder: DataFolder) -> None:
    """List every photo of the sources, downloading and unpacking what has to be."""
    listed = [_Listed(each, locate(each, raw, folder.unpacked)) for each in wanted]
    clear_unused([each.place for each in listed], folder.unpacked)
    _check_apart(listed, folder)
    with _alone(folder):
        _list(listed, _attributes(wanted), folder)
    for one in listed:
        _say_listed(one)


def _alone(folder: DataFolder) -> contextlib.AbstractContextManager[None]:
    """Take a folder of faces; a UsageError where another process lists or aligns its photos."""
    return files.exclusive(files.private_folder(folder.shards) / ".lock")


def _list(listed: list[_Listed], attributes: dict[str, Attribute], folder: DataFolder) -> None:
    manifest.write(folder.photos, (entry for one in listed for entry in _entries(one)), attributes)
    lists = [pair for one in listed if one.wanted.source.pairs for pair in one.wanted.source.pairs(one.place)]
    table = pairs.table(lists)
    if len(table):
        known = records.read_table(folder.photos, ["sample_id"])["sample_id"]
        table = pairs.in_spelling_of(table, known)
        pairs.check(table, known)
        for protocol, rows in table.groupby("protocol", sort=False):
            say("fetch", f"{protocol}: {len(rows)} pairs, all of listed photos")
    records.write_table(folder.listed_pairs, table, layout.PAIR_COLUMNS)
    files.write_json(folder.sources, [_described(one, attributes) for one in listed])


def _check_apart(listed: list[_Listed], folder: DataFolder) -> None:
    """Stop if what is written would be listed as photos the next time."""
    out = folder.root.resolve()
    for each in listed:
        images = each.place.images.resolve()
        own = images.is_relative_to(folder.unpacked.resolve())
        if own or not each.wanted.source.images or not images.is_dir():
            continue
        for place in (images, *linked_folders(images)):
            if out.is_relative_to(place):
                link = "" if place == images else f", which a link in {images} leads to"
                raise UsageError(
                    f"{folder.root} lies inside the photos' folder {place}{link}; write elsewhere."
                )


def _attributes(wanted: list[ChosenSource]) -> dict[str, Attribute]:
    found: dict[str, Attribute] = {}
    for each in wanted:
        for name, attribute in each.source.attributes.items():
            if found.setdefault(name, attribute).kind != attribute.kind:
                raise UsageError(
                    f"{each.source.name} and another source both have a column {name}, of different kinds; "
                    "use them in separate runs."
                )
    return found


def _entries(listed: _Listed) -> Iterator[Entry]:
    source, set_name = listed.wanted.source, listed.wanted.set
    people: set[str] = set()
    photos = source.photos(listed.place, listed.ignored)
    for photo in track(photos, source.published_images, f"fetch {source.name}", "photos"):
        if photo.person is not None:
            people.add(photo.person)
        else:
            listed.counted["unnamed"] += 1
            _, top, *rest = photo.sample_id.split("/")
            if not source.folder and len(rest) == 2:
                listed.counted["too deep"] += 1
                listed.deep.setdefault(top, "/".join([top, *rest]))
        yield manifest.enter(photo, source.name, set_name)
        listed.counted["photos"] += 1
    listed.counted["people"] = len(people)


def _too_deep(listed: _Listed) -> str:
    """Return a sentence about photos that lie one folder too deep, if there are some."""
    if not listed.deep:
        return ""
    top, example = next(iter(listed.deep.items()))
    instead = f"name the folder {top} in it instead" if len(listed.deep) == 1 else "move them up"
    return (
        f"{listed.counted['too deep']} photos lie one folder too deep, such as {example}, since a person's "
        f"folder has to lie directly in the one that is named; {instead}"
    )


def _say_listed(listed: _Listed) -> None:
    source, counted = listed.wanted.source, listed.counted
    text = f"{counted['photos']} photos, {counted['people']} people"
    left_out = ", ".join(f"{count} {reason}" for reason, count in listed.ignored.most_common())
    lines = [text + (f"; no photos of it: {left_out}" if left_out else "")]
    if listed.wanted.set == SET_LABELLED:
        if counted["unnamed"] and counted["people"]:
            unnamed = f"{counted['unnamed']} photos name nobody (not directly in a person's folder)"
            lines.append(f"{unnamed} and are used for nothing")
        lines.append(_too_deep(listed))
    if source.published_images not in (None, counted["photos"]):
        lines.append(f"{source.published_images} photos were expected")
    for line in filter(None, lines):
        say("fetch", f"{source.name}: {line}")


def _described(listed: _Listed, attributes: dict[str, Attribute]) -> dict[str, Any]:
    source = listed.wanted.source
    own = ("name", "title", "licence", "credit", "address", "align", "subject")
    return {name: getattr(source, name) for name in own} | {
        "set": listed.wanted.set,
        "crop": list(source.crop),
        "photos": listed.counted["photos"],
        "people": listed.counted["people"],
        "too_deep": _too_deep(listed),
        "ignored": dict(listed.ignored),
        "attributes": {name: asdict(attributes[name]) for name in source.attributes},
    }


def align(data: config.Data, folder: DataFolder, device: Device, workers: int) -> None:
    """Find and warp the faces of all listed photos that have none yet, and record what became of each.

    Raises:
        DataError: more photos than `max_skipped` have no usable face.
        StorageError: the disk is full, or a worker was killed.
    """
    settings = _settings(data, records.read_json(folder.sources))
    shards = folder.shards / records.digest(asdict(settings))
    with _alone(folder):
        pool.align_all(pool.Plan(folder.photos, shards, settings, device), workers)
        for old in folder.shards.iterdir():
            if old.is_dir() and old != shards:
                shutil.rmtree(old)
        counts = store.finish(folder, shards)
    _summarise(counts, folder)
    skipped, photos = counts.total() - counts["OK"], counts.total()
    if not photos:
        raise DataError(f"{folder.photos} lists no photo; put some into the folder, or name another one.")
    if skipped > data.max_skipped * photos or skipped == photos:
        raise DataError(
            f"{skipped} of {photos} photos ({skipped / photos:.1%}) have no usable face, more than "
            f"max_skipped {data.max_skipped:.1%} allows; {folder.rejected} lists each with its reason."
        )


def _settings(data: config.Data, sources: list[dict[str, Any]]) -> Settings:
    modes = {each["name"]: each["align"] if data.align == "auto" else data.align for each in sources}
    crops = {
        each["name"]: cast(Box, tuple(each["crop"])) for each in sources if modes[each["name"]] == "crop"
    }
    faces = {each["name"]: each["subject"] if data.faces == "auto" else data.faces for each in sources}
    # Which face is the most central, or which faces there are, small ones decide too.
    thorough = data.faces in ("central", "all")
    detector = mtcnn_version(thorough=thorough) if len(crops) < len(sources) else ""
    return Settings(data.image_size, data.min_score, faces, crops, detector, thorough)


def _summarise(counts: Counter[str], folder: DataFolder) -> None:
    """Print how many photos had which outcome, in at most ten lines."""
    examples: dict[str, list[str]] = {}
    for record in records.iterate_log(folder.rejected):
        named = examples.setdefault(record["code"], [])
        if len(named) < NAMED_EXAMPLES:
            named.append(record["sample_id"])
    shown = counts.most_common(SUMMARY_LINES - 2)
    for code, count in shown:
        named = examples.get(code, [])
        say("align", f"{code}: {count}" + (f" ({', '.join(named)})" if named else ""))
    if len(counts) > len(shown):
        others = counts.total() - sum(count for _, count in shown)
        say("align", f"{others} photos of {len(counts) - len(shown)} other outcomes")
    say("align", f"{counts.total()} photos; {folder.outcomes} has a line for each")


def split(experiment: config.Experiment, folder: DataFolder) -> None:
    """Give every face its role, and stop if anyone is both trained on and evaluated on."""
    faces = records.read_table(folder.faces, ["sample_id", "person", "source", "set", "sha256", "hash"])
    embeddings = _embeddings(experiment, folder, faces) if experiment.split.embedder else None
    lists, seen = records.read_table(folder.listed_pairs), _seen(experiment, faces)
    listed = None
    if experiment.split.pairs:
        photos = records.read_table(folder.photos, ["sample_id", "person"])
        people = dict(zip(photos["sample_id"], photos["person"], strict=True))
        listed = listed_people(lists, people, experiment.split)
        named = pd.DataFrame({side: lists[side].map(people) for side in ("first", "second")})
        lists = lists[(lists["protocol"] != experiment.split.pairs) | ~named.isin(seen).any(axis=1)]
    roles, overlaps = split_people(faces, experiment.split, embeddings, listed, seen)
    check_split(roles)
    records.write_table(folder.overlaps, overlaps, layout.OVERLAP_COLUMNS)
    for role, part in roles.groupby("role"):
        say("split", f"{role}: {len(part)} faces of {part['person'].nunique()} people")
    for (kind, action), rows in overlaps.groupby(["kind", "action"]):
        say("split", f"overlap by {kind}: {len(rows)} {action}; {folder.overlaps} lists them")
    evaluated = roles[roles["role"] == layout.ROLE_EVALUATION]
    lists = evaluated_pairs(lists, experiment.split)
    drawn = lists[:0] if listed else pairs.generate(evaluated, seed=experiment.split.seed)
    records.write_table(folder.pairs, pd.concat([lists, drawn]), layout.PAIR_COLUMNS)
    records.write_table(folder.split, roles, layout.SPLIT_COLUMNS)


def _seen(experiment: config.Experiment, faces: pd.DataFrame) -> set[str]:
    """Return the people of faces whom shipped models have seen that the runs start from; it is said."""
    people, seen = faces.loc[faces["set"] != SET_UNLABELLED, "person"].dropna().unique(), set()
    for name in shipped_models.used_by(experiment):
        found = shipped_models.known_among(people, shipped_models.people(name).training)
        if found:
            say("split", f"{len(found)} people have names that {name} was trained on; none is evaluated on")
        seen |= found
    return seen


def _embeddings(experiment: config.Experiment, folder: DataFolder, faces: pd.DataFrame) -> np.ndarray:
    """Return the embeddings (N, D) that `split.embedder` gives the faces."""
    from facemae.compute import device
    from facemae.models.embedder import embed_faces
    from facemae.models.weights import load_embedder

    compute = device.choose(experiment.device, experiment.precision, threads=1)
    embedder = load_embedder(Path(str(experiment.split.embedder)))
    if (side := embedder.encoder.image_size) != experiment.data.image_size:
        raise UsageError(
            f"split.embedder: {experiment.split.embedder} takes faces of {side} x {side} pixels, and "
            f"data.image_size is {experiment.data.image_size}; name another model, or set the size to {side}."
        )
    compute.place(embedder)
    return embed_faces(embedder, open_faces(folder, faces), compute, "split")


def check_people(folder: DataFolder, data: config.Data) -> None:
    """Stop with a DataError unless the labelled photos name people to train on and others to evaluate on."""
    labelled = [each for each in records.read_json(folder.sources) if each["set"] == SET_LABELLED]
    people = sum(each["people"] for each in labelled)
    if people < 2:
        mend = next((each["too_deep"] for each in labelled if each["too_deep"]), "") or (
            "put each person's photos in a folder of their own, and photos of unknown people under "
            "data.unlabelled"
        )
        raise DataError(
            f"data.labelled: {data.labelled} names {people} people where at least 2 are needed; {mend}."
        )
