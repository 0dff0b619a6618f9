"""What keys were called before: such a run is not started, but its results are shown and its models used."""

from __future__ import annotations

from typing import Any

RENAMED = {
    "accumulate": "grad_accumulation",
    "at_least": "min_per_person",
    "clip_norm": "max_grad_norm",
    "crop_least": "crop_min",
    "evaluation_share": "evaluation_fraction",
    "least_area": "min_area",
    "least_aspect": "min_aspect",
    "least_led": "min_led",
    "margin_warmup_share": "margin_warmup_fraction",
    "most_led": "max_led",
    "share": "fraction",
    "shares": "fractions",
    "warmup_share": "warmup_fraction",
}  # keys of earlier versions, and what they are called now
BEFORE = {"whiten": False}  # keys whose default is not what earlier versions did without them
REMOVED = ("adversarial", "people_per_step")  # keys of earlier versions whose feature is gone


def renamed(content: Any, changed: list[str] | None = None) -> Any:
    """Return settings under today's keys, without those that are gone; `changed` takes up the old keys."""
    if not isinstance(content, dict):
        return content
    found = {}
    for key, value in content.items():
        if changed is not None and (key in RENAMED or key in REMOVED):
            changed.append(key)
        if key == "runs" and isinstance(value, dict):  # whose keys are names
            found[key] = {name: renamed(each, changed) for name, each in value.items()}
        elif key not in REMOVED:
            found[RENAMED.get(key, key)] = renamed(value, changed)
    return found
