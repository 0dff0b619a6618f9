"""The gallery: people who gave their consent, and templates of their faces, in SQLite or PostgreSQL.

Templates are biometric data. No photo is kept, a date is kept for each person after which they are removed,
and what is removed is also overwritten on the disk. Shapes: Q queries, D numbers of a template.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import delete, func, select, true, update

from facemae.core.errors import IntegrityError, UsageError
from facemae.recognition.gallery import names, retention, rows, schema
from facemae.recognition.gallery.database import Database
from facemae.recognition.gallery.retention import ClockWarning
from facemae.recognition.gallery.schema import COUNTERS, PEOPLE, TEMPLATES, Candidate, Person, Template

LONGEST_RETENTION = 1096  # days: three years, the bound of the Illinois act (740 ILCS 14/15)
_AT_ONCE = 10_000  # people asked for in one statement, which takes no more than 32,766 values


class GalleryModelError(IntegrityError):
    """A search with a model of which the gallery has no template, though it has some of others."""


class Gallery(Database):
    """People and their templates, in a file or on a server.

    Every method may be called from any thread, and any number of processes may use one gallery.

    Raises:
        UsageError: there is no person of this name, and the message names similar ones; or what is given
            cannot be used.
        IntegrityError: what is stored of somebody is damaged.
        StorageError: file or server cannot be reached, or are busy or full.
    """

    def __init__(self, url: str | Path, *, create: bool = True, purge: bool = True) -> None:
        """Open a gallery: a file, for one machine; or "postgresql://user:password@host/database", for many.

        Args:
            url: File or address.
            create: Make the gallery where there is none.
            purge: Remove those whose time is over.

        Raises:
            UsageError: the address cannot be used, there is no gallery, or packages for a server are missing.
            IntegrityError: the file is a link, damaged, not a gallery, or of a newer FaceMAE.
        """
        super().__init__(url, create)
        try:
            if purge:
                self.purge()
        except BaseException:
            self.close()
            raise

    @property
    def clock_warning(self) -> str | None:
        """Return why nobody is deleted although the clock says that their time is over; None: it may be."""
        with self._transaction() as connection:
            return rows.clock(connection).warning

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
        """
        name = names.fit(name)
        if not consent:
            raise UsageError("Nobody is enrolled without their consent; ask, then tick it.")
        if not templates:
            raise UsageError("There is no template to enrol; give at least one photo with a face.")
        fitted = [schema.fit_template(each) for each in templates]
        self.purge()  # nobody is to meet a name that is not shown
        now = retention.now()
        with self._writing() as connection:
            clock = rows.clock(connection)
            if clock.warning:
                raise UsageError(clock.warning)
            agreed = {"consent": now, "retain_until": _fit_date(retain_until, clock.day)}
            held = connection.scalar(select(PEOPLE.c.id).where(PEOPLE.c.name == name))
            if held is None:
                held = rows.put_person(connection, None, name=name, created=now, **agreed)
            elif add:
                rows.put_person(connection, held, **agreed)
            else:
                raise UsageError(
                    f"{names.shown(name)} is enrolled already; choose to add to this person, or another name."
                )
            for template in fitted:
                rows.put_template(connection, held, template, now, self._backend.prepare_model)
            return rows.people(connection, PEOPLE.c.id == held)[0]

    def people(self, model: str | None = None) -> list[Person]:
        """Return who is enrolled, by name; with `model` only those who have a template of it."""
        known = select(TEMPLATES.c.person).where(TEMPLATES.c.model == model)
        with self._transaction() as connection:
            return rows.people(connection, true() if model is None else PEOPLE.c.id.in_(known))

    def find(self, part: str) -> list[Person]:
        """Return those whose name holds `part`, in small or capital letters, by name."""
        wanted = names.normalised(part).casefold()
        return [person for person in self.people() if wanted in person.name.casefold()]

    def person(self, name: str) -> Person:
        """Return the person of this name."""
        with self._transaction() as connection:
            return rows.person(connection, name)

    def rename(self, name: str, new: str) -> Person:
        """Give a person another name; the old one is overwritten on the disk."""
        new = names.fit(new)
        self.purge()  # nobody is to meet a name that is not shown
        with self._removing() as connection:
            person = rows.person(connection, name)
            taken = connection.scalar(select(PEOPLE.c.id).where(PEOPLE.c.name == new))
            if taken not in (None, person.id):
                raise UsageError(f"{names.shown(new)} is enrolled already; merge the two, or choose another.")
            rows.put_person(connection, person.id, name=new)
            return rows.person(connection, new)

    def merge(self, name: str, into: str) -> Person:
        """Give all templates of one person to another and remove the one; return the other.

        What was agreed for either is kept to: the earlier of the two dates holds.
        """
        with self._removing() as connection:
            one, other = rows.person(connection, name), rows.person(connection, into)
            if one.id == other.id:
                raise UsageError("A person cannot be merged with themselves; choose two.")
            until = min(one.retain_until, other.retain_until)
            rows.put_person(connection, other.id, retain_until=until)
            rows.give_templates(connection, one.id, other.id)
            connection.execute(delete(PEOPLE).where(PEOPLE.c.id == one.id))
            return rows.person(connection, other.name)

    def remove(self, who: str | int) -> None:
        """Remove a person with all templates, and overwrite them on the disk.

        On a server it cannot be seen to that nothing is left in copies and logs: a ResidueWarning and
        `residue` say so. A number instead of the name holds also where the person's row is damaged or gone.
        """
        with self._removing() as connection:
            number = who if isinstance(who, int) else rows.person(connection, who).id
            gone = connection.execute(delete(PEOPLE).where(PEOPLE.c.id == number)).rowcount
            # A damaged row may name somebody who never was, or have another number than its templates.
            alone = TEMPLATES.c.person.not_in(select(PEOPLE.c.id))
            gone += connection.execute(
                delete(TEMPLATES).where((TEMPLATES.c.person == number) | alone)
            ).rowcount
            if not gone:
                raise UsageError(f"Nobody is enrolled with number {number}; look at the list of people.")

    def count(self) -> int:
        """Return how many people the gallery holds, also where their rows are damaged."""
        with self._transaction() as connection:
            return connection.scalar(select(func.count()).select_from(PEOPLE)) or 0

    def erase(self) -> int:
        """Remove everybody, as `remove` does; return how many people they were."""
        with self._removing() as connection:
            connection.execute(delete(TEMPLATES))
            return connection.execute(delete(PEOPLE)).rowcount

    def purge(self, *, confirmed: bool = False) -> int:
        """Remove those who were to be kept until a day that is over, in UTC; return how many they were.

        Nobody is removed where one of their rows is damaged, nor where the clock has jumped and nobody has
        `confirmed` that it is right: then a ClockWarning says so, as `clock_warning` does.
        """
        with self._transaction() as connection:
            clock = rows.clock(connection)
            if clock.warning and not confirmed and connection.scalar(select(PEOPLE.c.id).limit(1)):
                warnings.warn(clock.warning, ClockWarning, stacklevel=2)
                return 0
            day = retention.today() if clock.warning else clock.day
            newest = retention.stored(day)
            seen = connection.scalar(select(COUNTERS.c.value).where(COUNTERS.c.name == "day"))
            over = len(rows.expired(connection, day))
        if newest != seen:
            with self._transaction(writes=True) as connection:
                connection.execute(update(COUNTERS).where(COUNTERS.c.name == "day").values(value=newest))
        if not over:
            return 0
        with self._removing() as connection:
            return connection.execute(delete(PEOPLE).where(PEOPLE.c.retain_until < day)).rowcount

    def export(self, name: str | None = None) -> dict[str, Any]:
        """Return all that is stored of a person, or of everybody, as what JSON can hold.

        Vectors are lists of numbers, thumbnails base64, times ISO 8601.
        """
        with self._transaction() as connection:
            found = rows.people(connection) if name is None else [rows.person(connection, name)]
            return {
                "schema": schema.VERSION,
                "exported": retention.now().replace(tzinfo=UTC).isoformat(),
                "people": [rows.exported(connection, person) for person in found],
            }

    def search(self, vectors: NDArray[np.floating[Any]], model: str, top: int = 5) -> list[list[Candidate]]:
        """Return the `top` people for each face, best first; a person scores with their best template.

        In a file every template is compared; on a server the candidates of an index are, so that one in
        some thousands may be missed. The scores are equal. None are returned from an empty gallery.

        Args:
            vectors, model: Embeddings (Q, D), of any length, and the hash of the model that made them.
            top: How many people.

        Raises:
            GalleryModelError: the gallery has templates, and none of this model.
        """
        queries = schema.units(vectors)
        size = self._dimension(model)
        if size is not None and size != queries.shape[1]:
            raise UsageError(
                f"The embedding has {queries.shape[1]} numbers and the gallery's templates have {size}."
            )
        with self._told():
            found = self._backend.best(queries, model, max(top, 1))
        people = self._by_id(person for scored in found for person, _ in scored)
        return [
            [Candidate(people[person], score) for person, score in scored if person in people]
            for scored in found
        ]

    def lookalikes(self, model: str, threshold: float) -> list[tuple[Person, Person, float]]:
        """Return pairs of people of whom two templates score `threshold` or more: the same person twice?

        Best first, at most 1000. Compares all with all: a second for 10,000 templates, minutes for 100,000.

        Raises:
            GalleryModelError: the gallery has templates, and none of this model.
        """
        self._dimension(model)
        with self._transaction() as connection:
            matrix = rows.load(connection, model, None, rows.expired(connection, rows.clock(connection).day))
        found = [] if matrix is None else matrix.pairs(threshold)
        people = self._by_id(each for first, second, _ in found for each in (first, second))
        return [
            (people[first], people[second], score)
            for first, second, score in found
            if first in people and second in people
        ]

    def thumbnails(self, people: Sequence[Person]) -> dict[int, bytes]:
        """Return, by a person's number, the thumbnail (PNG) of their best photo, where one was kept."""
        with self._transaction() as connection:
            return rows.thumbnails(connection, [each.id for each in people])

    def models(self) -> dict[str, int]:
        """Return how many templates there are of each model, by its hash."""
        with self._transaction() as connection:
            kept = PEOPLE.c.retain_until >= rows.clock(connection).day
            counted = select(TEMPLATES.c.model, func.count()).join(PEOPLE).where(kept)
            found = connection.execute(counted.group_by(TEMPLATES.c.model)).tuples().all()
            return dict(sorted(found))

    def _dimension(self, model: str) -> int | None:
        """Return the numbers of the model's templates; None where the gallery has none of any model."""
        with self._transaction() as connection:
            held = rows.dimension(connection, model)
        others = [] if held is not None else [each for each in self.models() if each != model]
        if others:
            raise GalleryModelError(
                f"This gallery was made with another model ({others[0][:8]} vs {model[:8]}): enrol the "
                "people again, or switch to its model."
            )
        return held

    def _by_id(self, ids: Iterable[int]) -> dict[int, Person]:
        """Return people by their ids; who has been removed in the meantime is left out."""
        wanted = sorted(set(ids))
        parts = [wanted[start : start + _AT_ONCE] for start in range(0, len(wanted), _AT_ONCE)]
        with self._transaction() as connection:
            found = [rows.people(connection, PEOPLE.c.id.in_(part)) for part in parts]
        return {person.id: person for part in found for person in part}


def _fit_date(until: date, today: date) -> date:
    """Return the last day of keeping, if it is neither over nor too far away."""
    until = until.date() if isinstance(until, datetime) else until
    latest = today + timedelta(days=LONGEST_RETENTION)
    if not today <= until <= latest:
        raise UsageError(f"People are kept until a day from {today} to {latest}, not {until}; choose one.")
    return until
