"""What a C programmer does with a bundle: compile, link, run, link two, see errors."""

from __future__ import annotations

import dataclasses
import io
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from elftools.elf.elffile import ELFFile
from tiny_network import HERE, TARGETS, Tiny

from parc_hw.artifact import csource, find_emulator, find_toolchain, weights
from parc_hw.artifact.elf import defined_globals, undefined_symbols
from parc_hw.device import load_device
from parc_hw.errors import InputError

API = {"tiny_init", "tiny_run", "tiny_status_text", "tiny_workspace_bytes"}


def member(archive: Path, scratch: Path) -> bytes:
    """The one object in an archive."""
    subprocess.run(["ar", "x", archive], cwd=scratch, check=True)
    (name,) = scratch.iterdir()
    return name.read_bytes()


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_every_status_is_returned_where_the_header_says(built, tmp_path):
    program = built.compile_program(tmp_path / "statuses", HERE / "statuses.c")
    done = built.run_program(program)
    assert (done.stdout, done.returncode) == ("PASS\n", 0)


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_self_test_passes_with_the_bundles_files_alone(built, tmp_path):
    program = built.compile_program(
        tmp_path / "selftest", built.bundle.path / "test" / "selftest.c"
    )
    done = built.run_program(program)
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert len(lines) == 2 * 2 + 1
    assert lines[-1] == "PASS"
    assert all(line.endswith("PASS") and "max error" in line for line in lines[:-1])


def test_the_self_test_fails_on_a_wrong_vector(built, tmp_path):
    copy = tmp_path / "tiny"
    shutil.copytree(built.bundle.path, copy)
    program = built.compile_program(tmp_path / "selftest", copy / "test" / "selftest.c")
    vector = copy / "test" / "vectors" / "v1_output0.f32"
    values = np.fromfile(vector, np.float32)
    (values + 0.1).tofile(vector)
    done = built.run_program(program, str(copy))
    assert done.returncode == 1
    assert [line.split(": ")[-1] for line in done.stdout.splitlines()] == [
        "PASS", "PASS", "FAIL", "PASS", "FAIL",
    ]  # fmt: skip
    (values * np.nan).tofile(vector)
    assert built.run_program(program, str(copy)).returncode == 1
    vector.write_bytes(b"short")
    done = built.run_program(program, str(copy))
    assert (done.returncode, "v1_output0.f32: not a readable file of 20 bytes" in done.stderr) == (
        2,
        True,
    )


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_example_prints_the_class_of_its_input(built, tmp_path):
    program = built.compile_program(tmp_path / "main", built.bundle.path / "example" / "main.c")
    for number, image in enumerate(built.tiny.images):
        arguments = ["src/tiny_weights.bin", f"test/vectors/v{number}_input0.f32"] * (number > 0)
        done = built.run_program(program, *arguments)
        logits = built.tiny.outputs(image)[0][0]
        word, which, logit, value = done.stdout.replace(",", "").split()
        assert (word, int(which), logit) == ("class", int(logits.argmax()), "logit")
        assert float(value) == pytest.approx(logits.max(), rel=1e-5)


def test_the_example_names_a_file_that_does_not_fit(built, tmp_path):
    program = built.compile_program(tmp_path / "main", built.bundle.path / "example" / "main.c")
    done = built.run_program(program, "test/vectors/v0_input0.f32")
    assert done.returncode == 1
    assert "v0_input0.f32: not a readable file of 704 bytes" in done.stderr
    assert built.run_program(program, "a", "b", "c").returncode == 2


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_two_libraries_link_into_one_program_with_a_helper_of_its_own(built, tmp_path):
    twin = Tiny(seed=1)
    text = (HERE / "kernels.c").read_text().replace("expf(-v)", "2.0f * expf(-v)")
    program = twin.program(built.device, tmp_path, text=text)
    other = built.write(tmp_path / "other", program=program, name="other")
    root = other.path
    linked = built.compile_program(
        tmp_path / "both",
        HERE / "two_libraries.c",
        f"-I{root / 'include'}",
        root / "lib" / "libother.a",
    )
    done = built.run_program(
        linked,
        "src/tiny_weights.bin",
        str(root / "src" / "other_weights.bin"),
        "test/vectors/v0_input0.f32",
    )
    own, first, second = map(float, done.stdout.split())
    assert own == 1001.0
    assert first == pytest.approx(built.tiny.outputs(built.tiny.images[0])[0][0, 2], rel=1e-5)
    assert second == pytest.approx(float(other.run(built.tiny.images[0])[0][0, 2]), rel=1e-6)
    assert abs(first - second) > 1e-3


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_a_library_shows_its_interface_and_needs_libm_alone(built, tmp_path):
    lib = built.bundle.path / "lib"
    static = member(lib / "libtiny.a", tmp_path)
    assert defined_globals(static) == API
    needed = {name for name in undefined_symbols(static) if not name.startswith("__aeabi_")}
    assert needed <= {"expf", "memcpy", "memset", "_GLOBAL_OFFSET_TABLE_"}
    shared = (lib / "libtiny.so").read_bytes()
    assert defined_globals(shared) == API
    needed = {
        tag.needed
        for tag in ELFFile(io.BytesIO(shared)).get_section_by_name(".dynamic").iter_tags()
        if tag.entry.d_tag == "DT_NEEDED"
    }
    assert needed <= {"libm.so.6", "libc.so.6"}


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_librarys_source_compiles_without_a_warning(built, tmp_path):
    sources = csource.Sources(
        built.program,
        name="tiny",
        device=built.device,
        weights_bytes=704,
        build=bytes(32),
        weights_c=False,
        tolerances=[[[1.0, 1.0]]],
    )
    find_toolchain(built.device).compile_object(
        sources.text("library.c.j2"),
        tmp_path / "x.o",
        include=[built.bundle.path / "include"],
        flags=["-Wall", "-Wextra", "-Werror", "-pedantic"],
    )


def test_the_header_is_valid_cpp(built, tmp_path):
    # g++ where there is one; the C++ compiler of the package ziglang needs nothing else.
    cpp = [shutil.which("g++")] if shutil.which("g++") else [sys.executable, "-m", "ziglang", "c++"]
    user = tmp_path / "user.cpp"
    user.write_text(
        '#include "tiny.h"\n#include "tiny.h"\n'
        "tiny_tensor t = {nullptr, tiny_INPUT0_DIMS};\n"
        "size_t f() { return tiny_workspace_bytes(1) + tiny_WORKSPACE_BYTES(2); }\n"
    )
    flags = ["-Wall", "-Wextra", "-Werror", "-pedantic", "-std=c++11", "-fsyntax-only"]
    command = [*cpp, *flags, f"-I{built.bundle.path / 'include'}", str(user)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stderr, done.returncode) == ("", 0)


def test_the_weights_as_c_are_the_weights_file(built, tmp_path):
    bundle = built.write(tmp_path / "tiny", weights_c=True)
    main = tmp_path / "main.c"
    main.write_text(
        '#include <stdio.h>\n#include "tiny.h"\n'
        "int main(void) { return fwrite(tiny_weights, 1, sizeof tiny_weights, stdout) != 704; }\n"
    )
    root = bundle.path
    source = root / "src" / "tiny_weights.c"
    command = ["cc", "-std=c99", "-Wall", "-Wextra", "-Werror", f"-I{root / 'include'}"]
    subprocess.run([*command, main, source, "-o", tmp_path / "main"], check=True)
    done = subprocess.run([tmp_path / "main"], capture_output=True, check=True)
    assert done.stdout == (root / "src" / "tiny_weights.bin").read_bytes()


@pytest.mark.parametrize("built", TARGETS, indirect=True)
def test_the_example_of_threads_serves_a_program(built, tmp_path):
    main = tmp_path / "main.c"
    example = (built.bundle.path / "example" / "main.c").read_text()
    declared = (
        '#include "tiny.h"\nvoid *parc_pool_start(int);\nvoid parc_pool_stop(void *);\n'
        "void parc_pool_for(void *, int32_t, tiny_task *, void *);\n"
    )
    started = "ctx.threads = 3; ctx.parallel_for = parc_pool_for; ctx.user = parc_pool_start(3);\n"
    for old, new in [
        ('#include "tiny.h"\n', declared),
        ("WORKSPACE_BYTES(1)", "WORKSPACE_BYTES(3)"),
        ("    if (status == tiny_OK)\n", f"    {started}    if (status == tiny_OK)\n"),
        ("    return 0;\n", "    parc_pool_stop(ctx.user);\n    return 0;\n"),
    ]:
        assert old in example
        example = example.replace(old, new)
    main.write_text(example)
    pool = built.bundle.path / "example" / "parallel_pthread.c"
    program = built.compile_program(tmp_path / "main", main, pool, "-pthread")
    logits = built.tiny.outputs(built.tiny.images[0])[0]
    for _ in range(3):
        done = built.run_program(program)
        assert done.stdout.startswith(f"class {logits.argmax()}, logit ")


@pytest.mark.slow
@pytest.mark.parametrize("built", TARGETS[1:], indirect=True)
def test_zig_builds_the_same_library_without_cross_gcc(built, tmp_path):
    # slow: zig builds its libc for each target on first use, about a minute
    tools = find_toolchain(built.device, kind="zig")
    bundle = built.write(tmp_path / "tiny", toolchain=tools)
    (tmp_path / "empty").mkdir()
    static = member(bundle.path / "lib" / "libtiny.a", tmp_path / "empty")
    assert defined_globals(static) == API
    assert defined_globals((bundle.path / "lib" / "libtiny.so").read_bytes()) == API
    program = tmp_path / "selftest"
    tools.link_executable(
        [bundle.path / "test" / "selftest.c", bundle.path / "lib" / "libtiny.a"],
        program,
        include=[bundle.path / "include"],
    )
    command = find_emulator(built.device).command(program, [str(bundle.path)])
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.endswith("\nPASS\n"), done


def test_a_weights_file_is_as_documented():
    data = weights.pack_weights(b"\1\2\3\4\5", bytes(range(32)))
    assert data[:8] == b"PARC_HW\0"
    crc = zlib.crc32(b"\1\2\3\4\5\0\0\0")
    assert np.frombuffer(data, "<u4", 6, 8).tolist() == [1, 64, 72, 0, crc, 0]
    assert data[32:64] == bytes(range(32))
    assert data[64:] == b"\1\2\3\4\5\0\0\0"


@pytest.mark.parametrize(
    "name, message",
    [
        ("my-net", "is not a C identifier.*my_net"),
        ("2nets", "is not a C identifier.*net_2nets"),
        ("", "is not a C identifier.*net"),
        ("_net", "is not a C identifier.*for example net"),
        ("nét", "is not a C identifier"),
        ("int", "is a keyword of C.*net_int"),
    ],
)
def test_a_name_that_c_does_not_take_is_refused(name, message):
    with pytest.raises(InputError, match=message):
        csource.check_name(name)


def test_small_work_is_not_divided(tmp_path):
    device = load_device("host")
    program = Tiny().program(device, tmp_path)
    (shape,) = program.shapes
    layers = tuple(dataclasses.replace(layer, macs=0) for layer in shape.layers)
    program = dataclasses.replace(program, shapes=(dataclasses.replace(shape, layers=layers),))
    sources = csource.Sources(
        program,
        name="tiny",
        device=device,
        weights_bytes=704,
        build=bytes(32),
        weights_c=False,
        tolerances=[[]],
    )
    (plan,) = sources.values["plans"]
    assert all(call["grain"] >= call["extent"] for call in plan.calls)
