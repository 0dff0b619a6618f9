"""Trainings of every kind on a few faces in memory, for whatever must hold for all of them."""

import functools
from dataclasses import dataclass
from types import SimpleNamespace

import torch

from facemae import config
from facemae.compute.distributed import ALONE
from facemae.compute.seeding import Noise, batch_ids
from facemae.data.faces.cache import Faces
from facemae.models.build import build_embedder, build_encoder, build_mae
from facemae.models.patches import to_input
from facemae.models.reconstruction import errors_of
from facemae.training import trainer
from facemae.training.objective import HELD_OUT, Objective, Validation
from facemae.training.objectives.contrastive import METHODS
from facemae.training.objectives.identity import Recognition
from facemae.training.objectives.mae import MaskedPretraining
from facemae.training.optimizer import adamw

GUIDED = ("attention_high", "hard_patches", "loss_ema")


class Fed:
    """Batches like `data.faces.loader.Feed`'s, of faces in memory."""

    def __init__(self, faces, batch_size):
        self.faces, self.batch_size = faces, batch_size

    def ids(self, step, part=slice(None)):
        return batch_ids(len(self.faces), self.batch_size, step, 0)[part]

    def names(self, step):
        return [f"face {place}" for place in self.ids(step).tolist()]

    def batch(self, step, part=slice(None)):
        return self.faces[self.ids(step, part)]


@dataclass
class Made:
    """A training that is ready to start."""

    objective: Objective
    optimizer: torch.optim.Optimizer
    training: config.Training
    steps: list[int]
    """Every step whose loss was asked for, once for each part."""

    @property
    def network(self):
        return self.objective.network

    def fit(self, compute, job, world=ALONE):
        return trainer.fit(self.objective, self.optimizer, self.training, compute, job, world)

    def at(self, step, action):
        """Let something happen in the middle of a step: it may change the losses."""
        before = self.objective.loss

        def loss(number, part):
            losses = before(number, part)
            return (action(losses) or losses) if number == step else losses

        self.objective.loss = loss
        return self


def _made(objective, faces, training, **optimizer):
    steps, before = [], objective.loss
    objective.feed = Fed(faces, training.batch_size)

    def loss(step, part):
        steps.append(step)
        return before(step, part)

    objective.loss = loss
    return Made(objective, adamw(objective.network, training, **optimizer), training, steps)


def pretraining(experiment, faces, compute, **changes):
    """A masked autoencoder with all that has a state: its guide, averaged weights, a validation."""
    run = experiment.defaults
    settings = config.merge(run.pretrain.model_dump(), {"ema": 0.5, "teacher_decay": 0.5, **changes})
    settings = config.Pretrain.model_validate(settings)
    torch.manual_seed(5)
    objective = MaskedPretraining(build_mae(run.model, settings, faces.shape[1]), settings, compute, 0)
    objective.validation = Validation(4, settings.patience, lambda step: {HELD_OUT: _error(objective, faces)})
    return _made(objective, faces, settings)


@torch.no_grad()
def _error(objective, faces):
    from facemae.masking.strategies import draw_mask

    mae, images = objective.result, to_input(faces)
    mask = draw_mask("random", 0.5, {}, mae.encoder.side, Noise(range(len(faces)), "held out"))
    prediction = mae(images, mask)
    settings = SimpleNamespace(loss="mse", normalise_target=True, loss_on="hidden")
    return float(errors_of(mae, prediction, images, mask, settings).mean())


def contrast(method, experiment, faces, compute, **changes):
    """Batch normalisation in its heads, an averaged branch, dino's centre, averaged weights."""
    run, own = experiment.defaults, {"method": method, "ema": 0.5}
    views = {"hidden": 8, "projection": 4, "momentum": 0.5}
    settings = config.merge(run.pretrain.model_dump(), {**own, "views": views})
    settings = config.Pretrain.model_validate(config.merge(settings, changes))
    torch.manual_seed(5)
    model = METHODS[method].build(build_encoder(run.model, faces.shape[1]), settings, 0)
    objective, held_out = METHODS[method](model, settings, compute, 0), Faces(faces[:6].numpy(), [], [])

    def measure(step):
        return {HELD_OUT: objective.score(objective.result, held_out)}

    objective.validation = Validation(4, settings.patience, measure)
    return _made(objective, faces, settings)


def recognition(experiment, faces, compute, **changes):
    """Batch normalisation, dropped paths, layer decay, a ramped margin: a state of every other kind."""
    run = experiment.defaults
    own = {"margin_warmup_fraction": 0.5, "layer_decay": 0.75, **changes}
    settings = config.Finetune.model_validate(config.merge(run.finetune.model_dump(), own))
    torch.manual_seed(5)
    embedder = build_embedder(run.model, faces.shape[1], drop_path=0.5)
    labels, nobody = torch.arange(len(faces)) // 2, Faces(faces[:0].numpy(), [], [])
    objective = Recognition(embedder, labels, nobody, settings, compute, 0)
    trunk = embedder.encoder.trunk
    return _made(objective, faces, settings, encoder=trunk, layer_decay=settings.layer_decay)


def _guided(mask):
    def make(experiment, faces, compute, **changes):
        return pretraining(experiment, faces, compute, mask=mask, **changes)

    return make


KINDS = {
    "pretrain": pretraining,
    "finetune": recognition,
    **{mask: _guided(mask) for mask in GUIDED},
    **{method: functools.partial(contrast, method) for method in METHODS},
}


def tensors(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def told(log):
    """Return what of a log does not depend on the clock or the machine."""
    timed = ("seconds", "images_per_second", "mfu", "memory_mb")
    return [{key: value for key, value in record.items() if key not in timed} for record in log]


def assert_close(found, expected, atol):
    """Check two states up to rounding.

    A key's bias shifts all of a softmax's inputs alike, so its gradient is rounding alone, to which AdamW
    gives the size of any other: it is left out.
    """
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        a, b = found[name], value
        if name.endswith(("attn.qkv.bias", "key_value.bias")):
            parts = 3 if "qkv" in name else 2
            key = parts - 2
            a, b = (torch.cat([x for n, x in enumerate(each.chunk(parts)) if n != key]) for each in (a, b))
        torch.testing.assert_close(a, b, rtol=0, atol=atol, msg=lambda text, name=name: f"{name}: {text}")
