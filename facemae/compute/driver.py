"""The NVIDIA driver, found without importing PyTorch."""

from __future__ import annotations

import re
from pathlib import Path

DRIVER = Path("/proc/driver/nvidia/version")


def driver_version() -> str | None:
    """Return the version of the loaded NVIDIA driver, or None without one."""
    if not DRIVER.exists():
        return None
    found = re.search(r"\b(\d+\.\d+(?:\.\d+)?)\b", DRIVER.read_text())
    return found[1] if found else "unknown"
