"""What does a `.pt2` file hold, when nothing in it may run?

`torch.export.load` unpickles parts of a file, evaluates texts as Python and calls whatever
function of torch a node names. So the archive is read here: tensors from their bytes, the graph
from its JSON after every text in it has been held to a grammar, operators from ATen and parc_hw
alone. torch then only builds the graph from what is left.
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from parc_hw.errors import InputError, ParcError, UnsupportedError
from parc_hw.importers.imported import Imported, checked_shape, first_line

__all__ = ["import_exported", "read_program"]

# Of one tensor: more than any network here has, and not enough to bring a machine down.
_MOST_ELEMENTS = 2**28

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)  # torch writes Python code with these
_PATH = re.compile(r"[A-Za-z0-9_.]*", re.ASCII)
_STACK = re.compile(r"[A-Za-z0-9_.,;@<>\[\]() ]*", re.ASCII)  # only shown
_WORD = re.compile(r"[A-Za-z0-9_ ,.>-]*", re.ASCII)  # "circular", "H", "bchw,och->bohw"
_TARGET = re.compile(r"torch\.ops\.(aten|parc_hw)\.(?!__)(\w+)\.(?!__)(\w+)", re.ASCII)
_FILES = {"from_file", "save", "load"}  # operators that touch the file system
_CONTAINERS = {None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"}
_VERIFIERS = {"TRAINING", "ATEN", ""}


def import_exported(
    path: str | Path, input_shapes: Sequence[tuple[int, ...]] | None = None
) -> Imported:
    """Import a file of `torch.export.save` without executing anything in it.

    Parameters
    ----------
    path : path
        A `.pt2` file with static shapes.
    input_shapes : sequence of tuple of int, optional
        The file has them; these are only compared.

    Raises
    ------
    InputError
        The file is missing, truncated, corrupt, holds code, or has other input shapes.
    UnsupportedError
        Open sizes, or operators that cannot be converted: all of them are named.
    """
    from parc_hw.importers.torch_export import import_program

    path = Path(path)
    program = read_program(path)
    with _quiet():
        try:
            program = program.run_decompositions({})
        except Exception as error:  # torch raises what its many operators raise
            raise InputError(
                f"{path}: its graph cannot be followed: {first_line(error)} Export it again."
            ) from error
        for node in program.graph.nodes:
            value = node.meta.get("val")
            for tensor in value if isinstance(value, tuple | list) else [value]:
                if isinstance(tensor, torch.Tensor) and tensor.numel() > _MOST_ELEMENTS:
                    raise InputError(
                        f"{path}: {node.name} has shape {tuple(tensor.shape)}, more than "
                        f"{_MOST_ELEMENTS} elements."
                    )
        try:
            imported = import_program(program)
        except ParcError:
            raise
        except Exception as error:
            raise InputError(
                f"{path}: its graph is not one that torch.export makes: {first_line(error)} "
                "Export it again."
            ) from error
    wanted = [tensor.shape for tensor in imported.inputs]
    if not wanted:
        raise InputError(f"{path}: the program has no input.")
    if input_shapes is not None:
        seen = [checked_shape(shape) for shape in input_shapes]
        if seen != wanted:
            raise InputError(
                f"{path} was exported for inputs of shapes {wanted}, not {seen}; a .pt2 file has "
                "one size. Export the model again for another."
            )
    return imported


def read_program(path: Path) -> ExportedProgram:
    """Read a `.pt2` file; see `import_exported`."""
    import parc_hw.nn.op  # noqa: F401  # the operator must be known when the graph names it

    try:
        archive = _Archive(path)
        models = archive.below("models/")
        if len(models) != 1 or not models[0].endswith(".json"):
            raise InputError(
                f"{path} holds {len(models)} programs; accepted is one, as torch.export.save "
                "writes it."
            )
        name = models[0].removesuffix(".json")
        program = _checked(archive.json(f"models/{name}.json"))
        weights = _tensors(archive, f"data/weights/{name}_weights_config.json", "weight_")
        constants = _tensors(archive, f"data/constants/{name}_constants_config.json", "tensor_")
        _check_values(path, {**weights, **constants})
        return _deserialize(program, weights, constants)
    except ParcError as error:
        if str(path) in str(error):
            raise
        raise type(error)(f"{path}: {error}") from error
    except MemoryError:
        raise
    except Exception as error:  # zipfile, json and torch raise what a damaged file makes them
        raise InputError(
            f"{path} is truncated, corrupt or not a .pt2 file of this version of torch "
            f"({torch.__version__}): {first_line(error)[:200]}. Save it again with "
            "torch.export.save."
        ) from error


def _deserialize(
    program: dict[str, Any], weights: dict[str, torch.Tensor], constants: dict[str, torch.Tensor]
) -> ExportedProgram:
    """Let torch build the graph: the one place that names its private reader."""
    from torch._export.serde.schema import ExportedProgram as Schema
    from torch._export.serde.serialize import ExportedProgramDeserializer, _bytes_to_dataclass

    with _quiet():
        schema = _bytes_to_dataclass(Schema, json.dumps(program).encode())
        return ExportedProgramDeserializer({}).deserialize(schema, weights, constants, None)


@contextmanager
def _quiet() -> Iterator[None]:
    """torch logs what it raises."""
    names = ("torch", "torch._subclasses.fake_tensor", "torch._export.serde.serialize")
    loggers = [logging.getLogger(name) for name in names]
    levels = [each.level for each in loggers]
    for each in loggers:
        each.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for each, old in zip(loggers, levels, strict=True):
            each.setLevel(old)


# -- the archive --------------------------------------------------------------------------


class _Archive:
    """The entries of a ZIP file that stores them as they are, below its one directory."""

    def __init__(self, path: Path) -> None:
        try:
            data = path.read_bytes()
        except OSError as error:
            raise InputError(f"{path} cannot be read: {error.strerror}.") from error
        if not data:
            raise InputError(f"{path} is empty.")
        self.entries: dict[str, bytes] = {}
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if any(i.compress_type != zipfile.ZIP_STORED or i.flag_bits & 1 for i in infos):
                raise InputError(
                    "its entries are compressed or encrypted; torch.export.save stores them plainly."
                )
            if sum(info.file_size for info in infos) > len(data):
                raise InputError("its entries claim more bytes than the file has: it is corrupt.")
            for info in infos:
                inner = info.filename.partition("/")[2]
                if inner in self.entries:
                    raise InputError(f"the entry {inner} is there twice.")
                self.entries[inner] = archive.read(info)  # compares the checksum
        kind = self.entries.get("archive_format")
        if kind != b"pt2":
            # The entries of a cut archive can be a file of torch.save, which is found in its stead.
            inner = " It is a file of torch.save, or its end is missing."
            hint = inner if "data.pkl" in self.entries else ""
            raise InputError(f"this is no archive of torch.export.save.{hint} Save it again.")

    def below(self, prefix: str) -> list[str]:
        return [name.removeprefix(prefix) for name in self.entries if name.startswith(prefix)]

    def bytes(self, name: str) -> bytes:
        if name not in self.entries:
            raise InputError(f"the entry {name} is missing.")
        return self.entries[name]

    def json(self, name: str) -> Any:
        return json.loads(self.bytes(name))


def _tensors(archive: _Archive, config: str, prefix: str) -> dict[str, torch.Tensor]:
    """Weights or constants from their bytes; anything pickled is refused."""
    directory = config.rpartition("/")[0]
    found: dict[str, torch.Tensor] = {}
    for key, entry in archive.json(config)["config"].items():
        file = str(entry["path_name"])
        if entry["use_pickle"] or not file.startswith(prefix) or not _NAME.fullmatch(file):
            raise InputError(
                f"{key} is stored as a pickled object ({file}), which could run code; refused. "
                "Accepted are plain tensors."
            )
        if not _PATH.fullmatch(key):
            raise InputError(f"the name {key[:40]!r} of a tensor is not acceptable.")
        meta = entry["tensor_meta"]
        tensor = _tensor(archive.bytes(f"{directory}/{file}"), meta)
        if entry["is_param"] and tensor.is_floating_point():
            tensor = torch.nn.Parameter(tensor, requires_grad=bool(meta["requires_grad"]))
        found[key] = tensor
    return found


def _tensor(data: bytes, meta: dict[str, Any]) -> torch.Tensor:
    from torch._export.serde.serialize import _SERIALIZE_TO_TORCH_DTYPE

    dtype = _SERIALIZE_TO_TORCH_DTYPE[meta["dtype"]]
    _check_device(meta["device"])
    sizes = [_whole(size) for size in meta["sizes"]]
    strides = [_whole(stride) for stride in meta["strides"]]
    offset = _whole(meta["storage_offset"])
    if len(sizes) != len(strides):
        raise InputError("a tensor's sizes and strides differ in number: the file is corrupt.")
    if 0 in sizes:
        return torch.zeros(sizes, dtype=dtype)
    elements = len(data) // dtype.itemsize
    last = offset + sum((size - 1) * stride for size, stride in zip(sizes, strides, strict=True))
    if last >= elements or math.prod(sizes) > elements:
        raise InputError(f"a tensor of {sizes} has only {len(data)} bytes: the file is corrupt.")
    flat = torch.frombuffer(bytearray(data), dtype=dtype, count=elements)
    return flat.as_strided(sizes, strides, offset).clone()


def _whole(value: Any) -> int:
    if isinstance(value, dict) and set(value) == {"as_expr"}:
        raise _open_sizes()
    number = value["as_int"]
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < 2**40:
        raise InputError(f"{number!r} is no extent: the file is corrupt.")
    return number


def _open_sizes() -> UnsupportedError:
    return UnsupportedError(
        "the program was exported with open sizes; export the model with fixed shapes, without "
        "dynamic_shapes."
    )


def _check_device(device: Any) -> None:
    if device["type"] != "cpu":
        raise InputError(
            f"the program was exported on {str(device['type'])[:20]}; move the model to the CPU "
            "and export it again."
        )


def _check_values(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    for key, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype is not torch.float32:
            raise InputError(f"{path}: {key} is {tensor.dtype}; only float32 is accepted.")
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise InputError(f"{path}: the weights hold NaN or infinity in {key}.")


# -- the graph's JSON ---------------------------------------------------------------------


def _checked(program: Any) -> dict[str, Any]:
    """The program without what torch would evaluate; InputError where a text breaks its grammar."""
    graph_module = program["graph_module"]
    graph = graph_module["graph"]
    if program.get("range_constraints") or any(
        graph.get(kind) for kind in ("sym_int_values", "sym_bool_values", "sym_float_values")
    ):
        raise _open_sizes()
    if graph.get("custom_obj_values"):
        raise InputError("the graph uses pickled objects, which could run code; refused.")
    _check_targets(graph["nodes"])
    for node in graph["nodes"]:
        stack = (node.get("metadata") or {}).get("nn_module_stack")
        node["metadata"] = {} if stack is None else {"nn_module_stack": stack}
    entry = next(e for e in graph_module["module_call_graph"] if e["fqn"] == "")
    for spec in ("in_spec", "out_spec"):
        _check_spec(entry["signature"][spec])
    kept = {
        "graph_module": {
            "graph": graph,
            "signature": graph_module["signature"],
            "module_call_graph": [entry],
            "metadata": {},
            "treespec_namedtuple_fields": {},
        },
        "opset_version": program["opset_version"],
        "range_constraints": {},
        "schema_version": program["schema_version"],
        "verifiers": [v for v in program["verifiers"] if v in _VERIFIERS] or ["TRAINING"],
        "torch_version": str(program.get("torch_version", ""))[:40],
        "guards_code": [],
    }
    _check_texts(kept["graph_module"], "")
    return kept


def _check_targets(nodes: list[Any]) -> None:
    strange = []
    for node in nodes:
        target = str(node["target"])
        match = _TARGET.fullmatch(target)
        if target == "_operator.getitem":
            continue
        if match is None or match[2] in _FILES:
            strange.append(target[:80])
            continue
        packet: Any = getattr(torch.ops, match[1])
        if not hasattr(packet, match[2]) or not hasattr(getattr(packet, match[2]), match[3]):
            strange.append(target[:80])
    if strange:
        listed = "\n  ".join(dict.fromkeys(strange))
        raise UnsupportedError(
            f"the graph calls what is no operator of ATen or parc_hw:\n  {listed}\nNothing else "
            "is ever called from a file."
        )


def _check_spec(text: Any) -> None:
    """A tree of plain containers: others are made by importing what the text names."""

    def visit(node: Any) -> None:
        kind, context = node["type"], json.loads(node["context"] or "null")
        keys = context if isinstance(context, list) else []
        plain = context is None or isinstance(context, list)
        if kind not in _CONTAINERS or not plain or not all(isinstance(k, str) for k in keys):
            raise InputError(
                f"its inputs or outputs are packed in a {str(kind)[:60]}; accepted are tensors, "
                "tuples, lists and dictionaries."
            )
        for child in node["children_spec"]:
            visit(child)

    _, tree = json.loads(text)
    visit(tree)


# Which grammar the text under a key has; any other text is a name or a dotted path.
_GRAMMARS: dict[str, Callable[[str], Any]] = {
    "name": _NAME.fullmatch,
    "as_name": _NAME.fullmatch,
    "forward_arg_names": _NAME.fullmatch,
    "as_string": _WORD.fullmatch,
    "as_strings": _WORD.fullmatch,
    "nn_module_stack": _STACK.fullmatch,
    "in_spec": bool,  # by _check_spec
    "out_spec": bool,
}


def _check_texts(value: Any, key: str) -> None:
    """Hold every text of the graph to its grammar, and every size to what can be."""
    if isinstance(value, str):
        if not _GRAMMARS.get(key, _PATH.fullmatch)(value):
            raise InputError(f"the text {value[:40]!r} under {key[:40]!r} is not acceptable.")
    elif isinstance(value, list):
        for item in value:
            _check_texts(item, key)
    elif isinstance(value, dict):
        if "as_expr" in value:
            raise _open_sizes()
        if "sizes" in value and "dtype" in value:
            _check_device(value["device"])
            sizes = [_whole(size) for size in value["sizes"]]
            if math.prod(sizes) > _MOST_ELEMENTS:
                raise InputError(
                    f"a tensor of shape {tuple(itertools.islice(sizes, 8))} has more than "
                    f"{_MOST_ELEMENTS} elements."
                )
        for inner, item in value.items():
            # Keys of tables are names themselves.
            if inner and not _PATH.fullmatch(str(inner)):
                raise InputError(f"the name {str(inner)[:40]!r} is not acceptable.")
            _check_texts(
                item, "name" if key == "tensor_values" and isinstance(item, str) else inner
            )
