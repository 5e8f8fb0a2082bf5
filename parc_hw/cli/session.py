"""What did the global options ask for, and how does a command speak to its user?

Results go to stdout, everything else to stderr; with `--json` the result is one JSON
document and stdout holds nothing else.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.models import DEFAULT_SEED

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.progress import Progress, TaskID
    from rich.table import Table

__all__ = ["DEFAULT_SEED", "ProgressCallback", "Session", "table"]

_PIPE_COLUMNS = 160  # a file or a pipe has no width: keep a table's rows whole

#: `progress(stage, done, total, message)`, as `parc_hw.build.compile` calls it.
ProgressCallback = Callable[[str, int, int, str], None]


@dataclass
class Session:
    """The global options of one call, and the two streams it writes to.

    Parameters
    ----------
    verbosity : int
        -1 quiet, 0 normal, 1 and more: show details and tracebacks.
    as_json : bool
        Print the result as one JSON document on stdout.
    seed : int
        Seed of everything random: weights of untrained models, inputs, training.
    jobs : int or None
        Threads this tool's own work may use; None leaves it to the libraries.
    """

    verbosity: int = 0
    as_json: bool = False
    seed: int = DEFAULT_SEED
    jobs: int | None = None
    _consoles: dict[str, Console] = field(default_factory=dict, repr=False)

    def _console(self, name: str) -> Console:
        if name not in self._consoles:
            from rich.console import Console

            stream = sys.stdout if name == "out" else sys.stderr
            console = Console(file=stream, highlight=False)
            if not console.is_terminal and "COLUMNS" not in os.environ:
                console.width = _PIPE_COLUMNS
            self._consoles[name] = console
        return self._consoles[name]

    @property
    def out(self) -> Console:
        """Where results go."""
        return self._console("out")

    @property
    def err(self) -> Console:
        """Where everything else goes."""
        return self._console("err")

    def note(self, text: str) -> None:
        """Say something in passing, unless `-q`."""
        if self.verbosity >= 0:
            self.err.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """Say something the user should know even with `-q`."""
        self.err.print(f"warning: {text}", style="yellow", markup=False, soft_wrap=True)

    def result(self, data: object, *shown: RenderableType) -> None:
        """Print the result: `data` as JSON with `--json`, else the renderables.

        Parameters
        ----------
        data : object
            Plain data; paths, enums and numpy scalars become text and numbers.
        *shown : str or rich renderable
            What people see instead. Text is printed as it is, without markup.
        """
        if self.as_json:
            json.dump(
                data, sys.stdout, indent=2, default=_plain, ensure_ascii=False, allow_nan=False
            )
            sys.stdout.write("\n")
            return
        for item in shown:
            if isinstance(item, str):
                self.out.print(item, markup=False, soft_wrap=True)
            else:
                self.out.print(item)

    @contextmanager
    def progress(self) -> Iterator[ProgressCallback]:
        """Give a callback that shows long work: bars on a terminal, plain lines elsewhere."""
        if self.verbosity < 0:
            yield lambda stage, done, total, message: None
        elif self.err.is_terminal and not self.err.is_dumb_terminal:
            with _bars(self.err) as bars:
                yield _BarProgress(bars)
        else:
            yield _LineProgress(self.err)

    def configure_logging(self) -> None:
        """Send the log records of our packages to stderr, as many as `-v` and `-q` ask for."""
        levels = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO}
        logging.basicConfig(
            stream=sys.stderr,
            level=levels.get(self.verbosity, logging.DEBUG),
            format="%(levelname)s %(name)s: %(message)s",
            force=True,
        )
        for name in ("numba", "matplotlib", "PIL"):
            logging.getLogger(name).setLevel(logging.WARNING)


def table(*columns: str, right: Sequence[str] = (), fold: str | None = None) -> Table:
    """Make an empty table in the one form all commands use.

    Parameters
    ----------
    *columns : str
        Headings.
    right : sequence of str
        The numeric ones.
    fold : str, optional
        The column that gives way on a narrow terminal, over several lines; by default the last.
    """
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for column in columns:
        made.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column != (fold or columns[-1]),
            overflow="fold",  # a name that is cut off would not say which one it is
        )
    return made


def _plain(value: object) -> Any:
    """Turn what `json` does not know into what it knows."""
    if isinstance(value, Path):
        return str(value)
    for method in ("to_json", "tolist", "item"):  # ours, numpy arrays, numpy scalars
        if callable(convert := getattr(value, method, None)):
            return convert()
    if hasattr(value, "value"):  # enums
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    return str(value)


def _bars(console: Console) -> Progress:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    return Progress(
        TextColumn("{task.description:<10}", markup=False),
        BarColumn(bar_width=20),
        TextColumn("{task.completed:>4.0f}/{task.total:.0f}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[message]}", markup=False),
        console=console,
    )


class _BarProgress:
    """One bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, message="")
        self._bars.update(self._tasks[stage], completed=done, total=total, message=message)


class _LineProgress:
    """A line when a stage begins, then one every few seconds and one at its end."""

    every_s = 5.0

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._began = self._printed = time.monotonic()
        self._over = False

    def __call__(self, stage: str, done: int, total: int, message: str) -> None:
        now = time.monotonic()
        new, over = stage != self._stage, done >= total
        if new:
            self._stage, self._began, self._over = stage, now, False
        if self._over or not (new or over or now - self._printed >= self.every_s):
            return
        self._printed, self._over = now, over
        self._console.print(
            f"{stage:<10} {done:>4}/{total} {now - self._began:6.1f} s  {message}".rstrip(),
            markup=False,
            soft_wrap=True,
        )
