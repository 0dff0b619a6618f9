"""What a stage's files say of each other, and what is read of damaged, foreign or older ones."""

import io
from dataclasses import dataclass

import pandas as pd
import pytest

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError


@pytest.fixture
def stage(tmp_path):
    """Return a function that writes a stage's folder with one table."""

    def write(name, value=0.5):
        folder = tmp_path / name
        records.write_table(folder / layout.SCORES, pd.DataFrame({"score": [value]}), ["score"])
        records.write_metrics(folder, [], seed=0, device="cpu", seconds={}, tables=[layout.SCORES])
        return folder

    return write


def test_a_table_is_read_that_the_metrics_beside_it_name(stage):
    assert records.read_measured(stage("a"), layout.SCORES, ["score"])["score"].to_list() == [0.5]


@pytest.mark.parametrize("foreign", [layout.SCORES, layout.METRICS])
def test_a_file_of_another_run_is_refused(stage, foreign):
    one, other = stage("one", 0.5), stage("other", 0.7)
    (one / foreign).write_bytes((other / foreign).read_bytes())
    with pytest.raises(IntegrityError, match=r"scores\.parquet is damaged, or of another run than"):
        records.read_measured(one, layout.SCORES)


@pytest.mark.parametrize("version", [None, 1, 3, "2"])
def test_metrics_of_another_version_are_refused(stage, version):
    folder = stage("a")
    content = records.read_json(folder / layout.METRICS) | {"schema_version": version}
    files.write_json(folder / layout.METRICS, content)
    for read in (records.read_metrics, lambda f: records.read_measured(f, layout.SCORES)):
        with pytest.raises(IntegrityError, match=rf"another version of FaceMAE \(schema {version}, this one"):
            read(folder)


def test_metrics_are_checked_by_the_kind_of_their_stage(tmp_path):
    """A training says what it has seen in all, an evaluation of each training before it."""
    records.write_metrics(tmp_path, [], seed=0, device="", seconds={}, images_seen=8, energy_joules=None)
    assert records.read_metrics(tmp_path)["images_seen"] == 8
    with pytest.raises(IntegrityError, match=r"not as this version writes it \(images_seen: "):
        records.read_metrics(tmp_path, records.Measured)


def test_a_file_of_gigabytes_is_refused_without_reading_it(tmp_path):
    with open(tmp_path / layout.METRICS, "wb") as file:
        file.truncate(2**33)  # which takes no room on the disk
    with pytest.raises(IntegrityError, match=r"8,589,934,592 bytes, of 268,435,456 at most\); make it again"):
        records.read_metrics(tmp_path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5_000, b'{"a":' * 50_000, b"{", b"\xff"])
def test_json_that_cannot_be_read_is_one_sentence(tmp_path, content):
    path = tmp_path / layout.METRICS
    path.write_bytes(content)
    with pytest.raises(IntegrityError, match="is damaged") as caught:
        records.read_metrics(tmp_path)
    assert "\n" not in str(caught.value)
    path.write_bytes(b'{"step": 1}\n' + content + b"\n")
    assert records.read_log(path) == [{"step": 1}]
    path.write_bytes(b'{"step": 1}\n' + content + b'\n{"step": 3}\n')  # no kill tears such a line
    with pytest.raises(IntegrityError, match="is damaged in line 2; make it again"):
        records.read_log(path)


@dataclass(frozen=True)
class Verdict:
    people: int
    headline: str
    sentences: list[str]


def test_a_record_has_its_type_or_says_what_is_wrong(tmp_path):
    path, content = tmp_path / "verdict.json", {"people": 3, "headline": "h", "sentences": ["a"]}
    files.write_json(path, content)
    assert records.read_record(path, Verdict) == Verdict(3, "h", ["a"])
    for change, where in (({"people": "many"}, "people"), ({"sentences": [1]}, r"sentences\.0")):
        files.write_json(path, content | change)
        with pytest.raises(IntegrityError, match=rf"not as this version writes it \({where}: "):
            records.read_record(path, Verdict)
    files.write_json(path, [])
    with pytest.raises(IntegrityError, match="as a whole"):
        records.read_record(path, Verdict)


def test_a_cell_is_no_formula():
    table = pd.DataFrame({"name": ["=1", "+1", "-1", "@a", "\t=1", "\n=1", "b"], "value": range(-3, 4)})
    lines = pd.read_csv(io.BytesIO(records.csv_text(table)))
    assert [*lines["name"]] == ["'=1", "'+1", "'-1", "'@a", "'\t=1", "'\n=1", "b"]
    assert [*lines["value"]] == [*range(-3, 4)]
