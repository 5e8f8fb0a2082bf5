"""What is an operator to the accelerator: which stages over which loops, reading and writing what?

A `Kernel` is data: tensors, and stages from the operands to the result. A stage is one instruction
of the machine over a box of loops; its accesses are affine in the loops, so that the box of a tile
gives the instruction's extents and strides. `schedules.accel.tiling` makes TIR of it, tiles it and
puts the instructions in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Access", "Index", "Kernel", "Stage", "Tensor", "at"]

WORD_BYTES = {"int8": 1, "int16": 2, "int32": 4, "int64": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Index:
    """One index of an access: offset + sum of factor * loop, modulo `ring` where that is not 0.

    `whole`: the stage needs the whole extent for any of its results, and the loops only say where
    in it.
    """

    offset: int = 0
    factors: tuple[tuple[str, int], ...] = ()
    ring: int = 0
    whole: int = 0


def at(*loops: str, offset: int = 0, ring: int = 0, whole: int = 0, **factors: int) -> Index:
    """An index: the sum of loops, or of loops with factors.

    >>> at("h", offset=1).factors, at(h=2, u=1).factors
    ((('h', 1),), (('h', 2), ('u', 1)))
    """
    terms = (*((name, 1) for name in loops), *factors.items())
    return Index(offset=offset, factors=terms, ring=ring, whole=whole)


@dataclass(frozen=True, slots=True)
class Access:
    """One place of a tensor for every point of the loops."""

    tensor: str
    index: tuple[Index, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An array: in external memory, in the read-only memory ("rom"), or on the way.

    Attributes
    ----------
    shape : tuple of int
    dtype : str
    memory : {"external", "rom", "scratchpad", "accumulators"}
    """

    shape: tuple[int, ...]
    dtype: str
    memory: str = "external"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One instruction over loops.

    Attributes
    ----------
    name : str
    loops : mapping of str to int
        Extents.
    dims : tuple of (str or None)
        Which loop each of the instruction's seven dimensions is; four outputs, three reductions.
        Behind them may stand loops that are too many: the instruction is repeated over these.
    out : Access
    reads : tuple of Access
        In the order of the instruction's operands.
    fields : mapping
        What the instruction needs besides: see `parc_hw.accel.codegen`.
    accumulates : {"", "sum", "max", "call"}
        Its results are sums of products, the largest, or the instruction's own kind of sum, over
        the loops of `dims[4:7]`.
    """

    name: str
    loops: Mapping[str, int]
    dims: tuple[str | None, ...]
    out: Access
    reads: tuple[Access, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)
    accumulates: str = ""

    @property
    def reductions(self) -> tuple[str, ...]:
        """The loops that are summed over."""
        return tuple(name for name in self.dims[4:7] if name is not None)

    @property
    def repeated(self) -> tuple[str, ...]:
        """The loops that several instructions make up."""
        return tuple(name for name in self.dims[7:] if name is not None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kernel:
    """An operator.

    Attributes
    ----------
    name : str
    tensors : mapping
        Every tensor by name.
    stages : tuple of Stage
        The last one writes the result.
    tiled : tuple of str
        Loops of the last stage that may be cut into tiles.
    split : tuple of str
        Reductions of the first stage that may be cut.
    """

    name: str
    tensors: Mapping[str, Tensor]
    stages: tuple[Stage, ...]
    tiled: tuple[str, ...]
    split: tuple[str, ...] = ()

    @property
    def result(self) -> str:
        """The tensor that the last stage writes."""
        return self.stages[-1].out.tensor

    @property
    def parameters(self) -> tuple[str, ...]:
        """Tensors in external or read-only memory, in order."""
        return tuple(n for n, t in self.tensors.items() if t.memory in ("external", "rom"))
