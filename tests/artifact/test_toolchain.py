"""Tools are found, or the error says what was looked for and which line installs it."""

from __future__ import annotations

import dataclasses
import importlib.util

import pytest

from parc_hw.artifact import toolchain
from parc_hw.artifact.toolchain import find_emulator, find_toolchain
from parc_hw.device import load_device
from parc_hw.errors import BundleError, ToolchainError


@pytest.fixture
def empty_path(tmp_path, monkeypatch):
    """A machine with no programs at all."""
    monkeypatch.setenv("PATH", str(tmp_path))


@pytest.fixture
def no_zig(monkeypatch):
    """A Python without the package ziglang."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)


@pytest.mark.usefixtures("empty_path", "no_zig")
@pytest.mark.parametrize(
    "target, looked, line",
    [
        ("cortex-a53", "aarch64-linux-gnu-gcc", "gcc-aarch64-linux-gnu libc6-dev-arm64-cross"),
        ("rk3288", "arm-linux-gnueabihf-gcc", "gcc-arm-linux-gnueabihf libc6-dev-armhf-cross"),
        ("host", "cc, gcc or clang", "gcc libc6-dev"),
    ],
)
def test_a_missing_compiler_is_named_with_the_lines_that_install_one(target, looked, line):
    with pytest.raises(ToolchainError, match=looked) as caught:
        find_toolchain(load_device(target))
    assert f"sudo apt-get install -y {line}\n" in str(caught.value)
    assert str(caught.value).endswith("pip install ziglang")
    assert "ziglang" in str(caught.value)
    assert caught.value.exit_code == 5


@pytest.mark.usefixtures("empty_path")
def test_zig_steps_in_for_a_missing_compiler(monkeypatch):
    monkeypatch.setattr(toolchain, "_version", lambda command: "clang version 1")
    found = find_toolchain(load_device("cortex-a53"))
    assert found.kind == "zig"
    assert found.version == "zig cc, clang version 1"


@pytest.mark.usefixtures("empty_path")
@pytest.mark.parametrize("target, qemu", [("cortex-a53", "aarch64"), ("rk3288", "arm")])
def test_a_missing_emulator_is_named_with_the_line_that_installs_it(target, qemu):
    with pytest.raises(ToolchainError, match=f"qemu-{qemu}-static and qemu-{qemu}") as caught:
        find_emulator(load_device(target))
    assert "sudo apt-get install -y qemu-user-static" in str(caught.value)


def test_code_of_this_machine_needs_no_emulator():
    assert find_emulator(load_device("host")).command("program", ["x"]) == ["program", "x"]


def test_a_machine_that_lacks_instructions_is_told_so():
    host = load_device("host")
    future = dataclasses.replace(host, name="future", cpu_flags=("avx4096",), qemu=None)
    with pytest.raises(ToolchainError, match=r"future does not run.*avx4096.*--target host"):
        find_emulator(future)
    assert find_toolchain(future).kind == "gnu", "but its code can be built here"


def test_a_failing_compiler_is_quoted_but_not_at_length(tmp_path):
    tools = find_toolchain(load_device("host"))
    with pytest.raises(ToolchainError, match=r"(?s)compiling bad\.c failed.*error") as caught:
        tools.compile_object("int f(void) { return }\n" * 100, tmp_path / "bad.o")
    assert len(str(caught.value).splitlines()) < 25
    assert "more lines" in str(caught.value)


def test_a_missing_header_is_answered_with_the_installing_line(tmp_path):
    tools = find_toolchain(load_device("host"))
    with pytest.raises(ToolchainError, match="apt-get install -y gcc libc6-dev"):
        tools.compile_object("#include <no_such_header.h>", tmp_path / "bad.o")


def test_a_tool_that_hits_the_file_size_limit_is_no_compiler_error(tmp_path):
    tools = dataclasses.replace(
        find_toolchain(load_device("host")),
        cc=("sh", "-c", "ulimit -f 0; head -c 100000 /dev/zero > big; kill -XFSZ $$"),
    )
    with pytest.raises(BundleError, match=r"no space: compiling x\.c"):
        tools.compile_object("", tmp_path / "x.o")


def test_objects_do_not_depend_on_the_directory(tmp_path):
    tools = find_toolchain(load_device("host"))
    made = []
    for name in ("one", "another/deeper"):
        where = tmp_path / name
        where.mkdir(parents=True)
        tools.compile_object("const char *file(void) { return __FILE__; }", where / "x.o")
        tools.archive([where / "x.o"], where / "libx.a")
        made.append((where / "libx.a").read_bytes())
    assert made[0] == made[1]
