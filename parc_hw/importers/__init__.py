"""How does a foreign model become a Relax module that lowering takes?

Importing this package is light; TVM, torch and onnx are loaded by the importer that needs them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from parc_hw.importers.imported import Imported, Source

__all__ = [
    "FILES",
    "Imported",
    "Source",
    "import_exported",
    "import_model",
    "import_onnx",
    "import_torch",
    "reference_values",
]

FILES = (".onnx", ".pt2")  # suffixes of files that hold a model with its weights


def import_model(
    model: str | Path | nn.Module, input_shapes: Sequence[tuple[int, ...]] | None = None
) -> Imported:
    """Import a model in any form: a torch module, a `.onnx` or a `.pt2` file.

    Parameters
    ----------
    model : path or torch.nn.Module
    input_shapes : sequence of tuple of int, optional
        One for each input. A module needs them, and an ONNX file that leaves sizes open.

    Raises
    ------
    InputError, UnsupportedError, ToolchainError
        As `import_torch`, `import_onnx` and `import_exported`; a file of another kind.
    """
    if not isinstance(model, str | Path):
        return import_torch(model, input_shapes or ())
    suffix = Path(model).suffix.lower()
    if suffix == ".onnx":
        return import_onnx(model, input_shapes)
    if suffix == ".pt2":
        return import_exported(model, input_shapes)
    raise InputError(
        f"{model} has suffix {suffix!r}; model files are {', '.join(FILES)}. A .pt file holds "
        "weights alone: name the model and give the file with --weights."
    )


def import_torch(model: nn.Module, input_shapes: Sequence[tuple[int, ...]]) -> Imported:
    """Import a torch module; see `parc_hw.importers.torch_export.import_torch`."""
    from parc_hw.importers.torch_export import import_torch as run

    return run(model, input_shapes)


def import_onnx(
    path: str | Path, input_shapes: Sequence[tuple[int, ...]] | None = None
) -> Imported:
    """Import an ONNX file; see `parc_hw.importers.onnx_graph.import_onnx`."""
    from parc_hw.importers.onnx_graph import import_onnx as run

    return run(path, input_shapes)


def import_exported(
    path: str | Path, input_shapes: Sequence[tuple[int, ...]] | None = None
) -> Imported:
    """Import a `.pt2` file; see `parc_hw.importers.pt2.import_exported`."""
    from parc_hw.importers.pt2 import import_exported as run

    return run(path, input_shapes)


def reference_values(
    imported: Imported, inputs: Sequence[Any], nodes: Any = ()
) -> tuple[list[Any], dict[str, Any]]:
    """Run the source model; see `parc_hw.importers.imported.reference_values`."""
    from parc_hw.importers.imported import reference_values as run

    return run(imported, inputs, nodes)


def __getattr__(name: str) -> Any:
    """`Imported` and `Source`, which need TVM, when they are asked for."""
    if name in ("Imported", "Source"):
        from parc_hw.importers import imported

        return getattr(imported, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
