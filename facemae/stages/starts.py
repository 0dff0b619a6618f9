"""What runs start from, learn from and are compared with, looked at before any of them is trained."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from facemae import config
from facemae.core.errors import IntegrityError, UsageError
from facemae.evaluation.baselines.off_the_shelf import RECOGNISERS, find_recogniser


def check_starts(experiment: config.Experiment) -> None:
    """Stop unless the weights that runs start from fit, and the recognisers that are named are installed.

    Loads PyTorch if runs start from weights.
    """
    for name in experiment.run_names:
        run = experiment.run(name)
        section = "finetune" if run.pretrain is None else "pretrain"
        if (init := (run.pretrain or run.finetune).init) is not None:
            from facemae.models.build import build_encoder
            from facemae.models.interop.load import start_encoder

            with _named(f"runs.{name}.{section}.init"):
                start_encoder(build_encoder(run.model, experiment.data.image_size), init)
        if run.finetune.teacher is not None:
            with _named(f"runs.{name}.finetune.teacher"):
                find_recogniser(run.finetune.teacher).key()
    for baseline in experiment.baselines:
        if baseline in RECOGNISERS:
            with _named("baselines"):
                RECOGNISERS[baseline].key()


@contextlib.contextmanager
def _named(key: str) -> Iterator[None]:
    try:
        yield
    except (UsageError, IntegrityError) as error:
        raise type(error)(f"{key}: {error}") from error
