"""How is a bundle opened and run from Python, whatever machine it is for?"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from parc_hw.artifact import manifest
from parc_hw.artifact.csource import MAX_THREADS, input_text
from parc_hw.artifact.emulated import EmulatedLibrary
from parc_hw.artifact.host import Bound, HostLibrary
from parc_hw.artifact.memory import check_memory
from parc_hw.artifact.vectors import Vectors
from parc_hw.device import Device
from parc_hw.errors import BundleError, InputError, MeasurementError

__all__ = ["Bundle", "Port", "Shape"]

_Array = np.ndarray[Any, Any]

# Directories whose content parc_hw itself relies on; examples and reports are the user's to edit.
_OURS = ("include", "lib", "src", "test/vectors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An input or output of a bundle: float32, of this logical shape."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One set of input shapes that a bundle accepts, and what it computes for it."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    layers: list[dict[str, Any]]  # the manifest's, in the order in which they run

    @property
    def text(self) -> str:
        """The shapes of the inputs, e.g. `1x3x224x224`."""
        return input_text(self.inputs)


class Bundle:
    """A bundle on disk. `Bundle.open` checks it; `run` computes.

    A bundle for this machine's CPU family is loaded into the process; one for another machine
    runs under qemu.

    Attributes
    ----------
    path : Path
        Its directory.
    manifest : dict
        The content of manifest.json.
    name : str
        What its C names begin with.
    device : Device
        What it was compiled for.
    shapes : tuple of Shape
        The input shapes that it accepts, each with its outputs and layers.
    inputs, outputs : tuple of Port
        Names and shapes in the model's order, of the first of `shapes`.
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.manifest = record
        self.name: str = record["name"]
        try:
            self.device = Device.from_json(record["device"])
        except (TypeError, ValueError) as error:
            raise BundleError(
                f"{path}/manifest.json describes a device that this version does not understand: "
                f"{error} Compile the bundle again."
            ) from None
        self.shapes = tuple(
            Shape(
                inputs=tuple(map(_port, entry["inputs"])),
                outputs=tuple(map(_port, entry["outputs"])),
                layers=entry["layers"],
            )
            for entry in record["shapes"]
        )
        self.inputs, self.outputs = self.shapes[0].inputs, self.shapes[0].outputs
        self._bound: dict[tuple[int, int], Bound] = {}
        self._lock = threading.Lock()

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Open the bundle at `path`.

        Raises
        ------
        BundleError
            No bundle, an unknown or broken manifest, a file that is missing, or a library,
            header, weights file or test vector that was changed; says which.
        """
        root = Path(path)
        record = manifest.read(root)
        for name, expected in record["files"].items():
            file = root / name
            if not file.is_file():
                raise BundleError(f"{root} is incomplete: {name} is missing. Compile it again.")
            try:
                changed = name.startswith(_OURS) and manifest.file_hash(file) != expected
            except OSError as error:
                raise BundleError(f"{file} cannot be read: {error.strerror}.") from None
            if changed:
                raise BundleError(
                    f"{root} is corrupt: {name} is not the file that was written (its SHA-256 "
                    "differs). Compile it again, or copy the whole directory again."
                )
        return cls(root, record)

    @property
    def layers(self) -> list[dict[str, Any]]:
        """The manifest's layers for the first of `shapes`, in the order in which they run."""
        return self.shapes[0].layers

    @property
    def runs_here(self) -> bool:
        """Whether the library is loaded into this process; otherwise qemu runs it."""
        return self.device.runs_here

    @cached_property
    def _weights(self) -> Path:
        return self.path / "src" / f"{self.name}_weights.bin"

    @cached_property
    def _host(self) -> HostLibrary:
        return HostLibrary(
            self.path / "lib" / f"lib{self.name}.so",
            name=self.name,
            device=self.device,
            weights=self._weights,
        )

    @cached_property
    def _foreign(self) -> EmulatedLibrary:
        return EmulatedLibrary(
            self.path,
            name=self.name,
            device=self.device,
            weights=self._weights,
            output_shapes=[[port.shape for port in shape.outputs] for shape in self.shapes],
            inputs=len(self.inputs),
        )

    def _check(self, inputs: tuple[_Array, ...]) -> int:
        """The number of the shape these inputs have; InputError unless the library accepts them."""
        accepted = "; or ".join(
            ", ".join(f"{p.name}: float32 {'x'.join(map(str, p.shape))}" for p in shape.inputs)
            for shape in self.shapes
        )
        if len(inputs) != len(self.inputs):
            raise InputError(
                f"{len(inputs)} inputs were given; {self.name} takes {len(self.inputs)} ({accepted})."
            )
        for port, array in zip(self.inputs, inputs, strict=True):
            if not isinstance(array, np.ndarray):
                raise InputError(
                    f"input {port.name!r} is a {type(array).__name__}; accepted is a numpy array "
                    f"({accepted})."
                )
            if array.dtype != np.float32:
                raise InputError(
                    f"input {port.name!r} has dtype {array.dtype}; accepted is float32. Convert it "
                    "with x.astype(numpy.float32) after scaling it as the model expects."
                )
        number = self._shape_number(inputs)
        for port, array in zip(self.inputs, inputs, strict=True):
            bad = array.size - int(np.isfinite(array).sum())
            if bad:
                raise InputError(
                    f"input {port.name!r} holds {bad} values that are NaN or infinite; only finite "
                    "values are accepted. Look where they come from."
                )
        return number

    def _shape_number(self, inputs: tuple[_Array, ...]) -> int:
        """Which of `shapes` these arrays have."""
        seen = tuple(array.shape for array in inputs)
        accepted = [tuple(port.shape for port in shape.inputs) for shape in self.shapes]
        if seen in accepted:
            return accepted.index(seen)
        # One input alone, or one that no shape of the bundle has: name it. Otherwise each is
        # accepted, but not together.
        for index, port in enumerate(self.inputs):
            own = dict.fromkeys(shapes[index] for shapes in accepted)
            if seen[index] not in own:
                raise InputError(
                    f"input {port.name!r} has shape {seen[index]}; accepted is "
                    f"{' or '.join(map(str, own))}. Compile the model with --input-shape for "
                    "another one."
                )
        together = "; or ".join(", ".join(map(str, shapes)) for shapes in accepted)
        raise InputError(
            f"the inputs have shapes {', '.join(map(str, seen))}; accepted together are {together}."
        )

    def _threads(self, threads: int | None) -> int:
        if threads is None:
            own: int = self.manifest["threads"]
            return own
        if not 1 <= threads <= MAX_THREADS:
            raise InputError(f"threads is {threads}; accepted are 1 to {MAX_THREADS}.")
        return threads

    def _fits(self, shape: int, threads: int) -> None:
        """Refuse to run what this machine's memory cannot hold; nothing has been allocated yet."""
        memory, ports = self.manifest["memory"], self.shapes[shape]
        own: int = self.manifest["threads"]
        boundary = (*ports.inputs, *ports.outputs)
        check_memory(
            f"{self.path} at {ports.text} with {threads} thread{'s' * (threads != 1)}",
            {
                "weights": self.manifest["weights"]["bytes"],
                "workspace": memory["workspace_bytes"] + (threads - own) * memory["scratch_bytes"],
                "inputs and outputs": 4 * sum(math.prod(port.shape) for port in boundary),
            },
            instead="Run it on a larger one, or compile the model for a smaller input.",
        )

    def run_all(self, *inputs: _Array, threads: int | None = None) -> tuple[_Array, ...]:
        """As `run`, but always a tuple of outputs."""
        shape = self._check(inputs)
        threads = self._threads(threads)
        self._fits(shape, threads)
        if not self.runs_here:
            return self._foreign.run(inputs, shape=shape, threads=threads)
        with self._lock:
            bound = self._bound.get((shape, threads))
            if bound is None:
                bound = self._bound[shape, threads] = self._bind(shape, threads)
            self._host.check(self._call(bound, inputs))
            return tuple(output.copy() for output in bound.outputs)

    def _bind(self, shape: int, threads: int) -> Bound:
        ports = self.shapes[shape]
        return Bound(
            self._host,
            inputs=[port.shape for port in ports.inputs],
            outputs=[port.shape for port in ports.outputs],
            threads=threads,
        )

    @staticmethod
    def _call(bound: Bound, inputs: tuple[_Array, ...]) -> int:
        for own, given in zip(bound.inputs, inputs, strict=True):
            own[...] = given
        return bound()

    def run(self, *inputs: _Array, threads: int | None = None) -> _Array | tuple[_Array, ...]:
        """Compute the outputs for these inputs.

        Parameters
        ----------
        inputs : float32 arrays
            In the model's order and of the shapes of one of `Bundle.shapes`, finite.
        threads : int, optional
            1 to 64; by default what the bundle was compiled with. The values do not depend on
            it.

        Returns
        -------
        float32 array, or a tuple of them when the model has several outputs

        Raises
        ------
        InputError
            A wrong number, type, dtype or shape of inputs, values that are not finite, or a
            number of threads that is not accepted.
        UnsupportedError
            It needs more memory than this machine has.
        ToolchainError
            The bundle is for another machine and its emulator or compiler is missing, or more
            than one thread is asked for and there is no C compiler.
        MeasurementError
            The program crashed under the emulator.
        """
        outputs = self.run_all(*inputs, threads=threads)
        return outputs[0] if len(outputs) == 1 else outputs

    def bind(self, *inputs: _Array, threads: int | None = None) -> Bound:
        """Prepare a call without checks or copies, for measuring.

        Returns
        -------
        Bound
            Call it; each call computes `bound.outputs` from `bound.inputs`, which hold a copy of
            `inputs`. It has its own context and workspace.

        Raises
        ------
        MeasurementError
            The bundle is for another machine: an emulator's time says nothing.
        """
        shape = self._check(inputs)
        if not self.runs_here:
            raise MeasurementError(
                f"{self.path} is for {self.device.name} and does not run on this machine; time it on "
                "that device. Here only its numbers can be checked (`parc-hw verify`)."
            )
        threads = self._threads(threads)
        self._fits(shape, threads)
        bound = self._bind(shape, threads)
        self._host.check(self._call(bound, inputs))
        return bound

    def run_layers(
        self, *inputs: _Array, threads: int | None = None
    ) -> Iterator[tuple[int, _Array]]:
        """Run once and give (index, values) of every layer in the order in which they run.

        The values are flat, in memory order (`layers[index]["order"]` of the shape of these
        inputs says which that is).
        """
        shape = self._check(inputs)
        threads = self._threads(threads)
        self._fits(shape, threads)
        if not self.runs_here:
            yield from self._foreign.run_layers(inputs, shape=shape, threads=threads)
            return
        seen: list[tuple[int, _Array]] = []
        bound = self._bind(shape, threads)
        bound.on_layer(lambda index, values: seen.append((index, values)))
        self._host.check(self._call(bound, inputs))
        yield from seen

    def _stored(self, number: int, kind: str, ports: tuple[Port, ...]) -> tuple[_Array, ...]:
        folder = self.path / "test" / "vectors"
        return tuple(
            np.fromfile(folder / f"v{number}_{kind}{index}.f32", "<f4").reshape(port.shape)
            for index, port in enumerate(ports)
        )

    def vectors(self) -> tuple[Vectors, ...]:
        """The stored inputs and what the source model made of them, for each of `shapes`."""
        stored, first = [], 0
        for shape, entry in zip(self.shapes, self.manifest["shapes"], strict=True):
            numbers = range(first, first + entry["vectors"])
            first = numbers.stop
            stored.append(
                Vectors(
                    inputs=[self._stored(number, "input", shape.inputs) for number in numbers],
                    outputs=[self._stored(number, "output", shape.outputs) for number in numbers],
                    layers=self._layer_samples(shape, numbers.start),
                )
            )
        return tuple(stored)

    def _layer_samples(self, shape: Shape, number: int) -> dict[int, _Array]:
        """The source model's values at sampled places of its layers, for this vector."""
        counts = [layer["samples"] for layer in shape.layers]
        if not any(counts):
            return {}
        values = np.fromfile(self.path / "test" / "vectors" / f"v{number}_layers.f32", "<f4")
        parts = np.split(values, np.cumsum(counts)[:-1])
        return {index: part for index, part in enumerate(parts) if part.size}


def _port(entry: dict[str, Any]) -> Port:
    return Port(name=entry["name"], shape=tuple(entry["shape"]))
