"""`parc-hw compile --target` of an accelerator: from a model to a program for a described machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from parc_hw.cli.records import own_database
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError, VerificationError, nearest

if TYPE_CHECKING:
    from parc_hw.accel.description import Description
    from parc_hw.accel.tune import RecordBook
    from parc_hw.integer import IntegerModel

__all__ = ["check_dtype", "compile_program", "is_accelerator", "own_records", "read_quantised"]

_DTYPES = ("int8", "int16")


def is_accelerator(target: str) -> bool:
    """Whether `--target` names an accelerator's description: shipped, or a file with [mac]."""
    if target.endswith(".toml"):
        import tomllib

        try:
            data = tomllib.loads(Path(target).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False  # whoever reads it next says what is wrong
        return "mac" in data or "scratchpad" in data
    from parc_hw.accel.description import description_names

    return target in description_names()


def compile_program(
    session: Session,
    model: str,
    *,
    output: Path,
    target: str,
    dtype: str | None,
    weights: Path | None,
    input_shape: list[str] | None,
    calibration: Path | None,
    records: str | None,
    verify: bool,
    force: bool,
) -> None:
    """Quantise, compile, verify against the fixed-point simulation, and write the program."""
    dtype = check_dtype(dtype, target)
    from parc_hw.accel.description import load_description
    from parc_hw.artifact.writer import check_output

    machine = load_description(target)
    check_output(output, force=force)
    from parc_hw.accel.bundle import write_program
    from parc_hw.accel.network import compile_network
    from parc_hw.accel.scheduled import Schedules
    from parc_hw.accel.tune import RecordBook
    from parc_hw.cli import versions

    book = RecordBook.load(records, machine)
    if records is None and own_records().exists():
        book.add_file(own_records())
    quantised, images = read_quantised(session, model, dtype, weights, input_shape, calibration)
    network = quantised.network
    with session.progress() as progress:
        compiled = compile_network(
            quantised,
            machine,
            schedules=Schedules(machine, book.choose),
            progress=lambda name, done, total: progress("compile", done + 1, total, name),
        )
    if verify:
        _verify(compiled, quantised, machine, images[:1])
    tools = {
        name: version
        for name, version in versions.collect().items()
        if name in ("parc_hw", "numpy", "numba", "tvm")
    }
    source = {
        "model": network.name,
        "weights": network.origin,
        "dtype": dtype,
        "verified": verify,
        "records": book.used,
    }
    bundle = write_program(
        output, compiled, quantised, machine, source=source, tools=tools, force=force
    )
    program = compiled.program
    rows = table("what", "KiB", "", right=("KiB",))
    count = len(program.instructions)
    rows.add_row("program", f"{count * 320 / 1024:.0f}", f"{count} instructions")
    rows.add_row("tables", f"{len(program.rom) / 1024:.0f}", f"of {machine.rom.bytes / 1024:.0f}")
    constants = sum(len(data) for _, data in program.constants)
    rows.add_row("constants", f"{constants / 1024:.0f}", "weights, biases, shifts")
    rows.add_row("external memory", f"{program.external_bytes / 1024:.0f}", "with all words")
    hosted = [layer for layer in compiled.layers if layer.where == "host"]
    lines = [f"on the host: {layer.name} ({layer.kind}): {layer.reason}" for layer in hosted]
    session.result(
        {"bundle": str(output), "manifest": bundle.manifest},
        rows,
        *lines,
        _tuned(book, records),
        f"{output}: {network.name} {dtype} for {machine.name}, {network.origin}, "
        + ("equals the fixed-point simulation word for word" if verify else "not verified"),
    )


def own_records() -> Path:
    """The user's records of accelerators: what `tune` writes and `compile` reads by default."""
    return own_database().with_name("accelerators.jsonl")


def check_dtype(dtype: str | None, target: str) -> str:
    """Return `--dtype`, or raise InputError where it is none of an accelerator's."""
    if dtype is None or dtype not in _DTYPES:
        seen = "is missing" if dtype is None else f"{dtype!r} is not of an accelerator"
        raise InputError(
            f"--dtype {seen}.{nearest(str(dtype), _DTYPES)} Accepted for {target}: "
            f"{', '.join(_DTYPES)}."
        )
    return dtype


def read_quantised(
    session: Session,
    model: str,
    dtype: str,
    weights: Path | None,
    input_shape: list[str] | None,
    calibration: Path | None,
) -> tuple[IntegerModel, Any]:
    """The model in integers, and the images (n, C, H, W) that its ranges are from."""
    from parc_hw.cli.sim_model import _floats, _network
    from parc_hw.integer import quantize_model
    from parc_hw.integer.model import calibration_images

    network, zoo_name = _network(session, model, weights, input_shape)
    shape = tuple(network.input_shape)
    if calibration is not None:
        images = _floats(calibration, "--calibration", shape)
    elif zoo_name is not None:
        images = calibration_images(zoo_name)
    else:
        raise InputError(
            f"--calibration is missing: give images of shape n x {' x '.join(map(str, shape))} in a "
            f".npy file; only zoo models have their own."
        )
    return quantize_model(network, dtype, calibration=images), images


def _tuned(book: RecordBook, given: str | None) -> str:
    """How many kernels have their tiles from a record, or why none has."""
    used, machine = len(book.used), book.machine.name
    if given == "none":
        return "no tuning record used, as --records none asks"
    if used:
        return f"{used} kernel{'s' * (used > 1)} tiled by tuning records"
    if book.records:
        return f"no tuning record used: those for {machine} are of other kernels"
    return f"no tuning record used: there is none for this description of {machine}"


def _verify(compiled: Any, model: Any, machine: Description, image: Any) -> None:
    """Raise unless the program gives the words of the fixed-point simulation."""
    import numpy as np

    from parc_hw.accel import simulator
    from parc_hw.accel.network import host_functions, words_of

    memory = compiled.program.new_external()
    words_of(memory, compiled.input)[...] = model.input_words(image).reshape(compiled.input.extents)
    simulator.run(
        compiled.program, machine, memory, host=host_functions(compiled, model), timing=False
    )
    found = words_of(memory, compiled.output).reshape(-1).astype(np.int64)
    wanted = model.run(image).raw.reshape(-1)
    wrong = int((found != wanted).sum())
    if wrong:
        raise VerificationError(
            f"{wrong} of {wanted.size} words of the program's output differ from the fixed-point "
            f"simulation: this is a bug in parc_hw; nothing was written."
        )
