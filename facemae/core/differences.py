"""Where two trees of plain values differ, such as the settings of two runs."""

from __future__ import annotations

import json
from typing import Any, Final

ABSENT: Final = "not set"


def differences(before: Any, after: Any, where: str = "") -> dict[str, tuple[Any, Any]]:
    """Return both values at each dotted key at which they differ, `ABSENT` for a key that is not there.

    >>> differences({"mask": {"ratio": 0.75}, "steps": 400}, {"mask": {"ratio": 0.5}})
    {'mask.ratio': (0.75, 0.5), 'steps': (400, 'not set')}
    """
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return {
            path: values
            for key in keys
            for path, values in differences(
                before.get(key, ABSENT), after.get(key, ABSENT), f"{where}.{key}".lstrip(".")
            ).items()
        }
    return {} if json.dumps(before) == json.dumps(after) else {where: (before, after)}
