"""The report's page: verdict, tables, charts and pictures in one HTML file that loads nothing else."""

from __future__ import annotations

import base64
import contextlib
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
from facemae.evaluation.records import metric_label
from facemae.report import chart_spec, charts, conditions, curves, faces, phrases, reconstructions, tables
from facemae.report.phrases import MAIN_PROTOCOLS, PROTOCOLS, primary_first, rows_of, scalars
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
    environment.globals |= {
        "table_of": conditions.table_of,
        "numbers": conditions.numbers,
        "metric_label": metric_label,
        "difference": phrases.difference,
        "score": _score,
        "budget": BUDGET,
        "missing": pd.isna,
        "svg": lambda chart: Markup(svg(chart)),
    }
    page = environment.get_template(TEMPLATE).render(content).encode("utf-8", "replace")
    files.atomic_write(out, page)
    say("report", f"{out} ({len(page) / 1e6:.1f} MB)")
    if len(page) > MAX_BYTES:
        say("report", "The page is too large to be shown inside Snakemake's report; open the file itself.")


def _content(experiment: config.Experiment, paths: Results) -> dict[str, Any]:
    leaderboard, verdicts = tables.leaderboard(paths), tables.verdicts(paths)
    details, primary, runs = tables.details(paths), experiment.evaluate.primary, tables.run_names(experiment)
    by_metric = verdicts.sort_values("metric", key=lambda name: name != primary, kind="stable")
    return {
        "verdict": tables.headline(paths),
        "alignment": _alignment(paths),
        "credits": faces.credits(paths),
        "primary": metric_label(primary),
        "level": f"{experiment.evaluate.level:.0%}",
        "runs": runs,
        "controls": experiment.baselines,
        "matrix": tables.verdict_cells(verdicts, primary, runs, experiment.baselines),
        "verdict_colours": charts.VERDICT_COLOURS,
        "verdicts": {
            str(metric): rows_of(primary_first(part))
            for metric, part in by_metric.groupby("metric", sort=False)
        },
        "leaderboards": _leaderboards(tables.told(experiment, leaderboard)),
        "curves": conditions.conditions(leaderboard, chart_spec.looks(leaderboard)),
        "groups": conditions.grouped_tables(leaderboard),
        "charts": _charts(experiment, paths, leaderboard),
        "how_to_read": phrases.HOW_TO_READ,
        "twice": faces.TWICE,
        "alt": phrases.ALT,
        "masks": reconstructions.mask_table(reconstructions.masks(paths)),
        "strips": _strips(experiment, paths),
        "limits": phrases.limits(experiment, details["people"]),
        "details": details,
        "experiment": experiment,
    }


def _leaderboards(table: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of recognition by run and metric, and those of each other protocol that has its own."""
    table = scalars(table)
    protocol = table["protocol"].where(~table["protocol"].isin(MAIN_PROTOCOLS), MAIN_PROTOCOLS[0])
    found = []
    for name in sorted(protocol.unique(), key=lambda name: name != MAIN_PROTOCOLS[0]):
        part, runs = table[protocol == name], dict[str, dict[str, Any]]()
        for row in rows_of(part):
            runs.setdefault(row["run"], {})[row["metric"]] = row
        metrics = [each for each in part["metric"].unique() if "_at_target" not in each]
        found.append({"title": PROTOCOLS.get(name, name.capitalize()), "metrics": metrics, "runs": runs})
    return found


def _score(entries: dict[str, dict[str, Any]], metric: str) -> dict[str, str]:
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
    for name in phrases.masked_runs(experiment):
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
    histograms = [
        curves.quality(measured, each) for each in faces.MEASURES if measured[each.column].notna().any()
    ]
    return {
        "total": tally.drop(columns="source").sum().to_dict(),
        "codes": list(tally.columns[4:]),
        "sources": faces.sources(paths),
        "counts": tally.set_index("source").to_dict("index"),
        "histograms": histograms,
        "warnings": _warnings(paths, measured),
        "rejected": [
            row | {"thumbnail": _photo_thumbnail(places.get(row["sample_id"]))} for row in rows_of(shown)
        ],
        "left_out": len(rejected) - len(shown),
        "overlaps": _overlaps(paths),
    }


def _warnings(paths: Results, measured: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the faces of each warning there is, the worst ones with their picture."""
    found = []
    for warning, words in quality.WARNINGS.items():
        part = faces.worst_first(measured, warning)
        head = part.head(MAX_DOUBTFUL)
        pictures = _face_thumbnails(paths, head["sample_id"].to_list())
        shown = [
            {"name": name, "value": faces.doubtful_value(warning, row), "thumbnail": pictures[name]}
            for name, row in zip(head["sample_id"], rows_of(head), strict=True)
        ]
        found += [{"warning": words, "faces": len(part), "shown": shown}] if shown else []
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
    found = faces.aligned(paths, names)
    return {name: _data_uri(open_image(data), THUMBNAIL) for name, data in found.items()}


def _photo_thumbnail(photo: Photo | None) -> str:
    with contextlib.suppress(ImageError):
        return _data_uri(open_image(read_photo(photo)), THUMBNAIL) if photo else ""
    return ""


def _data_uri(image: Image.Image, side: int) -> str:
    """Return a picture, shrunk where a side is longer than `side` pixels, in the smallest usual format."""
    image.thumbnail((side, side))
    out = io.BytesIO()
    image.save(out, "WEBP", quality=88, method=6)
    return "data:image/webp;base64," + base64.b64encode(out.getvalue()).decode()
