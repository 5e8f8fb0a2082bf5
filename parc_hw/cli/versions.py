"""Which versions of everything that can change a result are installed?"""

from __future__ import annotations

import platform
from importlib import metadata

from parc_hw.cli.session import Session
from parc_hw.version import VERSION

__all__ = ["collect", "show"]

_DISTRIBUTIONS = {
    "numpy": "numpy",
    "scipy": "scipy",
    "numba": "numba",
    "tvm": "apache-tvm",
    "tvm_ffi": "apache-tvm-ffi",
    "torch": "torch",
    "onnx": "onnx",
    "onnxruntime": "onnxruntime",
    "ziglang": "ziglang",
}


def collect() -> dict[str, str | None]:
    """Versions by name, None where something is not installed.

    Only LLVM's version needs an import (of TVM, which carries it); the rest is metadata.
    """
    found: dict[str, str | None] = {"parc_hw": VERSION, "python": platform.python_version()}
    for name, distribution in _DISTRIBUTIONS.items():
        try:
            found[name] = metadata.version(distribution)
        except metadata.PackageNotFoundError:
            found[name] = None
    found["llvm"] = _llvm_version()
    return found


def _llvm_version() -> str | None:
    """The major version of the LLVM inside TVM, None when TVM does not load."""
    try:
        from tvm.target import codegen

        return str(codegen.llvm_version_major())
    except (ImportError, OSError, AttributeError, RuntimeError):
        return None


def show(session: Session) -> None:
    """Print what `parc-hw --version` prints."""
    found = collect()
    lines = [f"parc_hw {found['parc_hw']}"]
    lines += [
        f"  {name:<12} {version or 'not installed'}"
        for name, version in found.items()
        if name != "parc_hw"
    ]
    session.result(found, "\n".join(lines))
