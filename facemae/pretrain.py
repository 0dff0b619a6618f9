"""The pretraining stage: a masked autoencoder on the training people's and the unlabelled faces."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae import checkpoint, config, cost, files, results
from facemae.autoencoding import Autoencoding, Masker, build_autoencoding, predicted_ids
from facemae.crops import whole
from facemae.data.cache import Faces, load_faces
from facemae.data.feed import Feed
from facemae.device import Compute
from facemae.errors import DataError, UsageError
from facemae.masking.mask import PatchMask
from facemae.masking.measure import measures
from facemae.masking.regions import region_map
from facemae.masking.strategies import STRATEGIES, draw_mask, ratio_at
from facemae.models.mae import MaskedAutoencoder, Prediction, build_mae
from facemae.models.patches import to_faces, to_input
from facemae.models.weights import save_weights
from facemae.optim import adamw, averaged
from facemae.parallel import World, world
from facemae.probe import MOST_FACES, probe
from facemae.progress import say
from facemae.randomness import Noise, batch_ids, generator, seed_of
from facemae.reconstruction import errors_of, keep_visible_pixels, reconstruct
from facemae.task import Task, evenly
from facemae.train import HELD_OUT, LOSS, Objective, Trained, Validation, fit, lock

WHOLE_PHOTO = [0.0, 0.0, 1.0, 1.0]  # the crop of a source of which nobody said where its faces are
SHOWN_FACES = 6
BATCH = 64
UNSEEN_FACES = 1000  # enough for a mean, and little memory
HELD_OUT_FACES = 1000  # the same
PROBED_PHOTOS = 5  # of a person
COMMON_MASK = "random"  # what every run is validated and scored under, whatever its own mask


def pretrain(task: Task) -> None:
    """Train and write encoder, decoder, log, metrics and a few reconstructions of unseen people.

    Raises:
        UsageError: the run has no pretraining, or is being trained by another process, or the settings
            need more memory than there is.
    """
    settings = task.run.pretrain
    if settings is None:
        raise UsageError(
            f"runs.{task.name}.pretrain is null: this run trains from scratch, without pretraining."
        )
    compute = task.compute()
    with world(compute.device) as processes, cost.told_before(task.label):
        processes.parts(settings.batch_size, settings.accumulate)  # refused before anything is read
        _pretrain(task, settings, compute, processes)


def _pretrain(task: Task, settings: config.Pretrain, compute: Compute, processes: World) -> None:
    _check_template(task, settings)
    mae = _autoencoder(task, settings)
    _check_norms(mae, processes)
    compute.place(mae)
    estimate = cost.measure(mae, _trial(settings, task.image_size, compute), compute)
    cost.check(estimate, settings, compute, task.label, processes)
    training, held_out = _rows(task, settings)
    faces = task.open(training)
    job = task.job(task.settings("model", "pretrain"), compute, **_files(settings))

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(training), settings.batch_size, step, task.seed)

    taken = estimate.bytes(settings.batch_size // (settings.accumulate * processes.size))
    with lock(job, processes), Feed(faces, ids_at, compute, task.workers, taken) as feed:
        if processes.is_first:
            kept = f", {len(held_out)} held out" if len(held_out) else ""
            say(task.label, f"{len(training)} faces{kept}, {settings.mask} mask, {compute}")
        stage = _Stage(task, settings, compute, build_autoencoding(mae, feed, settings, compute, task.seed))
        names = training["sample_id"].to_numpy()
        objective = Objective(
            network=stage.network,
            loss=stage.autoencoding.loss,
            after_step=lambda step: stage.after_step(processes),
            validation=stage.validation(held_out) if settings.validate_every else None,
            samples=lambda step: names[ids_at(step).numpy()].tolist(),
            flops=estimate.flops,
            clipped_apart=(stage.autoencoding.guide,) if stage.autoencoding.guide else (),
        )
        with cost.explained(estimate, settings, compute, task.label, processes):
            trained = fit(objective, adamw(stage.network, settings), settings, compute, job, processes)
        if processes.is_first:
            stage.write(trained, trained.seconds * processes.size)
            checkpoint.remove(job.state)
        processes.wait()


def _autoencoder(task: Task, settings: config.Pretrain) -> MaskedAutoencoder:
    torch.manual_seed(seed_of(task.seed, "weights"))
    mae = build_mae(task.run.model, settings, task.image_size)
    if settings.init:
        from facemae.interop import load_encoder

        load_encoder(mae.encoder, Path(settings.init))
    return mae


def _check_template(task: Task, settings: config.Pretrain) -> None:
    """Refuse masks over face regions where faces were taken as they are, off the template.

    A source that is known comes with the box that puts its faces on it.
    """
    asked = task.experiment.data.align
    if not STRATEGIES[settings.mask].regions or asked == "landmarks":
        return
    loose = [
        each["name"]
        for each in results.read_json(task.data.sources)
        if each["align"] == "crop" and each["crop"] == WHOLE_PHOTO
    ]
    if loose:
        raise UsageError(
            f"runs.{task.name}.pretrain.mask: {settings.mask} looks for face regions where the alignment "
            f"puts them, and {', '.join(loose)} was taken as it is; set data.align to landmarks, or choose "
            "another mask."
        )


def _check_norms(mae: MaskedAutoencoder, processes: World) -> None:
    """Refuse several processes to a network that normalises over its batch, of which each sees a part."""
    norms = [module for module in mae.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    if norms and processes.size > 1:
        raise UsageError(
            "This network normalises over its whole batch, which several processes do not see; run it in one "
            "process (without torchrun), or choose a convnextv2 network."
        )


def _files(settings: config.Pretrain) -> dict[str, Path]:
    """Return the files besides the faces that shape the result, by setting."""
    compared = settings.perceptual.weights if settings.perceptual.weight else None
    named = {"init": settings.init, "perceptual": compared}
    return {setting: Path(name) for setting, name in named.items() if name}


def _rows(task: Task, settings: config.Pretrain) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the rows of the split to train on and those held out, the same for every run and seed."""
    rows = task.rows(results.ROLE_TRAIN, results.ROLE_UNLABELLED)
    count = round(settings.held_out * len(rows))
    if settings.held_out and not 1 <= count < len(rows):
        raise DataError(
            f"pretrain.held_out {settings.held_out} of {len(rows)} faces leaves none to train on or none to "
            "validate on; change it, or set held_out and validate_every to 0."
        )
    order = torch.randperm(len(rows), generator=generator("held out")).numpy()
    return rows.iloc[sorted(order[count:])], rows.iloc[sorted(order[:count])]


def _shown_twice(rows: pd.DataFrame) -> pd.DataFrame:
    """Return up to `PROBED_PHOTOS` rows of each of so many people that there are some `MOST_FACES`."""
    some = rows.groupby("person", sort=False).head(PROBED_PHOTOS)
    sizes = some.groupby("person", sort=False).size()
    people = sizes.index[sizes > 1]
    count = max(1, MOST_FACES // PROBED_PHOTOS)
    chosen = evenly(pd.DataFrame({"person": people}), count)["person"]
    return some[some["person"].isin(chosen)]


def _trial(settings: config.Pretrain, image_size: int, compute: Compute) -> Any:
    """Return a forward pass over empty images, for an estimate of its cost."""

    def forward(mae: nn.Module, count: int) -> Tensor:
        assert isinstance(mae, MaskedAutoencoder)
        images = torch.zeros(count, 3, image_size, image_size, device=compute.device)
        noise = Noise(range(count), "trial", device=compute.device)
        mask = _common_mask(settings, mae, noise, least=True)
        prediction: Prediction = mae(images, mask, predicted_ids(mae, mask, settings, noise))
        return errors_of(mae, prediction, images, mask, settings).mean()

    return forward


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


@dataclass
class _Stage:
    """A run's training, how it is judged on its way, and what it writes."""

    task: Task
    settings: config.Pretrain
    compute: Compute
    autoencoding: Autoencoding

    def __post_init__(self) -> None:
        mae, settings = self.autoencoding.mae, self.settings
        self.average = averaged(mae, settings.ema) if settings.ema else None
        parts = {
            "mae": mae,
            "guide": self.autoencoding.guide,
            "perceptual": self.autoencoding.perceptual,
            "average": self.average,
        }
        self.network = nn.ModuleDict({name: part for name, part in parts.items() if part is not None})

    @property
    def result(self) -> MaskedAutoencoder:
        """The autoencoder that the stage is for: the averaged one, if there is one."""
        mae = self.average.module if isinstance(self.average, AveragedModel) else self.autoencoding.mae
        assert isinstance(mae, MaskedAutoencoder)
        return mae

    def after_step(self, processes: World) -> None:
        self.autoencoding.after_step(processes)
        if self.average is not None:
            self.average.update_parameters(self.autoencoding.mae)

    def validation(self, held_out: pd.DataFrame) -> Validation:
        faces = load_faces(self.task.data, evenly(held_out, HELD_OUT_FACES))
        known = _shown_twice(self.task.rows(results.ROLE_TRAIN)) if self.settings.probe else held_out[:0]
        probed = load_faces(self.task.data, known) if len(known) else None
        if self.settings.probe and probed is None:
            say(self.task.label, "no probe: nobody in training has two photos")

        def measure(step: int) -> dict[str, float]:
            found = {HELD_OUT: self.score(faces, own_mask=False)}
            if probed is not None:
                people = [str(person) for person in probed.people]
                found |= probe(self.result.encoder, torch.from_numpy(probed.images), people, self.compute)
            return found

        return Validation(self.settings.validate_every, self.settings.patience, measure)

    def score(self, faces: Faces, *, own_mask: bool) -> float:
        """Return the mean reconstruction error of some faces; the masks are the same for every seed."""
        total = 0.0
        for start in range(0, len(faces.images), BATCH):
            images, mask, prediction = self.predict(faces, range(start, start + BATCH), own_mask=own_mask)
            errors = errors_of(self.result, prediction, images, mask, self.settings)
            total += float(errors.mean()) * len(images)
        return total / len(faces.images)

    @torch.no_grad()
    def predict(self, faces: Faces, places: range, *, own_mask: bool) -> tuple[Tensor, PatchMask, Prediction]:
        """Return some of the faces as images, their masks, and what the network makes of them."""
        device = self.compute.device
        images = to_input(torch.from_numpy(faces.images[places.start : places.stop]).to(device))
        drawn = range(places.start, places.start + len(images))
        with self.compute.autocast():
            mask = self.mask(images, Noise(drawn, "unseen", device=device), own_mask=own_mask)
            prediction: Prediction = self.result(images, mask)
        return images, mask, prediction

    def mask(self, images: Tensor, noise: Noise, *, own_mask: bool) -> PatchMask:
        if not own_mask:
            return _common_mask(self.settings, self.result, noise)
        masker: Masker = self.autoencoding.masker
        return masker.draw(images, whole(len(images), images.device), noise, progress=1.0)

    def write(self, trained: Trained, seconds: float) -> None:
        """Write all outputs; `seconds` are all processes' together."""
        self.network.eval()
        out = self.task.out
        files.write_json(out / results.CONFIG, self.task.settings("model", "pretrain"))
        save_weights(self.result.encoder.trunk, out / results.ENCODER)
        save_weights(self.result.decoder, out / results.DECODER)
        unseen = self.task.load(results.ROLE_EVALUATION, most=UNSEEN_FACES)
        self.write_metrics(trained, seconds, unseen)
        self.write_reconstructions(unseen)
        results.write_lines(out / results.LOG, trained.log)

    def write_metrics(self, trained: Trained, seconds: float, unseen: Faces) -> None:
        own, count = self.settings.mask, len(unseen.images)
        note = "hidden patches of unseen people's faces under the {} mask".format
        metrics = [
            results.metric("training_loss", trained.log[-1][LOSS], n=len(trained.log), note="end of the log"),
            results.metric(
                "reconstruction_error", self.score(unseen, own_mask=True), n=count, note=note(own)
            ),
        ]  # fmt: skip
        if not STRATEGIES[own].pixels:  # single pixels are told by their neighbours: an easier task
            error = self.score(unseen, own_mask=False)
            metrics.append(results.metric(results.COMMON_ERROR, error, n=count, note=note(COMMON_MASK)))
        if trained.best_step is not None:
            loss, step = min(trained.held_out)
            metrics.append(
                results.metric("held_out_loss", loss, n=len(trained.held_out), note=f"best, at step {step}")
            )
        results.write_metrics(
            self.task.out,
            metrics,
            seed=self.task.seed,
            device=str(self.compute),
            seconds={"pretrain": round(seconds, 3)},
            inputs=self.task.inputs(),
        )

    def write_reconstructions(self, unseen: Faces) -> None:
        """Write the first face of some people: original, what was hidden, and what the network made of it."""
        firsts = {person: place for place, person in reversed(list(enumerate(unseen.people)))}
        places = sorted(firsts.values())[:SHOWN_FACES]
        shown = Faces(unseen.images[places], [unseen.sample_ids[place] for place in places], [])
        images, mask, prediction = self.predict(shown, range(len(places)), own_mask=True)
        size = self.result.encoder.patch_size
        picture = reconstruct(prediction, images, size, normalised=self.settings.normalise_target)
        if self.result.hides_pixels(mask):
            picture = keep_visible_pixels(picture, images, mask)
        tensors = {
            "face": to_faces(images).cpu().contiguous(),
            "hidden": mask.hidden.cpu(),
            "reconstruction": to_faces(picture.float()).cpu().contiguous(),
        }
        facts = json.dumps({"sample_ids": shown.sample_ids, "mask": self.measured(unseen)})
        content = safetensors.torch.save(tensors, {results.FACTS: facts})  # of several keys the order varies
        files.atomic_write(self.task.out / results.RECONSTRUCTIONS, content)

    def measured(self, unseen: Faces) -> dict[str, Any]:
        """Return what the run's masks of all unseen faces are like."""
        parts = [
            self.predict(unseen, range(start, start + BATCH), own_mask=True)[1]
            for start in range(0, len(unseen.images), BATCH)
        ]
        mask = PatchMask(*(torch.cat(each) for each in zip(*map(_fields, parts), strict=True)))
        patches = self.result.encoder.side**2
        if self.result.hides_pixels(mask):
            return asdict(measures(mask, None)) | {"visible_tokens": patches}  # the encoder reads them all
        if self.task.experiment.data.align == "crop":  # nobody knows where the regions are
            return asdict(measures(mask, None))
        regions = region_map(self.result.encoder.side).to(mask.hidden.device)
        return asdict(measures(mask, regions.expand(len(mask.hidden), -1)))


def _fields(mask: PatchMask) -> tuple[Tensor, Tensor, Tensor]:
    return mask.hidden, mask.visible_ids, mask.hidden_ids
