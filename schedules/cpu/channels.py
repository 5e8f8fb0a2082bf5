"""Which vectors cover the channels of a pixel, when every channel is computed on its own?

Blocks of one width; where the width does not divide the channels the last block reaches back
over its neighbour and computes some channels twice, to the same bits. One width means one copy
of the code, and an overlapping full vector costs no more than a narrow one. Not for sums over
channels, and not for kernels that write over their own input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from schedules.tir import Emitter

__all__ = ["ChannelBlocks"]


@dataclass(frozen=True, slots=True)
class ChannelBlocks:
    """Blocks of `lanes` channels, a power of two, that cover `channels`.

    >>> blocks = ChannelBlocks.cover(24, 16)
    >>> blocks.lanes, blocks.starts
    (16, (0, 8))
    >>> ChannelBlocks.cover(3, 16).starts
    (0, 1)
    """

    channels: int
    lanes: int

    @classmethod
    def cover(cls, channels: int, lanes: int) -> ChannelBlocks:
        """Blocks as wide as the device's vectors, or the widest that `channels` fill."""
        while lanes > channels:
            lanes //= 2
        return cls(channels, lanes)

    @property
    def count(self) -> int:
        """Number of blocks."""
        return -(-self.channels // self.lanes)

    @property
    def starts(self) -> tuple[int, ...]:
        """First channel of each block."""
        last = self.channels - self.lanes
        return tuple(min(i * self.lanes, last) for i in range(self.count))

    def start(self, e: Emitter, block: Any) -> Any:
        """First channel of block number `block`, an expression."""
        if self.channels % self.lanes == 0:
            return block * self.lanes
        return e.minimum(block * self.lanes, self.channels - self.lanes)

    def pack(self, table: NDArray[Any]) -> NDArray[np.float32]:
        """Rows of a table (channels, ...) as vectors: flat, in the order [block][...][lane]."""
        rows = table.reshape(self.channels, -1)
        blocks = [rows[start : start + self.lanes].T for start in self.starts]
        return np.ascontiguousarray(np.stack(blocks), dtype=np.float32).reshape(-1)
