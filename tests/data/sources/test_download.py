import contextlib
import gzip
import random
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from email.utils import formatdate
from pathlib import Path

import fault_server as faults
import pytest
from fault_server import FaultServer
from hypothesis import given, settings
from hypothesis import strategies as st

from facemae.core import files
from facemae.core.errors import DataError, IntegrityError, StorageError, UsageError
from facemae.data.sources import download as downloading
from facemae.data.sources.base import Remote
from facemae.data.sources.download import download

BODY = random.Random(0).randbytes(300_000)
OTHER = random.Random(1).randbytes(300_000)
NAME = "file.bin"
STAGE = f".{NAME}.download"


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(autouse=True)
def waits(monkeypatch):
    """Nobody really waits between tries; half a second of silence is too long."""
    asked = []
    monkeypatch.setattr(downloading, "sleep", asked.append)
    monkeypatch.setattr(downloading, "RETRY", downloading.RETRY.new(backoff_jitter=0))
    monkeypatch.setattr(downloading, "TIMEOUT", (10, 0.5))
    monkeypatch.setattr(downloading, "PATIENCE", 0.2)
    return asked


def remote(server, body=BODY, **url):
    return Remote(NAME, server.url(**url), files.sha256(body), len(body))


def listing(folder):
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def fails(error, *arguments):
    """Return the message, which is one sentence."""
    with pytest.raises(error) as caught:
        download(*arguments)
    message = str(caught.value)
    assert "\n" not in message
    assert message.endswith(".")
    return message


def closed_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- files that are there ---


def test_a_good_file_is_used_without_any_network(tmp_path, waits):
    (tmp_path / NAME).write_bytes(BODY)
    with FaultServer(BODY) as server:
        assert download(remote(server), tmp_path) == tmp_path / NAME
        assert server.asked == []
    assert listing(tmp_path) == [NAME]


def test_a_file_of_the_users_that_is_another_is_named_and_left_alone(tmp_path):
    (tmp_path / NAME).write_bytes(OTHER)
    with FaultServer(BODY) as server:
        message = fails(IntegrityError, remote(server), tmp_path)
        assert server.asked == []
    for part in (str(tmp_path / NAME), files.sha256(OTHER)[:12], files.sha256(BODY)[:12]):
        assert part in message
    assert (tmp_path / NAME).read_bytes() == OTHER


def test_a_plain_download(tmp_path, waits, capsys):
    with FaultServer(BODY) as server:
        path = download(remote(server), tmp_path / "new" / "folder")
        assert server.headers[0]["Accept-Encoding"] == "identity"
    assert path.read_bytes() == BODY
    assert listing(path.parent) == [NAME]
    assert waits == []
    assert capsys.readouterr().err.startswith("[download] 1/1 MB  file.bin  took 00:0")


# --- faults that pass ---

PASSING = {
    "reset before the first byte": ([faults.reset(0)], [None, None]),
    "closed before the first byte": ([faults.cut(0)], [None, None]),
    "closed later": ([faults.cut(200_000)], [None, 200_000]),
    "stall": ([faults.stall(1000)], [None, 1000]),
    "stall before the first byte": ([faults.stall(0)], [None, None]),
    "slow drip": ([faults.drip(1000)], [None, ...]),
    "status 500": ([faults.answer(500)], [None, None]),
    "status 503": ([faults.answer(503)] * 3, [None] * 4),
    "status 429 between two cuts": (
        [faults.cut(70_000), faults.answer(429), faults.cut(80_000)],
        [None, 70_000, 70_000, 150_000],
    ),
    "chunks": ([faults.chunked()], [None]),
    "chunks that end early": ([faults.chunked(100_000)], [None, 100_000]),
    "Range ignored": ([faults.cut(200_000), faults.whole], [None, 200_000]),
    "Range refused": ([faults.cut(200_000), faults.answer(416)], [None, 200_000, None]),
    "Range from elsewhere": ([faults.cut(200_000), faults.from_elsewhere], [None, 200_000, None]),
    "Range without saying which": (
        [faults.cut(200_000), faults.changed(Content_Range=None)],
        [None, 200_000],
    ),
    "another version from then on": (
        [faults.becomes(OTHER, faults.cut(200_000)), faults.becomes(BODY)],
        [None, 200_000, None],
    ),
    "redirection": ([faults.redirect("/elsewhere")], [None, None]),
}


@pytest.mark.parametrize("name", PASSING)
def test_a_fault_that_passes_costs_no_more_than_the_bytes_it_lost(name, tmp_path, waits):
    script, asked = PASSING[name]
    with FaultServer(BODY, *script) as server:
        path = download(remote(server), tmp_path)
        starts = [each and int(each[6:-1]) for each in server.asked]
    assert path.read_bytes() == BODY
    assert listing(tmp_path) == [NAME]
    assert [... if each is ... else start for each, start in zip(asked, starts, strict=True)] == asked
    assert waits == ([] if name == "redirection" else [1, 2, 4][: len(asked) - 1])


def test_a_file_that_is_whole_is_not_asked_for_again(tmp_path, waits):
    with FaultServer(BODY, faults.changed(Content_Length=len(BODY) + 100)) as server:
        assert download(remote(server), tmp_path).read_bytes() == BODY
        assert (server.asked, waits) == ([None], [1])


@given(st.lists(st.integers(0, 99_999), max_size=3))
@settings(max_examples=20)
def test_wherever_the_connection_breaks_only_the_rest_is_asked_for(cuts):
    folder = Path(tempfile.mkdtemp())
    with FaultServer(BODY, *map(faults.cut, cuts)) as server:
        assert download(remote(server), folder).read_bytes() == BODY
        assert len(server.asked) == len(cuts) + 1
        assert server.served == len(BODY)
    shutil.rmtree(folder)


@pytest.mark.parametrize("seed", range(5))
def test_a_reset_at_a_random_byte(tmp_path, seed):
    after = random.Random(seed).randrange(1, len(BODY))
    with FaultServer(BODY, faults.reset(after)) as server:
        assert download(remote(server), tmp_path).read_bytes() == BODY
        first, second = server.asked
        start = int((second or "bytes=0-")[6:-1])
        assert (first, start <= after) == (None, True)
        assert server.served == after + len(BODY) - start


def test_what_one_address_began_another_goes_on_with(tmp_path):
    with FaultServer(BODY, faults.cut(200_000), faults.answer(404)) as first:
        fails(DataError, remote(first), tmp_path)
    with FaultServer(BODY) as second:
        assert download(remote(second), tmp_path).read_bytes() == BODY
        assert second.asked == ["bytes=200000-"]


# --- how long to wait ---


@pytest.mark.parametrize(("asked", "wait"), [("7", 7), ("0", 1), ("3600", 60), ("9" * 99, 60), ("soon", 1)])
def test_what_the_server_asks_for_is_waited_within_reason(tmp_path, waits, asked, wait):
    with FaultServer(BODY, faults.answer(429, Retry_After=asked)) as server:
        download(remote(server), tmp_path)
    assert waits == [wait]


def test_the_server_may_name_a_time_of_day(tmp_path, waits):
    with FaultServer(
        BODY, faults.answer(503, Retry_After=formatdate(time.time() + 40, usegmt=True))
    ) as server:
        download(remote(server), tmp_path)
    assert 30 < waits[0] <= 41


# --- faults that stay ---

LOGIN = b"<html><form>password</form></html>"
LASTING = {
    "status 404": (faults.answer(404), DataError, "answers 404", 1),
    "status 403": (faults.answer(403), DataError, "answers 403", 1),
    "status 204": (faults.answer(204), DataError, "answers 204", 1),
    "status 304": (faults.answer(304), DataError, "answers 304", 1),
    "status 500": (faults.answer(500), DataError, "answers 500 in the last of 4 tries", 4),
    "reset at once": (faults.reset(0), DataError, "the connection broke off in the last of 4 tries", 4),
    "no answer at all": (
        lambda handler: handler.break_off(),
        DataError,
        "no connection in the last of 4 tries",
        4,
    ),
    "no HTTP": (lambda handler: handler.pour(b"hello\r\n"), DataError, "no connection in the last of 4", 4),
    "stall": (faults.stall(0), DataError, "no answer in time in the last of 4 tries", 4),
    "silence": (
        lambda handler: handler.owner.over.wait(30),
        DataError,
        "no answer in time in the last of 4",
        4,
    ),
    "slow drip": (faults.drip(0), DataError, "slower than 1 kB/s in the last of 4 tries", 4),
    "a login page": (
        faults.answer(200, LOGIN, Content_Type="text/html; charset=utf-8"),
        DataError,
        "answers with a web page, perhaps a login",
        1,
    ),
    "redirection in a circle": (faults.redirect("/file.bin"), DataError, "redirects more than 5 times", 6),
    "redirection to a file": (faults.redirect("file:///etc/hosts"), DataError, "that is not https", 1),
    "redirection to ftp": (faults.redirect("ftp://127.0.0.1/x"), DataError, "that is not https", 1),
    "redirection to open http": (faults.redirect("http://192.0.2.1/x"), DataError, "that is not https", 1),
    "redirection to nonsense": (faults.redirect("http://[1/x"), DataError, "that cannot be read", 1),
    "much too large": (
        faults.answer(200, bytes(2_000_000)),
        DataError,
        "sends 2.0 MB where 0.3 MB are expected",
        1,
    ),
    "without end": (faults.endless, DataError, "sends 1.3 MB where 0.3 MB are expected", 1),
    "wrong bytes": (faults.answer(200, OTHER), IntegrityError, "wrong checksum", 1),
    "nothing": (faults.answer(200), IntegrityError, "wrong checksum", 1),
    "gzip all the same": (
        faults.answer(200, gzip.compress(BODY), Content_Encoding="gzip"),
        IntegrityError,
        "wrong checksum",
        1,
    ),
    "length too short": (faults.short(1000), IntegrityError, "wrong checksum", 1),
    "a little too much": (faults.answer(200, BODY + b"more"), IntegrityError, "wrong checksum", 1),
}


@pytest.mark.parametrize("name", LASTING)
def test_a_fault_that_stays_ends_in_one_sentence_and_no_file(name, tmp_path, waits, monkeypatch):
    fault, error, reason, asked = LASTING[name]
    monkeypatch.setattr(downloading, "TIMEOUT", (10, 0.2))
    with FaultServer(BODY, then=fault) as server:
        message = fails(error, remote(server), tmp_path)
        assert len(server.asked) == asked
        assert f"(tried 127.0.0.1: {reason}" in message or f"{reason})" in message
        assert f"fetch it yourself from {server.url()}, put it at {tmp_path / NAME} and" in message
    assert waits == ([1, 2, 4] if asked == 4 else [])
    assert listing(tmp_path) == ([STAGE] if name == "slow drip" else [])  # what dripped can be gone on from
    if error is IntegrityError:
        assert files.sha256(BODY)[:12] in message


def test_no_connection(tmp_path, waits):
    url = f"http://127.0.0.1:{closed_port()}/x"
    message = fails(DataError, Remote(NAME, url, files.sha256(BODY), len(BODY)), tmp_path)
    assert "(tried 127.0.0.1: no connection in the last of 4 tries)" in message
    assert waits == [1, 2, 4]
    assert DataError.exit_code == 3


@pytest.mark.parametrize("url", ["http://192.0.2.1/x", "http://localhost.example/x", "file:///etc/hosts"])
def test_an_address_must_be_https(tmp_path, url):
    message = fails(DataError, Remote(NAME, url, files.sha256(BODY), len(BODY)), tmp_path)
    assert "leads to an address that is not https" in message


def test_wrong_bytes_are_named_and_removed(tmp_path):
    with FaultServer(OTHER) as server:
        message = fails(IntegrityError, remote(server), tmp_path)
    assert "(tried 127.0.0.1: wrong checksum)" in message
    assert f"begins with {files.sha256(OTHER)[:12]} instead of {files.sha256(BODY)[:12]}" in message
    assert listing(tmp_path) == []


# --- secrets, proxies, disks, locks ---


def test_no_password_is_shown(tmp_path, capfd):
    script = [faults.cut(1000), *[faults.answer(404)] * 2]
    with FaultServer(BODY, *script) as server:
        hidden = remote(server, name="file.bin?token=hidden", user="me:secret@")
        message = fails(DataError, hidden, tmp_path)
        assert server.headers[0]["Authorization"]
        assert server.url() in message
    shown = message + "".join(capfd.readouterr())
    assert "secret" not in shown
    assert "hidden" not in shown


def test_a_proxy_of_the_environment_is_used(tmp_path, monkeypatch):
    with FaultServer(BODY) as proxy:
        monkeypatch.setenv("http_proxy", proxy.url(""))
        monkeypatch.setenv("no_proxy", "")
        url = f"http://127.0.0.1:{closed_port()}/x"
        download(Remote(NAME, url, files.sha256(BODY), len(BODY)), tmp_path)
        assert len(proxy.asked) == 1


@contextlib.contextmanager
def largest_file(size):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_keeps_what_has_come(tmp_path, waits):
    with FaultServer(BODY) as server:
        with largest_file(150_000):
            message = fails(StorageError, remote(server), tmp_path)
        assert message.startswith("The disk is full")
        assert listing(tmp_path) == [STAGE]
        download(remote(server), tmp_path)
        assert server.asked == [None, "bytes=150000-"]
    assert (tmp_path / NAME).read_bytes() == BODY
    assert waits == []


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with FaultServer(BODY) as server:
        assert "cannot be written" in fails(StorageError, remote(server), tmp_path / "file" / "folder")


def test_something_else_where_the_bytes_go_first(tmp_path):
    (tmp_path / STAGE).mkdir()
    with FaultServer(BODY) as server:
        assert "cannot be written" in fails(StorageError, remote(server), tmp_path)


def test_one_download_of_a_file_at_a_time(tmp_path):
    with FaultServer(BODY) as server, files.exclusive(tmp_path / f".{NAME}.lock"):
        assert "is in use by process" in fails(UsageError, remote(server), tmp_path)
        assert server.asked == []


# --- kill -9 ---


def test_a_kill_after_the_last_byte_costs_no_byte(tmp_path):
    with FaultServer(BODY, faults.cut(len(BODY) - 1), then=faults.answer(404)) as server:
        fails(DataError, remote(server), tmp_path)
        with open(tmp_path / STAGE, "ab") as file:
            file.write(BODY[-1:])
        asked = len(server.asked)
        assert download(remote(server), tmp_path).read_bytes() == BODY
        assert len(server.asked) == asked
    assert listing(tmp_path) == [NAME]


CHILD = """
import sys
from pathlib import Path
from facemae.data.sources.download import download
from facemae.data.sources.base import Remote
download(Remote("file.bin", sys.argv[1], sys.argv[2], int(sys.argv[3])), Path(sys.argv[4]))
"""


@pytest.mark.parametrize("kills", [4, pytest.param(20, marks=pytest.mark.slow)])
def test_kills_at_random_moments_cost_no_more_than_the_bytes_on_the_way(tmp_path, kills):
    chance = random.Random(kills)
    body = chance.randbytes(4_000_000)
    with FaultServer(body, then=faults.slowly(0.008)) as server:
        arguments = [server.url(user="me:secret@"), files.sha256(body), str(len(body)), str(tmp_path)]
        command = [sys.executable, "-c", CHILD, *arguments]
        for _ in range(kills):
            child = subprocess.Popen(command, stderr=subprocess.DEVNULL)
            until = server.served + chance.uniform(0.4, 0.8) / kills * len(body)
            while server.served < until and child.poll() is None:
                time.sleep(0.001)
            assert child.poll() is None
            child.kill()
            child.wait()
            assert not (tmp_path / NAME).exists()
        end = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        assert len(server.asked) == kills + 1
        assert all(server.asked[1:])
        # Without going on it would be about 1.6 times the file.
        assert len(body) <= server.served < 1.2 * len(body)
    assert (tmp_path / NAME).read_bytes() == body
    assert listing(tmp_path) == [NAME]
    assert "4/4 MB" in end.stderr
    assert "secret" not in end.stderr + end.stdout


@pytest.mark.network
def test_a_real_file(tmp_path):
    pairs = Remote(
        "pairs.txt",
        "https://ndownloader.figshare.com/files/5976006",
        "ea42330c62c92989f9d7c03237ed5d591365e89b3e649747777b70e692dc1592",
        155_335,
    )
    assert download(pairs, tmp_path).read_text().startswith("10\t300\n")
