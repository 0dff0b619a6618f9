"""The model card: each field with its content from the files, hostile names, and what is refused."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from results_folder import EVERYTHING, HOSTILE, make_results

from facemae.core import files, layout, records
from facemae.core.errors import FaceMAEError, UsageError
from facemae.core.layout import Results
from facemae.evaluation import pairs as pairs_of
from facemae.evaluation.records import metric_label
from facemae.recognition import model_card
from facemae.recognition.threshold import card_of
from facemae.report import faces, known_errors, tables

NASTY = (
    "<script>alert(1)</script>",
    "[x](javascript:alert(1))",
    "a`b``c",
    "`",
    "pipe | pipe",
    "https://example.org me@example.org www.example.org",
    "two\nlines\r\n# heading",
    "\N{RIGHT-TO-LEFT OVERRIDE}abc",
    "$\\KaTeX$ :material/face: ![x](y)",
    "x" * 10_000,
    " ",
    "",
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """Return a results folder that no test changes, with weights for one model."""
    folder = tmp_path_factory.mktemp("results")
    make_results(folder, robustness=EVERYTHING["robustness"])
    paths = Results(folder)
    stage = paths.stage("random", 0, "finetune")
    (stage / layout.EMBEDDER).write_bytes(b"invented weights")
    (stage / layout.CONFIG).write_bytes(b"{}")
    os.utime(stage / layout.EMBEDDER, (0, datetime(2024, 2, 29, 23, 30, tzinfo=UTC).timestamp()))
    return paths


@pytest.fixture(scope="module")
def card(made: Results) -> str:
    return model_card.model_card(made, "random", 0)


@pytest.fixture
def own(made: Results, tmp_path: Path) -> Results:
    shutil.copytree(made.root, tmp_path / "own")
    return Results(tmp_path / "own")


def section(card: str, title: str) -> str:
    found = re.search(rf"^## {title}\n\n(.*?)(?=^## |\Z)", card, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1].strip()


def cells(text: str) -> list[list[str]]:
    """Return the rows of a Markdown table below its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    assert set(rows[1]) == {"---"}
    assert {len(row) for row in rows} == {len(rows[0])}
    return rows[2:]


def test_it_names_the_model_and_what_it_is(card: str) -> None:
    assert card.startswith("# Model card: `random/0`\n")
    assert "vision Transformer" in card
    assert "masked autoencoder (random mask, 75% hidden), fine-tuned" in card


def test_intended_and_forbidden_use(card: str) -> None:
    for title, sentences in (
        ("Intended use", model_card.INTENDED),
        ("Forbidden use", model_card.FORBIDDEN),
    ):
        assert section(card, title).splitlines() == [f"- {each}" for each in sentences]
    assert "surveillance" in section(card, "Forbidden use")


def test_data_with_licence_and_credit(made: Results, card: str) -> None:
    text = section(card, "Data, licence and credit")
    for each in faces.sources(made):
        assert f"`{each.title}`. Credit: `{each.credit}`. Licence: `{each.licence}`." in text
    split = records.read_table(made.data.split)
    people = split[split["role"] == "evaluation"]["person"].nunique()
    count = (split["role"] == "evaluation").sum()
    assert f"- Faces for evaluation: {count}, people: {people}." in text


def test_the_overlap_check_has_its_result(card: str, own: Results) -> None:
    text = section(card, "Identity overlap check")
    assert "up to 31 of 256 bits apart" in text
    assert "Result: 2 found, nearly the same picture, taken out of training." in text
    none = records.read_table(own.data.overlaps).head(0)
    records.write_table(own.data.overlaps, none, layout.OVERLAP_COLUMNS)
    again = section(model_card.model_card(own, "random", 0), "Identity overlap check")
    assert "no evaluation face and no evaluation person was found again" in again


def test_the_protocol(made: Results, card: str) -> None:
    text = section(card, "Protocol")
    evaluated = records.read_json(made.stage("random", 0, "evaluate") / layout.METRICS)
    assert f"people evaluated on: {evaluated['people']}, in 2 folds" in text
    assert f"`{evaluated['setting']}`" in text
    assert "95%, by 100 resamples of the people" in text
    assert "Primary metric: ROC AUC." in text


def test_every_metric_of_this_seed_has_its_interval_or_its_refusal(made: Results, card: str) -> None:
    summary = tables.summary(made)
    rows = summary[(summary["run"] == "random") & (summary["seed"] == 0)]
    shown = cells(section(card, "Metrics"))
    assert len(shown) == len(rows) > 40  # those under conditions, too
    found = {row[0]: row for row in shown if not row[1]}
    for row in rows[rows["condition"] == ""].to_dict("records"):
        line = found[metric_label(row["metric"])]
        if pd.isna(row["value"]):
            assert line[2] == "refused"
            assert row["note"] in line[5]
        else:
            assert line[2] == f"{row['value']:.3f}"
            unsure = pd.isna(row["ci_low"])  # such as the rate that a target of the FAR achieves
            assert line[3] == ("" if unsure else f"{row['ci_low']:.3f} to {row['ci_high']:.3f}")
    assert "refused" in {row[2] for row in shown}
    assert [row[1] for row in shown].count("`sunglasses` 0.3") == 1


def test_the_mean_over_seeds_is_the_leaderboards(made: Results, card: str) -> None:
    board = tables.leaderboard(made)
    row = board[(board["run"] == "random") & (board["metric"] == "eer") & (board["condition"] == "")].iloc[0]
    line = next(each for each in cells(section(card, "Mean over seeds")) if each[0] == "equal error rate")
    assert line == [
        "equal error rate", f"{row['value']:.3f}", f"{row['ci_low']:.3f} to {row['ci_high']:.3f}", "2",
    ]  # fmt: skip


def test_groups_that_were_not_measured_are_said_to_be_with_what_it_takes(card: str) -> None:
    text = section(card, "Errors by group")
    assert text.startswith("Not measured: The evaluated photos name no group of people. It takes")
    assert "30 or more in each of two groups" in text


def with_groups(paths: Results) -> None:
    """Add errors by group to the summary, one group too small."""
    summary = records.read_table(paths.summary)
    base = summary[(summary["run"] == "random") & (summary["seed"] == 0)].iloc[:1]
    rows = [
        base.assign(protocol="fairness", metric=metric, condition=group, note=note)
        .assign(value=value, ci_low=low, ci_high=high)
        for metric, group, value, low, high, note in (
            ("fmr", "female", 0.002, 0.001, 0.004, "40 people"),
            ("fnmr", "female", 0.125, 0.1, 0.15, "40 people"),
            ("fmr", HOSTILE, np.nan, np.nan, np.nan, "this group has 12 people, and 30 are needed"),
            ("fdr", "", np.nan, np.nan, np.nan, "1 groups are large enough, and two are needed to compare"),
        )
    ]  # fmt: skip
    records.write_table(paths.summary, pd.concat([summary, *rows]), layout.SUMMARY_COLUMNS)


def test_groups_that_were_measured_have_a_table_and_the_others_their_reason(own: Results) -> None:
    with_groups(own)
    text = section(model_card.model_card(own, "random", 0), "Errors by group")
    assert cells(text) == [
        ["`female`", "false match rate", "0.0020", "0.0010 to 0.0040", "`40 people`"],
        ["`female`", "false non-match rate", "0.1250", "0.1000 to 0.1500", "`40 people`"],
    ]
    assert f"`{HOSTILE}: this group has 12 people, and 30 are needed.`" in text
    assert "Between groups: 1 groups are large enough" in text
    assert known_errors.WHAT_GROUPS_TAKE in text


def test_thresholds_are_those_of_the_threshold_card(made: Results, card: str) -> None:
    text = section(card, "Thresholds")
    wanted, people = card_of(made.stage("random", 0, "finetune") / layout.EMBEDDINGS)
    rows = cells(text)
    assert [float(row[0]) for row in rows] == wanted["target_fmr"].tolist()
    for row, known in zip(rows, wanted.to_dict("records"), strict=True):
        assert row[1] == ("refused" if known["note"] else f"{known['threshold']:.4f}")
        assert known["note"] in row[4]
        assert bool(known["note"]) == (not row[2])
    first = wanted.iloc[0]
    assert rows[0][2] == f"{first['fmr']:.4f} ({first['fmr_low']:.4f} to {first['fmr_high']:.4f})"
    assert f"chosen on {people} evaluation people" in text


def test_failure_cases_are_the_hardest_of_all_pairs(made: Results, card: str) -> None:
    table = records.read_table(made.stage("random", 0, "finetune") / layout.EMBEDDINGS)
    table = table.sort_values("sample_id", ignore_index=True)
    vectors, identity = np.stack(table["embedding"].to_list()), pd.factorize(table["person"])[0]
    pairs = pairs_of.all_pairs(vectors, identity)  # a second implementation
    found = known_errors.failures(made, "random", 0)
    for kind, scores in (
        ("genuine", np.sort(pairs.score[pairs.genuine])[:5]),
        ("impostor", np.sort(pairs.score[~pairs.genuine])[::-1][:5]),
    ):
        part = found[found["kind"] == kind]
        np.testing.assert_allclose(part["score"], scores, atol=1e-6)
        assert ((part["person_first"] == part["person_second"]) == (kind == "genuine")).all()
    person = dict(zip(table["sample_id"], table["person"], strict=True))
    assert (found["first"].map(person) == found["person_first"]).all()
    row = found.iloc[0]
    one, other = (vectors[table["sample_id"] == row[side]][0] for side in ("first", "second"))
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert row["score"] == pytest.approx(cosine, abs=1e-6)
    lines = cells(section(card, "Failure cases"))
    assert len(lines) == 10
    assert lines[0][1:] == [f"`{row['first']}`", f"`{row['second']}`", f"{row['score']:.3f}"]


def test_failures_come_from_every_block_of_faces(made: Results, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = known_errors.failures(made, "random", 0, count=40)
    monkeypatch.setattr(known_errors, "_BLOCK", 5)
    pd.testing.assert_frame_equal(known_errors.failures(made, "random", 0, count=40), whole)
    assert whole["kind"].value_counts().to_dict() == {
        "impostor": 40,
        "genuine": 36,
    }  # 12 people, 3 pairs each


def test_limits_name_what_was_not_looked_at(card: str) -> None:
    text = section(card, "Limits")
    for words in ("a printed photo passes", "ISO/IEC 30107-3", "Morphs", "Ageing", "undecided is no proof"):
        assert words in text


def test_files_have_their_hashes(made: Results, card: str) -> None:
    rows = cells(section(card, "Files"))
    assert [row[0] for row in rows] == [
        "`finetune/embedder.safetensors`", "`pretrain/decoder.safetensors`", "`pretrain/encoder.safetensors`",
        "`finetune/config.json`", "`pretrain/config.json`",
    ]  # fmt: skip
    for name, size, value in rows:
        content = (made.root / "random" / "0" / name.strip("`")).read_bytes()
        assert size == f"{len(content):,}"
        assert value == f"`{hashlib.sha256(content).hexdigest()}`"


def test_how_it_was_made(made: Results, card: str) -> None:
    text = section(card, "How it was made")
    evaluated = records.read_json(made.stage("random", 0, "evaluate") / layout.METRICS)
    assert "- Seed: 0, of 0, 1." in text
    assert f"- Hardware: `cpu {HOSTILE}`." in text
    assert f"- Commit: `{evaluated['commit']}`." in text
    assert f"torch {evaluated['versions']['torch']}" in text
    assert "`finetune 5 s, pretrain 10 s`" in text
    assert "- Date: 2024-02-29 (of `embedder.safetensors`, in UTC)." in text


def test_the_same_folder_gives_the_same_card_and_another_seed_another(made: Results, card: str) -> None:
    assert model_card.model_card(made, "random", 0) == card
    assert model_card.model_card(made, "random", 1) != card


def test_a_run_without_weights_or_embeddings_says_so(own: Results) -> None:
    shutil.rmtree(own.stage("scratch", 0, "finetune"))
    text = model_card.model_card(own, "scratch", 0)
    assert "The weights are not in this folder" in section(text, "Files")
    assert section(text, "Thresholds").startswith("Not known")
    assert section(text, "Failure cases").startswith("Not known")
    assert "(of `metrics.json`, in UTC)" in text
    assert "fine-tuned from scratch" in text


def test_no_name_becomes_a_link_html_or_a_line(own: Results) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    path = own.stage("random", 0, "finetune") / layout.EMBEDDINGS
    table = records.read_table(path)
    names = [f"{number}{NASTY[number % len(NASTY)]}" for number in range(len(table))]
    records.write_table(path, table.assign(sample_id=names), layout.EMBEDDING_COLUMNS)
    sources = records.read_json(own.data.sources)
    for name in ("title", "credit", "licence"):
        sources[0][name] = " ".join(NASTY[:8])
    files.write_json(own.data.sources, sources)
    with_groups(own)
    text = model_card.model_card(own, "random", 0)
    tokens = [each for token in markdown.parse(text) for each in (token, *(token.children or []))]
    assert {each.type for each in tokens} == {
        "heading_open", "heading_close", "inline", "text", "code_inline", "paragraph_open", "paragraph_close",
        "bullet_list_open", "bullet_list_close", "list_item_open", "list_item_close", "table_open",
        "thead_open", "tr_open", "th_open", "th_close", "tr_close", "thead_close", "tbody_open",
        "td_open", "td_close",
        "tbody_close", "table_close",
    }  # fmt: skip
    plain = " ".join(each.content for each in tokens if each.type == "text")
    assert not re.search(r"https?:|www\.|\w@\w|<\w", plain)  # what some renderers make links of
    assert all(each.isprintable() for each in text if each != "\n")
    assert max(map(len, text.splitlines())) < 1000
    headings = [each.content for each in tokens if each.type == "inline" and each.content == "heading"]
    assert headings == []


@pytest.mark.parametrize("text", NASTY)
def test_a_code_span_shows_what_is_in_it(text: str) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    span = model_card.literal(text)
    table = f"| a |\n| --- |\n| {model_card.cell(span)} |"
    assert len(cells(table)) == 1
    shown = [markdown.parse(table)[-5], markdown.parse(span)[1]]
    for token in shown:
        assert len(token.children) == 1
        content = token.children[0].content
        if not text.strip():
            assert content == "(empty)"
        elif text.isprintable() and len(text) < model_card.MOST_TEXT:
            assert content == text
        else:
            assert content.isprintable()
            assert content[:1] == text.encode("unicode_escape").decode()[:1]
            assert len(content) <= model_card.MOST_TEXT


@pytest.mark.parametrize(("run", "seed"), [("gone", 0), ("random", 9), ("pixels", 0)])
def test_what_is_no_run_is_refused(run: str, seed: int, made: Results) -> None:
    with pytest.raises(UsageError, match="runs are scratch, random, region, with the seeds 0, 1"):
        model_card.model_card(made, run, seed)


def test_a_card_is_written_whole_or_not_at_all(made: Results, card: str, tmp_path: Path) -> None:
    model_card.write_card(made, "random", 0, tmp_path / "card.md")
    assert (tmp_path / "card.md").read_text(encoding="utf-8") == card
    with pytest.raises(UsageError, match="snakemake --cores all"):
        model_card.write_card(Results(tmp_path), "random", 0, tmp_path / "other.md")
    assert not (tmp_path / "other.md").exists()


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]"])
def test_damaged_results_are_one_sentence(damage: bytes, own: Results) -> None:
    (own.stage("random", 0, "evaluate") / layout.METRICS).write_bytes(damage)
    with pytest.raises(FaceMAEError, match=r"damaged"):
        model_card.model_card(own, "random", 0)
