"""Model cards as Markdown, of a trained run and of a model that comes with the package.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019. The text stands in the
templates beside. All words that come from files, such as the names of people and photos, stand in code spans,
where Markdown knows no link and no HTML.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.evaluation.records import metric_label
from facemae.models.shipped_models import WEIGHTS
from facemae.recognition.threshold import LEVEL, card_of
from facemae.report import faces, known_errors, phrases, tables
from facemae.report.phrases import rows_of

INTENDED = (
    "To compare ways of pretraining on the same data with the same evaluation, as research and teaching.",
    "To show, on faces of people who agreed, what a face recogniser reacts to and where it fails.",
)
FORBIDDEN = (
    "To decide over people: access, identity checks, policing, hiring, surveillance or tracking.",
    "To enrol or compare anybody who was not asked, or to guess traits of people from their faces.",
    "To rely on a match alone: a photo held to the camera is taken for the person.",
)
UNMEASURED = {
    "Presentation attacks": (
        "There is no liveness check: a printed photo passes, and so does a screen or a mask. ISO/IEC 30107-3 "
        "(error rates under attack) was not evaluated."
    ),
    "Morphs and deepfakes": "A picture blended of two people may match both; nothing was tried.",
    "Ageing": "How scores fall with the years between two photos was not looked at.",
    "Other groups": (
        "Children, people with covered hair or faces, skin tones and origins that the evaluation photos do "
        "not show, or do not name, were not measured."
    ),
    "Deployment": (
        "Other cameras, compression, crowds and galleries of other sizes were not measured; thresholds hold "
        "for photos like those of the evaluation."
    ),
}
MOST_TEXT = 200  # characters of one name or note
_PROSE = re.compile(r"[A-Za-z0-9 .,%()-]+")  # words that need no code span


def model_card(paths: Results, run: str, seed: int) -> str:
    """Return the card of a trained run as Markdown; the same folder always gives the same card.

    Raises:
        UsageError: there is no such run or seed.
        FileNotFoundError: it is not evaluated and compared yet.
        IntegrityError: a file of it is damaged.
    """
    setup = tables.experiment(paths)
    if run not in setup.run_names or seed not in setup.seeds:
        known, seeds = ", ".join(setup.run_names), ", ".join(map(str, setup.seeds))
        raise UsageError(
            f"There is no run {run!r} with seed {seed}; runs are {known}, with the seeds {seeds}."
        )
    made = records.read_metrics(paths.stage(run, seed, "evaluate"))
    summary, means = tables.summary(paths), phrases.scalars(tables.leaderboard(paths))
    rows = summary[(summary["run"] == run) & (summary["seed"] == seed)]
    stated = rows[rows["protocol"] != known_errors.FAIRNESS].fillna({"note": "", "condition": ""})
    settings = setup.run(run)
    limits = [*phrases.limits(setup, int(made["people"])), *_unmeasured()]
    return _written(
        "model_card.md.jinja", setup=setup, run=run, seed=seed, settings=settings, made=made,
        origin=phrases.origin(settings), sources=faces.sources(paths), roles=_roles(paths),
        overlaps=_overlaps(paths), metrics=rows_of(stated),
        means=rows_of(means[(means["run"] == run) & means["value"].notna()]),
        thresholds=_thresholds(paths, run, seed), failures=_failures(paths, run, seed), limits=limits,
        **_groups(rows), **_files(paths, run, seed),
    )  # fmt: skip


def write_card(paths: Results, run: str, seed: int, out: Path) -> None:
    """Write the card of a trained run to a file.

    Raises:
        UsageError: there is no such run or seed, or it is not evaluated and compared yet.
        IntegrityError: a file of it is damaged.
    """
    try:
        card = model_card(paths, run, seed)
    except FileNotFoundError as error:
        raise UsageError(
            f"{paths.root} holds no finished results of {run}/{seed}; run: snakemake --cores all"
        ) from error
    files.atomic_write(out, card.encode())


def shipped_card(card: dict[str, Any]) -> str:
    """Return the card of a model that comes with the package, its README, from its card.json alone."""
    return _written("shipped_card.md.jinja", card=card, packaged=list(WEIGHTS), unmeasured=_unmeasured())


def _unmeasured() -> list[str]:
    return [f"{what}: {why}" for what, why in UNMEASURED.items()]


# --- text ---


def _written(template: str, **content: Any) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": literal, "cell": cell, "prose": _prose,
        "metric": lambda name: _prose(metric_label(name)),
        "note": lambda text: cell(literal(text)) if text else "",
    }  # fmt: skip
    environment.globals |= {
        "number": _number, "interval": _interval, "amounts": _amounts, "threshold_level": f"{LEVEL:.0%}",
        "intended": INTENDED, "forbidden": FORBIDDEN, "layout": layout,
    }  # fmt: skip
    return environment.get_template(template).render(content)


def literal(text: object, most: int = MOST_TEXT) -> str:
    """Return text as a Markdown code span, in which nothing becomes a link, HTML or another line.

    Characters that do not show or that turn the direction of writing are spelt out; long text is cut.
    """
    shown = "".join(
        each
        if each == " " or unicodedata.category(each)[0] not in "CZ"
        else each.encode("unicode_escape").decode()
        for each in str(text)
    )
    shown = shown if len(shown) <= most else shown[: most - 1] + "\N{HORIZONTAL ELLIPSIS}"
    if not shown.strip():
        return "(empty)"
    longest = max((len(run) for run in re.findall("`+", shown)), default=0)
    fence = "`" * (longest + 1)
    # Markdown takes one space off either end where both have one.
    space = " " if shown[0] in "` " or shown[-1] in "` " else ""
    return f"{fence}{space}{shown}{space}{fence}"


def cell(text: str) -> str:
    """Return Markdown for a table's cell, where a "|" is no border."""
    return text.replace("|", "\\|")


def _prose(words: str) -> str:
    return words if _PROSE.fullmatch(words) else literal(words)


def _number(value: Any, form: str = ".3f") -> str:
    return "" if value is None or pd.isna(value) else f"{float(value):{form}}"


def _interval(row: Mapping[str, Any], name: str = "ci", form: str = ".3f") -> str:
    low, high = _number(row.get(f"{name}_low"), form), _number(row.get(f"{name}_high"), form)
    return f"{low} to {high}" if low and high else ""


def _amounts(counts: Mapping[str, float] | None, unit: str = "") -> str:
    return ", ".join(f"{name} {count:,.0f}{unit}" for name, count in sorted((counts or {}).items()))


# --- what the card of a run says ---


def _roles(paths: Results) -> list[Any]:
    """Return what faces are for, how many, and of how many people."""
    split = records.read_table(paths.data.split, ["sample_id", "person", "role"])
    return list(split.groupby("role")["person"].agg(["size", "nunique"]).itertuples())


def _overlaps(paths: Results) -> list[tuple[str, int]]:
    found = faces.overlaps(paths).groupby(["kind", "action"]).size().reset_index(name="count")
    return [(faces.overlap_words(row["kind"], row["action"]), row["count"]) for row in rows_of(found)]


def _groups(rows: pd.DataFrame) -> dict[str, list[Any]]:
    found = known_errors.groups(rows)
    reasons, needs = found.why_not[:-1], found.why_not[-1:]
    if (rows["protocol"] == known_errors.FAIRNESS).any():  # they repeat the groups' names
        reasons = [literal(each) for each in reasons]
    table = found.rows.fillna({"note": "", "condition": ""})
    return {"groups": rows_of(table), "not_measured": reasons + needs}


def _thresholds(paths: Results, run: str, seed: int) -> tuple[list[dict[str, Any]], int] | None:
    try:
        card, people = card_of(paths.stage(run, seed, "finetune") / layout.EMBEDDINGS)
    except DataError:
        return None
    return rows_of(card), people


def _failures(paths: Results, run: str, seed: int) -> list[dict[str, Any]] | None:
    try:
        return rows_of(known_errors.failures(paths, run, seed))
    except FileNotFoundError:
        return None


def _files(paths: Results, run: str, seed: int) -> dict[str, Any]:
    """Return the weights and their settings, each with its size and hash, and the day of the newest."""
    weights = [
        path
        for stage in ("finetune", "pretrain")
        for path in sorted(paths.stage(run, seed, stage).glob("*.safetensors"))
        if path.name != layout.RECONSTRUCTIONS
    ]
    settings = dict.fromkeys(path.with_name(layout.CONFIG) for path in weights)
    newest = [*weights, paths.stage(run, seed, "evaluate") / layout.METRICS][0]
    return {
        "files": [
            (f"{path.parent.name}/{path.name}", path.stat().st_size, files.sha256_of(path))
            for path in (*weights, *settings)
            if path.is_file()
        ],
        "newest": newest.name,
        "date": datetime.fromtimestamp(newest.stat().st_mtime, UTC).date().isoformat(),
    }
