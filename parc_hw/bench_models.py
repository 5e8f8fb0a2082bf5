"""How fast is every classification model of the zoo here, beside the runtimes users have today?

A model is compiled for this machine and timed in interleaved rounds with its peers, one process
for each runtime (`parc_hw.measure`), after all of them agreed on the numbers. What is to be
reached is in `parc_hw.bench_models_goals`.

The result is one document of plain data. Rows can be measured one by one: `merge` joins them.
"""

from __future__ import annotations

import datetime as dt
import json
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from parc_hw import measure, models
from parc_hw.device import load_device
from parc_hw.errors import InputError, MeasurementError, nearest
from parc_hw.models import DEFAULT_SEED

__all__ = [
    "BASELINES",
    "EVERYWHERE",
    "PEERS",
    "TOLERANCE",
    "Document",
    "Pair",
    "count_on_arm",
    "find_models",
    "find_pairs",
    "left_out",
    "measure_models",
    "measure_pairs",
    "merge",
    "missing_runtimes",
    "names",
    "new_document",
    "parc_everywhere",
    "read",
]

Document = dict[str, Any]
Progress = Callable[[str, int, int, str], None]

TOLERANCE = 1e-3  # of the output's standard deviation, as everywhere
EVERYWHERE = "convnext_xt_parc_everywhere"
"""ConvNeXt-XT with ParC in every block, which `parc_hw.nn.convert` makes."""

_NOT_CLASSIFIERS = ("ssdlite_parcnet_s", "deeplabv3_parcnet_s")
_PEERS = {  # runtime: the packages it needs, and what pip installs them by
    "torch": (("torch",), "torch"),
    "torch.compile": (("torch",), "torch"),
    "onnxruntime": (("torch", "onnx", "onnxruntime"), "bench"),
    "openvino": (("torch", "onnx", "openvino"), "bench"),
}
_FROM_ONNX = ("onnxruntime", "openvino")
PEERS = tuple(name for name in _PEERS if name != "torch.compile")
"""Without torch.compile, which compiles for a minute and more before every measurement."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """A network with ParC and the one without.

    Attributes
    ----------
    parc, baseline : str
        Names in the zoo.
    known : float
        The time ratio of the two in the paper or in the prototype of this compiler.
    """

    parc: str
    baseline: str
    known: float


BASELINES = (
    Pair(parc="parc_convnext_xt", baseline="convnext_xt", known=1.02),
    Pair(parc="parc_resnet50", baseline="resnet50", known=1.00),
    Pair(parc="parc_mobilenetv2", baseline="mobilenetv2", known=1.13),
    Pair(parc="parcnet_s", baseline="mobilevit_s", known=0.77),
)
"""The papers' own claim, their Table 7: ParC costs no time."""


def names() -> tuple[str, ...]:
    """Every model that is measured: the classifiers of the zoo, and the one with ParC everywhere.

    Without the canvas networks, which are toys to time, and without detection and segmentation.
    """
    zoo = [
        name
        for name in models.names()
        if models.info(name).family != "canvas" and name not in _NOT_CLASSIFIERS
    ]
    zoo.insert(zoo.index("convnext_xt") + 1, EVERYWHERE)
    return tuple(zoo)


def find_models(wanted: Sequence[str]) -> list[str]:
    """The models that a user means, in the order of `names()`; none named: all.

    Raises
    ------
    InputError
        A name that is not one of `names()`.
    """
    known = names()
    for name in wanted:
        if name not in known:
            raise InputError(
                f"{name!r} is not a model that is measured.{nearest(name, known)} Accepted: "
                f"{', '.join(known)}."
            )
    return [name for name in known if name in wanted or not wanted]


def find_pairs(wanted: Sequence[str]) -> list[Pair]:
    """The pairs that a user means by the names of their ParC models; none named: all.

    Raises
    ------
    InputError
        A name that no pair has.
    """
    known = [pair.parc for pair in BASELINES]
    for name in wanted:
        if name not in known:
            raise InputError(f"{name!r} is not in the table; accepted: {', '.join(known)}.")
    return [pair for pair in BASELINES if pair.parc in wanted or not wanted]


def parc_everywhere(seed: int) -> Any:
    """ConvNeXt-XT with ParC in place of every depthwise convolution, filled from a seed.

    Returns
    -------
    torch.nn.Module
        In eval mode.
    """
    from parc_hw.models.fill import fill_model
    from parc_hw.nn import convert

    model = models.create("convnext_xt")
    convert(model, fraction=1.0, stages=4)
    fill_model(model, seed)
    return model.eval()


def _input_shape(name: str) -> tuple[int, ...]:
    return models.info("convnext_xt" if name == EVERYWHERE else name).input_shape


def _torch_source(name: str) -> str:
    return f"{__name__}:{parc_everywhere.__name__}" if name == EVERYWHERE else name


def _compile(
    name: str,
    output: Path,
    *,
    seed: int,
    progress: Progress | None,
    target: str = "host",
    verify: bool = False,
) -> Any:
    from parc_hw import build

    return build.compile(
        parc_everywhere(seed) if name == EVERYWHERE else name,
        target=target,
        input_shape=_input_shape(name),
        output=output,
        seed=seed,
        verify=verify,
        progress=progress,
    )


# ---------------------------------------------------------------- measuring


def missing_runtimes(peers: Sequence[str] = PEERS) -> list[str]:
    """What cannot be measured here for want of a package, each with the line that adds it."""
    lines = []
    for runtime in peers:
        packages, extra = _PEERS[runtime]
        absent = [name for name in packages if find_spec(name) is None]
        if absent:
            lines.append(f'{runtime}: needs {", ".join(absent)}; pip install "parc_hw[{extra}]"')
    return lines


def new_document() -> Document:
    """A document without rows, about this machine."""
    machine = measure.machine()
    with suppress(metadata.PackageNotFoundError):
        machine["versions"]["openvino"] = metadata.version("openvino")
    return {
        "schema": 1,
        "about": "classification models of the zoo on float32 images, a batch of one",
        "machine": {**machine, "device": load_device("host").name},
        "method": (
            "interleaved slices, one process for each runtime, one number of threads after the "
            f"other; outputs agree to {TOLERANCE:g} standard deviations before anything is timed; "
            "ratios are of medians"
        ),
        "cases": [],
        "pairs": [],
        "counts": [],
    }


def measure_models(
    wanted: Sequence[str],
    *,
    threads: Sequence[int],
    seconds: float,
    peers: Sequence[str] = PEERS,
    seed: int = DEFAULT_SEED,
    failed: Callable[[str, MeasurementError], None] | None = None,
    progress: Progress | None = None,
) -> Iterator[Document]:
    """Measure models one after the other; give a document of one model as soon as it is done.

    Parameters
    ----------
    wanted : sequence of str
        Some of `names()`.
    threads : sequence of int
        For each of them every model is measured.
    seconds : float
        Measuring time of each runtime; a slow one still gets five runs.
    peers : sequence of str
        Other runtimes; those that are not installed are named in the document. Empty: ours alone.
    seed : int
        Of weights and inputs.
    failed : callable of (name, MeasurementError), optional
        Told of a model that could not be measured, before the next one; None: it is raised.
    progress : callable of (stage, done, total, message), optional

    Raises
    ------
    MeasurementError
        Ours failed, or a peer computes other numbers.
    """
    absent = missing_runtimes(peers)
    for done, name in enumerate(wanted):
        if progress is not None:
            progress("models", done, len(wanted), name)
        try:
            yield _measure_model(name, threads, seconds, peers, seed, absent, progress)
        except MeasurementError as error:
            if failed is None:
                raise
            failed(name, error)
    if progress is not None:
        progress("models", len(wanted), len(wanted), f"{len(wanted)} models")


def _measure_model(
    name: str,
    threads: Sequence[int],
    seconds: float,
    peers: Sequence[str],
    seed: int,
    absent: Sequence[str],
    progress: Progress | None,
) -> Document:
    document = new_document()
    with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
        bundle, onnx = Path(directory) / "bundle", Path(directory) / "model.onnx"
        began = time.monotonic()
        compiled = _compile(name, bundle, seed=seed, progress=progress)
        compile_s = time.monotonic() - began
        sources = {"parc_hw": str(bundle)}
        lacking = {line.partition(":")[0] for line in absent}
        for runtime in peers:
            if runtime not in lacking:
                sources[runtime] = str(onnx) if runtime in _FROM_ONNX else _torch_source(name)
        if str(onnx) in sources.values():
            measure.export_onnx(_torch_source(name), onnx, shape=_input_shape(name), seed=seed)
        for count in threads:
            case = _measure_case(name, count, sources, seconds, seed, progress)
            case["missing"] = sorted([*absent, *case["missing"]])
            case["compile_s"] = _rounded(compile_s)
            for key in ("arena_bytes", "live_peak_bytes"):
                case[key] = compiled.manifest["memory"][key]
            document["cases"].append(case)
    return document


def _measure_case(
    name: str,
    threads: int,
    sources: dict[str, str],
    seconds: float,
    seed: int,
    progress: Progress | None,
) -> dict[str, Any]:
    """One model with one number of threads."""
    shape = _input_shape(name)
    missing: list[str] = []

    def job(runtime: str, source: str) -> measure.Job:
        return measure.Job(
            runtime=runtime, threads=threads, source=source, shapes=(shape,), seed=seed
        )

    def absent(job: measure.Job, error: MeasurementError) -> None:
        missing.append(f"{job.runtime}: {_first_line(str(error))}")

    series = measure.measure(
        [job(runtime, source) for runtime, source in sources.items()],
        seconds=seconds,
        tolerance=TOLERANCE,
        reference=job("float64", _torch_source(name)) if "torch" in sources else None,
        absent=absent,
        progress=progress,
    )
    peak_flops = None
    if threads == 1:
        with measure.open_worker("the peak's program", threads=1) as worker:
            worker.doing = "multiply-adds"
            peak_flops = worker.call("parc_hw.profile:fma_peak")
    return {
        "model": name,
        "threads": threads,
        "input": "x".join(map(str, shape)),
        **_size(name),
        "rounds": series[0].rounds,
        "measured": _now(),
        "peak_flops": peak_flops and _rounded(peak_flops),
        "missing": missing,
        "rows": [_row(one) for one in series],
    }


def _row(series: measure.Series) -> dict[str, Any]:
    return {
        "runtime": series.job.runtime,
        "median_s": _rounded(series.median_s),
        "min_s": _rounded(min(series.times_s)),
        "p10_s": _rounded(series.p10_s),
        "p90_s": _rounded(series.p90_s),
        "runs": len(series.times_s),
        "max_difference_std": _rounded(series.max_difference),
        "error_std": None if series.error is None else _rounded(series.error),
    }


def _size(name: str) -> dict[str, int]:
    """Parameters and multiply-accumulates."""
    if name != EVERYWHERE:
        info = models.info(name)
        return {"parameters": info.parameters, "macs": info.macs}
    model = parc_everywhere(DEFAULT_SEED)
    return {
        "parameters": models.count_parameters(model),
        "macs": models.count_macs(model, _input_shape(name)),
    }


def measure_pairs(
    wanted: Sequence[Pair],
    *,
    threads: Sequence[int],
    seconds: float,
    seed: int = DEFAULT_SEED,
    progress: Progress | None = None,
) -> Iterator[Document]:
    """Measure each ParC network in the same rounds as its baseline, both compiled by us.

    Parameters
    ----------
    wanted : sequence of Pair
    threads, seconds, seed, progress
        As `measure_models`.

    Raises
    ------
    MeasurementError
        One of the two failed.
    """
    for done, pair in enumerate(wanted):
        if progress is not None:
            progress("table7", done, len(wanted), pair.parc)
        document = new_document()
        with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
            bundles = [Path(directory) / name for name in (pair.parc, pair.baseline)]
            for bundle in bundles:
                # The outputs of the two differ: each is compared with its own source instead.
                _compile(bundle.name, bundle, seed=seed, progress=progress, verify=True)
            for count in threads:
                series = measure.measure(
                    [
                        measure.Job(
                            runtime="parc_hw",
                            threads=count,
                            source=str(bundle),
                            shapes=(_input_shape(bundle.name),),
                            seed=seed,
                        )
                        for bundle in bundles
                    ],
                    seconds=seconds,
                    progress=progress,
                )
                document["pairs"].append(
                    {
                        "parc": pair.parc,
                        "baseline": pair.baseline,
                        "threads": count,
                        "parc_s": _rounded(series[0].median_s),
                        "parc_min_s": _rounded(min(series[0].times_s)),
                        "baseline_s": _rounded(series[1].median_s),
                        "baseline_min_s": _rounded(min(series[1].times_s)),
                        "rounds": series[0].rounds,
                        "measured": _now(),
                    }
                )
        yield document
    if progress is not None:
        progress("table7", len(wanted), len(wanted), f"{len(wanted)} pairs")


def count_on_arm(
    wanted: Sequence[Pair],
    devices: Sequence[str],
    *,
    seed: int = DEFAULT_SEED,
    progress: Progress | None = None,
) -> Iterator[Document]:
    """Count the instructions of one inference of each network of the pairs, in qemu.

    Counts are exact and the same on every machine; they are no times. It takes minutes for each.

    Parameters
    ----------
    wanted : sequence of Pair
    devices : sequence of str
        Names of devices.
    seed, progress
        As `measure_models`.

    Raises
    ------
    ToolchainError
        Compiler or emulator are missing.
    """
    from parc_hw import profile

    for device in devices:
        for name in dict.fromkeys(name for pair in wanted for name in (pair.parc, pair.baseline)):
            document = new_document()
            with tempfile.TemporaryDirectory(prefix="parc_hw-bench-") as directory:
                bundle = _compile(
                    name, Path(directory) / name, seed=seed, progress=progress, target=device
                )
                counted = profile.count_bundle(bundle, progress=progress)
            document["counts"].append(
                {"device": device, "model": name, "instructions": counted.instructions}
            )
            yield document


def _first_line(text: str) -> str:
    """The first line of an error, and no more of it than a table has room for."""
    line = (text.strip().splitlines() or [""])[0]
    return line if len(line) <= 200 else f"{line[:200]}..."


def _now() -> str:
    return dt.datetime.now(dt.UTC).replace(microsecond=0).isoformat()


def _rounded(value: float) -> float:
    """To five digits, which is more than a time has."""
    return float(f"{value:.5g}")


# ---------------------------------------------------------------- documents


def merge(old: Document | None, new: Document) -> Document:
    """One document with the rows of both; where both have one, the new.

    Raises
    ------
    InputError
        They are of different machines or versions.
    """
    if old is None:
        return new
    measure.check_same_origin(old, new)
    order = {name: number for number, name in enumerate(names())}
    merged = {key: value for key, value in new.items() if key != "goals"}
    for part, keys in _KEYS.items():
        rows = {tuple(row[key] for key in keys): row for row in (*old[part], *new[part])}
        merged[part] = [
            rows[key] for key in sorted(rows, key=lambda key: (*key[1:], order.get(key[0], -1)))
        ]
    return merged


_KEYS = {  # what tells the rows of each part apart; a model's name first
    "cases": ("model", "threads"),
    "pairs": ("parc", "threads"),
    "counts": ("model", "device"),
}


def left_out(document: Document) -> list[str]:
    """What could not be measured, each with the models that lack it."""
    found: dict[str, set[str]] = {}
    for case in document["cases"]:
        for line in case["missing"]:
            found.setdefault(line, set()).add(case["model"])
    every = {case["model"] for case in document["cases"]}
    return [
        line if some == every else f"{line} ({', '.join(sorted(some))})"
        for line, some in sorted(found.items())
    ]


def read(path: Path) -> Document | None:
    """The document in a file; None where there is no file.

    Raises
    ------
    InputError
        The file holds something else.
    """
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except ValueError:
        document = None
    if not (isinstance(document, dict) and {"machine", *_KEYS} <= set(document)):
        raise InputError(
            f"{path} is not a result of `parc-hw bench models` or `bench table7`, to which rows "
            "could be added. Give another file."
        )
    return document
