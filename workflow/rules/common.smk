"""What the rules share: the checked configuration and where its results go."""

import contextlib
import json
import sys
from pathlib import Path

from snakemake.logging import logger
from snakemake.utils import validate

from facemae import config as settings
from facemae.config.yaml_file import read_yaml
from facemae.cli import stage_log
from facemae.data.sources.locate import raw_dir, state
from facemae.compute.driver import driver_version
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.files import check_free, exclusive, sha256_of, write_json
from facemae.models.shipped_models import PEOPLE, used_by
from facemae.models.shipped_models import find as find_shipped
from facemae.stages.starts import check_starts
from facemae.stages.data import wanted_sources
from facemae.core.layout import Results, embedder_file


def fail(error):
    """End with the error's sentence and exit code."""
    print(f"facemae: {error}", file=sys.stderr)
    sys.exit(error.exit_code)


try:
    for each in workflow.configfiles:
        read_yaml(
            Path(each)
        )  # Snakemake takes 0100 for 64, and the last of a key that is given twice
    EXPERIMENT = settings.parse(config)
except FaceMAEError as error:
    fail(error)

if set("{}") & set(workflow.basedir):
    place = workflow.basedir
    fail(
        UsageError(
            f"The project lies in {place}, whose braces Snakemake takes for wildcards; move it elsewhere."
        )
    )

validate(config, "../schemas/config.schema.json")

RESULTS = Results(Path(EXPERIMENT.results))
STAGE = str(RESULTS.root / "{run}" / "{seed}")


# Memory. An attempt that was preempted needs no more than the one before, but one that ran out does.
MOST_MEMORY = 3  # times the first attempt's
PYTORCH_MB = (
    3000  # with Python and CUDA; 1000 without (logs/*/*/pretrain.benchmark.tsv)
)
# Measured on timm's resnet50, taken for every cnn: 25 MB a face of 112 x 112 pixels.
RESNET50_MB = 400
RESNET50_BYTES_A_PIXEL = 2000

LOCKS = contextlib.ExitStack()  # held until this process ends, however it ends
LOCK = RESULTS.root / ".workflow.lock"


# A second workflow on the folder is refused before it lists the jobs, which takes far longer. Jobs on a cluster
# read this file as well, under the lock of the workflow that they belong to.
LOOKS = {
    "-n",
    "--dry-run",
    "--dryrun",
    "--lint",
    "--report",
    "--summary",
}  # run nothing
if workflow.is_main_process and not LOOKS & set(sys.argv):
    try:
        check_free(LOCK)
    except FaceMAEError as error:
        fail(error)
    stage_log.attach(logger)


wildcard_constraints:
    run="|".join([*EXPERIMENT.run_names, *EXPERIMENT.baselines]),
    seed=r"\d+",


def start():
    """Take the results folder for this workflow and write down the configuration it runs with, if it can.

    The lock is the kernel's, so unlike Snakemake's own (switched off in the profile) none is left
    behind by a kill. The configuration is no rule's output: as an input of every rule, a change to one
    run would make all of them look out of date.
    """
    try:
        check_starts(EXPERIMENT)
        LOCKS.enter_context(exclusive(LOCK))
        write_json(
            RESULTS.config, EXPERIMENT.model_dump(), sort_keys=False
        )  # runs keep their order
    except FaceMAEError as error:
        fail(error)


def source_states():
    """Return what tells that the files of a source have changed since they were listed."""
    try:
        raw = raw_dir(EXPERIMENT.data.raw_dir)
        return [state(wanted, raw) for wanted in wanted_sources(EXPERIMENT.data)]
    except FaceMAEError as error:
        fail(error)


def people_seen():
    """Return what tells whom the shipped models have seen that runs start from; nothing without such a run."""
    try:
        folders = map(find_shipped, used_by(EXPERIMENT))
        return "".join(f" {sha256_of(folder / PEOPLE)}" for folder in folders)
    except FaceMAEError as error:
        fail(error)


def verbatim(text):
    """Return a parameter's function, since Snakemake takes words in braces in a plain text for wildcards."""
    return lambda wildcards: text


def settings_of(name):
    """Return the settings of a run, or those that a baseline has of them: the runs' defaults."""
    return EXPERIMENT.defaults if name in EXPERIMENT.baselines else EXPERIMENT.run(name)


def section(*names):
    """Return a function of a rule's wildcards: the run's sections, which re-run the rule when they change."""

    def of_run(wildcards):
        run = settings_of(wildcards.run).shaping()
        return json.dumps([run[name] for name in names])

    return of_run


def pretrained(wildcards):
    """Return the encoder that a run is fine-tuned from; none for a run from scratch, or a baseline."""
    if (
        wildcards.run in EXPERIMENT.baselines
        or EXPERIMENT.run(wildcards.run).pretrain is None
    ):
        return []
    return f"{STAGE}/pretrain/encoder.safetensors".format(**wildcards)


def pretrained_option(wildcards, input):
    """Return the option that hands the encoder's folder to fine-tuning."""
    return (
        ["--pretrained", Path(str(input.pretrained)).parent] if input.pretrained else []
    )


def gpus(wildcards):
    """Return how many GPUs a network's stage takes: one where this machine has any, else none.

    On a cluster this machine is no guide, so its profile names the number (profiles/slurm/config.yaml).
    """
    wanted = EXPERIMENT.device != "cpu" and driver_version() is not None
    return int(wanted)


def memory(mb):
    """Return a function of `mb` MB of memory that asks for more when a job is run again, up to three times."""

    def of_attempt(wildcards, attempt):
        return mb * min(attempt, MOST_MEMORY)

    return of_attempt


def training_memory(stage):
    """Return a function of the memory in MB that a run's training takes at most, more in later attempts."""

    def of_run(wildcards, attempt):
        run = settings_of(wildcards.run)
        estimate = training_mb(run.model, getattr(run, stage))
        return memory(PYTORCH_MB + estimate)(wildcards, attempt)

    return of_run


def training_mb(model, training):
    """Estimate the MB that a network takes while it trains on a processor; a GPU's job takes less.

    Weights, gradients and AdamW's two moments are 16 bytes a weight, of which a block has 12 width^2. A
    block keeps 17 values per token and feature for the backward pass (Korthikanti et al. 2022, equation 2,
    without attention maps), at most: the encoder sees but the visible patches in pretraining.
    """
    faces = training.batch_size / training.grad_accumulation
    if getattr(training, "method", "mae") != "mae":
        faces *= 2  # two views of each
    if model.encoder == "cnn":
        pixels = EXPERIMENT.data.image_size**2
        return round(RESNET50_MB + faces * pixels * RESNET50_BYTES_A_PIXEL / 1e6)
    width, depth, _ = model.shape
    tokens = (EXPERIMENT.data.image_size // model.patch_size) ** 2
    weights = 16 * 12 * depth * width**2
    return round((weights + faces * tokens * depth * width * 17 * 4) / 1e6)


def of_stage(stage, filename, names):
    """Return a file of a stage of each named run or baseline, for every seed."""
    return [
        str(RESULTS.stage(name, seed, stage) / filename)
        for name in names
        for seed in EXPERIMENT.seeds_of(name)
    ]


def embedded(filename):
    """Return a file of the stage that embeds with it, of every run, baseline and seed."""
    return [
        path
        for name in EXPERIMENT.names
        for path in of_stage(EXPERIMENT.embedding_stage(name), filename, [name])
    ]


def evaluated(filename):
    """Return a file of the evaluate stage of every run, baseline and seed."""
    return of_stage("evaluate", filename, EXPERIMENT.names)


def measured(filename):
    """Return a file of every stage that measures something."""

    return [
        *evaluated(filename),
        *of_stage(
            "robustness", filename, EXPERIMENT.chosen(EXPERIMENT.robustness.runs)
        ),
        *of_stage(
            "attributes", filename, EXPERIMENT.chosen_runs(EXPERIMENT.attributes.runs)
        ),
        *(
            str(RESULTS.labels(name, EXPERIMENT.label_seed(subset), subset) / filename)
            for name in EXPERIMENT.chosen_runs(EXPERIMENT.label_curve.runs)
            for subset in range(EXPERIMENT.label_curve.subsets)
        ),
    ]


def finetuned(wildcards):
    """Return the weights of every part of the folds that a run was fine-tuned for; none for a baseline."""
    if wildcards.run in EXPERIMENT.baselines:
        return []
    return [
        f"{STAGE}/finetune/{embedder_file(part)}".format(**wildcards)
        for part in range(EXPERIMENT.split.rotations)
    ]


def finetuned_option(wildcards):
    """Return the option that hands the embedder's folder on."""
    if wildcards.run in EXPERIMENT.baselines:
        return []
    return ["--finetuned", RESULTS.stage(wildcards.run, wildcards.seed, "finetune")]


def readers(wildcards, resources):
    """Return how many threads read ahead: some for a GPU, whose step may be shorter than a read."""
    return 2 if resources.gpu else 0
