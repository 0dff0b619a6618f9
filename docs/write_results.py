"""A results folder as a page of documentation: tables and pictures, and the numbers behind them as JSON.

The page is made from the JSON alone (`as_markdown`), so that a test can tell whether somebody has changed one
without the other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from facemae import config
from facemae.core import files, layout
from facemae.core.errors import UsageError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.evaluation.records import metric_label
from facemae.report import chart_spec, conditions, curves, faces, static_charts, tables
from facemae.report.phrases import (
    DIGITS,
    MAIN_PROTOCOLS,
    PROTOCOLS,
    difference,
    origin,
    origins,
    rows_of,
    scalars,
    scratch_runs,
    turned,
    with_interval,
)

MADE = "<!-- made by `make readme`, do not edit -->"
MANY_PANELS = 2  # of a chart; the tables of more are folded away
_RUN = (
    "run", "kind", "strategy", "seeds", "people", "seconds_pretrain", "seconds_finetune", "images_pretrain",
    "images_finetune", "joules",
)  # fmt: skip
_ROW = ("run", "protocol", "metric", "condition", "value", "ci_low", "ci_high", "note")
_VERDICT = (
    "metric", "family", "run_a", "run_b", "difference", "ci_low", "ci_high", "p_adjusted", "verdict",
    "detectable", "note", "seconds_difference", "budget_note",
)  # fmt: skip
# Metrics of recognition that the page shows; the JSON file has all.
_SHOWN = ("roc_auc", "eer", "accuracy", "rank1", "tar_at_far", "tpir_at_fpir")


def document(root: Path, out: Path) -> None:
    """Write `<name>.md`, `<name>.json` and its pictures into `out`; the name is the folder's.

    Args:
        root: A results folder; of its name a leading "results-" is left out, and "results" alone stands for
            its data set.
        out: The folder to write into.

    Raises:
        UsageError: there is no verdict in `root`.
        IntegrityError: a file of the folder is damaged.
    """
    paths = Results(root)
    if not paths.verdict.exists():
        raise UsageError(f"There is no verdict in {root} yet; run: snakemake --cores all")
    leaderboard, setup = tables.leaderboard(paths), tables.experiment(paths)
    folder = root.resolve().name
    name = setup.dataset if folder == "results" else folder.removeprefix("results-")
    pictures = _pictures(leaderboard, setup.evaluate.primary)
    for which, picture in pictures.items():
        files.atomic_write(out / f"{name}-{which}.png", picture)
    content = _content(paths, setup, leaderboard, name)
    # In the order given, which is that of the page.
    files.write_json(out / f"{name}.json", content, sort_keys=False)
    files.atomic_write(out / f"{name}.md", as_markdown(content).encode())
    say("document", f"{out / name}.md ({len(pictures)} pictures)")


def as_markdown(content: Mapping[str, Any]) -> str:
    """Return the page for the content of its JSON file."""
    name = content["name"]
    claims = [[each["claim"], f"**{each['finding']}**", each["sentence"]] for each in content["claims"]]
    facts = [f"- {_text(fact)}: {_text(value)}" for fact, value in content["facts"].items()]
    credits = [f"- {_text(credit)}" for credit in content["credits"]]
    controls = dict.fromkeys([content["scratch"], content["control"]])
    parts = [
        f"# Results: {_text(name)}",
        MADE,
        f"> **{_text(content['headline'])}**",
        *map(_text, content["sentences"]),
        "## What is claimed, and what was found",
        _table(["claim", "finding", "why"], claims),
        f"## {PROTOCOLS[MAIN_PROTOCOLS[0]]}",
        f"Mean over seeds, in brackets the {content['level']:.0%} interval for new people and new training.",
        f"![{metric_label(content['primary'])}. {curves.ALT_LEADERBOARD}]({name}-leaderboard.png)",
        _numbers(content, MAIN_PROTOCOLS, budget=True),
        *_grouped(content),
        "## The verdicts that decide",
        "Each masked run against the runs of `evaluate.against`, corrected as one family.",
        _verdicts(content, layout.PRIMARY),
        f"## Exploratory verdicts against {_text(' and '.join(controls))}",
        _verdicts(content, layout.EXPLORATORY),
        *[part for protocol in _others(content) for part in _protocol(content, protocol)],
        "## How it was measured",
        "\n".join([*facts, *credits]),
    ]
    return "\n\n".join(parts) + "\n"


def _content(
    paths: Results, setup: config.Experiment, leaderboard: pd.DataFrame, name: str
) -> dict[str, Any]:
    """Return everything the page tells, as JSON values."""
    headline, details = tables.headline(paths), tables.details(paths)
    scratch = tables.run_names(setup)[0] if scratch_runs(setup) else ""
    control = setup.primary_pairs[0][1] if setup.primary_pairs else scratch  # as the headline has it
    against = _against(tables.verdicts(paths), setup.run_names, {scratch, control})
    used = {run: origin(setup.run(run)) for run in setup.run_names}
    charted = leaderboard["protocol"].isin(conditions.CHARTED) & (leaderboard["condition"] != "")
    return {
        "name": name,
        "headline": headline.headline,
        "sentences": headline.sentences,
        "started": [
            sentence
            for sentence in headline.sentences
            if sentence.startswith(
                tuple(f"{run} {how} " for run in setup.run_names for how, _ in origins(setup.run(run)))
            )
        ],
        "claims": [vars(each) for each in headline.claims],
        "primary": setup.evaluate.primary,
        "level": setup.evaluate.level,
        "scratch": scratch,
        "control": control,
        "runs": [
            row | ({"origin": used[row["run"]]} if used.get(row["run"]) else {})
            for row in _records(leaderboard.drop_duplicates("run"), _RUN)
        ],
        "numbers": _records(leaderboard[~charted], _ROW),
        "verdicts": _records(against, _VERDICT),
        "curves": [
            {
                "name": each.name, "title": each.title, "read": each.read, "alt": each.alt,
                "x": each.x.title,
                "panels": {
                    title: _records(conditions.numbers(panel), conditions.COLUMNS)
                    for title, panel in each.panels.items()
                },
            }
            for each in conditions.conditions(leaderboard, chart_spec.looks(leaderboard))
        ],
        "facts": _facts(setup, details, headline),
        "noise": headline.noise,
        "credits": faces.credits(paths),
    }  # fmt: skip


def _against(verdicts: pd.DataFrame, runs: Sequence[str], controls: set[str]) -> pd.DataFrame:
    """Return the comparisons that decide, and each other run's with the controls, from the run's side."""
    others = set(runs) - controls
    rows = [
        turned(row, row["run_b"]) if row["run_a"] in controls and row["run_b"] in others else row
        for row in rows_of(verdicts)
    ]
    kept = [row for row in rows if row["family"] == layout.PRIMARY or row["run_b"] in controls]
    return pd.DataFrame(kept, columns=verdicts.columns)


def _records(table: pd.DataFrame, columns: Iterable[str]) -> list[dict[str, Any]]:
    return [{name: _plain(row[name]) for name in columns} for row in rows_of(table)]


def _plain(value: Any) -> Any:
    """Return a JSON value: rounded, and None for what is missing."""
    if value is None or pd.isna(value):
        return None
    if isinstance(value, float):
        return round(value, DIGITS)
    return value.item() if hasattr(value, "item") else value


def _facts(setup: config.Experiment, details: Mapping[str, Any], headline: tables.Headline) -> dict[str, str]:
    return {
        "Data": str(details["dataset"]),
        "Training data": headline.setting,
        "People evaluated on": str(details["people"]),
        "Seeds": ", ".join(map(str, setup.seeds)),
        "Bootstrap resamples of people": str(setup.evaluate.resamples),
        "Device": str(details["device"]),
        "Commit": str(details["commit"]),
    }


def _pictures(leaderboard: pd.DataFrame, primary: str) -> dict[str, bytes]:
    """Return the pictures as PNG, by the chart's name."""
    looks = chart_spec.looks(leaderboard)
    drawn = [curves.leaderboard(leaderboard, primary, looks), *conditions.conditions(leaderboard, looks)]
    return {each.name: static_charts.png(each) for each in drawn}


def _others(content: Mapping[str, Any]) -> list[str]:
    """Return the protocols besides recognition, in the order they are met."""
    names = [row["protocol"] for row in content["numbers"]] + [_of_curve(each) for each in content["curves"]]
    return [name for name in dict.fromkeys(names) if name not in MAIN_PROTOCOLS]


def _of_curve(each: Mapping[str, Any]) -> str:
    return str(each["name"]).partition("-")[0]


def _protocol(content: Mapping[str, Any], protocol: str) -> list[str]:
    """Return what one protocol measured: its numbers, and its charts with their tables."""
    heading = PROTOCOLS.get(protocol, protocol.capitalize())
    parts = [f"## {heading}"]
    numbers = _numbers(content, (protocol,), budget=False)
    parts += [numbers] if numbers else []
    for each in content["curves"]:
        if _of_curve(each) == protocol:
            picture = f"![{each['title']}. {each['alt']}]({content['name']}-{each['name']}.png)"
            parts += [f"### {each['title']}"] if each["title"] != heading else []
            parts += [each["read"], picture, *_panels(each)]
    return parts


def _panels(each: Mapping[str, Any]) -> list[str]:
    parts = []
    for title, records in each["panels"].items():
        panel = pd.DataFrame(records, columns=conditions.COLUMNS).fillna(float("nan"))
        parts += [f"**{title}**"] if title else []
        parts.append(_frame(conditions.table_of(panel, each["x"])))
    if len(each["panels"]) <= MANY_PANELS:
        return parts
    return ["<details><summary>The same in numbers</summary>", *parts, "</details>"]


def _grouped(content: Mapping[str, Any]) -> list[str]:
    """Return what was measured under conditions and has no chart, folded away."""
    rows = pd.DataFrame(content["numbers"], columns=list(_ROW))
    parts = []
    for title, table in conditions.grouped_tables(rows).items():
        parts += [f"<details><summary>{_text(title)}</summary>", _frame(table), "</details>"]
    return parts


def _numbers(content: Mapping[str, Any], protocols: Sequence[str], *, budget: bool) -> str:
    """Return a table of what some protocols measured under no condition, "" where that is nothing."""
    rows = scalars(pd.DataFrame(content["numbers"], columns=list(_ROW)))
    rows = rows[rows["protocol"].isin(protocols)]
    metrics = [name for name in rows["metric"].unique() if not budget or name.partition("=")[0] in _SHOWN]
    cells = {(row["run"], row["metric"]): _value(row) for row in rows_of(rows)}
    lines = []
    for run in content["runs"]:
        if run["run"] in set(rows["run"]):
            name = f"`{run['run']}`" + (f" ({run['origin']})" if run.get("origin") else "")
            line = [name, *(cells.get((run["run"], metric), "") for metric in metrics)]
            lines.append([*line, *_budget(run)] if budget else line)
    more = [f"{what} (pretraining + fine-tuning)" for what in ("seconds", "images")] if budget else []
    return _table(["run", *map(metric_label, metrics), *more], lines) if lines else ""


def _value(row: Mapping[str, Any]) -> str:
    return f"refused: {row['note']}" if pd.isna(row["value"]) else with_interval(row)


def _budget(run: Mapping[str, Any]) -> list[str]:
    if run["kind"] != "run":
        return ["none", "none"]
    pairs = [(run[f"{what}_pretrain"], run[f"{what}_finetune"]) for what in ("seconds", "images")]
    return [" + ".join("?" if each is None else f"{each:,.0f}" for each in pair) for pair in pairs]


def _verdicts(content: Mapping[str, Any], family: str) -> str:
    found = [row for row in content["verdicts"] if row["family"] == family]
    rows = sorted(found, key=lambda row: bool(row["metric"] != content["primary"]))
    lines = [
        [
            metric_label(row["metric"]),
            f"`{row['run_a']}` against `{row['run_b']}`",
            difference(row),
            f"{row['p_adjusted']:.3f}" if row["p_adjusted"] >= 0.001 else "< 0.001",
            f"**{row['verdict']}**" + (f": {row['note']}" if row["note"] else ""),
            f"{row['seconds_difference']:+.0f}",
        ]
        for row in rows
    ]
    head = ["metric", "runs", "difference", "adjusted p", "verdict", "extra seconds"]
    return _table(head, lines)


def _frame(table: pd.DataFrame) -> str:
    return _table(list(table.columns), table.to_numpy().tolist())


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; what a cell holds stays in it."""
    if not rows:
        return "Nothing was measured."
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")


def _text(text: str) -> str:
    """Return text that is no markup of HTML and stays on its line."""
    return " ".join(text.replace("&", "&amp;").replace("<", "&lt;").split())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Write a results folder as a page of documentation.")
    parser.add_argument("--results", type=Path, required=True, help="folder of results to show")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into, such as docs/results")
    asked = parser.parse_args()
    document(asked.results, asked.out)
