"""What does a rule receive, and what does it answer?

A rule turns one composite (an operator with its epilogues) into one kernel, or says why not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from parc_hw.device import Device
from parc_hw.errors import InputError
from schedules.tuning.space import Choice, Space

__all__ = [
    "Composite",
    "Context",
    "Node",
    "NotApplicable",
    "Ref",
    "Rule",
    "Scheduled",
    "Tuned",
    "choose",
]


@dataclass(frozen=True, slots=True)
class Ref:
    """A tensor operand of a node: composite input `index`, or the result of node `index`."""

    kind: str  # "input" or "node"
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One Relax call inside a composite.

    `args` holds `Ref` for tensors that are computed, `np.ndarray` for constants, tuples of
    those for tuple arguments, and plain Python values for the rest. All shapes are in memory
    order (NHWC inside a model).
    """

    op: str  # Relax name, e.g. "relax.matmul", "relax.parc"
    args: tuple[Any, ...]
    attrs: dict[str, Any]
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Composite:
    """An anchor and the chain of single-use element-wise nodes after it; the last node is the result."""

    inputs: tuple[tuple[int, ...], ...]  # shapes of the composite's tensor inputs
    nodes: tuple[Node, ...]

    @property
    def name(self) -> str:
        """The operators in order, e.g. `matmul.add.gelu`."""
        return ".".join(n.op.rsplit(".", 1)[-1] for n in self.nodes)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""
        return self.nodes[-1].shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a rule may ask about besides the composite."""

    device: Device
    plan: str = "auto"  # --plan: auto, direct, fft or N1xN2
    # How wide the panels of packed weights are, by `weights_key`: the first choice holds, so that
    # one packed copy serves all input shapes of a bundle. Shapes share this dictionary.
    panel_vectors: dict[bytes, int] = field(default_factory=dict, compare=False)
    # Which point of a rule's space to take for a composite; None: always the space's default.
    decide: Callable[[Composite, Space], Tuned] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuned:
    """A point of a rule's space for one composite, and where it comes from.

    Parameters
    ----------
    choice : Choice
        The space's default where nothing better is known.
    record : str
        Key of the tuning record that it is from, or "".
    reason : str
        One line: which record, or why none applied; "" where nobody looked.
    """

    choice: Choice
    record: str = ""
    reason: str = ""


def choose(composite: Composite, context: Context, space: Space) -> Tuned:
    """The point of `space` that a rule is to take for `composite`.

    Raises
    ------
    InputError
        The context decides for something that is no point of the space.
    """
    if context.decide is None:
        return Tuned(choice=space.default)
    tuned = context.decide(composite, space)
    if reason := space.refusal(tuned.choice):
        raise InputError(f"{space.kernel} cannot take {tuned.choice}: {reason}.")
    return tuned


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A kernel for a whole composite.

    `func` is a `tirx.PrimFunc` whose buffer parameters are, in order: the composite inputs
    listed in `inputs`, then `constants`, then the output; every one a flat float32 buffer.
    At most one outermost loop is `ForKind.PARALLEL`, from 0, with no work outside it but
    allocations; all other allocations are private to an iteration of it.
    """

    func: Any
    inputs: tuple[int, ...]
    constants: tuple[np.ndarray, ...]
    rule: str  # the rule's name, shown by `analyze`
    note: str = ""  # one line: the plan or tile chosen and why
    macs: int = 0
    space: Space | None = None  # what could have been chosen; None: nothing
    tuned: Tuned | None = None  # what was chosen in it


@dataclass(frozen=True, slots=True)
class NotApplicable:
    """A rule's refusal: which rule, and why."""

    rule: str
    reason: str


Rule = Callable[[Composite, Context], "Scheduled | NotApplicable"]
