"""At which points of a butterfly stage is a word cut, and how?

The order of the points in a stage:

    DIF   input -> butterfly -> sum                               (leg 0, and trivial factors)
                             -> [sum ->] factor: each, product    (the other legs)     -> output
    DIT   input -> factor: each, product (legs but the first) -> butterfly -> sum      -> output
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from fixedpoint.errors import FormatError, ScalingError
from fixedpoint.modes import (
    Overflow,
    Rounding,
    overflow_code,
    parse_rounding,
    rounding_code,
)
from fixedpoint.qformat import QFormat, as_format
from fixedpoint.scaling import BlockScaling, ScalingSchedule
from fixedpoint.twiddle import TwiddleFormat
from parc_hw.errors import InputError, check_keys
from parc_hw.plan import Decimation, FftPlan

__all__ = ["FftDatapath", "Point", "StageDatapath", "Trivial"]

_TWIDDLE = TwiddleFormat(bits=16)
_Q15 = QFormat(1, 15)
_MOST_SHIFT = 62
_MOST_WORD = 32  # of data that enter or leave a transform


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What happens to a word at one point: register, rounding, format, in this order.

    1. wrap into `from_bits`, the register that holds the exact value;
    2. divide by 2**shift, drop every fraction bit below `guard` with `rounding`;
    3. fit into `bits` by `overflow`;
    4. wrap into `then_bits`: an assignment to a narrower word after saturation.

    Parameters
    ----------
    shift : int
        Scaling: the result is value / 2**shift, in LSB of the stage's input words. The fraction
        bits that factors add are dropped besides, and do not count here. May be negative.
    rounding : Rounding
    bits : int, optional
        Width of the word behind the point. None: as wide as it comes.
    overflow : Overflow
        For a value outside `bits`.
    from_bits, then_bits : int, optional
        Widths of the register before and of the assignment behind; both wrap. None: neither.
    guard : int
        Fraction bits below the data's LSB that stay until the next point.

    Raises
    ------
    InputError
        A width below 1 or above 64, a guard below 0, or no `Rounding` or `Overflow`.
    ScalingError
        A shift beyond 62 bits.

    Examples
    --------
    The upper half of a product with 14-bit factors, halved, saturated, then stored:

    >>> product = Point(from_bits=31, shift=1, rounding=Rounding.HALF_UP, bits=17,
    ...                 overflow=Overflow.SATURATE, then_bits=16)
    """

    shift: int = 0
    rounding: Rounding = Rounding.FLOOR
    bits: int | None = None
    overflow: Overflow = Overflow.WRAP
    from_bits: int | None = None
    then_bits: int | None = None
    guard: int = 0

    def __post_init__(self) -> None:
        if not _whole(self.shift) or abs(self.shift) > _MOST_SHIFT:
            raise ScalingError(
                f"shift is {self.shift!r}: accepted are whole numbers from -{_MOST_SHIFT} to "
                f"{_MOST_SHIFT}."
            )
        for name in ("bits", "from_bits", "then_bits"):
            width = getattr(self, name)
            if width is not None and not (_whole(width) and 1 <= width <= 64):
                raise InputError(f"{name} is {width!r}: accepted are 1 to 64 bits, or None.")
        if not _whole(self.guard) or not 0 <= self.guard <= _MOST_SHIFT:
            raise InputError(f"guard is {self.guard!r}: accepted are 0 to {_MOST_SHIFT} bits.")
        rounding_code(self.rounding)
        overflow_code(self.overflow)

    @property
    def width(self) -> int | None:
        """Bits of the word behind the point, if it has a format."""
        return self.then_bits if self.then_bits is not None else self.bits

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of what differs from the defaults."""
        return {
            f.name: value.value if isinstance(value, enum.Enum) else value
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Point:
        """Rebuild a point from `to_json`'s dictionary.

        >>> Point.from_json(Point(shift=1, bits=16).to_json()) == Point(shift=1, bits=16)
        True
        """
        check_keys("point", data, accepted=[f.name for f in fields(cls)])
        values = dict(data)
        if isinstance(values.get("rounding"), str):
            values["rounding"] = parse_rounding(values["rounding"])
        if isinstance(values.get("overflow"), str):
            values["overflow"] = _overflow(values["overflow"])
        return cls(**values)


class Trivial(enum.Enum):
    """Which twiddle factors need no multiplier? The first leg never has one."""

    NONE = "none"  # a factor 1 on another leg is multiplied (and rounded) like any
    UNITY = "unity"  # 1 is bypassed
    QUARTERS = "quarters"  # 1, -1, j and -j are exact turns


@dataclass(frozen=True, slots=True, kw_only=True)
class StageDatapath:
    """The points of one stage; the module's first lines have their order.

    Parameters
    ----------
    sum : Point
        DIF: results of the butterfly that no factor multiplies. DIT: every result.
    product : Point or None
        The real and imaginary part of a complex product. None, in DIT only: they stay exact, and
        `sum` is the stage's only rounding.
    twiddle : TwiddleFormat
        The stage's table.
    input : Point or None
        Every word before the stage: a shift in front of the butterfly.
    each : Point or None
        Each of the four real products of a complex one. None: they stay exact.
    constants : Point or None
        Radix 3, 5, 7: the sums of products with the butterfly's own cosines and sines. None: they
        stay exact.
    constant : TwiddleFormat or None
        The format of these cosines and sines; None: `twiddle`.
    output : Point or None
        Every word behind the stage.
    trivial : Trivial
    turn_first : bool
        DIF: an exact turn (`Trivial.QUARTERS`) comes before `sum`; if not, it comes behind it and
        its words are fitted again, so that -min overflows.
    sum_first : bool
        DIF: every result passes `sum`, and factors multiply what it leaves.

    Raises
    ------
    InputError
        A field of another type.
    """

    sum: Point
    product: Point | None = None
    twiddle: TwiddleFormat = _TWIDDLE
    input: Point | None = None
    each: Point | None = None
    constants: Point | None = None
    constant: TwiddleFormat | None = None
    output: Point | None = None
    trivial: Trivial = Trivial.UNITY
    turn_first: bool = True
    sum_first: bool = False

    def __post_init__(self) -> None:
        for name, kind, optional in (
            ("sum", Point, False),
            ("product", Point, True),
            ("twiddle", TwiddleFormat, False),
            ("input", Point, True),
            ("each", Point, True),
            ("constants", Point, True),
            ("constant", TwiddleFormat, True),
            ("output", Point, True),
            ("trivial", Trivial, False),
            ("turn_first", bool, False),
            ("sum_first", bool, False),
        ):
            value = getattr(self, name)
            if not isinstance(value, kind) and not (optional and value is None):
                raise InputError(
                    f"{name} is {value!r}: expected a {kind.__name__}{' or None' * optional}."
                )
        for name in ("input", "sum", "output"):
            point = getattr(self, name)
            if point is not None and point.guard:
                raise InputError(
                    f"{name}.guard is {point.guard}: words between stages and butterflies are in "
                    f"whole LSB; to keep more bits, scale up with a negative shift."
                )
        if self.constants is not None and self.constants.shift:
            raise ScalingError(
                f"constants.shift is {self.constants.shift}: it would scale some of the terms of a "
                f"butterfly; shift at input, sum or output."
            )

    @property
    def shift(self) -> int:
        """The stage divides by 2**shift."""
        return sum(point.shift for point in (self.input, self.sum, self.output) if point)

    @property
    def bits(self) -> int | None:
        """Width of the words behind the stage, if they have a format."""
        if self.output is not None and self.output.width is not None:
            return self.output.width
        return self.sum.width

    def shifted(self, bits: int, decimation: Decimation) -> StageDatapath:
        """Return the stage that divides by 2**bits more, in its own rounding."""
        total = replace(self.sum, shift=self.sum.shift + bits)
        if self.product is None or self.sum_first or decimation is Decimation.DIT:
            return replace(self, sum=total)
        product = replace(self.product, shift=self.product.shift + bits)
        return replace(self, sum=total, product=product)

    def check(self, decimation: Decimation, stage: int) -> None:
        """Raise unless both ways through the stage scale alike.

        Raises
        ------
        ScalingError
            They do not.
        InputError
            A DIF stage without a `product`.
        """
        each = 0 if self.each is None else self.each.shift
        if decimation is Decimation.DIT:
            product = 0 if self.product is None else self.product.shift
            if each + product:
                raise ScalingError(
                    f"stage {stage}: a DIT stage adds the first leg to products that are scaled by "
                    f"2**-{each + product}; each.shift + product.shift must be 0."
                )
            return
        if self.product is None:
            raise InputError(
                f"stage {stage}: product is None, but behind a DIF butterfly nothing follows that "
                f"could round a product; give it a Point."
            )
        if self.product.guard:
            raise InputError(
                f"stage {stage}: product.guard is {self.product.guard}, but behind a DIF stage "
                f"words are in whole LSB."
            )
        through = each + self.product.shift + (self.sum.shift if self.sum_first else 0)
        if through != self.sum.shift:
            raise ScalingError(
                f"stage {stage}: results that are multiplied are divided by 2**{through}, the "
                f"others by 2**{self.sum.shift}; make "
                f"{'each.shift + product.shift 0' if self.sum_first else 'them equal'}."
            )

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary of what differs from the defaults."""
        return {
            f.name: value.value
            if isinstance(value, enum.Enum)
            else value
            if isinstance(value, bool)
            else value.to_json()
            for f in fields(self)
            if (value := getattr(self, f.name)) != f.default
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> StageDatapath:
        """Rebuild a stage from `to_json`'s dictionary."""
        check_keys("stage", data, accepted=[f.name for f in fields(cls)], required=("sum",))
        values = dict(data)
        for name in ("sum", "product", "input", "each", "constants", "output"):
            if values.get(name) is not None:
                values[name] = Point.from_json(values[name])
        for name in ("twiddle", "constant"):
            if values.get(name) is not None:
                values[name] = TwiddleFormat.from_json(values[name])
        if "trivial" in values:
            values["trivial"] = _member(Trivial, values["trivial"], "trivial")
        return cls(**values)


@dataclass(frozen=True, slots=True, kw_only=True)
class FftDatapath:
    """Everything beside the plan that changes a word of a transform.

    Parameters
    ----------
    stages : tuple of StageDatapath
        One per stage of the plan, in order of execution.
    input : QFormat or str
        The format of the raw input words; signed, at most 32 bits.
    block : BlockScaling or None
        Block floating point: every frame's shifts are decided by its own words.
    split : StageDatapath or None
        Of a real transform by a complex one of half the length: where the words are cut that join
        or part the spectra of even and odd samples. A sum A +- j W B of words is twice a bin, so
        that `shift` 1 keeps the scale. Its points are those of a DIT stage; `input`, `constants`
        and `output` have no place in it.

    Raises
    ------
    InputError
        Another type, or an unsigned format.
    FormatError
        Input words of more than 32 bits.

    Examples
    --------
    >>> plan = FftPlan(radices=(2, 2, 2))
    >>> datapath = FftDatapath.of(plan, bits=16, scaling="half")
    >>> [str(fmt) for fmt in datapath.formats]
    ['Q1.15', 'Q2.14', 'Q3.13', 'Q4.12']
    >>> FftDatapath.from_json(datapath.to_json()) == datapath
    True
    """

    stages: tuple[StageDatapath, ...]
    input: QFormat = _Q15
    block: BlockScaling | None = None
    split: StageDatapath | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "input", as_format(self.input, name="input"))
        object.__setattr__(self, "stages", tuple(self.stages))
        for stage in self.stages:
            if not isinstance(stage, StageDatapath):
                raise InputError(f"stages has {stage!r}: expected StageDatapath objects.")
        if self.block is not None and not isinstance(self.block, BlockScaling):
            raise InputError(f"block is {self.block!r}: expected BlockScaling or None.")
        if self.split is not None and not isinstance(self.split, StageDatapath):
            raise InputError(f"split is {self.split!r}: expected a StageDatapath or None.")
        if not self.input.signed:
            raise InputError(f"input is {self.input}: the words of a transform are signed.")
        if self.input.bits > _MOST_WORD:
            raise FormatError(
                f"input is {self.input}: {self.input.bits} bits, and the products of data words "
                f"above {_MOST_WORD} bits do not fit 64-bit arithmetic. Take "
                f"{self.input.bits - _MOST_WORD} bits off."
            )

    @classmethod
    def of(
        cls,
        plan: FftPlan,
        *,
        bits: int = 16,
        input: QFormat | str | None = None,
        twiddle: TwiddleFormat | int | None = None,
        scaling: ScalingSchedule | str = "half",
        rounding: Rounding = Rounding.HALF_EVEN,
        overflow: Overflow = Overflow.SATURATE,
        product: str = "once",
        guard_bits: int = 2,
        trivial: Trivial = Trivial.QUARTERS,
        block: BlockScaling | None = None,
        split_shift: int | None = None,
    ) -> FftDatapath:
        """Return the usual datapath: one word length, one rounding, exact quarter turns.

        Parameters
        ----------
        plan : FftPlan
        bits : int
            Of the data, if `input` is not given: Q1.(bits - 1).
        input : QFormat or str, optional
        twiddle : TwiddleFormat or int, optional
            The table, or the bits of its words; None: as wide as the data.
        scaling : ScalingSchedule or str
            "half", "none", "growing", or shifts with commas. With `block` the schedule is "none".
        rounding, overflow
            At every point.
        product : str
            "once": each word of a stage is rounded once, behind butterfly, shift and exact
            complex product. "first": complex products are rounded to the data's LSB on their own,
            before (DIT) or behind (DIF) the rounding of the shifted sums; with words of up to 16
            bits everything then fits 32 bits.
        guard_bits : int
            Bits below the LSB that the constant products inside butterflies of radix 3, 5, 7 keep
            ("once"; with "first" none).
        trivial : Trivial
        block : BlockScaling, optional
        split_shift : int, optional
            Adds `split` with this shift: 1 keeps the scale, 2 halves.

        Raises
        ------
        ScalingError
            A schedule for another number of stages.
        InputError
            A `product` that is not accepted.
        """
        fmt = QFormat(1, _bits(bits) - 1) if input is None else as_format(input, name="input")
        if product not in ("once", "first"):
            raise InputError(f"product is {product!r}; accepted: once, first.")
        if block is not None and scaling == "half":
            scaling = ScalingSchedule.none(plan)
        schedule = (
            scaling
            if isinstance(scaling, ScalingSchedule)
            else ScalingSchedule.parse(scaling, plan)
        )
        schedule.check(plan)
        if not isinstance(twiddle, TwiddleFormat):
            twiddle = TwiddleFormat(bits=min(fmt.bits, 32) if twiddle is None else twiddle)
        dif, first = plan.decimation is Decimation.DIF, product == "first"
        stages, width = [], fmt.bits
        for shift, growth in zip(schedule.shifts, schedule.widening, strict=True):
            width += growth
            total = Point(shift=shift, rounding=rounding, bits=width, overflow=overflow)
            # A rotation may make a part larger by sqrt(2); in DIT a sum follows that takes it.
            point = replace(total, shift=0, bits=width + (not dif)) if first else total
            constants = Point(rounding=rounding, guard=0 if first else guard_bits)
            stages.append(
                StageDatapath(
                    sum=total,
                    product=point if dif or first else None,
                    twiddle=twiddle,
                    constants=constants,
                    trivial=trivial,
                    sum_first=dif and first,
                )
            )
        split = None
        if split_shift is not None:
            last = Point(shift=split_shift, rounding=rounding, bits=width, overflow=overflow)
            parts = replace(last, shift=0, bits=width + 1) if first else None
            split = StageDatapath(sum=last, product=parts, twiddle=twiddle, trivial=trivial)
        return cls(stages=tuple(stages), input=fmt, block=block, split=split)

    @property
    def input_bits(self) -> int:
        """Width of the input words."""
        return self.input.bits

    @property
    def formats(self) -> tuple[QFormat, ...]:
        """The formats of the input and behind each stage, for values of the unscaled transform.

        Every shift moves the binary point; a frame's own block exponent comes on top.
        """
        formats = [self.input]
        for stage in self.stages:
            bits = formats[-1].bits if stage.bits is None else stage.bits
            frac = formats[-1].frac_bits - stage.shift
            formats.append(QFormat(bits - frac, frac))
        return tuple(formats)

    @property
    def output(self) -> QFormat:
        """The format of the result."""
        return self.formats[-1]

    @property
    def real_output(self) -> QFormat:
        """The format of the result of a packed real transform, behind `split`."""
        if self.split is None:
            raise InputError("this datapath has no `split`: it takes no packed real words.")
        bits = self.output.bits if self.split.bits is None else self.split.bits
        frac = self.output.frac_bits - (self.split.shift - 1)
        return QFormat(bits - frac, frac)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal datapath."""
        return {
            "input": str(self.input),
            "stages": [stage.to_json() for stage in self.stages],
            "block": None if self.block is None else self.block.to_json(),
            "split": None if self.split is None else self.split.to_json(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> FftDatapath:
        """Rebuild a datapath from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not accepted.
        """
        check_keys(
            "FFT datapath",
            data,
            accepted=("input", "stages", "block", "split"),
            required=("stages",),
        )
        block, split = data.get("block"), data.get("split")
        return cls(
            stages=tuple(StageDatapath.from_json(stage) for stage in data["stages"]),
            input=as_format(data.get("input", "Q1.15"), name="input"),
            block=None if block is None else BlockScaling.from_json(block),
            split=None if split is None else StageDatapath.from_json(split),
        )


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bits(bits: Any) -> int:
    if not _whole(bits) or not 2 <= bits <= _MOST_WORD:
        raise FormatError(
            f"bits is {bits!r}: data words have 2 to {_MOST_WORD} bits, so that products fit "
            f"64-bit arithmetic."
        )
    return int(bits)


def _overflow(text: str) -> Overflow:
    return _member(Overflow, text, "overflow")


def _member(kind: Any, value: Any, name: str) -> Any:
    if isinstance(value, kind):
        return value
    accepted = [member.value for member in kind]
    if value not in accepted:
        raise InputError(f"{name} is {value!r}; accepted: {', '.join(accepted)}.")
    return kind(value)
