"""Opening a page without a browser, acting on it, and reading what it shows."""

import socket
from typing import Any

from streamlit.testing.v1 import AppTest

KINDS = ("title", "subheader", "caption", "markdown", "text", "info", "warning", "error", "success", "code")


def free_port() -> int:
    """Return a port of this machine that nobody uses."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def open_page(name: str, **query: str) -> AppTest:
    """Return a page of `facemae.app` as it is first shown."""
    page = AppTest.from_string(f"from facemae.app.views import {name}\n{name}.render()", default_timeout=60)
    for key, value in query.items():
        page.query_params[key] = value
    return run(page)


def run(acted: Any) -> AppTest:
    """Run the page of an element that was acted on, or a page itself, and return it."""
    page: AppTest = acted.run()
    assert not page.exception, [each.message for each in page.exception]
    return page


def written(page: AppTest) -> str:
    """Return all text on the page, as it was sent."""
    parts = [element.value for kind in KINDS for element in page.get(kind)]
    return "\n".join(parts + [element.proto.body for element in page.get("html")])
