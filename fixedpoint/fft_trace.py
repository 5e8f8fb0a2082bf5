"""What does a trace of a transform say about each stage?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fixedpoint.mixed_radix import POINT_NAMES, Program, Result
from fixedpoint.trace import StageError, StageTrace, Trace
from parc_hw.plan import Decimation

__all__ = ["FftTrace", "asked", "float_stages", "trace_of"]


@dataclass(frozen=True, slots=True)
class FftTrace(Trace):
    """The stages of a transform, and on request the words behind each of them.

    Attributes
    ----------
    words : tuple of int64 arrays, shape (..., N, 2), or None
        Behind stage 0, 1, ..., in place order: natural in front of a DIF transform and behind a
        DIT one, digit-reversed (`FftPlan.digit_reversal`) at the other end.
    shifts : int64 array, shape (..., stages), or None
        Block floating point: by how many bits every frame was divided before each stage.
    """

    words: tuple[NDArray[np.int64], ...] | None = None
    shifts: NDArray[np.int64] | None = None


def float_stages(program: Program, words: NDArray[np.int64]) -> tuple[NDArray[np.complex128], ...]:
    """Return what the words behind every stage should stand for: float64, exact factors, no shift.

    Parameters
    ----------
    program : Program
    words : int64 array, shape (lines, N, 2)
        In the plan's input order, taken as integers.

    Returns
    -------
    tuple of complex128 arrays, shape (lines, N)
        In place order.
    """
    lines, length = words.shape[:2]
    sign = 1 if program.inverse else -1
    held = (words[..., 0] + 1j * words[..., 1])[:, program.source]
    behind = []
    for stage, radix in enumerate(program.plan.radices):
        legs = int(program.options[stage, 1])
        factor = np.exp(sign * 2j * np.pi / length * program.turns[stage])
        k = np.arange(radix)
        matrix = np.exp(sign * 2j * np.pi / radix * (k[:, None] * k % radix))
        if program.plan.decimation is Decimation.DIT:
            held = held * factor
        blocks = held.reshape(lines, -1, radix, legs)
        held = np.einsum("ki,lgiu->lgku", matrix, blocks).reshape(lines, length)
        if program.plan.decimation is Decimation.DIF:
            held = held * factor
        behind.append(held)
    return tuple(behind)


def trace_of(
    program: Program,
    lines: NDArray[np.int64],
    result: Result,
    leading: tuple[int, ...],
    *,
    keep: bool,
) -> FftTrace:
    """Return the trace of a captured run.

    Parameters
    ----------
    program : Program
    lines : int64 array, shape (lines, N, 2)
        What was transformed.
    result : Result
        Of `run(program, lines, capture=True)`.
    leading : tuple of int
        The axes in place of `lines`.
    keep : bool
        Keep the words behind every stage.
    """
    datapath = program.datapath
    formats = datapath.formats
    unit = 2.0**-datapath.input.frac_bits
    stages = []
    taken = np.cumsum(result.shifts, axis=1) - result.ups[:, None]
    for s, reference in enumerate(float_stages(program, lines)):
        fmt, captured = formats[s + 1], result.captured[s]
        # a frame's own exponent is taken off the reference, so that one format fits all frames
        exact = reference * (unit * 2.0 ** -taken[:, s, None])
        lowest, highest = asked(program, result, s)
        stages.append(
            StageTrace(
                name=f"stage {s} (radix {program.plan.radices[s]})",
                format=fmt,
                words=captured.size,
                lowest=lowest,
                highest=highest,
                overflowed=int(result.overflowed[s]),
                error=StageError.of(captured, fmt, exact),
            )
        )
    shape = (*leading, program.length, 2)
    return FftTrace(
        tuple(stages),
        words=tuple(c.reshape(shape) for c in result.captured) if keep else None,
        shifts=None if datapath.block is None else result.shifts.reshape(*leading, -1),
    )


def asked(program: Program, result: Result, stage: int) -> tuple[int, int]:
    """The extreme words that the stage wanted to hand on."""
    points = program.datapath.stages[stage]
    if points.output is not None:
        last = ["output"]
    elif program.plan.decimation is Decimation.DIT:
        last = ["sum"]
    else:
        last = ["sum", "turned", "product"]
    rows = [result.tallies[stage, POINT_NAMES.index(name)] for name in last]
    return int(min(row[2] for row in rows)), int(max(row[3] for row in rows))
