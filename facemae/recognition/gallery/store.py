"""The gallery: people who gave their consent, and templates of their faces, in SQLite or PostgreSQL.

Templates are biometric data. No photo is kept, a date is kept for each person after which they are removed,
and what is removed is also overwritten on the disk. Every method may be called from any thread, and any
number of processes may use one gallery. Shapes: Q queries, D numbers of a template.
"""

from __future__ import annotations

import base64
import contextlib
import difflib
import threading
import warnings
from collections.abc import Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import (
    Connection,
    RowMapping,
    Select,
    delete,
    func,
    insert,
    make_url,
    select,
    true,
    update,
)  # fmt: skip
from sqlalchemy.exc import ArgumentError, DBAPIError, TimeoutError

from facemae.core.errors import IntegrityError, StorageError, UsageError
from facemae.recognition.gallery import names, schema
from facemae.recognition.gallery.postgres import Postgres
from facemae.recognition.gallery.schema import (
    COUNTERS,
    PEOPLE,
    TEMPLATES,
    Candidate,
    Packed,
    Person,
    Template,
    packed,
    short,
)  # fmt: skip
from facemae.recognition.gallery.search import Scored
from facemae.recognition.gallery.sqlite import Sqlite

LONGEST_RETENTION = 1096  # days: three years, the bound of the Illinois act (740 ILCS 14/15)
_AT_ONCE = 10_000  # people asked for in one statement, which takes no more than 32,766 values
_CLOSE_NAMES = 3  # offered for one that is not there


class GalleryModelError(IntegrityError):
    """A search with a model of which the gallery has no template, though it has some of others."""


class ResidueWarning(UserWarning):
    """Something was removed, and copies of it may be left in a file or on the server."""


class Gallery:
    """People and their templates, in a file or on a server."""

    def __init__(self, url: str | Path) -> None:
        """Open a gallery, or make it, and remove those whose time is over.

        Args:
            url: A file, for one machine; or "postgresql://user:password@host/database", for many.

        Raises:
            UsageError: the address cannot be used, or the packages for a server are missing.
            IntegrityError: the file is a link, damaged, not a gallery, or of a newer FaceMAE.
            StorageError: file or server cannot be reached.
        """
        self._backend = _backend(url)
        self._opening = threading.Lock()
        self._residue: str | None = None
        try:
            self._open()
            self.purge()
            self._wipe()  # what a process that was killed had no time for
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Gallery:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._backend.close()

    @property
    def residue(self) -> str | None:
        """Return why the last removal may have left something behind, as a sentence; None if it has not."""
        return self._residue

    def enrol(
        self, name: str, templates: Sequence[Template], *, consent: bool, retain_until: date,
        add: bool = False,
    ) -> Person:  # fmt: skip
        """Enter a person; what is returned is on the disk.

        Args:
            name: 1 to 100 characters of any script.
            templates: One for each photo and model.
            consent: Whether the person agreed, now, to what is stored and for how long.
            retain_until: The last day on which they are kept, at most 1096 days from today.
            add: Whether to add to a person of this name, whose consent and date are renewed.

        Raises:
            UsageError: there is no consent or template, or name, date or a template cannot be used.
        """
        name, retain_until = names.fit(name), _fit_date(retain_until)
        if not consent:
            raise UsageError("Nobody is enrolled without their consent; ask, then tick it.")
        if not templates:
            raise UsageError("There is no template to enrol; give at least one photo with a face.")
        fitted = [schema.fit_template(each) for each in templates]
        self.purge()  # nobody is to meet a name that is not shown
        now = _now()
        with self._writing() as connection:
            held = connection.scalar(select(PEOPLE.c.id).where(PEOPLE.c.name == name))
            if held is not None and not add:
                raise UsageError(
                    f"{names.shown(name)} is enrolled already; choose to add to this person, or another name."
                )
            granted = {"consent": now, "retain_until": retain_until}
            if held is None:
                new = insert(PEOPLE).values(name=name, created=now, **granted).returning(PEOPLE.c.id)
                held = connection.execute(new).scalar_one()
            else:
                connection.execute(update(PEOPLE).where(PEOPLE.c.id == held).values(**granted))
            for template in fitted:
                self._enter(connection, held, template, now)
            return _people(connection, PEOPLE.c.id == held)[0]

    def people(self, model: str | None = None) -> list[Person]:
        """Return who is enrolled, by name; with `model` only those who have a template of it."""
        known = select(TEMPLATES.c.person).where(TEMPLATES.c.model == model)
        with self._reading() as connection:
            return _people(connection, true() if model is None else PEOPLE.c.id.in_(known))

    def find(self, part: str) -> list[Person]:
        """Return those whose name holds `part`, in small or capital letters, by name."""
        wanted = names.normalised(part).casefold()
        return [person for person in self.people() if wanted in person.name.casefold()]

    def person(self, name: str) -> Person:
        """Return the person of this name.

        Raises:
            UsageError: there is none; the message names similar ones.
        """
        with self._reading() as connection:
            return _person(connection, name)

    def rename(self, name: str, new: str) -> Person:
        """Give a person another name; the old one is overwritten on the disk.

        Raises:
            UsageError: there is no such person, or the new name is taken or unfit.
        """
        new = names.fit(new)
        self.purge()  # nobody is to meet a name that is not shown
        with self._removing() as connection:
            person = _person(connection, name)
            taken = connection.scalar(select(PEOPLE.c.id).where(PEOPLE.c.name == new))
            if taken not in (None, person.id):
                raise UsageError(f"{names.shown(new)} is enrolled already; merge the two, or choose another.")
            connection.execute(update(PEOPLE).where(PEOPLE.c.id == person.id).values(name=new))
            return _people(connection, PEOPLE.c.id == person.id)[0]

    def merge(self, name: str, into: str) -> Person:
        """Give all templates of one person to another and remove the one; return the other.

        What was agreed for either is kept to: the earlier of the two dates holds.

        Raises:
            UsageError: one of them is not there, or they are the same.
        """
        with self._removing() as connection:
            one, other = _person(connection, name), _person(connection, into)
            if one.id == other.id:
                raise UsageError("A person cannot be merged with themselves; choose two.")
            until = min(one.retain_until, other.retain_until)
            connection.execute(update(PEOPLE).where(PEOPLE.c.id == other.id).values(retain_until=until))
            connection.execute(update(TEMPLATES).where(TEMPLATES.c.person == one.id).values(person=other.id))
            connection.execute(delete(PEOPLE).where(PEOPLE.c.id == one.id))
            return _people(connection, PEOPLE.c.id == other.id)[0]

    def remove(self, name: str) -> None:
        """Remove a person with all templates, and overwrite them on the disk.

        On a server it cannot be seen to that nothing is left in copies and logs; see `residue`.

        Raises:
            UsageError: there is no such person.

        Warns:
            ResidueWarning: it is removed, and bytes of it may be left.
        """
        with self._removing() as connection:
            connection.execute(delete(PEOPLE).where(PEOPLE.c.id == _person(connection, name).id))

    def erase(self) -> int:
        """Remove everybody, as `remove` does; return how many people they were."""
        with self._removing() as connection:
            connection.execute(delete(TEMPLATES))
            return connection.execute(delete(PEOPLE)).rowcount

    def purge(self, today: date | None = None) -> list[str]:
        """Remove those who were to be kept until a day before `today`, in UTC; return their names."""
        over = PEOPLE.c.retain_until < (today or _today())
        with self._reading() as connection:
            if connection.scalar(select(PEOPLE.c.id).where(over).limit(1)) is None:
                return []
        with self._removing() as connection:
            found = sorted(connection.scalars(select(PEOPLE.c.name).where(over)).all())
            connection.execute(delete(PEOPLE).where(over))
            return found

    def export(self, name: str | None = None) -> dict[str, Any]:
        """Return all that is stored of a person, or of everybody, as what JSON can hold.

        Vectors are lists of numbers, thumbnails base64, times ISO 8601.

        Raises:
            UsageError: there is no such person.
            IntegrityError: a template is damaged.
        """
        with self._reading() as connection:
            found = _people(connection) if name is None else [_person(connection, name)]
            return {
                "schema": schema.VERSION,
                "exported": _now().replace(tzinfo=UTC).isoformat(),
                "people": [_exported(connection, person) for person in found],
            }

    def search(self, vectors: NDArray[np.floating[Any]], model: str, top: int = 5) -> list[list[Candidate]]:
        """Return the `top` people for each face, best first; a person scores with their best template.

        In a file every template is compared; on a server the candidates of an index are, so that one in
        some thousands may be missed. The scores are equal. None are returned from an empty gallery.

        Args:
            vectors: Embeddings (Q, D), of any length.
            model: The hash of the model that made them; templates of others are left out.
            top: How many people.

        Raises:
            GalleryModelError: the gallery has templates, and none of this model.
            UsageError: the embeddings have another shape than the templates, or are not finite.
            IntegrityError: a template is damaged.
        """
        queries = schema.units(vectors)
        with self._told():
            self._check_dimension(queries.shape[1], model)
            found = self._backend.best(queries, model, max(top, 1), _today())
        return self._candidates(found)

    def lookalikes(self, model: str, threshold: float) -> list[tuple[Person, Person, float]]:
        """Return pairs of people of whom two templates score `threshold` or more: the same person twice?

        Best first, at most 1000. Compares all with all: a second for 10,000 templates, minutes for 100,000.

        Raises:
            GalleryModelError: the gallery has templates, and none of this model.
        """
        with self._told():
            self._check_dimension(None, model)
            found = self._backend.pairs(model, threshold, _today())
        people = self._by_id({each for first, second, _ in found for each in (first, second)})
        return [
            (people[first], people[second], score)
            for first, second, score in found
            if first in people and second in people
        ]

    def thumbnail(self, name: str) -> bytes | None:
        """Return the person's thumbnail of the best quality as PNG, None where none was kept.

        Raises:
            UsageError: there is no such person.
        """
        with self._reading() as connection:
            mine = TEMPLATES.c.person == _person(connection, name).id
            order = func.coalesce(TEMPLATES.c.quality, -1e300).desc(), TEMPLATES.c.id
            kept = select(TEMPLATES.c.thumbnail).where(mine, TEMPLATES.c.thumbnail.is_not(None))
            found: bytes | None = connection.scalar(kept.order_by(*order).limit(1))
            return found

    def models(self) -> dict[str, int]:
        """Return how many templates there are of each model, by its hash."""
        counted = (
            select(TEMPLATES.c.model, func.count())
            .join(PEOPLE)
            .where(PEOPLE.c.retain_until >= _today())
            .group_by(TEMPLATES.c.model)
        )
        with self._reading() as connection:
            return dict(sorted(connection.execute(counted).tuples().all()))

    def _open(self) -> None:
        """Make the tables where they are missing."""
        with self._told(), self._transaction(writes=True) as connection:
            self._backend.create(connection)
            held = dict(connection.execute(select(COUNTERS.c.name, COUNTERS.c.value)).tuples().all())
            for name, value in schema.FIRST.items():
                if name not in held:
                    connection.execute(insert(COUNTERS).values(name=name, value=value))
            schema.check_version(held.get("schema", schema.VERSION))

    @contextlib.contextmanager
    def _transaction(self, *, writes: bool) -> Iterator[Connection]:
        options: dict[str, bool] = {"gallery_writes": writes}
        with self._backend.engine.connect().execution_options(**options) as connection, connection.begin():
            yield connection

    @contextlib.contextmanager
    def _reading(self) -> Iterator[Connection]:
        with self._told(), self._transaction(writes=False) as connection:
            yield connection

    @contextlib.contextmanager
    def _writing(self, *counters: Literal["removals"]) -> Iterator[Connection]:
        """Begin a transaction that writes, after all others of this gallery have ended."""
        with self._told(), self._transaction(writes=True) as connection:
            # On a server the row's lock makes the writers take turns; in a file the database does.
            counted = COUNTERS.c.name.in_(["revision", *counters])
            connection.execute(update(COUNTERS).where(counted).values(value=COUNTERS.c.value + 1))
            yield connection

    @contextlib.contextmanager
    def _removing(self) -> Iterator[Connection]:
        """Begin a transaction after which what it took away is overwritten on the disk."""
        with self._writing("removals") as connection:
            yield connection
        self._wipe()

    def _wipe(self) -> None:
        """Overwrite what was removed since the last time, unless another process has done so."""
        wiped = COUNTERS.c.name == "wiped"
        with self._told():
            with self._transaction(writes=False) as connection:
                held = dict(connection.execute(select(COUNTERS.c.name, COUNTERS.c.value)).tuples().all())
            if held["wiped"] >= held["removals"]:
                return
            done, reason = self._backend.wipe()
            if done:
                newer = wiped & (COUNTERS.c.value < held["removals"])
                with self._transaction(writes=True) as connection:
                    connection.execute(update(COUNTERS).where(newer).values(value=held["removals"]))
        self._residue = None
        if reason is not None:
            retry = "" if done else ", which is tried again with the next removal or opening"
            self._residue = f"It is removed, and bytes of it may be left on the disk: {reason}{retry}."
            warnings.warn(self._residue, ResidueWarning, stacklevel=4)

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Turn the database's errors into sentences, and open a file anew that was replaced."""
        if self._backend.replaced():
            with self._opening:
                if self._backend.replaced() and isinstance(self._backend, Sqlite):
                    self._backend.close()
                    self._backend = Sqlite(self._backend.path)
                    self._open()
        try:
            yield
        except DBAPIError as error:
            told = self._backend.sentence(error)
            if told is None:
                raise
            raise told from error
        except TimeoutError as error:
            raise StorageError("The gallery is busy with other requests; try again in a moment.") from error

    def _enter(self, connection: Connection, person: int, template: Template, now: datetime) -> None:
        """Enter one template, with an index where it is the first of its model.

        Raises:
            UsageError: the model's other templates have another number of values.
        """
        size = _dimension(connection, template.model)
        if size is None:
            self._backend.prepare_model(connection, template.model, len(template.vector))
        elif size != len(template.vector):
            raise UsageError(
                f"The template has {len(template.vector)} numbers and this model's have {size}; "
                "embed the photo with the model that is named."
            )
        connection.execute(
            insert(TEMPLATES).values(
                person=person, model=template.model, vector=template.vector,
                digest=schema.digest(packed(template.vector), template.model), quality=template.quality,
                thumbnail=template.thumbnail, created=now,
            )
        )  # fmt: skip

    def _check_dimension(self, size: int | None, model: str) -> None:
        """Check that the gallery can be searched with this model, and with vectors of this size.

        Raises:
            GalleryModelError: it has templates, and none of this model.
            UsageError: the model's templates have another number of values.
        """
        with self._transaction(writes=False) as connection:
            held = _dimension(connection, model)
        if held is None:
            others = [each for each in self.models() if each != model]
            if others:
                raise GalleryModelError(
                    f"This gallery was made with another model ({short(others[0])} vs {short(model)}): "
                    "enrol the people again, or switch to its model."
                )
        elif size is not None and held != size:
            raise UsageError(f"The embedding has {size} numbers and the gallery's templates have {held}.")

    def _candidates(self, found: list[Scored]) -> list[list[Candidate]]:
        people = self._by_id({person for scored in found for person, _ in scored})
        return [
            [Candidate(people[person], score) for person, score in scored if person in people]
            for scored in found
        ]

    def _by_id(self, ids: set[int]) -> dict[int, Person]:
        """Return people by their ids; who has been removed in the meantime is left out."""
        wanted = sorted(ids)
        parts = [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]
        with self._reading() as connection:
            found = [_people(connection, PEOPLE.c.id.in_(part)) for part in parts]
        return {person.id: person for part in found for person in part}


def _backend(url: str | Path) -> Sqlite | Postgres:
    if isinstance(url, Path) or "://" not in url:
        return Sqlite(Path(url).expanduser())
    try:
        parsed = make_url(url)
        kind = parsed.get_backend_name()
    except (ArgumentError, ValueError):
        # The address may hold a password, so it is not repeated, nor is the error that repeats it.
        kind, parsed = "", None
    if kind == "postgresql" and parsed is not None:
        return Postgres(parsed)
    if kind == "sqlite" and parsed is not None and parsed.database:
        return Sqlite(Path(parsed.database))
    raise UsageError(
        "The gallery's address cannot be read; give a file, or postgresql://user:password@host/database."
    )


def _now() -> datetime:
    """Return the time in UTC, as the database holds it: without a zone."""
    return datetime.now(UTC).replace(tzinfo=None)


def _today() -> date:
    """Return the day in UTC."""
    return datetime.now(UTC).date()


def _fit_date(until: date) -> date:
    """Return the last day of keeping.

    Raises:
        UsageError: it is over, or too far away.
    """
    until = until.date() if isinstance(until, datetime) else until
    today = _today()
    latest = today + timedelta(days=LONGEST_RETENTION)
    if not today <= until <= latest:
        raise UsageError(f"People are kept until a day from {today} to {latest}, not {until}; choose one.")
    return until


def _shown_people() -> Select[Any]:
    """Return the selection of people who are still to be kept, with the number of their templates."""
    photos = (
        select(func.count()).select_from(TEMPLATES).where(TEMPLATES.c.person == PEOPLE.c.id).scalar_subquery()
    )
    return select(PEOPLE, photos.label("photos")).where(PEOPLE.c.retain_until >= _today())


def _people(connection: Connection, *which: Any) -> list[Person]:
    """Return people by name; one order for every database and its settings."""
    rows = connection.execute(_shown_people().where(*which)).mappings().all()
    return sorted(map(_from_row, rows), key=lambda person: (person.name.casefold(), person.name))


def _from_row(row: RowMapping) -> Person:
    created, consent = (row[each].replace(tzinfo=UTC) for each in ("created", "consent"))
    return Person(row["id"], row["name"], created, consent, row["retain_until"], row["photos"])


def _person(connection: Connection, name: str) -> Person:
    """Return the person of this name.

    Raises:
        UsageError: there is none; the message names similar ones.
    """
    wanted = names.normalised(name)
    # What could not be stored is not looked for either: some of it the drivers cannot send.
    found = _people(connection, PEOPLE.c.name == wanted) if _storable(wanted) else []
    if found:
        return found[0]
    held = connection.scalars(select(PEOPLE.c.name).where(PEOPLE.c.retain_until >= _today())).all()
    close = difflib.get_close_matches(wanted[: names.LONGEST], held, _CLOSE_NAMES)
    offered = (
        f"did you mean {' or '.join(map(names.shown, close))}?" if close else "look at the list of people."
    )
    raise UsageError(f"Nobody is enrolled as {names.shown(wanted)}; {offered}")


def _storable(name: str) -> bool:
    try:
        return names.fit(name) == name
    except UsageError:
        return False


def _dimension(connection: Connection, model: str) -> int | None:
    """Return the numbers of this model's templates, None if there are none."""
    one = select(Packed(TEMPLATES.c.vector)).where(TEMPLATES.c.model == model).limit(1)
    blob = connection.scalar(one)
    return None if blob is None else len(blob) // 4


def _exported(connection: Connection, person: Person) -> dict[str, Any]:
    mine = select(TEMPLATES, Packed(TEMPLATES.c.vector).label("blob")).where(TEMPLATES.c.person == person.id)
    rows = connection.execute(mine.order_by(TEMPLATES.c.id)).mappings().all()
    return {
        "id": person.id,
        "name": person.name,
        "created": person.created.isoformat(),
        "consent": person.consent.isoformat(),
        "retain_until": person.retain_until.isoformat(),
        "templates": [_exported_template(row, person.id) for row in rows],
    }


def _exported_template(row: RowMapping, person: int) -> dict[str, Any]:
    schema.check_digest(row["blob"], row["model"], row["digest"], person)
    thumbnail = row["thumbnail"]
    return {
        "model": row["model"],
        "vector": schema.unpacked([row["blob"]])[0].tolist(),
        "digest": row["digest"],
        "quality": row["quality"],
        "thumbnail": None if thumbnail is None else base64.b64encode(thumbnail).decode(),
        "created": row["created"].replace(tzinfo=UTC).isoformat(),
    }
