#!/bin/sh
# Set up a virtual environment exactly as requirements.lock (or LOCK) says; nothing is resolved here.
# Usage: sh setup.sh [FOLDER [LOCK]]     PYTHON=python3.12 sh setup.sh  chooses the interpreter.
set -eu

venv=${1:-.venv}
lock=${2:-requirements.lock}
python=${PYTHON:-python3}

if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "facemae: Python 3.11 or newer is needed, and $python is not; name another with PYTHON=python3.12 make" >&2
    exit 2
fi
[ -d "$venv" ] ||
    echo "Setting up $venv: about 3.5 GB to download (mostly PyTorch with CUDA) and 7 GB on disk; 1 to 10 minutes."

# uv installs several times faster than pip; it is used if it is there or can be had.
if command -v uv >/dev/null 2>&1; then
    uv=uv
elif [ -x .tools/uv/bin/uv ] || {
    "$python" -m venv .tools/uv && .tools/uv/bin/pip install --quiet --require-hashes -r requirements-uv.lock
} 2>/dev/null; then
    uv=.tools/uv/bin/uv
else
    uv=
fi

if [ -n "$uv" ]; then
    [ -x "$venv/bin/python" ] || "$uv" venv --quiet --python "$python" "$venv"
    # Compiled now, since otherwise the first job of each kind would spend its time on that.
    "$uv" pip install --python "$venv/bin/python" --compile-bytecode --no-deps --require-hashes -r "$lock"
    "$uv" pip install --python "$venv/bin/python" --quiet --no-deps --no-build-isolation --editable .
else
    if ! [ -x "$venv/bin/pip" ] && ! "$python" -m venv "$venv"; then
        echo "facemae: $python cannot make a virtual environment; install python3-venv, or uv, and try again." >&2
        exit 2
    fi
    "$venv/bin/pip" install --no-deps --require-hashes -r "$lock"
    "$venv/bin/pip" install --quiet --no-deps --no-build-isolation --editable .
fi
# So is the project: where Python keeps no bytecode, each job would compile what it imports.
"$venv/bin/python" -m compileall -q facemae
