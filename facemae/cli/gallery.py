"""The commands that keep the gallery: who is enrolled, and until when."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from facemae.cli.options import ComputeOption, JsonOption, agreed, print_json
from facemae.cli.recognition import (
    ModelOption,
    ResultsOption,
    UrlOption,
    open_gallery,
    open_recogniser,
)
from facemae.core import files
from facemae.core.errors import DataError, UsageError
from facemae.core.progress import say, track
from facemae.recognition.settings import settings

if TYPE_CHECKING:
    from facemae.recognition.enrolment import Outcome, Terms
    from facemae.recognition.gallery.schema import Person

gallery_app = typer.Typer(
    help="The people enrolled for recognition: add, list, find, rename, merge, remove, erase, purge, export.",
    no_args_is_help=True,
)

YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
NameArgument = Annotated[str, typer.Argument(help="The person's name.")]


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
    results: ResultsOption = Path("results"),
    gallery: UrlOption = None,
    device: ComputeOption = "auto",
) -> None:
    """Enrol a person from photos, or everybody in a folder; the photos themselves are not kept."""
    from facemae.recognition.enrolment import Terms, enrol, until

    wanted = _wanted(name, photos or [], folder, consent)
    terms = Terms(True, until(days or settings().retention_days), thumbnail, more)
    recogniser = open_recogniser(model, results, device)
    limit, whole = recogniser.threshold(), folder is not None
    with open_gallery(gallery) as kept:
        if more and name is not None:
            kept.person(name)  # a name that is misspelt would be another person
        people = track(wanted.items(), len(wanted), "gallery", "people") if whole else wanted.items()
        how = partial(enrol, [recogniser], kept, terms=terms, threshold=limit, anyway=anyway or whole)
        outcomes = [_enrolled(how, who, paths, whole) for who, paths in people]
    _tell(outcomes, terms, whole)


def _enrolled(how: Callable[..., Outcome], who: str, paths: list[Path], whole: bool) -> Outcome:
    """Enrol one person; of a whole folder, who cannot be enrolled does not keep the others out."""
    from facemae.recognition.enrolment import Shot, not_enrolled

    try:
        return how(who, shots=[Shot(str(path), path) for path in paths])
    except UsageError as error:
        if not whole:
            raise
        return not_enrolled(who, error)


def _wanted(
    name: str | None, photos: list[Path], folder: Path | None, consent: bool
) -> dict[str, list[Path]]:
    """Return whom to enrol, with their photos."""
    from facemae.recognition.enrolment import people_in

    if (folder is None) == (name is None):
        raise UsageError("Give a name and photos, or --folder, a folder of person/photo.jpg.")
    if not consent:
        raise UsageError(
            "Enrolment stores biometric data and needs the person's consent; say --consent once you have it."
        )
    if folder is not None:
        left_out: Counter[str] = Counter()
        people = people_in(folder, left_out)
        for reason, count in left_out.items():
            say("gallery", f"{count} files are not used: {reason}")
        return people
    if not photos:
        raise UsageError(f"{name}: no photo was given; name at least one.")
    return {str(name): photos}


def _tell(outcomes: list[Outcome], terms: Terms, whole: bool) -> None:
    """Say what became of everybody; stop where nobody was enrolled."""
    for each in outcomes:
        for refused in each.refused:
            say("gallery", f"{refused.shot.name}: not used. {refused.reason}")
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
    results: ResultsOption = Path("results"),
    gallery: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the people enrolled, or those who may be one person."""
    with open_gallery(gallery) as kept:
        if not alike:
            _show(kept.people(), as_json)
            return
        recogniser = open_recogniser(model, results, "auto")
        found = kept.lookalikes(recogniser.fingerprint, recogniser.threshold().score)
    if as_json:
        print_json([{"first": one.name, "second": other.name, "score": score} for one, other, score in found])
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
    with open_gallery(gallery) as kept:
        _show(kept.find(text), as_json)


def _show(people: list[Person], as_json: bool) -> None:
    if as_json:
        print_json([_row(person) for person in people])
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
        "created": person.created.isoformat(timespec="seconds"),
        "consent": person.consent.isoformat(timespec="seconds"),
        "retain_until": person.retain_until.isoformat(),
    }


@gallery_app.command()
def rename(
    name: NameArgument,
    new: Annotated[str, typer.Argument(help="The new name.")],
    gallery: UrlOption = None,
) -> None:
    """Rename a person."""
    with open_gallery(gallery, create=False) as kept:
        kept.rename(name, new)
        say("gallery", "renamed")


@gallery_app.command()
def merge(
    name: NameArgument,
    into: Annotated[str, typer.Argument(help="Who gets the photos of the first, whose name goes.")],
    gallery: UrlOption = None,
) -> None:
    """Make two people one."""
    with open_gallery(gallery, create=False) as kept:
        kept.merge(name, into)
        say("gallery", "merged")


@gallery_app.command()
def remove(
    name: Annotated[str | None, typer.Argument(help="The person's name; with --number none.")] = None,
    number: Annotated[
        int | None,
        typer.Option("--number", min=1, max=2**31 - 1, help="The person's number, as the list shows it."),
    ] = None,
    gallery: UrlOption = None,
) -> None:
    """Delete a person; nothing of them stays in the gallery's files."""
    who = number if name is None else name
    if who is None or None not in (name, number):
        raise UsageError("Give a name, or --number, the number that facemae gallery list shows.")
    # By number also somebody whose row is damaged, which a purge would stop at.
    with open_gallery(gallery, create=False, purge=name is not None) as kept:
        kept.remove(who)
        say("gallery", "removed")


@gallery_app.command()
def erase(yes: YesOption = False, gallery: UrlOption = None) -> None:
    """Delete everybody."""
    with open_gallery(gallery, create=False, purge=False) as kept:
        if not yes and not agreed(f"Delete all {kept.count()} people? This cannot be undone."):
            raise UsageError("Nobody was deleted; answer y, or say --yes.")
        say("gallery", f"erased {kept.erase()} people")


@gallery_app.command()
def purge(
    yes: Annotated[
        bool, typer.Option("--yes", help="The clock is right, though it has jumped since the last use.")
    ] = False,
    gallery: UrlOption = None,
    as_json: JsonOption = False,
) -> None:
    """Delete those whose time is over; for a timer: it fails where there is no gallery, and makes none."""
    with open_gallery(gallery, create=False, purge=False) as kept:
        removed = kept.purge(confirmed=yes)
        outcome = {"removed": removed, "kept": len(kept.people()), "residue": kept.residue}
        outcome["clock"] = kept.clock_warning
    if as_json:
        typer.echo(json.dumps(outcome))
    else:
        say("gallery", f"deleted {removed} people whose time is over; {outcome['kept']} are kept")
    if outcome["clock"]:
        raise DataError("Nobody was deleted: the clock has jumped.")


@gallery_app.command()
def export(
    name: Annotated[str | None, typer.Argument(help="The person's name; not given: everybody.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", help="JSON file to write; printed if not given.")
    ] = None,
    gallery: UrlOption = None,
) -> None:
    """Write all that is stored of a person, for that person, or of everybody."""
    with open_gallery(gallery, create=False) as kept:
        content = files.dump_json(kept.export(name))
    if out is None:
        typer.echo(content, nl=False)  # as bytes: a terminal's own letters may be too few
    else:
        files.atomic_write(out, content, private=True)
        say("gallery", f"written: {out}")
