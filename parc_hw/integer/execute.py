"""How does a layer with its formats become an operator on words?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint.errors import FormatError
from fixedpoint.integer import operators
from fixedpoint.integer.operators import Ending
from fixedpoint.integer.tables import NAMES
from fixedpoint.modes import Rounding
from fixedpoint.qformat import QFormat
from parc_hw.errors import InputError
from parc_hw.integer.calibrate import fit_weights, operand_bound
from parc_hw.integer.datapath import LayerFormats
from parc_hw.integer.network import WEIGHTED, Layer, move

__all__ = ["Prepared", "prepare_layer"]

Ints = NDArray[np.int64]
Words = NDArray[np.int32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A layer ready to run.

    Attributes
    ----------
    layer : Layer
    format : QFormat
        Of its words.
    run : callable
        Words of the operands -> words.
    bound : int
        No exact result (accumulator) is larger in magnitude; 0 where nothing is computed.
    weight, bias : int64 arrays or None
        Words, shaped as the layer's own.
    frac_bits : int64 array or None
        Of each output channel's weights.
    bias_frac_bits : int64 array or None
    """

    layer: Layer
    format: QFormat
    run: Callable[[Sequence[Words]], Words]
    bound: int = 0
    weight: Ints | None = None
    bias: Ints | None = None
    frac_bits: Ints | None = None
    bias_frac_bits: Ints | None = None

    @property
    def accumulator_bits(self) -> int:
        """Bits of the narrowest signed word that holds every exact result; 0: nothing computed."""
        return self.bound.bit_length() + 1 if self.bound else 0

    def real_constants(self) -> tuple[NDArray[np.float64] | None, NDArray[np.float64] | None]:
        """What the words of weights and bias stand for."""
        if self.weight is None or self.bias is None:
            return None, None
        assert self.frac_bits is not None
        assert self.bias_frac_bits is not None
        weight = self.weight * _along(self.layer, self.weight, 2.0**-self.frac_bits)
        return weight, self.bias * _first(self.bias, 2.0**-self.bias_frac_bits)


def _along(layer: Layer, weight: NDArray[Any], per_channel: NDArray[Any]) -> NDArray[Any]:
    """Numbers per output channel, shaped to multiply the layer's weights."""
    shape = [1] * weight.ndim
    shape[WEIGHTED[layer.kind]] = -1
    return per_channel.reshape(shape)


def _first(bias: NDArray[Any], per_channel: NDArray[Any]) -> NDArray[Any]:
    """Numbers per output channel, shaped to multiply the layer's bias."""
    return per_channel.reshape(-1, *[1] * (bias.ndim - 1))


def prepare_layer(
    layer: Layer,
    operands: Sequence[QFormat],
    formats: LayerFormats | None,
    rounding: Rounding,
) -> Prepared:
    """Quantise a layer's constants and prove its accumulators exact.

    Parameters
    ----------
    layer : Layer
    operands : sequence of QFormat
        Formats of the words it reads.
    formats : LayerFormats or None
        None for a layer that only moves words.
    rounding : Rounding

    Raises
    ------
    FormatError
        A sum of products, or another exact result, that the arithmetic cannot hold: says which.
    InputError
        Weight formats for a layer without weights, or none for one with; the wrong number of them.
    """
    if formats is None:
        return Prepared(layer=layer, format=operands[0], run=lambda values: move(layer, values))
    if layer.has_weights != (formats.weight_bits is not None):
        has = "has weights: give weight_bits" if layer.has_weights else "has no weights"
        raise InputError(f"{layer.name} {has}.")
    ending = Ending(
        format=formats.output, rounding=rounding, lowest=layer.lowest, highest=layer.highest
    )
    if layer.has_weights:
        return _weighted(layer, operands[0], formats, ending)
    operator = _operator(layer, operands, ending)
    run = _call(operator) if layer.kind != "concat" else operator
    bound = 0 if layer.kind == "concat" else operator.bound
    return Prepared(layer=layer, format=formats.output, run=run, bound=bound)


def _call(operator: Callable[..., Words]) -> Callable[[Sequence[Words]], Words]:
    return lambda values: operator(*values)


def _operator(layer: Layer, x: Sequence[QFormat], ending: Ending) -> Any:
    """The operator of a layer without weights."""
    name = layer.name
    if layer.kind in NAMES:
        return operators.Activation(layer.kind, x=x[0], ending=ending, name=name)
    if layer.kind in ("add", "subtract"):
        negative = layer.kind == "subtract"
        return operators.Sum(a=x[0], b=x[1], negative=negative, ending=ending, name=name)
    if layer.kind == "multiply":
        return operators.Product(a=x[0], b=x[1], ending=ending, name=name)
    if layer.kind == "matmul":
        count = layer.attrs["count"]
        return operators.MatrixProduct(a=x[0], b=x[1], count=count, ending=ending, name=name)
    if layer.kind == "mean":
        count, keep = layer.attrs["count"], layer.attrs["keep"]
        return operators.Mean(count, keep=keep, x=x[0], ending=ending, name=name)
    if layer.kind == "softmax":
        return operators.Softmax(layer.shape[-1], x=x[0], ending=ending, name=name)
    each = [
        operators.Requantize(
            frac_bits=fmt.frac_bits, bound=-fmt.min_raw, ending=ending, name=f"{name}: {fmt}"
        )
        for fmt in x
    ]
    if layer.kind == "concat":
        axis = layer.attrs["axis"]
        return lambda values: np.concatenate(
            [fit(value) for fit, value in zip(each, values, strict=True)], axis=axis
        )
    return each[0]  # clip


def _weighted(layer: Layer, x: QFormat, formats: LayerFormats, ending: Ending) -> Prepared:
    assert layer.weight is not None
    assert layer.bias is not None
    assert formats.weight_bits is not None
    bits = formats.weight_bits
    given = formats.weight_frac_bits
    if given is None:
        fractions = fit_weights(layer, x, bits)
    elif len(given) in (1, layer.channels):
        fractions = np.broadcast_to(np.array(given, np.int64), (layer.channels,))
    else:
        raise InputError(
            f"{layer.name}: weight_frac_bits has {len(given)} entries: expected 1 or "
            f"{layer.channels}, one per output channel."
        )
    limit = (1 << (bits - 1)) - 1
    scaled = np.rint(layer.weight * _along(layer, layer.weight, 2.0**fractions))
    weight = np.clip(scaled, -limit, limit).astype(np.int64)
    bias_fractions = fractions + operand_bound(layer, x)[0]
    starts = np.rint(layer.bias * _first(layer.bias, 2.0**bias_fractions))
    if np.abs(starts).max(initial=0.0) >= 2.0**operators.EXACT_BITS:
        raise FormatError(
            f"{layer.name}: a bias of {np.abs(layer.bias).max():.6g} has more than "
            f"{operators.EXACT_BITS} bits with the {int(bias_fractions.max())} fraction bits of "
            f"its products. Give its weights or its operand {x} fewer fraction bits."
        )
    bias = starts.astype(np.int64)
    common: dict[str, Any] = {
        "x": x,
        "frac_bits": fractions,
        "weight_bits": bits,
        "ending": ending,
        "name": layer.name,
    }
    operator: Any
    held: Any
    if layer.kind in ("linear", "convolution"):
        operator = held = operators.Linear(weight.reshape(-1, layer.channels), bias, **common)
        if layer.kind == "convolution":
            operator = operators.Convolution(held, layer.attrs["window"])
    elif layer.kind == "depthwise":
        operator = held = operators.Depthwise(weight, bias, layer.attrs["window"], **common)
    elif layer.kind == "layer_norm":
        operator = held = operators.LayerNorm(weight, bias, layer.attrs["epsilon"], **common)
    elif layer.kind == "affine":
        operator = held = operators.Affine(weight, bias, **common)
    else:
        kind = operators.Parc if layer.kind == "parc" else operators.ParcDense
        operator = held = kind(weight, bias, layer.attrs["axis"], **common)
    return Prepared(
        layer=layer,
        format=formats.output,
        run=_call(operator),
        bound=held.bound,
        weight=weight,
        bias=bias,
        frac_bits=np.array(fractions),
        bias_frac_bits=np.array(bias_fractions),
    )
