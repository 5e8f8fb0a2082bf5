"""Which symbols does an object file show, and how are all but the wanted ones hidden?

Works on little-endian ELF of 32 and 64 bits without any tool: the objects of `ld -r`, of LLVM and
of zig (whose objcopy cannot localise) go through the same code. Written after the ELF gABI,
chapters "Symbol Table" and "Sections".
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from parc_hw.errors import InputError

__all__ = ["code_bytes", "defined_globals", "localise", "undefined_symbols"]

_SHT_SYMTAB, _SHT_RELA, _SHT_NOBITS, _SHT_REL = 2, 4, 8, 9
_SHT_DYNSYM, _SHT_GROUP, _SHT_SYMTAB_SHNDX = 11, 17, 18
_SHT_LLVM_ADDRSIG = 0x6FFF4C03
_SHF_ALLOC = 2
_SHN_UNDEF, _SHN_COMMON = 0, 0xFFF2
_ET_REL, _ET_DYN = 1, 3


@dataclass(slots=True)
class _Section:
    """A section header; the fields are in the order of the 64- and the 32-bit table alike."""

    name: int
    type: int
    flags: int
    address: int
    offset: int
    size: int
    link: int
    info: int
    alignment: int
    entry_size: int

    def fields(self) -> tuple[int, ...]:
        return (
            self.name,
            self.type,
            self.flags,
            self.address,
            self.offset,
            self.size,
            self.link,
            self.info,
            self.alignment,
            self.entry_size,
        )


@dataclass(frozen=True, slots=True)
class _Symbol:
    """One entry of a symbol table."""

    name: str
    local: bool
    section: int  # SHN_UNDEF: another object defines it


class _Elf:
    """The section headers and one symbol table of an ELF file held in memory."""

    def __init__(self, data: bytes, *, table: int) -> None:
        self.data = bytearray(data)
        try:
            self._read(table)
        except (struct.error, IndexError, UnicodeDecodeError, ValueError) as error:
            if isinstance(error, InputError):
                raise
            raise InputError(
                f"malformed ELF file of {len(data)} bytes: a table points outside the file "
                f"({error}). It may be truncated; build it again."
            ) from None

    def _read(self, table: int) -> None:
        data = self.data
        if data[:4] != b"\x7fELF" or len(data) < 52:
            raise InputError(
                f"not an ELF file: it begins with {bytes(data[:4])!r}; an object file of the "
                "target's compiler is needed."
            )
        if data[5] != 1 or data[4] not in (1, 2):
            raise InputError(
                f"this ELF file has class {data[4]} and byte order {data[5]}; accepted are "
                "classes 1 and 2 (32 and 64 bits) in byte order 1 (little-endian)."
            )
        self.wide = data[4] == 2
        (self.type,) = struct.unpack_from("<H", data, 16)
        (self.table_offset,) = struct.unpack_from(
            "<Q" if self.wide else "<I", data, 40 if self.wide else 32
        )
        self.stride, count = struct.unpack_from("<HH", data, 58 if self.wide else 46)
        self.header = struct.Struct("<IIQQQQIIQQ" if self.wide else "<IIIIIIIIII")
        if self.table_offset == 0:
            raise InputError(
                "this ELF file has no section headers; an unstripped object is needed."
            )
        if count == 0:  # more sections than the field holds: the number is in section 0
            count = self._section(0).size
        self.sections = [self._section(index) for index in range(count)]
        tables = [s for s in self.sections if s.type == table]
        if len(tables) != 1:
            raise InputError(
                f"this ELF file has {len(tables)} symbol tables of type {table}; one is needed. "
                "Was it stripped?"
            )
        (self.symtab,) = tables
        self.symtab_index = self.sections.index(self.symtab)
        self.symbol_bytes = 24 if self.wide else 16
        self.strings = self.sections[self.symtab.link]
        self.symbol_count = self.symtab.size // self.symbol_bytes
        self.symbols = [self._symbol(index) for index in range(self.symbol_count)]

    def _section(self, index: int) -> _Section:
        return _Section(
            *self.header.unpack_from(self.data, self.table_offset + index * self.stride)
        )

    def _symbol(self, index: int) -> _Symbol:
        at = self.symtab.offset + index * self.symbol_bytes
        (name,) = struct.unpack_from("<I", self.data, at)
        start = self.strings.offset + name
        end = self.data.index(0, start, self.strings.offset + self.strings.size)
        (section,) = struct.unpack_from("<H", self.data, at + (6 if self.wide else 14))
        return _Symbol(
            name=self.data[start:end].decode(),
            local=self.data[at + self.info_offset] >> 4 == 0,
            section=section,
        )

    @property
    def info_offset(self) -> int:
        """Where st_info lies in a symbol."""
        return 4 if self.wide else 12

    def words(self, section: _Section, count: int) -> tuple[int, ...]:
        """The first `count` 32-bit words of a section."""
        return struct.unpack_from(f"<{count}I", self.data, section.offset)

    def store(self, section: _Section, index: int) -> None:
        """Write a section header back."""
        self.header.pack_into(self.data, self.table_offset + index * self.stride, *section.fields())

    def renumber(self, section: _Section, new: list[int]) -> None:
        """Point the relocations of one REL or RELA section at the reordered symbols."""
        code, place, shift = ("<Q", 8, 32) if self.wide else ("<I", 4, 8)
        mask = (1 << shift) - 1
        for at in range(section.offset, section.offset + section.size, section.entry_size):
            (info,) = struct.unpack_from(code, self.data, at + place)
            symbol = new[info >> shift]
            struct.pack_into(code, self.data, at + place, symbol << shift | info & mask)


def localise(data: bytes, *, keep: Collection[str]) -> bytes:
    """Make every symbol that a relocatable object defines local, except the names in `keep`.

    Two libraries then link into one program whatever their helpers are called. Symbols keep
    their names, so that profilers and debuggers still show them.

    Parameters
    ----------
    data : bytes
        A relocatable little-endian ELF file.
    keep : collection of str
        The names that stay global; each must be defined.

    Returns
    -------
    bytes
        The same file with bindings changed; its size is unchanged.

    Raises
    ------
    InputError
        Not such a file, malformed, a name of `keep` that it does not define, or a common
        (tentative) symbol, which has no place that a local symbol could name.

    Notes
    -----
    A symbol table lists its locals first, so the table is reordered; `sh_info`, relocations,
    group signatures and extended section indices follow. LLVM's address-significance table is
    turned into plain data: it only allows a linker to merge equal functions.
    """
    elf = _Elf(data, table=_SHT_SYMTAB)
    if elf.type != _ET_REL:
        raise InputError(
            f"this ELF file has type {elf.type}, not 1: only a relocatable object can be localised."
        )
    missing = sorted(set(keep) - {s.name for s in elf.symbols if s.section != _SHN_UNDEF})
    if missing:
        raise InputError(
            f"the object does not define {', '.join(missing)}, which must stay global."
        )
    try:
        _hide(elf, keep)
    except (struct.error, IndexError, ZeroDivisionError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"malformed ELF file of {len(data)} bytes: a relocation or group names something "
            f"that is not there ({error}). Build it again."
        ) from None
    return bytes(elf.data)


def _hide(elf: _Elf, keep: Collection[str]) -> None:
    size, table = elf.symbol_bytes, elf.symtab
    entries = []
    local = []
    for index, symbol in enumerate(elf.symbols):
        at = table.offset + index * size
        entry = bytearray(elf.data[at : at + size])
        hide = not symbol.local and symbol.section != _SHN_UNDEF and symbol.name not in keep
        if hide and symbol.section == _SHN_COMMON:
            raise InputError(
                f"{symbol.name} is a common symbol and cannot be made local; compile with -fno-common."
            )
        if hide:
            entry[elf.info_offset] &= 15  # binding STB_LOCAL, same type
        entries.append(entry)
        local.append(hide or symbol.local)
    order = sorted(range(len(entries)), key=lambda index: not local[index])  # stable
    new = [0] * len(order)
    for position, index in enumerate(order):
        new[index] = position
    elf.data[table.offset : table.offset + size * len(order)] = b"".join(
        entries[index] for index in order
    )
    table.info = sum(local)
    for index, section in enumerate(elf.sections):
        if section.link == elf.symtab_index:
            if section.type in (_SHT_REL, _SHT_RELA):
                elf.renumber(section, new)
            elif section.type == _SHT_GROUP:
                section.info = new[section.info]
            elif section.type == _SHT_SYMTAB_SHNDX:
                values = elf.words(section, len(order))
                struct.pack_into(
                    f"<{len(order)}I", elf.data, section.offset, *(values[i] for i in order)
                )
            elif section.type == _SHT_LLVM_ADDRSIG:
                section.type, section.link = 1, 0  # SHT_PROGBITS
        elf.store(section, index)


def _globals(data: bytes) -> Iterator[_Symbol]:
    """Global and weak symbols of an object, or the dynamic ones of a shared library."""
    shared = len(data) > 18 and struct.unpack_from("<H", data, 16)[0] == _ET_DYN
    elf = _Elf(data, table=_SHT_DYNSYM if shared else _SHT_SYMTAB)
    return (symbol for symbol in elf.symbols if not symbol.local)


def defined_globals(data: bytes) -> set[str]:
    """Names that an object (or, dynamically, a shared library) offers to others."""
    return {symbol.name for symbol in _globals(data) if symbol.section != _SHN_UNDEF}


def undefined_symbols(data: bytes) -> set[str]:
    """Names that an object (or, dynamically, a shared library) needs from others."""
    return {s.name for s in _globals(data) if s.section == _SHN_UNDEF and s.name}


def code_bytes(data: bytes) -> int:
    """Bytes of an object that end up in the loaded program: instructions and constants."""
    elf = _Elf(data, table=_SHT_SYMTAB)
    return sum(
        s.size for s in elf.sections if s.flags & _SHF_ALLOC and s.type not in (_SHT_NOBITS,)
    )
