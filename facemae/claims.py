"""What masked autoencoders are said to be good for, held against what was measured.

Each claim is judged by one metric, against one control, on one run that is chosen before any number is
seen: the run with random masks, or else the first masked autoencoder of the configuration. Choosing the run
that came out best would find a winner among equals.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from facemae import config
from facemae.metrics import higher_is_better
from facemae.wording import (
    cheap_runs,
    masked_runs,
    metric_label,
    names_of,
    rival_runs,
    scalars,
    scratch_runs,
    turned,
)

Finding = Literal["supported", "not supported", "undecided", "not measured"]
FINDINGS: tuple[Finding, ...] = ("supported", "not supported", "undecided", "not measured")
Control = Literal["scratch", "cheap", "rivals", "masks"]

# A tie speaks against a claim where a difference of this size would have been seen; metrics run from 0 to 1.
SMALL = 0.02
SMALL_YEARS = 0.5
PRIMARY = "primary"  # stands for the configuration's primary metric


@dataclass(frozen=True)
class Question:
    """A claim before it is judged.

    Attributes:
        claim: What is said of masked autoencoders.
        metric: What it is judged by.
        against: scratch: training from scratch. cheap: the strongest run without pretraining, those that
            hide patches in fine-tuning included. rivals: every other way to pretrain. masks: each other.
        needs: What has to be in the configuration for the metric to be measured.
    """

    claim: str
    metric: str
    against: Control
    needs: str = ""


QUESTIONS = (
    Question("MAE pretraining makes recognition more accurate", PRIMARY, "scratch"),
    Question(
        "MAE pretraining makes recognition more robust to occlusion", "occlusion_accuracy", "cheap",
        "robustness.runs",
    ),
    Question(
        "MAE pretraining makes recognition more robust to changed light", "light_accuracy", "cheap",
        "robustness.runs",
    ),
    Question(
        "MAE pretraining makes recognition more robust to real light from the side", "illumination_rank1",
        "cheap", "robustness.runs and robustness.illumination",
    ),
    Question("MAE pretraining needs fewer labels", "labels_accuracy", "scratch", "label_curve.runs"),
    Question("MAE pretraining beats its rivals", PRIMARY, "rivals"),
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

    `difference` and its interval are of `run` minus `against`, None where nothing was compared.
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


@dataclass(frozen=True)
class _Tables:
    experiment: config.Experiment
    leaderboard: pd.DataFrame
    verdicts: pd.DataFrame

    def measured(self, metric: str, names: Iterable[str]) -> list[str]:
        """Return those of the runs that have a value of the metric, in the order given."""
        table = scalars(self.leaderboard)
        found = set(table.loc[(table["metric"] == metric) & table["value"].notna(), "run"])
        return [name for name in names if name in found]

    def refusal(self, metric: str) -> str:
        """Return why the metric has no value anywhere, "" where it was never tried."""
        table = scalars(self.leaderboard)
        notes = table.loc[(table["metric"] == metric) & table["value"].isna(), "note"]
        return str(notes.iloc[0]) if len(notes) else ""

    def compared(self, metric: str, run: str, opponent: str) -> dict[str, Any] | None:
        """Return the comparison of two runs from the side of the first, None where there is none."""
        table = self.verdicts[self.verdicts["metric"] == metric]
        pair = table[
            ((table["run_a"] == run) & (table["run_b"] == opponent))
            | ((table["run_a"] == opponent) & (table["run_b"] == run))
        ]
        rows = pair.to_dict("records")
        return turned({str(key): value for key, value in rows[0].items()}, run) if rows else None

    def strongest(self, metric: str, names: list[str]) -> str:
        """Return the run with the best value."""
        table = scalars(self.leaderboard)
        table = table[(table["metric"] == metric) & table["run"].isin(names)]
        best = table.sort_values("value", ascending=not higher_is_better(metric), kind="stable")
        return str(best["run"].iloc[0])


def claims(experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame) -> list[Claim]:
    """Judge every claim about masked autoencoders by the tables of a comparison.

    A claim is supported where the verdict is "better", and not supported where it is "worse" or a tie that
    would not have hidden a difference of SMALL (of the age: SMALL_YEARS). It is undecided with one seed, and
    where a tie may hide more than that. Where the numbers are missing it is not measured, and the sentence
    says what the configuration lacks.
    """
    tables = _Tables(experiment, leaderboard, verdicts)
    return [claim for question in QUESTIONS for claim in _answers(tables, question)]


def _answers(tables: _Tables, question: Question) -> list[Claim]:
    metric = tables.experiment.evaluate.primary if question.metric == PRIMARY else question.metric
    masked = tables.measured(metric, _random_first(tables.experiment))
    if not masked:
        return [_unmeasured(question, metric, _why_not(tables, question, metric))]
    if question.against == "masks":
        return [_between_masks(tables, question, metric, masked)]
    if question.against == "rivals":
        return _against_rivals(tables, question, metric, masked)
    controls = tables.measured(metric, scratch_runs(tables.experiment))
    if not controls:
        return [_unmeasured(question, metric, "no run without pretraining was measured")]
    if question.against == "scratch":
        claim = _judged(tables, question, metric, masked, controls[0])
        return [_with_labels(tables, claim) if metric == "labels_accuracy" else claim]
    strongest = tables.strongest(metric, controls)
    claim = _judged(tables, question, metric, masked, strongest)
    if len(controls) > 1:
        claim = _more(claim, f"Best of the {len(controls)} runs without pretraining: {strongest}.")
    if not set(controls) & set(cheap_runs(tables.experiment)):
        claim = _more(
            claim, "No run with patch_drop or erasing, the cheap rivals, was there to compare with."
        )
    return [claim]


def _random_first(experiment: config.Experiment) -> list[str]:
    """Return the masked autoencoders: the one to judge first, which depends on no result."""
    names = masked_runs(experiment)
    return sorted(names, key=lambda name: experiment.run(name).strategy != "random")


def _why_not(tables: _Tables, question: Question, metric: str) -> str:
    if not masked_runs(tables.experiment):
        return "there is no masked autoencoder among the runs"
    return tables.refusal(metric) or f"that takes {question.needs or 'its evaluation'}"


def _unmeasured(question: Question, metric: str, reason: str) -> Claim:
    return Claim(question.claim, "not measured", f"Not measured: {reason} ({metric_label(metric)}).", metric)


def _judged(tables: _Tables, question: Question, metric: str, masked: list[str], control: str) -> Claim:
    """Judge the first of the runs against the control, and tell how the others do."""
    run, *others = masked
    row = tables.compared(metric, run, control)
    if row is None:
        return _unmeasured(question, metric, f"{run} was not compared with {control}")
    claim = _claim(question.claim, metric, row)
    words = _others(tables, metric, others, control)
    return _more(claim, words) if words else claim


def _claim(text: str, metric: str, row: dict[str, Any]) -> Claim:
    finding, how = _finding(metric, row)
    low, high = f"{row['ci_low']:+.3f}", f"{row['ci_high']:+.3f}"
    number = f"{metric_label(metric)} {row['difference']:+.3f} ({low} to {high})"
    seconds = round(float(row["seconds_difference"]))
    spent = f", for {seconds:+d} s of training" if seconds else ""
    sentence = f"{finding.capitalize()}: {row['run_a']} {how[0]} {row['run_b']}, {number}{spent}{how[1]}."
    return Claim(
        text, finding, sentence, metric, str(row["run_a"]), str(row["run_b"]),
        float(row["difference"]), float(row["ci_low"]), float(row["ci_high"]),
    )  # fmt: skip


def _finding(metric: str, row: dict[str, Any]) -> tuple[Finding, tuple[str, str]]:
    """Return what a comparison makes of a claim, and the words before and after its number."""
    verdict, detectable = row["verdict"], float(row["detectable"])
    if verdict == "undecided":
        return "undecided", ("against", "; one seed cannot tell a strategy from the luck of its training")
    if verdict == "better":
        return "supported", ("is better than", "")
    if verdict == "worse":
        return "not supported", ("is worse than", "")
    if detectable < _small(metric):
        return "not supported", ("ties with", f"; a difference of {detectable:.3f} would have been seen")
    return "undecided", ("ties with", f"; a difference below {detectable:.3f} may have gone unseen")


def _small(metric: str) -> float:
    return SMALL_YEARS if metric == "age_error" else SMALL


def _others(tables: _Tables, metric: str, others: list[str], control: str) -> str:
    rows = [(name, tables.compared(metric, name, control)) for name in others]
    told = [(name, row["verdict"], row["difference"]) for name, row in rows if row]
    parts = []
    for verdict, words in (
        ("better", "better"),
        ("worse", "worse"),
        ("tie", "a tie"),
        ("undecided", "undecided"),
    ):
        names = [f"{name} ({difference:+.3f})" for name, found, difference in told if found == verdict]
        if names:
            parts.append(f"{words}: {names_of(names)}")
    return f"The other masks against {control}: {'; '.join(parts)}." if parts else ""


def _against_rivals(tables: _Tables, question: Question, metric: str, masked: list[str]) -> list[Claim]:
    """Judge one claim for each rival."""
    rivals = tables.measured(metric, rival_runs(tables.experiment))
    if not rivals:
        reason = "there is no run with pretrain.method simclr, moco or dino"
        return [_unmeasured(question, metric, reason)]
    return [
        _judged(tables, Question(f"MAE pretraining beats {name}", metric, "rivals"), metric, masked, name)
        for name in rivals
    ]


def _between_masks(tables: _Tables, question: Question, metric: str, masked: list[str]) -> Claim:
    """Judge whether any two masks differ; pairs of runs with the same mask differ in something else."""
    strategy = {name: tables.experiment.run(name).strategy for name in masked}
    pairs = [
        tables.compared(metric, b, a)
        for place, a in enumerate(masked)
        for b in masked[place + 1 :]
        if strategy[a] != strategy[b]
    ]
    rows = [row for row in pairs if row is not None]
    if not rows:
        return _unmeasured(question, metric, "that takes two masked autoencoders with different masks")
    called = [row for row in rows if row["verdict"] in ("better", "worse")]
    if called:
        widest = max(called, key=lambda row: abs(row["difference"]))
        winner = widest["run_a"] if widest["verdict"] == "better" else widest["run_b"]
        claim = _claim(question.claim, metric, turned(widest, winner))
        return (
            _more(claim, f"Of {len(rows)} pairs of masks {len(called)} differ.") if len(rows) > 1 else claim
        )
    least_sure = max(rows, key=lambda row: (row["verdict"] == "undecided", row["detectable"]))
    claim = _claim(question.claim, metric, least_sure)
    return _more(claim, f"Of {len(rows)} pairs of masks none differs.") if len(rows) > 1 else claim


def _more(claim: Claim, words: str) -> Claim:
    return Claim(**{**claim.__dict__, "sentence": f"{claim.sentence} {words}"})


def label_curve(leaderboard: pd.DataFrame, condition: str = "share") -> pd.DataFrame:
    """Return accuracy by number of labels, few labels first: the rows of the protocol "labels".

    Args:
        leaderboard: Of a comparison.
        condition: "share": of the labels, all of them (1) included; "per_person": faces of a person.
    """
    curve = leaderboard[
        (leaderboard["protocol"] == "labels")
        & (leaderboard["metric"] == "accuracy")
        & (leaderboard["condition"] == condition)
        & leaderboard["value"].notna()
    ]
    return curve.sort_values("amount", kind="stable")


def share_needed(share: ArrayLike, accuracy: ArrayLike, target: float) -> float:
    """Return the least share of labels with which a curve reaches `target`, linear in the share's logarithm.

    Args:
        share: Shares of the labels, `(K,)`, above 0 and rising.
        accuracy: What each reaches, `(K,)`.
        target: The accuracy wanted.

    Returns:
        The share; the first one where even that reaches the target, infinity where none does.

    Raises:
        ValueError: there is no share, they do not rise from above 0, or the lengths differ.
    """
    shares, values = np.asarray(share, dtype=np.float64), np.asarray(accuracy, dtype=np.float64)
    if shares.shape != values.shape or shares.ndim != 1 or not len(shares):
        raise ValueError(f"need (K,) shares and (K,) accuracies, got {shares.shape} and {values.shape}")
    if shares[0] <= 0 or (np.diff(shares) <= 0).any():
        raise ValueError(f"shares rise from above 0, got {shares.tolist()}")
    reached = np.flatnonzero(values >= target)
    if not len(reached):
        return float("inf")
    after = int(reached[0])
    if after == 0:
        return float(shares[0])
    low, high = values[after - 1], values[after]
    position = (target - low) / (high - low)
    return float(np.exp(np.interp(position, [0, 1], np.log(shares[after - 1 : after + 1]))))


@dataclass(frozen=True)
class Saved:
    """The share of labels that one curve saves against another at an accuracy.

    `low` and `high` hold one curve's lower ends against the other's upper ends, which is wider than an
    interval at the curves' level; None where an end reaches the accuracy nowhere and leaves it open.
    """

    accuracy: float
    value: float
    low: float | None
    high: float | None


def labels_saved(curve: pd.DataFrame, control: pd.DataFrame) -> Saved | None:
    """Return the labels saved at the highest accuracy that both curves reach.

    Args:
        curve: Columns amount (share of the labels, rising), value, ci_low and ci_high.
        control: The same of the curve that it is held against.

    Returns:
        1 - s / s', with s and s' the shares that the curves need (`share_needed`); negative where the curve
        needs more labels than the control. None where there is no such accuracy.
    """
    if curve.empty or control.empty:
        return None
    target = min(float(curve["value"].max()), float(control["value"].max()))
    ratios = [
        _ratio(curve, ours, control, theirs, target)
        for ours, theirs in (("value", "value"), ("ci_low", "ci_high"), ("ci_high", "ci_low"))
    ]
    if ratios[0] is None:
        return None
    low, high = (None if ratio is None else 1 - ratio for ratio in ratios[1:])
    return Saved(target, 1 - ratios[0], low, high)


def _ratio(curve: pd.DataFrame, ours: str, control: pd.DataFrame, theirs: str, target: float) -> float | None:
    needed = share_needed(curve["amount"], curve[ours], target)
    usual = share_needed(control["amount"], control[theirs], target)
    return needed / usual if np.isfinite([needed, usual]).all() else None


def _with_labels(tables: _Tables, claim: Claim) -> Claim:
    """Add how many labels are saved, where both curves are there."""
    curves = label_curve(tables.leaderboard)
    if not claim.run or not claim.against:
        return claim
    saved = labels_saved(curves[curves["run"] == claim.run], curves[curves["run"] == claim.against])
    if saved is None:
        return claim
    low, high = ("an open end" if end is None else f"{end:.0%}" for end in (saved.low, saved.high))
    verb = "saves" if saved.value >= 0 else "costs"
    words = (
        f"At an accuracy of {saved.accuracy:.3f} it {verb} {abs(saved.value):.0%} of the labels "
        f"(savings from {low} to {high} by the ends of both curves' intervals)."
    )
    return _more(claim, words)
