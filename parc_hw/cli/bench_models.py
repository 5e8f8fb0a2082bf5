"""`parc-hw bench models` and `bench table7`: how fast are whole models beside their peers?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.cli.arrays import write_whole
from parc_hw.cli.session import Session, table
from parc_hw.errors import MeasurementError

if TYPE_CHECKING:
    from rich.table import Table

    from parc_hw.bench_models import Document
    from parc_hw.bench_models_goals import Verdict

__all__ = ["run_models", "run_table7"]

_SECONDS = 3.0
_PAIR_KINDS = ("pair", "pair, instructions")


def run_models(
    session: Session,
    names: Sequence[str],
    *,
    threads: Sequence[int] | None,
    seconds: float | None,
    peers: bool,
    torch_compile: bool,
    files: Sequence[Path],
) -> None:
    """Measure, write what there is after every model, and print."""
    from parc_hw import bench_models

    chosen = bench_models.find_models(names)
    runtimes = list(bench_models.PEERS) if peers else []
    if torch_compile:
        runtimes.append("torch.compile")
    for line in bench_models.missing_runtimes(runtimes):
        session.warn(f"left out: {line}")
    failures: list[str] = []

    def failed(name: str, error: MeasurementError) -> None:
        failures.append(name)
        session.warn(f"{name}: {error}")

    with session.progress() as progress:
        parts = bench_models.measure_models(
            chosen,
            threads=_distinct(threads),
            seconds=_SECONDS if seconds is None else seconds,
            peers=runtimes,
            seed=session.seed,
            failed=failed,
            progress=progress,
        )
        document = _collect(parts, files)
    verdicts = _verdicts(document, pairs=False)
    _show(session, document, [_times(document), *_goals(verdicts)], verdicts)
    if failures:
        raise MeasurementError(
            f"{', '.join(failures)} could not be measured; the warnings above say why. The other "
            "models' rows are kept."
        )


def run_table7(
    session: Session,
    names: Sequence[str],
    *,
    threads: Sequence[int] | None,
    seconds: float | None,
    devices: Sequence[str],
    files: Sequence[Path],
) -> None:
    """Measure pairs and count on devices, write what there is after every one, and print."""
    from parc_hw import bench_models
    from parc_hw.device import load_device

    chosen = bench_models.find_pairs(names)
    for device in devices:
        load_device(device)  # an unknown one is refused before anything is measured
    with session.progress() as progress:

        def parts() -> Iterable[Document]:
            yield from bench_models.measure_pairs(
                chosen,
                threads=_distinct(threads),
                seconds=_SECONDS if seconds is None else seconds,
                seed=session.seed,
                progress=progress,
            )
            yield from bench_models.count_on_arm(
                chosen, devices, seed=session.seed, progress=progress
            )

        document = _collect(parts(), files)
    verdicts = _verdicts(document, pairs=True)
    _show(session, document, [_table7(document), *_goals(verdicts)], verdicts)


def _distinct(threads: Sequence[int] | None) -> list[int]:
    return list(dict.fromkeys(threads or (1, 2)))


def _collect(parts: Iterable[Document], files: Sequence[Path]) -> Document:
    """Merge parts into what the JSON files hold, and write after each."""
    from parc_hw import bench_models, bench_models_goals

    # What is there already must fit before anything is measured.
    document = bench_models.new_document()
    for file in files:
        if file.suffix == ".json":
            document = bench_models.merge(bench_models.read(file), document)
    for part in parts:
        document = bench_models.merge(document, part)
        for file in files:
            made = (
                bench_models_goals.to_json if file.suffix == ".json" else bench_models_goals.to_csv
            )
            write_whole(file, made(document).encode())
    return document


def _verdicts(document: Document, *, pairs: bool) -> list[Verdict]:
    from parc_hw import bench_models_goals

    return [
        verdict
        for verdict in bench_models_goals.verdicts(document)
        if (verdict.goal.kind in _PAIR_KINDS) is pairs
    ]


def _show(
    session: Session, document: Document, shown: list[Any], verdicts: Sequence[Verdict]
) -> None:
    from parc_hw import bench_models, bench_models_goals

    known = [verdict for verdict in verdicts if verdict.met is not None]
    met = sum(bool(verdict.met) for verdict in known)
    machine = document["machine"]
    summary = f"{met} of {len(known)} goals met"
    if len(known) < len(verdicts):
        summary += f"; {len(verdicts) - len(known)} not measured"
    shown.append(f"{machine['cpu']}, compiled for as {machine['device']}: {summary}")
    shown += [f"left out: {line}" for line in bench_models.left_out(document)]
    session.result(bench_models_goals.with_goals(document), *shown)


def _times(document: Document) -> Table:
    """Ours and every peer, for each model and number of threads."""
    from parc_hw.bench_models_goals import peak_share, ratios, row

    found = {one["runtime"] for case in document["cases"] for one in case["rows"]}
    order = ("parc_hw", "torch", "torch.compile", "onnxruntime", "openvino")
    runtimes = [runtime for runtime in order if runtime in found]
    titles = {
        "parc_hw": "ours ms",
        "onnxruntime": "ORT ms",
        "openvino": "OpenVINO ms",
    }
    numbers = ["threads", *(titles.get(name, f"{name} ms") for name in runtimes)]
    numbers += ["min ms", "ours/ORT", "ours/best", "of peak"]
    rows = table("model", *numbers, right=numbers)
    for case in document["cases"]:
        over = ratios(case)
        ours = row(case, "parc_hw")
        rows.add_row(
            case["model"],
            str(case["threads"]),
            *(_ms(row(case, runtime), "median_s") for runtime in runtimes),
            _ms(ours, "min_s"),
            *(_number(over.get(name)) for name in ("onnxruntime", "best")),
            _number(peak_share(case)),
        )
    return rows


def _table7(document: Document) -> Table:
    """Each ParC network beside its baseline."""
    from parc_hw import models
    from parc_hw.bench_models import BASELINES
    from parc_hw.bench_models_goals import instructions

    numbers = ("threads", "parameters M", "MACs M", "ParC", "baseline", "ratio", "known")
    rows = table("network", "baseline", "of what", *numbers, right=numbers)
    for pair in BASELINES:
        both = [models.info(name) for name in (pair.parc, pair.baseline)]
        sizes = (
            " / ".join(f"{info.parameters / 1e6:.2f}" for info in both),
            " / ".join(f"{info.macs / 1e6:.0f}" for info in both),
        )
        known = f"{pair.known:.2f}"
        for one in document["pairs"]:
            if one["parc"] == pair.parc:
                times = (one["parc_s"], one["baseline_s"])
                rows.add_row(
                    pair.parc,
                    pair.baseline,
                    "ms",
                    str(one["threads"]),
                    *sizes,
                    *(f"{1e3 * value:.2f}" for value in times),
                    _number(times[0] / times[1]),
                    known,
                )
        for device in dict.fromkeys(count["device"] for count in document["counts"]):
            counts = [instructions(document, name, device) for name in (pair.parc, pair.baseline)]
            if counts[0] is not None and counts[1] is not None:
                rows.add_row(
                    pair.parc,
                    pair.baseline,
                    f"1e6 instructions, {device}",
                    "-",
                    *sizes,
                    *(f"{count / 1e6:.0f}" for count in counts if count is not None),
                    _number(counts[0] / counts[1]),
                    known,
                )
    return rows


def _goals(verdicts: Sequence[Verdict]) -> list[Any]:
    """A table of the goals that have a figure, with an empty line before it."""
    numbers = ("threads", "measured", "goal", "known")
    rows = table("goal", "model", *numbers, "", "of what", right=numbers, fold="goal")
    known = [verdict for verdict in verdicts if verdict.value is not None]
    for verdict in known:
        goal = verdict.goal
        rows.add_row(
            goal.title,
            goal.model or "-",
            str(goal.threads or "-"),
            _number(verdict.value),
            f"{'<=' if goal.at_most else '>='} {goal.limit:g}",
            _number(goal.known),
            {True: "met", False: "MISSED", None: "partial"}[verdict.met],
            verdict.about,
        )
    return ["", rows] if known else []


def _ms(row: dict[str, Any] | None, key: str) -> str:
    return "-" if row is None else f"{1e3 * row[key]:.2f}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
