"""The workflow prints a line per stage with the time left, and errors at once."""

import io
import itertools
import logging

import pytest

from facemae.cli.stage_log import STREAM, StageLog, attach


@pytest.fixture
def log():
    """Return a logger with a stage log whose clock moves 10 seconds at each look."""
    logger = logging.Logger("snakemake")
    seconds = itertools.count(0, 10)
    logger.addHandler(StageLog(lambda: float(next(seconds))))
    return logger


def tell(logger, event, **facts):
    logger.info("", extra={"event": event, **facts})


def test_each_stage_that_ends_is_a_line_with_the_time_left(log, capsys):
    tell(log, "run_info", stats={"pretrain": 2, "report": 1, "all": 1, "total": 4})
    for number, rule in enumerate(("pretrain", "pretrain", "report", "all")):
        tell(log, "job_info", jobid=number, rule_name=rule, wildcards={"run": "random", "seed": str(number)})
        tell(log, "job_finished", job_id=number)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("[workflow] 3 stages to run")
    assert lines[1].startswith("[pretrain random/0] took 00:10  (1/3, about 00:")
    assert lines[3] == "[report random/2] took 00:10  (3/3, all done)"
    assert len(lines) == 4


def test_a_workflow_without_work_says_so(log, capsys):
    log.info("Nothing to be done (all requested files are present and up to date).")
    assert capsys.readouterr().err == "[workflow] nothing to do: every result is there and up to date\n"


def test_the_terminal_shows_errors_and_no_lists_of_jobs():
    logger, shown = logging.Logger("snakemake"), io.StringIO()
    handler = logging.StreamHandler(shown)
    handler.name = STREAM
    logger.addHandler(handler)
    attach(logger)
    logger.info("a list of jobs")
    logger.error("the disk is full")
    assert shown.getvalue() == "the disk is full\n"
