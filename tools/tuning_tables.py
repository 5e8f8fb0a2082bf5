"""What do the pages say of tuning? Writes the tables in docs/tuning.md, and the trust figures.

    python tools/tuning_tables.py

From `benchmarks/results/tuning_trust.json` and `benchmarks/results/tuning.json`. A part of the page
between `<!-- tuning NAME -->` and `<!-- end of tuning NAME -->` is replaced. The weights and
figures that `--runner static` prints go to `parc_hw/runners/trust.json`.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "tuning.md"
TRUST = ROOT / "parc_hw" / "runners" / "trust.json"
VERSION = 1  # of the memory term; another one makes records of `static` apply no more

Document = dict[str, Any]


def table(headings: Sequence[str], rows: Iterable[Sequence[str]], *, left: int = 1) -> str:
    """A Markdown table; all columns but the first `left` hold numbers."""
    ruler = ["---" if i < left else "---:" for i in range(len(headings))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (headings, ruler, *rows))


def percent(ratio: float) -> str:
    """How far a ratio is above 1.

    >>> percent(1.1234)
    '12 %'
    """
    return f"{100 * (ratio - 1):.0f} %"


def families(document: Document) -> dict[str, dict[str, float]]:
    """For each family of tasks the median rank correlation, and the worst losses."""
    found = {}
    for family in dict.fromkeys(case["family"].split()[0] for case in document["cases"]):
        orders = [
            case["orders"]["static"]
            for case in document["cases"]
            if case["family"].split()[0] == family
        ]
        found[family] = {
            "spearman": round(statistics.median(o["spearman"] for o in orders), 3),
            "top1": round(max(o["top1"] for o in orders), 3),
            "top3": round(max(o["top3"] for o in orders), 3),
        }
    return found


def trust_table(document: Document) -> str:
    """Every family and device over its lengths: Spearman, losses of the first and of the first three."""
    rows = []
    groups: dict[tuple[str, str], list[Document]] = {}
    for case in document["cases"]:
        groups.setdefault((case["family"], case["device"]), []).append(case)
    for (family, device), cases in groups.items():
        cells = [family, device, ", ".join(str(case["length"]) for case in cases)]
        for figure in ("static", "cycles", "instructions"):
            orders = [case["orders"][figure] for case in cases]
            cells += [
                " ".join(f"{o['spearman']:.2f}" for o in orders),
                percent(max(o["top1"] for o in orders)),
                percent(max(o["top3"] for o in orders)),
            ]
        rows.append(cells)
    headings = ["family", "device", "lengths"]
    for figure in ("static", "cycles", "instructions"):
        headings += [f"{figure}: Spearman", "first", "best of 3"]
    return table(headings, rows, left=3)


def gain_table(document: Document) -> str:
    """What tuning gained."""
    found = document["table11"]
    rows = [
        [
            row["kernel"],
            str(row["points"]),
            str(row["trials"]),
            f"{row['speedup'][1]:.2f}",
            f"{row['speedup'][0]:.2f} to {row['speedup'][2]:.2f}",
            f"`{row['choice']}`" if row["choice"] != row["default"] else "default",
        ]
        for row in found["rows"]
    ]
    headings = ["kernel", "points", "trials", "faster", "interval", "choice"]
    after = (
        f"\n\n{found['minutes']:g} minutes, {found['session']['trials']} trials, "
        f"{found['session']['trials_a_second']:.1f} per second; geometric mean "
        f"{found['geometric_mean']:.3f}, least {found['slowest']:.3f}."
    )
    return table(headings, rows) + after


def model_line(document: Document) -> str:
    """What tuning gained for a whole network."""
    found = document["model"]
    return (
        f"`{found['name']}`, {found['minutes']:g} minutes, {found['session']['trials']} trials: "
        f"{1e3 * found['default_s']:.1f} ms before, {1e3 * found['tuned_s']:.1f} ms after, "
        f"{found['speedup']:.3f} times as fast; the outputs differ by at most "
        f"{found['largest_difference_std']:.1e} standard deviations."
    )


def rounded(weights: dict[str, float]) -> dict[str, float]:
    """Four digits after the point."""
    return {name: round(value, 4) for name, value in weights.items()}


def replace(page: str, name: str, text: str) -> str:
    """The page with one part replaced."""
    pattern = rf"(<!-- tuning {name} -->\n).*?(<!-- end of tuning {name} -->)"
    page, count = re.subn(pattern, lambda m: f"{m[1]}\n{text}\n\n{m[2]}", page, flags=re.DOTALL)
    if count != 1:
        raise SystemExit(f"{PAGE.name} has {count} parts called {name}; one is needed.")
    return page


def main() -> None:
    """Write what there are results for."""
    page = PAGE.read_text(encoding="utf-8")
    path = RESULTS / "tuning_trust.json"
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        document["cases"] = [case for case in document["cases"] if "orders" in case]
        page = replace(page, "trust", trust_table(document))
        elsewhere = rounded(document["weights_elsewhere"])
        weights = {family: rounded(each) for family, each in document["weights"].items()}
        trust = {
            "device": document["machine"]["device"],
            "families": families(document),
            "machine": f"{document['machine']['cpu']} ({document['machine']['device']})",
            "version": VERSION,
            "weights": weights,
            "weights_elsewhere": elsewhere,
        }
        TRUST.write_text(json.dumps(trust, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        rows = [
            [family, *(f"{value:g}" for value in each.values())]
            for family, each in [*weights.items(), ("others", elsewhere)]
        ]
        page = replace(page, "weights", table(["weights, in cycles", *elsewhere], rows))
    path = RESULTS / "tuning.json"
    if path.exists():
        document = json.loads(path.read_text(encoding="utf-8"))
        if "table11" in document:
            page = replace(page, "gain", gain_table(document))
        if "model" in document:
            page = replace(page, "model", model_line(document))
    PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
