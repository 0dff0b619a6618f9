"""Cleaning names and removes every place with faces or embeddings, and nothing else."""

import pytest
from typer.testing import CliRunner

from facemae.__main__ import app
from facemae.core.files import exclusive

MADE = [
    "results/config.json", "results/data/photos.parquet", "results/data/.unpacked/lfw-1/a.jpg",
    "results/random/0/.pretrain/step_4/state.safetensors", "results-mine/data/faces.npy",
    "results-mine/data/photos.parquet", "prepared/lfw/photos.parquet", "prepared/lfw/shards/x/0.parquet",
    "data/evaluated/embeddings.parquet", "logs/random/0/pretrain.log", ".snakemake/log/x.log",
    "results-killed/data/.unpacked/lfw-1/b.jpg",
]  # fmt: skip
GALLERY = ["data/gallery/faces.sqlite", "data/gallery/faces.sqlite-wal", "data/gallery/.faces.sqlite.tmp"]
KEPT = [
    "photos/ann/a.jpg",
    "data/raw/lfw/lfw.tgz",
    "config.yaml",
    ".venv/lib/photos.parquet",
    "src/results.py",
]


@pytest.fixture
def here(tmp_path, monkeypatch, root):
    for name in (*MADE, *GALLERY, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.yaml").write_text((root / "config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


def left(folder):
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def clean(*arguments, **options):
    return CliRunner().invoke(app, ["clean", *arguments], **options)


def test_all_leaves_photos_archives_and_the_environment(here):
    done = clean("--all", "--yes")
    assert done.exit_code == 0, done.output
    assert left(here) == set(KEPT)
    for name in (
        "results ",
        "results-mine",
        "results-killed",
        "prepared/lfw",
        "data/evaluated",
        "logs",
        "faces.sqlite",
    ):
        assert name in done.output
    assert "There is nothing to delete." in clean("--all", "--yes").output


def test_the_gallery_stays_unless_it_is_meant(here):
    done = clean("--yes")
    assert "Kept: the people enrolled" in done.output
    assert left(here) == {*KEPT, *GALLERY}


def test_nothing_goes_without_a_yes(here):
    before = left(here)
    done = clean("--all", input="n\n")
    assert "results-mine" in done.output
    assert left(here) == before


def test_results_in_use_are_not_deleted(here):
    with exclusive(here / "results" / ".workflow.lock"):
        done = clean("--all", "--yes")
    assert "in use by process" in str(done.exception)
    assert (here / "results" / "config.json").exists()
