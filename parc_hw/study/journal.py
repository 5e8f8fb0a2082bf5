"""Which results does a study have already, and how do new ones survive a crash?

One JSON document per line. The first line says which study it is; every further one is a result
that was on the disk before anybody was told of it. Lines are only ever appended, so that a kill can
damage nothing but the last one, which is then dropped.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from parc_hw.errors import InputError

__all__ = ["NAME", "Journal"]

NAME = "journal.jsonl"
FORMAT = 1


class Journal:
    """The results of one study in one directory; made by `Journal.open`.

    Attributes
    ----------
    records : list of dict
        All results so far, in the order in which they came.
    dropped : bool
        Whether the file ended in an unfinished line, which was cut off.
    """

    def __init__(self, descriptor: int, records: list[dict[str, Any]], *, dropped: bool) -> None:
        self._descriptor = descriptor
        self.records = records
        self.dropped = dropped

    @classmethod
    def open(cls, directory: Path, header: dict[str, Any]) -> Journal:
        """Open the journal of the study that `header` describes, or begin it.

        Parameters
        ----------
        directory : Path
            Made if it is missing.
        header : dict
            Plain data with "study" (the specification's hash), "name" and "version".

        Raises
        ------
        InputError
            The directory holds another study, a study of another version of parc_hw, or other
            files; a damaged journal; another process is writing it; it cannot be written.
        """
        path = directory / NAME
        try:
            directory.mkdir(parents=True, exist_ok=True)
            if not path.exists() and any(directory.iterdir()):
                raise InputError(
                    f"{directory} is not empty and holds no study. Name another directory with -o."
                )
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        except OSError as error:
            raise InputError(f"cannot write a study to {directory}: {error.strerror}.") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(
                    f"{directory}: another process is working on this study. Wait for it, or name "
                    f"another directory with -o."
                ) from None
            data = path.read_bytes()
            complete = data[: data.rfind(b"\n") + 1]
            if complete != data:
                os.ftruncate(descriptor, len(complete))
            lines = list(_documents(complete, path))
            journal = cls(descriptor, lines[1:], dropped=complete != data)
            if lines:
                _same_study(lines[0], header, directory)
            else:
                journal._write([{"format": FORMAT, **header}])
                _sync_directory(directory)
        except BaseException:
            os.close(descriptor)
            raise
        return journal

    def append(self, records: Iterable[dict[str, Any]]) -> None:
        """Write results; on return they are on the disk, and then in `records`.

        Raises
        ------
        InputError
            The disk does not take them.
        """
        records = list(records)
        if records:
            self._write(records)
            self.records += records

    def close(self) -> None:
        """Let go of the file; the lock goes with it."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self, documents: list[dict[str, Any]]) -> None:
        text = "".join(
            json.dumps(document, separators=(",", ":"), ensure_ascii=False) + "\n"
            for document in documents
        )
        try:
            data = text.encode()
            while data:
                data = data[os.write(self._descriptor, data) :]
            os.fsync(self._descriptor)
        except OSError as error:
            raise InputError(
                f"the study's {NAME} cannot be written: {error.strerror}. What it holds is kept; "
                f"run the same command again to go on."
            ) from None


def _documents(data: bytes, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(data.splitlines(), 1):
        try:
            document = json.loads(line)
        except (ValueError, UnicodeDecodeError):
            document = None
        needed = {"study", "name", "version", "format"} if number == 1 else {"id", "part", "result"}
        if not isinstance(document, dict) or not needed <= document.keys():
            raise InputError(
                f"{path}:{number}: this is no line of a study's journal. Mend or delete the line "
                f"(its result is then computed again), or name another directory with -o."
            )
        yield document


def _same_study(there: dict[str, Any], wanted: dict[str, Any], directory: Path) -> None:
    if there["format"] != FORMAT or there["version"] != wanted["version"]:
        raise InputError(
            f"{directory} was begun by parc_hw {there['version']} (journal {there['format']}), and "
            f"this is {wanted['version']} (journal {FORMAT}): their results may differ. Name "
            f"another directory with -o."
        )
    if there["study"] != wanted["study"]:
        same = " It has the same name, so its specification was changed."
        raise InputError(
            f"{directory} holds a different study: {there['name']!r} ({there['study'][:12]}), not "
            f"{wanted['name']!r} ({wanted['study'][:12]})."
            f"{same if there['name'] == wanted['name'] else ''} Name another directory with -o."
        )


def _sync_directory(directory: Path) -> None:
    """Make the file's name durable, not its content alone."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
