"""Builds of which some go wrong in a way that the environment says: what tuners must survive.

Called in worker processes in place of `parc_hw.runners.build:build` and of
`parc_hw.runners.count:count`.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from parc_hw.artifact.toolchain import find_toolchain
from parc_hw.runners import build as building
from parc_hw.runners import count as counting
from schedules.tuning.space import Choice

VARIABLE = "PARC_TEST_BAD_BUILDS"  # JSON: str(choice) -> kind

BODIES = {
    "crash": "__builtin_trap();",
    "hang": "for (volatile int i = 0;; ++i) ;",
    "wrong": "((float *)OUT)[3] += 1.0f;",
    "nan": '((float *)OUT)[3] = __builtin_nanf("");',
    "outside": "((float *)OUT)[-1] = 0.0f;",
    "error": "return 7;",
}


def _kind(choice: dict) -> str:
    kind = json.loads(os.environ.get(VARIABLE, "{}")).get(str(Choice.from_json(choice)), "")
    if kind == "compiler crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if kind == "compiler hang":
        time.sleep(3600)
    if kind == "compiler error":
        raise ValueError("LLVM does not like it")
    return kind


def build(task_text: str, choice: dict, directory: str, prefix: str) -> building.Part:
    """As `parc_hw.runners.build.build`, and then it may do something bad after its work."""
    kind = _kind(choice)
    part = building.build(task_text, choice, directory, prefix)
    if not kind:
        return part
    task = building.task_from(task_text)
    real, symbol = f"{prefix}_real", f"{prefix}_k0"
    subprocess.run(
        ["objcopy", "--redefine-sym", f"{symbol}={real}", part.objects[0]], check=True, text=True
    )
    scheduled = task.schedule(Choice.from_json(choice))
    from schedules._tvm import Target
    from schedules.aot import lower_kernel

    _, signature = lower_kernel(scheduled.func, "k", Target(task.device.llvm_target()))
    types = ["void *"] * signature.arguments + ["int32_t"] * 2 * bool(signature.extent)
    types += ["void *"] * bool(signature.scratch_bytes)
    names = [f"a{i}" for i in range(len(types))]
    body = BODIES[kind].replace("OUT", names[signature.arguments - 1])
    given = ", ".join(f"{t} {n}" for t, n in zip(types, names, strict=True))
    text = (
        f"#include <stdint.h>\nint32_t {real}({given});\nint32_t {symbol}({given}) {{\n"
        f"  int32_t status = {real}({', '.join(names)});\n  {body}\n  return status;\n}}\n"
    )
    output = Path(directory) / f"{prefix}_bad.o"
    find_toolchain(task.device).compile_object(text, output)
    return building.Part(objects=(*part.objects, str(output)), note=part.note, seconds=part.seconds)


def count(task_text: str, choice: dict, *arguments: object) -> counting.Counted:
    """As `parc_hw.runners.count.count`; only the compiler may go wrong."""
    _kind(choice)
    return counting.count(task_text, choice, *arguments)
