"""The trained models that come with the package, by name.

Each has a folder in the format of a stage's, config.json and weights, the latter in float16, with a card and
lists of people beside. The card names the SHA-256 of every other file, so that a folder that is damaged,
incomplete or put together from two versions is refused before anything of it is used.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError, UsageError
from facemae.data.faces.overlaps import normal_name

FOLDER = Path(__file__).parent / "shipped"
AUTOENCODER = (layout.ENCODER, layout.DECODER)
EMBEDDER = (layout.EMBEDDER,)
WEIGHTS = {"face-mae": AUTOENCODER, "face-embedder": EMBEDDER, "face-tiny": EMBEDDER}
CARD, PEOPLE, SCORES, README = "card.json", "people.json", "scores.parquet", "README.md"
VERSION = 1  # of the card
DIGITS = 16  # of the SHA-256 of a name: two names in a million billion share them


@dataclass(frozen=True)
class People:
    """Whom a model was trained on and whom its card was measured on, each name as `hashed`."""

    training: frozenset[str]
    evaluation: frozenset[str]


def is_recogniser(name: str) -> bool:
    """Tell whether a shipped model embeds faces; else it is a masked autoencoder."""
    return WEIGHTS[name] == EMBEDDER


def find(name: str) -> Path:
    """Return the folder of a shipped model, whole.

    Raises:
        UsageError: there is no shipped model of this name, or it is not in this installation.
        IntegrityError: a file of it is damaged, or of another version or model.
    """
    if name not in WEIGHTS:
        raise UsageError(f"There is no model {name} in the package; there are {', '.join(WEIGHTS)}.")
    folder = FOLDER / name
    if not (folder / CARD).is_file():
        raise UsageError(
            f"The model {name} is not in this installation; take one that facemae models lists, or, where "
            f"its files were deleted, get them again with: {repair(name)}"
        )
    for file, expected in card(name)["files"].items():
        path = folder / file
        if not path.is_file():
            raise IntegrityError(f"{path} is missing; get the model again with: {repair(name)}")
        if files.sha256_of_unchanged(path) != expected:
            raise IntegrityError(
                f"{path} is not the file that its card names; get the model again with: {repair(name)}"
            )
    return folder


def present() -> list[str]:
    """Return the names of the models whose folder is in this installation, whole or damaged."""
    return [name for name in WEIGHTS if (FOLDER / name).is_dir()]


def missing(name: str) -> str:
    """Return what is wrong with a shipped model in this installation and how to mend it, else nothing."""
    try:
        find(name)
    except (IntegrityError, UsageError) as error:
        return str(error)
    return ""


def repair(name: str) -> str:
    """Return the command that restores a shipped model: of a clone, or of an installed package."""
    if (FOLDER.parents[2] / ".git").exists():
        return f"git -C {FOLDER.parents[2]} checkout -- {(FOLDER / name).relative_to(FOLDER.parents[2])}"
    return "pip install --force-reinstall --no-deps facemae"


def card(name: str) -> dict[str, Any]:
    """Return a shipped model's card; an IntegrityError where it is damaged, of another model or version."""
    path = FOLDER / name / CARD
    try:
        content = records.read_json(path)
    except IntegrityError as error:
        raise IntegrityError(f"{path} is damaged; get the model again with: {repair(name)}") from error
    fields = content if isinstance(content, dict) else {}
    found = fields.get("model"), fields.get("schema_version")
    wanted = {*WEIGHTS[name], layout.CONFIG, PEOPLE}
    if found != (name, VERSION) or not wanted <= set(fields.get("files", ())):
        raise IntegrityError(
            f"{path} is of another model or version ({found[0]}, version {found[1]}, where {name}, version "
            f"{VERSION} is read); get the model again with: {repair(name)}"
        )
    return fields


def people(name: str) -> People:
    """Return whom a shipped model has seen and whom it was measured on."""
    found = records.read_json(find(name) / PEOPLE)
    return People(frozenset(found["training"]), frozenset(found["evaluation"]))


def hashed(names: Iterable[str]) -> set[str]:
    """Return the start of the SHA-256 of each name as `normal_name` writes it.

    A name that says nothing outside its source, such as a number, has none.
    """
    return {files.sha256(text.encode())[:DIGITS] for name in names if (text := normal_name(name))}


def known_among(names: Iterable[str], seen: frozenset[str]) -> set[str]:
    """Return those of the names whose hash is among `seen`."""
    return {name for name in names if hashed([name]) & seen}


def used_by(experiment: config.Experiment) -> list[str]:
    """Return the shipped models that runs of an experiment start from or learn from."""
    runs = [experiment.run(name) for name in experiment.run_names]
    named = {section.init for run in runs for section in (run.pretrain, run.finetune) if section}
    named |= {run.finetune.teacher for run in runs}
    return [name for name in WEIGHTS if name in named]


def encoder_file(init: str) -> Path:
    """Return the file that holds the encoder of a shipped model's name, as `find` does, or else of a path."""
    return find(init) / WEIGHTS[init][0] if init in WEIGHTS else Path(init)


def started_from(init: str | None) -> dict[str, str]:
    """Return what a result keeps of the weights that its training started from; nothing for random ones."""
    return {"init": init, "sha256": files.sha256_of(encoder_file(init))} if init else {}
