"""What does the C of a bundle look like: the library's tables, its header, the example, the tests?

The texts are Jinja templates in `templates/`; this module turns a `Program` into what they print.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

from parc_hw.artifact.vectors import TOLERANCE
from parc_hw.artifact.weights import HEADER_BYTES, format_bytes
from parc_hw.device import Device
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.version import VERSION

if TYPE_CHECKING:
    import jinja2

    from parc_hw.lower.program import Call, Kernel, Operand, Program, ShapePlan, Tensor

__all__ = [
    "API",
    "MAX_THREADS",
    "Sources",
    "arena_bytes",
    "build_id",
    "check_name",
    "check_program",
    "input_text",
    "render",
    "scratch_bytes",
    "template_text",
    "tensor_macro",
    "workspace_bytes",
]

API = ("init", "run", "status_text", "workspace_bytes")  # NAME_...: all that a library shows
MAX_THREADS = 64
ALIGNMENT_BYTES = 64

# Work that pays for waking a thread: a wake-up takes about 5 us, and a core does 2 to 8
# multiply-accumulates per ns in the kernels at hand, so a task should have some 32 000.
_TASK_MACS = 32768
_ELEMENT_MACS = 8  # an output element without multiplications (norm, pool, copy) costs about this

_C_KEYWORDS = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while "
)
_KEYWORDS = frozenset(_C_KEYWORDS.split())


def check_name(name: str) -> str:
    """Return `name` when it can begin the C names of a library.

    Raises
    ------
    InputError
        Not a C identifier, a keyword of C, or reserved (a leading underscore).

    >>> check_name("parc_canvas")
    'parc_canvas'
    """
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9_]*", name) is None or name in _KEYWORDS:
        why = "is a keyword of C" if name in _KEYWORDS else "is not a C identifier"
        suggestion = re.sub(r"[^A-Za-z0-9_]", "_", name).strip("_")
        if not suggestion or suggestion[0].isdigit() or suggestion in _KEYWORDS:
            suggestion = f"net_{suggestion}".rstrip("_")
        raise InputError(
            f"the name {name!r} {why}; every function of the library begins with it. Accepted are "
            f"letters, digits and _, beginning with a letter, for example {suggestion}."
        )
    return name


def _dims(tensor: Tensor) -> tuple[int, ...]:
    """A shape with trailing ones up to the four dimensions of NAME_tensor."""
    if len(tensor.shape) > 4:
        raise UnsupportedError(
            f"tensor {tensor.name!r} has shape {tensor.shape}; a bundle's inputs and outputs have "
            "at most 4 dimensions. Reshape it inside the model."
        )
    return tensor.shape + (1,) * (4 - len(tensor.shape))


def _braces(dims: Sequence[int]) -> str:
    return "{" + ", ".join(map(str, dims)) + "}"


def tensor_macro(kind: str, number: int, shape: int) -> str:
    """What the macros of an input or output in a set of shapes begin with, after NAME_.

    >>> tensor_macro("INPUT", 0, shape=0), tensor_macro("OUTPUT", 1, shape=2)
    ('INPUT0', 'SHAPE2_OUTPUT1')
    """
    return f"SHAPE{shape}_{kind}{number}" if shape else f"{kind}{number}"


def input_text(tensors: Sequence[Any]) -> str:
    """The shapes of a model's inputs as people write them, e.g. `1x3x224x224`."""
    return ", ".join("x".join(map(str, tensor.shape)) or "1" for tensor in tensors)


def _tensor(tensor: Tensor, kind: str, number: int, shape: int) -> dict[str, Any]:
    """What the templates print about an input or output in one set of shapes."""
    return {
        "name": tensor.name,
        "macro": tensor_macro(kind, number, shape),
        "usage": f"INPUT{number}",
        "text": "x".join(map(str, tensor.shape)) or "1",
        "rank": len(tensor.shape),
        "dims": _dims(tensor),
        "size": math.prod(tensor.shape),
    }


def _shape(shape: ShapePlan, number: int) -> dict[str, Any]:
    """What the templates print about one set of shapes."""
    return {
        "number": number,
        "text": input_text(shape.inputs),
        "inputs": [_tensor(t, "INPUT", k, number) for k, t in enumerate(shape.inputs)],
        "outputs": [_tensor(t, "OUTPUT", k, number) for k, t in enumerate(shape.outputs)],
    }


def _check_calls(shape: ShapePlan, kernels: Sequence[Kernel]) -> None:
    """Raise ValueError where one shape's calls, kernels, layers and tensors do not fit."""
    written = set()
    for number, call in enumerate(shape.calls):
        kernel = kernels[call.kernel]
        if len(call.operands) != kernel.arguments:
            raise ValueError(
                f"call {number}: {len(call.operands)} operands for {kernel.symbol}, which takes "
                f"{kernel.arguments}"
            )
        shape.layers[call.layer]
        if call.operands[-1].place.value == "output":
            written.add(call.operands[-1].index)
    missing = sorted(set(range(len(shape.outputs))) - written)
    if missing:
        raise ValueError(f"no call writes output {missing[0]}")


def check_program(program: Program) -> None:
    """Check that a program can be printed.

    Raises
    ------
    ValueError
        Calls, kernels, layers and tensors do not fit (a bug in lowering).
    InputError
        Two shapes have inputs that a NAME_tensor cannot tell apart.
    UnsupportedError
        A tensor has more than four dimensions, shapes differ in their number of outputs, or
        something is too large.
    """
    seen: dict[tuple[tuple[int, ...], ...], str] = {}
    for shape in program.shapes:
        _check_calls(shape, program.kernels)
        counts = [len(shape.outputs), len(program.shapes[0].outputs)]
        if counts[0] != counts[1]:
            raise UnsupportedError(
                f"the model has {counts[0]} outputs for {input_text(shape.inputs)} and {counts[1]} "
                f"for {input_text(program.shapes[0].inputs)}; one bundle has the same outputs for "
                "all its input shapes. Compile one bundle for each."
            )
        dims = tuple(map(_dims, shape.inputs))
        if dims in seen:
            raise InputError(
                f"the input shapes {seen[dims]} and {input_text(shape.inputs)} have the same dims "
                "in the library; give each only once."
            )
        seen[dims] = input_text(shape.inputs)
    for what, size in (
        ("weights", len(program.weights)),
        ("intermediate values", program.arena_bytes + MAX_THREADS * program.scratch_bytes),
    ):
        if size + HEADER_BYTES >= 1 << 32:
            raise UnsupportedError(
                f"{size} bytes of {what}; a bundle holds less than 4 GiB. Compile a smaller "
                "input shape or model."
            )


def build_id(program: Program, name: str) -> bytes:
    """SHA-256 of everything that decides how the library reads its weights.

    The weights themselves are not in it: other weights of the same model, compiled the same
    way, fit the same library.
    """
    digest = hashlib.sha256()
    text = {
        "name": name,
        "weights": len(program.weights),
        "kernels": [[k.symbol, k.arguments, k.extent, k.scratch_bytes] for k in program.kernels],
        "calls": [
            [
                [c.kernel, [[o.place.value, o.index, o.offset_bytes] for o in c.operands]]
                for c in shape.calls
            ]
            for shape in program.shapes
        ],
    }
    digest.update(json.dumps(text).encode())
    for code in program.objects:
        digest.update(code)
    return digest.digest()


def _grain(call: Call, shape: ShapePlan, extent: int) -> int:
    """Iterations of a kernel's loop that are worth a task of their own."""
    layer = shape.layers[call.layer]
    work = max(layer.macs, _ELEMENT_MACS * math.prod(layer.shape), 1)
    return max(1, min(extent, -(-extent * _TASK_MACS // work)))


class _Plan:
    """The tables of one set of input shapes."""

    def __init__(self, shape: ShapePlan, kernels: Sequence[Kernel]) -> None:
        bases = {"weights": 0, "arena": 1, "input": 2, "output": 2 + len(shape.inputs)}

        def place(operand: Operand) -> dict[str, int]:
            return {
                "base": bases[operand.place.value] + operand.index,
                "offset": operand.offset_bytes,
            }

        first = itertools.accumulate((len(c.operands) for c in shape.calls), initial=0)
        last_call = {call.layer: number for number, call in enumerate(shape.calls)}
        self.operands = [place(o) for call in shape.calls for o in call.operands]
        self.calls = [
            {
                "kernel": call.kernel,
                "extent": kernels[call.kernel].extent,
                "grain": _grain(call, shape, kernels[call.kernel].extent),
                "first": start,
                "operands": len(call.operands),
                "layer": call.layer if last_call[call.layer] == number else -1,
            }
            for number, (call, start) in enumerate(zip(shape.calls, first, strict=False))
        ]
        self.layers = [
            {**place(layer.output), "bytes": 4 * math.prod(layer.shape)} for layer in shape.layers
        ]
        self.input_dims = _braces([_braces(_dims(t)) for t in shape.inputs])  # type: ignore[misc]
        self.output_dims = _braces([_braces(_dims(t)) for t in shape.outputs])  # type: ignore[misc]
        self.arena_bytes = arena_bytes(shape)


def _aligned(size_bytes: int) -> int:
    return -(-size_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES


def arena_bytes(program: Program | ShapePlan) -> int:
    """Bytes of the arena in the workspace: at least a cache line, so that no size is 0."""
    return max(_aligned(program.arena_bytes), ALIGNMENT_BYTES)


def scratch_bytes(program: Program) -> int:
    """Bytes of one thread's scratch slot in the workspace."""
    return _aligned(program.scratch_bytes)


def workspace_bytes(program: Program, threads: int) -> int:
    """What NAME_workspace_bytes(threads) returns."""
    return arena_bytes(program) + threads * scratch_bytes(program)


def _kernel(kernel: Kernel) -> dict[str, Any]:
    """A kernel's C parameters and the arguments with which its thunk calls it."""
    ranged, scratch = kernel.extent > 0, kernel.scratch_bytes > 0
    pointers = kernel.arguments
    parameters = ["void *"] * pointers + ["int32_t"] * (2 * ranged) + ["void *"] * scratch
    arguments = [f"p[{i}]" for i in range(pointers)] + ["begin", "end"] * ranged
    return {
        "symbol": kernel.symbol,
        "extent": kernel.extent,
        "scratch_bytes": kernel.scratch_bytes,
        "parameters": ", ".join(parameters),
        "call": ", ".join(arguments + ["scratch"] * scratch),
    }


def _accepted(shapes: Sequence[ShapePlan]) -> str:
    """The dims of all inputs that NAME_run takes."""
    dims = [[" x ".join(map(str, _dims(t))) for t in shape.inputs] for shape in shapes]
    if len(dims[0]) == 1:  # "A or B for input 0" reads better than naming the input each time
        return f"{' or '.join(text for (text,) in dims)} for input 0"
    sets = [", ".join(f"{text} for input {k}" for k, text in enumerate(each)) for each in dims]
    return "; or ".join(sets)


def _statuses(shapes: Sequence[ShapePlan], weights_bytes: int, name: str) -> list[dict[str, str]]:
    """The statuses in the order in which they are checked, and what each says."""
    texts = {
        "OK": "no error",
        "E_NULL": "a pointer is NULL that must not be",
        "E_WEIGHTS_SIZE": f"the weights are not {weights_bytes} bytes; read all of src/{name}_weights.bin",
        "E_WEIGHTS_ALIGNMENT": "the weights do not begin at a multiple of 64 bytes",
        "E_WEIGHTS_FORMAT": "the weights are not a parc_hw weights file of this size and version",
        "E_WEIGHTS_BUILD": "the weights belong to another model or to another build of this library",
        "E_WEIGHTS_CHECKSUM": "the weights are corrupt: their CRC-32 is wrong; copy the file again",
        "E_WORKSPACE_SIZE": f"the workspace is smaller than {name}_workspace_bytes(threads)",
        "E_WORKSPACE_ALIGNMENT": "the workspace does not begin at a multiple of 64 bytes",
        "E_CONTEXT": f"the context was not made by a successful {name}_init",
        "E_THREADS": f"threads is not from 1 to {MAX_THREADS}",
        "E_SHAPE": f"the dims of an input are not accepted; accepted: {_accepted(shapes)}",
        "E_DATA_ALIGNMENT": "the data of a tensor do not begin at a multiple of 64 bytes",
    }
    return [{"name": status, "text": text} for status, text in texts.items()]


def _comment(text: str) -> str:
    """`text` as it may stand in a C comment: one line that does not end it."""
    return " ".join(text.split()).replace("*/", "* /").replace("/*", "/ *")


def _cstring(text: str) -> str:
    """`text`, printable ASCII, as a C string literal."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


@cache
def _environment() -> jinja2.Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(template_text),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # C, not HTML
    )
    environment.filters.update(comment=_comment, cstring=_cstring)
    return environment


def template_text(name: str) -> str:
    """The text of a file in `templates/`."""
    folder = resources.files("parc_hw.artifact") / "templates"
    return (folder / name).read_text(encoding="utf-8")


def render(template: str, values: dict[str, Any]) -> str:
    """Print a template with `values`."""
    return _environment().get_template(template).render(values)


class Sources:
    """What every template of a bundle may print."""

    def __init__(
        self,
        program: Program,
        *,
        name: str,
        device: Device,
        weights_bytes: int,
        build: bytes,
        weights_c: bool,
        tolerances: Sequence[Sequence[Sequence[float]]],
    ) -> None:
        shapes = [_shape(shape, number) for number, shape in enumerate(program.shapes)]
        inputs, outputs = shapes[0]["inputs"], shapes[0]["outputs"]
        classes = outputs[0]["rank"] == 2
        self.generated = (
            f"Generated by parc_hw {VERSION} for {_comment(name)} on {device.name}; do not edit."
        )
        self.values: dict[str, Any] = {
            "n": name,
            "generated": self.generated,
            "version": VERSION,
            "device": device,
            "cc": "cc" if device.qemu is None else f"{device.gnu_triple}-gcc -static",
            "shapes": shapes,
            "inputs": inputs,  # of the first shape, as the example uses it
            "outputs": outputs,
            "largest": {
                kind: [
                    max(sizes)
                    for sizes in zip(*([t["size"] for t in s[key]] for s in shapes), strict=True)
                ]
                for kind, key in (("INPUT", "inputs"), ("OUTPUT", "outputs"))
            },
            "max_threads": MAX_THREADS,
            "weights_bytes": weights_bytes,
            "weights_c": weights_c,
            "arena_bytes": arena_bytes(program),
            "scratch_bytes": scratch_bytes(program),
            "statuses": _statuses(program.shapes, weights_bytes, name),
            "kernels": [_kernel(k) for k in program.kernels],
            "plans": [_Plan(shape, program.kernels) for shape in program.shapes],
            "max_operands": max(
                len(call.operands) for shape in program.shapes for call in shape.calls
            ),
            "header_bytes": HEADER_BYTES,
            "format_bytes": list(format_bytes(weights_bytes)),
            "build_bytes": list(build),
            "classes": classes,
            "rows": outputs[0]["dims"][0] if classes else 1,
            "tolerance": TOLERANCE,
            "vectors": [
                {"shape": number, "tolerances": [f"{t:.9e}f" for t in row]}
                for number, rows in enumerate(tolerances)
                for row in rows
            ],
        }

    def text(self, template: str) -> str:
        """Print one template."""
        return render(template, self.values)
