"""The measurements of the app: their arithmetic, and that their visitors see what a browser would."""

import io
import random
import socket
from types import SimpleNamespace

import pytest
from PIL import Image

from benchmarks import app_load, app_memory
from benchmarks.visitor import Visitor, serving
from facemae.app.guard import VARIABLE


def test_a_quantile_is_the_wait_that_the_share_does_not_exceed():
    waits = [0.1 * step for step in range(1, 21)]
    random.Random(0).shuffle(waits)
    assert app_load.quantile(waits, 0.5) == 1.0
    assert app_load.quantile(waits, 0.95) == 1.9
    assert app_load.quantile(waits, 1.0) == 2.0
    assert app_load.quantile([3.0], 0.95) == 3.0


def test_waits_are_counted_by_what_was_asked_for_and_together():
    waits = app_load.Waits()
    for seconds in (1.0, 2.0, 3.0):
        waits.note("a page", seconds, [])
    waits.note("a slider", 9.0, ["Busy: try again."])
    assert waits.faults == ["Busy: try again."]
    assert waits.summary() == {
        "all": {"n": 4, "p50_s": 2.0, "p95_s": 9.0},
        "a page": {"n": 3, "p50_s": 2.0, "p95_s": 3.0},
        "a slider": {"n": 1, "p50_s": 9.0, "p95_s": 9.0},
    }


def test_the_photo_has_twelve_megapixels():
    with Image.open(io.BytesIO(app_load.photo(0))) as image:
        assert image.width * image.height == 12_000_000
        assert image.format == "JPEG"


def test_growth_starts_after_the_warm_up():
    held, done = [0], []

    def act(number):
        done.append(number)
        held[0] += 9_000_000 if number < app_memory.WARM else 1_000_000

    process = SimpleNamespace(memory_info=lambda: SimpleNamespace(rss=held[0]))
    found = app_memory.growth(act, 20, process, "test")
    assert done == list(range(app_memory.WARM + 20))
    assert found["warm_mb"] == 9 * app_memory.WARM
    assert found["along_mb"] == [2.0 * step for step in range(1, 11)]
    assert found["growth_mb"] == 20.0


@pytest.fixture(scope="module")
def server(made, tmp_path_factory):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    gallery = tmp_path_factory.mktemp("load") / "faces.sqlite"
    environment = {"FACEMAE_RESULTS": str(made), "FACEMAE_GALLERY": str(gallery), VARIABLE: ""}
    with serving(environment, port) as (address, _):
        yield address


def test_a_visitor_sees_what_is_on_the_page_and_what_goes_wrong(server):
    visitor = Visitor(server)
    assert visitor.open("recognise") > 0
    assert any("The gallery is empty" in each for each in visitor.said)
    visitor.press("recognise_demo")
    assert any("people are enrolled" in each for each in visitor.said)
    assert "twin_area" in visitor.widgets
    fragment = visitor.widgets["twin_area"][1]
    assert fragment
    visitor.choose("twin_area", "double_array_value", [50.0])
    assert not any("are enrolled" in each for each in visitor.said)  # the fragment alone was drawn
    assert visitor.faults == []
    visitor.go("nowhere")
    assert "page not found" in visitor.faults
    visitor.close()


def test_people_use_the_app_at_once(server, made, monkeypatch):
    from facemae import reading
    from facemae.results import Results

    monkeypatch.setattr(app_load, "THINK", (0.0, 0.1))
    samples = reading.faces(Results(made))["sample_id"].to_list()
    found = app_load.crowd(server, samples, 2, 4.0)
    assert found["faults"] == 0, found["what went wrong"]
    assert {"all", "first page", "open Recognise", "another sample"} <= set(found)
    assert found["first page"]["n"] == 2
    assert found["all"]["n"] > 6
