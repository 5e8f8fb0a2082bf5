"""Is every described device complete, sourced and legal, and is every other text refused?"""

from __future__ import annotations

import dataclasses
import json
import tomllib

import pytest

from parc_hw.device import NUMBERS, Device, Isa, device_names, load_device, parse_device
from parc_hw.errors import InputError

NAMES = [name for name in device_names() if name != "host"]
CPUS = [name for name in NAMES if load_device(name).core is None]
BOARDS = [name for name in NAMES if load_device(name).core is not None]

GOOD = """
name = "box"
title = "A box"
isa = "armv7a"
triple = "armv7a-linux-gnueabihf"
cpu = "cortex-a7"
features = ["+neon"]
float_abi = "hard"
gnu_triple = "arm-linux-gnueabihf"
zig_target = "arm-linux-musleabihf"
zig_cpu = "cortex_a7"
vector_bits = 128
vector_registers = 16

[sources]
vector_bits = "the manual"
vector_registers = "the manual"
l1d_bytes = "unknown"
l2_bytes = "unknown"
l3_bytes = "unknown"
line_bytes = "unknown"
cores = "unknown"
clock_hz = "unknown"
"""


def parse(text):
    return parse_device(text, where="box.toml")


def test_the_devices_of_the_design_are_described():
    assert set(NAMES) >= {
        "x86-64", "x86-64-v3", "x86-64-v4", "znver4",
        "aarch64-generic", "cortex-a53", "cortex-a55", "cortex-a72", "cortex-a76",
        "neoverse-n1", "neoverse-v1", "cortex-a7", "cortex-a17",
        "rpi4", "rk3399", "rk3288",
    }  # fmt: skip
    assert device_names()[0] == "host"
    assert device_names()[1:] == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_number_has_a_source_and_only_a_missing_one_is_unknown(name):
    device = load_device(name)
    assert set(device.sources) == set(NUMBERS)
    for number in NUMBERS:
        assert (getattr(device, number) is None) == device.sources[number].startswith("unknown")


def test_every_number_of_a_device_is_one_that_needs_a_source():
    """A new numeric field must join NUMBERS; the alignment is our own contract, not a fact."""
    numeric = {f.name for f in dataclasses.fields(Device) if "int" in str(f.type)}
    assert numeric == set(NUMBERS)


@pytest.mark.parametrize("name", NAMES)
def test_a_device_survives_json_and_hashes_like_its_copy(name):
    device = load_device(name)
    copy = Device.from_json(json.loads(json.dumps(device.to_json())))
    assert copy == device
    assert hash(copy) == hash(device)


@pytest.mark.parametrize("name", NAMES)
def test_vectors_and_registers_are_those_of_the_instruction_set(name):
    device = load_device(name)
    expected = {
        "x86-64": (4, 16),
        "x86-64-v3": (8, 16),
        "x86-64-v4": (16, 32),
        "znver4": (16, 32),
    }.get(name, (4, 16 if device.isa is Isa.ARMV7A else 32))
    assert (device.lanes(), device.vector_registers) == expected
    assert device.lanes(16) == 2 * device.lanes()


@pytest.mark.parametrize("name", BOARDS)
def test_a_board_runs_its_core_s_code_and_knows_its_own_caches(name):
    board, core = load_device(name), load_device(load_device(name).core)
    for key in ("isa", "triple", "cpu", "gnu_triple", "qemu", "qemu_cpu", "vector_registers"):
        assert getattr(board, key) == getattr(core, key)
    assert None not in (board.l1d_bytes, board.l2_bytes, board.line_bytes, board.cores)
    assert board.clock_hz is not None


def test_big_and_little_cores_of_a_board_have_the_same_instructions():
    """Code for the RK3399's Cortex-A72 must not fault when Linux moves it to a Cortex-A53."""
    assert load_device("rk3399").core == "cortex-a72"
    assert load_device("cortex-a72").cpu_flags == load_device("cortex-a53").cpu_flags


@pytest.mark.parametrize("name", CPUS)
def test_a_core_states_no_number_that_its_soc_decides(name):
    device = load_device(name)
    assert device.cores is None
    assert device.clock_hz is None


def test_a_minimal_description_is_accepted():
    device = parse(GOOD)
    assert device.isa is Isa.ARMV7A
    assert device.features == ("+neon",)
    assert device.llvm_target() == {
        "kind": "llvm",
        "mtriple": "armv7a-linux-gnueabihf",
        "mcpu": "cortex-a7",
        "mattr": ["+neon"],
        "mfloat-abi": "hard",
        "cl-opt": [
            "-unroll-threshold-aggressive:uint=150",
            "-unroll-max-percent-threshold-boost:uint=100",
        ],
    }


@pytest.mark.parametrize(
    "old, new, message",
    [
        ('name = "box"', "name = box", r"box\.toml is not valid TOML: .*line 2"),
        ('cpu = "cortex-a7"', 'cpuu = "cortex-a7"', "unknown key 'cpuu'. Did you mean cpu"),
        ('cpu = "cortex-a7"', "", "box.toml: missing cpu"),
        ("vector_bits = 128", "", "box.toml: missing vector_bits"),
        ('cpu = "cortex-a7"', "cpu = 7", "device box: cpu is 7; accepted: a text"),
        ('cpu = "cortex-a7"', 'cpu = ""', "device box: cpu is ''; accepted: a text"),
        ('"armv7a"', '"arm"', "isa is 'arm'; accepted: x86_64, aarch64, armv7a"),
        ('["+neon"]', '"+neon"', r"features is '\+neon'; accepted: a list of texts"),
        ('["+neon"]', '["neon"]', r"features is \('neon',\); accepted: .* begin with \+ or -"),
        ('["+neon"]', "[1]", r"features is \(1,\); accepted: a list of texts"),
        ('"hard"', '"soft"', "float_abi is 'soft'; accepted: \"hard\" for armv7a"),
        ("= 128", "= 100", "vector_bits is 100; accepted: 64, 128, 256, 512"),
        ("= 128", '= "128"', "vector_bits is '128'; accepted: a whole number of at least 1"),
        ("= 16", "= 4", "vector_registers is 4; accepted: at least 8"),
        ("= 16", "= 16\nline_bytes = 48", "line_bytes is 48; accepted: a power of two"),
        ("= 16", "= 16\ncores = 0", "cores is 0; accepted: a whole number of at least 1"),
        ("= 16", "= 16\ncores = true", "cores is True; accepted: a whole number"),
        ("= 16", "= 16\nl1d_bytes = 32e3", "l1d_bytes is 32000.0; accepted: a whole number"),
        ("= 16", "= 16\nqemu = 1", "qemu is 1; accepted: a text, or nothing"),
        ("= 16", "= 16\ncores = 4", "cores is 4, but its source is 'unknown'. Name the document"),
        ('cores = "unknown"', 'cores = "the manual"', "an origin for cores, but the number is"),
        ('cores = "unknown"', "", r"\[sources\]: missing cores"),
        ('cores = "unknown"', "cores = 4", "sources is .*; accepted: a table of texts"),
        ('cores = "unknown"', 'core = "unknown"', r"\[sources\]: unknown key 'core'"),
        ("= 16", '= 16\ncore = "box"', "a board's core is a CPU, not the board itself"),
        ("= 16", '= 16\ncore = "rk3288"', "core is 'rk3288', which is a board; name its CPU, 'c"),
        ("= 16", '= 16\ncore = "cortex-a99"', "no target is called 'cortex-a99'. Did you mean"),
    ],
)
def test_a_wrong_description_is_refused_with_file_key_and_what_is_accepted(old, new, message):
    assert old in GOOD
    with pytest.raises(InputError, match=message):
        parse(GOOD.replace(old, new, 1))


def test_a_float_abi_on_an_architecture_without_choice_is_refused():
    text = GOOD.replace('"armv7a"', '"aarch64"', 1)
    with pytest.raises(InputError, match="float_abi is 'hard'; accepted: \"hard\" for armv7a"):
        parse(text)


def test_an_unknown_target_is_refused_with_the_nearest_names():
    with pytest.raises(InputError, match=r"no target is called 'rk3289'\. Did you mean rk3288"):
        load_device("rk3289")


def test_a_file_of_ones_own_is_a_target(tmp_path):
    file = tmp_path / "other.toml"
    file.write_text(GOOD)
    assert load_device(file) == load_device(str(file)) == parse(GOOD)
    file.write_text(GOOD.replace("= 16", "= 12"))
    assert load_device(file).vector_registers == 12, "a file is read again each time"


def test_a_board_of_ones_own_takes_the_rest_from_its_core(tmp_path):
    file = tmp_path / "board.toml"
    file.write_text(
        'name = "board"\ntitle = "A board"\ncore = "cortex-a53"\nl2_bytes = 524_288\n'
        '[sources]\nl1d_bytes = "unknown"\nl2_bytes = "its datasheet"\n'
        'l3_bytes = "unknown"\ncores = "unknown"\nclock_hz = "unknown"\n'
    )
    board, core = load_device(file), load_device("cortex-a53")
    assert board.l2_bytes == 524_288
    assert (board.cpu, board.vector_registers) == (core.cpu, core.vector_registers)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = box", r"own\.toml is not valid TOML: .*line 1"),
        (b"\xff\xfe", r"own\.toml is not valid TOML, which is UTF-8"),
        (GOOD.replace("cpu =", "cpuu =", 1), r"own\.toml: unknown key 'cpuu'. Did you mean cpu"),
        (GOOD.replace("= 128", "= 100", 1), r"own\.toml: device box: vector_bits is 100; accepted"),
        (GOOD.replace("armv7a", "arm", 1), r"own\.toml: isa is 'arm'; accepted: x86_64, aarch64"),
        (
            GOOD.replace('"box"', '"cortex-a7"', 1),
            r"own\.toml: name is 'cortex-a7', which is a device of parc_hw; accepted: any other",
        ),
        (GOOD.replace('"box"', '"host"', 1), "name is 'host', which is a device of parc_hw"),
        (
            GOOD.replace('"box"', '"a */ b"', 1),
            r"own\.toml: .*name is 'a \*/ b'; accepted: letters, digits and any of",
        ),
    ],
)
def test_a_wrong_file_of_ones_own_is_refused_with_its_path(text, message, tmp_path):
    file = tmp_path / "own.toml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError, match=message):
        load_device(file)


def test_a_file_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"none\.toml cannot be read: No such file"):
        load_device(tmp_path / "none.toml")
    (tmp_path / "dir.toml").mkdir()
    with pytest.raises(InputError, match=r"dir\.toml cannot be read: Is a directory"):
        load_device(str(tmp_path / "dir.toml"))


def test_a_path_without_the_ending_is_taken_for_a_name(tmp_path):
    with pytest.raises(InputError, match=r"no target is called .*or the path of a \.toml file"):
        load_device(tmp_path / "box")


def test_foreign_json_is_refused_by_key():
    data = load_device("rpi4").to_json()
    with pytest.raises(InputError, match="device rpi4: unknown key 'watts'"):
        Device.from_json({**data, "watts": 5})
    del data["triple"]
    with pytest.raises(InputError, match="device rpi4: missing triple"):
        Device.from_json(data)


def test_the_files_are_plain_toml_in_utf_8(repository):
    files = list((repository / "parc_hw" / "devices").iterdir())
    assert sorted(f.name for f in files) == sorted(f"{name}.toml" for name in NAMES)
    for file in files:
        assert tomllib.loads(file.read_text(encoding="utf-8"))["name"] == file.stem
