"""How large the package is: `python -m tests.size [--json]`.

Counts the lines of Python by floor, and names the longest files and functions. tests/test_size.py holds the
limits.
"""

from __future__ import annotations

import argparse
import ast
import json
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "facemae"
MAX_FILE, MAX_FUNCTION = 400, 45  # lines
SHOWN = 10


def file_lengths(package: Path = PACKAGE) -> dict[str, int]:
    """Return the lines of every Python file, by its path from the package's parent."""
    return {
        path.relative_to(package.parent).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sorted(package.rglob("*.py"))
    }


def function_lengths(package: Path = PACKAGE) -> dict[str, int]:
    """Return the lines of every function, from its `def` on, by "path:name"."""
    found: dict[str, int] = {}
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package.parent).as_posix()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                label = f"{name}:{node.name}"
                found[label] = max(found.get(label, 0), (node.end_lineno or node.lineno) - node.lineno + 1)
    return found


def by_floor(files: dict[str, int]) -> dict[str, int]:
    """Return the lines of each package right below the top; files at the top count as "top"."""
    floors: Counter[str] = Counter()
    for name, lines in files.items():
        parts = name.split("/")
        floors[parts[1] if len(parts) > 2 else "top"] += lines
    return dict(floors.most_common())


def _longest(lengths: dict[str, int]) -> dict[str, int]:
    return dict(sorted(lengths.items(), key=lambda each: (-each[1], each[0]))[:SHOWN])


def main() -> None:
    """Print the size as text or as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.size", description="The size of the package.")
    parser.add_argument("--json", action="store_true", help="print JSON")
    asked = parser.parse_args()
    files, functions = file_lengths(), function_lengths()
    size = {
        "lines": sum(files.values()),
        "files": len(files),
        "functions": len(functions),
        "floors": by_floor(files),
        "longest_files": _longest(files),
        "longest_functions": _longest(functions),
    }
    if asked.json:
        print(json.dumps(size, indent=2))
        return
    print(f"{size['lines']:,} lines in {size['files']} files, {size['functions']:,} functions")
    for title in ("floors", "longest_files", "longest_functions"):
        print(f"\n{title.replace('_', ' ')}")
        for name, lines in size[title].items():  # type: ignore[union-attr]
            print(f"{lines:7,}  {name}")


if __name__ == "__main__":
    main()
