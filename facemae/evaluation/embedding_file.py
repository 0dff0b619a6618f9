"""Embeddings as files that any model may have made, and lists of pairs.

A file of embeddings has a row per photo: sample_id, embedding, and where they are known person, group and
model. Beside E.parquet, E.parquet.json may list the photos without a face, which a list of pairs may name,
and say that every text of the table is a name (`plain_names`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pyarrow import parquet

from facemae.core import records
from facemae.core.errors import DataError, IntegrityError, UsageError
from facemae.core.progress import say
from facemae.data.sources import archives, listing

# What tools write where there is no value. It may as well be the name of a person: .npz has no null for text,
# and in Parquet it is what a column of unknown people becomes when it is turned into text.
_NOBODY = ("", "None", "none", "nan", "NaN", "NAN", "<NA>", "NaT", "N/A", "n/a", "null", "NULL")
MOST_COLUMNS = 100  # or arrays
MOST_RATIO, MOST_UNCHECKED = 100, 2**26  # of a file's content in bytes to the file, and what may be any ratio


@dataclass(frozen=True)
class Embeddings:
    """What one model made of N photos; `source` is the file or model, for messages.

    Attributes:
        sample_ids, vectors: (N,) names of the photos, each once, and (N, D), finite and not zero.
        people, groups: (N,) whose photo each is, or None where it is not known, and groups of people.
        without_face: Photos in which no face was found, and whose they are.
        trained_on: People that the model was trained on, as far as that is known.
    """

    source: str
    sample_ids: list[str]
    vectors: NDArray[np.floating]
    people: list[str | None]
    groups: Mapping[str, str] = field(default_factory=dict)
    without_face: Mapping[str, str | None] = field(default_factory=dict)
    trained_on: frozenset[str] = frozenset()


def sidecar(path: Path) -> Path:
    """Return the file beside embeddings that says what is known of them: E.parquet.json."""
    return path.with_name(f"{path.name}.json")


def read_embeddings(path: Path) -> Embeddings:
    """Read embeddings from `.parquet` or `.npz`.

    Raises:
        UsageError: the file is of another kind.
        IntegrityError: it is damaged, lacks a column, or holds what no single model can have made.
        DataError: it holds nothing.
    """
    kinds = {".parquet": ("Parquet", _read_parquet), ".npz": ("NumPy's .npz", _read_npz)}
    if path.suffix not in kinds:
        raise UsageError(f"{path} is neither .parquet nor .npz; write the embeddings as one of the two.")
    kind, read = kinds[path.suffix]
    with open(path, "rb") as file:
        try:
            table = read(file, path.stat().st_size)
        except Exception as error:  # pyarrow, `zipfile` and NumPy raise nearly anything
            reason = " ".join(str(error).split())[:200].rstrip(".")
            raise IntegrityError(f"{path} cannot be read as {kind} ({reason}); write it again.") from error
    return from_table(table, str(path), _read_sidecar(path))


def _read_parquet(file: BinaryIO, size: int) -> pd.DataFrame:
    metadata = parquet.read_metadata(file)
    if metadata.num_rows > size:  # each row has a name of its own, which takes more than a byte
        raise ValueError(f"it claims {metadata.num_rows} rows in {size} bytes")
    if metadata.num_columns > MOST_COLUMNS:
        raise ValueError(f"over {MOST_COLUMNS} columns, the limit")
    cells = product(range(metadata.num_row_groups), range(metadata.num_columns))
    values = sum(metadata.row_group(group).column(each).num_values for group, each in cells)
    if 8 * values > max(MOST_UNCHECKED, MOST_RATIO * size):
        raise ValueError(f"it claims {values} values in {size} bytes")
    # As floating point, numbers of people beside an empty one would change, and large ones be merged.
    table: pd.DataFrame = parquet.read_table(file).to_pandas(integer_object_nulls=True)
    return table


def _read_npz(file: BinaryIO, size: int) -> pd.DataFrame:
    _check_sizes(file, size)
    file.seek(0)
    content = np.load(file)  # refuses pickled objects, which could run code
    if not isinstance(content, np.lib.npyio.NpzFile):
        raise ValueError("it holds a single array")
    arrays = {name: content[name] for name in content.files}
    if any(not isinstance(each, np.ndarray) for each in arrays.values()):
        raise ValueError("what it holds are no arrays")
    return pd.DataFrame({name: list(each) if name == "embedding" else each for name, each in arrays.items()})


def _check_sizes(file: BinaryIO, size: int) -> None:
    """Stop before anything is unpacked that is not what it claims, or so much larger than the file."""
    with archives.open_zip(file, MOST_COLUMNS, "arrays") as archive:
        if len(set(archive.namelist())) < len(archive.namelist()):
            raise ValueError("two arrays have one name")
        for member in archive.infolist():
            with archive.open(member) as content:
                version = np.lib.format.read_magic(content)
                read = "read_array_header_1_0" if version == (1, 0) else "read_array_header_2_0"
                shape, _, dtype = getattr(np.lib.format, read)(content)
            # Entries without content are as many to go through.
            claimed = math.prod(max(side, 1) for side in shape) * max(dtype.itemsize, 1)
            if claimed > member.file_size:
                raise ValueError(f"{member.filename} claims {claimed} bytes and has {member.file_size}")
        unpacked = sum(member.file_size for member in archive.infolist())
    if unpacked > max(MOST_UNCHECKED, MOST_RATIO * size):
        raise ValueError(f"it unpacks to {unpacked} bytes, more than {MOST_RATIO} times the file")


def _read_sidecar(path: Path) -> dict[str, Any]:
    beside = sidecar(path)
    if not beside.exists():
        return {}
    known = records.read_json(beside)
    listed = known.get("without_face", []) if isinstance(known, dict) else None
    if not isinstance(listed, list) or not all(isinstance(each, str) or _is_named(each) for each in listed):
        raise IntegrityError(f"{beside} does not list photos under without_face (docs/evaluating.md).")
    trained_on = known.get("trained_on", [])
    if not isinstance(trained_on, list) or not all(isinstance(person, str) for person in trained_on):
        raise IntegrityError(f"{beside} does not list people under trained_on (docs/evaluating.md).")
    rows = [{"sample_id": each} if isinstance(each, str) else each for each in listed]
    found = {row["sample_id"]: row.get("person") or None for row in rows}  # JSON has a null of its own
    plain = known.get("plain_names", False) is True
    return {"without_face": found, "trained_on": trained_on, "plain_names": plain}


def _is_named(entry: Any) -> bool:
    named = isinstance(entry, dict) and isinstance(entry.get("sample_id"), str)
    return named and isinstance(entry.get("person"), str | None)


def from_table(table: pd.DataFrame, source: str, known: Mapping[str, Any] | None = None) -> Embeddings:
    """Check a table of embeddings; rows with a null embedding are photos without a face.

    Its columns are sample_id and embedding, and perhaps person, group and model; messages call it `source`.
    Of what the file beside it says, `plain_names` makes only what is null or empty no name. Errors as
    `read_embeddings`.
    """
    for name in ("sample_id", "embedding"):
        if name not in table:
            shown = ", ".join(map(str, table.columns)) or "none"
            raise IntegrityError(f"{source} lacks the column {name}; its columns are {shown}.")
    known, grouped = known or {}, "group" in table
    plain = known.get("plain_names", False)
    texts = {name: _texts(table, name, source, plain) for name in ("sample_id", "person", "model", "group")}
    table = table.assign(**texts)
    _check_one_model(table, source)
    lost, found = table[table["embedding"].isna()], table[table["embedding"].notna()]
    if found.empty:
        raise DataError(f"{source} holds no embedding; embed some photos first.")
    return Embeddings(
        source,
        found["sample_id"].to_list(),
        _vectors(found, source),
        found["person"].to_list(),
        _groups(table, source) if grouped else {},
        known.get("without_face", {}) | dict(zip(lost["sample_id"], lost["person"], strict=True)),
        frozenset(known.get("trained_on", [])),
    )


def _check_one_model(table: pd.DataFrame, source: str) -> None:
    if table["sample_id"].isna().any():
        raise IntegrityError(f"{source} has a row without a sample_id; name every photo.")
    if (twice := table["sample_id"].duplicated()).any():
        name = table.loc[twice, "sample_id"].iloc[0]
        raise IntegrityError(f"{source} holds {name} twice; keep one row per photo.")
    models = sorted(table["model"].dropna().unique())
    if len(models) > 1:
        raise IntegrityError(
            f"{source} mixes embeddings of {len(models)} models ({', '.join(models[:3])}), which cannot be "
            "compared; write a file for each."
        )
    if "part" in table and table["part"].nunique() > 1:
        raise IntegrityError(
            f"{source} holds {table['part'].nunique()} parts, each embedded by a network of its own, which "
            "cannot be compared; keep one part."
        )


def _texts(table: pd.DataFrame, name: str, source: str, plain: bool) -> pd.Series:
    """Return a column as text, None where it is empty or not there, or unless `plain` one of `_NOBODY`."""
    values = table[name] if name in table else [None] * len(table)
    try:
        texts = [_text(each) for each in values]
    except (TypeError, UnicodeDecodeError) as error:
        raise IntegrityError(f"{source}: {name} holds {error} where text is needed.") from error
    nobody = ("",) if plain else _NOBODY
    if name == "person" and (written := [each for each in texts if each and each in nobody]):
        say(
            "evaluate",
            f"{len(written)} rows of {source} name nobody: they say {', '.join(sorted(set(written)))}; where "
            f"that is a name, set plain_names in {source}.json (docs/evaluating.md)",
        )
    return pd.Series([None if each in nobody else each for each in texts], table.index, dtype=object)


def _text(value: Any) -> str | None:
    """Return the text that stands for a value whatever file it is from: 7 for 7.0, as beside an empty one."""
    if pd.api.types.is_list_like(value) or isinstance(value, np.void):
        raise TypeError(f"a {type(value).__name__}")
    if isinstance(value, bytes):
        value = value.decode()
    if isinstance(value, float | np.floating) and float(value).is_integer():
        value = int(value)
    return None if pd.isna(value) else str(value)


def _groups(table: pd.DataFrame, source: str) -> dict[str, str]:
    rows = table[["person", "group"]].dropna()
    if rows.empty:
        raise DataError(f"{source} has a column group that is empty; fill it in, or leave it out.")
    several = rows.drop_duplicates().groupby("person").size()
    if (several > 1).any():
        raise IntegrityError(f"{source} puts {several.idxmax()} into {several.max()} groups; choose one.")
    return dict(zip(rows["person"], rows["group"], strict=True))


def _vectors(table: pd.DataFrame, source: str) -> NDArray[np.floating]:
    """Return the embeddings (N, D) of a table, float32 or float64."""
    names = table["sample_id"].to_list()
    try:
        rows = [np.asarray(each) for each in table["embedding"]]
        if any(each.dtype.kind not in "biufO" for each in rows):  # complex numbers would lose their half
            raise TypeError("neither whole nor real numbers")
        rows = [each if each.dtype in (np.float32, np.float64) else each.astype(np.float64) for each in rows]
    except (TypeError, ValueError) as error:
        raise IntegrityError(f"{source} holds an embedding that is not a list of numbers.") from error
    shapes = {each.shape: name for each, name in zip(rows, names, strict=True)}
    if any(len(shape) != 1 for shape in shapes):
        raise IntegrityError(f"{source} holds embeddings that are not lists of numbers.")
    if len(shapes) > 1:
        (one, first), (other, second) = list(shapes.items())[:2]
        raise IntegrityError(
            f"{source} mixes embeddings of {one[0]} numbers ({first}) and of {other[0]} ({second}), as of "
            "two models; write a file for each."
        )
    vectors = np.stack(rows)
    with np.errstate(over="ignore"):
        length = np.linalg.norm(vectors.astype(np.float64), axis=1)
    bad = ~np.isfinite(length) | (length == 0)
    if bad.any():
        raise IntegrityError(
            f"{source} holds an embedding that is zero or not finite ({names[int(np.argmax(bad))]}); where "
            "no face was found, leave it null."
        )
    return vectors


def read_pairs(path: Path) -> pd.DataFrame:
    """Read a list of pairs, as `data.sources.listing` describes it: first, second, genuine and fold.

    Raises:
        IntegrityError: a column is missing, or a line cannot be understood.
        DataError: there is no pair.
    """
    pairs = listing.read_pairs(path)
    if not pairs:
        raise DataError(f"{path} holds no pair; list some.")
    rows = [(listing.as_text(each.first), listing.as_text(each.second), each.same) for each in pairs]
    fold = pd.factorize(np.array([each.fold for each in pairs]), sort=True)[0].astype(np.int64)
    return pd.DataFrame(rows, columns=["first", "second", "genuine"]).assign(fold=fold)
