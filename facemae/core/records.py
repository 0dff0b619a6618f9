"""Reading and writing JSON, JSON lines, Parquet tables and a stage's metrics."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import io
import json
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypeVar, cast

import pandas as pd
from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # which pydantic asks for before Python 3.12

from facemae import __version__
from facemae.core import files
from facemae.core.errors import IntegrityError
from facemae.core.layout import METRICS

SCHEMA_VERSION = 2  # of metrics.json: it names the tables beside it, and the precision of each training
MOST_JSON = 2**28  # bytes of a file, which a million rejected photos stay below
SPENT = ("seconds", "precision", "images_seen", "energy_joules")  # what it says of each training so far

T = TypeVar("T")
Number = Annotated[float, Field(ge=-1e12, le=1e12)]  # also not finite ones are none
Count = Annotated[int, Field(ge=0, lt=2**53)]


class Entry(TypedDict):
    """One value of `metrics.json` (`metric`)."""

    protocol: str
    name: str
    condition: str
    amount: Number | None
    value: Number | None
    ci_low: Number | None
    ci_high: Number | None
    n: Count
    note: str
    people: NotRequired[Count]


class Health(TypedDict):
    """Whether a training has learnt, and if not, why."""

    learnt: bool
    reason: NotRequired[str]


class Metrics(TypedDict):
    """The content of `metrics.json`: what every stage writes, beside more."""

    __pydantic_config__ = ConfigDict(extra="allow", strict=True)  # type: ignore[misc]
    seed: Count
    device: str
    processor: str
    seconds: dict[str, Number]
    precision: dict[str, str]
    metrics: list[Entry]
    tables: dict[str, str]


class Measured(Metrics):
    """That of a stage that evaluates."""

    images_seen: NotRequired[dict[str, Number | None]]
    energy_joules: NotRequired[dict[str, Number | None]]
    health: NotRequired[list[Health]]
    people: NotRequired[Count]
    evaluated: NotRequired[str]
    dataset: NotRequired[str]
    setting: NotRequired[str]


def digest(value: Any) -> str:
    """Return a short hash that identifies a JSON value, such as a resolved configuration."""
    return files.sha256(files.dump_json(value))[:16]


def read_json(path: Path, most: int = MOST_JSON) -> Any:
    """Return the JSON value in `path`; an IntegrityError where it is damaged, or larger than `most` bytes."""
    try:
        if path.stat().st_size > most:
            raise ValueError(f"{path.stat().st_size:,} bytes, of {most:,} at most")
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{path} is damaged ({error}); make it again.") from error


def read_record(path: Path, kind: type[T]) -> T:
    """Return the JSON value in `path` as a type that pydantic knows; an IntegrityError where it is none."""
    return cast(T, _checked(path, read_json(path), kind))


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    """Return what checks a type; making one takes far longer than the check."""
    return TypeAdapter(kind)


def _checked(path: Path, content: Any, kind: Any) -> Any:
    try:
        return _adapter(kind).validate_python(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "as a whole"
        raise IntegrityError(
            f"{path} is not as this version writes it ({where}: {first['msg']}); make it again."
        ) from error


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a `log.jsonl`, as `iterate_log` yields them."""
    return list(iterate_log(path))


def iterate_log(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the lines of a `.jsonl` file, of which only the last one may be damaged: torn by a kill."""
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                record = json.loads(line.decode())
            except (ValueError, RecursionError) as error:
                if line.endswith(b"\n") and file.read(1):  # else it is being written
                    raise IntegrityError(f"{path} is damaged in line {number}; make it again.") from error
                return
            yield record


def write_table(path: Path, table: pd.DataFrame, columns: list[str]) -> None:
    """Write `columns` of `table` as Parquet, atomically."""
    buffer = io.BytesIO()
    table[columns].to_parquet(buffer, index=False)
    files.atomic_write(path, buffer.getvalue())


def read_table(path: Path, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a Parquet table; an IntegrityError where it is damaged or lacks a column."""
    with open(path, "rb") as file:
        try:
            return pd.read_parquet(file, columns=columns)
        except Exception as error:  # pyarrow has no common base class for damaged files
            reason = " ".join(str(error).split())
            raise IntegrityError(
                f"{path} is damaged or no table of ours ({reason}); make it again."
            ) from error


def csv_text(table: pd.DataFrame) -> bytes:
    """Return a table as CSV; a cell that a spreadsheet would take for a formula is quoted as text."""
    texts = table.select_dtypes(include=["object", "string"]).columns
    plain = table.assign(**{name: table[name].map(_no_formula) for name in texts})
    return plain.to_csv(index=False).encode()


def _no_formula(cell: Any) -> Any:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(tuple("=+-@\t\r\n")) else cell


def write_lines(path: Path, records: Iterable[Mapping[str, Any]]) -> None:
    """Write one JSON object per line, atomically."""
    lines = [json.dumps(record, ensure_ascii=True, allow_nan=False) for record in records]
    files.atomic_write(path, "".join(line + "\n" for line in lines).encode())


def metric(
    name: str,
    value: float | None,
    *,
    n: int,
    interval: tuple[float, float] | None = None,
    protocol: str = "training",
    condition: str = "",
    amount: float | None = None,
    note: str = "",
    people: int | None = None,
) -> dict[str, Any]:
    """Return one entry of `metrics.json`; a refused metric has no value and says why in `note`.

    One metric may be measured several times: under a `condition`, such as "sunglasses", of some `amount`.
    `people` says on how many it rests where these are others than those of the whole stage.
    """
    low, high = interval or (None, None)
    others = {} if people is None else {"people": people}
    return others | {
        "protocol": protocol, "name": name, "condition": condition, "amount": amount, "value": value,
        "ci_low": low, "ci_high": high, "n": n, "note": note,
    }  # fmt: skip


def column(name: str, condition: str = "", amount: float | None = None) -> str:
    """Return the column of a table of resamples that holds a metric: its name, and its circumstances.

    >>> column("accuracy", "sunglasses", 0.3)
    'accuracy@sunglasses=0.3'
    """
    where = f"@{condition}" if condition else ""
    return name + where + ("" if amount is None else f"={amount:g}")


def write_metrics(
    folder: Path,
    metrics: list[dict[str, Any]],
    *,
    seed: int,
    device: str,
    seconds: Mapping[str, float],
    precision: Mapping[str, str] | None = None,
    tables: Sequence[str] = (),
    **more: Any,
) -> None:
    """Write a stage's `metrics.json`, last of its files, with entries made by `metric`.

    `seconds`, of a processor or GPU, and `precision` are those of each training so far; `tables` names what
    else in the folder belongs to it (`read_measured`), and `more` are further plain values.
    """
    content = {
        "schema_version": SCHEMA_VERSION,
        "seed": seed,
        "device": device,
        "processor": processor(),
        "seconds": dict(seconds),
        "precision": dict(precision or {}),
        "commit": commit(),
        "versions": versions(),
        "metrics": metrics,
        "tables": {name: files.sha256_of(folder / name) for name in tables},
        **more,
    }
    files.write_json(folder / METRICS, content)


def read_metrics(folder: Path, kind: type = Metrics) -> dict[str, Any]:
    """Return a `metrics.json`; an IntegrityError where it is damaged or of another kind or version."""
    path = folder / METRICS
    content = read_json(path)
    version = content.get("schema_version") if isinstance(content, dict) else None
    if version != SCHEMA_VERSION:
        raise IntegrityError(
            f"{path} was written by another version of FaceMAE (schema {version}, this one reads "
            f"{SCHEMA_VERSION}); run the workflow again, into an empty folder."
        )
    return dict(_checked(path, content, kind))


def read_measured(folder: Path, name: str, columns: list[str] | None = None) -> pd.DataFrame:
    """Return a table that a stage's `metrics.json` names; an IntegrityError where it is of another run."""
    if files.sha256_of(folder / name) != read_metrics(folder)["tables"].get(name):
        raise IntegrityError(
            f"{folder / name} is damaged, or of another run than the {METRICS} beside it; make both again."
        )
    return read_table(folder / name, columns)


@functools.cache
def processor() -> str:
    """Return the name of this machine's processor, or of its architecture."""
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


@functools.cache
def versions() -> dict[str, str]:
    """Return the versions that a number depends on."""
    names = ("torch", "timm", "numpy", "facenet-pytorch", "pytorch-metric-learning")
    found = {name: importlib.metadata.version(name) for name in names}
    return {"facemae": __version__, "python": platform.python_version()} | found


@functools.cache
def commit() -> str:
    """Return the commit of the code, with "+" when it was changed since, or "unknown"."""
    git = ["git", "-C", str(Path(__file__).parents[1])]
    try:
        head = subprocess.check_output([*git, "rev-parse", "HEAD"], text=True, stderr=subprocess.DEVNULL)
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "."])
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return head.strip() + ("+" if changed else "")
