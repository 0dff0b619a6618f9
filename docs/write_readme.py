"""The README's answer, made from the pages in docs/results, and the list of data sets in docs/datasets.md."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from facemae.core import files, records
from facemae.core.errors import UsageError
from facemae.data.sources import SOURCES
from facemae.data.sources.locate import archive
from facemae.evaluation.records import higher_is_better, metric_label
from facemae.report.headline import MEANT
from facemae.report.phrases import compared, difference, with_interval

BEGIN, END = "<!-- made by `make readme`, do not edit -->", "<!-- /made -->"
ANSWERS = ("lfw-small", "lfw-study", "orl")  # pages whose verdict the README shows, most labels first


def write_between(file: Path, block: str) -> None:
    """Replace what stands between the markers of a Markdown file.

    Raises:
        UsageError: the file has no such markers.
    """
    text = file.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise UsageError(f"{file} has no lines {BEGIN} and {END} to write between.")
    before, rest = text.split(BEGIN, 1)
    files.atomic_write(file, f"{before}{BEGIN}\n\n{block}\n\n{END}{rest.split(END, 1)[1]}".encode())


def data_sets_block() -> str:
    """Return the known data sets as Markdown, the same on every machine."""
    lines = [
        "| name | data set | people | images | licence | how it comes |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for name, source in SOURCES.items():
        wanted = ", ".join(f"`{source.folder}/{each}`" for each in (source.images, *source.sides))
        way = "downloaded" if archive(source) else f"by hand: {wanted}"
        counts = (f"{each:,}" if each else "" for each in (source.published_people, source.published_images))
        cells = (
            f"`{name}`",
            f"[{source.title}]({source.address})",
            *counts,
            source.licence,
            way if source.images else "installed",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def answer_block(pages: Path) -> str:
    """Return the verdict of each page in `ANSWERS` as Markdown, and the runs of the first.

    Args:
        pages: The folder of the pages, with a JSON file each.
    """
    first, *others = (records.read_json(pages / f"{name}.json") for name in ANSWERS)
    parts = [_headline(first), _table(first), f"{_measured(first)} {MEANT[first['primary']]}"]
    return "\n\n".join([*parts, *(part for page in others for part in (_headline(page), _measured(page)))])


def _headline(page: dict[str, Any]) -> str:
    return f"> **{page['headline']}**"


def _table(page: dict[str, Any]) -> str:
    """Return a line per run: its value, against the control that decides, and its training's time."""
    pairs = [(run["run"], page["control"]) for run in page["runs"]]
    verdicts = {
        row["run_a"]: row for row in compared(pd.DataFrame(page["verdicts"]), page["primary"], pairs) if row
    }
    values = {
        row["run"]: row
        for row in page["numbers"]
        if row["metric"] == page["primary"] and row["protocol"] == "verification" and not row["condition"]
    }
    seconds = {run["run"]: _seconds(run) for run in page["runs"]}
    rows = [
        f"| `{name}` | {_interval(values.get(name))} | {_difference(verdicts.get(name))} | {seconds[name]} |"
        for name in _shown(page["runs"], values, page["primary"])
    ]
    metric = metric_label(page["primary"])
    head = f"| run | {metric} (95% interval) | against `{page['control']}` | seconds a training |"
    return "\n".join([head, "| --- | --- | --- | --- |", *rows])


def _measured(page: dict[str, Any]) -> str:
    """Return on whom and how the runs of a page were measured."""
    facts = page["facts"]
    trainings = len(facts["Seeds"].split(","))
    return (
        f"{page['name']}: {facts['People evaluated on']} people kept out of training, {trainings} "
        f"training{'s' * (trainings > 1)} of each run, on {facts['Device']}. "
        f"[Every number](docs/results/{page['name']}.md)."
    )


def _shown(runs: list[dict[str, Any]], values: dict[str, dict[str, Any]], metric: str) -> list[str]:
    """Return the names of the runs, and of the controls the best one."""
    controls = {run["run"] for run in runs if run["kind"] == "baseline"}
    measured = {name: row["value"] for name, row in values.items() if row["value"] is not None}
    best = max if higher_is_better(metric) else min
    kept = best(controls & measured.keys(), key=measured.__getitem__, default=None)
    return [run["run"] for run in runs if run["run"] not in controls - {kept}]


def _interval(row: dict[str, Any] | None) -> str:
    return "not measured" if row is None or row["value"] is None else with_interval(row)


def _difference(row: dict[str, Any] | None) -> str:
    if row is None:
        return ""
    aside = " (exploratory)" * (row["family"] == "exploratory")
    return f"{difference(row)}, **{row['verdict']}**{aside}"


def _seconds(run: dict[str, Any]) -> str:
    """Return how long one training of a run takes; nothing for a control, which trains no network."""
    return f"{run['seconds_pretrain'] + run['seconds_finetune']:.0f}" if run["kind"] == "run" else ""


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write the README's answer and the list of data sets.")
    parser.add_argument("--readme", type=Path, default=Path("README.md"))
    parser.add_argument("--datasets", type=Path, default=Path("docs/datasets.md"))
    parser.add_argument("--pages", type=Path, default=Path("docs/results"))
    asked = parser.parse_args()
    write_between(asked.readme, answer_block(asked.pages))
    write_between(asked.datasets, data_sets_block())
