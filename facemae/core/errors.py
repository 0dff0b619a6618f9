"""The errors a user can meet, each with the exit code its command ends with.

A message is one sentence: what happened, the limit and the value seen, and the next step.
Anything that is not a `FaceMAEError` is a bug and ends with exit code 1.
"""

from facemae.core.text import MAX_LINE, shown


class FaceMAEError(Exception):
    """An expected failure; its message is for the user, escaped and short whatever it quotes."""

    exit_code = 1

    def __init__(self, message: object = "") -> None:
        super().__init__(shown(message, MAX_LINE))


class UsageError(FaceMAEError):
    """The configuration or the command line cannot be used, or a run is already in use."""

    exit_code = 2


class DataError(FaceMAEError):
    """Too little of the input could be used."""

    exit_code = 3


class RefusedError(DataError):
    """The data do not support a measurement; the message says why, and may stand in the place of a value.

    It is half a sentence, such as "needs 300 impostor pairs, this evaluation has 36". Only what the data
    bring about is refused: an argument that a caller gets wrong is a `ValueError`, and a bug.
    """


class IntegrityError(FaceMAEError):
    """A file is not what it should be: wrong checksum, damaged checkpoint, broken split."""

    exit_code = 4


class StorageError(FaceMAEError):
    """The disk is full or a folder cannot be written."""

    exit_code = 5


class DivergedError(FaceMAEError):
    """Training met a loss or gradient that is not finite."""

    exit_code = 6


class PreemptedError(FaceMAEError):
    """Training was asked to stop, saved its state and can be resumed by the same command."""

    exit_code = 75
