from pathlib import Path

import pytest
import yaml

from facemae import config
from facemae.core.errors import UsageError
from facemae.recognition.settings import SHIPPED, VARIABLE, file_of, gallery_at, settings


def test_the_shipped_settings_are_used_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    shipped = config.load([SHIPPED]).gallery
    assert settings() == shipped.model_copy(update={"url": str(SHIPPED.parent / shipped.url)})


def test_a_file_is_named_from_the_folder_of_its_configuration(tmp_path, monkeypatch, shipped):
    monkeypatch.delenv(VARIABLE, raising=False)
    shipped["gallery"]["url"] = "kept/faces.sqlite"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shipped))
    monkeypatch.chdir(tmp_path)
    assert settings().url == str(tmp_path / "kept" / "faces.sqlite")
    monkeypatch.chdir("/")
    assert settings(tmp_path / "config.yaml").url == str(tmp_path / "kept" / "faces.sqlite")
    shipped["gallery"]["url"] = "postgresql://me@host/faces"
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shipped))
    assert settings(tmp_path / "config.yaml").url == "postgresql://me@host/faces"
    monkeypatch.setenv(VARIABLE, "elsewhere.sqlite")
    assert settings(tmp_path / "config.yaml").url == "elsewhere.sqlite"


def test_the_variable_comes_before_the_file_and_may_hold_a_password(monkeypatch, root):
    monkeypatch.chdir(root)
    monkeypatch.setenv(VARIABLE, "postgresql+psycopg://me:secret@host/faces")
    assert settings().url == "postgresql+psycopg://me:secret@host/faces"
    monkeypatch.setenv(VARIABLE, "")
    assert settings().url == str(SHIPPED.parent / config.load([SHIPPED]).gallery.url)


def test_a_password_in_the_file_is_refused_and_not_repeated(shipped):
    shipped["gallery"]["url"] = "postgresql+psycopg://me:secret@host/faces"
    with pytest.raises(UsageError, match=r"gallery.url: .* holds a password.* set PGPASSWORD") as error:
        config.parse(shipped)
    assert "secret" not in str(error.value)
    shipped["gallery"]["url"] = "postgresql+psycopg://me@host/faces"
    assert config.parse(shipped).gallery.url.endswith("/faces")


@pytest.mark.parametrize(("url", "file"), [
    ("kept/faces.sqlite", "kept/faces.sqlite"), ("sqlite:///kept/faces.sqlite", "kept/faces.sqlite"),
    ("sqlite+pysqlite:///faces.sqlite?mode=ro", "faces.sqlite"), ("sqlite:////faces.sqlite", "/faces.sqlite"),
    ("sqlite:///~/faces.sqlite", str(Path.home() / "faces.sqlite")), ("~/a", str(Path.home() / "a")),
])  # fmt: skip
def test_every_form_of_a_file_is_named_from_the_configuration(tmp_path, monkeypatch, shipped, url, file):
    monkeypatch.delenv(VARIABLE, raising=False)
    shipped["gallery"]["url"] = url
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(shipped))
    monkeypatch.chdir("/")
    assert settings(tmp_path / "config.yaml").url == str(tmp_path / file)
    assert file_of(url) == Path(file)


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///", "postgresql://me@host/faces", "postgresql:///faces"]
)
def test_what_is_no_file_stays_as_it_is(tmp_path, url):
    assert file_of(url) is None
    assert gallery_at(url, tmp_path) == url
