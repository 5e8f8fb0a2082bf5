r"""What is a program on disk, and is the one at hand whole, and meant for this machine?

0   8  "PARCACC\0"            16  4  instructions       64  8  bytes of ROM contents
8   4  version, 1            20  4  constants          72  8  bytes of metadata (JSON)
12  4  words, 80             24  32 description hash   80     instructions, ROM, constants
                             56  8  external bytes            (offset, size, data), metadata
the last 4 bytes: CRC-32 of everything before
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

import numpy as np

from parc_hw.accel.checks import check_program
from parc_hw.accel.description import Description
from parc_hw.accel.encoding import WORDS, decode, encode
from parc_hw.errors import InputError
from parc_hw.isa import Instruction

__all__ = ["MAGIC", "MOST_EXTERNAL", "VERSION", "Program"]

MAGIC: Final = b"PARCACC\0"
VERSION: Final = 1
MOST_EXTERNAL: Final = 1 << 31
"""Addresses have 31 bits."""

_HEADER: Final = struct.Struct("<8sIIII32sQQQ")
_CONSTANT: Final = struct.Struct("<QQ")


@dataclass(frozen=True, kw_only=True)
class Program:
    """Instructions, what is in ROM, and what is in external memory before they run.

    Parameters
    ----------
    instructions : tuple of Instruction
    description_hash : bytes
        `Description.hash` of the machine that it was made for.
    external_bytes : int
        Size of the external memory that it uses; at most 2 GiB.
    rom : bytes
    constants : tuple of (int, bytes)
        Contents of external memory: (first byte, data), in ascending order, apart from each other.
    metadata : mapping
        What JSON can hold: names and formats of inputs and outputs, names of tags. Nothing in it
        changes what the program computes.

    Raises
    ------
    InputError
        A size out of range, or constants outside the memory or on top of each other.
    """

    instructions: tuple[Instruction, ...]
    description_hash: bytes
    external_bytes: int
    rom: bytes = b""
    constants: tuple[tuple[int, bytes], ...] = ()
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "instructions", tuple(self.instructions))
        object.__setattr__(self, "constants", tuple((int(a), bytes(b)) for a, b in self.constants))
        if len(self.description_hash) != 32:
            raise InputError(
                f"description_hash has {len(self.description_hash)} bytes; expected the 32 of "
                f"Description.hash."
            )
        if not 0 <= self.external_bytes <= MOST_EXTERNAL:
            raise InputError(
                f"external_bytes is {self.external_bytes}; accepted: 0 to {MOST_EXTERNAL}, which "
                f"addresses of 31 bits reach."
            )
        at = 0
        for offset, data in self.constants:
            if offset < at or offset + len(data) > self.external_bytes:
                raise InputError(
                    f"a constant of {len(data)} bytes at {offset} lies outside the external memory "
                    f"of {self.external_bytes} bytes, or on the constant before, which ends at "
                    f"{at}."
                )
            at = offset + len(data)

    def check(self, description: Description) -> None:
        """Raise unless the program is for this machine and never leaves its memories.

        Raises
        ------
        InputError
            Another description's program; or an instruction that is not right: says which.
        UnsupportedError
            It needs a unit, a radix or a function that the machine does not have.
        """
        if self.description_hash != description.hash:
            raise InputError(
                f"the program was made for another description: its hash is "
                f"{self.description_hash.hex()[:16]}, and that of {description.name} is "
                f"{description.hash.hex()[:16]}. Compile again for {description.name}."
            )
        if len(self.rom) > description.rom.bytes:
            raise InputError(
                f"the program's tables have {len(self.rom)} bytes, and the ROM of "
                f"{description.name} has {description.rom.bytes} (rom.bytes)."
            )
        check_program(self.instructions, description, self.external_bytes, self.rom)

    def new_external(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """External memory with the constants in it, zeros elsewhere."""
        memory = np.zeros(self.external_bytes, np.uint8)
        for offset, data in self.constants:
            memory[offset : offset + len(data)] = np.frombuffer(data, np.uint8)
        return memory

    @cached_property
    def words(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """The encoded instructions, shape (count, 80)."""
        return encode(self.instructions)

    def to_bytes(self) -> bytes:
        """The program as a file holds it; equal programs give equal bytes."""
        metadata = json.dumps(self.metadata, sort_keys=True, separators=(",", ":")).encode()
        parts = [
            _HEADER.pack(
                MAGIC, VERSION, WORDS, len(self.instructions), len(self.constants),
                self.description_hash, self.external_bytes, len(self.rom), len(metadata),
            ),
            self.words.astype("<i4").tobytes(),
            self.rom,
        ]  # fmt: skip
        for offset, data in self.constants:
            parts += [_CONSTANT.pack(offset, len(data)), data]
        body = b"".join([*parts, metadata])
        return body + struct.pack("<I", zlib.crc32(body))

    @classmethod
    def from_bytes(cls, data: bytes, description: Description | None = None) -> Program:
        """Read a program, and `check` it against a description if there is one.

        Raises
        ------
        InputError
            No program, of another version, truncated, corrupt, with an undefined instruction, or
            as `check`.
        UnsupportedError
            As `check`.
        """
        if len(data) < _HEADER.size + 4 or not data.startswith(MAGIC):
            what = "has no magic number" if len(data) >= len(MAGIC) else f"has {len(data)} bytes"
            raise InputError(f"this is no accelerator program: it {what}. Compile one.")
        _, version, words, count, constants, digest, external, rom, metadata = _HEADER.unpack_from(
            data
        )
        if (version, words) != (VERSION, WORDS):
            raise InputError(
                f"the program has version {version} with instructions of {words} words; this "
                f"version reads {VERSION} with {WORDS}. Compile it again."
            )
        body, crc = data[:-4], struct.unpack("<I", data[-4:])[0]
        reader = _Reader(body, _HEADER.size)
        code = reader.take(4 * WORDS * count, f"its {count} instructions")
        tables = reader.take(rom, "its tables")
        held = []
        for _ in range(constants):
            offset, size = _CONSTANT.unpack(reader.take(_CONSTANT.size, "a constant's place"))
            held.append((offset, reader.take(size, "a constant")))
        text = reader.take(metadata, "its metadata")
        if reader.left:
            raise InputError(
                f"the program is corrupt: {reader.left} bytes stand behind its end. Copy or "
                f"compile it again."
            )
        if zlib.crc32(body) != crc:
            raise InputError(
                "the program is corrupt: its checksum (CRC-32) is wrong. Copy or compile it again."
            )
        try:
            plain = json.loads(text)
            if not isinstance(plain, dict):
                raise ValueError("no object")
        except ValueError as error:
            raise InputError(f"the program's metadata is no JSON object: {error}.") from None
        table = np.frombuffer(code, "<i4").astype(np.int32).reshape(count, WORDS)
        program = cls(
            instructions=tuple(decode(table)),
            description_hash=digest,
            external_bytes=external,
            rom=tables,
            constants=tuple(held),
            metadata=plain,
        )
        if description is not None:
            program.check(description)
        return program


class _Reader:
    def __init__(self, data: bytes, at: int) -> None:
        self._data, self._at = data, at

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int, what: str) -> bytes:
        if count > self.left:
            raise InputError(
                f"the program is truncated: {what} need {count} bytes, and {self.left} are left. "
                f"Copy or compile it again."
            )
        self._at += count
        return self._data[self._at - count : self._at]
