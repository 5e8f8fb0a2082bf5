"""How does a study tell what it found: one page, plots, tables and files for programs?"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from parc_hw.study import plots
from parc_hw.study.evaluate import Evaluated
from parc_hw.study.knobs import KNOBS
from parc_hw.study.pairs import Pair, compare
from parc_hw.study.plots import front, label, quality_name, quality_of, varied
from parc_hw.study.run import StudyResult
from parc_hw.study.search import Found, quality
from parc_hw.study.spec import CanvasData, StudySpec
from parc_hw.version import VERSION

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["summary", "write_report"]

_MOST_ROWS: Final = 400  # of a table of the page; the CSV file has all
_PNG_DPI: Final = 130
# What a table of points shows of the metrics, if it is there: key, heading, format.
_METRICS: Final = (
    ("accuracy", "accuracy, %", "{:.2f}"),
    ("agreement", "agreement, %", "{:.2f}"),
    ("sqnr_db", "SQNR, dB", "{:.2f}"),
    ("predicted_sqnr_db", "predicted, dB", "{:.2f}"),
    ("bias_lsb", "bias, LSB", "{:.3f}"),
    ("overflowed", "overflows", "{:d}"),
)
_COST_TEXT: Final = (
    "a fully unrolled datapath in full-adder equivalents: {multiplier_bit:.3g} per bit x bit of "
    "each multiplier, {adder_bit:.3g} per bit of each adder, {memory_bit:.3g} per stored bit. "
    "The weights are [cost] of the specification; docs/studies.md has the model."
)


def write_report(result: StudyResult) -> None:
    """Write the page, plots, CSV, JSON and datapath files of a study into its directory.

    Each file is replaced whole, so that a report that was there before stays readable.

    Raises
    ------
    ToolchainError
        matplotlib is not installed.
    InputError
        The directory cannot be written.
    """
    directory = result.directory
    pairs = _pairs(result)
    _write(directory / "results.csv", _csv(result).encode())
    _write(directory / "results.json", _json(result, pairs).encode())
    if pairs:
        _write(directory / "pairs.csv", _pairs_csv(result, pairs).encode())
    datapath = _datapaths(result)
    figures = []
    for name, title, text, make in plots.FIGURES:
        figure = make(result.spec, result.results)
        paths = [directory / "plots" / f"{name}.{kind}" for kind in ("svg", "png")]
        if figure is None:
            for path in paths:
                path.unlink(missing_ok=True)
            continue
        svg = _svg(figure)
        _write(paths[0], svg)
        _write(paths[1], _png(figure))
        figures.append({"name": name, "title": title, "text": text, "svg": _inline(svg, name)})
    page = _template().render(
        title=result.spec.title or result.spec.name,
        name=result.spec.name,
        digest=result.spec.digest[:16],
        version=VERSION,
        partial=_partial(result),
        summary=summary(result),
        figures=figures,
        tables=[table for table in _tables(result, pairs) if table["rows"]],
        datapath=datapath,
        spec=json.dumps(result.spec.to_json(), indent=2),
        cost=_COST_TEXT.format(**result.spec.to_json()["cost"]),
    )
    _write(directory / "report.html", page.encode())


def summary(result: StudyResult) -> list[str]:
    """Say in a few sentences what the study found."""
    spec, results = result.spec, result.results
    name = quality_name(spec, results)
    able = [each for each in results if not each.refused]
    refused = len(results) - len(able)
    lines = [
        f"{len(able)} points{f' and {refused} that cannot be' if refused else ''}, "
        f"{_data_words(spec, able)}."
    ]
    if spec.search is not None:
        wanted = f"{plots.TITLES[name].split(',')[0]} of {_least(spec)}"
        if result.winner is not None:
            winner = result.winner
            lines.append(
                f"The cheapest point that holds {wanted} is {label(winner, varied(results))}: "
                f"{_shown(winner, name)} at a cost of {winner.cost['total']:,.0f}."
            )
        elif not result.ended:
            nearest = max(able, key=lambda each: quality(spec, each), default=None)
            reached = f" The best has {_shown(nearest, name)}." if nearest is not None else ""
            lines.append(f"No point holds {wanted}.{reached}")
        for found in result.found:
            best = found.best
            came = "none that holds" if best is None else f"cost {best.cost['total']:,.0f}"
            lines.append(f"{found.method} asked for {found.evaluated} points: {came}.")
    if spec.subject == "model":
        lines += _network_words(able, name)
    return lines


# ---------------------------------------------------------------- words
def _partial(result: StudyResult) -> str:
    if not result.ended and not result.missing:
        return ""
    missing = f"; {result.missing} points of the grid are missing" if result.missing else ""
    return (
        f"This study is not complete ({result.ended or 'points are missing'}{missing}). Run the "
        f"same command again to go on: what is here is not computed again."
    )


def _data_words(spec: StudySpec, able: Sequence[Evaluated]) -> str:
    data = spec.data
    if isinstance(data, CanvasData):
        seen = able[0].metrics["canvases"] if able else data.canvases
        so_far = f" of {data.canvases:,}" if seen != data.canvases else ""
        return (
            f"each on {seen:,}{so_far} canvases with glyphs that no training saw (seed "
            f"{data.seed} and on), ranges from {data.calibration} training canvases"
        )
    dealt = f", dealt over {data.kernels} kernels" if spec.subject == "parc" else ""
    if data.channels:
        dealt = f" of {data.channels} channels, with {data.kernels} dense kernels"
    for amplitude, what in ((data.embedding, "a position embedding"), (data.bias, "a bias")):
        dealt += f", {what} within {amplitude:g}" if amplitude else ""
    source = f"lines of {Path(data.file).name}" if data.file else f"{data.source} lines"
    return f"each on {data.lines:,} {source}{dealt} (seed {data.seed})"


def _least(spec: StudySpec) -> str:
    assert spec.search is not None
    name, least = spec.search.hold
    return f"{least:g} dB" if name == "sqnr_db" else f"{100 * least:g} %"


def _shown(result: Evaluated, name: str) -> str:
    value = quality_of(result, name)
    if value is None:
        return "no error at all"
    return f"{value:.2f} dB" if name == "sqnr_db" else f"{value:.2f} %"


def _network_words(able: Sequence[Evaluated], name: str) -> list[str]:
    """One sentence per network: real numbers, and the narrowest format within their interval."""
    lines = []
    for model in dict.fromkeys(each.point["model"] for each in able):
        members = [each for each in able if each.point["model"] == model]
        real = next((each for each in members if each.point["arithmetic"] == "float"), None)
        if "accuracy" not in members[0].metrics:
            lines.append(
                f"{model} is not trained: what is shown is its agreement with itself in real "
                f"numbers, which is no accuracy."
            )
        if real is None or name != "accuracy":
            continue
        best = [each for each in members if each is not real]
        if not best:
            continue
        floor = real.metrics["accuracy_low"]
        good = [each for each in best if each.metrics["accuracy"] >= floor]
        text = f"{model}: {_shown(real, name)} in real numbers"
        if good:
            least = min(good, key=lambda each: (each.cost["total"], each.id))
            bits = f"{least.point['weight_bits']}-bit weights and {least.point['activation_bits']}"
            text += (
                f"; the cheapest format inside its 95 % interval has {bits}-bit activations "
                f"({_shown(least, name)})"
            )
        lines.append(f"{text}.")
    return lines


# ---------------------------------------------------------------- tables
def _tables(result: StudyResult, pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    spec, results = result.spec, result.results
    name = quality_name(spec, results)
    able = [each for each in results if not each.refused]
    best = front(able, name) if len(able) > 2 else []
    tables = []
    if spec.search is not None or len(able) > 30:
        tables.append(
            _points_table("front", "The front", "Nothing else beats these.", best, result)
        )
    text = f"The first {_MOST_ROWS}; results.csv has all." if len(able) > _MOST_ROWS else ""
    tables.append(_points_table("points", "All points", text, able[:_MOST_ROWS], result))
    if pairs:
        tables.append(_pairs_table(result, pairs))
    tables += [_path_table(found, name) for found in result.found]
    refused = [each for each in results if each.refused]
    tables.append(
        {
            "name": "refused",
            "title": "Points that cannot be",
            "text": "",
            "columns": [{"title": "point", "kind": ""}, {"title": "why", "kind": "long"}],
            "rows": [
                {"cells": [label(each, varied(results)), each.refused], "winner": False}
                for each in refused[:_MOST_ROWS]
            ],
        }
    )
    return tables


def _path_table(found: Found, name: str) -> dict[str, Any]:
    headings = ((plots.TITLES[name], "number"), ("cost", "number"))
    rows = []
    for what, value, cost in found.steps:
        shown = f"{value if name.endswith('_db') else 100 * value:.2f}"
        rows.append({"cells": [what, shown, f"{cost:,.0f}"], "winner": False})
    return {
        "name": f"path-{found.method}",
        "title": f"How {found.method} went",
        "text": f"{found.evaluated} points asked for.",
        "columns": [{"title": "what", "kind": ""}]
        + [{"title": title, "kind": kind} for title, kind in headings],
        "rows": rows,
    }


def _points_table(
    name: str, title: str, text: str, members: Sequence[Evaluated], result: StudyResult
) -> dict[str, Any]:
    knobs = varied(result.results)
    metrics = _metrics(members)
    columns = [{"title": knob, "kind": _kind(result.spec, knob)} for knob in knobs]
    columns += [{"title": heading, "kind": "number"} for _, heading, _ in metrics]
    columns += [
        {"title": heading, "kind": "number"}
        for heading in ("cost", "multiplier bits", "memory bits")
    ]
    rows = []
    for each in members:
        cells = [_cell(each.point.get(knob, "")) for knob in knobs]
        cells += [_metric(each, key, form) for key, _, form in metrics]
        cells += [f"{each.cost[key]:,.0f}" for key in ("total", "multiplier_bits", "memory_bits")]
        won = result.winner is not None and each.id == result.winner.id
        rows.append({"cells": cells, "winner": won})
    return {"name": name, "title": title, "text": text, "columns": columns, "rows": rows}


def _pairs_table(result: StudyResult, pairs: Sequence[Pair]) -> dict[str, Any]:
    by_id = {each.id: each for each in result.results}
    names = varied(result.results)
    rows = [
        {
            "cells": [
                label(by_id[pair.first], names),
                label(by_id[pair.second], names),
                f"{100 * pair.difference:+.2f}",
                pair.only_first,
                pair.only_second,
                f"{pair.p_value:.2g}",
                f"{pair.adjusted_p_value:.2g}",
            ],
            "winner": False,
        }
        for pair in pairs[:_MOST_ROWS]
    ]
    headings = ("difference, points", "only first", "only second", "p", "p (Holm)")
    return {
        "name": "pairs",
        "title": "Formats in pairs",
        "text": (
            "McNemar's exact test on the same pictures: how many only the one or only the other "
            "answers rightly, and how probable a difference at least as large is if neither is "
            "better. Holm's correction counts all these tests."
        ),
        "columns": [
            {"title": "first", "kind": ""},
            {"title": "second", "kind": ""},
            *({"title": heading, "kind": "number"} for heading in headings),
        ],
        "rows": rows,
    }


def _metrics(members: Iterable[Evaluated]) -> list[tuple[str, str, str]]:
    members = list(members)
    return [m for m in _METRICS if any(each.metrics.get(m[0]) is not None for each in members)]


def _metric(result: Evaluated, key: str, form: str) -> str:
    value = result.metrics.get(key)
    if value is None:
        return "-"
    shown: str = form.format(100 * value if key in ("accuracy", "agreement") else value)
    return shown


def _kind(spec: StudySpec, knob: str) -> str:
    return "number" if KNOBS[spec.subject][knob].low is not None else ""


def _cell(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)


# ---------------------------------------------------------------- files
def _csv(result: StudyResult) -> str:
    """One row per point: knobs, numbers, cost, reason."""
    knobs = list(dict.fromkeys(n for each in result.results for n in each.point))
    scalar = (int, float, str, type(None))
    numbers = list(
        dict.fromkeys(
            key
            for each in result.results
            for key, value in each.metrics.items()
            if isinstance(value, scalar)
        )
    )
    costs = ["total", "multiplier_bits", "adder_bits", "memory_bits", "additions"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = [f"cost_{key}" for key in costs]
    writer.writerow(["id", *knobs, *numbers, *heads, "multiplications", "refused"])
    for each in result.results:
        products = " ".join(
            f"{count}*{widths}" for widths, count in each.cost.get("multiplications", {}).items()
        )
        writer.writerow(
            [
                each.id,
                *(_cell(each.point.get(knob, "")) for knob in knobs),
                *(each.metrics.get(key, "") for key in numbers),
                *(each.cost.get(key, "") for key in costs),
                products,
                each.refused,
            ]
        )
    return text.getvalue()


def _pairs_csv(result: StudyResult, pairs: Sequence[Pair]) -> str:
    by_id = {each.id: each for each in result.results}
    names = varied(result.results)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["first_point", "second_point", *pairs[0].to_json()])
    for pair in pairs:
        points = (label(by_id[each], names) for each in (pair.first, pair.second))
        writer.writerow([*points, *pair.to_json().values()])
    return text.getvalue()


def _json(result: StudyResult, pairs: Sequence[Pair]) -> str:
    def plain(each: Evaluated) -> dict[str, Any]:
        document = each.to_json()
        # The journal keeps every picture's answer.
        kept = {k: v for k, v in each.metrics.items() if k not in ("answers", "real", "labels")}
        return document | {"metrics": kept}

    document = {
        "schema": 1,
        "study": result.spec.digest,
        "version": VERSION,
        "complete": not result.ended and not result.missing,
        "spec": result.spec.to_json(),
        "winner": None if result.winner is None else result.winner.id,
        "searches": [
            {
                "method": found.method,
                "evaluated": found.evaluated,
                "best": None if found.best is None else found.best.id,
                "steps": [list(step) for step in found.steps],
            }
            for found in result.found
        ],
        "pairs": [pair.to_json() for pair in pairs],
        "points": [plain(each) for each in result.results],
    }
    return json.dumps(document, indent=1, allow_nan=False) + "\n"


def _pairs(result: StudyResult) -> list[Pair]:
    return compare(result.results) if result.spec.subject == "model" else []


def _datapaths(result: StudyResult) -> dict[str, str] | None:
    """Write the winner's datapath, or for networks those of all formats; return the winner's."""
    directory = result.directory
    if result.winner is not None:
        file = (result.winner.details or {}).get("datapath")
        if file is None:
            return None
        name = f"datapath{file['suffix']}"
        _write(directory / name, file["text"].encode())
        return {"file": name, "text": file["text"]}
    if result.spec.subject == "model":
        for each in result.results:
            file = (each.details or {}).get("datapath")
            if file is not None:
                point = each.point
                name = f"{point['model']}-w{point['weight_bits']}-a{point['activation_bits']}"
                others = [v for k, v in point.items() if k in ("calibration", "rounding")]
                path = directory / "datapaths" / f"{'-'.join([name, *others])}{file['suffix']}"
                _write(path, file["text"].encode())
    return None


def _svg(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="svg", metadata={"Date": None})
    return stream.getvalue()


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=_PNG_DPI, metadata={"Software": None})
    return stream.getvalue()


def _inline(svg: bytes, name: str) -> str:
    """An SVG document as an element of the page: no outside names, ids of its own."""
    text = svg.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", text)
    text = text.replace("xlink:href", "href")
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{name}-\1"', text)
    return re.sub(r"url\(#([^)]+)\)", rf"url(#{name}-\1)", text)


def _template() -> Any:
    import jinja2

    source = resources.files("parc_hw.study") / "templates" / "report.html"
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    return environment.from_string(source.read_text(encoding="utf-8"))


def _write(path: Path, data: bytes) -> None:
    """Replace a file whole."""
    from parc_hw.errors import InputError

    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(exist_ok=True)
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}.") from None
