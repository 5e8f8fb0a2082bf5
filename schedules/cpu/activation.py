"""How is each activation computed on vectors, with what error?

All are polynomials and divisions on whole vectors: no call into libm. Errors are against exact
real arithmetic on float32 inputs; tests/schedules/test_epilogue.py measures them densely.
"""

from __future__ import annotations

import math

from schedules._tvm import tirx
from schedules.tir import Emitter, Value, with_lanes

__all__ = ["clip", "exp", "gelu", "gelu_tanh", "relu", "sigmoid", "silu"]

# Phi(-t) = q(t)**4 on 0 <= t <= 5.5: the fourth root falls so much more slowly that degree 8 gives
# Phi to 5.3e-8 (minimax of Phi's error, Lawson's weights, each coefficient rounded to float32
# before the next is fitted, the first fixed so that Phi(0) is 1/2). Beyond, q stays at its end.
_ROOT_PHI = (
    0.840896428, -0.167733952, -0.0501982011, 0.00465087406, 0.0037941637, -3.42593376e-05,
    -0.000307733077, 5.84603404e-05, -3.40228485e-06,
)  # fmt: skip
_PHI_END = 5.5

# exp(r) = 1 + r + r**2 Q(r) on |r| <= ln(2) / 2, minimax of the relative error: 3.3e-9.
_EXP = (0.49999994, 0.166665152, 0.041668456, 0.00836941879, 0.00138131483)
_LN2_HIGH = 0.693359375  # 9 bits: n * _LN2_HIGH is exact for every n that occurs
_LN2_LOW = math.log(2.0) - _LN2_HIGH
_EXP_MIN, _EXP_MAX = -87.0, 88.0  # exp stays a normal number


def relu(e: Emitter, x: Value) -> Value:
    """max(x, 0)."""
    return e.bind(e.maximum(x, e.like(0.0, x)))


def clip(e: Emitter, x: Value, low: float, high: float) -> Value:
    """min(max(x, low), high)."""
    return e.bind(e.minimum(e.maximum(x, e.like(low, x)), e.like(high, x)))


def gelu(e: Emitter, x: Value) -> Value:
    """x Phi(x), the exact (erf) form; absolute error below 3e-7 + 1e-7 |x|.

    x Phi(x) = max(x, 0) - t Phi(-t) with t = |x|: what is approximated is small where x is large.
    """
    x = e.bind(x)
    t = e.bind(e.minimum(tirx.abs(x), e.like(_PHI_END, x)))
    root = e.polynomial(_ROOT_PHI, t)
    square = e.bind(root * root)
    minus_t = t * e.like(-1.0, x)
    return e.bind(e.fma(minus_t, e.bind(square * square), relu(e, x)))


def exp(e: Emitter, x: Value) -> Value:
    """exp of x clamped to [-87, 88]; relative error below 3e-7."""
    lanes = e.lanes(x)
    integers, floats = with_lanes("int32", lanes), with_lanes("float32", lanes)
    x = clip(e, x, _EXP_MIN, _EXP_MAX)
    # n = x / ln(2), rounded, by way of a positive number that conversion cuts off. (Adding and
    # subtracting 1.5 * 2**23 would be shorter, but TVM simplifies (x + c) - c to x in vectors.)
    positive = e.bind(e.fma(x, 1.0 / math.log(2.0), 128.5))
    n = e.bind(tirx.Cast(integers, positive) - 128, "n")
    whole = e.bind(tirx.Cast(floats, n))
    r = e.bind(e.fma(whole, -_LN2_LOW, e.bind(e.fma(whole, -_LN2_HIGH, x))))
    p = e.bind(e.fma(e.bind(r * r), e.polynomial(_EXP, r), r))
    power = e.bind(tirx.reinterpret(floats, (n + 127) << 23))  # 2**n: n moved to the exponent
    return e.bind(e.fma(power, p, power))


def sigmoid(e: Emitter, x: Value) -> Value:
    """1 / (1 + exp(-x)); absolute error below 2e-7."""
    denominator = e.bind(exp(e, e.bind(e.like(0.0, x) - x)) + e.like(1.0, x))
    return e.bind(e.like(1.0, x) / denominator)


def silu(e: Emitter, x: Value) -> Value:
    """x sigmoid(x); error below 4e-7 |x|."""
    x = e.bind(x)
    denominator = e.bind(exp(e, e.bind(e.like(0.0, x) - x)) + e.like(1.0, x))
    return e.bind(x / denominator)


def gelu_tanh(e: Emitter, x: Value) -> Value:
    """x (1 + tanh(sqrt(2/pi) (x + 0.044715 x**3))) / 2 = x sigmoid(2 ...); error below 1e-6 |x|."""
    x = e.bind(x)
    scale = 2.0 * math.sqrt(2.0 / math.pi)
    inner = e.bind(e.fma(e.bind(x * x), 0.044715 * scale, scale))
    return e.bind(x * sigmoid(e, e.bind(x * inner)))
