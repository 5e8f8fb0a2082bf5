"""How is the product of two computed matrices made, as attention needs it?

The tile of constant products, with the second operand where it lies instead of in packed panels.
"""

from __future__ import annotations

import math

from schedules.cpu.epilogue import Operands, parse
from schedules.cpu.matmul import over_panels, tile_note
from schedules.cpu.tile import KLoop, Panel, choose_tile, emit_tile, panels
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled
from schedules.tir import Emitter, Value

__all__ = ["product"]

NAME = "product"
_TASKS = 24  # row blocks over the whole batch: enough to balance eight threads


def product(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """relax.matmul of (..., M, K) and (..., K, N), neither constant, and its epilogue.

    Parameters
    ----------
    composite : Composite
        The product, of equal leading dimensions or with one shared (K, N), then its epilogue;
        scales and shifts by constants are left to another kernel.
    context : Context
        The device gives tile and vector width.
    """
    node = composite.nodes[0]
    if node.op != "relax.matmul":
        return NotApplicable(NAME, f"the anchor is {node.op}, not relax.matmul")
    left, right = node.args[:2]
    if not (isinstance(left, Ref) and isinstance(right, Ref)):
        return NotApplicable(NAME, "an operand is a constant")
    if left.index == right.index:
        return NotApplicable(NAME, "both operands are one tensor")
    first, second = composite.inputs[left.index], composite.inputs[right.index]
    if len(first) < 2 or len(second) < 2:
        return NotApplicable(NAME, f"operands {first} and {second} are not both matrices")
    shared = math.prod(second[:-2]) == 1
    if not shared and first[:-2] != second[:-2]:
        return NotApplicable(NAME, f"leading dimensions of {first} and {second} differ")
    epilogue = parse(composite)
    if isinstance(epilogue, str):
        return NotApplicable(NAME, epilogue)
    if (epilogue.scale != 1.0).any() or epilogue.shift.any():
        return NotApplicable(NAME, "a constant scale or shift has no weights to go into")

    device = context.device
    batch = math.prod(first[:-2])
    rows, depth = first[-2:]
    columns = second[-1]
    tile = choose_tile(rows, columns, device)
    cut = panels(columns, tile, device, padded=False)
    tiles, rest = divmod(rows, tile.rows)
    block = max(1, min(tiles, tiles * batch // _TASKS))  # tiles of rows in a task
    blocks = max(1, -(-tiles // block))

    e = Emitter(device)
    a = e.parameter("a", batch * rows * depth)
    b = e.parameter("b", math.prod(second))
    inputs = epilogue.declare_inputs(e, composite)
    operands = Operands(inputs, epilogue.declare_constants(e))
    y = e.parameter("y", batch * rows * columns)

    with e.parallel(batch * blocks) as task:
        image, turn = task // blocks, task % blocks

        def emit(panel: Panel, channel: Value, row: Value, count: int) -> None:
            line = image * rows + row
            emit_tile(
                e,
                panel=panel,
                first=channel,
                a=a,
                a_at=line * depth,
                a_rows=[i * depth for i in range(count)],
                k_loops=[KLoop(depth, 1)],
                weights=b,
                w_at=(0 if shared else image * (depth * columns)) + channel,
                w_step=columns,
                bias=None,
                y=y,
                y_at=line * columns + channel,
                y_row=columns,
                finish=lambda value, at, channel: epilogue.apply(
                    e, value, at=at, channel=channel, operands=operands
                ),
                rolled=epilogue.heavy,
            )

        def rows_of_task(panel: Panel, channel: Value) -> None:
            with e.loop(e.minimum(tiles - turn * block, block), name="tile") as i:
                emit(panel, channel, (turn * block + i) * tile.rows, tile.rows)
            if rest:
                with e.when(turn >= blocks - 1):
                    emit(panel, channel, tiles * tile.rows, rest)

        over_panels(e, cut, rows_of_task)

    return Scheduled(
        func=e.finish(),
        inputs=(left.index, right.index, *epilogue.inputs),
        constants=epilogue.constants,
        rule=NAME,
        note=f"{tile_note(tile, device)}, {batch * blocks} tasks of {block * tile.rows} rows",
        macs=batch * rows * columns * depth,
    )
