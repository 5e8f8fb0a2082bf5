"""What does the project want to reach in Table 11, and what has been reached?

`GOALS` is the one place with those numbers. A figure is a ratio of medians of calls apart in one run
of interleaved rounds, unless its title says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from parc_hw.peers import PEAK_SUMS, PEAK_TURNS, Size
from parc_hw.table11 import DENSE, LAYOUTS, PAPER, ZOO, Document

__all__ = ["GOALS", "Goal", "Rows", "Verdict", "median_s", "to_json", "verdicts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be reached, in one figure.

    Attributes
    ----------
    title : str
        For people; goals with one title are one line of a table.
    kind : str
        Which figure: a key of `_FIGURES`.
    size : Size
    operator : str
        "H", "W", "half", "HW", "dense H", "dense W".
    limit : float
    at_most : bool
        True: reached at or below `limit`; False: at or above it.
    prototype : float or None
        What the prototype had.
    device : str
        For counts.
    """

    title: str
    kind: str
    size: Size
    operator: str
    limit: float
    at_most: bool
    prototype: float | None = None
    device: str = ""


def _goals() -> Iterator[Goal]:
    by_extent = {size.height: size for size in PAPER}

    def some(
        title: str,
        kind: str,
        operators: str,
        limits: dict[int, float],
        *,
        at_most: bool,
        prototype: dict[int, float] | None = None,
        device: str = "",
    ) -> Iterator[Goal]:
        for extent, limit in limits.items():
            for operator in operators.split():
                yield Goal(
                    title=title,
                    kind=kind,
                    size=by_extent[extent],
                    operator=operator,
                    limit=limit,
                    at_most=at_most,
                    prototype=(prototype or {}).get(extent),
                    device=device,
                )

    yield from some(
        "ms, NHWC",
        "ms",
        "H W",
        {7: 0.003, 14: 0.006, 28: 0.018, 56: 0.10},
        at_most=True,
        prototype={7: 0.003, 14: 0.0065, 28: 0.019, 56: 0.11},
    )
    yield from some(
        "times faster than the best peer",
        "peer",
        "H",
        {7: 8, 14: 8, 28: 6, 56: 5, 112: 7, 224: 5},
        at_most=False,
        prototype={7: 8, 14: 8.7, 28: 6.3, 56: 5.3, 112: 7.8, 224: 4.4},
    )
    yield from some(
        "times faster than the best peer",
        "peer",
        "W",
        {7: 10, 14: 10, 28: 4.5, 56: 4.5, 112: 4, 224: 3},
        at_most=False,
        prototype={7: 21, 14: 12, 28: 4.5, 56: 4.2, 112: 3.0, 224: 1.9},
    )
    for size in ZOO:
        for axis in ("H", "W"):
            yield Goal(
                title="times faster than the best peer, sizes of the zoo",
                kind="peer",
                size=size,
                operator=axis,
                limit=3,
                at_most=False,
                prototype=2,
            )
    for size in (*PAPER, *ZOO):
        for axis in ("H", "W"):
            yield Goal(
                title="times faster than our own direct form, the worse layout",
                kind="direct, worse",
                size=size,
                operator=axis,
                limit=1,
                at_most=False,
            )
    yield from some(
        "times faster than our own direct form",
        "direct",
        "H W",
        {14: 2, 28: 2.4, 56: 4},
        at_most=False,
        prototype={14: 2.2, 28: 2.4},
    )
    few = dict.fromkeys((7, 14, 28, 56))
    yield from some(
        "of our own depthwise 7x7's time, NHWC",
        "dw7",
        "H W",
        dict.fromkeys(few, 0.45),
        at_most=True,
        prototype={56: 0.45},
    )
    yield from some(
        "of our own depthwise 3x3's time, NHWC",
        "dw3",
        "H W",
        dict.fromkeys(few, 2.0),
        at_most=True,
        prototype={56: 2},
    )
    yield from some(
        "minimum time over the floor of its own arithmetic",
        "floor",
        "H W",
        {28: 1.3, 56: 1.3, 112: 1.5, 224: 1.8},
        at_most=True,
        prototype={28: 1.4, 56: 1.5, 112: 1.7, 224: 2.9},
    )
    # From 112 on the map of 4.8 MB and more leaves the second cache.
    yield from some(
        "of the sum of its parts' times",
        "parts",
        "half HW",
        {7: 1.0, 14: 1.0, 28: 1.0, 56: 1.0, 112: 0.9, 224: 0.9},
        at_most=True,
    )
    for size in DENSE:
        for axis in ("H", "W"):
            yield Goal(
                title="dense: times faster than torch's cat and conv2d",
                kind="dense",
                size=size,
                operator=f"dense {axis}",
                limit=3,
                at_most=False,
            )
    counts = {
        "cortex-a76": {28: 5.6, 56: 6.9, 112: 8.0},
        "cortex-a17": {28: 13.7, 56: 17.4, 112: 23.1},
    }
    for device, limits in counts.items():
        yield from some(
            f"executed instructions per output, {device} (a count, no time)",
            "instructions",
            "H",
            dict(limits),
            at_most=True,
            prototype=dict(limits),
            device=device,
        )


GOALS = tuple(_goals())
"""Everything to be reached, for one thread; the figures of two threads are for information."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A goal and what was measured.

    `value` is None where the document lacks a row for it; `about` says what was compared.
    """

    goal: Goal
    value: float | None
    about: str = ""

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where nothing was measured."""
        if self.value is None:
            return None
        if self.goal.at_most:
            return self.value <= self.goal.limit
        return self.value >= self.goal.limit


def to_json(verdict: Verdict) -> dict[str, Any]:
    """A plain dictionary of a verdict."""
    goal = verdict.goal
    return {
        "title": goal.title,
        "size": str(goal.size),
        "operator": goal.operator,
        "limit": goal.limit,
        "at_most": goal.at_most,
        "prototype": goal.prototype,
        "measured": verdict.value,
        "met": verdict.met,
        "about": verdict.about,
    }


def verdicts(document: Document, *, threads: int = 1) -> list[Verdict]:
    """Every goal beside its figure in the document.

    Parameters
    ----------
    document : Document
    threads : int
        Whose times are taken. The goals are those of one thread.
    """
    table = {
        case["size"]: Rows(case["rows"]) for case in document["cases"] if case["threads"] == threads
    }
    found = []
    for goal in GOALS:
        if goal.kind == "instructions":
            value, about = _instructions(document["counts"], goal)
        elif str(goal.size) in table:
            value, about = _FIGURES[goal.kind](table[str(goal.size)], goal)
        else:
            value, about = None, ""
        found.append(Verdict(goal=goal, value=value, about=about))
    return found


Figure: TypeAlias = tuple[float | None, str]


class Rows:
    """The rows of one size and number of threads."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def some(self, operator: str, **wanted: Any) -> list[dict[str, Any]]:
        """Rows of an operator, with these values."""
        return [
            row
            for row in self._rows
            if row["operator"] == operator and all(row[k] == v for k, v in wanted.items())
        ]

    def fastest(self, operator: str, **wanted: Any) -> dict[str, Any] | None:
        """The row with the smallest median of `some`, or None."""
        return min(self.some(operator, **wanted), key=median_s, default=None)

    def ours(self, operator: str) -> dict[str, Any] | None:
        """Our kernel in the better layout."""
        return self.fastest(operator, program="ours", plan="auto")

    def peer(self, operator: str) -> dict[str, Any] | None:
        """The fastest program that is not ours."""
        others = [row for row in self.some(operator) if row["runtime"] != "parc_hw"]
        return min(others, key=median_s, default=None)


def median_s(row: dict[str, Any]) -> float:
    """Of a row's calls apart from each other."""
    return float(row["apart"]["median_s"])


def _ratio(slow: dict[str, Any] | None, fast: dict[str, Any] | None) -> float | None:
    return None if slow is None or fast is None else median_s(slow) / median_s(fast)


def _text(*rows: dict[str, Any] | None) -> str:
    return " / ".join(row["text"] for row in rows if row is not None)


def _ms(rows: Rows, goal: Goal) -> Figure:
    row = rows.fastest(goal.operator, program="ours", plan="auto", layout="NHWC")
    return (None, "") if row is None else (1e3 * median_s(row), _plan(row))


def _peer(rows: Rows, goal: Goal) -> Figure:
    slow, fast = rows.peer(goal.operator), rows.ours(goal.operator)
    return _ratio(slow, fast), _text(slow, fast)


def _direct_of(rows: Rows, operator: str, layout: str) -> Figure:
    ours = rows.fastest(operator, program="ours", plan="auto", layout=layout)
    direct = rows.fastest(operator, program="ours", plan="direct", layout=layout)
    if ours is not None and direct is not None and _plan(ours) == _plan(direct):
        return 1.0, f"{layout}, the direct form is chosen"  # one kernel, measured twice
    return _ratio(direct, ours), f"{layout}, {'' if ours is None else _plan(ours)}"


def _plan(row: dict[str, Any]) -> str:
    """N1xN2, the first thing that a kernel's note says."""
    return str(row["note"]).partition(": ")[2].partition(":")[0]


def _direct(rows: Rows, goal: Goal) -> Figure:
    ours = rows.ours(goal.operator)
    return (None, "") if ours is None else _direct_of(rows, goal.operator, ours["layout"])


def _worse_direct(rows: Rows, goal: Goal) -> Figure:
    both = [_direct_of(rows, goal.operator, layout) for layout in LAYOUTS]
    known = [(value, about) for value, about in both if value is not None]
    return min(known, default=(None, ""))


def _depthwise(rows: Rows, goal: Goal) -> Figure:
    ours = rows.fastest(goal.operator, program="ours", plan="auto", layout="NHWC")
    return _ratio(ours, rows.fastest(goal.kind, program="ours")), ""


def _floor(rows: Rows, goal: Goal) -> Figure:
    """Minimum over the time of the executed arithmetic at the peak of the same rounds.

    What additions cost is what they cost beside as many multiply-adds: nothing where they have
    units of their own.
    """
    ours = rows.ours(goal.operator)
    pairs = PEAK_SUMS * PEAK_TURNS
    peak_s = {row["program"]: row["apart"]["min_s"] / pairs for row in rows.some("peak")}
    if ours is None or not ours["arithmetic"] or not peak_s:
        return None, ""
    multiplied_s = added_s = 0.0
    for lanes, executed in ours["arithmetic"].items():
        fma_s = peak_s[f"{lanes} fma"] / 2
        multiplied_s += executed["fma"] * fma_s
        added_s += executed["add"] * max(0.0, peak_s[f"{lanes} fma, add"] - fma_s)
    least_s = ours["apart"]["min_s"]
    about = f"{ours['layout']}; over the multiplications alone {least_s / multiplied_s:.2f}"
    return least_s / (multiplied_s + added_s), about


def _parts(rows: Rows, goal: Goal) -> Figure:
    """In the layout in which the whole is faster."""
    whole = rows.ours(goal.operator)
    if whole is None:
        return None, ""
    names = ("H part", "W part") if goal.operator == "half" else ("H", "W")
    parts = [
        rows.fastest(name, program="ours", plan="auto", layout=whole["layout"]) for name in names
    ]
    known = [part for part in parts if part is not None]
    if len(known) < 2:
        return None, ""
    return median_s(whole) / sum(map(median_s, known)), whole["layout"]


def _dense(rows: Rows, goal: Goal) -> Figure:
    slow, fast = rows.fastest(goal.operator, program="cat conv"), rows.ours(goal.operator)
    return _ratio(slow, fast), _text(slow, fast)


def _instructions(counts: list[dict[str, Any]], goal: Goal) -> Figure:
    """In the better layout."""
    found = [
        (count["instructions_per_output"], f"{count['layout']}, {_plan(count)}")
        for count in counts
        if (count["device"], count["size"], count["operator"], count["plan"])
        == (goal.device, str(goal.size), goal.operator, "auto")
    ]
    return min(found, default=(None, ""))


_FIGURES: dict[str, Callable[[Rows, Goal], Figure]] = {
    "ms": _ms,
    "peer": _peer,
    "direct": _direct,
    "direct, worse": _worse_direct,
    "dw3": _depthwise,
    "dw7": _depthwise,
    "floor": _floor,
    "parts": _parts,
    "dense": _dense,
}
