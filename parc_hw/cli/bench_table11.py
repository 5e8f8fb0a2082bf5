"""`parc-hw bench table11`: how fast is one ParC beside everything else that computes it?"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.cli.arrays import write_whole
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from parc_hw.table11 import Document

__all__ = ["run", "show"]

_ROUNDS, _QUICK_ROUNDS = 12, 5
_KINDS = ("times", "counts")


def run(
    session: Session,
    *,
    threads: Sequence[int] | None,
    sizes: Sequence[str] | None,
    only: str | None,
    quick: bool,
    peers: bool,
    files: Sequence[Path],
) -> None:
    """Measure, write what there is after every size, and print."""
    from parc_hw import table11

    if only not in (None, *_KINDS):
        raise InputError(f"--only {only}: accepted are {' and '.join(_KINDS)}.")
    if quick and (sizes or only == "counts"):
        raise InputError(
            f"--quick chooses the sizes and counts nothing; leave out "
            f"{'--size' if sizes else '--only counts'}, or --quick."
        )
    chosen = [table11.find_size(text) for text in sizes or ()] or list(
        table11.QUICK if quick else table11.SIZES
    )
    counts = list(dict.fromkeys(threads or ((1,) if quick else (1, 2))))
    # What is there already must fit before anything is measured.
    before = [table11.read(file) for file in files if file.suffix == ".json"]
    document = table11.new_document()
    for old in before:
        table11.merge(old, document)
    base = next((old for old in before if old is not None), None)
    measured = None
    for line in table11.missing_runtimes() if peers else ():
        session.warn(f"left out: {line}")
    with session.progress() as progress:
        if only != "counts":
            parts = table11.measure_sizes(
                dict.fromkeys(chosen),
                threads=counts,
                rounds=_QUICK_ROUNDS if quick else _ROUNDS,
                peers=peers,
                progress=progress,
            )
            for part in parts:
                measured = table11.merge(measured, part)
                document = table11.merge(base, measured)
                _write(document, files, pictures=False)
        if only == "counts" or (only is None and not quick and not sizes):
            measured = table11.merge(measured, table11.count_on_arm(progress))
            document = table11.merge(base, measured)
    _write(document, files, pictures=True)
    show(session, document, counts[0])


def _write(document: Document, files: Sequence[Path], *, pictures: bool) -> None:
    from parc_hw import table11_shown

    for file in files:
        if file.suffix == ".json":
            write_whole(file, table11_shown.to_json(document).encode())
        elif file.suffix == ".csv":
            write_whole(file, table11_shown.to_csv(document).encode())
        elif pictures:
            table11_shown.plot(document, file)


def show(session: Session, document: Document, threads: int = 1) -> None:
    """Print times and goals of a document."""
    from parc_hw import table11, table11_goals, table11_shown

    found = table11_goals.verdicts(document)
    known = [verdict for verdict in found if verdict.value is not None]
    met = sum(bool(verdict.met) for verdict in known)
    shown: list[Any] = []
    if document["cases"]:
        shown.append(_times(document))
    if known:
        shown += ["", _goals(known)]
    summary = f"{met} of {len(known)} goals met"
    if len(found) > len(known):
        summary += f"; {len(found) - len(known)} not measured"
    machine = document["machine"]
    shown.append(f"{machine['cpu']}, compiled for as {machine['device']}: {summary}")
    shown += [f"left out: {line}" for line in table11.left_out(document)]
    session.result(table11_shown.with_goals(document), *shown)


def _times(document: Document) -> Table:
    """Ours, and the best of the others, for every size, operator and number of threads."""
    from parc_hw import table11_shown

    numbers = ("threads", "NHWC ms", "NCHW ms", "direct ms", "best peer ms", "times", "in a row")
    rows = table("size", "operator", *numbers, "the best peer", right=numbers)
    for line in table11_shown.summary(document):
        rows.add_row(
            line.size,
            line.operator,
            str(line.threads),
            *(_ms(line.times_s.get(key)) for key in ("NHWC", "NCHW", "direct", "peer")),
            *("-" if ratio is None else f"{ratio:.2f}" for ratio in (line.ratio, line.row_ratio)),
            line.peer,
        )
    return rows


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.4f}"


def _goals(verdicts: Sequence[Any]) -> Table:
    numbers = ("measured", "goal", "prototype")
    rows = table("goal", "size", "operator", *numbers, "", "of what", right=numbers)
    for verdict in verdicts:
        goal = verdict.goal
        rows.add_row(
            goal.title,
            str(goal.size),
            goal.operator,
            f"{verdict.value:.3g}",
            f"{'<=' if goal.at_most else '>='} {goal.limit:g}",
            "-" if goal.prototype is None else f"{goal.prototype:g}",
            "met" if verdict.met else "MISSED",
            verdict.about,
        )
    return rows
