"""The board to paint on: what a browser sends becomes a mask, and what is no cell is left out."""

import base64
import json
import re
import zipfile
from pathlib import Path
from typing import Any

import hatchling.build
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from streamlit.testing.v1 import AppTest

from facemae.app.parts import paint
from facemae.data.images import encode_png

ROOT = Path(__file__).parents[2]
SIDE = 4


def page() -> None:
    import numpy as np
    import streamlit as st

    from facemae.app.parts import paint
    from facemae.data.images import encode_png

    if not st.session_state.get("away"):
        picture = encode_png(np.full((8, 8, 3), 7, np.uint8))
        found = paint.cells("board", picture, 4, start=[1, 2], unit="patches")
        st.text(str(np.flatnonzero(found).tolist()))


def opened() -> AppTest:
    app = AppTest.from_function(page, default_timeout=30).run()
    assert not app.exception
    return app


def painted(app: AppTest) -> list[int]:
    assert not app.exception
    return list(json.loads(app.text[0].value))


def sent(app: AppTest) -> dict[str, Any]:
    """Return what the browser is given."""
    return dict(json.loads(app.get("bidi_component")[0].proto.json))


def test_at_first_the_start_is_painted() -> None:
    app = opened()
    assert painted(app) == [1, 2]
    data = sent(app)
    assert data["cells"] == data["start"] == [1, 2]
    assert (data["side"], data["width"], data["colour"]) == (SIDE, paint.WIDTH, paint.GREY)
    assert base64.b64decode(data["picture"]) == encode_png(np.full((8, 8, 3), 7, np.uint8))
    assert "4 by 4 patches" in data["label"]


@pytest.mark.parametrize("cells", [[], [0], [5, 6, 15], list(range(16))])
def test_what_is_painted_comes_back_and_stays(cells: list[int]) -> None:
    app = opened()
    app.session_state["board"] = {"cells": cells}
    assert painted(app.run()) == cells
    assert sent(app)["cells"] == cells
    assert painted(app.run()) == cells


def test_what_was_painted_is_there_again_after_the_board_was_away() -> None:
    app = opened()
    app.session_state["board"] = {"cells": [9]}
    app.run()
    app.session_state["away"] = True
    app.run()
    assert not app.text
    app.session_state["away"] = False
    assert painted(app.run()) == [9]


@pytest.mark.parametrize(
    "nonsense", [None, "all", {"0": 1}, [-1, 16, 99, "1", 1.0, True, None, [2]], 3, [10**30]]
)
def test_what_is_no_cell_is_left_out(nonsense: Any) -> None:
    assert not paint.mask_of(nonsense, SIDE).any()
    app = opened()
    app.session_state["board"] = {"cells": nonsense}
    assert painted(app.run()) == []


@given(st.lists(st.integers(0, SIDE * SIDE - 1)))
def test_a_mask_has_the_cells_row_by_row(cells: list[int]) -> None:
    mask = paint.mask_of(cells, SIDE)
    expected = {(cell // SIDE, cell % SIDE) for cell in cells[: 2 * SIDE * SIDE]}
    assert {tuple(place) for place in np.argwhere(mask).tolist()} == expected


def test_two_visitors_paint_on_boards_of_their_own() -> None:
    one, other = opened(), opened()
    one.session_state["board"] = {"cells": [3]}
    assert painted(one.run()) == [3]
    assert painted(other.run()) == [1, 2]


def test_the_script_writes_no_markup_and_loads_nothing() -> None:
    script = (ROOT / "facemae" / "app" / "parts" / "paint.js").read_text()
    for word in ("innerHTML", "outerHTML", "insertAdjacent", "document.write", "eval(", "fetch(", "import(",
                 "http:", "https:", "localStorage"):  # fmt: skip
        assert word not in script
    assert not re.search(r"^import ", script, re.MULTILINE)
    style = (ROOT / "facemae" / "app" / "parts" / "paint.css").read_text()
    assert "url(" not in style
    assert "@import" not in style


def test_script_and_style_are_shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    wheel = tmp_path / hatchling.build.build_wheel(str(tmp_path))
    shipped = set(zipfile.ZipFile(wheel).namelist())
    files = {f"facemae/app/parts/paint.{kind}" for kind in ("py", "js", "css")}
    assert files <= shipped
