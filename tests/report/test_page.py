"""The report's page: complete, self-contained, and text stays text."""

import base64
import re
import shutil
from html import unescape
from html.parser import HTMLParser
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from results_folder import EVERYTHING, HOSTILE, make_results

from facemae import config
from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import Results
from facemae.data.alignment import quality
from facemae.data.images import encode_png
from facemae.data.sources import manifest
from facemae.data.sources.base import Photo
from facemae.report import page as report


class Page(HTMLParser):
    """What a browser would load, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.words: list[str] = []
        self._tag = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._tag = tag
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]

    def handle_endtag(self, tag: str) -> None:
        self._tag = ""

    def handle_data(self, data: str) -> None:
        if self._tag not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.words))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[config.Experiment, Path]:
    folder = tmp_path_factory.mktemp("made")
    return make_results(folder), folder


@pytest.fixture(scope="module")
def html(made: tuple[config.Experiment, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("report") / "overview.html"
    report.report(*made, out)
    return out.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the page of an experiment with every protocol, control that hides patchess and a rival."""
    return write(tmp_path_factory.mktemp("everything"), **EVERYTHING)


@pytest.fixture
def own(made: tuple[config.Experiment, Path], tmp_path: Path) -> tuple[config.Experiment, Path]:
    """Return a copy, to damage at will."""
    shutil.copytree(made[1], tmp_path / "results")
    return made[0], tmp_path / "results"


def write(folder: Path, **changes: object) -> str:
    experiment = make_results(folder / "results", **changes)
    out = folder / "overview.html"
    report.report(experiment, folder / "results", out)
    return out.read_text(encoding="utf-8")


def test_shows_the_verdict_and_every_run(html: str) -> None:
    text = Page(html).text
    assert "Against training from scratch on" in text
    assert "random against scratch" in text
    assert {"primary", "exploratory"} <= set(text.split())
    for run in ("scratch", "random", "region", "pixels"):
        assert run in text


def test_refused_rates_say_why(html: str) -> None:
    assert re.search(r"refused: needs \d+ impostor pairs, this evaluation has \d+", Page(html).text)


def test_has_every_chart_with_its_sentence_and_alt_text(html: str) -> None:
    for name in ("leaderboard", "verdicts", "roc", "det", "cost", "pretrain", "finetune"):
        assert f'id="chart-{name}"' in html
    for name in ("verdicts", "pretrain", "finetune", "reconstructions"):
        assert report.phrases.HOW_TO_READ[name] in Page(html).text
    assert "Further up is better" in Page(html).text
    assert len(re.findall(r'role="img" aria-label="[^"]+"><svg ', html)) == 6 + 5
    assert len(re.findall(r"<figure>.*?alt=\"[^\"]+\"", html, re.DOTALL)) == 2


def test_loads_nothing_from_elsewhere(html: str) -> None:
    assert all(address.startswith(("data:image/webp;base64,", "#")) for address in Page(html).loads)
    own_style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in own_style
    assert "@import" not in own_style
    assert html.count("<style>") == 1
    assert "<script" not in html
    assert set(re.findall(r"url\((.)", html)) == {"#"}


def test_the_matrix_says_verdicts_in_words_from_both_sides(html: str) -> None:
    matrix = html[html.index('id="chart-verdicts"') :]
    matrix = matrix[: matrix.index("</table>")]
    assert report.phrases.ALT["verdicts"] in matrix
    assert re.findall(r'<th scope="col">(\w+)', matrix) == ["scratch", "random", "region"]
    assert re.findall(r'<th scope="row">(\w+)', matrix) == ["scratch", "random", "region", "pixels"]
    cells = re.findall(r'<td class="(\w+)">(?:<b>(\w+)</b>)?', matrix)
    assert len(cells) == 3 * 4
    assert {colour for colour, word in cells if colour != word} == {"empty"}
    assert [word for _, word in cells].count("") == 3


def test_a_large_experiment_still_fits_into_snakemakes_report(tmp_path: Path) -> None:
    """Chromium opens no data: address above 2 MiB; noise is what compresses worst."""
    page = write(
        tmp_path,
        runs={f"random-{place}": {} for place in range(5)},
        seeds=list(range(5)),
        defaults={"pretrain": {"steps": 4000}, "finetune": {"steps": 4000}},
    ).encode()
    assert len(base64.b64encode(page)) < 0.75 * 2 * 1024**2
    assert len(page) < report.MAX_BYTES


def test_doubtful_faces_are_shown_by_warning_the_worst_first(html: str) -> None:
    text = Page(html).text
    assert "77 photos, 76 aligned faces, 3 of them doubtful; 1 photo rejected." in text
    groups = re.findall(
        r"<p><b>(\d+ faces?):</b> ([^<]+)</p>\s*<div class=\"gallery\">(.*?)</div>", unescape(html), re.DOTALL
    )
    shown = {words: re.findall(r"<figcaption>([^<]*)", gallery) for _, words, gallery in groups}
    assert shown == {
        quality.WARNINGS["TURNED"]: ["-71\N{DEGREE SIGN}", "+52\N{DEGREE SIGN}"],
        quality.WARNINGS["ODD"]: ["10.7%"],
        quality.WARNINGS["UNSURE"]: ["0.900"],
    }
    assert [count for count, *_ in groups] == ["2 faces", "1 face", "1 face"]


def test_sources_are_counted_and_credited(html: str) -> None:
    text = Page(html).text
    assert "2 not a photo" in text
    assert "Licence: that of [nobody](https://example.org)." in text
    rows = re.findall(r"<tr><td>(?:un)?labelled .*?</tr>", html, re.DOTALL)
    counts = [re.findall(r'<td class="short">(\d+)</td>', row) for row in rows]
    assert counts == [["73", "72", "1", "72", "3"], ["4", "4", "0", "4", "0"]]


def test_overlaps_are_shown_side_by_side_where_there_are_faces(html: str) -> None:
    assert "2 pairs: nearly the same picture, taken out of training" in Page(html).text
    pairs = re.findall(r'<figure class="overlap">(.*?)</figure>', html, re.DOTALL)
    assert [pair.count("data:image/webp") for pair in pairs] == [2, 1]
    assert "unlabelled/gone.png" in pairs[1]


def test_cropped_faces_without_warnings_or_overlaps_have_a_page_too(
    own: tuple[config.Experiment, Path], tmp_path: Path
) -> None:
    data = Results(own[1]).data
    faces, outcomes = pd.read_parquet(data.faces), records.read_log(data.outcomes)
    measured = dict.fromkeys(["score", "face_px", "residual", "yaw"], np.nan)
    faces = faces.assign(**measured, warnings=[[]] * len(faces))
    records.write_table(data.faces, faces, list(faces.columns))
    records.write_lines(data.outcomes, [each for each in outcomes if each["code"] == "OK"])
    records.write_table(data.overlaps, pd.read_parquet(data.overlaps).head(0), layout.OVERLAP_COLUMNS)
    report.report(*own, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    for sentence in ("No photo was rejected.", "No face is doubtful.", "None was found."):
        assert sentence in html
    assert re.findall(r'id="chart-quality-(\w+)"', html) == ["sharpness"]


def test_of_many_doubtful_faces_the_worst_are_shown(
    own: tuple[config.Experiment, Path], tmp_path: Path
) -> None:
    data = Results(own[1]).data
    faces = pd.read_parquet(data.faces)
    faces = faces.assign(
        warnings=[list(quality.WARNINGS)] * len(faces), yaw=[float(each) for each in range(len(faces))]
    )
    records.write_table(data.faces, faces, list(faces.columns))
    report.report(*own, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count("the 12 worst") == len(quality.WARNINGS)
    assert html.index("<figcaption>+75") < html.index("<figcaption>+64")
    assert "<figcaption>+63" not in html


def test_many_rejected_photos_take_little_room(own: tuple[config.Experiment, Path], tmp_path: Path) -> None:
    paths = Results(own[1])
    photo = np.random.default_rng(0).integers(0, 255, (600, 400, 3)).astype(np.uint8)
    files.atomic_write(tmp_path / "noise.png", encode_png(photo))
    names = [f"labelled/a/{place}.png" for place in range(80)]
    outcome = {"person": "a", "code": "NO_FACE", "reason": "No face found.", "hint": "Try another."}
    records.write_lines(paths.data.outcomes, [{"sample_id": name} | outcome for name in names])
    photos = [Photo(name, "a", tmp_path / "noise.png") for name in names]
    manifest.write(paths.data.photos, [manifest.enter(photo, "labelled", "labelled") for photo in photos], {})
    report.report(*own, tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert html.count('class="thumbnail"') == report.MAX_REJECTED
    assert f"{80 - report.MAX_REJECTED} more are listed" in html
    assert len(html) < report.MAX_BYTES / 2


def test_a_page_too_large_is_announced(
    made: tuple[config.Experiment, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setattr(report, "MAX_BYTES", 1000)
    report.report(*made, tmp_path / "page.html")
    assert "too large to be shown inside Snakemake's report" in "".join(capsys.readouterr())


def test_text_from_data_stays_text(html: str) -> None:
    assert HOSTILE not in html
    assert HOSTILE in Page(html).text


def test_lists_rejected_photos_with_reason_hint_and_thumbnail(html: str) -> None:
    text = Page(html).text
    assert "No face found." in text
    assert "Try [a brighter photo](https://example.org)." in text
    assert 'class="thumbnail"' in html


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"baselines": []}, "random against scratch"),
        ({"runs": {"random": None, "region": None}, "baselines": []}, "No verdict on pretraining"),
        ({"seeds": [0]}, "undecided"),
    ],
)
def test_small_experiments_have_a_page_too(tmp_path: Path, changes: dict, expected: str) -> None:
    assert expected in Page(write(tmp_path, **changes)).text


def test_a_photo_that_is_gone_has_no_thumbnail(own: tuple[config.Experiment, Path], tmp_path: Path) -> None:
    shutil.rmtree(own[1] / "photos")
    listed = Results(own[1]).data.photos
    records.write_table(listed, pd.read_parquet(listed).assign(path=b"/gone"), layout.PHOTO_COLUMNS)
    report.report(*own, tmp_path / "page.html")
    assert 'class="thumbnail"' not in (tmp_path / "page.html").read_text(encoding="utf-8")


TABLES = ("leaderboard", "data.photos", "data.faces", "data.overlaps")


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *((name, damage) for name in ("verdict", "data.sources") for damage in (None, b"{", b"\xff\x00")),
        *((name, damage) for name in (*TABLES, "reconstructions") for damage in (None, b"\xff\x00")),
        ("data.outcomes", None),  # a torn last line of it is left out
    ],
)
def test_a_missing_or_damaged_file_is_one_sentence(
    own: tuple[config.Experiment, Path], tmp_path: Path, name: str, damage: bytes | None
) -> None:
    paths = Results(own[1])
    shown = paths.stage("random", 0, "pretrain") / layout.RECONSTRUCTIONS
    file = shown if name == "reconstructions" else attrgetter(name)(paths)
    file.unlink() if damage is None else file.write_bytes(damage)
    with pytest.raises(IntegrityError):
        report.report(*own, tmp_path / "page.html")


CURVES = ("occlusion", "occlusion-kinds", "lighting", "illumination", "labels", "labels-per-person")


def test_protocols_that_were_run_have_charts_with_sentence_alt_text_and_numbers(everything: str) -> None:
    for name in CURVES:
        assert re.search(rf'id="chart-{name}" role="img" aria-label="[^"]+"><svg ', everything)
    text = Page(everything).text
    assert text.count("The same in numbers") == len(CURVES)
    assert "Where the kinds differ, the place of what is covered matters" in text
    for title in ("sunglasses", "light from the side", "Run, by share of the labels (logarithmic)"):
        assert title in text


def test_protocols_that_were_not_run_leave_nothing_behind(html: str) -> None:
    assert not any(f'id="chart-{name}"' in html for name in CURVES)
    assert "Under harder conditions" not in html
    assert "The same in numbers" not in html


def test_claims_stand_above_the_leaderboard_each_with_its_finding(everything: str, html: str) -> None:
    for page in (everything, html):
        assert page.index('id="claims"') < page.index("<h2>Leaderboard</h2>")
    table = everything[everything.index('id="claims"') :]
    table = table[: table.index("</table>")]
    found = re.findall(
        r'<td>([^<]+)</td><td><span class="badge ([\w-]+)">([^<]+)</span></td>\s*<td>([^<]+)', table
    )
    assert len(found) == table.count("<tr>") - 1
    for _, style, finding, sentence in found:
        assert style == finding.replace(" ", "-")
        assert sentence.startswith(finding.capitalize() + ": ")
        assert f".{style} {{" in everything
    findings = {claim: finding for claim, _, finding, _ in found}
    assert findings["MAE pretraining makes recognition more robust to occlusion"] == "not supported"
    assert findings["MAE pretraining tells age better"] == "not measured"
    assert "MAE pretraining beats simclr" in findings


def test_a_score_stands_beside_what_it_took(everything: str) -> None:
    table = everything[everything.index("All numbers, controls included") :]
    table = table[: table.index("</table>")]
    heads = [head.strip() for head in re.findall(r"<th[^>]*>([^<]+)", table)]
    assert heads[-6:] == [*report.BUDGET.values(), "Device"]
    budget = {
        row[0]: re.findall(r'<td class="short">([^<]*)</td>', row[1])[2:]
        for row in re.findall(r"<tr[^>]*><td>(\w+)(.*?)</tr>", table, re.DOTALL)
    }
    assert budget["random"] == ["10", "5", "1,000", "500", ""]
    assert budget["scratch"][:2] == ["0", "5"]


def test_what_was_measured_under_conditions_is_no_column_of_the_leaderboard(everything: str) -> None:
    table = everything[everything.index("All numbers, controls included") :]
    table = table[: table.index("</table>")]
    assert table.count("verification accuracy") == 1
    assert "gender" not in table
    assert "What else the encoder tells" in everything
    assert "By group: gender: accuracy" in everything


def test_rivals_have_no_masks_to_show(everything: str) -> None:
    assert re.findall(r"<figure><figcaption>(\w+):", everything) == ["random", "region"]


def test_results_of_an_older_version_are_one_sentence(
    own: tuple[config.Experiment, Path], tmp_path: Path
) -> None:
    board = Results(own[1]).leaderboard
    old = pd.read_parquet(board).drop(columns=["protocol", "condition", "amount"])
    records.write_table(board, old, list(old.columns))
    with pytest.raises(IntegrityError, match="no table of ours"):
        report.report(*own, tmp_path / "page.html")
