"""How long does the command line take, and how much memory?

    python benchmarks/command_line.py [--runs N]

`parc-hw --help` and the compilation of parc_convnext_xt for the papers' board, each in a process
of its own. Writes `benchmarks/results/command_line.json`. The goals: 0.3 s; 90 s and 3 GB.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

from parc_hw import measure
from parc_hw.cli.session import table

RESULTS = Path(__file__).resolve().parent / "results"
COMMANDS = {  # arguments, goal in seconds, goal in bytes, runs at most
    "--help": (["--help"], 0.3, None, 15),
    "compile for rk3288": (
        ["compile", "parc_convnext_xt", "--target", "rk3288", "--no-verify"],
        90.0,
        3_000_000_000,
        3,
    ),
}


def run(arguments: list[str]) -> tuple[float, int]:
    """Seconds and peak resident bytes of one `parc-hw` process."""
    with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
        if arguments[0] == "compile":
            arguments = [*arguments, "-o", str(Path(directory) / "out")]
        began = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "parc_hw", *arguments],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"parc-hw {' '.join(arguments)} ended with status {process.returncode}")
    return seconds, usage.ru_maxrss * 1024


def main() -> int:
    """Measure, print and write; status 1 when a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=15, help="runs of each command at most")
    limit = parser.parse_args().runs
    numbers = ("median s", "goal s", "peak MB", "goal MB", "runs")
    rows = table("command", *numbers, "met", right=numbers)
    document: dict[str, object] = {"machine": measure.machine(), "commands": {}}
    missed = False
    for command, (arguments, goal_s, goal_bytes, most) in COMMANDS.items():
        results = [run(arguments) for _ in range(min(limit, most))]
        median_s = statistics.median(seconds for seconds, _ in results)
        peak_bytes = max(peak for _, peak in results)
        met = median_s <= goal_s and (goal_bytes is None or peak_bytes <= goal_bytes)
        missed |= not met
        document["commands"][command] = {  # type: ignore[index]
            "seconds": [round(seconds, 3) for seconds, _ in results],
            "median_s": round(median_s, 3),
            "goal_s": goal_s,
            "peak_bytes": peak_bytes,
            "goal_bytes": goal_bytes,
            "met": met,
        }
        rows.add_row(
            command,
            f"{median_s:.2f}",
            f"{goal_s:g}",
            f"{peak_bytes / 1e6:.0f}",
            "-" if goal_bytes is None else f"{goal_bytes / 1e6:.0f}",
            str(len(results)),
            "yes" if met else "NO",
        )
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "command_line.json").write_text(json.dumps(document, indent=1) + "\n")
    Console(highlight=False).print(rows)
    return int(missed)


if __name__ == "__main__":
    sys.exit(main())
