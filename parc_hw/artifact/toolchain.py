"""Which compiler, linker and emulator serve a device, and what do they need to be told?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from parc_hw.artifact.cache import cache_directory
from parc_hw.device import Device
from parc_hw.errors import BundleError, ToolchainError

__all__ = ["Emulator", "Toolchain", "find_emulator", "find_toolchain"]

_PACKAGES = {  # Debian packages that bring compiler, binutils and libc
    "aarch64-linux-gnu": "gcc-aarch64-linux-gnu libc6-dev-arm64-cross",
    "arm-linux-gnueabihf": "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross",
    "x86_64-linux-gnu": "gcc-x86-64-linux-gnu libc6-dev-amd64-cross",
}
_NATIVE_PACKAGES = "gcc libc6-dev"

# One set of flags for every compilation: with zig a new flag would build its libc again.
# Nothing of the machine may reach the output: no debug data, no build directory, no random names.
_COMPILE = (
    "-std=c99",
    "-O2",
    "-fPIC",
    "-g0",
    "-fno-common",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-fno-unwind-tables",
)
_SHOWN_LINES = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Toolchain:
    """A C compiler that also links, and an archiver, for one device.

    Parameters
    ----------
    device : Device
        What the tools make code for.
    kind : str
        "gnu" (the system's gcc or clang, or a cross gcc) or "zig".
    cc, ar : tuple of str
        The commands.
    version : str
        First line of the compiler's `--version`; no paths.
    install : str
        The line that installs the tools, shown when a header or library is missing.
    """

    device: Device
    kind: str
    cc: tuple[str, ...]
    ar: tuple[str, ...]
    version: str
    install: str
    environment: dict[str, str] = field(default_factory=dict, hash=False)

    def _cc(self, libc: str) -> list[str]:
        """The compiler for programs that use `libc`: "gnu" or "musl" (zig has both)."""
        if self.kind == "gnu":
            return list(self.cc)
        # zig has no static glibc: programs take the device's musl, libraries the system's libc.
        target = self.device.gnu_triple if libc == "gnu" else self.device.zig_target
        return [*self.cc, "-target", target, f"-mcpu={self.device.zig_cpu}", "-fno-sanitize=all"]

    def compile_object(
        self, source: str, output: Path, *, include: Sequence[Path] = (), flags: Sequence[str] = ()
    ) -> None:
        """Compile C99 text to a position-independent object.

        Parameters
        ----------
        source : str
            The C text; it is written beside `output` under the same stem.
        output : Path
            The object file to make.
        include : sequence of Path
            Directories of headers.
        flags : sequence of str
            More flags of gcc and clang.
        """
        text = output.with_suffix(".c")
        text.write_text(source, encoding="utf-8")
        # A relative source name and a mapped directory keep the place of the build out of it.
        command = [
            *self._cc("gnu"),
            *_COMPILE,
            *flags,
            f"-ffile-prefix-map={output.parent}=.",
            *(f"-I{directory.absolute()}" for directory in include),
            "-c",
            text.name,
            "-o",
            output.name,
        ]
        self._run(command, f"compiling {text.name}", cwd=output.parent)

    def link_relocatable(self, objects: Sequence[Path], output: Path) -> None:
        """Join objects into one relocatable object (`ld -r`)."""
        command = [*self._cc("gnu"), "-nostdlib", "-r", *map(str, objects), "-o", str(output)]
        self._run(command, f"joining {len(objects)} objects")

    def archive(self, objects: Sequence[Path], output: Path) -> None:
        """Make a static library; no times, owners or modes of files get into it."""
        output.unlink(missing_ok=True)  # ar would add to it
        command = [*self.ar, "rcsD", str(output), *map(str, objects)]
        self._run(command, f"archiving {output.name}")

    def link_shared(self, objects: Sequence[Path], output: Path, *, threads: bool = False) -> None:
        """Make a shared library; libm, and with `threads` libpthread, may be needed by it."""
        command = [
            *self._cc("gnu"),
            "-shared",
            "-nostartfiles",  # no constructors: nothing of the C start files is wanted in it
            "-Wl,--build-id=none",
            "-Wl,-Bsymbolic",
            "-Wl,--no-undefined",
            "-Wl,-z,noexecstack",
            f"-Wl,-soname,{output.name}",
            *map(str, objects),
            *(["-pthread"] if threads else []),
            "-lm",
            "-o",
            str(output),
        ]
        self._run(command, f"linking {output.name}")

    def link_executable(
        self,
        sources: Sequence[Path],
        output: Path,
        *,
        include: Sequence[Path] = (),
        threads: bool = False,
    ) -> None:
        """Make a static program of C files, objects and archives, in this order.

        Static, so that an emulator needs no target libraries.
        """
        command = [
            *self._cc("musl"),
            *_COMPILE,
            "-static",
            *(f"-I{directory}" for directory in include),
            *map(str, sources),
            *(["-pthread"] if threads else []),
            "-lm",
            "-o",
            str(output),
        ]
        self._run(command, f"linking {output.name}")

    def _run(self, command: Sequence[str], doing: str, cwd: Path | None = None) -> None:
        """Run one tool; what it says is shown only when it fails."""
        environment = {**os.environ, "LC_ALL": "C", **self.environment}
        try:
            done = subprocess.run(
                list(command),
                cwd=cwd,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        except OSError as error:
            raise ToolchainError(
                f"{Path(command[0]).name} could not be started for {doing}: {error.strerror}. "
                f"Install it again with\n    {self.install}"
            ) from None
        if done.returncode == 0:
            return
        text = done.stdout.decode(errors="replace").strip()
        full = ("No space left on device", "File too large", "File size limit exceeded")
        if done.returncode == -signal.SIGXFSZ or any(words in text for words in full):
            raise BundleError(
                f"no space: {doing} ran into a full disk or a file size limit. Free some space "
                "or raise the limit (`ulimit -f`), then repeat the command; nothing was left behind."
            )
        lines = text.splitlines()
        shown = "\n".join(f"    {line}" for line in lines[:_SHOWN_LINES])
        if len(lines) > _SHOWN_LINES:
            shown += f"\n    ... and {len(lines) - _SHOWN_LINES} more lines"
        message = (
            f"{self.version or self.cc[0]}: {doing} failed with status {done.returncode}:\n{shown}"
        )
        if "No such file or directory" in text or "cannot find" in text:
            message += f"\nA header or library may be missing; install it with\n    {self.install}"
        raise ToolchainError(message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Emulator:
    """How a program for a device is started on this machine; `prefix` is empty when natively."""

    device: Device
    prefix: tuple[str, ...]

    def command(self, program: Path, arguments: Sequence[str] = ()) -> list[str]:
        """The argument list that starts `program`."""
        return [*self.prefix, str(program), *arguments]


def _native(device: Device) -> bool:
    """Whether this system's own compiler makes the device's code, whether or not it runs here."""
    return replace(device, cpu_flags=()).runs_here


@cache
def _version(command: tuple[str, ...]) -> str:
    """First line of `command --version`, without the directory of the program."""
    try:
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, check=False, timeout=120
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    first = (done.stdout.splitlines() or [""])[0]
    return first if done.returncode == 0 else ""


def _gnu(device: Device, install: str) -> Toolchain | None:
    """The system's compiler, or the cross gcc of the device's triple."""
    if _native(device):
        compilers, archivers = ["cc", "gcc", "clang"], ["ar", "llvm-ar"]
    else:
        compilers, archivers = [f"{device.gnu_triple}-gcc"], [f"{device.gnu_triple}-ar"]
    cc = next((name for name in compilers if shutil.which(name)), None)
    ar = next((name for name in archivers if shutil.which(name)), None)
    if cc is None or ar is None:
        return None
    return Toolchain(
        device=device, kind="gnu", cc=(cc,), ar=(ar,), version=_version((cc,)), install=install
    )


def _zig(device: Device, install: str) -> Toolchain | None:
    """The compiler in the Python package ziglang, which brings a libc for every target."""
    if importlib.util.find_spec("ziglang") is None:
        return None
    zig = (sys.executable, "-m", "ziglang")
    directory = str(cache_directory("zig"))
    # Without them zig writes into the current directory and the home of the user.
    environment = {"ZIG_GLOBAL_CACHE_DIR": directory, "ZIG_LOCAL_CACHE_DIR": directory}
    version = _version((*zig, "cc"))
    return Toolchain(
        device=device,
        kind="zig",
        cc=(*zig, "cc"),
        ar=(*zig, "ar"),
        version=f"zig cc, {version}",
        install=install,
        environment=environment,
    )


def _install_line(device: Device) -> str:
    packages = _NATIVE_PACKAGES if _native(device) else _PACKAGES.get(device.gnu_triple)
    packages = packages or f"gcc-{device.gnu_triple.replace('_', '-')}"
    return f"sudo apt-get install -y {packages}"


def find_toolchain(device: Device, *, kind: str | None = None) -> Toolchain:
    """Find the tools that build a library for `device`.

    Parameters
    ----------
    device : Device
        What to build for.
    kind : str, optional
        "gnu" or "zig" to insist on one; by default the system's tools, else zig.

    Raises
    ------
    ToolchainError
        Nothing was found; says what was looked for and the line that installs it.
    """
    install = _install_line(device)
    found = None
    looked = []
    if kind in (None, "gnu"):
        found = _gnu(device, install)
        looked.append(
            "cc, gcc or clang, and ar" if _native(device) else f"{device.gnu_triple}-gcc and -ar"
        )
    if found is None and kind in (None, "zig"):
        found = _zig(device, "pip install ziglang")
        looked.append("the Python package ziglang")
    if found is None:
        raise ToolchainError(
            f"no C compiler for {device.name} was found; looked for {' and for '.join(looked)}. "
            f"Install one of them:\n    {install}\n    pip install ziglang"
        )
    return found


def find_emulator(device: Device) -> Emulator:
    """Find what runs a program for `device` on this machine.

    Raises
    ------
    ToolchainError
        The device's qemu-user is not installed; says the line that installs it. Or the device is
        of this machine's family but has instructions that this machine lacks.
    """
    if device.runs_here:
        return Emulator(device=device, prefix=())
    if device.qemu is None:
        raise ToolchainError(
            f"code for {device.name} does not run on this machine, whose CPU lacks some of its "
            f"instructions (needed: {', '.join(device.cpu_flags)}). Compile with --target host, or "
            "run the bundle on such a machine."
        )
    names = (device.qemu, device.qemu.removesuffix("-static"))  # Debian's static and dynamic build
    for name in names:
        program = shutil.which(name)
        if program:
            cpu = ("-cpu", device.qemu_cpu) if device.qemu_cpu else ()
            return Emulator(device=device, prefix=(program, *cpu))
    raise ToolchainError(
        f"code for {device.name} does not run on this machine and no emulator was found; looked "
        f"for {' and '.join(names)}. Install it with\n    sudo apt-get install -y qemu-user-static"
    )
