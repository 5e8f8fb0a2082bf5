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

    >>> check_memory("the model", {"weights": 2**60, "arena": 2**59}, instead="Take another.")
    Traceback (most recent call last):
    ...
    parc_hw.errors.UnsupportedError: the model needs 1610612736.00 GiB of memory (weights
    1073741824.00, arena 536870912.00); this machine has ... GiB. Take another.
    """
    there, needed = machine_bytes(), sum(parts_bytes.values())
    if needed > there:
        listed = ", ".join(f"{part} {size / 2**30:.2f}" for part, size in parts_bytes.items())
        raise UnsupportedError(
            f"{what} needs {needed / 2**30:.2f} GiB of memory ({listed}); this machine has "
            f"{there / 2**30:.2f} GiB. {instead}"
        )
