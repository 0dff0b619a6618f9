"""The fine-tuning stage: a face embedder from the training people's labelled faces.

Where the evaluation people rotate, there is one training for each part of them, all from the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae import config
from facemae.compute.device import Compute, joules
from facemae.compute.distributed import world
from facemae.compute.seeding import Noise, batch_ids, generator
from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.progress import say
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces, load_faces
from facemae.data.faces.loader import Feed
from facemae.data.faces.subsets import LEAST_PEOPLE, known_faces, labelled_subset, people_apart
from facemae.evaluation.metrics import roc_auc_score
from facemae.evaluation.pairs import all_pairs
from facemae.masking.mask import PatchMask, hidden_count, hide_highest
from facemae.models.base import Encoder
from facemae.models.build import build_embedder, build_encoder
from facemae.models.embedder import Embedder, embed, pass_through
from facemae.models.lora import add_adapters, merged
from facemae.models.patches import to_input
from facemae.models.vit import Vit
from facemae.models.weights import load_weights, save_weights
from facemae.stages.embed import embed_people
from facemae.stages.task import Task
from facemae.stages.token_head import write_probe
from facemae.training import checkpoint, health, memory
from facemae.training.objectives.augment import random_view
from facemae.training.objectives.margin_losses import (
    chance,
    full_margin,
    identity_loss,
    loss_over,
    set_margin,
    some_people,
)
from facemae.training.optimizer import adamw, averaged, ramp
from facemae.training.trainer import HELD_OUT, JOB, LOSS, Job, Objective, Validation, fit, lock

BATCH = 64
PART = "part.json"  # beside a finished part's weights, while the next ones are trained


def finetune(task: Task, pretrained: Path | None) -> None:
    """Write the embedders, one for each part of the evaluation people, their embeddings, log and metrics.

    Args:
        task: The stage.
        pretrained: Folder of the run's `pretrain` stage; None trains from scratch.

    Raises:
        UsageError: the run is being trained by another process, or several share the work, or the settings
            need more memory than there is, or another network.
        DataError: there are too few labels to learn from, or to validate on.
        IntegrityError: the pretrained weights do not fit.
    """
    compute = task.compute()
    with world(compute.device) as processes:
        if processes.size > 1:
            raise UsageError(
                "Fine-tuning normalises over its whole batch, which several processes do not see; run it "
                "in one process (without torchrun)."
            )
        with memory.told_before(task.label):
            _finetune(task, pretrained, compute)


def _finetune(task: Task, pretrained: Path | None, compute: Compute) -> None:
    inputs = {"encoder": pretrained / layout.ENCODER} if pretrained else {}
    job = task.job(task.settings("model", "finetune"), compute, **inputs)
    with lock(job):
        parts = [_Part(task, number, _job_of(job, number)) for number in task.wanted_parts]
        done = [_trained(part, pretrained, compute) for part in parts]
        _write(task, parts, done, pretrained, compute)
        for part in parts:
            checkpoint.remove(part.job.state)


@dataclass(frozen=True)
class _Part:
    """The training whose embedder one part of the evaluation people is evaluated with."""

    task: Task
    number: int
    job: Job

    @property
    def weights(self) -> Path:
        """Where its result waits for that of the other parts."""
        return self.job.state / layout.EMBEDDER


def _job_of(job: Job, part: int) -> Job:
    if part == 0:
        return job
    state = job.state.with_name(f"{job.state.name}-{part}")
    return replace(job, label=f"{job.label} part {part}", state=state, identity=job.identity | {"part": part})


@dataclass(frozen=True)
class _Done:
    """What the training of a part left behind, besides its weights."""

    steps: int
    seconds: float
    held_out: list[tuple[float, int]]
    log: list[dict[str, Any]]
    faces: int
    people: int
    joules: float | None
    health: dict[str, Any]
    """See health.py; {} where nothing was trained."""


def _trained(part: _Part, pretrained: Path | None, compute: Compute) -> _Done:
    """Train a part, or return what an attempt that ended in a later part has left of it."""
    path, identity = part.job.state / PART, json.loads(json.dumps(part.job.identity))
    if path.exists() and part.weights.exists():
        if records.read_json(part.job.state / JOB) != identity:
            raise UsageError(
                f"{part.job.state} holds a part that was trained with other settings; go back to those to "
                "finish the others, or delete the folder to start anew."
            )
        return _Done(**records.read_json(path))
    done, embedder = _train(part, pretrained, compute)
    save_weights(merged(embedder), part.weights)
    files.write_json(part.job.state / JOB, identity)
    files.write_json(path, asdict(done))
    for each in part.job.state.glob("step_*"):  # the checkpoints of many parts would fill a disk
        each.unlink()
    return done


def _train(part: _Part, pretrained: Path | None, compute: Compute) -> tuple[_Done, nn.Module]:
    """Train a part, from its newest checkpoint on, and return its embedder."""
    task, settings, job = part.task, part.task.run.finetune, part.job
    if settings.mode == "knn":
        say(job.label, "mode knn: the encoder as it is, nothing is trained")
        return _Done(0, 0.0, [], [], 0, 0, None, {}), _network(task, LEAST_PEOPLE, pretrained)["embedder"]
    rows = labelled_subset(task.training(part.number), settings.labels)
    learnt, held_out = people_apart(rows, settings.held_out)
    faces = task.open(learnt)
    names = sorted({str(person) for person in faces.people})
    network = _network(task, len(names), pretrained)
    compute.place(network)
    estimate = memory.measure(network["embedder"], _trial(task.image_size, settings, compute), compute)
    memory.check(estimate, settings, compute, job.label)

    def ids_at(step: int) -> Tensor:
        return batch_ids(len(faces.places), settings.batch_size, step, task.seed)

    taken = estimate.bytes(settings.batch_size // settings.grad_accumulation)
    with Feed(faces, ids_at, compute, task.workers, taken) as feed:
        start = "pretrained encoder" if pretrained else "scratch"
        say(job.label, f"{len(faces.places)} faces of {len(names)} people, from {start}, {compute}")
        number = {name: place for place, name in enumerate(names)}
        labels = torch.tensor([number[str(person)] for person in faces.people], device=compute.device)
        known = load_faces(task.data, known_faces(learnt))
        stage = _Recognition(network, feed, labels, ids_at, settings, compute, task.seed, known)
        objective = Objective(
            network=network,
            loss=stage.loss,
            after_step=stage.after_step,
            validation=stage.validation(load_faces(task.data, held_out)) if settings.held_out else None,
            samples=lambda step: [faces.sample_ids[place] for place in ids_at(step).tolist()],
            flops=estimate.flops,
        )
        trunk = cast(Embedder, network["embedder"]).encoder.trunk
        optimizer = adamw(network, settings, encoder=trunk, layer_decay=settings.layer_decay)
        with memory.explained(estimate, settings, compute, job.label):
            trained = fit(objective, optimizer, settings, compute, job)
    spent = joules(stage.watts, trained.seconds)
    found = trained.step, trained.seconds, trained.held_out, trained.log
    checked = stage.judged(trained.log, len(names), aligned=task.experiment.data.align != "crop")
    say(job.label, _in_words(checked))
    return _Done(*found, len(faces.places), len(names), spent, checked), stage.result


def _in_words(checked: dict[str, Any]) -> str:
    """Return the line that a log shows of a training's health."""
    told = f"loss {checked['loss_of_chance']:.0%} of chance"
    if "rank1" in checked:
        told += f", effective dimension {checked['effective_dimension']:.1f}, rank 1 {checked['rank1']:.0%}"
    return told if checked["learnt"] else f"has not learnt: {checked['reason']} ({told})"


def _model(task: Task) -> config.Model:
    """Return the network: of mode knn an embedding as wide as the encoder."""
    model = task.run.model
    if task.run.finetune.mode != "knn":
        return model
    width = build_encoder(model, task.image_size).width
    return model.model_copy(update={"head": "pooled", "embedding": width})


def _network(task: Task, people: int, pretrained: Path | None) -> nn.ModuleDict:
    """Return the embedder, pretrained if there is an encoder, and the loss with a vector per person."""
    model, settings = _model(task), task.run.finetune
    torch.manual_seed(seed_of(task.seed, "weights"))
    embedder = build_embedder(model, task.image_size, drop_path=model.drop_path)
    if pretrained:
        load_weights(embedder.encoder.trunk, pretrained / layout.ENCODER)
    network = nn.ModuleDict({"embedder": embedder, "loss": identity_loss(settings, people, model.embedding)})
    choose_weights(embedder, settings)
    if settings.ema:
        network["average"] = averaged(embedder, settings.ema)
    return network


def choose_weights(embedder: Embedder, settings: config.Finetune) -> None:
    """Freeze what the mode does not train: the gradient of those weights is never computed."""
    encoder = embedder.encoder
    if settings.mode == "full":
        return
    encoder.requires_grad_(False)
    if settings.mode == "partial":
        assert isinstance(encoder, Vit)
        encoder.trunk.blocks[-settings.last_blocks :].requires_grad_(True)
        encoder.trunk.norm.requires_grad_(True)
    elif settings.mode == "lora":
        assert isinstance(encoder, Vit)
        add_adapters(encoder.trunk, settings.lora_rank)
    elif settings.mode == "knn":
        pass_through(embedder)


def still_modules(embedder: Embedder, settings: config.Finetune, step: int) -> list[nn.Module]:
    """Return the modules that nothing is learnt in at a step, to run as in evaluation.

    Else they would drop paths, and a batch normalisation would go on collecting its statistics.
    """
    encoder = embedder.encoder
    if settings.mode == "probe" or step < settings.head_steps:
        return [encoder]
    if settings.mode == "partial":
        assert isinstance(encoder, Vit)
        return list(encoder.trunk.blocks[: -settings.last_blocks])
    return []


def _trial(
    image_size: int, settings: config.Finetune, compute: Compute
) -> Callable[[nn.Module, int], Tensor]:
    """Return a forward pass over empty images, as the dearest steps make it, for an estimate of its cost."""

    def forward(embedder: nn.Module, count: int) -> Tensor:
        images = torch.zeros(count, 3, image_size, image_size, device=compute.device)
        noise = Noise(range(count), "trial", device=compute.device)
        always = settings.patch_drop_until == 1
        mask = dropped_patches(cast(Embedder, embedder), settings, noise) if always else None
        embeddings: Tensor = embedder(images, mask)
        return embeddings

    return forward


def dropped_patches(embedder: Embedder, settings: config.Finetune, noise: Noise) -> PatchMask | None:
    """Return which patches are left out of each image, at random; None: none."""
    if not settings.patch_drop:
        return None
    patches = embedder.encoder.side**2
    return hide_highest(noise.uniform(patches), hidden_count(patches, settings.patch_drop))


def _write(
    task: Task, parts: list[_Part], done: list[_Done], pretrained: Path | None, compute: Compute
) -> None:
    settings = task.settings("model", "finetune") | {"model": _model(task).model_dump()}
    files.write_json(task.out / layout.CONFIG, settings)
    for part in parts:
        files.atomic_write(task.out / layout.embedder_file(part.number), part.weights.read_bytes())
    embed_people(task, task.out)
    _write_metrics(task, done, pretrained, compute)
    log = [{"part": part.number, **line} for part, each in zip(parts, done, strict=True) for line in each.log]
    records.write_lines(task.out / layout.LOG, log)


def _probed(task: Task, pretrained: Path | None, compute: Compute) -> list[dict[str, Any]]:
    """Return the metric of a closed-form head on the encoder that fine-tuning starts from."""
    if task.parts is not None:  # a curve over labels wants one part, fine-tuned
        return []
    return [write_probe(task, started_from(task, pretrained), compute)]


def started_from(task: Task, pretrained: Path | None) -> Encoder:
    """Return the encoder that a fine-tuning starts from."""
    return cast(Embedder, _network(task, LEAST_PEOPLE, pretrained)["embedder"]).encoder


def _write_metrics(task: Task, done: list[_Done], pretrained: Path | None, compute: Compute) -> None:
    before = records.read_metrics(pretrained) if pretrained else {}
    seconds = before.get("seconds", {}) | {"finetune": round(sum(each.seconds for each in done), 3)}
    seen = sum(each.steps for each in done) * task.run.finetune.batch_size
    spent = {name: {"pretrain": before[name]} for name in ("images_seen", "energy_joules") if name in before}
    metered = [each.joules for each in done if each.joules is not None]
    energy = {"finetune": sum(metered)} if len(metered) == len(done) else {}
    records.write_metrics(
        task.out,
        _metrics(done) + _probed(task, pretrained, compute),
        seed=task.seed,
        device=str(compute),
        seconds=seconds,
        precision=before.get("precision", {}) | {"finetune": compute.precision},
        inputs=task.inputs(),
        images_seen=spent.get("images_seen", {}) | {"finetune": seen},
        energy_joules=spent.get("energy_joules", {}) | energy,
        labels=[{"faces": each.faces, "people": each.people} for each in done],
        health=[each.health for each in done if each.health],
    )


def _metrics(done: list[_Done]) -> list[dict[str, Any]]:
    """Return the last loss and, where there was a validation, the least error, as means over the parts."""
    logged = [each.log[-1][LOSS] for each in done if each.log]
    if not logged:
        return [records.metric("training_loss", None, n=0, note="mode knn trains nothing")]
    lines = sum(len(each.log) for each in done)
    loss = sum(logged) / len(logged)
    metrics = [records.metric("training_loss", loss, n=lines, note="last line of the log")]
    best = [min(each.held_out) for each in done if each.held_out]
    if best:
        count = sum(len(each.held_out) for each in done)
        steps = ", ".join(str(step) for _, step in best)
        note = f"1 - ROC AUC of training people held out, best, at step {steps}"
        value = sum(error for error, _ in best) / len(best)
        metrics.append(records.metric("held_out_loss", value, n=count, note=note))
    return metrics


@dataclass(frozen=True)
class _Recognition:
    """Everything that one step of fine-tuning takes."""

    network: nn.ModuleDict
    feed: Feed
    labels: Tensor
    """(N,) number of each training face's person."""
    ids_at: Callable[[int], Tensor]
    settings: config.Finetune
    compute: Compute
    seed: int
    known: Faces
    """Some of the faces that it learns from, to look at what the embedding does with them."""
    watts: list[float] = field(default_factory=list)

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of a part of the step's batch."""
        images = random_view(
            to_input(self.feed.batch(step, part)), self.settings, self._noise("view", step, part)
        )
        share = ramp(step, self.settings.steps, self.settings.margin_warmup_fraction)
        set_margin(self.network["loss"], full_margin(self.settings) * share)
        embeddings = self._embed(images, step, part)
        labels = self.labels[self.ids_at(step)[part].to(self.labels.device)]
        return {LOSS: self._identity_loss(embeddings.float(), labels, step)}

    def _embed(self, images: Tensor, step: int, part: slice) -> Tensor:
        embedder, settings = cast(Embedder, self.network["embedder"]), self.settings
        embedder.encoder.train()
        still = still_modules(embedder, settings, step)
        for module in still:
            module.eval()
        drops = step < settings.patch_drop_until * settings.steps
        mask = dropped_patches(embedder, settings, self._noise("patches", step, part)) if drops else None
        with self.compute.autocast():
            with torch.set_grad_enabled(embedder.encoder not in still):
                features = embedder.features(images, mask)
            embeddings: Tensor = embedder.head(features)
        return embeddings

    def _identity_loss(self, embeddings: Tensor, labels: Tensor, step: int) -> Tensor:
        module, share = self.network["loss"], self.settings.people_per_step
        if share == 1:
            whole: Tensor = module(embeddings, labels)
            return whole
        people = cast(int, module.num_classes)
        chosen = some_people(labels, people, share, generator(self.seed, "people", step))
        return loss_over(module, embeddings, labels, chosen)

    def _noise(self, purpose: str, step: int, part: slice) -> Noise:
        return Noise(range(part.start, part.stop), self.seed, purpose, step, device=self.compute.device)

    def after_step(self, step: int) -> None:
        self.watts.extend(self.compute.watts(step))
        if self.settings.ema:
            cast(AveragedModel, self.network["average"]).update_parameters(self.network["embedder"])

    def validation(self, held_out: Faces) -> Validation:
        """Return how well the embedder tells apart people it does not learn from."""
        people = np.unique([str(person) for person in held_out.people], return_inverse=True)[1]

        def measure(step: int) -> dict[str, float]:
            vectors = self.embedded(held_out.images)
            found = {HELD_OUT: 1.0 - float(roc_auc_score(all_pairs(vectors, people))[0])}
            return found | (asdict(measured) if (measured := self.measured()) else {})

        return Validation(self.settings.validate_every, self.settings.patience, measure)

    def embedded(self, faces: NDArray[np.uint8]) -> NDArray[np.floating]:
        """Return the embeddings (N, M) of faces (N, H, H, 3) as the network is now."""
        return _embeddings(self.result.eval(), faces, self.compute)

    def measured(self) -> health.Health | None:
        """Return what the embedding does with faces that it learns from; None where nobody is shown twice."""
        if not len(self.known.images):
            return None
        return health.measure(self.embedded(self.known.images), self.known_people)

    def judged(self, log: list[dict[str, Any]], people: int, *, aligned: bool) -> dict[str, Any]:
        """Return whether the training has learnt, with the figures that say so (health.py)."""
        last = log[-max(1, len(log) // 10) :]
        loss = sum(line[LOSS] for line in last) / len(last) / chance(self.settings, people)
        measured, share = self.measured(), None
        if measured and aligned:
            share = health.frame_share(self.embedded, self.known.images, self.known_people)
        return health.entry(measured, loss, share)

    @property
    def known_people(self) -> NDArray[np.int64]:
        """Whose faces the known ones are, as numbers."""
        return np.unique([str(person) for person in self.known.people], return_inverse=True)[1]

    @property
    def result(self) -> nn.Module:
        """The embedder that the stage is for: the averaged one, if there is one."""
        if self.settings.ema:
            return cast(AveragedModel, self.network["average"]).module
        return self.network["embedder"]


def _embeddings(embedder: nn.Module, faces: NDArray[np.uint8], compute: Compute) -> NDArray[np.floating]:
    """Return the embeddings (N, M) of faces (N, H, H, 3)."""
    parts = []
    for start in range(0, len(faces), BATCH):
        images = to_input(torch.from_numpy(faces[start : start + BATCH]).to(compute.device))
        with compute.autocast():
            parts.append(embed(embedder, images).cpu())
    vectors: NDArray[np.floating] = torch.cat(parts).numpy()
    return vectors
