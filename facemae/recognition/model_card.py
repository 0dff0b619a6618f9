"""The model card of a trained run: what it is for, what was measured of it, and what was not.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019. All words that come from files, such as the
names of people and photos, stand in code spans, where Markdown knows no link and no HTML. N faces.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import DataError, UsageError
from facemae.core.layout import Results
from facemae.report import faces, phrases, tables
from facemae.report.known_errors import FAIRNESS, failures, groups
from facemae.report.phrases import metric_label, origin

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
_PROSE = re.compile(r"[A-Za-z0-9 .,%()-]+")  # a metric's words that need no code span

Row = Sequence[str]


# --- the card ---


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
    summary = tables.summary(paths)
    rows = summary[(summary["run"] == run) & (summary["seed"] == seed)]
    parts = [
        f"# Model card: {literal(f'{run}/{seed}')}",
        _about(setup, run, seed),
        section("Intended use", listed(INTENDED)),
        section("Forbidden use", listed(FORBIDDEN)),
        section("Data, licence and credit", _data(paths)),
        section("Identity overlap check", _overlap(paths, setup)),
        section("Protocol", _protocol(setup, made)),
        section("Metrics", _metrics(rows, setup)),
        section("Mean over seeds", _over_seeds(paths, run, setup)),
        section("Errors by group", _groups(rows)),
        section("Thresholds", _thresholds(paths, run, seed)),
        section("Failure cases", _failures(paths, run, seed)),
        section("Limits", _limits(setup, made)),
        section("Files", _files(paths, run, seed)),
        section("How it was made", _made(paths, setup, run, seed, made)),
    ]
    return "\n\n".join(parts) + "\n"


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


def table(head: Row, rows: Iterable[Row]) -> str:
    """Return a Markdown table; a "|" in a cell is no border."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def section(title: str, text: str) -> str:
    """Return a Markdown section."""
    return f"## {title}\n\n{text}"


def listed(sentences: Iterable[str]) -> str:
    """Return sentences as a Markdown list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def _label(metric: str) -> str:
    words = metric_label(metric)
    return words if _PROSE.fullmatch(words) else literal(words)


def number(value: Any, form: str = ".3f") -> str:
    """Return a number as text, "" where there is none."""
    return "" if value is None or pd.isna(value) else f"{float(value):{form}}"


def _interval(row: dict[Any, Any], name: str = "ci", form: str = ".3f") -> str:
    low, high = number(row.get(f"{name}_low"), form), number(row.get(f"{name}_high"), form)
    return f"{low} to {high}" if low and high else ""


def _note(row: dict[Any, Any]) -> str:
    return literal(row["note"]) if row["note"] else ""


def _about(setup: config.Experiment, run: str, seed: int) -> str:
    settings = setup.run(run)
    model = settings.model
    width, depth, heads = model.shape
    network = {
        "vit": f"vision Transformer, {depth} blocks of width {width} with {heads} heads, patches of "
        f"{model.patch_size} pixels",
        "cnn": f"masked convolutions, {literal(model.network)}",
        "mlp": f"fully connected layers, {depth} of width {width}",
    }[model.encoder]
    used = literal(origin(settings)) if origin(settings) else ""
    training = f"fine-tuned {used or 'from scratch'}"
    if settings.masked:
        hidden = f"{settings.strategy} mask, {settings.masked.mask_ratio:.0%} hidden"
        training = f"masked autoencoder ({hidden}), fine-tuned"
    elif settings.pretrain:
        training = f"pretrained by {settings.strategy}, fine-tuned"
    if settings.pretrain and used:
        training += f", {used}"
    return listed(
        [
            f"Task: a vector of {model.embedding} numbers for an aligned face of {setup.data.image_size} x "
            f"{setup.data.image_size} pixels; two faces are compared by the cosine of their vectors.",
            f"Network: {network}.",
            f"Training: {training} ({settings.finetune.mode}, {settings.finetune.loss}), seed {seed}.",
            "The vectors are biometric data: faces have been rebuilt from such vectors.",
        ]
    )


def _data(paths: Results) -> str:
    split = records.read_table(paths.data.split, ["sample_id", "person", "role"])
    words = {
        layout.ROLE_TRAIN: "for training",
        layout.ROLE_EVALUATION: "for evaluation",
        layout.ROLE_UNLABELLED: "for pretraining alone",
        layout.ROLE_TESTED: "for further tests alone",
    }
    counts = [
        f"Faces {words.get(str(role), literal(role))}: {len(part):,}, people: {part['person'].nunique():,}."
        for role, part in split.groupby("role")
    ]
    sources = [
        f"{literal(each.title)}. Credit: {literal(each.credit)}. Licence: {literal(each.licence)}."
        for each in faces.sources(paths)
    ]
    return listed([*sources, *counts])


def _overlap(paths: Results, setup: config.Experiment) -> str:
    split = setup.split
    how = f"names, files and perceptual hashes (up to {split.hash_bits} of 256 bits apart)"
    how += f" and embeddings (cosine of {split.same_cosine:g} or more)" if split.embedder else ""
    found = faces.overlaps(paths)
    sentences = [f"Evaluation and training photos were compared by {how}."]
    if found.empty:
        sentences.append("Result: no evaluation face and no evaluation person was found again.")
    for (kind, action), part in found.groupby(["kind", "action"]):
        words = faces.overlap_words(str(kind), str(action))
        sentences.append(
            f"Result: {len(part):,} found, {words if _PROSE.fullmatch(words) else literal(words)}."
        )
    sentences.append("One person under two names with different photos would not be noticed by these.")
    return listed(sentences)


def _protocol(setup: config.Experiment, made: dict[str, Any]) -> str:
    settings = setup.evaluate
    return listed(
        [
            f"Data set: {literal(made['dataset'])}; people evaluated on: {int(made['people']):,}, "
            f"in {setup.split.folds} folds.",
            f"Setting: {literal(made.get('setting') or 'not said')}.",
            f"Intervals: {settings.level:.0%}, by {settings.resamples:,} resamples of the people; they hold "
            "for this one network and leave out the variance between trainings.",
            f"Primary metric: {_label(settings.primary)}.",
        ]
    )


def _metrics(rows: pd.DataFrame, setup: config.Experiment) -> str:
    shown = rows[rows["protocol"] != FAIRNESS].fillna({"note": "", "condition": ""})
    lines = [
        (
            _label(row["metric"]), _circumstances(row), number(row["value"]) or "refused",
            _interval(row), f"{int(row['n']):,}", _note(row),
        )
        for row in shown.to_dict("records")
    ]  # fmt: skip
    head = ("Metric", "Under", "Value", f"{setup.evaluate.level:.0%} interval", "Behind it", "Note")
    return table(head, lines)


def _circumstances(row: dict[Any, Any]) -> str:
    amount = number(row["amount"], "g")
    return " ".join([literal(row["condition"]) if row["condition"] else "", amount]).strip()


def _over_seeds(paths: Results, run: str, setup: config.Experiment) -> str:
    board = tables.leaderboard(paths)
    shown = board[(board["run"] == run) & (board["condition"] == "") & board["value"].notna()]
    lines = [
        (_label(row["metric"]), number(row["value"]), _interval(row), str(int(row["seeds"])))
        for row in shown.to_dict("records")
    ]
    head = ("Metric", "Mean", f"{setup.evaluate.level:.0%} interval", "Seeds")
    return table(head, lines) + "\n\nThese intervals are for new people and new training."


def _groups(rows: pd.DataFrame) -> str:
    found = groups(rows)
    parts = []
    if len(found.rows):
        lines = [
            (
                literal(row["condition"]) if row["condition"] else "between groups", _label(row["metric"]),
                number(row["value"], ".4f"), _interval(row, form=".4f"), literal(row["note"] or "none"),
            )
            for row in found.rows.fillna({"note": "", "condition": ""}).to_dict("records")
        ]  # fmt: skip
        parts.append(table(("Group", "Error", "Value", "Interval", "Note"), lines))
    if found.why_not:
        *reasons, needs = found.why_not
        sentences = (
            reasons if rows[rows["protocol"] == FAIRNESS].empty else [literal(each) for each in reasons]
        )
        parts.append("Not measured: " + " ".join([*sentences, needs]))
    return "\n\n".join(parts)


def _thresholds(paths: Results, run: str, seed: int) -> str:
    from facemae.recognition.threshold import threshold_card

    try:
        card, people = threshold_card(paths.stage(run, seed, "finetune") / layout.EMBEDDINGS)
    except DataError:
        return "Not known: the embeddings of the evaluation people are not in this folder."
    return threshold_table(card.to_dict("records"), people)


def threshold_table(card: Iterable[dict[Any, Any]], people: int) -> str:
    """Return the rows of a threshold card as Markdown, with what they stand for.

    Args:
        card: Rows as `calibration.threshold_card` has them.
        people: Behind it.
    """
    from facemae.recognition.threshold import LEVEL

    lines = [
        (
            f"{row['target_fmr']:g}", number(row["threshold"], ".4f") or "refused",
            _with_interval(row, "fmr"), _with_interval(row, "fnmr"), _note(row),
        )
        for row in card
    ]  # fmt: skip
    head = ("Wanted false match rate", "Threshold", "False match rate", "False non-match rate", "Note")
    return table(head, lines) + (
        f"\n\nThresholds are cosines, chosen on {people:,} evaluation people; the rates hold for comparisons "
        f"of two photos, with {LEVEL:.0%} intervals over people. A search among many people errs more often."
    )


def _with_interval(row: dict[Any, Any], name: str) -> str:
    value, ends = number(row[name], ".4f"), _interval(row, name, ".4f")
    return f"{value} ({ends})" if ends else value


def _failures(paths: Results, run: str, seed: int) -> str:
    try:
        found = failures(paths, run, seed)
    except FileNotFoundError:
        return "Not known: the embeddings of the evaluation people are not in this folder."
    what = {"genuine": "one person, lowest scores", "impostor": "two people, highest scores"}
    lines = [
        (what[row["kind"]], literal(row["first"]), literal(row["second"]), number(row["score"]))
        for row in found.to_dict("records")
    ]
    return table(("Pair", "First photo", "Second photo", "Score"), lines)


def _limits(setup: config.Experiment, made: dict[str, Any]) -> str:
    sentences = phrases.limits(setup, int(made["people"]))
    return listed([*sentences, *(f"{name}: {sentence}" for name, sentence in UNMEASURED.items())])


def _weights(paths: Results, run: str, seed: int) -> list[Path]:
    return [
        path
        for stage in ("finetune", "pretrain")
        for path in sorted(paths.stage(run, seed, stage).glob("*.safetensors"))
        if path.name != layout.RECONSTRUCTIONS
    ]


def _files(paths: Results, run: str, seed: int) -> str:
    weights = _weights(paths, run, seed)
    if not weights:
        return "The weights are not in this folder: the card speaks of the numbers alone."
    settings = [path.with_name(layout.CONFIG) for path in weights]
    shown = [*weights, *(path for path in dict.fromkeys(settings) if path.is_file())]
    lines = [
        (
            literal(f"{path.parent.name}/{path.name}"),
            f"{path.stat().st_size:,}",
            literal(files.sha256_of(path)),
        )
        for path in shown
    ]
    return table(("File", "Bytes", "SHA-256"), lines)


def _made(paths: Results, setup: config.Experiment, run: str, seed: int, made: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in sorted(made["versions"].items()))
    seconds = ", ".join(f"{stage} {float(taken):,.0f} s" for stage, taken in sorted(made["seconds"].items()))
    seen = ", ".join(f"{stage} {int(count):,}" for stage, count in sorted(made["images_seen"].items()))
    newest = [*_weights(paths, run, seed), paths.stage(run, seed, "evaluate") / layout.METRICS][0]
    date = datetime.fromtimestamp(newest.stat().st_mtime, UTC).date().isoformat()
    return listed(
        [
            f"Seed: {seed}, of {', '.join(map(str, setup.seeds))}.",
            f"Hardware: {literal(made['device'])}.",
            f"Processor or GPU seconds: {literal(seconds or 'not said')}.",
            f"Images seen: {literal(seen or 'not said')}.",
            f"Commit: {literal(made['commit'])}.",
            f"Versions: {literal(versions)}.",
            f"Date: {date} (of {literal(newest.name)}, in UTC).",
        ]
    )
