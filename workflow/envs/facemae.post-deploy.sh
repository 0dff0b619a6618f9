#!/usr/bin/env bash
set -euo pipefail
# Without resolving again: facenet-pytorch's own requirements exclude every safe release (pyproject.toml).
pip install --no-deps --require-hashes -r requirements.lock
