"""Which real numbers does a study take from a `.npy` file, and are they still the same?"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from parc_hw.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["inspect_file", "load_file"]


def inspect_file(path: Path, axes: tuple[int, ...]) -> tuple[tuple[int, ...], str]:
    """Return the shape of a file's array and the SHA-256 of its bytes.

    Parameters
    ----------
    path : Path
    axes : tuple of int
        How many axes are accepted.

    Raises
    ------
    InputError
        The file cannot be read, is no `.npy` file, holds another type or another number of axes,
        nothing, NaN or infinity.
    """
    values, digest = _read(path)
    if values.ndim not in axes or not values.size:
        wanted = " or ".join(map(str, axes))
        raise InputError(f"{path} has shape {values.shape}; accepted: {wanted} axes, not empty.")
    return values.shape, digest


def load_file(path: str, digest: str) -> NDArray[np.float64]:
    """Return the array of a file whose bytes have this SHA-256.

    Raises
    ------
    InputError
        As `inspect_file`; or the file has changed since the study began.
    """
    values, found = _read(Path(path))
    if found != digest:
        raise InputError(
            f"{path} has changed since the study began: put the old file back, or write to another "
            f"directory."
        )
    return values


def _read(path: Path) -> tuple[NDArray[np.float64], str]:
    import numpy as np

    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from None
    try:  # only `.npy`: nothing in it is ever executed
        array = np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except (ValueError, EOFError, MemoryError, SyntaxError, OverflowError) as error:
        raise InputError(
            f"{path} is not a complete .npy file: {error}. numpy.save writes one."
        ) from (None)
    if array.dtype.kind != "f":
        raise InputError(
            f"{path} holds {array.dtype}; accepted are floats: a study rounds them to words itself."
        )
    if not np.isfinite(array).all():
        raise InputError(f"{path} holds NaN or infinity.")
    return array.astype(np.float64), hashlib.sha256(data).hexdigest()
