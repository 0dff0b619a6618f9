"""The only network access: a file, resumed, verified and put in place whole.

The bytes are collected in a hidden folder beside the file, with a note of the version that they are from, so
that a later try goes on where an earlier one stopped. Only verified bytes leave that folder.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import re
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

import requests
import urllib3

from facemae import __version__
from facemae.core import files
from facemae.core.errors import DataError, IntegrityError
from facemae.core.progress import Progress, say
from facemae.data.sources.base import Remote

BLOCK = 1 << 16
REDIRECTS = 5
MAY_PASS = {408, 425, 429, 500, 502, 503, 504}
HEADERS = {"Accept-Encoding": "identity", "User-Agent": f"FaceMAE/{__version__}"}
RETRY = urllib3.Retry(3, backoff_factor=1, backoff_jitter=0.5, backoff_max=60)


@dataclass(frozen=True)
class Net:
    """How patiently a server is asked; times in seconds."""

    sleep: Callable[[float], None] = time.sleep
    retry: urllib3.Retry = RETRY  # a server may ask for a longer wait, up to its backoff_max
    timeout: tuple[float, float] = (10.0, 30.0)  # for a connection, and for the next bytes
    slowest: float = 1000.0  # bytes per second; below, on average over `patience`, it counts as stalled
    patience: float = 60.0


DEFAULT = Net()


class _RefusedError(Exception):
    """The server does not give the file; asking again would not help."""


class _TryError(Exception):
    """This try failed; the next one may do better, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass(frozen=True)
class _Origin:
    """Which version of which address the bytes at hand are from."""

    address: str  # the URL's SHA-256, since a URL may hold a password
    validator: str = ""  # a strong ETag, else the time of the last change; empty: they cannot be gone on from
    total: int | None = None


def download(remote: Remote, folder: Path, net: Net = DEFAULT) -> Path:
    """Return `folder / remote.filename`, downloaded and verified if it is not there already.

    A file that is there is verified without any network. A download that stops goes on where it was.

    Raises:
        IntegrityError: the file there, which is left alone, or what was sent has another checksum.
        DataError: the server does not give the file.
        StorageError: the disk is full or the folder cannot be written; what has come is kept.
        UsageError: another process is downloading the same file.
    """
    path = folder / remote.filename
    if not path.exists():
        lock = path.with_name(f".{path.name}.lock")
        with files.exclusive(lock), files.storage_errors(path, remote.bytes):
            _Download(remote, path, net).finish()
    elif (got := files.sha256_of(path)) != remote.sha256.lower():
        raise IntegrityError(
            f"{path} is not the published file: its SHA-256 begins with {got[:12]} instead of "
            f"{remote.sha256[:12]}; move it away to have the right one downloaded, or put that one there."
        )
    return path


class _Download:
    """A file on its way: its bytes and a note of what they are from, in a folder beside its place."""

    def __init__(self, remote: Remote, path: Path, net: Net) -> None:
        self.remote, self.path, self.net = remote, path, net
        self.stage = path.with_name(f".{path.name}.part")
        self.file, self.note = self.stage / "bytes", self.stage / "origin.json"

    def finish(self) -> None:
        """Fetch the bytes and put them in place, or raise an error that says how to get them by hand."""
        parts = urlsplit(self.remote.url)
        # Without what may be a secret: user, password and query.
        public = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
        by_hand = (
            f"fetch it yourself from {public}, put it at {self.path} and run the same command again, which "
            "then needs no network."
        )
        name, expected = self.remote.filename, self.remote.sha256
        try:
            self.fetch()
        except _RefusedError as error:
            if not self.left()[0]:
                shutil.rmtree(self.stage, ignore_errors=True)
            tried = f"(tried {parts.hostname}: {error})"
            raise DataError(f"{name} could not be downloaded {tried}; {by_hand}") from error
        got = files.sha256_of(self.file)
        if got == expected.lower():
            files.publish(self.file, self.path)
        shutil.rmtree(self.stage)
        if got != expected.lower():
            raise IntegrityError(
                f"{name} was downloaded and removed, because its SHA-256 begins with {got[:12]} instead of "
                f"{expected[:12]} (tried {parts.hostname}: wrong checksum); {by_hand}"
            )

    def fetch(self) -> None:
        """Fetch all bytes, going on and trying again as often as `net` allows."""
        retry, host = self.net.retry, urlsplit(self.remote.url).hostname
        while True:
            try:
                self._try()
                return
            except _TryError as error:
                try:
                    retry = retry.increment("GET", error=error)
                except urllib3.exceptions.MaxRetryError:
                    tries = len(retry.history) + 1
                    raise _RefusedError(f"{error} in the last of {tries} tries") from error
                backoff = max(retry.backoff_factor, retry.get_backoff_time())  # urllib3's first is none
                wait = max(backoff, min(error.wait, retry.backoff_max))
                again = f"trying again in {wait:.0f} s"
                say("download", f"{self.remote.filename} from {host}: {error}; {again}")
                self.net.sleep(wait)

    def left(self) -> tuple[int, _Origin]:
        """Return how many bytes of an earlier try can be gone on from, and what they are from."""
        nothing = _Origin(files.sha256(self.remote.url.encode()))
        try:
            origin = _Origin(**json.loads(self.note.read_bytes()))
            size = self.file.stat().st_size
        except (FileNotFoundError, ValueError, TypeError):  # none, or not as this version notes it
            return 0, nothing
        usable = origin.address == nothing.address and origin.validator
        return (size, origin) if usable else (0, nothing)

    def _try(self) -> None:
        size, origin = self.left()
        if size == origin.total:
            return
        rest = {"Range": f"bytes={size}-", "If-Range": origin.validator} if size else {}
        with self._get(HEADERS | rest) as response:
            size = self._first_byte(response, size, origin)
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind == "text/html" and not self.remote.filename.endswith((".html", ".htm")):
                raise _RefusedError("answers with a web page, perhaps a login")
            self._check_size(size + (response.raw.length_remaining or 0))
            with files.resume_file(self.file, size) as file:
                if size == 0:  # noted once the old bytes are gone, or they would be taken for this version
                    origin = _Origin(origin.address, _validator(response), response.raw.length_remaining)
                    files.write_json(self.note, asdict(origin))
                self._receive(response, file, size)

    def _get(self, headers: Mapping[str, str]) -> requests.Response:
        """Follow the address to an answer that is no redirection, checking each before it is asked."""
        url = self.remote.url
        try:
            for _ in range(REDIRECTS + 1):
                if not _is_safe(url):
                    raise _RefusedError("leads to an address that is not https")
                response = requests.get(
                    url, headers=headers, timeout=self.net.timeout, stream=True, allow_redirects=False
                )
                if response.next is None:
                    return response
                response.close()
                url = str(response.next.url)
        except requests.RequestException as error:
            raise _TryError(_reason(error)) from error
        except ValueError as error:
            raise _RefusedError("leads to an address that cannot be read") from error
        raise _RefusedError(f"redirects more than {REDIRECTS} times")

    def _first_byte(self, response: requests.Response, size: int, origin: _Origin) -> int:
        """Return where in the file the answer begins: at `size`, as asked, or at 0."""
        status = response.status_code
        if status in MAY_PASS:
            wait = 0.0
            with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError):
                wait = urllib3.Retry().get_retry_after(response.raw) or 0.0
            raise _TryError(f"answers {status}", wait)
        if size and status == 206 and _continues(response, size, origin):
            return size
        if size and status in (206, 416):
            self.file.unlink()
            raise _TryError("cannot go on where the last try stopped")
        if status != 200:
            raise _RefusedError(f"answers {status}")
        return 0

    def _check_size(self, size: int) -> None:
        expected = self.remote.bytes
        if size > expected * 1.01 + 1e6:
            raise _RefusedError(f"sends {size / 1e6:.1f} MB where {expected / 1e6:.1f} MB are expected")

    def _receive(self, response: requests.Response, file: BinaryIO, size: int) -> None:
        name, total = self.remote.filename, -(-self.remote.bytes // 1_000_000)
        progress = Progress("download", total, "MB", size // 1_000_000)
        since, received = time.monotonic(), 0
        try:
            # Not read(), which waits for a full block however slowly it comes.
            while block := response.raw.read1(BLOCK, decode_content=False):
                file.write(block)
                size, received = size + len(block), received + len(block)
                self._check_size(size)
                progress.update(size // 1_000_000, name)
                lasted = time.monotonic() - since
                if lasted >= self.net.patience:
                    if received < self.net.slowest * lasted:
                        raise _TryError(f"slower than {self.net.slowest / 1000:g} kB/s")
                    since, received = time.monotonic(), 0
        except urllib3.exceptions.HTTPError as error:
            raise _TryError(_reason(error)) from error
        except _RefusedError:
            file.truncate(0)  # or the next try would go on with it
            raise
        progress.update(total, name)


def _is_safe(url: str) -> bool:
    """Tell whether nobody between can read or change the bytes."""
    parts = urlsplit(url)
    if parts.scheme != "http":
        return parts.scheme == "https"
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False


def _reason(error: Exception) -> str:
    """Name what went wrong in words of our own; the libraries' messages show addresses whole."""
    reasons: dict[type[Exception] | tuple[type[Exception], ...], str] = {
        (requests.Timeout, urllib3.exceptions.TimeoutError): "no answer in time",
        requests.exceptions.SSLError: "its certificate is not accepted",
        requests.exceptions.ProxyError: "the proxy does not let through",
        requests.ConnectionError: "no connection",
    }
    named = (reason for kind, reason in reasons.items() if isinstance(error, kind))
    return next(named, "the connection broke off")


def _continues(response: requests.Response, size: int, origin: _Origin) -> bool:
    """Tell whether the answer goes on at `size` in the same version of the file."""
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    return (
        found is not None
        and int(found[1]) == size
        and (origin.total is None or found[2] in ("*", str(origin.total)))
        and _validator(response) in ("", origin.validator)  # a part need not repeat the time of change
    )


def _validator(response: requests.Response) -> str:
    etag = response.headers.get("ETag", "")
    weak = not etag or etag.startswith("W/")
    return response.headers.get("Last-Modified", "") if weak else etag
