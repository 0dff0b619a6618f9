"""The command line: `facemae COMMAND`; each command is a thin call into the package."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from typing import Annotated

import typer

from facemae import __version__
from facemae.cli import clean, data, evaluation, run, tools, workflow  # noqa: F401 - they enter their commands
from facemae.cli.gallery import gallery_app
from facemae.cli.options import app
from facemae.cli.recognition import explain, identify, models_app, verify
from facemae.core.errors import FaceMAEError, StorageError, UsageError
from facemae.core.text import MAX_LINE, shown

app.add_typer(gallery_app, name="gallery")
app.command()(identify)
app.command()(verify)
app.command()(explain)
app.add_typer(models_app, name="models")


def _version(value: bool) -> None:
    if value:
        typer.echo(f"facemae {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Hold the options of the command as a whole."""


def main() -> None:
    """Run the command line; expected failures end with one sentence and their own exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal of few letters is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        app([_at_home(each) for each in sys.argv[1:]])
    except FaceMAEError as error:
        _fail(str(error), error.exit_code)
    except OSError as error:
        if error.filename is None and error.errno == errno.ENOSPC:
            _fail("The output cannot be written: the disk is full; make room.", StorageError.exit_code)
        if error.filename is None:
            raise
        _fail(f"{error.filename} cannot be read ({error.strerror}); check the path.", UsageError.exit_code)


def _at_home(argument: str) -> str:
    """Return `--option=~/path` with the home folder in place of ~, which shells leave after an option's =."""
    option, tilde, path = argument.partition("=~/")
    return f"{option}={Path.home() / path}" if tilde and option.startswith("--") else argument


def _fail(message: str, code: int) -> None:
    print(f"facemae: {shown(message, MAX_LINE)}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
