"""`parc-hw doctor`: what is missing on this machine, and which line mends it?"""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass

import typer

from parc_hw.cli import versions
from parc_hw.cli.session import Session, table
from parc_hw.errors import ParcError, ToolchainError

# Distributions by the extra that brings them; None: the base install.
_NEEDED_BY = {
    "numpy": None,
    "scipy": None,
    "numba": None,
    "tvm": None,
    "tvm_ffi": None,
    "torch": "torch",
    "onnx": "onnx",
    "onnxruntime": "bench",
    "ziglang": "zig",
}
_FOR = {
    "torch": "models, compile, verify against PyTorch, train",
    "onnx": "the file that the peer of bench runs",
    "onnxruntime": "the peer of bench",
    "ziglang": "a C compiler for all targets without system packages",
}


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at."""

    what: str
    found: str
    state: str  # ok, missing (some commands will not work) or broken (none will)
    mend: str = ""


def command(context: typer.Context) -> None:
    """Check TVM, LLVM, compilers, qemu and devices; for each problem, the line that mends it."""
    session: Session = context.obj
    checks = [_machine(), *_packages(), *_devices()]
    rows = table("", "what", "found")
    colours = {"ok": "green", "missing": "yellow", "broken": "red"}
    from rich.text import Text

    for check in checks:
        rows.add_row(Text(check.state, style=colours[check.state]), check.what, check.found)
    problems = [check for check in checks if check.state != "ok"]
    lines = [f"{check.what}:\n    {check.mend}" for check in problems]
    session.result(
        [asdict(check) for check in checks],
        rows,
        *(lines or ["Nothing is missing."]),
    )
    if any(check.state == "broken" for check in checks):
        raise ToolchainError("nothing can be compiled here; the lines above mend it.")


def _machine() -> Check:
    from parc_hw.device import load_device

    cores = len(os.sched_getaffinity(0))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    where = f"{platform.machine()}, {cores} cores, {memory / 2**30:.1f} GiB"
    try:
        device = load_device("host")
    except ParcError as error:
        return Check(what="this machine", found=where, state="missing", mend=str(error))
    return Check(what="this machine", found=f"{where}; compiled for as {device.name}", state="ok")


def _packages() -> list[Check]:
    found = versions.collect()
    checks = []
    for name, extra in _NEEDED_BY.items():
        version = found[name]
        if version is not None:
            checks.append(Check(what=name, found=version, state="ok"))
        elif extra is None:
            checks.append(
                Check(
                    what=name,
                    found="not installed",
                    state="broken",
                    mend="pip install --force-reinstall parc_hw",
                )
            )
        else:
            checks.append(
                Check(
                    what=f"{name} ({_FOR[name]})",
                    found="not installed",
                    state="missing",
                    mend=f'pip install "parc_hw[{extra}]"',
                )
            )
    checks.append(_llvm(found["llvm"]))
    return checks


def _llvm(version: str | None) -> Check:
    """Whether the LLVM inside TVM makes code for all our architectures."""
    mend = "pip install --force-reinstall apache-tvm==0.27.0.post1 apache-tvm-ffi==0.1.14.post1"
    if version is None:
        return Check(what="LLVM in TVM", found="TVM does not load", state="broken", mend=mend)
    from tvm.target import codegen

    backends = {str(name) for name in codegen.llvm_get_targets()}
    lacking = sorted({"x86_64", "aarch64", "arm"} - backends)
    if lacking:
        found = f"{version}, without {', '.join(lacking)}"
        return Check(what="LLVM in TVM", found=found, state="broken", mend=mend)
    return Check(what="LLVM in TVM", found=f"{version}: x86_64, aarch64, arm", state="ok")


def _devices() -> list[Check]:
    """A compiler and, where needed, an emulator for each kind of device."""
    from parc_hw.artifact.toolchain import find_emulator, find_toolchain
    from parc_hw.device import device_names, load_device

    checks = []
    seen = set()
    for name in device_names():
        device = load_device(name)
        if (device.isa, device.runs_here) in seen:
            continue
        seen.add((device.isa, device.runs_here))
        where = "this machine" if name == "host" else device.isa.value
        try:
            compiler = find_toolchain(device)
        except ToolchainError as error:
            mend = str(error)
            checks.append(
                Check(what=f"compiler for {where}", found="none", state="missing", mend=mend)
            )
        else:
            checks.append(Check(what=f"compiler for {where}", found=compiler.version, state="ok"))
        if device.runs_here:
            continue
        try:
            emulator = find_emulator(device)
        except ToolchainError as error:
            mend = str(error)
            checks.append(
                Check(what=f"emulator for {where}", found="none", state="missing", mend=mend)
            )
        else:
            found = " ".join(emulator.prefix) or "not needed"
            checks.append(Check(what=f"emulator for {where}", found=found, state="ok"))
    return checks
