"""What does an importer hand over: the Relax function, the way back to the source, the source's values?"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tvm
from tvm import relax

from parc_hw.errors import InputError
from parc_hw.lower.program import Tensor

__all__ = ["Imported", "Source", "checked_shape", "first_line", "reference_values"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a Relax variable comes from.

    `node` names the value of the source graph (a torch.fx node, an ONNX tensor) that the
    variable equals, "" when the variable is a step within a node; `module_path` is the dotted
    path of the nn.Module or of the ONNX node, "" at the top.
    """

    node: str
    module_path: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """A model as lowering takes it.

    Attributes
    ----------
    module : tvm.IRModule
        One Relax function `main`: static shapes, float32, NCHW, weights as constants, ParC as
        `relax.parc`.
    sources : dict of relax.Var to Source
        For every variable that `main` binds.
    inputs, outputs : tuple of Tensor
        Names and shapes at the user's boundary.
    near_misses : tuple of (module_path, reason)
        Places that look like a ParC and are none, and why; they are ordinary operators.
    exported : torch.export.ExportedProgram or parc_hw.importers.onnx_file.OnnxModel
        The graph that `Source.node` speaks of.
    """

    module: tvm.IRModule
    sources: dict[relax.Var, Source] = field(repr=False)
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    near_misses: tuple[tuple[str, str], ...] = ()
    exported: Any = field(repr=False)


def reference_values(
    imported: Imported, inputs: Sequence[np.ndarray], nodes: Collection[str] = ()
) -> tuple[list[np.ndarray], dict[str, np.ndarray]]:
    """Run the source model and record values on the way: torch, or ONNX's reference evaluator.

    Parameters
    ----------
    imported : Imported
    inputs : sequence of float32 array
        One per input of the model, of its shape.
    nodes : collection of str
        Names as in `Source.node`; a node whose value is no tensor is left out.

    Returns
    -------
    outputs : list of float32 array
    values : dict of str to float32 array
        In the source model's axis order (NCHW).

    Raises
    ------
    InputError
        Inputs of other number or shape.
    """
    wanted = [tensor.shape for tensor in imported.inputs]
    seen = [tuple(np.shape(array)) for array in inputs]
    if seen != wanted:
        raise InputError(f"the model was imported for inputs of shapes {wanted}, not {seen}.")
    arrays = [np.array(array, np.float32) for array in inputs]
    if hasattr(imported.exported, "evaluate"):  # an ONNX file: it needs no torch
        outputs, values = imported.exported.evaluate(arrays, frozenset(nodes))
    else:
        from parc_hw.importers.torch_export import run_program

        outputs, values = run_program(imported.exported, arrays, frozenset(nodes))
    return outputs, values


def checked_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """`shape` as a tuple, or InputError when an extent is no whole number of at least 1."""
    extents = tuple(shape)
    if not extents or any(
        not isinstance(extent, int) or isinstance(extent, bool) or extent < 1 for extent in extents
    ):
        raise InputError(
            f"input shape {extents} is not acceptable: every extent must be a whole number of at "
            "least 1. Shapes are fixed when a model is compiled; compile once for each."
        )
    return extents


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its type's name."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
