"""How large is a model: how many parameters, how many multiply-accumulates?"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from parc_hw.errors import InputError
from parc_hw.nn import ParC

__all__ = ["count_macs", "count_parameters"]


def count_parameters(model: nn.Module) -> int:
    """Count the elements of all parameters, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def count_macs(model: nn.Module, shape: Sequence[int]) -> int:
    """Count the multiply-accumulates of one forward pass.

    Convolutions and matrix products count; norms, biases, activations, interpolation and the
    products of element-wise gates do not (as the papers count). A ParC counts as its direct
    form, whatever form computes it. Nothing is computed: the pass runs on shapes alone.

    Parameters
    ----------
    model : torch.nn.Module
    shape : sequence of int
        Shape of the one input.

    Returns
    -------
    int

    Raises
    ------
    InputError
        The model cannot take this shape.
    """
    ghost = copy.deepcopy(model).to("meta").eval()
    counter = _Counter()
    for module in ghost.modules():
        if isinstance(module, ParC):
            module.register_forward_pre_hook(counter.enter_parc)
            module.register_forward_hook(counter.leave_parc)
    x = torch.empty(tuple(shape), device="meta")
    try:
        with torch.no_grad(), counter:
            ghost(x)
    except RuntimeError as error:
        raise InputError(
            f"the model cannot take an input of shape {tuple(shape)}: {error}"
        ) from error
    return counter.macs


class _Counter(TorchDispatchMode):
    """Adds up the multiply-accumulates of the operators that pass by."""

    def __init__(self) -> None:
        super().__init__()
        self.macs = 0
        self.inside_parc = 0

    def enter_parc(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self.inside_parc += 1

    def leave_parc(self, module: ParC, inputs: tuple[Tensor], output: Tensor) -> None:
        self.inside_parc -= 1
        length = output.shape[module.axis.dim]
        self.macs += output.numel() * length * (module.channels if module.out_channels else 1)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        if not self.inside_parc:
            self.macs += _macs(func.overloadpacket, args, output)
        return output


def _macs(operator: Any, args: Any, output: Any) -> int:
    aten = torch.ops.aten
    if operator in (aten.mm, aten.bmm):
        return output.numel() * args[0].shape[-1]
    if operator in (aten.addmm, aten.baddbmm):
        return output.numel() * args[1].shape[-1]
    if operator is aten.convolution:
        transposed = args[6]
        spread = args[0] if transposed else output  # each element meets one whole kernel
        return spread.numel() * math.prod(args[1].shape[1:])
    return 0
