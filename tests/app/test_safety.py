"""The app's settings, the server against hostile requests, hostile photos, and that visitors stay apart."""

import ast
import io
import random
import re
import socket
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import requests
from PIL import Image
from streamlit.testing.v1 import AppTest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from benchmarks.visitor import Visitor
from facemae.app.parts import photo_input
from facemae.data.images import open_image
from facemae.data.sources.orl import orl_photos

ROOT = Path(__file__).parents[2]
SETTINGS = tomllib.loads((ROOT / ".streamlit" / "config.toml").read_text("utf-8"))
FOLDER = ROOT / "facemae" / "app"
APP = {
    path.relative_to(FOLDER).as_posix(): ast.parse(path.read_text("utf-8"))
    for path in sorted(FOLDER.rglob("*.py"))
}

# --- the settings ---


def test_the_settings_are_those_that_photos_of_people_need():
    assert SETTINGS["server"] == {
        "address": "127.0.0.1",
        "allowedHosts": ["localhost", "127.0.0.1"],
        "enableCORS": True,
        "enableXsrfProtection": True,
        "enableStaticServing": False,
        "enableAgentApi": False,
        "maxUploadSize": photo_input.MAX_UPLOAD,
        "maxMessageSize": 20,
        "maxCacheDataSize": "200mb",
        "disconnectedSessionTTL": 120,
        "fileWatcherType": "none",
        "showEmailPrompt": False,
    }
    assert SETTINGS["client"] == {
        "showErrorDetails": "none", "showErrorLinks": False, "toolbarMode": "viewer", "allowedOrigins": [],
    }  # fmt: skip
    assert SETTINGS["browser"] == {"gatherUsageStats": False}
    assert SETTINGS["runner"] == {"postScriptGC": False}


def test_streamlit_knows_every_setting():
    from streamlit import config

    known = set(config.get_config_options())
    named = {
        f"{section}.{name}" for section, options in SETTINGS.items() if section != "theme" for name in options
    }
    assert named <= known
    assert "server.address" in named


# --- the source ---

# These turn their first argument into markup; those of the second kind their options too.
MARKED = {
    "badge", "button", "camera_input", "caption", "checkbox", "choose", "date_input", "download",
    "download_button", "error",
    "expander", "file_uploader", "form_submit_button", "header", "info", "link_button", "markdown", "metric",
    "multiselect", "number_input", "page_link", "pills", "popover", "progress", "radio", "segmented_control",
    "select_slider", "selectbox", "slider", "spinner", "status", "subheader", "success", "switch", "tabs",
    "text_area",
    "text_input", "title", "toast", "toggle", "warning", "write",
}  # fmt: skip
WITH_OPTIONS = {"pills", "radio", "segmented_control", "switch"}
KEYWORDS = {"body", "help", "label", "placeholder", "text"}
# What holds words of visitors or of files; `.name` of anything but a model or a metric is a person's.
HOSTILE = re.compile(
    r"\b(person|sample_id|known_as|pending|candidates?|getvalue|uploaded?|shots?|typed|thumbnail)\b"
)
NAMED = re.compile(r"\b(\w+)\.name\b")
HARMLESS_NAMES = {"model", "measure"}
# What a function that is cached for all visitors may be given, and why it says nothing of one of them.
SHARED = {
    "_model": "a model of the results", "_read": "a function of facemae.report.tables", "area": "a setting",
    "args": "of a reader of results: names of runs and samples", "face": "a sample of the results",
    "file": "a file of the results", "fingerprint": "of a model", "folder": "of the results",
    "kind": "of occluder", "kwargs": "as args", "model": "of the results", "name": "of a reader",
    "parameters": "of a masking strategy", "patches": "a number", "ratio": "a setting",
    "root": "the results folder", "side": "a number", "size": "a number", "state": "of a folder of results",
    "strategy": "a masking strategy", "threshold": "a number", "url": "of the gallery",
}  # fmt: skip


def calls(tree):
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield node, node.func.attr


def marked(node, called):
    """Return the arguments of a call that become markup."""
    found = list(node.args[: 2 if called in WITH_OPTIONS else 1])
    return found + [each.value for each in node.keywords if each.arg in KEYWORDS]


def hostile(expression):
    text = ast.unparse(expression)
    inner = re.sub(r"len\([^()]*\)", "", text)  # how many is no name
    if isinstance(expression, ast.Constant):
        return []
    words = (
        HOSTILE.findall(re.sub(r"'[^']*'|\"[^\"]*\"", "", inner))
        if not isinstance(expression, ast.JoinedStr)
        else [
            word
            for part in expression.values
            if isinstance(part, ast.FormattedValue)
            for word in HOSTILE.findall(re.sub(r"len\([^()]*\)", "", ast.unparse(part.value)))
        ]
    )
    return words + [f"{each}.name" for each in NAMED.findall(inner) if each not in HARMLESS_NAMES]


# What writes HTML and escapes nothing itself, and why it need not.
HTML = {
    ("parts/group_faces.py", "_pictures"): "pictures in base64",
    ("views/compare.py", "_verdicts"): "numbers",
    ("views/gallery.py", "_people"): "cards that _card has escaped",
}


def functions(tree):
    return [each for each in ast.walk(tree) if isinstance(each, ast.FunctionDef)]


def test_no_words_of_people_become_markup():
    assert len(APP) > 20
    for name, tree in APP.items():
        for node, called in calls(tree):
            assert not any(each.arg == "unsafe_allow_html" for each in node.keywords), name
            if called in MARKED:
                found = {ast.unparse(each): hostile(each) for each in marked(node, called)}
                assert not any(found.values()), (name, found)
            if called in {"markdown", "write"}:
                assert all(isinstance(each, ast.Constant) for each in node.args), (name, ast.unparse(node))


def test_html_is_escaped_where_it_is_written():
    for name, tree in APP.items():
        for function in functions(tree):
            if (name, function.name) not in HTML and "st.html(" in ast.unparse(function):
                assert "html.escape(" in ast.unparse(function), (name, function.name)


def test_the_rule_finds_what_it_forbids():
    wrong = ast.parse(
        "st.caption(f'Hello {each.person.name}')\nst.button(person.name)\nst.info('a ' + file.name)\n"
        "st.pills('Who', [each.name for each in people])\nst.caption(str(sample_id))"
    )
    right = ast.parse(
        "st.caption(f'{model.name}: {len(people)}')\nst.button('the person')\nst.info(f'the person {count}')"
    )
    assert all(any(map(hostile, marked(*each))) for each in calls(wrong) if each[1] in MARKED)
    assert not any(any(map(hostile, marked(*each))) for each in calls(right) if each[1] in MARKED)


def test_nothing_of_a_visitor_is_cached_for_all():
    found = []
    for name, tree in APP.items():
        for node in functions(tree):
            decorators = " ".join(map(ast.unparse, node.decorator_list))
            if "cache" in decorators:
                assert "persist" not in decorators, f"{name}:{node.name} would write to the disk"
                asked = [*node.args.args, *node.args.kwonlyargs]
                found += [f"{name}:{node.name}({each.arg})" for each in asked if each.arg not in SHARED]
                found += [] if node.args.vararg is node.args.kwarg is None else [f"{name}:{node.name}(*)"]
    assert found == []


# --- the server ---


@pytest.fixture(scope="module")
def visitor(server):
    visitor = Visitor(server)
    visitor.open("alignment")
    yield visitor
    visitor.close()


def token(visitor):
    return {"X-Xsrftoken": visitor._http.cookies["_streamlit_xsrf"]}


def test_a_file_above_the_limit_is_refused(visitor):
    path = f"_stcore/upload_file/{visitor.session}/1"
    limit = photo_input.MAX_UPLOAD * 1024**2
    for size, status in ((limit + 1, 413), (limit - 1000, 204)):  # its envelope counts too
        assert visitor.put(path, "a.jpg", bytes(size), "image/jpeg", token(visitor)).status_code == status


def test_a_file_needs_the_token_and_a_tab(visitor):
    path = f"_stcore/upload_file/{visitor.session}/1"
    for headers in ({}, {"X-Xsrftoken": "wrong"}):
        assert visitor.put(path, "a.jpg", b"a", "image/jpeg", headers).status_code == 403
    stranger = "_stcore/upload_file/nobody/1"
    assert visitor.put(stranger, "a.jpg", b"a", "image/jpeg", token(visitor)).status_code == 400


def test_a_page_of_another_site_gets_nothing(server, visitor):
    """Its browser has the cookie and the right host, but not the token, and is not told that it may read."""
    origin = "https://elsewhere.example"
    answer = requests.put(
        f"{server}/_stcore/upload_file/{visitor.session}/1", files={"a": b"a"},
        headers={"Origin": origin}, cookies=visitor._http.cookies, timeout=10,
    )  # fmt: skip
    assert answer.status_code == 403
    asked = requests.options(f"{server}/_stcore/upload_file/x/1", headers={"Origin": origin}, timeout=10)
    assert asked.headers["Access-Control-Allow-Origin"] not in {"*", origin}
    health = requests.get(f"{server}/_stcore/health", headers={"Origin": origin}, timeout=10)
    assert health.headers.get("Access-Control-Allow-Origin") not in {"*", origin}


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://elsewhere.example"}, {"Host": "elsewhere.example"}, {"Origin": "null"}]
)
@pytest.mark.usefixtures("visitor")
def test_no_connection_from_elsewhere(server, headers):
    place = server.removeprefix("http://")
    url = f"ws://{headers.get('Host', place)}/_stcore/stream"
    host, port = place.split(":")
    with (
        pytest.raises(InvalidStatus) as refused,
        connect(url, sock=socket.create_connection((host, int(port))), origin=headers.get("Origin")),
    ):
        pass
    assert refused.value.response.status_code == 403


@pytest.mark.parametrize(
    "path",
    [
        "/../../../etc/passwd", "/..%2f..%2f..%2fetc/passwd", "/media/../../app.py", "/static/../../app.py",
        "/app/static/../app.py", "/component/x/../../../etc/passwd", "//etc/passwd", "/media/%2e%2e/app.py",
        "/_stcore/../.streamlit/config.toml", "/media/..%5c..%5capp.py",
    ],
)  # fmt: skip
def test_no_path_leaves_the_app(server, path):
    """As bytes on a connection, since every HTTP library would tidy up the path first."""
    host, port = server.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as line:
        line.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: line.recv(65536), b""))
    assert answer.split(b" ", 2)[1] in {b"400", b"403", b"404"}
    assert b"root:" not in answer
    assert b"set_page_config" not in answer
    assert b"XsrfProtection" not in answer


# --- hostile photos ---


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def portrait(scale=4, number=0):
    face = open_image(orl_photos()[number].path)
    return face.resize((face.width * scale, face.height * scale), Image.Resampling.BICUBIC)


def grid(columns, rows):
    faces = [np.asarray(portrait(2, 10 * number)) for number in range(columns * rows)]
    lines = [np.concatenate(faces[row * columns : (row + 1) * columns], axis=1) for row in range(rows)]
    return Image.fromarray(np.concatenate(lines))


def far_away():
    image = Image.new("RGB", (640, 480), (90, 110, 90))
    image.paste(portrait(1).resize((23, 28)), (300, 200))
    return image


def sideways():
    tags = Image.Exif()
    tags[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    return encoded(portrait().transpose(Image.Transpose.ROTATE_90), "JPEG", quality=95, exif=tags)


def bomb():
    header = encoded(Image.new("RGB", (20, 20)), "PNG")
    size = (10_000).to_bytes(4, "big")
    import zlib

    chunk = b"IHDR" + size + size + header[24:29]
    return header[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + header[33:]


def animated():
    frames = [portrait(number=number) for number in (0, 10)]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


HOSTILE_PHOTOS = {
    "text": (
        lambda: b"#!/bin/sh\nrm -rf /\n",
        "This file is not a picture we can read. Use JPEG, PNG or WebP.",
    ),
    "empty": (lambda: b"", "The file is empty"),
    "truncated": (lambda: encoded(portrait(), "JPEG")[:4000], "The picture is incomplete or damaged."),
    "heic": (lambda: b"\0\0\0\x18ftypheic" + bytes(64), "HEIC pictures are not supported. Export"),
    "bomb": (bomb, "The picture is 10000 x 10000 pixels; the limit is 50 megapixels."),
    "stamp": (lambda: encoded(portrait().resize((20, 20)), "PNG"), r"No face found\.|Doubtful: "),
    "speck": (lambda: encoded(portrait().resize((19, 19)), "PNG"), "at least 20 a side are needed"),
    "landscape": (lambda: encoded(Image.new("RGB", (400, 300), (80, 120, 60)), "JPEG"), "No face found."),
    "far away": (lambda: encoded(far_away(), "PNG"), r"No face found\.|Doubtful: "),
    "animation": (animated, "This picture moves; its first frame is used."),
    "crowd": (lambda: encoded(grid(7, 2), "PNG"), "14 faces found; the 12 largest are looked up."),
}


def open_recognise():
    page = AppTest.from_string(
        "from facemae.app.views import recognise\nrecognise.render()", default_timeout=120
    )
    page.run()
    page.segmented_control(key="recognise_from").set_value(photo_input.UPLOAD)
    return run(page)


def run(page):
    page.run()
    assert not page.exception
    return page


def give(page, name, data, kind="image/jpeg"):
    page.file_uploader[0].set_value((name, data, kind))
    return run(page)


def written(page):
    kinds = ("caption", "markdown", "text", "info", "warning", "error", "success")
    parts = [element.value for kind in kinds for element in page.get(kind)]
    return "\n".join(parts + [element.proto.body for element in page.get("html")])


@pytest.fixture(scope="module")
def kept(made, tmp_path_factory):
    """Let the app show the results, with the demo people in a gallery of its own, which is returned."""
    folder = tmp_path_factory.mktemp("kept")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FACEMAE_RESULTS", str(made))
        patch.setenv("FACEMAE_GALLERY", str(folder / "faces.sqlite"))
        page = open_recognise()
        page.button(key="recognise_demo").click()
        assert "people are enrolled with this model" in written(run(page))
        yield folder


@pytest.fixture(scope="module")
def page(kept):
    return open_recognise()


def content(folder):
    """Return what the gallery holds, its write-ahead log included."""
    import sqlite3

    with sqlite3.connect(f"file:{folder / 'faces.sqlite'}?mode=ro", uri=True) as database:
        return "\n".join(database.iterdump())


@pytest.mark.parametrize("name", HOSTILE_PHOTOS)
def test_a_hostile_photo_is_one_sentence_and_the_page_goes_on(page, kept, name):
    make, expected = HOSTILE_PHOTOS[name]
    before = content(kept)
    said = written(give(page, f"<script>{name}</script>.jpg", make()))
    assert re.search(expected if "\\" in expected else re.escape(expected), said), said
    assert "<script>" not in said
    assert "Traceback" not in said
    assert str(ROOT) not in said
    assert content(kept) == before
    give(page, "fine.jpg", encoded(portrait(2), "JPEG"))
    assert len(page.session_state["recognise_found"][1].faces) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_any_damaged_photo_is_a_result_or_a_sentence_of_the_page(page, kept):
    before, generator = content(kept), random.Random(0)
    whole = [encoded(portrait(), kind) for kind in ("JPEG", "PNG", "WEBP")]
    for number in range(500):
        data = bytearray(whole[number % 3])
        for _ in range(generator.choice([1, 5, 50])):
            data[generator.randrange(generator.choice([100, len(data)]))] = generator.randrange(256)
        length = generator.choice([len(data), generator.randrange(1, len(data))])
        said = written(give(page, f"{number}.jpg", bytes(data[:length])))
        assert "Traceback" not in said, number
    assert content(kept) == before
    give(page, "fine.jpg", encoded(portrait(), "JPEG"))
    assert len(page.session_state["recognise_found"][1].faces) == 1


def test_a_sideways_photo_is_seen_upright(page):
    give(page, "upright.jpg", encoded(portrait(), "JPEG", quality=95))
    upright = page.session_state["recognise_found"][1]
    give(page, "sideways.jpg", sideways())
    turned = page.session_state["recognise_found"][1]
    assert turned.image.size == upright.image.size
    assert np.abs(turned.faces[0].box - upright.faces[0].box).max() < 2
    difference = turned.faces[0].image.astype(int) - upright.faces[0].image
    assert np.abs(difference).mean() < 3


def test_two_visitors_see_nothing_of_each_other(kept):
    ann, bob = open_recognise(), open_recognise()
    seen = SimpleNamespace(ann=set(), bob=set())
    for number in range(2):
        give(ann, f"ann-{number}.jpg", encoded(portrait(2, number), "JPEG"))
        give(bob, f"bob-{number}.jpg", encoded(portrait(2, 100 + number), "JPEG"))
        for page, mine in ((ann, seen.ann), (bob, seen.bob)):
            mine.add(page.session_state["recognise_found"][0][0])
            mine |= {each.url for block in page.get("image") for each in block.proto.imgs}
        stranger = open_recognise()
        assert "recognise_found" not in stranger.session_state
        assert not stranger.get("image")
    assert len(seen.ann) > 2
    assert not seen.ann & seen.bob
