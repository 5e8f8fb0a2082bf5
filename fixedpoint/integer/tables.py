"""Which words do the tables of GELU, SiLU, sigmoid and their like hold?

f(x) = max(x, 0) - h(|x|) for the functions that grow, f(x) = 1 - h(x) for x >= 0 and h(|x|) for
x < 0 for those that saturate: h is bounded and vanishes, so that one table of few words serves
every format.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from parc_hw.errors import InputError, nearest

__all__ = ["NAMES", "STEP_BITS", "TABLE_BITS", "Curve", "curve", "exponential", "table"]

STEP_BITS: Final = 7  # the table's points lie 2**-7 apart
TABLE_BITS: Final = 20  # fraction bits of its words

Values = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """One activation function.

    Attributes
    ----------
    name : str
    function, tail : callable of a float64 array
        f itself, and its h on [0, reach].
    reach : int
        h counts as 0 from here on.
    grows : bool
        f(x) = max(x, 0) - h(|x|); else f(x) = 1 - h(x) for x >= 0 and h(-x) below.
    curvature : float
        max |h''| on [0, reach].
    """

    name: str
    function: Callable[[Values], Values]
    tail: Callable[[Values], Values]
    reach: int
    grows: bool
    curvature: float

    @property
    def error_bound(self) -> float:
        """Largest distance of the interpolated value from f: interpolation, table words, tail."""
        end = float(np.abs(self.tail(np.array([float(self.reach)])))[0])
        interpolation = self.curvature * 2.0 ** -(2 * STEP_BITS + 3)
        return interpolation + 2.0 ** -(TABLE_BITS + 1) + end


def _normal_tail(a: Values) -> Values:
    """P(a normal variable exceeds a), without cancellation."""
    from scipy import special

    return np.asarray(special.ndtr(-a))


def _logistic_tail(a: Values) -> Values:
    decay = np.exp(-a)
    return decay / (1.0 + decay)


def _tanh_tail(a: Values) -> Values:
    """The tail of the normal distribution that GELU's tanh form puts in place of the real one."""
    inner = np.sqrt(2.0 / np.pi) * (a + 0.044715 * a**3)
    return _logistic_tail(2.0 * inner)


def _grown(weight: Callable[[Values], Values]) -> Callable[[Values], Values]:
    """x -> x * (1 - weight(x)) of a symmetric distribution's tail `weight`."""
    return lambda x: np.maximum(x, 0.0) - np.abs(x) * weight(np.abs(x))


def _saturated(weight: Callable[[Values], Values]) -> Callable[[Values], Values]:
    return lambda x: np.where(x >= 0, 1.0 - weight(np.abs(x)), weight(np.abs(x)))


def _hard_tail(a: Values) -> Values:
    return np.maximum(3.0 - a, 0.0) / 6.0


def _curve(
    name: str, weight: Callable[[Values], Values], reach: int, grows: bool, curvature: float
) -> Curve:
    return Curve(
        name=name,
        function=_grown(weight) if grows else _saturated(weight),
        tail=(lambda a: a * weight(a)) if grows else weight,
        reach=reach,
        grows=grows,
        curvature=curvature,
    )


# Curvatures are suprema of |h''| on [0, reach]: for GELU |a*a - 2| * phi(a), at 0; for SiLU
# 1/2 at 0; for the logistic function 1/(6 sqrt 3); hardswish is a parabola, h'' = 1/3, and
# hardsigmoid is straight but for the table point 3. The tanh form's was found numerically.
_CURVES: Final = {
    curve.name: curve
    for curve in (
        _curve("gelu", _normal_tail, 8, True, 0.798),
        _curve("gelu_tanh", _tanh_tail, 8, True, 0.798),
        _curve("silu", _logistic_tail, 16, True, 0.5),
        _curve("hardswish", _hard_tail, 4, True, 1 / 3),
        _curve("sigmoid", _logistic_tail, 16, False, 0.0963),
        _curve("hardsigmoid", _hard_tail, 4, False, 0.0),
    )
}
NAMES: Final = tuple(_CURVES)


def curve(name: str) -> Curve:
    """Return the activation function of one of `NAMES`.

    >>> curve("gelu").error_bound < 2**-17
    True
    """
    if name not in _CURVES:
        raise InputError(
            f"{name!r} is no tabulated function.{nearest(name, NAMES)} Accepted: {', '.join(NAMES)}."
        )
    return _CURVES[name]


@functools.cache
def _words(name: str) -> NDArray[np.int64]:
    tail, reach = (
        (lambda a: np.exp(-a), 16) if name == "exp" else (curve(name).tail, curve(name).reach)
    )
    points = np.arange((reach << STEP_BITS) + 1) / float(1 << STEP_BITS)
    words = np.rint(tail(points) * 2.0**TABLE_BITS).astype(np.int64)
    words.setflags(write=False)
    return words


def table(name: str) -> NDArray[np.int64]:
    """Return T, the words of h at 0, 1/128, 2/128, ... reach, with 20 fraction bits; read-only.

    >>> table("hardsigmoid")[:3], len(table("gelu"))
    (array([524288, 522923, 521557]), 1025)
    """
    curve(name)
    return _words(name)


def exponential() -> NDArray[np.int64]:
    """Return the words of exp(-a) for softmax, a = 0 .. 16.

    >>> exponential()[[0, 128]]
    array([1048576,  385750])
    """
    return _words("exp")


def checksum(words: NDArray[Any]) -> str:
    """Return the first 16 digits of the SHA-256 of a table's words as little-endian int32."""
    return hashlib.sha256(words.astype("<i4").tobytes()).hexdigest()[:16]
