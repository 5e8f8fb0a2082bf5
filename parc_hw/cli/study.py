"""`parc-hw study`: which formats does a transform, an operator or a network need?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli.budget import PARTIAL, seconds
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    from parc_hw.study.evaluate import Evaluated
    from parc_hw.study.run import StudyResult
    from parc_hw.study.spec import StudySpec

_MISSED = 4
_MOST_ROWS = 24  # on the terminal; the report has all


def command(
    context: typer.Context,
    spec: Annotated[Path, typer.Argument(metavar="SPEC.toml", help="What to compute.")],
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="DIR", help="Journal and report; made if missing."),
    ] = None,
    scheduler: Annotated[
        str | None,
        typer.Option(metavar="tcp://HOST:PORT", help="Compute on a dask.distributed cluster."),
    ] = None,
    time: Annotated[
        str | None, typer.Option(metavar="30m", help="Stop after so long with what there is.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the points and about how long they take.")
    ] = False,
) -> None:
    """Run grids and searches over formats and plans; write a page, plots, CSV and JSON.

    Every result is on the disk before the next begins: after Ctrl-C, a kill or a power cut the same
    command goes on where it ended. --jobs sets the processes, one per core by default.
    """
    session: Session = context.obj
    limit_s = None if time is None else seconds(time)
    from parc_hw.study.evaluate import duration
    from parc_hw.study.run import estimate_s, run_study
    from parc_hw.study.spec import load_spec
    from parc_hw.study.workers import available_cores

    study = load_spec(spec)
    if output is None and not dry_run:
        raise InputError("-o DIR is missing: name a directory for the journal and the report.")
    count = session.jobs or available_cores()
    estimated = estimate_s(study, workers=count)
    if dry_run:
        _show_points(session, study, estimated, count)
        return
    assert output is not None
    session.note(
        f"{study.title or study.name}: {_work(study)}, about {duration(estimated)} on "
        f"{count} process{'es' * (count > 1)}; results go to {output}."
        if scheduler is None
        else f"{study.title or study.name}: {_work(study)}; results go to {output}."
    )
    with session.progress() as progress:
        result = run_study(
            study,
            output,
            jobs=session.jobs,
            scheduler=scheduler,
            limit_s=limit_s,
            progress=progress,
        )
    _show(session, result)
    if result.ended:
        raise typer.Exit(PARTIAL)
    if study.search is not None and result.winner is None:
        raise typer.Exit(_MISSED)


def _work(study: StudySpec) -> str:
    points = len(study.points())
    parts = [f"{points} point{'s' * (points != 1)}"] if points else []
    if study.search is not None:
        parts.append(f"a search by {' and '.join(study.search.methods)}")
    return " and ".join(parts)


def _show_points(session: Session, study: StudySpec, estimated_s: float, count: int) -> None:
    """Print what would be computed."""
    from parc_hw.study.evaluate import duration
    from parc_hw.study.knobs import varied

    points = study.points()
    lines: list[Any] = [f"{study.title or study.name}: {_work(study)}"]
    if points:
        shown = varied(points) or list(points[0])[:1]
        rows = table(*shown, fold=shown[-1])
        for point in points[:_MOST_ROWS]:
            rows.add_row(*(_cell(point.get(name, "")) for name in shown))
        lines.append(rows)
        if len(points) > _MOST_ROWS:
            lines.append(f"... and {len(points) - _MOST_ROWS} more")
    if study.search is not None:
        over = table("searched", "values", fold="values")
        for name, values in study.search.over:
            over.add_row(name, ", ".join(_cell(value) for value in values))
        quality, least = study.search.hold
        lines += [over, f"held: {quality} >= {least:g}"]
    lines.append(f"about {duration(estimated_s)} on {count} process{'es' * (count > 1)}")
    session.result(
        {
            "spec": study.to_json(),
            "study": study.digest,
            "points": points,
            "estimated_s": round(estimated_s, 1),
            "jobs": count,
        },
        *lines,
    )


def _show(session: Session, result: StudyResult) -> None:
    """Print what was found and where it is."""
    from parc_hw.study.plots import front, quality_name
    from parc_hw.study.report import summary

    study = result.spec
    name = quality_name(study, result.results)
    able = [each for each in result.results if not each.refused]
    members, title = able, ""
    if len(able) > _MOST_ROWS:
        members, title = front(able, name), "Nothing else beats these:"
    rows = _rows(result, members[:_MOST_ROWS], name)
    lines: list[Any] = [*summary(result), title, rows] if able else summary(result)
    if len(members) > _MOST_ROWS:
        lines.append(f"... and {len(members) - _MOST_ROWS} more in results.csv")
    if result.ended:
        lines.append(f"{result.ended}: this is not all. The same command goes on.")
    lines.append(f"report: {result.directory / 'report.html'}")
    session.result(
        {
            "study": study.digest,
            "directory": result.directory,
            "complete": not result.ended and not result.missing,
            "ended": result.ended,
            "points": len(result.results),
            "computed": result.computed,
            "elapsed_s": round(result.elapsed_s, 3),
            "winner": None if result.winner is None else _plain(result.winner, name),
            "front": [_plain(each, name) for each in front(able, name)],
            "summary": summary(result),
        },
        *(line for line in lines if line != ""),
    )


def _rows(result: StudyResult, members: list[Evaluated], quality: str) -> Any:
    """A table that fits 80 columns: the knobs that differ, the quality and the cost."""
    from parc_hw.study.plots import TITLES, quality_of, varied

    names = varied(result.results)
    heads = [name.removesuffix("_bits").replace("_", " ") for name in names]
    whole = [
        head
        for head, name in zip(heads, names, strict=True)
        if all(isinstance(each.point.get(name, 0), int) for each in members)
    ]
    numbers = (*whole, TITLES[quality], "cost")
    rows = table(*heads, TITLES[quality], "cost", right=numbers, fold=(heads or ["cost"])[0])
    for each in members:
        value = quality_of(each, quality)
        rows.add_row(
            *(_cell(each.point.get(name, "")) for name in names),
            "exact" if value is None else f"{value:.2f}",
            f"{each.cost['total']:,.0f}",
            style="bold" if result.winner is not None and each.id == result.winner.id else None,
        )
    return rows


def _plain(each: Evaluated, quality: str) -> dict[str, Any]:
    return {
        "point": each.point,
        quality: each.metrics.get(quality),
        "cost": each.cost["total"],
        "multiplications": each.cost["multiplications"],
        "memory_bits": each.cost["memory_bits"],
    }


def _cell(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list) else str(value)
