"""The known data sets as a list for people and for programs."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from facemae.core.layout import SET_LABELLED
from facemae.data.sources import SOURCES, VARIANTS
from facemae.data.sources.locate import availability, find

Entry = dict[str, Any]


def catalogue(raw: Path) -> list[Entry]:
    """Return one entry per data set: facts about it, and its state on this machine."""
    chosen = {name: find(name, SET_LABELLED, raw) for name in [*VARIANTS, *SOURCES]}
    return [
        {
            "name": name,
            "title": wanted.source.title,
            "people": wanted.source.published_people,
            "images": wanted.source.published_images,
            "licence": wanted.source.licence,
            "source": wanted.source.address,
            "credit": wanted.source.credit,
            "state": availability(wanted, raw),
            "variant": wanted.source.name,
            "folder": str(raw / wanted.source.folder) if wanted.source.folder else None,
            "how_to_get": wanted.source.how_to_get,
            "align": wanted.source.align,
            "pairs": wanted.source.pairs is not None,
            "attributes": {key: asdict(each) for key, each in wanted.source.attributes.items()},
        }
        for name, wanted in chosen.items()
    ]


def as_table(entries: list[Entry]) -> str:
    """Return the list as text, and below it what to do for those that are missing."""
    lines = [f"{'name':<18}{'people':>9}{'images':>12}  {'state':<20} title"]
    for each in entries:
        counts = [f"{each[key]:,}" if each[key] is not None else "-" for key in ("people", "images")]
        lines.append(f"{each['name']:<18}{counts[0]:>9}{counts[1]:>12}  {each['state']:<20} {each['title']}")
    lines += ["", "Licence and source of each, and what to fetch where there is a form: --json"]
    return "\n".join(lines)
