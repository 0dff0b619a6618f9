"""What the tests share: the shipped configuration made small, and real faces without a detector."""

import contextlib
import copy
import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from facemae import config

ROOT = Path(__file__).parents[1]

# Deadlines measure the machine, not the code.
settings.register_profile("facemae", deadline=None)
settings.load_profile("facemae")

# A shell's background jobs start deaf to Ctrl-C, and those of nohup to a closed terminal; tests send both.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# Tests end processes, never the machine: nothing needs to be on the disk itself.
os.fsync = lambda descriptor: None

SMALL = {
    "results": "unused",
    "device": "cpu",
    "precision": "float32",
    "seeds": [0, 1],
    "data": {"image_size": 32},
    "split": {"folds": 2},
    "runs": {"face_mae": None},
    "defaults": {
        "model": {"patch_size": 8, "width": 16, "depth": 2, "heads": 2, "embedding": 8},
        "pretrain": {"decoder_width": 16, "decoder_heads": 2, "steps": 10, "batch_size": 4},
        "finetune": {"steps": 10, "batch_size": 4},
    },
    "evaluate": {"far_targets": [0.1], "resamples": 100},
}
for _stage in ("pretrain", "finetune"):
    SMALL["defaults"][_stage] |= {"log_every": 3, "checkpoint_every": 4}


@pytest.fixture(autouse=True)
def _torch_as_it_was():
    """Compute on one thread, and undo what choosing a device sets for the whole process."""
    if "torch" not in sys.modules:
        yield
        return
    import torch

    torch.set_num_threads(1)
    filled = torch.utils.deterministic.fill_uninitialized_memory
    deterministic = torch.are_deterministic_algorithms_enabled()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture(scope="session")
def root():
    return ROOT


@pytest.fixture(scope="session")
def shipped_content():
    """The content of the shipped config.yaml, which nobody changes."""
    return config.content_of([ROOT / "config.yaml"])


@pytest.fixture
def shipped(shipped_content):
    """The content of the shipped config.yaml, to change at will."""
    return copy.deepcopy(shipped_content)


@pytest.fixture(scope="session")
def small(shipped_content):
    """Return a function that makes a small experiment, with changes laid over it."""
    base = config.merge(shipped_content, SMALL)

    def make(**changes):
        return config.parse(config.merge(copy.deepcopy(base), changes))

    return make


@pytest.fixture(scope="session")
def experiment(small):
    return small()


@pytest.fixture(scope="session")
def compute():
    import torch

    from facemae.compute.device import Compute

    return Compute(torch.device("cpu"), torch.float32)


@pytest.fixture(scope="session")
def orl_images():
    """Eight people's first two photos, each cut to a square and shrunk: (16, 32, 32, 3) uint8."""
    from facemae.data.images import open_image
    from facemae.data.sources.orl import orl_photos

    photos = [photo for photo in orl_photos() if photo.sample_id.endswith(("/01", "/02"))][:16]
    faces = [open_image(photo.path).crop((0, 10, 92, 102)).resize((32, 32)) for photo in photos]
    return np.stack([np.asarray(face) for face in faces])


@pytest.fixture
def replaced():
    """Return a context manager that sets an attribute and puts the old one back at its end."""

    @contextlib.contextmanager
    def replace(owner, name, value):
        before = getattr(owner, name)
        setattr(owner, name, value)
        try:
            yield
        finally:
            setattr(owner, name, before)

    return replace


@pytest.fixture
def command_line(monkeypatch, capsys):
    """Return a function that runs a command line in this process: exit code, output, errors."""
    from facemae import __main__ as cli

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["facemae", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        found = capsys.readouterr()
        return ended.value.code or 0, found.out, found.err

    return run
