"""How is each activation computed on vectors, with what error?

All are polynomials and divisions on whole vectors: no call into libm. Errors are against exact
real arithmetic on float32 inputs; tests/schedules/test_epilogue.py measures them densely.
"""

from __future__ import annotations

import math

from schedules._tvm import tirx
from schedules.tir import Emitter, Value, with_lanes

__all__ = ["clip", "exp", "gelu", "gelu_tanh", "relu", "sigmoid", "silu"]

# Phi(x) - 1/2 = x P(u), u = 2 (x / 5)**2 - 1, on |x| <= 5: degree 11 in u, weighted least squares
# reweighted towards the minimax of |x| (Phi error), with P(1) = 1/10 exactly in float32, so that
# the clamped ends give x and (nearly) 0. Error of x Phi in exact arithmetic: 1.7e-6; degrees 12
# and 13 both reach 1.0e-6, which the fixed end allows.
_PHI = (
    0.141363755, -0.0702984408, 0.0515246168, -0.0403866544, 0.0313650146, -0.023661783,
    0.0168803819, -0.0100637516, 0.00515564065, -0.004007624, 0.0031738088, -0.00104496488,
)  # fmt: skip
_PHI_END = 5.0

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
    """x Phi(x), the exact (erf) form; absolute error below 3e-6 + 1e-8 |x|."""
    x = e.bind(x)
    clamped = clip(e, x, -_PHI_END, _PHI_END)
    u = e.bind(e.fma(e.bind(clamped * clamped), 2.0 / _PHI_END**2, -1.0))
    phi = e.bind(e.fma(clamped, e.polynomial(_PHI, u), 0.5))
    return e.bind(x * phi)


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
