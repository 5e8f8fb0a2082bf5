"""Which formats and roundings does each way of computing a ParC have?

Every way begins alike: the input's words x, with the position embedding added (`total`), are the
summands s; and ends alike: its sums pass `output`. In between

- `DirectDatapath` multiplies and accumulates;
- `NttDatapath` transforms residues, which rounds nothing;
- `SplitDatapath` goes through a short real DFT, Toeplitz products and the transposed DFT;
- `FourierDatapath` goes through a complex transform, a product per frequency and the inverse.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from typing import Any, Self

from fixedpoint.datapath import Cut, Datapath
from fixedpoint.modes import Overflow, Rounding, parse_rounding, rounding_code
from fixedpoint.qformat import QFormat, as_format
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.stage import FftDatapath
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError, check_keys
from parc_hw.plan import FftPlan, SplitPlan

__all__ = [
    "DirectDatapath",
    "FourierDatapath",
    "NttDatapath",
    "ParcDatapath",
    "SplitDatapath",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcDatapath:
    """What every way of computing a ParC has.

    Parameters
    ----------
    data, kernel : QFormat or str
        Formats of the stored integers of the input and of the kernel; signed.
    output : Cut
        Behind the last operation.
    position_embedding, bias : QFormat or str or None
        Their formats; None where the operator has none.
    total : Cut or None
        Behind x + position embedding. None keeps the sum exact, which takes a growth bit and the
        finer of both binary points.

    Raises
    ------
    InputError
        A field of another kind, an unsigned format of data or kernel, `total` without position
        embedding.
    """

    data: QFormat
    kernel: QFormat
    output: Cut
    position_embedding: QFormat | None = None
    bias: QFormat | None = None
    total: Cut | None = None

    def __post_init__(self) -> None:
        for name in ("data", "kernel", "position_embedding", "bias"):
            fmt = getattr(self, name)
            if fmt is None and name in ("position_embedding", "bias"):
                continue
            fmt = as_format(fmt, name=name)
            object.__setattr__(self, name, fmt)
            if not fmt.signed:
                raise InputError(f"{name} is {fmt}: the words of a ParC are signed.")
        for field in fields(self):
            given = getattr(self, field.name)
            optional = "None" in str(field.type)
            if str(field.type).startswith("Cut"):
                if not (isinstance(given, Cut) or (optional and given is None)):
                    kinds = "a Cut or None" if optional else "a Cut"
                    raise InputError(f"{field.name} is {given!r}: expected {kinds}.")
                if given is not None and not given.format.signed:
                    raise InputError(
                        f"{field.name} is {given.format}: the words of a ParC are signed."
                    )
        if self.total is not None and self.position_embedding is None:
            raise InputError(
                f"total is {self.total}, but there is no position embedding to add: give its "
                f"format as position_embedding, or leave total out."
            )

    @property
    def summand(self) -> QFormat:
        """The format of s = x + position embedding.

        >>> q15, out = QFormat.parse("Q1.15"), Cut(QFormat.parse("Q1.15"))
        >>> path = DirectDatapath(data=q15, kernel=q15, output=out,
        ...                       position_embedding=QFormat.parse("Q1.12"))
        >>> print(path.summand)
        Q2.15
        """
        if self.position_embedding is None:
            return self.data
        if self.total is not None:
            return self.total.format
        return QFormat.for_add(self.data, self.position_embedding)

    def to_json(self) -> dict[str, Any]:
        """Return plain data that `ParcDatapath.from_json` turns back into an equal datapath.

        >>> path = DirectDatapath(data="Q1.7", kernel="Q1.7", output=Cut(QFormat.parse("Q1.7")))
        >>> ParcDatapath.from_json(path.to_json()) == path
        True
        """
        data: dict[str, Any] = {"kind": _KIND_OF[type(self).__name__]}
        for entry in fields(self):
            value = getattr(self, entry.name)
            if value != entry.default:
                data[entry.name] = _plain(value)
        return data

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> ParcDatapath:
        """Rebuild a datapath of the kind that `to_json` named.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not accepted.
        """
        kinds = {_KIND_OF[kind.__name__]: kind for kind in ParcDatapath.__subclasses__()}
        kind = kinds.get(str(data.get("kind")))
        if kind is None:
            raise InputError(
                f"datapath: kind is {data.get('kind')!r}; accepted: {', '.join(sorted(kinds))}."
            )
        known = {entry.name: entry for entry in fields(kind)}
        check_keys(
            "datapath",
            data,
            accepted=("kind", *known),
            required=[name for name, entry in known.items() if entry.default is MISSING],
        )
        given = {name: value for name, value in data.items() if name != "kind"}
        return kind(**{name: _read(known[name].type, value) for name, value in given.items()})

    def quiet(self) -> Self:
        """Return the datapath with SATURATE in place of RAISE: the same words, if any come."""
        return _quiet(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectDatapath(ParcDatapath):
    """Multiply and accumulate: y[i] = output(b + sum_k product(w[k] s[(i + k) mod N])).

    The register starts from the bias, brought through `accumulator`, and takes the products in
    the order of the taps, channel by channel in a dense operator.

    Parameters
    ----------
    product : Cut or None
        Behind each multiplication: rounding per MAC. None hands on every bit.
    accumulator : Cut or None
        The register, which every sum passes before the next product is added. None: as wide as
        the sum of all products needs (`QFormat.for_multiply_accumulate`).

    Examples
    --------
    A 40-bit register with 8 guard bits above a Q2.30 product, one rounding at its end:

    >>> path = DirectDatapath(data="Q1.15", kernel="Q1.15", output=Cut(QFormat.parse("Q1.15")),
    ...                       accumulator=Cut(QFormat.parse("Q10.30"), overflow=Overflow.WRAP))
    >>> path.guard_bits(1), path.guard_bits(56)
    (8, 3)
    """

    product: Cut | None = None
    accumulator: Cut | None = None

    def term(self) -> QFormat:
        """Return the format of one product on its way to the register."""
        if self.product is not None:
            return self.product.format
        return QFormat.for_mul(self.summand, self.kernel)

    def guard_bits(self, terms: int) -> int:
        """Return the register's integer bits beyond what a sum of `terms` products may need.

        Negative: so many are missing for a worst case over all kernels. `certify` answers for one
        given kernel.
        """
        if self.product is not None:
            needed = QFormat.for_accumulate(self.product.format, terms)
        else:
            needed = QFormat.for_multiply_accumulate(self.summand, self.kernel, terms)
        return 0 if self.accumulator is None else self.accumulator.format.int_bits - needed.int_bits


@dataclass(frozen=True, slots=True, kw_only=True)
class NttDatapath(ParcDatapath):
    """Number-theoretic transforms: exact sums, rounded once at `output`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitDatapath(ParcDatapath):
    """N = n1 n2: real DFT of length n1, Toeplitz products of length n2, transposed DFT.

    In both transforms a product with a constant is rounded to the words' own LSB, by `rounding`;
    additions are exact. `coefficient` and `table` are quantised offline, to nearest even.

    Parameters
    ----------
    coefficient : QFormat or str
        The constants of the transforms' graphs (`parc_hw.dataflow.real_dft`).
    table : QFormat or str
        The Toeplitz weights (`parc_hw.weights.split_tables` of the kernel's values).
    rows : Cut
        Behind the transform: the words that are multiplied by the table.
    columns : Cut
        Behind the Toeplitz products: the words of the transposed transform.
    product, accumulator : Cut or None
        As in `DirectDatapath`, of the Toeplitz products.
    guard : int
        Fraction bits below the data's (in the first transform) and below the columns' (in the
        last) that the graphs carry.
    rounding : Rounding
        Of each product with a constant.
    """

    coefficient: QFormat
    table: QFormat
    rows: Cut
    columns: Cut
    product: Cut | None = None
    accumulator: Cut | None = None
    guard: int = 0
    rounding: Rounding = Rounding.HALF_EVEN

    def __post_init__(self) -> None:
        # super() has no cell in a dataclass with slots, which is a copy of the class.
        ParcDatapath.__post_init__(self)
        for name in ("coefficient", "table"):
            fmt = as_format(getattr(self, name), name=name)
            object.__setattr__(self, name, fmt)
            if not fmt.signed:
                raise InputError(f"{name} is {fmt}: the constants have both signs.")
        if not 0 <= self.coefficient.frac_bits <= 62:
            raise InputError(
                f"coefficient is {self.coefficient}: the constants of a transform lie between -2 "
                f"and 2. Accepted are 0 to 62 fraction bits, such as Q2.14."
            )
        if isinstance(self.guard, bool) or not isinstance(self.guard, int) or self.guard < 0:
            raise InputError(f"guard is {self.guard!r}: expected a number of bits, at least 0.")
        rounding_code(self.rounding)

    @classmethod
    def of(
        cls,
        plan: SplitPlan,
        *,
        data: QFormat | str,
        table: QFormat | str,
        kernel: QFormat | str | None = None,
        output: Cut | None = None,
        coefficient_bits: int | None = None,
        rows: QFormat | str | None = None,
        columns: QFormat | str | None = None,
        product: QFormat | str | None = None,
        accumulator: QFormat | str | None = None,
        guard: int = 2,
        rounding: Rounding = Rounding.HALF_EVEN,
        overflow: Overflow = Overflow.SATURATE,
        position_embedding: QFormat | str | None = None,
        bias: QFormat | str | None = None,
        total: Cut | None = None,
    ) -> SplitDatapath:
        """Return the usual datapath: one rounding, words that grow as the transform may.

        Parameters
        ----------
        plan : SplitPlan
        data : QFormat or str
        table : QFormat or str
            `fixedpoint.table_format` gives the one for a given kernel.
        kernel : QFormat or str, optional
            As `data`.
        output : Cut, optional
            In the format of `data`.
        coefficient_bits : int, optional
            Of the transforms' constants, which lie between -2 and 2; as wide as the data.
        rows : QFormat or str, optional
            The data's LSB, and so many bits more as a sum of n1 words can need.
        columns : QFormat or str, optional
            The output's format with two bits more at the lower end and one at the upper.
        product, accumulator : QFormat or str, optional
        guard, position_embedding, bias, total
            As the fields.
        rounding, overflow
            At every point.

        Examples
        --------
        >>> from parc_hw.plan import SplitPlan
        >>> path = SplitDatapath.of(SplitPlan(n1=8, n2=7), data="Q1.15", table="Q-1.17")
        >>> print(path.rows.format, path.columns.format, path.coefficient)
        Q4.15 Q2.17 Q2.14
        """
        begun = _begun(data, kernel, output, position_embedding, bias, total, rounding, overflow)

        def cut(fmt: QFormat | str, name: str) -> Cut:
            return Cut(as_format(fmt, name=name), rounding, overflow)

        summand, result = begun.summand, begun.output.format
        grown = QFormat(summand.int_bits + (plan.n1 - 1).bit_length(), summand.frac_bits)
        wide = QFormat(result.int_bits + 1, result.frac_bits + 2)
        bits = begun.data.bits if coefficient_bits is None else coefficient_bits
        return cls(
            **_fields(begun),
            coefficient=QFormat(2, bits - 2),
            table=as_format(table, name="table"),
            rows=cut(grown if rows is None else rows, "rows"),
            columns=cut(wide if columns is None else columns, "columns"),
            product=None if product is None else cut(product, "product"),
            accumulator=None if accumulator is None else cut(accumulator, "accumulator"),
            guard=guard,
            rounding=rounding,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class FourierDatapath(ParcDatapath):
    """Forward transform, product with the kernel's spectrum, inverse transform of one length.

    The forward transform ends in the order in which the inverse begins (digit-reversed both, as
    `FftPlan(..., output_order="digit_reversed")` and its `transposed` have it), so that nothing is
    reordered. The spectrum holds conj(W[f]) / N, quantised offline to nearest even: no division
    by N is left at run time. The bias is added, exactly, in front of `output`.

    Parameters
    ----------
    forward, inverse : FftDatapath
        The transforms' points. `forward.input` is the format of the summands.
    spectrum : QFormat or str
        The words of the kernel's spectrum.
    product : Datapath
        The complex product: `product` behind each real multiplication, `accumulator` behind every
        sum (a dense operator adds its channels here), `result` is `inverse.input`.
    pairs : bool
        Two lines of a channel share a transform, as its real and imaginary part; else the
        imaginary parts are zero.

    Raises
    ------
    InputError
        Formats that do not meet.

    Examples
    --------
    >>> from parc_hw.plan import FftPlan, SplitPlan
    >>> plan = FftPlan.of(56, output_order="digit_reversed")
    >>> path = FourierDatapath.of(plan, data="Q1.15", scaling="half")
    >>> print(path.forward.output, path.product.result.format, path.inverse.output)
    Q7.9 Q1.15 Q1.15
    """

    forward: FftDatapath
    spectrum: QFormat
    product: Datapath
    inverse: FftDatapath
    pairs: bool = False

    def __post_init__(self) -> None:
        ParcDatapath.__post_init__(self)
        object.__setattr__(self, "spectrum", as_format(self.spectrum, name="spectrum"))
        if not self.spectrum.signed:
            raise InputError(f"spectrum is {self.spectrum}: its words have both signs.")
        for name, kind in (
            ("forward", FftDatapath),
            ("inverse", FftDatapath),
            ("product", Datapath),
            ("pairs", bool),
        ):
            if not isinstance(getattr(self, name), kind):
                raise InputError(f"{name} is {getattr(self, name)!r}: expected a {kind.__name__}.")
        for name, seen, wanted, what in (
            ("forward.input", self.forward.input, self.summand, "the summands x + pe"),
            (
                "inverse.input",
                self.inverse.input,
                self.product.result.format,
                "what product.result hands on",
            ),
        ):
            if seen != wanted:
                raise InputError(f"{name} is {seen}, but {what} are {wanted}; make them equal.")

    @classmethod
    def of(
        cls,
        plan: FftPlan,
        *,
        data: QFormat | str,
        kernel: QFormat | str | None = None,
        output: Cut | None = None,
        scaling: ScalingSchedule | str = "half",
        inverse_scaling: ScalingSchedule | str = "none",
        twiddle: TwiddleFormat | int | None = None,
        spectrum: QFormat | str | None = None,
        product: QFormat | str | None = None,
        accumulator: QFormat | str | None = None,
        multiplications: int = 4,
        rounding: Rounding = Rounding.HALF_EVEN,
        overflow: Overflow = Overflow.SATURATE,
        once: bool = True,
        block: BlockScaling | None = None,
        position_embedding: QFormat | str | None = None,
        bias: QFormat | str | None = None,
        total: Cut | None = None,
        pairs: bool = False,
    ) -> FourierDatapath:
        """Return the usual datapath: one word length, one rounding, the inverse unscaled.

        Parameters
        ----------
        plan : FftPlan
            The forward transform.
        data : QFormat or str
        kernel : QFormat or str, optional
            As `data`.
        output : Cut, optional
            In the format of `data`.
        scaling, inverse_scaling
            As `FftDatapath.of` takes them. With "half" forward the 1/N is spent there, and the
            inverse brings back what the kernel lets pass.
        twiddle : TwiddleFormat or int, optional
        spectrum : QFormat or str, optional
            As wide as the kernel, with the fraction bits that hold |W| / N <= 1 / N: for a kernel
            whose gain is at most 1. `spectrum_format` gives the one for a given kernel.
        product : QFormat or str, optional
            Of the products and the inverse's input; the format of `data`.
        accumulator : QFormat or str, optional
        multiplications : int
        rounding, overflow
            At every point.
        once : bool
            Whether each word of a stage is rounded once; if not, complex products first.
        block : BlockScaling, optional
            Block floating point both ways.
        position_embedding, bias, total, pairs
            As the fields.
        """
        begun = _begun(data, kernel, output, position_embedding, bias, total, rounding, overflow)
        shared: dict[str, Any] = {
            "twiddle": twiddle,
            "rounding": rounding,
            "overflow": overflow,
            "product": "once" if once else "first",
            "block": block,
        }
        up = max(plan.length.bit_length() - 1, 0)  # 1/N <= 2**-up
        if spectrum is None:
            frac = begun.kernel.bits - 1 + up
            spectrum = QFormat(begun.kernel.bits - frac, frac)
        if product is not None:
            behind = as_format(product, name="product")
        elif block is None:
            behind = begun.data
        else:
            # The words of a frame stay near full scale, and 1/N makes the product so much smaller.
            behind = QFormat(begun.data.int_bits - up, begun.data.frac_bits + up)
        register = None
        if accumulator is not None:
            register = Cut(as_format(accumulator, name="accumulator"), rounding, overflow)
        return cls(
            **_fields(begun),
            forward=FftDatapath.of(plan, input=begun.summand, scaling=scaling, **shared),
            spectrum=as_format(spectrum, name="spectrum"),
            product=Datapath(
                Cut(behind, rounding, overflow),
                accumulator=register,
                multiplications=multiplications,
            ),
            inverse=FftDatapath.of(
                plan.transposed, input=behind, scaling=inverse_scaling, **shared
            ),
            pairs=pairs,
        )


def _begun(
    data: QFormat | str,
    kernel: QFormat | str | None,
    output: Cut | None,
    position_embedding: QFormat | str | None,
    bias: QFormat | str | None,
    total: Cut | None,
    rounding: Rounding,
    overflow: Overflow,
) -> ParcDatapath:
    """What every way has, with the defaults of the `of` methods."""
    fmt = as_format(data, name="data")
    return ParcDatapath(
        data=fmt,
        kernel=fmt if kernel is None else as_format(kernel, name="kernel"),
        output=Cut(fmt, rounding, overflow) if output is None else output,
        position_embedding=(
            None
            if position_embedding is None
            else as_format(position_embedding, name="position_embedding")
        ),
        bias=None if bias is None else as_format(bias, name="bias"),
        total=total,
    )


def _fields(datapath: ParcDatapath) -> dict[str, Any]:
    return {entry.name: getattr(datapath, entry.name) for entry in fields(ParcDatapath)}


_KIND_OF = {
    "DirectDatapath": "direct",
    "NttDatapath": "ntt",
    "SplitDatapath": "split",
    "FourierDatapath": "fourier",
}


def _plain(value: Any) -> Any:
    """A field as plain data."""
    if isinstance(value, QFormat):
        return str(value)
    if isinstance(value, Cut):
        return {
            "format": str(value.format),
            "rounding": value.rounding.value,
            "overflow": value.overflow.value,
        }
    if isinstance(value, Datapath):
        cuts = {name: getattr(value, name) for name in ("result", "product", "accumulator")}
        given = {name: _plain(cut) for name, cut in cuts.items() if cut is not None}
        return {**given, "multiplications": value.multiplications}
    if isinstance(value, FftDatapath):
        return value.to_json()
    return value.value if isinstance(value, Rounding) else value


def _overflow(text: str | None) -> Overflow:
    known = {mode.value: mode for mode in Overflow}
    if text is not None and text not in known:
        raise InputError(f"overflow is {text!r}; accepted: {', '.join(known)}.")
    return Overflow.SATURATE if text is None else known[text]


def _read(kind: Any, value: Any) -> Any:
    """A field of the type that `kind` names, from `_plain`'s data."""
    if value is None:
        return None
    name = str(kind).partition(" ")[0]
    if name == "Cut":
        check_keys("cut", value, accepted=("format", "rounding", "overflow"), required=("format",))
        rounding = parse_rounding(value.get("rounding", "half_even"))
        return Cut(as_format(value["format"]), rounding, _overflow(value.get("overflow")))
    if name == "Datapath":
        parts = ("result", "product", "accumulator")
        check_keys("product", value, accepted=(*parts, "multiplications"), required=("result",))
        return Datapath(
            **{part: _read("Cut", value[part]) for part in parts if part in value},
            multiplications=value.get("multiplications", 4),
        )
    if name == "FftDatapath":
        return FftDatapath.from_json(value)
    return parse_rounding(value) if name == "Rounding" else value


def _quiet(part: Any) -> Any:
    """Replace RAISE in a record and in everything that it holds."""
    if isinstance(part, tuple):
        return tuple(_quiet(item) for item in part)
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changed = {}
    for entry in fields(part):
        value = getattr(part, entry.name)
        new = Overflow.SATURATE if value is Overflow.RAISE else _quiet(value)
        if new is not value and new != value:
            changed[entry.name] = new
    return replace(part, **changed) if changed else part
