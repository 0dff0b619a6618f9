"""Who may see the app, and what is left of a closed tab."""

import gc
import socket
import threading
import time
import weakref
from types import SimpleNamespace

import pytest
import requests
from driving import free_port
from streamlit import net_util
from streamlit.runtime.memory_uploaded_file_manager import MemoryUploadedFileManager
from streamlit.runtime.runtime import Runtime
from streamlit.runtime.uploaded_file_manager import UploadedFileRec
from streamlit.testing.v1 import AppTest

from benchmarks.visitor import Visitor, serving
from facemae.app import access

SECRET = "correct horse battery"
HELD = 1_000_000  # bytes
GUARDED = "import streamlit as st\nfrom facemae.app import access\naccess.check()\nst.text('inside')"


@pytest.mark.parametrize("address", ["127.0.0.1", "127.8.9.1", "::1", "[::1]", "localhost"])
def test_this_machine_needs_no_login(address):
    assert access.refusal(address, {}, None, False, False) is None
    assert access.refusal(address, {}, "", False, False) is None


@pytest.mark.parametrize(
    "address", [None, "", "0.0.0.0", "::", "192.168.1.4", "128.0.0.1", "example.org", "unix:///run/app.sock"]
)
def test_every_other_address_needs_one(address):
    assert access.refusal(address, {access.HEADER: SECRET}, None, False, True) == access.OPEN
    assert access.refusal(address, {access.HEADER: SECRET}, SECRET, False, False) is None
    assert access.refusal(address, {}, None, True, True) is None
    assert access.refusal(address, {}, None, True, False) == access.LOG_IN


@pytest.mark.parametrize("header", [
    "X-Forwarded-For", "x-forwarded-host", "Forwarded", "Via", "X-Real-IP", "X-Client-IP", "X-Forwarded",
    "True-Client-IP", "CF-Connecting-IP", "X-Original-Host", "X-Envoy-External-Address",
])  # fmt: skip
def test_a_proxy_on_this_machine_needs_a_login_too(header):
    headers = {header: "203.0.113.9"}
    assert access.refusal("127.0.0.1", headers, None, False, False) == access.PROXIED
    assert access.refusal("127.0.0.1", headers, None, True, True) is None
    assert access.refusal("127.0.0.1", headers | {access.HEADER: SECRET}, SECRET, False, False) is None
    assert access.refusal("127.0.0.1", {"Host": "localhost:8501"}, None, False, False) is None


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("given", ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper()])
def test_a_secret_that_is_set_holds_everywhere(address, given):
    assert access.refusal(address, {access.HEADER: given}, SECRET, False, False) == access.ROUND
    assert access.refusal(address, {access.HEADER: given}, SECRET, True, True) == access.ROUND


def test_both_logins_hold_where_both_are_set_up():
    assert access.refusal("0.0.0.0", {access.HEADER: SECRET}, SECRET, True, False) == access.LOG_IN
    assert access.refusal("0.0.0.0", {access.HEADER: SECRET}, SECRET, True, True) is None


@pytest.mark.parametrize("length", [1, access.SHORTEST - 1])
def test_a_short_secret_opens_nothing(length):
    secret = "x" * length
    assert access.refusal("0.0.0.0", {access.HEADER: secret}, secret, False, False) == access.SHORT
    long = "x" * access.SHORTEST
    assert access.refusal("0.0.0.0", {access.HEADER: long}, long, False, False) is None


def test_a_secret_of_any_letters_is_compared_byte_by_byte():
    secret = "Schlüssel für die Tür"
    sent = secret.encode().decode("latin-1")  # as the server shows the bytes of a header
    assert access.refusal("0.0.0.0", {access.HEADER: sent}, secret, False, False) is None
    assert access.refusal("0.0.0.0", {access.HEADER: "\u20ac" * 20}, secret, False, False) == access.ROUND


def page(monkeypatch, secret="", user=None):
    monkeypatch.setenv(access.VARIABLE, secret)
    opened = AppTest.from_string(GUARDED, default_timeout=30)
    if user is not None:
        opened.user = user
    opened.run()
    assert not opened.exception
    return opened


def test_the_page_behind_the_guard(monkeypatch):
    assert [text.value for text in page(monkeypatch).text] == ["inside"]
    refused = page(monkeypatch, SECRET)
    assert [text.value for text in refused.text] == []
    assert [each.value for each in refused.info] == [access.ROUND]


def test_a_login_is_offered_and_left_again(monkeypatch):
    monkeypatch.setattr(access.importlib.util, "find_spec", lambda name: SimpleNamespace(name=name))
    outside = page(monkeypatch, user={"is_logged_in": False})
    assert [text.value for text in outside.text] == []
    assert [each.label for each in outside.button] == ["Log in"]
    inside = page(monkeypatch, user={"is_logged_in": True, "name": "<b>Ann</b>"})
    assert [text.value for text in inside.text] == ["inside"]
    assert [each.label for each in inside.button] == ["Log out"]


def test_a_login_without_its_package_is_one_sentence(monkeypatch):
    monkeypatch.setattr(access.importlib.util, "find_spec", lambda name: None)
    outside = page(monkeypatch, user={"is_logged_in": False})
    assert "Authlib" in outside.info[0].value
    assert not outside.button


def test_the_server_asks_nobody_for_its_address(monkeypatch):
    """Streamlit would, when a page of another site tries to connect."""
    from streamlit.web.server.server_util import is_url_from_allowed_origins

    monkeypatch.setattr(net_util, "_external_ip", None)
    monkeypatch.setattr(net_util, "_internal_ip", None)
    asked = []
    monkeypatch.setattr(socket.socket, "connect", lambda self, address: asked.append(address))
    monkeypatch.setattr(socket, "getaddrinfo", lambda *each, **more: asked.append(each))
    access._ask_nobody_for_the_address()
    assert not is_url_from_allowed_origins("https://elsewhere.example")
    assert asked == []


# --- closed tabs ---


class Server:
    """What the sweeper needs of Streamlit: the real store of uploads, and who is connected."""

    def __init__(self):
        self.uploaded_file_mgr = MemoryUploadedFileManager("/upload")
        self.connected, self.ended = set(), []

    def is_active_session(self, session):
        return session in self.connected

    def clear_user_info_for_session(self, session):
        self.ended.append(session)

    def open(self, session):
        self.connected.add(session)
        self.uploaded_file_mgr.add_file(session, UploadedFileRec("1", "a.jpg", "image/jpeg", bytes(HELD)))

    def held(self):
        stats = self.uploaded_file_mgr.get_stats().get("cache_memory_bytes", [])
        return sum(each.byte_length for each in stats)


def test_photos_of_closed_tabs_go_and_no_others():
    server, sweeper = Server(), access.Sweeper(60)
    for session in ("stays", "leaves"):
        server.open(session)
        sweeper.watch(session)
    start = time.monotonic()
    server.connected.remove("leaves")
    assert not sweeper.sweep(server, start + 59)
    assert server.held() == 2 * HELD
    assert sweeper.sweep(server, start + 61)
    assert server.held() == HELD
    assert server.ended == ["leaves"]
    assert not sweeper.sweep(server, start + 3600)
    assert server.ended == ["leaves"]


def test_who_comes_back_in_time_finds_everything():
    server, sweeper = Server(), access.Sweeper(60)
    server.open("tab")
    sweeper.watch("tab")
    start = time.monotonic()
    server.connected.clear()
    assert not sweeper.sweep(server, start + 50)
    server.connected.add("tab")
    assert not sweeper.sweep(server, start + 100)
    server.connected.clear()
    assert not sweeper.sweep(server, start + 150)  # the time counts from when it was last seen
    assert server.held() == HELD
    assert sweeper.sweep(server, start + 161)
    assert server.held() == 0


def test_streamlit_has_what_the_sweeper_calls():
    for name in ("is_active_session", "clear_user_info_for_session", "uploaded_file_mgr"):
        assert hasattr(Runtime, name)


def test_the_sweeping_goes_on_after_an_exception_and_says_it_once(monkeypatch, capsys):
    rounds = iter([ValueError, ValueError, RuntimeError])

    def sweep(server, now):
        raise next(rounds, SystemExit)

    sweeper = access.Sweeper(0.02)
    monkeypatch.setattr(sweeper, "sweep", sweep)
    monkeypatch.setattr(access.runtime, "exists", lambda: True)
    monkeypatch.setattr(access.runtime, "get_instance", lambda: None)
    with pytest.raises(SystemExit):
        sweeper.run()
    told = capsys.readouterr().err
    assert told.count("photos of a closed tab could not be deleted") == 2
    assert told.count("ValueError") == 1


def test_photos_go_also_where_the_session_cannot_be_ended(monkeypatch):
    server, sweeper = Server(), access.Sweeper(60)
    server.open("tab")
    sweeper.watch("tab")
    server.connected.clear()
    monkeypatch.setattr(server, "clear_user_info_for_session", lambda session: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweeper.sweep(server, time.monotonic() + 61)
    assert server.held() == 0


def test_cycles_are_collected_after_a_tab_was_ended(monkeypatch):
    class Photo:
        """A photo that holds itself."""

    photo = Photo()
    photo.itself = photo
    gone = weakref.ref(photo)
    del photo
    sweeps = iter([True, False])

    def sweep(server, now):
        try:
            return next(sweeps)
        except StopIteration:
            raise SystemExit from None

    sweeper = access.Sweeper(0.02)
    monkeypatch.setattr(sweeper, "sweep", sweep)
    monkeypatch.setattr(access.runtime, "exists", lambda: True)
    monkeypatch.setattr(access.runtime, "get_instance", lambda: None)
    gc.disable()
    try:
        with pytest.raises(SystemExit):
            sweeper.run()
        assert gone() is None
    finally:
        gc.enable()


def test_one_sweeper_serves_all_visitors(monkeypatch):
    def sweepers():
        return [each for each in threading.enumerate() if each.name == "sweeper"]

    page(monkeypatch)
    count = len(sweepers())
    page(monkeypatch)
    assert len(sweepers()) == count >= 1


# --- the real server ---


@pytest.fixture(scope="module")
def port():
    return free_port()


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "guarded.py"
    path.write_text(GUARDED + "\nst.file_uploader('Photo', key='photo')\n")
    return path


def test_a_server_for_all_shows_its_pages_to_the_proxy_alone(port, script):
    environment = {access.VARIABLE: SECRET, "STREAMLIT_BROWSER_SERVER_ADDRESS": "localhost"}
    with serving(environment, port, "--server.address", "0.0.0.0", script=script) as (address, _):
        for headers, said in (({}, access.ROUND), ({access.HEADER: SECRET}, "inside")):
            visitor = Visitor(address, headers=headers)
            visitor.open()
            assert said in visitor.said
            assert ("inside" in visitor.said) == bool(headers)
            assert bool(visitor.widgets) == bool(headers)
            visitor.close()


def test_a_server_for_this_machine_shows_nothing_through_a_proxy(port, script):
    with serving({access.VARIABLE: ""}, port, script=script) as (address, _):
        for headers, said in (({"X-Forwarded-For": "203.0.113.9"}, access.PROXIED), ({}, "inside")):
            visitor = Visitor(address, headers=headers)
            visitor.open()
            assert said in visitor.said
            visitor.close()


def test_a_server_lets_go_of_photos_when_the_tab_is_closed(port, script):
    def held(address):
        lines = requests.get(f"{address}/_stcore/metrics", timeout=10).text.splitlines()
        return sum(int(line.split()[-1]) for line in lines if "UploadedFileManager" in line)

    options = ("--server.disconnectedSessionTTL", "4")
    with serving({access.VARIABLE: ""}, port, *options, script=script) as (address, _):
        visitor = Visitor(address)
        visitor.open()
        visitor.upload("photo", "a.jpg", bytes(HELD), "image/jpeg")
        assert held(address) == HELD
        visitor.close()
        last = time.monotonic() + 20  # the metrics are a few seconds old
        while held(address) and time.monotonic() < last:
            time.sleep(0.5)
        assert held(address) == 0
