"""What do many kernels compute, compiled together and loaded into this process?

For the tests that need dozens of kernels on this machine: one link and no process per kernel.
`run_kernel` checks more (inaccessible pages) and runs other devices; here the buffers lie between
guards that read as NaN, and the parallel loop is run whole and in two pieces.
"""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from parc_hw.device import load_device
from schedules.aot import KernelSignature, compile_kernels
from schedules.rule import NotApplicable, Scheduled
from schedules.tir import parameter_sizes

GUARD = 64  # elements before and after each buffer


def run_many(
    jobs: Sequence[tuple[Scheduled | NotApplicable, Sequence[np.ndarray]]],
) -> list[np.ndarray]:
    """Flat results of kernels scheduled for this machine on the composites' inputs."""
    for scheduled, _ in jobs:
        assert isinstance(scheduled, Scheduled), scheduled
    compiled = compile_kernels([s.func for s, _ in jobs], load_device("host"), prefix="many")
    gcc = shutil.which("gcc")
    assert gcc, "gcc is missing; install it with\n    sudo apt-get install -y gcc libc6-dev"
    with tempfile.TemporaryDirectory() as folder:
        names = []
        for number, code in enumerate(compiled.objects):
            names.append(f"{number}.o")
            (Path(folder) / names[-1]).write_bytes(code)
        link = [gcc, "-shared", "-o", "many.so", *names, "-lm"]
        done = subprocess.run(link, cwd=folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        library = ctypes.CDLL(str(Path(folder) / "many.so"))
        return [
            _run(library, signature, scheduled, inputs)
            for signature, (scheduled, inputs) in zip(compiled.kernels, jobs, strict=True)
        ]


def _run(
    library: ctypes.CDLL,
    signature: KernelSignature,
    scheduled: Scheduled,
    inputs: Sequence[np.ndarray],
) -> np.ndarray:
    arrays = [inputs[i] for i in scheduled.inputs] + list(scheduled.constants)
    sizes = parameter_sizes(scheduled.func)
    assert [a.size for a in arrays] == list(sizes[:-1])
    rooms = [_room(size) for size in sizes]
    for (_, data), array in zip(rooms, arrays, strict=False):
        data[:] = np.asarray(array, np.float32).reshape(-1)
    scratch_room, scratch = _room(signature.scratch_bytes // 4)
    kernel = getattr(library, signature.symbol)

    def call(begin: int, end: int) -> None:
        scratch[:] = np.nan
        arguments: list[object] = [ctypes.c_void_p(data.ctypes.data) for _, data in rooms]
        if signature.extent:
            arguments += [ctypes.c_int32(begin), ctypes.c_int32(end)]
        if signature.scratch_bytes:
            arguments.append(ctypes.c_void_p(scratch.ctypes.data))
        assert kernel(*arguments) == 0

    output = rooms[-1][1]
    call(0, signature.extent)
    whole = output.copy()
    if signature.extent > 1:
        cut = signature.extent // 2
        output[:] = np.nan
        call(cut, signature.extent)
        call(0, cut)
        assert output.tobytes() == whole.tobytes(), "the range split gives other bits"
    for room, data in [*rooms, (scratch_room, scratch)]:
        guards = np.isnan(room).sum() - np.isnan(data).sum()
        assert guards == room.size - data.size, "written outside of a buffer"
    for (_, data), array in zip(rooms, arrays, strict=False):
        assert data.tobytes() == np.ascontiguousarray(array, np.float32).tobytes(), "input changed"
    return whole


def _room(size: int) -> tuple[np.ndarray, np.ndarray]:
    """NaNs, and in their middle a 64-byte aligned buffer of `size` elements."""
    room = np.full(size + 2 * GUARD + 16, np.nan, np.float32)
    first = GUARD + (-(room.ctypes.data // 4 + GUARD)) % 16
    return room, room[first : first + size]
