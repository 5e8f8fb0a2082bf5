"""Write the tables of docs/accelerator.md: descriptions, instructions, and what was simulated.

python tools/accelerator_tables.py [--check]

The last ones are from `benchmarks/results/accel.json`, which `benchmarks/accel.py` writes.
"""

from __future__ import annotations

import enum
import json
import sys
from pathlib import Path
from typing import Any

from parc_hw.accel.description import FIELDS, VECTOR_FUNCTIONS, description_names, load_description
from parc_hw.isa import Function, Opcode, Queue, Space, Type
from parc_hw.plan import FFT_RADICES

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "accelerator.md"
RESULT = ROOT / "benchmarks" / "results" / "accel.json"


def fields_table() -> str:
    """Every key with its unit, meaning, accepted values, and what the shipped machines have."""
    machines = [load_description(name) for name in description_names()]
    names = " | ".join(f"`{machine.name}`" for machine in machines)
    lines = [
        f"| key | unit | meaning | accepted | {names} |",
        "|---|---|---|---|" + "---|" * len(machines),
    ]
    for part, keys in FIELDS.items():
        for key, field in keys.items():
            values = " | ".join(f"{getattr(getattr(m, part), key):g}" for m in machines)
            lines.append(
                f"| `{part}.{key}` | {field.unit} | {field.meaning} | {field.accepted} | {values} |"
            )
        if part == "butterfly":
            shown = " | ".join(
                " ".join(f"{radix or 'graph'}:{n}" for radix, n in m.butterfly.intervals)
                for m in machines
            )
            radices = ", ".join(map(str, FFT_RADICES))
            lines.append(
                f"| `butterfly.intervals` | cycles | a table: from one butterfly of a radix to the "
                f"next; `graph`: for each node of an integer graph | keys {radices}, graph; those "
                f"that are there can be computed | {shown} |"
            )
        if part == "vector":
            shown = " | ".join(
                ", ".join(f"{name} {n}" for name, n in m.vector.cycles if n > 1) + ", others 1"
                for m in machines
            )
            lines.append(
                f"| `vector.cycles` | cycles | a table: of an element in its lane, by function | "
                f"keys {', '.join(VECTOR_FUNCTIONS)} | {shown} |"
            )
    return "\n".join(lines)


def codes_table() -> str:
    """The numbers of all enumerations."""
    kinds: list[tuple[str, type[enum.IntEnum]]] = [
        ("opcode", Opcode),
        ("function", Function),
        ("queue, bit of wait and signal", Queue),
        ("space", Space),
        ("type", Type),
    ]
    lines = ["| field | codes |", "|---|---|"]
    for name, kind in kinds:
        codes = ", ".join(f"{int(member)} {member.name}" for member in kind)
        lines.append(f"| {name} | {codes} |")
    lines.append("| rounding | 0 FLOOR, 1 TOWARD_ZERO, 2 HALF_UP, 3 HALF_EVEN, 4 HALF_AWAY |")
    return "\n".join(lines)


Rows = list[dict[str, Any]]


def _grid(heads: list[str], rows: list[list[str]], texts: int) -> str:
    """A table whose first `texts` columns are text and the others numbers."""
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * texts + "--:|" * (len(heads) - texts)]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def bounds_table(rows: Rows) -> str:
    """Cycles after tuning, beside what no schedule beats."""
    heads = ["machine", "plan", "bound by", "N", "C", "cycles", "at least", "ratio"]
    return _grid(
        heads,
        [
            [
                f"`{row['machine']}`",
                row["plan"],
                row["limit"],
                str(row["length"]),
                str(row["channels"]),
                f"{row['cycles']:,}",
                f"{row['bound']:,}",
                f"{row['ratio']:.3f}",
            ]
            for row in rows
        ],
        3,
    )


def plans_table(rows: Rows) -> str:
    """The three plans on the same maps."""
    heads = ["machine", "two-level", "N", "direct", "fft", "two-level"]
    return _grid(
        heads,
        [
            [
                f"`{row['machine']}`",
                row["plan"],
                str(row["length"]),
                *(f"{row[key]:,}" for key in ("direct", "fft", "cycles")),
            ]
            for row in rows
        ],
        2,
    )


def buffers_table(rows: Rows) -> str:
    """Cycles by stages of the software pipeline."""
    heads = ["machine", "layer", *(f"depth {n}" for n in range(1, 5)), "gain"]
    return _grid(
        heads,
        [
            [
                f"`{row['machine']}`",
                row["layer"],
                *(f"{row['cycles'][str(n)]:,}" for n in range(1, 5)),
                f"{row['gain']:.2f}",
            ]
            for row in rows
        ],
        2,
    )


def networks_table(rows: Rows) -> str:
    """Whole networks."""
    heads = ["network", "ms", "cycles", "host cycles", "M MACs", "MB moved", "uJ", "instructions"]
    return _grid(
        heads,
        [
            [
                f"`{row['model']}`",
                f"{row['milliseconds']:.2f}",
                f"{row['cycles']:,}",
                f"{row['host_cycles']:,}",
                f"{row['macs'] / 1e6:,.0f}",
                f"{row['bytes'] / 1e6:.1f}",
                f"{row['energy_uj']:,.0f}",
                f"{row['instructions']:,}",
            ]
            for row in rows
        ],
        1,
    )


def kinds_table(rows: Rows) -> str:
    """Thousands of cycles of each kind of layer, and how many layers there are."""
    kinds = sorted(
        {kind for row in rows for kind in row["kinds"]},
        key=lambda kind: -sum(row["kinds"].get(kind, {"cycles": 0})["cycles"] for row in rows),
    )

    def cell(row: dict[str, Any], kind: str) -> str:
        own = row["kinds"].get(kind)
        return f"{own['cycles'] / 1e3:,.0f} ({own['layers']})" if own else ""

    heads = ["kind", *(f"`{row['model']}`" for row in rows)]
    return _grid(heads, [[kind, *(cell(row, kind) for row in rows)] for kind in kinds], 1)


def crossovers_text(found: dict[str, int | None]) -> str:
    """From which length on transforms win."""
    return "\n".join(
        f"* `{name}`: " + (f"from N = {length} on" if length else "never up to N = 224")
        for name, length in sorted(found.items())
    )


def page(text: str) -> str:
    """The page with all tables as they should be."""
    measured = json.loads(RESULT.read_text(encoding="utf-8"))
    for name, table in (
        ("fields", fields_table()),
        ("codes", codes_table()),
        ("bounds", bounds_table(measured["bounds"])),
        ("crossovers", crossovers_text(measured["crossovers"])),
        ("plans", plans_table(measured["two_level"])),
        ("buffers", buffers_table(measured["buffers"])),
        ("networks", networks_table(measured["networks"])),
        ("kinds", kinds_table(measured["networks"])),
    ):
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        before, found, rest = text.partition(begin)
        if not found:
            raise ValueError(f"{PAGE} has no place for the table {name}: no {begin.strip()}")
        _, _, after = rest.partition(end)
        text = f"{before}{begin}{table}\n{end}{after}"
    return text


def main() -> int:
    """Write the page, or with --check say whether it is as it should be."""
    text = PAGE.read_text(encoding="utf-8")
    if "--check" in sys.argv[1:]:
        return int(page(text) != text)
    PAGE.write_text(page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
