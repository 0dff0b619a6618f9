"""What masked autoencoders are said to be good for, held against what was measured.

Each claim is judged by one metric, on one run and against one control that are chosen before any number is
seen: the run with random masks, or else the first masked autoencoder of the configuration; and the control
that `evaluate.against` names, or else the first of the configuration. Choosing what came out best would find
a winner among equals. The claims are a family of comparisons, and corrected as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pandas as pd

from facemae import config
from facemae.evaluation.savings import label_curve, labels_saved
from facemae.evaluation.verdict import holm
from facemae.report.phrases import (
    OPPOSITE,
    VERDICTS,
    compared,
    contrastive_runs,
    hiding_runs,
    masked_runs,
    metric_label,
    names_of,
    scalars,
    scratch_runs,
    turned,
)

Finding = Literal["supported", "not supported", "undecided", "not measured"]
Control = Literal["scratch", "hiding", "contrastive", "masks"]

CANNOT_TELL = "these people and seeds cannot tell"
NO_MASKED = "there is no masked autoencoder among the runs"
PRIMARY = "primary"  # stands for the configuration's primary metric


@dataclass(frozen=True)
class Question:
    """A claim before it is judged.

    Attributes:
        claim: What is said of masked autoencoders.
        metric: What it is judged by.
        against: scratch: training from scratch. hiding: a run without pretraining that hides something in
            fine-tuning, from scratch where there is none. contrastive: every other way to pretrain. masks:
            each other.
        needs: What has to be in the configuration for the metric to be measured.
    """

    claim: str
    metric: str
    against: Control
    needs: str = ""


QUESTIONS = (
    Question("MAE pretraining makes recognition more accurate", PRIMARY, "scratch"),
    Question(
        "MAE pretraining makes recognition more robust to occlusion", "occlusion_accuracy", "hiding",
        "robustness.runs",
    ),
    Question(
        "MAE pretraining makes recognition more robust to changed light", "light_accuracy", "hiding",
        "robustness.runs",
    ),
    Question(
        "MAE pretraining makes recognition more robust to real light from the side", "illumination_rank1",
        "hiding", "robustness.runs and robustness.illumination",
    ),
    Question("MAE pretraining needs fewer labels", "labels_accuracy", "scratch", "label_curve.runs"),
    Question("MAE pretraining beats contrastive pretraining", PRIMARY, "contrastive"),
    Question("The masking strategy matters", PRIMARY, "masks"),
    Question(
        "MAE pretraining tells gender better", "gender_balanced", "scratch", "attributes.tasks with gender"
    ),
    Question("MAE pretraining tells race better", "race_balanced", "scratch", "attributes.tasks with race"),
    Question("MAE pretraining tells age better", "age_error", "scratch", "attributes.tasks with age"),
    Question(
        "MAE pretraining tells expressions better", "expression_balanced", "scratch",
        "attributes.tasks with expression",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Claim:
    """A claim and what became of it; `sentence` says it all, the rest is for tables.

    `difference` and its interval are of `run` minus `against`, and `p_adjusted` is corrected for the number
    of claims; None where nothing was compared.
    """

    claim: str
    finding: Finding
    sentence: str
    metric: str
    run: str = ""
    against: str = ""
    difference: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    p_adjusted: float | None = None


@dataclass(frozen=True)
class _Answer:
    """A claim before the correction: what was compared (None: nothing), its p value, and what else to say.

    Where nothing was compared `more` is the reason.
    """

    claim: str
    metric: str
    row: dict[str, Any] | None
    more: str
    p_value: float = 1.0


@dataclass(frozen=True)
class _Tables:
    experiment: config.Experiment
    leaderboard: pd.DataFrame
    verdicts: pd.DataFrame

    def measured(self, metric: str, names: Iterable[str]) -> list[str]:
        """Return those of the runs that have a value of the metric, in the order given."""
        found = set(scalars(self.leaderboard, metric).dropna(subset="value")["run"])
        return [name for name in names if name in found]

    def compared(self, metric: str, pairs: Iterable[tuple[str, str]]) -> list[dict[str, Any]]:
        """Return the comparisons of pairs of runs, from the side of the first, as far as there are any."""
        return list(filter(None, compared(self.verdicts, metric, pairs)))


def claims(experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame) -> list[Claim]:
    """Judge every claim about masked autoencoders by the tables of a comparison.

    A claim is supported where the verdict is "better", and not supported where it is "worse" or "equivalent";
    how large a difference would have been seen is no evidence that there is none. A better or worse that does
    not outlive Holm's correction over all claims is undecided. Where the numbers are missing the claim is not
    measured, and the sentence says what the configuration lacks.
    """
    tables = _Tables(experiment, leaderboard, verdicts)
    answers = [answer for question in QUESTIONS for answer in _answers(tables, question)]
    adjusted = iter(holm([each.p_value for each in answers if each.row is not None]).tolist())
    return [
        _unmeasured(each) if each.row is None else _claim(each, each.row, next(adjusted), experiment.evaluate)
        for each in answers
    ]


def _answers(tables: _Tables, question: Question) -> list[_Answer]:
    metric = tables.experiment.evaluate.primary if question.metric == PRIMARY else question.metric
    # The one to judge comes first, whatever came out.
    every = masked_runs(tables.experiment)
    every.sort(key=lambda name: tables.experiment.run(name).strategy != "random")
    masked = tables.measured(metric, every)
    if not masked:
        rows = scalars(tables.leaderboard, metric)
        notes = [*rows.loc[rows["value"].isna(), "note"].astype(str), ""]
        why = notes[0] or f"that takes {question.needs or 'its evaluation'}"
        return [_Answer(question.claim, metric, None, why if every else NO_MASKED)]
    if question.against == "masks":
        return [_between_masks(tables, question, metric, masked)]
    if question.against == "contrastive":
        return _against_contrastive(tables, question, metric, masked)
    hiding = hiding_runs(tables.experiment) if question.against == "hiding" else []
    named = tables.experiment.controls
    scratch = sorted(
        scratch_runs(tables.experiment), key=lambda name: (name not in hiding, name not in named)
    )
    controls = tables.measured(metric, scratch)
    if not controls:
        return [_Answer(question.claim, metric, None, "no run without pretraining was measured")]
    more = [_others(tables, metric, masked[1:], controls[0])]
    if question.against == "hiding":
        more += _beside_hiding(tables, metric, masked[0], controls)
    if metric == "labels_accuracy":
        more.append(_labels_saved(tables, masked[0], controls[0]))
    if question.needs.startswith("attributes") and tables.experiment.attributes.mode == "probe":
        more.append(f"Heads stand on frozen encoders, and that of {controls[0]} is untrained.")
    return [_judged(tables, question.claim, metric, masked[0], controls[0], more)]


def _beside_hiding(tables: _Tables, metric: str, run: str, controls: list[str]) -> list[str]:
    """Return how the run does against the other controls, and whether one that hides patches is missing."""
    rows = tables.compared(metric, [(run, name) for name in controls[1:]])
    counted = [f"{row['run_b']}: {row['verdict']} ({row['difference']:+.3f})" for row in rows]
    words = [f"Against the other runs without pretraining: {', '.join(counted)}."] if counted else []
    if not set(controls) & set(hiding_runs(tables.experiment)):
        words.append(
            "No run with patch_drop or erasing, which hide without pretraining, was there to compare."
        )
    return words


def _judged(
    tables: _Tables, claim: str, metric: str, run: str, control: str, more: Iterable[str] = ()
) -> _Answer:
    """Judge the run against the control; `more` are sentences to tell beside it."""
    rows = tables.compared(metric, [(run, control)])
    if not rows:
        return _Answer(claim, metric, None, f"{run} was not compared with {control}")
    return _Answer(claim, metric, rows[0], " ".join(filter(None, more)), _p_value(rows[0]))


def _p_value(row: dict[str, Any]) -> float:
    """Return what a comparison brings into the correction: a refused one must not ease that of the others."""
    return 1.0 if row["verdict"] == "undecided" else float(row["p_value"])


def _unmeasured(answer: _Answer) -> Claim:
    sentence = f"Not measured: {answer.more} ({metric_label(answer.metric)})."
    return Claim(answer.claim, "not measured", sentence, answer.metric)


def _claim(answer: _Answer, row: dict[str, Any], p_adjusted: float, settings: config.Evaluate) -> Claim:
    finding, how = _finding(answer.metric, row, p_adjusted, settings)
    low, high = float(row["ci_low"]), float(row["ci_high"])
    known = math.isfinite(low) and math.isfinite(high)
    interval = f"{low:+.3f} to {high:+.3f}" if known else "no interval"
    number = f"{metric_label(answer.metric)} {row['difference']:+.3f} ({interval})"
    seconds = round(float(row["seconds_difference"]))
    spent = f", for {seconds:+d} s of training" if seconds else ""
    sentence = f"{finding.capitalize()}: {row['run_a']} {how[0]} {row['run_b']}, {number}{spent}{how[1]}."
    return Claim(
        answer.claim, finding, f"{sentence} {answer.more}".strip(), answer.metric, str(row["run_a"]),
        str(row["run_b"]), float(row["difference"]), low if known else None, high if known else None,
        p_adjusted,
    )  # fmt: skip


def _finding(
    metric: str, row: dict[str, Any], p_adjusted: float, settings: config.Evaluate
) -> tuple[Finding, tuple[str, str]]:
    """Return what a comparison makes of a claim, and the words before and after its number."""
    verdict = row["verdict"]
    if verdict == "undecided":
        return "undecided", ("against", f"; {row['note'] or CANNOT_TELL}")
    if verdict == "equivalent":
        margin = f"; the interval lies within {settings.margin(metric):g}"
        return "not supported", ("is equivalent to", margin)
    if p_adjusted > 1 - settings.level:
        return "undecided", ("against", f"; corrected for the number of claims p is {p_adjusted:.2f}")
    return ("supported" if verdict == "better" else "not supported"), (f"is {verdict} than", "")


def _others(tables: _Tables, metric: str, others: list[str], control: str) -> str:
    found: dict[str, list[str]] = {verdict: [] for verdict in VERDICTS}
    for row in tables.compared(metric, [(name, control) for name in others]):
        found[row["verdict"]].append(f"{row['run_a']} ({row['difference']:+.3f})")
    parts = [f"{verdict}: {names_of(names)}" for verdict, names in found.items() if names]
    return f"The other masks against {control}: {'; '.join(parts)}." if parts else ""


def _against_contrastive(
    tables: _Tables, question: Question, metric: str, masked: list[str]
) -> list[_Answer]:
    found = tables.measured(metric, contrastive_runs(tables.experiment))
    if not found:
        reason = "there is no run with pretrain.method simclr, moco or dino"
        return [_Answer(question.claim, metric, None, reason)]
    return [
        _judged(
            tables, f"MAE pretraining beats {name}", metric, masked[0], name,
            [_others(tables, metric, masked[1:], name)],
        )
        for name in found
    ]  # fmt: skip


def _between_masks(tables: _Tables, question: Question, metric: str, masked: list[str]) -> _Answer:
    """Judge whether any two masks differ; pairs of runs with the same mask differ in something else."""
    strategy = {name: tables.experiment.run(name).strategy for name in masked}
    pairs = [(b, a) for a, b in combinations(masked, 2) if strategy[a] != strategy[b]]
    rows = tables.compared(metric, pairs)
    if not rows:
        why = "that takes two masked autoencoders with different masks"
        return _Answer(question.claim, metric, None, why)
    # Any of them would support the claim, so it has the p value of the whole family.
    p_value = float(holm([_p_value(row) for row in rows]).min())
    called = [row for row in rows if row["verdict"] in OPPOSITE]
    shown = max(rows, key=lambda row: row["verdict"] == "undecided")
    found = "none is shown to differ"
    if called:
        found = f"{len(called)} {'differs' if len(called) == 1 else 'differ'}"
        widest = max(called, key=lambda row: abs(row["difference"]))
        shown = turned(widest, widest["run_a"] if widest["verdict"] == "better" else widest["run_b"])
    more = f"Of {len(rows)} pairs of masks {found}." if len(rows) > 1 else ""
    return _Answer(question.claim, metric, shown, more, p_value)


def _labels_saved(tables: _Tables, run: str, control: str) -> str:
    curves = label_curve(tables.leaderboard)
    ours, theirs = (curves[curves["run"] == name] for name in (run, control))
    if ours.empty or theirs.empty:
        return ""
    saved = labels_saved(ours, theirs)
    if saved is None:
        return "How many labels that saves is open, since an interval reaches the accuracy nowhere."
    return (
        f"At an accuracy of {saved.accuracy:.3f} it {'saves' if saved.value >= 0 else 'costs'} "
        f"{abs(saved.value):.0%} of the labels (savings from {saved.low:.0%} to {saved.high:.0%} by the ends "
        "of both curves' intervals)."
    )
