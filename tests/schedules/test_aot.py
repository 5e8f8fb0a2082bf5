"""Do kernels become objects with the promised interface: ranges, scratch, symbols, same bytes?"""

from __future__ import annotations

import re
import subprocess

import numpy as np
import pytest
from composites import linear
from run_kernel import run

from parc_hw.device import load_device
from schedules._tvm import For, ForKind, IntImm, PrimFunc, Var, stmt_seq
from schedules.aot import compile_kernels, range_outer
from schedules.cpu.matmul import matmul
from schedules.rule import Context, Scheduled
from schedules.tir import Emitter

pytestmark = pytest.mark.tvm

ALL = ["x86-64", "x86-64-v3", "x86-64-v4", "cortex-a53", "neoverse-v1", "cortex-a7", "rk3288"]


def scaled_rows(device, rows=6, factor=2.0, scratch=32):
    """y = factor * x, row by row, by way of `scratch` floats."""
    e = Emitter(device)
    x, y = e.parameter("x", rows * scratch), e.parameter("y", rows * scratch)
    with e.parallel(rows) as row:
        t = e.scratch("t", scratch)
        with e.loop(scratch) as i:
            e.store(t, i, e.load(x, row * scratch + i, 1) * factor)
        with e.loop(scratch) as i:
            e.store(y, row * scratch + i, e.load(t, scratch - 1 - (scratch - 1 - i), 1))
    return e.finish()


def test_signature_with_range_and_without_scratch():
    host = load_device("host")
    (kernel,) = compile_kernels([scaled_rows(host)], host, prefix="net").kernels
    assert (kernel.symbol, kernel.arguments, kernel.extent) == ("net_k0", 2, 6)
    assert kernel.scratch_bytes == 0


def test_allocations_of_1_kib_become_scratch():
    host = load_device("host")
    func = scaled_rows(host, scratch=300)
    (kernel,) = compile_kernels([func], host, prefix="net").kernels
    assert kernel.scratch_bytes == 1216  # 1200 bytes, rounded up to 64
    x = np.arange(6 * 300, dtype=np.float32)
    scheduled = Scheduled(func=func, inputs=(0,), constants=(), rule="test")
    np.testing.assert_array_equal(run(scheduled, [x]), 2 * x)


def test_a_kernel_without_parallel_loop_has_no_range():
    host = load_device("host")
    e = Emitter(host)
    x, y = e.parameter("x", 4), e.parameter("y", 4)
    e.store(y, 0, e.load(x, 0, 4) + 1.0)
    func = e.finish()
    (kernel,) = compile_kernels([func], host, prefix="net").kernels
    assert kernel.extent == 0
    scheduled = Scheduled(func=func, inputs=(0,), constants=(), rule="test")
    np.testing.assert_array_equal(run(scheduled, [np.arange(4)]), [1, 2, 3, 4])


def test_equal_functions_are_compiled_once():
    host = load_device("host")
    funcs = [scaled_rows(host), scaled_rows(host, factor=3.0), scaled_rows(host)]
    compiled = compile_kernels(funcs, host, prefix="net")
    assert [k.symbol for k in compiled.kernels] == ["net_k0", "net_k1", "net_k0"]
    assert len(compiled.objects) == 2


@pytest.mark.parametrize("name", ["host", "cortex-a53", "rk3288"])
def test_two_builds_give_equal_bytes(name):
    device = load_device(name)
    builder = linear((30,), 20, 50, ["bias", "nn.gelu"])

    def build():
        func = matmul(builder.composite(), Context(device=device)).func
        return compile_kernels([func], device, prefix="net").objects

    assert build() == build()


def test_progress_is_told_after_each_kernel():
    host = load_device("host")
    seen = []
    compile_kernels(
        [scaled_rows(host), scaled_rows(host, factor=3.0)],
        host,
        prefix="net",
        progress=lambda *step: seen.append(step),
    )
    assert seen == [(1, 2, "net_k0"), (2, 2, "net_k1")]


def test_dump_holds_all_stages():
    host = load_device("host")
    texts: dict[str, str] = {}
    funcs = [scaled_rows(host), scaled_rows(host, factor=3.0)]
    compile_kernels(funcs, host, prefix="net", dump=texts)
    assert set(texts) == {"tir", "ll", "asm"}
    for symbol, factor in [("net_k0", 2.0), ("net_k1", 3.0)]:
        assert re.search(rf"# {symbol}\n(.*\n)+?.*T.float32\({factor}\)", texts["tir"])
        assert f"@{symbol}(" in texts["ll"]
        assert re.search(rf"^{symbol}:", texts["asm"], re.MULTILINE)


@pytest.mark.cross
@pytest.mark.parametrize(
    "name, tools",
    [
        ("host", ""),
        ("cortex-a53", "aarch64-linux-gnu-"),
        ("rk3288", "arm-linux-gnueabihf-"),
    ],
)
def test_objects_link_into_a_shared_library(name, tools, tmp_path):
    # Text relocations would mean that the code is not position independent.
    device = load_device(name)
    func = matmul(linear((30,), 20, 50, ["nn.gelu"]).composite(), Context(device=device)).func
    (code,) = compile_kernels([func], device, prefix="net").objects
    (tmp_path / "k.o").write_bytes(code)
    link = [f"{tools}gcc", "-shared", "-Wl,-z,text,-z,defs", "k.o", "-lm", "-o", "k.so"]
    done = subprocess.run(link, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    undefined = subprocess.run(
        [f"{tools}nm", "-u", "k.o"], cwd=tmp_path, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(undefined) - {"U", "w"} <= {"memset", "memcpy", "__aeabi_unwind_cpp_pr0"}


@pytest.mark.parametrize("name", ALL)
def test_compiles_for_every_instruction_set(name):
    device = load_device(name)
    func = matmul(linear((30,), 20, 50, ["nn.silu"]).composite(), Context(device=device)).func
    texts: dict[str, str] = {}
    compile_kernels([func], device, prefix="net", dump=texts)
    fused = {
        "x86-64": "mulps",
        "rk3288": r"vfma\.f32\s+q",
        "cortex-a7": r"vfma\.f32\s+q",
        "cortex-a53": r"fmla\s+v\d+\.4s",
        "neoverse-v1": r"fmla\s+v\d+\.4s",
    }
    assert re.search(fused.get(name, r"vfmadd\w+ps"), texts["asm"])


# Registers that overflow their number go to the stack; a tile that fits has none there.
FMA = r"\b(vfmadd\w+ps|fmla|vfma\.f32)\b"


def main_loop_of_a_product(name):
    """Its instructions: from the label of the loop to the jump back."""
    device = load_device(name)
    builder = linear((64 * 9 * 8 * 7,), 64, 96)
    func = matmul(builder.composite(), Context(device=device)).func
    texts: dict[str, str] = {}
    compile_kernels([func], device, prefix="net", dump=texts)
    loops = re.split(r"^(\.LBB\w+):", texts["asm"], flags=re.MULTILINE)
    label, inner = max(
        zip(loops[1::2], loops[2::2], strict=True), key=lambda part: len(re.findall(FMA, part[1]))
    )
    assert len(re.findall(FMA, inner)) >= 8
    turn = re.split(rf"\b(?:j\w+|b\.?\w*)\s+{re.escape(label)}\b", inner)
    assert len(turn) == 2, "the loop jumps back to its label once"
    return [line for line in turn[0].splitlines() if re.match(r"\t[a-z]", line)]


@pytest.mark.parametrize(
    "name, stack",
    [
        ("x86-64-v4", r"zmm\d+, .*\(%rsp\)"),
        ("x86-64-v3", r"ymm\d+, .*\(%rsp\)"),
        ("cortex-a76", r"st[pr]\s+q\d+.*\[sp"),
        ("rk3288", r"vst1\.64\s+.*\[(sp|lr|r\d+):128\]"),
    ],
)
def test_the_main_tile_does_not_spill(name, stack):
    assert not [line for line in main_loop_of_a_product(name) if re.search(stack, line)]


@pytest.mark.parametrize("name", ["cortex-a53", "cortex-a55"])
def test_cores_in_order_execute_at_most_a_tenth_more_for_a_product(name):
    """LLVM puts two turns of their loop together and keeps some weights on the stack; both count."""

    def per_fma(loop):
        return len(loop) / sum(bool(re.search(FMA, line)) for line in loop)

    assert per_fma(main_loop_of_a_product(name)) <= 1.1 * per_fma(
        main_loop_of_a_product("cortex-a76")
    )


def parallel_loop(begin=0):
    body = scaled_rows(load_device("host")).body
    assert body.kind == ForKind.PARALLEL
    return For(
        Var("i", "int32"), IntImm("int32", begin), IntImm("int32", 3), ForKind.PARALLEL, body.body
    )


@pytest.mark.parametrize(
    "body, message",
    [
        ([parallel_loop(), parallel_loop()], "2 parallel loops in one kernel"),
        ([parallel_loop(begin=1)], "begins at 1; it must begin at 0"),
    ],
    ids=["two loops", "wrong begin"],
)
def test_refuses_parallel_loops_that_are_no_range(body, message):
    with pytest.raises(ValueError, match=message):
        range_outer(PrimFunc([], stmt_seq(*body)))


def test_refuses_work_outside_the_parallel_loop():
    e = Emitter(load_device("host"))
    y = e.parameter("y", 8)
    e.store(y, 0, e.splat(1.0, 4))
    with e.parallel(2) as i:
        e.store(y, i * 4, e.splat(2.0, 4))
    with pytest.raises(ValueError, match="BufferStore stands outside the parallel loop"):
        range_outer(e.finish())
