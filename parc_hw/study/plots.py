"""Which pictures tell what a study found?

Every function returns a matplotlib figure, or None where its question does not arise. Figures are
made without pyplot: no window system, no global state, the same bytes every time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

from fixedpoint.qformat import QFormat
from parc_hw.errors import ToolchainError
from parc_hw.study import knobs
from parc_hw.study.evaluate import Evaluated
from parc_hw.study.knobs import KNOBS
from parc_hw.study.spec import StudySpec

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["FIGURES", "front", "label", "quality_name", "quality_of", "varied"]

# Okabe and Ito's palette, which colour-blind readers can tell apart; black is for theory.
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7f7f7f")
MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X")
WIDTH_IN: Final = 7.4
_MOST_SERIES: Final = len(COLOURS)
TITLES: Final = {
    "sqnr_db": "SQNR, dB",
    "accuracy": "accuracy, %",
    "agreement": "agreement with real numbers, %",
}


# ---------------------------------------------------------------- words
def quality_name(spec: StudySpec, results: Sequence[Evaluated]) -> str:
    """The quality that the study is about."""
    if spec.search is not None:
        return spec.search.hold[0]
    if spec.subject != "model":
        return "sqnr_db"
    able = [result for result in results if not result.refused]
    # Accuracy only where every network has right answers.
    return "accuracy" if able and all("accuracy" in r.metrics for r in able) else "agreement"


def quality_of(result: Evaluated, name: str) -> float | None:
    """The value of a quality as plots show it: shares in percent; None where it is infinite."""
    value = result.metrics.get(name)
    if value is None:
        return None
    return float(value) if name.endswith("_db") else 100 * float(value)


def varied(results: Sequence[Evaluated]) -> list[str]:
    """The knobs that differ between points, in the order of the knobs."""
    return knobs.varied(result.point for result in results)


def label(result: Evaluated, names: Sequence[str]) -> str:
    """What tells a point from the others: "direct, kernel 12 bits"."""
    words = [_words(name, result.point[name]) for name in names if name in result.point]
    return ", ".join(word for word in words if word) or "all points"


def _words(name: str, value: Any) -> str:
    if name == "arithmetic":
        return "real numbers" if value == "float" else ""
    if name == "profile":
        return "" if value == "none" else str(value)
    if name.endswith("_bits"):
        return f"{name.removesuffix('_bits').replace('_', ' ')} {value} bits"
    if isinstance(value, list):
        return f"{name} {'-'.join(map(str, value))}"
    return f"N = {value}" if name == "length" else str(value)


def front(results: Sequence[Evaluated], quality: str) -> list[Evaluated]:
    """The points that no other beats in both cost and quality, cheap ones first."""
    able = [result for result in results if quality_of(result, quality) is not None]
    able.sort(key=lambda r: (r.cost["total"], -(quality_of(r, quality) or 0.0)))
    kept: list[Evaluated] = []
    best = -math.inf
    for result in able:
        value = quality_of(result, quality)
        if value is not None and value > best:
            kept.append(result)
            best = value
    return kept


# ---------------------------------------------------------------- figures
def sqnr_against_bits(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """SQNR against the width that varies most, measured and by theory."""
    able = [r for r in results if r.metrics.get("sqnr_db") is not None]
    axis = _width_axis(able)
    if spec.subject == "model" or axis is None:
        return None

    def bits_of(result: Evaluated) -> int:
        # A library's profile has no such knob: its words are as wide as they are.
        return int(result.point.get(axis, QFormat.parse(result.metrics["format"]).bits))

    able = [r for r in able if axis in r.point or "profile" in r.point]
    figure, axes = _figure(4.4)
    names = [name for name in varied(able) if name != axis]
    # A search meets many combinations: its points are shown as a cloud, not as series.
    groups = _groups(able, names)
    cloud = len(groups) > _MOST_SERIES
    if cloud:
        groups = _coarser(able, names)
    theory = False
    for index, (title, members) in enumerate(_first(groups)):
        colour, marker = COLOURS[index % 7], MARKERS[index % 7]
        members = sorted(members, key=bits_of)
        bits = [bits_of(r) for r in members]
        values = [r.metrics["sqnr_db"] for r in members]
        style: dict[str, Any] = {"linestyle": "none", "color": colour, "marker": marker}
        axes.plot(bits, values, **style, markersize=4 if cloud else 5.5, alpha=0.45 if cloud else 1)
        if cloud:
            axes.plot([], [], **style, label=title)
            best: list[Evaluated] = []
            for r in members:  # those that no narrower one beats, ascending
                if not best or r.metrics["sqnr_db"] > best[-1].metrics["sqnr_db"]:
                    if best and bits_of(best[-1]) == bits_of(r):
                        best.pop()
                    best.append(r)
            members = best
        else:
            axes.plot([], [], **style, label=title)
        predicted = [
            (bits_of(r), r.metrics["predicted_sqnr_db"])
            for r in members
            if r.metrics.get("predicted_sqnr_db") is not None
        ]
        if len(predicted) > 1:
            theory = True
            axes.plot(*zip(*predicted, strict=True), color=colour, linewidth=1.2, alpha=0.8)
    if theory:
        which = "theory (of the best at each width)" if cloud else "theory"
        axes.plot([], [], color="#444444", linewidth=1.2, label=which)
    _target(spec, axes)
    axes.set_xlabel(f"{KNOBS[spec.subject][axis].text.split(',')[0]} ({axis})")
    axes.set_ylabel("SQNR, dB")
    _whole_ticks(axes)
    _legend(axes)
    return figure


def quality_against_bits(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """Accuracy or agreement of networks against bits, with 95 % intervals."""
    if spec.subject != "model":
        return None
    quality = quality_name(spec, results)
    if quality == "sqnr_db":
        quality = "agreement"
    real = [r for r in results if r.point.get("arithmetic") == "float" and not r.refused]
    able = [r for r in results if r.point.get("arithmetic") != "float" and not r.refused]
    if len({(r.point["weight_bits"], r.point["activation_bits"]) for r in able}) < 2:
        return None
    widths = {"activation_bits", "weight_bits"}
    names = [name for name in varied(able) if name not in widths]
    figure, axes = _figure(4.4)
    groups: dict[str, list[Evaluated]] = {}
    for r in able:
        # One series for equal widths; other widths of weights have series of their own.
        own = r.point["weight_bits"] != r.point["activation_bits"]
        groups.setdefault(label(r, [*names, *(["weight_bits"] if own else [])]), []).append(r)
    axis = "activation_bits"
    networks = list(dict.fromkeys(r.point["model"] for r in able))
    colours = {name: COLOURS[index % 7] for index, name in enumerate(networks)}
    shapes: dict[str, int] = {}
    for title, members in groups.items():  # a colour per network, a mark per other knob
        name = members[0].point["model"]
        shapes[name] = shapes.get(name, -1) + 1
        marker = MARKERS[shapes[name] % 7]
        members = sorted(members, key=lambda r: r.point[axis])
        _with_intervals(axes, members, axis, quality, colours[name], marker, title)
    if quality == "accuracy":
        for r in real:
            name = r.point["model"]
            value = quality_of(r, quality) or 0.0
            text = f"{name} in real numbers, {value:.2f} %"
            axes.axhline(value, color=colours.get(name, "#444"), linewidth=1, ls="--", label=text)
    mixed = any(r.point["weight_bits"] != r.point["activation_bits"] for r in able)
    axes.set_xlabel(
        "bits of activations, and of weights unless said" if mixed else "bits of all words"
    )
    axes.set_ylabel(TITLES[quality])
    _whole_ticks(axes)
    _legend(axes)
    return figure


def _with_intervals(
    axes: Axes,
    members: Sequence[Evaluated],
    axis: str,
    quality: str,
    colour: str,
    marker: str,
    title: str,
) -> None:
    bits = [r.point[axis] for r in members]
    values = [quality_of(r, quality) or 0.0 for r in members]
    low = [v - (quality_of(r, f"{quality}_low") or 0) for v, r in zip(values, members, strict=True)]
    high = [
        (quality_of(r, f"{quality}_high") or 0) - v for v, r in zip(values, members, strict=True)
    ]
    axes.errorbar(
        bits,
        values,
        yerr=[[max(0.0, x) for x in low], [max(0.0, x) for x in high]],
        color=colour,
        marker=marker,
        markersize=5,
        linewidth=1.2,
        capsize=3,
        label=title,
    )


def pareto(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """Quality against cost, and the front that nothing beats."""
    quality = quality_name(spec, results)
    able = [r for r in results if quality_of(r, quality) is not None]
    best = front(able, quality)
    if len(able) < 3 or len({r.cost["total"] for r in able}) < 2:
        return None
    figure, axes = _figure(4.4)
    names = [n for n in varied(able) if not KNOBS[spec.subject][n].is_width]
    groups = _groups(able, names)
    if len(groups) > _MOST_SERIES:
        groups = _coarser(able, names)
    for index, (title, members) in enumerate(_first(groups)):
        axes.plot(
            [r.cost["total"] for r in members],
            [quality_of(r, quality) or 0.0 for r in members],
            linestyle="none",
            color=COLOURS[index % 7],
            marker=MARKERS[index % 7],
            markersize=4,
            alpha=0.6,
            label=title,
        )
    axes.step(
        [r.cost["total"] for r in best],
        [quality_of(r, quality) or 0.0 for r in best],
        where="post",
        color="#222222",
        linewidth=1.2,
        label="front",
    )
    _target(spec, axes)
    if spec.search is not None:
        held = [r for r in able if (r.metrics[quality]) >= spec.search.hold[1]]
        if held:
            winner = min(held, key=lambda r: (r.cost["total"], r.id))
            axes.plot(
                [winner.cost["total"]],
                [quality_of(winner, quality) or 0.0],
                linestyle="none",
                marker="*",
                markersize=15,
                color="#ffd200",
                markeredgecolor="#222222",
                label="cheapest that holds the target",
            )
    costs = [r.cost["total"] for r in able]
    if max(costs) > 8 * min(costs) > 0:
        axes.set_xscale("log")
    axes.set_xlabel("cost, full-adder equivalents of the unrolled datapath")
    axes.set_ylabel(TITLES[quality])
    _legend(axes)
    return figure


def layers(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """SQNR of every layer, alone and with all layers before it."""
    able = [r for r in results if r.details and r.details.get("layers")]
    if not able:
        return None
    import numpy as np

    networks = list(dict.fromkeys(r.point["model"] for r in able))
    figure = _sized(WIDTH_IN, 1.0 + 3.1 * len(networks))
    # The most telling few: spread over what was traced.
    for row, name in enumerate(networks):
        members = _spread([r for r in able if r.point["model"] == name], _MOST_SERIES)
        axes = figure.add_subplot(len(networks), 1, row + 1)
        names = [n for n in varied(members) if n != "model"]
        for index, r in enumerate(members):
            rows = [line for line in r.details["layers"] if line.get("sqnr_db") is not None]  # type: ignore[index]
            places = np.arange(len(rows))
            title = label(r, _shorter(names, members))
            axes.plot(
                places,
                [line["sqnr_db"] for line in rows],
                color=COLOURS[index % 7],
                marker=MARKERS[index % 7],
                markersize=3,
                linewidth=1.1,
                label=title,
            )
            local = [line.get("sqnr_local_db") for line in rows]
            axes.plot(
                places,
                [math.nan if value is None else value for value in local],
                color=COLOURS[index % 7],
                linestyle="none",
                marker="_",
                markersize=6,
                alpha=0.8,
            )
        axes.plot([], [], color="#444", linestyle="none", marker="_", label="this layer alone")
        axes.set_xticks(places, [line["name"] for line in rows], rotation=90, fontsize=6)
        axes.set_ylabel("SQNR, dB")
        axes.set_title(name, fontsize=9, loc="left")
        axes.grid(alpha=0.25, linewidth=0.5)
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), ncol=3, fontsize=7, frameon=False)
    return figure


def ranges(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """Where values lie, octave by octave, against what the format holds; the input first."""
    able = [r for r in results if r.details and r.details.get("ranges")]
    if not able:
        return None
    import numpy as np

    if spec.subject == "model":
        chosen = list({r.point["model"]: r for r in able}.values())  # the last format of each
    else:
        chosen = able[-1:]
    items = [len(r.details["ranges"]) for r in chosen]  # type: ignore[index]
    figure = _sized(WIDTH_IN, 1.1 * len(chosen) + 0.8 + sum(0.17 * max(n, 4) for n in items))
    grid = figure.add_gridspec(len(chosen), 1, height_ratios=[max(n, 4) + 3 for n in items])
    names = varied(results)
    for row, r in enumerate(chosen):
        rows = r.details["ranges"]  # type: ignore[index]
        low = min(min(item["octaves"], item["lsb"]) for item in rows) - 1
        high = max(max(item["octaves"] + len(item["counts"]), item["limit"]) for item in rows) + 1
        shares = np.zeros((len(rows), high - low))
        for place, item in enumerate(rows):
            start = item["octaves"] - low
            counts = np.asarray(item["counts"], float)
            shares[place, start : start + len(counts)] = 100 * counts / max(1, item["words"])
        axes = figure.add_subplot(grid[row])
        image = axes.imshow(
            np.ma.masked_equal(shares, 0.0),
            aspect="auto",
            cmap="YlGnBu",
            extent=(low, high, len(rows) - 0.5, -0.5),
            interpolation="nearest",
            vmin=0,
        )
        for place, item in enumerate(rows):
            ends: dict[str, Any] = {"color": "#d55e00", "linewidth": 1.6}
            axes.plot([item["lsb"]] * 2, [place - 0.42, place + 0.42], **ends)
            axes.plot([item["limit"]] * 2, [place - 0.42, place + 0.42], **ends)
        axes.plot([], [], color="#d55e00", linewidth=1.6, label="LSB and end of the format")
        small = 6 if len(rows) > 12 else 8
        axes.set_yticks(
            range(len(rows)), [f"{i['name']}  {i['format']}" for i in rows], fontsize=small
        )
        axes.set_xlabel("log2 of the magnitude")
        axes.set_title(label(r, names) + "\n", fontsize=9, loc="left")  # the legend has line two
        axes.legend(loc="lower right", bbox_to_anchor=(1.0, 1.0), fontsize=7, frameon=False)
        _whole_ticks(axes)
        bar = figure.colorbar(image, ax=axes, pad=0.01)
        bar.set_label("share of the words, %", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    return figure


def stages(spec: StudySpec, results: Sequence[Evaluated]) -> Figure | None:
    """Headroom and overflows of every stage of a datapath."""
    able = [r for r in results if r.details and r.details.get("stages")]
    if not able:
        return None
    shape = [item["name"] for item in able[-1].details["stages"]]  # type: ignore[index]
    alike = [r for r in able if [i["name"] for i in r.details["stages"]] == shape]  # type: ignore[index]
    shown = _spread(alike, 4)
    lost = any(item["overflowed"] for r in shown for item in r.details["stages"])  # type: ignore[index]
    figure = _sized(WIDTH_IN, 5.2 if lost else 3.2)
    upper = figure.add_subplot(2 if lost else 1, 1, 1)
    lower = figure.add_subplot(2, 1, 2, sharex=upper) if lost else None
    names = varied(results)
    width = 0.8 / len(shown)
    for index, r in enumerate(shown):
        rows = r.details["stages"]  # type: ignore[index]
        at = [place + (index - (len(shown) - 1) / 2) * width for place in range(len(rows))]
        room = [i["headroom_bits"] or 0.0 for i in rows]
        title = label(r, names)
        upper.bar(at, room, width * 0.92, color=COLOURS[index], label=title)
        if lower is not None:
            share = [100 * i["overflowed"] / i["words"] if i["words"] else 0.0 for i in rows]
            lower.bar(at, share, width * 0.92, color=COLOURS[index])
    upper.axhline(0, color="#222222", linewidth=0.8)
    upper.set_ylabel("headroom, bits")
    for axes in filter(None, (upper, lower)):
        axes.grid(alpha=0.25, linewidth=0.5, axis="y")
    if lower is None:
        upper.set_title("no word overflowed", fontsize=9, loc="left")
    else:
        lower.set_ylabel("overflowed words, %")
        upper.tick_params(labelbottom=False)
    last = upper if lower is None else lower
    last.set_xticks(range(len(shape)), shape, rotation=30, ha="right", fontsize=8)
    _legend(upper)
    return figure


#: Name, title, what it shows, how it is made.
FIGURES: Final[tuple[tuple[str, str, str, Callable[..., Any]], ...]] = (
    (
        "quality_bits",
        "Against bits",
        "Bars are Wilson's 95 % intervals over the pictures; all formats see the same pictures.",
        quality_against_bits,
    ),
    (
        "sqnr_bits",
        "SQNR against bits",
        "Marks are measured, lines are predicted from the roundings alone.",
        sqnr_against_bits,
    ),
    (
        "pareto",
        "What quality costs",
        "Left and up is better. No point lies above the front at the same cost.",
        pareto,
    ),
    (
        "layers",
        "SQNR per layer",
        "Lines: with the errors of all layers before. Dashes: the layer's own error alone.",
        layers,
    ),
    (
        "ranges",
        "Ranges against formats",
        "How many words lie in which octave; what is left of the left mark is lost, what is right "
        "of the right one overflows.",
        ranges,
    ),
    (
        "stages",
        "Growth and overflow per stage",
        "Headroom is the distance of the largest word from the format's end; below zero it "
        "overflowed.",
        stages,
    ),
)


# ---------------------------------------------------------------- parts
def _sized(width_in: float, height_in: float) -> Figure:
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure as Made
    except ImportError:
        raise ToolchainError(
            "plots need matplotlib: pip install 'parc_hw[report]', then run the same command "
            "again; nothing is computed twice."
        ) from None
    mpl.rcParams.update({"font.size": 9, "svg.hashsalt": "parc_hw", "axes.axisbelow": True})
    return Made(figsize=(width_in, height_in), layout="constrained")


def _figure(height_in: float) -> tuple[Figure, Axes]:
    figure = _sized(WIDTH_IN, height_in)
    axes = figure.add_subplot()
    axes.grid(alpha=0.25, linewidth=0.5)
    return figure, axes


def _legend(axes: Axes) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=7.5, framealpha=0.9)


def _target(spec: StudySpec, axes: Axes) -> None:
    if spec.search is None:
        return
    quality, least = spec.search.hold
    if quality == "sqnr_db":
        text = f"target, {least:g} dB"
    else:
        least *= 100
        text = f"target, {least:g} %"
    axes.axhline(least, color="#222222", linestyle=":", linewidth=1.2, label=text)


def _whole_ticks(axes: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _width_axis(results: Sequence[Evaluated]) -> str | None:
    """The width with most different values; of several, the first knob."""
    counts = {
        name: len({r.point[name] for r in results if name in r.point})
        for name in varied(results)
        if name.endswith("_bits")
    }
    shared = {
        name: count
        for name, count in counts.items()
        if all(name in r.point or "profile" in r.point for r in results)
    }
    return max(shared, key=lambda name: shared[name], default=None)


def _always_equal(results: Sequence[Evaluated]) -> bool:
    return all(r.point["activation_bits"] == r.point["weight_bits"] for r in results)


def _groups(results: Sequence[Evaluated], names: Sequence[str]) -> dict[str, list[Evaluated]]:
    groups: dict[str, list[Evaluated]] = {}
    for result in results:
        groups.setdefault(label(result, names), []).append(result)
    return groups


def _coarser(results: Sequence[Evaluated], names: Sequence[str]) -> dict[str, list[Evaluated]]:
    """Groups by as many of the most telling knobs as there are colours for."""
    telling = ("plan", "model", "profile", "length", "scaling", "rounding", "product")
    chosen: list[str] = []
    for name in telling:
        if name in names and len(_groups(results, [*chosen, name])) <= _MOST_SERIES:
            chosen.append(name)
    return _groups(results, chosen)


def _first(groups: dict[str, list[Evaluated]]) -> list[tuple[str, list[Evaluated]]]:
    """As many groups as there are colours; the rest of the points goes into the last one."""
    items = list(groups.items())
    if len(items) <= _MOST_SERIES:
        return items
    rest = [result for _, members in items[_MOST_SERIES - 1 :] for result in members]
    return [*items[: _MOST_SERIES - 1], (f"{len(items) - _MOST_SERIES + 1} more", rest)]


def _spread(results: Sequence[Evaluated], most: int) -> list[Evaluated]:
    """At most so many, evenly over their order, the last among them."""
    step = max(1, -(-len(results) // most))
    return list(results)[::-1][::step][::-1]


def _shorter(names: Sequence[str], members: Sequence[Evaluated]) -> list[str]:
    """Without the weights' bits where they equal the activations'."""
    if "weight_bits" in names and "activation_bits" in names and _always_equal(members):
        return [name for name in names if name != "weight_bits"]
    return list(names)
