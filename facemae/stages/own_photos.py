"""Somebody's own photos: what a folder holds, whether it is enough, and the settings that fit it."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from facemae import config
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS
from facemae.core import files, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import SET_LABELLED, DataFolder
from facemae.core.text import shown
from facemae.data.sources.base import Place
from facemae.data.sources.locate import find

MIN_PEOPLE, MIN_PHOTOS = 4, 3  # two people to evaluate on, two to train on
FEW_FACES = 60  # to train on, below which none are held out to validate with
MAX_FOLDS = 5
# Steps for 200 training faces, as in config/defaults.yaml for ORL, and by what factor more faces raise them.
STEPS = {"pretrain": 400, "finetune": 160}
KNOWN_FACES, MAX_FACTOR = 200, 6.0
SETTINGS = "settings.json"
SEEDS = [0, 1]
# Masks that cost what random costs, by which the time is reckoned that training from scratch gets.
MASKS = [name for name in config.STRATEGIES if name not in {*MASK_GUIDES, *PIXEL_MASKS, "ratio_curriculum"}]
CONTROLS = ["pixels", "pca", "random_weights"]
LEARNING_CONTROLS, LEARNING_PEOPLE = ["fisherfaces", "hog_lda"], 4  # which learn from so many people or more
FEW_PEOPLE = 10  # evaluated on, below which a verdict is rarely decided


@dataclass(frozen=True)
class Found:
    """What a folder holds: photos by person, photos of nobody, and files that are no photos.

    `deep` are the folders whose own folders hold photos, as those of people should in the one that was named.
    """

    people: Mapping[str, int]
    unnamed: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    deep: Sequence[str] = ()

    @property
    def photos(self) -> int:
        """Return how many photos there are."""
        return sum(self.people.values()) + self.unnamed

    def __str__(self) -> str:
        per_person = sorted(self.people.values())
        each = f", {per_person[0]} to {per_person[-1]} each" if per_person else ""
        parts = [f"{len(self.people)} people{each}", f"{self.photos} photos"]
        parts += [f"{self.unnamed} photos of nobody (not directly in a person's folder)"] * bool(self.unnamed)
        parts += [f"not used: {count} {reason}" for reason, count in self.ignored.most_common()]
        return "; ".join(parts)


def look(folder: Path) -> Found:
    """Return what a folder of person/photo.jpg holds; no picture is read."""
    ignored: Counter[str] = Counter()
    photos = list(find(str(folder), SET_LABELLED, Path()).source.photos(Place(folder, {}), ignored))
    people = Counter(photo.person for photo in photos if photo.person is not None)
    unnamed = [photo.sample_id.split("/")[1:] for photo in photos if photo.person is None]
    deep = sorted({place[0] for place in unnamed if len(place) == 3})
    return Found(people, len(unnamed), ignored, deep)


def usable(folder: DataFolder) -> Found:
    """Return the photos that have a usable face, once they are aligned, and why others have none."""
    people = records.read_table(folder.faces, ["person"])["person"].dropna().value_counts()
    reasons = Counter(each["reason"] for each in records.iterate_log(folder.rejected))
    return Found({str(name): int(count) for name, count in people.items()}, 0, reasons)


def require_enough(found: Found, folder: Path, what: str) -> None:
    """Stop with a DataError unless there are people enough to train on some and evaluate on others.

    `what` is counted in the folder, such as "photos" or "usable photos"; the message says what is missing.
    """
    enough = [name for name, count in found.people.items() if count >= MIN_PHOTOS]
    if len(enough) >= MIN_PEOPLE:
        return
    short = sorted(set(found.people) - set(enough))
    few = f"; too few of: {', '.join(map(shown, short[:5]))}" if short else ""
    if found.deep:
        instead = f"name {shown(folder / found.deep[0])}" if len(found.deep) == 1 else "move them up"
        few += f". {found.unnamed} photos lie too deep to be a person's: {instead}"
    raise DataError(
        f"{shown(folder)}: {len(enough)} people have {MIN_PHOTOS} {what} or more, and {MIN_PEOPLE} are needed"
        f"{few}. Add photos, each person's in a folder of their own."
    )


def settings(photos: Path, results: Path, found: Found, masks: Sequence[str]) -> dict[str, Any]:
    """Return the settings, laid over the defaults, that fit so many people with so many photos.

    A run from scratch and one for each of the masks. Half of the people are evaluated on. The steps grow with
    the faces to train on; the rest are those of config/defaults.yaml.
    """
    people = len(found.people)
    evaluated = people // 2
    faces = round(found.photos * (people - evaluated) / people)
    factor = min(max(faces / KNOWN_FACES, 1.0), MAX_FACTOR)
    validation = {} if faces >= FEW_FACES else {"held_out": 0.0, "validate_every": 0}
    return {
        **data_settings(photos, results),
        "seeds": SEEDS,
        "split": {"evaluation_fraction": evaluated / people, "folds": max(1, min(MAX_FOLDS, evaluated // 2))},
        "defaults": {
            "pretrain": {"steps": round(STEPS["pretrain"] * factor), **validation},
            "finetune": {"steps": round(STEPS["finetune"] * factor)},
        },
        "runs": {"scratch": {"pretrain": None}, **{mask: {"pretrain": {"mask": mask}} for mask in masks}},
        "baselines": CONTROLS + LEARNING_CONTROLS * (people - evaluated >= LEARNING_PEOPLE),
        "evaluate": {"against": ["scratch", *masks[:1]] if len(masks) > 1 else ["scratch"]},
    }


def data_settings(photos: Path, results: Path) -> dict[str, Any]:
    """Return the settings of the first step, which finds the faces; most photos may be without one."""
    return {
        "results": str(results.absolute()),
        "data": {"labelled": str(photos.absolute()), "max_skipped": 0.95},
        "runs": {"scratch": {"pretrain": None}},
    }


def scaled(chosen: dict[str, Any], seconds: Mapping[str, float], minutes: float, side_by_side: int) -> float:
    """Shorten the trainings of `chosen` (`settings`) in place to so many minutes; return those they take.

    `seconds` are those of a step of pretraining and of fine-tuning, as a trial measured them on this machine;
    so many trainings run side by side. Training from scratch goes on for as long as the others take in all:
    less would show what training longer buys, and call it pretraining.
    """
    defaults, runs = chosen["defaults"], chosen["runs"]
    work = sum(defaults[stage]["steps"] * seconds[stage] for stage in STEPS)
    trainings = len(SEEDS) * len(runs)
    needed = math.ceil(trainings / side_by_side) * work / 60
    for stage in STEPS if needed > minutes else ():
        defaults[stage]["steps"] = max(20, round(defaults[stage]["steps"] * minutes / needed))
    instead = defaults["pretrain"]["steps"] * seconds["pretrain"] / seconds["finetune"]
    runs["scratch"]["finetune"] = {"steps": defaults["finetune"]["steps"] + round(instead)}
    return float(min(needed, minutes))


def expectation(chosen: Mapping[str, Any], found: Found) -> str:
    """Return what a comparison on so many people can tell."""
    evaluated = round(chosen["split"]["evaluation_fraction"] * len(found.people))
    weight = f"each of the {evaluated} people evaluated on weighs {1 / evaluated:.0%} of the result"
    if evaluated < FEW_PEOPLE:
        return f"{weight}: expect the verdict undecided, unless one way is far better; more people tell more"
    return f"{weight}: differences much smaller than that stay undecided"


def free_folder(wanted: Path, photos: Path, masks: Sequence[str]) -> Path:
    """Return the folder for the results of these photos and masks: theirs of an earlier start, or a new one.

    A UsageError where `wanted`, an absolute path, lies among the photos.
    """
    if wanted.resolve().is_relative_to(photos.resolve()):
        raise UsageError(f"{shown(wanted)} lies inside the photos' folder; name another one with --out.")
    for number in itertools.count(1):
        folder = wanted if number == 1 else wanted.parent / f"{wanted.name}-{number}"
        if not folder.exists() or not any(folder.iterdir()):
            break
        known = earlier(folder)
        compared = known.get("runs", {}).keys() - {"scratch"} or set(masks)  # none before the faces are found
        if known.get("data", {}).get("labelled") == str(photos.absolute()) and compared == set(masks):
            break
    return folder


def earlier(folder: Path) -> dict[str, Any]:
    """Return the settings of an earlier start in a results folder, none where there was none.

    They are brought up to date where the folder was moved or copied since: results go to where it is.
    """
    path = folder / SETTINGS
    found = records.read_json(path) if path.exists() else {}
    if not isinstance(found, dict) or not isinstance(found.get("data"), dict):
        return {}
    return found | {"results": str(folder.absolute())}


def write(folder: Path, chosen: Mapping[str, Any]) -> None:
    """Write the settings into the results folder."""
    files.write_json(folder / SETTINGS, chosen, sort_keys=False)
