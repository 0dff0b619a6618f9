"""Rows of a gallery, read and written with a checksum over all their fields.

A row that is used is checked, also where it is left out because its time is over: a flipped bit in a file
changes nothing unnoticed. So all that reads raises an IntegrityError where a row is damaged.
"""

from __future__ import annotations

import base64
import difflib
import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, RowMapping, Select, func, insert, select, update

from facemae.core.errors import IntegrityError, UsageError
from facemae.recognition.gallery import names, retention, schema
from facemae.recognition.gallery.retention import Clock
from facemae.recognition.gallery.schema import COUNTERS, PEOPLE, TEMPLATES, Packed, Person, Template
from facemae.recognition.gallery.search import Matrix

_BATCH = 2000  # templates read at a time
_CLOSE_NAMES = 3  # offered for one that is not there
_PERSON = ("id", "name", "created", "consent", "retain_until")
_TEMPLATE = ("person", "model", "vector", "quality", "created", "thumbnail_digest")
# What a template's checksum is made of, without the thumbnail, which has one of its own.
TEMPLATE = select(
    TEMPLATES.c.id, TEMPLATES.c.person, TEMPLATES.c.model, Packed(TEMPLATES.c.vector).label("vector"),
    TEMPLATES.c.quality, TEMPLATES.c.created, TEMPLATES.c.thumbnail_digest, TEMPLATES.c.digest,
)  # fmt: skip
_PICTURED = TEMPLATE.add_columns(TEMPLATES.c.thumbnail)


def _digest(row: Mapping[str, Any] | RowMapping, fields: tuple[str, ...]) -> str:
    return schema.digest(*(row[each] for each in fields))


# --- counters ---


def counters(connection: Connection) -> dict[str, int]:
    """Return the counters; an IntegrityError tells where a newer FaceMAE wrote them, too."""
    found = dict(connection.execute(select(COUNTERS.c.name, COUNTERS.c.value)).tuples().all())
    if not all(isinstance(found.get(name), int) for name in schema.FIRST):
        raise IntegrityError(schema.DAMAGED)
    if found["schema"] != schema.VERSION:
        raise IntegrityError(
            f"This gallery has schema {found['schema']} and this FaceMAE knows {schema.VERSION}; "
            "use the newer FaceMAE that made it."
        )
    if not 0 <= found["wiped"] <= found["removals"] <= found["revision"]:
        raise IntegrityError(schema.DAMAGED)
    return found


def clock(connection: Connection) -> Clock:
    """Return what day it is for the gallery."""
    return retention.clock(counters(connection)["day"])


# --- people ---


def _people_rows(connection: Connection, asked: Select[Any]) -> Sequence[RowMapping]:
    rows = connection.execute(asked).mappings().all()
    for row in rows:
        if row["digest"] != _digest(row, _PERSON):
            raise IntegrityError(
                f"Person {row['id']}, read as {names.shown(str(row['name']))}, is damaged: the row's "
                "checksum is wrong; remove them "
                f"(facemae gallery remove --number {row['id']}) and enrol them again."
            )
    return rows


def put_person(connection: Connection, person: int | None, **changes: Any) -> int:
    """Enter a person, or change the fields of one who is there; return their number."""
    if person is None:  # the database gives the number, which the checksum covers
        entered = insert(PEOPLE).values(**changes).returning(PEOPLE.c.id)
        held: dict[str, Any] = {"id": int(connection.execute(entered).scalar_one())}
    else:
        [held] = map(dict, _people_rows(connection, select(PEOPLE).where(PEOPLE.c.id == person)))
    changed = update(PEOPLE).where(PEOPLE.c.id == held["id"])
    connection.execute(changed.values(**changes, digest=_digest(held | changes, _PERSON)))
    return int(held["id"])


def people(connection: Connection, *which: Any) -> list[Person]:
    """Return those who are still to be kept, by name; one order for every database and its settings."""
    mine = TEMPLATES.c.person == PEOPLE.c.id
    of_one = select(func.count()).where(mine).group_by(TEMPLATES.c.model).order_by(func.count().desc())
    photos = of_one.limit(1).correlate(PEOPLE).scalar_subquery()
    templates = select(func.count()).where(mine).correlate(PEOPLE).scalar_subquery()
    asked = select(PEOPLE, func.coalesce(photos, 0).label("photos"), templates.label("templates"))
    today = clock(connection).day
    rows = _people_rows(connection, asked.where(*which))
    found = [_person(row) for row in rows if row["retain_until"] >= today]
    return sorted(found, key=lambda each: (each.name.casefold(), each.name))


def _person(row: RowMapping) -> Person:
    created, consent = (row[each].replace(tzinfo=UTC) for each in ("created", "consent"))
    return Person(
        row["id"], row["name"], created, consent, row["retain_until"], row["photos"], row["templates"]
    )


def person(connection: Connection, name: str) -> Person:
    """Return the person of this name; a UsageError that there is none names similar ones."""
    wanted = names.normalised(name)
    # What could not be stored is not looked for either: some of it the drivers cannot send.
    found = people(connection, PEOPLE.c.name == wanted) if names.is_fit(wanted) else []
    if found:
        return found[0]
    held = [each.name for each in people(connection)]
    close = difflib.get_close_matches(wanted[: names.LONGEST], held, _CLOSE_NAMES)
    offered = (
        f"did you mean {' or '.join(map(names.shown, close))}?" if close else "look at the list of people."
    )
    raise UsageError(f"Nobody is enrolled as {names.shown(wanted)}; {offered}")


def expired(connection: Connection, today: date) -> NDArray[np.int64]:
    """Return the numbers of people who are not to be kept any more."""
    rows = _people_rows(connection, select(PEOPLE).where(PEOPLE.c.retain_until < today))
    return np.array([row["id"] for row in rows], np.int64)


# --- templates ---


def check_template(row: RowMapping) -> None:
    """Check a template's row as `TEMPLATE` asks for it, and its thumbnail where it is among the columns."""
    if row["digest"] != _digest(row, _TEMPLATE):
        raise _damaged(row)
    if "thumbnail" in row:
        _check_picture(row)


def _check_picture(row: RowMapping) -> None:
    if row["thumbnail_digest"] != _of_picture(row["thumbnail"]):
        raise _damaged(row)


def _damaged(row: RowMapping) -> IntegrityError:
    return IntegrityError(
        f"A template of person {row['person']} is damaged: its checksum is wrong; remove them "
        f"(facemae gallery remove --number {row['person']}) and enrol them again."
    )


def _of_picture(thumbnail: bytes | None) -> str | None:
    return None if thumbnail is None else schema.digest(thumbnail)


def template_rows(connection: Connection, asked: Select[Any]) -> Sequence[RowMapping]:
    """Return rows of templates, checked."""
    rows = connection.execute(asked).mappings().all()
    for row in rows:
        check_template(row)
    return rows


def put_template(
    connection: Connection, person: int, template: Template, now: datetime,
    prepare: Callable[[Connection, str, int], None],
) -> None:  # fmt: skip
    """Enter a template of a person, as `schema.fit_template` returns it; a UsageError tells of another size.

    `prepare` is called with the model and its dimension before the first template of a model.
    """
    size = dimension(connection, template.model)
    if size is None:
        prepare(connection, template.model, len(template.vector))
    elif size != len(template.vector):
        raise UsageError(
            f"The template has {len(template.vector)} numbers and this model's have {size}; "
            "embed the photo with the model that is named."
        )
    fields = {
        "person": person, "model": template.model, "quality": template.quality, "created": now,
        "thumbnail_digest": _of_picture(template.thumbnail),
    }  # fmt: skip
    digest = _digest(fields | {"vector": schema.packed(template.vector)}, _TEMPLATE)
    connection.execute(
        insert(TEMPLATES).values(
            **fields, vector=template.vector, thumbnail=template.thumbnail, digest=digest
        )
    )


def give_templates(connection: Connection, giver: int, taker: int) -> None:
    """Make all templates of one person another's."""
    for row in template_rows(connection, TEMPLATE.where(TEMPLATES.c.person == giver)):
        digest = _digest(dict(row) | {"person": taker}, _TEMPLATE)
        changed = update(TEMPLATES).where(TEMPLATES.c.id == row["id"]).values(person=taker, digest=digest)
        connection.execute(changed)


def dimension(connection: Connection, model: str) -> int | None:
    """Return the numbers of this model's templates, None if there are none."""
    first = TEMPLATE.where(TEMPLATES.c.model == model).order_by(TEMPLATES.c.id).limit(1)
    return next((len(row["vector"]) // 4 for row in template_rows(connection, first)), None)


def thumbnails(connection: Connection, owners: list[int]) -> dict[int, bytes]:
    """Return the thumbnail (PNG) of the best photo of each of these people who has one, and check no more."""
    mine = TEMPLATES.c.person.in_(owners) & TEMPLATES.c.thumbnail.is_not(None)
    order = func.coalesce(TEMPLATES.c.quality, -1e300), TEMPLATES.c.id.desc()
    columns = TEMPLATES.c.person, TEMPLATES.c.thumbnail, TEMPLATES.c.thumbnail_digest
    rows = connection.execute(select(*columns).where(mine).order_by(*order)).mappings().all()
    for row in rows:
        _check_picture(row)
    return {row["person"]: row["thumbnail"] for row in rows}  # the best comes last


def load(connection: Connection, model: str, matrix: Matrix | None, gone: NDArray[np.int64]) -> Matrix | None:
    """Return `matrix` with the model's templates that it does not have yet, None if there are none at all.

    Those of people whose numbers are in `gone` are left out.
    """
    newer = (TEMPLATES.c.model == model) & (TEMPLATES.c.id > (matrix.last if matrix else 0))
    count = connection.scalar(select(func.count()).select_from(TEMPLATES).where(newer)) or 0
    batches = connection.execution_options(yield_per=_BATCH)
    for part in batches.execute(TEMPLATE.where(newer).order_by(TEMPLATES.c.id)).mappings().partitions():
        for row in part:
            check_template(row)
        vectors = schema.unpacked([row["vector"] for row in part])
        ids, owners = (np.array([row[each] for row in part], np.int64) for each in ("id", "person"))
        if matrix is None:
            matrix = Matrix(vectors.shape[1], count)
        kept = ~np.isin(owners, gone)
        matrix.add(ids[kept], owners[kept], vectors[kept])
        if kept.any():
            matrix.newest = part[int(np.flatnonzero(kept)[-1])]["digest"]
    return matrix


def still_holds(connection: Connection, matrix: Matrix) -> bool:
    """Return whether the matrix's newest template is the one of its number in the database.

    It is not where it was removed, nor where an older copy was restored, in which numbers are given again.
    """
    newest = select(TEMPLATES.c.digest).where(TEMPLATES.c.id == matrix.last)
    return not len(matrix) or bool(connection.scalar(newest) == matrix.newest)


def keep(connection: Connection, model: str, matrix: Matrix, gone: NDArray[np.int64]) -> None:
    """Drop from the matrix what is no longer in the database; read numbers only, no vectors."""
    columns = select(TEMPLATES.c.id, TEMPLATES.c.person)
    rows = connection.execute(columns.where(TEMPLATES.c.model == model).order_by(TEMPLATES.c.id)).tuples()
    # Number by number: NumPy asks each row of a result whether it is an array, which takes seconds.
    pairs = np.fromiter(itertools.chain.from_iterable(rows), np.int64).reshape(-1, 2)
    pairs = pairs[~np.isin(pairs[:, 1], gone)]
    matrix.keep(pairs[:, 0], pairs[:, 1])


# --- all that is stored ---


def exported(connection: Connection, of: Person) -> dict[str, Any]:
    """Return all that is stored of a person as what JSON can hold."""
    [row] = _people_rows(connection, select(PEOPLE).where(PEOPLE.c.id == of.id))
    mine = _PICTURED.where(TEMPLATES.c.person == of.id).order_by(TEMPLATES.c.id)
    templates = [
        {key: _plain(value) for key, value in each.items() if key not in ("id", "person")}
        | {"vector": schema.unpacked([each["vector"]])[0].tolist()}
        for each in template_rows(connection, mine)
    ]
    return {key: _plain(value) for key, value in row.items()} | {"templates": templates}


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, datetime):
        value = value.replace(tzinfo=UTC)
    return value.isoformat() if isinstance(value, date) else value


# --- a gallery of an earlier FaceMAE ---


def upgrade(connection: Connection, version: int) -> None:
    """Give the rows of schema 1 or 2 the checksums of schema 3.

    In schema 1 a template's was of vector and model alone and a person had none, in schema 2 a person's did
    not cover their number. What was damaged before stays so: its checksum is left empty. The newest day that
    a gallery of schema 1 has seen is that on which somebody was enrolled last.
    """
    if version == 1:
        _upgrade_first(connection)
    for row in connection.execute(select(PEOPLE)).mappings().all():
        whole = version == 1 or row["digest"] == _digest(row, _PERSON[1:])
        digest = _digest(row, _PERSON) if whole else ""
        connection.execute(update(PEOPLE).where(PEOPLE.c.id == row["id"]).values(digest=digest))
    known = update(COUNTERS).where(COUNTERS.c.name == "schema")
    connection.execute(known.values(value=schema.VERSION))


def _upgrade_first(connection: Connection) -> None:
    for table, column in ((PEOPLE, "digest VARCHAR(64) NOT NULL DEFAULT ''"),
                          (TEMPLATES, "thumbnail_digest VARCHAR(64)")):  # fmt: skip
        connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column}")
    newest = connection.scalar(select(func.max(PEOPLE.c.consent)))
    day = 0 if newest is None else retention.stored(newest.date())
    connection.execute(insert(COUNTERS).values(name="day", value=day))
    numbers = connection.scalars(select(TEMPLATES.c.id)).all()
    for number in numbers:  # one by one: with their pictures they may be large
        row = connection.execute(_PICTURED.where(TEMPLATES.c.id == number)).mappings().one()
        whole = hashlib.sha256(row["vector"] + row["model"].encode()).hexdigest() == row["digest"]
        picture = _of_picture(row["thumbnail"])
        digest = _digest(dict(row) | {"thumbnail_digest": picture}, _TEMPLATE) if whole else ""
        changed = update(TEMPLATES).where(TEMPLATES.c.id == number)
        connection.execute(changed.values(thumbnail_digest=picture, digest=digest))
