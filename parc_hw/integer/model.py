"""What does a whole model compute in given formats, and what does each layer lose?"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.integer.operators import Ending, input_words
from fixedpoint.integer.parallel import over_batches
from fixedpoint.qformat import QFormat
from parc_hw.errors import InputError, nearest
from parc_hw.integer.calibrate import choose_formats, observe
from parc_hw.integer.datapath import ModelDatapath, load_datapath
from parc_hw.integer.execute import Prepared, prepare_layer
from parc_hw.integer.network import Layer, Network, real_value
from parc_hw.integer.reading import read_network

if TYPE_CHECKING:
    from parc_hw.importers import Imported

__all__ = ["DTYPES", "IntegerModel", "LayerTrace", "Logits", "calibration_images", "quantize_model"]

DTYPES: Final = {"int8": 8, "int16": 16}
CALIBRATION_CANVASES: Final = 256
CALIBRATION_PHOTOGRAPHS: Final = 4

Words = NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class Logits:
    """A model's output: `raw` int64 (n, ...) words of `format`, and what they stand for."""

    raw: NDArray[np.int64]
    format: QFormat

    @property
    def values(self) -> NDArray[np.float64]:
        """The real numbers, exactly."""
        return np.asarray(self.raw * self.format.lsb, np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTrace:
    """What one layer did on some images.

    Attributes
    ----------
    name, kind : str
    format : str
        Of its words.
    shape : tuple of int
        Of one image's words, in memory order.
    words : int
        How many were looked at.
    peak_raw : int
        Largest magnitude of a word.
    headroom_bits : float
        log2 of the format's largest word over `peak_raw`; inf where all words are 0.
    saturated_fraction : float
        Share of words at an end of the format (or of a clip that the layer has), driven there or
        belonging there.
    sqnr_local_db : float
        This layer's own loss: its weights, bias and output rounded, its operands real. What a
        table or an integer root loses beyond that is below half an LSB and counts in `sqnr_db`.
    sqnr_db : float
        Cumulative: its words against the real model's values.
    accumulator_bits : int
        Signed word that holds every exact result for any input; 0 where nothing is computed.
    macs : int
        Multiply-accumulates of one image.
    weight_bits : int or None
    """

    name: str
    kind: str
    format: str
    shape: tuple[int, ...]
    words: int
    peak_raw: int
    headroom_bits: float
    saturated_fraction: float
    sqnr_local_db: float
    sqnr_db: float
    accumulator_bits: int
    macs: int
    weight_bits: int | None

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


class IntegerModel:
    """A model in integers, by docs/integer_rule.md.

    Parameters
    ----------
    network : Network
    datapath : ModelDatapath
        Formats for every layer that has one, and for no other.

    Attributes
    ----------
    network, datapath
    layers : tuple of Prepared
        The layers with their words, in execution order: what a library or a program would hold.

    Raises
    ------
    InputError
        A layer without formats, formats without a layer (the nearest is named), weight formats
        that do not fit the layer.
    FormatError
        A format of another kind than signed words of 2 to 32 bits, or an exact result that the
        arithmetic cannot hold: says which.
    """

    def __init__(self, network: Network, datapath: ModelDatapath) -> None:
        self.network, self.datapath = network, datapath
        names = {layer.name for layer in network.layers if layer.has_format}
        unknown = [name for name in datapath.layers if name not in names]
        if unknown:
            raise InputError(
                f"{network.name} has no layer {unknown[0]!r} with a format."
                f"{nearest(unknown[0], names)} The datapath is for {datapath.model}."
            )
        missing = [
            layer.name
            for layer in network.layers
            if layer.has_format and layer.name not in datapath.layers
        ]
        if missing:
            raise InputError(
                f"the datapath has no formats for {len(missing)} of {len(names)} layers of "
                f"{network.name}: {', '.join(missing[:5])}{', ...' if missing[5:] else ''}."
            )
        prepared: list[Prepared] = []
        for layer in network.layers:
            operands = [prepared[used].format for used in layer.inputs]
            formats = datapath.layers.get(layer.name)
            if layer.kind == "input":
                assert formats is not None
                ending = Ending(format=formats.output, rounding=datapath.rounding)
                prepared.append(Prepared(layer=layer, format=ending.format, run=_no_operands))
            else:
                prepared.append(prepare_layer(layer, operands, formats, datapath.rounding))
        self.layers = tuple(prepared)

    def __repr__(self) -> str:
        return f"<IntegerModel {self.network.name}, {len(self.layers)} layers>"

    @property
    def output_format(self) -> QFormat:
        """The format of the output's words."""
        return self.layers[self.network.output].format

    def input_words(self, x: ArrayLike) -> Words:
        """The words of images (n, C, H, W), in memory order (n, H, W, C); errors as `run`."""
        images = self.network.in_memory(self.network.images(x))
        ending = Ending(format=self.layers[0].format, rounding=self.datapath.rounding)
        return input_words(images, ending)

    def run(self, x: ArrayLike) -> Logits:
        """Compute the model for images (n, C, H, W), real numbers as the float model takes them.

        Raises
        ------
        InputError
            Another shape, no image, or a value that is not finite.
        """
        images = self.network.images(x)

        def output(block: slice) -> Words:
            walk = enumerate(self._walk(images[block]))
            return next(step[2] for number, step in walk if number == self.network.output)

        results = over_batches(output, list(self.network.blocks(len(images))))
        return Logits(np.concatenate(results).astype(np.int64), self.output_format)

    def words(self, x: ArrayLike, layers: Collection[str]) -> dict[str, Words]:
        """Return the words of the named layers, each (n, ...) in memory order (channels last).

        Raises
        ------
        InputError
            As `run`; an unknown layer, with the nearest name.
        """
        self.network.check_names(layers)
        images = self.network.images(x)
        found: dict[str, list[Words]] = {name: [] for name in layers}
        for block in self.network.blocks(len(images)):
            for layer, _, words in self._walk(images[block]):
                if layer.name in found:
                    found[layer.name].append(words)
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def trace(self, x: ArrayLike) -> list[LayerTrace]:
        """Run images (n, C, H, W) in integers and in float32 beside each other, layer by layer.

        Returns
        -------
        list of LayerTrace
            In execution order, layers that only move words left out.

        Raises
        ------
        InputError
            As `run`.
        """
        images = self.network.images(x)
        seen = [_Seen(prepared) for prepared in self.layers]
        constants = [prepared.real_constants() for prepared in self.layers]
        for block in self.network.blocks(len(images)):
            both = zip(
                self.network.real_walk(images[block]), self._walk(images[block]), strict=True
            )
            for number, ((layer, operands, value), (_, _, words)) in enumerate(both):
                if not layer.has_format:
                    continue
                weight, bias = constants[number]
                local = value if weight is None else real_value(layer, operands, weight, bias)
                seen[number].add(value, local, words, self.datapath)
        return [one.trace() for one in seen if one.prepared.layer.has_format]

    def _walk(self, images: NDArray[np.float32]) -> Iterator[tuple[Layer, list[Words], Words]]:
        run = {id(prepared.layer): prepared.run for prepared in self.layers}
        return self.network.walk(
            self.input_words(images), lambda layer, operands: run[id(layer)](operands)
        )


def _no_operands(values: Sequence[Words]) -> Words:
    raise AssertionError("the input's words come from outside")


class _Seen:
    """Sums over blocks of images for one layer's trace."""

    def __init__(self, prepared: Prepared) -> None:
        self.prepared = prepared
        self.words = self.saturated = self.peak = 0
        self.signal = self.noise = self.local_noise = 0.0

    def add(
        self, value: NDArray[Any], local: NDArray[Any], words: Words, datapath: ModelDatapath
    ) -> None:
        layer, fmt = self.prepared.layer, self.prepared.format
        ending = Ending(
            format=fmt, rounding=datapath.rounding, lowest=layer.lowest, highest=layer.highest
        )
        exact = value.astype(np.float64)
        self.words += words.size
        self.peak = max(self.peak, int(np.abs(words.astype(np.int64)).max()))
        # The low end of a ReLU is where words belong: only the format's own ends count there.
        at_low = 0 if layer.lowest == 0.0 else int((words == ending.lo).sum())
        self.saturated += at_low + int((words == ending.hi).sum())
        self.signal += float((exact**2).sum())
        self.noise += float(((words * fmt.lsb - exact) ** 2).sum())
        rounded = input_words(local, ending) * fmt.lsb
        self.local_noise += float(((rounded - exact) ** 2).sum())

    def trace(self) -> LayerTrace:
        layer, fmt = self.prepared.layer, self.prepared.format
        weights = self.prepared.weight
        return LayerTrace(
            name=layer.name,
            kind=layer.kind,
            format=str(fmt),
            shape=layer.shape[1:],
            words=self.words,
            peak_raw=self.peak,
            headroom_bits=math.log2(fmt.max_raw / self.peak) if self.peak else math.inf,
            saturated_fraction=self.saturated / self.words,
            sqnr_local_db=_decibel(self.signal, self.local_noise),
            sqnr_db=_decibel(self.signal, self.noise),
            accumulator_bits=self.prepared.accumulator_bits,
            macs=layer.macs,
            weight_bits=None if weights is None else self._weight_bits(),
        )

    def _weight_bits(self) -> int:
        """Bits of the narrowest word that holds every weight as it is used."""
        assert self.prepared.weight is not None
        return int(np.abs(self.prepared.weight).max()).bit_length() + 1


def _decibel(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return 10 * math.log10(signal / noise) if signal else -math.inf


def calibration_images(name: str) -> NDArray[np.float32]:
    """Images to calibrate a model of the zoo on: training canvases, or photographs.

    Parameters
    ----------
    name : str
        Of the zoo. A canvas network gets `CALIBRATION_CANVASES` training canvases, the others the
        photographs that scikit-image ships, prepared as the model expects them.
    """
    from parc_hw import models
    from parc_hw.models.samples import photographs

    info = models.info(name)
    if info.trained:
        from parc_hw.models.canvas_data import canvases

        return canvases("train", CALIBRATION_CANVASES, seed=0)[0]
    _, _, height, width = info.input_shape
    return photographs(
        CALIBRATION_PHOTOGRAPHS,
        height,
        width,
        mean=info.mean,
        std=info.std,
        channel_order=info.channel_order,
    )


def quantize_model(
    model: str | Imported | Network,
    dtype: str | None = None,
    *,
    bits: int | None = None,
    calibration: ArrayLike | None = None,
    method: str = "minmax",
    datapath: ModelDatapath | str | Path | None = None,
    weights: str | Path | None = None,
    seed: int | None = None,
) -> IntegerModel:
    """Read a model, choose its formats from data, and quantise it.

    Parameters
    ----------
    model : str, Imported or Network
        As `read_network`.
    dtype : {"int8", "int16"}, or None
        Word length of every layer and weight; "int8" where nothing else is given.
    bits : int, optional
        Any other word length, 2 to 24.
    calibration : array, shape (n, C, H, W), optional
        Images to take the ranges from. A zoo model has its own (`calibration_images`).
    method : {"minmax", "percentile", "mse"}
    datapath : ModelDatapath or path of a datapath file, optional
        Formats to take as they are, instead of dtype, bits, calibration and method.
    weights, seed
        As `read_network`.

    Returns
    -------
    IntegerModel

    Raises
    ------
    InputError
        Arguments that are not acceptable or do not belong together, empty or NaN calibration.
    UnsupportedError
        Operators that the rule does not have: all of them, with their places.
    FormatError
        Formats too wide for exact arithmetic: says which product.
    """
    if datapath is not None:
        given = [
            name
            for name, value in (("dtype", dtype), ("bits", bits), ("calibration", calibration))
            if value is not None
        ]
        if given:
            raise InputError(
                f"{', '.join(given)} and datapath: a datapath has all formats already. Give one."
            )
        if not isinstance(datapath, ModelDatapath):
            datapath = load_datapath(datapath)
        return IntegerModel(read_network(model, weights=weights, seed=seed), datapath)
    if dtype is not None and bits is not None:
        raise InputError(f"dtype {dtype!r} and bits {bits}: give one of them.")
    if bits is None:
        dtype = "int8" if dtype is None else dtype
        if dtype not in DTYPES:
            raise InputError(
                f"unknown dtype {dtype!r}: one of {', '.join(DTYPES)}, or bits=N."
                f"{nearest(str(dtype), DTYPES)}"
            )
        bits = DTYPES[dtype]
    network = read_network(model, weights=weights, seed=seed)
    if calibration is None:
        if not isinstance(model, str):
            raise InputError(
                f"{network.name}: give calibration images, (n, "
                f"{', '.join(map(str, network.input_shape))}); only a zoo model has its own."
            )
        calibration = calibration_images(model)
    seen = observe(network, calibration)
    return IntegerModel(network, choose_formats(network, seen, bits=bits, method=method))
