"""Symbols of object files, against pyelftools and the linker."""

from __future__ import annotations

import io
import struct
from pathlib import Path

import pytest
from elftools.elf.elffile import ELFFile

from parc_hw.artifact.elf import code_bytes, defined_globals, localise, undefined_symbols
from parc_hw.artifact.toolchain import find_toolchain
from parc_hw.device import load_device
from parc_hw.errors import InputError

SOURCE = """
int shared = 3;
static int own(int v) { return v * shared; }
extern int missing(int);
int helper(int v) { return own(v) + missing(v); }
__attribute__((weak)) int weak(int v) { return helper(v); }
int net_run(int v) { return helper(v) + weak(v) + shared; }
__asm__(".section .text.grouped,\\"axG\\",%progbits,grouped,comdat\\n"
        ".globl grouped\\n.type grouped,%function\\ngrouped: .long 0\\n.text\\n");
"""
TARGETS = [
    "host",
    pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


def compiled(target: str, where: Path, source: str = SOURCE) -> bytes:
    """An object for `target`."""
    find_toolchain(load_device(target)).compile_object(source, where / "net.o")
    return (where / "net.o").read_bytes()


def symbols(data: bytes) -> dict[str, tuple[str, str]]:
    """Binding and section of each named symbol, as pyelftools reads them."""
    table = ELFFile(io.BytesIO(data)).get_section_by_name(".symtab")
    return {
        s.name: (s["st_info"]["bind"], str(s["st_shndx"])) for s in table.iter_symbols() if s.name
    }


def relocations(data: bytes) -> list[tuple[str, int, int, str]]:
    """Section, place, type and symbol name of every relocation, as pyelftools reads them."""
    elf = ELFFile(io.BytesIO(data))
    table = elf.get_section_by_name(".symtab")
    found = []
    for section in elf.iter_sections():
        if section["sh_type"] in ("SHT_REL", "SHT_RELA"):
            for entry in section.iter_relocations():
                symbol = table.get_symbol(entry["r_info_sym"])
                name = symbol.name or f"section {symbol['st_shndx']}"
                found.append((section.name, entry["r_offset"], entry["r_info_type"], name))
    return found


@pytest.mark.parametrize("target", TARGETS)
def test_only_the_kept_names_stay_global(target, tmp_path):
    before = compiled(target, tmp_path)
    after = localise(before, keep=["net_run"])
    assert defined_globals(after) == {"net_run"}
    assert undefined_symbols(after) == undefined_symbols(before) >= {"missing"}
    binding = {name: bind for name, (bind, _) in symbols(after).items()}
    assert binding["helper"] == binding["weak"] == binding["shared"] == "STB_LOCAL"
    assert binding["net_run"] == "STB_GLOBAL"


@pytest.mark.parametrize("target", TARGETS)
def test_relocations_name_the_same_symbols_as_before(target, tmp_path):
    before = compiled(target, tmp_path)
    after = localise(before, keep=["net_run"])
    assert relocations(after) == relocations(before)
    assert {n: s for n, (_, s) in symbols(after).items()} == {
        n: s for n, (_, s) in symbols(before).items()
    }


@pytest.mark.parametrize("target", TARGETS)
def test_locals_come_first_as_linkers_demand(target, tmp_path):
    elf = ELFFile(io.BytesIO(localise(compiled(target, tmp_path), keep=["net_run"])))
    table = elf.get_section_by_name(".symtab")
    bindings = [s["st_info"]["bind"] for s in table.iter_symbols()]
    first = table["sh_info"]
    assert set(bindings[:first]) == {"STB_LOCAL"}
    assert "STB_LOCAL" not in bindings[first:]


@pytest.mark.parametrize("target", TARGETS)
def test_a_group_keeps_its_signature(target, tmp_path):
    elf = ELFFile(io.BytesIO(localise(compiled(target, tmp_path), keep=["net_run"])))
    (group,) = (s for s in elf.iter_sections() if s["sh_type"] == "SHT_GROUP")
    assert elf.get_section_by_name(".symtab").get_symbol(group["sh_info"]).name == "grouped"


def test_localising_twice_changes_nothing(tmp_path):
    once = localise(compiled("host", tmp_path), keep=["net_run"])
    assert localise(once, keep=["net_run"]) == once


def test_more_sections_than_the_header_can_count(tmp_path):
    # 0xff00 sections and more: their number is in section 0, symbols' sections in a table.
    lines = [line for i in range(0xFF10) for line in (f".section .t{i}", f"f{i}: .long 0")]
    text = r"\n".join([*lines, ".globl f65290", ".text"])
    source = f'int net_run(void) {{ return 1; }}\n__asm__("{text}\\n");'
    before = compiled("host", tmp_path, source)
    after = localise(before, keep=["net_run"])
    assert defined_globals(before) == {"net_run", "f65290"}
    assert defined_globals(after) == {"net_run"}
    table = ELFFile(io.BytesIO(after)).get_section_by_name(".symtab_shndx")
    elf = ELFFile(io.BytesIO(after))
    places = {
        s.name: table.get_section_index(number)
        for number, s in enumerate(elf.get_section_by_name(".symtab").iter_symbols())
        if s.name == "f65290"
    }
    assert elf.get_section(places["f65290"]).name == ".t65290"


def test_dynamic_symbols_of_a_shared_library(tmp_path):
    tools = find_toolchain(load_device("host"))
    tools.compile_object("int net_run(int v) { return v; }", tmp_path / "net.o")
    tools.link_shared([tmp_path / "net.o"], tmp_path / "libnet.so")
    assert defined_globals((tmp_path / "libnet.so").read_bytes()) == {"net_run"}


def test_code_bytes_counts_what_is_loaded(tmp_path):
    data = compiled("host", tmp_path, "const char table[1000] = {1}; char room[5000];")
    assert 1000 <= code_bytes(data) < 1200


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "not an ELF file"),
        (b"!<arch>\n" + bytes(100), "not an ELF file"),
        (b"\x7fELF" + bytes([2, 2]) + bytes(100), r"byte order 2.*little-endian"),
        (b"\x7fELF" + bytes([3, 1]) + bytes(100), "class 3"),
        (b"\x7fELF" + bytes([2, 1]) + bytes(100), "no section headers"),
    ],
)
def test_other_files_are_refused(data, message):
    with pytest.raises(InputError, match=message):
        localise(data, keep=[])


def test_every_truncation_is_refused(tmp_path):
    data = compiled("host", tmp_path)
    for size in range(0, len(data), 97):
        with pytest.raises(InputError, match=r"not an ELF|malformed|no section headers"):
            localise(data[:size], keep=["net_run"])


def test_a_relocation_to_no_symbol_is_refused(tmp_path):
    data = bytearray(compiled("host", tmp_path))
    section = ELFFile(io.BytesIO(bytes(data))).get_section_by_name(".rela.text")
    struct.pack_into("<Q", data, section["sh_offset"] + 8, 9999 << 32)
    with pytest.raises(InputError, match="not there"):
        localise(bytes(data), keep=["net_run"])


def test_a_kept_name_must_be_defined(tmp_path):
    with pytest.raises(InputError, match="does not define net_init, which must stay global"):
        localise(compiled("host", tmp_path), keep=["net_run", "net_init"])


def test_a_common_symbol_is_refused(tmp_path):
    data = compiled("host", tmp_path, '__asm__(".comm loose,4,4");')
    with pytest.raises(InputError, match=r"loose is a common symbol.*-fno-common"):
        localise(data, keep=[])


def test_a_linked_library_is_refused(tmp_path):
    tools = find_toolchain(load_device("host"))
    tools.compile_object("int net_run(int v) { return v; }", tmp_path / "net.o")
    tools.link_shared([tmp_path / "net.o"], tmp_path / "libnet.so")
    with pytest.raises(InputError, match="only a relocatable object"):
        localise((tmp_path / "libnet.so").read_bytes(), keep=[])
