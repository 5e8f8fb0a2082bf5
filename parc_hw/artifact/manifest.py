"""What does a bundle's manifest.json say, and is it complete?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.artifact import csource
from parc_hw.artifact.vectors import Vectors
from parc_hw.device import Device
from parc_hw.errors import BundleError, InputError

if TYPE_CHECKING:
    from parc_hw.lower.program import Program, ShapePlan, Tensor

__all__ = [
    "FORMAT",
    "SCHEMA",
    "file_hash",
    "is_bundle",
    "make",
    "read",
    "write",
]

FORMAT = "parc_hw bundle"
SCHEMA = 2

_TENSOR = {"name": str, "shape": list, "dtype": str}

# key: type, or for lists of records the keys and types of one record
_SHAPE: dict[str, Any] = {
    "format": str,
    "schema": int,
    "name": str,
    "device": dict,
    "source": dict,
    "threads": int,
    "weights": dict,
    "memory": dict,
    "kernels": {"symbol": str, "arguments": int, "extent": int, "scratch_bytes": int},
    "shapes": {
        "inputs": _TENSOR,
        "outputs": _TENSOR,
        "memory": dict,
        "layers": {
            "name": str,
            "source": str,
            "ops": str,
            "rule": str,
            "note": str,
            "macs": int,
            "shape": list,
            "order": list,
            "samples": int,
        },
        "vectors": int,
    },
    "tools": dict,
    "verification": (dict, type(None)),
    "files": dict,
}


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _shape(shape: ShapePlan, vectors: Vectors, kernels: Sequence[str]) -> dict[str, Any]:
    """What is known about one set of input shapes."""
    kernel_of = {call.layer: kernels[call.kernel] for call in shape.calls}
    return {
        "inputs": [_tensor(tensor) for tensor in shape.inputs],
        "outputs": [_tensor(tensor) for tensor in shape.outputs],
        "macs": shape.macs,
        "memory": {
            "arena_bytes": shape.arena_bytes,
            "live_peak_bytes": shape.live_peak_bytes,
        },
        "layers": [
            {
                "name": layer.name,
                "source": layer.source,
                "ops": layer.ops,
                "rule": layer.rule,
                "note": layer.note,
                "record": layer.record,
                "untuned": layer.untuned,
                "macs": layer.macs,
                "shape": list(layer.shape),
                "order": list(layer.order),
                "bytes": 4 * math.prod(layer.shape),
                "kernel": kernel_of[number],
                "samples": vectors.layers[number].size if number in vectors.layers else 0,
            }
            for number, layer in enumerate(shape.layers)
        ],
        "vectors": len(vectors.inputs),
    }


def _tensor(tensor: Tensor) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": "float32"}


def make(
    program: Program,
    *,
    name: str,
    device: Device,
    vectors: Sequence[Vectors],
    source: Mapping[str, Any],
    tools: Mapping[str, str],
    threads: int,
    weights: bytes,
    build: bytes,
    code_bytes: int,
) -> dict[str, Any]:
    """Everything about a bundle but its files and its verification."""
    used = [call.kernel for shape in program.shapes for call in shape.calls]
    symbols = [kernel.symbol for kernel in program.kernels]
    return {
        "format": FORMAT,
        "schema": SCHEMA,
        "name": name,
        "device": {**device.to_json(), "sources": {}},  # the TOML file has them
        "source": dict(source),
        "threads": threads,
        "weights": {
            "file": f"src/{name}_weights.bin",
            "bytes": len(weights),
            "sha256": hashlib.sha256(weights).hexdigest(),
            "build": build.hex(),
        },
        "memory": {
            "arena_bytes": program.arena_bytes,
            "live_peak_bytes": program.live_peak_bytes,
            "scratch_bytes": program.scratch_bytes,
            "workspace_bytes": csource.workspace_bytes(program, threads),
            "code_bytes": code_bytes,
        },
        "kernels": [
            {
                "symbol": kernel.symbol,
                "arguments": kernel.arguments,
                "extent": kernel.extent,
                "scratch_bytes": kernel.scratch_bytes,
                "calls": used.count(number),
            }
            for number, kernel in enumerate(program.kernels)
        ],
        "shapes": [
            _shape(shape, each, symbols)
            for shape, each in zip(program.shapes, vectors, strict=True)
        ],
        "tools": dict(sorted(tools.items())),
        "verification": None,
        "files": {},
    }


def write(root: Path, manifest: dict[str, Any]) -> None:
    """Store the manifest of the bundle at `root` with the hashes of all its other files."""
    files = sorted(p for p in root.rglob("*") if p.is_file() and p.name != "manifest.json")
    manifest["files"] = {str(p.relative_to(root)): file_hash(p) for p in files}
    try:
        text = json.dumps(manifest, indent=1, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the manifest's source or tools hold something that is not JSON ({error}); accepted are "
            "strings, finite numbers, booleans, null, lists and dictionaries."
        ) from None
    (root / "manifest.json").write_text(text + "\n", encoding="utf-8")


def is_bundle(root: Path) -> bool:
    """Whether `root` holds a manifest of ours, of any kind and version."""
    try:
        data = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(data, dict) and str(data.get("format", "")).startswith("parc_hw ")


def read(root: Path) -> dict[str, Any]:
    """Read and check the manifest of the bundle at `root`.

    Raises
    ------
    BundleError
        It is missing, not JSON, of another version, or a key is missing or of a wrong type.
    """
    if not root.is_dir():
        what = "is not a directory" if root.exists() else "does not exist"
        raise BundleError(
            f"{root} {what}; a bundle is a directory with a manifest.json, as "
            "`parc-hw compile MODEL -o DIR` writes it."
        )
    try:
        data = json.loads((root / "manifest.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(
            f"{root} has no manifest.json, so it is not a bundle; name a directory that "
            "`parc-hw compile MODEL -o DIR` wrote."
        ) from None
    except OSError as error:
        raise BundleError(f"{root}/manifest.json cannot be read: {error.strerror}.") from None
    except ValueError as error:
        raise BundleError(
            f"{root}/manifest.json is not valid JSON ({error}); compile the bundle again."
        ) from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise BundleError(f"{root}/manifest.json is not the manifest of a parc_hw bundle.")
    if data.get("schema") != SCHEMA:
        raise BundleError(
            f"{root} has manifest schema {data.get('schema')!r}; this version reads schema "
            f"{SCHEMA}. Compile the bundle again with this version."
        )
    for key, expected in _SHAPE.items():
        problem = _problem(data, key, expected)
        if problem:
            raise BundleError(f"{root}/manifest.json: {problem}; compile the bundle again.")
    return data


def _problem(data: Mapping[str, Any], key: str, expected: Any) -> str | None:
    """What is wrong with one key of the manifest, or None."""
    if key not in data:
        return f"key {key!r} is missing"
    value = data[key]
    if not isinstance(expected, dict):
        return None if isinstance(value, expected) else f"{key!r} is {type(value).__name__}"
    if not isinstance(value, list):
        return f"{key!r} is {type(value).__name__}, not a list"
    if not value:
        return f"{key!r} is empty"
    for number, record in enumerate(value):
        if not isinstance(record, dict):
            return f"entry {number} of {key!r} is {type(record).__name__}"
        for name, kind in expected.items():
            problem = _problem(record, name, kind)
            if problem:
                return f"entry {number} of {key!r}: {problem}"
    return None
