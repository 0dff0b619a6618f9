"""Embeddings of any photos, and scores of anybody's embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from facemae.cli.options import (
    CacheOption,
    ComputeOption,
    CropOption,
    LastJsonOption,
    RawOption,
    ThreadsOption,
    WorkersOption,
    app,
)
from facemae.cli.recognition import ModelOption, ResultsOption, named_model

ImagesOption = Annotated[
    str, typer.Option("--images", help="Folder of person/photo.jpg, archive, pack or data set.")
]
EmbeddingsOption = Annotated[
    Path | None, typer.Option("--embeddings", help="Embeddings of any model, .parquet or .npz.")
]
PairsOption = Annotated[
    Path | None, typer.Option("--pairs", help="CSV: first, second, genuine, perhaps fold.")
]
FarOption = Annotated[list[float], typer.Option("--far", help="False accept rate; may be given often.")]


@app.command()
def embed(
    images: ImagesOption,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    model: ModelOption = None,
    results: ResultsOption = Path("results"),
    mode: CropOption = "auto",
    workers: WorkersOption = 1,
    threads: ThreadsOption = 1,
    raw: RawOption = "data/raw",
    device: ComputeOption = "auto",
) -> None:
    """Find, align and embed the faces of a folder of photos (docs/evaluating.md)."""
    from facemae.stages.embed_photos import embed_photos

    chosen = named_model(model, results)
    embed_photos(images, chosen, out, align=mode, raw=raw, workers=workers, threads=threads, where=device)


@app.command()
def evaluate(
    embeddings: EmbeddingsOption = None,
    pairs: PairsOption = None,
    images: Annotated[str | None, typer.Option("--images", help="Photos to embed first.")] = None,
    data: Annotated[str | None, typer.Option("--data", help="Or a data set with a list of pairs.")] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "--recogniser",
            help="A name that facemae models lists, or with --data fisherfaces, hog_lda or pca.",
        ),
    ] = None,
    results: ResultsOption = Path("results"),
    protocol: Annotated[str | None, typer.Option("--protocol", help="List: view1, view2, ...")] = None,
    far: FarOption = [0.1, 0.01, 0.001],  # noqa: B006 - typer copies it
    resamples: Annotated[int, typer.Option("--resamples", help="Bootstrap resamples of the people.")] = 1000,
    level: Annotated[float, typer.Option("--level", help="Level of the intervals.")] = 0.95,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for metrics and card.")] = None,
    as_json: LastJsonOption = False,
    cache: CacheOption = Path("data/evaluated"),
    mode: CropOption = "auto",
    workers: WorkersOption = 1,
    raw: RawOption = "data/raw",
) -> None:
    """Score embeddings of any model: on a list of pairs, or all faces against all (docs/evaluating.md)."""
    from facemae.evaluation.embedding_report import Settings
    from facemae.stages import evaluate_file

    chosen: Any = model
    if images is not None or data is not None:
        from facemae.evaluation.baselines.controls import LEARNERS

        chosen = model if model in LEARNERS else named_model(model, results)
    options = evaluate_file.Options(
        embeddings, images, data, chosen, pairs, protocol, raw, cache, workers, mode
    )
    evaluate_file.run(options, Settings(tuple(far), resamples, level), out, as_json)
