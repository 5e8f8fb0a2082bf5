"""When does a kernel fetch ahead, take several vectors at once, or write past the caches?

Only on x86-64, where it was measured. Planes (NCHW, `Traffic.of`), of which the L2 cache does not
hold input and output:

- Up to `FAR_BYTES` the points of the next task are fetched while those of this one are transformed,
  and vectors go in pairs: two neighbouring lines are what the processor fetches at a time.
- Beyond that, all columns of a plane go together, so that memory is read and written in long runs,
  and results that are whole cache lines are stored without being read into the cache first
  (non-temporal stores). Such a map does not stay in the L2 cache for its reader, whichever way
  it is written.

Pixels (NHWC, `Traffic.of_pixels`), where other vectors lie between the points of one:

- While the L2 cache holds input and output, nothing is fetched ahead. With vectors as wide as a
  cache line, of lines that are not short: where the L1 cache does not hold the weights of all
  vectors, all lines of one vector come before the next one's, so that its weights stay, and two
  vectors go together where all points of a line fall into one set of the L1 cache. Two go
  together also in plans with products of two points, of whose stages LLVM otherwise makes one
  piece, with more values than registers.
- Up to `FAR_BYTES`, the points of the next vector are fetched into the L2 cache. Those of the next
  line would come too early: the cache is full.
- Beyond that the next line's are fetched, and results are stored past the caches.
  Along the height all vectors of a pixel go together; along the width, where points are
  neighbours in memory, two, whose weights stay near.

Where nothing of this applies a kernel works on one vector from its first point to its last,
which keeps everything but the map itself in the L1 cache. Numbers never depend on it.

Medians for 96 channels in NHWC on one core with AVX-512 and 2 MiB of L2, in us, one process for each
column, all of them interleaved. By lines with one vector, and by this rule: 28 x 28 16.5 and 13.5 (H
and W), 192 channels 36 and 26; 32 x 32 20.9 and 18.2 (H); 40 x 40 32 and 30. With pairs and the next
line fetched, and by this rule: 56 x 56 109 and 88 (H), 104 and 91 (W); compiled for AVX2 181
and 139, 139 and 125. 112 x 112 with all vectors together, and by this rule: 634 and 581 (W). Blocks
first loses 20 % with the half lines of AVX2 (40 x 40), and their non-temporal stores take three times
as long as others.
"""

from __future__ import annotations

from dataclasses import dataclass

from parc_hw.device import Device, Isa
from parc_hw.plan import SplitPlan

__all__ = ["Traffic"]

L2_BYTES = 2 * 2**20  # assumed where a device does not tell
FAR_BYTES = 4 * 2**20  # of input and output: 2.4 MB lose or tie by streaming, 9.6 MB gain
LONG = 24  # points; shorter lines gain nothing by what is done for their weights
SET_BYTES = 4096  # addresses so far apart share a set of the L1 cache, on every such processor
WEIGHT_BYTES = 32 * 2**10  # of all vectors, beyond which the L1 cache loses them
SWEEP_BYTES = 256 * 2**10  # of scratch memory at once: a part of the L2 cache on every such device


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How a kernel moves its map between memory and registers.

    Parameters
    ----------
    vectors : int
        How many neighbouring vectors go through the stages together, a divisor of those there are.
    by_blocks : bool
        Whether all lines of some vectors come before the next vectors of a line.
    near : bool
        Whether to fetch the points of the next vector ahead, into the L2 cache.
    fetches : bool
        Whether to fetch the points of the next line ahead, into the L2 cache.
    streams : bool
        Whether results are stored past the caches. Needs an output that is aligned to lines,
        which a kernel finds out when it runs.

    Examples
    --------
    >>> from parc_hw.device import load_device
    >>> def of(side, name="x86-64-v4"):
    ...     device = load_device(name)
    ...     return Traffic.of(
    ...         device, elements=96 * side**2, vectors=96 // device.lanes(),
    ...         length=side, lanes=device.lanes(), whole_lines=True)
    >>> of(28)
    Traffic(vectors=1, by_blocks=False, near=False, fetches=False, streams=False)
    >>> of(56)
    Traffic(vectors=2, by_blocks=False, near=False, fetches=True, streams=False)
    >>> of(112)
    Traffic(vectors=6, by_blocks=False, near=False, fetches=True, streams=True)
    >>> def of_pixels(n1, n2, axis, name="x86-64-v4"):
    ...     device, plan = load_device(name), SplitPlan(n1=n1, n2=n2)
    ...     return Traffic.of_pixels(
    ...         device, elements=96 * plan.length**2, vectors=96 // device.lanes(),
    ...         channels=96, lanes=device.lanes(), whole_lines=True, plan=plan,
    ...         step=plan.length if axis == "H" else 1)
    >>> of_pixels(7, 2, "H")
    Traffic(vectors=1, by_blocks=False, near=False, fetches=False, streams=False)
    >>> of_pixels(8, 5, "H")
    Traffic(vectors=1, by_blocks=True, near=False, fetches=False, streams=False)
    >>> of_pixels(8, 4, "H")
    Traffic(vectors=2, by_blocks=True, near=False, fetches=False, streams=False)
    >>> of_pixels(14, 4, "H")
    Traffic(vectors=1, by_blocks=False, near=True, fetches=False, streams=False)
    >>> of_pixels(16, 7, "W")
    Traffic(vectors=2, by_blocks=False, near=False, fetches=True, streams=True)
    >>> of_pixels(16, 7, "W", "x86-64-v3")
    Traffic(vectors=12, by_blocks=False, near=False, fetches=True, streams=False)
    >>> of_pixels(16, 7, "W", "cortex-a76")
    Traffic(vectors=1, by_blocks=False, near=False, fetches=False, streams=False)
    """

    vectors: int = 1
    by_blocks: bool = False
    near: bool = False
    fetches: bool = False
    streams: bool = False

    @classmethod
    def of(
        cls,
        device: Device,
        *,
        elements: int,
        vectors: int,
        length: int,
        lanes: int,
        whole_lines: bool,
    ) -> Traffic:
        """The rule for planes.

        Parameters
        ----------
        device : Device
            Instruction set, cache and line.
        elements : int
            Of the input, as many as of the output; float32.
        vectors : int
            Neighbouring vectors that could go together.
        length, lanes : int
            Points of a line and elements of a vector.
        whole_lines : bool
            Whether every vector begins at a multiple of its own size in an aligned output.
        """
        moved = 2 * 4 * elements
        if device.isa is not Isa.X86_64 or moved <= (device.l2_bytes or L2_BYTES):
            return cls()
        if moved <= FAR_BYTES:
            return cls(vectors=_pairs(vectors), fetches=True)
        streams = whole_lines and 4 * lanes == device.line_bytes
        return cls(vectors=_sweep(vectors, length, lanes), fetches=True, streams=streams)

    @classmethod
    def of_pixels(
        cls,
        device: Device,
        *,
        elements: int,
        vectors: int,
        channels: int,
        lanes: int,
        whole_lines: bool,
        plan: SplitPlan,
        step: int,
    ) -> Traffic:
        """The rule for pixels.

        Parameters
        ----------
        device, elements, vectors, lanes, whole_lines
            As for `of`.
        channels : int
            Elements of a pixel.
        plan : SplitPlan
            What is computed.
        step : int
            Pixels from one point of a line to the next.
        """
        length = plan.length
        moved = 2 * 4 * elements
        if device.isa is not Isa.X86_64:
            return cls()
        if moved <= (device.l2_bytes or L2_BYTES):
            weights = plan.n1 * (2 * plan.n2 - 1) + length  # and start values
            long = length >= LONG and 4 * lanes == device.line_bytes
            by_blocks = long and 4 * lanes * weights * vectors > WEIGHT_BYTES
            in_one_set = by_blocks and 4 * channels * step % SET_BYTES == 0
            merged = long and plan.n2 == 2
            together = _pairs(vectors) if in_one_set or merged else 1
            return cls(vectors=together, by_blocks=by_blocks)
        if moved <= FAR_BYTES:
            return cls(near=True)
        streams = whole_lines and 4 * lanes == device.line_bytes
        together = _pairs(vectors) if step == 1 and streams else _sweep(vectors, length, lanes)
        return cls(vectors=together, fetches=True, streams=streams)


def _pairs(vectors: int) -> int:
    """Two together, if that divides them."""
    return 2 if vectors % 2 == 0 else 1


def _sweep(vectors: int, length: int, lanes: int) -> int:
    """As many together as divide them and find room."""
    most = max(1, SWEEP_BYTES // (4 * length * lanes))
    return max(n for n in range(1, min(vectors, most) + 1) if vectors % n == 0)
