"""What can go wrong, and which exit code of the command line does it have?

Every message says what was wrong, what was seen, what is accepted and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable

__all__ = [
    "BundleError",
    "InputError",
    "MeasurementError",
    "ParcError",
    "ToolchainError",
    "UnsupportedError",
    "VerificationError",
    "check_keys",
    "nearest",
]


class ParcError(Exception):
    """Base of every error that is the user's to mend; `exit_code` is the process's status."""

    exit_code = 2


class InputError(ParcError, ValueError):
    """An argument, a file or a shape that is not acceptable (exit code 2)."""

    exit_code = 2


class BundleError(InputError):
    """A bundle directory that is missing, incomplete, corrupt or in the way (exit code 2)."""


class UnsupportedError(ParcError):
    """A legal request that this version cannot serve, such as an operator without lowering (3)."""

    exit_code = 3


class VerificationError(ParcError):
    """Computed numbers differ from the reference by more than the tolerance (4)."""

    exit_code = 4


class ToolchainError(ParcError):
    """A compiler, linker or emulator is missing or failed; names the line that installs it (5)."""

    exit_code = 5


class MeasurementError(ParcError):
    """A device or a measurement failed (6)."""

    exit_code = 6


def nearest(word: str, accepted: Iterable[str], *, most: int = 3) -> str:
    """Return ` Did you mean a or b?` with the accepted names nearest to `word`, or ''.

    >>> nearest("parc_canvs", ["parc_canvas", "conv_canvas", "resnet50"])
    ' Did you mean parc_canvas or conv_canvas?'
    """
    close = difflib.get_close_matches(word, list(accepted), n=most, cutoff=0.6)
    return f" Did you mean {' or '.join(close)}?" if close else ""


def check_keys(
    where: str, given: Iterable[str], *, accepted: Collection[str], required: Collection[str] = ()
) -> None:
    """Raise `InputError` if `given` has a key that is not accepted or lacks a required one.

    >>> check_keys("box.toml", ["name", "cpuu"], accepted={"name", "cpu"})
    Traceback (most recent call last):
    ...
    parc_hw.errors.InputError: box.toml: unknown key 'cpuu'. Did you mean cpu? Accepted: cpu, name.
    """
    keys = set(given)
    unknown = sorted(keys - set(accepted))
    if unknown:
        raise InputError(
            f"{where}: unknown key {unknown[0]!r}.{nearest(unknown[0], sorted(accepted))} "
            f"Accepted: {', '.join(sorted(accepted))}."
        )
    missing = sorted(set(required) - keys)
    if missing:
        raise InputError(f"{where}: missing {', '.join(missing)}.")
