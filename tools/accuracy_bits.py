"""How accurate are the canvas networks at each word length? Writes down what a study found.

    parc-hw study examples/canvas_accuracy.toml -o out/
    python tools/accuracy_bits.py out/      the JSON, the plot, and the table of docs/accuracy.md
    python tools/accuracy_bits.py           only the table, from the JSON

The JSON is `benchmarks/results/canvas_bits.json`, the plot `docs/plots/canvas_accuracy.png`.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RECORDS = ROOT / "benchmarks" / "results" / "canvas_bits.json"
PLOT = ROOT / "docs" / "plots" / "canvas_accuracy.png"
PAGE = ROOT / "docs" / "accuracy.md"
BEGIN, END = "<!-- bits table: begin -->", "<!-- bits table: end -->"
MODELS = ("parc_canvas", "conv_canvas")


def record(results: dict[str, Any]) -> dict[str, Any]:
    """What the table needs of a study's `results.json`."""
    if results["spec"]["name"] != "canvas_accuracy" or not results["complete"]:
        sys.exit("expected the whole study examples/canvas_accuracy.toml")
    real = {
        entry["id"]: entry["point"]["model"]
        for entry in results["points"]
        if entry["point"]["arithmetic"] == "float"
    }
    # The test of each point against its own network in real numbers, that network second.
    tests = {}
    for pair in results["pairs"]:
        first, second = pair["first"], pair["second"]
        wins = pair["only_first"], pair["only_second"]
        if first in real:
            first, second, wins = second, first, wins[::-1]
        if second in real and first not in real:
            tests[first, real[second]] = {
                "only_integer": wins[0],
                "only_float": wins[1],
                "p_value": pair["p_value"],
                "adjusted_p_value": pair["adjusted_p_value"],
            }
    rows = []
    for entry in results["points"]:
        point, metrics = entry["point"], entry["metrics"]
        rows.append(
            {
                **point,
                "accuracy": metrics["accuracy"],
                "interval": [metrics["accuracy_low"], metrics["accuracy_high"]],
                "against_float": tests.get((entry["id"], point["model"])),
            }
        )
    return {
        "generator": "tools/accuracy_bits.py",
        "study": results["study"],
        "version": results["version"],
        "canvases": results["spec"]["data"]["canvases"],
        "tests": len(results["pairs"]),
        "rows": rows,
    }


def label(row: dict[str, Any]) -> str:
    """A row's first cell."""
    if row["arithmetic"] == "float":
        return "real numbers (float32)"
    return f"{row['weight_bits']} and {row['activation_bits']}, {row['calibration']}"


def cell(row: dict[str, Any]) -> str:
    """Accuracy, its interval, and the test against real numbers."""
    low, high = row["interval"]
    text = f"{row['accuracy']:.2%} ({low:.2%} to {high:.2%})".replace("%", " %")
    test = row["against_float"]
    if test is None:
        return text
    p = test["adjusted_p_value"]
    chance = "p < 1e-6" if p < 1e-6 else "p = 1" if p == 1 else f"p = {p:.2g}"
    return f"{text}; {test['only_float']} / {test['only_integer']}, {chance}"


def order(row: dict[str, Any]) -> tuple[int, ...]:
    """Real numbers first, then by activations and weights."""
    if row["arithmetic"] == "float":
        return (0,)
    methods = ("minmax", "percentile", "mse")
    return 1, row["activation_bits"], row["weight_bits"], methods.index(row["calibration"])


def table(document: dict[str, Any]) -> str:
    """The table of docs/accuracy.md as Markdown."""
    heads = " | ".join(f"`{model}`" for model in MODELS)
    lines = [f"| bits of weights and activations, ranges | {heads} |", "|---|---|---|"]
    found: dict[str, dict[str, str]] = {}
    for row in sorted(document["rows"], key=order):
        found.setdefault(label(row), {})[row["model"]] = cell(row)
    lines += [
        f"| {name} | {' | '.join(cells[model] for model in MODELS)} |"
        for name, cells in found.items()
    ]
    return "\n".join(lines)


def update_page() -> None:
    """Put the table between the two marks of docs/accuracy.md."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    document = json.loads(RECORDS.read_text())
    PAGE.write_text(f"{before}{BEGIN}\n{table(document)}\n{END}{after}")


def main(arguments: list[str]) -> None:
    """Record a study, if one is named, and write the table."""
    if arguments:
        (folder,) = map(Path, arguments)
        document = record(json.loads((folder / "results.json").read_text()))
        RECORDS.write_text(json.dumps(document, indent=1) + "\n")
        shutil.copyfile(folder / "plots" / "quality_bits.png", PLOT)
    update_page()


if __name__ == "__main__":
    main(sys.argv[1:])
