"""Contrastive pretraining: encoders that learn to tell one face's views from other faces' views.

Encoder, start, batches, steps and optimiser are those of masked pretraining; heads and losses are lightly's.
Both views go through a network as one batch, which is what a head's batch normalisation sees.
Shapes: B batch, H side, D encoder width, P dimensions that views are compared in.
"""

from __future__ import annotations

import warnings
from typing import Any, ClassVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from facemae import config
from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.core.errors import UsageError
from facemae.core.seeds import seed_of
from facemae.data.faces.cache import Faces
from facemae.models.base import Encoder
from facemae.training.objective import LOSS, Objective
from facemae.training.objectives.augment import self_supervised_view
from facemae.training.optimizer import averaged

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


class ContrastiveModel(nn.Module):
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


def info_nce(queries: Tensor, keys: Tensor, temperature: float) -> Tensor:
    """Return the mean cross-entropy of finding each query's (B, P) key (B, P) among all keys of the batch.

    MoCo v3, algorithm 1, without its factor of twice the temperature: chance is log B at any temperature.
    """
    cosines = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
    return F.cross_entropy(cosines / temperature, torch.arange(len(queries), device=queries.device))


class Contrastive(Objective):
    """A method that compares two views of each face; `METHODS` lists them.

    `momentum` is the averaged branch to compare with, of methods that have one, `criterion` the loss, with
    its state.
    """

    views: ClassVar[int] = len(VIEWS)
    averages: ClassVar[bool] = False
    """Whether the method compares with an averaged branch."""
    model: ContrastiveModel

    def __init__(
        self, model: ContrastiveModel, settings: config.Pretrain, compute: Compute, seed: int
    ) -> None:
        self.settings, self.how, self.seed = settings, settings.compared_views, seed
        self.criterion, self.momentum = self.make_criterion(self.how), None
        beside = {}
        if self.averages:
            beside["momentum"] = self.momentum = averaged(model.branch, self.how.momentum)
            self.momentum.update_parameters(model.branch)  # the first time is a copy, every other one a step
        super().__init__(model, compute, settings.ema, **beside, criterion=self.criterion)
        self.compiled = compute.compiled(model, one_shape=True)

    @classmethod
    def build(cls, encoder: Encoder, settings: config.Pretrain, seed: int) -> ContrastiveModel:
        """Return an encoder with the method's untrained heads.

        Raises:
            UsageError: the package lightly is missing.
        """
        how = settings.compared_views
        torch.manual_seed(seed_of(seed, "head"))
        try:
            projection, predictor = cls.heads(encoder.width, how)
        except ImportError as error:
            raise UsageError(
                f"pretrain.method: {settings.method} takes the package lightly, which cannot be loaded "
                f"({error}); run make install, or choose method mae."
            ) from error
        return ContrastiveModel(Branch(encoder, projection), predictor)

    @staticmethod
    def heads(width: int, views: config.Views) -> tuple[nn.Module, nn.Module]:
        """Return the projection of an encoder's width, and what follows it in the trained branch alone."""
        raise NotImplementedError

    @staticmethod
    def make_criterion(views: config.Views) -> nn.Module:
        """Return the loss, where it has a state or is one of lightly's."""
        return nn.Identity()

    def compare(self, own: Tensor, averages: Tensor) -> Tensor:
        """Return the loss of both views' projections (2 B, P); `averages` is `own` without such a branch."""
        raise NotImplementedError

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the loss of the step's batch, of which there is one part only."""
        faces, places = self.feed.batch(step, part), range(part.start, part.stop)
        return {LOSS: self._loss(self.compiled, faces, places, self.seed, step)}

    def follow(self, world: World) -> None:
        """Let the averaged branch follow."""
        if self.momentum is not None:
            self.momentum.update_parameters(self.model.branch)

    def trial(self, model: nn.Module, count: int) -> Tensor:
        """Return projections of two views of so many empty images, for an estimate of what a step costs.

        The averaged branch is left out: without a gradient it takes next to no memory, and a quarter of the
        arithmetic, which the utilisation in the log then lacks.
        """
        views: Tensor = model(self.model.encoder.blank(2 * count, self.compute.device))
        return views

    @torch.no_grad()
    def score(self, model: nn.Module, faces: Faces) -> float:
        """Return the mean loss of some faces, the same views for every run and seed.

        They are compared in batches of at least `batch_size` faces, if there are as many.
        """
        state = {name: value.clone() for name, value in self.criterion.state_dict().items()}
        count = len(faces.images)
        batches = torch.arange(count).tensor_split(max(1, count // self.settings.batch_size))
        total = 0.0
        for places in batches:
            images = torch.from_numpy(faces.images[places.numpy()]).to(self.compute.device)
            total += float(self._loss(model, images, places, "unseen")) * len(places)
        self.criterion.load_state_dict(state)  # dino's centre follows whatever it sees
        return total / count

    def _loss(self, model: nn.Module, faces: Tensor, places: range | Tensor, *key: str | int) -> Tensor:
        """Return the loss of faces (B, H, H, 3) uint8 on two views of each."""
        noises = (Noise(places, *key, view, device=self.compute.device) for view in VIEWS)
        views = torch.cat([self_supervised_view(faces, self.how, noise) for noise in noises])
        with self.compute.autocast():
            own: Tensor = model(views)
            with torch.no_grad():
                averages: Tensor = self.momentum(views) if self.momentum is not None else own
        return self.compare(own, averages)


class SimCLR(Contrastive):
    """Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020."""

    @staticmethod
    def heads(width: int, views: config.Views) -> tuple[nn.Module, nn.Module]:
        """Return lightly's head alone."""
        from lightly.models.modules.heads import SimCLRProjectionHead

        return SimCLRProjectionHead(width, views.hidden, views.projection), nn.Identity()

    @staticmethod
    def make_criterion(views: config.Views) -> nn.Module:
        """Return NT-Xent."""
        from lightly.loss import NTXentLoss

        return cast(nn.Module, NTXentLoss(temperature=views.temperature))

    def compare(self, own: Tensor, averages: Tensor) -> Tensor:
        """Return the loss of one view's projections against the other's."""
        return cast(Tensor, self.criterion(*own.chunk(2)))


class MoCo(Contrastive):
    """Chen et al., An Empirical Study of Training Self-Supervised Vision Transformers, ICCV 2021 (MoCo v3).

    A predictor, an averaged encoder to compare with, and no queue; the patch embedding is trained, though.
    """

    averages: ClassVar[bool] = True

    @staticmethod
    def heads(width: int, views: config.Views) -> tuple[nn.Module, nn.Module]:
        """Return lightly's heads of three and of two layers."""
        from lightly.models.modules.heads import MoCoProjectionHead

        sizes = views.hidden, views.projection
        projection = MoCoProjectionHead(width, *sizes, num_layers=3, batch_norm=True)
        return projection, MoCoProjectionHead(views.projection, *sizes, num_layers=2, batch_norm=True)

    def compare(self, own: Tensor, averages: Tensor) -> Tensor:
        """Return the mean of both directions: each view's query looks for the other view's key."""
        (query_a, query_b), (key_a, key_b) = own.chunk(2), averages.chunk(2)
        temperature = self.how.temperature
        return 0.5 * (info_nce(query_a, key_b, temperature) + info_nce(query_b, key_a, temperature))


class Dino(Contrastive):
    """Caron et al., Emerging Properties in Self-Supervised Vision Transformers, ICCV 2021.

    Two global views and no local crops, at one momentum and one teacher temperature throughout.
    """

    averages: ClassVar[bool] = True

    @staticmethod
    def heads(width: int, views: config.Views) -> tuple[nn.Module, nn.Module]:
        """Return lightly's head alone."""
        from lightly.models.modules.heads import DINOProjectionHead

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # weight_norm is deprecated
            head = DINOProjectionHead(width, views.hidden, views.hidden, views.projection)
        return _copyable(head), nn.Identity()

    @staticmethod
    def make_criterion(views: config.Views) -> nn.Module:
        """Return DINO's loss, whose state is the centre of the teacher's projections."""
        from lightly.loss import DINOLoss

        loss = DINOLoss(
            views.projection, teacher_temp=views.teacher_temperature, student_temp=views.temperature
        )
        return cast(nn.Module, loss)

    def compare(self, own: Tensor, averages: Tensor) -> Tensor:
        """Return the loss of the student's projections against the teacher's."""
        return cast(Tensor, self.criterion(list(averages.chunk(2)), list(own.chunk(2))))


METHODS: dict[str, type[Contrastive]] = {"simclr": SimCLR, "moco": MoCo, "dino": Dino}


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
