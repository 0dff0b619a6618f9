"""A loopback web server that misbehaves as told: each request takes the next fault of its script.

A fault is a function of the request's handler; `plain` is what a good server does.
"""

import http.server
import re
import socket
import struct
import threading
import time
from collections import deque

PIECE = 1 << 14


class FaultServer:
    """Serve `body`: the first requests by `faults`, one each, and those after them by `then`."""

    def __init__(self, body, *faults, then=None):
        self.body = body
        self.faults, self.then = deque(faults), then or plain
        self.asked = []  # the Range of each request, or None
        self.headers = []
        self.served = 0  # bytes of bodies
        self.over = threading.Event()
        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.http.block_on_close = False
        self.http.owner = self

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, args=(0.005,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.http.shutdown()
        self.http.server_close()

    def url(self, name="file.bin", user=""):
        host, port = self.http.server_address
        return f"http://{user}{host}:{port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        owner = self.owner = self.server.owner
        owner.asked.append(self.headers["Range"])
        owner.headers.append(self.headers)
        fault = owner.faults.popleft() if owner.faults else owner.then
        try:
            fault(self)
        except OSError:
            owner.http.close_request(self.connection)  # the client went away

    def log_message(self, *_):
        pass

    def start(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()

    def pour(self, body, pause=0.0):
        for start in range(0, len(body), PIECE):
            piece = body[start : start + PIECE]
            self.owner.served += len(piece)  # first: who has it all may ask at once how much was served
            self.connection.sendall(piece)
            time.sleep(pause)

    def break_off(self):
        """Reset the connection instead of closing it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()


def proper(handler, ranges=True):
    """Return the status, headers and bytes of a right answer, Range included."""
    owner = handler.owner
    headers = {"Content-Type": "application/octet-stream"}
    asked = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    if not ranges or not asked:
        return 200, headers | {"Content-Length": len(owner.body)}, owner.body
    start, size = int(asked[1]), len(owner.body)
    if start >= size:
        return 416, {"Content-Range": f"bytes */{size}", "Content-Length": 0}, b""
    headers |= {"Content-Range": f"bytes {start}-{size - 1}/{size}", "Content-Length": size - start}
    return 206, headers, owner.body[start:]


def plain(handler):
    status, headers, body = proper(handler)
    handler.start(status, headers)
    handler.pour(body)


def slowly(pause):
    def fault(handler):
        status, headers, body = proper(handler)
        handler.start(status, headers)
        handler.pour(body, pause)

    return fault


def cut(after):
    """Close the connection too early; what was sent does arrive."""

    def fault(handler):
        status, headers, body = proper(handler)
        handler.start(status, headers)
        handler.pour(body[:after])

    return fault


def reset(after):
    """Reset the connection, which may overtake what was sent."""

    def fault(handler):
        status, headers, body = proper(handler)
        handler.start(status, headers)
        handler.pour(body[:after])
        handler.break_off()

    return fault


def chunked(after=None):
    """Send in chunks, of unknown length in all; with `after`, close before the end."""

    def fault(handler):
        handler.protocol_version = "HTTP/1.1"
        status, headers, body = proper(handler)
        handler.start(status, headers | {"Content-Length": None, "Transfer-Encoding": "chunked"})
        for start in range(0, len(body[:after]), 1000):
            piece = body[:after][start : start + 1000]
            handler.connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece))
            handler.owner.served += len(piece)
        if after is None:
            handler.connection.sendall(b"0\r\n\r\n")
        handler.close_connection = True

    return fault


def stall(after):
    def fault(handler):
        status, headers, body = proper(handler)
        handler.start(status, headers)
        handler.pour(body[:after])
        handler.owner.over.wait(30)

    return fault


def drip(after):
    """Send one byte every 20 ms from `after` on."""

    def fault(handler):
        status, headers, body = proper(handler)
        handler.start(status, headers)
        handler.pour(body[:after])
        for each in body[after:]:
            handler.pour(bytes([each]), 0.02)
            if handler.owner.over.is_set():
                return

    return fault


def changed(**headers):
    """Answer as a good server does, but for these headers (None: without it; `_` stands for `-`)."""

    def fault(handler):
        status, right, body = proper(handler)
        handler.start(status, right | {name.replace("_", "-"): value for name, value in headers.items()})
        handler.pour(body)

    return fault


def short(length):
    """Announce fewer bytes than come, which come in two portions."""

    def fault(handler):
        handler.start(200, {"Content-Length": length})
        handler.pour(handler.owner.body[: length // 2], 0.05)
        handler.pour(handler.owner.body[length // 2 :])

    return fault


def answer(status, body=b"", **headers):
    def fault(handler):
        handler.start(
            status,
            {"Content-Length": len(body)} | {name.replace("_", "-"): each for name, each in headers.items()},
        )
        handler.pour(body)

    return fault


def redirect(to):
    return answer(302, Location=to)


def whole(handler):
    """Ignore the Range."""
    status, headers, body = proper(handler, ranges=False)
    handler.start(status, headers)
    handler.pour(body)


def from_elsewhere(handler):
    """Answer a Range with another one: a hundred bytes further."""
    start, size = int(handler.headers["Range"][6:-1]) + 100, len(handler.owner.body)
    headers = {"Content-Range": f"bytes {start}-{size - 1}/{size}", "Content-Length": size - start}
    handler.start(206, headers)
    handler.pour(handler.owner.body[start:])


def becomes(body, then=plain):
    """Put another version of the file in place, then answer."""

    def fault(handler):
        handler.owner.body = body
        then(handler)

    return fault


def endless(handler):
    """Send far more than was announced, which is nothing."""
    handler.start(200, {})
    while not handler.owner.over.is_set():
        handler.pour(bytes(1 << 20))
