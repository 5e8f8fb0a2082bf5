"""How is a function compiled that only compiled functions call?"""

from __future__ import annotations

from typing import Any

from numba import njit

__all__ = ["inside"]


def inside(*, forceinline: bool = False) -> Any:
    """Return the decorator: `njit` without what a call from Python needs.

    The wrappers for such calls take a third of the time of a first call, and code of its own on the
    disk is of no use where the outer function's holds everything. An integer constant among the
    arguments compiles the function once more; pass a row of a table instead.
    """
    return njit(no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=forceinline)
