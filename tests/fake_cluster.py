"""SLURM's and Kubernetes' commands, played on this machine: jobs are processes, one training is preempted.

`install` puts the commands into a folder for PATH. A stage of facemae is played, too: the first attempt at a
pretraining saves its state and waits until it is told to stop; the next one finds the state and finishes.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

COMMANDS = ("sbatch", "srun", "sacct", "scancel", "scontrol", "sinfo", "squeue", "kubectl", "torchrun")
OUTPUTS = {
    "pretrain": (
        "encoder.safetensors",
        "decoder.safetensors",
        "reconstructions.safetensors",
        "log.jsonl",
        "metrics.json",
        "config.json",
    ),
    "finetune": (
        "embedder.safetensors",
        "embeddings.parquet",
        "probe.parquet",
        "log.jsonl",
        "metrics.json",
        "config.json",
    ),
}
PATIENCE = 60  # seconds after which a play that hangs ends


def install(home: Path) -> dict[str, str]:
    """Write the commands below `home` and return the environment in which they are found."""
    folder = home / "bin"
    folder.mkdir(parents=True)
    this = f"{sys.executable} {__file__}"
    scripts = {name: f'exec {this} {name} "$@"' for name in COMMANDS}
    scripts["python"] = (
        f'case "$1 $2" in "-m facemae") exec {this} python "$@" ;; *) exec {sys.executable} "$@" ;; esac'
    )
    for name, script in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    return {"FAKE_CLUSTER": str(home), "PATH": f"{folder}:{Path(sys.executable).parent}:{os.environ['PATH']}"}


def records(home: Path, what: str) -> list[dict]:
    """Return what was noted about `what`, in order."""
    file = home / f"{what}.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def note(what: str, **facts: object) -> None:
    with open(HOME / f"{what}.jsonl", "a") as file:
        file.write(json.dumps(facts) + "\n")


def option(arguments: list[str], name: str) -> str:
    return arguments[arguments.index(name) + 1]


def start(command: list[str], log: Path, **environment: str) -> str:
    """Start a job in the background and return its number."""
    number = str(len(records(HOME, "jobs")) + 1)
    note("jobs", number=number, command=command)
    with open(log, "w") as file:
        subprocess.Popen(
            [sys.executable, __file__, "job", number, *command],
            env=os.environ | {"SLURM_JOB_ID": number} | environment,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    return number


def job(number: str, *command: str) -> None:
    """Run a job to its end; when its training waits to be preempted, preempt it."""
    process = subprocess.Popen(command, start_new_session=True)
    waits, step = HOME / "waits", HOME / f"{number}.step"
    while process.poll() is None:
        if waits.exists():
            waits.unlink()
            if step.exists():  # SLURM signals all processes of the step
                os.killpg(int(step.read_text()), signal.SIGTERM)
            else:  # Kubernetes signals the container's first process
                process.terminate()
        time.sleep(0.1)
    (HOME / f"{number}.code").write_text(str(process.returncode))


def state(number: str, running: str, done: str, failed: str) -> str:
    file = HOME / f"{number}.code"
    return running if not file.exists() else done if file.read_text() == "0" else failed


def sbatch(*arguments: str) -> None:
    wrapped = next(each.removeprefix("--wrap=") for each in arguments if each.startswith("--wrap="))
    note("submitted", arguments=[each for each in arguments if not each.startswith("--wrap=")])
    log = Path(option(list(arguments), "--output").replace("%j", "job"))
    log.parent.mkdir(parents=True, exist_ok=True)
    print(start(["/bin/sh", "-c", wrapped], log))


def srun(*arguments: str) -> None:
    """Run a step as slurmstepd does: what is left of it when its first process ends is killed."""
    first = next(i for i, each in enumerate(arguments) if not each.startswith("-"))
    step = subprocess.Popen(arguments[first:], start_new_session=True)
    (HOME / f"{os.environ['SLURM_JOB_ID']}.step").write_text(str(step.pid))
    code = step.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(step.pid, signal.SIGKILL)
    sys.exit(code != 0)


def sacct(*arguments: str) -> None:
    if "-X" in arguments:
        for each in records(HOME, "jobs"):
            print(each["number"] + "|" + state(each["number"], "RUNNING", "COMPLETED", "FAILED"))


def kubectl(verb: str, *arguments: str) -> None:
    if verb == "create":
        manifest = yaml.safe_load(sys.stdin.read())
        note("submitted", manifest=manifest)
        container = manifest["spec"]["template"]["spec"]["containers"][0]
        number = start(container["command"] + container["args"], HOME / "pod.log")
        print(f"job.batch/{manifest['metadata']['generateName']}{number}")
    elif verb == "get":
        number = arguments[1].rsplit("-", 1)[1]
        print("known " + state(number, "", "SuccessCriteriaMet Complete", "FailureTarget Failed"))


def stage(launcher: str, *arguments: str) -> None:
    """Play a stage of facemae."""
    asked = list(arguments)
    name = asked[asked.index("facemae") + 1]
    folder = Path(option(asked, "--out"))
    saved = folder.parent / f".{folder.name}" / "state"
    resumed = saved.exists()
    has_config = Path(option(asked, "--config")).exists()
    note("stages", name=name, launcher=launcher, asked=asked, resumed=resumed, has_config=has_config)
    if name == "pretrain" and not resumed:
        wait_for_preemption(saved)
    folder.mkdir(parents=True, exist_ok=True)
    for output in OUTPUTS[name]:
        (folder / output).touch()


def wait_for_preemption(saved: Path) -> None:
    def stop(number: int, frame: object) -> None:
        time.sleep(1)  # the step in hand
        print("saving", flush=True)  # fails where the log is gone
        saved.parent.mkdir(parents=True)
        saved.touch()
        sys.exit(75)

    signal.signal(signal.SIGTERM, stop)
    (HOME / "waits").touch()
    time.sleep(PATIENCE)


if __name__ == "__main__":
    HOME = Path(os.environ["FAKE_CLUSTER"])
    called, *rest = sys.argv[1:]
    if called in ("python", "torchrun"):
        stage(called, *rest)
    elif called in ("sbatch", "srun", "sacct", "kubectl", "job"):
        globals()[called](*rest)
