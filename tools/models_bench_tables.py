"""What does the page say of whole models' speed? Writes the tables in docs/performance.md.

    python tools/models_bench_tables.py

From `benchmarks/results/models.json`, which `make bench` measured. The page's part between
`<!-- models NAME -->` and `<!-- end of models NAME -->` is replaced.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from parc_hw import models
from parc_hw.bench_models import BASELINES, EVERYWHERE, Document, left_out
from parc_hw.bench_models_goals import (
    Verdict,
    instructions,
    pair_ratio,
    peak_share,
    ratios,
    row,
    verdicts,
)

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "models.json"
PAGE = ROOT / "docs" / "performance.md"
NOTHING = "Nothing of this was measured yet."


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` hold numbers."""
    ruler = ["---" if i < left else "---:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ruler, *rows))


def number(value: float | None) -> str:
    """Three digits; "-" for None."""
    return "-" if value is None else f"{value:.3g}"


def milliseconds(one: dict[str, Any] | None, key: str = "median_s") -> str:
    """A time of a row in three digits or more; "-" for None."""
    if one is None:
        return "-"
    value = 1e3 * one[key]
    return f"{value:.0f}" if value >= 1000 else number(value)


def title(name: str) -> str:
    """A model's name for people."""
    return "ConvNeXt-XT, ParC in every block" if name == EVERYWHERE else models.info(name).title


def where(document: Document, rounds: Iterable[int], days: Iterable[str]) -> str:
    """The sentence that belongs to every time."""
    machine = document["machine"]
    counts, dates = sorted(set(rounds)), sorted({day[:10] for day in days})
    versions = ", ".join(
        f"{name} {version}"
        for name, version in machine["versions"].items()
        if name in ("apache-tvm", "torch", "onnxruntime", "openvino")
    )
    between = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    span = dates[0] if len(dates) == 1 else f"{dates[0]} to {dates[-1]}"
    return (
        f"{machine['cpu']} ({machine['device']}), {machine['cores']} cores, float32, batch 1, "
        f"medians in ms of {between} interleaved rounds. {versions}. Measured {span}."
    )


def times(document: Document) -> str:
    """Every model beside its peers, by number of threads."""
    parts = []
    for threads in sorted({case["threads"] for case in document["cases"]}):
        cases = [case for case in document["cases"] if case["threads"] == threads]
        found = {one["runtime"] for case in cases for one in case["rows"]}
        order = {"torch": "PyTorch", "torch.compile": "torch.compile"}
        order |= {"onnxruntime": "ONNX Runtime", "openvino": "OpenVINO"}
        peers = [runtime for runtime in order if runtime in found]
        rows = []
        for case in cases:
            over = ratios(case)
            rows.append(
                (
                    title(case["model"]),
                    milliseconds(row(case, "parc_hw")),
                    milliseconds(row(case, "parc_hw"), "min_s"),
                    *(milliseconds(row(case, runtime)) for runtime in peers),
                    *(number(over.get(name)) for name in ("onnxruntime", "best")),
                    number(peak_share(case)),
                )
            )
        headings = (
            "model",
            "ours",
            "ours, least",
            *(order[runtime] for runtime in peers),
            "ours / ONNX Runtime",
            "ours / better of it and OpenVINO",
            "share of peak",
        )
        rounds, days = (
            [case["rounds"] for case in cases],
            [case["measured"] for case in cases],
        )
        heading = f"{threads} thread{'s' * (threads > 1)}:"
        parts.append(f"{heading}\n\n{table(headings, rows)}\n\n{where(document, rounds, days)}")
    missing = [f"Left out: {line}." for line in left_out(document)]
    return "\n\n".join([*parts, *missing]) or NOTHING


def table7(document: Document) -> str:
    """Each ParC network beside its baseline."""
    rows = []
    devices = dict.fromkeys(count["device"] for count in document["counts"])
    threads = sorted({one["threads"] for part in ("pairs", "cases") for one in document[part]})
    for pair in BASELINES:
        ours, theirs = (models.info(name) for name in (pair.parc, pair.baseline))
        figures = []
        for count in threads:
            ratio, about = pair_ratio(document, pair.parc, count)
            if ratio is not None:
                figures.append((f"time, {count} threads, {about}", number(ratio)))
        for device in devices:
            both = [instructions(document, name, device) for name in (pair.parc, pair.baseline)]
            if both[0] is not None and both[1] is not None:
                figures.append((f"executed instructions, {device}", number(both[0] / both[1])))
        rows += [
            (
                ours.title,
                theirs.title,
                what,
                f"{ours.parameters / 1e6:.2f} / {theirs.parameters / 1e6:.2f}",
                f"{ours.macs / 1e9:.2f} / {theirs.macs / 1e9:.2f}",
                value,
                f"{pair.known:.2f}",
            )
            for what, value in figures
        ]
    headings = (
        "network",
        "baseline",
        "of what",
        "parameters, 1e6",
        "MACs, 1e9",
        "ratio",
        "paper or prototype",
    )
    return table(headings, rows, left=3) if rows else NOTHING


def goals(document: Document) -> str:
    """Every goal beside what was measured: one line for each title and number of threads."""
    found: dict[tuple[str, int], list[Verdict]] = {}
    for verdict in verdicts(document):
        if verdict.value is not None:
            goal = verdict.goal
            found.setdefault((goal.title, goal.threads), []).append(verdict)

    def cell(verdict: Verdict) -> str:
        goal = verdict.goal
        sign = "at most" if goal.at_most else "at least"
        mark = {True: "met", False: "**missed**", None: verdict.about}[verdict.met]
        what = f"{goal.model}: " if goal.model else ""
        return f"{what}{number(verdict.value)} ({sign} {goal.limit:g}, {mark})"

    every = [verdict for some in found.values() for verdict in some if verdict.met is not None]
    if not every:
        return NOTHING
    rows = [
        (what, str(threads or "-"), "; ".join(map(cell, some)))
        for (what, threads), some in found.items()
    ]
    met = sum(bool(verdict.met) for verdict in every)
    unknown = len(verdicts(document)) - len(every)
    return (
        table(("what", "threads", "measured (goal)"), rows, left=3)
        + f"\n\n{met} of {len(every)} goals met; {unknown} not measured."
    )


PARTS: dict[str, Callable[[Document], str]] = {"times": times, "table7": table7, "goals": goals}


def filled(page: str, document: Document) -> str:
    """The page with its parts made anew.

    Raises
    ------
    KeyError
        A part has a name that is not in `PARTS`.
    """

    def part(match: re.Match[str]) -> str:
        return f"{match[1]}\n{PARTS[match[2]](document)}\n{match[3]}"

    pattern = r"(<!-- models (\w+) -->)\n.*?(<!-- end of models \2 -->)"
    return re.sub(pattern, part, page, flags=re.DOTALL)


def main() -> int:
    """Write the page."""
    document = json.loads(RESULTS.read_text(encoding="utf-8"))
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8"), document), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} is up to date with {RESULTS.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
