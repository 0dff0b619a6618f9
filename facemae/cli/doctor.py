"""Whether the main job can run here, found out before it starts."""

from __future__ import annotations

import importlib.metadata
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.version import Version

from facemae import config
from facemae.compute.driver import driver_version
from facemae.core import files
from facemae.core.errors import DataError, FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.data.sources.locate import MISSING, availability, raw_dir
from facemae.stages.data import wanted_sources
from facemae.stages.starts import check_starts

PYTHON_FLOOR = "3.11"
# Below these stand known holes: torch's checkpoint loading, Pillow's decoders, Streamlit's uploads.
FLOORS = {
    "torch": "2.10",
    "torchvision": "0.25",
    "pillow": "13.0",
    "streamlit": "1.67",
    "snakemake": "9.11",
    "timm": "1.0.20",
    "facenet-pytorch": "2.6.0",
    "numpy": "2.0",
    "pandas": "2.2",
    "pyarrow": "19",
}
MIN_FREE_MB = 500


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report; with `ok` False the main job cannot run."""

    topic: str
    ok: bool
    text: str


def doctor(config_files: list[Path]) -> int:
    """Print what was found and return the exit code: 0 only if the main job can run."""
    findings = list(examine(config_files))
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.topic:<16} {finding.text}")
    failed = [finding.topic for finding in findings if not finding.ok]
    print(f"The main job cannot run: see {', '.join(failed)}." if failed else "The main job can run.")
    return UsageError.exit_code if failed else 0


def examine(config_files: list[Path]) -> Iterator[Finding]:
    """Yield every finding; the configuration's own come last, if it can be read."""
    version = platform.python_version()
    yield Finding("python", Version(version) >= Version(PYTHON_FLOOR), f"{version}, needs {PYTHON_FLOOR}")
    for package, floor in FLOORS.items():
        yield _package(package, floor)
    try:
        experiment = config.load(config_files)
    except FaceMAEError as error:
        yield Finding("configuration", False, str(error))
        return
    yield Finding("configuration", True, f"{len(experiment.run_names)} runs, {len(experiment.seeds)} seeds")
    for topic, check in CHECKS.items():
        try:
            yield Finding(topic, True, check(experiment))
        except (FaceMAEError, ImportError, OSError) as error:
            yield Finding(topic, False, str(error))


def _package(package: str, floor: str) -> Finding:
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return Finding(package, False, f"not installed, needs {floor}; run make")
    enough = Version(version) >= Version(floor)
    return Finding(package, enough, f"{version}, needs {floor}" + ("" if enough else "; run make"))


def _device(experiment: config.Experiment) -> str:
    import torch

    from facemae.compute import device

    compute = device.choose(experiment.device, experiment.precision, threads=1)
    built = f"PyTorch {torch.__version__}, CUDA {torch.version.cuda or 'none'}"
    return f"{compute}; {built}, NVIDIA driver {driver_version() or 'none'}"


def _disk(experiment: config.Experiment) -> str:
    results = Path(experiment.results).absolute()
    folder = next(path for path in (results, *results.parents) if path.exists())
    with files.storage_errors(results), tempfile.TemporaryFile(dir=folder):
        pass  # it can be written
    free = shutil.disk_usage(folder).free / 1e6
    if free < MIN_FREE_MB:
        raise UsageError(
            f"{free:.0f} MB are free for {experiment.results}, {MIN_FREE_MB} are needed; make room."
        )
    return f"{free / 1000:.1f} GB free for {experiment.results}"


def _data(experiment: config.Experiment) -> str:
    raw = raw_dir(experiment.data.raw_dir)
    found = [(each, availability(each, raw)) for each in wanted_sources(experiment.data)]
    missing = [each.source for each, there in found if there == MISSING]
    if missing:
        raise DataError(f"{missing[0].title} is not in {raw}: {missing[0].how_to_get}")
    return "; ".join(f"{each.source.title}: {there}" for each, there in found)


def _start(experiment: config.Experiment) -> str:
    check_starts(experiment)
    return "weights to start from fit, recognisers are installed"


def _locks(experiment: config.Experiment) -> str:
    for path in Results(Path(experiment.results)).locks:
        files.check_free(path)
    return "none held"


CHECKS: dict[str, Callable[[config.Experiment], str]] = {
    "device": _device,
    "disk": _disk,
    "data": _data,
    "start": _start,
    "locks": _locks,
}
