"""Which schedule does a kernel get on a machine, and is it made already?

Equal kernels share one: lowering a schedule takes TVM a tenth of a second, and a network repeats
its layers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from parc_hw.accel.choose import best_tilings
from parc_hw.accel.codegen import DoesNotFit, Sizes, check_sizes, sizes_of
from parc_hw.accel.description import Description
from schedules.accel.kernel import Kernel
from schedules.accel.tiling import Tiling, schedule

if TYPE_CHECKING:
    from schedules.accel.lowering import Lowered, Step

__all__ = ["Scheduled", "Schedules", "kernel_key", "make"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A kernel with its tiling, lowered.

    Attributes
    ----------
    tiling : Tiling
    lowered : Lowered
    steps : list of Step
    sizes : Sizes
    """

    tiling: Tiling
    lowered: Lowered
    steps: list[Step]
    sizes: Sizes


def kernel_key(kernel: Kernel) -> str:
    """A text that kernels of equal tensors, loops and accesses share, and no others."""
    return repr(
        (
            kernel.name,
            sorted((name, t.shape, t.dtype, t.memory) for name, t in kernel.tensors.items()),
            [
                (s.name, dict(s.loops), s.dims, s.out, s.reads, s.accumulates)
                for s in kernel.stages
            ],
        )
    )  # fmt: skip


class Schedules:
    """Schedules of one machine, each made once.

    Parameters
    ----------
    machine : Description
    choose : callable, optional
        From a kernel to the tiling it shall have, or None to leave it to the estimate: a lookup in
        tuning records, for instance.
    """

    def __init__(
        self, machine: Description, choose: Callable[[Kernel], Tiling | None] | None = None
    ) -> None:
        self.machine = machine
        self._choose = choose
        self._made: dict[str, Scheduled] = {}

    def get(self, kernel: Kernel) -> Scheduled:
        """The schedule of a kernel.

        Raises
        ------
        UnsupportedError
            No tile fits: says which dimension cannot be cut, and what is missing.
        """
        key = kernel_key(kernel)  # what instructions say besides is put in later
        if key not in self._made:
            tiling = self._choose(kernel) if self._choose is not None else None
            if tiling is not None:
                self._made[key] = make(kernel, tiling, self.machine)
            else:
                self._made[key] = self._first(kernel)
        return self._made[key]

    def _first(self, kernel: Kernel) -> Scheduled:
        """The best by estimate that really fits: estimates of sizes are close, not exact."""
        last: DoesNotFit | None = None
        for tiling in best_tilings(kernel, self.machine, 16):
            try:
                return make(kernel, tiling, self.machine)
            except DoesNotFit as error:
                last = error
        assert last is not None
        raise last


def make(kernel: Kernel, tiling: Tiling, machine: Description) -> Scheduled:
    """Schedule and lower a kernel.

    Raises
    ------
    DoesNotFit
        Its buffers are larger than the machine's memories.
    InputError
        The tiling is not one of the kernel.
    """
    lowered = schedule(kernel, tiling)
    sizes = sizes_of(lowered, machine)
    check_sizes(kernel, sizes, machine)
    return Scheduled(tiling=tiling, lowered=lowered, steps=lowered.steps(), sizes=sizes)
