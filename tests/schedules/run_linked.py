"""What do many kernels for another machine compute, linked into one program and run by qemu?

`run_kernel` makes one program per kernel; here one link and one process serve dozens. Every
buffer ends near an inaccessible page and lies between bytes that read as NaN, which must stay as
they are; the range of the parallel loop is run whole and in two pieces, which must agree.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from run_kernel import _command, _compiler, _tool

from parc_hw.device import Device, load_device
from schedules.aot import KernelSignature, compile_kernels
from schedules.rule import Scheduled
from schedules.tir import parameter_sizes


def run_linked(
    jobs: Sequence[tuple[Scheduled, Sequence[np.ndarray]]], device: Device | str
) -> list[np.ndarray]:
    """Flat results of scheduled kernels on the composites' inputs."""
    device = load_device(device) if isinstance(device, str) else device
    compiled = compile_kernels([s.func for s, _ in jobs], device, prefix="linked")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        objects = []
        for number, code in enumerate(compiled.objects):
            objects.append(f"{number}.o")
            (folder / objects[-1]).write_bytes(code)
        outputs = []
        with (folder / "in.bin").open("wb") as file:
            for signature, (scheduled, inputs) in zip(compiled.kernels, jobs, strict=True):
                arrays = [*(inputs[i] for i in scheduled.inputs), *scheduled.constants]
                arrays = [np.asarray(a, np.float32).reshape(-1) for a in arrays]
                sizes = parameter_sizes(scheduled.func)
                assert [a.size for a in arrays] == list(sizes[:-1])
                head = [signature.extent, signature.scratch_bytes, len(sizes), *sizes]
                file.write(np.array(head, np.int32).tobytes())
                for array in arrays:
                    file.write(array.tobytes())
                outputs.append(sizes[-1])
        (folder / "main.c").write_text(_program(compiled.kernels))
        _command([*_compiler(device), "main.c", *objects, "-lm", "-o", "main"], folder)
        command = [str(folder / "main")]
        if not device.runs_here:
            command.insert(0, _tool(device.qemu or "", "qemu-user-static"))
        _command(command, folder)
        result = np.fromfile(folder / "out.bin", np.float32)
    assert result.size == sum(outputs)
    return np.split(result, np.cumsum(outputs)[:-1])


def _program(kernels: Sequence[KernelSignature]) -> str:
    """C text: for every job read its buffers, run, check the surroundings, write the result."""
    declared, calls = {}, []
    for kernel in kernels:
        types = ["float *"] * kernel.arguments
        given = [f"b[{i}].data" for i in range(kernel.arguments)]
        if kernel.extent:
            types += ["int32_t", "int32_t"]
            given += ["begin", "end"]
        if kernel.scratch_bytes:
            types.append("void *")
            given.append("scratch.data")
        declared[kernel.symbol] = f"int32_t {kernel.symbol}({', '.join(types)});"
        calls.append(f"  case {len(calls)}: return {kernel.symbol}({', '.join(given)});")
    return (
        _PROGRAM.replace("@DECLARED@", "\n".join(declared.values()))
        .replace("@CALLS@", "\n".join(calls))
        .replace("@COUNT@", str(len(kernels)))
    )


_PROGRAM = """
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
enum { PAGE = 65536, MOST = 16 };
typedef struct { unsigned char *base; size_t room, bytes; float *data; } Buffer;
static Buffer b[MOST], scratch;
static int count, job;
@DECLARED@
static int32_t kernel(int32_t begin, int32_t end) {
  (void)begin; (void)end;
  switch (job) {
@CALLS@
  }
  return 1;
}
static void fail(const char *what, int which) {
  printf("job %d: %s %d\\n", job, what, which);
  exit(1);
}
static void make(Buffer *m, size_t bytes) {
  size_t aligned = (bytes + 63) / 64 * 64;
  m->room = (aligned + 64 + PAGE - 1) / PAGE * PAGE;
  m->bytes = bytes;
  unsigned char *p = mmap(0, m->room + 2 * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED || mprotect(p + PAGE, m->room, PROT_READ | PROT_WRITE)) fail("mmap", 0);
  m->base = p + PAGE;
  memset(m->base, 0xFF, m->room);
  m->data = (float *)(m->base + m->room - aligned);
}
static void drop(Buffer *m) {
  if (m->base) munmap(m->base - PAGE, m->room + 2 * PAGE);
  memset(m, 0, sizeof *m);
}
static void around(const Buffer *m, int which) {
  size_t before = (unsigned char *)m->data - m->base;
  for (size_t i = 0; i < m->room; i++)
    if ((i < before || i >= before + m->bytes) && m->base[i] != 0xFF)
      fail("written outside of buffer", which);
}
static void call(int32_t begin, int32_t end) {
  if (scratch.data) memset(scratch.data, 0xFF, scratch.bytes);
  if (kernel(begin, end)) fail("kernel returned an error", 0);
  for (int i = 0; i < count; i++) around(&b[i], i);
  if (scratch.data) around(&scratch, -1);
}
int main(void) {
  FILE *in = fopen("in.bin", "rb"), *out = fopen("out.bin", "wb");
  for (job = 0; job < @COUNT@; job++) {
    int32_t head[3], size[MOST];
    if (fread(head, 4, 3, in) != 3 || head[2] > MOST) fail("head", 0);
    count = head[2];
    if (fread(size, 4, count, in) != (size_t)count) fail("sizes", 0);
    for (int i = 0; i < count; i++) {
      make(&b[i], 4 * (size_t)size[i]);
      if (i < count - 1) {
        if (fread(b[i].data, 4, size[i], in) != (size_t)size[i]) fail("fread", i);
        mprotect(b[i].base, b[i].room, PROT_READ);
      }
    }
    if (head[1]) make(&scratch, head[1]);
    Buffer *y = &b[count - 1];
    float *first = malloc(y->bytes);
    call(0, head[0]);
    memcpy(first, y->data, y->bytes);
    if (head[0] > 1) {
      memset(y->data, 0xFF, y->bytes);
      call(head[0] / 2, head[0]);
      call(0, head[0] / 2);
      if (memcmp(first, y->data, y->bytes)) fail("the range split gives other bits", 0);
    }
    if (fwrite(y->data, 1, y->bytes, out) != y->bytes) fail("fwrite", 0);
    free(first);
    for (int i = 0; i < count; i++) drop(&b[i]);
    drop(&scratch);
  }
  return fclose(out) != 0;
}
"""
