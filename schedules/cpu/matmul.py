"""How is a product with a constant matrix computed: linear layers and 1x1 convolutions?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from parc_hw.device import Device
from schedules.cpu.epilogue import Epilogue, Operands, parse
from schedules.cpu.tile import (
    Ahead,
    KLoop,
    Panel,
    Part,
    TileShape,
    choose_tile,
    emit_tile,
    is_cut,
    over_runs,
    pack,
    pad_channels,
    panels,
    tile_dimensions,
    unrolled_steps,
    weights_key,
)
from schedules.rule import Composite, Context, NotApplicable, Ref, Scheduled, choose
from schedules.tir import Emitter, Value
from schedules.tuning.space import Choice, Dimension, Implication, Space

__all__ = ["matmul", "schedule_matmul"]

NAME = "matmul"
_FEW = 8  # tasks that are too few for four or more threads
_PANELS = 4  # fewer tasks than that leave threads idle
_TOTALS_BYTES = 64 * 1024  # sums that wait while tiles take turns: 107 KiB cost more than they save
# Assumed where the device's cache is unknown: little, as weights share it with the maps and are cold
# at every run. With 2 MiB, fewer are fetched ahead: ConvNeXt-XT and ResNet50 take 3 % longer.
L2_BYTES = 256 * 1024


def matmul(composite: Composite, context: Context) -> Scheduled | NotApplicable:
    """relax.matmul of any leading dimensions with a constant (K, N), and its epilogue."""
    node = composite.nodes[0]
    if node.op != "relax.matmul":
        return NotApplicable(NAME, f"the anchor is {node.op}, not relax.matmul")
    x, weights = node.args[:2]
    if not isinstance(x, Ref) or not isinstance(weights, np.ndarray):
        return NotApplicable(NAME, "the second operand is not a constant")
    if weights.ndim != 2:
        return NotApplicable(NAME, f"the constant has shape {weights.shape}, not (K, N)")
    epilogue = parse(composite)
    if isinstance(epilogue, str):
        return NotApplicable(NAME, epilogue)
    return schedule_matmul(composite, context, x.index, weights, epilogue, rule=NAME)


def schedule_matmul(
    composite: Composite,
    context: Context,
    x_index: int,
    weights: NDArray[np.float32],
    epilogue: Epilogue,
    *,
    rule: str,
) -> Scheduled:
    """The kernel of epilogue(x @ weights), x being all of input `x_index` as rows of K elements."""
    device = context.device
    k, n = weights.shape
    rows = int(np.prod(composite.inputs[x_index])) // k
    key = weights_key(weights)
    space = _space(rule, rows, k, n, device, context.panel_vectors.get(key))
    tuned = choose(composite, context, space)
    taken = tuned.choice
    tile = TileShape(taken["rows"], taken["vectors"])
    context.panel_vectors[key] = tile.vectors
    cut = panels(n, tile, device)
    scaled = weights.astype(np.float64) * epilogue.scale

    e = Emitter(device)
    a = e.parameter("x", rows * k)
    inputs = epilogue.declare_inputs(e, composite)
    w = e.parameter("w", sum(k * p.padded for p in cut))
    bias = e.parameter("bias", cut[-1].first + cut[-1].padded)
    operands = Operands(inputs, epilogue.declare_constants(e))
    y = e.parameter("y", rows * n)

    k_loops = [KLoop(k, 1)]

    def emit(
        panel: Panel,
        first: Value,
        row: Value,
        count: int,
        ahead: Ahead | None = None,
        part: Part | None = None,
    ) -> None:
        emit_tile(
            e,
            panel=panel,
            first=first,
            a=a,
            a_at=row * k,
            a_rows=[i * k for i in range(count)],
            k_loops=k_loops,
            weights=w,
            w_at=first * k,
            bias=bias,
            y=y,
            y_at=row * n + first,
            y_row=n,
            finish=lambda value, at, channel: epilogue.apply(
                e, value, at=at, channel=channel, operands=operands
            ),
            rolled=epilogue.heavy,
            ahead=ahead,
            unroll=taken["unroll"],
            part=part,
        )

    tiles, rest = divmod(rows, tile.rows)
    streams = taken["fetch"]
    if taken["tasks"] == "rows":
        block = max(1, min(taken["grain"], tiles))
        tasks = -(-rows // (block * tile.rows))
        with e.parallel(tasks) as task:

            def rows_of_task(panel: Panel, first: Value) -> None:
                count = block if tiles % block == 0 and not rest else None
                if count is None:
                    count = e.minimum(tiles - task * block, block)
                most = block + bool(rest)

                def pass_over(ahead: bool, part: PartOf) -> None:
                    with e.loop(count, name="tile") as i:
                        fetched = Ahead(i, most) if ahead else None
                        emit(
                            panel,
                            first,
                            (task * block + i) * tile.rows,
                            tile.rows,
                            fetched,
                            part(i),
                        )
                    if rest:
                        with e.when(task >= tasks - 1):
                            fetched = Ahead(block, most) if ahead else None
                            emit(panel, first, tiles * tile.rows, rest, fetched, part(block))

                take_turns(e, k_loops, panel, tile, most, streams, pass_over)

            over_panels(e, cut, rows_of_task)
        note = f"{tile_note(tile, device)}, {tasks} tasks of {block * tile.rows} rows"
    else:

        def all_rows(panel: Panel, first: Value) -> None:
            def pass_over(ahead: bool, part: PartOf) -> None:
                number = tiles + bool(rest)
                with e.loop(tiles, name="tile") as i:
                    fetched = Ahead(i, number) if ahead else None
                    emit(panel, first, i * tile.rows, tile.rows, fetched, part(i))
                if rest:
                    fetched = Ahead(tiles, number) if ahead else None
                    emit(panel, first, tiles * tile.rows, rest, fetched, part(tiles))

            take_turns(e, k_loops, panel, tile, tiles + bool(rest), streams, pass_over)

        with e.parallel(len(cut)) as task:
            one_panel(e, cut, task, all_rows)
        note = f"{tile_note(tile, device)}, {len(cut)} tasks of {cut[0].channels} channels"
    return Scheduled(
        func=e.finish(),
        inputs=(x_index, *epilogue.inputs),
        constants=(pack(scaled, cut), pad_channels(epilogue.shift, cut), *epilogue.constants),
        rule=rule,
        note=note,
        macs=rows * k * n,
        space=space,
        tuned=tuned,
    )


_GRAINS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)


def _space(rule: str, rows: int, k: int, n: int, device: Device, vectors: int | None) -> Space:
    """What may be chosen about a product of `rows` x `k` with `k` x `n`.

    `vectors` is given when the weights are packed already.
    """
    tile = choose_tile(rows, n, device, vectors)
    count = len(panels(n, tile, device))
    tiles, weight_bytes = rows // tile.rows, 4 * k * n
    panelled = by_panels(tiles, count, 4 * rows * k, weight_bytes, device)
    block = 1 if panelled else rows_per_task(tiles, weight_bytes, device)
    shape, fits = tile_dimensions(range(1, min(rows, 16) + 1), n, device, tile, vectors)
    grains = tuple(sorted({g for g in _GRAINS if g <= max(1, tiles)} | {block}))
    return Space(
        kernel=rule,
        dimensions=(
            *shape,
            Dimension(
                "tasks", ("rows", "panels"), "what a task takes: rows, or a panel of channels"
            ),
            Dimension("grain", grains, "tiles of rows of a task"),
            Dimension("fetch", (False, True), "fetch weights ahead of their use"),
        ),
        default=Choice.of(
            {
                "rows": tile.rows,
                "vectors": tile.vectors,
                "unroll": unrolled_steps(device),
                "tasks": "panels" if panelled else "rows",
                "grain": block,
                "fetch": not stays_in_cache(weight_bytes, device),
            }
        ),
        implications=(
            *fits,
            Implication("tasks", ("panels",), "grain", (1,)),
        ),
    )


PartOf: TypeAlias = Callable[[Value], Part | None]  # of a tile's number


def take_turns(
    e: Emitter,
    k_loops: Sequence[KLoop],
    panel: Panel,
    tile: TileShape,
    tiles: int,
    streams: bool,
    pass_over: Callable[[bool, PartOf], None],
) -> None:
    """Compute all tiles of a panel by passes over them: pass_over(fetch ahead, part of tile i).

    One pass, tile by tile; but where weights stream and the reduction is cut, all tiles take a
    run of it before the next one: each weight is read from afar once, a run ahead of its use.
    """
    size = tile.rows * panel.padded
    if not (streams and is_cut(k_loops) and 4 * tiles * size <= _TOTALS_BYTES):
        pass_over(streams, lambda _: None)
        return
    totals = e.scratch("totals", tiles * size)
    pass_over(False, lambda i: Part(totals, i * size, "begin"))
    over_runs(
        e,
        k_loops,
        lambda run: pass_over(True, lambda i: Part(totals, i * size, "add", run)),
    )
    pass_over(False, lambda i: Part(totals, i * size, "end"))


def by_panels(
    tiles: int, panel_count: int, input_bytes: int, weight_bytes: int, device: Device
) -> bool:
    """Whether tasks are panels of channels with all rows, not rows with all channels.

    So when there are few rows, and when it moves less memory.
    """
    tasks = -(-tiles // rows_per_task(tiles, weight_bytes, device))
    return tiles < min(_FEW, panel_count) or prefers_panels(
        panel_count, input_bytes, weight_bytes, tasks, device
    )


def stays_in_cache(size_bytes: int, device: Device) -> bool:
    """Whether so much is still in the second-level cache when it is read again."""
    return size_bytes <= (device.l2_bytes or L2_BYTES) // 2


def prefers_panels(
    panel_count: int, input_bytes: int, weight_bytes: int, tasks: int, device: Device
) -> bool:
    """Whether tasks of one panel, each reading all inputs, move less memory than tasks of rows.

    Each of the `tasks` of rows reads all weights; only those that do not stay in the cache count.
    """
    return (
        panel_count >= _PANELS
        and not stays_in_cache(weight_bytes, device)
        and panel_count * input_bytes + weight_bytes < tasks * weight_bytes
    )


def tile_note(tile: TileShape, device: Device) -> str:
    """`7x48 tile`: pixels by channels."""
    return f"{tile.rows}x{tile.vectors * device.lanes()} tile"


def rows_per_task(tiles: int, weight_bytes: int, device: Device) -> int:
    """How many tiles of rows a task computes.

    Each task reads all weights once. If they stay in the cache, small tasks balance better over
    threads; otherwise eight large ones keep the traffic low.
    """
    return max(1, tiles // (24 if stays_in_cache(weight_bytes, device) else 8))


def over_panels(e: Emitter, cut: tuple[Panel, ...], body: Callable[[Panel, Value], None]) -> None:
    """body(panel, its first channel) for all panels: a loop over the equal ones, then the last."""
    full = _equal(cut)
    if full == 1:
        body(cut[0], 0)
    elif full:
        with e.loop(full, name="panel") as p:
            body(cut[0], p * cut[0].channels)
    if full < len(cut):
        body(cut[-1], cut[-1].first)


def one_panel(
    e: Emitter, cut: tuple[Panel, ...], number: Value, body: Callable[[Panel, Value], None]
) -> None:
    """body(panel, its first channel) for panel `number`."""
    full = _equal(cut)
    if full == len(cut):
        body(cut[0], number * cut[0].channels)
    elif not full:
        body(cut[-1], 0)
    else:
        with e.when(number < full):
            body(cut[0], number * cut[0].channels)
        with e.when(number >= full):
            body(cut[-1], cut[-1].first)


def _equal(cut: tuple[Panel, ...]) -> int:
    return sum(panel.widths == cut[0].widths and panel.channels == cut[0].channels for panel in cut)
