"""The page on extending FaceMAE is true: its pieces, put where it says, make a strategy that trains."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import safetensors.torch
import torch
import yaml
from stages import make_folder

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text("utf-8")
SIZE, PATCH = 64, 8
SMALL = {
    "device": "cpu",
    "data": {"image_size": SIZE},
    "defaults": {
        "model": {"patch_size": PATCH, "width": 16, "depth": 1, "heads": 2, "embedding": 8},
        "pretrain": {
            "decoder_width": 16, "decoder_heads": 2, "held_out": 0.25, "validate_every": 2, "steps": 4,
            "batch_size": 4, "log_every": 2, "checkpoint_every": 4,
        },
    },
}  # fmt: skip
WHERE = re.compile(
    r"\bin(?: the new file)?\s`(?P<file>[\w./]+)`"
    r"(?:,\s(?P<side>before|after)\sthe\sline\s`(?P<line>[^`]+)`)?\n\n```\w+\n(?P<text>.*?)```\n",
    re.DOTALL | re.IGNORECASE,
)


@dataclass
class Piece:
    """One piece of code of the page and where it goes."""

    file: str
    text: str
    side: str | None
    line: str | None

    def apply(self, root):
        path = root / self.file
        if self.side is None:
            assert not path.exists(), f"the page calls {self.file} new"
            path.write_text(self.text)
            return
        lines = path.read_text().splitlines(keepends=True)
        (at,) = [number for number, each in enumerate(lines) if each.strip().startswith(self.line)]
        if self.side == "before":
            lines.insert(at, f"{self.text}\n\n")
        else:
            lines.insert(at + 1, self.text)
        path.write_text("".join(lines))


PIECES = [Piece(each["file"], each["text"], each["side"], each["line"]) for each in WHERE.finditer(PAGE)]


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Copy the package, its configuration and the tests of masks, and do what the page says."""
    root = tmp_path_factory.mktemp("copy")
    for name in (
        "facemae", "config", "tests/masking", "tests/config/test_masks.py", "tests/draws.py",
        "tests/conftest.py", "config.yaml", "pyproject.toml",
    ):  # fmt: skip
        source, target = ROOT / name, root / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for piece in PIECES:
        piece.apply(root)
    (root / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return root


def run(root, *arguments):
    """Run a Python module in the copy; what is imported is the copy's."""
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=root,
        env=os.environ | {"PYTHONPATH": str(root), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def configs(*names):
    return [part for name in ("config.yaml", *names) for part in ("--config", name)]


def test_every_piece_of_code_says_where_it_goes():
    assert len(PIECES) == PAGE.count("\n```python") + PAGE.count("\n```yaml")
    assert {piece.side for piece in PIECES} == {"before", "after", None}


def test_a_strategy_takes_about_20_lines():
    own = [piece for piece in PIECES if piece.side and not piece.file.startswith("tests/")]
    assert {piece.file for piece in own} == {
        "facemae/masking/spatial.py", "facemae/masking/strategies.py", "facemae/config/masks.py",
        "config/defaults.yaml",
    }  # fmt: skip
    lines = [line for piece in own for line in piece.text.splitlines() if line.strip()]
    assert len(lines) <= 25


def test_the_code_is_in_the_projects_style(copy):
    changed = {piece.file for piece in PIECES if piece.file.endswith(".py")}
    for command in (["check"], ["format", "--check"]):
        done = run(copy, "ruff", *command, *changed)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_new_strategy_trains_through_the_command_line(copy, tmp_path):
    store, out = make_folder(tmp_path / "store", SIZE), tmp_path / "pretrain"
    names = configs("config/rings.yaml", "small.yaml")
    done = run(
        copy, "facemae", "pretrain", *names, "--run", "rings", "--seed", "0",
        "--data", str(store.root), "--out", str(out),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "rings mask" in done.stderr
    settings = json.loads((out / "config.json").read_text())["pretrain"]
    assert settings["mask"] == "rings"
    assert settings["masks"] == {"rings": {"width": 1.0}}
    hidden = safetensors.torch.load_file(out / "reconstructions.safetensors")["hidden"]
    side = SIZE // PATCH
    count = round(settings["mask_ratio"] * side * side)
    assert hidden.sum(dim=1).tolist() == [count] * len(hidden)
    for row in hidden:
        assert any(bool(row[each].all()) for each in rings(side, width=1.0))
    assert (out / "encoder.safetensors").exists()


def rings(side, width):
    """Return what the rings cover, (N,) bool, from every radius at which they cover something else."""
    place = torch.arange(side) - (side - 1) / 2
    radius = (place[:, None] ** 2 + place[None, :] ** 2).sqrt().flatten()
    starts = torch.arange(0, 2 * width, 0.01)
    return [(radius + start) % (2 * width) < width for start in starts]


def test_a_wrong_parameter_is_refused_by_its_path(copy):
    wrong = {"defaults": {"pretrain": {"masks": {"rings": {"width": 0.0}}}}}
    (copy / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    done = run(copy, "facemae", "config", *configs("wrong.yaml"))
    assert done.returncode == 2
    assert "defaults.pretrain.masks.rings.width: " in done.stderr
    assert "greater than 0" in done.stderr


def test_the_tests_of_every_strategy_hold_for_the_new_one(copy):
    chosen = ["tests/config/test_masks.py", "tests/masking/test_strategies.py", "-k", "rings"]
    done = run(copy, "pytest", "-q", "-p", "no:cacheprovider", *chosen)
    assert done.returncode == 0, done.stdout
    assert int(re.search(r"(\d+) passed", done.stdout)[1]) >= 8


@pytest.mark.parametrize(
    "page", ["architecture.md", "extending.md", "masking.md", "design/pretraining.md", "design/skeleton.md"]
)
def test_files_and_dicts_that_the_pages_name_exist(page):
    text = (ROOT / "docs" / page).read_text("utf-8")
    named = set(re.findall(r"`((?:facemae|tests|config|workflow)/[\w./]+)`", text))
    sources = [ROOT / name for name in named - {piece.file for piece in PIECES if piece.side is None}]
    assert sources
    assert [path for path in sources if not path.exists()] == []
    linked = re.findall(r"\]\(((?!http)[^)#]+\.md)\)", text)
    pages = {(ROOT / "docs" / page).parent / each for each in linked}
    assert [path for path in pages if not path.exists()] == []
    code = "\n".join(path.read_text() for path in sources if path.suffix == ".py")
    dicts = set(re.findall(r"`([A-Z]{3,}(?:_[A-Z]+)*)`", text))
    assert [name for name in dicts if not re.search(rf"^{name}\b", code, re.MULTILINE)] == []
