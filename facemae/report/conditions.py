"""Charts of what was measured under conditions: faces covered, lit otherwise, learnt from fewer labels."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from facemae.evaluation.savings import label_curve
from facemae.report.chart_spec import Axis, Chart, Looks, Series, with_interval
from facemae.report.phrases import metric_label, rows_of

CLEAN = "none"  # the condition of unchanged faces
ALL_PAIRS = "all pairs"
COLUMNS = ["run", "x", "value", "ci_low", "ci_high"]
KINDS = {"block": "rectangle", "left": "left half", "right": "right half", "side": "light from the side"}
CHARTED = ("occlusion", "lighting", "illumination", "labels")  # protocols that have charts
_BANDS = "Bands are intervals for new people and new training."


def conditions(leaderboard: pd.DataFrame, looks: Looks) -> list[Chart]:
    """Return the charts of what was measured under conditions; nothing for a protocol that was not run."""
    made = (occlusion, occlusion_kinds, lighting, illumination, labels, labels_per_person)
    return [found for make in made if (found := make(leaderboard, looks)) is not None]


def occlusion(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return accuracy by covered share of the face, the mean over all kinds of cover."""
    table = _accuracy(leaderboard, "occlusion")
    kinds = table.loc[table["condition"] != CLEAN].groupby("run")["condition"].transform("nunique")
    covered = table[table["condition"] != CLEAN].assign(kinds=kinds)
    if covered.empty:
        return None
    grouped = covered.groupby(["run", "amount"], sort=False)
    mean = grouped[["value", "ci_low", "ci_high", "kinds"]].mean()
    mean = mean[grouped.size() == mean["kinds"]].reset_index()  # a kind less would bend the mean
    lines = pd.concat([table[table["condition"] == CLEAN], mean])
    return Chart(
        name="occlusion",
        title="Covered faces",
        read=(
            "Accuracy by the share of the face that is covered, the mean over all kinds of cover, at the "
            "threshold of uncovered faces; a flatter curve is more robust, a higher one more accurate. Bands "
            "are the mean of the kinds' intervals, which is no narrower than the interval of their mean."
        ),
        alt="Line chart: accuracy by covered share of the face, one line with its interval per run.",
        panels={"": _lines(lines, leaderboard, looks)},
        x=Axis("share of the face covered"),
        y=Axis(metric_label("accuracy")),
    )


def occlusion_kinds(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return accuracy by covered share of the face, a panel for each kind of cover."""
    return _by_kind(
        leaderboard,
        looks,
        "occlusion",
        name="occlusion-kinds",
        title="Covered faces, by kind of cover",
        read=(
            "Where the kinds differ, the place of what is covered matters and not its size alone; all start "
            f"from the same uncovered faces. {_BANDS}"
        ),
        alt="Line charts, one for each kind of cover: accuracy by covered share, one line per run.",
        x="share covered",
    )


def lighting(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return accuracy by strength of a synthetic change of light, a panel for each kind."""
    return _by_kind(
        leaderboard,
        looks,
        "lighting",
        name="lighting",
        title="Changed light",
        read=(
            "Accuracy by the strength of a synthetic change of light, at the threshold of unchanged faces; 1 "
            f"is the most. {_BANDS}"
        ),
        alt="Line charts, one for each change of light: accuracy by its strength, one line per run.",
        x="strength of the change",
    )


def illumination(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return identification and error rate under real light, from frontal to sideways."""
    table = leaderboard[
        (leaderboard["protocol"] == "illumination")
        & (leaderboard["condition"] != "")
        & leaderboard["value"].notna()
    ]
    table = table.assign(amount=table["condition"])
    subsets = sorted(table["condition"].unique())
    panels = {
        metric_label(metric): _lines(table[table["metric"] == metric], leaderboard, looks, bars=True)
        for metric in ("rank1", "eer")
        if (table["metric"] == metric).any()
    }
    if not panels:
        return None
    return Chart(
        name="illumination",
        title="Real light from the side",
        read=(
            f"Photos under real light: from {subsets[0]} to {subsets[-1]} it comes further from the side, "
            "and the faces known are those lit from the front (S1). Bars are intervals for new people and "
            "new training."
        ),
        alt="Line charts: identification and error rate from frontal to sideways light, one line per run.",
        panels=panels,
        x=Axis("light, from the front to the side", words=subsets),
        y=Axis("rate"),
    )


def labels(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return accuracy by share of the labels."""
    return _by_labels(
        leaderboard,
        looks,
        "share",
        name="labels",
        title="Fewer labels",
        read=(
            "Accuracy by the share of the labels used in fine-tuning: a curve further left needs fewer "
            f"labels for the same accuracy. {_BANDS}"
        ),
        alt="Line chart: accuracy by share of the labels, one line with its interval per run.",
        x="share of the labels (logarithmic)",
    )


def labels_per_person(leaderboard: pd.DataFrame, looks: Looks) -> Chart | None:
    """Return accuracy by labelled faces of a person."""
    return _by_labels(
        leaderboard,
        looks,
        "per_person",
        name="labels-per-person",
        title="Fewer labels of each person",
        read=f"Accuracy by the most faces of a person used in fine-tuning. {_BANDS}",
        alt="Line chart: accuracy by labelled faces of a person, one line with its interval per run.",
        x="labelled faces of a person (logarithmic)",
    )


def _by_labels(
    leaderboard: pd.DataFrame, looks: Looks, condition: str, *, name: str, title: str, read: str, alt: str,
    x: str,
) -> Chart | None:  # fmt: skip
    table = label_curve(leaderboard, condition)
    places = sorted(table["amount"].unique())
    if len(places) < 2:  # all of the labels, and nothing to compare with
        return None
    axis = Axis(x, log=True, labels={place: f"{place:g}" for place in places})
    panels = {"": _lines(table, leaderboard, looks)}
    return Chart(name, title, read, alt, panels, axis, Axis(metric_label("accuracy")))


def _by_kind(
    leaderboard: pd.DataFrame, looks: Looks, protocol: str, *, name: str, title: str, read: str, alt: str,
    x: str,
) -> Chart | None:  # fmt: skip
    table = _accuracy(leaderboard, protocol)
    clean = table[table["condition"] == CLEAN]
    panels = {
        KINDS.get(kind, kind): _lines(
            pd.concat([clean, table[table["condition"] == kind]]), leaderboard, looks
        )
        for kind in table["condition"].unique()
        if kind != CLEAN
    }
    y = Axis(metric_label("accuracy"))
    return Chart(name, title, read, alt, panels, Axis(x), y) if panels else None


def _accuracy(leaderboard: pd.DataFrame, protocol: str) -> pd.DataFrame:
    """Return the accuracies of a protocol under its conditions, where they were not refused.

    The faces as they are (CLEAN) are the same in both protocols and need to be listed in one alone.
    """
    table = leaderboard[(leaderboard["metric"] == "accuracy") & leaderboard["value"].notna()]
    own = table[(table["protocol"] == protocol) & ~table["condition"].isin(["", CLEAN])]
    clean = table[table["condition"].eq(CLEAN) & table["run"].isin(own["run"])]
    return pd.concat([clean.drop_duplicates("run"), own])


def _lines(
    table: pd.DataFrame, leaderboard: pd.DataFrame, looks: Looks, *, bars: bool = False
) -> list[Series]:
    """Return each run's line along "amount", in the leaderboard's order of runs."""
    lines = []
    for name in leaderboard["run"].unique():
        part = table[table["run"] == name].sort_values("amount", kind="stable")
        if part.empty:
            continue
        known = part["ci_low"].notna().any()
        lines.append(
            Series(
                str(name), part["amount"].to_list(), part["value"].to_numpy(float), looks[str(name)],
                part["ci_low"].to_numpy(float) if known else None,
                part["ci_high"].to_numpy(float) if known else None, marker="circle", size=6, band=not bars,
                text=[with_interval(row) for row in rows_of(part)],
            )
        )  # fmt: skip
    return lines


# --- the numbers behind them, as text ---


def numbers(panel: Sequence[Series]) -> pd.DataFrame:
    """Return the numbers of a panel: run, x, value, ci_low and ci_high, the ends NaN where there is none."""
    nothing = float("nan")
    rows = [
        (each.name, *point)
        for each in panel
        for low, high in [(each.low, each.high) if each.low is not None else ([nothing] * len(each.x),) * 2]
        for point in zip(each.x, each.y, low, high, strict=True)
    ]
    return pd.DataFrame(rows, columns=COLUMNS)


def table_of(panel: pd.DataFrame, x: str) -> pd.DataFrame:
    """Return `numbers` as text: a row per run, a column per place, each value with its interval."""
    places = sorted(set(panel["x"]))
    cells = {(row["run"], row["x"]): with_interval(row) for row in rows_of(panel)}
    rows = [[run, *(cells.get((run, place), "") for place in places)] for run in dict.fromkeys(panel["run"])]
    heads = [place if isinstance(place, str) else f"{place:g}" for place in places]
    return pd.DataFrame(rows, columns=[f"Run, by {x}", *heads])


def grouped_tables(leaderboard: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return by title, as text, what was measured under conditions and has no chart: groups, all pairs."""
    table = leaderboard[(leaderboard["condition"] != "") & ~leaderboard["protocol"].isin(CHARTED)]
    every = table[table["condition"] == ALL_PAIRS]
    found = {"All against all": _pivot(every.assign(column=[metric_label(name) for name in every["metric"]]))}
    rest = table[table["condition"] != ALL_PAIRS]
    for metric, part in rest.groupby("metric", sort=False):
        found[f"By group: {metric_label(str(metric))}"] = _pivot(part.assign(column=part["condition"]))
    return {title: each for title, each in found.items() if len(each)}


def _pivot(table: pd.DataFrame) -> pd.DataFrame:
    """Return text cells: a row per run, a column per name in `column`, in the order they are met."""
    heads, order = list(dict.fromkeys(table["column"])), list(dict.fromkeys(table["run"]))
    cells = {(row["run"], row["column"]): with_interval(row) for row in rows_of(table)}
    rows = [[run, *(cells.get((run, head), "") for head in heads)] for run in order]
    return pd.DataFrame(rows, columns=["Run", *heads])
