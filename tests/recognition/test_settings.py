import pytest

from facemae import config
from facemae.core.errors import UsageError
from facemae.recognition.settings import SHIPPED, VARIABLE, settings


def test_the_shipped_settings_are_used_where_there_are_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    assert settings() == config.load([SHIPPED]).gallery


def test_the_variable_comes_before_the_file_and_may_hold_a_password(monkeypatch, root):
    monkeypatch.chdir(root)
    monkeypatch.setenv(VARIABLE, "postgresql+psycopg://me:secret@host/faces")
    assert settings().url == "postgresql+psycopg://me:secret@host/faces"
    monkeypatch.setenv(VARIABLE, "")
    assert settings().url == config.load([SHIPPED]).gallery.url


def test_a_password_in_the_file_is_refused_and_not_repeated(shipped):
    shipped["gallery"]["url"] = "postgresql+psycopg://me:secret@host/faces"
    with pytest.raises(UsageError, match=r"gallery.url: .* holds a password.* set PGPASSWORD") as error:
        config.parse(shipped)
    assert "secret" not in str(error.value)
    shipped["gallery"]["url"] = "postgresql+psycopg://me@host/faces"
    assert config.parse(shipped).gallery.url.endswith("/faces")
