"""Recognition and the app without a network: nobody is called, and nothing is missed where there is none."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from facemae.data.sources.orl import orl_photos

ROOT = Path(__file__).parents[2]
PAGES = (
    "home", "results", "compare", "reconstruct", "recognise", "gallery", "explain", "fairness", "alignment",
)  # fmt: skip
ALIVE = [name for name in PAGES if (ROOT / "facemae" / "app" / "views" / f"{name}.py").is_file()]
LOCAL = ("127.", "::1", "localhost")

watched: list[list[str]] = []  # where somebody listens, what was called


def _listen(event: str, arguments: tuple) -> None:
    if watched and event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        place = arguments[1] if event == "socket.connect" else arguments[0]
        host = place[0] if isinstance(place, tuple) else place
        unix = isinstance(place, str | bytes) and event == "socket.connect"
        if not unix and host and not str(host).startswith(LOCAL):
            watched[-1].append(f"{event} {host}")


sys.addaudithook(_listen)  # for good: Python has no way to take one away


@pytest.fixture
def calls():
    """Return the list of all that is called elsewhere during a test."""
    watched.append([])
    yield watched[-1]
    watched.clear()


@pytest.fixture
def home(made, tmp_path, monkeypatch):
    """Show the results, with an empty gallery."""
    monkeypatch.setenv("FACEMAE_RESULTS", str(made))
    monkeypatch.setenv("FACEMAE_GALLERY", str(tmp_path / "faces.sqlite"))
    return tmp_path


def test_the_listener_hears(calls):
    for address in ("127.0.0.1", "192.0.2.1"):  # the second is nobody's
        with socket.socket() as line:
            line.setblocking(False)
            with pytest.raises(OSError, match=r"."):
                line.connect((address, 9))
    assert calls == ["socket.connect 192.0.2.1"]


@pytest.fixture
def facemae(home, command_line):
    """Return a function that runs a command line in this process, and returns what it prints."""

    def run(*arguments):
        code, printed, _ = command_line(*arguments)
        assert not code
        return printed

    return run


def test_the_commands_call_nobody(facemae, calls):
    first, second, other = (orl_photos()[number].path for number in (0, 1, 10))
    facemae("gallery", "add", "Ann", first, "--consent")
    facemae("gallery", "add", "Bob", other, "--consent", "--anyway")
    assert (
        json.loads(facemae("identify", first, "--threshold", 0.999, "--json"))["faces"][0]["person"] == "Ann"
    )
    assert "score" in json.loads(facemae("verify", first, second, "--json"))
    assert "Ann" in facemae("gallery", "list")
    facemae("gallery", "export")
    facemae("gallery", "erase", "--yes")
    assert calls == []


@pytest.mark.usefixtures("home")
@pytest.mark.parametrize("name", ALIVE)
def test_the_pages_call_nobody(name, calls):
    page = AppTest.from_string(
        f"from facemae.app import access\nfrom facemae.app.views import {name}\n"
        f"access.check()\n{name}.render()",
        default_timeout=120,
    ).run()
    assert not page.exception
    if name in ("recognise", "gallery"):
        page.button(key=f"{name}_demo").click().run()
        assert not page.exception
    assert calls == []


def _cut_off() -> bool:
    """Return whether a process without any network can be made here."""
    try:
        return subprocess.run(["unshare", "-rn", "true"], capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False


CUT_OFF = """
import fcntl, json, os, socket, struct, subprocess, sys, time, urllib.request
with socket.socket() as line:  # the loopback device is down at first: SIOCSIFFLAGS, IFF_UP | IFF_RUNNING
    fcntl.ioctl(line, 0x8914, struct.pack("16sh14x", b"lo", 0x41))
try:
    socket.create_connection(("192.0.2.1", 80), 3)
    raise SystemExit("there is a network")
except OSError:
    pass
photo, port = sys.argv[1:]
facemae = [sys.executable, "-m", "facemae"]
done = subprocess.run([*facemae, "identify", photo, "--json"], check=True, capture_output=True, text=True)
app = [sys.executable, "-m", "streamlit", "run", "app.py", "--server.headless", "true"]
server = subprocess.Popen([*app, "--server.port", port], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    for _ in range(200):
        try:
            health = urllib.request.urlopen(f"http://127.0.0.1:{port}/_stcore/health", timeout=5).read()
            break
        except OSError:
            time.sleep(0.1)
    from benchmarks.visitor import Visitor
    visitor = Visitor(f"http://127.0.0.1:{port}")
    visitor.open("recognise")
    said = visitor.said + visitor.faults
    visitor.close()
finally:
    server.terminate()
    server.wait()
print(json.dumps([json.loads(done.stdout), health.decode(), said]))
"""


@pytest.mark.skipif(
    not _cut_off(), reason="unshare -rn is not permitted here, so the network cannot be cut off"
)
def test_commands_and_server_work_with_no_network_at_all(facemae, home):
    facemae("gallery", "add", "Ann", orl_photos()[0].path, "--consent")
    done = subprocess.run(
        ["unshare", "-rn", sys.executable, "-c", CUT_OFF, str(orl_photos()[0].path), "8501"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={key: value for key, value in os.environ.items() if key != "FACEMAE_PROXY_SECRET"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    found, health, said = json.loads(done.stdout.splitlines()[-1])
    assert found["faces"][0]["candidates"][0]["name"] == "Ann"
    assert health == "ok"
    assert "Recognise" in said
    assert "1 people are enrolled with this model." in said or "1 person is enrolled with this model." in said
    assert (home / "faces.sqlite").is_file()
