"""Does a bundle compute what its source model computed, and if not, where does it first differ?"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.artifact.vectors import TOLERANCE, Vectors, sample, scale

if TYPE_CHECKING:
    from parc_hw.artifact.bundle import Bundle, Shape

__all__ = ["VerifyReport", "VerifyRow", "compare", "verify_bundle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyRow:
    """One output of one vector against the source model."""

    vector: int
    input: str  # shape of the vector's input, e.g. "1x3x224x224"
    output: str
    max_abs: float  # largest |difference|; infinity when a value is not finite
    std: float  # standard deviation of the source's output (see `vectors.scale`)

    @property
    def ratio(self) -> float:
        """The error in standard deviations; at most `TOLERANCE` passes."""
        return self.max_abs / self.std


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyReport:
    """The outcome for all vectors of a bundle.

    `first_diverging` names the first layer whose stored samples differ by more than the
    tolerance; None when all outputs pass, or when no stored layer differs.
    """

    rows: tuple[VerifyRow, ...]
    first_diverging: str | None = None
    tolerance: float = TOLERANCE

    @property
    def worst(self) -> float:
        """Largest error, in standard deviations of its output."""
        return max(row.ratio for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every output of every vector is within the tolerance."""
        return self.worst <= self.tolerance

    @property
    def summary(self) -> str:
        """One line for people."""
        return str(self)

    def to_json(self) -> dict[str, Any]:
        """A dictionary of JSON types; an error that is not finite is None."""

        def finite(value: float) -> float | None:
            return value if math.isfinite(value) else None

        return {
            "passed": self.passed,
            "tolerance": self.tolerance,
            "worst": finite(self.worst),
            "first_diverging": self.first_diverging,
            "rows": [
                {**asdict(row), "max_abs": finite(row.max_abs), "ratio": finite(row.ratio)}
                for row in self.rows
            ],
        }

    def __str__(self) -> str:
        vectors = len({row.vector for row in self.rows})
        text = (
            f"worst error {self.worst:.2g} of the output's standard deviation over {vectors} "
            f"{'vector' if vectors == 1 else 'vectors'}, accepted {self.tolerance:g}"
        )
        if self.first_diverging:
            text += f"; the first layer that differs is {self.first_diverging}"
        return text


def compare(got: np.ndarray[Any, Any], reference: np.ndarray[Any, Any]) -> float:
    """Largest absolute difference, in float64; infinity where `got` is not finite."""
    difference = np.abs(got.astype(np.float64) - reference.astype(np.float64))
    worst = float(np.max(difference, initial=0.0))
    return worst if math.isfinite(worst) else math.inf


def _first_diverging(
    bundle: Bundle, shape: Shape, vectors: Vectors, threads: int | None
) -> str | None:
    """Name of the first layer whose samples differ from the source's for a shape's first vector."""
    for index, value in bundle.run_layers(*vectors.inputs[0], threads=threads):
        reference = vectors.layers.get(index)
        if reference is None:
            continue
        if compare(sample(value), reference) > TOLERANCE * scale(reference):
            layer = shape.layers[index]
            where = f"layer {index}, {layer['ops']}, rule {layer['rule']}"
            if len(bundle.shapes) > 1:
                where += f", input {shape.text}"
            return f"{layer['name']} ({where})"
    return None


def verify_bundle(
    bundle: Bundle,
    *,
    threads: int | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> VerifyReport:
    """Run a bundle's stored vectors, for all its shapes, and compare with the source's outputs.

    An output passes when `max |y - y_source| <= 1e-3 * std(y_source)`. When one does not, the
    first vector of its shape runs again layer by layer and the first layer that differs is named.

    Parameters
    ----------
    bundle : Bundle
        An open bundle; one for a foreign device runs under the emulator.
    threads : int, optional
        As in `Bundle.run`.
    progress : callable, optional
        Called with ("verify", vectors done, vectors, "").

    Raises
    ------
    ToolchainError
        The emulator or the compiler for it is missing.
    """
    vectors = bundle.vectors()
    total = sum(len(each.inputs) for each in vectors)
    rows: list[VerifyRow] = []
    missed: tuple[Shape, Vectors] | None = None
    number = 0
    for shape, each in zip(bundle.shapes, vectors, strict=True):
        for inputs, outputs in zip(each.inputs, each.outputs, strict=True):
            if progress:
                progress("verify", number, total, "")
            results = bundle.run_all(*inputs, threads=threads)
            for port, result, expected in zip(shape.outputs, results, outputs, strict=True):
                row = VerifyRow(
                    vector=number,
                    input=shape.text,
                    output=port.name,
                    max_abs=compare(result, expected),
                    std=scale(expected),
                )
                rows.append(row)
                if missed is None and row.ratio > TOLERANCE:
                    missed = shape, each
            number += 1
    report = VerifyReport(rows=tuple(rows))
    if progress:
        progress("verify", total, total, report.summary)
    if missed is None:
        return report
    return VerifyReport(
        rows=report.rows, first_diverging=_first_diverging(bundle, *missed, threads)
    )
