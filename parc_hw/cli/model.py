"""Which model does the user mean by MODEL, and which shapes by --input-shape?"""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from parc_hw.errors import InputError, ParcError, nearest

if TYPE_CHECKING:
    from torch.nn import Module

__all__ = ["MODEL_HELP", "TARGET_HELP", "check_plan", "parse_shape", "parse_shapes", "resolve"]

MODEL_HELP = "A name of `parc-hw models`, a .onnx or .pt2 file, or package.module:function."
TARGET_HELP = "A name of `parc-hw targets`, or a .toml file that describes a device."


def resolve(text: str, *, shapes: list[tuple[int, ...]] | None) -> str | Path | Module:
    """Turn MODEL into a zoo name, the path of a model file or an `nn.Module`.

    Raises
    ------
    InputError
        Unknown name, a file that is not there or holds weights alone, or a function that cannot
        be imported, fails or returns something else.
    """
    from parc_hw import models
    from parc_hw.importers import FILES

    if text in models.names():
        return text
    suffix = Path(text).suffix.lower()
    if suffix in FILES:
        path = Path(text)
        if not path.is_file():
            raise InputError(f"there is no file {text}.")
        return path
    if suffix in (".pt", ".pth", ".safetensors"):
        raise InputError(
            f"{text} holds weights, not a model. Name the model and give the file with --weights, "
            f"or export the model to one of {', '.join(FILES)}."
        )
    if ":" in text:
        if not shapes:
            raise InputError(
                f"{text} needs --input-shape, for example --input-shape 1x3x224x224: only the "
                "shipped models know their own."
            )
        return _call(text)
    raise InputError(
        f"no model is called {text!r}.{nearest(text, models.names())} "
        f"Accepted: {', '.join(models.names())}, a .onnx or .pt2 file, or package.module:function."
    )


def _call(text: str) -> Module:
    """Import `package.module`, call `function` without arguments and check what it returns."""
    module_name, _, function_name = text.partition(":")
    if str(Path.cwd()) not in sys.path:  # the console script's path begins elsewhere
        sys.path.insert(0, str(Path.cwd()))
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise InputError(
            f"cannot import {module_name!r} of {text}: {error}. It is looked for in this "
            "directory and among the installed packages."
        ) from error
    except (Exception, SystemExit) as error:  # whatever the user's module raises
        raise InputError(f"importing {module_name!r} of {text} failed:\n{_own(error)}") from error
    function = getattr(module, function_name, None)
    if not callable(function):
        callables = [name for name, value in vars(module).items() if callable(value)]
        raise InputError(
            f"{module_name} has no function {function_name!r}.{nearest(function_name, callables)}"
        )
    try:
        made = function()
    except ParcError:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's function raises
        raise InputError(f"{text}() failed:\n{_own(error)}") from error
    from torch.nn import Module

    if not isinstance(made, Module):
        raise InputError(f"{text} returned a {type(made).__name__}; an nn.Module is needed.")
    return made.eval()


def _own(error: BaseException) -> str:
    """An error of the user's code: its type, its message and the line it came from."""
    where = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f"  {Path(f.filename).name}, line {f.lineno}\n" for f in where)
    return place + "".join(traceback.format_exception_only(error)).rstrip()


def parse_shape(text: str) -> tuple[int, ...]:
    """Read `1x3x224x224`.

    >>> parse_shape("1x3x224x224")
    (1, 3, 224, 224)
    """
    parts = text.lower().split("x")
    if not all(part.isascii() and part.isdecimal() and int(part) > 0 for part in parts):
        raise InputError(
            f"--input-shape {text!r} is not a shape; write its extents as whole numbers of at "
            "least 1 with x between them, for example 1x3x224x224."
        )
    return tuple(int(part) for part in parts)


def parse_shapes(texts: list[str] | None) -> list[tuple[int, ...]] | None:
    """Read all `--input-shape`; None when none was given."""
    return [parse_shape(text) for text in texts] if texts else None


def check_plan(text: str) -> str:
    """Return `text` if it is a plan the grammar knows; lengths are checked where they are known."""
    first, cross, second = text.partition("x")
    pair = bool(cross) and first.isdecimal() and second.isdecimal()
    if text in ("auto", "direct", "fft") or pair:
        return text
    raise InputError(
        f"--plan {text!r} is not understood.{nearest(text, ['auto', 'direct', 'fft'])} Accepted: "
        "auto, direct, fft, or N1xN2 such as 14x4 with N1 * N2 = the length of every ParC."
    )
