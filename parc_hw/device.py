"""Which machine is compiled for, and what does each number about it rest on?"""

from __future__ import annotations

import enum
import os
import platform
import re
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from parc_hw.errors import InputError, UnsupportedError, check_keys, nearest

__all__ = [
    "NUMBERS",
    "Device",
    "Isa",
    "device_names",
    "host_device",
    "host_name",
    "load_device",
    "parse_device",
    "processor_name",
    "processor_of",
    "runs_on",
]


class Isa(enum.Enum):
    """Instruction set family."""

    X86_64 = "x86_64"
    AARCH64 = "aarch64"
    ARMV7A = "armv7a"

    @classmethod
    def _missing_(cls, value: object) -> Isa:
        accepted = ", ".join(isa.value for isa in cls)
        raise InputError(f"isa is {value!r}; accepted: {accepted}.")


NUMBERS = (
    "vector_bits",
    "vector_registers",
    "l1d_bytes",
    "l2_bytes",
    "l3_bytes",
    "line_bytes",
    "cores",
    "clock_hz",
)
"""The numbers about a machine; a description gives the source of each."""


# LLVM unrolls a loop of constant extent completely where it hopes to simplify the result. The bodies
# of our loops fill the registers: side by side they spill, and with 16 registers most of the code
# is then spilled. Executed instructions per output of ParC along H for 28 = 7x4, 56 = 8x7 and
# 112 = 16x7 points on a Cortex-A17: 16.9, 17.2 and 21.5 without, 10.5, 12.7 and 16.5 with these.
_FEWER_UNROLLED = (
    "-unroll-threshold-aggressive:uint=150",
    "-unroll-max-percent-threshold-boost:uint=100",
)


# It stands in comments of C files and in messages.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A CPU or board, as its TOML file describes it: one of `parc_hw/devices` or a user's own.

    Numbers that nobody measured or published are None, and `sources` says "unknown".

    Parameters
    ----------
    name : str
        Letters, digits and any of `.`, `_`, `-`. For a device of `parc_hw/devices` what a user
        types after `--target`.
    title : str
        One line for people.
    isa : Isa
        Instruction set family.
    core : str or None
        For a board: the described CPU whose code it runs. Its file gives what the board's
        own file leaves out.
    triple, cpu : str
        LLVM's target triple and processor name.
    features : tuple of str
        LLVM features, such as "+neon".
    float_abi : str or None
        "hard" where the architecture has a choice (ARMv7), else None.
    cpu_flags : tuple of str
        What Linux's /proc/cpuinfo must list on a machine that executes this code itself.
    vector_bits, vector_registers : int
        Width and number of the architectural SIMD registers that kernels are made for.
    l1d_bytes, l2_bytes, l3_bytes, line_bytes : int or None
        Data caches as one core's cluster has them, and their line.
    cores, clock_hz : int or None
        Cores of the kind described (a big.LITTLE board counts the big ones), highest clock.
    gnu_triple : str
        Prefix of the GNU cross tools and the qemu sysroot, e.g. "aarch64-linux-gnu". zig
        takes the same name as the target of a shared library.
    zig_target, zig_cpu : str
        `python -m ziglang cc -target ... -mcpu=...` for a static program (zig links
        static programs against musl only).
    qemu, qemu_cpu : str or None
        qemu-user program that runs the code on another machine, and its -cpu value (the
        processor, or the next one that Debian 12's qemu 7.2 has and that lacks nothing
        the compiler may use). None: only a machine with `cpu_flags` runs it.
    sources : dict of str to str
        For each of `NUMBERS`, where it comes from: a document, "measured here" or "unknown".

    Raises
    ------
    InputError
        A value that no machine has; the message names the device and what is accepted.
    """

    name: str
    title: str
    isa: Isa
    core: str | None = None
    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    float_abi: str | None = None
    cpu_flags: tuple[str, ...] = ()
    vector_bits: int
    vector_registers: int
    l1d_bytes: int | None = None
    l2_bytes: int | None = None
    l3_bytes: int | None = None
    line_bytes: int | None = None
    cores: int | None = None
    clock_hz: int | None = None
    gnu_triple: str
    zig_target: str
    zig_cpu: str
    qemu: str | None = None
    qemu_cpu: str | None = None
    sources: dict[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        def refuse(name: str, accepted: str) -> None:
            raise InputError(
                f"device {self.name}: {name} is {getattr(self, name)!r}; accepted: {accepted}."
            )

        for name in ("name", "title", "triple", "cpu", "gnu_triple", "zig_target", "zig_cpu"):
            if not isinstance(getattr(self, name), str) or not getattr(self, name):
                refuse(name, "a text that is not empty")
        if not _NAME.fullmatch(self.name):
            refuse("name", "letters, digits and any of . _ -, such as my-board")
        for name in ("core", "qemu", "qemu_cpu"):
            if not isinstance(getattr(self, name), str | None):
                refuse(name, "a text, or nothing")
        if type(self.isa) is not Isa:
            refuse("isa", ", ".join(str(isa) for isa in Isa))
        if self.float_abi != ("hard" if self.isa is Isa.ARMV7A else None):
            refuse("float_abi", '"hard" for armv7a, nothing for the others')
        for name in ("features", "cpu_flags"):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not all(isinstance(item, str) for item in value):
                refuse(name, "a list of texts")
        if not (type(self.sources) is dict and all(type(t) is str for t in self.sources.values())):
            refuse("sources", "a table of texts")
        if not all(feature.startswith(("+", "-")) for feature in self.features):
            refuse("features", 'texts that begin with + or -, such as "+neon"')
        for name in NUMBERS:
            value = getattr(self, name)
            if value is None and name not in ("vector_bits", "vector_registers"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                refuse(name, "a whole number of at least 1")
        if self.vector_bits not in (64, 128, 256, 512):
            refuse("vector_bits", "64, 128, 256, 512")
        if self.vector_registers < 8:
            refuse("vector_registers", "at least 8")
        if self.line_bytes is not None and self.line_bytes & (self.line_bytes - 1):
            refuse("line_bytes", "a power of two")

    def lanes(self, bits: int = 32) -> int:
        """How many elements of `bits` bits one vector register holds.

        >>> load_device("cortex-a53").lanes(), load_device("znver4").lanes(bits=16)
        (4, 32)
        """
        return self.vector_bits // bits

    @property
    def runs_here(self) -> bool:
        """Whether this machine executes the device's code natively."""
        return runs_on(self, platform.machine(), _cpuinfo())

    def llvm_target(self) -> dict[str, Any]:
        """The dictionary from which TVM makes its LLVM target."""
        target: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.features:
            target["mattr"] = list(self.features)
        if self.float_abi:
            target["mfloat-abi"] = self.float_abi
        if self.isa is Isa.ARMV7A:
            target["cl-opt"] = list(_FEWER_UNROLLED)
        return target

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal device."""
        return {
            **asdict(self),
            "isa": self.isa.value,
            "features": list(self.features),
            "cpu_flags": list(self.cpu_flags),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Device:
        """Rebuild a device from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not acceptable.
        """
        return _device(data, where=f"device {data.get('name')}")


def device_names() -> list[str]:
    """Names of all described devices, sorted, with `host` first."""
    files = resources.files("parc_hw") / "devices"
    names = (f.name for f in files.iterdir())
    return ["host", *sorted(n.removesuffix(".toml") for n in names if n.endswith(".toml"))]


def load_device(target: str | Path) -> Device:
    """Read the description of a device.

    Parameters
    ----------
    target : str or Path
        A name of `device_names()`, of which `host` is resolved to this machine's CPU; or the path
        of a TOML file like those in `parc_hw/devices`, told from a name by its ending `.toml`.

    Raises
    ------
    InputError
        No such device (the nearest names are given), a file that cannot be read or that takes
        the name of a device that is shipped, or unknown, missing or wrong keys in a file.
    UnsupportedError
        `host`, on a machine that no description fits.

    >>> load_device("rk3288").core
    'cortex-a17'
    """
    text = os.fspath(target)
    return _from_file(Path(text)) if text.endswith(".toml") else _described(text)


@cache
def _described(name: str) -> Device:
    """The device of `parc_hw/devices` that is called `name`."""
    if name == "host":
        return host_device()
    if name not in device_names():
        raise InputError(
            f"no target is called {name!r}.{nearest(name, device_names())} "
            f"Accepted: {', '.join(device_names())}, or the path of a .toml file that describes "
            "one. `parc-hw targets` describes them."
        )
    path = resources.files("parc_hw") / "devices" / f"{name}.toml"
    where = f"devices/{name}.toml"
    device = parse_device(path.read_text(encoding="utf-8"), where=where)
    if device.name != name:
        raise InputError(f"{where}: name is {device.name!r}; the file's name says {name!r}.")
    return device


def _from_file(path: Path) -> Device:
    """The device that a user's own file describes."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(
            f"the target {path} cannot be read: {error.strerror}. Accepted: the path of a TOML file "
            f"that describes a device, or one of {', '.join(device_names())}."
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not valid TOML, which is UTF-8: {error}.") from None
    device = parse_device(text, where=str(path))
    if device.name in device_names():
        raise InputError(
            f"{path}: name is {device.name!r}, which is a device of parc_hw; accepted: any other. "
            "A bundle's manifest and its reports are to tell the two apart."
        )
    return device


def parse_device(text: str, *, where: str) -> Device:
    """Turn TOML text into a `Device`; `where` names the text in errors.

    Raises
    ------
    InputError
        The text is not TOML, has an unknown key, lacks one, holds a value that is not
        acceptable, or gives a number without its source.
    """
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where} is not valid TOML: {error}.") from None
    try:
        if "core" in data:
            data = _with_core(data, where=where)
        device = _device(data, where=where)
        _check_sources(device, where=where)
    except InputError as error:
        if str(error).startswith(where):
            raise
        raise InputError(f"{where}: {error}") from None
    return device


def _with_core(data: dict[str, Any], *, where: str) -> dict[str, Any]:
    """A board's keys, completed from the description of its core."""
    if data["core"] == data.get("name"):
        raise InputError(f"{where}: a board's core is a CPU, not the board itself.")
    core = load_device(data["core"])
    if core.core is not None:
        raise InputError(
            f"{where}: core is {core.name!r}, which is a board; name its CPU, {core.core!r}."
        )
    # A missing key is how TOML says None, so only what the core knows is handed on.
    known = {key: value for key, value in core.to_json().items() if value is not None}
    sources = {**core.sources, **data.get("sources", {})}
    return {**known, **data, "sources": sources}


def _device(data: Mapping[str, Any], *, where: str) -> Device:
    """A `Device` from plain values, with every key checked."""
    required = {
        "name", "title", "isa", "triple", "cpu", "vector_bits", "vector_registers", "gnu_triple",
        "zig_target", "zig_cpu",
    }  # fmt: skip
    check_keys(where, data, accepted=[f.name for f in fields(Device)], required=required)
    for key in ("features", "cpu_flags"):
        if not isinstance(data.get(key, []), list):
            raise InputError(f"{where}: {key} is {data[key]!r}; accepted: a list of texts.")
    return Device(
        **{
            **data,
            "isa": Isa(data["isa"]),
            "features": tuple(data.get("features", ())),
            "cpu_flags": tuple(data.get("cpu_flags", ())),
        }
    )


def _check_sources(device: Device, *, where: str) -> None:
    """Hold `sources` to the numbers: one line each, "unknown" exactly where there is no number."""
    check_keys(f"{where} [sources]", device.sources, accepted=NUMBERS, required=NUMBERS)
    for name, text in device.sources.items():
        unknown = text.startswith("unknown")
        if getattr(device, name) is None and not unknown:
            raise InputError(
                f"{where}: [sources] has an origin for {name}, but the number is missing. "
                f'Give it, or let its source begin with "unknown".'
            )
        if getattr(device, name) is not None and (unknown or not text):
            raise InputError(
                f"{where}: {name} is {getattr(device, name)}, but its source is {text!r}. "
                f'Name the document, or write "measured here".'
            )


# What `host` may resolve to, best first. Zen 4 is the one machine that kernels were timed on.
_HOSTS: Mapping[str, tuple[str, ...]] = {
    "x86_64": ("znver4", "x86-64-v4", "x86-64-v3", "x86-64"),
    "aarch64": ("aarch64-generic",),
}
_MACHINES = {"AMD64": "x86_64", "arm64": "aarch64", "armv7l": "armv7a", "armv8l": "armv7a"}


def _cpuinfo() -> str:
    """What Linux says about this machine's processors; empty where it says nothing."""
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _first(cpuinfo: str, *keys: str) -> str:
    """The value of the first line of `cpuinfo` with one of these keys, or ''."""
    for line in cpuinfo.splitlines():
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def runs_on(device: Device, machine: str, cpuinfo: str) -> bool:
    """Whether a machine with this `uname -m` and /proc/cpuinfo executes the device's code."""
    flags = _first(cpuinfo, "flags", "Features").split()
    return _MACHINES.get(machine, machine) == device.isa.value and set(device.cpu_flags) <= set(
        flags
    )


def host_name(machine: str, cpuinfo: str) -> str:
    """Name of the described CPU that a machine is compiled for.

    Parameters
    ----------
    machine : str
        As `uname -m` prints it.
    cpuinfo : str
        The text of Linux's /proc/cpuinfo.

    Raises
    ------
    UnsupportedError
        No description fits.

    >>> host_name("aarch64", "Features : fp asimd evtstrm crc32")
    'aarch64-generic'
    """
    zen4 = _first(cpuinfo, "vendor_id") == "AuthenticAMD" and _first(cpuinfo, "cpu family") == "25"
    for name in _HOSTS.get(_MACHINES.get(machine, machine), ()):
        if name == "znver4" and not zen4:
            continue
        if runs_on(load_device(name), machine, cpuinfo):
            return name
    raise UnsupportedError(
        f"no description fits this machine ({machine}): `host` is known for Linux on x86_64 and "
        "aarch64. Name the processor with --target; `parc-hw targets` lists them."
    )


def processor_of(device: Device) -> str:
    """Which processor executes a device's code natively here; "" where none does.

    A description such as `x86-64-v4` fits many processors, and what is fastest on one of them need not
    be on another.
    """
    return processor_name(_cpuinfo()) if device.runs_here else ""


def processor_name(cpuinfo: str) -> str:
    r"""The processor that Linux's /proc/cpuinfo names: maker, family and model.

    >>> processor_name("vendor_id : GenuineIntel\ncpu family : 6\nmodel : 143")
    'GenuineIntel 6/143'
    >>> processor_name("CPU implementer : 0x41\nCPU part : 0xd0b")
    '0x41 0xd0b'
    """
    if vendor := _first(cpuinfo, "vendor_id"):
        return f"{vendor} {_first(cpuinfo, 'cpu family')}/{_first(cpuinfo, 'model')}"
    found = f"{_first(cpuinfo, 'CPU implementer')} {_first(cpuinfo, 'CPU part')}".strip()
    return found or "unknown"


def host_device() -> Device:
    """The description that fits this machine."""
    return load_device(host_name(platform.machine(), _cpuinfo()))
