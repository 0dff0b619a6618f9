"""What masked pretraining leaves besides its encoder: decoder, reconstructions, and their measures.

Shapes: N faces.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any, cast

import numpy as np
import safetensors.torch
import torch
from torch import Tensor

from facemae import config
from facemae.config.masks import MASK_GUIDES, PIXEL_MASKS, REGION_MASKS
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.data.faces.cache import Faces
from facemae.data.faces.subsets import evenly
from facemae.masking.coverage import measures
from facemae.masking.mask import PatchMask
from facemae.masking.regions import region_map
from facemae.models.embedder import BATCH
from facemae.models.mae import MaskedAutoencoder
from facemae.models.patches import to_faces
from facemae.models.reconstruction import keep_visible_pixels, reconstruct
from facemae.models.weights import save_weights
from facemae.stages.task import Task
from facemae.training.objectives.mae import COMMON_MASK, MaskedPretraining

WHOLE_PHOTO = [0.0, 0.0, 1.0, 1.0]  # the crop of a source of which nobody said where its faces are
SHOWN_FACES = 6
UNSEEN_FACES = 1000  # enough for a mean, and little memory
PROGRESS_FACES, PROGRESS_STEPS = 2, 6  # of which completions are kept while the training goes on
COMPLETED = "completed_"  # how their files begin, in the state folder


def keep_progress(objective: MaskedPretraining, task: Task) -> None:
    """Let some validations keep, in the state folder, what the network makes of a few unseen faces.

    Only the first seed's are shown anywhere. A guided mask moves while its guide learns, so that pictures of
    two steps would not belong under one mask: none are kept of it.
    """
    settings, validation = objective.settings, objective.validation
    if not validation or task.seed != task.experiment.seeds[0] or settings.mask in MASK_GUIDES:
        return
    shown = _shown(_unseen(task), PROGRESS_FACES)
    apart = validation.every * math.ceil(settings.steps / validation.every / PROGRESS_STEPS)

    def measure(step: int) -> dict[str, float]:
        if step % apart == 0 or step == settings.steps:
            picture = _completed(objective, shown)[2]
            content = safetensors.torch.save({"reconstruction": to_faces(picture).cpu().contiguous()})
            files.atomic_write(task.state / f"{COMPLETED}{step:08d}.safetensors", content, private=True)
        return validation.measure(step)

    objective.validation = replace(validation, measure=measure)


def _write_progress(task: Task) -> None:
    """Write the completions that were kept on the way as one file, by their step; without any there is none.

    It is no output of the workflow's rule, which would delete that of an earlier training.
    """
    paths = sorted(task.state.glob(f"{COMPLETED}*"))
    kept = {int(path.stem.removeprefix(COMPLETED)): path for path in paths}
    if kept:
        pictures = [safetensors.torch.load_file(path)["reconstruction"] for path in kept.values()]
        content = {"step": torch.tensor(list(kept)), "reconstruction": torch.stack(pictures)}
        files.atomic_write(task.out / layout.PROGRESS, safetensors.torch.save(content), private=True)
    else:
        (task.out / layout.PROGRESS).unlink(missing_ok=True)


def write(objective: MaskedPretraining, task: Task) -> list[dict[str, Any]]:
    """Write decoder and reconstructions of unseen people, and return what is measured on these."""
    mae = cast(MaskedAutoencoder, objective.result)
    save_weights(mae.decoder, task.out / layout.DECODER)
    unseen, own = _unseen(task), objective.settings.mask
    scored = {"reconstruction_error": own}
    if own not in PIXEL_MASKS:  # single pixels follow from their neighbours: an easier task
        scored[layout.COMMON_ERROR] = COMMON_MASK
    metrics = []
    for name, mask in scored.items():
        error = objective.score(mae, unseen, own_mask=name == "reconstruction_error")
        note = f"hidden patches of unseen people's faces under the {mask} mask"
        metrics.append(records.metric(name, error, n=len(unseen.images), note=note))
    _write_reconstructions(objective, unseen, task)
    _write_progress(task)
    return metrics


def _unseen(task: Task) -> Faces:
    return task.load(evenly(task.rows(layout.ROLE_EVALUATION), UNSEEN_FACES))


def check_template(task: Task, settings: config.Pretrain) -> None:
    """Stop with a UsageError at a mask over face regions where faces are off the template.

    A source that is known comes with the box that puts its faces on it.
    """
    if settings.mask not in REGION_MASKS or task.experiment.data.align == "landmarks":
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


def _write_reconstructions(objective: MaskedPretraining, unseen: Faces, task: Task) -> None:
    """Write the first face of some people: original, what was hidden, and what the network made of it."""
    shown = _shown(unseen, SHOWN_FACES)
    images, mask, picture = _completed(objective, shown)
    tensors = {
        "face": to_faces(images).cpu().contiguous(),
        "hidden": mask.hidden.cpu(),
        "reconstruction": to_faces(picture).cpu().contiguous(),
    }
    aligned = task.experiment.data.align != "crop"  # else nobody knows where the regions are
    measured = _measured(objective, unseen, aligned=aligned)
    facts = json.dumps({"sample_ids": shown.sample_ids, "mask": measured})
    content = safetensors.torch.save(tensors, {layout.FACTS: facts})  # of several keys the order varies
    files.atomic_write(task.out / layout.RECONSTRUCTIONS, content, private=True)


def _shown(unseen: Faces, count: int) -> Faces:
    """Return the first face of each of the first people."""
    places = np.sort(np.unique(np.array(unseen.people, str), return_index=True)[1])[:count]
    return Faces(unseen.images[places], [unseen.sample_ids[place] for place in places], [])


def _completed(objective: MaskedPretraining, shown: Faces) -> tuple[Tensor, PatchMask, Tensor]:
    """Return faces as images, what the run's own mask hides, and the images completed, in float32."""
    mae = cast(MaskedAutoencoder, objective.result)
    images, mask, prediction = objective.predict(mae, shown, 0, own_mask=True)
    normalised = objective.settings.normalise_target
    picture = reconstruct(prediction, images, mae.encoder.patch_size, normalised=normalised)
    if mae.hides_pixels(mask):
        picture = keep_visible_pixels(picture, images, mask)
    return images, mask, picture.float()


def _measured(objective: MaskedPretraining, unseen: Faces, *, aligned: bool) -> dict[str, Any]:
    """Return what the run's masks of all unseen faces are like."""
    mae = cast(MaskedAutoencoder, objective.result)
    starts = range(0, len(unseen.images), BATCH)
    masks = [objective.predict(mae, unseen, start, own_mask=True)[1] for start in starts]
    parts = zip(*((each.hidden, each.visible_ids, each.hidden_ids) for each in masks), strict=True)
    mask = PatchMask(*map(torch.cat, parts))
    if mae.hides_pixels(mask):
        return measures(mask, None) | {"visible_tokens": mae.encoder.side**2}  # it reads them all
    regions = region_map(mae.encoder.side).to(mask.hidden.device).expand(len(mask.hidden), -1)
    return measures(mask, regions if aligned else None)
