"""Whatever a file of settings holds, it ends in values or in one sentence."""

import io
import sys
from itertools import pairwise

import pytest

from facemae import config
from facemae.config.yaml_file import MAX_CHARACTERS, STDIN, check_plain, read_yaml
from facemae.core.errors import UsageError

ATTACKS = {
    "5,000 digits": f"seeds: [{'9' * 5000}]",
    "an impossible date": "results: 2024-02-31",
    "an impossible time": "results: 2024-01-01 25:61:61",
    "deep lists": f"seeds: {'[' * 3000}{']' * 3000}",
    "deep keys": "\n".join(" " * depth + "a:" for depth in range(60)),
    "itself": "data: &data {labelled: *data}",
    "a billion": "a: &a [1,1,1,1,1,1,1,1,1]\n" + "\n".join(
        f"{new}: &{new} [{','.join(['*' + old] * 9)}]" for old, new in pairwise("abcdefghi")
    ),
    "NUL": 'data: {labelled: "a\\0b"}',
    "an escape": 'results: "\\e[2J"',
    "half a file": "data: {",
    "a list": "- 1",
    "nothing": "",
    "another type": "results: !!python/object:os.system {}",
    "large": "a: " + "x" * MAX_CHARACTERS,
    "a key that is a list": "? [1, 2]\n: 3",
    "ten merges of ten merges": "a: &a {x: 1}\n" + "\n".join(
        f"{new}: &{new} {{<<: [{','.join(['*' + old] * 10)}]}}" for old, new in pairwise("abcdefghij")
    ),
    "an octal number": "seeds: [010]",
    "a number to the base of 60": "defaults: {pretrain: {batch_size: 1:30}}",
    "a run called on": "runs: {on: {}}",
    "a run called no": "runs: {no: {}}",
    "a key that is a number": "runs: {1: {}}",
    "no key": "~: 1",
    "a set": "seeds: !!set {1, 2}",
    "a date": "results: 2024-02-03",
}  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS)
def test_what_is_no_setting_is_one_sentence(name, tmp_path, root):
    path = tmp_path / "mine.yaml"
    path.write_text(ATTACKS[name])
    with pytest.raises(UsageError) as refused:
        config.load([root / "config.yaml", path])
    text = str(refused.value)
    assert text.isprintable()
    assert len(text) <= 1000
    assert text.endswith(".")


def test_aliases_that_refer_to_each_other_over_two_files(tmp_path, root):
    for name in ("a.yaml", "b.yaml"):
        (tmp_path / name).write_text("defaults: &d {model: &m {size: *m}, finetune: *d}")
    with pytest.raises(UsageError, match="in itself"):
        config.load([root / "config.yaml", tmp_path / "a.yaml", tmp_path / "b.yaml"])


def test_what_snakemake_has_read_is_checked_as_well(shipped):
    shipped["data"]["labelled"] = "a\0b"
    with pytest.raises(UsageError, match=r"^data\.labelled: 'a\\x00b' holds a control character"):
        config.parse(shipped)


def test_an_alias_is_allowed(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: &a {steps: 3}\nb: *a")
    assert read_yaml(path) == {"a": {"steps": 3}, "b": {"steps": 3}}


def test_standard_input_is_read(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("seeds: [7]"))
    assert read_yaml(STDIN) == {"seeds": [7]}


def test_usual_settings_are_plain(shipped):
    check_plain(shipped)
