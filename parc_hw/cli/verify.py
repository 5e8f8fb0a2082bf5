"""`parc-hw verify`: does a bundle still compute what its source model computed?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from parc_hw.cli.session import Session, table
from parc_hw.errors import VerificationError


def command(
    context: typer.Context,
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A directory that `parc-hw compile` made.")
    ],
) -> None:
    """Compare with the source's outputs stored in the bundle; exit code 4 out of tolerance."""
    session: Session = context.obj
    from parc_hw.artifact import Bundle, verify_bundle

    opened = Bundle.open(bundle)
    report = verify_bundle(opened)
    numbers = ("vector", "largest error", "of the deviation", "accepted")
    rows = table("output", "input", *numbers, "", right=numbers)
    for row in report.rows:
        rows.add_row(
            row.output,
            row.input,
            str(row.vector),
            f"{row.max_abs:.3g}",
            f"{row.ratio:.2e}",
            f"{report.tolerance:.0e}",
            "ok" if row.ratio <= report.tolerance else "MISSED",
        )
    session.result(
        {"bundle": str(bundle), "target": opened.device.name, **report.to_json()},
        rows,
        f"{bundle} for {opened.device.name}: {report}",
    )
    if not report.passed:
        raise VerificationError(
            f"{bundle} does not compute what its source computed: {report}. Compile it again; if "
            "it still differs, this is a bug in parc_hw."
        )
