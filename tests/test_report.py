"""The report's page: complete, self-contained, and text stays text."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from results_folder import HOSTILE, make_results

from facemae import report, results
from facemae.errors import IntegrityError
from facemae.results import Results


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
def html(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("report")
    return write(folder)


def write(folder: Path, **changes: object) -> str:
    experiment = make_results(folder / "results", **changes)
    out = folder / "overview.html"
    report.report(experiment, folder / "results", out)
    return out.read_text(encoding="utf-8")


def test_shows_the_verdict_and_every_run(html: str) -> None:
    text = Page(html).text
    assert "Against training from scratch on" in text or "No masking strategy beat" in text
    assert "random against scratch" in text
    assert "Smallest detectable difference" in text
    for run in ("scratch", "random", "region", "pixels"):
        assert run in text


def test_refused_rates_say_why(html: str) -> None:
    assert re.search(r"refused needs \d+ impostor pairs, this evaluation has \d+", Page(html).text)


def test_has_every_chart_with_its_sentence_and_alt_text(html: str) -> None:
    for name in ("leaderboard", "verdicts", "roc", "cost", "pretrain", "finetune"):
        assert f'id="chart-{name}"' in html
        assert report.charts.HOW_TO_READ[name] in Page(html).text
    assert html.count('role="img"') == 6
    assert len(re.findall(r"<figure>.*?alt=\"[^\"]+\"", html, re.DOTALL)) == 2


def test_loads_nothing_from_elsewhere(html: str) -> None:
    assert all(address.startswith("data:image/png;base64,") for address in Page(html).loads)
    own_style = html[html.index("<style>") : html.index("</style>")]
    assert "url(" not in own_style
    assert "@import" not in own_style


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
        ({"runs": {"random": None, "region": None}}, "No verdict on pretraining"),
        ({"runs": {"random": None, "region": None}, "baselines": []}, "No verdict on pretraining"),
        ({"seeds": [0]}, "undecided"),
    ],
)
def test_small_experiments_have_a_page_too(tmp_path: Path, changes: dict, expected: str) -> None:
    assert expected in Page(write(tmp_path, **changes)).text


def test_a_photo_that_is_gone_has_no_thumbnail(tmp_path: Path) -> None:
    experiment = make_results(tmp_path / "results")
    (tmp_path / "results" / "photo.png").unlink()
    report.report(experiment, tmp_path / "results", tmp_path / "page.html")
    assert 'class="thumbnail"' not in (tmp_path / "page.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("damage", [None, b"{", b"\xff\x00"])
@pytest.mark.parametrize("name", ["verdict", "leaderboard", "outcomes", "reconstructions"])
def test_a_missing_or_damaged_file_is_one_sentence(tmp_path: Path, name: str, damage: bytes | None) -> None:
    experiment = make_results(tmp_path, seeds=[0], runs={"region": None})
    paths = Results(tmp_path)
    shown = paths.stage("random", 0, "pretrain") / results.RECONSTRUCTIONS
    file = shown if name == "reconstructions" else getattr(paths, name)
    file.unlink() if damage is None else file.write_bytes(damage)
    if name == "outcomes" and damage == b"{":
        return  # a torn last line is left out
    with pytest.raises(IntegrityError):
        report.report(experiment, tmp_path, tmp_path / "page.html")
