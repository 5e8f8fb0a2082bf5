"""The Relax operator `relax.parc`: type rule and plain lowering against equations 3 and 4."""

import importlib

import numpy as np
import pytest

pytestmark = pytest.mark.tvm


def equations_3_and_4(x, weight, pe, bias, axis):
    """Float64, by definition; x (B, C, H, W)."""
    dim = 2 if axis == "H" else 3
    embedded = x.astype(np.float64) + (pe[..., :, None] if axis == "H" else pe[..., None, :])
    total = 0.0
    for k in range(x.shape[dim]):
        moved = np.roll(embedded, -k, axis=dim)
        if weight.ndim == 2:
            total = total + weight[:, k, None, None] * moved
        else:
            total = total + np.einsum("oc,bchw->bohw", weight[:, :, k].astype(np.float64), moved)
    return total + bias[:, None, None]


def run_in_vm(function_of_x, x):
    """Build a one-input Relax function with TVM's default pipeline and run it on x."""
    import tvm
    from tvm import relax

    builder = relax.BlockBuilder()
    var = relax.Var("x", relax.TensorType(x.shape, "float32"))
    with builder.function("main", [var]):
        builder.emit_func_output(builder.emit(function_of_x(var)))
    executable = tvm.compile(builder.get(), target=tvm.target.Target({"kind": "llvm"}))
    machine = relax.VirtualMachine(executable, tvm.cpu())
    return machine["main"](tvm.runtime.tensor(np.ascontiguousarray(x))).numpy()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("axis", ["H", "W"])
@pytest.mark.parametrize("out_channels", [None, 5], ids=["depthwise", "dense"])
def test_lowering_computes_the_equations(axis, layout, out_channels):
    from tvm import relax

    from parc_hw.lower.op import parc_call

    rng = np.random.default_rng(0)
    batch, channels, height, width = 2, 3, 7, 4
    length = height if axis == "H" else width
    x = rng.standard_normal((batch, channels, height, width)).astype(np.float32)
    lines = (channels,) if out_channels is None else (out_channels, channels)
    weight = rng.standard_normal((*lines, length)).astype(np.float32)
    pe = rng.standard_normal((channels, length)).astype(np.float32)
    bias = rng.standard_normal(lines[0]).astype(np.float32)
    wanted = equations_3_and_4(x, weight, pe, bias, axis)

    def function(var):
        consts = (relax.const(a) for a in (weight, pe, bias))
        return parc_call(var, *consts, axis=axis, layout=layout)

    order = (0, 1, 2, 3) if layout == "NCHW" else (0, 2, 3, 1)
    seen = run_in_vm(function, x.transpose(order))
    # DESIGN's float rule: (depth + 1) * 2^-24 * sum|w| * max|x + pe|, depth = terms + pe + bias.
    terms = length * (1 if out_channels is None else channels)
    bound = (terms + 3) * 2.0**-24 * np.abs(weight).reshape(lines[0], -1).sum(1).max() * (
        np.abs(x).max() + np.abs(pe).max()
    ) + 2.0**-24 * np.abs(bias).max()
    assert seen.shape == wanted.transpose(order).shape
    assert np.abs(seen - wanted.transpose(order)).max() <= bound


@pytest.mark.parametrize(
    "weight, pe, bias, name",
    [
        ((3, 6), (3, 7), (3,), "weight"),
        ((5, 3, 6), (3, 7), (5,), "weight"),
        ((3, 7), (3, 6), (3,), "pe"),
        ((5, 3, 7), (3, 7), (3,), "bias"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_by_the_type_rule(weight, pe, bias, name):
    from tvm import relax

    from parc_hw.lower.op import parc_call

    consts = [relax.const(np.zeros(shape, np.float32)) for shape in (weight, pe, bias)]
    x = np.zeros((1, 3, 7, 4), np.float32)
    with pytest.raises(TypeError, match=rf"along H, {name} must have shape"):
        run_in_vm(lambda var: parc_call(var, *consts, axis="H", layout="NCHW"), x)


def test_axis_and_layout_are_checked_when_the_call_is_built():
    from parc_hw.lower.op import parc_call

    with pytest.raises(ValueError, match="axis must be 'H' or 'W', not 'C'"):
        parc_call(None, None, None, None, axis="C", layout="NCHW")
    with pytest.raises(ValueError, match="layout must be one of NCHW, NHWC, not 'CHWN'"):
        parc_call(None, None, None, None, axis="H", layout="CHWN")


def test_registering_twice_changes_nothing():
    import parc_hw.lower.op as module

    importlib.reload(module)
    importlib.reload(module)


def test_the_operator_survives_printing():
    from tvm import relax

    from parc_hw.lower.op import parc_call

    var = relax.Var("x", relax.TensorType((1, 3, 7, 4), "float32"))
    consts = [relax.const(np.zeros(shape, np.float32)) for shape in ((3, 7), (3, 7), (3,))]
    builder = relax.BlockBuilder()
    with builder.function("main", [var]):
        builder.emit_func_output(builder.emit(parc_call(var, *consts, axis="H", layout="NCHW")))
    assert "R.parc" in builder.get().script()
