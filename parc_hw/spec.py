"""What is computed: which circular correlation, over which shape, with which constants?"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from parc_hw.errors import InputError, check_keys

__all__ = ["Axis", "ParcSpec"]


class Axis(enum.Enum):
    """The axis along which the kernel runs: H is tensor axis -2 of NCHW, W is axis -1.

    The Fast-ParC paper calls the H case "horizontal", the EdgeFormer paper calls it
    "vertical"; the official code says `type == 'H'`. The axis is unambiguous.

    >>> Axis("W").dim
    3
    """

    H = "H"
    W = "W"

    @classmethod
    def _missing_(cls, value: object) -> Axis:
        raise InputError(
            f"axis must be H (tensor axis -2) or W (tensor axis -1) of NCHW, not {value!r}."
        )

    @property
    def dim(self) -> int:
        """The axis's number in an NCHW tensor: 2 or 3."""
        return 2 if self is Axis.H else 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ParcSpec:
    """One ParC: `y[i] = b + sum_k w[k] * (x[(i+k) mod N] + pe[(i+k) mod N])` along `axis`.

    Parameters
    ----------
    axis : Axis
        H or W. The length N of the correlation is the input's extent along it.
    batch, channels, height, width : int
        The input's shape (B, C, H, W), each at least 1.
    out_channels : int or None
        None: depthwise, one kernel per channel. A number: dense (equation 4), kernels
        of shape (out_channels, channels, N).
    position_embedding, bias : bool
        Whether the operator has them. They are constants at inference and fold into
        the start values of the accumulators.

    Raises
    ------
    InputError
        An extent below 1, an axis that is not an `Axis`, a flag that is not a bool.

    References
    ----------
    Fast-ParC, equations 2 to 4 (`docs/operator.md`).

    Examples
    --------
    ParC along H on the 14 x 14 stage of ParC-ConvNeXt-XT:

    >>> spec = ParcSpec(axis=Axis.H, batch=1, channels=96, height=14, width=14)
    >>> spec.length, spec.lines, spec.macs
    (14, 14, 263424)
    >>> ParcSpec.from_json(spec.to_json()) == spec
    True
    """

    axis: Axis
    batch: int
    channels: int
    height: int
    width: int
    out_channels: int | None = None
    position_embedding: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.axis, Axis):
            raise InputError(f"axis must be Axis.H or Axis.W, not {self.axis!r}.")
        for name in ("batch", "channels", "height", "width", "out_channels"):
            value = getattr(self, name)
            if name == "out_channels" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, not {value!r}.")
        for name in ("position_embedding", "bias"):
            value = getattr(self, name)
            if not isinstance(value, bool):
                raise InputError(f"{name} must be True or False, not {value!r}.")

    @property
    def length(self) -> int:
        """N: how many points the kernel and the correlated axis have."""
        return self.height if self.axis is Axis.H else self.width

    @property
    def lines(self) -> int:
        """How many independent lines each channel holds: batch times the other extent."""
        return self.batch * (self.width if self.axis is Axis.H else self.height)

    @property
    def depthwise(self) -> bool:
        """One kernel per channel, no sum over channels."""
        return self.out_channels is None

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the direct form."""
        outputs = self.lines * self.length * (self.out_channels or self.channels)
        return outputs * self.length * (1 if self.depthwise else self.channels)

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` turns back into an equal spec."""
        return {**asdict(self), "axis": self.axis.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ParcSpec:
        """Rebuild a spec from `to_json`'s dictionary.

        Raises
        ------
        InputError
            A key is unknown or missing, or a value is not acceptable.
        """
        check_keys(
            "ParC spec",
            data,
            accepted=[f.name for f in fields(cls)],
            required=("axis", "batch", "channels", "height", "width"),
        )
        return cls(**{**data, "axis": Axis(data["axis"])})
