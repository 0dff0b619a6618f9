"""A leaderboard as a LaTeX table: mean and interval of each run, the best run of each metric in bold."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from facemae.evaluation.records import higher_is_better, metric_label
from facemae.report.phrases import rows_of, scalars

_SPECIAL = re.compile(r"([&%$#_{}])|([~^\\])")
_NAMED = {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}


def latex(leaderboard: pd.DataFrame, metrics: Sequence[str]) -> str:
    """Return the table of some metrics, a row per run and a line before the controls; it takes booktabs."""
    table = scalars(leaderboard)
    table = table[table["metric"].isin(metrics)]
    best = [_best(table[table["metric"] == metric], metric) for metric in metrics]
    lines = []
    for _, kind in table.groupby("kind", sort=False):
        lines.append(r"\midrule")
        for run, part in kind.groupby("run", sort=False):
            entries = {row["metric"]: row for row in rows_of(part)}
            cells = [_cell(entries.get(name), run == top) for name, top in zip(metrics, best, strict=True)]
            lines.append(" & ".join([escaped(str(run)), *cells]) + r" \\")
    heads = " & ".join(["Run", *(escaped(metric_label(metric)) for metric in metrics)])
    return "\n".join(
        [
            r"% Mean over seeds with its interval; the best run in bold. Needs \usepackage{booktabs}.",
            rf"\begin{{tabular}}{{l{'c' * len(metrics)}}}", r"\toprule", heads + r" \\", *lines,
            r"\bottomrule", r"\end{tabular}", "",
        ]
    )  # fmt: skip


def escaped(text: str) -> str:
    """Return text with what LaTeX would take for a command written out."""
    return _SPECIAL.sub(lambda found: rf"\{found[1]}" if found[1] else _NAMED[found[2]], str(text))


def _best(rows: pd.DataFrame, metric: str) -> str:
    runs = rows[(rows["kind"] == "run") & rows["value"].notna()].set_index("run")["value"]
    return "" if runs.empty else str(runs.idxmax() if higher_is_better(metric) else runs.idxmin())


def _cell(row: dict[str, Any] | None, best: bool) -> str:
    if row is None:
        return "--"
    if pd.isna(row["value"]):
        return "refused"
    value = f"{row['value']:.3f}"
    ends = "" if pd.isna(row["ci_low"]) else f" [{row['ci_low']:.3f}, {row['ci_high']:.3f}]"
    return (rf"\textbf{{{value}}}" if best else value) + ends
