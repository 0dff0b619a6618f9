"""The verdict in words, from the tables alone."""

from __future__ import annotations

from typing import Any

import pandas as pd

from facemae import config

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "eer": "equal error rate",
    "accuracy": "verification accuracy",
    "rank1": "rank-1 identification",
}
WHAT_A_TIE_MEANS = (
    "A tie means that no difference was shown, not that there is none; each verdict's "
    "smallest detectable difference says what this evaluation could have seen."
)
MOST_NAMES = 8  # in a sentence
LARGEST_DIFFERENCE = 0.5  # between two runs; what could only have been told beyond it was not to be told


def verdict_in_words(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Return the primary metric, the headline and the sentences that go with it."""
    metric = experiment.evaluate.primary
    verdicts = verdicts[verdicts["metric"] == metric]
    table = leaderboard[leaderboard["metric"] == metric].set_index("run")
    scratch = [name for name in experiment.run_names if experiment.run(name).pretrain is None]
    pretrained = [name for name in experiment.run_names if name not in scratch]
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
    if (against["verdict"] == "undecided").any():
        return "No verdict: one seed cannot tell a strategy from the luck of its training; use two or more."
    parts = [_group(against, verdict) for verdict in ("better", "worse")]
    called = " and ".join(part for part in parts if part)
    ties = against[against["verdict"] == "tie"]
    if not called:
        return (
            f"No masking strategy beat training from scratch {where}: {_some(ties['run_a'])} "
            f"{'ties' if len(ties) == 1 else 'all tie'}; {_power(ties['detectable'].median())}."
        )
    rest = f"; {_some(ties['run_a'])} {'ties' if len(ties) == 1 else 'tie'}" if len(ties) else ""
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
    return f"{_names(gains)} {'is' if len(gains) == 1 else 'are'} {verdict}"


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
    return f"Between the masking strategies, {_names(wins)}{rest}."


def _controls(table: pd.DataFrame, verdicts: pd.DataFrame, experiment: config.Experiment) -> str:
    baselines = table[table["kind"] == "baseline"]
    if baselines.empty:
        return ""
    lower_is_better = experiment.evaluate.primary == "eer"
    best = baselines.sort_values("value", ascending=lower_is_better).iloc[0]
    against = verdicts[verdicts["run_b"] == best.name]
    counts = [
        (verdict, list(against.loc[against["verdict"] == verdict, "run_a"]))
        for verdict in ("better", "worse", "tie")
    ]
    words = [f"{_some(names)} {_plural(verdict, len(names))}" for verdict, names in counts if names]
    found = f": against it {'; '.join(words)}" if words else ""
    return f"The best control that trains no network is {best.name} with {best['value']:.3f}{found}."


def _plural(verdict: str, count: int) -> str:
    if verdict == "tie":
        return "ties" if count == 1 else "tie"
    return f"{'is' if count == 1 else 'are'} {verdict}"


def _some(names: Any) -> str:
    """Return the names, or how many there are where nobody would read them all."""
    listed = list(names)
    return _names(listed) if len(listed) <= MOST_NAMES else f"{len(listed)} of them"


def _names(names: Any) -> str:
    listed = list(names)
    return " and ".join([", ".join(listed[:-1]), listed[-1]]) if len(listed) > 1 else "".join(listed)
