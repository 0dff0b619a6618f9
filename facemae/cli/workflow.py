"""A sub-command for each stage of the workflow, which calls them too."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facemae import config
from facemae.cli.options import (
    STAGES,
    ConfigOption,
    DataOption,
    OutOption,
    ResultsOption,
    RunOption,
    SeedOption,
    ThreadsOption,
    WorkersOption,
    app,
    print_json,
)
from facemae.core import files
from facemae.core.layout import DataFolder, Results
from facemae.core.progress import say

if TYPE_CHECKING:
    from facemae.stages.task import Task

LoadersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Threads that read batches ahead of the training.")
]
FinetunedOption = Annotated[
    Path | None, typer.Option("--finetuned", help="Folder of the run's finetune stage; a baseline has none.")
]
PretrainedOption = Annotated[
    Path | None,
    typer.Option("--pretrained", help="Folder of the run's pretrain stage; not given: without one."),
]


@app.command("config", rich_help_panel=STAGES)
def show_config(
    config_files: ConfigOption,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON file to write; printed when not given.")
    ] = None,
) -> None:
    """Check a configuration and write it out whole."""
    content = files.dump_json(config.load(config_files).model_dump(), sort_keys=False)
    if out:
        files.atomic_write(out, content)
    else:
        typer.echo(content, nl=False)


@app.command(rich_help_panel=STAGES)
def schema() -> None:
    """Print the JSON schema of the configuration."""
    print_json(config.json_schema())


@app.command(rich_help_panel=STAGES)
def fetch(config_files: ConfigOption, folder: DataOption) -> None:
    """List the photos and the people on them; download and unpack what has to be."""
    from facemae.data.sources.locate import raw_dir
    from facemae.stages import data as prepare

    data, paths = config.load(config_files).data, DataFolder(folder)
    prepare.fetch(prepare.wanted_sources(data), raw_dir(data.raw_dir), paths)
    prepare.check_people(paths, data)


@app.command(rich_help_panel=STAGES)
def align(config_files: ConfigOption, folder: DataOption, workers: WorkersOption = 1) -> None:
    """Find the face on every photo and warp it to the template; photos that are done stay done."""
    from facemae.stages import data as prepare

    experiment = config.load(config_files)
    prepare.align(experiment.data, DataFolder(folder), experiment.device, workers)


@app.command(rich_help_panel=STAGES)
def cache(folder: DataOption) -> None:
    """Decode all aligned faces into one array, from which training reads."""
    from facemae.data.faces.cache import build_cache

    build_cache(DataFolder(folder))


@app.command(rich_help_panel=STAGES)
def split(config_files: ConfigOption, folder: DataOption) -> None:
    """Set people apart for evaluation, and check that nobody is on both sides."""
    from facemae.stages import data as prepare

    prepare.split(config.load(config_files), DataFolder(folder))


@app.command(rich_help_panel=STAGES)
def pretrain(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    threads: ThreadsOption = 1,
    workers: LoadersOption = 0,
) -> None:
    """Pretrain a run, as a masked autoencoder or contrastively; the same command goes on after a kill."""
    task = _task(config_files, run, seed, folder, out, threads, workers)
    from facemae.stages.pretrain import pretrain as stage

    stage(task)


@app.command(rich_help_panel=STAGES)
def finetune(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    pretrained: PretrainedOption = None,
    threads: ThreadsOption = 1,
    workers: LoadersOption = 0,
) -> None:
    """Train a run's face embedder; the same command goes on after a kill."""
    task = _task(config_files, run, seed, folder, out, threads, workers)
    from facemae.stages.finetune import finetune as stage

    stage(task, pretrained)


@app.command(rich_help_panel=STAGES)
def baselines(config_files: ConfigOption, results: ResultsOption, threads: ThreadsOption = 1) -> None:
    """Embed the evaluation people's faces with every control that trains no network."""
    experiment = config.load(config_files)
    from facemae.stages.embed import embed_baselines

    embed_baselines(experiment, Results(results), threads)


@app.command("evaluate-runs", rich_help_panel=STAGES)
def evaluate_runs(config_files: ConfigOption, results: ResultsOption) -> None:
    """Score the embeddings of every run and baseline: verification and identification, with intervals."""
    experiment = config.load(config_files)
    from facemae.stages.evaluate import evaluate_all

    evaluate_all(experiment, Results(results))


@app.command(rich_help_panel=STAGES)
def robustness(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    finetuned: FinetunedOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Score a run or baseline on faces with occlusions and under other light."""
    task = _task(config_files, run, seed, folder, out, threads)
    from facemae.stages.robustness import robustness as stage

    stage(task, finetuned)


@app.command("label-curve", rich_help_panel=STAGES)
def label_curve(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    subset: Annotated[int, typer.Option("--subset", min=0, help="Which random subset of the labels.")],
    finetuned: Annotated[Path, typer.Option("--finetuned", help="Folder of the run's finetune stage.")],
    pretrained: PretrainedOption = None,
    threads: ThreadsOption = 1,
) -> None:
    """Fine-tune a run on fewer and fewer labels."""
    task = _task(config_files, run, seed, folder, out, threads)
    from facemae.stages.label_curve import label_curve as stage

    stage(task, subset, pretrained, finetuned)


@app.command(rich_help_panel=STAGES)
def attributes(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    pretrained: PretrainedOption = None,
    threads: ThreadsOption = 1,
    workers: LoadersOption = 0,
) -> None:
    """Test what a run's encoder tells of gender, race, age and expression (docs/attributes.md)."""
    task = _task(config_files, run, seed, folder, out, threads, workers)
    from facemae.stages.attributes import attributes as stage

    stage(task, pretrained)


@app.command(rich_help_panel=STAGES)
def compare(config_files: ConfigOption, results: ResultsOption) -> None:
    """Compare all runs pair by pair and write the verdict."""
    from facemae.stages.compare import compare as stage

    stage(config.load(config_files), results)


@app.command(rich_help_panel=STAGES)
def report(
    config_files: ConfigOption,
    results: Annotated[Path, typer.Option("--results", help="Folder of results to show.")],
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")],
) -> None:
    """Write the page of charts and tables that goes into the report."""
    from facemae.report.page import report as stage

    stage(config.load(config_files), results, out)


def _task(
    config_files: list[Path], run: str, seed: int, folder: Path, out: Path, threads: int, workers: int = 0
) -> Task:
    experiment = config.load(config_files)
    experiment.check_name(run)
    from facemae.stages.task import Task

    task = Task(experiment, run, seed, DataFolder(folder), out, threads, workers)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several, of which one speaks
        say(task.label, "starting")  # loading PyTorch takes seconds
    return task
