"""Which rules make kernels for CPUs, and in which order are they asked?"""

from __future__ import annotations

from schedules.cpu.conv import conv
from schedules.cpu.depthwise import depthwise
from schedules.cpu.generic import generic
from schedules.cpu.grouped import grouped
from schedules.cpu.matmul import matmul
from schedules.cpu.norm import layer_norm
from schedules.cpu.parc import parc
from schedules.cpu.parc_dense import parc_dense
from schedules.cpu.pool import global_mean, pool_window
from schedules.cpu.product import product
from schedules.cpu.softmax import softmax
from schedules.rule import Rule

__all__ = ["RULES"]

# The special ones first; `generic` takes what none of them does.
RULES: tuple[Rule, ...] = (
    parc,
    parc_dense,
    matmul,
    product,
    conv,
    depthwise,
    grouped,
    layer_norm,
    softmax,
    global_mean,
    pool_window,
    generic,
)
