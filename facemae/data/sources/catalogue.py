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
    return [_entry(name, raw) for name in [*VARIANTS, *SOURCES]]


def _entry(name: str, raw: Path) -> Entry:
    wanted = find(name, SET_LABELLED, raw)
    source = wanted.source
    return {
        "name": name,
        "title": source.title,
        "people": source.published_people,
        "images": source.published_images,
        "licence": source.licence,
        "source": source.address,
        "credit": source.credit,
        "state": availability(wanted, raw),
        "variant": source.name,
        "folder": str(raw / source.folder) if source.folder else None,
        "how_to_get": source.how_to_get,
        "align": source.align,
        "pairs": source.pairs is not None,
        "attributes": {key: asdict(each) for key, each in source.attributes.items()},
    }


def as_table(entries: list[Entry]) -> str:
    """Return the list as text, and below it what to do for those that are missing."""
    lines = [f"{'name':<18}{'people':>9}{'images':>12}  {'state':<20} title"]
    for each in entries:
        counts = [f"{each[key]:,}" if each[key] is not None else "-" for key in ("people", "images")]
        lines.append(f"{each['name']:<18}{counts[0]:>9}{counts[1]:>12}  {each['state']:<20} {each['title']}")
    lines += ["", "Licence and source of each, and what to fetch where there is a form: --json"]
    return "\n".join(lines)


def as_markdown(entries: list[Entry]) -> str:
    """Return the list as the README shows it, without what differs between machines."""
    lines = [
        "| name | data set | people | images | licence | how it comes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for each in entries:
        if each["name"] in VARIANTS:
            continue
        people, images = (f"{each[key]:,}" if each[key] else "" for key in ("people", "images"))
        title = f"[{each['title']}]({each['source']})"
        lines.append(
            f"| `{each['name']}` | {title} | {people} | {images} | {each['licence']} | {_way(each)} |"
        )
    return "\n".join(lines)


def _way(entry: Entry) -> str:
    source = SOURCES[entry["name"]]
    if not source.images:
        return "installed"
    if any(remote.filename.startswith(source.images) for remote in source.downloads):
        return "downloaded"
    return f"by hand, into `{source.folder}/`"
