"""Which graph computes the discrete Fourier transform of n real numbers?"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import cache, partial

from parc_hw.dataflow.expr import Dag
from parc_hw.dataflow.simplify import Builder, Term, fuse
from parc_hw.errors import InputError
from parc_hw.plan import MAX_TRANSFORM

__all__ = ["half_complex", "real_dft"]

_Real = Term | None
_Complex = tuple[_Real, _Real]
# A way to transform n real values: gives X[0] to X[n // 2]
_Method = Callable[[Builder, Sequence[_Real]], list[_Complex]]


@cache
def real_dft(n: int) -> Dag:
    """The real DFT of length n as a graph with n inputs and n outputs.

    Outputs are half-complex, `X[k] = sum_j x[j] exp(-2 pi i j k / n)`: re X[0], then re X[k],
    im X[k] for 0 < k < n/2, then, for even n, re X[n/2]. Of the known ways to split n (coprime
    factors, split radix, radices 2, 3, 4, 5, 7, 8 and any odd prime) the one with the fewest
    instructions on a machine with fused multiply-add is taken.

    Parameters
    ----------
    n : int
        1 to `MAX_TRANSFORM`.

    Raises
    ------
    InputError
        n is out of range.

    References
    ----------
    Good, JRSS B 20 (1958); Sorensen et al., IEEE TASSP 35 (1987) for real split radix; Frigo,
    PLDI 1999 for generating codelets symbolically.

    Examples
    --------
    >>> from parc_hw.dataflow import evaluate
    >>> evaluate(real_dft(4), [1.0, 2.0, 3.0, 4.0])
    array([10., -2.,  2., -2.])
    """
    if not 1 <= n <= MAX_TRANSFORM:
        raise InputError(
            f"no transform graph of length {n!r}: accepted are 1 to {MAX_TRANSFORM}. "
            "Split the length as n1 * n2 with a short n1 (parc_hw.planner)."
        )
    return _graph(n, _best(n))


def half_complex(n: int) -> tuple[tuple[int, str], ...]:
    """What each output of `real_dft(n)` is: (k, "re") or (k, "im").

    >>> half_complex(4)
    ((0, 're'), (1, 're'), (1, 'im'), (2, 're'))
    """
    rows: list[tuple[int, str]] = []
    for k in range(n // 2 + 1):
        rows.append((k, "re"))
        if k > 0 and 2 * k < n:
            rows.append((k, "im"))
    return tuple(rows)


def _graph(n: int, method: _Method) -> Dag:
    builder = Builder(n)
    spectrum = method(builder, [builder.input(k) for k in range(n)])
    return builder.finish([spectrum[k][part == "im"] for k, part in half_complex(n)])


@cache
def _best(n: int) -> _Method:
    """The cheapest method for length n: fewest fused operations, then fewest in all."""

    def cost(method: _Method) -> tuple[int, int]:
        graph = _graph(n, method)
        return len(fuse(graph).nodes), len(graph.nodes)

    return min(_methods(n), key=cost)


def _transform(builder: Builder, x: Sequence[_Real]) -> list[_Complex]:
    """X[0] to X[n // 2] of the real sequence x, by the best method for its length."""
    return _best(len(x))(builder, x)


def _methods(n: int) -> Iterator[_Method]:
    """Every method known for length n."""
    if n == 1:
        yield lambda _, x: [(x[0], None)]
    elif n == 2:
        yield lambda b, x: [(b.add(x[0], x[1]), None), (b.sub(x[0], x[1]), None)]
    elif n == 5:
        yield _five
    if n > 2 and all(n % p for p in range(2, math.isqrt(n) + 1)):
        yield _odd_prime
    for first in range(2, n // 2 + 1):
        if n % first == 0:
            if math.gcd(first, n // first) == 1:
                yield partial(_coprime, first=first)
            else:
                yield partial(_decimate, radix=first)
    if n % 4 == 0 and n > 4:
        yield _split_radix


def _turn(numerator: int, denominator: int) -> tuple[float, float]:
    """Cosine and sine of `numerator / denominator` of a turn, from the first eighth.

    Reducing first makes equal constants equal to the last bit, so that nodes are shared.
    """
    part = Fraction(numerator, denominator) % 1
    if part > Fraction(1, 2):
        c, s = _turn_half(1 - part)
        return c, -s
    return _turn_half(part)


def _turn_half(part: Fraction) -> tuple[float, float]:
    if part > Fraction(1, 4):
        c, s = _turn_quarter(Fraction(1, 2) - part)
        return -c, s
    return _turn_quarter(part)


def _turn_quarter(part: Fraction) -> tuple[float, float]:
    if part == Fraction(1, 8):
        return math.sqrt(0.5), math.sqrt(0.5)
    if part > Fraction(1, 8):
        c, s = _turn_quarter(Fraction(1, 4) - part)
        return s, c
    angle = 2 * math.pi * float(part)
    return math.cos(angle), math.sin(angle)


def _add(b: Builder, x: _Complex, y: _Complex) -> _Complex:
    return b.add(x[0], y[0]), b.add(x[1], y[1])


def _sub(b: Builder, x: _Complex, y: _Complex) -> _Complex:
    return b.sub(x[0], y[0]), b.sub(x[1], y[1])


def _negative(x: _Real) -> _Real:
    return None if x is None else -x


def _conjugate(x: _Complex) -> _Complex:
    return x[0], _negative(x[1])


def _times_minus_i(x: _Complex) -> _Complex:
    return x[1], _negative(x[0])


def _twiddle(b: Builder, k: int, n: int, x: _Complex) -> _Complex:
    """`exp(-2 pi i k / n) * x`."""
    re, im = x
    c, s = _turn(-k, n)
    if abs(c) == abs(s) and re is not None and im is not None:
        # (re + i im) (c + i s) with s = +-c: two products instead of four
        if c == s:
            return b.mul(c, b.sub(re, im)), b.mul(c, b.add(re, im))
        return b.mul(c, b.add(re, im)), b.mul(c, b.sub(im, re))
    return (
        b.sub(b.mul(c, re), b.mul(s, im)),
        b.add(b.mul(c, im), b.mul(s, re)),
    )


def _at(spectrum: Sequence[_Complex], k: int, n: int) -> _Complex:
    """X[k mod n] of a real sequence from X[0] to X[n // 2]."""
    k %= n
    return spectrum[k] if 2 * k <= n else _conjugate(spectrum[n - k])


def _complex_transform(b: Builder, z: Sequence[_Complex]) -> list[_Complex]:
    """All n values of a complex DFT, as the real transforms of both parts: re + i im."""
    n = len(z)
    if all(im is None for _, im in z):
        real = _transform(b, [re for re, _ in z])
        return [_at(real, k, n) for k in range(n)]
    res = _transform(b, [re for re, _ in z])
    ims = _transform(b, [im for _, im in z])
    full = []
    for k in range(n):
        re, im = _at(res, k, n), _at(ims, k, n)
        full.append((b.sub(re[0], im[1]), b.add(re[1], im[0])))
    return full


def _five(b: Builder, x: Sequence[_Real]) -> list[_Complex]:
    """Length 5, from cos(72) + cos(144) = -1/2 and cos(72) - cos(144) = sqrt(5)/2."""
    p1, p2 = b.add(x[1], x[4]), b.add(x[2], x[3])
    m1, m2 = b.sub(x[4], x[1]), b.sub(x[3], x[2])
    s1, s2 = _turn(1, 5)[1], _turn(2, 5)[1]
    total = b.add(p1, p2)
    middle = b.sub(x[0], b.mul(0.25, total))
    spread = b.mul(math.sqrt(5) / 4, b.sub(p1, p2))
    return [
        (b.add(x[0], total), None),
        (b.add(middle, spread), b.add(b.mul(s1, m1), b.mul(s2, m2))),
        (b.sub(middle, spread), b.sub(b.mul(s2, m1), b.mul(s1, m2))),
    ]


def _odd_prime(b: Builder, x: Sequence[_Real]) -> list[_Complex]:
    """Odd length n: cosines of sums x[j] + x[n-j], sines of differences."""
    n = len(x)
    half = range(1, (n - 1) // 2 + 1)
    plus = {j: b.add(x[j], x[n - j]) for j in half}
    minus = {j: b.sub(x[n - j], x[j]) for j in half}
    total = None
    for j in half:
        total = b.add(total, plus[j])
    spectrum: list[_Complex] = [(b.add(x[0], total), None)]
    for k in half:
        re, im = x[0], None
        for j in half:
            c, s = _turn(j * k, n)
            if n == 3:
                c = -0.5
            re = b.add(re, b.mul(c, plus[j]))
            im = b.add(im, b.mul(s, minus[j]))
        spectrum.append((re, im))
    return spectrum


def _coprime(b: Builder, x: Sequence[_Real], first: int) -> list[_Complex]:
    """Good's mapping for n = first * second without common factor: no twiddle factors.

    With j = second j1 + first j2 (mod n), exp(-2 pi i j k / n) is the product of the factors for
    j1 (k mod first) and j2 (k mod second).
    """
    n = len(x)
    second = n // first
    rows = [
        _transform(b, [x[(second * j1 + first * j2) % n] for j1 in range(first)])
        for j2 in range(second)
    ]
    columns = [_complex_transform(b, [row[k] for row in rows]) for k in range(first // 2 + 1)]
    spectrum = []
    for k in range(n // 2 + 1):
        k1, k2 = k % first, k % second
        if 2 * k1 <= first:
            value = columns[k1][k2]
        else:
            value = _conjugate(columns[first - k1][-k2 % second])
        real = k == 0 or 2 * k == n
        spectrum.append((value[0], None) if real else value)
    return spectrum


def _decimate(b: Builder, x: Sequence[_Real], radix: int) -> list[_Complex]:
    """Decimation in time: `radix` transforms of every radix-th value, twiddles, then across."""
    n = len(x)
    m = n // radix
    parts = [_transform(b, x[j::radix]) for j in range(radix)]
    spectrum: dict[int, _Complex] = {}
    for k in range(m // 2 + 1):
        across = _complex_transform(b, [_twiddle(b, j * k, n, parts[j][k]) for j in range(radix)])
        for q in range(radix):
            index = k + m * q
            if 2 * index <= n:
                spectrum.setdefault(index, across[q])
            else:
                spectrum.setdefault(n - index, _conjugate(across[q]))
    return [
        (spectrum[k][0], None) if k == 0 or 2 * k == n else spectrum[k] for k in range(n // 2 + 1)
    ]


def _split_radix(b: Builder, x: Sequence[_Real]) -> list[_Complex]:
    """Even values by one transform of n/2, odd ones by two of n/4.

    With a = w^k A[k], b = w^3k B[k]: X[k], X[k + n/2] = E[k] +- (a + b) and
    X[k + n/4], X[k + 3n/4] = E[k + n/4] -+ i (a - b).
    """
    n = len(x)
    quarter = n // 4
    evens, firsts, thirds = (
        _transform(b, x[s]) for s in (slice(0, None, 2), slice(1, None, 4), slice(3, None, 4))
    )
    spectrum: dict[int, _Complex] = {}
    for k in range(quarter // 2 + 1):
        one = _twiddle(b, k, n, firsts[k])
        three = _twiddle(b, 3 * k, n, thirds[k])
        sums, differences = _add(b, one, three), _times_minus_i(_sub(b, one, three))
        here, there = evens[k], _at(evens, k + quarter, n // 2)
        for index, value in (
            (k, _add(b, here, sums)),
            (n // 2 - k, _conjugate(_sub(b, here, sums))),
            (quarter + k, _add(b, there, differences)),
            (quarter - k, _conjugate(_sub(b, there, differences))),
        ):
            spectrum.setdefault(index, value)
    return [
        (spectrum[k][0], None) if k == 0 or 2 * k == n else spectrum[k] for k in range(n // 2 + 1)
    ]
