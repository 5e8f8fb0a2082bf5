"""What does the project want to reach with whole models, and what has been reached?

`GOALS` is the one place with those numbers. A time ratio is one of medians of one run of
interleaved rounds: at most 1 means that ours is not slower.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from parc_hw.bench_models import BASELINES, EVERYWHERE, Document, names

__all__ = [
    "GOALS",
    "Goal",
    "Verdict",
    "geometric_mean",
    "pair_ratio",
    "ratios",
    "to_csv",
    "to_json",
    "verdicts",
    "with_goals",
]

CONVNEXTS = ("convnext_xt", "parc_convnext_xt")
OTHERS = tuple(name for name in names() if name not in (*CONVNEXTS, EVERYWHERE))
"""The models of which a geometric mean is taken: those without a goal of their own."""

LARGEST = "conv2former_l"
_BEST = ("onnxruntime", "openvino")
_ARM, _ARM32 = "cortex-a76", "cortex-a17"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What is to be reached, in one figure.

    Attributes
    ----------
    title : str
        For people; goals with one title are one group of a table.
    kind : str
        Which figure: a key of `_FIGURES`.
    model : str
        Empty for a mean over models.
    threads : int
        0 for what has none.
    limit : float
    at_most : bool
        True: reached at or below `limit`; False: at or above it.
    known : float or None
        What the paper or the prototype had.
    device : str
        For counts.
    """

    title: str
    kind: str
    model: str = ""
    threads: int = 1
    limit: float
    at_most: bool = True
    known: float | None = None
    device: str = ""


def _goals() -> Iterator[Goal]:
    ort, best = "time over ONNX Runtime's", "time over the better of ONNX Runtime and OpenVINO"
    for model, known in zip(CONVNEXTS, (0.87, 0.85), strict=True):
        yield Goal(title=ort, kind="onnxruntime", model=model, limit=0.85, known=known)
        yield Goal(title=best, kind="best", model=model, limit=0.88, known=0.90)
    yield Goal(title=ort, kind="onnxruntime", model=EVERYWHERE, limit=0.72, known=0.72)
    for threads, mean in ((1, 0.90), (2, 0.92)):
        for model in OTHERS:
            yield Goal(title=ort, kind="onnxruntime", model=model, threads=threads, limit=1.0)
        if threads == 2:
            for model in (*CONVNEXTS, EVERYWHERE):
                yield Goal(title=ort, kind="onnxruntime", model=model, threads=threads, limit=1.0)
        yield Goal(
            title="geometric mean of the other models' times over ONNX Runtime's",
            kind="mean",
            threads=threads,
            limit=mean,
        )
    yield Goal(
        title="share of the peak of multiply-adds",
        kind="peak",
        model="convnext_xt",
        limit=0.84,
        at_most=False,
        known=0.84,
    )
    for pair, limit in zip(BASELINES, (1.00, 1.00, 1.03, 0.77), strict=True):
        title = "ParC network over its baseline, both ours"
        yield Goal(
            title=f"{title}: time", kind="pair", model=pair.parc, limit=limit, known=pair.known
        )
        yield Goal(
            title=f"{title}: executed instructions, {_ARM} (a count, no time)",
            kind="pair, instructions",
            model=pair.parc,
            threads=0,
            limit=limit,
            known=pair.known,
            device=_ARM,
        )
    for model in names():
        yield Goal(
            title="error of the output against float64 over ONNX Runtime's",
            kind="error",
            model=model,
            limit=2.0,
        )
    for model in names():
        yield Goal(
            title="arena over the largest live set",
            kind="arena",
            model=model,
            limit=1.15,
        )
    for model, limit in (("parcnet_s", 60), ("parc_convnext_xt", 60), (LARGEST, 180)):
        yield Goal(title="seconds to compile", kind="compile", model=model, limit=limit)
    yield Goal(
        title=f"executed instructions, {_ARM}, in 1e6 (a count, no time)",
        kind="instructions",
        model="convnext_xt",
        threads=0,
        limit=415,
        device=_ARM,
    )
    yield Goal(
        title=f"executed instructions, {_ARM32} over {_ARM} (a count, no time)",
        kind="arm32",
        model="convnext_xt",
        threads=0,
        limit=2.3,
        device=_ARM32,
    )


GOALS = tuple(_goals())
"""Everything to be reached."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A goal and what was measured.

    `value` is None where the document lacks a row for it; `about` says what was compared.
    `partial` says that a mean lacks models, and is therefore neither met nor missed.
    """

    goal: Goal
    value: float | None
    about: str = ""
    partial: bool = False

    @property
    def met(self) -> bool | None:
        """Whether it was reached; None where nothing, or not everything, was measured."""
        if self.value is None or self.partial:
            return None
        if self.goal.at_most:
            return self.value <= self.goal.limit
        return self.value >= self.goal.limit


def geometric_mean(values: list[float]) -> float:
    """The n-th root of the product.

    >>> round(geometric_mean([0.5, 2.0, 1.0]), 6)
    1.0
    """
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def row(case: dict[str, Any] | None, runtime: str) -> dict[str, Any] | None:
    """The row of a runtime in a case, where there is one."""
    rows = [] if case is None else case["rows"]
    return next((one for one in rows if one["runtime"] == runtime), None)


def find_case(document: Document, model: str, threads: int) -> dict[str, Any] | None:
    """The case of a model with a number of threads, where there is one."""
    for case in document["cases"]:
        if (case["model"], case["threads"]) == (model, threads):
            return dict(case)
    return None


def ratios(case: dict[str, Any] | None) -> dict[str, float]:
    """Ours over each peer, and over the "best" of ONNX Runtime and OpenVINO if both are there."""
    ours = row(case, "parc_hw")
    if case is None or ours is None:
        return {}
    found = {
        one["runtime"]: ours["median_s"] / one["median_s"]
        for one in case["rows"]
        if one is not ours and one["runtime"] != "parc_hw"
    }
    if all(name in found for name in _BEST):
        found["best"] = max(found[name] for name in _BEST)
    return found


def pair_ratio(document: Document, parc: str, threads: int) -> tuple[float | None, str]:
    """A ParC network's time over its baseline's, and where it is from.

    Of one run with both if there is one (`bench table7`), else of the two models' own runs.
    """
    for pair in document["pairs"]:
        if (pair["parc"], pair["threads"]) == (parc, threads):
            return pair["parc_s"] / pair["baseline_s"], "both in the same rounds"
    baseline = next(pair.baseline for pair in BASELINES if pair.parc == parc)
    rows = [row(find_case(document, name, threads), "parc_hw") for name in (parc, baseline)]
    if rows[0] is None or rows[1] is None:
        return None, ""
    return rows[0]["median_s"] / rows[1]["median_s"], "from two runs"


def instructions(document: Document, model: str, device: str) -> int | None:
    """The count of a model on a device, where there is one."""
    for count in document["counts"]:
        if (count["model"], count["device"]) == (model, device):
            return int(count["instructions"])
    return None


# ---------------------------------------------------------------- one figure for each kind

Figure = tuple[float | None, str, bool]


def _ratio(document: Document, goal: Goal) -> Figure:
    found = ratios(find_case(document, goal.model, goal.threads))
    return found.get(goal.kind), "", False


def _mean(document: Document, goal: Goal) -> Figure:
    found = [ratios(find_case(document, name, goal.threads)).get("onnxruntime") for name in OTHERS]
    known = [value for value in found if value is not None]
    about = f"{len(known)} of {len(OTHERS)} models"
    return (geometric_mean(known) if known else None), about, len(known) < len(OTHERS)


def _peak(document: Document, goal: Goal) -> Figure:
    return peak_share(find_case(document, goal.model, goal.threads)), "", False


def peak_share(case: dict[str, Any] | None) -> float | None:
    """Two operations for each multiply-add over time and peak; None where no peak was taken."""
    ours = row(case, "parc_hw")
    if case is None or ours is None or case["peak_flops"] is None:
        return None
    return float(2 * case["macs"] / ours["median_s"] / case["peak_flops"])


def _pair(document: Document, goal: Goal) -> Figure:
    return (*pair_ratio(document, goal.model, goal.threads), False)


def _pair_instructions(document: Document, goal: Goal) -> Figure:
    baseline = next(pair.baseline for pair in BASELINES if pair.parc == goal.model)
    both = [instructions(document, name, goal.device) for name in (goal.model, baseline)]
    if both[0] is None or both[1] is None:
        return None, "", False
    return both[0] / both[1], "", False


def _error(document: Document, goal: Goal) -> Figure:
    case = find_case(document, goal.model, goal.threads)
    ours, theirs = row(case, "parc_hw"), row(case, "onnxruntime")
    if ours is None or theirs is None or not theirs["error_std"] or ours["error_std"] is None:
        return None, "", False
    about = f"{ours['error_std']:.2g} standard deviations"
    return ours["error_std"] / theirs["error_std"], about, False


def _compile(document: Document, goal: Goal) -> Figure:
    case = find_case(document, goal.model, goal.threads)
    return (None if case is None else case["compile_s"]), "", False


def _arena(document: Document, goal: Goal) -> Figure:
    case = find_case(document, goal.model, goal.threads)
    if case is None:
        return None, "", False
    return case["arena_bytes"] / case["live_peak_bytes"], "", False


def _instructions(document: Document, goal: Goal) -> Figure:
    count = instructions(document, goal.model, goal.device)
    return (None if count is None else count / 1e6), "", False


def _arm32(document: Document, goal: Goal) -> Figure:
    both = [instructions(document, goal.model, device) for device in (goal.device, _ARM)]
    if both[0] is None or both[1] is None:
        return None, "", False
    return both[0] / both[1], "", False


_FIGURES: dict[str, Callable[[Document, Goal], Figure]] = {
    "onnxruntime": _ratio,
    "best": _ratio,
    "mean": _mean,
    "peak": _peak,
    "pair": _pair,
    "pair, instructions": _pair_instructions,
    "error": _error,
    "compile": _compile,
    "arena": _arena,
    "instructions": _instructions,
    "arm32": _arm32,
}


def verdicts(document: Document) -> list[Verdict]:
    """Every goal beside its figure in the document."""
    found = []
    for goal in GOALS:
        value, about, partial = _FIGURES[goal.kind](document, goal)
        found.append(Verdict(goal=goal, value=value, about=about, partial=partial))
    return found


# ---------------------------------------------------------------- files


def with_goals(document: Document) -> Document:
    """The document with every goal beside its figure."""
    goals = []
    for verdict in verdicts(document):
        goal = verdict.goal
        goals.append(
            {
                "title": goal.title,
                "model": goal.model,
                "threads": goal.threads,
                "device": goal.device,
                "limit": goal.limit,
                "at_most": goal.at_most,
                "known": goal.known,
                "measured": verdict.value,
                "met": verdict.met,
                "about": verdict.about,
            }
        )
    return {**document, "goals": goals}


def to_json(document: Document) -> str:
    """`with_goals` as JSON, with a line for each row and goal: so that files can be compared."""
    whole = with_goals(document)
    lines: list[str] = []

    def held(item: Any) -> str:
        lines.append(json.dumps(item))
        return f"@{len(lines) - 1}"

    whole["cases"] = [{**case, "rows": [*map(held, case["rows"])]} for case in whole["cases"]]
    for key in ("pairs", "counts", "goals"):
        whole[key] = [*map(held, whole[key])]
    text = json.dumps(whole, indent=1)
    return re.sub(r'"@(\d+)"', lambda match: lines[int(match[1])], text) + "\n"


_COLUMNS = ("median_s", "min_s", "p10_s", "p90_s", "runs", "max_difference_std", "error_std")


def to_csv(document: Document) -> str:
    """All times: a line for each runtime, model and number of threads."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["model", "threads", "runtime", *_COLUMNS, "ours_over_it"])
    for case in document["cases"]:
        over = ratios(case)
        for one in case["rows"]:
            figures = [one[column] for column in _COLUMNS]
            ratio = over.get(one["runtime"], 1.0)
            writer.writerow([case["model"], case["threads"], one["runtime"], *figures, ratio])
    for pair in document["pairs"]:
        for name in ("parc", "baseline"):
            times = [pair[f"{name}_s"], pair[f"{name}_min_s"]]
            rest = [""] * (len(_COLUMNS) - len(times))
            own = [pair[name], pair["threads"], f"parc_hw, beside its {_other(name)}"]
            ratio = pair["parc_s"] / pair["baseline_s"] if name == "baseline" else 1.0
            writer.writerow([*own, *times, *rest, ratio])
    return text.getvalue()


def _other(name: str) -> str:
    return {"parc": "baseline", "baseline": "ParC network"}[name]
