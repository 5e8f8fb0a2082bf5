"""What do the pages say of Table 11? Writes the tables in README.md and docs/kernels.md.

    python tools/table11_tables.py

From `benchmarks/results/table11.json`, which `make bench` measured. A page's part between
`<!-- table11 NAME -->` and `<!-- end of table11 NAME -->` is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from parc_hw.table11 import PAPER, SIZES, Document, find_size
from parc_hw.table11_goals import Rows, Verdict, median_s, verdicts
from parc_hw.table11_shown import Line, summary

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "table11.json"
PAGES = ("README.md", "docs/kernels.md")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` hold numbers."""
    ruler = ["---" if i < left else "---:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ruler, *rows))


def number(value: float | None) -> str:
    """Three digits; "-" for None."""
    return "-" if value is None else f"{value:.3g}"


def extent(text: str) -> str:
    """A size without its channels; the square ones by one number.

    >>> extent("56x56x96"), extent("25x42x96")
    ('56', '25x42')
    """
    size = find_size(text)
    square = size.height == size.width
    return str(size.height) if square else f"{size.height}x{size.width}"


def overview(document: Document) -> str:
    """The papers' sizes: ours, the best peer, the depthwise convolutions. One thread."""
    lines = {(line.size, line.operator): line for line in summary(document) if line.threads == 1}

    def cells(line: Line | None, text: Callable[[Line], float | None]) -> str:
        return "-" if line is None else number(text(line))

    def best(line: Line) -> float:
        return 1e3 * min(line.times_s[key] for key in ("NHWC", "NCHW") if key in line.times_s)

    rows = []
    for size in map(str, PAPER):
        h, w = lines.get((size, "H")), lines.get((size, "W"))
        if h is None or w is None:
            continue
        peers = [
            f"{number(1e3 * line.times_s['peer'])} ({line.peer.partition(',')[0]})"
            if "peer" in line.times_s
            else "-"
            for line in (h, w)
        ]
        others = [cells(lines.get((size, name)), best) for name in ("dw3", "dw7")]
        figures = [number(best(h)), peers[0], number(h.ratio)]
        figures += [number(best(w)), peers[1], number(w.ratio)]
        rows.append((size, *figures, *others))
    headings = (
        "map",
        "ParC-H, ms",
        "best peer",
        "times",
        "ParC-W, ms",
        "best peer",
        "times",
        "our 3x3",
        "our 7x7",
    )
    return f"{table(headings, rows)}\n\n{where(document, 1)}"


def where(document: Document, threads: int) -> str:
    """The sentence that belongs to every figure."""
    machine = document["machine"]
    cases = [case for case in document["cases"] if case["threads"] == threads]
    days = sorted({case["measured"][:10] for case in cases})
    rounds = sorted({case["rounds"] for case in cases})
    runs = [row["apart"]["runs"] for case in cases for row in case["rows"]]
    spread = [
        (row["apart"]["p90_s"] - row["apart"]["p10_s"]) / row["apart"]["median_s"]
        for case in cases
        for row in case["rows"]
    ]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    between = f"{min(rounds)}" if len(rounds) == 1 else f"{min(rounds)} to {max(rounds)}"
    return (
        f"{machine['cpu']} ({machine['device']}), {threads} thread{'s' * (threads > 1)}, float32, "
        f"batch 1, medians of {min(runs)} to {max(runs)} calls in {between} interleaved rounds; "
        f"the middle four fifths of the calls lie within {100 * sorted(spread)[len(spread) // 2]:.0f} % "
        f"of the median for half of the programs. {versions}. Measured {' to '.join(days)}."
    )


def goals(document: Document) -> str:
    """Every goal beside what was measured: one line for each title and operator."""
    found: dict[tuple[str, str], list[Verdict]] = {}
    for verdict in verdicts(document):
        if verdict.value is not None:
            found.setdefault((verdict.goal.title, verdict.goal.operator), []).append(verdict)

    def cell(verdict: Verdict) -> str:
        sign = "at most" if verdict.goal.at_most else "at least"
        value = number(verdict.value)
        mark = "met" if verdict.met else "**missed**"
        return f"{extent(str(verdict.goal.size))}: {value} ({sign} {verdict.goal.limit:g}, {mark})"

    rows = [
        (title, operator, "; ".join(map(cell, some))) for (title, operator), some in found.items()
    ]
    every = [verdict for some in found.values() for verdict in some]
    met = sum(bool(verdict.met) for verdict in every)
    return (
        table(("what", "operator", "map: measured (goal)"), rows, left=3)
        + f"\n\n{met} of {len(every)} goals met. {where(document, 1)}"
    )


def both_threads(document: Document) -> str:
    """Times over the best peer at all sizes, one and two threads."""
    lines = {(line.size, line.operator, line.threads): line for line in summary(document)}
    threads = sorted({case["threads"] for case in document["cases"]})
    rows = []
    for size in map(str, SIZES):
        for operator in ("H", "W", "half", "HW", "dense H", "dense W"):
            here = [lines.get((size, operator, count)) for count in threads]
            if not any(here):
                continue
            cells: list[str] = []
            for line in here:
                times = {} if line is None else line.times_s
                cells += [
                    number(1e3 * times[key] if key in times else None)
                    for key in ("NHWC", "NCHW", "peer")
                ]
                cells.append(number(None if line is None else line.ratio))
            rows.append((size, operator, *cells))
    headings = ["map", "operator"]
    for count in threads:
        headings += [f"NHWC ms, {count}T", f"NCHW ms, {count}T", f"best peer ms, {count}T", "times"]
    return table(headings, rows, left=2)


def counts(document: Document) -> str:
    """Executed instructions on ARM."""
    found: dict[tuple[str, str, str, str], dict[str, dict[str, Any]]] = {}
    for count in document["counts"]:
        key = (count["device"], count["operator"], count["layout"], count["plan"])
        found.setdefault(key, {})[count["size"]] = count
    sizes = sorted({c["size"] for c in document["counts"]}, key=lambda s: find_size(s).height)
    rows = []
    for (device, operator, layout, plan), by_size in found.items():
        cells = []
        for size in sizes:
            count = by_size.get(size)
            cells.append("-" if count is None else number(count["instructions_per_output"]))
        for size in sizes:
            count = by_size.get(size)
            cells.append(number(None if count is None else count["modelled_cycles_per_output"]))
        what = operator if plan == "auto" else f"{operator}, {plan}"
        rows.append((device, what, layout, *cells))
    headings = ["core", "operator", "layout"]
    headings += [f"instructions, {extent(size)}" for size in sizes]
    headings += [f"modelled cycles, {extent(size)}" for size in sizes]
    models = sorted({c["model"] for c in document["counts"] if c["model"]})
    return (
        table(headings, rows, left=3)
        + "\n\nFor each output, one thread. Counts are not times, and modelled cycles "
        + f"({', '.join(models) or 'not modelled here'}; every access hits the first cache) are not either."
    )


def proxies(document: Document) -> str:
    """Kernels of 4 lanes on this machine."""
    rows = []
    for case in document["cases"]:
        held = Rows(case["rows"])
        for operator in ("H", "W"):
            wide = held.fastest(operator, program="ours", plan="auto", layout="NHWC")
            some = [held.fastest(operator, program=name) for name in ("proxy 32", "proxy 16")]
            if wide is None or not any(some):
                continue
            cells = [number(None if row is None else 1e3 * median_s(row)) for row in (wide, *some)]
            rows.append((case["size"], operator, *cells))
    headings = (
        "map",
        "operator",
        "as wide as it is",
        "4 lanes, 32 registers",
        "4 lanes, 16 registers",
    )
    return (
        table(headings, rows, left=2)
        + "\n\nms on the machine above, NHWC, one thread: a proxy of NEON, and no time of any ARM."
    )


PARTS: dict[str, Callable[[Document], str]] = {
    "overview": overview,
    "goals": goals,
    "times": both_threads,
    "counts": counts,
    "proxies": proxies,
}


def filled(page: str, document: Document) -> str:
    """The page with its parts made anew.

    Raises
    ------
    KeyError
        A part has a name that is not in `PARTS`.
    """

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n{PARTS[match[2]](document)}\n{match[3]}"

    pattern = r"(<!-- table11 (\w+) -->)\n.*?(<!-- end of table11 \2 -->)"
    return re.sub(pattern, part, page, flags=re.DOTALL)


def main() -> int:
    """Write the pages."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    for name in PAGES:
        path = ROOT / name
        path.write_text(filled(path.read_text(encoding="utf-8"), document), encoding="utf-8")
    print(f"{', '.join(PAGES)} are up to date with {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
