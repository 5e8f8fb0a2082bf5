"""How does a program become a bundle on disk, whole or not at all?"""

from __future__ import annotations

import csv
import errno
import io
import json
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from parc_hw.artifact import csource, elf, manifest
from parc_hw.artifact.bundle import Bundle
from parc_hw.artifact.toolchain import Toolchain, find_toolchain
from parc_hw.artifact.vectors import TOLERANCE, Vectors, scale
from parc_hw.artifact.verify import VerifyReport
from parc_hw.artifact.weights import HEADER_BYTES, pack_weights, weights_as_c
from parc_hw.device import Device
from parc_hw.errors import BundleError, InputError, UnsupportedError, VerificationError

if TYPE_CHECKING:
    from parc_hw.lower.program import Program

__all__ = ["check_output", "clear_errors", "staging", "write_bundle"]

_DUMPS = {"relax": "relax.py", "tir": "tir.py", "ll": "kernels.ll", "asm": "kernels.s"}

# What a library may ask of the program it is linked into: libc's memory functions, libm's float
# functions, and the run-time of the compiler (libgcc or compiler-rt).
_MAY_NEED = re.compile(
    r"mem(cpy|set|move|cmp)"
    r"|(a?(cos|sin|tan)h?|atan2|exp2?|expm1|log(2|10|1p|b)?|pow|sqrt|cbrt|hypot|erfc?|[lt]gamma"
    r"|fabs|fmod|fma|fmax|fmin|floor|ceil|round|rint|nearbyint|trunc|ldexp|copysign|remainder)f?"
    r"|_GLOBAL_OFFSET_TABLE_|__aeabi_\w+|__gnu_[fh]2[fh]_ieee"
    r"|__(u?(add|sub|mul|div|mod|cmp)|fix|fixuns|float|floatun|trunc|extend|ashl|ashr|lshr|clz|ctz"
    r"|neg|pow|popcount|eq|ne|lt|le|gt|ge|unord)[sdthx][fi]([sdthx][fi])?[234]?"
)


def check_output(path: Path, *, force: bool = False) -> None:
    """Say early whether a bundle may be written at `path`.

    Raises
    ------
    BundleError
        Something is there and `force` is off, or it is not a bundle, or the place cannot be
        written.
    """
    if path.is_symlink() or path.exists():
        if not force:
            raise BundleError(
                f"{path} exists already and is not overwritten. Choose another directory, or give "
                "--force to replace a bundle."
            )
        empty = path.is_dir() and not any(path.iterdir())
        if path.is_symlink() or not (empty or manifest.is_bundle(path)):
            raise BundleError(
                f"{path} exists and is not a parc_hw bundle, so --force does not replace it. "
                "Choose another directory, or remove it yourself."
            )
    parent = path.absolute().parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    if not parent.is_dir():
        raise BundleError(f"{path} cannot be made: {parent} is a file. Choose another directory.")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise BundleError(
            f"{path} cannot be made: {parent} is not writable by this user. Choose another directory."
        )


@contextmanager
def clear_errors(path: Path) -> Iterator[None]:
    """Turn the system's refusals to write into errors that say what to do."""
    try:
        yield
    except OSError as error:
        where = f"writing the bundle {path}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise BundleError(
                f"no space: {where} failed ({os.strerror(error.errno)}). Free some space or raise "
                "the limit (`ulimit -f`), then repeat the command; nothing was left behind."
            ) from None
        if error.errno in (
            errno.EACCES,
            errno.EPERM,
            errno.EROFS,
            errno.ENOTDIR,
            errno.ENAMETOOLONG,
        ):
            raise BundleError(
                f"{where} failed: {os.strerror(error.errno)}. Choose a directory that this user may "
                "write; nothing was left behind."
            ) from None
        raise


def _missing_parents(path: Path) -> list[Path]:
    """Directories above `path` that do not exist, the innermost first."""
    missing = []
    parent = path.parent
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    return missing


@contextmanager
def staging(path: Path, *, force: bool) -> Iterator[Path]:
    """A new directory beside `path` that becomes `path` when the block ends well.

    Otherwise, also after Ctrl-C, it and the parents made for it are removed.
    """
    path = path.absolute()
    made = _missing_parents(path)
    beside = f".{path.name}.{secrets.token_hex(4)}"
    staging, old = path.parent / f"{beside}.new", path.parent / f"{beside}.old"
    try:
        staging.mkdir(parents=True)
        yield staging
        if path.exists():
            check_output(path, force=force)  # it may have appeared while we worked
            path.rename(old)
            try:
                staging.rename(path)
            except BaseException:
                old.rename(path)
                raise
            finally:
                shutil.rmtree(old, ignore_errors=True)
        else:
            staging.rename(path)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        for parent in made:
            try:
                parent.rmdir()
            except OSError:  # not made yet, or someone else put something there
                break
        raise


def _write(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _write_floats(root: Path, name: str, values: np.ndarray[Any, Any]) -> None:
    data = np.ascontiguousarray(values, "<f4")
    path = root / "test" / "vectors" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _write_vectors(root: Path, vectors: Vectors, first: int) -> None:
    """Store the vectors of one set of shapes; their numbers begin with `first`."""
    for kind, arrays in (("input", vectors.inputs), ("output", vectors.outputs)):
        for number, tensors in enumerate(arrays, first):
            for index, tensor in enumerate(tensors):
                _write_floats(root, f"v{number}_{kind}{index}.f32", tensor)
    if vectors.layers:
        samples = [np.ravel(vectors.layers[index]) for index in sorted(vectors.layers)]
        _write_floats(root, f"v{first}_layers.f32", np.concatenate(samples))


def _write_weights_c(root: Path, sources: csource.Sources, weights: bytes, name: str) -> None:
    with (root / "src" / f"{name}_weights.c").open("w", encoding="utf-8") as file:
        file.writelines(weights_as_c(weights, name, sources.generated))


def _library(
    root: Path, program: Program, sources: csource.Sources, name: str, tools: Toolchain
) -> int:
    """Compile and link the static and the shared library; return the bytes of code."""
    work = root / "build"
    work.mkdir()
    objects = [work / f"{name}.o"]
    tools.compile_object(sources.text("library.c.j2"), objects[0], include=[root / "include"])
    for number, code in enumerate(program.objects):
        objects.append(work / f"kernels{number}.o")
        objects[-1].write_bytes(code)
    joined, library = work / "joined.o", work / f"lib{name}.o"
    tools.link_relocatable(objects, joined)
    api = [f"{name}_{function}" for function in csource.API]
    data = elf.localise(joined.read_bytes(), keep=api)
    strangers = sorted(s for s in elf.undefined_symbols(data) if not _MAY_NEED.fullmatch(s))
    if strangers:
        raise UnsupportedError(
            f"the kernels need {', '.join(strangers)}; a bundle may need libc's memory functions, "
            "libm and the compiler's run-time only. Another --plan may avoid it; otherwise this is "
            "a fault of the compiler back end."
        )
    library.write_bytes(data)
    (root / "lib").mkdir()
    tools.archive([library], root / "lib" / f"lib{name}.a")
    tools.link_shared([library], root / "lib" / f"lib{name}.so")
    shutil.rmtree(work)
    return elf.code_bytes(data)


def _layers_csv(shapes: list[dict[str, Any]]) -> str:
    """The layers as a table for a spreadsheet, those of one set of input shapes after another."""
    columns = ("name", "source", "ops", "rule", "note", "macs", "shape", "bytes", "kernel")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("input", "layer", *columns))
    for each in shapes:
        given = ", ".join("x".join(map(str, tensor["shape"])) for tensor in each["inputs"])
        for number, layer in enumerate(each["layers"]):
            shape = "x".join(map(str, layer["shape"]))
            values = [shape if column == "shape" else layer[column] for column in columns]
            writer.writerow((given, number, *values))
    return text.getvalue()


def _verify(root: Path, record: dict[str, Any], verify: Callable[[Bundle], VerifyReport]) -> None:
    """Verify the finished bundle and store the outcome in it.

    Raises
    ------
    VerificationError
        It computes something else than its source.
    """
    report = verify(Bundle.open(root))
    if not report.passed:
        raise VerificationError(
            f"the library does not compute what the model computes: {report}. Nothing was written; "
            "compile with --no-verify to keep the bundle for a look into it, and please report this."
        )
    _write(root, "report/verify.json", json.dumps(report.to_json(), indent=1) + "\n")
    record["verification"] = {
        "passed": report.passed,
        "worst": report.worst,
        "tolerance": report.tolerance,
        "vectors": len({row.vector for row in report.rows}),
    }
    manifest.write(root, record)


def write_bundle(
    path: str | Path,
    *,
    program: Program,
    name: str,
    device: Device,
    vectors: Sequence[Vectors],
    source: Mapping[str, Any],
    tool_versions: Mapping[str, str],
    threads: int = 1,
    weights_c: bool = False,
    force: bool = False,
    texts: Mapping[str, str] | None = None,
    verify: Callable[[Bundle], VerifyReport] | None = None,
    toolchain: Toolchain | None = None,
    progress: Callable[[str, int, int, str], None] | None = None,
) -> Bundle:
    """Write the bundle of a program: library, header, weights, examples, tests and manifest.

    The same arguments and tools give the same bytes.

    Parameters
    ----------
    path : str or Path
        The directory to make. Missing parents are made.
    program : Program
        What lowering made; its `objects` hold the kernels.
    name : str
        Begins the file names and every C name of the library.
    device : Device
        What the kernels were compiled for.
    vectors : sequence of Vectors
        Stored for verification; one for each of the program's shapes.
    source : mapping
        What was compiled, for the manifest: model, hash of its weights, preprocessing. JSON types.
    tool_versions : mapping of str to str
        For the manifest; the C compiler's is added.
    threads : int
        Number of threads that `Bundle.run` uses unless told otherwise.
    weights_c : bool
        Also write the weights as a C array.
    force : bool
        Replace a bundle that is there.
    verify : callable, optional
        Receives the finished bundle before it gets its place, usually `verify_bundle`.
    toolchain : Toolchain, optional
        Tools to use instead of `find_toolchain(device)`.
    texts : mapping of str to str
        Stages of the compilation to keep for reading, by kind: relax, tir, ll, asm.
    progress : callable, optional
        Called with ("bundle", steps done, steps, what comes next).

    Returns
    -------
    Bundle
        The bundle at `path`, open.

    Raises
    ------
    InputError
        A bad name, number of threads, vector or manifest value, or a shape given twice.
    BundleError
        The place is taken or cannot be written, or there is no space.
    UnsupportedError
        A tensor of more than four dimensions, outputs that differ between shapes in their number,
        or kernels that need a foreign function.
    ToolchainError
        No compiler, or it failed.
    VerificationError
        `verify` found a difference. As after every other error, nothing is left behind.
    """
    path = Path(path)

    def say(done: int, what: str) -> None:
        if progress:
            progress("bundle", done, 3, what)

    csource.check_name(name)
    if not 1 <= threads <= csource.MAX_THREADS:
        raise InputError(f"threads is {threads}; accepted are 1 to {csource.MAX_THREADS}.")
    csource.check_program(program)
    for shape, each in zip(program.shapes, vectors, strict=True):
        each.check([t.shape for t in shape.inputs], [t.shape for t in shape.outputs])
    check_output(path, force=force)
    tools = toolchain or find_toolchain(device)
    build = csource.build_id(program, name)
    sources = csource.Sources(
        program,
        name=name,
        device=device,
        weights_bytes=HEADER_BYTES + len(program.weights) + -len(program.weights) % 4,
        build=build,
        weights_c=weights_c,
        tolerances=[
            [[TOLERANCE * scale(y) for y in outputs] for outputs in each.outputs]
            for each in vectors
        ],
    )
    weights = pack_weights(program.weights, build)
    with clear_errors(path), staging(path, force=force) as root:
        say(0, "writing weights and test vectors")
        (root / "src").mkdir()
        (root / "src" / f"{name}_weights.bin").write_bytes(weights)
        if weights_c:
            _write_weights_c(root, sources, weights, name)
        first = 0
        for each in vectors:
            _write_vectors(root, each, first)
            first += len(each.inputs)
        _write(root, f"include/{name}.h", sources.text("library.h.j2"))
        _write(root, "example/main.c", sources.text("main.c.j2"))
        _write(root, "example/parallel_pthread.c", csource.template_text("parallel_pthread.c"))
        _write(root, "test/selftest.c", sources.text("selftest.c.j2"))
        _write(root, f"cmake/{name}Config.cmake", sources.text("Config.cmake.j2"))
        _write(root, f"pkgconfig/{name}.pc", sources.text("pkgconfig.pc.j2"))
        say(1, f"linking the library with {tools.version}")
        code_bytes = _library(root, program, sources, name, tools)
        record = manifest.make(
            program,
            name=name,
            device=device,
            vectors=vectors,
            source=source,
            tools={**tool_versions, "cc": tools.version},
            threads=threads,
            weights=weights,
            build=build,
            code_bytes=code_bytes,
        )
        for kind, text in (texts or {}).items():
            _write(root, f"dump/{_DUMPS[kind]}", text)
        _write(root, "report/layers.csv", _layers_csv(record["shapes"]))
        manifest.write(root, record)
        say(2, "verifying" if verify else "finishing")
        if verify:
            _verify(root, record, verify)
        say(3, "")
    return Bundle.open(path)
