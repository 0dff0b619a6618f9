"""The verdict in words: an answer that needs no statistics, and the numbers behind it.

Both come from the tables of a comparison alone. The answer is about the primary family, which was fixed
before the run: every masked autoencoder against the runs of `evaluate.against`.
"""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pandas as pd

from facemae import config
from facemae.evaluation.baselines.off_the_shelf import RECOGNISERS
from facemae.evaluation.records import higher_is_better, metric_label
from facemae.models import shipped_models
from facemae.report.phrases import (
    OPPOSITE,
    Comparison,
    by_verdict,
    hides,
    masked_runs,
    names_of,
    origins,
    scratch_runs,
    some_names,
)

Row = dict[str, Any]  # of the verdicts, from the side of one of the two runs

NO_FAMILY = (
    "No verdict on pretraining: that takes a masked autoencoder, and a run named in evaluate.against to "
    "compare it with."
)
# What a share means to a reader who does not know the metric.
PLAIN = {
    "roc_auc": "get {} comparisons of faces right",
    "accuracy": "judge {} pairs of photos rightly",
    "eer": "judge {} pairs of photos rightly",
    "rank1": "give {} photos the right name",
}
MEANT = {
    "roc_auc": "A comparison is right where two photos of one person come out more alike than two photos of "
    "different people.",
    "accuracy": "A pair is judged as showing one person or two.",
    "eer": "A pair is judged as showing one person or two, with as many errors of either kind.",
    "rank1": "A photo has its right name where it comes out most alike a known photo of the same person.",
}
CHANCE = {"roc_auc": 0.5, "accuracy": 0.5, "eer": 0.5}  # of a network that guesses
UNTRAINED = ("pixels", "pca", "random_weights")  # baselines that train no network
NOT_LEARNT = "has not learnt"  # in the note of a comparison
DID = {
    "better": "helped",
    "worse": "hurt",
    "equivalent": "made no difference that matters",
    "undecided": "is shown neither to help nor to hurt",
}
SAME_TIME = 0.1  # share by which the times of two trainings may differ to be called the same
UNKNOWN = "Whether pretraining with masks helps cannot be told yet"


def verdict_in_words(
    experiment: config.Experiment, leaderboard: pd.DataFrame, verdicts: pd.DataFrame
) -> dict[str, Any]:
    """Return the primary metric, the answer ("headline") and the sentences with the numbers behind it.

    The first of the sentences tell the primary family; what follows is exploratory and says so. Contrastive
    runs and controls that hide patches in fine-tuning are judged with the claims (claims.py).
    """
    made = Comparison(experiment, leaderboard, verdicts)
    rows, name = made.rows(made.primary, experiment.primary_pairs), metric_label(made.primary)
    against: dict[str, list[Row]] = {}
    for row in rows:
        against.setdefault(row["run_b"], []).append(row)
    plain = [each for each in against if _plain(experiment, each)]
    if against:
        (first, judged), *others = against.items()
        decides = experiment.primary_pairs[0][1]
        said = [f"{decides}, which decides, was not measured."] if decides != first else []
        more = [_against(made, control, part) for control, part in others if control in plain]
        headline = " ".join(filter(None, [*said, _answer(made, first, judged), *more]))
    elif experiment.primary_pairs:
        headline = f"No verdict: {name} was not measured; the tables say why."
    else:
        headline = NO_FAMILY
    controls = ["training from scratch" if [each] == plain else each for each in against]
    controls[:1] = [f"{first} on {made.people:,} unseen people, by {name}" for first in controls[:1]]
    sentences = [
        MEANT[made.primary] if against else "",
        *[f"Against {each}: {_told(part)}." for each, part in zip(controls, against.values(), strict=True)],
        *dict.fromkeys(f"Undecided because {row['note']}." for row in rows if row["note"]),
        _among_strategies(made),
        _best_control(made),
        *[_started(made, run) for run in experiment.run_names],
        _what_verdicts_mean(experiment),
    ]
    return {
        "metric": made.primary,
        "people": made.people,
        "seeds": len(experiment.seeds),
        "headline": headline,
        "sentences": [sentence for sentence in sentences if sentence],
    }


# --- the answer ---


def _answer(made: Comparison, control: str, rows: list[Row]) -> str:
    """Return what pretraining did against a control, by how much, and how sure that is."""
    failed = {name: _failure(made, name) for name in (control, *(row["run_a"] for row in rows))}
    learnt = [row for row in rows if not failed[row["run_a"]]]
    if not learnt:
        reason = f"{failed[rows[0]['run_a']]} ({made.people:,} unseen people)"
        if failed[control]:
            return f"Nothing was learnt: the networks {reason}, so this says nothing about pretraining."
        return (
            f"Pretraining with masks did not help: the pretrained networks {reason}, while networks trained "
            "from scratch do."
        )
    groups = {verdict: [row["run_a"] for row in found] for verdict, found in by_verdict(learnt).items()}
    numbers = _numbers(made, [row["run_a"] for row in learnt], control)
    if len(groups) == 1:
        (verdict,) = groups
        answer = UNKNOWN if verdict == "undecided" else f"Pretraining with masks {DID[verdict]}"
        return f"{answer}: {numbers}; {_how_sure(made, verdict)}."
    *words, last = [f"{DID[verdict]} with {some_names(names)}" for verdict, names in groups.items()]
    sure = "; where neither is shown, chance alone can do that" if "undecided" in groups else ""
    return f"Pretraining with masks {', '.join(words)} and {last}: {numbers}{sure}."


def _against(made: Comparison, control: str, rows: list[Row]) -> str:
    """Return what pretraining did against a further run from scratch, such as one of fewer steps."""
    rows = [row for row in rows if not _failure(made, row["run_a"])]
    if not rows or _failure(made, control):
        return ""
    found = {verdict: [row["run_a"] for row in part] for verdict, part in by_verdict(rows).items()}
    did = [DID[verdict] + f" with {some_names(names)}" * (len(found) > 1) for verdict, names in found.items()]
    runs = [row["run_a"] for row in rows]
    return (
        f"Against {control}, with {_count(made, [control])}{_time(made, runs, control)}, it {names_of(did)}."
    )


def _failure(made: Comparison, name: str) -> str:
    """Return why a run has learnt nothing of faces, "" where it has."""
    found, verdicts = made.values, made.verdicts
    if name not in found.index or pd.isna(found["value"][name]):
        return ""
    chance, higher = CHANCE.get(made.primary), higher_is_better(made.primary)
    if chance is not None and (
        found["ci_low"][name] <= chance if higher else found["ci_high"][name] >= chance
    ):
        return "recognise people no better than guessing"
    notes = verdicts.loc[(verdicts["run_a"] == name) | (verdicts["run_b"] == name), "note"].astype(str)
    if notes.str.startswith(f"{name} {NOT_LEARNT}").any():
        return "did not get far enough in training to tell people apart"
    for row in made.rows(made.primary, [(name, control) for control in UNTRAINED]):
        if row["verdict"] == "worse":
            return f"recognise people worse than {row['run_b']}, which trains no network,"
    return ""


def _numbers(made: Comparison, runs: list[str], control: str) -> str:
    """Return how often networks are right with pretraining and without it, in a thousand."""
    other = "without it" if _plain(made.experiment, control) else f"with {control}"
    right = PLAIN[made.primary].format(f"{_count(made, runs)} of 1,000")
    return f"with it networks {right}, {other} {_count(made, [control])}{_time(made, runs, control)}"


def _count(made: Comparison, runs: list[str]) -> str:
    value = made.values["value"][runs].dropna().astype(float)
    if value.empty:
        return "none"
    share = value if higher_is_better(made.primary) else 1 - value
    right = (1000 * share.map("{:.3f}".format).astype(float)).round().astype(int)  # as tables round it
    return f"{right.min():,}" if right.min() == right.max() else f"{right.min()} to {right.max():,}"


def _time(made: Comparison, runs: list[str], control: str) -> str:
    """Return how long a control trained, as a share of the runs' time; nothing where that is not known."""
    seconds = made.values["seconds_pretrain"] + made.values["seconds_finetune"]
    own = seconds[runs].mean()
    if not (own > 0 and seconds[control] > 0):
        return ""
    share = seconds[control] / own
    return (
        " in as much training time"
        if abs(share - 1) <= SAME_TIME
        else f" in {share:.0%} of the training time"
    )


def _how_sure(made: Comparison, verdict: str) -> str:
    count, margin = len(made.experiment.seeds), 1000 * made.experiment.evaluate.equivalence
    trainings = f"with {made.people:,} people and {count} training{'s' * (count > 1)} of each network"
    if verdict == "equivalent":
        return f"{trainings}, more than {margin:.0f} in 1,000 either way is ruled out"
    return f"{trainings}, chance alone {'hardly does' if verdict in OPPOSITE else 'can do'} that"


def _plain(experiment: config.Experiment, control: str) -> bool:
    return control in scratch_runs(experiment) and not hides(experiment.run(control))


# --- the numbers behind it ---


def _told(rows: list[Row]) -> str:
    """Return the runs by verdict, with their differences where it counts."""
    parts = []
    for verdict, found in by_verdict(rows).items():
        shown = [f" ({row['difference']:+.3f})" * (verdict in OPPOSITE) for row in found]
        names = [row["run_a"] + difference for row, difference in zip(found, shown, strict=True)]
        parts.append(f"{some_names(names)} {'is' if len(names) == 1 else 'are'} {verdict}")
    return "; ".join(parts)


def _among_strategies(made: Comparison) -> str:
    primary = {frozenset(pair) for pair in made.experiment.primary_pairs}
    pairs = [(b, a) for a, b in combinations(masked_runs(made.experiment), 2) if {a, b} not in primary]
    rows = made.rows(made.primary, pairs)
    wins = [f"{r['run_a']} is {r['verdict']} than {r['run_b']}" for r in rows if r["verdict"] in OPPOSITE]
    counts = [
        f"{len(found)} {'pair is' if len(found) == 1 else 'pairs are'} {verdict}"
        for verdict, found in by_verdict(rows).items()
        if verdict not in OPPOSITE
    ]
    words = "; ".join(names_of(part) for part in (wins, counts) if part)
    return f"Between the other masking strategies (exploratory): {words}." if words else ""


def _best_control(made: Comparison) -> str:
    """Return who beats the best control: of those that learn from the same labels, where there is one."""
    controls = made.values[(made.values["kind"] == "baseline") & made.values["value"].notna()]
    learning = controls[controls.index.isin(config.BASELINES_FROM_LABELS)]
    best = learning if len(learning) else controls
    if best.empty:
        return ""
    values = best["value"].sort_values(ascending=not higher_is_better(made.primary), kind="stable")
    name, value = values.index[0], values.iloc[0]
    words = _told(made.rows(made.primary, [(run, name) for run in made.experiment.run_names]))
    what = "learns from the same labels" if len(learning) else "trains no network"
    against = f": against it {words} (exploratory)" if words else ""
    return f"The best control that {what} is {name} with {value:.3f}{against}."


def _started(made: Comparison, name: str) -> str:
    """Return why a run that uses finished networks is not the others' equal, and how it does."""
    run, plain = made.experiment.run(name), next(iter(scratch_runs(made.experiment)), name)
    used = names_of(f"{how} {which}, which {_seen(which)}" for how, which in origins(run))
    if not used:
        return ""
    if run.pretrain:
        return f"{name} {used}: it shows what that and its pretraining buy together, not what a mask does."
    shapes = [made.experiment.run(each).model.shape for each in (name, plain)]
    own, other = (f"{depth} blocks of width {width}" for width, depth, _ in shapes)
    size = "" if own == other else f" and is of another size ({own}, not {other})"
    words = _told(made.rows(made.primary, [(name, plain)]))
    against = f"; against {plain} {words}" if words else ""
    return (
        f"{name} {used}{size}: it shows what a finished network buys, not what a mask does (exploratory)"
        f"{against}."
    )


def _seen(name: str) -> str:
    photos = RECOGNISERS[name].photos if name in RECOGNISERS else 0
    if name in shipped_models.WEIGHTS and not shipped_models.missing(name):
        photos = int(shipped_models.card(name)["trained_on"]["photos"])
    return f"has seen {photos:,} other faces" if photos else "has learnt before"


def _what_verdicts_mean(experiment: config.Experiment) -> str:
    words = (
        "Equivalent means that the interval of the difference lies within "
        f"{experiment.evaluate.equivalence:g} either way; undecided means that these people and seeds cannot "
        "tell, which is no proof of equality."
    )
    if not experiment.primary_pairs:
        return f"{words} evaluate.against names no run, so all comparisons are exploratory."
    return (
        f"{words} The comparisons against {names_of(experiment.controls)} decide and are corrected "
        "together; all others are exploratory."
    )
