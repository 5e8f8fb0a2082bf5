"""Which parts of an exported torch graph are a ParC in the frequency domain?

From a Fourier transform of the input everything is followed until values are real again. When
all operators between are linear and every other operand depends on parameters alone, the part
is a linear map, and `probe` says whether it is a ParC. No complex number reaches Relax.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx
from torch.export import ExportedProgram

from parc_hw.importers.probe import NoParC, ParcKernel, probe

__all__ = ["SpectralSite", "find_sites", "is_transform"]


@dataclass(frozen=True, slots=True)
class SpectralSite:
    """A real value that is computed by way of complex ones.

    `source` is the only tensor it depends on, None when there is no such one.
    """

    source: fx.Node | None
    answer: ParcKernel | NoParC


# Linear in one tensor, whatever the other arguments are.
_LINEAR = frozenset(
    [
        "_conj",
        "alias",
        "cat",
        "clone",
        "conj",
        "contiguous",
        "expand",
        "imag",
        "mean",
        "movedim",
        "moveaxis",
        "neg",
        "permute",
        "real",
        "reshape",
        "select",
        "slice",
        "squeeze",
        "stack",
        "sum",
        "t",
        "transpose",
        "unsqueeze",
        "view",
        "view_as_complex",
        "view_as_real",
        "_to_copy",
        "to",
    ]
)
# Linear when all operands but one are constants.
_PRODUCTS = frozenset(["bmm", "einsum", "matmul", "mul"])


def is_transform(node: fx.Node) -> bool:
    """Whether a node is a Fourier transform of any kind."""
    return _name(node).startswith(("fft_", "_fft_"))


def find_sites(
    exported: ExportedProgram, known: Mapping[fx.Node, Any]
) -> tuple[dict[fx.Node, SpectralSite], set[fx.Node]]:
    """Find all real values that come out of Fourier transforms of the input.

    Parameters
    ----------
    exported : ExportedProgram
        Functional.
    known : mapping
        Values of nodes that depend on parameters alone (`fold_parameters`).

    Returns
    -------
    sites : dict
        By the first real node after the complex ones.
    spectral : set
        All nodes between.
    """
    spectral: set[fx.Node] = set()
    sites: dict[fx.Node, SpectralSite] = {}
    for node in exported.graph.nodes:
        if node.op != "call_function" or node in known:
            continue
        after = any(operand in spectral for operand in node.all_input_nodes)
        if not after and not is_transform(node):
            continue
        value = node.meta.get("val")
        tensor = value if isinstance(value, torch.Tensor) else None
        if tensor is not None and (tensor.is_complex() or _name(node) == "view_as_real"):
            spectral.add(node)
        else:
            sites[node] = _site(node, spectral, known)
    return sites, spectral


def _name(node: fx.Node) -> str:
    target = node.target
    return target._opname if isinstance(target, torch._ops.OpOverload) else ""


def _site(node: fx.Node, spectral: set[fx.Node], known: Mapping[fx.Node, Any]) -> SpectralSite:
    """What the part that ends at `node` computes."""
    part: list[fx.Node] = []
    sources: set[fx.Node] = set()
    stack, seen = [node], {node}
    while stack:
        current = stack.pop()
        part.append(current)
        for operand in current.all_input_nodes:
            if operand in seen or operand in known:
                continue
            seen.add(operand)
            if operand in spectral:
                stack.append(operand)
            else:
                sources.add(operand)
    source = next(iter(sources)) if len(sources) == 1 else None
    if source is None:
        return SpectralSite(None, NoParC(f"{len(sources)} tensors meet in its frequency domain"))
    for current in part:
        moving = [o for o in current.all_input_nodes if o not in known]
        name = _name(current)
        linear = (
            name in _LINEAR
            or is_transform(current)
            or (name in _PRODUCTS and _reads(current, moving[0]) == len(moving) == 1)
            or (name == "div" and current.args[0] is moving[0] and len(moving) == 1)
            or (name in ("add", "sub") and all(a in moving for a in current.args[:2]))
        )
        if not linear:
            return SpectralSite(source, NoParC(f"{current.target} is not linear in one tensor"))
        if name in ("cat", "stack") and len(moving) < len(current.all_input_nodes):
            return SpectralSite(source, NoParC(f"{current.target} of a constant"))
    order = [n for n in node.graph.nodes if n in set(part)]
    constants = {
        operand: _double(known[operand])
        for current in order
        for operand in current.all_input_nodes
        if operand in known
    }
    value = source.meta["val"]
    if value.dtype is not torch.float32:
        return SpectralSite(source, NoParC(f"its input is {value.dtype}"))

    @torch.no_grad()
    def apply(x: np.ndarray) -> np.ndarray:
        values = {**constants, source: torch.from_numpy(np.ascontiguousarray(x))}
        for current in order:
            args = fx.map_arg(current.args, lambda operand: values[operand])
            kwargs = fx.map_arg(current.kwargs, lambda operand: values[operand])
            values[current] = current.target(*args, **kwargs)
        return values[node].resolve_conj().resolve_neg().numpy()

    try:
        return SpectralSite(source, probe(apply, tuple(value.shape)))
    except RuntimeError as error:  # an operator that does not take float64
        return SpectralSite(source, NoParC(f"it cannot be evaluated: {str(error).splitlines()[0]}"))


def _reads(node: fx.Node, operand: fx.Node) -> int:
    """How often a node reads an operand."""
    count = 0

    def visit(argument: fx.Node) -> fx.Node:
        nonlocal count
        count += argument is operand
        return argument

    fx.map_arg((node.args, node.kwargs), visit)
    return count


def _double(value: Any) -> Any:
    """Float tensors as float64, complex ones as complex128."""
    if isinstance(value, tuple | list):
        return type(value)(_double(item) for item in value)
    if not isinstance(value, torch.Tensor):
        return value
    if value.is_complex():
        return value.to(torch.complex128)
    return value.double() if value.is_floating_point() else value
