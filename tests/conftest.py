"""What every test may rely on: one thread per runtime, and tools that fail loudly when missing."""

from __future__ import annotations

import os

# Before anything imports a numeric library: they read these once, and two xdist workers on two
# cores that each start a pool of threads take longer than one.
os.environ.update(
    OMP_NUM_THREADS="1",
    MKL_NUM_THREADS="1",
    OPENBLAS_NUM_THREADS="1",
    TVM_NUM_THREADS="1",
    NUMBA_NUM_THREADS="1",
)
# Whoever runs the tests may have tuning records of their own; no test is to depend on them.
os.environ["XDG_DATA_HOME"] = os.path.join(os.path.dirname(__file__), "no-data")  # noqa: PTH118, PTH120

import importlib
import importlib.util
import platform
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import HealthCheck, settings

ROOT = Path(__file__).resolve().parent.parent

# deadline=None: the first example of a property may pay for a JIT compilation.
settings.register_profile("dev", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", parent=settings.get_profile("dev"), derandomize=True)
settings.register_profile("nightly", parent=settings.get_profile("dev"), max_examples=2000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@dataclass(frozen=True)
class CrossTools:
    """The programs that link and run code of a foreign architecture, and where its libc lies."""

    gnu_triple: str
    gcc: str
    qemu: str
    sysroot: str


_PACKAGES = {
    "aarch64-linux-gnu": ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross"),
    "arm-linux-gnueabihf": ("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross"),
}
_QEMU = {
    "aarch64-linux-gnu": ("qemu-aarch64-static", "qemu-aarch64"),
    "arm-linux-gnueabihf": ("qemu-arm-static", "qemu-arm"),
}


def cross_tools(gnu_triple: str) -> CrossTools:
    """Return the cross compiler and emulator of `gnu_triple`; the test fails if one is missing."""
    sysroot = Path("/usr") / gnu_triple
    gcc = shutil.which(f"{gnu_triple}-gcc")
    qemu = next(filter(None, map(shutil.which, _QEMU[gnu_triple])), None)
    missing = []
    if gcc is None or not (sysroot / "include" / "stdio.h").exists():
        missing.extend(_PACKAGES[gnu_triple])
    if qemu is None:
        missing.append("qemu-user-static")
    if missing:
        pytest.fail(
            f"the tools for {gnu_triple} are missing; install them with\n"
            f"    sudo apt-get install -y {' '.join(missing)}",
            pytrace=False,
        )
    return CrossTools(gnu_triple=gnu_triple, gcc=gcc, qemu=qemu, sysroot=str(sysroot))


@pytest.fixture
def aarch64_tools() -> CrossTools:
    """Cross gcc, qemu and sysroot for AArch64."""
    return cross_tools("aarch64-linux-gnu")


@pytest.fixture
def armv7_tools() -> CrossTools:
    """Cross gcc, qemu and sysroot for ARMv7-A with hardware floating point."""
    return cross_tools("arm-linux-gnueabihf")


@pytest.fixture(autouse=True)
def _cross_marker_needs_its_tools(request: pytest.FixtureRequest) -> None:
    """Fail a test marked `cross` before it runs when a tool is missing, instead of midway.

    `cross("aarch64-linux-gnu")` asks for one architecture, a plain `cross` for both.
    """
    marker = request.node.get_closest_marker("cross")
    if marker is not None:
        for gnu_triple in marker.args or _PACKAGES:
            cross_tools(gnu_triple)


@pytest.fixture
def host_cc() -> str:
    """This machine's C compiler."""
    cc = shutil.which("cc") or shutil.which("gcc")
    if cc is None:
        pytest.fail(
            "no C compiler here; install it with\n    sudo apt-get install -y gcc libc6-dev",
            pytrace=False,
        )
    return cc


# Modules that no released command needs and `make setup` does not install: the tests that ask for
# one are skipped where it is missing. Nothing else may skip.
OPTIONAL_MODULES = {
    "cmsisdsp": "a source package without wheels; `pip install cmsisdsp` builds it in two minutes",
}


@pytest.fixture(scope="session")
def optional_module() -> Callable[[str], ModuleType]:
    """Import one of `OPTIONAL_MODULES` by name, or skip the test."""

    def load(name: str) -> ModuleType:
        reason = OPTIONAL_MODULES[name]
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: {reason}")
        if name == "cmsisdsp" and platform.machine() not in ("x86_64", "AMD64"):
            pytest.skip("cmsisdsp rounds as the profiles do on x86 only, where it is plain C")
        return importlib.import_module(name)

    return load


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the source tree."""
    return ROOT
