"""How do `.npy` files come in safely and go out whole?"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from parc_hw.errors import InputError

if TYPE_CHECKING:
    import numpy as np

__all__ = ["load_input", "load_inputs", "write_outputs", "write_whole"]


def load_inputs(
    paths: Sequence[Path], accepted: Sequence[Sequence[tuple[int, ...]]]
) -> list[np.ndarray]:
    """Read one file for each input of a bundle.

    Parameters
    ----------
    paths : sequence of Path
        The files, in the order of the inputs.
    accepted : sequence of sequences of shapes
        The sets of shapes that the inputs may have together.

    Raises
    ------
    InputError
        Too few or many files, one that `load_input` refuses, or shapes that do not go together.
    """
    text = "; or ".join(", ".join(map(_times, shapes)) for shapes in accepted)
    count = len(accepted[0])
    if len(paths) != count:
        raise InputError(
            f"the bundle takes {count} input{'s' * (count != 1)} of shape {text}, but --input was "
            f"given {len(paths)} times."
        )
    arrays = [
        load_input(path, shapes)
        for path, shapes in zip(paths, zip(*accepted, strict=True), strict=True)
    ]
    seen = [array.shape for array in arrays]
    if seen not in [list(shapes) for shapes in accepted]:
        raise InputError(
            f"the inputs have shapes {', '.join(map(_times, seen))}; the bundle takes together {text}."
        )
    return arrays


def load_input(path: Path, accepted: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Read a float32 array of one of the accepted shapes; nothing in the file is ever executed.

    Returns
    -------
    float32 array, C-contiguous

    Raises
    ------
    InputError
        A missing, corrupt or truncated file, another type or shape, NaN or infinity.
    """
    import numpy as np

    try:
        # Only `.npy`: np.load would also open zip archives and pickles.
        with path.open("rb") as file:
            array = np.lib.format.read_array(file, allow_pickle=False)
            rest = file.read(1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}.") from None
    except (ValueError, EOFError, MemoryError, SyntaxError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{path} is not a complete .npy file: {reason.rstrip('.')}. "
            "`numpy.save` with a float32 array writes one."
        ) from None
    if rest:
        raise InputError(f"{path} has bytes after its array; `numpy.save` writes none.")
    if array.dtype != np.float32:
        raise InputError(
            f"{path} holds {array.dtype}; float32 is accepted. "
            f"Convert it: numpy.save('x.npy', x.astype('float32'))."
        )
    if array.shape not in accepted:
        raise InputError(
            f"{path} has shape {_times(array.shape)}, but the bundle takes "
            f"{' or '.join(dict.fromkeys(map(_times, accepted)))}."
        )
    wrong = ~np.isfinite(array)
    if wrong.any():
        first = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise InputError(
            f"{path} holds {int(wrong.sum())} values that are NaN or infinite, the first at "
            f"index {first}; every value must be finite."
        )
    return np.ascontiguousarray(array)


def write_outputs(paths: Sequence[Path], arrays: Sequence[np.ndarray]) -> None:
    """Write each array to its path as `.npy`, each file whole or not at all."""
    import io

    import numpy as np

    for path, array in zip(paths, arrays, strict=False):
        buffer = io.BytesIO()
        np.save(buffer, array, allow_pickle=False)
        write_whole(path, buffer.getvalue())


def write_whole(path: Path, data: bytes) -> None:
    """Write beside `path` and rename, so that no reader ever sees a part of it.

    Raises
    ------
    InputError
        The directory is missing, or writing fails (permissions, no space).
    """
    name = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)  # mkstemp makes files private; give them the usual permissions
        os.umask(umask)
        Path(name).chmod(0o666 & ~umask)
        Path(name).replace(path)
        name = None
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}.") from None
    finally:
        if name is not None:
            Path(name).unlink(missing_ok=True)


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"
