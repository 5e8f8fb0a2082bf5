"""How many instructions does a kernel execute, and which, without a clock or a board?

The assembly of a kernel is cut into basic blocks. In each a jump leads to a counter outside of the
kernel, which leaves registers and flags as they are; the program then runs once, under
qemu-user for a foreign target, and gives how often each block ran.
Instructions are the sum of runs times length: exact, the same on every run and machine.

Counts are not times. `estimate_cycles` weighs the blocks with LLVM's models of pipelines, in which
every access hits the first cache; that orders kernels, and is no time either.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from parc_hw.artifact.toolchain import find_emulator, find_toolchain
from parc_hw.device import Device, Isa
from parc_hw.errors import InputError, MeasurementError, ToolchainError

if TYPE_CHECKING:
    from schedules.rule import Scheduled

__all__ = [
    "Block",
    "BlockCycles",
    "CycleEstimate",
    "Execution",
    "block_cycles",
    "count_instructions",
    "estimate_cycles",
    "find_mca",
    "instrumented",
]

_SYMBOL = "counted"
_RUNS = "parc_block_runs"


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Instructions that are executed together, in the assembler's text, and how often that was."""

    instructions: tuple[str, ...] = field(repr=False)
    runs: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """One run of a kernel over a range of its tasks.

    Attributes
    ----------
    device : Device
        What it was compiled for.
    blocks : tuple of Block
        All of the kernel, in the order of its text. What functions that it calls execute is not
        among them.
    output : float32 array, flat
        What it computed.
    """

    device: Device
    blocks: tuple[Block, ...] = field(repr=False)
    output: NDArray[np.float32] = field(repr=False)

    @property
    def instructions(self) -> int:
        """Instructions executed."""
        return sum(block.runs * len(block.instructions) for block in self.blocks)

    def matching(self, pattern: str) -> int:
        """Instructions executed whose text (mnemonic, one space, operands) matches `pattern`."""
        wanted = re.compile(pattern)
        return sum(
            block.runs * sum(bool(wanted.match(text)) for text in block.instructions)
            for block in self.blocks
        )

    def mnemonics(self) -> Counter[str]:
        """How often each mnemonic was executed."""
        found: Counter[str] = Counter()
        for block in self.blocks:
            for text in block.instructions if block.runs else ():
                found[text.partition(" ")[0]] += block.runs
        return found

    def calls(self) -> Counter[str]:
        """How often each function outside of the kernel was called."""
        found: Counter[str] = Counter()
        call = _SYNTAX[self.device.isa].call
        for block in self.blocks:
            for text in block.instructions if block.runs else ():
                if call.match(text):
                    found[text.partition(" ")[2]] += block.runs
        return found


def count_instructions(
    scheduled: Scheduled,
    device: Device,
    *,
    inputs: Sequence[NDArray[Any]] | None = None,
    tasks: range | None = None,
) -> Execution:
    """Compile a kernel for `device`, run it once and count what it executes.

    Parameters
    ----------
    scheduled : Scheduled
        The kernel, made for `device`.
    device : Device
        One for which there are a compiler and, unless its code runs here, qemu.
    inputs : sequence of array, optional
        The composite's inputs in memory order; zeros if not given. Only a kernel with branches on
        its data counts differently.
    tasks : range, optional
        Iterations of the parallel loop to run, all of them if not given.

    Raises
    ------
    ToolchainError
        Compiler or emulator are missing; says the line that installs them.
    InputError
        `tasks` or `inputs` do not fit the kernel.
    MeasurementError
        The counted program failed.
    """
    from schedules.aot import compile_kernels
    from schedules.tir import parameter_sizes

    tools, emulator = find_toolchain(device), find_emulator(device)
    dump: dict[str, str] = {}
    (kernel,) = compile_kernels([scheduled.func], device, prefix=_SYMBOL, dump=dump).kernels
    tasks = range(kernel.extent) if tasks is None else tasks
    if tasks.step != 1 or tasks.start < 0 or tasks.stop > kernel.extent:
        raise InputError(
            f"tasks are {tasks}; accepted: a range in [0, {kernel.extent}) without gaps."
        )
    sizes = parameter_sizes(scheduled.func)
    arrays = [np.zeros(size, np.float32) for size in sizes[: len(scheduled.inputs)]]
    if inputs is not None:
        arrays = [np.asarray(inputs[i], np.float32).reshape(-1) for i in scheduled.inputs]
    arrays += [c.reshape(-1) for c in scheduled.constants]
    if [array.size for array in arrays] != list(sizes[:-1]):
        raise InputError(
            f"the inputs have {[a.size for a in arrays[: len(scheduled.inputs)]]} elements; "
            f"the kernel takes {list(sizes[: len(scheduled.inputs)])}."
        )
    text, lengths = instrumented(dump["asm"], kernel.symbol, device.isa, runs=_RUNS)
    range_ = [str(tasks.start), str(tasks.stop)] if kernel.extent else []
    buffers = [f"buffer{i}" for i in range(len(sizes))]
    program = _PROGRAM.format(
        types=", ".join(["void *"] * len(sizes) + ["int32_t"] * len(range_)),
        scratch_type=", void *" if kernel.scratch_bytes else "",
        symbol=kernel.symbol,
        runs=_RUNS,
        blocks=len(lengths),
        buffers="\n".join(
            f"static float {b}[{s}] __attribute__((aligned(64)));"
            for b, s in zip(buffers, sizes, strict=True)
        ),
        scratch=-(-max(kernel.scratch_bytes, 4) // 4),
        read="\n  ".join(
            f"if (fread({b}, 4, {s}, f) != {s}) return 2;"
            for b, s in zip(buffers, sizes[:-1], strict=False)
        ),
        arguments=", ".join(
            [*buffers, *range_, *(["scratch"] if kernel.scratch_bytes else [])],
        ),
        result=buffers[-1],
        size=sizes[-1],
    )
    with tempfile.TemporaryDirectory(prefix="parc_hw-count-") as directory:
        where = Path(directory)
        (where / "kernel.s").write_text(text, encoding="utf-8")
        (where / "main.c").write_text(program, encoding="utf-8")
        tools.link_executable([where / "main.c", where / "kernel.s"], where / "counted")
        with (where / "in").open("wb") as file:
            for array in arrays:
                file.write(np.ascontiguousarray(array, "<f4").tobytes())
        command = emulator.command(where / "counted", [str(where / "in"), str(where / "out")])
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise MeasurementError(
                f"counting a kernel for {device.name} failed with status {done.returncode}: "
                f"{done.stderr.strip() or 'no message'}"
            )
        data = (where / "out").read_bytes()
    runs = np.frombuffer(data[: 8 * len(lengths)], "<u8")
    return Execution(
        device=device,
        blocks=tuple(
            Block(instructions=block, runs=int(count))
            for block, count in zip(lengths, runs, strict=True)
        ),
        output=np.frombuffer(data[8 * len(lengths) :], "<f4"),
    )


_PROGRAM = """\
#include <stdint.h>
#include <stdio.h>

extern int32_t {symbol}({types}{scratch_type});
extern uint64_t {runs}[];
{buffers}
static float scratch[{scratch}] __attribute__((aligned(64)));

int main(int argc, char **argv) {{
  FILE *f = argc == 3 ? fopen(argv[1], "rb") : 0;
  if (!f) return 1;
  {read}
  fclose(f);
  (void)scratch;
  if ({symbol}({arguments})) return 3;
  f = fopen(argv[2], "wb");
  if (!f || fwrite({runs}, 8, {blocks}, f) != {blocks}) return 4;
  if (fwrite({result}, 4, {size}, f) != {size} || fclose(f)) return 4;
  return 0;
}}
"""


# ---------------------------------------------------------------- blocks of assembly


@dataclass(frozen=True, slots=True, kw_only=True)
class _Syntax:
    """One instruction set's assembly: what matters for cutting and counting.

    `counter` adds one to the 64-bit word at `{runs} + {at}` and changes neither registers nor
    flags; `jump` goes to a label.
    """

    comment: str
    branch: re.Pattern[str]  # instructions after which another block begins
    call: re.Pattern[str]
    jump: str
    counter: tuple[str, ...]


_CONDITION = "(?:eq|ne|hs|cs|lo|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le|al)?"
_SYNTAX = {
    Isa.X86_64: _Syntax(
        comment="#",
        branch=re.compile(r"(?:j\w+|ret\w?)\b"),
        call=re.compile(r"call\w?\b"),
        jump="jmp",
        counter=(
            "leaq -128(%rsp), %rsp",  # the 128 bytes below the stack pointer are the kernel's
            "pushq %rax",
            "movq {runs}+{at}(%rip), %rax",
            "leaq 1(%rax), %rax",
            "movq %rax, {runs}+{at}(%rip)",
            "popq %rax",
            "leaq 128(%rsp), %rsp",
        ),
    ),
    Isa.AARCH64: _Syntax(
        comment="//",
        branch=re.compile(r"(?:b|b\.\w+|br|ret|cbn?z|tbn?z)(?: |$)"),
        call=re.compile(r"blr? "),
        jump="b",
        counter=(
            "stp x16, x17, [sp, #-16]!",
            "adrp x16, {runs}+{at}",
            "ldr x17, [x16, :lo12:{runs}+{at}]",
            "add x17, x17, #1",
            "str x17, [x16, :lo12:{runs}+{at}]",
            "ldp x16, x17, [sp], #16",
        ),
    ),
    # The low word alone: a carry would need the flags, and 2**32 runs take minutes.
    Isa.ARMV7A: _Syntax(
        comment="@",
        branch=re.compile(rf"(?:bx?{_CONDITION} |(?:pop|ldm|ldr|mov)\w* .*\bpc\b)"),
        call=re.compile(rf"blx?{_CONDITION} "),
        jump="b",
        counter=(
            "push {{r0, r1}}",
            "movw r0, #:lower16:({runs}+{at})",
            "movt r0, #:upper16:({runs}+{at})",
            "ldr r1, [r0]",
            "add r1, r1, #1",
            "str r1, [r0]",
            "pop {{r0, r1}}",
        ),
    ),
}
_INSTRUCTION = re.compile(r"\t[a-z]")
_LABEL = re.compile(r"\.L(?!tmp|Ltmp)[\w$.]*:")  # .Ltmp labels mark lines for debuggers


def instrumented(
    assembly: str, symbol: str, isa: Isa, *, runs: str
) -> tuple[str, list[tuple[str, ...]]]:
    """The assembly with counters in function `symbol`, and the instructions of each of its blocks.

    The counters are 64-bit words, one for each block, at the global symbol `runs`. In every block one instruction makes way for a jump to the block's counter, which counts, executes
    it and jumps back. The kernel keeps its length on ARM, and with that the constants that
    ARMv7 puts between instructions stay within reach of their loads.
    """
    syntax = _SYNTAX[isa]
    lines: list[str] = []
    blocks: list[list[tuple[int, str]]] = []  # of each instruction the line's number and its text
    inside = new = debug = False
    for line in assembly.splitlines():
        if line.startswith(("\t.section", "\t.text", "\t.data", "\t.bss")):
            debug = ".debug" in line
        if debug or line.startswith(("\t.loc", "\t.cfi", "\t.file")):
            continue
        if line.startswith(f"{symbol}:"):
            inside = new = True
        elif inside and line.startswith("\t.size"):
            inside = False
        elif inside and _LABEL.match(line):
            new = True
        elif inside and _INSTRUCTION.match(line):
            text = " ".join(line.partition(f"\t{syntax.comment}")[0].split())
            if new:
                blocks.append([])
            blocks[-1].append((len(lines), text))
            new = bool(syntax.branch.match(f"{text} "))
        lines.append(line)
    if not blocks:
        raise MeasurementError(
            f"the assembly has no function {symbol!r}; this is a bug in parc_hw."
        )
    counters = ["\t.text"]
    for number, block in enumerate(blocks):
        at, moved = _movable(block, syntax)
        jump = f"\t{syntax.jump} .Lparc_count{number}\n.Lparc_back{number}:"
        lines[at] = jump if moved else f"{jump}\n{lines[at]}"
        counters.append(f".Lparc_count{number}:")
        counters += [f"\t{step.format(runs=runs, at=8 * number)}" for step in syntax.counter]
        counters += [f"\t{text}" for text in moved]
        counters.append(f"\t{syntax.jump} .Lparc_back{number}")
    counters += ["\t.bss", f"\t.globl {runs}", "\t.balign 64", f"{runs}:"]
    counters.append(f"\t.zero {8 * len(blocks)}")
    texts = [tuple(text for _, text in block) for block in blocks]
    return "\n".join([*lines, *counters]) + "\n", texts


def _movable(block: list[tuple[int, str]], syntax: _Syntax) -> tuple[int, list[str]]:
    """The line of an instruction that does the same elsewhere, and its text; [] where there is none.

    That is one that names no place and not the program counter; failing that a branch, whose reach is
    long.
    """
    for at, text in block:
        if not re.search(r"\.L|\bpc\b|%rip", text):
            return at, [text]
    for at, text in block:
        if syntax.branch.match(f"{text} "):
            return at, [text]
    return block[0][0], []


# ---------------------------------------------------------------- estimated cycles


@dataclass(frozen=True, slots=True, kw_only=True)
class CycleEstimate:
    """What a model of a pipeline says of an execution; not a time, nor a prediction of one.

    Attributes
    ----------
    cycles : float
        Sum over the blocks of runs times the cycles of one in a long repetition of it.
    cpu : str
        LLVM's name of the modelled processor.
    tool : str
        Which llvm-mca, with its version.
    """

    cycles: float
    cpu: str
    tool: str


def estimate_cycles(execution: Execution, *, cpu: str | None = None) -> CycleEstimate:
    """Weigh an execution's blocks by llvm-mca's model of a processor.

    Parameters
    ----------
    execution : Execution
        From `count_instructions`.
    cpu : str, optional
        LLVM's name of the processor; by default the one it was compiled for.

    Raises
    ------
    ToolchainError
        There is no llvm-mca of version 18 or later here, or it does not read the kernel.

    Notes
    -----
    On one x86 host, over 24 variants of one kernel, this ordered times with a rank correlation of
    0.97; the best of its first three was the fastest. The models of in-order cores and everything
    about cache misses are unproven.
    """
    cpu = cpu or execution.device.cpu
    executed = [b for b in execution.blocks if b.runs]
    found = block_cycles([b.instructions for b in executed], execution.device, cpu=cpu)
    total = sum(block.runs * each.cycles for block, each in zip(executed, found, strict=True))
    return CycleEstimate(cycles=total, cpu=cpu, tool=find_mca()[1])


@dataclass(frozen=True, slots=True)
class BlockCycles:
    """What llvm-mca says of a block that is repeated.

    `cycles` of one repetition, which wait for each other's results; `throughput`: cycles of one, were
    there nothing to wait for.
    """

    cycles: float
    throughput: float


def block_cycles(
    blocks: Sequence[tuple[str, ...]],
    device: Device,
    *,
    cpu: str | None = None,
    iterations: int = 100,
    mca: str | None = None,
) -> list[BlockCycles]:
    """Cycles of each block of instructions in a long repetition of it, as llvm-mca says.

    Parameters
    ----------
    blocks : sequence of tuple of str
        As `Block.instructions`.
    device : Device
        What they were compiled for.
    cpu : str, optional
        LLVM's name of the processor that is modelled; the device's if not given.
    iterations : int
        Repetitions.
    mca : str, optional
        The program, where `find_mca` has been asked already.

    Raises
    ------
    ToolchainError
        There is no llvm-mca of version 18 or later here, or it does not read a block.
    """
    program, tool = (mca, Path(mca).name) if mca else find_mca()
    call = _SYNTAX[device.isa].call
    lines = []
    for number, block in enumerate(blocks):
        # what a callee does is not in the block, and its call would end the modelled stretch
        body = [f"\t{text}" for text in block if not call.match(text)]
        lines += [f"/* LLVM-MCA-BEGIN {number} */", *body, f"/* LLVM-MCA-END {number} */"]
    command = [
        program,
        f"-mtriple={device.triple}",
        f"-mcpu={cpu or device.cpu}",
        f"-mattr={','.join(device.features)}",
        f"-iterations={iterations}",
        "-skip-unsupported-instructions=lack-sched",
        "-all-views=false",
        "-summary-view",
    ]
    done = subprocess.run(
        command, input="\n".join(lines) + "\n", capture_output=True, text=True, check=False
    )
    cycles = {
        int(number): BlockCycles(int(total) / iterations, float(throughput))
        for number, total, throughput in re.findall(
            r"Code Region - (\d+).*?Total Cycles:\s+(\d+).*?Block RThroughput:\s+([\d.]+)",
            done.stdout,
            flags=re.DOTALL,
        )
    }
    if done.returncode or not cycles:
        said = " | ".join(done.stderr.strip().splitlines()[:3])
        raise ToolchainError(
            f"{tool} does not read the kernel for {device.name}: {said or 'it said nothing'}. "
            f"Try another version: {_MCA_INSTALL}"
        )
    # a block of one jump alone may be left out: nothing in it takes a slot
    return [cycles.get(number, BlockCycles(0.0, 0.0)) for number in range(len(blocks))]


_OLDEST_MCA = 18  # the first that can leave out instructions without a model
_MCA_INSTALL = "sudo apt-get install -y llvm-19"


def find_mca() -> tuple[str, str]:
    """The newest llvm-mca and its version.

    Raises
    ------
    ToolchainError
        There is none of version 18 or later; says the line that installs it.
    """
    found = []
    for name in ("llvm-mca", *(f"llvm-mca-{version}" for version in range(_OLDEST_MCA, 30))):
        program = shutil.which(name)
        if program is None:
            continue
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
        version = re.search(r"LLVM version (\d+)([\d.]*)", said.stdout)
        if version:
            found.append((int(version[1]), version[1] + version[2], program))
    if not found:
        raise ToolchainError(
            f"llvm-mca, which models pipelines, was not found; install it with\n    {_MCA_INSTALL}"
        )
    major, text, program = max(found)
    if major < _OLDEST_MCA:
        raise ToolchainError(
            f"{Path(program).name} is version {text}; {_OLDEST_MCA} or later is needed. Install "
            f"one with\n    {_MCA_INSTALL}"
        )
    return program, f"llvm-mca {text}"
