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
    "results-killed/data/.unpacked/lfw-1/b.jpg", "work/.e.parquet.faces/photos.parquet", "work/e.parquet",
    "work/e.parquet.json",
]  # fmt: skip
GALLERY = ["data/gallery/faces.sqlite", "data/gallery/faces.sqlite-wal"]
KEPT = [
    "photos/ann/a.jpg",
    "data/raw/lfw/lfw.tgz",
    "config.yaml",
    ".venv/lib/photos.parquet",
    "work/mine.parquet",
    "work/mine.parquet.json",
    "src/results.py",
    "web/config.json",
    "web/shards/a.txt",
    "data/gallery/my-faces.sqlite",
]


@pytest.fixture
def here(tmp_path, monkeypatch, root):
    for name in (*MADE, *GALLERY, *KEPT):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "config.yaml").write_text((root / "config.yaml").read_text())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACEMAE_GALLERY", raising=False)
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
    assert "Nothing was deleted; answer y, or say --yes." in str(done.exception)
    assert "Nothing was deleted" in str(clean("--all", input="").exception)
    assert left(here) == before


def test_results_in_use_are_not_deleted(here):
    with exclusive(here / "results" / ".workflow.lock"):
        done = clean("--all", "--yes")
    assert "in use by process" in str(done.exception)
    assert (here / "results" / "config.json").exists()


def test_a_stage_in_use_is_not_deleted(here):
    with exclusive(here / "results" / "random" / "0" / ".pretrain.lock"):
        done = clean("--yes")
    assert "in use by process" in str(done.exception)
    assert (here / "results-mine").exists()


@pytest.mark.parametrize("address", ["data/gallery/faces.sqlite", "sqlite:///data/gallery/faces.sqlite"])
@pytest.mark.parametrize("named", ["variable", "settings"])
def test_the_gallery_goes_however_it_is_named(here, address, named, monkeypatch):
    if named == "variable":
        monkeypatch.setenv("FACEMAE_GALLERY", address)
    else:
        (here / "mine.yaml").write_text(f"gallery: {{url: '{address}'}}")
    config = ["--config", "config.yaml", "--config", "mine.yaml"] if named == "settings" else []
    done = clean("--all", "--yes", *config)
    assert done.exit_code == 0
    assert left(here) - {"mine.yaml"} == set(KEPT)


def test_a_configuration_that_is_not_there_is_no_reason_to_take_another(here):
    done = clean("--yes", "--config", "mien.yaml")
    assert "mien.yaml" in str(done.exception)
    assert (here / "results").exists()


def test_results_that_are_elsewhere_go_with_the_link_to_them(here, tmp_path_factory):
    large = tmp_path_factory.mktemp("large") / "mine"
    (here / "results-mine").rename(large)
    (here / "results-mine").symlink_to(large)
    done = clean("--yes")
    assert f"results-mine -> {large}" in done.output
    assert not large.exists()
    assert not (here / "results-mine").is_symlink()


@pytest.mark.parametrize(("key", "place"), [("labelled", "results/mine"), ("raw_dir", "results-mine/raw")])
def test_photos_inside_what_is_to_go_stop_it(here, key, place):
    (here / place).mkdir(parents=True)
    (here / "mine.yaml").write_text(f"data: {{{key}: {place}}}")
    done = clean("--all", "--yes", "--config", "config.yaml", "--config", "mine.yaml")
    assert f"holds {place}, which is to stay" in str(done.exception)
    assert (here / "logs").exists()
