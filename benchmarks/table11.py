"""How fast is one ParC beside its peers, at the papers' sizes and the zoo's?

    python benchmarks/table11.py [the options of `parc-hw bench table11`, but for -o]

Writes `benchmarks/results/table11.json` and `.csv` and `docs/table11.svg`; rows that are not measured
again stay as they are. Then `python tools/table11_tables.py` brings them into README and docs.
Status 1 when a goal is missed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from parc_hw.cli.main import main as parc_hw

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "table11.json"
FILES = (RESULTS, RESULTS.with_suffix(".csv"), ROOT / "docs" / "table11.svg")


def main() -> int:
    """Measure, print and write; the command's status, or 1 when a goal is missed."""
    files = [word for file in FILES for word in ("-o", str(file))]
    status = parc_hw(["bench", "table11", *files, *sys.argv[1:]])
    if status:
        return status
    goals = json.loads(RESULTS.read_text(encoding="utf-8"))["goals"]
    return int(any(goal["met"] is False for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
