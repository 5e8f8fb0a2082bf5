"""`parc-hw sim fft`: what does one Fourier transform give in fixed point?"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from parc_hw.cli import sim_data
from parc_hw.cli.session import Session
from parc_hw.errors import InputError, nearest

if TYPE_CHECKING:
    import numpy as np

    from fixedpoint import ErrorReport, FftDatapath, FftPlan, Prediction, QFormat, Trace
    from fixedpoint.profiles import Profile

_LENGTH = 56


def command(
    context: typer.Context,
    length: Annotated[
        int | None,
        typer.Option(min=1, max=65536, metavar="N", help="Points; default 56, of a profile 64."),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="As a library or core computes it: cmsis_q15, cmsis_q31, kissfft_16, kissfft_32, or "
            "a core with its parameters, as dblclockfft:bits=16,max_bits=20.",
        ),
    ] = None,
    inverse: Annotated[bool, typer.Option("--inverse", help="The inverse transform.")] = False,
    fmt: Annotated[
        str | None, typer.Option("--format", metavar="Q1.15", help="Input words; default Q1.15.")
    ] = None,
    scaling: Annotated[
        str | None,
        typer.Option(metavar="HOW", help=f"{sim_data.SCALING_HELP} Default half."),
    ] = None,
    twiddle_bits: Annotated[
        int | None,
        typer.Option(min=2, max=32, metavar="BITS", help="Stored factors; default as the input."),
    ] = None,
    radices: Annotated[
        str | None, typer.Option(metavar="4,2,7", help="Of the stages, in order.")
    ] = None,
    decimation: Annotated[
        str | None, typer.Option(metavar="dif|dit", help="In frequency or in time; default dif.")
    ] = None,
    rounding: Annotated[
        str | None,
        typer.Option(metavar="MODE", help=f"{sim_data.ROUNDING_HELP} Default half_even."),
    ] = None,
    overflow: Annotated[
        str | None,
        typer.Option(metavar="MODE", help=f"{sim_data.OVERFLOW_HELP} Default saturate."),
    ] = None,
    first: Annotated[
        bool,
        typer.Option("--round-products", help="Round complex products before sums, not with them."),
    ] = False,
    lines: Annotated[int, typer.Option(min=1, metavar="L", help="Signals.")] = 256,
    peak: Annotated[
        float | None,
        typer.Option(metavar="X", help="Random parts lie in [-X, X); default 1/sqrt(2)."),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option("--input", metavar="x.npy", help="L x N x 2 words, or L x N x 2 floats."),
    ] = None,
    output: Annotated[list[Path] | None, sim_data.output_option("output and input")] = None,
) -> None:
    """Transform complex signals: errors beside theory, and every stage.

    The last axis of all arrays is (real, imaginary). Integers in a .npy file are words; floats are
    quantised.
    """
    session: Session = context.obj
    files = output or []
    sim_data.check_outputs(files)
    options = {
        "--format": fmt,
        "--scaling": scaling,
        "--twiddle-bits": twiddle_bits,
        "--radices": radices,
        "--decimation": decimation,
        "--rounding": rounding,
        "--overflow": overflow,
        "--round-products": first or None,
    }
    if profile is not None:
        for option, value in options.items():
            if value is not None:
                raise InputError(
                    f"{option} has no meaning with --profile {profile}: the profile says it. Leave "
                    f"one of them out."
                )
        transform = _profile(profile, length or 64, inverse)
    else:
        transform = _planned(
            length,
            inverse,
            fmt or "Q1.15",
            scaling or "half",
            twiddle_bits,
            radices,
            decimation or "dif",
            rounding or "half_even",
            overflow or "saturate",
            first,
        )
    result = _simulate(session, transform, lines, peak, input)
    document, shown = result.document(), result.shown()
    order = "line, point, real and imaginary part"
    parts = [
        ("output", result.words, transform.output, order),
        ("input", result.raw, transform.input, order),
    ]
    document["files"] = sim_data.write_words(session, files, parts) if files else []
    session.result(sim_data.plain(document), *shown)


@dataclass(frozen=True, slots=True, kw_only=True)
class Transform:
    """What is simulated: a plan with its datapath, or a profile (or both)."""

    name: str
    length: int
    inverse: bool
    input: QFormat
    output: QFormat
    plan: FftPlan | None = None
    datapath: FftDatapath | None = None
    profile: Profile | None = None

    def run(self, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, Trace | None]:
        """Words, block exponents if there are, and the stages if they are known."""
        import fixedpoint as fx

        if self.plan is None or self.datapath is None:
            given = fx.fft(raw, profile=self.profile, inverse=self.inverse)
            words, exponents = given if isinstance(given, tuple) else (given, None)
            return words, exponents, None
        given = fx.fft(
            raw, plan=self.plan, datapath=self.datapath, inverse=self.inverse, trace=True
        )
        exponents = given[1] if self.datapath.block is not None else None
        return given[0], exponents, given[-1]


def _planned(
    length: int | None,
    inverse: bool,
    fmt: str,
    scaling: str,
    twiddle_bits: int | None,
    radices: str | None,
    decimation: str,
    rounding: str,
    overflow: str,
    first: bool,
) -> Transform:
    import fixedpoint as fx

    form = fx.QFormat.parse(fmt)
    if radices is None:
        plan = fx.FftPlan.of(length or _LENGTH, decimation=decimation)
    else:
        parts = radices.split(",")
        if not all(part.strip().isdecimal() for part in parts):
            raise InputError(f"--radices {radices!r}: expected whole numbers, such as 4,2,7.")
        plan = fx.FftPlan.from_json(
            {"radices": [int(part) for part in parts], "decimation": decimation}
        )
        if length is not None and plan.length != length:
            raise InputError(f"--radices {radices} multiply to {plan.length}, not to {length}.")
    block = fx.BlockScaling() if scaling == "block" else None
    datapath = fx.FftDatapath.of(
        plan,
        input=form,
        twiddle=twiddle_bits,
        scaling="none" if block else scaling,
        rounding=fx.parse_rounding(rounding),
        overflow=sim_data.chosen_overflow(overflow),
        product="first" if first else "once",
        block=block,
    )
    return Transform(
        name=str(plan),
        length=plan.length,
        inverse=inverse,
        input=form,
        output=datapath.output,
        plan=plan,
        datapath=datapath,
    )


def _profile(text: str, length: int, inverse: bool) -> Transform:
    """The profile `name` or `name:key=value,...`."""
    from fixedpoint import QFormat, profiles

    name, _, parameters = text.partition(":")
    if parameters:
        if name not in profiles.CORES:
            raise InputError(
                f"--profile {text!r}: {name} takes no parameters.{nearest(name, profiles.CORES)} "
                f"Those that do: {', '.join(profiles.CORES)}."
            )
        given: dict[str, Any] = {}
        for part in parameters.split(","):
            key, equals, value = part.partition("=")
            if not equals:
                raise InputError(
                    f"--profile {text!r}: {part!r} is no parameter; write name:key=value,key=value."
                )
            try:
                given[key.strip()] = ast.literal_eval(value)
            except (ValueError, SyntaxError):
                given[key.strip()] = value
        try:
            chosen = getattr(profiles, name)(**given)
        except TypeError as error:
            accepted = ", ".join(inspect.signature(getattr(profiles, name)).parameters)
            raise InputError(
                f"--profile {text!r}: {str(error).partition('() ')[2]}. {name} takes {accepted}."
            ) from None
    else:
        chosen = profiles.find(name)
    fmt = QFormat(1, chosen.bits - 1)
    if chosen.build is None or not chosen.accepts(length):
        # The libraries scale by 1/N in both directions: their words stand for the mean.
        shift = (length - 1).bit_length()
        output = QFormat(1 + shift, chosen.bits - 1 - shift)
        return Transform(
            name=chosen.name,
            length=length,
            inverse=inverse,
            input=fmt,
            output=output,
            profile=chosen,
        )
    plan, datapath = chosen.build(length, inverse)
    return Transform(
        name=chosen.name,
        length=length,
        inverse=inverse,
        input=datapath.input,
        output=datapath.output,
        plan=plan,
        datapath=datapath,
        profile=chosen,
    )


def _simulate(
    session: Session, transform: Transform, lines: int, peak: float | None, file: Path | None
) -> Result:
    import numpy as np

    import fixedpoint as fx

    fmt, length = transform.input, transform.length
    full = float(-fmt.min_value)
    if peak is not None and not 0.0 < peak <= full:
        raise InputError(f"--peak {peak:g}: accepted are values above 0 and up to {full:g}.")
    if file is not None:
        raw, _ = sim_data.load_words(file, fmt, "--input", [(None, length, 2)])
        source = str(file)
    else:
        # No magnitude leaves the unit circle, so that turned words fit.
        amplitude = full * 0.5**0.5 if peak is None else peak
        rng = np.random.default_rng(session.seed)
        raw, _ = sim_data.random_words(rng, (lines, length, 2), fmt, amplitude)
        source = f"white noise from --seed {session.seed}"
    words, exponents, trace = transform.run(raw)
    values = fx.to_value(raw, fmt)
    signal = values[..., 0] + 1j * values[..., 1]
    exact = np.fft.ifft(signal) * length if transform.inverse else np.fft.fft(signal)
    if transform.plan is None and transform.profile is not None:
        # A library's 1/N is no power of two for every N.
        exact = exact * (2.0 ** (transform.input.frac_bits - transform.output.frac_bits) / length)
    if exponents is not None:
        exact = exact * 2.0 ** -exponents[:, None].astype(np.float64)
    predicted = None
    if transform.plan is not None and transform.datapath is not None:
        power = float(np.mean(np.abs(exact) ** 2)) / 2
        predicted = _predicted(transform, power)
    return Result(
        transform=transform,
        source=source,
        raw=raw,
        words=np.asarray(words, np.int64),
        exponents=exponents,
        trace=trace,
        report=fx.ErrorReport.of(words, transform.output, exact),
        predicted=predicted,
    )


def _predicted(transform: Transform, power: float) -> Prediction | None:
    """Rounding noise, and the stored factors' errors on a signal of this power."""
    import numpy as np

    from fixedpoint.bounds import Noise, fft_noise, twiddle_error
    from fixedpoint.prediction import Prediction

    plan, datapath = transform.plan, transform.datapath
    assert plan is not None
    assert datapath is not None
    if datapath.block is not None:
        return None
    noise = fft_noise(plan, datapath, inverse=transform.inverse)
    factors = twiddle_error(plan, datapath, inverse=transform.inverse)
    total_power = noise.power + power * factors / datapath.output.lsb**2
    means = np.asarray(noise.mean)
    mean = float(np.mean([means.real, means.imag]))
    total = Noise(total_power - mean**2, mean)
    return Prediction(total, total)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one call computed."""

    transform: Transform
    source: str
    raw: np.ndarray
    words: np.ndarray
    exponents: np.ndarray | None
    trace: Trace | None
    report: ErrorReport
    predicted: Prediction | None

    def document(self) -> dict[str, Any]:
        """Everything, for programs."""
        transform, predicted = self.transform, self.predicted
        return {
            "transform": transform.name,
            "length": transform.length,
            "inverse": transform.inverse,
            "verified": None if transform.profile is None else transform.profile.verified,
            "plan": None if transform.plan is None else transform.plan.to_json(),
            "datapath": None if transform.datapath is None else transform.datapath.to_json(),
            "input": self.source,
            "input_format": str(transform.input),
            "output_format": str(transform.output),
            "exponents": None
            if self.exponents is None
            else [int(self.exponents.min()), int(self.exponents.max())],
            "error": self.report.as_dict(),
            "predicted": None if predicted is None else {"rms_lsb": predicted.high.rms},
            "stages": None if self.trace is None else self.trace.to_json(),
        }

    def shown(self) -> list[Any]:
        """Everything, for people."""
        transform, report = self.transform, self.report
        direction = "inverse transform" if transform.inverse else "transform"
        lines: list[Any] = [f"{direction} of {transform.length} points: {transform.name}"]
        profile = transform.profile
        if profile is not None and not profile.verified and "not verified" not in profile.name:
            lines.append("not verified: its words were never compared with the core's")
        lines.append(f"input {self.source}")
        if transform.plan is None:
            lines.append("output words stand for the transform divided by its length")
        if self.exponents is not None:
            low, high = int(self.exponents.min()), int(self.exponents.max())
            lines.append(f"block exponents {low} to {high}; errors are those of the mantissas")
        lines += [
            "",
            f"{report.words} words of {report.format} against float64 on the same words",
            sim_data.error_table(report, self.predicted),
        ]
        if self.trace is None:
            lines.append("stages: the library is compiled whole and shows none")
        else:
            lines += ["", sim_data.trace_table(self.trace)]
        return lines
