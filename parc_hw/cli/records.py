"""`parc-hw records`: what is in databases of tuning records, and how do they differ?"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, nearest

if TYPE_CHECKING:
    from parc_hw.records import Records, TuningRecord

__all__ = ["RECORDS_HELP", "make", "own_database", "records_for"]

RECORDS_HELP = (
    "Tuning records to use; by default yours and those that come with parc-hw. none: no records."
)


def own_database() -> Path:
    """The user's database: what `tune` writes and `compile` reads where no file is named."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "parc_hw" / "records.jsonl"


def records_for(session: Session, given: str | None) -> Records | None:
    """What `--records` means: yours, a file's, or none; those of the package go with both.

    Raises
    ------
    InputError
        A file that is not there, or is no file of records.
    """
    if given == "none":
        return None
    from parc_hw.records import read_records
    from schedules.tuning.database import committed

    path = own_database() if given is None else Path(given)
    found = read_records(path, missing_ok=given is None)
    for text in (*found.problems, *found.conflicts):
        session.warn(text)
    return committed() + found


def make(epilog: str) -> typer.Typer:
    """The group of commands."""
    group = typer.Typer(
        name="records",
        help="Look at tuning records, merge and compare them. A FILE may be `committed`: those that "
        "come with parc-hw. Without one it is your own database.",
        epilog=epilog,
        no_args_is_help=True,
        rich_markup_mode=None,
    )
    for name, function, does in (
        ("ls", _ls, "One line for each record."),
        ("show", _show, "Everything about one record."),
        ("merge", _merge, "Join files; of each key the better by evidence is kept."),
        ("export", _export, "Write the records of a device or kernel into a file."),
        ("diff", _diff, "What two files have of each other."),
    ):
        group.command(name, short_help=does, epilog=epilog)(function)
    return group


def _read(session: Session, name: str | None) -> Records:
    from parc_hw.records import COMMITTED, read_records

    if name == COMMITTED:
        from schedules.tuning.database import committed

        return committed()
    found = read_records(own_database() if name is None else Path(name), missing_ok=name is None)
    for text in found.problems:
        session.warn(text)
    return found


_File = Annotated[str | None, typer.Argument(metavar="[FILE]", show_default=False)]
_Device = Annotated[str | None, typer.Option(metavar="NAME", help="Only records for this device.")]
_Kernel = Annotated[str | None, typer.Option(metavar="NAME", help="Only records of this rule.")]


def _ls(
    context: typer.Context, file: _File = None, device: _Device = None, kernel: _Kernel = None
) -> None:
    """List records: kernel, shape, device, what they gain and who measured it."""
    session: Session = context.obj
    found = _selected(list(_read(session, file)), device, kernel)
    session.result(
        [record.to_json() for record in found],
        _listed(found) if found else "no records",
    )


def _selected(
    records: Sequence[TuningRecord], device: str | None, kernel: str | None
) -> list[TuningRecord]:
    for name, wanted, known in (
        ("device", device, sorted({record.device for record in records})),
        ("kernel", kernel, sorted({record.kernel for record in records})),
    ):
        if wanted is not None and wanted not in known:
            raise InputError(
                f"no record has the {name} {wanted!r}.{nearest(wanted, known)} "
                f"Accepted: {', '.join(known) or 'none; there are no records'}."
            )
    return [
        record
        for record in records
        if device in (None, record.device) and kernel in (None, record.kernel)
    ]


def _listed(records: Sequence[TuningRecord]) -> Any:
    rows = table(
        "id", "device", "processor", "runner", "faster", "trials", "shape",
        right=("faster", "trials"),
    )  # fmt: skip
    for record in records:
        rows.add_row(
            record.id,
            record.device,
            record.processor,
            record.runner,
            f"{record.gain:.3f}x" if record.tuned else "default",
            str(record.trials),
            record.shape,
        )
    return rows


def _show(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID", help="As `records ls` prints it.")],
    file: _File = None,
) -> None:
    """Show one record: its key, its choice beside the default, and the evidence."""
    session: Session = context.obj
    records = list(_read(session, file))
    record = next((r for r in records if r.id == name), None)
    if record is None:
        known = [r.id for r in records]
        raise InputError(
            f"no record is called {name!r}.{nearest(name, known)} `parc-hw records ls` lists them."
        )
    rows = table("what", "value", "")
    data = record.to_json()
    for key in (
        "kernel", "shape", "plan", "device", "cpu", "features", "vectors", "processor", "threads",
        "parc_hw", "tvm", "llvm", "runner",
    ):  # fmt: skip
        value = data[key]
        rows.add_row(key, " ".join(value) if isinstance(value, list) else str(value), "")
    for key, value in record.choice.items():
        default = record.default.get(key)
        rows.add_row(key, str(value), "" if value == default else f"default {default}")
    low, mid, high = record.ratio
    rows.add_row("ratio to default", f"{mid:.4f}", f"{low:.4f} to {high:.4f}")
    rows.add_row("cost", f"{record.cost:.4g} {record.unit}", f"best of {record.trials} trials")
    for key, value in sorted(record.evidence.items()):
        rows.add_row(key, str(value), "")
    session.result(data, rows)


def _merge(
    context: typer.Context,
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="What to join.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="May be one of them.")
    ],
) -> None:
    """Join files of records into one, sorted; say which of two choices for one key was kept."""
    from parc_hw.records import Records, write_records

    session: Session = context.obj
    joined = Records()
    for file in files:
        joined += _read(session, file)
    write_records(output, joined)
    session.result(
        {"output": str(output), "records": len(joined), "conflicts": list(joined.conflicts)},
        *joined.conflicts,
        f"{len(joined)} records in {output}",
    )


def _export(
    context: typer.Context,
    output: Annotated[Path, typer.Option("-o", "--output", metavar="FILE", help="Is replaced.")],
    file: _File = None,
    device: _Device = None,
    kernel: _Kernel = None,
) -> None:
    """Write some of a database's records into a file of their own, to carry elsewhere."""
    from parc_hw.records import Records, write_records

    session: Session = context.obj
    found = Records.of(_selected(list(_read(session, file)), device, kernel))
    write_records(output, found)
    session.result(
        {"output": str(output), "records": len(found)}, f"{len(found)} records in {output}"
    )


def _diff(
    context: typer.Context,
    first: Annotated[str, typer.Argument(metavar="FIRST")],
    second: Annotated[str, typer.Argument(metavar="SECOND")],
) -> None:
    """Compare two files: records that only one has, and other choices or evidence for one key."""
    from parc_hw.records import difference

    session: Session = context.obj
    found = difference(_read(session, first), _read(session, second))
    lines: list[Any] = []
    for title, records in (
        (f"only in {first}:", found.only_first),
        (f"only in {second}:", found.only_second),
    ):
        if records:
            lines += [title, _listed(records)]
    if found.changed:
        rows = table("id", "first", "", "second", "", "better")
        for a, b in found.changed:
            rows.add_row(
                a.id,
                _choice(a),
                f"{a.gain:.3f}x",
                _choice(b),
                f"{b.gain:.3f}x",
                "first" if a.rank < b.rank else "second",
            )
        lines += ["other choices or evidence:", rows]
    lines.append(f"{found.same} records are the same")
    session.result(
        {
            "only_first": [record.to_json() for record in found.only_first],
            "only_second": [record.to_json() for record in found.only_second],
            "changed": [[a.to_json(), b.to_json()] for a, b in found.changed],
            "same": found.same,
        },
        *lines,
    )


def _choice(record: TuningRecord) -> str:
    changed = {k: v for k, v in record.choice.items() if v != record.default.get(k)}
    return " ".join(f"{key}={value}" for key, value in sorted(changed.items())) or "default"
