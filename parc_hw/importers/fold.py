"""Which values of an exported graph are known before any input arrives?

Kernels that are resized from stored ones, reshaped position embeddings and the like depend on
parameters alone. torch computes them here, with torch's own interpolation, so that lowering
sees plain constants.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind

__all__ = ["fold_parameters", "stored_values"]


def stored_values(exported: ExportedProgram) -> dict[str, Any]:
    """The parameter, buffer or constant behind each placeholder, by the placeholder's name."""
    values: dict[str, Any] = {}
    for spec in exported.graph_signature.input_specs:
        if spec.kind is InputKind.USER_INPUT:
            continue
        target = spec.target
        source = exported.state_dict if target in exported.state_dict else exported.constants
        if target in source:
            values[spec.arg.name] = source[target]
    return values


@torch.no_grad()
def fold_parameters(exported: ExportedProgram) -> dict[fx.Node, Any]:
    """Compute every node that depends on no input.

    Parameters
    ----------
    exported : ExportedProgram
        Functional (no operator changes its argument). It is not changed.

    Returns
    -------
    dict
        The value of each such node: a tensor, a number, or a tuple of those. Nodes that draw
        random numbers are left out, with everything that depends on them.
    """
    stored = stored_values(exported)
    known: dict[fx.Node, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder" and node.name in stored:
            known[node] = stored[node.name]
        elif (
            node.op == "call_function"
            and _is_pure(node.target)
            and all(argument in known for argument in node.all_input_nodes)
        ):
            args = fx.map_arg(node.args, lambda argument: known[argument])
            kwargs = fx.map_arg(node.kwargs, lambda argument: known[argument])
            known[node] = node.target(*args, **kwargs)
    return known


def _is_pure(target: Any) -> bool:
    if target is operator.getitem:
        return True
    if not isinstance(target, torch._ops.OpOverload):  # control flow, symbolic arithmetic
        return False
    return torch.Tag.nondeterministic_seeded not in target.tags
