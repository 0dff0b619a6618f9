"""The README's numbers: a block of Markdown made from a results folder, put between two markers."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pandas as pd

from facemae.core import files, layout, records
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.data.sources.catalogue import as_markdown, catalogue
from facemae.report.phrases import metric_label, primary_first, scalars

BEGIN, END = "<!-- results: made by `make readme`, do not edit -->", "<!-- /results -->"
DATA_BEGIN, DATA_END = "<!-- data sets: made by `make readme`, do not edit -->", "<!-- /data sets -->"
SHOWN = ("roc_auc", "eer", "accuracy", "rank1")


def write_readme(readme: Path, root: Path) -> None:
    """Replace the README's blocks: of results by one made from the folder `root`, and of data sets.

    Raises:
        UsageError: the README has no such block, or the folder no results.
    """
    text = readme.read_text(encoding="utf-8")
    text = _replaced(text, BEGIN, END, results_block(root), readme)
    text = _replaced(text, DATA_BEGIN, DATA_END, data_block(), readme)
    files.atomic_write(readme, text.encode())


def _replaced(text: str, begin: str, end: str, block: str, readme: Path) -> str:
    if begin not in text or end not in text:
        raise UsageError(f"{readme} has no lines {begin} and {end} to write between.")
    before, rest = text.split(begin, 1)
    return f"{before}{begin}\n\n{block}\n\n{end}{rest.split(end, 1)[1]}"


def data_block() -> str:
    """Return the known data sets as Markdown, the same on every machine."""
    return as_markdown(catalogue(Path("data/raw")))


def results_block(root: Path) -> str:
    """Return the headline, the leaderboard and the verdicts of a results folder as Markdown.

    Raises:
        UsageError: the folder holds no verdict.
    """
    paths = Results(root)
    if not paths.verdict.exists():
        raise UsageError(f"There is no verdict in {root} yet; run: snakemake --cores all")
    words = records.read_json(paths.verdict)
    leaderboard = scalars(records.read_table(paths.leaderboard, layout.LEADERBOARD_COLUMNS))
    verdicts = records.read_table(paths.verdicts)
    runs = set(leaderboard.loc[leaderboard["kind"] == "run", "run"])  # controls: the sentences say enough
    verdicts = verdicts[(verdicts["metric"] == words["metric"]) & verdicts["run_b"].isin(runs)]
    verdicts = primary_first(verdicts)
    parts = [
        f"> **{words['headline']}**",
        *[f"> {sentence}" for sentence in words["sentences"]],
        f"> Trained on {' and '.join(words['trained_on'])}.",
    ]
    return (
        "\n>\n".join(parts)
        + "\n\n"
        + _leaderboard(leaderboard)
        + "\n\n"
        + _verdicts(verdicts, words["metric"])
    )


def _leaderboard(table: pd.DataFrame) -> str:
    rows = []
    for run, part in table.groupby("run", sort=False):
        values = {row.metric: row for row in part.itertuples()}
        first = part.iloc[0]
        cells = [_interval(values.get(metric)) for metric in SHOWN]
        seconds = f"{first['seconds_pretrain']:.0f} + {first['seconds_finetune']:.0f}"
        rows.append([f"`{run}`", *cells, seconds if first["kind"] == "run" else "none"])
    head = ["run", *[metric_label(metric) for metric in SHOWN], "seconds (pretraining + fine-tuning)"]
    return _markdown(head, rows)


def _verdicts(table: pd.DataFrame, metric: str) -> str:
    rows = [
        [
            f"`{row.run_a}` against `{row.run_b}`",
            f"{row.difference:+.3f} ({row.ci_low:+.3f} to {row.ci_high:+.3f})",
            f"{row.p_adjusted:.3f}",
            f"**{row.verdict}**{f': {row.note!s}' if row.note else ''}",
            str(row.family),
        ]
        for row in table.itertuples()
    ]
    head = ["pair", f"difference in {metric_label(metric)}", "adjusted p", "verdict", "family"]
    return _markdown(head, rows)


def _interval(row: Any) -> str:
    if row is None or pd.isna(row.value):
        return "not measured"
    return f"{row.value:.3f} ({row.ci_low:.3f} to {row.ci_high:.3f})"


def _markdown(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a results folder's verdict into the README.")
    parser.add_argument("--file", type=Path, required=True, help="README to write into")
    parser.add_argument("--results", type=Path, required=True, help="folder of results to show")
    asked = parser.parse_args()
    write_readme(asked.file, asked.results)
