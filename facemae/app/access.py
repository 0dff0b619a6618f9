"""Who may see the app, and how long a visitor's photos stay in memory.

Other machines are served only with a login, whether they come straight or through a proxy on this machine.
Streamlit keeps the session of a closed tab until the next visitor comes; here it is ended on time.
"""

from __future__ import annotations

import gc
import hmac
import importlib.util
import ipaddress
import os
import threading
import time
from collections.abc import Mapping

import streamlit as st
from streamlit import net_util, runtime
from streamlit.runtime.scriptrunner import get_script_run_ctx

from facemae.core.progress import say

VARIABLE = "FACEMAE_PROXY_SECRET"
HEADER = "X-FaceMAE-Secret"
SHORTEST = 16  # characters of the secret
LOG_IN = "Log in to see this app."
OPEN = (
    "This app can be reached from other machines and has no login, so it shows nothing: whoever runs it "
    "sets one up (docs/deploy.md) or lets it listen on 127.0.0.1."
)
PROXIED = (
    "This app is reached through a proxy and has no login, so it shows nothing: whoever runs it sets one up "
    "(docs/deploy.md) or opens the app without the proxy."
)
# Headers that only proxies add, by their start.
FORWARDING = (
    "forwarded", "via", "x-real-ip", "x-forwarded", "x-original-", "x-client-ip", "x-cluster-client-ip",
    "true-client-ip", "cf-connecting-ip", "fly-client-ip", "x-envoy-", "tailscale-user-",
)  # fmt: skip
SHORT = (
    f"The secret of the app's proxy is shorter than {SHORTEST} characters, so nothing is shown: whoever runs "
    "the app sets a longer one (docs/deploy.md)."
)
ROUND = "This address goes round the login: open the app at the address that its operator gave you."
EVERY = 5.0  # seconds between two looks for closed tabs, at most


def refusal(
    address: str | None, headers: Mapping[str, str], secret: str | None, oidc: bool, logged_in: bool
) -> str | None:
    """Return why a visitor may not see the app, or None who may.

    A login that is set up holds everywhere; without one, only this machine is served, and no proxy on it.

    Args:
        address: That the server listens on; None: every one of the machine's.
        headers: Of the visitor's websocket, as the server has them: each byte a character (Latin-1).
        secret: That a proxy with a login adds to every request; None or empty: no proxy is set up.
        oidc: Whether a login with OpenID Connect is set up.
        logged_in: Whether the visitor has passed it.
    """
    if not secret and not oidc:
        if any(name.lower().startswith(FORWARDING) for name in headers):
            return PROXIED
        return None if local(address) else OPEN
    if secret:
        if len(secret) < SHORTEST:
            return SHORT
        given = headers.get(HEADER, "").encode("latin-1", "replace")
        if not hmac.compare_digest(given, secret.encode()):
            return ROUND
    return LOG_IN if oidc and not logged_in else None


def local(address: str | None) -> bool:
    """Return whether only this machine reaches an address; a socket file is a proxy's, so it is not local."""
    if address is None:
        return False
    try:
        return ipaddress.ip_address(address.strip("[]")).is_loopback
    except ValueError:
        return address == "localhost"


def check() -> None:
    """Let a visitor pass, or say in a sentence why not and end the page; the first call of every page."""
    if context := get_script_run_ctx():
        _sweeper().watch(context.session_id)
    oidc = "is_logged_in" in st.user  # there where a login is set up, and nowhere else
    reason = refusal(
        st.get_option("server.address"),
        st.context.headers,
        os.environ.get(VARIABLE),
        oidc,
        bool(st.user.get("is_logged_in")),
    )
    if reason is None:
        if oidc:
            with st.sidebar:
                st.button("Log out", icon=":material/logout:", on_click=st.logout, key="guard_out")
        return
    st.title("FaceMAE")
    if reason == LOG_IN and importlib.util.find_spec("authlib") is None:
        reason = "The login needs the package Authlib: whoever runs the app installs it (docs/deploy.md)."
    elif reason == LOG_IN:
        st.button("Log in", type="primary", on_click=st.login, key="guard_in")
    st.info(reason, icon=":material/lock:")
    st.stop()


class Sweeper:
    """Ends the sessions of closed tabs, and with them the photos in memory."""

    def __init__(self, keep: float) -> None:
        """Keep a closed tab's session for `keep` seconds, in which a visitor may come back to it."""
        self._keep = keep
        self._seen: dict[str, float] = {}  # by session, when it was last connected

    def watch(self, session: str) -> None:
        """Look after a session from now on."""
        self._seen[session] = time.monotonic()

    def sweep(self, server: runtime.Runtime, now: float) -> bool:
        """End what has been closed for too long by now (`time.monotonic`); return whether anything was."""
        ended = False
        for session, last in list(self._seen.items()):
            if server.is_active_session(session):
                self._seen[session] = now
            elif now - last >= self._keep:
                # First the photos: the other call is Streamlit's logout, the one public call that ends a
                # stored session from another thread, and may fail.
                server.uploaded_file_mgr.remove_session_files(session)
                server.clear_user_info_for_session(session)
                self._seen.pop(session, None)
                ended = True
        return ended

    def run(self) -> None:
        """Sweep for as long as the server runs; what goes wrong is said once and tried again."""
        ended, said = False, set[str]()
        while True:
            time.sleep(min(EVERY, self._keep / 2))
            try:
                if ended:  # by now the server has let go of it, and what is left are cycles
                    gc.collect()
                ended = runtime.exists() and self.sweep(runtime.get_instance(), time.monotonic())
            # Whatever Streamlit may raise: one failure must not keep the photos of all who come later.
            except Exception as error:
                ended, name = False, type(error).__name__
                if name not in said:
                    say("app", f"photos of a closed tab could not be deleted ({name}); it is tried again")
                    said.add(name)


@st.cache_resource(show_spinner=False)
def _sweeper() -> Sweeper:
    """Prepare the server, once, and return its sweeper, which holds the names of sessions and no more."""
    _ask_nobody_for_the_address()
    _leave_cores()
    # Streamlit forgets a session's name after the time that is set, and then it could not be ended by it.
    sweeper = Sweeper(st.get_option("server.disconnectedSessionTTL") / 2)
    threading.Thread(target=sweeper.run, name="sweeper", daemon=True).start()
    return sweeper


def _ask_nobody_for_the_address() -> None:
    """Keep Streamlit from asking a web service for this machine's address.

    It does when a page of another site tries to connect, in order to compare; everybody waits for the answer.
    Should a later Streamlit keep the address elsewhere, it asks again, and tests/app/test_access.py fails.
    """
    net_util._external_ip = net_util._external_ip or ""
    net_util._internal_ip = net_util._internal_ip or "127.0.0.1"


def _leave_cores() -> None:
    """Let networks compute on half of the cores, unless OMP_NUM_THREADS says otherwise.

    The other half draws pages. Threads of PyTorch that wait for a core do so at full speed: with ten visitors
    on two cores, two threads made the slowest answers three times as slow and no photo faster.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, cores // 2)))  # PyTorch reads it when it is loaded
