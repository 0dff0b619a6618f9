"""The profiles for clusters: what they ask for, and the real executors on a cluster that is played."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from fake_cluster import install, records

ROOT = Path(__file__).parent.parent
PLUGINS = {"slurm": "slurm", "kubernetes": "cluster_generic"}
RULES = {
    rule
    for file in (ROOT / "workflow" / "rules").glob("*.smk")
    for rule in re.findall(r"^(?:use rule \w+ as |rule )(\w+)", file.read_text(), re.MULTILINE)
}
DATA = ("photos.parquet", "sources.json", "listed_pairs.parquet", "faces.hashes.json", "split.parquet")
FINETUNED = "results-tiny/random/0/finetune/embedder.safetensors"


def profile(name: str) -> dict:
    return yaml.safe_load((ROOT / "profiles" / name / "config.yaml").read_text())


@pytest.fixture(params=PLUGINS)
def cluster(request) -> str:
    if not importlib.util.find_spec(f"snakemake_executor_plugin_{PLUGINS[request.param]}"):
        pytest.skip(f"the executor of profiles/{request.param} is not installed: make dev")
    return request.param


def tiny(folder: Path) -> Path:
    """Fill a folder to run the tiny configuration in, and what it leaves out: ORL has no attributes."""
    for name in ("config.yaml", "config", "profiles"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / name)
    with (folder / "config" / "tiny.yaml").open("a") as file:
        file.write("attributes: {runs: [random, pixels], tasks: {gender: orl}}\n")
    return folder


@pytest.fixture
def folder(tmp_path) -> Path:
    return tiny(tmp_path)


def snakemake(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["-m", "snakemake", "--configfile", "config/tiny.yaml", "--snakefile", ROOT / "Snakefile"]
    return subprocess.run(
        [sys.executable, *command, *arguments],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def on_this_machine(tmp_path_factory) -> dict[str, dict[str, str]]:
    return planned(tiny(tmp_path_factory.mktemp("tiny")))


def planned(folder: Path, *arguments: str) -> dict[str, dict[str, str]]:
    """Return the resources of each rule in a dry run of the whole workflow."""
    told = snakemake(folder, "all", "data", "--dry-run", *arguments)
    assert told.returncode == 0, told.stderr
    found = {}
    for block in re.split(r"\n(?=(?:local)?rule )", told.stdout + told.stderr):
        rule = re.match(r"(?:local)?rule (\w+):", block)
        resources = re.search(r"\n    resources: (.*)", block)
        if rule and resources:
            found[rule[1]] = dict(re.findall(r"(\w+)=([^,]+)", resources[1]))
    return found


def test_every_rule_says_what_it_takes(on_this_machine):
    told = {rule for rule, takes in on_this_machine.items() if {"gpu", "mem_mb", "runtime"} <= takes.keys()}
    assert told == RULES


def test_a_cluster_s_jobs_ask_for_gpu_memory_disk_and_time(cluster, folder):
    found = planned(folder, "--workflow-profile", f"profiles/{cluster}")
    assert found.keys() == RULES | {"all"}
    on_gpu = {rule for rule in RULES if found[rule]["gpu"] == "1"}
    assert on_gpu == {"align", "pretrain", "finetune"}
    for rule in RULES:
        asked = {name: int(found[rule][name]) for name in ("mem_mb", "runtime", "disk_mb")}
        assert min(asked.values()) > 0, (rule, asked)


def test_memory_grows_with_the_network(on_this_machine, folder):
    small = int(on_this_machine["finetune"]["mem_mb"])
    config = folder / "config" / "tiny.yaml"
    config.write_text(config.read_text().replace("{width: 32, depth: 2,", "{width: 512, depth: 12,"))
    weights = 16 * 12 * 12 * 512**2 / 1e6  # MB
    assert int(planned(folder)["finetune"]["mem_mb"]) - small > 0.9 * weights


def test_no_job_is_held_back_by_the_number_of_gpus_of_this_machine(cluster):
    assert "resources" in profile("default")
    assert not {"resources", "cores"} & profile(cluster).keys()


def test_profiles_share_what_does_not_depend_on_the_cluster(cluster):
    shared = profile("default")
    del shared["resources"], shared["cores"]
    assert shared.items() <= profile(cluster).items()


@pytest.mark.parametrize(
    "cluster",
    [pytest.param("slurm", marks=[pytest.mark.slow, pytest.mark.timeout(600)]), "kubernetes"],
    indirect=True,  # SLURM's executor asks ever more seldom how a job is doing
)
def test_a_preempted_training_is_run_again_from_its_checkpoint(cluster, folder):
    """The rest of the tiny workflow is played; Snakemake, its executor and the rules' commands are real."""
    home = folder / "cluster"
    environment = install(home)
    data = folder / "results-tiny" / "data"
    data.mkdir(parents=True)
    for name in DATA:
        (data / name).touch()
    quick = ["--slurm-init-seconds-before-status-checks", "1"] if cluster == "slurm" else []
    done = snakemake(
        folder,
        FINETUNED,
        *("--workflow-profile", f"profiles/{cluster}"),
        *("--set-resources", "pretrain:gpu=2", "finetune:gpu=1"),
        *("--seconds-between-status-checks", "1", "--latency-wait", "5", *quick),
        **environment,
    )
    assert done.returncode == 0, done.stderr
    played = records(home, "stages")
    assert [(each["name"], each["resumed"]) for each in played] == [
        ("pretrain", False),
        ("pretrain", True),
        ("finetune", False),
    ]
    stages = {each["name"]: each for each in played}
    assert all(each["has_config"] for each in stages.values())
    assert stages["finetune"]["launcher"] == "python"
    assert stages["pretrain"]["launcher"] == "torchrun"
    assert stages["pretrain"]["asked"][:3] == ["--standalone", "--nproc-per-node", "2"]
    assert (folder / FINETUNED).exists()
    read = {"slurm": of_slurm, "kubernetes": of_kubernetes}[cluster]
    asked = [read(each) for each in records(home, "submitted")]
    memory = [each["memory"] for each in asked if each["gpus"] == 2]
    assert memory == [memory[0], 2 * memory[0]]
    assert sorted((each["gpus"], each["threads"]) for each in asked) == [(1, 1), (2, 1), (2, 1)]
    assert {each["minutes"] for each in asked} == {1440}


def of_slurm(submitted: dict) -> dict[str, int]:
    command = " ".join(submitted["arguments"])
    assert "--requeue" in command
    assert "--signal=TERM@120" in command
    patterns = {"gpus": "--gpus=", "memory": "--mem ", "threads": "--cpus-per-task=", "minutes": "-t "}
    return {name: int(re.search(rf"{each}(\d+)", command)[1]) for name, each in patterns.items()}


def of_kubernetes(submitted: dict) -> dict[str, int]:
    pod = submitted["manifest"]["spec"]["template"]["spec"]
    wanted = pod["containers"][0]["resources"]
    assert wanted["limits"].items() <= wanted["requests"].items()
    return {
        "gpus": int(wanted["limits"]["nvidia.com/gpu"]),
        "memory": int(wanted["limits"]["memory"].removesuffix("M")),
        "threads": int(wanted["requests"]["cpu"]),
        "minutes": pod["activeDeadlineSeconds"] // 60,
    }
