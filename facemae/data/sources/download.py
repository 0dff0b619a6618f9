"""The only network access: a file, resumed, verified and put in place whole.

The bytes are collected in a hidden file beside it, so that a later try goes on where an earlier one stopped.
Only bytes with the published checksum get the file's name; where those of two tries do not fit together, all
are fetched again.
"""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Mapping
from pathlib import Path
from time import monotonic, sleep
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
# A server may ask for a longer wait, up to backoff_max seconds.
RETRY = urllib3.Retry(3, backoff_factor=1, backoff_jitter=0.5, backoff_max=60)
TIMEOUT = (10.0, 30.0)  # seconds for a connection, and for the next bytes
SLOWEST = 1000.0  # bytes per second; below, on average over so many seconds, it counts as stalled
PATIENCE = 60.0


class _RefusedError(Exception):
    """The server does not give the file; asking again would not help."""


class _TryError(Exception):
    """This try failed; the next one may do better, after `wait` seconds if the server said so."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


def download(remote: Remote, folder: Path) -> Path:
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
            _Download(remote, path).finish()
    elif (got := files.sha256_of(path)) != remote.sha256.lower():
        raise IntegrityError(
            f"{path} is not the published file: its SHA-256 begins with {got[:12]} instead of "
            f"{remote.sha256[:12]}; move it away to have the right one downloaded, or put that one there."
        )
    return path


class _Download:
    """A file on its way: its bytes, in a hidden file beside its place."""

    def __init__(self, remote: Remote, path: Path) -> None:
        self.remote, self.path = remote, path
        self.part = path.with_name(f".{path.name}.download")

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
            got = self.fetch()
        except _RefusedError as error:
            if not self.size:
                self.part.unlink(missing_ok=True)
            tried = f"(tried {parts.hostname}: {error})"
            raise DataError(f"{name} could not be downloaded {tried}; {by_hand}") from error
        if got != expected.lower():
            self.part.unlink()
            raise IntegrityError(
                f"{name} was downloaded and removed, because its SHA-256 begins with {got[:12]} instead of "
                f"{expected[:12]} (tried {parts.hostname}: wrong checksum); {by_hand}"
            )
        files.publish(self.part, self.path)

    @property
    def size(self) -> int:
        """How many bytes there are."""
        return self.part.stat().st_size if self.part.exists() else 0

    def fetch(self) -> str:
        """Fetch all bytes, going on and trying again as often as `RETRY` allows; return their SHA-256."""
        retry, host = RETRY, urlsplit(self.remote.url).hostname
        while True:
            try:
                return self._try()
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
                sleep(wait)

    def _try(self) -> str:
        """Fetch what is missing and return the checksum of all; what does not fit together is dropped."""
        known = self.size
        if not known or known < self.remote.bytes:  # else a kill came after the last byte
            known = self._ask(known)
        got = files.sha256_of(self.part)
        if known and got != self.remote.sha256.lower():
            self.part.unlink()
            raise _TryError("cannot go on where the last try stopped")
        return got

    def _ask(self, known: int) -> int:
        """Receive what follows the first `known` bytes; return how many of them are left, all or none."""
        rest = {"Range": f"bytes={known}-"} if known else {}
        with self._get(HEADERS | rest) as response:
            status = response.status_code
            if status in MAY_PASS:
                wait = 0.0
                with contextlib.suppress(urllib3.exceptions.InvalidHeader, ValueError):
                    wait = urllib3.Retry().get_retry_after(response.raw) or 0.0
                raise _TryError(f"answers {status}", wait)
            if known and status == 416:  # nothing follows
                return known
            if status != 200 and not (known and status == 206):
                raise _RefusedError(f"answers {status}")
            known = known if status == 206 else 0
            kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if kind == "text/html" and not self.remote.filename.endswith((".html", ".htm")):
                raise _RefusedError("answers with a web page, perhaps a login")
            self._check_size(known + (response.raw.length_remaining or 0))
            with files.resume_file(self.part, known) as file:
                self._receive(response, file, known)
        return known

    def _get(self, headers: Mapping[str, str]) -> requests.Response:
        """Follow the address to an answer that is no redirection, checking each before it is asked."""
        url = self.remote.url
        try:
            for _ in range(REDIRECTS + 1):
                if not _is_safe(url):
                    raise _RefusedError("leads to an address that is not https")
                response = requests.get(
                    url, headers=headers, timeout=TIMEOUT, stream=True, allow_redirects=False
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

    def _check_size(self, size: int) -> None:
        expected = self.remote.bytes
        if size > expected * 1.01 + 1e6:
            raise _RefusedError(f"sends {size / 1e6:.1f} MB where {expected / 1e6:.1f} MB are expected")

    def _receive(self, response: requests.Response, file: BinaryIO, size: int) -> None:
        name, total = self.remote.filename, -(-self.remote.bytes // 1_000_000)
        progress = Progress("download", total, "MB", size // 1_000_000)
        since, received = monotonic(), 0
        try:
            # Not read(), which waits for a full block however slowly it comes.
            while block := response.raw.read1(BLOCK, decode_content=False):
                file.write(block)
                size, received = size + len(block), received + len(block)
                self._check_size(size)
                progress.update(size // 1_000_000, name)
                lasted = monotonic() - since
                if lasted >= PATIENCE:
                    if received < SLOWEST * lasted:
                        raise _TryError(f"slower than {SLOWEST / 1000:g} kB/s")
                    since, received = monotonic(), 0
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
