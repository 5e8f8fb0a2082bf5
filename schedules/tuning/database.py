"""Which tuning record applies to a composite on a device, or why does none?"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib import metadata
from pathlib import Path

from parc_hw.device import Device, processor_of
from parc_hw.records import COMMITTED, Query, Records, TuningRecord, read_records
from parc_hw.version import VERSION
from schedules.rule import Composite, Tuned
from schedules.tuning.space import Choice, Space
from schedules.tuning.task import signature

__all__ = ["committed", "decider", "query_of", "records_of", "replayer"]


@cache
def committed() -> Records:
    """The records that are part of this package: measured on the host CPUs that we had."""
    from importlib import resources

    folder = resources.files("schedules") / "records"
    found = Records()
    files = folder.iterdir() if folder.is_dir() else ()
    for file in sorted(files, key=lambda file: file.name):
        if file.name.endswith(".jsonl"):
            with resources.as_file(file) as path:
                found += read_records(path)
    return found


def records_of(given: Records | str | Path | None) -> Records | None:
    """The records that an argument `records` means.

    Parameters
    ----------
    given : Records, str, Path or None
        `COMMITTED`; the path of a file, whose records and the committed ones are meant; records; or
        None for none.

    Raises
    ------
    InputError
        The file cannot be read, or is no file of records.
    """
    if given is None or isinstance(given, Records):
        return given
    return committed() if given == COMMITTED else committed() + read_records(Path(given))


def query_of(
    space: Space, composite: Composite, device: Device, *, plan: str, threads: int
) -> Query:
    """Everything that a record must agree on to be used for a kernel here.

    Parameters
    ----------
    space : Space
        Of the rule for this composite.
    composite : Composite
    device : Device
    plan : str
        What the user asked for.
    threads : int
        How many share the kernel.
    """
    tvm, llvm = _versions()
    return Query(
        kernel=space.kernel,
        shape=signature(composite),
        plan=plan,
        device=device.name,
        cpu=device.cpu,
        features=device.features,
        vectors=f"{device.vector_registers}x{device.vector_bits}",
        processor=processor_of(device),
        threads=threads,
        parc_hw=VERSION,
        tvm=tvm,
        llvm=llvm,
        default=space.default.to_json(),
    )


@cache
def _versions() -> tuple[str, str]:
    from schedules._tvm import llvm_version

    return metadata.version("apache-tvm"), llvm_version()


def decider(
    records: Records, device: Device, *, plan: str, threads: int
) -> Callable[[Composite, Space], Tuned]:
    """What `Context.decide` is to be, for kernels as these records have them."""

    def decide(composite: Composite, space: Space) -> Tuned:
        default = Tuned(choice=space.default)
        if all(len(dimension.values) == 1 for dimension in space.dimensions):
            return default
        found = records.find(query_of(space, composite, device, plan=plan, threads=threads))
        if found.record is None:
            return Tuned(choice=space.default, reason=found.reason)
        return _taken(found.record, space, found.reason)

    return decide


def replayer(records: Records) -> Callable[[Composite, Space], Tuned]:
    """`Context.decide` for kernels as a bundle has them, whose manifest holds these records.

    They were found to apply when the bundle was compiled, so that only kernel and shape are compared.
    """
    known = {(record.kernel, record.shape): record for record in records}

    def decide(composite: Composite, space: Space) -> Tuned:
        record = known.get((space.kernel, signature(composite)))
        if record is None:
            return Tuned(choice=space.default)
        return _taken(record, space, "as in the bundle")

    return decide


def _taken(record: TuningRecord, space: Space, reason: str) -> Tuned:
    """The record's choice, if it is one of the space's points."""
    choice = Choice.from_json(dict(record.choice))
    if refusal := space.refusal(choice):
        reason = f"{record.id} is no choice of this kernel here: {refusal}"
        return Tuned(choice=space.default, reason=reason)
    return Tuned(choice=choice, record=record.id, reason=reason)
