"""Processor time of the main job, now against an earlier commit: `python -m benchmarks.main_job --json`.

The whole workflow runs once as it stands here and once as it stood at the commit, from ORL's photos to the
report's page, each in a folder of its own. Both train the same networks for the same number of steps: every
setting that both know has the value that the earlier `config.yaml` gives it. The clock is the processor's
time, user and system, of Snakemake and of everything it started, so that neighbours and the number of cores
count little.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from benchmarks.common import cores, finish
from facemae.config import merge
from facemae.core.errors import UsageError
from facemae.core.files import atomic_write, dump_json
from facemae.core.progress import say

ROOT = Path(__file__).resolve().parents[1]
BEFORE = "0bc28e7"  # the last commit whose workflow started a process for each small step
# Of both, whatever their config.yaml says.
COMMON = {"results": "results", "device": "cpu", "precision": "auto"}

Settings = dict[str, Any]


def measure(before: str, over: Settings, threads: int) -> dict[str, Any]:
    """Run both workflows and return the figures.

    Args:
        before: The commit to compare with.
        over: Settings that are laid over both configurations.
        threads: Cores that Snakemake may use.

    Raises:
        UsageError: there is no such commit, or a workflow fails.
    """
    with tempfile.TemporaryDirectory() as folder, checked_out(before, Path(folder) / "tree") as old:
        theirs = _settings(old)
        found = {
            "before": run(old, Path(folder) / "before", merge(theirs, over), threads),
            "now": run(ROOT, Path(folder) / "now", merge(shared(theirs, _settings(ROOT)), over), threads),
        }
    ratio = found["now"]["processor_seconds"] / found["before"]["processor_seconds"]
    return {**found, "commit": before, "cores": threads, "ratio": round(ratio, 3)}


@contextlib.contextmanager
def checked_out(commit: str, folder: Path) -> Iterator[Path]:
    """Give a work tree of a commit of this repository, and remove it in the end.

    Raises:
        UsageError: there is no such commit here.
    """
    git = ["git", "-C", str(ROOT), "worktree"]
    done = subprocess.run(
        [*git, "add", "--detach", str(folder), commit], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise UsageError(f"{commit} cannot be checked out from {ROOT}: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def shared(theirs: Settings, ours: Settings) -> Settings:
    """Return our settings with the values that theirs give to the keys of both; runs are all theirs."""
    taken = _of_both(theirs, ours) | {"runs": dict.fromkeys(ours["runs"]) | theirs["runs"]}
    return merge(ours, taken)


def _of_both(theirs: Settings, ours: Settings) -> Settings:
    both = {name: (value, ours[name]) for name, value in theirs.items() if name in ours}
    return {
        name: _of_both(*pair) if all(isinstance(each, dict) for each in pair) else pair[0]
        for name, pair in both.items()
    }


def _settings(tree: Path) -> Settings:
    content: Settings = {}
    for file in ("config/defaults.yaml", "config.yaml"):  # earlier commits had the second alone
        if (tree / file).exists():
            content = merge(content, yaml.safe_load((tree / file).read_text(encoding="utf-8")))
    return merge(content, COMMON)


def run(tree: Path, folder: Path, settings: Settings, threads: int) -> dict[str, float]:
    """Run the workflow of a work tree in a new folder; return what it took.

    Raises:
        UsageError: it fails.
    """
    folder.mkdir()
    atomic_write(folder / "config.yaml", dump_json(settings))
    # Compiled beforehand, as an installed package is.
    environment = os.environ | {"PYTHONPATH": str(tree)}
    environment |= {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"}
    subprocess.run([sys.executable, "-m", "compileall", "-q", str(tree / "facemae")], check=True)
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(tree / "Snakefile")]
    say("main job", f"{folder.name}: {tree}")
    spent, started = _processor_seconds(), time.monotonic()
    done = subprocess.run(
        [*command, "--cores", str(threads)],
        cwd=folder, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise UsageError(f"The workflow of {tree} failed: {(done.stdout + done.stderr)[-2000:]}")
    return {
        "processor_seconds": round(_processor_seconds() - spent, 1),
        "wall_seconds": round(time.monotonic() - started, 1),
        # Earlier commits show Snakemake's own lines, later ones a line of theirs for each stage.
        "jobs": len(re.findall(r"^Finished jobid|^\[.+\] took ", done.stdout + done.stderr, re.MULTILINE)),
    }


def _processor_seconds() -> float:
    """Return what all processes that have ended below this one have taken."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--before", default=BEFORE, help="commit to compare with")
    parser.add_argument("--over", type=Path, help="YAML file laid over both configurations")
    parser.add_argument("--cores", type=int, default=cores(), help="cores that Snakemake may use")
    parser.add_argument("--json", action="store_true", help="end with a line of JSON")
    asked = parser.parse_args()
    over = yaml.safe_load(asked.over.read_text(encoding="utf-8")) if asked.over else {}
    finish(functools.partial(measure, asked.before, over, asked.cores), asked.json)


if __name__ == "__main__":
    main()
