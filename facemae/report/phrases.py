"""The verdict in words, from the tables alone, and the words for what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from facemae import config
from facemae.core import layout
from facemae.evaluation.records import higher_is_better

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "eer": "equal error rate",
    "accuracy": "verification accuracy",
    "rank1": "rank-1 identification",
    "rank5": "rank-5 identification",
    "rank20": "rank-20 identification",
    "occlusion_accuracy": "accuracy on covered faces",
    "occlusion_drop": "loss of accuracy on covered faces",
    "light_accuracy": "accuracy in changed light",
    "light_drop": "loss of accuracy in changed light",
    "illumination_rank1": "rank-1 identification in real light from the side",
    "labels_accuracy": "accuracy over the label curve",
    "probe_accuracy": "accuracy of the closed-form head on the encoder",
    "probe_roc_auc": "ROC AUC of the closed-form head on the encoder",
    "fdr": "fairness discrepancy rate",
    "fmr": "false match rate",
    "fnmr": "false non-match rate",
    "fmr_ratio": "false match rate, worst group by the groups' geometric mean",
    "fnmr_ratio": "false non-match rate, worst group by the groups' geometric mean",
    "brier": "Brier score",
    "ece": "expected calibration error",
    "age_error": "error of the age in years",
} | {
    f"{task}_{measure}": f"{task}: {words}"
    for task in ("gender", "race", "expression")
    for measure, words in (("accuracy", "accuracy"), ("balanced", "balanced accuracy"), ("f1", "macro F1"))
}
# A metric at an operating point, by what stands before its "=".
_AT = {
    "tar_at_far": "true accept rate at a FAR of {}",
    "far_at_target": "FAR achieved for {}",
    "tpir_at_fpir": "true identification rate at an FPIR of {}",
    "fpir_at_target": "FPIR achieved for {}",
    "blufr_tar": "BLUFR verification rate at a FAR of {}",
    "blufr_dir": "BLUFR identification rate at a FAR of {}",
}
VERDICTS = ("better", "worse", "equivalent", "undecided")
OPPOSITE = {"better": "worse", "worse": "better"}
MAIN_PROTOCOLS = ("verification", "identification")
# Titles of what each protocol measured; the protocols of recognition share a table.
PROTOCOLS = {
    "verification": "All numbers, controls included",
    "occlusion": "Covered faces",
    "lighting": "Changed light",
    "illumination": "Real light from the side",
    "labels": "Fewer labels",
    "attributes": "What else the encoder tells",
}
MOST_NAMES = 8  # in a sentence
NO_FAMILY = (
    "No verdict on pretraining: that takes a masked autoencoder, and a run named in evaluate.against that it "
    "is held against."
)


def metric_label(name: str) -> str:
    """Return a metric's name in words; a name that is not known stands for itself."""
    kind, _, target = name.partition("=")
    return _AT[kind].format(target) if kind in _AT else METRIC_NAMES.get(name, name)


def scalars(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured under no condition: at most one for each run and metric."""
    return leaderboard[leaderboard["condition"] == ""]


def primary_first(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Return the comparisons that decide before the exploratory ones, each in their order."""
    return verdicts.sort_values("family", key=lambda family: family != layout.PRIMARY, kind="stable")


def turned(row: Mapping[str, Any], run: str) -> dict[str, Any]:
    """Return a comparison from the side of `run`, which is either of its two."""
    if row["run_a"] == run:
        return dict(row)
    return dict(row) | {
        "run_a": run, "run_b": row["run_a"], "verdict": OPPOSITE.get(row["verdict"], row["verdict"]),
        "difference": -row["difference"], "ci_low": -row["ci_high"], "ci_high": -row["ci_low"],
        "seconds_difference": -row["seconds_difference"],
    }  # fmt: skip


def masked_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs that are masked autoencoders, in the order of the configuration."""
    return [name for name in experiment.run_names if experiment.run(name).masked]


def rival_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs that learn by comparing views of a face."""
    pretrained = [name for name in experiment.run_names if experiment.run(name).pretrain]
    return [name for name in pretrained if not experiment.run(name).masked]


def cheap_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs that hide something in fine-tuning alone, without any pretraining."""
    return [name for name in _without_pretraining(experiment) if _hides(experiment.run(name).finetune)]


def scratch_runs(experiment: config.Experiment) -> list[str]:
    """Return the names of the runs from scratch: first those that hide nothing, then the cheap controls."""
    return sorted(_without_pretraining(experiment), key=lambda name: _hides(experiment.run(name).finetune))


def _without_pretraining(experiment: config.Experiment) -> list[str]:
    return [name for name in experiment.run_names if experiment.run(name).pretrain is None]


def _hides(finetune: config.Finetune) -> bool:
    return bool(finetune.patch_drop or finetune.erasing)


def compared(verdicts: pd.DataFrame, metric: str, run: str, opponent: str) -> dict[str, Any] | None:
    """Return the comparison of two runs by a metric from the side of the first, None where there is none."""
    table = verdicts[verdicts["metric"] == metric]
    here = (table["run_a"] == run) & (table["run_b"] == opponent)
    there = (table["run_a"] == opponent) & (table["run_b"] == run)
    rows = table[here | there].to_dict("records")
    return turned({str(key): value for key, value in rows[0].items()}, run) if rows else None


def verdict_in_words(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Return the primary metric, the headline and the sentences that go with it.

    The headline and the sentences after it tell the primary family, which was fixed before the run: every
    masked run against the runs of `evaluate.against`. What follows is exploratory and says so. Rivals and
    cheap controls are the claims' business (claims.py).
    """
    metric = experiment.evaluate.primary
    table = scalars(leaderboard)
    table = table[table["metric"] == metric].set_index("run")
    people = int(table["people"].iloc[0])
    pairs = [compared(verdicts, metric, *pair) for pair in experiment.primary_pairs]
    rows = [row for row in pairs if row is not None]
    first, *others = [*dict.fromkeys(row["run_b"] for row in rows)] or [""]
    where = f" on {people} unseen people, by {METRIC_NAMES[metric]}"
    headline = _against(experiment, rows, first, where) if first else _no_verdict(experiment)
    sentences = [
        *[_against(experiment, rows, control, "") for control in others],
        *_reasons(rows),
        _among_strategies(experiment, verdicts),
        _best_control(experiment, table, verdicts),
        what_verdicts_mean(experiment),
    ]
    return {
        "metric": metric,
        "people": people,
        "seeds": len(experiment.seeds),
        "headline": headline,
        "sentences": [sentence for sentence in sentences if sentence],
    }


def what_verdicts_mean(experiment: config.Experiment) -> str:
    """Return what the words of a verdict stand for, and which verdicts decide."""
    margin = f"{experiment.evaluate.equivalence:g}"
    words = (
        f"Equivalent means that the interval of the difference lies within {margin} either way; undecided "
        "means that these people and seeds cannot tell, which is no proof of equality."
    )
    if not experiment.primary_pairs:
        return f"{words} No comparison was fixed beforehand, so all are exploratory."
    return (
        f"{words} The comparisons against {names_of(experiment.controls)} were fixed before the run and are "
        "corrected together; all others are exploratory."
    )


def _no_verdict(experiment: config.Experiment) -> str:
    if not experiment.primary_pairs:
        return NO_FAMILY
    return f"No verdict: {METRIC_NAMES[experiment.evaluate.primary]} was not measured; the tables say why."


def _against(experiment: config.Experiment, rows: list[dict[str, Any]], control: str, where: str) -> str:
    """Return how the masked runs do against one control."""
    against = [row for row in rows if row["run_b"] == control]
    plain = control in _without_pretraining(experiment) and not _hides(experiment.run(control).finetune)
    return f"Against {'training from scratch' if plain else control}{where}: {_told(against)}."


def _told(rows: list[dict[str, Any]]) -> str:
    """Return the runs by verdict, with their differences where there is one to speak of."""
    parts = []
    for verdict in VERDICTS:
        found = [row for row in rows if row["verdict"] == verdict]
        names = [row["run_a"] for row in found]
        if verdict in OPPOSITE:
            names = [f"{row['run_a']} ({row['difference']:+.3f})" for row in found]
        if names:
            parts.append(f"{some_names(names)} {'is' if len(names) == 1 else 'are'} {verdict}")
    return "; ".join(parts)


def _reasons(rows: list[dict[str, Any]]) -> list[str]:
    """Return why comparisons are undecided, each reason once."""
    notes = dict.fromkeys(str(row["note"]) for row in rows if row["note"])
    return [f"Undecided because {note}." for note in notes]


def _among_strategies(experiment: config.Experiment, verdicts: pd.DataFrame) -> str:
    """Return what was found between masks that were not compared as the primary family."""
    names, primary = masked_runs(experiment), experiment.primary_pairs
    pairs = [
        (b, a)
        for place, a in enumerate(names)
        for b in names[place + 1 :]
        if (a, b) not in primary and (b, a) not in primary
    ]
    found = [compared(verdicts, experiment.evaluate.primary, *pair) for pair in pairs]
    rows = [row for row in found if row is not None]
    called = [row for row in rows if row["verdict"] in OPPOSITE]
    wins = [f"{row['run_a']} is {row['verdict']} than {row['run_b']}" for row in called]
    rest = [(v, sum(row["verdict"] == v for row in rows)) for v in VERDICTS if v not in OPPOSITE]
    counts = [f"{count} {'pair is' if count == 1 else 'pairs are'} {v}" for v, count in rest if count]
    words = "; ".join([names_of(wins)] * bool(wins) + [names_of(counts)] * bool(counts))
    return f"Between the other masking strategies (exploratory): {words}." if words else ""


def _best_control(experiment: config.Experiment, table: pd.DataFrame, verdicts: pd.DataFrame) -> str:
    """Return who beats the best control: of those that learn from the same labels, where there is one."""
    controls = table[(table["kind"] == "baseline") & table["value"].notna()]
    learning = controls[controls.index.isin(config.BASELINES_FROM_LABELS)]
    best = learning if len(learning) else controls
    if best.empty:
        return ""
    metric = experiment.evaluate.primary
    name = best.sort_values("value", ascending=not higher_is_better(metric), kind="stable").index[0]
    found = [compared(verdicts, metric, run, name) for run in experiment.run_names]
    told = _told([row for row in found if row is not None])
    what = "learns from the same labels" if len(learning) else "trains no network"
    against = f": against it {told} (exploratory)" if told else ""
    return f"The best control that {what} is {name} with {best.loc[name, 'value']:.3f}{against}."


def some_names(names: Any) -> str:
    """Return the names, or how many there are where nobody would read them all."""
    listed = list(names)
    return names_of(listed) if len(listed) <= MOST_NAMES else f"{len(listed)} of them"


def names_of(names: Any) -> str:
    """Return the names with commas and an "and"."""
    listed = list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
