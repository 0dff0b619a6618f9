"""The comparison page: what each masking strategy bought, cost, hid and completed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import streamlit as st
from numpy.typing import NDArray

from facemae import config
from facemae.app import elements, frame
from facemae.app.parts import completion, photo_input
from facemae.evaluation.records import METRICS, metric_label
from facemae.report import chart_spec, charts, conditions, curves, faces, phrases, reconstructions, tables
from facemae.report.phrases import ALT, HOW_TO_READ, masked_runs

SHOWN = 2  # faces of a strip, so that each can be seen on a telephone
NARROWEST, WIDEST = 270, 400  # pixels of a strip, of which a telephone shows one
MAP_WIDTH = 222
MOVING = "Let them change every second"  # off at first: not everybody bears motion
MATRIX, ROW_NAMES, CELL = ".st-key-verdict_matrix", 130, 78  # pixels of the names, and least of a verdict
RANKED = ("run", "strategy", "origin", "value", "ci_low", "ci_high", "seeds", "people")
VERDICT_COLUMNS: dict[str, Any] = {
    "run_a": "Run",
    "run_b": "Against",
    "verdict": "Verdict",
    "note": "Why",
    "family": "Family",
    "difference": elements.number("Difference", "%+.3f"),
    "ci_low": elements.number("Interval from", "%+.3f"),
    "ci_high": elements.number("to", "%+.3f"),
    "p_adjusted": elements.number("Adjusted p", "%.3f"),
    "seconds_difference": elements.number("Extra seconds", "%+.0f"),
    "budget_note": "Budget",
}


def render() -> None:
    """Show the page."""
    st.title("Compare masking strategies")
    with frame.explained():
        setup = frame.load(tables.experiment)
        every = frame.load(tables.leaderboard)
        names = list(dict.fromkeys(every["run"]))
        picked = st.multiselect(
            "Runs and controls", names, default=names, key="runs", bind="query-params",
            help="Everything on this page follows, but for the claims, which are judged on all.",
        )  # fmt: skip
        chosen = [name for name in names if name in picked]
        leaderboard = every[every["run"].isin(chosen)]
        looks = chart_spec.looks(tables.roster(setup))
        masked = [name for name in masked_runs(setup) if name in chosen]
        frame.tabs(
            {
                "Ranking": lambda: _ranking(setup, leaderboard, chosen, looks),
                "Masks": lambda: _masks(setup, masked),
                "Completions": lambda: _completions(setup, masked),
                "Harder conditions": lambda: _conditions(leaderboard, looks),
            }
        )


def _ranking(
    setup: config.Experiment, leaderboard: pd.DataFrame, chosen: list[str], looks: chart_spec.Looks
) -> None:
    metric = _metric(setup, leaderboard)
    if metric is None:
        st.info("None of these runs was measured; choose others.", icon=":material/info:")
        return
    form = elements.chart_form("save")
    left, right = st.columns(2, gap="medium")
    with left:
        st.subheader(f"Ranking by {metric_label(metric)}")
        elements.chart(curves.leaderboard(leaderboard, metric, looks), form)
        with st.expander("The ranking in numbers"):
            ranking = tables.told(setup, curves.ranked(leaderboard, metric).iloc[::-1])
            alt = f"Table: {metric_label(metric)} with its interval, runs first, the best on top."
            elements.results_table(ranking, alt, RANKED)
    with right:
        st.subheader("What the extra seconds bought")
        elements.chart(curves.cost(leaderboard, metric, looks), form)
    _verdicts(setup, metric, chosen, form)
    elements.claims(frame.load(tables.headline).claims)


def _metric(setup: config.Experiment, leaderboard: pd.DataFrame) -> str | None:
    """Let the reader choose one of the metrics that the runs have a value of; None where there is none."""
    table = phrases.scalars(leaderboard)
    found = set(table.loc[table["value"].notna(), "metric"])
    names = [name for name in METRICS if name in found]
    if not names:
        return None
    primary = setup.evaluate.primary
    first = names.index(primary) if primary in names else 0
    metric = elements.choose("Metric", names, "metric", first, format_func=metric_label)
    if metric != primary:
        st.caption(f"The verdict is by {metric_label(primary)}; this is exploratory.")
    return metric


def _verdicts(setup: config.Experiment, metric: str, chosen: list[str], form: str) -> None:
    table = frame.load(tables.verdicts)
    table = table[table["run_a"].isin(chosen) & table["run_b"].isin(chosen) & (table["metric"] == metric)]
    if table.empty:
        return
    st.subheader("Verdicts")
    runs = [name for name in tables.run_names(setup) if name in chosen]
    controls = [name for name in setup.baselines if name in chosen]
    st.caption(HOW_TO_READ["verdicts"])
    matrix = charts.verdict_matrix(table, metric, runs, controls)
    with st.container(key="verdict_matrix"):  # scrolled on a telephone, where words would overlap
        least = ROW_NAMES + CELL * len(runs)
        st.html(f"<style>{MATRIX} {{overflow-x: auto}} {MATRIX} > div {{min-width: {least}px}}</style>")
        elements.draw(matrix, "verdicts", ALT["verdicts"], form, HOW_TO_READ["verdicts"])
    with st.expander("Every comparison in numbers"):
        alt = "Table: every pair of runs with verdict, difference, interval and budget."
        elements.table(phrases.primary_first(table), alt, VERDICT_COLUMNS)


@frame.part
def _masks(setup: config.Experiment, masked: list[str]) -> None:
    """Show one face under the masks of several strategies, still or moving, and what masks are like."""
    parameters = _parameters(setup)
    known = [name for name in completion.DRAWN if name in parameters]
    own = [setup.run(name).strategy for name in masked]
    usual = [name for name in dict.fromkeys(own) if name in known] or known[:4]
    chosen = st.multiselect("Masks", known, default=usual, key="masks", bind="query-params")
    ratio = setup.defaults.pretrain.mask_ratio if setup.defaults.pretrain else 0.75
    percent = st.slider(
        "Hidden (%)", 5, 95, round(100 * ratio / 5) * 5, step=5, key="hidden", bind="query-params"
    )
    moving = st.toggle(MOVING, key="moving", bind="query-params")
    face = photo_input.choose_sample("face", "Face", frame.load(faces.faces)["sample_id"].to_list())
    if face is not None:
        patches, png = setup.data.image_size // setup.defaults.model.patch_size, frame.load(faces.face, face)
        drawn = {
            name: completion.animation(png, name, percent / 100, parameters[name], patches)[moving]
            for name in chosen
        }
        alt = ALT["animated"] if moving else "one face under a mask."
        elements.pictures(drawn, after=f" mask: {alt}")
        st.caption(HOW_TO_READ["animated" if moving else "masks"])
    if masked:
        st.subheader("What masks are like")
        measured = frame.load(reconstructions.masks)
        measured = measured[measured["run"].isin(masked)]
        elements.table(reconstructions.mask_table(measured), ALT["measures"])
        st.caption(HOW_TO_READ["measures"])


def _parameters(setup: config.Experiment) -> dict[str, dict[str, Any]]:
    """Return the parameters of each strategy that is configured, a run's own before the defaults'."""
    found: dict[str, dict[str, Any]] = {}
    own = [setup.run(name).masked for name in masked_runs(setup)]
    for settings in filter(None, (setup.defaults.pretrain, *reversed(own))):
        for name in config.STRATEGIES:
            if getattr(settings.masks, name) is not None:
                found[name] = settings.masks.parameters(name)
    return found


@frame.part
def _completions(setup: config.Experiment, masked: list[str]) -> None:
    """Show faces as each run completes them, at every step that is kept, and where on a face it errs."""
    if not masked:
        st.info("No masked autoencoder is chosen.", icon=":material/info:")
        return
    kept = {name: frame.load(reconstructions.by_step, name, setup.seeds[0]) for name in masked}
    st.caption(HOW_TO_READ["reconstructions"])
    steps, step = sorted({step for each in kept.values() for step in each}), None
    if len(steps) > 1:
        step = st.select_slider(
            "Step of pretraining", steps, value=steps[-1], format_func="{:,}".format, key="step"
        )
    strips = {}
    for name in masked:
        each = frame.load(reconstructions.reconstructions, name, setup.seeds[0])
        completed = _at(kept[name], step, each.reconstruction)
        count = min(SHOWN, len(completed))
        strip = each.face[:count], each.hidden[:count], completed[:count]
        run = setup.run(name)
        title = f"{name} ({run.strategy} mask, {run.mask_ratio:.0%} hidden)"
        strips[title] = reconstructions.reconstruction_strip(*strip)
    alt = f": {ALT['reconstructions']}"
    elements.pictures(strips, after=alt, narrowest=NARROWEST, widest=WIDEST)
    _errors(setup, masked)


def _at(
    kept: dict[int, reconstructions.Pixels], step: int | None, end: reconstructions.Pixels
) -> reconstructions.Pixels:
    """Return the completions of the last step that is kept up to one, or those of the end."""
    before = [each for each in kept if step is not None and each <= step]
    return kept[max(before)] if before else end


def _errors(setup: config.Experiment, masked: list[str]) -> None:
    """Show where on the face each run completes badly, as heat maps and by face region."""
    st.subheader("Where each strategy errs")
    st.caption(HOW_TO_READ["errors"])
    form = elements.chart_form("save_errors")
    found = {name: frame.load(reconstructions.patch_errors, name) for name in masked}
    with st.container(horizontal=True, gap="small"):
        for name, each in found.items():
            with st.container(width=MAP_WIDTH, gap=None):
                st.text(name)
                alt, read = f"{name}: {ALT['errors']}", HOW_TO_READ["errors"]
                elements.draw(charts.error_map(each), f"errors_{name}", alt, form, read)
    first = next(iter(found.values()))
    st.caption(
        f"This rests on {first.faces} faces of people not trained on, completed by {first.seeds} trainings "
        "under each run's own masks. It shows where on a face a run errs; it does not rank the runs, since "
        "each hides other places (the error under one mask for all is in the table of masks), and where the "
        "target is normalised, brightness and contrast are borrowed from the original and count as right. "
        "It says nothing of recognition."
    )
    if st.toggle("By face region", key="regions", bind="query-params"):
        _by_region(setup, found)


def _by_region(setup: config.Experiment, found: dict[str, reconstructions.PatchErrors]) -> None:
    if setup.data.align == "crop":
        st.info("These faces were taken as they are, so nobody knows where their regions lie.")
        return
    rows = []
    for name, errors in found.items():
        labels, names = _regions(len(errors.missed))
        shares = reconstructions.region_errors(errors, labels, names)
        rows.append({"Run": name} | {title.capitalize(): 100 * share for title, share in shares.items()})
    columns = {name: elements.number(name, "%.0f%%") for name in rows[0]} | {"Run": "Run"}
    alt = "Table: the share of the variation that each run misses, by face region."
    elements.table(pd.DataFrame(rows), alt, columns)
    st.caption("The mean over a region's patches; a region that no patch lies in mostly is empty.")


@st.cache_data(show_spinner="Finding the face regions…")
def _regions(side: int) -> tuple[NDArray[np.int64], list[str]]:
    # Imported here, since PyTorch takes seconds and the page opens without it.
    from facemae.masking.regions import REGIONS, region_map

    return region_map(side).numpy(), list(REGIONS)


def _conditions(leaderboard: pd.DataFrame, looks: chart_spec.Looks) -> None:
    """Show what was measured under conditions: small charts in pairs, then the wide ones."""
    found = conditions.conditions(leaderboard, looks)
    if not found:
        st.info(
            "Nothing was measured on covered or lit faces, nor with fewer labels: robustness.runs and "
            "label_curve.runs in config.yaml name the runs for that.", icon=":material/info:",
        )  # fmt: skip
        return
    form = elements.chart_form("save_conditions")
    small = [each for each in found if len(each.panels) == 1]
    for start in range(0, len(small), 2):
        pair = small[start : start + 2]
        for column, each in zip(st.columns(len(pair)), pair, strict=True):
            with column:
                _condition(each, form)
    for each in found:
        if each not in small:
            _condition(each, form)


def _condition(each: chart_spec.Chart, form: str) -> None:
    st.subheader(each.title)
    elements.chart(each, form)
    with st.expander("The same in numbers"):
        for title, panel in each.panels.items():
            if title:
                st.text(title)
            table = conditions.table_of(conditions.numbers(panel), each.x.title)
            elements.table(table, f"Table: {each.title} {title}".strip())
