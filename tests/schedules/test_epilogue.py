"""Which chains become an epilogue, what is folded, and why are the others refused?"""

from __future__ import annotations

import numpy as np
import pytest
from composites import linear

from schedules.cpu.epilogue import parse
from schedules.rule import Ref

pytestmark = pytest.mark.tvm


def parsed(steps):
    return parse(linear((6,), 5, 8, steps).composite())


def test_leading_constants_fold_exactly():
    builder = linear((6,), 5, 8, ["bias", "scale", "reverse"])
    result = parse(builder.composite())
    bias, scale, offset = (
        np.asarray(next(a for a in node.args if not isinstance(a, Ref)), np.float64).reshape(-1)
        for node in builder.nodes[1:]
    )
    # offset - (a + bias) scale
    np.testing.assert_array_equal(result.scale, -scale)
    np.testing.assert_array_equal(result.shift, offset - bias * scale)
    assert result.steps == ()


def test_folding_stops_at_the_first_other_operator():
    result = parsed(["scale", "nn.relu", "bias", "residual"])
    assert result.names == "relu.add.add"
    assert len(result.constants) == 1
    assert result.inputs == (1,)


def test_a_value_that_is_used_twice_is_not_folded_away():
    result = parsed(["bias", "hardswish"])
    assert result.names == "add.clip.multiply.divide"


def test_division_by_zero_is_left_to_the_kernel():
    builder = linear((6,), 5, 8)
    builder.node("relax.divide", builder.value, np.zeros(8, np.float32))
    assert parse(builder.composite()).names == "divide"


def test_an_input_read_twice_is_one_operand():
    builder = linear((6,), 5, 8, ["residual"])
    builder.node("relax.multiply", builder.value, Ref("input", 1))
    assert parse(builder.composite()).inputs == (1,)


@pytest.mark.parametrize(
    "change, reason",
    [
        (("relax.nn.softmax", ()), "relax.nn.softmax is not an element-wise operator"),
        (("relax.add", (np.zeros((6, 8), np.float32),)), r"constant of shape \(6, 8\) is neither"),
        (("relax.nn.relu", (), (48,)), r"relax.nn.relu changes the shape from \(6, 8\) to \(48,\)"),
    ],
)
def test_refusals_name_the_reason(change, reason):
    builder = linear((6,), 5, 8, ["nn.relu"])
    op, more, *shape = change
    builder.node(op, builder.value, *more, shape=shape[0] if shape else None)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(parse(builder.composite()))


def test_refuses_an_operand_of_another_shape():
    builder = linear((6,), 5, 8)
    builder.node("relax.add", builder.value, builder.input(6, 1))
    assert parse(builder.composite()) == (
        "an operand of shape (6, 1) is neither (6, 8) nor one value per channel"
    )
