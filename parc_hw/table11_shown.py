"""How is a Table 11 shown: as comma-separated values, as a picture, as a page's table?"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parc_hw import table11_goals
from parc_hw.errors import UnsupportedError
from parc_hw.table11 import LAYOUTS, PAPER, Document
from parc_hw.table11_goals import Rows, median_s

__all__ = ["Line", "plot", "summary", "to_csv", "to_json", "with_goals"]


def with_goals(document: Document) -> Document:
    """The document with every goal beside its figure, one thread."""
    found = table11_goals.verdicts(document)
    return {**document, "goals": [table11_goals.to_json(verdict) for verdict in found]}


def to_json(document: Document) -> str:
    """`with_goals` as JSON, with a line for each row, count and goal: so that files can be compared."""
    whole = with_goals(document)
    lines: list[str] = []

    def held(item: Any) -> str:
        lines.append(json.dumps(item))
        return f"@{len(lines) - 1}"

    whole["cases"] = [{**case, "rows": [*map(held, case["rows"])]} for case in whole["cases"]]
    for key in ("counts", "goals"):
        whole[key] = [*map(held, whole[key])]
    text = json.dumps(whole, indent=1)
    return re.sub(r'"@(\d+)"', lambda match: lines[int(match[1])], text) + "\n"


_CSV_ROW = ("operator", "program", "layout", "plan", "runtime", "error")
_CSV_TIMES = ("median_s", "min_s", "p10_s", "p90_s", "runs", "calls")


def to_csv(document: Document) -> str:
    """All times: a line for each program, size and number of threads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    times = [f"{name}_{what}" for name in ("apart", "in_a_row") for what in _CSV_TIMES]
    writer.writerow(["size", "threads", *_CSV_ROW, *times, "note"])
    for case in document["cases"]:
        for row in case["rows"]:
            figures = [row[name][what] for name in ("apart", "in_a_row") for what in _CSV_TIMES]
            here = [case["size"], case["threads"], *(row[key] for key in _CSV_ROW)]
            writer.writerow([*here, *figures, row["note"]])
    return text.getvalue()


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One operator on one size with some threads: ours and the best of the others.

    Attributes
    ----------
    times_s : dict
        Medians of calls apart: "NHWC" and "NCHW" of ours, "direct" (the better layout's), "peer".
        What was not measured is not there.
    ratio, row_ratio : float or None
        The best peer's time over that of our better layout, of calls apart and in a row.
    peer : str
        The best peer's name.
    """

    size: str
    operator: str
    threads: int
    times_s: dict[str, float]
    ratio: float | None
    row_ratio: float | None
    peer: str


_OPERATORS = ("H", "W", "half", "HW", "dense H", "dense W", "dw3", "dw7")


def summary(document: Document) -> Iterator[Line]:
    """The lines of a document, in its order."""
    for case in document["cases"]:
        rows = Rows(case["rows"])
        for operator in _OPERATORS:
            ours, peer = rows.ours(operator), rows.peer(operator)
            if ours is None:
                continue
            found = {
                layout: rows.fastest(operator, program="ours", plan="auto", layout=layout)
                for layout in LAYOUTS
            }
            found["direct"] = rows.fastest(operator, program="ours", plan="direct")
            found["peer"] = peer
            yield Line(
                size=case["size"],
                operator=operator,
                threads=case["threads"],
                times_s={key: median_s(row) for key, row in found.items() if row is not None},
                ratio=None if peer is None else median_s(peer) / median_s(ours),
                row_ratio=None
                if peer is None
                else peer["in_a_row"]["median_s"] / ours["in_a_row"]["median_s"],
                peer="" if peer is None else peer["text"],
            )


# ---------------------------------------------------------------- a picture

_DRAWN = (  # program, layout, plan, what the legend says, colour, line
    ("ours", "NHWC", "auto", "ours, NHWC", "#0b6e4f", "-"),
    ("ours", "NCHW", "auto", "ours, NCHW", "#0b6e4f", "--"),
    ("ours", "NHWC", "direct", "ours, direct, NHWC", "#7fb069", "-"),
    ("cat conv", None, "auto", "torch cat + conv2d", "#c1121f", "-"),
    ("rfft", "NCHW", "auto", "torch rfft", "#e07a5f", "-"),
    ("baddbmm", "NCHW", "auto", "torch baddbmm, circulant", "#f2a65a", "-"),
    ("slice concat conv", "NCHW", "auto", "ONNX Runtime", "#3d5a80", "-"),
    ("fftw", "NCHW", "auto", "FFTW", "#6a4c93", "-"),
    ("scipy", "NCHW", "auto", "scipy.fft", "#9d8ec7", "-"),
)


def plot(document: Document, path: Path) -> None:
    """Draw the papers' sizes, one thread: nanoseconds for each output over the length.

    Parameters
    ----------
    document : Document
    path : Path
        .svg or .png.

    Raises
    ------
    UnsupportedError
        matplotlib is not installed.
    """
    if find_spec("matplotlib") is None:
        raise UnsupportedError(
            'drawing needs matplotlib: pip install "parc_hw[report]"; or ask for .json and .csv.'
        )
    import matplotlib as mpl

    mpl.use("Agg")
    mpl.rcParams["svg.hashsalt"] = "parc_hw"  # the same document, the same bytes
    from matplotlib import pyplot as plt

    tables = {
        case["size"]: Rows(case["rows"]) for case in document["cases"] if case["threads"] == 1
    }
    figure, panels = plt.subplots(1, 2, figsize=(11, 4.6), sharey=True)
    for panel, axis in zip(panels, ("H", "W"), strict=True):
        for program, layout, plan, label, colour, line in _DRAWN:
            wanted = {"program": program, "plan": plan, **({"layout": layout} if layout else {})}
            _line(panel, tables, axis, wanted, label=label, color=colour, linestyle=line)
        for operator, dashes in (("dw3", ":"), ("dw7", "-.")):
            label = f"ours, depthwise {operator[2]}x{operator[2]}"
            _line(panel, tables, operator, {"program": "ours"}, label=label, color="0.5", ls=dashes)
        panel.set_xscale("log", base=2)
        panel.set_yscale("log")
        extents = [size.height for size in PAPER]
        panel.set_xticks(extents, [str(extent) for extent in extents])
        panel.set_xlabel("N (maps of N x N)")
        panel.set_title(f"ParC-{axis}, one thread")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("ns per output, median")
    panels[1].legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    figure.suptitle(document["machine"]["cpu"], fontsize=9)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    plt.close(figure)


def _line(
    panel: Any, tables: dict[str, Rows], operator: str, wanted: dict[str, Any], **style: Any
) -> None:
    points = []
    for size in PAPER:
        row = tables[str(size)].fastest(operator, **wanted) if str(size) in tables else None
        if row is not None:
            outputs = size.height * size.width * size.channels
            points.append((size.height, 1e9 * median_s(row) / outputs))
    if points:
        panel.plot(*zip(*points, strict=True), marker="o", markersize=3, **style)
