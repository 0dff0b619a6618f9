"""What the workflow prints: a line for each stage that ends, with the time that the whole still takes.

Snakemake's own lists of jobs stay in its log file; errors are shown at once.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from tqdm import tqdm

from facemae.core.progress import say
from facemae.core.text import escaped

STREAM = "DefaultStreamHandler"  # Snakemake's name of its handler for the terminal
MAX_TAIL = 40  # lines of the log of a job that failed
SILENT = ("all", "data")  # rules that only gather files


@dataclass
class _Job:
    rule: str
    label: str
    started: float


class StageLog(logging.Handler):
    """Reads Snakemake's events and prints a line for each job that ends.

    The time left is the mean duration of what has ended, by rule, over the jobs that are left, divided by as
    many as ran side by side so far; a rule of which none has ended counts as the mean of all.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._jobs: dict[int, _Job] = {}
        self._left: Counter[str] = Counter()
        self._took: dict[str, list[float]] = {}
        self._total, self._done, self._started = 0, 0, clock()

    def emit(self, record: logging.LogRecord) -> None:
        """Take one of Snakemake's events."""
        fields: dict[str, Any] = vars(record)
        match str(fields.get("event")):
            case "run_info":
                stats = Counter(fields["stats"])
                for rule in (*SILENT, "total"):
                    del stats[rule]
                self._left, self._total = stats, stats.total()
                say("workflow", f"{self._total} stages to run; Snakemake's lists are in .snakemake/log")
            case "job_info":  # as it starts
                label = _label(fields["rule_name"], fields["wildcards"])
                self._jobs[fields["jobid"]] = _Job(fields["rule_name"], label, self._clock())
            case "job_error":
                say(fields["rule_name"], f"failed; the end of {', '.join(fields['log'])}:")
                print(*map(_tail, fields["log"]), sep="\n", file=sys.stderr, flush=True)
            case "job_finished":
                self._finish(self._jobs.pop(fields["job_id"], None))
            case _ if record.getMessage().startswith("Nothing to be done"):
                say("workflow", "nothing to do: every result is there and up to date")

    def _finish(self, job: _Job | None) -> None:
        if job is None or job.rule in SILENT:
            return
        seconds = self._clock() - job.started
        self._took.setdefault(job.rule, []).append(seconds)
        self._left[job.rule] -= 1
        self._done += 1
        left = tqdm.format_interval(round(self._seconds_left()))
        after = f"about {left} left" if self._done < self._total else "all done"
        say(job.label, f"took {tqdm.format_interval(round(seconds))}  ({self._done}/{self._total}, {after})")

    def _seconds_left(self) -> float:
        every = [seconds for of_rule in self._took.values() for seconds in of_rule]
        means = {rule: fmean(of_rule) for rule, of_rule in self._took.items()}
        work = sum(max(count, 0) * means.get(rule, fmean(every)) for rule, count in self._left.items())
        side_by_side = sum(every) / max(self._clock() - self._started, 1e-9)
        return work / max(side_by_side, 1.0)


def attach(logger: logging.Logger) -> None:
    """Let `logger`, Snakemake's, show errors and the lines above on the terminal, and nothing else."""
    for handler in logger.handlers:
        if handler.name == STREAM:
            handler.addFilter(_is_a_warning)
    logger.addHandler(StageLog())


def _is_a_warning(record: logging.LogRecord) -> bool:
    """Tell whether the terminal shows what Snakemake says; of a job that fails `StageLog` shows the log."""
    lists_a_job = hasattr(record, "event") or record.getMessage().startswith(
        ("RuleException", "WorkflowError")
    )
    return record.levelno >= logging.WARNING and not lists_a_job


def _tail(path: str) -> str:
    try:
        lines = Path(path).read_text("utf-8", "replace").splitlines()
    except OSError:
        return ""
    return "\n".join(escaped(line) for line in lines[-MAX_TAIL:])


def _label(rule: str, wildcards: dict[str, str] | None) -> str:
    return " ".join([rule, "/".join((wildcards or {}).values())]).strip()
