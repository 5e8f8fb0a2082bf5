"""By how much is each stage of a transform scaled, and is that fixed or decided frame by frame?"""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fixedpoint.errors import ScalingError
from fixedpoint.modes import Rounding, parse_rounding, rounding_code
from parc_hw.errors import InputError, check_keys
from parc_hw.plan import FftPlan

__all__ = ["BlockRule", "BlockScaling", "ScalingSchedule"]


@dataclass(frozen=True, slots=True)
class ScalingSchedule:
    """Bits by which each stage scales down, and by which its words widen.

    Parameters
    ----------
    shifts : tuple of int
        One per stage, in order of execution: the stage's result is divided by 2**shift.
    growth : tuple of int, optional
        One per stage: its output words have so many bits more than its input words. None: 0.

    Raises
    ------
    ScalingError
        Not one whole number per stage, a negative one, or tuples of different length.

    Examples
    --------
    >>> plan = FftPlan(radices=(4, 2, 7))
    >>> ScalingSchedule.half(plan).shifts
    (2, 1, 3)
    >>> ScalingSchedule.growing(plan)
    ScalingSchedule(shifts=(0, 0, 0), growth=(3, 1, 3))
    """

    shifts: tuple[int, ...]
    growth: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        if self.growth is None:
            with contextlib.suppress(TypeError):  # what `shifts` should be is said below
                object.__setattr__(self, "growth", (0,) * len(self.shifts))
        for name in ("shifts", "growth"):
            values = getattr(self, name)
            whole = (
                isinstance(values, Sequence)
                and not isinstance(values, str)
                and all(isinstance(v, int) and not isinstance(v, bool) and v >= 0 for v in values)
            )
            if not whole:
                raise ScalingError(
                    f"{name} is {values!r}: expected one whole number of bits, at least 0, per "
                    f"stage, such as (1, 1, 0)."
                )
            object.__setattr__(self, name, tuple(values))
        if len(self.shifts) != len(self.widening):
            raise ScalingError(
                f"shifts {self.shifts} are {len(self.shifts)} stages and growth {self.widening} "
                f"are {len(self.widening)}."
            )

    @property
    def widening(self) -> tuple[int, ...]:
        """`growth`, with a zero per stage where none was given."""
        assert self.growth is not None
        return self.growth

    @property
    def total_shift(self) -> int:
        """The result is the transform divided by 2**total_shift."""
        return sum(self.shifts)

    def check(self, plan: FftPlan) -> None:
        """Raise unless there is one shift per stage of `plan`.

        >>> ScalingSchedule((1, 1)).check(FftPlan.of(7))
        Traceback (most recent call last):
        ...
        fixedpoint.errors.ScalingError: the scaling schedule (1, 1) has 2 shifts, and dif 7, \
natural to natural has 1 stage. Give 1, in order of execution, for example (3,).
        """
        stages = len(plan.radices)
        if len(self.shifts) != stages:
            example = ScalingSchedule.half(plan).shifts
            raise ScalingError(
                f"the scaling schedule {self.shifts} has {len(self.shifts)} shifts, and {plan} "
                f"has {stages} stage{'s' * (stages != 1)}. Give {stages}, in order of execution, "
                f"for example {example}."
            )

    @classmethod
    def half(cls, plan: FftPlan) -> ScalingSchedule:
        """As many bits as a stage can add to a magnitude: 1 for radix 2, 2 for 3 and 4, 3 for 5, 7.

        No frame of complex magnitudes up to full scale overflows.
        """
        return cls(tuple((radix - 1).bit_length() for radix in plan.radices))

    @classmethod
    def none(cls, plan: FftPlan) -> ScalingSchedule:
        """No shift: for words with headroom, or for the inverse of scaled words."""
        return cls((0,) * len(plan.radices))

    @classmethod
    def growing(cls, plan: FftPlan) -> ScalingSchedule:
        """No shift, and words that widen so that nothing overflows, whatever the input.

        By `half`'s bits per stage, and one more at the first: both parts of a number may be full
        scale, and a rotation then makes one of them larger by sqrt(2).
        """
        growth = list(cls.half(plan).shifts)
        if growth:
            growth[0] += 1
        return cls((0,) * len(growth), tuple(growth))

    @classmethod
    def parse(cls, text: str, plan: FftPlan) -> ScalingSchedule:
        """Read "half", "none", "growing", or shifts such as "2,1,3".

        >>> ScalingSchedule.parse("2,1,0", FftPlan.of(56)).shifts
        (2, 1, 0)
        """
        named = {"half": cls.half, "none": cls.none, "growing": cls.growing}
        if text in named:
            return named[text](plan)
        parts = text.split(",") if isinstance(text, str) else []
        if not parts or not all(part.strip().isdecimal() for part in parts):
            raise ScalingError(
                f"scaling {text!r} is not understood; accepted are half, none, growing and one "
                f"shift per stage with commas, such as "
                f"{','.join(map(str, cls.half(plan).shifts)) or '(nothing)'}."
            )
        schedule = cls(tuple(int(part) for part in parts))
        schedule.check(plan)
        return schedule

    def to_json(self) -> dict[str, list[int]]:
        """A plain dictionary that `from_json` turns back into an equal schedule."""
        return {"shifts": list(self.shifts), "growth": list(self.widening)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ScalingSchedule:
        """Rebuild a schedule from `to_json`'s dictionary."""
        check_keys("scaling schedule", data, accepted=("shifts", "growth"), required=("shifts",))
        return cls(**data)


class BlockRule(enum.Enum):
    """From what is a frame's shift decided?"""

    PEAK = "peak"  # the smallest shift with which no input of this peak can overflow the stage
    OR_BITS = "or_bits"  # the bits below the sign in the OR of all magnitudes (ac_dsp)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockScaling:
    """Block floating point: one exponent per frame, shifts decided by the frame's own words.

    A stage divides every word of the frame by 2**shift, where it rounds anyway or before it begins.

    Parameters
    ----------
    rule : BlockRule
        PEAK looks before every stage at the largest part p: the shift is the smallest with
        (p / 2**shift + 1) * g within the words, where g is the most by which the stage can grow a
        part. OR_BITS looks before every group of G stages of radix 2 at the G bits below the
        sign in the OR of x or ~x (whichever is not negative) over the frame: the lowest of them
        says whether the group's first stage halves, the next one whether the second does, and so
        on; the first group always halves.
    normalise : bool
        Shift the input up first until its peak meets the rule's limit.
    early : bool
        Divide before the stage, as cores do that shift what they read from their memory: an own
        rounding, whose noise the stage then amplifies. If not, the stage's `sum` and `product`
        drop so many bits more, and each word is rounded once. OR_BITS is early.
    rounding : Rounding
        Of the bits that an early shift drops.
    counter_bits : int or None
        OR_BITS: the shift up is counted in a signed register of so many bits; where that wraps to
        a negative count the frame stays as it is. None: a register that is wide enough.
    """

    rule: BlockRule = BlockRule.PEAK
    normalise: bool = True
    early: bool = False
    rounding: Rounding = Rounding.HALF_EVEN
    counter_bits: int | None = None

    def __post_init__(self) -> None:
        counter = self.counter_bits
        if counter is not None and not (isinstance(counter, int) and 1 <= counter <= 64):
            raise InputError(f"counter_bits is {counter!r}: accepted are 1 to 64, or None.")
        if not isinstance(self.rule, BlockRule):
            accepted = [rule.value for rule in BlockRule]
            if self.rule not in accepted:
                raise InputError(f"rule is {self.rule!r}; accepted: {', '.join(accepted)}.")
            object.__setattr__(self, "rule", BlockRule(self.rule))
        for name in ("normalise", "early"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name} is {getattr(self, name)!r}: expected True or False.")
        if self.rule is BlockRule.OR_BITS and not self.early:
            raise InputError(
                "rule or_bits divides before every stage: set early=True, or take the rule peak."
            )
        rounding_code(self.rounding)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal rule."""
        return {**asdict(self), "rule": self.rule.value, "rounding": self.rounding.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockScaling:
        """Rebuild a rule from `to_json`'s dictionary.

        >>> BlockScaling.from_json(BlockScaling().to_json()) == BlockScaling()
        True
        """
        check_keys("block scaling", data, accepted=cls.__dataclass_fields__)
        fields = dict(data)
        if isinstance(fields.get("rounding"), str):
            fields["rounding"] = parse_rounding(fields["rounding"])
        return cls(**fields)
