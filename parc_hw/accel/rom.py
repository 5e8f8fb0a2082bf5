"""What do tables look like in ROM: stages, integer graphs, products, norms, activations?

All are little endian and begin at multiples of 8 bytes.

    stage     95 int64: 1, N, 8 options, 8 constants, 7 x 11 numbers of points; then N kinds of one
              byte, zeros to a multiple of 8, and N factors of two int32, all as
              `fixedpoint.mixed_radix.Program` has them
    graph     8 int64: 2, inputs, rows, outputs, guard, shift, rounding, 0; then rows of four int64
              (operation, two positions, constant), and the outputs' positions
    product   22 int64: 3, whether three multiplications, 4 x 5 numbers of points
    norm      records of 16 bytes: bias (int64), weight (int32), shift (int32)
    words     int32: an activation's T, or exp(-a) of softmax
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint import _points as columns
from parc_hw.errors import InputError
from parc_hw.plan import FFT_RADICES

if TYPE_CHECKING:
    from fixedpoint.mixed_radix import Program as Transform
    from fixedpoint.paths import FourierDatapath, SplitDatapath
    from parc_hw.dataflow import Dag

__all__ = [
    "NORM_BYTES",
    "GraphTable",
    "ProductTable",
    "StageTable",
    "activation_words",
    "graph_table",
    "norm_records",
    "product_table",
    "read_graph",
    "read_product",
    "read_stage",
    "softmax_words",
    "stage_table",
]

NORM_BYTES: Final = 16
_CONSTANTS: Final = 8
_OPTIONS, _POINTS, _COLUMNS = columns.OPTIONS, columns.POINTS, columns.COLUMNS
_STAGE_WORDS: Final = 2 + _OPTIONS + _CONSTANTS + _POINTS * _COLUMNS
_MOST: Final = 1 << 20  # places of a transform, nodes of a graph

Words = NDArray[np.int64]


# ---------------------------------------------------------------- made for a program
def stage_table(transform: Transform, stage: int) -> bytes:
    """The table of one stage of a lowered transform (`fixedpoint.mixed_radix.lower`).

    Raises
    ------
    InputError
        Block floating point, whose shifts depend on the frame.
    """
    if transform.datapath.block is not None:
        raise InputError(
            "the accelerator has no block floating point: its shifts would depend on the words. "
            "Take a scaling schedule."
        )
    length = transform.length
    head = np.concatenate(
        [
            [1, length],
            transform.options[stage],
            transform.constants[stage],
            transform.points[stage].reshape(-1),
        ]
    ).astype("<i8")
    kinds = np.zeros(_padded(length), np.int8)
    kinds[:length] = transform.kind[stage]
    return head.tobytes() + kinds.tobytes() + transform.factor[stage].astype("<i4").tobytes()


def graph_table(graph: Dag, datapath: SplitDatapath, guard: int | None = None) -> bytes:
    """The table of an integer graph of the two-level plan (`fixedpoint.split.integer_graph`)."""
    from fixedpoint.modes import rounding_code
    from fixedpoint.split import _program

    program = _program(graph)
    head = [
        2,
        graph.inputs,
        len(program.rows),
        len(program.outputs),
        datapath.guard if guard is None else guard,
        datapath.coefficient.frac_bits,
        rounding_code(datapath.rounding),
        0,
    ]
    parts = np.concatenate([head, program.rows.reshape(-1), program.outputs])
    return parts.astype("<i8").tobytes()


def product_table(datapath: FourierDatapath, channels: int = 1) -> bytes:
    """The points of a product with the spectrum, summed over `channels`."""
    from fixedpoint.spectral import _product_table

    points = _product_table(datapath, channels).reshape(-1)
    three = datapath.product.multiplications == 3
    return np.concatenate([[3, int(three)], points]).astype("<i8").tobytes()


def norm_records(weight: ArrayLike, bias: ArrayLike, shift: ArrayLike) -> bytes:
    """Records of a LayerNorm: weight words, bias with 16 fraction bits more, bits to drop; (C,)."""
    record = np.dtype([("bias", "<i8"), ("weight", "<i4"), ("shift", "<i4")])
    w, b, s = np.broadcast_arrays(weight, bias, shift)
    records = np.empty(w.shape, record)
    records["bias"], records["weight"], records["shift"] = b, w, s
    return records.tobytes()


def activation_words(name: str) -> bytes:
    """T of an activation of the integer rule, as int32."""
    from fixedpoint.integer.tables import table

    return table(name).astype("<i4").tobytes()


def softmax_words() -> bytes:
    """The words of exp(-a), as int32."""
    from fixedpoint.integer.tables import exponential

    return exponential().astype("<i4").tobytes()


# ---------------------------------------------------------------- read from a program
@dataclass(frozen=True, eq=False)
class StageTable:
    """One stage; arrays as `fixedpoint.stage_kernels` takes them, with a leading axis of 1."""

    length: int
    options: Words
    constants: Words
    points: Words
    kind: NDArray[np.int8]
    factor: Words

    @property
    def radix(self) -> int:
        """Of its butterflies."""
        return int(self.options[0, columns.RADIX])

    @property
    def is_plain(self) -> bool:
        """Whether the kernel that keeps words in registers has all its points."""
        points = self.points[0]
        seldom = points[[columns.INPUT, columns.EACH, columns.OUTPUT], columns.ACTIVE]
        return not (seldom.any() or points[:, [columns.FROM, columns.LEFT, columns.THEN]].any())

    @cached_property
    def chosen(self) -> NDArray[np.bool_]:
        """Which places pass which point, shape (1, points, N)."""
        options, kind = self.options[0], self.kind[0]
        multiplied = kind == columns.MULTIPLY
        chosen = np.ones((_POINTS, self.length), np.bool_)
        chosen[[columns.EACH, columns.PRODUCT]] = multiplied
        place = np.arange(self.length) // options[columns.LEGS]
        chosen[columns.CONSTANTS] = place % self.radix > 0
        if options[columns.DIF] and not options[columns.SUM_FIRST]:
            chosen[columns.SUM] = ~multiplied
        chosen[columns.TURNED] = (kind > 0) & ~multiplied
        return chosen[None]


@dataclass(frozen=True, eq=False)
class GraphTable:
    """An integer graph."""

    inputs: int
    rows: Words
    outputs: Words
    guard: int
    shift: int
    rounding: int


@dataclass(frozen=True, eq=False)
class ProductTable:
    """The points of a complex product."""

    three: bool
    points: Words


def read_stage(rom: bytes, base: int) -> StageTable:
    """The stage whose table begins at `base`.

    Raises
    ------
    InputError
        There is no whole table of a stage there.
    """
    head = _head(rom, base, _STAGE_WORDS, 1, "a stage")
    length = int(head[1])
    if not 1 <= length <= _MOST:
        raise InputError(f"the stage at {base} in ROM has {length} places.")
    at = base + 8 * _STAGE_WORDS
    kinds = np.frombuffer(_take(rom, at, _padded(length), "a stage's kinds"), np.int8)[:length]
    factors = np.frombuffer(
        _take(rom, at + _padded(length), 8 * length, "a stage's factors"), "<i4"
    )
    options = head[2 : 2 + _OPTIONS]
    points = head[_STAGE_WORDS - _POINTS * _COLUMNS :].reshape(_POINTS, _COLUMNS)
    radix, legs = int(options[columns.RADIX]), int(options[columns.LEGS])
    if radix not in FFT_RADICES or not 1 <= legs <= length or length % (radix * legs):
        raise InputError(
            f"the stage at {base} in ROM has radix {radix} and {legs} legs, for {length} places."
        )
    flags = options[[columns.DIF, columns.SUM_FIRST, columns.TURN_FIRST, columns.INVERSE]]
    widths = points[:, [columns.FROM, columns.LEFT, columns.FIT, columns.THEN]]
    drops = points[:, columns.DROP]
    if (
        not np.isin(flags, (0, 1)).all()
        or not 0 <= options[columns.ALIGN] <= 62
        or not ((widths >= 0) & (widths <= 63)).all()
        or not ((drops >= 0) & (drops <= 62)).all()
        or not ((kinds >= 0) & (kinds <= columns.MULTIPLY)).all()
    ):
        raise InputError(f"the stage at {base} in ROM has shifts or kinds that no stage has.")
    return StageTable(
        length=length,
        options=options[None].copy(),
        constants=head[2 + _OPTIONS : 2 + _OPTIONS + _CONSTANTS][None].copy(),
        points=points[None].copy(),
        kind=kinds[None].copy(),
        factor=factors.astype(np.int64).reshape(1, length, 2),
    )


def read_graph(rom: bytes, base: int) -> GraphTable:
    """The graph whose table begins at `base`; raises InputError where none is."""
    head = _head(rom, base, 8, 2, "a graph")
    inputs, count, outputs, guard, shift, rounding = (int(number) for number in head[1:7])
    if not (0 < inputs <= _MOST and 0 <= count <= _MOST and 0 < outputs <= _MOST):
        raise InputError(f"the graph at {base} in ROM has {inputs} inputs and {count} rows.")
    data = np.frombuffer(_take(rom, base + 64, 8 * (4 * count + outputs), "a graph"), "<i8")
    rows = data[: 4 * count].astype(np.int64).reshape(count, 4)
    places = data[4 * count :].astype(np.int64)
    known = inputs + np.arange(count)
    if (
        not np.isin(rows[:, 0], (0, 1, 2)).all()
        or not ((rows[:, 1:3] >= 0) & (rows[:, 1:3] < known[:, None])).all()
        or not ((places >= 0) & (places < inputs + count)).all()
        or not (0 <= guard <= 62 and 0 <= shift <= 62 and 0 <= rounding <= 4)
    ):
        raise InputError(f"the graph at {base} in ROM reads what it has not computed.")
    return GraphTable(inputs, rows, places, guard, shift, rounding)


def read_product(rom: bytes, base: int) -> ProductTable:
    """The product whose table begins at `base`; raises InputError where none is."""
    head = _head(rom, base, 22, 3, "a product")
    points = head[2:].reshape(4, 5)
    if (
        head[1] not in (0, 1)
        or (np.abs(points[:3, 0]) > 62).any()
        or not ((points[:3, 1] >= 0) & (points[:3, 1] <= 4)).all()
        or not ((points[:3, 4] >= 0) & (points[:3, 4] <= 2)).all()
        or (points[:3, 2] > points[:3, 3]).any()
        or not ((points[3, :2] >= 0) & (points[3, :2] <= 62)).all()
    ):
        raise InputError(f"the product at {base} in ROM has points that no product has.")
    return ProductTable(bool(head[1]), points.copy())


def _padded(count: int) -> int:
    return -(-count // 8) * 8


def _head(rom: bytes, base: int, count: int, kind: int, what: str) -> Words:
    if base % 8:
        raise InputError(f"the table of {what} at {base} in ROM: tables begin at multiples of 8.")
    head = np.frombuffer(_take(rom, base, 8 * count, f"the table of {what}"), "<i8")
    if head[0] != kind:
        raise InputError(
            f"at {base} in ROM is no table of {what}: it begins with {int(head[0])}, not {kind}."
        )
    return head.astype(np.int64)


def _take(rom: bytes, base: int, count: int, what: str) -> bytes:
    if base < 0 or base + count > len(rom):
        raise InputError(
            f"{what} needs {count} bytes at {base} in ROM, which has {len(rom)} bytes."
        )
    return rom[base : base + count]
