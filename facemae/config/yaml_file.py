"""YAML files of settings, read so that whatever is in them ends in values or in one sentence."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from facemae.core.errors import UsageError
from facemae.core.text import escaped

STDIN = Path("-")
MAX_CHARACTERS, MAX_VALUES, MAX_DEPTH = 1_000_000, 20_000, 20
START = "start from a copy of config.yaml"


class _Strict(yaml.SafeLoader):
    """YAML's safe loader, which refuses what YAML would turn into something else in silence.

    A key that is given twice would be the last, 0100 be 64 and 1:30 be 90; merges of merges of merges would
    take all memory.
    """

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > MAX_VALUES:
            raise _refused(f"it merges more than {MAX_VALUES:,} values", node)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        counts = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        twice = [key for key, count in counts.items() if count > 1]
        if twice:
            raise _refused(f"the key {twice[0]} is given twice", node)
        return super().construct_mapping(node, deep)


def _refused(problem: str, node: yaml.Node) -> yaml.constructor.ConstructorError:
    return yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _number(loader: _Strict, node: yaml.ScalarNode) -> Any:
    if re.search(r"^[-+]?0[0-9_]|:", node.value):
        raise _refused(f"YAML takes {node.value} for another number; write it without 0 before it or :", node)
    return yaml.SafeLoader.yaml_constructors[node.tag](loader, node)


for _tag in ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float"):
    _Strict.add_constructor(_tag, _number)


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the keys of a YAML file, "-" for standard input; a UsageError for what cannot be settings."""
    try:
        content = _Strict(_text(path)).get_single_data()
    except FileNotFoundError as error:
        raise UsageError(f"{path}: there is no such file; give another one with --config.") from error
    except RecursionError as error:
        raise UsageError(f"{path}: the values are nested too deeply; {START}.") from error
    # YAML's numbers and dates are Python's, which refuses numbers of thousands of digits and a 31 February.
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(f"{path}: this is not a readable YAML file ({reason}).") from error
    if not isinstance(content, dict):
        raise UsageError(f"{path}: the file holds no keys; {START}.")
    check_plain(content, f"{path}: ")
    return content


def _text(path: Path) -> str:
    with sys.stdin if path == STDIN else open(path, encoding="utf-8") as file:
        text = file.read(MAX_CHARACTERS + 1)
    if len(text) > MAX_CHARACTERS:
        raise UsageError(f"{path}: it has more than {MAX_CHARACTERS:,} characters; {START}.")
    return text


def check_plain(content: Mapping[Any, Any], prefix: str = "") -> None:
    """Stop unless keys are texts, and values plain, few, not nested deeply and without control characters.

    A value that refers to itself is nested without end; texts are the names of files and folders, where no
    system takes a NUL. YAML takes `on:` and `no:` for true and false.
    """
    for count, (keys, value) in enumerate(_values(content)):
        where = f"{prefix}{'.'.join(keys[:MAX_DEPTH])}"
        if len(keys) > MAX_DEPTH:
            raise UsageError(f"{where}: it is nested deeper than {MAX_DEPTH} levels, or in itself; {START}.")
        if count > MAX_VALUES:
            raise UsageError(f"{where}: these are more than {MAX_VALUES:,} values; {START}.")
        if odd := [key for key in value if not isinstance(key, str)] if isinstance(value, Mapping) else []:
            raise UsageError(
                f"{where.rstrip(': ')}: YAML takes a key for {odd[0]}, which is no text; put it in quotes."
            )
        if not isinstance(value, str | int | float | list | Mapping | None):
            raise UsageError(f"{where}: a {type(value).__name__} is no setting; put it in quotes.")
        if isinstance(value, str) and escaped(value) != value:
            raise UsageError(f"{where}: {value!r} holds a control character; write it without.")


def _values(content: Any, keys: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    yield keys, content
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(content, Mapping):
        inside = content.items()
    elif isinstance(content, list):
        inside = enumerate(content)
    for key, value in inside:
        yield from _values(value, (*keys, str(key)))
