"""What do real numbers become in a format, and what do sums and products of stored integers?

Every function computes its exact result and brings it into the format asked for once, at the
points that a `Cut` or `Datapath` names. Raw arrays are int64 (uint64 only for 64 unsigned bits);
complex ones have a last axis of length 2, (real, imaginary). Oracle: `fixedpoint.exact`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint import kernels
from fixedpoint.datapath import Cut, Datapath, OverflowCounter
from fixedpoint.errors import FixedPointOverflow, FormatError, ScalingError
from fixedpoint.modes import FLOOR, WRAP, Overflow, Rounding, overflow_code, rounding_code
from fixedpoint.qformat import MOST_SHIFT, QFormat, as_format
from parc_hw.errors import InputError

__all__ = [
    "accumulate",
    "add",
    "complex_multiply",
    "convert",
    "finest_format",
    "mul",
    "quantize",
    "requantize",
    "sub",
    "to_value",
]

_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1
Raw = NDArray[Any]


# ---------------------------------------------------------------- from and to real numbers
def quantize(
    value: ArrayLike,
    fmt: QFormat | str,
    *,
    rounding: Rounding = Rounding.HALF_EVEN,
    overflow: Overflow = Overflow.SATURATE,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the stored integers of `value` in `fmt`.

    Parameters
    ----------
    value : array of float16, float32, float64 or integers, any shape
        Real numbers, finite. They are taken exactly, bit by bit: rounding happens once.
    fmt : QFormat or str
        Format of the result.
    rounding : Rounding
        What happens to the bits below `fmt.lsb`.
    overflow : Overflow
        What happens, after rounding, to a value outside the format.
    counter : OverflowCounter, optional
        Counts under "quantize".

    Returns
    -------
    int64 array (uint64 for 64 unsigned bits) of the same shape.

    Raises
    ------
    InputError
        A NaN or an infinity (the first is named), complex or other values.
    FixedPointOverflow
        A value does not fit and `overflow` is RAISE; names the first index.

    Examples
    --------
    >>> quantize([0.5, -1.0, 1.0, 2**-16], "Q1.15")
    array([ 16384, -32768,  32767,      0])
    >>> quantize([0.5, -1.0, 1.0, 2**-16], "Q1.15", rounding=Rounding.HALF_UP,
    ...          overflow=Overflow.WRAP)
    array([ 16384, -32768, -32768,      1])
    """
    cut = Cut(as_format(fmt), rounding, overflow)
    array = np.asarray(value)
    if array.dtype.kind in "iu":
        # Integers are values of a format without fraction.
        source = QFormat(64, 0, signed=array.dtype.kind == "i")
        return _cut(source.words(array), -cut.format.frac_bits, cut, counter, "quantize")
    if array.dtype.kind == "c":
        raise InputError(
            f"value: {array.dtype} is complex. Raw complex data has a last axis of length 2: "
            f"quantize np.stack([z.real, z.imag], axis=-1)."
        )
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise InputError(
            f"value: expected float16, float32, float64 or integers, not {array.dtype}."
        )
    real = np.ascontiguousarray(array, dtype=np.float64).reshape(-1)
    raw = np.empty(real.size, np.uint64)
    low, high = _magnitudes(cut.format)
    count, first, bad = kernels.quantize(
        real,
        raw,
        cut.format.frac_bits,
        low,
        high,
        rounding_code(rounding),
        overflow_code(overflow),
    )
    if bad >= 0:
        raise InputError(
            f"value: {real[bad]} at index {_index(bad, array.shape)} is no finite number."
        )
    _settle(
        count,
        _index(first, array.shape) if first >= 0 else None,
        raw.size,
        cut,
        counter,
        "quantize",
    )
    return raw.view(cut.format.dtype).reshape(array.shape)


def to_value(raw: ArrayLike, fmt: QFormat | str) -> NDArray[np.float64]:
    """Return the real numbers that the stored integers `raw` of format `fmt` stand for.

    Exact for words to 53 bits; wider ones are rounded to the nearest float64.

    >>> to_value([16384, -32768], "Q1.15")
    array([ 0.5, -1. ])
    """
    fmt = as_format(fmt)
    return np.asarray(np.ldexp(fmt.words(raw).astype(np.float64), -fmt.frac_bits))


def finest_format(value: ArrayLike, bits: int) -> QFormat:
    """Return the signed format of `bits` bits with the most fraction bits that holds every value.

    Rounded to nearest even no value saturates. All zero, it is Q1.(bits - 1).

    >>> print(finest_format([0.25, -0.125], 8), finest_format([127.6], 8), finest_format([0.0], 8))
    Q0.8 Q9.-1 Q1.7
    """
    values = np.asarray(value, np.float64)
    peak = float(np.abs(values).max(initial=0.0))
    if not np.isfinite(peak):
        raise InputError("value: holds a NaN or an infinity; no format holds it.")
    if peak == 0.0:
        return QFormat(1, bits - 1)
    # 2**(exponent - 1) <= peak < 2**exponent: one bit for the sign, and one more where the largest
    # value rounds up to 2**exponent (or two's complement holds -2**(exponent - 1) alone).
    frac = bits - int(np.frexp(peak)[1])
    while True:
        fmt = QFormat(bits - min(frac, MOST_SHIFT), min(frac, MOST_SHIFT))
        scaled = np.rint(np.ldexp(values, fmt.frac_bits))
        if scaled.min() >= fmt.min_raw and scaled.max() <= fmt.max_raw:
            return fmt
        frac -= 1


# ---------------------------------------------------------------- from format to format
def requantize(
    raw: ArrayLike,
    *,
    shift: int,
    rounding: Rounding,
    to: QFormat | str,
    overflow: Overflow = Overflow.SATURATE,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Drop `shift` low bits of `raw` and fit the result into format `to`.

    The last step of every butterfly: products carry twice the fraction bits.

    Parameters
    ----------
    raw : int64 array, any shape
        Stored integers, in units of the source LSB; any int64.
    shift : int
        Bits to drop, >= 0. One output LSB equals 2**shift source LSBs.
    rounding : Rounding
        What happens to the dropped bits.
    to : QFormat or str
        Result format; sets the limits.
    overflow : Overflow
        What happens, after rounding, to a value outside `to`.
    counter : OverflowCounter, optional
        Counts under "requantize".

    Returns
    -------
    int64 array (uint64 for 64 unsigned bits) of the same shape, in units of `to.lsb`.

    Raises
    ------
    ScalingError
        `shift` is negative (use `convert`).
    FixedPointOverflow
        A value does not fit and `overflow` is RAISE; names the first index.

    Notes
    -----
    Rounding error per element, in output LSB: (-1, 0] for FLOOR (mean about -1/2), (-1, 1) for
    TOWARD_ZERO, [-1/2, 1/2] for the HALF_ modes. HALF_UP leaves a small positive bias from ties,
    2**-(shift + 1); HALF_EVEN does not.

    Examples
    --------
    0.5, 1.5 and -0.5 output LSBs, ties go to the even neighbour:

    >>> requantize(np.array([1 << 14, 3 << 14, -(1 << 14)]), shift=15,
    ...            rounding=Rounding.HALF_EVEN, to=QFormat.parse("Q1.15"))
    array([0, 2, 0])
    """
    if isinstance(shift, bool) or not isinstance(shift, int | np.integer):
        raise ScalingError(f"shift is {shift!r}: expected an integer.")
    if shift < 0:
        raise ScalingError(
            f"shift is {shift}: requantize drops bits, shift >= 0. To add low bits use convert "
            f"with two formats."
        )
    cut = Cut(as_format(to, name="to"), rounding, overflow)
    array = np.asarray(raw)
    source = QFormat(64, 0, signed=array.dtype.kind != "u")
    return _cut(source.words(raw), int(shift), cut, counter, "requantize")


def convert(
    raw: ArrayLike, fmt: QFormat | str, to: Cut, *, counter: OverflowCounter | None = None
) -> Raw:
    """Return `raw`, stored integers of `fmt`, in the format of `to`, coarser or finer.

    Parameters
    ----------
    raw : array of integers, any shape
        Stored integers of `fmt`.
    fmt : QFormat or str
        Their format.
    to : Cut
        The new format, the rounding and what happens on overflow.
    counter : OverflowCounter, optional
        Counts under "convert".

    Returns
    -------
    int64 array (uint64 for 64 unsigned bits) of the same shape.

    Raises
    ------
    InputError
        Not integers, or not of `fmt`.
    FixedPointOverflow
        A value does not fit and `to.overflow` is RAISE.

    Examples
    --------
    >>> convert([3, -3], "Q4.4", Cut(QFormat.parse("Q8.8")))
    array([ 48, -48])
    """
    fmt = as_format(fmt)
    return _cut(fmt.words(raw), fmt.frac_bits - to.format.frac_bits, to, counter, "convert")


# ---------------------------------------------------------------- sums and products
def add(
    a: ArrayLike,
    a_format: QFormat | str,
    b: ArrayLike,
    b_format: QFormat | str,
    to: Cut | None = None,
    *,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the exact sums `a + b`, brought into the format of `to`.

    Parameters
    ----------
    a, b : arrays of integers, shapes that broadcast
        Stored integers.
    a_format, b_format : QFormat or str
        Their formats; the binary points need not agree.
    to : Cut, optional
        Format, rounding and overflow of the result; without it, the exact sum in
        `QFormat.for_add(a_format, b_format)`.
    counter : OverflowCounter, optional
        Counts under "add".

    Returns
    -------
    int64 array (uint64 for 64 unsigned bits) of the broadcast shape.

    Raises
    ------
    FormatError
        64 bits do not hold the exact sum.
    InputError
        Not integers, or not of their format.
    FixedPointOverflow
        A sum does not fit and `to.overflow` is RAISE.

    Examples
    --------
    >>> add([100, 1], "Q1.7", [100, 1], "Q1.7")
    array([200,   2])
    >>> add([100, 1], "Q1.7", [100, 1], "Q1.7", Cut(QFormat.parse("Q1.7")))
    array([127,   2])
    """
    return _sum(a, as_format(a_format), b, as_format(b_format), to, counter, subtract=False)


def sub(
    a: ArrayLike,
    a_format: QFormat | str,
    b: ArrayLike,
    b_format: QFormat | str,
    to: Cut | None = None,
    *,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the exact differences `a - b`, brought into the format of `to`; as `add`.

    >>> sub([0], "UQ0.8", [255], "UQ0.8")
    array([-255])
    """
    return _sum(a, as_format(a_format), b, as_format(b_format), to, counter, subtract=True)


def mul(
    a: ArrayLike,
    a_format: QFormat | str,
    b: ArrayLike,
    b_format: QFormat | str,
    to: Cut | None = None,
    *,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the exact products `a * b`, brought into the format of `to`; as `add`.

    >>> mul([-32768], "Q1.15", [-32768], "Q1.15")               # 1 in Q2.30
    array([1073741824])
    >>> mul([-32768], "Q1.15", [-32768], "Q1.15", Cut(QFormat.parse("Q1.15")))
    array([32767])
    """
    a_format, b_format = as_format(a_format), as_format(b_format)
    exact = QFormat.for_mul(a_format, b_format)
    x, y = _pair(a, a_format, b, b_format)
    # Modulo 2**64, and the exact product has a 64-bit format.
    product = np.asarray(np.multiply(x, y)).view(exact.dtype)
    if to is None:
        return product
    return _cut(product, exact.frac_bits - to.format.frac_bits, to, counter, "mul")


def _sum(
    a: ArrayLike,
    a_format: QFormat,
    b: ArrayLike,
    b_format: QFormat,
    to: Cut | None,
    counter: OverflowCounter | None,
    *,
    subtract: bool,
) -> Raw:
    exact = (QFormat.for_sub if subtract else QFormat.for_add)(a_format, b_format)
    x, y = _pair(a, a_format, b, b_format)
    # Modulo 2**64, which holds the exact result; so the shifts, of at least 1 LSB, are below 64.
    x = np.left_shift(x, exact.frac_bits - a_format.frac_bits)
    y = np.left_shift(y, exact.frac_bits - b_format.frac_bits)
    total = np.asarray(np.subtract(x, y) if subtract else np.add(x, y)).view(exact.dtype)
    if to is None:
        return total
    shift = exact.frac_bits - to.format.frac_bits
    return _cut(total, shift, to, counter, "sub" if subtract else "add")


def accumulate(
    raw: ArrayLike,
    fmt: QFormat | str,
    to: Cut,
    *,
    axis: int = -1,
    each: Cut | None = None,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the sums of `raw` along `axis`, brought into the format of `to`.

    Parameters
    ----------
    raw : array of integers, shape (..., n, ...)
        Stored integers of `fmt`.
    fmt : QFormat or str
        Their format.
    to : Cut
        Format, rounding and overflow of the result, applied once to the last sum.
    axis : int
        The axis that is summed.
    each : Cut, optional
        The register: every sum passes it before the next term is added, from index 0 on.
        Without it the sum is exact.
    counter : OverflowCounter, optional
        Counts under "accumulator" (with `each`) and "result".

    Returns
    -------
    int64 array (uint64 for 64 unsigned bits) without `axis`.

    Raises
    ------
    FormatError
        64 bits do not hold the exact sum (of all terms, or of the register and one term).
    FixedPointOverflow
        A sum does not fit and its overflow mode is RAISE; names the term or the result.

    Examples
    --------
    >>> to = Cut(QFormat.parse("Q1.7"))
    >>> accumulate([100, 100, -100], "Q1.7", to)
    array(100)
    >>> accumulate([100, 100, -100], "Q1.7", to, each=to)       # 127 after the second term
    array(27)
    """
    fmt = as_format(fmt)
    terms = fmt.words(raw)
    if terms.ndim == 0:
        raise InputError("raw: a single number has no axis to sum along; give an array.")
    if not -terms.ndim <= axis < terms.ndim:
        raise InputError(f"axis is {axis}: raw has shape {terms.shape}.")
    count = terms.shape[axis]
    if count == 0:
        raise InputError(f"raw: shape {terms.shape} has no term along axis {axis}.")
    if each is None:
        exact = QFormat.for_accumulate(fmt, count)
        total = np.asarray(terms.view(np.int64).sum(axis=axis)).view(exact.dtype)
        return _cut(total, exact.frac_bits - to.format.frac_bits, to, counter, "result")

    register = each.format
    _only_int64(QFormat.for_add(register, fmt), f"the sum of {register} and {fmt}")
    moved = np.moveaxis(terms, axis, -1)
    rows = np.ascontiguousarray(moved).reshape(-1, count)
    totals = np.empty(rows.shape[0], np.int64)
    point = max(register.frac_bits, fmt.frac_bits)
    counted, first = kernels.accumulate(
        rows, totals, point - fmt.frac_bits, point - register.frac_bits, *_limits(each)
    )
    where = None
    if first >= 0:
        *outer, term = _index(first, moved.shape)
        outer.insert(axis % terms.ndim, term)
        where = tuple(outer)
    _settle(counted, where, terms.size, each, counter, "accumulator")
    shift = register.frac_bits - to.format.frac_bits
    return _cut(totals.reshape(moved.shape[:-1]), shift, to, counter, "result")


def complex_multiply(
    x: ArrayLike,
    x_format: QFormat | str,
    w: ArrayLike,
    w_format: QFormat | str,
    datapath: Datapath,
    *,
    counter: OverflowCounter | None = None,
) -> Raw:
    """Return the complex products `x * w`, with three or four real multiplications.

    Parameters
    ----------
    x, w : arrays of integers, shapes (..., 2) that broadcast
        Stored integers, (real, imaginary).
    x_format, w_format : QFormat or str
        Their formats, signed.
    datapath : Datapath
        How many multiplications, and what is rounded where:

        - 4: re = P(a c) - P(b d), im = P(a d) + P(b c) for x = a + jb, w = c + jd;
        - 3: k1 = P(c (a + b)), k2 = P(a (d - c)), k3 = P(b (c + d)), re = k1 - k3, im = k1 + k2,

        P being `datapath.product`; both sums then pass `accumulator` and `result`. With exact
        products both ways give equal bits.
    counter : OverflowCounter, optional
        Counts under "product", "accumulator" (where the datapath has them) and "result".

    Returns
    -------
    int64 array, shape (..., 2)
        Stored integers of `datapath.result.format`.

    Raises
    ------
    FormatError
        64 bits do not hold a product or a sum.
    InputError
        Not complex pairs, not integers, not of their format, or an unsigned format.
    FixedPointOverflow
        A word does not fit at a point whose mode is RAISE; names the first index (of the result
        that the word goes into) and the point.

    Examples
    --------
    >>> datapath = Datapath(Cut(QFormat.parse("Q1.15")))
    >>> complex_multiply([16384, 0], "Q1.15", [0, -32768], "Q1.15", datapath)   # 0.5 * -j
    array([     0, -16384])
    """
    x_format, w_format = as_format(x_format), as_format(w_format)
    for name, fmt in (("x_format", x_format), ("w_format", w_format)):
        if not fmt.signed:
            raise InputError(f"{name} is {fmt}: complex words are signed.")
    left, right = x_format.words(x, name="x"), w_format.words(w, name="w")
    for name, array in (("x", left), ("w", right)):
        if array.ndim == 0 or array.shape[-1] != 2:
            raise InputError(
                f"{name} has shape {array.shape}: expected (..., 2), the real and imaginary parts."
            )
    # Exact products, then sums of what `product` leaves of them; each format is refused by name
    # where it has more than 64 bits.
    if datapath.multiplications == 4:
        QFormat.for_mul(x_format, w_format)
    else:
        QFormat.for_mul(QFormat.for_add(x_format, x_format), w_format)
        QFormat.for_mul(x_format, QFormat.for_sub(w_format, w_format))
    point = x_format.frac_bits + w_format.frac_bits
    if datapath.product is None:
        sums = QFormat.for_multiply_accumulate(x_format, w_format, 2)
    else:
        product = datapath.product.format
        QFormat.for_add(product, product)
        sums = QFormat.for_sub(product, product)
    _only_int64(sums, "the sum of products")
    shape = _broadcast("x and w", left.shape, right.shape)
    xs = np.ascontiguousarray(np.broadcast_to(left, shape)).reshape(-1, 2)
    ws = np.ascontiguousarray(np.broadcast_to(right, shape)).reshape(-1, 2)
    out = np.empty(xs.shape, np.int64)
    cuts = (datapath.product, datapath.accumulator, datapath.result)
    shifts, points = [], point
    for cut in cuts:
        after = points if cut is None else cut.format.frac_bits
        shifts.append(points - after)
        points = after
    table = np.array(
        [(shift, *_limits(cut)) for shift, cut in zip(shifts, cuts, strict=True)], np.int64
    )
    counts = np.zeros(3, np.int64)
    firsts = np.full(3, -1, np.int64)
    kernels.complex_multiply(xs, ws, out, datapath.multiplications == 3, table, counts, firsts)

    words = (xs.shape[0] * datapath.multiplications, out.size, out.size)
    names = ("product", "accumulator", "result")
    present = [(k, cut) for k, cut in enumerate(cuts) if cut is not None]
    # All points count before the earliest word that must raise does.
    for k, _ in present:
        if counter is not None:
            counter.record(names[k], overflowed=int(counts[k]), words=words[k])
    for k, cut in sorted(present, key=lambda point: (int(firsts[point[0]]), point[0])):
        where = _index(int(firsts[k]), shape) if firsts[k] >= 0 else None
        _settle(int(counts[k]), where, words[k], cut, None, names[k])
    return out.reshape(shape)


# ---------------------------------------------------------------- the numba boundary
def _pair(a: ArrayLike, a_format: QFormat, b: ArrayLike, b_format: QFormat) -> tuple[Raw, Raw]:
    """Both arrays checked, as the bits of int64."""
    x, y = a_format.words(a, name="a"), b_format.words(b, name="b")
    _broadcast("a and b", x.shape, y.shape)
    return x.view(np.int64), y.view(np.int64)


def _broadcast(names: str, x: tuple[int, ...], y: tuple[int, ...]) -> tuple[int, ...]:
    try:
        return np.broadcast_shapes(x, y)
    except ValueError:
        raise InputError(f"{names} have shapes {x} and {y}, which do not broadcast.") from None


def _only_int64(fmt: QFormat, what: str) -> None:
    if fmt.dtype != np.int64:
        raise FormatError(
            f"{what} has 64 unsigned bits ({fmt}), and running sums are kept in signed 64-bit "
            f"words. 63 bits would fit."
        )


def _limits(cut: Cut | None) -> tuple[int, int, int, int]:
    """Rounding code, lowest, highest and overflow code; for no cut, what lets all int64 pass."""
    if cut is None:
        return FLOOR, _INT64_MIN, _INT64_MAX, WRAP
    fmt = cut.format
    _only_int64(fmt, "the format of a point in the datapath")
    return rounding_code(cut.rounding), fmt.min_raw, fmt.max_raw, overflow_code(cut.overflow)


def _magnitudes(fmt: QFormat) -> tuple[np.uint64, np.uint64]:
    return np.uint64(-fmt.min_raw), np.uint64(fmt.max_raw)


def _index(flat: int, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape))


def _settle(
    count: int,
    index: tuple[int, ...] | None,
    words: int,
    cut: Cut,
    counter: OverflowCounter | None,
    point: str,
) -> None:
    """Count the overflows of one point, and raise if it is to."""
    if counter is not None:
        counter.record(point, overflowed=int(count), words=words)
    if index is not None and cut.overflow is Overflow.RAISE:
        rest = "" if count == 1 else f" and {count - 1} more of {words} words"
        raise FixedPointOverflow(
            f"{point}: the value at index {index}{rest} is outside {cut.format}, which holds "
            f"{float(cut.format.min_value):g} to {float(cut.format.max_value):g}. Give the format "
            f"more integer bits, scale the data down, or take Overflow.SATURATE or WRAP.",
            index=index,
            point=point,
            count=int(count),
        )


def _cut(raw: Raw, shift: int, cut: Cut, counter: OverflowCounter | None, point: str) -> Raw:
    """Bring checked words through `cut`, dropping `shift` bits (adding them, if negative)."""
    fmt = cut.format
    rounding, overflow = rounding_code(cut.rounding), overflow_code(cut.overflow)
    flat = np.ascontiguousarray(raw).reshape(-1)
    if raw.dtype == np.int64 and fmt.dtype == np.int64:
        out: Raw = np.empty(flat.size, np.int64)
        count, first = kernels.cut(flat, out, shift, fmt.min_raw, fmt.max_raw, rounding, overflow)
    else:
        wide = np.empty(flat.size, np.uint64)
        limits = _magnitudes(fmt)
        signed = raw.dtype == np.int64
        bits = flat.view(np.uint64)
        count, first = kernels.cut_wide(bits, signed, wide, shift, *limits, rounding, overflow)
        out = wide.view(fmt.dtype)
    index = _index(first, raw.shape) if first >= 0 else None
    _settle(count, index, flat.size, cut, counter, point)
    return out.reshape(raw.shape)
