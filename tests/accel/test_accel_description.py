"""Descriptions: the four of the package, and every error of a file with its line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from parc_hw.accel.description import (
    FIELDS,
    description_names,
    load_description,
    parse_description,
)
from parc_hw.cli.main import main
from parc_hw.errors import InputError
from parc_hw.isa import Queue

FOLDER = Path(__file__).parents[2] / "parc_hw" / "accel" / "descriptions"
TEXT = (FOLDER / "edge-npu.toml").read_text()


def line(text, key):
    """The number of the line on which a key stands."""
    return next(n for n, each in enumerate(text.splitlines(), 1) if each.startswith(key))


def test_four_descriptions_are_shipped():
    assert description_names() == ["edge-npu", "fft-heavy", "fpga-small", "tiny"]
    machines = {name: load_description(name) for name in description_names()}
    assert {name: machine.mac.count for name, machine in machines.items()} == {
        "edge-npu": 1024,
        "fft-heavy": 256,
        "fpga-small": 192,
        "tiny": 1,
    }
    assert len({machine.hash for machine in machines.values()}) == 4
    assert all(machine.butterfly.units for machine in machines.values())


def test_the_zynq_description_shares_out_its_220_slices():
    machine = load_description("fpga-small")
    slices = machine.mac.count + 12 * machine.butterfly.units + 4 * machine.complex.units
    assert slices + machine.vector.lanes == 220
    # 48-bit accumulators in block RAMs of 36 Kibit, scratchpad and ROM in ones of 4 KiB
    rams = (
        machine.accumulator.words * 48 // 36864
        + (machine.scratchpad.bytes + machine.rom.bytes) // 4096
    )
    assert rams <= 140


def test_every_key_has_a_unit_and_a_meaning():
    for keys in FIELDS.values():
        for field in keys.values():
            assert field.unit
            assert field.meaning


def test_the_hash_changes_with_every_number_but_not_with_the_name():
    machine = load_description("edge-npu")
    assert replace(machine, name="other", title="Another").hash == machine.hash
    for part, keys in FIELDS.items():
        table = getattr(machine, part)
        for key in keys:
            changed = replace(machine, **{part: replace(table, **{key: getattr(table, key) + 1})})
            assert changed.hash != machine.hash, (part, key)


@pytest.mark.parametrize(
    ("old", "new", "at", "message"),
    [
        ("schema = 1", "schema = 2", "schema", "this version reads schema = 1"),
        ('name = "edge-npu"', 'name = "a b"', "name", "accepted: letters, digits"),
        ('title = "', 'titel = "', "titel", "has no key 'titel'. Did you mean title"),
        ("rows = 32", "rows = 0", "rows", "mac.rows is 0; accepted: whole numbers from 1 to 4096"),
        ("rows = 32", "rows = 3.5", "rows", "mac.rows is 3.5; accepted: whole numbers"),
        ("rows = 32", "rows = true", "rows", "mac.rows is True"),
        ("rows = 32", "row = 32", "row", "has no key 'row'. Did you mean rows"),
        ("rows = 32\n", "", "[mac]", "mac.rows is missing; accepted"),
        ("banks = 32", "banks = 33", "banks", "accepted: powers of two"),
        ("bytes_per_cycle = 16", "bytes_per_cycle = 0", "bytes_per_cycle", "bytes_per_cycle is 0"),
        ("7 = 6", "6 = 6", "6 = 6", "has no key '6'"),
        ("activate = 2", "activate = 0", "activate", "vector.cycles.activate is 0"),
        ("activate = 2", "gelu = 2", "gelu", "has no key 'gelu'"),
        ("[rom]", "[ron]", "[ron]", "has no key 'ron'"),
        # numbers that contradict each other
        (
            "accumulator_bits = 48",
            "accumulator_bits = 12",
            "accumulator_bits",
            "a product of two words of 8 bits has 16; accepted: 16 to 64",
        ),
        ("words = 65_536", "words = 1000", "words", "32 x 32 sums; accepted: at least 1024"),
        (
            "bytes = 1_048_576",
            "bytes = 2048",
            "bytes = 2048",
            "one tile needs 3072",
        ),
        (
            "bytes = 1_048_576",
            "bytes = 1_048_577",
            "bytes = 1_048_577",
            "accepted: multiples of 1024",
        ),
        ("width_bytes = 64", "width_bytes = 2048", "width_bytes = 2048", "accepted: 1 to 1024"),
        ("bytes = 262_144", "bytes = 0", "bytes = 0", "butterflies need twiddle factors"),
        ("requantise = 1\n", "", "[vector.cycles]", "lacks requantise"),
    ],
)
def test_errors_name_line_and_accepted_values(old, new, at, message):
    assert TEXT.count(old) == 1
    text = TEXT.replace(old, new)
    with pytest.raises(InputError) as caught:
        parse_description(text, where="mine.toml")
    lines = str(caught.value).splitlines()
    wanted = [each for each in lines if message in each]
    assert wanted, lines
    assert wanted[0].startswith(f"mine.toml:{line(text, at)}: ")


def test_all_errors_of_a_file_come_at_once():
    text = TEXT.replace("rows = 32", "rows = 0").replace("ports = 2", "ports = 9")
    with pytest.raises(InputError) as caught:
        parse_description(text, where="mine.toml")
    assert len(str(caught.value).splitlines()) == 2


def test_machines_without_transforms_are_machines():
    text = TEXT.replace("units = 8 #", "units = 0 #").replace("units = 16", "units = 0")
    machine = parse_description(text, where="mine.toml")
    assert machine.butterfly.units == machine.complex.units == 0
    with pytest.raises(InputError, match=r"complex\.units is 0, and butterfly\.units is 8"):
        parse_description(TEXT.replace("units = 16", "units = 0"), where="mine.toml")
    without = TEXT[: TEXT.index("2 = 1\n3 = 2")] + TEXT[TEXT.index("[complex]") :]
    with pytest.raises(InputError, match="names no radix"):
        parse_description(without, where="mine.toml")


def test_names_and_files_that_do_not_exist(tmp_path):
    with pytest.raises(
        InputError, match=r"no accelerator is called 'edge-nup'. Did you mean edge-npu"
    ):
        load_description("edge-nup")
    with pytest.raises(InputError, match="cannot be read"):
        load_description(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("[mac\n")
    with pytest.raises(InputError, match="not valid TOML"):
        load_description(tmp_path / "bad.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        load_description(tmp_path / "bytes.toml")


def test_queue_depths_are_in_the_order_of_the_queues():
    machine = load_description("tiny")
    assert machine.queues.depths == (2,) * len(Queue)


def test_accel_check_shows_what_a_description_says(capsys, tmp_path):
    assert main(["accel", "check", "edge-npu"]) == 0
    out = capsys.readouterr().out
    assert "1,024 GOP/s" in out
    assert "Nothing contradicts" in out
    bad = tmp_path / "bad.toml"
    bad.write_text(TEXT.replace("rows = 32", "rows = 0"))
    assert main(["accel", "check", str(bad)]) == 2
    assert f"bad.toml:{line(TEXT, 'rows')}: mac.rows is 0" in capsys.readouterr().err.replace(
        "\n", ""
    )
