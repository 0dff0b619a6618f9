"""The report's page: verdict, tables, charts and pictures in one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup
from PIL import Image

from facemae import config
from facemae.core import files
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.core.progress import say
from facemae.data.alignment import quality
from facemae.data.images import ImageError, open_image
from facemae.data.sources.base import Photo
from facemae.data.sources.manifest import read_photo
from facemae.report import chart_spec, charts, conditions, curves, faces, phrases, reconstructions, tables
from facemae.report.phrases import (
    MAIN_PROTOCOLS,
    PROTOCOLS,
    masked_runs,
    metric_label,
    primary_first,
    rows_of,
    scalars,
)
from facemae.report.static_charts import svg

TEMPLATE = "page.html.jinja"
MAX_REJECTED = 50
MAX_DOUBTFUL = 12  # of each warning
MAX_OVERLAPS = 3  # of each kind and action
BUDGET = {  # columns of the leaderboard that say what a score took
    "seconds_pretrain": "Pretraining seconds",
    "seconds_finetune": "Fine-tuning seconds",
    "images_pretrain": "Images seen in pretraining",
    "images_finetune": "Images seen in fine-tuning",
    "joules": "Joules",
}
# The false accept rate that was achieved stands beside the rate it allowed, and so for identification.
ACHIEVED = {"tar_at_far": ("far_at_target", "FAR"), "tpir_at_fpir": ("fpir_at_target", "FPIR")}
THUMBNAIL = 64  # pixels
STRIP = 1080  # pixels; the page is no wider
# Snakemake's report holds the page as a data: address in base64, and Chromium opens none above 2 MiB.
MAX_BYTES = 2 * 1024**2 * 3 // 4 - 1000


def report(experiment: config.Experiment, root: Path, out: Path) -> None:
    """Write the page of a results folder.

    Raises:
        IntegrityError: a file of the folder is missing or damaged.
    """
    try:
        content = _content(experiment, Results(root))
    except FileNotFoundError as error:
        raise IntegrityError(f"{error.filename} is missing; run the workflow to make it.") from error
    # What a data file says is text and nothing else: everything but our own charts is escaped.
    environment = jinja2.Environment(
        autoescape=True,
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    own = {"table_of": conditions.table_of, "numbers": conditions.numbers}
    environment.globals |= own | {"svg": lambda chart: Markup(svg(chart))}
    page = environment.get_template(TEMPLATE).render(content).encode("utf-8", "replace")
    files.atomic_write(out, page)
    say("report", f"{out} ({len(page) / 1e6:.1f} MB)")
    if len(page) > MAX_BYTES:
        say("report", "The page is too large to be shown inside Snakemake's report; open the file itself.")


def _content(experiment: config.Experiment, paths: Results) -> dict[str, Any]:
    leaderboard, verdicts = tables.leaderboard(paths), tables.verdicts(paths)
    details = tables.details(paths)
    return {
        "verdict": tables.verdict(paths),
        "alignment": _alignment(paths),
        "credits": faces.credits(paths),
        "primary": metric_label(experiment.evaluate.primary),
        "level": f"{experiment.evaluate.level:.0%}",
        "matrix": _matrix(verdicts, experiment),
        "verdict_colours": charts.VERDICT_COLOURS,
        "verdicts": _verdict_tables(verdicts, experiment),
        "leaderboards": _leaderboard_tables(tables.told(experiment, leaderboard)),
        "curves": conditions.conditions(leaderboard, chart_spec.looks(leaderboard)),
        "groups": conditions.grouped_tables(leaderboard),
        "charts": _charts(experiment, paths, leaderboard),
        "how_to_read": phrases.HOW_TO_READ,
        "twice": faces.TWICE,
        "alt": phrases.ALT,
        "masks": reconstructions.mask_table(reconstructions.masks(paths)),
        "strips": _strips(experiment, paths),
        "limits": phrases.limits(experiment, details["people"]),
        "facts": _facts(experiment, details),
    }


def _matrix(verdicts: pd.DataFrame, experiment: config.Experiment) -> dict[str, Any]:
    """Return the verdict on every run (column) against every other run and control (row)."""
    runs = tables.run_names(experiment)
    cells = tables.verdict_cells(verdicts, experiment.evaluate.primary, runs, experiment.baselines)
    rows = [
        {"opponent": opponent, "control": opponent in experiment.baselines, "cells": row}
        for opponent, row in cells.items()
    ]
    return {"runs": runs if len(verdicts) else [], "rows": rows}


def _verdict_tables(verdicts: pd.DataFrame, experiment: config.Experiment) -> dict[str, list[dict[str, Any]]]:
    """Return the rows of each metric, the primary one first."""
    names = sorted(verdicts["metric"].unique(), key=lambda name: name != experiment.evaluate.primary)
    parts = {name: primary_first(verdicts[verdicts["metric"] == name]) for name in names}
    return {metric_label(name): rows_of(part) for name, part in parts.items()}


def _leaderboard_tables(leaderboard: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the table of recognition, and one for each other protocol that has numbers of its own."""
    table = scalars(leaderboard)
    protocol = table["protocol"].where(~table["protocol"].isin(MAIN_PROTOCOLS), MAIN_PROTOCOLS[0])
    names = sorted(protocol.unique(), key=lambda name: name != MAIN_PROTOCOLS[0])
    return [
        {"title": PROTOCOLS.get(name, name.capitalize())} | _leaderboard_table(table[protocol == name])
        for name in names
    ]


def _leaderboard_table(table: pd.DataFrame) -> dict[str, Any]:
    metrics = [name for name in table["metric"].unique() if "_at_target" not in name]
    rows = []
    for _, part in table.groupby("run", sort=False):
        entries = {row["metric"]: row for row in rows_of(part)}
        first = next(iter(entries.values()))
        rows.append(
            {
                "run": first["run"],
                "more": "control" if first["kind"] == "baseline" else first.get("origin", ""),
                "control": first["kind"] == "baseline",
                "values": [_value(entries, name) for name in metrics],
                "people": first["people"],
                "seeds": first["seeds"],
                "budget": ["" if pd.isna(first[name]) else f"{first[name]:,.0f}" for name in BUDGET],
                "device": first["device"],
            }
        )
    return {
        "metrics": [metric_label(name) for name in metrics],
        "budget": list(BUDGET.values()),
        "rows": rows,
    }


def _value(entries: dict[Any, dict[Any, Any]], metric: str) -> dict[str, str]:
    """Return a cell: value, and interval, refusal or the false accept rate achieved below it."""
    entry = entries.get(metric)
    if entry is None:
        return {"value": "", "more": ""}
    if pd.isna(entry["value"]):
        return {"value": "refused:", "more": str(entry["note"])}
    known = pd.notna(entry["ci_low"]) and pd.notna(entry["ci_high"])
    more = [f"{entry['ci_low']:.3f} to {entry['ci_high']:.3f}" if known else "no interval"]
    kind, _, target = metric.partition("=")
    achieved = entries.get(f"{ACHIEVED[kind][0]}={target}") if kind in ACHIEVED else None
    if achieved and pd.notna(achieved["value"]):
        more.append(f"at {ACHIEVED[kind][1]} {achieved['value']:.4f}")
    return {"value": f"{entry['value']:.3f}", "more": ", ".join(more)}


def _charts(
    experiment: config.Experiment, paths: Results, leaderboard: pd.DataFrame
) -> dict[str, chart_spec.Chart]:
    primary, looks = experiment.evaluate.primary, chart_spec.looks(leaderboard)
    roc = tables.roc_curves(paths)
    drawn = [
        curves.leaderboard(leaderboard, primary, looks),
        curves.roc(roc, looks),
        curves.det(roc, looks),
        curves.cost(leaderboard, primary, looks),
    ]
    for stage in curves.TRAININGS:
        losses = tables.learning_curves(paths, stage)
        drawn += [curves.learning(losses, looks, stage)] if len(losses) else []
    return {each.name: each for each in drawn}


def _strips(experiment: config.Experiment, paths: Results) -> list[dict[str, str]]:
    strips = []
    for name in masked_runs(experiment):
        run, seed = experiment.run(name), experiment.seeds[0]
        shown = reconstructions.reconstructions(paths, name, seed)
        picture = reconstructions.reconstruction_strip(shown.face, shown.hidden, shown.reconstruction)
        caption = f"{name}: {run.strategy} mask, {run.mask_ratio:.0%} of the patches hidden, seed {seed}"
        strips.append({"caption": caption, "uri": _data_uri(Image.fromarray(picture), STRIP)})
    return strips


def _alignment(paths: Results) -> dict[str, Any]:
    tally, measured = faces.tally(paths), faces.quality(paths)
    outcomes = faces.outcomes(paths)
    rejected = outcomes[outcomes["code"] != "OK"]
    shown = rejected.head(MAX_REJECTED)
    places = faces.photos(paths, shown["sample_id"].to_list())
    return {
        "total": tally.drop(columns="source").sum().to_dict(),
        "codes": list(tally.columns[4:]),
        "sources": faces.sources(paths),
        "counts": tally.set_index("source").to_dict("index"),
        "histograms": {
            measure.column: curves.quality(measured, measure)
            for measure in faces.MEASURES
            if measured[measure.column].notna().any()
        },
        "warnings": _warnings(paths, measured),
        "rejected": [
            row | {"thumbnail": _photo_thumbnail(places.get(row["sample_id"]))} for row in rows_of(shown)
        ],
        "left_out": len(rejected) - len(shown),
        "overlaps": _overlaps(paths),
    }


def _warnings(paths: Results, measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the faces of each warning there is, the worst ones with their picture."""
    parts = {warning: faces.worst_first(measured, warning) for warning in quality.WARNINGS}
    heads = {warning: part.head(MAX_DOUBTFUL) for warning, part in parts.items() if len(part)}
    names = sorted({name for head in heads.values() for name in head["sample_id"]})
    pictures = _face_thumbnails(paths, names)
    found = []
    for warning, head in heads.items():
        shown = [
            {"name": name, "value": faces.doubtful_value(warning, row), "thumbnail": pictures[name]}
            for row in rows_of(head)
            for name in [row["sample_id"]]
        ]
        found.append({"warning": quality.WARNINGS[warning], "faces": len(parts[warning]), "shown": shown})
    return found


def _overlaps(paths: Results) -> list[dict[str, Any]]:
    """Return how many overlaps there are of each kind and action, and the first of them side by side."""
    found = []
    for (kind, action), part in faces.overlaps(paths).groupby(["kind", "action"], sort=False):
        pairs = part[["evaluation", "other"]].head(MAX_OVERLAPS).to_numpy(str).tolist()
        pictures = _face_thumbnails(paths, [name for pair in pairs for name in pair])
        shown = [[{"name": name, "thumbnail": pictures.get(name, "")} for name in pair] for pair in pairs]
        words = faces.overlap_words(str(kind), str(action))
        found.append({"words": words, "pairs": len(part), "shown": shown})
    return found


def _face_thumbnails(paths: Results, names: list[str]) -> dict[str, str]:
    return {
        name: _data_uri(open_image(data), THUMBNAIL) for name, data in faces.aligned(paths, names).items()
    }


def _photo_thumbnail(photo: Photo | None) -> str:
    """Return a small copy of a photo as a data URI, or nothing where it cannot be opened any more."""
    if photo is None:
        return ""
    try:
        return _data_uri(open_image(read_photo(photo)), THUMBNAIL)
    except ImageError:
        return ""


def _data_uri(image: Image.Image, side: int) -> str:
    """Return a picture, shrunk where a side is longer than `side` pixels, in the smallest usual format."""
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=88, method=6)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()


def _facts(experiment: config.Experiment, details: dict[str, Any]) -> dict[str, str]:
    return {
        "Data": str(details["dataset"]),
        "People evaluated on": f"{details['people']}, each by networks that had not seen them",
        "Seeds": ", ".join(map(str, experiment.seeds)),
        "Bootstrap resamples of people": str(experiment.evaluate.resamples),
        "Device": str(details["device"]),
        "Versions": ", ".join(" ".join(each) for each in dict(details["versions"]).items()),
        "Commit": str(details["commit"]),
    }
