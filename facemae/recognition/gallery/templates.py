"""Reading a model's templates from the database into a matrix, and only what the matrix does not have yet."""

from __future__ import annotations

import itertools
from datetime import date

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, func, select

from facemae.recognition.gallery import schema
from facemae.recognition.gallery.schema import PEOPLE, TEMPLATES, Packed
from facemae.recognition.gallery.search import Matrix, with_room

_BATCH = 2000  # templates read at a time


def expired(connection: Connection, today: date) -> NDArray[np.int64]:
    """Return the ids of people who are not to be kept any more."""
    return np.array(connection.scalars(select(PEOPLE.c.id).where(PEOPLE.c.retain_until < today)).all(), int)


def load(connection: Connection, model: str, matrix: Matrix | None, gone: NDArray[np.int64]) -> Matrix | None:
    """Return `matrix` with the model's templates that it does not have yet, None if there are none at all.

    Raises:
        IntegrityError: a vector is not the one that was stored.
    """
    newer = (TEMPLATES.c.model == model) & (TEMPLATES.c.id > (matrix.last if matrix else 0))
    count = connection.scalar(select(func.count()).select_from(TEMPLATES).where(newer)) or 0
    columns = TEMPLATES.c.id, TEMPLATES.c.person, Packed(TEMPLATES.c.vector), TEMPLATES.c.digest
    rows = connection.execution_options(yield_per=_BATCH).execute(
        select(*columns).where(newer).order_by(TEMPLATES.c.id)
    )
    for part in rows.tuples().partitions():
        ids, owners, blobs, digests = zip(*part, strict=True)
        for owner, blob, expected in zip(owners, blobs, digests, strict=True):
            schema.check_digest(blob, model, expected, owner)
        vectors = schema.unpacked(blobs)
        if matrix is None:
            matrix = Matrix(vectors.shape[1], with_room(count))
        kept = ~np.isin(owners, gone)
        matrix.add(np.array(ids)[kept], np.array(owners)[kept], vectors[kept])
    return matrix


def keep(connection: Connection, model: str, matrix: Matrix, gone: NDArray[np.int64]) -> None:
    """Drop from the matrix what is no longer in the database; read numbers only, no vectors."""
    columns = select(TEMPLATES.c.id, TEMPLATES.c.person)
    rows = connection.execute(columns.where(TEMPLATES.c.model == model).order_by(TEMPLATES.c.id)).tuples()
    # Number by number: NumPy asks each row of a result whether it is an array, which takes seconds.
    pairs = np.fromiter(itertools.chain.from_iterable(rows), np.int64).reshape(-1, 2)
    pairs = pairs[~np.isin(pairs[:, 1], gone)]
    matrix.keep(pairs[:, 0], pairs[:, 1])
