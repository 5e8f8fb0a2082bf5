"""Does a kernel, compiled and linked as a user would, compute what it should and touch nothing else?

`run` builds a small C program around one kernel and runs it here or under qemu. Every buffer
lies against an inaccessible page and between bytes that read as NaN, so that a stray read or
write ends the test; the range of the parallel loop is run whole and in two pieces, the second
piece first, and must give equal bits.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parc_hw.device import Device, load_device
from schedules.aot import CompiledKernels, compile_kernels
from schedules.rule import Composite, Context, NotApplicable, Rule, Scheduled
from schedules.tir import parameter_sizes

UNIT_ROUNDOFF = 2.0**-24


def run_rule(
    rule: Rule, composite: Composite, inputs: Sequence[np.ndarray], device: Device | str = "host"
) -> np.ndarray:
    """Result of `composite` by `rule`'s kernel on `device`, in the composite's shape."""
    device = load_device(device) if isinstance(device, str) else device
    scheduled = rule(composite, Context(device=device))
    assert not isinstance(scheduled, NotApplicable), scheduled
    for shape, array in zip(composite.inputs, inputs, strict=True):
        assert tuple(shape) == array.shape
    return run(scheduled, inputs, device).reshape(composite.shape)


def run(
    scheduled: Scheduled, inputs: Sequence[np.ndarray], device: Device | str = "host"
) -> np.ndarray:
    """Result of a scheduled kernel, flat; `inputs` are those of the composite, all of them."""
    device = load_device(device) if isinstance(device, str) else device
    compiled = compile_kernels([scheduled.func], device, prefix="test")
    arrays = [inputs[i] for i in scheduled.inputs] + list(scheduled.constants)
    arrays = [np.ascontiguousarray(a, dtype=np.float32).reshape(-1) for a in arrays]
    sizes = parameter_sizes(scheduled.func)
    assert [a.size for a in arrays] == list(sizes[:-1]), (
        f"the kernel's buffers hold {sizes[:-1]} elements, the arrays {[a.size for a in arrays]}"
    )
    return _execute(compiled, arrays, sizes[-1], device)


def _execute(
    compiled: CompiledKernels, arrays: list[np.ndarray], output: int, device: Device
) -> np.ndarray:
    (kernel,) = compiled.kernels
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "kernel.o").write_bytes(compiled.objects[0])
        (folder / "main.c").write_text(_program(kernel, [a.size for a in arrays], output))
        np.concatenate([*arrays, np.zeros(0, np.float32)]).tofile(folder / "in.bin")
        _command([*_compiler(device), "main.c", "kernel.o", "-lm", "-o", "main"], folder)
        run_command = [str(folder / "main")]
        if not device.runs_here:
            run_command.insert(0, _tool(device.qemu or "", "qemu-user-static"))
        _command(run_command, folder)
        return np.fromfile(folder / "out.bin", dtype=np.float32)


def _compiler(device: Device) -> list[str]:
    if device.runs_here:
        return [_tool("gcc", "gcc"), "-O1", "-Wall", "-Werror"]
    package = f"gcc-{device.gnu_triple}"
    return [_tool(f"{device.gnu_triple}-gcc", package), "-O1", "-Wall", "-Werror", "-static"]


def _tool(name: str, package: str) -> str:
    path = shutil.which(name)
    assert path, f"{name} is missing; install it with\n    sudo apt-get install -y {package}"
    return path


def _command(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{command} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
    )


def _program(kernel, sizes: list[int], output: int) -> str:
    """C text: load, run whole and in pieces, check the surroundings, write the result."""
    count = len(sizes) + 1
    parameters = ["float *"] * count
    arguments = [f"buffer[{i}].data" for i in range(count)]
    if kernel.extent:
        parameters += ["int32_t", "int32_t"]
        arguments += ["begin", "end"]
    if kernel.scratch_bytes:
        parameters.append("void *")
        arguments.append("scratch.data")
    cuts = sorted({1, kernel.extent // 2, kernel.extent - 1} & set(range(1, kernel.extent)))
    pieces = "\n".join(
        f"  poison(&buffer[{count - 1}]); call({cut}, {kernel.extent}); call(0, {cut}); same({cut});"
        for cut in cuts
    )
    return f"""
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
enum {{ PAGE = 65536 }};
typedef struct {{ unsigned char *base; size_t room, bytes; float *data; }} Buffer;
static Buffer buffer[{count}], scratch;
static unsigned char *expected[{count}];
static const size_t sizes[{count}] = {{{", ".join(str(4 * s) for s in [*sizes, output])}}};
int32_t {kernel.symbol}({", ".join(parameters)});

static void fail(const char *what, int which) {{ printf("%s %d\\n", what, which); exit(1); }}
/* 64-byte aligned, ending as near as that allows to an inaccessible page, NaN bytes around. */
static void make(Buffer *b, size_t bytes) {{
  size_t aligned = (bytes + 63) / 64 * 64;
  b->room = (aligned + 64 + PAGE - 1) / PAGE * PAGE;
  b->bytes = bytes;
  unsigned char *m = mmap(0, b->room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (m == MAP_FAILED || mprotect(m + PAGE, b->room, PROT_READ | PROT_WRITE)) fail("mmap", 0);
  b->base = m + PAGE;
  memset(b->base, 0xFF, b->room);
  b->data = (float *)(b->base + b->room - aligned);
}}
static void poison(Buffer *b) {{ memset(b->data, 0xFF, b->bytes); }}
static void around(const Buffer *b, int which) {{
  size_t before = (unsigned char *)b->data - b->base;
  for (size_t i = 0; i < b->room; i++)
    if ((i < before || i >= before + b->bytes) && b->base[i] != 0xFF)
      fail("written outside of buffer", which);
}}
static void call(int32_t begin, int32_t end) {{
  (void)begin; (void)end;
  if (scratch.data) poison(&scratch);
  if ({kernel.symbol}({", ".join(arguments)})) fail("kernel returned an error", 0);
  for (int i = 0; i < {count}; i++) around(&buffer[i], i);
  if (scratch.data) around(&scratch, -1);
  for (int i = 0; i < {count - 1}; i++)
    if (memcmp(buffer[i].data, expected[i], sizes[i])) fail("changed input", i);
}}
static void same(int cut) {{
  if (memcmp(buffer[{count - 1}].data, expected[{count - 1}], sizes[{count - 1}]))
    fail("the range split gives other bits, cut at", cut);
}}
int main(void) {{
  FILE *f = fopen("in.bin", "rb");
  for (int i = 0; i < {count}; i++) {{
    make(&buffer[i], sizes[i]);
    expected[i] = malloc(sizes[i]);
    if (i < {count - 1} && fread(buffer[i].data, 1, sizes[i], f) != sizes[i]) fail("fread", i);
    memcpy(expected[i], buffer[i].data, sizes[i]);
  }}
  if ({kernel.scratch_bytes}) make(&scratch, {kernel.scratch_bytes});
  call(0, {kernel.extent});
  memcpy(expected[{count - 1}], buffer[{count - 1}].data, sizes[{count - 1}]);
  {pieces}
  (void)same;
  f = fopen("out.bin", "wb");
  if (fwrite(buffer[{count - 1}].data, 1, sizes[{count - 1}], f) != sizes[{count - 1}] || fclose(f))
    fail("fwrite", 0);
  return 0;
}}
"""
