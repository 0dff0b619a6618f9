"""What `import facemae` offers, and README's lines from Python."""

import re
import subprocess
import sys
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest

import facemae
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos
from facemae.recognition.enrolment import template

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", facemae.__all__)
def test_a_public_name_is_that_of_its_module(name):
    found = getattr(facemae, name)
    assert found.__module__ == f"facemae.{facemae._MODULES[name]}"
    assert found.__doc__


def test_other_names_are_told_to_be_none():
    with pytest.raises(AttributeError, match="has no attribute 'Recognizer'"):
        facemae.Recognizer  # noqa: B018
    with pytest.raises(ImportError):
        from facemae import nothing  # noqa: F401


def test_importing_the_package_loads_no_network():
    code = "import facemae, sys; print(sorted({'torch', 'timm', 'pandas', 'numpy'} & set(sys.modules)))"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "[]\n"
    )


def test_the_lines_of_the_readme_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    first, second, *_ = (photo.path for photo in orl_photos())  # of one person
    open_image(second).resize((276, 336)).save("party.jpg", quality=95)
    recogniser = facemae.Recogniser(facemae.find_model("dlib"))
    enrolled = template(recogniser, recogniser.align(first).faces[0].image, None, thumbnail=False)
    with facemae.Gallery("faces.sqlite") as gallery:
        gallery.enrol("Ann", [enrolled], consent=True, retain_until=date.today() + timedelta(days=1))
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    found: dict[str, Any] = {}
    exec(lines, found)
    assert found["vectors"].shape == (1, 128)
    assert [each.match.person.name for each in found["people"]] == ["Ann"]
