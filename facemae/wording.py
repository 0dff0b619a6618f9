"""The verdict in words, from the tables alone, and the words for what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from facemae import config
from facemae.metrics import higher_is_better

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
WHAT_A_TIE_MEANS = (
    "A tie means that no difference was shown, not that there is none; each verdict's "
    "smallest detectable difference says what this evaluation could have seen."
)
MOST_NAMES = 8  # in a sentence
_TIES = {1: "ties", 2: "both tie"}
LARGEST_DIFFERENCE = 0.5  # between two runs; what could only have been told beyond it was not to be told


def metric_label(name: str) -> str:
    """Return a metric's name in words; a name that is not known stands for itself."""
    kind, _, target = name.partition("=")
    return _AT[kind].format(target) if kind in _AT else METRIC_NAMES.get(name, name)


def scalars(leaderboard: pd.DataFrame) -> pd.DataFrame:
    """Return the rows that were measured under no condition: at most one for each run and metric."""
    return leaderboard[leaderboard["condition"] == ""]


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


def verdict_in_words(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Return the primary metric, the headline and the sentences that go with it.

    The headline holds masked autoencoders against training from scratch; what else a configuration has,
    rivals and cheap controls, is the claims' business (claims.py).
    """
    metric = experiment.evaluate.primary
    verdicts = verdicts[verdicts["metric"] == metric]
    table = scalars(leaderboard)
    table = table[table["metric"] == metric].set_index("run")
    scratch, pretrained = scratch_runs(experiment), masked_runs(experiment)
    sentences = [_among_strategies(verdicts, pretrained), _controls(table, verdicts, experiment)]
    people = int(table["people"].iloc[0])
    return {
        "metric": metric,
        "people": people,
        "seeds": len(experiment.seeds),
        "headline": _headline(verdicts, scratch, pretrained, METRIC_NAMES[metric], people),
        "sentences": [sentence for sentence in (*sentences, WHAT_A_TIE_MEANS) if sentence],
    }


def _headline(
    verdicts: pd.DataFrame, scratch: list[str], pretrained: list[str], metric: str, people: int
) -> str:
    if not scratch or not pretrained:
        return "No verdict on pretraining: that takes a run with pretraining and one without."
    control = scratch[0]
    against = verdicts[(verdicts["run_b"] == control) & verdicts["run_a"].isin(pretrained)]
    where = f"on {people} unseen people, by {metric}"
    if against.empty:
        return f"No verdict: {metric} was not measured; the tables say why."
    if (against["verdict"] == "undecided").any():
        return "No verdict: one seed cannot tell a strategy from the luck of its training; use two or more."
    parts = [_group(against, verdict) for verdict in ("better", "worse")]
    called = " and ".join(part for part in parts if part)
    ties = against[against["verdict"] == "tie"]
    if not called:
        return (
            f"No masking strategy beat training from scratch {where}: {some_names(ties['run_a'])} "
            f"{_TIES.get(len(ties), 'all tie')}; {_power(ties['detectable'].median())}."
        )
    rest = f"; {some_names(ties['run_a'])} {'ties' if len(ties) == 1 else 'tie'}" if len(ties) else ""
    return f"Against training from scratch {where}: {called}{rest}."


def _power(detectable: float) -> str:
    """Return what an evaluation could have seen; metrics lie between 0 and 1, and chance near a half."""
    if detectable >= LARGEST_DIFFERENCE:
        return "so few seeds would hardly have shown any difference among so many comparisons"
    return f"a difference of about {detectable:.3f} would have been seen"


def _group(against: pd.DataFrame, verdict: str) -> str:
    rows = against[against["verdict"] == verdict]
    if rows.empty:
        return ""
    gains = [f"{row.run_a} ({row.difference:+.3f})" for row in rows.itertuples()]
    return f"{names_of(gains)} {'is' if len(gains) == 1 else 'are'} {verdict}"


def _among_strategies(verdicts: pd.DataFrame, pretrained: list[str]) -> str:
    among = verdicts[verdicts["run_a"].isin(pretrained) & verdicts["run_b"].isin(pretrained)]
    if among.empty or (among["verdict"] == "undecided").any():
        return ""
    called = among[among["verdict"] != "tie"]
    ties = len(among) - len(called)
    if called.empty:
        pairs = "1 pair, a tie" if ties == 1 else f"{ties} pairs, all ties"
        return f"Between the masking strategies no difference was shown ({pairs})."
    wins = [f"{row.run_a} is {row.verdict} than {row.run_b}" for row in called.itertuples()]
    rest = {0: "", 1: "; the other pair ties"}.get(ties, f"; the other {ties} pairs tie")
    return f"Between the masking strategies, {names_of(wins)}{rest}."


def _controls(table: pd.DataFrame, verdicts: pd.DataFrame, experiment: config.Experiment) -> str:
    baselines = table[(table["kind"] == "baseline") & table["value"].notna()]
    if baselines.empty:
        return ""
    ascending = not higher_is_better(experiment.evaluate.primary)
    best = baselines.sort_values("value", ascending=ascending).iloc[0]
    against = verdicts[verdicts["run_b"] == best.name]
    counts = [
        (verdict, list(against.loc[against["verdict"] == verdict, "run_a"]))
        for verdict in ("better", "worse", "tie")
    ]
    words = [f"{some_names(names)} {_plural(verdict, len(names))}" for verdict, names in counts if names]
    found = f": against it {'; '.join(words)}" if words else ""
    return f"The best control that trains no network is {best.name} with {best['value']:.3f}{found}."


def _plural(verdict: str, count: int) -> str:
    if verdict == "tie":
        return "ties" if count == 1 else "tie"
    return f"{'is' if count == 1 else 'are'} {verdict}"


def some_names(names: Any) -> str:
    """Return the names, or how many there are where nobody would read them all."""
    listed = list(names)
    return names_of(listed) if len(listed) <= MOST_NAMES else f"{len(listed)} of them"


def names_of(names: Any) -> str:
    """Return the names with commas and an "and"."""
    listed = list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
