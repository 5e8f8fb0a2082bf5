"""How does a choice become a part of the measuring program?

The program is `measure.c` with two or more candidates linked in: of each the kernel, its packed
constants, and a description of how it is called. These functions run in worker processes.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.artifact.csource import template_text
from parc_hw.artifact.toolchain import Toolchain, find_toolchain
from parc_hw.device import Device, Isa
from parc_hw.errors import UnsupportedError

if TYPE_CHECKING:
    from schedules.aot import KernelSignature
    from schedules.rule import Scheduled
    from schedules.tuning.task import Task

__all__ = [
    "MOST_BUFFERS",
    "Part",
    "build",
    "compile_harness",
    "description",
    "task_from",
    "write_inputs",
]

MOST_BUFFERS = 16  # of a kernel: measure.c has a call for each number of them
_ALIGNMENT = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A candidate, ready to be linked.

    Attributes
    ----------
    objects : tuple of str
        Files to link.
    note : str
        What the rule says of the kernel.
    seconds : float
        That building took.
    """

    objects: tuple[str, ...]
    note: str
    seconds: float


@lru_cache(maxsize=4)
def task_from(text: str) -> Task:
    """The task that a process was told of; the same object as long as it is the same text."""
    from schedules.tuning.task import Task

    return Task.from_json(json.loads(text))


def build(task_text: str, choice: dict[str, Any], directory: str, prefix: str) -> Part:
    """Compile a choice.

    Parameters
    ----------
    task_text : str
        `Task.to_json` as text.
    choice : dict
        `Choice.to_json`.
    directory : str
        Where files are written.
    prefix : str
        Of their names and of the candidate's symbols; each candidate of a program has its own.

    Raises
    ------
    ParcError
        The rule refuses the choice, or a tool fails.
    """
    from schedules.aot import compile_kernels
    from schedules.tuning.space import Choice

    began = time.monotonic()
    task = task_from(task_text)
    chosen = Choice.from_json(choice)
    scheduled = task.schedule(chosen)
    compiled = compile_kernels([scheduled.func], task.device, prefix=prefix)
    where = Path(directory)
    kernel = where / f"{prefix}.o"
    kernel.write_bytes(compiled.objects[0])
    (signature,) = compiled.kernels
    lines = description(
        scheduled,
        signature,
        task.device,
        where / f"{prefix}.bin",
        prefix=prefix,
        tolerance=task.tolerance(chosen),
    )
    about = where / f"{prefix}_about.o"
    text = "\n".join(json.dumps(f"{line}\n") for line in lines)
    _tools(task.device).compile_object(f"__asm__(\n{text}\n);\n", about)
    (where / f"{prefix}.bin").unlink()  # it is in the object
    return Part(
        objects=(str(kernel), str(about)),
        note=scheduled.note,
        seconds=time.monotonic() - began,
    )


def description(
    scheduled: Scheduled,
    signature: KernelSignature,
    device: Device,
    blob: Path,
    *,
    prefix: str,
    tolerance: float = 0.0,
    counters: tuple[str, int] | None = None,
) -> list[str]:
    """Lines of assembly that say what `measure.c` knows of a candidate; its constants go to `blob`.

    Parameters
    ----------
    counters : tuple of (symbol, number), optional
        Of an instrumented kernel.

    Raises
    ------
    UnsupportedError
        The kernel has more buffers than the program can pass.
    """
    from schedules.tir import parameter_sizes

    constants = [np.ascontiguousarray(c, np.float32).reshape(-1) for c in scheduled.constants]
    if signature.arguments > MOST_BUFFERS:
        raise UnsupportedError(
            f"the kernel has {signature.arguments} buffers; the measuring program passes at most "
            f"{MOST_BUFFERS}."
        )
    with blob.open("wb") as file:
        for constant in constants:
            data = constant.astype("<f4", copy=False).tobytes()
            file.write(data + bytes(-len(data) % _ALIGNMENT))
    pointer = ".quad {}" if device.isa is not Isa.ARMV7A else ".long {}, 0"

    def numbers(values: list[int]) -> str:
        return ".quad " + ", ".join(map(str, values + [0] * (MOST_BUFFERS - len(values))))

    runs, blocks = counters or ("0", 0)
    return [
        ".section .rodata",
        f".balign {_ALIGNMENT}",
        f"{prefix}_data:",
        f'.incbin "{blob.absolute()}"',
        ".data",
        ".balign 8",
        f"{prefix}_about:",
        pointer.format(signature.symbol),
        pointer.format(f"{prefix}_data"),
        pointer.format(runs),
        f".quad {blocks}, {signature.extent}, {signature.scratch_bytes}",
        f".quad {len(scheduled.inputs)}, {len(constants)}, {parameter_sizes(scheduled.func)[-1]}",
        f".double {tolerance!r}",
        numbers(list(scheduled.inputs)),
        numbers([constant.size for constant in constants]),
        '.section parc_candidates,"aw",%progbits',
        ".balign 8",
        pointer.format(f"{prefix}_about"),
        ".text",
    ]


@lru_cache(maxsize=4)
def _tools(device: Device) -> Toolchain:
    return find_toolchain(device)


@cache
def _harness_text() -> str:
    return (resources.files("parc_hw.runners") / "measure.c").read_text(encoding="utf-8")


def compile_harness(tools: Toolchain, directory: Path, *, shared: bool = False) -> list[Path]:
    """The objects of the measuring program without candidates; `shared`: for a shared library."""
    program, pool = directory / "measure.o", directory / "parallel.o"
    tools.compile_object(_harness_text(), program, flags=["-DPARC_SHARED"] if shared else [])
    tools.compile_object(template_text("parallel_pthread.c"), pool)
    return [program, pool]


def write_inputs(task: Task, path: Path) -> None:
    """The file of a task's inputs, as `measure.c` reads it."""
    arrays = task.inputs()
    head = np.array([len(arrays), *(a.size for a in arrays)], "<i8")
    with path.open("wb") as file:
        file.write(head.tobytes())
        for array in arrays:
            file.write(np.ascontiguousarray(array, "<f4").tobytes())
