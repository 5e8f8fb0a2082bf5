"""How is a program written as text, and read back?

One instruction per line, what is at its default left out:

    ; external 16640 hash 89932e69...
    LOAD extents=64,1,1,96 a=EXTERNAL:I8@0[96,0,0,1] out=SCRATCHPAD:I8@0[96,0,0,1] signal=MAC
    MATRIX_MAC ... wait=LOAD signal=VECTOR
    LOOP 14
      CIRCULAR_MAC ring=14 a=SCRATCHPAD:I8@0[0,32,448,1]+[448] ...
    END

An operand is SPACE:TYPE@base[strides]+[steps]. A semicolon begins a comment. ROM, constants and
metadata are not in the text: `from_text` takes them from a program, or there are none.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, Final

from parc_hw.accel.container import Program
from parc_hw.errors import InputError, nearest
from parc_hw.isa import (
    OPERANDS,
    Flag,
    Function,
    Instruction,
    Opcode,
    Operand,
    Queue,
    Space,
    Type,
)

__all__ = ["from_text", "line_of", "parse", "program_from_text", "to_text"]

_OPERAND: Final = re.compile(
    r"(?P<space>[A-Z]+):(?P<type>I\d+)@(?P<base>-?\w+)(?:\[(?P<strides>[^\]]*)\])?"
    r"(?:\+\[(?P<steps>[^\]]*)\])?"
)
_DEFAULT: Final = {f.name: f.default for f in fields(Instruction) if f.name != "opcode"}
_KEYS: Final = tuple(_DEFAULT)


def line_of(each: Instruction) -> str:
    """One instruction as text.

    >>> from parc_hw.isa import loop, sync
    >>> line_of(loop(14)), line_of(sync(Queue.MAC, wait=1, signal=48))
    ('LOOP 14', 'SYNC MAC wait=LOAD signal=VECTOR,STORE')
    """
    words = [each.opcode.name]
    if each.opcode is Opcode.LOOP:
        words.append(str(each.extents[0]))
    elif each.opcode is Opcode.SYNC:
        words.append(Queue(each.function).name)
    elif each.function:
        words.append(Function(each.function).name)
    for name in _KEYS:
        value = getattr(each, name)
        if value == _DEFAULT[name] or (name == "function" and each.opcode is not Opcode.LOOP):
            continue
        if name in OPERANDS:
            text = _operand(value)
        elif name in ("wait", "signal"):
            text = ",".join(queue.name for queue in Queue if value >> queue & 1)
            if value >> len(Queue):
                text = str(value)
        elif name == "flags":
            text = ",".join(flag.name or "" for flag in Flag if flag and flag in value)
        elif name == "extents":
            if each.opcode is Opcode.LOOP and not any(n != 1 for n in value[1:]):
                continue
            text = ",".join(map(str, _short(value, 1)))
        else:
            text = str(value)
        words.append(f"{name}={text}")
    return " ".join(words)


def _short(values: Sequence[int], fill: int) -> Sequence[int]:
    """Without what the constructor fills in; one number at least."""
    end = len(values)
    while end > 1 and values[end - 1] == fill:
        end -= 1
    return values[:end]


def _operand(operand: Operand) -> str:
    text = f"{operand.space.name}:{operand.type.name}@{operand.base}"
    if any(operand.strides):
        text += f"[{','.join(map(str, _short(operand.strides, 0)))}]"
    if any(operand.steps):
        text += f"+[{','.join(map(str, _short(operand.steps, 0)))}]"
    return text


def to_text(program: Program) -> str:
    """The instructions of a program as text, loops indented."""
    lines = [f"; external {program.external_bytes} hash {program.description_hash.hex()}"]
    depth = 0
    for each in program.instructions:
        if each.opcode is Opcode.END:
            depth = max(depth - 1, 0)
        lines.append("  " * depth + line_of(each))
        if each.opcode is Opcode.LOOP:
            depth += 1
    return "\n".join(lines) + "\n"


# ---------------------------------------------------------------- reading
def from_text(text: str) -> list[Instruction]:
    """Read instructions.

    Raises
    ------
    InputError
        What is not understood, with its line.
    """
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        code = line.partition(";")[0].strip()
        if not code:
            continue
        try:
            found.append(parse(code))
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
    return found


def program_from_text(text: str, program: Program) -> Program:
    """`program` with the instructions of a text: its ROM, constants and metadata stay."""
    return Program(
        instructions=tuple(from_text(text)),
        description_hash=program.description_hash,
        external_bytes=program.external_bytes,
        rom=program.rom,
        constants=program.constants,
        metadata=program.metadata,
    )


def parse(line: str) -> Instruction:
    """Read one instruction.

    >>> parse("VECTOR ADD extents=8 shift=1").shift
    1
    """
    name, *words = line.split()
    opcode = _named(Opcode, name, "undefined instruction")
    values: dict[str, Any] = {}
    if words and "=" not in words[0]:
        first = words.pop(0)
        if opcode is Opcode.LOOP:
            values["extents"] = (_number(first, "the count of a LOOP"),)
        else:
            kind: Any = Queue if opcode is Opcode.SYNC else Function
            values["function"] = int(_named(kind, first, kind.__name__.lower()))
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or key not in _KEYS:
            raise InputError(
                f"{word!r} is not understood; accepted: key=value with one of "
                f"{', '.join(_KEYS)}.{nearest(key, _KEYS)}"
            )
        if key in OPERANDS:
            values[key] = _read_operand(text, key)
        elif key in ("wait", "signal") and not text.isdecimal():
            values[key] = sum(1 << _named(Queue, part, "queue") for part in text.split(","))
        elif key == "flags":
            values[key] = Flag(sum(_named(Flag, part, "flag") for part in text.split(",")))
        elif key == "extents":
            values[key] = tuple(_number(part, key) for part in text.split(","))
        else:
            values[key] = _number(text, key)
    return Instruction(opcode=opcode, **values)


def _named(kind: Any, name: str, what: str) -> Any:
    if name not in kind.__members__:
        names = list(kind.__members__)
        raise InputError(f"{what} {name!r}.{nearest(name, names)} Accepted: {', '.join(names)}.")
    return kind[name]


def _number(text: str, what: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise InputError(f"{what} is {text!r}: expected a whole number.") from None


def _read_operand(text: str, key: str) -> Operand:
    match = _OPERAND.fullmatch(text)
    if match is None:
        raise InputError(
            f"{key} is {text!r}; accepted: SPACE:TYPE@base[strides]+[steps], such as "
            f"SCRATCHPAD:I8@0[96,0,0,1]."
        )
    lists = [
        tuple(_number(part, key) for part in group.split(",")) if group else ()
        for group in (match["strides"], match["steps"])
    ]
    return Operand(
        _named(Space, match["space"], "space"),
        _named(Type, match["type"], "type"),
        _number(match["base"], key),
        *lists,
    )
