"""The lock says what pyproject.toml asks for, and nothing about where it comes from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from facemae.cli.doctor import FLOORS

ROOT = Path(__file__).parent.parent
LOCK = (ROOT / "requirements.lock").read_text()
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
DIRECT = [
    Requirement(line) for line in PYPROJECT["project"]["dependencies"] + PYPROJECT["dependency-groups"]["dev"]
]


def locked() -> dict[str, list[Version]]:
    versions: dict[str, list[Version]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", LOCK, flags=re.MULTILINE):
        versions.setdefault(canonicalize_name(name), []).append(Version(version))
    return versions


@pytest.mark.parametrize("requirement", DIRECT, ids=str)
def test_every_requirement_is_locked_within_its_bounds(requirement):
    versions = locked().get(canonicalize_name(requirement.name))
    assert versions, f"{requirement.name} is not in requirements.lock; run make lock"
    assert all(version in requirement.specifier for version in versions)


def test_everything_is_pinned_by_hash():
    entries = re.split(r"\n(?=[A-Za-z0-9])", LOCK.split("\n", 2)[2])
    assert len(entries) > 100
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


def test_every_direct_import_is_a_declared_dependency():
    """A locked package that pyproject.toml no longer names would go unnoticed until the next lock."""
    wanted_by = re.findall(
        r"^([A-Za-z0-9._-]+)==[^\n]*\n(?:    --hash[^\n]*\n)*((?:    #[^\n]*\n?)+)", LOCK, re.MULTILINE
    )
    roots = {canonicalize_name(name) for name, comment in wanted_by if "pyproject.toml" in comment}
    assert roots == {canonicalize_name(requirement.name) for requirement in DIRECT} | (roots & {"facemae"})


def test_no_index_address_is_committed():
    for name in ("requirements.lock", "pyproject.toml", "setup.sh", "Makefile"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index[-_]url|find[-_]links|https?://\S*/simple", text), name


def test_the_doctor_and_the_package_agree_on_floors():
    for requirement in DIRECT:
        floor = FLOORS.get(canonicalize_name(requirement.name))
        if floor:
            assert floor in str(requirement.specifier)
