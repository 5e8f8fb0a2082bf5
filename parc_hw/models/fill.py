"""Which weights does an untrained model get, the same on every machine?

The rules are those that filled the authors' networks for the golden vectors (`tests/vectors`):
names of the official state_dict and integer hashing alone decide every number, so that a
network with the same keys gets the same weights, to the last bit.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from parc_hw.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["fill_model", "image", "parameter", "sample", "uniform"]

GAIN = 1.45  # 2 would be He's variance for ReLU; chosen so that activations keep their size
_MASK = (1 << 64) - 1


def uniform(name: str, count: int, seed: int) -> npt.NDArray[np.float64]:
    """`count` numbers in [-1, 1) that depend on name, place and seed alone.

    Each is the top 53 bits of splitmix64's finaliser on a counter that starts at a hash of
    name and seed.

    Raises
    ------
    InputError
        The seed does not fit 32 bits.
    """
    if isinstance(seed, bool) or not 0 <= seed < 1 << 32:
        raise InputError(f"seed must be a whole number from 0 to {(1 << 32) - 1}, not {seed!r}.")
    start = ((zlib.crc32(name.encode()) << 32) ^ seed) * 0x9E3779B97F4A7C15 & _MASK
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is meant
        z = np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0xD1342543DE82EF95)
        z += np.uint64(start)
        z ^= z >> np.uint64(30)
        z *= np.uint64(0xBF58476D1CE4E5B9)
        z ^= z >> np.uint64(27)
        z *= np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return (z >> np.uint64(11)).astype(np.float64) * 2.0**-53 * 2.0 - 1.0


def parameter(key: str, shape: tuple[int, ...], seed: int) -> npt.NDArray[Any]:
    """The value of one entry of a state_dict.

    Variances are kept near one through the network: statistics and scales lie around their
    neutral values, kernels have variance GAIN / fan_in, and a kernel that sums over channels
    has mean zero in each output row, so that large means of activations do not add up.

    Returns
    -------
    float32 array of `shape`; int64 zeros for `num_batches_tracked`.
    """
    last = key.rsplit(".", 1)[-1]
    if last == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    values = uniform(key, int(np.prod(shape)), seed)
    if last == "running_mean":
        values = 0.1 * values
    elif last == "running_var":
        values = 1 + 0.5 * values
    elif last == "pe" or last.startswith("meta_pe"):
        values = 0.3 * values
    elif last == "gamma" or last.startswith("layer_scale"):
        values = 0.5 + 0.25 * values
    elif len(shape) >= 2:
        values = values.reshape(shape[0], -1)
        if shape[1] > 1:  # not depthwise
            values = values - values.mean(axis=1, keepdims=True)
        # A uniform number on [-1, 1) has variance 1/3.
        values = np.sqrt(3.0 * GAIN / float(np.prod(shape[1:]))) * values
    elif last == "weight":  # of a norm
        values = 1 + 0.2 * values
    else:  # biases
        values = 0.1 * values
    return values.reshape(shape).astype(np.float32)


def image(shape: tuple[int, int, int, int], seed: int) -> npt.NDArray[np.float32]:
    """The input of the golden vectors: noise and a ramp per channel, NCHW, both extents > 1."""
    n, c, h, w = shape
    noise = uniform(f"input:{n}x{c}x{h}x{w}", n * c * h * w, seed).reshape(shape)
    rows = np.arange(h, dtype=np.float64).reshape(1, 1, h, 1) / (h - 1) - 0.5
    columns = np.arange(w, dtype=np.float64).reshape(1, 1, 1, w) / (w - 1) - 0.5
    channels = np.arange(c, dtype=np.float64).reshape(1, c, 1, 1) - 1
    return (noise + channels * rows * 2 + columns).astype(np.float32)


def sample(array: npt.ArrayLike, points: int = 256) -> npt.NDArray[Any]:
    """Up to `points` elements, evenly spaced in C order, as the golden vectors store them."""
    flat = np.asarray(array).reshape(-1)
    points = min(points, flat.size)
    return flat[np.arange(points, dtype=np.int64) * flat.size // points]


def fill_model(model: nn.Module, seed: int) -> None:
    """Set every parameter and buffer of `model` by `parameter`, from its state_dict key.

    A network that keeps the size of its activations only with trained statistics has a class
    attribute `fill_factors`, a mapping from the end of a key to what its value is multiplied by.

    Raises
    ------
    InputError
        The seed does not fit 32 bits.
    """
    import torch

    values = {
        key: torch.from_numpy(parameter(key, tuple(tensor.shape), seed))
        for key, tensor in model.state_dict().items()
    }
    for ending, factor in getattr(model, "fill_factors", {}).items():
        for key in values:
            if key.endswith(ending):
                values[key] *= factor
    model.load_state_dict(values, strict=True)
