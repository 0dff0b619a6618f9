"""Files, errors and progress; no torch, no faces."""
