"""When does a kernel fetch ahead, take several vectors at once, or write past the caches?

Only on x86-64, where it was measured, and only for maps that the L2 cache does not hold:

- Up to `FAR_BYTES` of input and output together, the points of the next task are fetched while
  those of this one are transformed, and vectors go in pairs: two neighbouring lines of a pixel are
  what the processor fetches at a time.
- Beyond that, all vectors of a pixel (NHWC) or all columns of a plane (NCHW) go together, so that
  memory is read and written in long runs, and results that are whole cache lines are stored
  without being read into the cache first (non-temporal stores). Such a map does not stay in the
  L2 cache for its reader, whichever way it is written.

Where nothing of this applies a kernel works on one vector from its first point to its last,
which keeps everything but the map itself in the L1 cache. Numbers never depend on it.

Medians for 96 channels in NHWC on one core with AVX-512 and 2 MiB of L2, before and after, in ms:
56 x 56 .20 and .14 (H), .17 and .13 (W); 112 x 112 2.5 and .79, 1.5 and .79; 224 x 224 14 and 5.1,
6.1 and 4.1. There, without non-temporal stores: 1.0, .83, 7.3, 4.5. With the half lines that
AVX2 stores, non-temporal stores take three times as long as others.
"""

from __future__ import annotations

from dataclasses import dataclass

from parc_hw.device import Device, Isa

__all__ = ["Traffic"]

L2_BYTES = 2 * 2**20  # assumed where a device does not tell
FAR_BYTES = 4 * 2**20  # of input and output: 2.4 MB lose or tie by streaming, 9.6 MB gain
SWEEP_BYTES = 256 * 2**10  # of scratch memory at once: a part of the L2 cache on every such device


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """How a kernel moves its map between memory and registers.

    Parameters
    ----------
    vectors : int
        How many neighbouring vectors go through the stages together, a divisor of those there are.
    fetches : bool
        Whether to fetch ahead.
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
    Traffic(vectors=1, fetches=False, streams=False)
    >>> of(56)
    Traffic(vectors=2, fetches=True, streams=False)
    >>> of(112)
    Traffic(vectors=6, fetches=True, streams=True)
    >>> of(112, "x86-64-v3")
    Traffic(vectors=12, fetches=True, streams=False)
    >>> of(112, "cortex-a76")
    Traffic(vectors=1, fetches=False, streams=False)
    """

    vectors: int = 1
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
        """The rule of this module.

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
            return cls(vectors=2 if vectors % 2 == 0 else 1, fetches=True)
        most = max(1, SWEEP_BYTES // (4 * length * lanes))
        together = max(n for n in range(1, min(vectors, most) + 1) if vectors % n == 0)
        streams = whole_lines and 4 * lanes == device.line_bytes
        return cls(vectors=together, fetches=True, streams=streams)
