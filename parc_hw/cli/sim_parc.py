"""`parc-hw sim parc`: what does one ParC give in fixed point, and can it overflow?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli import sim_data
from parc_hw.cli.arrays import write_outputs
from parc_hw.cli.session import Session, table
from parc_hw.errors import InputError

if TYPE_CHECKING:
    import numpy as np

    from fixedpoint import Certificate, ErrorReport, ParcDatapath, Prediction, Trace
    from parc_hw.spec import ParcSpec

_LENGTH = 56
_MOST_CERTIFIED = 1 << 20  # gains: some ten seconds


def command(
    context: typer.Context,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=65536, metavar="N", help="Points of the axis; default 56."),
    ] = None,
    plan: Annotated[
        str, typer.Option(metavar="PLAN", help="direct, fft, ntt, or N1xN2: the two-level split.")
    ] = "fft",
    fmt: Annotated[str, typer.Option("--format", metavar="Q1.15", help="Input words.")] = "Q1.15",
    kernel_format: Annotated[
        str | None, typer.Option(metavar="Q1.15", help="Kernel words; default as the input.")
    ] = None,
    output_format: Annotated[
        str | None, typer.Option(metavar="Q1.15", help="Output words; default as the input.")
    ] = None,
    rounding: Annotated[
        str, typer.Option(metavar="MODE", help=sim_data.ROUNDING_HELP)
    ] = "half_even",
    overflow: Annotated[
        str, typer.Option(metavar="MODE", help=sim_data.OVERFLOW_HELP)
    ] = "saturate",
    scaling: Annotated[
        str,
        typer.Option(
            metavar="HOW",
            help=f"fft, forward: {sim_data.SCALING_HELP}",
        ),
    ] = "half",
    inverse_scaling: Annotated[
        str, typer.Option(metavar="HOW", help="fft, inverse: half, none, growing, or bits.")
    ] = "none",
    twiddle_bits: Annotated[
        int | None,
        typer.Option(
            min=2, max=32, metavar="BITS", help="fft, N1xN2: constants; default as the input."
        ),
    ] = None,
    spectrum_bits: Annotated[
        int | None,
        typer.Option(
            min=2,
            max=32,
            metavar="BITS",
            help="fft: stored kernel spectrum, N1xN2: stored table; default as the kernel.",
        ),
    ] = None,
    product: Annotated[
        str | None,
        typer.Option(
            metavar="Q2.14",
            help="direct, N1xN2: words behind each multiplication; default all bits. fft: words of "
            "the product and the inverse; default as the input.",
        ),
    ] = None,
    accumulator: Annotated[
        str | None,
        typer.Option(metavar="Q10.30", help="Register of sums of products; default all bits."),
    ] = None,
    radices: Annotated[
        str | None, typer.Option(metavar="4,2,7", help="fft: of the stages, in order.")
    ] = None,
    multiplications: Annotated[
        int, typer.Option(min=3, max=4, metavar="3|4", help="fft: per product with the spectrum.")
    ] = 4,
    first: Annotated[
        bool,
        typer.Option(
            "--round-products", help="fft: round complex products before sums, not with them."
        ),
    ] = False,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="fft: two lines share a complex transform.")
    ] = False,
    guard: Annotated[
        int,
        typer.Option(min=0, max=16, metavar="BITS", help="N1xN2: low bits that transforms keep."),
    ] = 2,
    axis: Annotated[str, typer.Option(metavar="H|W", help="Along which the kernel runs.")] = "H",
    channels: Annotated[int, typer.Option(min=1, metavar="C", help="Channels.")] = 4,
    out_channels: Annotated[
        int | None,
        typer.Option(min=1, metavar="O", help="A dense ParC; default one kernel per channel."),
    ] = None,
    lines: Annotated[
        int, typer.Option(min=1, metavar="L", help="Lines per channel: the other extent.")
    ] = 64,
    peak: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Inputs lie in [-X, X]: random data and certificate; default the format's range.",
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="x.npy", help="B x C x H x W; default random from --seed."),
    ] = None,
    weight: Annotated[
        Path | None,
        typer.Option(metavar="w.npy", help="C x N, dense O x C x N; default random from --seed."),
    ] = None,
    position_embedding: Annotated[
        Path | None,
        typer.Option(metavar="pe.npy", help="C x N, in words of the input; default none."),
    ] = None,
    bias: Annotated[
        Path | None, typer.Option(metavar="b.npy", help="C or O numbers, in words of the output.")
    ] = None,
    datapath: Annotated[
        Path | None,
        typer.Option(metavar="FILE.json", help="A datapath file of a study, for all formats."),
    ] = None,
    certificate: Annotated[
        bool | None,
        typer.Option(
            "--certificate/--no-certificate",
            help="Bound every stage over all inputs; default where that takes seconds.",
        ),
    ] = None,
    witness: Annotated[
        Path | None,
        typer.Option(metavar="x.npy", help="Write the input that overflows, if there is one."),
    ] = None,
    output: Annotated[list[Path] | None, sim_data.output_option("output, input, kernel")] = None,
) -> None:
    """Run one ParC on stored integers: errors, every stage, and a proof about overflow.

    Arrays in .npy files are words if they are integers, and are quantised if they are floats.
    """
    session: Session = context.obj
    files = output or []
    sim_data.check_outputs(files)
    given = {
        name
        for name in _FORMAT_OPTIONS
        if getattr(context.get_parameter_source(name), "name", "") != "DEFAULT"
    }
    if datapath is not None and given:
        option = _FORMAT_OPTIONS[min(given, key=list(_FORMAT_OPTIONS).index)]
        raise InputError(
            f"{option} says what --datapath {datapath} says as well; leave one of them out."
        )
    result = simulate(
        session,
        Wanted(
            length=length,
            plan=plan,
            data=fmt,
            kernel=kernel_format or fmt,
            output=output_format or fmt,
            rounding=rounding,
            overflow=overflow,
            scaling=scaling,
            inverse_scaling=inverse_scaling,
            twiddle_bits=twiddle_bits,
            spectrum_bits=spectrum_bits,
            product=product,
            accumulator=accumulator,
            radices=radices,
            multiplications=multiplications,
            once=not first,
            pairs=pairs,
            guard=guard,
            datapath=datapath,
        ),
        Data(
            axis=axis,
            channels=channels,
            out_channels=out_channels,
            lines=lines,
            peak=peak,
            input=input,
            weight=weight,
            position_embedding=position_embedding,
            bias=bias,
        ),
        certificate,
    )
    document, shown = result.document(), result.shown()
    document["files"] = sim_data.write_words(session, files, result.parts()) if files else []
    if witness is not None:
        found = None if result.certificate is None else result.certificate.witness
        if found is None:
            session.warn(f"{witness} is not written: no input was found that overflows.")
        else:
            write_outputs([witness], [found])
            document["files"].append(str(witness))
            session.note(f"{witness}: words of {result.path.data} that overflow, for --input")
    session.result(sim_data.plain(document), *shown)


# The options that say what a datapath file says.
_FORMAT_OPTIONS = {
    "plan": "--plan",
    "fmt": "--format",
    "kernel_format": "--kernel-format",
    "output_format": "--output-format",
    "rounding": "--rounding",
    "overflow": "--overflow",
    "scaling": "--scaling",
    "inverse_scaling": "--inverse-scaling",
    "twiddle_bits": "--twiddle-bits",
    "spectrum_bits": "--spectrum-bits",
    "product": "--product",
    "accumulator": "--accumulator",
    "radices": "--radices",
    "multiplications": "--multiplications",
    "first": "--round-products",
    "pairs": "--pairs",
    "guard": "--guard",
}


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options about the arithmetic."""

    length: int | None
    plan: str
    data: str
    kernel: str
    output: str
    rounding: str
    overflow: str
    scaling: str
    inverse_scaling: str
    twiddle_bits: int | None
    spectrum_bits: int | None
    product: str | None
    accumulator: str | None
    radices: str | None
    multiplications: int
    once: bool
    pairs: bool
    guard: int
    datapath: Path | None


@dataclass(frozen=True, slots=True)
class Data:
    """The options about the data."""

    axis: str
    channels: int
    out_channels: int | None
    lines: int
    peak: float | None
    input: Path | None
    weight: Path | None
    position_embedding: Path | None
    bias: Path | None


def simulate(session: Session, wanted: Wanted, data: Data, certificate: bool | None) -> Result:
    """Make the operands, run the simulator and judge what came of it."""
    import numpy as np

    import fixedpoint as fx
    from parc_hw.reference import parc as reference
    from parc_hw.spec import Axis, ParcSpec

    held = None if wanted.datapath is None else _read_datapath(wanted.datapath)
    data_format = fx.QFormat.parse(wanted.data) if held is None else held.path.data
    kernel_format = fx.QFormat.parse(wanted.kernel) if held is None else held.path.kernel
    axis = Axis(data.axis)
    rng = np.random.default_rng(session.seed)
    reach, peak = _reach(data.peak, data_format)

    # The input's shape says the extents; without a file the options do.
    x, x_values = None, None
    length = wanted.length or (held.length if held is not None else None)
    if data.input is not None:
        extents: list[int | None] = [None, None, None, None]
        if length is not None:
            extents[axis.dim] = length
        x, x_values = sim_data.load_words(data.input, data_format, "--input", [tuple(extents)])
        batch, channels, height, width = x.shape
        length = x.shape[axis.dim]
        _within(x, reach, data)
    else:
        length = length or _LENGTH
        batch, channels = 1, data.channels
        height, width = (length, data.lines) if axis is Axis.H else (data.lines, length)
    dense = data.out_channels is not None
    outputs = data.out_channels or channels
    spec = ParcSpec(
        axis=axis,
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        out_channels=data.out_channels,
        position_embedding=data.position_embedding is not None,
        bias=data.bias is not None,
    )
    if x is None:
        x, x_values = sim_data.random_words(
            rng, (batch, channels, height, width), data_format, peak
        )
    shape = (outputs, channels, length) if dense else (channels, length)
    if data.weight is not None:
        w, w_values = sim_data.load_words(data.weight, kernel_format, "--weight", [shape])
    else:
        w, w_values = _random_kernel(rng, shape, kernel_format)

    chosen: Chosen = _choose(wanted, spec, w, data) if held is None else held
    path, plan = chosen.path, chosen.plan
    extra: dict[str, Any] = {}
    values: dict[str, Any] = {"position_embedding": None, "bias": None}
    for name, file, fmt, wanted_shape in (
        ("position_embedding", data.position_embedding, path.position_embedding, shape[-2:]),
        ("bias", data.bias, path.bias, (outputs,)),
    ):
        if file is not None:
            if fmt is None:
                raise InputError(f"the datapath file has no format for a {name}.")
            option = f"--{name.replace('_', '-')}"
            extra[name], real = sim_data.load_words(file, fmt, option, [wanted_shape])
            values[name] = fx.to_value(extra[name], fmt) if real is None else real

    y, trace = fx.parc(x, w, spec=spec, plan=plan, datapath=path, trace=True, **extra)
    stored: dict[str, Any] = {
        name: fx.to_value(raw, getattr(path, name)) for name, raw in extra.items()
    }
    exact = reference(fx.to_value(x, path.data), fx.to_value(w, path.kernel), axis=axis, **stored)
    report = fx.ErrorReport.of(_by_line(y, axis), path.output.format, _by_line(exact, axis))
    whole = None
    if x_values is not None or w_values is not None:
        real_x = fx.to_value(x, path.data) if x_values is None else x_values
        real_w = fx.to_value(w, path.kernel) if w_values is None else w_values
        real = reference(
            real_x, real_w, axis=axis, **{k: v for k, v in values.items() if v is not None}
        )
        whole = fx.ErrorReport.of(_by_line(y, axis), path.output.format, _by_line(real, axis))
    predicted = fx.predict_noise(
        w,
        spec=spec,
        plan=plan,
        datapath=path,
        input_power=float(np.mean(fx.to_value(x, path.data) ** 2)),
        **extra,
    )
    proof, reason = _certify(session, spec, plan, path, w, extra, reach, certificate)
    source = {
        "input": str(data.input) if data.input else f"white noise from --seed {session.seed}",
        "weight": str(data.weight)
        if data.weight
        else f"random taps from --seed {session.seed}, whose magnitudes add up to 0.9",
        "input_range": list(reach),
    }
    return Result(
        spec=spec,
        plan=plan,
        path=path,
        source=source,
        x=x,
        w=w,
        extra=extra,
        y=y,
        trace=trace,
        report=report,
        whole=whole,
        predicted=predicted,
        certificate=proof,
        no_certificate=reason,
    )


# ---------------------------------------------------------------- data
def _reach(peak: float | None, fmt: Any) -> tuple[tuple[int, int], float]:
    """The raw range of the inputs, and the amplitude of random ones."""
    import math

    full = float(-fmt.min_value)
    if peak is None:
        return (fmt.min_raw, fmt.max_raw), full
    if not 0.0 < peak <= full:
        raise InputError(
            f"--peak {peak:g} is out of range: accepted are values above 0 and up to {full:g}, the "
            f"end of {fmt}."
        )
    high = min(math.floor(math.ldexp(peak, fmt.frac_bits)), fmt.max_raw)
    low = max(-math.floor(math.ldexp(peak, fmt.frac_bits)), fmt.min_raw)
    if high == 0:
        raise InputError(f"--peak {peak:g} is below the LSB of {fmt}, {fmt.lsb:g}.")
    return (low, high), math.ldexp(high, -fmt.frac_bits)


def _within(x: np.ndarray, reach: tuple[int, int], data: Data) -> None:
    """Refuse an input that is not what --peak says."""
    import numpy as np

    outside = (x < reach[0]) | (x > reach[1])
    if outside.any():
        index = tuple(int(i) for i in np.argwhere(outside)[0])
        raise InputError(
            f"--input {data.input} has the word {int(x[index])} at index {index}, and --peak "
            f"{data.peak:g} allows {reach[0]} to {reach[1]}."
        )


def _random_kernel(
    rng: np.random.Generator, shape: tuple[int, ...], fmt: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Normal taps whose magnitudes add up to 0.9 for each output: no sum leaves the input's range."""
    import numpy as np

    from fixedpoint import quantize

    values = rng.normal(size=shape)
    values *= 0.9 / np.abs(values).sum(axis=tuple(range(1, len(shape))), keepdims=True)
    return quantize(values, fmt), values


def _by_line(array: np.ndarray, axis: Any) -> np.ndarray:
    """The correlated axis last: lines are what an error report takes as independent."""
    import numpy as np

    return np.moveaxis(array, axis.dim, 3)


# ---------------------------------------------------------------- datapath
@dataclass(frozen=True, slots=True)
class Chosen:
    """A plan with its datapath, and the length that they are for."""

    plan: Any
    path: ParcDatapath
    length: int | None = None


def _read_datapath(path: Path) -> Chosen:
    """Read what a study wrote: {"kind": "parc", "plan": ..., "datapath": ...}."""
    import json

    from fixedpoint import FftPlan, ParcDatapath

    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot read --datapath {path}: {error.strerror}.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"--datapath {path} is not valid JSON: {error}.") from None
    if not isinstance(document, dict) or document.get("kind") != "parc":
        seen = document.get("kind") if isinstance(document, dict) else type(document).__name__
        raise InputError(
            f"--datapath {path} is of kind {seen!r}; `sim parc` takes the kind 'parc', which a "
            f"study of an operator writes."
        )
    for key in ("plan", "datapath"):
        if key not in document:
            raise InputError(f"--datapath {path}: missing {key}.")
    plan = document["plan"]
    chosen = plan if isinstance(plan, str) else FftPlan.from_json(plan)
    length = document.get("length")
    return Chosen(chosen, ParcDatapath.from_json(document["datapath"]), length)


def _choose(wanted: Wanted, spec: ParcSpec, w: np.ndarray, data: Data) -> Chosen:
    """The usual datapath for a plan, with what the options change."""
    import fixedpoint as fx
    from parc_hw.plan import SplitPlan

    overflow, rounding = (
        sim_data.chosen_overflow(wanted.overflow),
        fx.parse_rounding(wanted.rounding),
    )
    parse = fx.QFormat.parse
    fmt, result = parse(wanted.data), parse(wanted.output)
    common: dict[str, Any] = {
        "data": fmt,
        "kernel": parse(wanted.kernel),
        "output": fx.Cut(result, rounding, overflow),
        "position_embedding": fmt if data.position_embedding is not None else None,
        "bias": result if data.bias is not None else None,
    }
    plan = _parse_plan(wanted, spec.length, fx.NttDatapath(**common))
    modes: dict[str, Any] = {"rounding": rounding, "overflow": overflow}
    bits = wanted.spectrum_bits or common["kernel"].bits
    _refuse_foreign(wanted, plan)
    if isinstance(plan, fx.NttPlan):
        return Chosen(plan, fx.NttDatapath(**common))
    if isinstance(plan, fx.FftPlan):
        block = fx.BlockScaling() if wanted.scaling == "block" else None
        path: ParcDatapath = fx.FourierDatapath.of(
            plan,
            **common,
            **modes,
            scaling="none" if block else wanted.scaling,
            inverse_scaling=wanted.inverse_scaling,
            twiddle=wanted.twiddle_bits,
            spectrum=fx.spectrum_format(w, common["kernel"], bits),
            product=wanted.product,
            accumulator=wanted.accumulator,
            multiplications=wanted.multiplications,
            once=wanted.once,
            pairs=wanted.pairs,
            block=block,
        )
        return Chosen(plan, path)
    assert isinstance(plan, SplitPlan)
    if plan.n1 == 1:
        product, register = (
            None if text is None else fx.Cut(parse(text), rounding, overflow)
            for text in (wanted.product, wanted.accumulator)
        )
        return Chosen(plan, fx.DirectDatapath(**common, product=product, accumulator=register))
    path = fx.SplitDatapath.of(
        plan,
        **common,
        **modes,
        table=fx.table_format(w, common["kernel"], plan, bits),
        coefficient_bits=wanted.twiddle_bits,
        product=wanted.product,
        accumulator=wanted.accumulator,
        guard=wanted.guard,
    )
    return Chosen(plan, path)


def _parse_plan(wanted: Wanted, length: int, ntt: ParcDatapath) -> Any:
    import fixedpoint as fx
    from parc_hw.plan import Order

    if wanted.radices is None:
        return fx.parse_plan(wanted.plan, length=length, datapath=ntt)
    parts = wanted.radices.split(",")
    if wanted.plan != "fft" or not all(part.strip().isdecimal() for part in parts):
        raise InputError(
            f"--radices {wanted.radices!r}: accepted with --plan fft, as whole numbers with commas, "
            f"such as 4,2,7."
        )
    plan = fx.FftPlan(radices=tuple(int(part) for part in parts), output_order=Order.DIGIT_REVERSED)
    if plan.length != length:
        raise InputError(
            f"--radices {wanted.radices} multiply to {plan.length}, but the axis has {length} points."
        )
    return plan


def _refuse_foreign(wanted: Wanted, plan: Any) -> None:
    """Refuse options that the plan has no use for."""
    import fixedpoint as fx
    from parc_hw.plan import SplitPlan

    fourier = isinstance(plan, fx.FftPlan)
    split = isinstance(plan, SplitPlan) and plan.n1 > 1
    direct = isinstance(plan, SplitPlan) and plan.n1 == 1
    for option, used, accepted in (
        ("--scaling", wanted.scaling != "half", fourier),
        ("--inverse-scaling", wanted.inverse_scaling != "none", fourier),
        ("--twiddle-bits", wanted.twiddle_bits is not None, fourier or split),
        ("--spectrum-bits", wanted.spectrum_bits is not None, fourier or split),
        ("--product", wanted.product is not None, fourier or split or direct),
        ("--accumulator", wanted.accumulator is not None, fourier or split or direct),
        ("--multiplications", wanted.multiplications != 4, fourier),
        ("--round-products", not wanted.once, fourier),
        ("--pairs", wanted.pairs, fourier),
        ("--guard", wanted.guard != 2, split),
    ):
        if used and not accepted:
            raise InputError(f"{option} has no meaning for --plan {wanted.plan}; leave it out.")


# ---------------------------------------------------------------- certificate
def _certify(
    session: Session,
    spec: ParcSpec,
    plan: Any,
    path: ParcDatapath,
    w: np.ndarray,
    extra: dict[str, Any],
    reach: tuple[int, int],
    asked: bool | None,
) -> tuple[Certificate | None, str]:
    """The certificate, or why there is none."""
    import fixedpoint as fx

    if asked is False:
        return None, "left out (--no-certificate)"
    if isinstance(path, fx.FourierDatapath) and path.forward.block is not None:
        if asked:
            raise InputError(
                "--certificate: with block floating point the words of a frame decide its shifts, "
                "and no gains bound them; certify a --scaling schedule."
            )
        return None, "none for block floating point: each frame's own words decide its shifts"
    channels = 1 if spec.depthwise else spec.channels
    outputs = spec.out_channels or spec.channels
    work = outputs * channels * spec.length**2
    if asked is None and work > _MOST_CERTIFIED and not isinstance(path, fx.DirectDatapath):
        return None, "left out, as it takes minutes at this size; --certificate makes it"
    proof = fx.certify(
        w, spec=spec, plan=plan, datapath=path, input_range=reach, seed=session.seed, **extra
    )
    return proof, ""


# ---------------------------------------------------------------- result
@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one call computed."""

    spec: ParcSpec
    plan: Any
    path: ParcDatapath
    source: dict[str, Any]
    x: np.ndarray
    w: np.ndarray
    extra: dict[str, np.ndarray]
    y: np.ndarray
    trace: Trace
    report: ErrorReport
    whole: ErrorReport | None
    predicted: Prediction | None
    certificate: Certificate | None
    no_certificate: str

    def parts(self) -> list[tuple[str, np.ndarray, Any, str]]:
        """What vector files hold: the output, then the operands."""
        order = "batch, channel, row, column"
        kernel = "channel, tap" if self.spec.depthwise else "output channel, channel, tap"
        parts = [
            ("output", self.y, self.path.output.format, order),
            ("input", self.x, self.path.data, order),
            ("weight", self.w, self.path.kernel, kernel),
        ]
        for option, name, order in (
            ("position_embedding", "embedding", "channel, point"),
            ("bias", "bias", "output channel"),
        ):
            if option in self.extra:
                parts.append((name, self.extra[option], getattr(self.path, option), order))
        words = stored_constants(self.w, self.spec, self.plan, self.path)
        return parts if words is None else [*parts, words]

    def document(self) -> dict[str, Any]:
        """Everything, for programs."""
        predicted = self.predicted
        return {
            "spec": self.spec.to_json(),
            "plan": _plan_text(self.plan),
            "datapath": self.path.to_json(),
            "data": self.source,
            "error": self.report.as_dict(),
            "error_with_quantisation": None if self.whole is None else self.whole.as_dict(),
            "predicted": None
            if predicted is None
            else {
                name: {"rms_lsb": noise.rms, "bias_lsb": noise.mean}
                for name, noise in (("low", predicted.low), ("high", predicted.high))
            },
            "stages": self.trace.to_json(),
            "certificate": None if self.certificate is None else self.certificate.to_json(),
            "certificate_note": self.no_certificate or None,
        }

    def shown(self) -> list[Any]:
        """Everything, for people."""
        spec, report = self.spec, self.report
        kind = "depthwise" if spec.depthwise else f"to {spec.out_channels} channels (dense)"
        across = spec.width if spec.axis.value == "H" else spec.height
        given = self.source
        lines: list[Any] = [
            f"ParC along {spec.axis.value}: {spec.length} points, {spec.batch} x {spec.channels} "
            f"channels {kind}, {across} lines each",
            f"plan {_plan_text(self.plan)}",
            f"input {given['input']}",
            f"kernel {given['weight']}",
            "",
            f"{report.words} words of {report.format} against exact arithmetic on the same words",
            sim_data.error_table(report, self.predicted),
        ]
        if self.whole is not None:
            lines.append(
                f"With the rounding of input and kernel themselves: SQNR {self.whole.sqnr_db:.2f} "
                f"dB, RMS {self.whole.rms_lsb:.4g} LSB."
            )
        if self.trace.overflowed and self.predicted is not None:
            lines.append("Words overflowed; the prediction is of rounding noise alone.")
        lines += ["", sim_data.trace_table(self.trace), ""]
        if self.certificate is None:
            lines.append(f"certificate: {self.no_certificate}.")
            return lines
        low, high = (f"{word * self.path.data.lsb:g}" for word in self.source["input_range"])
        lines.append(f"For this kernel and every input from {low} to {high}:")
        columns = self.certificate.COLUMNS
        rows = table(*columns, right=columns[2:5], fold=columns[0])
        for row in self.certificate.rows():
            rows.add_row(*row)
        return [*lines, rows, self.certificate.sentence]


def stored_constants(
    w: np.ndarray, spec: ParcSpec, plan: Any, path: ParcDatapath
) -> tuple[str, np.ndarray, Any, str] | None:
    """What a machine stores in place of the kernel: its spectrum or its Toeplitz table."""
    import fixedpoint as fx

    outputs = spec.out_channels or spec.channels
    kernels = w.reshape(outputs, -1, spec.length)
    first = "channel" if spec.depthwise else "output channel, channel"
    shape = (outputs,) if spec.depthwise else (outputs, spec.channels)
    if isinstance(path, fx.FourierDatapath):
        from fixedpoint.spectral import kernel_words

        plan = fx.parse_plan(plan, length=spec.length) if isinstance(plan, str) else plan
        words = kernel_words(kernels, plan, path).reshape(*shape, spec.length, 2)
        order = f"{first}, frequency in {plan.output_order.value} order, real and imaginary part"
        return "spectrum", words, path.spectrum, order
    if isinstance(path, fx.SplitDatapath):
        from fixedpoint.split import kernel_table

        words = kernel_table(kernels, plan, path).reshape(*shape, -1)
        return "table", words, path.table, f"{first}, weight in the order of parc_hw.weights"
    return None


def _plan_text(plan: Any) -> str:
    from parc_hw.plan import SplitPlan

    if isinstance(plan, SplitPlan):
        return "direct" if plan.n1 == 1 else str(plan)
    if hasattr(plan, "modulus"):
        return f"ntt modulo {plan.modulus}"
    return f"fft {plan}" if not isinstance(plan, str) else plan
