"""Which description does `host` mean on a given machine?"""

from __future__ import annotations

import platform

import pytest

from parc_hw import device
from parc_hw.device import host_name, load_device, runs_on
from parc_hw.errors import UnsupportedError

V2 = "fpu sse sse2 cx16 lahf_lm popcnt pni ssse3 sse4_1 sse4_2"
V3 = f"{V2} avx avx2 bmi1 bmi2 f16c fma abm movbe xsave"
V4 = f"{V3} avx512f avx512bw avx512cd avx512dq avx512vl"
ZEN4 = (
    f"{V4} avx512ifma avx512vbmi avx512_vbmi2 avx512_vnni avx512_bitalg avx512_vpopcntdq "
    "avx512_bf16 gfni vaes vpclmulqdq"
)


def cpuinfo(vendor, family, flags):
    """Two processors, as Linux prints them on x86."""
    return "\n".join(
        f"processor\t: {n}\nvendor_id\t: {vendor}\ncpu family\t: {family}\nflags\t\t: {flags}\n"
        for n in range(2)
    )


ARM = "processor\t: 0\nBogoMIPS\t: 108.00\nFeatures\t: {}\nCPU implementer\t: 0x41\n"


@pytest.mark.parametrize(
    "text, expected",
    [
        pytest.param(cpuinfo("AuthenticAMD", 25, ZEN4), "znver4", id="Zen 4"),
        pytest.param(cpuinfo("AuthenticAMD", 25, V3), "x86-64-v3", id="Zen 3, same family"),
        pytest.param(cpuinfo("AuthenticAMD", 26, ZEN4), "x86-64-v4", id="Zen 5"),
        pytest.param(
            cpuinfo("AuthenticAMD", 25, ZEN4.replace("gfni", "")),
            "x86-64-v4",
            id="Zen 4 whose hypervisor hides an extension",
        ),
        pytest.param(cpuinfo("GenuineIntel", 6, ZEN4), "x86-64-v4", id="Sapphire Rapids"),
        pytest.param(cpuinfo("GenuineIntel", 6, V4), "x86-64-v4", id="Skylake-X"),
        pytest.param(
            cpuinfo("GenuineIntel", 6, V4.replace("avx512vl", "")),
            "x86-64-v3",
            id="Knights Landing has AVX-512 without VL",
        ),
        pytest.param(cpuinfo("GenuineIntel", 6, V3), "x86-64-v3", id="Haswell"),
        pytest.param(
            cpuinfo("GenuineIntel", 6, V3.replace(" fma ", " ")), "x86-64", id="AVX2, no FMA"
        ),
        pytest.param(cpuinfo("GenuineIntel", 6, V2), "x86-64", id="Nehalem"),
        pytest.param(cpuinfo("GenuineIntel", 15, "fpu sse sse2"), "x86-64", id="Pentium 4"),
    ],
)
def test_an_x86_machine_gets_the_best_description_it_can_execute(text, expected):
    assert host_name("x86_64", text) == expected
    assert host_name("AMD64", text) == expected


def test_a_64_bit_arm_machine_gets_the_generic_description():
    assert host_name("aarch64", ARM.format("fp asimd aes crc32")) == "aarch64-generic"


@pytest.mark.parametrize("machine", ["riscv64", "ppc64le", "armv7l"])
def test_a_machine_without_a_description_is_told_to_name_a_target(machine):
    with pytest.raises(UnsupportedError, match=rf"no description fits .* \({machine}\).*--target"):
        host_name(machine, "")


def test_host_on_a_system_without_cpuinfo_is_not_guessed():
    with pytest.raises(UnsupportedError, match="no description fits"):
        host_name("x86_64", "")


def test_code_runs_natively_only_where_every_extension_is_there():
    haswell = cpuinfo("GenuineIntel", 6, V3)
    assert runs_on(load_device("x86-64-v3"), "x86_64", haswell)
    assert runs_on(load_device("x86-64"), "x86_64", haswell)
    assert not runs_on(load_device("x86-64-v4"), "x86_64", haswell)
    assert not runs_on(load_device("cortex-a53"), "x86_64", haswell)


def test_an_arm_board_runs_its_own_code_without_qemu():
    a72 = ARM.format("fp asimd evtstrm crc32 cpuid")
    assert runs_on(load_device("rpi4"), "aarch64", a72)
    assert not runs_on(load_device("cortex-a76"), "aarch64", a72)  # no atomics, no dot product
    assert not runs_on(load_device("rk3288"), "aarch64", a72)
    assert runs_on(
        load_device("rk3288"), "armv7l", ARM.format("half thumb neon vfpv3 vfpv4 idiva idivt")
    )


def test_this_machine_runs_what_host_means():
    host = load_device("host")
    assert host.runs_here
    assert host.name == host_name(platform.machine(), device._cpuinfo())
