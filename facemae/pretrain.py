"""The pretraining stage: a masked autoencoder on the training people's and the unlabelled faces."""

from __future__ import annotations

import json
from collections.abc import Callable

import safetensors.torch
import torch
from torch import Tensor

from facemae import checkpoint, config, files, results
from facemae.augment import random_flip
from facemae.device import Compute
from facemae.errors import UsageError
from facemae.masking import PatchMask, make_mask
from facemae.models.mae import MaskedAutoencoder, build_mae, reconstruct, reconstruction_loss
from facemae.models.patches import to_faces, to_input
from facemae.models.weights import save_weights
from facemae.optim import adamw
from facemae.progress import say
from facemae.randomness import batch_ids, generator, seed_of
from facemae.task import Task, on_device
from facemae.train import Trained, fit, lock

SHOWN_FACES = 6
UNSEEN_BATCH = 64
UNSEEN_FACES = 1000  # enough for a mean, and little memory


def pretrain(task: Task) -> None:
    """Train and write encoder, decoder, log, metrics and a few reconstructions of unseen people.

    Raises:
        UsageError: the run has no pretraining, or is being trained by another process.
    """
    run = task.run
    if run.pretrain is None:
        raise UsageError(
            f"runs.{task.name}.pretrain is null: this run trains from scratch, without pretraining."
        )
    compute = task.compute()
    faces = on_device(task.load(results.ROLE_TRAIN, results.ROLE_UNLABELLED).images, compute)
    say(task.label, f"{len(faces)} faces, {run.pretrain.mask} mask {run.pretrain.mask_ratio:.0%}, {compute}")

    torch.manual_seed(seed_of(task.seed, "weights"))
    mae = build_mae(run.model, run.pretrain, task.image_size)
    compute.place(mae)
    settings = task.settings("model", "pretrain")
    job = task.job(settings, compute)
    with lock(job):
        loss_at = _loss(mae, faces, run.pretrain, compute, task.seed)
        trained = fit(mae, adamw(mae, run.pretrain), loss_at, run.pretrain, compute, job)
        files.write_json(task.out / results.CONFIG, settings)
        save_weights(mae.encoder, task.out / results.ENCODER)
        save_weights(mae.decoder, task.out / results.DECODER)
        _write_results(task, mae.eval(), run.pretrain, compute, trained)
        checkpoint.remove(job.state)


def _loss(
    mae: MaskedAutoencoder, faces: Tensor, settings: config.Pretrain, compute: Compute, seed: int
) -> Callable[[int], Tensor]:
    """Return the loss as a function of the step alone."""

    def loss_at(step: int) -> Tensor:
        ids = batch_ids(len(faces), settings.batch_size, step, seed).to(faces.device)
        images = to_input(random_flip(faces[ids], generator(seed, "flip", step), axis=2))
        mask = _mask(mae, settings, len(images), generator(seed, "mask", step)).to(faces.device)
        with compute.autocast():
            prediction = mae(images, mask)
        return reconstruction_loss(prediction, images, mask, normalise=settings.normalise_target)

    return loss_at


def _mask(
    mae: MaskedAutoencoder, settings: config.Pretrain, batch: int, random: torch.Generator
) -> PatchMask:
    side = mae.encoder.patch_embed.grid_size[0]
    return make_mask(settings.mask, settings.mask_ratio, batch, side, random)


@torch.inference_mode()
def _write_results(
    task: Task, mae: MaskedAutoencoder, settings: config.Pretrain, compute: Compute, trained: Trained
) -> None:
    unseen = task.load(results.ROLE_EVALUATION, most=UNSEEN_FACES)
    images = to_input(on_device(unseen.images, compute))
    # The same masks whatever the run's seed, so that seeds are shown and scored on the same task.
    mask = _mask(mae, settings, len(images), generator("unseen", settings.mask)).to(compute.device)
    prediction = _predict(mae, images, mask, compute)
    loss = reconstruction_loss(prediction, images, mask, normalise=settings.normalise_target)
    note = f"hidden patches of unseen people's faces under the {settings.mask} mask"
    metrics = [
        results.metric(
            "training_loss", trained.log[-1]["loss"], n=len(trained.log), note="last line of the log"
        ),
        results.metric("reconstruction_error", float(loss), n=len(images), note=note),
    ]
    results.write_metrics(
        task.out,
        metrics,
        seed=task.seed,
        device=str(compute),
        seconds={"pretrain": round(trained.seconds, 3)},
        inputs=task.inputs(),
    )
    results.write_lines(task.out / results.LOG, trained.log)

    first_of_each = sorted(
        {person: place for place, person in reversed(list(enumerate(unseen.people)))}.values()
    )
    shown = torch.tensor(first_of_each[:SHOWN_FACES], device=compute.device)
    picture = reconstruct(
        prediction[shown],
        images[shown],
        mask[shown],
        normalised=settings.normalise_target,
    )
    tensors = {
        "face": to_faces(images[shown]).cpu().contiguous(),
        "hidden": mask.hidden[shown].cpu(),
        "reconstruction": to_faces(picture).cpu().contiguous(),
    }
    names = {"sample_ids": json.dumps([unseen.sample_ids[place] for place in shown.tolist()])}
    files.atomic_write(task.out / results.RECONSTRUCTIONS, safetensors.torch.save(tensors, names))


def _predict(mae: MaskedAutoencoder, images: Tensor, mask: PatchMask, compute: Compute) -> Tensor:
    predictions = []
    for start in range(0, len(images), UNSEEN_BATCH):
        part = slice(start, start + UNSEEN_BATCH)
        with compute.autocast():
            predictions.append(mae(images[part], mask[part]).float())
    return torch.cat(predictions)
