"""What is in a weights file?

64 bytes of header, then the packed constants of the kernels. All numbers are little-endian:

| offset | bytes | holds |
|---|---|---|
| 0 | 8 | the magic `PARC_HW` and a zero byte |
| 8 | 4 | version of this format, 1 |
| 12 | 4 | bytes of the header, 64 |
| 16 | 8 | bytes of the file |
| 24 | 4 | CRC-32 (zlib's) of everything after the header |
| 28 | 4 | 0 |
| 32 | 32 | SHA-256 that names the build of the kernels the constants are packed for |
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

__all__ = ["HEADER_BYTES", "format_bytes", "pack_weights", "weights_as_c"]

HEADER_BYTES = 64
_MAGIC = b"PARC_HW\0"
_VERSION = 1


def format_bytes(size_bytes: int) -> bytes:
    """The first 24 bytes of a file of `size_bytes` bytes, which the library expects as they are."""
    return struct.pack("<8sIIQ", _MAGIC, _VERSION, HEADER_BYTES, size_bytes)


def pack_weights(payload: bytes, build: bytes) -> bytes:
    """The weights file for a payload; `build` is the 32-byte name of the library's build."""
    payload += bytes(-len(payload) % 4)  # whole words, so that it can also be a C array
    head = format_bytes(HEADER_BYTES + len(payload))
    return head + struct.pack("<II32s", zlib.crc32(payload), 0, build) + payload


def weights_as_c(data: bytes, name: str, generated: str) -> Iterator[str]:
    """C text, in pieces, that defines the weights file as the array `NAME_weights`."""
    yield f'/* {generated} */\n#include "{name}.h"\n\n'
    yield f"const uint32_t {name}_weights[{name}_WEIGHTS_BYTES / 4] __attribute__((aligned(64))) = {{\n"
    for start in range(0, len(data), 32):
        words = struct.unpack_from(f"<{len(data[start : start + 32]) // 4}I", data, start)
        yield ", ".join(f"0x{word:x}u" for word in words) + ",\n"
    yield "};\n"
