"""How does a trace viewer see what every unit did, cycle by cycle?

Chrome's trace-event format, which chrome://tracing, Perfetto and speedscope open: one track for each
unit and for the bus. A cycle is shown as a microsecond.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from parc_hw.accel.assembler import line_of
from parc_hw.accel.container import Program
from parc_hw.accel.simulator import Result
from parc_hw.errors import InputError
from parc_hw.isa import Opcode, Queue

__all__ = ["trace_events", "write_trace"]

_BUS = len(Queue)
_HOST = _BUS + 1


def trace_events(
    program: Program, result: Result, names: Mapping[int, str] | None = None
) -> dict[str, Any]:
    """The trace of a timed run.

    Parameters
    ----------
    program : Program
    result : Result
    names : mapping of int to str, optional
        What tags are called.

    Raises
    ------
    InputError
        The run was not timed.
    """
    line = result.timeline
    if line is None:
        raise InputError("the run was not timed: there is nothing to trace. Run with timing=True.")
    tracks = {**{int(queue): queue.name for queue in Queue}, _BUS: "bus", _HOST: "host"}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": 0, "args": {"name": "accelerator"}}
    ]
    for track, name in tracks.items():
        about = {"ph": "M", "pid": 0, "tid": track}
        events.append({**about, "name": "thread_name", "args": {"name": name}})
        events.append({**about, "name": "thread_sort_index", "args": {"sort_index": track}})
    text: dict[int, str] = {}
    for place, index in enumerate(line.stream.index.tolist()):
        each = program.instructions[index]
        queue = int(line.stream.queue[place])
        if queue == -1 or each.opcode is Opcode.BARRIER:
            continue
        if index not in text:
            text[index] = line_of(each)
        start, finish = int(line.start[place]), int(line.end[place])
        tag = (names or {}).get(each.tag, str(each.tag))
        events.append(
            {
                "ph": "X",
                "pid": 0,
                "tid": queue if queue >= 0 else _HOST,
                "ts": start,
                "dur": finish - start,
                "name": f"{each.opcode.name} {tag}",
                "cat": tag,
                "args": {
                    "number": index,
                    "instruction": text[index],
                    "arrival": int(line.arrival[place]),
                },
            }
        )
        if queue in (Queue.LOAD, Queue.STORE):
            events.append(
                {
                    "ph": "X",
                    "pid": 0,
                    "tid": _BUS,
                    "ts": int(line.bus[place]),
                    "dur": int(line.cycles[place]),
                    "name": f"{each.opcode.name} {tag}",
                    "cat": tag,
                    "args": {"number": index},
                }
            )
    return {"traceEvents": events, "displayTimeUnit": "ns"}


def write_trace(
    path: str | Path, program: Program, result: Result, names: Mapping[int, str] | None = None
) -> None:
    """Write the trace of a timed run as JSON."""
    Path(path).write_text(json.dumps(trace_events(program, result, names)), encoding="utf-8")
