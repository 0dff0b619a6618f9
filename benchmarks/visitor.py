"""A visitor of the app without a browser: it speaks Streamlit's protocol, so what is timed is the server."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests
from google.protobuf.message import Message
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.sync.client import connect
from websockets.typing import Origin, Subprotocol

from facemae.core.errors import DataError, UsageError

APP = Path(__file__).parents[1] / "app.py"
LONGEST = 90.0  # seconds for one answer
LARGEST = 64 * 1024**2  # bytes of a message
# How a page begins when it does not do what was asked for. A refused photo is known by its sign: its reasons
# are many.
REFUSALS = (
    "Busy",
    "This cannot be done:",
    "These results cannot be shown.",
    "There are no complete results here yet.",
    "No face found",
)
REFUSED_PHOTO = ":material/image_not_supported:"
DONE = (ForwardMsg.FINISHED_SUCCESSFULLY, ForwardMsg.FINISHED_FRAGMENT_RUN_SUCCESSFULLY)


@contextlib.contextmanager
def serving(
    environment: dict[str, str], port: int, *options: str, script: Path = APP, wait: float = 60.0
) -> Iterator[tuple[str, int]]:
    """Start the app on this machine as a process of its own, and end it with the `with` block.

    Yields:
        Its address and its process id.

    Raises:
        UsageError: it does not answer within `wait` seconds.
    """
    command = [sys.executable, "-m", "streamlit", "run", str(script), "--server.port", str(port)]
    command += ["--server.headless", "true", *options]
    process = subprocess.Popen(command, cwd=APP.parent, env=os.environ | environment)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(address, process, time.monotonic() + wait)
        yield address, process.pid
    finally:
        process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()


def _wait_for(address: str, process: subprocess.Popen[bytes], last: float) -> None:
    while time.monotonic() < last:
        with contextlib.suppress(requests.ConnectionError):
            if requests.get(f"{address}/_stcore/health", timeout=5).ok:
                return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise UsageError("The app did not start; its reason stands above.")


class Visitor:
    """One tab.

    Attributes:
        said: Texts of the elements of the last answer.
        widgets: By key, the id of each widget seen and the fragment that it belongs to.
        faults: What went wrong in the last answer, as the visitor would see it.
    """

    def __init__(self, address: str, *, headers: dict[str, str] | None = None) -> None:
        """Come to an address; `headers` are those that a proxy would add."""
        self._address, self._headers = address, headers or {}
        self._http = requests.Session()
        self._http.headers.update(self._headers)
        self._states: dict[str, dict[str, Any]] = {}
        self._session = self._page = self._query = ""
        self._open = contextlib.ExitStack()
        self.said: list[str] = []
        self.faults: list[str] = []
        self.widgets: dict[str, tuple[str, str]] = {}

    def open(self, page: str = "", query: str = "") -> float:
        """Open a page as a browser does, and return the seconds until it stands.

        Raises:
            DataError: it does not come.
        """
        started = time.perf_counter()
        self._http.get(f"{self._address}/{page}", timeout=LONGEST).raise_for_status()
        for each in ("health", "host-config"):  # sets the cookie against requests from other sites
            self._http.get(f"{self._address}/_stcore/{each}", timeout=LONGEST).raise_for_status()
        token = self._http.cookies.get("_streamlit_xsrf") or ""
        cookies = "; ".join(f"{name}={value}" for name, value in self._http.cookies.items())
        place = urlsplit(self._address)
        self._socket = self._open.enter_context(
            connect(
                f"ws://{place.netloc}/_stcore/stream",
                origin=Origin(self._address),
                subprotocols=[Subprotocol("streamlit"), Subprotocol(token or "none")],
                additional_headers=self._headers | {"Cookie": cookies},
                max_size=LARGEST,
                open_timeout=LONGEST,
            )
        )
        self.go(page, query)
        return time.perf_counter() - started

    def go(self, page: str, query: str = "") -> float:
        """Go to a page by the navigation, and return the seconds until it stands."""
        self._page, self._query, self._states = page, query, {}
        self.widgets.clear()
        return self._run()

    def choose(self, key: str, kind: str, value: Any) -> float:
        """Set a widget, and return the seconds until its page or fragment is drawn anew.

        Args:
            key: Of the widget.
            kind: Field of a widget's state in the protocol, as "string_value".
            value: A list where the field is one.
        """
        widget, fragment = self.widgets[key]
        self._states[widget] = {kind: {"data": value} if kind.endswith("array_value") else value}
        return self._run(fragment)

    def press(self, key: str) -> float:
        """Press a button, and return the seconds until its page or fragment is drawn anew."""
        seconds = self.choose(key, "trigger_value", True)
        self._states.pop(self.widgets[key][0], None)
        return seconds

    def upload(self, key: str, name: str, data: bytes, kind: str) -> float:
        """Give a file to an upload field, and return the seconds until its page is drawn anew.

        Raises:
            requests.HTTPError: the server refused it.
        """
        started = time.perf_counter()
        message = BackMsg()
        message.file_urls_request.request_id = "1"
        message.file_urls_request.file_names.append(name)
        message.file_urls_request.session_id = self._session
        self._socket.send(message.SerializeToString())
        urls = self._until("file_urls_response").file_urls_response.file_urls[0]
        token = self._http.cookies.get("_streamlit_xsrf")
        self.put(urls.upload_url, name, data, kind, {"X-Xsrftoken": token or ""}).raise_for_status()
        info = {"name": name, "size": len(data), "file_id": urls.file_id, "file_urls": urls}
        widget, fragment = self.widgets[key]
        self._states[widget] = {"file_uploader_state_value": {"uploaded_file_info": [info]}}
        self._run(fragment)
        return time.perf_counter() - started

    def put(self, path: str, name: str, data: bytes, kind: str, headers: dict[str, str]) -> requests.Response:
        """Send a file to a path, with headers of one's own."""
        return self._http.put(
            f"{self._address}/{path.lstrip('/')}",
            files={name: (name, data, kind)},
            headers=headers,
            timeout=LONGEST,
        )

    @property
    def session(self) -> str:
        """Return the name that the server gave this tab."""
        return self._session

    def recognised(self) -> None:
        """See to it that the Recognise page has found a face and looked it up in the gallery.

        Raises:
            DataError: it has not, or something went wrong.
        """
        found = any("Face 1:" in each for each in self.said)  # the name is escaped HTML
        searched = any(each.startswith("Best score") for each in self.said)
        if self.faults or not (found and searched):
            raise DataError(f"The face was not looked up: {self.faults or self.said[-3:]}")

    def close(self) -> None:
        """Close the tab."""
        self._open.close()
        self._http.close()

    def _run(self, fragment: str = "") -> float:
        message, started = BackMsg(), time.perf_counter()
        state = message.rerun_script
        state.page_name, state.query_string, state.fragment_id = self._page, self._query, fragment
        for widget, value in self._states.items():
            state.widget_states.widgets.add(id=widget, **value)
        self._socket.send(message.SerializeToString())
        self.said, self.faults = [], []
        while self._until("script_finished").script_finished not in DONE:
            if time.perf_counter() - started > LONGEST:
                raise DataError(f"The page did not come within {LONGEST:g} seconds.")
        return time.perf_counter() - started

    def _until(self, kind: str) -> ForwardMsg:
        """Take in messages up to one of a kind."""
        while True:
            message = ForwardMsg()
            try:
                received = self._socket.recv(LONGEST)
            except TimeoutError:
                raise DataError(f"The server said nothing for {LONGEST:g} seconds.") from None
            message.ParseFromString(received)
            found = message.WhichOneof("type")
            if found == "new_session":
                self._session = message.new_session.initialize.session_id or self._session
            elif found == "delta":
                self._take(message.delta)
            elif found == "page_not_found":
                self.faults.append("page not found")
            if found == kind:
                return message

    def _take(self, delta: Any) -> None:
        """Remember an element: its widget and its words."""
        kind = delta.new_element.WhichOneof("type") if delta.HasField("new_element") else None
        if kind is None:
            return
        element: Message = getattr(delta.new_element, kind)
        fields = {field.name: value for field, value in element.ListFields()}
        if str(fields.get("id", "")).count("-") >= 2:
            self.widgets[fields["id"].split("-", 2)[2]] = fields["id"], delta.fragment_id
        words = str(fields.get("body", fields.get("message", "")))
        if words:
            self.said.append(words)
        if kind == "exception" or words.startswith(REFUSALS) or fields.get("icon") == REFUSED_PHOTO:
            self.faults.append(words)


def enrol_demo(address: str) -> None:
    """Enrol the demo people, so that every face is looked up.

    Raises:
        DataError: nobody is enrolled after that.
    """
    visitor = Visitor(address)
    try:
        visitor.open("recognise")
        if "recognise_demo" in visitor.widgets:
            visitor.press("recognise_demo")
        if visitor.faults or not any("people are enrolled" in each for each in visitor.said):
            raise DataError(f"The demo people were not enrolled: {visitor.faults or visitor.said[-3:]}")
    finally:
        visitor.close()
