"""How large are the numbers that pass a point, against the format that must hold them?"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from fixedpoint.qformat import as_format

__all__ = ["histogram"]


def histogram(name: str, values: ArrayLike, fmt: str) -> dict[str, Any]:
    """Count numbers by their magnitude, in octaves.

    Parameters
    ----------
    name : str
        What the numbers are.
    values : array, any shape
        Stored integers of `fmt`, or real numbers that are to become such.
    fmt : str
        The format.

    Returns
    -------
    dict
        "name", "format", "bits", "words"; "lsb" and "limit", the exponents of 2 of the smallest
        step and of the format's end; "zeros"; "octaves", the exponent e of the first bin, and
        "counts": words with magnitudes from 2**e to below 2**(e + 1), for e, e + 1, ...

    Examples
    --------
    >>> found = histogram("x", [0, 1, -2, 3, 127], "Q1.7")
    >>> found["zeros"], found["octaves"], found["counts"]
    (1, -7, [1, 2, 0, 0, 0, 0, 1])
    """
    form = as_format(fmt)
    given = np.asarray(values).reshape(-1)
    point = form.frac_bits if given.dtype.kind in "iu" else 0
    words = np.abs(given.astype(np.float64))
    zeros = int((words == 0).sum())
    exponents = np.frexp(words[words > 0])[1] - 1 - point
    # Real numbers may be as small as they like: all below a sixteenth of an LSB are one bin.
    exponents = np.maximum(exponents, -form.frac_bits - 4)
    first = int(exponents.min()) if exponents.size else -form.frac_bits
    counts = np.bincount(exponents - first) if exponents.size else np.zeros(1, np.int64)
    return {
        "name": name,
        "format": str(form),
        "bits": form.bits,
        "words": int(words.size),
        "lsb": -form.frac_bits,
        "limit": form.int_bits - int(form.signed),
        "zeros": zeros,
        "octaves": first,
        "counts": counts.tolist(),
    }
