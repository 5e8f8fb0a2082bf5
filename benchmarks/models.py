"""How fast is every classifier of the zoo beside its peers, and every ParC beside its baseline?

    python benchmarks/models.py [NAME ...] [the options of `parc-hw bench models`, but for -o]

Writes `benchmarks/results/models.json` and `.csv`; rows that are not measured again stay as they are.
Without names the ParC networks are measured beside their baselines too. Then
`python tools/models_bench_tables.py` brings them into docs/performance.md. Status 1 when a goal is
missed.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from parc_hw.cli.main import main as parc_hw

RESULTS = Path(__file__).resolve().parent / "results" / "models.json"
FILES = (RESULTS, RESULTS.with_suffix(".csv"))


def main() -> int:
    """Measure, print and write; the worst of the commands' status, or 1 when a goal is missed."""
    files = [word for file in FILES for word in ("-o", str(file))]
    status = parc_hw(["bench", "models", *sys.argv[1:], *files])
    if len(sys.argv) == 1:
        status = max(status, parc_hw(["bench", "table7", *files]))
    if status:
        return status
    goals = json.loads(RESULTS.read_text(encoding="utf-8"))["goals"]
    return int(any(goal["met"] is False for goal in goals))


if __name__ == "__main__":
    sys.exit(main())
