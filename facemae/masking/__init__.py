"""Masking strategies: a score per patch, then hide exactly the M highest."""
