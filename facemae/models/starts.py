"""What runs start from, looked at before any of them is trained."""

from __future__ import annotations

from facemae import config
from facemae.core.errors import IntegrityError, UsageError


def check_starts(experiment: config.Experiment) -> None:
    """Stop unless the weights that runs start from can be read and fit; loads PyTorch if there are some."""
    for name in experiment.run_names:
        run = experiment.run(name)
        section = "finetune" if run.pretrain is None else "pretrain"
        if (init := (run.pretrain or run.finetune).init) is None:
            continue
        from facemae.models.build import build_encoder
        from facemae.models.interop.load import start_encoder

        try:
            start_encoder(build_encoder(run.model, experiment.data.image_size), init)
        except (UsageError, IntegrityError) as error:
            raise type(error)(f"runs.{name}.{section}.init: {error}") from error
