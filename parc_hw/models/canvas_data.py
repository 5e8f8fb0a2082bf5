"""Which pictures do the canvas networks see, and what is the right answer for each?

A canvas shows three different digits on a noisy ground of stray bars. The answer is the digit
whose centre is nearest the top left corner: where things are decides which glyph counts, and
what that glyph is decides the class. The glyphs are the 8x8 digits that scikit-learn ships (UCI,
Optical Recognition of Handwritten Digits, test set; Alpaydin & Kaynak 1998).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields
from typing import Final, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from parc_hw.errors import InputError, ToolchainError, nearest

__all__ = [
    "CANVAS",
    "CLASSES",
    "DIGITS",
    "MARGIN",
    "Scenes",
    "Split",
    "canvases",
    "glyph_indices",
    "render",
    "scenes",
]

Split: TypeAlias = Literal["train", "test"]
SPLITS: Final[tuple[str, ...]] = get_args(Split)

CANVAS: Final = 112  # pixels along each side
CLASSES: Final = 10
DIGITS: Final = 3  # on each canvas, of three different classes
SCALES: Final = (4, 5)  # an 8x8 glyph becomes 32x32 or 40x40 pixels
MARGIN: Final = 12.0  # pixels by which the nearest centre is nearer than the second nearest
BARS: Final = 6  # stray bars of BAR x 2 or 2 x BAR pixels under the digits
BAR: Final = 16
NOISE: Final = 32  # every pixel gains 0 to NOISE - 1 of 255
GLYPH: Final = 8
_TRAIN_GLYPHS: Final = 1257  # of 1797, in the file's order: neighbours in it are alike
_BLOCK: Final = 256  # canvases drawn from one generator; a longer request only adds blocks

Ints: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenes:
    """What lies where on `n` canvases; `render` paints them.

    Attributes
    ----------
    glyphs : int array, shape (n, digits)
        Indices into scikit-learn's digits.
    classes : int array, shape (n, digits)
        The digits that the glyphs show, all different on one canvas.
    scales, rows, columns : int array, shape (n, digits)
        Pixels per glyph pixel, and the top left pixel of each glyph.
    contrasts : int array, shape (n, digits)
        Full ink in 1/255, 160 to 255.
    bars : int array, shape (n, BARS, 4)
        Row, column, whether upright, and ink of each stray bar.
    """

    glyphs: Ints
    classes: Ints
    scales: Ints
    rows: Ints
    columns: Ints
    contrasts: Ints
    bars: Ints

    @property
    def distances(self) -> npt.NDArray[np.float64]:
        """Distance of each glyph's centre from the top left corner in pixels, (n, digits)."""
        return _distances(self.rows, self.columns, self.scales)

    @property
    def labels(self) -> Ints:
        """The class of the glyph nearest the top left corner, shape (n,)."""
        first = self.distances.argmin(axis=1)
        return np.take_along_axis(self.classes, first[:, None], axis=1)[:, 0]


def canvases(
    split: Split, count: int, seed: int, *, digits: int = DIGITS
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Draw canvases and their answers.

    Parameters
    ----------
    split : "train" or "test"
        Which glyphs may appear; the two sets have none in common.
    count : int
        At least 0. The first canvases do not depend on it.
    seed : int
        At least 0; equal seeds give equal bytes.
    digits : int
        How many digits to show, 1 to 3; fewer than `DIGITS` is an easier task to start with.

    Returns
    -------
    images : float32 array, shape (count, 1, 112, 112)
        Ink in [0, 1], dark ground.
    labels : int64 array, shape (count,)
        The digit nearest the top left corner, by at least `MARGIN` pixels.

    Raises
    ------
    InputError
        An unknown split, a negative count or seed, a number of digits out of range.
    ToolchainError
        scikit-learn is not installed.

    Examples
    --------
    >>> images, labels = canvases("test", 2, seed=0)
    >>> images.shape, labels.shape
    ((2, 1, 112, 112), (2,))
    """
    chosen = scenes(split, count, seed, digits=digits)
    return render(chosen, split=split, seed=seed), chosen.labels


def scenes(split: Split, count: int, seed: int, *, digits: int = DIGITS) -> Scenes:
    """Draw what lies where on `count` canvases; arguments and errors as `canvases`."""
    _check(split, count, seed, digits)
    blocks = [_block(split, seed, block, digits) for block in range(max(1, -(-count // _BLOCK)))]
    return Scenes(
        **{
            field.name: np.concatenate([getattr(part, field.name) for part in blocks])[:count]
            for field in fields(Scenes)
        }
    )


def render(chosen: Scenes, *, split: Split, seed: int) -> npt.NDArray[np.float32]:
    """Paint scenes: bars, digits over them, noise over all; split and seed choose the noise.

    Returns
    -------
    float32 array, shape (n, 1, 112, 112)
        Ink in [0, 1]: whole numbers of 1/255, so equal bytes on every machine.
    """
    count = len(chosen.glyphs)
    ink = np.zeros((count, CANVAS, CANVAS), np.uint8)
    enlarged = {scale: _enlarged(scale) for scale in SCALES}
    for n in range(count):
        for row, column, upright, value in chosen.bars[n]:
            height, width = (BAR, 2) if upright else (2, BAR)
            ink[n, row : row + height, column : column + width] = value
        for k in range(chosen.glyphs.shape[1]):
            scale, row, column = chosen.scales[n, k], chosen.rows[n, k], chosen.columns[n, k]
            size = GLYPH * scale
            glyph = enlarged[int(scale)][chosen.glyphs[n, k]].astype(np.int64)
            place = ink[n, row : row + size, column : column + size]
            np.maximum(place, (glyph * chosen.contrasts[n, k] // 255).astype(np.uint8), out=place)
    for start in range(0, count, _BLOCK):
        part = ink[start : start + _BLOCK]
        noise = _generator(split, seed, start // _BLOCK, "noise").integers(
            0, NOISE, size=(_BLOCK, CANVAS, CANVAS), dtype=np.uint8
        )[: len(part)]
        # Saturating: ink + noise, at most 255.
        np.add(part, np.minimum(noise, 255 - part), out=part)
    return (ink[:, None].astype(np.float32)) / np.float32(255)


def glyph_indices(split: Split) -> Ints:
    """Indices into scikit-learn's digits of the glyphs that a split may show."""
    _check(split, 0, 0)
    total = len(_digits()[1])
    return np.arange(_TRAIN_GLYPHS) if split == "train" else np.arange(_TRAIN_GLYPHS, total)


def _check(split: str, count: int, seed: int, digits: int = DIGITS) -> None:
    if split not in SPLITS:
        raise InputError(
            f"unknown split {split!r}: one of {', '.join(SPLITS)}.{nearest(str(split), SPLITS)}"
        )
    for name, value in (("count", count), ("seed", seed)):
        if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < 0:
            raise InputError(f"{name} must be a whole number of at least 0, not {value!r}.")
    if digits not in range(1, DIGITS + 1):
        raise InputError(f"digits must be 1 to {DIGITS}, not {digits!r}.")


def _generator(split: str, seed: int, block: int, purpose: str) -> np.random.Generator:
    key = (SPLITS.index(split), int(seed), block, ("scene", "noise").index(purpose))
    return np.random.default_rng(np.random.SeedSequence(key))


def _block(split: Split, seed: int, block: int, digits: int) -> Scenes:
    rng = _generator(split, seed, block, "scene")
    shape = (_BLOCK, digits)
    classes = rng.permuted(np.tile(np.arange(CLASSES), (_BLOCK, 1)), axis=1)[:, :digits]
    pools = _pools(split)
    sizes = np.array([len(pool) for pool in pools])
    picks = rng.integers(0, sizes[classes])
    glyphs = np.array([pools[c][i] for c, i in zip(classes.flat, picks.flat, strict=True)])
    scales = rng.choice(SCALES, size=shape)
    rows, columns = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    pending = np.arange(_BLOCK)
    while pending.size:  # about one try in four stands, so this ends
        limit = CANVAS - GLYPH * scales[pending] + 1
        rows[pending], columns[pending] = rng.integers(0, limit), rng.integers(0, limit)
        legal = _legal(rows[pending], columns[pending], scales[pending])
        pending = pending[~legal]
    contrasts = rng.integers(160, 256, size=shape)
    bars = np.stack(
        [
            rng.integers(0, CANVAS - BAR + 1, size=(_BLOCK, BARS)),
            rng.integers(0, CANVAS - BAR + 1, size=(_BLOCK, BARS)),
            rng.integers(0, 2, size=(_BLOCK, BARS)),
            rng.integers(80, 200, size=(_BLOCK, BARS)),
        ],
        axis=-1,
    )
    return Scenes(
        glyphs=glyphs.reshape(shape),
        classes=classes,
        scales=scales,
        rows=rows,
        columns=columns,
        contrasts=contrasts,
        bars=bars,
    )


def _legal(rows: Ints, columns: Ints, scales: Ints) -> npt.NDArray[np.bool_]:
    """No two glyphs overlap, and the nearest centre is nearer by `MARGIN`."""
    sizes = GLYPH * scales
    legal = np.ones(len(rows), bool)
    for a in range(rows.shape[1]):
        for b in range(a):
            apart = np.zeros(len(rows), bool)
            for start in (rows, columns):
                apart |= start[:, a] >= start[:, b] + sizes[:, b]
                apart |= start[:, b] >= start[:, a] + sizes[:, a]
            legal &= apart
    ordered = np.sort(_distances(rows, columns, scales), axis=1)
    return legal & (ordered[:, 1:2] - ordered[:, :1] >= MARGIN).all(axis=1)


def _distances(rows: Ints, columns: Ints, scales: Ints) -> npt.NDArray[np.float64]:
    half = scales * GLYPH / 2
    return np.sqrt((rows + half) ** 2 + (columns + half) ** 2)


@functools.cache
def _digits() -> tuple[Ints, Ints]:
    """The glyphs, shape (1797, 8, 8), ink 0 to 16, and the digits they show."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ToolchainError(
            "canvases are made of the digits that scikit-learn ships, and it is not installed: "
            "pip install scikit-learn"
        ) from error
    data = load_digits()
    return data.images.astype(np.int64), data.target.astype(np.int64)


@functools.cache
def _pools(split: Split) -> list[Ints]:
    indices = glyph_indices(split)
    target = _digits()[1][indices]
    return [indices[target == digit] for digit in range(CLASSES)]


@functools.cache
def _enlarged(scale: int) -> npt.NDArray[np.uint8]:
    """All glyphs `scale` times larger, ink 0 to 255, bilinear between pixel centres.

    In whole numbers: the centre of output pixel i lies at (2i + 1 - scale) / (2 scale) glyph
    pixels, so every weight is a whole number of 1 / (2 scale).
    """
    images, _ = _digits()
    denominator = 2 * scale
    weights = np.zeros((GLYPH * scale, GLYPH), np.int64)
    for i in range(GLYPH * scale):
        place = min(max(2 * i + 1 - scale, 0), denominator * (GLYPH - 1))
        low, part = divmod(place, denominator)
        weights[i, low] += denominator - part
        weights[i, min(low + 1, GLYPH - 1)] += part
    enlarged = np.einsum("ik,nkl,jl->nij", weights, images, weights)
    return (enlarged * 255 // (16 * denominator**2)).astype(np.uint8)
