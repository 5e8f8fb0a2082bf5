"""How does a file of weights become a model's weights, and what is wrong with it when it does not?

Nothing in a file is ever executed: torch reads with `weights_only=True`, and the few harmless
classes that training scripts leave beside the weights become inert placeholders.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from parc_hw.errors import InputError, ToolchainError

__all__ = ["check_finite", "load_official", "read_checkpoint"]

SUFFIXES = (".pt", ".pth", ".safetensors")

# Where training scripts put the weights. Plain weights come before averaged ones (EMA), as in
# the authors' evaluation scripts; `entry` chooses otherwise.
ENTRIES = (
    "state_dict",
    "model_state_dict",
    "model",
    "module",
    "net",
    "model_ema",
    "state_dict_ema",
    "ema_state_dict",
    "ema",
)
WRAPPERS = ("module.", "_orig_mod.")  # of DistributedDataParallel and torch.compile

# Classes beside the weights in checkpoints of training scripts; they hold arguments and scores.
HARMLESS = (
    "argparse.Namespace",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
    "pathlib.PosixPath",
    "pathlib.WindowsPath",
    "pathlib._local.PosixPath",
    "pathlib._local.WindowsPath",
)


class _Inert:
    """Stands for an object of a class that is not imported; forgets what it is given."""

    def __init__(self, *args: Any, **kwargs: Any) -> None: ...

    def __setstate__(self, state: Any) -> None: ...


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint file without executing anything in it.

    Parameters
    ----------
    path : path
        A `.pt` or `.pth` file of `torch.save` or a `.safetensors` file.

    Returns
    -------
    dict
        As stored, tensors on the CPU: a state_dict, or a dictionary with one inside, which
        `load_official` finds.

    Raises
    ------
    InputError
        The file is missing, of another type, empty, truncated, corrupt, asks to import code,
        or holds no dictionary; says what was seen.
    ToolchainError
        The package `safetensors` is missing.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise InputError(
            f"weights file {path} has suffix {path.suffix!r}; accepted are {', '.join(SUFFIXES)}."
        )
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"weights file {path} cannot be read: {error.strerror}.") from error
    if not head:
        raise InputError(f"weights file {path} is empty.")
    if head.startswith(b"version https://git-lfs"):
        raise InputError(
            f"weights file {path} is a Git LFS pointer, not the weights. Run `git lfs pull` where "
            "it comes from."
        )
    read = _read_safetensors if path.suffix == ".safetensors" else _read_torch
    content = read(path, head)
    if not isinstance(content, dict):
        raise InputError(
            f"weights file {path} holds a {type(content).__name__}, not a dictionary of tensors. "
            "Save `model.state_dict()`."
        )
    return content


def _read_safetensors(path: Path, head: bytes) -> Any:
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise ToolchainError(
            "reading .safetensors files needs the package safetensors: "
            'pip install "parc_hw[torch]".'
        ) from error
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise _corrupt(path, head, error) from error


def _read_torch(path: Path, head: bytes) -> Any:
    if head.startswith(b"PK"):
        _check_sums(path, head)
    inert: list[Any] = [(_Inert, name) for name in HARMLESS]
    try:
        with torch.serialization.safe_globals(inert):
            return torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises what its many readers raise
        # torch names what the file asks to import in one of these ways.
        asked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if asked is None:
            raise _corrupt(path, head, error) from error
        raise InputError(
            f"weights file {path} asks to import {asked[1]}, which could run code; refused. "
            "Accepted are tensors in dictionaries and lists: save `model.state_dict()`."
        ) from error


def _check_sums(path: Path, head: bytes) -> None:
    """torch.load does not compare the checksums that torch.save stores."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except Exception as error:  # zipfile raises what a damaged directory makes it
        raise _corrupt(path, head, error) from error
    if broken is not None:
        raise InputError(
            f"weights file {path} is corrupt: the checksum of its entry {broken} does not match. "
            "Fetch or save it again."
        )


def _corrupt(path: Path, head: bytes, error: Exception) -> InputError:
    reason = re.sub(r"\s+", " ", str(error)).strip() or type(error).__name__
    size = path.stat().st_size
    return InputError(
        f"weights file {path} is truncated, corrupt or not a {path.suffix} file: {size} bytes that "
        f"begin with {head[:16]!r}; {reason[:200]}. Fetch or save it again."
    )


def load_official(
    model: nn.Module, state_dict: Mapping[str, Any], *, entry: str | None = None
) -> str:
    """Load a checkpoint of the papers' code into a model with the official keys.

    Parameters
    ----------
    model : torch.nn.Module
        Changed in place, or not at all when an error is raised. A class attribute
        `state_dict_aliases`, a mapping from prefix to prefix, names keys that the authors'
        checkpoints hold twice; the second prefix's values win.
    state_dict : mapping
        The state_dict, or a dictionary that holds it under one of the usual names ("model",
        "state_dict", "model_ema", ...), at any depth; its keys may begin with "module." or
        "_orig_mod.". Plain weights are taken before averaged ones.
    entry : str or None
        The name to take instead, such as "model_ema".

    Returns
    -------
    str
        Which entry was taken, e.g. "model"; "" when `state_dict` is one itself.

    Raises
    ------
    InputError
        Missing, extra or misshapen keys, all listed; values that are no tensors; NaN or
        infinity, naming the keys; an entry that does not exist.

    Notes
    -----
    Other floating types are converted to the model's. A missing `num_batches_tracked` is no
    error: inference does not read it, and old checkpoints lack it.
    """
    taken, values = _find(state_dict, entry)
    values = {_unwrapped(key): value for key, value in values.items()}
    wanted = model.state_dict()
    values = _without_aliases(values, wanted, getattr(model, "state_dict_aliases", {}))
    _check(values, wanted)
    model.load_state_dict(
        {key: values[key].to(old.dtype) if key in values else old for key, old in wanted.items()}
    )
    return taken


def check_finite(model: nn.Module) -> None:
    """Raise InputError when a parameter or a buffer holds NaN or infinity; names them all."""
    broken = [
        key
        for key, value in model.state_dict().items()
        if isinstance(value, Tensor)
        and value.is_floating_point()
        and not bool(torch.isfinite(value).all())
    ]
    if broken:
        raise InputError(
            f"the model's weights hold NaN or infinity in {', '.join(broken)}. Load weights "
            "that are finite."
        )


def _find(content: Mapping[str, Any], entry: str | None) -> tuple[str, Mapping[str, Any]]:
    if not isinstance(content, Mapping):
        raise InputError(
            f"the weights are a {type(content).__name__}; accepted is a dictionary of tensors."
        )
    if entry is not None:
        inner = content.get(entry)
        if not isinstance(inner, Mapping):
            seen = [str(key) for key, value in content.items() if isinstance(value, Mapping)]
            raise InputError(
                f"the checkpoint has no dictionary {entry!r}; it has {', '.join(seen) or 'none'}."
            )
        below, values = _find(inner, None)
        return f"{entry}.{below}" if below else entry, values
    if any(isinstance(value, Tensor) for value in content.values()):
        return "", content
    for name in ENTRIES:
        if isinstance(content.get(name), Mapping):
            return _find(content, name)
    raise InputError(
        f"the checkpoint holds no tensors; its keys are {', '.join(map(str, content)) or 'none'}. "
        f"Accepted is a state_dict, or one under {', '.join(ENTRIES)}."
    )


def _unwrapped(key: Any) -> str:
    text = str(key)
    while text.startswith(WRAPPERS):
        text = text.partition(".")[2]
    return text


def _without_aliases(
    values: Mapping[str, Any], wanted: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> dict[str, Any]:
    """Values under the model's own keys; an alias's value counts only when its twin is missing."""
    result = {key: value for key, value in values.items() if key in wanted}
    for key, value in values.items():
        if key in wanted:
            continue
        prefix = next((p for p in aliases if key.startswith(p)), None)
        if prefix is None:
            result[key] = value
        else:
            result.setdefault(aliases[prefix] + key.removeprefix(prefix), value)
    return result


def _check(values: Mapping[str, Any], wanted: Mapping[str, Tensor]) -> None:
    """Raise one InputError that lists everything that is wrong."""
    problems: list[str] = []
    missing = [k for k in wanted if k not in values and not k.endswith("num_batches_tracked")]
    problems += [f"missing: {key} {tuple(wanted[key].shape)}" for key in missing]
    for key, value in values.items():
        if key not in wanted:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            problems.append(f"extra: {key} {shape}")
        elif not isinstance(value, Tensor):
            problems.append(f"not a tensor: {key} is a {type(value).__name__}")
        elif value.shape != wanted[key].shape:
            problems.append(
                f"wrong shape: {key} {tuple(value.shape)}, the model has {tuple(wanted[key].shape)}"
            )
        elif value.is_complex():
            problems.append(f"complex numbers: {key}")
        elif value.is_floating_point() and not bool(torch.isfinite(value).all()):
            problems.append(f"NaN or infinity: {key}")
    if problems:
        raise InputError(
            f"the weights do not fit the model ({len(problems)} "
            f"{'problem' if len(problems) == 1 else 'problems'}):\n  " + "\n  ".join(problems)
        )
