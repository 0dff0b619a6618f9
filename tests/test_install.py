"""The locks say what pyproject.toml asks for, and nothing about where it comes from."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from facemae.cli.doctor import FLOORS

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
GROUPS = PYPROJECT["dependency-groups"]
DEFAULT = [Requirement(line) for line in PYPROJECT["project"]["dependencies"] + GROUPS["default"]]
TESTED_EXTRAS = [Requirement(line) for line in GROUPS["tested-extras"]]


def with_own(group: str) -> list[Requirement]:
    return DEFAULT + TESTED_EXTRAS + [Requirement(line) for line in GROUPS[group] if isinstance(line, str)]


DEV = with_own("dev")
LOCKS = {
    "requirements.lock": DEFAULT,
    "requirements-extras.lock": with_own("extras"),
    "requirements-dev.lock": DEV,
    "requirements-uv.lock": [Requirement(line) for line in GROUPS["uv"]],
}
TEXT = {name: (ROOT / name).read_text() for name in LOCKS}


def locked(name: str) -> dict[str, list[Version]]:
    versions: dict[str, list[Version]] = {}
    for package, version in re.findall(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)", TEXT[name], flags=re.MULTILINE):
        versions.setdefault(canonicalize_name(package), []).append(Version(version))
    return versions


@pytest.mark.parametrize("name", LOCKS)
def test_every_requirement_is_locked_within_its_bounds(name):
    for requirement in LOCKS[name]:
        versions = locked(name).get(canonicalize_name(requirement.name))
        assert versions, f"{requirement.name} is not in {name}; run make lock"
        assert all(version in requirement.specifier for version in versions)


@pytest.mark.parametrize("name", LOCKS)
def test_everything_is_pinned_by_hash(name):
    entries = re.split(r"\n(?=[A-Za-z0-9])", TEXT[name].split("\n", 2)[2])
    assert len(entries) > 100 or name == "requirements-uv.lock"
    assert [entry.splitlines()[0] for entry in entries if "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("name", [name for name in LOCKS if name != "requirements-uv.lock"])
def test_every_direct_import_is_a_declared_dependency(name):
    """A locked package that pyproject.toml no longer names would go unnoticed until the next lock."""
    wanted_by = re.findall(
        r"^([A-Za-z0-9._-]+)==[^\n]*\n(?:    --hash[^\n]*\n)*((?:    #[^\n]*\n?)+)", TEXT[name], re.MULTILINE
    )
    roots = {canonicalize_name(package) for package, comment in wanted_by if "pyproject.toml" in comment}
    assert roots == {canonicalize_name(each.name) for each in LOCKS[name]} | (roots & {"facemae"})


def test_the_locks_hold_the_same_versions_and_tests_are_not_in_the_first():
    small, extras, large = map(
        locked, ("requirements.lock", "requirements-extras.lock", "requirements-dev.lock")
    )
    assert small.items() <= large.items()
    assert small.items() <= extras.items()
    assert all(extras[name] == large[name] for name in extras.keys() & large.keys())
    assert not small.keys() & {"pytest", "mypy", "ruff", "playwright", "transformers", "import-linter"}


def test_no_index_address_is_committed():
    for name in (*LOCKS, "pyproject.toml", "setup.sh", "Makefile"):
        text = (ROOT / name).read_text()
        assert not re.search(r"index[-_]url|find[-_]links|https?://\S*/simple", text), name


def test_uv_is_installed_by_hash():
    assert "pip install --quiet --require-hashes -r requirements-uv.lock" in (ROOT / "setup.sh").read_text()


def test_the_doctor_and_the_package_agree_on_floors():
    for requirement in DEV:
        floor = FLOORS.get(canonicalize_name(requirement.name))
        if floor:
            assert floor in str(requirement.specifier)
