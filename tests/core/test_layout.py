import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core import files, layout, records
from facemae.core.errors import IntegrityError
from facemae.core.layout import DataFolder, Results

RECORDS = [{"step": 10, "loss": 0.1 + 0.2}, {"step": 20, "loss": 1e-300}, {"step": 30, "note": "ä\u2028\n"}]


def places(folder):
    """Return every path that a folder names, those of its folder of data included."""
    named = [name for name, value in vars(type(folder)).items() if name[0] != "_" and not callable(value)]
    values = [getattr(folder, name) for name in named]
    within = [value for value in values if isinstance(value, DataFolder)]
    return [value for value in values if isinstance(value, Path)] + [
        path for each in within for path in places(each)
    ]


def test_every_file_of_a_results_folder_has_its_own_place(tmp_path):
    paths = Results(tmp_path)
    found = places(paths)
    assert len(found) >= 20
    assert len(set(found)) == len(found)
    assert all(place.is_relative_to(tmp_path) for place in found)
    assert paths.stage("block", 2, "embed") == tmp_path / "block" / "2" / "embed"


def test_a_folder_of_data_stands_alone_or_within_results(tmp_path):
    assert Results(tmp_path).data == DataFolder(tmp_path / "data")
    found = places(DataFolder(tmp_path))
    assert len(found) >= 13
    assert {path.parent for path in found} == {tmp_path}


def test_no_run_can_take_the_place_of_another_file(tmp_path):
    from facemae.config import RESERVED_RUN_NAMES

    paths = Results(tmp_path)
    folders = {path.relative_to(tmp_path).parts[0] for path in places(paths) if path.parent != tmp_path}
    assert "data" in folders
    assert folders <= set(RESERVED_RUN_NAMES)


# --- lines ---


@settings(max_examples=20)
@given(st.lists(st.dictionaries(st.text(), st.none() | st.integers() | st.text()), max_size=4))
def test_lines_round_trip(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("lines") / "log.jsonl"
    records.write_lines(path, lines)
    assert records.read_log(path) == lines
    assert path.read_bytes().count(b"\n") == len(lines)


def test_a_log_torn_anywhere_keeps_its_whole_lines(tmp_path):
    whole, torn = tmp_path / "whole.jsonl", tmp_path / "torn.jsonl"
    records.write_lines(whole, RECORDS)
    data = whole.read_bytes()
    for length in range(len(data) + 1):
        torn.write_bytes(data[:length])
        complete = data[:length].count(b"\n")
        unended = length < len(data) and data[length : length + 1] == b"\n"  # only the newline is missing
        assert records.read_log(torn) == RECORDS[: complete + unended]


def test_nothing_after_a_damaged_line_is_believed(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 1}\n{"ste\n{"step": 3}\n')
    with pytest.raises(IntegrityError, match="damaged in line 2"):
        records.read_log(tmp_path / "log.jsonl")


def test_a_number_that_is_not_finite_is_no_line(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_lines(tmp_path / "log.jsonl", [{"loss": math.nan}])
    assert list(tmp_path.iterdir()) == []


# --- tables ---


@pytest.fixture
def table():
    vectors = list(np.arange(12, dtype=np.float32).reshape(3, 4))
    return pd.DataFrame(
        {"person": ["a", None, "c"], "embedding": vectors, "part": 0, "more": 1, "sample_id": list("xyz")}
    )


def test_tables_round_trip_with_the_named_columns_in_their_order(tmp_path, table):
    path = tmp_path / "deep" / "embeddings.parquet"
    records.write_table(path, table, layout.EMBEDDING_COLUMNS)
    found = records.read_table(path)
    assert list(found.columns) == ["sample_id", "person", "part", "embedding"]
    assert found["sample_id"].to_list() == ["x", "y", "z"]
    assert [isinstance(person, str) for person in found["person"]] == [True, False, True]
    assert np.array_equal(np.stack(found["embedding"]), np.stack(table["embedding"]))
    assert list(records.read_table(path, ["person"]).columns) == ["person"]


def test_the_same_table_is_the_same_bytes(tmp_path, table):
    for name in "ab":
        records.write_table(tmp_path / name, table, layout.EMBEDDING_COLUMNS)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_without_a_column_is_not_written(tmp_path, table):
    with pytest.raises(KeyError, match="sample_id"):
        records.write_table(tmp_path / "t", table.drop(columns="sample_id"), layout.EMBEDDING_COLUMNS)
    assert list(tmp_path.iterdir()) == []


def test_damaged_tables_are_told(tmp_path, table):
    path = tmp_path / "t.parquet"
    records.write_table(path, table, layout.EMBEDDING_COLUMNS)
    data = path.read_bytes()
    damaged = [data[:cut] for cut in range(0, len(data), 97)]
    damaged += [b"PAR1" + bytes(100) + b"PAR1", b"x" * 500, data[:-9] + bytes([data[-9] ^ 255]) + data[-8:]]
    for each in damaged:
        path.write_bytes(each)
        with pytest.raises(
            IntegrityError, match=r"t\.parquet is damaged or no table of ours .*; make it again"
        ) as caught:
            records.read_table(path)
        assert caught.value.exit_code == 4


def test_a_table_that_lacks_a_column_is_not_ours(tmp_path, table):
    records.write_table(tmp_path / "t", table, layout.EMBEDDING_COLUMNS)
    with pytest.raises(IntegrityError, match="no table of ours"):
        records.read_table(tmp_path / "t", ["sample_id", "role"])


def test_a_table_that_is_not_there_is_no_damage(tmp_path):
    with pytest.raises(FileNotFoundError):
        records.read_table(tmp_path / "t")


# --- JSON ---


def test_digest_follows_the_value_and_not_the_order_of_its_keys():
    assert records.digest({"a": 1, "b": [2, 3]}) == records.digest({"b": [2, 3], "a": 1})
    assert records.digest({"a": 1, "b": [2, 3]}) != records.digest({"a": 1, "b": [3, 2]})
    assert records.digest({"a": 1}) != records.digest({"a": 1.5})
    # Fixed for good: the checkpoints of interrupted runs are found by it.
    assert records.digest({"a": 1}) == files.sha256(b'{\n  "a": 1\n}\n')[:16]


def test_a_metric_is_whole_with_and_without_a_value():
    entry = records.metric("eer", 0.1, n=5, interval=(0.05, 0.2), protocol="verification")
    assert entry == {
        "protocol": "verification", "name": "eer", "condition": "", "amount": None, "value": 0.1,
        "ci_low": 0.05, "ci_high": 0.2, "n": 5, "note": "",
    }  # fmt: skip
    refused = records.metric("tar", None, n=5, note="needs more")
    assert (refused["value"], refused["ci_low"], refused["ci_high"]) == (None, None, None)
    assert refused.keys() == entry.keys()


def test_metrics_say_what_made_them(tmp_path):
    entry = records.metric("eer", 0.1, n=5)
    for name in "ab":
        records.write_metrics(
            tmp_path / name, [entry], seed=3, device="cpu, float32", seconds={"x": 1.5}, people=7
        )
    first, second = ((tmp_path / name / "metrics.json").read_bytes() for name in "ab")
    assert first == second
    content = json.loads(first)
    assert content["schema_version"] == records.SCHEMA_VERSION
    assert (content["seed"], content["device"], content["people"]) == (3, "cpu, float32", 7)
    assert content["seconds"] == {"x": 1.5}
    assert content["metrics"] == [entry]
    assert set(content["versions"]) >= {"facemae", "python", "torch", "timm", "numpy"}
    assert content == records.read_json(tmp_path / "a" / "metrics.json")


def test_a_metric_that_is_not_finite_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="not JSON compliant"):
        records.write_metrics(tmp_path, [records.metric("eer", math.nan, n=1)], seed=0, device="", seconds={})
    assert list(tmp_path.iterdir()) == []


def test_commit_is_a_hash_or_unknown(monkeypatch):
    commit = records.commit()
    assert commit == "unknown" or len(commit.rstrip("+")) == 40
    monkeypatch.setenv("PATH", "")  # no git
    assert records.commit.__wrapped__() == "unknown"


@pytest.mark.parametrize("damage", [b"", b'{"a": 1', b"\xff\xfe"])
def test_damaged_json_is_told(tmp_path, damage):
    (tmp_path / "metrics.json").write_bytes(damage)
    with pytest.raises(IntegrityError, match=r"metrics\.json is damaged"):
        records.read_json(tmp_path / "metrics.json")
