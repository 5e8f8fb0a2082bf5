"""What does a network lose in whole numbers, on pictures that no training saw?

The answers of every picture are kept, so that two formats can be compared picture by picture. A
network whose weights were filled and not trained has no right answers: its figure is the agreement
with its own real-valued form, and nothing here calls that accuracy.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.study.cost import Cost, Tally
from parc_hw.study.histogram import histogram
from parc_hw.study.knobs import Values
from parc_hw.study.spec import CanvasData, StudySpec

if TYPE_CHECKING:
    from parc_hw.integer import Calibration, IntegerModel, ModelDatapath, Network

__all__ = ["NetworkSubject"]

PART = 1000  # canvases of one seed, as `parc_hw.models.canvas_train` tests them
_SECONDS_PER_CANVAS = {"integer": 0.004, "float": 0.002}  # one thread; the order of magnitude


class NetworkSubject:
    """A canvas network with all layers in whole numbers, or in real ones.

    Parameters
    ----------
    spec : StudySpec
        Of a study of "model".
    """

    def __init__(self, spec: StudySpec) -> None:
        assert isinstance(spec.data, CanvasData)
        self.spec = spec
        self.data = spec.data

    def parts(self, point: Values) -> int:
        """One per seed of the canvases."""
        return -(-self.data.canvases // PART)

    def evaluate(self, point: Values, part: int) -> dict[str, Any]:
        """Classify the canvases of one seed.

        Returns
        -------
        dict
            "answers", "real" (those of the real-valued network) and "labels", lists of int;
            "trained".
        """
        name = point["model"]
        images, labels = _pictures(self.data.seed + part, self._count(part))
        real = _real_answers(name, self.data.seed + part, self._count(part))
        if point["arithmetic"] == "float":
            answers = real
        else:
            answers = self._model(point).run(images).values.argmax(axis=1)
        return {
            "answers": answers.tolist(),
            "real": real.tolist(),
            "labels": labels.tolist(),
            "trained": bool(_network(name).trained),
        }

    def merge(self, point: Values, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Return agreement and, of a trained network, accuracy, with Wilson intervals."""
        from parc_hw.integer import Share

        answers = np.concatenate([part["answers"] for part in parts])
        real = np.concatenate([part["real"] for part in parts])
        labels = np.concatenate([part["labels"] for part in parts])
        shares = {"agreement": answers == real}
        if all(part["trained"] for part in parts):
            shares["accuracy"] = answers == labels
        metrics: dict[str, Any] = {"canvases": len(answers)}
        for name, right in shares.items():
            share = Share.of_count(int(right.sum()), len(right))
            metrics |= {name: share.share, f"{name}_low": share.low, f"{name}_high": share.high}
        lists = {"answers": answers, "real": real, "labels": labels}
        return metrics | {name: values.tolist() for name, values in lists.items()}

    def details(self, point: Values) -> dict[str, Any]:
        """Compare layer by layer with the real-valued network, and show where values lie.

        Returns
        -------
        dict
            "layers": a row per layer; "ranges": a histogram per layer, the input first;
            "datapath": the file's text.
        """
        images, _ = _pictures(self.data.seed, self.data.traced)
        if point["arithmetic"] == "float":
            return {"layers": [], "ranges": []}
        model = self._model(point)
        rows = [row.as_dict() for row in model.trace(images)]
        names = [row["name"] for row in rows]
        words = model.words(images, layers=names)
        formats = {row["name"]: row["format"] for row in rows}
        return {
            "layers": rows,
            "ranges": [histogram(name, words[name], formats[name]) for name in names],
            "datapath": {"suffix": ".toml", "text": self.formats(point).as_toml()},
        }

    def cost(self, point: Values) -> Cost:
        """Multiplications, weights and the largest activation maps of one picture."""
        tally = Tally()
        network = _network(point["model"])
        real = point["arithmetic"] == "float"
        # A float32 multiplier multiplies the 24 bits of two significands.
        weight, data = (24, 24) if real else (point["weight_bits"], point["activation_bits"])
        stored = 32 if real else weight
        for layer in network.layers:
            if layer.has_weights:
                tally.multiply(data, weight, times=layer.macs)
                tally.add(data + weight, times=layer.macs)
                tally.store(stored, words=layer.weight_words)
        return tally.cost(self.spec.cost)

    def seconds(self, point: Values) -> float:
        """Rough: a time per canvas."""
        return self.data.canvases * _SECONDS_PER_CANVAS[point["arithmetic"]]

    def formats(self, point: Values) -> ModelDatapath:
        """Return the formats of all layers, chosen from calibration data."""
        return _formats(
            point["model"],
            self.data.calibration,
            point["activation_bits"],
            point["weight_bits"],
            point["calibration"],
            point["rounding"],
        )

    def _model(self, point: Values) -> IntegerModel:
        return _integer_model(point["model"], self.formats(point))

    def _count(self, part: int) -> int:
        return min(PART, self.data.canvases - part * PART)


# What a worker keeps. Tasks come part by part, so that one part's pictures serve all points.
@functools.lru_cache(maxsize=4)
def _pictures(seed: int, count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    from parc_hw.models.canvas_data import canvases

    return canvases("test", count, seed)


@functools.lru_cache(maxsize=8)
def _real_answers(name: str, seed: int, count: int) -> NDArray[np.int64]:
    from parc_hw.models.canvas_train import answers

    return answers(_real_network(name), _pictures(seed, count)[0])


@functools.lru_cache(maxsize=4)
def _real_network(name: str) -> Any:
    """The network as PyTorch computes it in float32."""
    from parc_hw.models import prepare

    return prepare(name)[0]


@functools.lru_cache(maxsize=4)
def _network(name: str) -> Network:
    from parc_hw.integer import read_network

    return read_network(name)


@functools.lru_cache(maxsize=4)
def _observed(name: str, count: int) -> Calibration:
    from parc_hw.integer import observe
    from parc_hw.models.canvas_data import canvases

    return observe(_network(name), canvases("train", count, 0)[0])


@functools.lru_cache(maxsize=256)
def _formats(
    name: str, count: int, bits: int, weight_bits: int, method: str, rounding: str
) -> ModelDatapath:
    from fixedpoint import parse_rounding
    from parc_hw.integer import choose_formats

    seen = _observed(name, count)
    found = choose_formats(_network(name), seen, bits=bits, weight_bits=weight_bits, method=method)
    return found.replace(rounding=parse_rounding(rounding))


@functools.lru_cache(maxsize=64)
def _integer_model(name: str, formats: ModelDatapath) -> IntegerModel:
    from parc_hw.integer import IntegerModel

    return IntegerModel(_network(name), formats)
