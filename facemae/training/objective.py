"""What every training has in common: an objective with its loss, and how it is judged on its way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from facemae.compute.device import Compute
from facemae.compute.distributed import World
from facemae.compute.seeding import Noise
from facemae.data.faces.loader import Feed
from facemae.training.optimizer import averaged

LOSS, HELD_OUT = "loss", "held_out_loss"


@dataclass(frozen=True)
class Validation:
    """How a training is judged on its way: by `measure`, every so many steps.

    It returns named values; `HELD_OUT` among them tells which weights are best. After `patience` validations
    without a better one training stops; 0 never stops.
    """

    every: int
    patience: int
    measure: Callable[[int], dict[str, float]]


@dataclass
class Trained:
    """What a training left behind, besides the network's weights."""

    step: int = 0
    seconds: float = 0.0
    recent: list[dict[str, Any]] = field(default_factory=list)
    """Losses since the last line of the log, by name."""
    log: list[dict[str, Any]] = field(default_factory=list)
    held_out: list[tuple[float, int]] = field(default_factory=list)
    """Held-out loss and step of each validation."""
    best: dict[str, Tensor] = field(default_factory=dict)
    """The network's state at the least held-out loss."""

    @property
    def best_step(self) -> int | None:
        """Return the step of the least held-out loss, or None where there was no validation."""
        return min(self.held_out)[1] if self.held_out else None

    @property
    def facts(self) -> dict[str, Any]:
        """Return what a checkpoint keeps besides tensors."""
        recent = [{name: float(value) for name, value in each.items()} for each in self.recent]
        return {"seconds": self.seconds, "recent": recent, "held_out": self.held_out}


class Objective:
    """What is trained and to what end: one subclass for each way of training, which the trainer calls.

    Attributes:
        model: The network that the training is for.
        network: Everything that has a state, trained or not: the model, what is trained beside it, and the
            model's running mean.
        average: The running mean of the model's weights, if the settings ask for it.
        compute: Where it runs.
        seed: Of the order of the faces and of all that is drawn.
        feed: The training faces in batches; set before the first step.
        validation: How it is judged on its way; None: it is not, and the last weights count.
        flops: Floating-point operations per image, forward and backward; 0 is unknown.
        clipped_apart: Parts of the network whose gradients are clipped by themselves, so that what they
            learn beside the others does not shorten the others' steps.
        watts: What the GPU drew whenever it was looked at.
    """

    views: ClassVar[int] = 1
    """Images that a step makes of a face."""
    seed: int
    feed: Feed
    validation: Validation | None = None
    flops: float = 0.0
    clipped_apart: tuple[nn.Module, ...] = ()

    def __init__(self, model: nn.Module, compute: Compute, ema: float = 0.0, **beside: nn.Module) -> None:
        """Move everything to the device.

        `ema` is the decay per step of the running mean, 0 for none; `beside` has a state besides the model.
        """
        self.model, self.compute = model, compute
        self.average = averaged(model, ema) if ema else None
        mean = {} if self.average is None else {"average": self.average}
        self.network = nn.ModuleDict({"model": model, **beside, **mean})
        compute.place(self.network)
        self.watts: list[float] = []

    @property
    def result(self) -> nn.Module:
        """The model that the training ends with: the running mean, if there is one."""
        return self.model if self.average is None else self.average.module

    def loss(self, step: int, part: slice) -> dict[str, Tensor]:
        """Return the losses of a part of a step's batch by name, float32 scalars that depend on these alone.

        `LOSS` is minimised; all are logged.
        """
        raise NotImplementedError

    def trial(self, model: nn.Module, count: int) -> Tensor:
        """Return something computed of so many empty images, as a step does, for an estimate of its cost."""
        raise NotImplementedError

    def follow(self, world: World) -> None:
        """Let whatever is no weight but follows from the weights follow them after a step."""

    def after_step(self, step: int, world: World) -> None:
        """Let all that follows the weights follow them; `step` is the one that was just taken."""
        self.follow(world)
        if isinstance(self.average, AveragedModel):
            self.average.update_parameters(self.model)
        self.watts += self.compute.watts(step)

    def noise(self, purpose: str, step: int, part: slice) -> Noise:
        """Return the noise for a purpose and a part of a step's batch."""
        return Noise(range(part.start, part.stop), self.seed, purpose, step, device=self.compute.device)
