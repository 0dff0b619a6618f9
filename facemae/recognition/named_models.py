"""Every model that recognition can use, by name: those that others trained, and those of a results folder.

A model by others has a threshold card in `cards/`, which `facemae models measure` makes from LFW.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from facemae.core import records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.evaluation.baselines.off_the_shelf import IMAGE_SIZE, RECOGNISERS
from facemae.recognition.model import Device, Embed, Facts, Model, TrainingFaces, View2
from facemae.recognition.threshold import Card, check_weights

CARDS = Path(__file__).parent / "cards"


@dataclass(frozen=True)
class OffTheShelfModel(Model):
    """A model that others have trained, and that comes with a package."""

    @property
    def name(self) -> str:
        """Return its name."""
        return self.run

    @property
    def weights(self) -> Path:
        """Return the file of its weights."""
        return RECOGNISERS[self.run].weights()

    @property
    def image_size(self) -> int:
        """Return the side of the faces that it takes, in pixels."""
        return IMAGE_SIZE

    @property
    def trained_on(self) -> TrainingFaces:
        """Return what it was trained on."""
        return TrainingFaces(RECOGNISERS[self.run].people, RECOGNISERS[self.run].photos)

    def measured(self) -> dict[str, Any]:
        """Return what was measured of it on LFW, or nothing."""
        path = CARDS / f"{self.run}.json"
        return dict(records.read_json(path)) if path.is_file() else {}

    def card(self) -> Card:
        """Return the thresholds that were measured on LFW people."""
        measured = self.measured()
        if not measured:
            raise DataError(
                f"{self.run} has no threshold card; make one with facemae models measure {self.run}, or give "
                "a threshold with --threshold."
            )
        fix = f"install the published weights, or make the card again with facemae models measure {self.run}"
        check_weights({measured["weights"]}, self.weights_sha256, CARDS / f"{self.run}.json", fix)
        return Card(pd.DataFrame(measured["thresholds"]), measured["people"])

    def load(self, device: Device = "auto") -> Embed:
        """Return its embedding; it computes on the processor whatever the device."""
        known = RECOGNISERS[self.run]
        network = known.load(known.weights())

        def embed(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
            vectors = network(faces)
            return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), np.float32)

        return embed

    @property
    def view2(self) -> View2:
        """Return its accuracy on LFW's View 2."""
        return View2(**self.measured().get("lfw_view2", {}))

    @property
    def missing(self) -> str:
        """Return how to get it where it is not installed, else nothing."""
        try:
            RECOGNISERS[self.run].weights()
        except UsageError as error:
            return str(error)
        return ""

    def facts(self) -> Facts:
        """Return what a list of models says of it."""
        known, missing = RECOGNISERS[self.run], self.missing
        size = 0 if missing else self.weights.stat().st_size
        speed = self.measured().get("faces_per_second")
        return Facts(self.name, *self.view2, known.trained_on, known.licence, speed, size, missing)


def every_model(paths: Results | None = None) -> list[Model]:
    """Return all models that have a name: those that are installed first, the most accurate first.

    Args:
        paths: The results whose runs are among them; None, or where there are none: no runs.
    """
    found: list[Model] = [OffTheShelfModel(name) for name in RECOGNISERS]
    if paths is not None and paths.config.is_file():
        from facemae.recognition.trained_models import models

        found += models(paths)
    # A stable sort: without a figure on LFW the runs stay in the order of their own results.
    return sorted(found, key=lambda each: (bool(each.missing), -(each.view2.lfw_view2 or 0)))


def list_models(paths: Results | None = None) -> list[Facts]:
    """Return what is known of every model, in the order of `every_model`; the first is the default."""
    found = [each.facts() for each in every_model(paths)]
    return [replace(each, default=place == 0 and not each.missing) for place, each in enumerate(found)]


def find_model(name: str | None = None, paths: Results | None = None) -> Model:
    """Return a model by name: of the list, "run/seed" of the results, or the folder of a `finetune` stage.

    Args:
        name: None takes the default, the most accurate one that is installed.
        paths: The results whose runs have names too.

    Raises:
        UsageError: there is none, or it is not installed; the message says how to get it.
    """
    from facemae.recognition.trained_models import model_at

    if name is None:
        name = every_model(paths)[0].name
    if name in RECOGNISERS:
        RECOGNISERS[name].weights()
        return OffTheShelfModel(name)
    return next((each for each in every_model(paths) if each.name == name), None) or model_at(Path(name))
