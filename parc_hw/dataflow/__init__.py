"""How is one butterfly or codelet written down once, for every printer?

>>> from parc_hw.dataflow import count, real_dft, transpose
>>> forward = real_dft(14)
>>> backward = transpose(forward)
>>> count(forward).operations == count(backward).operations
True
"""

from parc_hw.dataflow.count import Counts, count, plan_depth
from parc_hw.dataflow.dft import half_complex, real_dft
from parc_hw.dataflow.expr import (
    Add,
    Dag,
    Fma,
    Input,
    Mul,
    Node,
    Round,
    Rounding,
    Saturate,
    Shift,
    Sub,
    evaluate,
    is_linear,
    operands,
)
from parc_hw.dataflow.order import Define, Step, Store, live_values, order
from parc_hw.dataflow.ranges import ranges, signed_bits
from parc_hw.dataflow.simplify import Builder, Term, absolute, fuse
from parc_hw.dataflow.transpose import transpose

__all__ = [
    "Add",
    "Builder",
    "Counts",
    "Dag",
    "Define",
    "Fma",
    "Input",
    "Mul",
    "Node",
    "Round",
    "Rounding",
    "Saturate",
    "Shift",
    "Step",
    "Store",
    "Sub",
    "Term",
    "absolute",
    "count",
    "evaluate",
    "fuse",
    "half_complex",
    "is_linear",
    "live_values",
    "operands",
    "order",
    "plan_depth",
    "ranges",
    "real_dft",
    "signed_bits",
    "transpose",
]
