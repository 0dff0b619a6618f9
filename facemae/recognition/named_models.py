"""Every model that recognition can use, by name: others', those that come with the package, and runs.

A model by others has a threshold card in `cards/`, a shipped one in its own folder; `facemae models measure`
makes both from LFW.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import records
from facemae.core.errors import DataError, FaceMAEError, IntegrityError, UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.evaluation.baselines.off_the_shelf import IMAGE_SIZE, RECOGNISERS, recogniser
from facemae.models import shipped_models
from facemae.models.shipped_models import CARD
from facemae.recognition.model import Device, Embed, Facts, Model, TrainingFaces, View2
from facemae.recognition.threshold import Card, check_weights
from facemae.recognition.trained_models import model_at, models

CARDS = Path(__file__).parent / "cards"
NO_RECOGNISER = "{} completes faces and starts trainings (pretrain.init, finetune.init); it names nobody."


@dataclass(frozen=True)
class _CardedModel(Model):
    """A model that comes with a package, and with a card of what was measured of it on LFW."""

    @property
    @abstractmethod
    def stated(self) -> dict[str, Any]:
        """Return what its card says, or nothing."""

    @property
    @abstractmethod
    def card_file(self) -> Path: ...

    @property
    def name(self) -> str:
        return self.run

    @property
    def results(self) -> None:
        """Return nothing: what is known of it stands in its card."""

    @property
    def view2(self) -> View2:
        return View2(**(self.stated.get("lfw_view2") or {}))

    def card(self) -> Card:
        if missing := self.missing:
            raise IntegrityError(missing)
        stated = self.stated
        if "thresholds" not in stated:
            raise DataError(
                f"{self.name} has no threshold card; make one with facemae models measure {self.name}, or "
                "give a threshold with --threshold."
            )
        fix = f"install the published weights, or make the card again with facemae models measure {self.name}"
        check_weights({stated["weights"]}, self.weights_sha256, self.card_file, fix)
        return Card(pd.DataFrame(stated["thresholds"]), stated["people"])


@dataclass(frozen=True)
class _OffTheShelfModel(_CardedModel):
    """A model that others have trained."""

    @property
    def card_file(self) -> Path:
        return CARDS / f"{self.run}.json"

    @property
    def stated(self) -> dict[str, Any]:
        return dict(records.read_json(self.card_file)) if self.card_file.is_file() else {}

    @property
    def weights(self) -> Path:
        return RECOGNISERS[self.run].weights()

    @property
    def image_size(self) -> int:
        return IMAGE_SIZE

    @property
    def trained_on(self) -> TrainingFaces:
        return TrainingFaces(RECOGNISERS[self.run].people, RECOGNISERS[self.run].photos)

    @property
    def missing(self) -> str:
        try:
            RECOGNISERS[self.run].weights()
        except (IntegrityError, UsageError) as error:
            return str(error)
        return ""

    def load(self, device: Device = "auto") -> Embed:
        """Return its embedding; it computes on the processor whatever the device."""
        network = recogniser(self.run)

        def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
            vectors = network(faces)
            return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

        return embed

    def facts(self) -> Facts:
        known, missing = RECOGNISERS[self.run], self.missing
        size = 0 if missing else self.weights.stat().st_size
        speed = self.stated.get("faces_per_second")
        return Facts(self.name, *self.view2, known.trained_on, known.licence, speed, size, missing)


@dataclass(frozen=True)
class ShippedModel(_CardedModel):
    """A model of ours that comes with the package, with its card beside it."""

    @property
    def card_file(self) -> Path:
        """Return the file of its card."""
        return self.finetuned / CARD

    @property
    def stated(self) -> dict[str, Any]:
        """Return what its card says; nothing where the model is damaged."""
        return {} if self.missing else shipped_models.card(self.run)

    @property
    def missing(self) -> str:
        """Return what is wrong with it in this installation and how to mend it, else nothing."""
        return shipped_models.missing(self.run)

    @property
    def trained_on(self) -> TrainingFaces:
        """Return what it was trained on."""
        known = self.stated.get("trained_on")
        return (
            TrainingFaces(known["people"] or None, known["photos"], known["grey"])
            if known
            else TrainingFaces()
        )

    def facts(self) -> Facts:
        """Return what a list of models says of it."""
        card = self.stated
        known = card.get("trained_on")
        photos = f"{known['photos']:,} photos, {known['people']:,} people named" if known else "not known"
        size = sum(path.stat().st_size for path in self.finetuned.glob("*.safetensors"))
        return Facts(
            self.name, *self.view2, photos, card.get("licence", "not known"), card.get("faces_per_second"),
            size, self.missing, self.warning,
        )  # fmt: skip


def _shipped(name: str) -> ShippedModel:
    whole = shipped_models.FOLDER / "face-mae"
    return ShippedModel(
        name, pretrained=whole if whole.is_dir() else None, finetuned=shipped_models.FOLDER / name
    )


def every_model(paths: Results | None = None) -> tuple[list[Model], Exception | None]:
    """Return all models that have a name, the installed ones first, of these the most accurate first.

    The runs of the results are among them; where these cannot be read they are not, and why not is returned.
    """
    known: list[Model] = [_OffTheShelfModel(name) for name in RECOGNISERS]
    known += [_shipped(name) for name in shipped_models.present() if shipped_models.is_recogniser(name)]
    if paths is not None and paths.config.is_file():
        try:
            # A stable sort: without a figure on LFW the runs stay in the order of their own results.
            return sorted([*known, *models(paths)], key=_rank), None
        except (FaceMAEError, OSError) as error:
            return sorted(known, key=_rank), error
    return sorted(known, key=_rank), None


def _usable(paths: Results | None) -> list[Model]:
    found, damage = every_model(paths)
    if damage:
        say("models", f"the runs of these results are left out: {damage}")
    return found


def _rank(model: Model) -> tuple[bool, float]:
    return bool(model.missing), -(model.view2.lfw_view2 or 0)


def list_models(paths: Results | None = None) -> list[Facts]:
    """Return what is known of every model, in the order of `every_model`; the first is the default."""
    found = [each.facts() for each in _usable(paths)]
    found = [replace(each, default=place == 0 and not each.missing) for place, each in enumerate(found)]
    others = [name for name in shipped_models.present() if not shipped_models.is_recogniser(name)]
    return found + [replace(_shipped(name).facts(), warning=NO_RECOGNISER.format(name)) for name in others]


def find_model(name: str | None = None, paths: Results | None = None) -> Model:
    """Return a model by name: of the list, "run/seed" of the results, or the folder of a `finetune` stage.

    Args:
        name: None takes the default, the most accurate one that is installed.
        paths: The results whose runs have names too.

    Raises:
        UsageError: there is none, or it is not installed; the message says how to get it.
    """
    if name is None:
        name = _usable(paths)[0].name
    if name in RECOGNISERS:
        RECOGNISERS[name].weights()
        return _OffTheShelfModel(name)
    if name in shipped_models.WEIGHTS:
        shipped_models.find(name)
        if not shipped_models.is_recogniser(name):
            raise UsageError(f"{NO_RECOGNISER.format(name)[:-1]}; choose another of facemae models.")
        return _shipped(name)
    found, damage = every_model(paths)
    if named := [each for each in found if each.name == name]:
        return named[0]
    try:
        return model_at(Path(name))
    except UsageError:
        if damage:  # it may be a run of these results
            raise damage from None
        raise
