"""Which words does the simulator run on, and where do its results go?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from fixedpoint import ErrorReport, Prediction, QFormat, Trace

__all__ = [
    "OVERFLOW_HELP",
    "ROUNDING_HELP",
    "SCALING_HELP",
    "chosen_overflow",
    "error_table",
    "load_words",
    "output_option",
    "plain",
    "random_words",
    "trace_table",
    "write_words",
]

_SUFFIXES = (".npy", ".hex", ".mem")
ROUNDING_HELP = "half_even, half_up, half_away, floor, toward_zero, or another tool's name for it."

OVERFLOW_HELP = "saturate, wrap or raise."
SCALING_HELP = "half, none, growing, block, or bits per stage as 2,1,3."


def output_option(parts: str) -> Any:
    """Return the option that names result files; `parts` goes into those of a test bench."""
    import typer

    return typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help=f".npy: output words. .hex, .mem: {parts} for a test bench. Repeat.",
    )


def chosen_overflow(text: str) -> Any:
    """Return the `Overflow` that `text` names."""
    from fixedpoint import Overflow
    from parc_hw.errors import nearest

    known = {mode.value: mode for mode in Overflow}
    if text not in known:
        raise InputError(
            f"--overflow {text!r} is none.{nearest(text, known)} Accepted: {', '.join(known)}."
        )
    return known[text]


# ---------------------------------------------------------------- in
def load_words(
    path: Path, fmt: QFormat, option: str, shapes: Sequence[tuple[int | None, ...]]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Read stored integers, or real numbers that are quantised, from a `.npy` file.

    Parameters
    ----------
    path : Path
    fmt : QFormat
        Integers must be words of it; floats are rounded to it, to nearest even, and saturate.
    option : str
        What the message calls the file.
    shapes : sequence of shapes
        Accepted ones; None stands for any extent.

    Returns
    -------
    words : int64 array
    values : float64 array or None
        The real numbers, where the file held floats.

    Raises
    ------
    InputError
        A missing or corrupt file, another type or shape, NaN, words outside the format.
    """
    import numpy as np

    from fixedpoint import quantize

    try:
        with path.open("rb") as file:  # only `.npy`: nothing in it is ever executed
            array = np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise InputError(f"cannot read {option} {path}: {error.strerror or error}.") from None
    except (ValueError, EOFError, MemoryError, SyntaxError, OverflowError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{option} {path} is not a complete .npy file: {reason.rstrip('.')}. numpy.save writes "
            f"one."
        ) from None
    if not any(_fits(array.shape, shape) for shape in shapes):
        wanted = " or ".join("x".join("*" if n is None else str(n) for n in s) for s in shapes)
        seen = "x".join(map(str, array.shape)) or "scalar"
        raise InputError(f"{option} {path} has shape {seen}; accepted: {wanted}.")
    if array.size == 0:
        raise InputError(f"{option} {path} has shape {array.shape} and holds no word.")
    if array.dtype.kind in "iu":
        return fmt.words(array, name=f"{option} {path}"), None
    if array.dtype.kind == "f":
        return np.asarray(quantize(array, fmt)), array.astype(np.float64)
    raise InputError(
        f"{option} {path} holds {array.dtype}; accepted are integers, words of {fmt}, and floats, "
        f"which are quantised to it."
    )


def _fits(shape: tuple[int, ...], accepted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(accepted) and all(
        wanted is None or have == wanted for have, wanted in zip(shape, accepted, strict=True)
    )


def random_words(
    rng: np.random.Generator, shape: tuple[int, ...], fmt: QFormat, peak: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return white noise, uniform in [-peak, peak), as words and as values."""
    from fixedpoint import quantize

    values = rng.uniform(-peak, peak, shape)
    return quantize(values, fmt), values


# ---------------------------------------------------------------- out
def check_outputs(paths: Sequence[Path]) -> None:
    """Refuse a file name that says no format, before anything is computed."""
    for path in paths:
        if path.suffix not in _SUFFIXES:
            raise InputError(
                f"-o {path}: results are written as {', '.join(_SUFFIXES)}; end the name so."
            )


def write_words(
    session: Session,
    paths: Sequence[Path],
    parts: Sequence[tuple[str, np.ndarray, QFormat, str]],
) -> list[str]:
    """Write results, each file whole or not at all; returns the names of the files.

    Parameters
    ----------
    session : Session
    paths : sequence of Path
        `.npy`: the first part, stored integers as int64. `.hex` and `.mem`: every part; the
        first by the name given, the others with their own name before the suffix.
    parts : sequence of (name, raw array, format, order of the axes)
        The first is the result.
    """
    import io

    import numpy as np

    from fixedpoint.vectors import hex_lines, mem_text
    from parc_hw.cli.arrays import write_whole

    written = []

    def write(path: Path, data: bytes, raw: Any, fmt: QFormat, order: str) -> None:
        write_whole(path, data)
        written.append(str(path))
        session.note(f"{path}: {raw.size} words of {fmt}; {order}, the last axis fastest")

    for path in paths:
        if path.suffix == ".npy":
            _, raw, fmt, order = parts[0]
            buffer = io.BytesIO()
            np.save(buffer, raw, allow_pickle=False)
            write(path, buffer.getvalue(), raw, fmt, order)
            continue
        for index, (name, raw, fmt, order) in enumerate(parts):
            own = path if index == 0 else path.with_name(f"{path.stem}.{name}{path.suffix}")
            if path.suffix == ".hex":
                text = "\n".join(hex_lines(raw, fmt)) + "\n"
            else:
                text = mem_text(raw, fmt, name=name, order=order)
            write(own, text.encode(), raw, fmt, order)
    return written


# ---------------------------------------------------------------- tables
def error_table(report: ErrorReport, predicted: Prediction | None) -> Table:
    """The report's figures, each beside what theory expects."""
    rows = table("error", "measured", "predicted", fold="measured")
    for name, measured, theory in report.rows(predicted):
        rows.add_row(name, measured, theory)
    return rows


def trace_table(trace: Trace) -> Table:
    """One row per stage."""
    columns = trace.COLUMNS
    rows = table(*columns, right=columns[2:], fold=columns[0])
    for row in trace.rows():
        rows.add_row(*row)
    return rows


def plain(data: Any) -> Any:
    """The same data with None in place of infinities and NaN, which JSON does not have."""
    import math

    if isinstance(data, dict):
        return {key: plain(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [plain(value) for value in data]
    if isinstance(data, float) and not math.isfinite(data):
        return None
    return data
