"""Seeds that are a fixed function of what they are for; apart from seeding.py, which needs PyTorch."""

from __future__ import annotations

import hashlib


def seed_of(*key: str | int) -> int:
    """Return a 63-bit seed that is a fixed function of `key`."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
