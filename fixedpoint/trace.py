"""What happened at each stage of a datapath: how large were the words, which did not fit, how wrong?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike

from fixedpoint.arith import to_value
from fixedpoint.qformat import QFormat
from parc_hw.errors import InputError

__all__ = ["StageError", "StageTrace", "Trace"]

_FLOAT64_DB = 280.0  # a float64 reference has an error of its own some 300 dB below the signal


@dataclass(frozen=True, slots=True, kw_only=True)
class StageError:
    """The error of the words behind a stage against float arithmetic at the same point.

    Attributes
    ----------
    rms, bias : float
        Root of the mean squared error (bias included) and mean error, in values.
    reference_rms : float
        Root of the mean square of what the words should stand for. A complex number is two words.
    """

    rms: float
    bias: float
    reference_rms: float

    @classmethod
    def of(cls, words: ArrayLike, fmt: QFormat, reference: ArrayLike) -> Self:
        """Compare stored integers with real or complex numbers.

        Parameters
        ----------
        words : int array, shape (..., N), or (..., N, 2) for a complex reference
            Stored integers of `fmt`.
        fmt : QFormat
            Their format.
        reference : float or complex array, shape (..., N)
            What they should stand for.

        Raises
        ------
        InputError
            Shapes that do not fit together.

        Examples
        --------
        >>> StageError.of([3, 5], QFormat.parse("Q4.0"), [2.5, 5.5])
        StageError(rms=0.5, bias=0.0, reference_rms=4.272001872658765)
        """
        exact = np.ascontiguousarray(reference)
        if exact.dtype.kind == "c":
            exact = exact.astype(np.complex128).view(np.float64).reshape(*exact.shape, 2)
        value = to_value(words, fmt)
        if value.shape != exact.shape:
            raise InputError(
                f"words have shape {value.shape} and the reference's parts {exact.shape}."
            )
        error = value - exact
        return cls(
            rms=math.sqrt(float(np.mean(error**2))),
            bias=float(error.mean()),
            reference_rms=math.sqrt(float(np.mean(exact**2))),
        )

    @property
    def sqnr_db(self) -> float:
        """Mean square of the reference over that of the error; inf without any error.

        >>> StageError(rms=0.01, bias=0.0, reference_rms=1.0).sqnr_db
        40.0
        """
        if self.rms == 0.0:
            return math.inf
        if self.reference_rms == 0.0:
            return -math.inf
        return 20 * math.log10(self.reference_rms / self.rms)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTrace:
    """The words that passed one point of a datapath.

    Parameters
    ----------
    name : str
        The stage: "sum", "accumulator", "forward 2", ...
    format : QFormat
        The format behind the stage.
    words : int
        How many words passed it.
    lowest, highest : int
        The extreme words, rounded to the format's LSB but before they are fitted into it: what the
        stage asked for. Both 0 where no word passed.
    overflowed : int
        How many words did not fit.
    error : StageError or None
        Against float arithmetic at the same point; None where a stage's words are not kept, such
        as running sums.
    """

    name: str
    format: QFormat
    words: int
    lowest: int
    highest: int
    overflowed: int
    error: StageError | None = None

    @property
    def peak_raw(self) -> int:
        """The largest magnitude asked for, in LSB."""
        return max(-self.lowest, self.highest)

    @property
    def peak(self) -> float:
        """The largest magnitude asked for, as a value."""
        return math.ldexp(self.peak_raw, -self.format.frac_bits)

    @property
    def headroom_bits(self) -> float:
        """Bits from the peak to the end of the format; negative: so many are missing.

        >>> StageTrace(name="sum", format=QFormat.parse("Q1.7"), words=9, lowest=-256, highest=32,
        ...            overflowed=1).headroom_bits
        -1.0
        """
        # The end on the peak's own side: -2**(bits - 1) or 2**(bits - 1) - 1, unsigned 2**bits - 1.
        ends = ((-self.lowest, -self.format.min_raw), (self.highest, self.format.max_raw))
        room = [math.log2(end / reached) for reached, end in ends if reached > 0 and end > 0]
        if self.format.min_raw == 0 and self.lowest < 0:
            return -math.inf  # no unsigned format has a negative word
        return min(room, default=math.inf)

    def to_json(self) -> dict[str, Any]:
        """Return plain data; infinities become None."""
        error = self.error
        return {
            "name": self.name,
            "format": str(self.format),
            "words": self.words,
            "lowest": self.lowest,
            "highest": self.highest,
            "peak": self.peak,
            "headroom_bits": _finite(self.headroom_bits),
            "overflowed": self.overflowed,
            "rms_error": None if error is None else error.rms,
            "rms_error_lsb": None if error is None else error.rms / self.format.lsb,
            "bias": None if error is None else error.bias,
            "sqnr_db": None if error is None else _finite(error.sqnr_db),
        }


@dataclass(frozen=True, slots=True)
class Trace:
    """The stages of one run, in the order in which the data pass them.

    >>> q7 = QFormat.parse("Q1.7")
    >>> stage = StageTrace(name="output", format=q7, words=8, lowest=-64, highest=3, overflowed=0,
    ...                    error=StageError(rms=2**-9, bias=0.0, reference_rms=0.25))
    >>> print(Trace((stage,)))
    stage   format  peak      headroom  overflows  RMS, LSB  SQNR
    output  Q1.7    0.5       1.00 bit  0 of 8     0.25      42.14 dB
    """

    stages: tuple[StageTrace, ...]

    @property
    def overflowed(self) -> int:
        """Words that did not fit, over all stages."""
        return sum(stage.overflowed for stage in self.stages)

    def stage(self, name: str) -> StageTrace:
        """Return the stage of that name.

        Raises
        ------
        InputError
            There is none.
        """
        for stage in self.stages:
            if stage.name == name:
                return stage
        names = ", ".join(stage.name for stage in self.stages)
        raise InputError(f"the trace has no stage {name!r}; it has {names}.")

    COLUMNS = ("stage", "format", "peak", "headroom", "overflows", "RMS, LSB", "SQNR")

    def rows(self) -> list[tuple[str, ...]]:
        """Return one tuple of texts per stage, under `Trace.COLUMNS`."""
        return [_row(stage) for stage in self.stages]

    def to_json(self) -> list[dict[str, Any]]:
        """Return plain data, a dictionary per stage."""
        return [stage.to_json() for stage in self.stages]

    def __str__(self) -> str:
        rows = [self.COLUMNS, *self.rows()]
        widths = [max(len(row[k]) for row in rows) for k in range(len(self.COLUMNS))]
        return "\n".join(
            "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
            for row in rows
        )


def _row(stage: StageTrace) -> tuple[str, ...]:
    error, lsb = stage.error, stage.format.lsb
    return (
        stage.name,
        str(stage.format),
        f"{stage.peak:.5g}",
        f"{stage.headroom_bits:.2f} bit",
        f"{stage.overflowed} of {stage.words}",
        "" if error is None else f"{error.rms / lsb:.4g}",
        "" if error is None else _decibel(error.sqnr_db),
    )


def _decibel(sqnr_db: float) -> str:
    """The ratio as text; what float64 references cannot tell from exact words is called exact."""
    return "exact" if sqnr_db > _FLOAT64_DB else f"{sqnr_db:.2f} dB"


def _finite(number: float) -> float | None:
    """JSON has no infinity."""
    return number if math.isfinite(number) else None
