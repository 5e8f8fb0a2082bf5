"""Does what a library needs to run fit into this machine's memory?"""

from __future__ import annotations

import os
from collections.abc import Mapping

from parc_hw.errors import UnsupportedError

__all__ = ["check_memory", "machine_bytes"]


def machine_bytes() -> int:
    """How much memory the machine has, whether in use or not."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(what: str, parts_bytes: Mapping[str, int], *, instead: str) -> None:
    """Refuse before any of it is allocated what this machine can never hold.

    Parameters
    ----------
    what : str
        What is about to run, for the message.
    parts_bytes : mapping of str to int
        What it needs memory for, and how much at least.
    instead : str
        A sentence: what the user may do.

    Raises
    ------
    UnsupportedError
        The parts are more than `machine_bytes()`; says how much each is.

    >>> check_memory("the model", {"weights": 2**60, "arena": 2**20}, instead="Take another.")
    Traceback (most recent call last):
    ...
    parc_hw.errors.UnsupportedError: the model needs 1073741824.00 GiB of memory (weights:
    1073741824.00 GiB, arena: 1.00 MiB); this machine has ... GiB. Take another.
    """
    there, needed = machine_bytes(), sum(parts_bytes.values())
    if needed > there:
        listed = ", ".join(f"{part}: {_text(size)}" for part, size in parts_bytes.items())
        raise UnsupportedError(
            f"{what} needs {_text(needed)} of memory ({listed}); this machine has {_text(there)}. "
            f"{instead}"
        )


def _text(size_bytes: int) -> str:
    giga = size_bytes >= 1 << 30
    return f"{size_bytes / (1 << 30):.2f} GiB" if giga else f"{size_bytes / (1 << 20):.2f} MiB"
