"""The command line: one sub-command per stage, each a thin call; the workflow calls these too."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from facemae import __version__, config
from facemae.cli.recognition import gallery_app, identify, verify
from facemae.core import files
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.progress import say

if TYPE_CHECKING:
    from facemae.stages.task import Task

app = typer.Typer(
    name="facemae",
    help="What does masked-autoencoder pretraining buy for face recognition?\n\n"
    "The workflow runs these stages for you: snakemake --cores all. Run one by hand with the same options.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

data_app = typer.Typer(help="Data sets: what is known, and preparing one by itself.", no_args_is_help=True)
app.add_typer(data_app, name="data")
app.add_typer(gallery_app, name="gallery")
app.command()(identify)
app.command()(verify)

RawOption = Annotated[
    str, typer.Option("--raw-dir", help="Folder with the archives; FACEMAE_RAW_DIR overrides it.")
]
ConfigOption = Annotated[
    list[Path],
    typer.Option("--config", help="YAML file; given twice, the later one lies over the earlier. - is stdin."),
]
# Under torchrun, which takes --run for an option of its own cut short, --name says the same.
RunOption = Annotated[
    str, typer.Option("--run", "--name", help="Name of a run, or of a baseline where one is meant.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Seed of the run.")]
DataOption = Annotated[
    Path, typer.Option("--data", help="Folder of photos and aligned faces, such as results/data.")
]
WorkersOption = Annotated[int, typer.Option("--workers", min=1, help="Processes that align at a time.")]
OutOption = Annotated[Path, typer.Option("--out", help="Folder to write, named after the stage.")]
LoadersOption = Annotated[
    int, typer.Option("--workers", min=0, help="Threads that read batches ahead of the training.")
]
FinetunedOption = Annotated[
    Path | None, typer.Option("--finetuned", help="Folder of the run's finetune stage; a baseline has none.")
]
PretrainedOption = Annotated[
    Path | None,
    typer.Option("--pretrained", help="Folder of the run's pretrain stage; not given: from scratch."),
]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of results to read and write into.")]
ThreadsOption = Annotated[int, typer.Option("--threads", min=1, help="Processor threads.")]


@app.command("config")
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
        typer.echo(content.decode(), nl=False)


@app.command()
def schema() -> None:
    """Print the JSON schema of config.yaml."""
    typer.echo(json.dumps(config.json_schema(), indent=2))


@app.command()
def fetch(config_files: ConfigOption, folder: DataOption) -> None:
    """List the photos and the people on them; download and unpack what has to be."""
    from facemae.core import layout
    from facemae.data.sources.locate import raw_dir
    from facemae.stages import data as prepare

    data, paths = config.load(config_files).data, layout.DataFolder(folder)
    prepare.fetch(prepare.wanted_sources(data), raw_dir(data.raw_dir), paths)
    prepare.check_people(paths, data)


@app.command()
def align(config_files: ConfigOption, folder: DataOption, workers: WorkersOption = 1) -> None:
    """Find the face on every photo and warp it to the template; photos that are done stay done."""
    from facemae.core import layout
    from facemae.stages import data as prepare

    experiment = config.load(config_files)
    prepare.align(experiment.data, layout.DataFolder(folder), experiment.device, workers)


@app.command()
def cache(folder: DataOption) -> None:
    """Decode all aligned faces into one array, from which training reads."""
    from facemae.core import layout
    from facemae.stages import data as prepare

    prepare.cache(layout.DataFolder(folder))


@app.command()
def split(config_files: ConfigOption, folder: DataOption) -> None:
    """Set people apart for evaluation, and check that nobody is on both sides."""
    from facemae.core import layout
    from facemae.stages import data as prepare

    prepare.split(config.load(config_files), layout.DataFolder(folder))


@app.command()
def pretrain(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    threads: ThreadsOption = 1,
    workers: LoadersOption = 0,
) -> None:
    """Pretrain a run, by a masked autoencoder or a rival of it; the same command goes on after a kill."""
    task = _task(config_files, run, seed, folder, out, threads, workers)
    from facemae.stages.pretrain import pretrain as stage

    stage(task)


@app.command()
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


@app.command()
def baselines(config_files: ConfigOption, results: ResultsOption, threads: ThreadsOption = 1) -> None:
    """Embed the evaluation people's faces with every control that trains no network."""
    experiment = config.load(config_files)
    from facemae.core.layout import Results
    from facemae.stages.embed import embed_baselines

    embed_baselines(experiment, Results(results), threads)


@app.command("evaluate-runs")
def evaluate_runs(config_files: ConfigOption, results: ResultsOption) -> None:
    """Score the embeddings of every run and baseline: verification and identification, with intervals."""
    experiment = config.load(config_files)
    from facemae.core.layout import Results
    from facemae.stages.evaluate import evaluate_all

    evaluate_all(experiment, Results(results))


@app.command()
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


@app.command("label-curve")
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
    """Fine-tune a run anew on fewer and fewer labels."""
    task = _task(config_files, run, seed, folder, out, threads)
    from facemae.stages.label_curve import label_curve as stage

    stage(task, subset, pretrained, finetuned)


@app.command()
def attributes(
    config_files: ConfigOption,
    run: RunOption,
    seed: SeedOption,
    folder: DataOption,
    out: OutOption,
    pretrained: Annotated[
        Path | None,
        typer.Option("--pretrained", help="Folder of the run's pretrain stage; not given: untrained."),
    ] = None,
    threads: ThreadsOption = 1,
    workers: LoadersOption = 0,
) -> None:
    """Test what a run's encoder tells of gender, race, age and expression (docs/attributes.md)."""
    task = _task(config_files, run, seed, folder, out, threads, workers)
    from facemae.stages.attributes import attributes as stage

    stage(task, pretrained)


@app.command()
def compare(config_files: ConfigOption, results: ResultsOption) -> None:
    """Compare all runs pair by pair and write the verdict."""
    from facemae.stages.compare import compare as stage

    stage(config.load(config_files), results)


@app.command()
def report(
    config_files: ConfigOption,
    results: Annotated[Path, typer.Option("--results", help="Folder of results to show.")],
    out: Annotated[Path, typer.Option("--out", help="HTML page to write.")],
) -> None:
    """Write the page of charts and tables that goes into the report."""
    from facemae.report.page import report as stage

    stage(config.load(config_files), results, out)


@app.command()
def readme(
    file: Annotated[Path, typer.Option("--file", help="README to write into.")],
    results: Annotated[Path, typer.Option("--results", help="Folder of results to show.")],
) -> None:
    """Write a results folder's verdict into the README."""
    from facemae.report.readme import write_readme

    write_readme(file, results)


@app.command()
def document(
    results: Annotated[Path, typer.Option("--results", help="Folder of results to show.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write into, such as docs/results.")],
) -> None:
    """Write a results folder as a page of documentation, with pictures and the numbers behind it."""
    from facemae.report.results_page import document as write

    write(results, out)


@app.command()
def card(
    results: Annotated[Path, typer.Option("--results", help="Folder of results.")],
    run: RunOption,
    seed: SeedOption,
    out: Annotated[Path, typer.Option("--out", help="Markdown file to write.")],
) -> None:
    """Write a trained run's model card: what it is for, what was measured, and what was not."""
    from facemae.core.layout import Results
    from facemae.recognition.model_card import write_card

    write_card(Results(results), run, seed, out)
    say("card", f"written: {out}")


@app.command()
def plan(
    config_files: ConfigOption,
    root: Annotated[
        Path | None, typer.Option("--results", help="Results to plan with; the configuration's if not given.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with a line of JSON.")] = False,
) -> None:
    """Say before a run what difference its people and seeds can decide, and what it costs."""
    from facemae.report import plan as planning

    experiment = config.load(config_files)
    found = planning.plan(experiment, root or Path(experiment.results))
    typer.echo(planning.in_words(found, experiment))
    if as_json:
        typer.echo(json.dumps(asdict(found)))


@app.command()
def where(config_files: ConfigOption) -> None:
    """Print the verdict and where results, report and app are."""
    from facemae.core import layout, records

    paths = layout.Results(Path(config.load(config_files).results))
    if not paths.verdict.exists():
        raise UsageError(f"There is no verdict in {paths.root} yet; run: snakemake --cores all")
    typer.echo(f"Verdict  {records.read_json(paths.verdict)['headline']}")
    typer.echo(f"Results  {paths.summary}")
    typer.echo(f"Report   {paths.report if paths.report.exists() else paths.overview}")
    typer.echo("App      make app, or: streamlit run app.py")


@app.command()
def doctor(
    config_files: ConfigOption = [Path("config.yaml")],  # noqa: B006 - typer copies it
) -> None:
    """Tell whether the main job can run here: versions, device, disk, data, locks."""
    from facemae.cli.doctor import doctor as check

    raise typer.Exit(check(config_files))


@app.command()
def export(
    stage: Annotated[
        Path, typer.Argument(help="Folder of a pretrain stage; for timm also of a finetune stage.")
    ],
    library: Annotated[
        Literal["timm", "huggingface"],
        typer.Option("--format", help="timm: the encoder. huggingface: encoder and decoder, as ViTMAE."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
) -> None:
    """Write a trained network for another library (docs/interoperability.md)."""
    from facemae.models.interop.export import export as write

    write(stage, library, out)
    say("export", f"{library}: {out}")


ImagesOption = Annotated[
    str, typer.Option("--images", help="Folder of person/photo.jpg, archive, pack or data set.")
]
StageOption = Annotated[Path, typer.Option("--model", help="Folder of a finetune stage of ours.")]
CropOption = Annotated[
    Literal["auto", "landmarks", "crop"],
    typer.Option("--align", help="Find the face, or take photos that are faces already."),
]
EmbeddingsOption = Annotated[
    Path | None, typer.Option("--embeddings", help="Embeddings of any model, .parquet or .npz.")
]
PairsOption = Annotated[
    Path | None, typer.Option("--pairs", help="CSV: first, second, genuine, perhaps fold.")
]
FarOption = Annotated[list[float], typer.Option("--far", help="False accept rate; may be given often.")]
CacheOption = Annotated[
    Path, typer.Option("--cache", help="Folder that keeps faces and embeddings for the next time.")
]
ComputeOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]


@app.command()
def embed(
    model: StageOption,
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    mode: CropOption = "auto",
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    raw: RawOption = "data/raw",
    device: ComputeOption = "auto",
) -> None:
    """Find, align and embed the faces of a folder of photos with a trained run (docs/evaluating.md)."""
    from facemae.evaluation.embedding_file import Photos, embed_photos

    embed_photos(Photos(images, mode, raw, workers, threads, device), model, out)


@app.command()
def evaluate(
    embeddings: EmbeddingsOption = None,
    pairs: PairsOption = None,
    images: Annotated[str | None, typer.Option("--images", help="Photos to embed first.")] = None,
    model: Annotated[Path | None, typer.Option("--model", help="Finetune stage to embed them with.")] = None,
    recogniser: Annotated[
        str | None, typer.Option("--recogniser", help="dlib, inception, fisherfaces, hog_lda or pca.")
    ] = None,
    data: Annotated[str | None, typer.Option("--data", help="Data set for the recogniser.")] = None,
    protocol: Annotated[str | None, typer.Option("--protocol", help="List: view1, view2, ...")] = None,
    far: FarOption = [0.1, 0.01, 0.001],  # noqa: B006 - typer copies it
    resamples: Annotated[int, typer.Option("--resamples", help="Bootstrap resamples of the people.")] = 1000,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.95,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for metrics and card.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="End with a line of JSON.")] = False,
    cache: CacheOption = Path("data/evaluated"),
    mode: CropOption = "auto",
    workers: WorkersOption = 1,
    raw: RawOption = "data/raw",
) -> None:
    """Score embeddings of any model: on a list of pairs, or all faces against all (docs/evaluating.md)."""
    from facemae.evaluation.embedding_file import Photos
    from facemae.stages import evaluate_file

    photos = None if images is None else Photos(images, mode, raw, workers)
    asked = evaluate_file.Asked(
        embeddings, photos, model, recogniser, data, pairs, protocol, raw, cache, workers
    )
    evaluate_file.run(asked, evaluate_file.Settings(tuple(far), resamples, level), out, as_json)


def _task(
    config_files: list[Path], run: str, seed: int, folder: Path, out: Path, threads: int, workers: int = 0
) -> Task:
    experiment = config.load(config_files)
    experiment.check_name(run)
    if os.environ.get("RANK", "0") == "0":  # torchrun starts several, of which one speaks
        stage = f"{out.parent.name}-{out.name}" if out.name.isdigit() else out.name
        say(f"{stage} {run}/{seed}", "starting")  # loading PyTorch takes seconds
    from facemae.core.layout import DataFolder
    from facemae.stages.task import Task

    return Task(experiment, run, seed, DataFolder(folder), out, threads, workers)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"facemae {__version__}")
        raise typer.Exit


@data_app.command("list")
def list_data(
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
    raw: RawOption = "data/raw",
) -> None:
    """Show the known data sets: people, images, licence, source and whether they are on this machine."""
    from facemae.data.sources.catalogue import as_table, catalogue
    from facemae.data.sources.locate import raw_dir

    entries = catalogue(raw_dir(raw))
    typer.echo(json.dumps(entries, indent=2) if as_json else as_table(entries))


@data_app.command("prepare")
def prepare_data(
    source: Annotated[str, typer.Argument(help="A data set, name:path, or a folder or archive of photos.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write: manifest, aligned faces and report.")],
    workers: WorkersOption = 1,
    raw: RawOption = "data/raw",
    size: Annotated[int, typer.Option("--size", min=32, max=448, help="Side of an aligned face.")] = 112,
    min_score: Annotated[
        float, typer.Option("--min-score", min=0, max=1, help="Least confidence of the detector.")
    ] = 0.9,
    mode: Annotated[
        Literal["auto", "landmarks", "crop"],
        typer.Option("--align", help="Find the face, or take photos that are faces already."),
    ] = "auto",
    faces: Annotated[
        Literal["auto", "largest", "central", "all"], typer.Option("--faces", help="Which face of a photo.")
    ] = "auto",
    max_skipped: Annotated[
        float, typer.Option("--max-skipped", min=0, max=1, help="Share of photos that may be unusable.")
    ] = 0.05,
    unlabelled: Annotated[bool, typer.Option("--unlabelled", help="No folder names a person.")] = False,
    device: Annotated[
        Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where the detector runs.")
    ] = "auto",
) -> None:
    """Align one data set: from archive or folder to manifest and aligned Parquet; goes on after a kill."""
    from facemae.core import layout
    from facemae.data.sources.locate import find, raw_dir
    from facemae.stages import data as prepare

    data = config.Data(
        labelled=source, unlabelled=[], tested=[], raw_dir=raw, image_size=size, align=mode, faces=faces,
        min_score=min_score, max_skipped=max_skipped,
    )  # fmt: skip
    wanted = find(source, layout.SET_UNLABELLED if unlabelled else layout.SET_LABELLED, raw_dir(raw))
    folder = layout.DataFolder(out)
    prepare.fetch([wanted], raw_dir(raw), folder)
    prepare.align(data, folder, device, workers)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of the command as a whole."""


def main() -> None:
    """Run the command line; expected failures end with one sentence and their own exit code."""
    try:
        app()
    except FaceMAEError as error:
        print(f"facemae: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except OSError as error:
        if error.filename is None:
            raise
        print(
            f"facemae: {error.filename} cannot be read ({error.strerror}); check the path.", file=sys.stderr
        )
        sys.exit(UsageError.exit_code)


if __name__ == "__main__":
    main()
