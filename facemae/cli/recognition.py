"""The commands that recognise people and keep the gallery; the networks are loaded when a command runs."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from facemae.core import files
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say, track

if TYPE_CHECKING:
    from facemae.recognition.enrolment import Outcome, Terms
    from facemae.recognition.gallery.schema import Person
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.recogniser import Identified, Photo, Recogniser
    from facemae.recognition.threshold import Threshold
    from facemae.recognition.trained_models import Model

gallery_app = typer.Typer(
    help="The people enrolled for recognition: add, list, find, rename, merge, remove, erase, export.",
    no_args_is_help=True,
)

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
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
NameArgument = Annotated[str, typer.Argument(help="The person's name.")]


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

    recogniser = _recogniser(model, results, device)
    limit = _threshold(recogniser.model, threshold, fmr)
    with _gallery(gallery) as kept:
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

    recogniser = _recogniser(model, results, device)
    limit = _threshold(recogniser.model, threshold, fmr)
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


def _recogniser(
    folder: Path | None, results: Path | None, device: Literal["auto", "cpu", "cuda"]
) -> Recogniser:
    from facemae.core.layout import Results
    from facemae.recognition.recogniser import Recogniser
    from facemae.recognition.trained_models import best, model_at

    root = results or Path(os.environ.get("FACEMAE_RESULTS", "results"))
    return Recogniser(model_at(folder) if folder else best(Results(root)), device)


def _threshold(model: Model, score: float | None, rate: float | None) -> Threshold:
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


def _gallery(url: str | None) -> Gallery:
    from facemae.recognition.gallery.store import Gallery
    from facemae.recognition.settings import settings

    return Gallery(url or settings().url)


@contextlib.contextmanager
def _residue(kept: Gallery) -> Iterator[None]:
    """Say afterwards if something of what was removed may still be on a disk."""
    from facemae.recognition.gallery.database import ResidueWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResidueWarning)
        yield
    if kept.residue:
        say("gallery", kept.residue)


# --- the gallery ---


@gallery_app.command()
def add(
    name: Annotated[str | None, typer.Argument(help="The person's name; with --folder none.")] = None,
    photos: Annotated[list[Path] | None, typer.Argument(help="Photos, one face on each.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--folder", help="Enrol everybody in a folder of person/photo.jpg.")
    ] = None,
    consent: Annotated[
        bool, typer.Option("--consent", help="The people have agreed to be enrolled for recognition.")
    ] = False,
    days: Annotated[
        int | None, typer.Option("--days", min=1, max=36500, help="Days after which they are deleted.")
    ] = None,
    more: Annotated[bool, typer.Option("--more", help="Add photos to a person who is enrolled.")] = False,
    thumbnail: Annotated[
        bool, typer.Option("--thumbnail", help="Keep a picture of 64 pixels; without it none is kept.")
    ] = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Enrol a face that is taken for somebody else.")
    ] = False,
    model: ModelOption = None,
    results: ResultsOption = None,
    gallery: UrlOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Enrol a person from photos, or everybody in a folder; the photos themselves are not kept."""
    from facemae.recognition.enrolment import Terms, enrol, until
    from facemae.recognition.settings import settings

    wanted = _wanted(name, photos or [], folder, consent)
    terms = Terms(True, until(days or settings().retention_days), thumbnail)
    recogniser = _recogniser(model, results, device)
    limit, whole = _threshold(recogniser.model, None, None), folder is not None
    with _gallery(gallery) as kept:
        people = track(wanted.items(), len(wanted), "gallery", "people") if whole else wanted.items()
        how = partial(enrol, threshold=limit, add=more, anyway=anyway or whole)
        outcomes = [_enrolled(how, recogniser, kept, who, paths, terms, whole) for who, paths in people]
    _tell(outcomes, terms, whole)


def _enrolled(
    how: Callable[..., Outcome], recogniser: Recogniser, kept: Gallery, who: str, paths: list[Path],
    terms: Terms, whole: bool,
) -> Outcome:  # fmt: skip
    """Enrol one person; of a whole folder, who cannot be enrolled does not keep the others out."""
    from facemae.recognition.enrolment import Outcome

    try:
        return how(recogniser, kept, who, [(str(path), path) for path in paths], terms)
    except UsageError as error:
        if not whole:
            raise
        return Outcome(who, None, [(who, str(error))])


def _wanted(
    name: str | None, photos: list[Path], folder: Path | None, consent: bool
) -> dict[str, list[Path]]:
    """Return whom to enrol, with their photos.

    Raises:
        UsageError: the options do not go together, or there is no consent.
    """
    from facemae.recognition.enrolment import people_in

    if (folder is None) == (name is None):
        raise UsageError("Give a name and photos, or --folder, a folder of person/photo.jpg.")
    if not consent:
        raise UsageError(
            "Enrolment stores biometric data and needs the person's consent; say --consent once you have it."
        )
    if folder is not None:
        return people_in(folder)
    if not photos:
        raise UsageError(f"{name}: no photo was given; name at least one.")
    return {str(name): photos}


def _tell(outcomes: list[Outcome], terms: Terms, whole: bool) -> None:
    """Say what became of everybody; stop where nobody was enrolled."""
    for each in outcomes:
        for photo, reason in each.refused:
            say("gallery", f"{photo}: not used. {reason}")
        if each.person is None and each.known_as is not None:
            raise DataError(
                f"{each.name} was not enrolled: the face is taken for {each.known_as.person.name} (score "
                f"{each.known_as.score:.3f}); add the photo to them with --more, or say --anyway."
            )
        if each.person is not None and each.known_as is not None:
            score = f"score {each.known_as.score:.3f}"
            say("gallery", f"{each.name} looks like {each.known_as.person.name} ({score}); one person?")
    done = [each for each in outcomes if each.person is not None]
    if not done:
        raise DataError("Nobody was enrolled: no photo could be used.")
    names = done[0].name if len(done) == 1 and not whole else f"{len(done)} of {len(outcomes)} people"
    say("gallery", f"enrolled {names}, kept until {terms.retain_until.isoformat()}")


@gallery_app.command("list")
def list_people(
    alike: Annotated[
        bool, typer.Option("--alike", help="Pairs of people who may be one: the best run decides.")
    ] = False,
    model: ModelOption = None,
    results: ResultsOption = None,
    gallery: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the people enrolled, or those who may be one person."""
    with _gallery(gallery) as kept:
        if not alike:
            _show(kept.people(), as_json)
            return
        recogniser = _recogniser(model, results, "auto")
        limit = _threshold(recogniser.model, None, None)
        found = kept.lookalikes(recogniser.fingerprint, limit.score)
    if as_json:
        pairs = [{"first": one.name, "second": other.name, "score": score} for one, other, score in found]
        typer.echo(json.dumps(pairs, indent=2))
        return
    if not found:
        typer.echo("Nobody looks like anybody else.")
    for one, other, score in found:
        typer.echo(f"{score:.3f}  {one.name}  {other.name}")


@gallery_app.command()
def find(
    text: Annotated[str, typer.Argument(help="A part of the name.")],
    gallery: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find people by a part of their name."""
    with _gallery(gallery) as kept:
        _show(kept.find(text), as_json)


def _show(people: list[Person], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps([_row(person) for person in people], indent=2))
        return
    if not people:
        typer.echo("Nobody: enrol someone with facemae gallery add.")
    for person in people:
        photos = f"{person.photos} photo{'' if person.photos == 1 else 's'}"
        typer.echo(f"{person.name}  {photos}, until {person.retain_until.isoformat()}, no. {person.id}")


def _row(person: Person) -> dict[str, str | int]:
    return {
        "id": person.id,
        "name": person.name,
        "photos": person.photos,
        "templates": person.templates,
        "created": _text(person.created),
        "consent": _text(person.consent),
        "retain_until": person.retain_until.isoformat(),
    }


def _text(moment: datetime.datetime) -> str:
    return moment.isoformat(timespec="seconds")


@gallery_app.command()
def rename(
    name: NameArgument,
    new: Annotated[str, typer.Argument(help="The new name.")],
    gallery: UrlOption = None,
) -> None:
    """Rename a person."""
    with _gallery(gallery) as kept, _residue(kept):
        kept.rename(name, new)
        say("gallery", "renamed")


@gallery_app.command()
def merge(
    name: NameArgument,
    into: Annotated[str, typer.Argument(help="Who gets the photos of the first, whose name goes.")],
    gallery: UrlOption = None,
) -> None:
    """Make two people one."""
    with _gallery(gallery) as kept, _residue(kept):
        kept.merge(name, into)
        say("gallery", "merged")


@gallery_app.command()
def remove(name: NameArgument, gallery: UrlOption = None) -> None:
    """Delete a person; nothing of them stays in the gallery's files."""
    with _gallery(gallery) as kept, _residue(kept):
        kept.remove(name)
        say("gallery", "removed")


@gallery_app.command()
def erase(yes: YesOption = False, gallery: UrlOption = None) -> None:
    """Delete everybody."""
    with _gallery(gallery) as kept, _residue(kept):
        people = len(kept.people())
        if not yes and not typer.confirm(f"Delete all {people} people? This cannot be undone."):
            raise UsageError("Nobody was deleted; answer y, or say --yes.")
        say("gallery", f"erased {kept.erase()} people")


@gallery_app.command()
def export(
    name: Annotated[str | None, typer.Argument(help="The person's name; not given: everybody.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON file to write; printed if not given.")
    ] = None,
    gallery: UrlOption = None,
) -> None:
    """Write all that is stored of a person, for that person, or of everybody."""
    with _gallery(gallery) as kept:
        content = files.dump_json(kept.export(name))
    if out is None:
        typer.echo(content.decode(), nl=False)
    else:
        files.atomic_write(out, content, private=True)
        say("gallery", f"written: {out}")
