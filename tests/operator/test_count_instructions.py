"""Executed instructions: exact, the kernel's own, the same for every range of tasks."""

from __future__ import annotations

import numpy as np
import pytest

from parc_hw import count_instructions as counting
from parc_hw.count_instructions import Block, Execution, count_instructions, estimate_cycles
from parc_hw.device import Isa, load_device
from parc_hw.errors import InputError, MeasurementError, ToolchainError
from parc_hw.operator import schedule_parc
from parc_hw.reference import depth_bound, parc

HEIGHT, WIDTH, CHANNELS = 6, 5, 8


def kernel(device, *, layout="NHWC", axis="H", plan="auto"):
    """A small ParC for a device, its input in the layout, and what it computes."""
    random = np.random.default_rng(1)
    length = HEIGHT if axis == "H" else WIDTH
    weight = random.standard_normal((CHANNELS, length)).astype(np.float32)
    x = random.standard_normal((1, CHANNELS, HEIGHT, WIDTH)).astype(np.float32)
    expected = parc(x, weight, axis=axis)
    bound = depth_bound(x, weight, depth=length + 1)
    if layout == "NHWC":
        x, expected = (a.transpose(0, 2, 3, 1) for a in (x, expected))
    _, scheduled = schedule_parc(weight, axis, x.shape, device=device, plan=plan, layout=layout)
    return scheduled, x, expected.reshape(-1), bound


DEVICES = [
    "host",
    pytest.param("cortex-a76", marks=pytest.mark.cross("aarch64-linux-gnu")),
    pytest.param("cortex-a17", marks=pytest.mark.cross("arm-linux-gnueabihf")),
]


@pytest.mark.tvm
@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("layout", ["NHWC", "NCHW"])
def test_counting_does_not_change_what_is_computed(name, layout):
    device = load_device(name)
    scheduled, x, expected, bound = kernel(device, layout=layout)
    execution = count_instructions(scheduled, device, inputs=[x])
    assert np.abs(execution.output - expected).max() <= bound
    assert execution.instructions == sum(execution.mnemonics().values()) > 0
    assert not execution.calls()


@pytest.mark.tvm
@pytest.mark.parametrize("name", DEVICES)
def test_counts_are_exact(name):
    """The same on every run; and what tasks execute adds up, whatever runs around them."""
    device = load_device(name)
    scheduled, *_ = kernel(device)
    whole = count_instructions(scheduled, device)
    assert whole.blocks == count_instructions(scheduled, device).blocks
    runs = [
        np.array([block.runs for block in count_instructions(scheduled, device, tasks=part).blocks])
        for part in (range(0), range(2), range(2, 5), range(5))
    ]
    nothing, first, rest, all_ = runs
    assert [block.runs for block in whole.blocks] == all_.tolist()
    loops = all_ > 2  # blocks of every task; the others stand before and behind the loop
    assert loops.any()
    assert (first + rest - nothing)[loops].tolist() == all_[loops].tolist()


@pytest.mark.tvm
@pytest.mark.parametrize("name", DEVICES)
def test_the_direct_form_executes_its_multiply_adds(name):
    """N for each output, none more: H * W * C * N lanes in all."""
    device = load_device(name)
    scheduled, *_ = kernel(device, plan="direct")
    execution = count_instructions(scheduled, device)
    pattern = {
        Isa.X86_64: r"vfn?m(add|sub)\d+ps ",
        Isa.AARCH64: r"fml[as] ",
        Isa.ARMV7A: r"vf?ml?[as]",
    }[device.isa]
    if device.isa is Isa.ARMV7A:
        pattern = r"v(fma|mla|fms|mls)\.f32 q"
    lanes = min(device.lanes(), CHANNELS)
    assert execution.matching(pattern) * lanes == HEIGHT * WIDTH * CHANNELS * HEIGHT


def test_matching_looks_at_mnemonic_and_operands():
    execution = Execution(
        device=load_device("cortex-a76"),
        blocks=(
            Block(instructions=("fmla v0.4s, v1.4s, v2.4s", "b.ne .LBB0_1"), runs=3),
            Block(instructions=("bl memset", "ret"), runs=2),
            Block(instructions=("bl never",), runs=0),
        ),
        output=np.zeros(1, np.float32),
    )
    assert execution.instructions == 10
    assert execution.matching(r"fmla .*\.4s") == 3
    assert execution.mnemonics() == {"fmla": 3, "b.ne": 3, "bl": 2, "ret": 2}
    assert execution.calls() == {"memset": 2}


@pytest.mark.parametrize(
    ("isa", "ends", "continues"),
    [
        ("X86_64", "jne .L1|jmp .L2|retq|ret", "callq f|vfmadd231ps %zmm0, %zmm1, %zmm2"),
        ("AARCH64", "b .L1|b.ne .L1|cbz x0, .L1|tbnz w1, #3, .L2|ret|br x3", "bl f|bic x0, x1, x2"),
        (
            "ARMV7A",
            "b .L1|ble .L1|blt .L1|bls .L1|blo .L1|bx lr|bxne lr|pop {r4, pc}|popeq {r4, r5, pc}"
            "|ldr pc, [r0]",
            "bl f|bllt f|blx r3|bic r0, r1, r2|bfi r0, r1, #2, #3|pop {r4, r5}",
        ),
    ],
)
def test_blocks_end_where_control_may_leave(isa, ends, continues):
    syntax = counting._SYNTAX[Isa[isa]]
    assert [text for text in ends.split("|") if not syntax.branch.match(f"{text} ")] == []
    assert [text for text in continues.split("|") if syntax.branch.match(f"{text} ")] == []


@pytest.mark.tvm
def test_tasks_and_inputs_must_fit_the_kernel():
    device = load_device("host")
    scheduled, *_ = kernel(device)
    with pytest.raises(InputError, match=r"tasks are range\(0, 99\); accepted: a range in \[0, "):
        count_instructions(scheduled, device, tasks=range(99))
    with pytest.raises(
        InputError, match=r"the inputs have \[3\] elements; the kernel takes \[240\]"
    ):
        count_instructions(scheduled, device, inputs=[np.zeros(3)])


@pytest.mark.tvm
def test_a_kernel_that_fails_is_told(monkeypatch):
    device = load_device("host")
    scheduled, *_ = kernel(device)
    monkeypatch.setattr(counting, "_PROGRAM", "int main(void) {{ return 3; }}\n")
    with pytest.raises(MeasurementError, match=r"counting a kernel for .* failed with status 3"):
        count_instructions(scheduled, device)


def execution_of(text, device="cortex-a53", runs=2):
    block = Block(instructions=tuple(text.splitlines()), runs=runs)
    return Execution(device=load_device(device), blocks=(block,), output=np.zeros(1, np.float32))


def fake_mca(monkeypatch, tmp_path, version):
    program = tmp_path / "llvm-mca"
    program.write_text(f"#!/bin/sh\necho 'LLVM version {version}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))


def test_without_llvm_mca_the_line_that_installs_it_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"was not found; install it with\n.*apt-get install"):
        estimate_cycles(execution_of("nop"))


def test_an_old_llvm_mca_is_refused_by_its_version(monkeypatch, tmp_path):
    fake_mca(monkeypatch, tmp_path, "14.0.6")
    with pytest.raises(ToolchainError, match=r"llvm-mca is version 14.0.6; 18 or later is needed"):
        estimate_cycles(execution_of("nop"))


def test_an_llvm_mca_that_says_nothing_is_an_error(monkeypatch, tmp_path):
    fake_mca(monkeypatch, tmp_path, "19.1.0")
    with pytest.raises(ToolchainError, match=r"llvm-mca 19.1.0 does not read the kernel for cort"):
        estimate_cycles(execution_of("nop"))


def test_cycles_are_those_of_the_blocks_times_their_runs(monkeypatch, tmp_path):
    program = tmp_path / "llvm-mca"
    program.write_text(
        "#!/bin/sh\n"
        "echo 'LLVM version 19.1.0'\n"
        "echo '[0] Code Region - 0'; echo; echo 'Total Cycles:      250'\n"
        "echo 'Block RThroughput: 0.5'\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    estimate = estimate_cycles(execution_of("nop", runs=4))
    assert (estimate.cycles, estimate.cpu, estimate.tool) == (10.0, "cortex-a53", "llvm-mca 19.1.0")
