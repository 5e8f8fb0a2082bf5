"""How does an accelerator program lie on disk, and how is it opened and run?

manifest.json   what was compiled, for which machine, where inputs and outputs lie, the layers
program.bin     instructions, tables and constants (`parc_hw.accel.container`)
host.npz        real weights of host steps; absent where none has any
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fixedpoint.integer.operators import Ending, Window, input_words
from fixedpoint.modes import Rounding
from fixedpoint.qformat import QFormat
from parc_hw.accel import simulator
from parc_hw.accel.container import Program
from parc_hw.accel.description import Description, from_json
from parc_hw.accel.layers import Map
from parc_hw.accel.network import Compiled, words_of
from parc_hw.errors import BundleError
from parc_hw.integer.datapath import LayerFormats
from parc_hw.integer.execute import Prepared, prepare_layer
from parc_hw.integer.model import Logits
from parc_hw.integer.network import Layer, Network
from schedules.accel.operators import View

if TYPE_CHECKING:
    from parc_hw.integer.model import IntegerModel

__all__ = ["FORMAT", "SCHEMA", "AcceleratorBundle", "write_program"]

FORMAT = "parc_hw accelerator program"
SCHEMA = 1


# ---------------------------------------------------------------- writing
def write_program(
    path: str | Path,
    compiled: Compiled,
    model: IntegerModel,
    machine: Description,
    *,
    source: Mapping[str, Any],
    tools: Mapping[str, str | None],
    force: bool = False,
) -> AcceleratorBundle:
    """Write the bundle of a compiled network, whole or not at all; equal input gives equal bytes.

    Parameters
    ----------
    path : str or Path
    compiled : Compiled
    model : IntegerModel
        What was compiled.
    machine : Description
    source : mapping
        What the manifest says of the model: name, weights, dtype; JSON types.
    tools : mapping
        Versions.
    force : bool
        Replace a bundle that is there.

    Raises
    ------
    BundleError
        The place is taken or cannot be written, or there is no space.
    """
    from parc_hw.artifact.writer import check_output, clear_errors, staging

    path = Path(path)
    check_output(path, force=force)
    files = {"program.bin": compiled.program.to_bytes()}
    steps, arrays = _host_steps(compiled, model)
    if arrays:
        files["host.npz"] = _archive(arrays)
    network = model.network
    output = network.layers[network.output]
    record = {
        "format": FORMAT,
        "schema": SCHEMA,
        "source": dict(source),
        "machine": {"hash": machine.hash.hex(), "description": machine.to_json()},
        "rounding": model.datapath.rounding.value,
        "input": {
            "shape": list(network.input_shape),
            "axes": list(network.input_axes),
            "map": _map_json(compiled.input),
        },
        "output": {"shape": list(output.shape[1:]), "map": _map_json(compiled.output)},
        "layers": [asdict(layer) for layer in compiled.layers],
        "host": steps,
        "tools": dict(tools),
        "files": {name: hashlib.sha256(data).hexdigest() for name, data in files.items()},
    }
    with clear_errors(path), staging(path, force=force) as root:
        for name, data in files.items():
            (root / name).write_bytes(data)
        text = json.dumps(record, indent=1, sort_keys=True) + "\n"
        (root / "manifest.json").write_text(text, encoding="utf-8")
    return AcceleratorBundle.open(path)


def _archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Arrays as an .npz without times: numpy would write the present one."""
    import zipfile

    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(arrays):
            content = io.BytesIO()
            np.save(content, arrays[name], allow_pickle=False)
            info = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            archive.writestr(info, content.getvalue())
    return buffer.getvalue()


def _map_json(place: Map) -> dict[str, Any]:
    return {
        "base": place.base,
        "shape": list(place.view.shape),
        "origin": list(place.view.origin),
        "dtype": place.view.dtype,
        "extents": list(place.extents),
        "format": str(place.format),
    }


def _map(data: Mapping[str, Any]) -> Map:
    shape, origin, extents = (tuple(data[key]) for key in ("shape", "origin", "extents"))
    return Map(
        base=data["base"],
        view=View(shape=shape, origin=origin, dtype=data["dtype"]),
        extents=extents,
        format=QFormat.parse(data["format"]),
    )


def _host_steps(
    compiled: Compiled, model: IntegerModel
) -> tuple[list[dict[str, Any]], dict[str, NDArray[Any]]]:
    """What `AcceleratorBundle` needs to compute the host's steps: plain data, and real weights."""
    steps: list[dict[str, Any]] = []
    arrays: dict[str, NDArray[Any]] = {}
    for number, (operands, result) in sorted(compiled.host.items()):
        layer = model.layers[number].layer
        formats = model.datapath.layers.get(layer.name)
        steps.append(
            {
                "number": number,
                "name": layer.name,
                "kind": layer.kind,
                "shape": list(layer.shape),
                "operand_shapes": [list(model.layers[used].layer.shape) for used in layer.inputs],
                "attrs": {key: _attribute(value) for key, value in layer.attrs.items()},
                "lowest": layer.lowest,
                "highest": layer.highest,
                "format": str(model.layers[number].format),
                "weight_bits": None if formats is None else formats.weight_bits,
                "weight_frac_bits": None
                if formats is None or formats.weight_frac_bits is None
                else list(formats.weight_frac_bits),
                "has_format": formats is not None,
                "operands": [_map_json(place) for place in operands],
                "result": _map_json(result),
            }
        )
        if layer.weight is not None and layer.bias is not None:
            arrays[f"{number}.weight"], arrays[f"{number}.bias"] = layer.weight, layer.bias
    return steps, arrays


def _attribute(value: Any) -> Any:
    if isinstance(value, Window):
        return {"window": asdict(value)}
    if isinstance(value, tuple) and any(isinstance(part, slice) for part in value):
        return {"slices": [[part.start, part.stop, part.step] for part in value]}
    return list(value) if isinstance(value, tuple) else value


def _from_attribute(value: Any) -> Any:
    if isinstance(value, dict) and "window" in value:
        return Window(**{key: tuple(part) for key, part in value["window"].items()})
    if isinstance(value, dict):
        return tuple(slice(*part) for part in value["slices"])
    return tuple(value) if isinstance(value, list) else value


# ---------------------------------------------------------------- reading
class AcceleratorBundle:
    """A program on disk. `AcceleratorBundle.open` checks it; `run` computes, `simulate` counts.

    Attributes
    ----------
    path : Path
    manifest : dict
    machine : Description
        The machine that it was compiled for.
    input_shape : tuple of int
        Of one image, (C, H, W).
    output_shape : tuple of int
    output_format : QFormat
    """

    def __init__(self, path: Path, manifest: dict[str, Any]) -> None:
        self.path, self.manifest = path, manifest
        self.machine = from_json(manifest["machine"]["description"])
        self.input_shape: tuple[int, ...] = tuple(manifest["input"]["shape"])
        self.output_shape: tuple[int, ...] = tuple(manifest["output"]["shape"])
        self._input, self._output = (_map(manifest[key]["map"]) for key in ("input", "output"))
        self.output_format = self._output.format
        self.rounding = Rounding(manifest["rounding"])

    @classmethod
    def open(cls, path: str | Path) -> AcceleratorBundle:
        """Open the bundle at `path`.

        Raises
        ------
        BundleError
            No program, an unknown manifest, a file that is missing or was changed: says which.
        """
        root = Path(path)
        try:
            data = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
        except OSError as error:
            raise BundleError(
                f"{root} holds no accelerator program: manifest.json cannot be read "
                f"({error.strerror}). `parc-hw compile MODEL --target edge-npu -o DIR` makes one."
            ) from None
        except ValueError as error:
            raise BundleError(
                f"{root}/manifest.json is not valid JSON ({error}); compile it again."
            ) from None
        if not isinstance(data, dict) or data.get("format") != FORMAT:
            raise BundleError(
                f"{root} is not an accelerator program: its manifest says "
                f"{data.get('format') if isinstance(data, dict) else data!r}. `parc-hw run` takes "
                f"bundles of libraries."
            )
        if data.get("schema") != SCHEMA:
            raise BundleError(
                f"{root} has manifest schema {data.get('schema')!r}; this version reads schema "
                f"{SCHEMA}. Compile it again with this version."
            )
        for name, expected in data["files"].items():
            try:
                found = hashlib.sha256((root / name).read_bytes()).hexdigest()
            except OSError as error:
                raise BundleError(
                    f"{root} is incomplete: {name} cannot be read ({error.strerror}). Compile it "
                    f"again."
                ) from None
            if found != expected:
                raise BundleError(
                    f"{root} is corrupt: {name} is not the file that was written (its SHA-256 "
                    f"differs). Compile it again, or copy the whole directory again."
                )
        return cls(root, data)

    @cached_property
    def program(self) -> Program:
        """The program, checked against the machine."""
        return Program.from_bytes((self.path / "program.bin").read_bytes(), self.machine)

    def run(self, x: ArrayLike) -> Logits:
        """Compute the network for images (n, C, H, W), real numbers as the float model takes them.

        Raises
        ------
        InputError
            Another shape, no image, or a value that is not finite.
        """
        network = self._network()
        images = network.in_memory(network.images(x))
        ending = Ending(format=self._input.format, rounding=self.rounding)
        words = input_words(images, ending)
        results = []
        for each in words:
            memory = self.program.new_external()
            words_of(memory, self._input)[...] = each.reshape(self._input.extents)
            self.simulate(memory, timing=False)
            results.append(words_of(memory, self._output).reshape(self.output_shape).copy())
        return Logits(np.stack(results).astype(np.int64), self.output_format)

    def simulate(
        self,
        memory: NDArray[np.uint8] | None = None,
        *,
        values: bool = True,
        timing: bool = True,
    ) -> simulator.Result:
        """Run the program on external memory, in place; without `values` only cycles are found."""
        return simulator.run(
            self.program, self.machine, memory, host=self._host, values=values, timing=timing
        )

    def _network(self) -> Network:
        """The boundary of the network: what checks images and orders them."""
        data = self.manifest["input"]
        return Network(
            name=self.manifest["source"]["model"],
            layers=(Layer(name="input", kind="input", inputs=(), shape=()),),
            output=0,
            input_shape=self.input_shape,
            input_axes=tuple(data["axes"]),
            origin=self.manifest["source"]["weights"],
            trained=False,
        )

    @cached_property
    def _host(self) -> dict[int, Callable[[NDArray[np.uint8]], None]]:
        steps = self.manifest["host"]
        if not steps:
            return {}
        archive: Mapping[str, Any] = {}
        if "host.npz" in self.manifest["files"]:
            archive = np.load(self.path / "host.npz", allow_pickle=False)
        return {step["number"]: self._step(step, archive) for step in steps}

    def _step(
        self, step: Mapping[str, Any], archive: Mapping[str, Any]
    ) -> Callable[[NDArray[np.uint8]], None]:
        operands = [_map(each) for each in step["operands"]]
        result = _map(step["result"])
        shapes = [shape or [1, *operands[0].extents] for shape in step["operand_shapes"]]
        prepared = _prepared(step, operands, archive, self.rounding)

        def compute(memory: NDArray[np.uint8]) -> None:
            values = [
                np.ascontiguousarray(words_of(memory, place), np.int32).reshape(shape)
                for place, shape in zip(operands, shapes, strict=True)
            ]
            words_of(memory, result)[...] = prepared.run(values).reshape(result.extents)

        return compute


def _prepared(
    step: Mapping[str, Any], operands: list[Map], archive: Mapping[str, Any], rounding: Rounding
) -> Prepared:
    number = step["number"]
    weighted = f"{number}.weight" in archive
    layer = Layer(
        name=step["name"],
        kind=step["kind"],
        inputs=tuple(range(len(operands))),
        shape=tuple(step["shape"]),
        weight=archive[f"{number}.weight"] if weighted else None,
        bias=archive[f"{number}.bias"] if weighted else None,
        attrs={key: _from_attribute(value) for key, value in step["attrs"].items()},
        lowest=step["lowest"],
        highest=step["highest"],
    )
    formats = None
    if step["has_format"]:
        fractions = step["weight_frac_bits"]
        formats = LayerFormats(
            output=QFormat.parse(step["format"]),
            weight_bits=step["weight_bits"],
            weight_frac_bits=None if fractions is None else tuple(fractions),
        )
    return prepare_layer(layer, [place.format for place in operands], formats, rounding)
