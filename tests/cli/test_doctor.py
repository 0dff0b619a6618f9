"""The doctor finds what would stop the main job, and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from facemae.cli import doctor

ROOT = Path(__file__).parents[2]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Stand in a folder with the shipped configuration."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FACEMAE_RAW_DIR", raising=False)
    (tmp_path / "config.yaml").write_text((ROOT / "config.yaml").read_text())
    return tmp_path


def change(folder: Path, difference: dict) -> None:
    content = yaml.safe_load((folder / "config.yaml").read_text())
    for section, values in difference.items():
        content[section] = {**content[section], **values} if isinstance(values, dict) else values
    (folder / "config.yaml").write_text(json.dumps(content))


def failed() -> list[str]:
    return [finding.topic for finding in doctor.examine([Path("config.yaml")]) if not finding.ok]


def test_a_sound_set_up_can_run(here, capsys):
    assert doctor.doctor([Path("config.yaml")]) == 0
    assert "The main job can run." in capsys.readouterr().out


def test_an_old_package_is_found(here, monkeypatch):
    monkeypatch.setitem(doctor.FLOORS, "torch", "99.0")
    assert failed() == ["torch"]


def test_a_missing_package_is_found(here, monkeypatch):
    monkeypatch.setitem(doctor.FLOORS, "no-such-package", "1.0")
    assert failed() == ["no-such-package"]


def test_an_old_python_is_found(here, monkeypatch):
    monkeypatch.setattr(doctor, "PYTHON_FLOOR", "4.0")
    assert failed() == ["python"]


def test_a_missing_configuration_is_found(here):
    (here / "config.yaml").unlink()
    assert failed() == ["configuration"]


def test_a_mistyped_configuration_is_found(here):
    change(here, {"sedes": [1]})
    assert failed() == ["configuration"]


def test_missing_data_is_found(here):
    change(here, {"data": {"labelled": "no/such/folder"}})
    assert failed() == ["data"]


def test_missing_unlabelled_data_is_found(here):
    (here / "photos").mkdir()
    change(here, {"data": {"unlabelled": ["photos"]}})
    assert failed() == []
    change(here, {"data": {"unlabelled": ["photos", "no/such/folder"]}})
    assert failed() == ["data"]


def data_line() -> doctor.Finding:
    return next(each for each in doctor.examine([Path("config.yaml")]) if each.topic == "data")


def test_a_data_set_behind_a_form_is_told_where_to_get(here):
    change(here, {"data": {"labelled": "celeba"}})
    finding = data_line()
    assert not finding.ok
    assert "CelebA" in finding.text
    assert "img_align_celeba" in finding.text
    (here / "data" / "raw" / "celeba" / "img_align_celeba").mkdir(parents=True)
    assert data_line().ok


def test_what_will_be_downloaded_is_no_failure(here):
    change(here, {"data": {"labelled": "lfw"}})
    finding = data_line()
    assert finding.ok
    assert finding.text.endswith("will be downloaded")


def test_the_same_data_twice_is_found(here):
    change(here, {"data": {"labelled": "lfw", "unlabelled": ["lfw-funneled"]}})
    assert failed() == ["data"]


@pytest.mark.parametrize("init", ["none.safetensors", "face-mae"])
def test_weights_that_a_run_cannot_start_from_are_found(here, init):
    change(here, {"runs": {"random": {"pretrain": {"init": init}, "model": {"depth": 9}}}})
    assert failed() == ["start"]


def test_a_gpu_that_is_asked_for_and_missing_is_found(here):
    import torch

    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    change(here, {"device": "cuda"})
    assert failed() == ["device"]


def test_a_full_disk_is_found(here, monkeypatch):
    monkeypatch.setattr(doctor, "MIN_FREE_MB", 1e12)
    assert failed() == ["disk"]


def test_a_results_folder_that_cannot_be_written_is_found(here):
    (here / "results").write_text("a file, not a folder")
    assert failed() == ["disk"]
    change(here, {"results": "/proc/results"})
    assert failed() == ["disk"]


@pytest.mark.parametrize("name", [".workflow.lock", "random/0/.pretrain.lock"])
def test_a_folder_in_use_is_found(here, name):
    path = here / "results" / name
    path.parent.mkdir(parents=True)
    lock = str(path)
    code = (
        "import sys; from pathlib import Path; from facemae.core.files import exclusive\n"
        f"with exclusive(Path({lock!r})): print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout.readline() == "held\n"
        assert failed() == ["locks"]
    finally:
        holder.communicate("")
    assert failed() == []
    assert path.exists(), "a lock file without a holder is no lock"
