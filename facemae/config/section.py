"""A group of settings: what every section of `config.yaml` keeps to."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def expand_home(path: str) -> str:
    """Return a path, or name:path, with a leading `~` as the home folder, which no shell expands in YAML."""
    name, colon, rest = path.partition(":")
    if colon and rest.startswith("~"):
        return f"{name}:{Path(rest).expanduser()}"
    return str(Path(path).expanduser()) if path.startswith("~") else path


def distinct(values: list[Any]) -> list[Any]:
    """Return a list of which no two values are the same; a ValueError otherwise."""
    if len(set(values)) != len(values):
        raise ValueError(f"{values} names one twice; each must be different")
    return values


T = TypeVar("T")
Distinct = Annotated[list[T], AfterValidator(distinct)]
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, le=1)]
OpenFraction = Annotated[float, Field(gt=0, lt=1)]
PathText = Annotated[str, Field(min_length=1), AfterValidator(expand_home)]


class Section(BaseModel):
    """A frozen group of keys that refuses unknown ones, wrong types, NaN and infinity."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
