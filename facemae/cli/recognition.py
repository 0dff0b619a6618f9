"""The commands that recognise people; the networks are loaded when a command runs."""

from __future__ import annotations

import contextlib
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say

if TYPE_CHECKING:
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.recogniser import Identified, Photo, Recogniser
    from facemae.recognition.threshold import Threshold
    from facemae.recognition.trained_models import Model

ModelOption = Annotated[
    Path | None,
    typer.Option("--model", help="Folder of a finetune stage; not given: the best run of the results."),
]
ResultsOption = Annotated[
    Path | None,
    typer.Option("--results", help="Folder of results; FACEMAE_RESULTS, or else results, if not given."),
]
UrlOption = Annotated[
    str | None,
    typer.Option("--gallery", help="SQLite file or PostgreSQL address; gallery.url if not given."),
]
ThresholdOption = Annotated[
    float | None, typer.Option("--threshold", min=-1, max=1, help="Least similarity of a match.")
]
RateOption = Annotated[
    float | None,
    typer.Option("--fmr", min=0, max=1, help="False match rate that sets the threshold."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="As JSON.")]
DeviceOption = Annotated[Literal["auto", "cpu", "cuda"], typer.Option("--device", help="Where to compute.")]


# --- recognising ---


def identify(
    photo: Annotated[Path, typer.Argument(help="A photo; every face on it is looked up.")],
    model: ModelOption = None,
    results: ResultsOption = None,
    gallery: UrlOption = None,
    threshold: ThresholdOption = None,
    fmr: RateOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Candidates per face.")] = 5,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Say who is on a photo, among the people enrolled: each face is matched or unknown."""
    from facemae.recognition.recogniser import as_json as plain

    recogniser = open_recogniser(model, results, device)
    limit = chosen_threshold(recogniser.model, threshold, fmr)
    with open_gallery(gallery) as kept:
        people = len(kept.people(recogniser.fingerprint))
        templates = kept.models().get(recogniser.fingerprint, 0)
        found = recogniser.identify(_faces(recogniser, photo).faces, kept, limit, top)
    if as_json:
        content: dict[str, Any] = {"photo": str(photo), "model": recogniser.fingerprint}
        content |= {
            "run": recogniser.model.name,
            "threshold": limit.as_json(),
            "enrolled": people,
            "faces": plain(found),
        }
        typer.echo(json.dumps(content, indent=2))
        return
    _say_who(found, limit, people, templates)


def verify(
    first: Annotated[Path, typer.Argument(help="A photo that shows one face.")],
    second: Annotated[Path, typer.Argument(help="Another one.")],
    model: ModelOption = None,
    results: ResultsOption = None,
    threshold: ThresholdOption = None,
    fmr: RateOption = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Say whether two photos show the same person."""
    from facemae.recognition.recogniser import only_face

    recogniser = open_recogniser(model, results, device)
    limit = chosen_threshold(recogniser.model, threshold, fmr)
    faces = [only_face(_faces(recogniser, each), "verification").image for each in (first, second)]
    found = recogniser.verify(faces[0], faces[1], limit)
    if as_json:
        content: dict[str, Any] = {"first": str(first), "second": str(second)}
        content |= {"score": found.score, "match": found.match}
        content |= {"model": recogniser.fingerprint, "threshold": limit.as_json()}
        typer.echo(json.dumps(content, indent=2))
        return
    answer = "the same person" if found.match else "not shown to be the same person"
    typer.echo(f"{answer}: score {found.score:.3f}, needed {limit.score:.3f}")
    typer.echo(_stands_for(limit, 1, 1))


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
    typer.echo(_stands_for(limit, people, templates))


def _faces(recogniser: Recogniser, photo: Path) -> Photo:
    from facemae.data.alignment.align import BETTER_PHOTO
    from facemae.data.images import ImageError

    try:
        found = recogniser.finder.find(photo)
        if not found.faces:
            raise ImageError("NO_FACE", "No face found.", BETTER_PHOTO)
    except ImageError as error:
        raise DataError(f"{photo}: {error}") from error
    return found


def open_recogniser(
    folder: Path | None, results: Path | None, device: Literal["auto", "cpu", "cuda"]
) -> Recogniser:
    """Load the model that the options name."""
    from facemae.core.layout import Results
    from facemae.recognition.recogniser import Recogniser
    from facemae.recognition.trained_models import best, model_at

    root = results or Path(os.environ.get("FACEMAE_RESULTS", "results"))
    return Recogniser(model_at(folder) if folder else best(Results(root)), device)


def chosen_threshold(model: Model, score: float | None, rate: float | None) -> Threshold:
    """Return the threshold that the options set: a score, or a false match rate, or the settings' rate."""
    from facemae.recognition import threshold as thresholds
    from facemae.recognition.settings import settings

    if score is not None:
        if rate is not None:
            raise UsageError("--threshold and --fmr both set the threshold; give one of them.")
        return thresholds.Threshold(score)
    wanted = rate if rate is not None else settings().false_match_rate
    card, people = thresholds.threshold_card(model.embeddings)
    return thresholds.at_rate(card, people, wanted, strictly=rate is not None)


def _stands_for(limit: Threshold, people: int, templates: int) -> str:
    """Return what a threshold stands for, in words."""
    if limit.fmr is None:
        return "The threshold was given, so its false match rate is not known."
    text = f"At this threshold {limit.fmr:.2%} of comparisons of two people match"
    if limit.fmr_low is not None and limit.fmr_high is not None:
        text += f" ({limit.fmr_low:.2%} to {limit.fmr_high:.2%}, measured on {limit.people} people)"
    alarm = limit.false_alarm(templates)
    if templates > 1 and alarm is not None:
        text += f"; with {people} people enrolled by {templates} templates, a stranger would be taken for one"
        text += f" of them in about {alarm:.0%} of cases"
    return f"{text}."


@contextlib.contextmanager
def open_gallery(url: str | None, **how: bool) -> Iterator[Gallery]:
    """Open the gallery of an address or of the settings, and say where somebody has to see to something.

    Args:
        url: Of the command line.
        how: As `Gallery` takes it.
    """
    from facemae.recognition.gallery.database import ResidueWarning
    from facemae.recognition.gallery.retention import ClockWarning
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.settings import settings

    with warnings.catch_warnings():
        for each in (ResidueWarning, ClockWarning):
            warnings.simplefilter("ignore", each)
        with Gallery(url or settings().url, **how) as kept:
            yield kept
            for sentence in filter(None, (kept.residue, kept.clock_warning)):
                say("gallery", sentence)
