"""Does the compiler accept each device, fuse its multiply-adds, and does qemu run its code?"""

from __future__ import annotations

import re
import subprocess

import pytest

from parc_hw.device import Isa, device_names, load_device

NAMES = [name for name in device_names() if name != "host"]
FUSED = {
    Isa.X86_64: r"\tvfmadd\d+ps\t.*{}mm",
    Isa.AARCH64: r"\tfmla\tv\d+\.4s",
    Isa.ARMV7A: r"\tvfma\.f32\tq\d+",
}


def assembly(device, lanes):
    """c = a * b + c on vectors of `lanes` floats (1: scalars), through TVM's own pipeline."""
    from tvm import IRModule, target, tirx
    from tvm.script import tirx as T

    if lanes == 1:

        @T.prim_func(s_tir=True)
        def kernel(
            a: T.Buffer((5,), "float32"), b: T.Buffer((5,), "float32"), c: T.Buffer((5,), "float32")
        ):
            for i in T.serial(5):
                c[i] = T.fma(a[i], b[i], c[i])

    else:
        size = 4 * lanes

        @T.prim_func(s_tir=True)
        def kernel(
            a: T.Buffer((size,), "float32"),
            b: T.Buffer((size,), "float32"),
            c: T.Buffer((size,), "float32"),
        ):
            for i in T.serial(4):
                for j in T.vectorized(lanes):
                    c[i * lanes + j] = T.fma(a[i * lanes + j], b[i * lanes + j], c[i * lanes + j])

    module = IRModule({"kernel": kernel.with_attr("global_symbol", "kernel")})
    built = tirx.build(module, target=target.Target(device.llvm_target()))
    return built.inspect_source("asm")


@pytest.mark.tvm
@pytest.mark.parametrize("name", [name for name in NAMES if name != "x86-64"])
def test_an_explicit_fma_is_one_instruction_on_full_vectors_and_on_scalars(name):
    """The same rounding in a vector body and in its scalar tail, on every device with fma."""
    device = load_device(name)
    width = {128: "x", 256: "y", 512: "z"}[device.vector_bits]
    assert re.search(FUSED[device.isa].format(width), assembly(device, device.lanes()))
    scalar = assembly(device, 1)
    assert re.search(r"\t(vfmadd\d+ss|fmadd\ts\d|vfma(eq)?\.f32\ts\d)", scalar)
    assert not re.search(r"\tv?mul(ss|eq)?(\.f32)?\t", scalar)


@pytest.mark.tvm
@pytest.mark.parametrize("lanes", [1, 4])
def test_the_x86_baseline_multiplies_and_adds_and_calls_nothing(lanes):
    """Without the instruction, llvm.fmuladd is two instructions and not a call of fmaf."""
    text = assembly(load_device("x86-64"), lanes)
    suffix = "ss" if lanes == 1 else "ps"
    assert f"\tmul{suffix}\t" in text
    assert f"\tadd{suffix}\t" in text
    assert "fmaf" not in text
    assert "ymm" not in text


C = r"""
#include <math.h>
#include <stdio.h>
int main(int argc, char **argv) {
    /* (1 + 2^-12)^2 - 1 keeps its last bit only if the product is not rounded */
    float a[64], c[64], worst = 0;
    for (int i = 0; i < 64; i++) { a[i] = 1.0f + argc * ldexpf(1, -12); c[i] = -1.0f; }
    for (int i = 0; i < 64; i++) c[i] = fmaf(a[i], a[i], c[i]);
    for (int i = 0; i < 64; i++) worst = fmaxf(worst, fabsf(c[i] - ldexpf(8193, -24)));
    printf("%g %d\n", worst, 1000 / (argc + 6));
    return 0;
}
"""


@pytest.mark.cross
@pytest.mark.parametrize("name", [name for name in NAMES if load_device(name).qemu])
def test_qemu_s_processor_executes_all_that_the_device_s_compiler_may_emit(name, tmp_path):
    device = load_device(name)
    source, program = tmp_path / "fma.c", tmp_path / "fma"
    source.write_text(C)
    arm7 = device.isa is Isa.ARMV7A
    options = ["-mfpu=neon-vfpv4", "-mfloat-abi=hard"] if arm7 else []
    cpu = device.cpu if device.cpu != "generic" else "generic+nocrypto"
    compiler = [f"{device.gnu_triple}-gcc", f"-mcpu={cpu}", *options]
    subprocess.run(
        [*compiler, "-O3", "-ffast-math", "-static", source, "-o", program, "-lm"], check=True
    )
    run = subprocess.run(
        [device.qemu, "-cpu", device.qemu_cpu, program], check=True, capture_output=True, text=True
    )
    assert run.stdout == "0 142\n"
