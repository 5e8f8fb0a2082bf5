"""Which integer graph is a butterfly of radix 2, 3, 4, 5 or 7, and how is it printed for numba?

`python -m fixedpoint.butterfly` writes `fixedpoint/_butterflies.py`, which is committed: numba keeps
compiled code on disk only for functions that come from a file.

A butterfly of odd radix p is computed in two graphs, because a datapath may cut words in between.
With h = (p - 1)/2, t_i = x_i + x_(p-i), d_i = x_i - x_(p-i), C and S the words for cos and sin of
2 pi i/p with F fraction bits (S negative for the inverse):

    inner:  y_0 = x_0 + sum t_i,   y_k = sum_i C_(ik) t_i,   y_(p-k) = sum_i S_(ik) d_i     k = 1..h
    outer:  X_0 = one y_0,   X_k = one x_0 + y_k - j y_(p-k),   X_(p-k) = one x_0 + y_k + j y_(p-k)

`one` is 2**F, or 2**g when the sums were cut to g fraction bits.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from parc_hw.dataflow import Add, Builder, Dag, Define, Input, Mul, Sub, Term, order
from parc_hw.errors import InputError

__all__ = ["constants_of", "inner", "outer", "source"]

_GENERATED = Path(__file__).with_name("_butterflies.py")
_MARK = 1009  # in a graph to be printed, the constant _MARK + i stands for constants[i]

_Complex = tuple[Term | None, Term | None]


def constants_of(radix: int) -> tuple[tuple[int, str], ...]:
    """What `constants[1:]` of a butterfly are: (i, "cos") or (i, "sin") of 2 pi i/radix.

    >>> constants_of(5)
    ((1, 'cos'), (2, 'cos'), (1, 'sin'), (2, 'sin'))
    """
    half = range(1, (radix + 1) // 2) if radix % 2 else range(0)
    return (*((i, "cos") for i in half), *((i, "sin") for i in half))


@cache
def inner(radix: int, constants: tuple[int, ...] = ()) -> Dag:
    """The graph from the inputs (re x_0, im x_0, re x_1, ...) to the words y, in the same order.

    Parameters
    ----------
    radix : int
        2, 3, 4, 5 or 7. For 2 and 4, y is the (forward) transform itself.
    constants : tuple of int
        (one, *C, *S) of an odd radix, in the order of `constants_of`.
    """
    builder = Builder(2 * radix)
    x: list[_Complex] = [(builder.input(2 * i), builder.input(2 * i + 1)) for i in range(radix)]

    def add(a: _Complex, b: _Complex) -> _Complex:
        return builder.add(a[0], b[0]), builder.add(a[1], b[1])

    def sub(a: _Complex, b: _Complex) -> _Complex:
        return builder.sub(a[0], b[0]), builder.sub(a[1], b[1])

    if radix == 2:
        y = [add(x[0], x[1]), sub(x[0], x[1])]
    elif radix == 4:
        even, odd = add(x[0], x[2]), add(x[1], x[3])
        p, (q_re, q_im) = sub(x[0], x[2]), sub(x[1], x[3])
        turned = (q_im, None if q_re is None else -q_re)  # -j q
        y = [add(even, odd), add(p, turned), sub(even, odd), sub(p, turned)]
    elif radix in (3, 5, 7):
        half = (radix - 1) // 2
        cosines, sines = constants[1 : 1 + half], constants[1 + half :]
        t = [add(x[i], x[radix - i]) for i in range(1, half + 1)]
        d = [sub(x[i], x[radix - i]) for i in range(1, half + 1)]
        y = [x[0]] * radix
        for part in t:
            y[0] = add(y[0], part)
        for k in range(1, half + 1):
            even_sum: _Complex = (None, None)
            odd_sum: _Complex = (None, None)
            for i in range(1, half + 1):
                # cos is even and sin odd in i k, modulo the radix
                m = i * k % radix
                near, sign = (m, 1) if m <= half else (radix - m, -1)
                c, s = cosines[near - 1], sign * sines[near - 1]
                a, b = t[i - 1], d[i - 1]
                even_sum = add(even_sum, (builder.mul(c, a[0]), builder.mul(c, a[1])))
                odd_sum = add(odd_sum, (builder.mul(s, b[0]), builder.mul(s, b[1])))
            y[k], y[radix - k] = even_sum, odd_sum
    else:
        raise InputError(f"no butterfly of radix {radix}; accepted: 2, 3, 4, 5, 7.")
    return builder.finish([part for pair in y for part in pair])


@cache
def outer(radix: int, one: int = 1) -> Dag:
    """The graph from (x_0, y_0, ..., y_(radix - 1)), complex, to X_0 ... of an odd radix."""
    builder = Builder(2 * radix + 2)
    x0, *y = ((builder.input(2 * i), builder.input(2 * i + 1)) for i in range(radix + 1))
    result: list[_Complex] = [(builder.mul(one, y[0][0]), builder.mul(one, y[0][1]))] * radix
    base = builder.mul(one, x0[0]), builder.mul(one, x0[1])
    for k in range(1, (radix + 1) // 2):
        re, im = builder.add(base[0], y[k][0]), builder.add(base[1], y[k][1])
        turn_re, turn_im = y[radix - k]
        result[k] = builder.add(re, turn_im), builder.sub(im, turn_re)
        result[radix - k] = builder.sub(re, turn_im), builder.add(im, turn_re)
    return builder.finish([part for pair in result for part in pair])


# ---------------------------------------------------------------- the printer
_HEAD = '''"""What do the stages of each radix compute on vectors of frames, compiled?

Written by `python -m fixedpoint.butterfly`; do not edit. In `stage` functions the points are tuples
of numbers and the words stay in registers; the others work on rows of scratch arrays.
"""

from __future__ import annotations

from fixedpoint._inside import inside
from fixedpoint._points import (
    ALIGN,
    DIF,
    INVERSE,
    LEGS,
    SUM_FIRST,
    TURN_FIRST,
    before,
    behind,
    through,
)
from fixedpoint._vector import load, store
'''


def _statements(dag: Dag, names: list[str], prefix: str) -> list[str]:
    """The graph on vectors: `names` are its inputs, {prefix}0, {prefix}1, ... its outputs."""
    lines, outputs = [], []
    for step in order(dag):
        match step:
            case Define(v, Input(k)):
                text = f"{prefix}v{v} = {names[k]}"
            case Define(v, Add(a, b)):
                text = f"{prefix}v{v} = {prefix}v{a} + {prefix}v{b}"
            case Define(v, Sub(a, b)):
                text = f"{prefix}v{v} = {prefix}v{a} - {prefix}v{b}"
            case Define(v, Mul(-1, a)):
                text = f"{prefix}v{v} = -{prefix}v{a}"
            case Define(v, Mul(c, a)):
                text = f"{prefix}v{v} = {'-' * (c < 0)}c{abs(int(c)) - _MARK} * {prefix}v{a}"
            case Define(_, node):
                raise TypeError(f"no way to print {node}")
            case _:
                outputs.append(f"{prefix}{step.output} = {prefix}v{step.value}")
                continue
        lines.append(text)
    return lines + outputs


def _marks(radix: int) -> tuple[int, ...]:
    return tuple(_MARK + i for i in range(1 + len(constants_of(radix))))


def _constants(radix: int) -> list[str]:
    return [f"c{i} = constants[{i}]" for i in range(len(_marks(radix)))] if radix % 2 else []


def _function(name: str, arguments: str, what: str, body: list[str]) -> list[str]:
    return [
        "",
        "",
        "@inside()",
        f"def {name}({arguments}):  # type: ignore[no-untyped-def]",
        f'    """{what}"""',
        *(f"    {line}" for line in body),
    ]


def _on_rows(radix: int) -> list[str]:
    """The butterfly from rows of x to rows of y; an odd radix in its two parts."""
    reads = [f"load(x, {k})" for k in range(2 * radix)]
    graph = inner(radix, _marks(radix))
    stores = [f"store(y, {k}, y{k})" for k in range(2 * radix)]
    if radix % 2 == 0:
        return _function(
            f"butterfly{radix}",
            "x, y",
            f"Rows 0 to {radix - 1} of x to their transform in y.",
            [*_statements(graph, reads, "y"), *stores],
        )
    again = ["load(x, 0)", "load(x, 1)", *(f"load(y, {k})" for k in range(2 * radix))]
    return [
        *_function(
            f"inner{radix}",
            "x, y, constants",
            f"Rows 0 to {radix - 1} of x to sums in y.",
            [*_constants(radix)[1:], *_statements(graph, reads, "y"), *stores],
        ),
        *_function(
            f"outer{radix}",
            "x, y, constants",
            f"Row 0 of x and the sums of `inner{radix}` in y to the transform in y.",
            [
                *_constants(radix)[:1],
                *_statements(outer(radix, _MARK), again, "z"),
                *(stored.replace(", y", ", z").replace("(z", "(y") for stored in stores),
            ],
        ),
    ]


def _in_registers(radix: int) -> list[str]:
    """A whole stage of an even radix."""
    pairs = [(2 * i, 2 * i + 1) for i in range(radix)]
    body = [f"r{i} = r{i - 1} + legs" for i in range(1, radix)]
    for i, (re, im) in enumerate(pairs):
        body += [f"x{re} = load(work, 2 * r{i})", f"x{im} = load(work, 2 * r{i} + 1)"]
    body.append("if not dif:")
    for i, (re, im) in enumerate(pairs):
        body += [
            f"    w, c, s = kind[r{i}], factor[r{i}, 0], factor[r{i}, 1]",
            f"    x{re}, x{im} = before(x{re}, x{im}, w, c, s, align, product)",
        ]
    body += _statements(inner(radix), [f"x{k}" for k in range(2 * radix)], "y")
    if radix == 4:
        body += ["if inverse:", "    y2, y3, y6, y7 = y6, y7, y2, y3"]
    ways = "sum_first, turn_first, product, total"
    body.append("if dif:")
    for i, (re, im) in enumerate(pairs):
        body += [
            f"    w, c, s = kind[r{i}], factor[r{i}, 0], factor[r{i}, 1]",
            f"    y{re}, y{im} = behind(y{re}, y{im}, w, c, s, {ways})",
        ]
    body.append("else:")
    body += [f"    y{k} = through(y{k}, total)" for k in range(2 * radix)]
    for i, (re, im) in enumerate(pairs):
        body += [f"store(work, 2 * r{i}, y{re})", f"store(work, 2 * r{i} + 1, y{im})"]
    return _function(
        f"stage{radix}",
        "work, kind, factor, option, product, total",
        f"A stage of radix {radix} on `work` (N, 2, lanes).",
        [
            "legs, dif, align = option[LEGS], option[DIF], option[ALIGN]",
            "sum_first, turn_first = option[SUM_FIRST], option[TURN_FIRST]",
            *(["inverse = option[INVERSE]"] if radix == 4 else []),
            f"for group in range(work.shape[0] // ({radix} * legs)):",
            "    for u in range(legs):",
            f"        r0 = group * {radix} * legs + u",
            *(f"        {line}" for line in body),
        ],
    )


def source() -> str:
    """The text of `fixedpoint/_butterflies.py`."""
    lines = _HEAD.splitlines()
    for radix in (2, 3, 4, 5, 7):
        lines += _on_rows(radix)
    for radix in (2, 4):
        lines += _in_registers(radix)
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    _GENERATED.write_text(source())
