"""What pydantic found wrong, as one sentence that begins with the key."""

from __future__ import annotations

import difflib
import json
import re
from typing import Any, get_args

from pydantic import ValidationError

from facemae.config.earlier import REMOVED, RENAMED
from facemae.config.sections import Section


def sentence(error: ValidationError, section: type[Section], where: str) -> str:
    """Return the first problem of a section at the key `where`, and how many there are besides."""
    problems = error.errors()
    first = problems[0]
    path = ".".join([part for part in (where, *_keys(first["loc"])) if part])
    others = len({_keys(each["loc"]) for each in problems}) - 1
    more = f" ({others} more after this one)" if others else ""
    return f"{path or 'the configuration'}: {_reason(first, section)}{more}."


def _keys(location: tuple[Any, ...]) -> tuple[str, ...]:
    """Return the keys on the way to a problem, without the names that pydantic gives to kinds of a value."""
    return tuple(part for part in map(str, location) if not re.search(r"^\[key\]$|^literal\[|-float$", part))


def _reason(problem: Any, section: type[Section]) -> str:
    if problem["type"] == "extra_forbidden":
        new = RENAMED.get(str(problem["loc"][-1]))
        if new:
            return f"this key is now called {new}; rename it"
        if problem["loc"][-1] in REMOVED:
            return "this key is gone, and with it what it set; take it out"
        known = _keys_at(section, problem["loc"][:-1])
        close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return "unknown key, " + (f"did you mean {close[0]}" if close else f"known are {', '.join(known)}")
    if problem["type"] == "missing":
        return "this key is missing; copy it from config/defaults.yaml"
    message = problem["msg"].removeprefix("Value error, ")
    value = problem["input"]
    if problem["type"] == "value_error" or isinstance(value, dict):
        return str(message)
    is_number = isinstance(value, str) and re.fullmatch(r"[-+]?[\d.]+(e[-+]?\d+)?", value, re.IGNORECASE)
    hint = ", write it as a plain number such as 0.001" if is_number else ""
    return f"{message[0].lower()}{message[1:]}, got {json.dumps(value)}{hint}"


def _keys_at(section: type[Section], location: tuple[Any, ...]) -> list[str]:
    current: Any = section
    for part in location:
        annotation = current.model_fields[part].annotation
        options = [annotation, *get_args(annotation)]
        current = next(o for o in options if isinstance(o, type) and issubclass(o, Section))
    return list(current.model_fields)
