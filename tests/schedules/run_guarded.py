"""What does a kernel compute when every buffer lies against inaccessible pages?

A stray access ends the process. Each buffer ends right before such a page, or begins right after
one; what the kernel may only read is write-protected. Constants are aligned like their elements
only, as the kernel is told, so that no byte lies between them and the page.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Sequence

import numpy as np

from parc_hw.device import load_device
from schedules.jit import LoadedKernel, load_kernel
from schedules.rule import Scheduled
from schedules.tir import parameter_sizes

PROT_NONE, PAGE = 0, mmap.PAGESIZE
_libc = ctypes.CDLL(None, use_errno=True)


class Guarded:
    """`size` floats that begin or end at an inaccessible page."""

    def __init__(self, size: int, *, at_end: bool) -> None:
        self._room = -(-size * 4 // PAGE) * PAGE
        self._area = mmap.mmap(-1, self._room + 2 * PAGE)
        self._base = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        self._protect(self._base, PAGE, PROT_NONE)
        self._protect(self._base + PAGE + self._room, PAGE, PROT_NONE)
        offset = PAGE + (self._room - size * 4 if at_end else 0)
        self.array = np.frombuffer(self._area, np.float32, size, offset)

    @staticmethod
    def _protect(address: int, size: int, how: int) -> None:
        done = _libc.mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), how)
        assert done == 0, f"mprotect: {ctypes.get_errno()}"

    def seal(self) -> None:
        """Make the floats read-only."""
        self._protect(self._base + PAGE, self._room, mmap.PROT_READ)

    def address(self) -> int:
        """Of the first float."""
        return self.array.ctypes.data


def run_guarded(scheduled: Scheduled, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Flat result of a kernel for this machine, on the composite's inputs."""
    func = scheduled.func
    kernel = load_kernel(func, load_device("host"), unaligned=range(len(func.params)))
    arrays = [*(inputs[i] for i in scheduled.inputs), *scheduled.constants]
    arrays = [np.asarray(a, np.float32).reshape(-1) for a in arrays]
    *sizes, output = parameter_sizes(func)
    assert [a.size for a in arrays] == sizes
    results = [_run(kernel, arrays, output, at_end=at_end) for at_end in (True, False)]
    assert results[0].tobytes() == results[1].tobytes(), "the bits depend on where buffers lie"
    return results[0]


def _run(
    kernel: LoadedKernel, arrays: list[np.ndarray], output: int, *, at_end: bool
) -> np.ndarray:
    buffers = [Guarded(a.size, at_end=at_end) for a in arrays]
    for buffer, array in zip(buffers, arrays, strict=True):
        buffer.array[:] = array
        buffer.seal()
    y = Guarded(output, at_end=at_end)
    scratch = Guarded(kernel.signature.scratch_bytes // 4, at_end=at_end)
    addresses = [b.address() for b in (*buffers, y)]
    results = []
    shares = {1, min(3, max(1, kernel.signature.extent))}
    for count in sorted(shares):
        y.array[:] = scratch.array[:] = np.nan
        job = kernel.job(addresses, [scratch.address()], shares=count, wakes=False)
        for share in reversed(range(count)):
            kernel.share(job.ctypes.data, share, 0)
        results.append(y.array.copy())
    assert results[0].tobytes() == results[-1].tobytes(), "the range split gives other bits"
    return results[0]
