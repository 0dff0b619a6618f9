"""The masked autoencoder as a method of pretraining: what it starts from, is judged by, and writes.

pretrain.py runs it; its objective is autoencoding.py's. Shapes: B batch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces
from facemae.data.faces.loader import Feed
from facemae.masking.coverage import measures
from facemae.masking.crops import whole
from facemae.masking.mask import PatchMask
from facemae.masking.regions import region_map
from facemae.masking.strategies import STRATEGIES, draw_mask, ratio_at
from facemae.models.build import build_mae
from facemae.models.mae import MaskedAutoencoder, Prediction
from facemae.models.patches import to_faces, to_input
from facemae.models.reconstruction import errors_of, keep_visible_pixels, reconstruct
from facemae.models.weights import save_weights
from facemae.stages.task import Task
from facemae.training.objectives.mae import Autoencoding, build_autoencoding, predicted_ids

WHOLE_PHOTO = [0.0, 0.0, 1.0, 1.0]  # the crop of a source of which nobody said where its faces are
SHOWN_FACES = 6
BATCH = 64
UNSEEN_FACES = 1000  # enough for a mean, and little memory
COMMON_MASK = "random"  # what every run is validated and scored under, whatever its own mask


def build(task: Task, settings: config.Pretrain) -> MaskedAutoencoder:
    """Return the untrained masked autoencoder of a run.

    Raises:
        UsageError: its mask looks for face regions in faces that are not on the template.
    """
    _check_template(task, settings)
    torch.manual_seed(seed_of(task.seed, "weights"))
    return build_mae(task.run.model, settings, task.image_size)


def trial(settings: config.Pretrain, image_size: int, compute: Compute) -> Callable[[nn.Module, int], Tensor]:
    """Return a forward pass over so many empty images, for an estimate of its cost."""

    def forward(mae: nn.Module, count: int) -> Tensor:
        assert isinstance(mae, MaskedAutoencoder)
        images = torch.zeros(count, 3, image_size, image_size, device=compute.device)
        noise = Noise(range(count), "trial", device=compute.device)
        mask = _common_mask(settings, mae, noise, least=True)
        prediction: Prediction = mae(images, mask, predicted_ids(mae, mask, settings, noise))
        return errors_of(mae, prediction, images, mask, settings).mean()

    return forward


def start(
    model: nn.Module, feed: Feed, task: Task, settings: config.Pretrain, compute: Compute
) -> MaskedTraining:
    """Return the training of a model that `build` has made and that is on the device."""
    mae = cast(MaskedAutoencoder, model)
    return MaskedTraining(
        task, settings, compute, build_autoencoding(mae, feed, settings, compute, task.seed)
    )


@dataclass(frozen=True)
class MaskedTraining:
    """A masked autoencoder in training: a `pretrain.Method`."""

    task: Task
    settings: config.Pretrain
    compute: Compute
    autoencoding: Autoencoding

    @property
    def model(self) -> nn.Module:
        """The masked autoencoder."""
        return self.autoencoding.mae

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Everything that has a state."""
        own = self.autoencoding
        parts = {"mae": own.mae, "guide": own.guide, "perceptual": own.perceptual}
        return {name: part for name, part in parts.items() if part is not None}

    @property
    def clipped_apart(self) -> tuple[nn.Module, ...]:
        """The guide, which learns beside the autoencoder."""
        return (self.autoencoding.guide,) if self.autoencoding.guide else ()

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of the step's batch, by name."""
        return self.autoencoding.loss(step, part)

    def after_step(self, world: World) -> None:
        """Let what follows the weights follow them."""
        self.autoencoding.after_step(world)

    def score(self, model: nn.Module, faces: Faces) -> float:
        """Return the mean reconstruction error of some faces under the mask that is common to all runs."""
        return self._score(cast(MaskedAutoencoder, model), faces, own_mask=False)

    def write(self, model: nn.Module, out: Path) -> list[dict[str, Any]]:
        """Write decoder and reconstructions of unseen people, and return what is measured on these."""
        mae = cast(MaskedAutoencoder, model)
        save_weights(mae.decoder, out / layout.DECODER)
        unseen = self.task.load(layout.ROLE_EVALUATION, most=UNSEEN_FACES)
        metrics = self._metrics(mae, unseen)
        self._write_reconstructions(mae, unseen, out)
        return metrics

    def _score(self, mae: MaskedAutoencoder, faces: Faces, *, own_mask: bool) -> float:
        """Return the mean reconstruction error of some faces; the masks are the same for every seed."""
        total = 0.0
        for start in range(0, len(faces.images), BATCH):
            places = range(start, start + BATCH)
            images, mask, prediction = self._predict(mae, faces, places, own_mask=own_mask)
            errors = errors_of(mae, prediction, images, mask, self.settings)
            total += float(errors.mean()) * len(images)
        return total / len(faces.images)

    @torch.no_grad()
    def _predict(
        self, mae: MaskedAutoencoder, faces: Faces, places: range, *, own_mask: bool
    ) -> tuple[Tensor, PatchMask, Prediction]:
        """Return some of the faces as images, their masks, and what the network makes of them."""
        device = self.compute.device
        images = to_input(torch.from_numpy(faces.images[places.start : places.stop]).to(device))
        drawn = range(places.start, places.start + len(images))
        noise = Noise(drawn, "unseen", device=device)
        with self.compute.autocast():
            if own_mask:
                crops = whole(len(images), device)
                mask = self.autoencoding.masker.draw(images, crops, noise, progress=1.0)
            else:
                mask = _common_mask(self.settings, mae, noise)
            prediction: Prediction = mae(images, mask)
        return images, mask, prediction

    def _metrics(self, mae: MaskedAutoencoder, unseen: Faces) -> list[dict[str, Any]]:
        own, count = self.settings.mask, len(unseen.images)
        note = "hidden patches of unseen people's faces under the {} mask".format
        error = self._score(mae, unseen, own_mask=True)
        metrics = [records.metric("reconstruction_error", error, n=count, note=note(own))]
        if not STRATEGIES[own].pixels:  # single pixels are told by their neighbours: an easier task
            error = self._score(mae, unseen, own_mask=False)
            metrics.append(records.metric(layout.COMMON_ERROR, error, n=count, note=note(COMMON_MASK)))
        return metrics

    def _write_reconstructions(self, mae: MaskedAutoencoder, unseen: Faces, out: Path) -> None:
        """Write the first face of some people: original, what was hidden, and what the network made of it."""
        firsts = {person: place for place, person in reversed(list(enumerate(unseen.people)))}
        places = sorted(firsts.values())[:SHOWN_FACES]
        shown = Faces(unseen.images[places], [unseen.sample_ids[place] for place in places], [])
        images, mask, prediction = self._predict(mae, shown, range(len(places)), own_mask=True)
        size = mae.encoder.patch_size
        picture = reconstruct(prediction, images, size, normalised=self.settings.normalise_target)
        if mae.hides_pixels(mask):
            picture = keep_visible_pixels(picture, images, mask)
        tensors = {
            "face": to_faces(images).cpu().contiguous(),
            "hidden": mask.hidden.cpu(),
            "reconstruction": to_faces(picture.float()).cpu().contiguous(),
        }
        facts = json.dumps({"sample_ids": shown.sample_ids, "mask": self._measured(mae, unseen)})
        content = safetensors.torch.save(tensors, {layout.FACTS: facts})  # of several keys the order varies
        files.atomic_write(out / layout.RECONSTRUCTIONS, content)

    def _measured(self, mae: MaskedAutoencoder, unseen: Faces) -> dict[str, Any]:
        """Return what the run's masks of all unseen faces are like."""
        parts = [
            self._predict(mae, unseen, range(start, start + BATCH), own_mask=True)[1]
            for start in range(0, len(unseen.images), BATCH)
        ]
        mask = PatchMask(*(torch.cat(each) for each in zip(*map(_fields, parts), strict=True)))
        patches = mae.encoder.side**2
        if mae.hides_pixels(mask):
            return asdict(measures(mask, None)) | {"visible_tokens": patches}  # the encoder reads them all
        if self.task.experiment.data.align == "crop":  # nobody knows where the regions are
            return asdict(measures(mask, None))
        regions = region_map(mae.encoder.side).to(mask.hidden.device)
        return asdict(measures(mask, regions.expand(len(mask.hidden), -1)))


def _fields(mask: PatchMask) -> tuple[Tensor, Tensor, Tensor]:
    return mask.hidden, mask.visible_ids, mask.hidden_ids


def _check_template(task: Task, settings: config.Pretrain) -> None:
    """Refuse masks over face regions where faces were taken as they are, off the template.

    A source that is known comes with the box that puts its faces on it.
    """
    asked = task.experiment.data.align
    if not STRATEGIES[settings.mask].regions or asked == "landmarks":
        return
    loose = [
        each["name"]
        for each in records.read_json(task.data.sources)
        if each["align"] == "crop" and each["crop"] == WHOLE_PHOTO
    ]
    if loose:
        raise UsageError(
            f"runs.{task.name}.pretrain.mask: {settings.mask} looks for face regions where the alignment "
            f"puts them, and {', '.join(loose)} was taken as it is; set data.align to landmarks, or choose "
            "another mask."
        )


def _common_mask(
    settings: config.Pretrain, mae: MaskedAutoencoder, noise: Noise, *, least: bool = False
) -> PatchMask:
    """Return a mask that is drawn alike for every run: over patches, or over pixels where it hides those.

    It hides the run's `mask_ratio`, or the least share that the run ever hides.
    """
    pixels, ratio = STRATEGIES[settings.mask].pixels, settings.mask_ratio
    if least:
        moments = (ratio_at(settings.mask, ratio, settings.mask_parameters, each) for each in (0.0, 1.0))
        ratio = min(moments)
    size = mae.encoder.side * (mae.encoder.patch_size if pixels else 1)
    return draw_mask(COMMON_MASK, ratio, {}, size, noise)
