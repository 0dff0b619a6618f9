"""The rivals of the masked autoencoder: encoders that learn to tell one face's views from other faces'.

They share its encoder, start, batches, steps and optimiser; heads and losses are lightly's, in small.

- simclr: Chen et al., A Simple Framework for Contrastive Learning, ICML 2020.
- moco: Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021 (MoCo v3):
  a predictor, an averaged encoder to compare with, and no queue. The patch embedding is trained, though.
- dino: Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021, with two global
  views and no local crops, at one momentum and one teacher temperature throughout.

Both views go through a network as one batch, which is what a head's batch normalisation sees.
Shapes: B batch, H side, D encoder width, P dimensions that views are compared in.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.core.errors import UsageError
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces
from facemae.data.faces.loader import Feed
from facemae.models.base import Encoder
from facemae.models.build import build_encoder
from facemae.stages.task import Task
from facemae.training.objectives.augment import self_supervised_view
from facemae.training.optimizer import averaged
from facemae.training.trainer import LOSS

VIEWS = ("view a", "view b")  # purposes of the noise that they are drawn from


class Branch(nn.Module):
    """An encoder and the head whose projections (B, P) of its pooled tokens are compared."""

    def __init__(self, encoder: Encoder, projection: nn.Module) -> None:
        super().__init__()
        self.encoder = encoder
        self.projection = projection

    def forward(self, images: Tensor) -> Tensor:
        """Return projections (B, P), float32 whatever the precision, of images (B, 3, H, H)."""
        return in_float32(self.projection, self.encoder.pool(self.encoder(images)))


class Rival(nn.Module):
    """What is trained: an encoder with its projection, and moco's predictor (else nothing)."""

    def __init__(self, branch: Branch, predictor: nn.Module) -> None:
        super().__init__()
        self.branch = branch
        self.predictor = predictor

    @property
    def encoder(self) -> Encoder:
        """The encoder, which the training is for."""
        return self.branch.encoder

    def forward(self, images: Tensor) -> Tensor:
        """Return what is compared, (B, P) float32, of images (B, 3, H, H)."""
        return in_float32(self.predictor, self.branch(images))


def in_float32(head: nn.Module, vectors: Tensor) -> Tensor:
    """Return what a head makes of vectors (B, D), in float32: it is small, and it normalises."""
    with torch.autocast(vectors.device.type, enabled=False):
        made: Tensor = head(vectors.float())
    return made


Compare = Callable[[nn.Module, Tensor, Tensor], Tensor]  # (loss, own, averaged) -> a number; (2 B, P) each


class Kind(NamedTuple):
    """What one rival is made of.

    Attributes:
        projection: Makes its head from encoder width and settings.
        predictor: Makes what comes after it.
        loss: Makes the loss, with its state.
        compare: Returns the loss of projections; those of the averaged branch are its own without one.
        averages: Whether it compares with an averaged branch.
    """

    projection: Callable[[int, config.Views], nn.Module]
    predictor: Callable[[config.Views], nn.Module]
    loss: Callable[[config.Views], nn.Module]
    compare: Compare
    averages: bool


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of finding each query's (B, P) key (B, P) among all keys of the batch.

    MoCo v3, algorithm 1, without its factor of twice the temperature: chance is log B at any temperature.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(queries), device=queries.device))


class SymmetricInfoNce(nn.Module):
    """Each view's query looks for the other view's key: the mean of both directions."""

    def __init__(self, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(self, queries: tuple[Tensor, Tensor], keys: tuple[Tensor, Tensor]) -> Tensor:
        """Return the loss of two views' queries and keys, (B, P) each."""
        (query_a, query_b), (key_a, key_b) = queries, keys
        return 0.5 * (info_nce(query_a, key_b, self.temperature) + info_nce(query_b, key_a, self.temperature))


def _simclr_head(width: int, views: config.Views) -> nn.Module:
    from lightly.models.modules.heads import SimCLRProjectionHead

    head: nn.Module = SimCLRProjectionHead(width, views.hidden, views.projection)
    return head


def _moco_head(width: int, views: config.Views) -> nn.Module:
    from lightly.models.modules.heads import MoCoProjectionHead

    head: nn.Module = MoCoProjectionHead(width, views.hidden, views.projection, num_layers=3, batch_norm=True)
    return head


def _moco_predictor(views: config.Views) -> nn.Module:
    from lightly.models.modules.heads import MoCoProjectionHead

    head: nn.Module = MoCoProjectionHead(
        views.projection, views.hidden, views.projection, num_layers=2, batch_norm=True
    )
    return head


def _dino_head(width: int, views: config.Views) -> nn.Module:
    from lightly.models.modules.heads import DINOProjectionHead

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # weight_norm is deprecated
        head: nn.Module = DINOProjectionHead(width, views.hidden, views.hidden, views.projection)
    return _copyable(head)


def _copyable(head: nn.Module) -> nn.Module:
    """Return DINO's head with its last layer's weights normalised in a way that can be copied and averaged.

    The deprecated way keeps the normalised weights, which are no leaf of the graph, as an attribute.
    """
    last = cast(nn.Linear, head.last_layer)
    nn.utils.remove_weight_norm(last)
    nn.utils.parametrizations.weight_norm(last)
    lengths = cast(Any, last).parametrizations.weight.original0
    lengths.data.fill_(1.0)
    lengths.requires_grad_(False)
    return head


def _nt_xent(views: config.Views) -> nn.Module:
    from lightly.loss import NTXentLoss

    loss: nn.Module = NTXentLoss(temperature=views.temperature)
    return loss


def _dino_loss(views: config.Views) -> nn.Module:
    from lightly.loss import DINOLoss

    loss: nn.Module = DINOLoss(
        views.projection, teacher_temp=views.teacher_temperature, student_temp=views.temperature
    )
    return loss


def _nothing(views: config.Views) -> nn.Module:
    return nn.Identity()


def _compare_own(loss: nn.Module, own: Tensor, _: Tensor) -> Tensor:
    compared: Tensor = loss(*own.chunk(2))
    return compared


def _compare_query(loss: nn.Module, own: Tensor, averages: Tensor) -> Tensor:
    compared: Tensor = loss(own.chunk(2), averages.chunk(2))
    return compared


def _compare_student(loss: nn.Module, own: Tensor, averages: Tensor) -> Tensor:
    compared: Tensor = loss(list(averages.chunk(2)), list(own.chunk(2)))
    return compared


KINDS = {
    "simclr": Kind(_simclr_head, _nothing, _nt_xent, _compare_own, averages=False),
    "moco": Kind(
        _moco_head, _moco_predictor, lambda views: SymmetricInfoNce(views.temperature), _compare_query,
        averages=True,
    ),
    "dino": Kind(_dino_head, _nothing, _dino_loss, _compare_student, averages=True),
}  # fmt: skip


@dataclass(frozen=True)
class Contrast:
    """A rival in training: a `pretrain.Method`.

    Attributes:
        kind: What it is made of.
        model: What is trained.
        compiled: The model, as it is called.
        momentum: The averaged branch that moco and dino compare with.
        compared: The loss, with its state.
        feed: The training faces.
        settings: The run's.
        compute: Where it runs.
        seed: Of the run.
    """

    kind: Kind
    model: Rival
    compiled: nn.Module
    momentum: AveragedModel | None
    compared: nn.Module
    feed: Feed
    settings: config.Pretrain
    compute: Compute
    seed: int

    clipped_apart: tuple[nn.Module, ...] = ()

    @property
    def parts(self) -> dict[str, nn.Module]:
        """Everything that has a state."""
        parts = {"rival": self.model, "momentum": self.momentum, "compared": self.compared}
        return {name: part for name, part in parts.items() if part is not None}

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of the step's batch, of which there is one part only."""
        faces, places = self.feed.batch(step, part), range(part.start, part.stop)
        return {LOSS: self._loss(self.compiled, faces, places, self.seed, step)}

    def after_step(self, world: World) -> None:
        """Let the averaged branch follow."""
        if self.momentum is not None:
            self.momentum.update_parameters(self.model.branch)

    @torch.no_grad()
    def score(self, model: nn.Module, faces: Faces) -> float:
        """Return the mean loss of some faces, the same views for every run and seed.

        They are compared in batches of at least `batch_size` faces, if there are as many.
        """
        state = {name: value.clone() for name, value in self.compared.state_dict().items()}
        count = len(faces.images)
        batches = torch.arange(count).tensor_split(max(1, count // self.settings.batch_size))
        total = 0.0
        for places in batches:
            images = torch.from_numpy(faces.images[places.numpy()]).to(self.compute.device)
            total += float(self._loss(model, images, places, "unseen")) * len(places)
        self.compared.load_state_dict(state)  # dino's centre follows whatever it sees
        return total / count

    def write(self, model: nn.Module, out: Path) -> list[dict[str, Any]]:
        """Write nothing: the encoder, which pretrain.py writes, is all there is."""
        return []

    def _loss(self, model: nn.Module, faces: Tensor, places: range | Tensor, *key: str | int) -> Tensor:
        """Return the loss of faces (B, H, H, 3) uint8 on two views of each."""
        device, how = self.compute.device, self.settings.compared_views
        noises = (Noise(places, *key, view, device=device) for view in VIEWS)
        views = torch.cat([self_supervised_view(faces, how, noise) for noise in noises])
        with self.compute.autocast():
            own: Tensor = model(views)
            with torch.no_grad():
                averages: Tensor = self.momentum(views) if self.momentum is not None else own
        return self.kind.compare(self.compared, own, averages)


def build(task: Task, settings: config.Pretrain) -> Rival:
    """Return the untrained network of a run; its encoder starts as a masked autoencoder's does.

    Raises:
        UsageError: the package lightly is missing.
    """
    torch.manual_seed(seed_of(task.seed, "weights"))
    encoder = build_encoder(task.run.model, task.image_size)
    return build_rival(encoder, settings, task.seed)


def build_rival(encoder: Encoder, settings: config.Pretrain, seed: int) -> Rival:
    """Return an encoder with the untrained heads of a rival.

    Raises:
        UsageError: the package lightly is missing.
    """
    kind = KINDS[settings.method]
    torch.manual_seed(seed_of(seed, "head"))
    try:
        projection = kind.projection(encoder.width, settings.compared_views)
        predictor = kind.predictor(settings.compared_views)
    except ImportError as error:
        raise UsageError(
            f"pretrain.method: {settings.method} takes the package lightly, which cannot be loaded "
            f"({error}); pip install 'facemae[contrastive]', or choose method mae."
        ) from error
    return Rival(Branch(encoder, projection), predictor)


def trial(settings: config.Pretrain, image_size: int, compute: Compute) -> Callable[[nn.Module, int], Tensor]:
    """Return a forward pass over two views of so many empty images, for an estimate of its cost.

    The averaged branch is left out: without a gradient it takes next to no memory, and a quarter of the
    arithmetic, which the utilisation in the log then lacks.
    """

    def forward(model: nn.Module, count: int) -> Tensor:
        views: Tensor = model(torch.zeros(2 * count, 3, image_size, image_size, device=compute.device))
        return views

    return forward


def start(model: nn.Module, feed: Feed, task: Task, settings: config.Pretrain, compute: Compute) -> Contrast:
    """Return the training of a model that `build` has made and that is on the device."""
    return build_contrast(cast(Rival, model), feed, settings, compute, task.seed)


def build_contrast(
    model: Rival, feed: Feed, settings: config.Pretrain, compute: Compute, seed: int
) -> Contrast:
    """Return the objective of a run around its network, which is on the device already."""
    kind = KINDS[settings.method]
    momentum = None
    if kind.averages:
        momentum = averaged(model.branch, settings.compared_views.momentum)
        momentum.update_parameters(model.branch)  # the first time is a copy, every other one a step
        compute.place(momentum)
    compared = kind.loss(settings.compared_views)
    compute.place(compared)
    compiled = compute.compiled(model, one_shape=True)
    return Contrast(kind, model, compiled, momentum, compared, feed, settings, compute, seed)
