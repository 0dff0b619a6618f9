"""What masked autoencoders are said to be good for, held against what was measured.

Each claim is judged by one metric, on one run and against one control that are chosen before any number is
seen: the run with random masks, or else the first masked autoencoder of the configuration; and the first
control that `evaluate.against` names, or else the first of the configuration. Choosing what came out best
would find a winner among equals. The claims are a family of comparisons, and corrected as one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import pandas as pd

from facemae import config
from facemae.evaluation.records import metric_label
from facemae.evaluation.savings import label_curve, labels_saved
from facemae.evaluation.verdict import holm
from facemae.report.phrases import (
    OPPOSITE,
    Comparison,
    by_verdict,
    contrastive_runs,
    difference,
    hides,
    masked_runs,
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

    It is held against training from "scratch"; against a run without pretraining that is "hiding" something
    in fine-tuning, or from scratch where there is none; against every "contrastive" way to pretrain; or the
    "masks" against each other.
    """

    claim: str  # what is said of masked autoencoders
    metric: str  # that it is judged by
    against: Control
    needs: str = ""  # what has to be in the configuration for the metric to be measured


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
class _Compared:
    """A claim before the correction, for which something was compared."""

    claim: str
    metric: str
    row: dict[str, Any]
    more: str  # what else to say
    p_value: float


def claims(experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame) -> list[Claim]:
    """Judge every claim about masked autoencoders by the tables of a comparison.

    A claim is supported where the verdict is "better", and not supported where it is "worse" or "equivalent";
    how large a difference would have been seen is no evidence that there is none. A better or worse that does
    not outlive Holm's correction over all claims is undecided. Where the numbers are missing the claim is not
    measured, and the sentence says what the configuration lacks.
    """
    made = Comparison(experiment, leaderboard, verdicts)
    answers = [answer for question in QUESTIONS for answer in _answers(made, question)]
    adjusted = iter(holm([each.p_value for each in answers if isinstance(each, _Compared)]).tolist())
    return [
        _claim(each, next(adjusted), experiment.evaluate) if isinstance(each, _Compared) else each
        for each in answers
    ]


def _answers(made: Comparison, question: Question) -> list[_Compared | Claim]:
    experiment, claim = made.experiment, question.claim
    metric = experiment.evaluate.primary if question.metric == PRIMARY else question.metric
    # The one to judge comes first, whatever came out.
    every = sorted(masked_runs(experiment), key=lambda name: experiment.run(name).strategy != "random")
    masked = made.measured(metric, every)
    if not masked:
        rows = scalars(made.leaderboard, metric)
        notes = [*rows.loc[rows["value"].isna(), "note"].astype(str), ""]
        why = notes[0] or f"that takes {question.needs or 'its evaluation'}"
        return [_unmeasured(claim, metric, why if every else NO_MASKED)]
    if question.against == "masks":
        return [_between_masks(made, claim, metric, masked)]
    if question.against == "contrastive":
        names = made.measured(metric, contrastive_runs(experiment))
        reason = "there is no run with pretrain.method simclr, moco or dino"
        judged = [_judged(made, f"MAE pretraining beats {name}", metric, masked, name) for name in names]
        return judged or [_unmeasured(claim, metric, reason)]
    hiding = [name for name in scratch_runs(experiment) if hides(experiment.run(name))]
    scratch = _scratch(experiment, hiding if question.against == "hiding" else [])
    controls = made.measured(metric, scratch)
    if not controls:
        return [_unmeasured(claim, metric, "no run without pretraining was measured")]
    more = _beside(made, metric, masked[0], controls[1:], "the other runs without pretraining")
    if question.against == "hiding" and not set(controls) & set(hiding):
        more.append(
            "No run with patch_drop or erasing, which hide without pretraining, was there to compare."
        )
    if metric == "labels_accuracy":
        more.append(_labels_saved(made, masked[0], controls[0]))
    if question.needs.startswith("attributes"):
        plain = made.measured(metric, experiment.baselines)
        more += _beside(made, metric, masked[0], plain, "what controls see of a face")
        if experiment.attributes.mode == "probe":
            more.append(f"Heads stand on frozen encoders, and that of {controls[0]} is untrained.")
    return [_judged(made, claim, metric, masked, controls[0], more)]


def _scratch(experiment: config.Experiment, first: list[str]) -> list[str]:
    """Return the runs from scratch: `first`, then what `evaluate.against` names, then the others."""
    named = experiment.controls
    return sorted(
        scratch_runs(experiment),
        key=lambda name: (name not in first, named.index(name) if name in named else len(named)),
    )


def _beside(made: Comparison, metric: str, run: str, controls: list[str], what: str) -> list[str]:
    """Return how the run does against other controls, a sentence if there are any."""
    rows = made.rows(metric, [(run, name) for name in controls])
    counted = ", ".join(f"{row['run_b']}: {row['verdict']} ({row['difference']:+.3f})" for row in rows)
    return [f"Against {what}: {counted}."] if rows else []


def _judged(
    made: Comparison, claim: str, metric: str, masked: list[str], control: str, more: Iterable[str] = ()
) -> _Compared | Claim:
    """Judge the first of the masked runs against the control; `more` are sentences to tell beside it."""
    rows = made.rows(metric, [(masked[0], control)])
    if not rows:
        return _unmeasured(claim, metric, f"{masked[0]} was not compared with {control}")
    parts = []
    for verdict, found in by_verdict(made.rows(metric, [(name, control) for name in masked[1:]])).items():
        names = [f"{each['run_a']} ({each['difference']:+.3f})" for each in found]
        parts.append(f"{verdict}: {names_of(names)}")
    beside = [f"The other masks against {control}: {'; '.join(parts)}."] if parts else []
    return _Compared(claim, metric, rows[0], " ".join(filter(None, [*beside, *more])), _p_value(rows[0]))


def _p_value(row: dict[str, Any]) -> float:
    """Return what a comparison brings into the correction: a refused one must not ease that of the others."""
    return 1.0 if row["verdict"] == "undecided" else float(row["p_value"])


def _unmeasured(claim: str, metric: str, why: str) -> Claim:
    return Claim(claim, "not measured", f"Not measured: {why} ({metric_label(metric)}).", metric)


def _claim(each: _Compared, p_adjusted: float, settings: config.Evaluate) -> Claim:
    row, label = each.row, metric_label(each.metric)
    finding, how, why = _finding(each, p_adjusted, settings)
    low, high = float(row["ci_low"]), float(row["ci_high"])
    known = math.isfinite(low) and math.isfinite(high)
    seconds = round(float(row["seconds_difference"]))
    spent = f", for {seconds:+d} s of training" if seconds else ""
    sentence = (
        f"{finding.capitalize()}: {row['run_a']} {how} {row['run_b']}, {label} {difference(row)}{spent}"
        f"{why}. {each.more}"
    )
    return Claim(
        each.claim, finding, sentence.strip(), each.metric, str(row["run_a"]), str(row["run_b"]),
        float(row["difference"]), low if known else None, high if known else None, p_adjusted,
    )  # fmt: skip


def _finding(each: _Compared, p_adjusted: float, settings: config.Evaluate) -> tuple[Finding, str, str]:
    """Return what a comparison makes of a claim, and the words between its runs and after its number."""
    verdict = each.row["verdict"]
    if verdict == "undecided":
        return "undecided", "against", f"; {each.row['note'] or CANNOT_TELL}"
    if verdict == "equivalent":
        margin = f"; the interval lies within {settings.margin(each.metric):g}"
        return "not supported", "is equivalent to", margin
    if p_adjusted > 1 - settings.level:
        return "undecided", "against", f"; corrected for the number of claims p is {p_adjusted:.2f}"
    return "supported" if verdict == "better" else "not supported", f"is {verdict} than", ""


def _between_masks(made: Comparison, claim: str, metric: str, masked: list[str]) -> _Compared | Claim:
    """Judge whether any two masks differ; pairs of runs with the same mask differ in something else."""
    strategy = {name: made.experiment.run(name).strategy for name in masked}
    pairs = [(b, a) for a, b in combinations(masked, 2) if strategy[a] != strategy[b]]
    rows = made.rows(metric, pairs)
    if not rows:
        return _unmeasured(claim, metric, "that takes two masked autoencoders with different masks")
    # Any of them would support the claim, so it has the p value of the whole family.
    p_value = float(holm([_p_value(row) for row in rows]).min())
    called = [row for row in rows if row["verdict"] in OPPOSITE]
    if called:
        found = f"{len(called)} {'differs' if len(called) == 1 else 'differ'}"
        widest = max(called, key=lambda row: abs(row["difference"]))
        shown = turned(widest, widest["run_a"] if widest["verdict"] == "better" else widest["run_b"])
    else:
        found, shown = "none is shown to differ", max(rows, key=lambda row: row["verdict"] == "undecided")
    more = f"Of {len(rows)} pairs of masks {found}." if len(rows) > 1 else ""
    return _Compared(claim, metric, shown, more, p_value)


def _labels_saved(made: Comparison, run: str, control: str) -> str:
    curves = label_curve(made.leaderboard)
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
