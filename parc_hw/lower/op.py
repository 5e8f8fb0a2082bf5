"""What is a ParC in a Relax program: one operator, its type rule and its plain lowering.

The operator `relax.parc` is registered from Python when this module is imported, once per
process. Rules of `schedules` take it whole; its FLegalize is the direct form, the fallback
and the oracle inside TVM.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tvm_ffi
from tvm import ir, relax, te

from parc_hw.lower import _tvm

__all__ = ["LAYOUTS", "PARC", "parc_call"]

PARC = "relax.parc"
LAYOUTS = ("NCHW", "NHWC")


def parc_call(x: Any, weight: Any, pe: Any, bias: Any, *, axis: str, layout: str) -> relax.Call:
    """Build `y[i] = bias + sum_k weight[k] * (x[(i+k) mod N] + pe[(i+k) mod N])` as a Relax call.

    Parameters
    ----------
    x : relax.Expr, shape (B, C, H, W), or (B, H, W, C) when `layout` is NHWC
    weight : relax.Expr, shape (C, N) depthwise or (C_out, C, N) dense
        N is the extent of `x` along `axis`.
    pe : relax.Expr, shape (C, N)
    bias : relax.Expr, shape (C,) or (C_out,)
    axis : "H" or "W"
    layout : "NCHW" or "NHWC"

    Returns
    -------
    relax.Call
        Not yet normalised: emit it through a BlockBuilder, which checks the shapes and
        raises TypeError when they do not fit.

    Raises
    ------
    ValueError
        An axis or a layout that does not exist.
    """
    if axis not in ("H", "W"):
        raise ValueError(f"axis must be 'H' or 'W', not {axis!r}")
    if layout not in LAYOUTS:
        raise ValueError(f"layout must be one of {', '.join(LAYOUTS)}, not {layout!r}")
    attrs = ir.make_node("ir.DictAttrs", axis=axis, layout=layout)
    return relax.Call(ir.Op.get(PARC), [x, weight, pe, bias], attrs)


def _infer_type(call: relax.Call, _builder: Any) -> relax.TensorType:
    """Shape of the result; every extent must be known."""
    x, weight, pe, bias = (_tvm.static_shape(arg) for arg in call.args)
    axis, layout = str(call.attrs["axis"]), str(call.attrs["layout"])
    if len(x) != 4:
        raise TypeError(f"{PARC}: x must have 4 axes ({layout}), not shape {x}")
    channels, length = x[layout.index("C")], x[layout.index(axis)]
    depthwise = len(weight) == 2
    out_channels = channels if depthwise else weight[0]
    wanted = {
        "weight": (weight, (channels, length) if depthwise else (out_channels, channels, length)),
        "pe": (pe, (channels, length)),
        "bias": (bias, (out_channels,)),
    }
    for name, (seen, accepted) in wanted.items():
        if seen != accepted:
            raise TypeError(
                f"{PARC}: for x {x} in {layout} along {axis}, {name} must have shape {accepted}, "
                f"not {seen}"
            )
    shape = list(x)
    shape[layout.index("C")] = out_channels
    return relax.TensorType(shape, call.args[0].ty.dtype)


def _direct_form(axis: str, layout: str) -> Callable[..., te.Tensor]:
    """Equations 3 (depthwise) and 4 (dense) as a tensor expression."""
    line, channel = layout.index(axis), layout.index("C")

    def compute(x: te.Tensor, weight: te.Tensor, pe: te.Tensor, bias: te.Tensor) -> te.Tensor:
        length = int(x.shape[line])
        k = te.reduce_axis((0, length), "k")
        dense = len(weight.shape) == 3
        c_in = te.reduce_axis((0, int(x.shape[channel])), "c_in") if dense else None
        shape = list(x.shape)
        shape[channel] = weight.shape[0]

        def accumulate(*point: Any) -> Any:
            c_out, place = point[channel], (point[line] + k) % length
            source = c_in if dense else c_out
            index = list(point)
            index[line], index[channel] = place, source
            taps = weight[c_out, source, k] if dense else weight[c_out, k]
            value = (x[tuple(index)] + pe[source, place]) * taps
            return te.sum(value, axis=[c_in, k] if dense else [k])

        total = te.compute(shape, accumulate, name="parc")
        return te.compute(
            shape, lambda *point: total[point] + bias[point[channel]], name="parc_bias"
        )

    return compute


def _legalize(builder: relax.BlockBuilder, call: relax.Call) -> relax.Expr:
    form = _direct_form(str(call.attrs["axis"]), str(call.attrs["layout"]))
    return builder.call_te(form, *call.args, primfunc_name_hint="parc")


def _register() -> None:
    """Add the operator to TVM's registry; a second import in one process changes nothing."""
    if PARC in {str(name) for name in ir.Op.list_op_names()}:
        return
    tvm_ffi.get_global_func("ir.RegisterOp")(
        PARC, "circular correlation along one spatial axis, depthwise or dense"
    )
    for name, value in (
        ("FInferType", _infer_type),
        ("FPurity", True),
        ("FLegalize", _legalize),
    ):
        ir.register_op_attr(PARC, name, value)


_register()
