"""How do words become the lines that a Verilog test bench reads with `$readmemh`?

One word per line in hexadecimal, two's complement, as many digits as the width needs; complex words
have the real part first, on a line of its own. `.mem` files begin with comments that say so, as
`$readmemh` allows; `.hex` files hold the words and nothing else.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.qformat import QFormat, as_format
from parc_hw.errors import InputError

__all__ = ["hex_lines", "mem_text", "read_hex"]


def hex_lines(raw: ArrayLike, fmt: QFormat | str) -> list[str]:
    """Return the words of `raw`, last axis fastest, as hexadecimal digits.

    Parameters
    ----------
    raw : int array, any shape
        Stored integers of `fmt`.
    fmt : QFormat or str
        Its bits, rounded up to whole digits, are the width; the sign is repeated into the rest.

    Examples
    --------
    >>> hex_lines([[-1, 2], [-128, 127]], "Q1.7")
    ['ff', '02', '80', '7f']
    >>> hex_lines([-1, 1], "Q1.9")
    ['fff', '001']
    """
    fmt = as_format(fmt)
    words = fmt.words(raw)
    digits = -(-fmt.bits // 4)
    mask = (1 << (4 * digits)) - 1
    return [f"{int(word) & mask:0{digits}x}" for word in words.reshape(-1)]


def mem_text(raw: ArrayLike, fmt: QFormat | str, *, name: str, order: str) -> str:
    """Return a `.mem` file: what the words are, then one per line.

    Parameters
    ----------
    raw, fmt
        As for `hex_lines`.
    name : str
        What the words are, for the comment.
    order : str
        The axes, slowest first, such as "batch, channel, row, column".

    Examples
    --------
    >>> print(mem_text([[-1, 2]], "Q1.7", name="input", order="line, point"), end="")
    // input: 2 words of Q1.7, 8 bits, two's complement, 2 hexadecimal digits
    // order: line, point; shape 1 x 2, the last axis fastest
    ff
    02
    """
    fmt = as_format(fmt)
    words = fmt.words(raw)
    shape = " x ".join(map(str, words.shape))
    kind = "two's complement" if fmt.signed else "unsigned"
    head = (
        f"// {name}: {words.size} words of {fmt}, {fmt.bits} bits, {kind}, "
        f"{-(-fmt.bits // 4)} hexadecimal digits",
        f"// order: {order}; shape {shape}, the last axis fastest",
    )
    return "\n".join((*head, *hex_lines(words, fmt))) + "\n"


def read_hex(text: str, fmt: QFormat | str) -> NDArray[Any]:
    r"""Return the words of a `.hex` or `.mem` text, as `$readmemh` reads them.

    Raises
    ------
    InputError
        A line that is no word of `fmt`; names it.

    Examples
    --------
    >>> read_hex("// two words\nff\n02\n", "Q1.7")
    array([-1,  2])
    """
    fmt = as_format(fmt)
    digits = -(-fmt.bits // 4)
    words = []
    for number, line in enumerate(text.splitlines(), start=1):
        word = line.partition("//")[0].strip()
        if not word:
            continue
        try:
            value = int(word, 16)
        except ValueError:
            value = -1
        if len(word) != digits or value < 0:
            raise InputError(
                f"line {number}: {word!r} is no word of {fmt}; expected {digits} hexadecimal digits."
            )
        if fmt.signed and value >> (4 * digits - 1):
            value -= 1 << (4 * digits)
        words.append(value)
    return fmt.words(np.array(words, fmt.dtype))
