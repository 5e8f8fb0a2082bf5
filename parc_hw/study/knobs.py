"""What can be turned in a study, per subject, and which values does each knob take?

A point of a study is a value for every knob that matters to it. The same words stand in the
specification, in the journal, in the tables and in the plots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from parc_hw.models import names

__all__ = ["KNOBS", "Knob", "Values", "canonical", "varied"]

#: Knob names and their values, plain data.
Values = dict[str, Any]

ROUNDINGS: Final = ("floor", "toward_zero", "half_up", "half_even", "half_away")
OVERFLOWS: Final = ("saturate", "wrap")
PROFILES: Final = ("none", "cmsis_q15", "cmsis_q31", "kissfft_16", "kissfft_32")


@dataclass(frozen=True, slots=True)
class Knob:
    """One knob: its name, its values, and what it does.

    Parameters
    ----------
    name : str
    text : str
        For people: what it sets, with its unit.
    default : object
        The value of a point that says nothing of it.
    low, high : int or None
        The range of a knob of whole numbers.
    choices : tuple of str
        The words of a knob of words.
    also : callable or None
        Further values that are accepted: returns the value in its one form, or None.
    also_text : str
        What they are, for messages.
    """

    name: str
    text: str
    default: Any
    low: int | None = None
    high: int | None = None
    choices: tuple[str, ...] = ()
    also: Callable[[Any], Any] | None = None
    also_text: str = ""

    @property
    def is_width(self) -> bool:
        """Whether it is a number of bits that costs more the larger it is."""
        return self.name.endswith("_bits") and self.low is not None and self.low >= 0

    @property
    def accepted(self) -> str:
        """The values it takes, for messages."""
        parts = [f"whole numbers {self.low} to {self.high}"] if self.low is not None else []
        parts += [", ".join(self.choices)] if self.choices else []
        return " or ".join([*parts, *([self.also_text] if self.also_text else [])])

    def check(self, value: Any) -> Any:
        """Return `value` in its one form.

        Raises
        ------
        ValueError
            It is none of the knob's; the message says what is accepted.
        """
        whole = isinstance(value, int) and not isinstance(value, bool)
        if self.low is not None and self.high is not None and whole:
            if self.low <= value <= self.high:
                return value
        elif isinstance(value, str) and value in self.choices:
            return value
        if self.also is not None and (found := self.also(value)) is not None:
            return found
        raise ValueError(f"{self.name} is {value!r}; accepted: {self.accepted}")


def _shifts(value: Any) -> list[int] | None:
    """A list of shifts, one per stage."""
    if not isinstance(value, list) or not value:
        return None
    whole = all(type(shift) is int and 0 <= shift <= 8 for shift in value)
    return list(value) if whole else None


def _split(value: Any) -> str | None:
    """The two-level split N1xN2."""
    if isinstance(value, str) and re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", value):
        return value
    return None


def _radices(value: Any) -> list[int] | None:
    """A list of radices, first stage first."""
    if isinstance(value, list) and value and all(radix in (2, 3, 4, 5, 7) for radix in value):
        return list(value)
    return None


def _width(name: str, text: str, default: int, low: int = 2, high: int = 32) -> Knob:
    return Knob(name, text, default, low, high)


_LENGTH = Knob("length", "N, points of a line", 56, 1, 65536)
_SCALING = Knob(
    "scaling",
    "bits dropped per transform stage",
    "half",
    choices=("half", "none", "growing", "block"),
    also=_shifts,
    also_text="a list of shifts 0 to 8, one per stage",
)
_RADICES = Knob(
    "radices",
    "radices of the stages, first stage first",
    "default",
    choices=("default",),
    also=_radices,
    also_text="a list of 2, 3, 4, 5 and 7",
)
_ROUNDING = Knob("rounding", "what happens to dropped bits", "half_even", choices=ROUNDINGS)
_OVERFLOW = Knob("overflow", "what happens to what does not fit", "saturate", choices=OVERFLOWS)
_PRODUCT = Knob(
    "product",
    "one rounding of product and sum, or the product first",
    "once",
    choices=("once", "first"),
)

_PARC = (
    _LENGTH,
    Knob(
        "plan",
        "how the circular correlation is computed",
        "direct",
        choices=("direct", "fft", "ntt"),
        also=_split,
        also_text="N1xN2, the two-level split",
    ),
    _width("data_bits", "bits of a word of the data, sign included", 16),
    _width("kernel_bits", "bits of a word of the kernel or of its spectrum", 16),
    _width("twiddle_bits", "bits of a twiddle factor, or of a split's constants", 16, 3),
    Knob("guard_bits", "fraction bits kept through the transforms beyond the data's", 0, 0, 24),
    _width("embedding_bits", "bits of a position embedding's words; 0: as the data", 0, 0),
    _width("bias_bits", "bits of a bias; 0: as the data", 0, 0),
    _width("accumulator_bits", "bits of the register that sums products; 0 is exact", 0, 0, 64),
    Knob("data_int_bits", "integer bits of the data, sign included", 1, -16, 32),
    _ROUNDING,
    _OVERFLOW,
    _SCALING,
    _PRODUCT,
    _RADICES,
)
_FFT = (
    _LENGTH,
    Knob("profile", "a library's own transform, or none", "none", choices=PROFILES),
    _width("data_bits", "bits of a word of the data, sign included", 16),
    _width("twiddle_bits", "bits of a twiddle factor", 16, 3),
    _ROUNDING,
    _OVERFLOW,
    _SCALING,
    _PRODUCT,
    _RADICES,
    Knob("decimation", "in frequency or in time", "dif", choices=("dif", "dit")),
)
_MODEL = (
    Knob("model", "a network of the zoo", "parc_canvas", choices=tuple(names())),
    Knob("arithmetic", "real or whole numbers", "integer", choices=("float", "integer")),
    _width("weight_bits", "bits of a weight", 8, 2, 16),
    _width("activation_bits", "bits of an activation", 8, 2, 16),
    Knob(
        "calibration",
        "how a scale is found from calibration data",
        "minmax",
        choices=("minmax", "percentile", "mse"),
    ),
    Knob("rounding", "what happens to dropped bits", "half_up", choices=ROUNDINGS),
)

#: Knobs of each subject, by name, in the order in which tables show them.
KNOBS: Final[Mapping[str, Mapping[str, Knob]]] = {
    subject: {knob.name: knob for knob in knobs}
    for subject, knobs in (("parc", _PARC), ("fft", _FFT), ("model", _MODEL))
}

_ONLY_FFT: Final = {"twiddle_bits", "guard_bits", "scaling", "product", "radices"}
_IDLE: Final[Mapping[str, set[str]]] = {"direct": _ONLY_FFT, "ntt": _ONLY_FFT, "fft": set()}


def canonical(subject: str, values: Mapping[str, Any]) -> Values:
    """Return the point with a value for every knob that matters to it, in the knobs' order.

    >>> list(canonical("fft", {"profile": "cmsis_q15", "length": 64, "data_bits": 9}))
    ['length', 'profile']
    """
    knobs = KNOBS[subject]
    full = {name: values.get(name, knob.default) for name, knob in knobs.items()}
    ignored: set[str] = set()
    if subject == "fft" and full["profile"] != "none":
        ignored = knobs.keys() - {"length", "profile"}
    elif subject == "fft":
        ignored = {"profile"}
    elif subject == "parc":
        ignored = {"accumulator_bits"} if full["plan"] != "direct" else set()
        ignored |= _IDLE.get(full["plan"], _ONLY_FFT - {"twiddle_bits", "guard_bits"})
        ignored |= {name for name in ("embedding_bits", "bias_bits") if not full[name]}
    elif full["arithmetic"] == "float":
        ignored = knobs.keys() - {"model", "arithmetic"}
    return {name: value for name, value in full.items() if name not in ignored}


def varied(points: Iterable[Values]) -> list[str]:
    """Return the knobs that differ between points, in the order in which they first come.

    >>> varied([{"length": 7, "data_bits": 8}, {"length": 7, "data_bits": 9}])
    ['data_bits']
    """
    names: dict[str, set[str]] = {}
    some = False
    for point in points:
        some = some or "profile" not in point
        for name, value in point.items():
            names.setdefault(name, set()).add(str(value))
    # A library's profile may be all that tells its points from the others.
    return [n for n, values in names.items() if len(values) > 1 or (n == "profile" and some)]
