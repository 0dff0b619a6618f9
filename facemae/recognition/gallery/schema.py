"""The one schema of a gallery, in SQLite and in PostgreSQL, and what its rows are outside the database.

Shapes: D numbers of a template, N templates. Vectors are stored as float32, most significant byte first,
which is what pgvector sends and reads the same on every machine.
"""

from __future__ import annotations

import hashlib
import math
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator, TypeEngine

from facemae.core.errors import IntegrityError, UsageError

VERSION = 3  # of the schema; a gallery with a higher one is refused, a lower one is brought up to it
LARGEST = 16_000  # numbers of a template: the limit of pgvector's type
THUMBNAIL = 64  # pixels a side, at most
_THUMBNAIL_BYTES = 65_536
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,199}")
_PNG = b"\x89PNG\r\n\x1a\n"
_STORED = ">f4"


@dataclass(frozen=True)
class Person:
    """One enrolled person; times are in UTC.

    `templates` counts those of all models, `photos` those of the model that has most of them.
    """

    id: int
    name: str
    created: datetime
    consent: datetime
    retain_until: date
    photos: int
    templates: int


@dataclass(frozen=True)
class Template:
    """What is kept of one photo: the embedding (D,) of one model, and no more unless asked for.

    `model` is the hash of the model's weights, `thumbnail` a PNG of at most 64 pixels a side.
    """

    vector: NDArray[np.float32]
    model: str
    quality: float | None = None
    thumbnail: bytes | None = None


@dataclass(frozen=True)
class Candidate:
    """A person whom a face may show, and the cosine similarity of the best of their templates."""

    person: Person
    score: float


class _Vector(TypeDecorator[Any]):
    """A vector: bytes in SQLite, pgvector's type, of no fixed dimension, in PostgreSQL."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> TypeEngine[Any]:
        if dialect.name != "postgresql":
            return dialect.type_descriptor(sa.LargeBinary())
        from pgvector.sqlalchemy import VECTOR

        kind: TypeEngine[Any] = dialect.type_descriptor(VECTOR())
        return kind

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return value if dialect.name == "postgresql" else packed(value)


class _Moment(TypeDecorator[Any]):
    """A day or a time as text of SQLite, checked when it is read, since a bit of it may have flipped."""

    impl = sa.Text
    cache_ok = True

    def __init__(self, kind: type[date]) -> None:
        super().__init__()
        self.kind = kind

    def process_bind_param(self, value: Any, dialect: sa.Dialect) -> Any:
        return value.isoformat(" ", "microseconds") if self.kind is datetime else value.isoformat()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> Any:
        try:
            return None if value is None else self.kind.fromisoformat(value)
        except (TypeError, ValueError) as error:
            raise IntegrityError(DAMAGED) from error


_TIME = sa.DateTime().with_variant(_Moment(datetime), "sqlite")
_DAY = sa.Date().with_variant(_Moment(date), "sqlite")


class Packed(FunctionElement[bytes]):
    """The bytes of a stored vector, whatever the database: reading numbers as text is slow."""

    type = sa.LargeBinary()
    inherit_cache = True


@compiles(Packed)
def _as_stored(element: Packed, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses, **options)


@compiles(Packed, "postgresql")
def _as_sent(element: Packed, compiler: SQLCompiler, **options: Any) -> str:
    # The four bytes before the numbers are their count and a reserve.
    return f"substring(vector_send({compiler.process(element.clauses, **options)}) from 5)"


METADATA = sa.MetaData()
PEOPLE = sa.Table(
    "gallery_people",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("created", _TIME, nullable=False),
    sa.Column("consent", _TIME, nullable=False),
    sa.Column("retain_until", _DAY, nullable=False, index=True),
    sa.Column("digest", sa.String(64), nullable=False, server_default=""),
    sqlite_autoincrement=True,  # an id is never given twice, so that what is held in memory stays true
)
TEMPLATES = sa.Table(
    "gallery_templates",
    METADATA,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("person", sa.ForeignKey(PEOPLE.c.id, ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("model", sa.String(200), nullable=False),
    sa.Column("vector", _Vector, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("quality", sa.Float),
    sa.Column("thumbnail", sa.LargeBinary),
    sa.Column("thumbnail_digest", sa.String(64)),  # of its own: a search reads no thumbnails
    sa.Column("created", _TIME, nullable=False),
    # Whose templates there are, and which are new, without touching the vectors.
    sa.Index("ix_gallery_templates_model", "model", "id", "person"),
    sqlite_autoincrement=True,
)
# revision grows with every change; removals with every one that leaves something behind on the disk; wiped
# is the number of removals when the disk was last cleared of it; day is the newest one that was seen
# (`retention`).
COUNTERS = sa.Table(
    "gallery_counters",
    METADATA,
    sa.Column("name", sa.String(20), primary_key=True),
    sa.Column("value", sa.BigInteger, nullable=False),
)
FIRST = {"schema": VERSION, "revision": 0, "removals": 0, "wiped": 0, "day": 0}
DAMAGED = (
    "The gallery's file is damaged or not a gallery; put a copy of it in its place, or move it away and "
    "enrol again."
)


def packed(vector: NDArray[np.float32]) -> bytes:
    """Return a vector (D,) as it is stored."""
    return vector.astype(_STORED).tobytes()


def unpacked(blobs: Sequence[bytes]) -> NDArray[np.float32]:
    """Return stored vectors as (N, D)."""
    flat = np.frombuffer(b"".join(blobs), _STORED)
    return flat.astype(np.float32).reshape(len(blobs), -1)


def digest(*fields: Any) -> str:
    """Return the SHA-256 of a row's fields, each with its type and length, as hexadecimal digits."""
    hashed = hashlib.sha256()
    for field in fields:
        blob = field if isinstance(field, bytes) else _text(field).encode("utf-8", "surrogatepass")
        hashed.update(f"{type(field).__name__} {len(blob)} ".encode() + blob)
    return hashed.hexdigest()


def _text(field: Any) -> str:
    if isinstance(field, float):
        return field.hex()
    return field.isoformat() if isinstance(field, date) else str(field)


def fit_template(template: Template) -> Template:
    """Return the template with a unit vector; a UsageError tells what of it cannot be stored."""
    vector = np.asarray(template.vector)
    if vector.ndim != 1:
        raise UsageError(f"A template is one row of numbers and this one has shape {vector.shape}.")
    if not _MODEL.fullmatch(template.model):
        raise UsageError("A template takes its model's hash, at most 200 letters and digits.")
    if template.quality is not None and not math.isfinite(template.quality):
        raise UsageError("The quality of a photo is a finite number; leave it out where it is not known.")
    if template.thumbnail is not None:
        _check_thumbnail(template.thumbnail)
    return replace(template, vector=units(vector[None])[0])


def units(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Return vectors (N, D) at length one, computed in float64; a UsageError tells which have none."""
    rows = np.asarray(vectors, np.float64)
    if rows.ndim != 2 or not 1 <= rows.shape[1] <= LARGEST:
        raise UsageError(
            f"Embeddings have the shape (faces, 1 to {LARGEST} numbers) and these have {np.shape(vectors)}."
        )
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    # A length of infinity is one of finite numbers that are too large; no network makes either.
    if not np.isfinite(lengths).all() or not (lengths > 0).all():
        raise UsageError("An embedding is zero or not finite; the photo cannot be used, take another one.")
    unit: NDArray[np.float32] = (rows / lengths).astype(np.float32)
    return unit


def _check_thumbnail(data: bytes) -> None:
    """Check a PNG's signature and the width and height in its first chunk (PNG, 3rd edition, 11.2.1)."""
    if not data.startswith(_PNG) or len(data) < 24 or len(data) > _THUMBNAIL_BYTES:
        raise UsageError(f"A thumbnail is a PNG of at most {_THUMBNAIL_BYTES // 1024} KB.")
    width, height = struct.unpack(">II", data[16:24])
    if max(width, height) > THUMBNAIL:
        raise UsageError(f"The thumbnail is {width} x {height} pixels; at most {THUMBNAIL} a side are kept.")
