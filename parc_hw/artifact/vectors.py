"""Which inputs and outputs of the source model does a bundle carry, and how are layers sampled?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parc_hw.errors import InputError

__all__ = ["LAYER_SAMPLES", "TOLERANCE", "Vectors", "layer_samples", "sample", "scale"]

TOLERANCE = 1e-3  # of the standard deviation of the source's output; docs/accuracy.md
LAYER_SAMPLES = 256  # values kept of a layer: 140 layers then take 140 KB, less than one image

_Array = np.ndarray[Any, Any]


def scale(reference: _Array) -> float:
    """What an error is measured against: the standard deviation of the reference.

    The largest magnitude where all values are equal (a single logit, say), 1 where all are zero.
    """
    spread = float(np.std(reference, dtype=np.float64))
    return spread or float(np.max(np.abs(reference), initial=0.0)) or 1.0


def sample(memory: _Array) -> _Array:
    """At most `LAYER_SAMPLES` values of an array in memory order, at floor(i * size / count)."""
    flat = memory.reshape(-1)
    count = min(LAYER_SAMPLES, flat.size)
    return flat[np.arange(count) * flat.size // max(count, 1)]


def layer_samples(value: _Array, order: Sequence[int]) -> _Array:
    """Sample a layer's reference value as the library stores it.

    Parameters
    ----------
    value : array
        In the logical order of the source model (NCHW).
    order : sequence of int
        `Layer.order`: order[k] is the logical axis stored at memory position k.
    """
    if sorted(order) != list(range(value.ndim)):
        raise InputError(
            f"a value of shape {value.shape} cannot be stored in order {tuple(order)}; the order "
            f"must name each of its {value.ndim} axes once."
        )
    return sample(np.ascontiguousarray(np.transpose(value, order), np.float32))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Vectors:
    """Inputs and what the source model makes of them.

    Parameters
    ----------
    inputs, outputs : sequence of tuples of float32 arrays
        One tuple per vector, in the model's order, of the model's logical shapes. A model with
        one input may give the array itself.
    layers : mapping of int to float32 array
        For layers whose reference is known: `layer_samples` of their value for the first vector.
    """

    inputs: Sequence[tuple[_Array, ...]]
    outputs: Sequence[tuple[_Array, ...]]
    layers: Mapping[int, _Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs"):
            items = tuple(
                (item,) if isinstance(item, np.ndarray) else tuple(item)
                for item in getattr(self, name)
            )
            object.__setattr__(self, name, items)
        if not self.inputs or len(self.inputs) != len(self.outputs):
            raise InputError(
                f"{len(self.inputs)} input vectors and {len(self.outputs)} output vectors; a bundle "
                "needs at least one, and as many outputs as inputs."
            )

    def check(self, inputs: Sequence[tuple[int, ...]], outputs: Sequence[tuple[int, ...]]) -> None:
        """Raise InputError unless every array is float32, finite and of its tensor's shape."""
        for kind, shapes, vectors in (
            ("input", inputs, self.inputs),
            ("output", outputs, self.outputs),
        ):
            for number, arrays in enumerate(vectors):
                seen = [(str(a.dtype), tuple(a.shape)) for a in arrays]
                if seen != [("float32", tuple(shape)) for shape in shapes]:
                    raise InputError(
                        f"test vector {number}: {kind}s are {seen}; accepted are float32 arrays "
                        f"of shapes {[tuple(s) for s in shapes]}."
                    )
                if not all(np.isfinite(a).all() for a in arrays):
                    raise InputError(
                        f"test vector {number}: an {kind} holds NaN or infinity. Look for an "
                        "overflow in the source model, or for broken weights."
                    )
