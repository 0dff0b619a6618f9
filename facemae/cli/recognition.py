"""The commands that recognise people; the networks are loaded when a command runs."""

from __future__ import annotations

import contextlib
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facemae.cli.options import (
    CacheOption,
    ComputeOption,
    JsonOption,
    RawOption,
    WorkersOption,
    print_json,
)
from facemae.core import files
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.core.progress import say, track
from facemae.recognition.settings import settings

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.model import Facts, Model
    from facemae.recognition.recogniser import Found, Identified, Recogniser
    from facemae.recognition.threshold import Threshold

models_app = typer.Typer(help="The models that recognition can use.")
ModelOption = Annotated[
    str | None,
    typer.Option("--model", help="A name that facemae models lists; not given: the most accurate one."),
]
ResultsOption = Annotated[
    Path, typer.Option("--results", envvar="FACEMAE_RESULTS", help="Folder of results.")
]
UrlOption = Annotated[
    str | None, typer.Option("--gallery", help="SQLite file or PostgreSQL address; gallery.url if not given.")
]
ThresholdOption = Annotated[
    float | None,
    typer.Option("--threshold", min=-1, max=1, help="Least similarity of a match."),
]
RateOption = Annotated[
    float | None, typer.Option("--fmr", min=0, max=1, help="False match rate that sets the threshold.")
]
Device = Literal["auto", "cpu", "cuda"]


def identify(
    photo: Annotated[Path, typer.Argument(help="A photo, or a folder of photos; every face is looked up.")],
    csv: Annotated[
        Path | None, typer.Option("--csv", help="File to write, a row per face; for a folder.")
    ] = None,
    model: ModelOption = None,
    results: ResultsOption = Path("results"),
    gallery: UrlOption = None,
    threshold: ThresholdOption = None,
    fmr: RateOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates per face.")] = 5,
    as_json: JsonOption = False,
    device: ComputeOption = "auto",
) -> None:
    """Say who is on photos, among the people enrolled: each face is matched or unknown."""
    from facemae.recognition.recogniser import as_json as plain

    if photo.is_dir() and csv is None:
        raise UsageError(f"{photo} is a folder; name the file for its faces with --csv, or name one photo.")
    if csv is None:
        _check_pictures(photo)
    recogniser = open_recogniser(model, results, device)
    limit = _chosen_threshold(recogniser, threshold, fmr)
    with open_gallery(gallery) as kept:
        people = len(kept.people(recogniser.fingerprint))
        templates = kept.models().get(recogniser.fingerprint, 0)
        if csv is not None:
            _identify_all(recogniser, kept, limit, photo, csv)
            return
        found = recogniser.identify(_faces(recogniser, photo), kept, limit, top)
    if as_json:
        content = {"photo": str(photo), "threshold": limit.as_json(), "enrolled": people}
        print_json(content | _named(recogniser) | {"faces": plain(found)})
        return
    _say_who(found, limit, people, templates)
    typer.echo(f"Model: {recogniser.model.name}.")


def _identify_all(
    recogniser: Recogniser, gallery: Gallery, limit: Threshold, photos: Path, out: Path
) -> None:
    """Look up every face of a folder of photos, and write a row for each, and for each photo without one."""
    import pandas as pd

    from facemae.core.records import csv_text
    from facemae.data.images import ImageError
    from facemae.data.sources.listing import as_text
    from facemae.recognition.recogniser import COLUMNS, rows_of

    paths = _photos(photos)
    rows: list[dict[str, Any]] = []
    # Opened first, so that a place that cannot be written is reported before the hours of a large folder.
    with files.atomic_file(out, private=True) as file:
        for path in track(paths, len(paths), "identify", "photos"):
            try:
                found = recogniser.identify(recogniser.align(path).faces, gallery, limit, top=1)
                note = "" if found else "no face found"
            except ImageError as error:
                found, note = [], error.reason
            rows += rows_of(as_text(str(path)), found, limit, note)
        table = pd.DataFrame(rows, columns=COLUMNS).assign(model=recogniser.model.name)
        file.write(csv_text(table))
    counts, faces = table["decision"].value_counts(), table["decision"].count()
    say(
        "identify",
        f"{len(paths)} photos, {faces} faces: {counts.get('match', 0)} named, "
        f"{counts.get('unknown', 0)} unknown; {len(table) - faces} photos without a face; written: {out}",
    )
    typer.echo(f"Model: {recogniser.model.name}.")


def _photos(place: Path) -> list[Path]:
    """Return the photos of a folder at any depth, or the one that is named; a DataError if there is none."""
    from facemae.data.sources.base import Place
    from facemae.data.sources.folder import folder_source

    if not place.is_dir():
        return [place]
    ignored: Counter[str] = Counter()
    found = [each.path for each in folder_source(place, "identify").photos(Place(place, {}), ignored)]
    for reason, count in ignored.items():
        say("identify", f"{count} files are not used: {reason}")
    return found


def verify(
    first: Annotated[Path, typer.Argument(help="A photo that shows one face.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    model: ModelOption = None,
    results: ResultsOption = Path("results"),
    threshold: ThresholdOption = None,
    fmr: RateOption = None,
    as_json: JsonOption = False,
    device: ComputeOption = "auto",
) -> None:
    """Say whether two photos show the same person."""
    _check_pictures(first, second)
    recogniser = open_recogniser(model, results, device)
    limit = _chosen_threshold(recogniser, threshold, fmr)
    faces = [_only_face(recogniser, each, "verification") for each in (first, second)]
    score = recogniser.similarity(faces[0], faces[1])
    match = limit.matches(score)
    if as_json:
        content = {"first": str(first), "second": str(second), "score": score, "match": match}
        print_json(content | {"threshold": limit.as_json()} | _named(recogniser))
        return
    answer = "the same person" if match else "not shown to be the same person"
    typer.echo(f"{answer}: score {score:.3f}, needed {limit.score:.3f}")
    typer.echo(limit.in_words(1, 1))
    typer.echo(f"Model: {recogniser.model.name}.")


def explain(
    first: Annotated[Path, typer.Argument(help="A photo that shows one face.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    model: ModelOption = None,
    results: ResultsOption = Path("results"),
    as_json: JsonOption = False,
    device: ComputeOption = "auto",
) -> None:
    """Say how the score of two photos changes when a region of either face is covered."""
    from facemae.recognition.explanation import leave_out, score

    _check_pictures(first, second)
    recogniser = open_recogniser(model, results, device)
    photos = (_only_face(recogniser, each, "an explanation") for each in (first, second))
    faces = [recogniser.model.as_seen(photo) for photo in photos]
    whole, table = score(recogniser.network, *faces), leave_out(recogniser.network, *faces)
    if as_json:
        print_json({"score": whole, "regions": table.to_dict("records")} | _named(recogniser))
        return
    typer.echo(f"score {whole:.3f}; without a region of one photo, below 0 it spoke for a match:")
    for row in table.to_dict("records"):
        typer.echo(f"{row['change']:+.3f}  {row['region']} of the {row['photo']} photo")
    typer.echo(f"Model: {recogniser.model.name}.")


@models_app.callback(invoke_without_command=True)
def list_models(
    context: typer.Context, as_json: JsonOption = False, results: ResultsOption = Path("results")
) -> None:
    """List the models that --model can name: how accurate they are on LFW, trained on what, how fast."""
    from facemae.recognition import named_models

    if context.invoked_subcommand is not None:
        return
    found = named_models.list_models(Results(results))
    if as_json:
        print_json([asdict(each) for each in found])
        return
    typer.echo("model               View 2 of LFW           faces/s    MB  trained on; licence")
    for each in found:
        typer.echo(_line(each))


@models_app.command("measure")
def measure_model(
    name: Annotated[str, typer.Argument(help="dlib, inception, face-embedder or face-tiny.")],
    out: Annotated[Path, typer.Option("--out", help="JSON file to write: the model's card.")],
    raw: RawOption = "data/raw",
    cache: CacheOption = Path("data/evaluated"),
    workers: WorkersOption = 1,
) -> None:
    """Measure a model on LFW: thresholds on people it has not seen, View 2, and faces a second."""
    from facemae.recognition.packing import write_readme
    from facemae.stages.measure_model import measure

    measure(name, raw, cache, workers, out)
    if out.name == "card.json":
        write_readme(out.parent)


@models_app.command("pack")
def pack_model(
    stage: Annotated[Path, typer.Argument(help="Folder of a pretrain or finetune stage in its results.")],
    name: Annotated[str, typer.Option("--name", help="face-mae, face-embedder or face-tiny.")],
    out: Annotated[Path, typer.Option("--out", help="Folder to write; it must not exist.")],
    failure: Annotated[
        list[str], typer.Option("--failure", help="A known failure, in a sentence; may be given often.")
    ] = [],  # noqa: B006 - typer copies it
    note: Annotated[
        list[str], typer.Option("--note", help="How it was made, in a sentence; may be given often.")
    ] = [],  # noqa: B006
) -> None:
    """Make a model that comes with the package of a trained run: float16 weights, card, lists of people."""
    from facemae.recognition.packing import pack

    pack(stage, name, out, failure, note)


def _line(facts: Facts) -> str:
    accuracy = "not measured" if facts.lfw_view2 is None else f"{facts.lfw_view2:.2%}"
    if facts.ci_low is not None and facts.ci_high is not None:
        accuracy += f" ({facts.ci_low:.2%} to {facts.ci_high:.2%})"
    speed = "" if facts.faces_per_second is None else f"{facts.faces_per_second:.0f}"
    name = f"{facts.name} *" if facts.default else facts.name
    line = f"{name:18}  {accuracy:26}  {speed:>3}  {facts.size / 1e6:>4.0f}"
    line += f"  {facts.trained_on}; {facts.licence}"
    return "\n  ".join(filter(None, [line, facts.missing, facts.warning]))


def _named(recogniser: Recogniser) -> dict[str, Any]:
    found = {"model": recogniser.model.name, "weights": recogniser.fingerprint}
    return found | ({"warning": warning} if (warning := recogniser.model.warning) else {})


def _say_who(found: list[Identified], limit: Threshold, people: int, templates: int) -> None:
    if not people:
        typer.echo("The gallery is empty: enrol someone first with facemae gallery add.")
    for each in found:
        best = f"best score {each.candidates[0].score:.3f}" if each.candidates else "nobody is enrolled"
        who = each.match.person.name if each.match else "unknown person"
        left, top_edge, right, bottom = (round(float(edge)) for edge in each.found.box)
        typer.echo(
            f"face {each.found.number} at {left},{top_edge} to {right},{bottom}: {who} "
            f"({best}, needed {limit.score:.3f})"
        )
    typer.echo(limit.in_words(people, templates))


def _check_pictures(*photos: Path) -> None:
    """Refuse what is no picture before the networks are loaded, which takes seconds."""
    from facemae.data.images import open_image

    for photo in photos:
        with _about(photo):
            open_image(photo)


def _faces(recogniser: Recogniser, photo: Path) -> list[Found]:
    from facemae.recognition.recogniser import some_faces

    with _about(photo):
        return some_faces(recogniser.align(photo))


def _only_face(recogniser: Recogniser, photo: Path, purpose: str) -> NDArray[np.uint8]:
    from facemae.recognition.recogniser import only_face

    with _about(photo):
        return only_face(recogniser.align(photo), purpose).image


@contextlib.contextmanager
def _about(photo: Path) -> Iterator[None]:
    """Name the photo in what is said of it."""
    from facemae.data.images import ImageError

    try:
        yield
    except ImageError as error:
        raise DataError(f"{photo}: {error}") from error


def open_recogniser(name: str | None, results: Path, device: Device) -> Recogniser:
    """Load the model that the options name."""
    from facemae.recognition.recogniser import Recogniser

    return Recogniser(named_model(name, results), device)


def named_model(name: str | None, results: Path) -> Model:
    """Return the model that the options name, or else the most accurate one; say what a user has to know."""
    from facemae.recognition.named_models import find_model

    model = find_model(name, Results(results))
    if model.warning:
        say("warning", model.warning)
    return model


def _chosen_threshold(recogniser: Recogniser, score: float | None, rate: float | None) -> Threshold:
    """Return the threshold that the options set: a score, or a false match rate, or the settings' rate."""
    from facemae.recognition.threshold import Threshold

    if score is None:
        return recogniser.threshold(rate)
    if rate is not None:
        raise UsageError("--threshold and --fmr both set the threshold; give one of them.")
    return Threshold(score)


@contextlib.contextmanager
def open_gallery(url: str | None, **how: bool) -> Iterator[Gallery]:
    """Open the gallery of an address or of the settings, and say where somebody has to see to something.

    `how` is as `Gallery` takes it.
    """
    from facemae.recognition.gallery.database import ResidueWarning
    from facemae.recognition.gallery.retention import ClockWarning
    from facemae.recognition.gallery.store import Gallery

    with warnings.catch_warnings():
        for each in (ResidueWarning, ClockWarning):
            warnings.simplefilter("ignore", each)
        with Gallery(url or settings().url, **how) as kept:
            yield kept
            for sentence in filter(None, (kept.residue, kept.clock_warning)):
                say("gallery", sentence)
