"""How does a kernel become a tiled, double-buffered TIR function made of instructions?

The kernel is printed as TIR, its loops are cut into tiles, operands are read into the scratchpad
and results written from it (`cache_read`, `cache_write`), every stage is tensorised to one
instruction, and the tile loops are marked for TVM's software pipeline, which makes the double
buffers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from parc_hw.errors import InputError, nearest
from schedules._tvm import For, SeqStmt, s_tir, tvm
from schedules.accel.kernel import Access, Index, Kernel, Stage
from schedules.accel.lowering import ACCUMULATORS, SCRATCHPAD, Lowered, lower

__all__ = ["Tiling", "schedule", "source", "tile_shape"]

_SCOPES = {
    "external": "global",
    "rom": "global",
    "scratchpad": SCRATCHPAD,
    "accumulators": ACCUMULATORS,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiling:
    """How a kernel is cut.

    Attributes
    ----------
    tiles : mapping of str to int
        Extent of a tile along a loop of `Kernel.tiled` or `Kernel.split`; a divisor. Loops that are
        not named are whole.
    order : tuple of str
        Tiled loops, the outermost first.
    depth : int
        Stages of the software pipeline: 1 (no double buffers) to 4 (loads, products, endings and
        stores of four tiles at once).
    """

    tiles: Mapping[str, int] = field(default_factory=dict)
    order: tuple[str, ...] = ()
    depth: int = 2

    def __str__(self) -> str:
        cut = " ".join(f"{name}={self.tiles[name]}" for name in self.tiles)
        return f"{cut or 'whole'} order={'>'.join(self.order) or '-'} depth={self.depth}"


_LOADED = "_global.spm"  # how TVM names the copies of `cache_read` and `cache_write`
_LOWEST = {"int8": -(1 << 7), "int16": -(1 << 15)}


# ---------------------------------------------------------------- printing
def _sum(index: Index, name: Any, *, offset: bool = True) -> str:
    terms = [name(loop) if f == 1 else f"{name(loop)} * {f}" for loop, f in index.factors]
    if offset and index.offset:
        terms.append(str(index.offset))
    text = " + ".join(terms) or "0"
    return f"({text}) % {index.ring}" if index.ring else text


def _place(access: Access, name: Any, *, offset: bool = True) -> str:
    inside = ", ".join(_sum(index, name, offset=offset) for index in access.index)
    return f"{access.tensor}[{inside}]"


def _region(access: Access, name: Any, *, offset: bool = True) -> str:
    parts = [
        f"{index.offset if offset else 0}:{(index.offset if offset else 0) + index.whole}"
        if index.whole
        else _sum(index, name, offset=offset)
        for index in access.index
    ]
    return f"{access.tensor}[{', '.join(parts)}]"


def _body(stage: Stage, kernel: Kernel, name: Any, *, offset: bool = True) -> str:
    """The assignment of one point of a stage."""
    target = _place(stage.out, name, offset=offset)
    reads = [_place(read, name, offset=offset) for read in stage.reads]
    if stage.accumulates == "max":
        return f"{target} = T.max({target}, {reads[0]})"
    dtype = kernel.tensors[stage.out.tensor].dtype
    if stage.accumulates == "call":
        arguments = ", ".join([target, *reads])
        return f'{target} = T.call_pure_extern("{dtype}", "{stage.name}", {arguments})'
    if stage.accumulates:
        factors = " * ".join(f'T.Cast("int64", {read})' for read in reads)
        return f"{target} = {target} + {factors}"
    return f'{target} = T.call_pure_extern("{dtype}", "{stage.name}", {", ".join(reads)})'


def _block(
    stage: Stage, kernel: Kernel, depth: int, *, extents: Mapping[str, int], block: str,
    offset: bool = True, init: bool = True,
) -> list[str]:  # fmt: skip
    """The loops and the block of a stage, as lines of TVMScript; loops of one pass only if `init`."""
    named = [name for name in stage.dims if name is not None]
    shown = [name for name in named if extents[name] > 1] or named[-1:]
    loops = [name for name in named if name is not None and (init or name in shown)]
    pad = "    " * depth
    kinds = "".join("R" if name in stage.reductions else "S" for name in loops)
    variables = ", ".join(f"v_{name}" for name in loops)

    def called(name: str) -> str:
        return f"v_{name}" if name in loops and (init or extents[name] > 1) else "0"

    head = ", ".join(f"i_{name}" for name in loops)
    sizes = ", ".join(str(extents[name]) for name in loops)
    lines = [
        f"{pad}for {head} in T.grid({sizes}):",
        f'{pad}    with T.sblock("{block}"):',
    ]
    if init or extents[loops[0]] > 1:  # TVM gives a block of one point no axes
        lines.append(f'{pad}        {variables} = T.axis.remap("{kinds}", [{head}])')
    if any(index.whole for read in stage.reads for index in read.index):
        whole = [_region(read, called, offset=offset) for read in stage.reads]
        if stage.accumulates and not init:
            whole.insert(0, _place(stage.out, called, offset=offset))
        regions = ", ".join(whole)
        lines.append(f"{pad}        T.reads({regions})")
        lines.append(f"{pad}        T.writes({_place(stage.out, called, offset=offset)})")
    if stage.accumulates and init:
        lines.append(f"{pad}        with T.init():")
        dtype = kernel.tensors[stage.out.tensor].dtype
        first = f"T.{dtype}({_LOWEST[dtype] if stage.accumulates == 'max' else 0})"
        lines.append(f"{pad}            {_place(stage.out, called, offset=offset)} = {first}")
    lines.append(f"{pad}        {_body(stage, kernel, called, offset=offset)}")
    return lines


def source(kernel: Kernel) -> str:
    """The kernel as the text of an unscheduled TIR function."""
    parameters = ", ".join(
        f'{name}: T.Buffer({kernel.tensors[name].shape!r}, "{kernel.tensors[name].dtype}")'
        for name in kernel.parameters
    )
    lines = [
        "# from tvm.script import tirx as T",
        "@T.prim_func(s_tir=True)",
        f"def main({parameters}):",
        '    T.func_attr({"global_symbol": "main", "tirx.noalias": True})',
    ]
    for name, tensor in kernel.tensors.items():
        if tensor.memory in ("scratchpad", "accumulators"):
            scope = _SCOPES[tensor.memory]
            lines.append(
                f'    {name} = T.sblock_alloc_buffer({tensor.shape!r}, "{tensor.dtype}", '
                f'scope="{scope}")'
            )
    for stage in kernel.stages:
        lines += _block(stage, kernel, 1, extents=stage.loops, block=stage.name)
    return "\n".join(lines) + "\n"


def _parse(text: str) -> Any:
    return tvm.script.from_source(text)


# ---------------------------------------------------------------- instructions
def tile_shape(access: Access, extents: Mapping[str, int]) -> tuple[int, ...]:
    """How much of a tensor a tile of loops touches."""
    return tuple(
        index.ring or index.whole or 1 + sum(f * (extents[loop] - 1) for loop, f in index.factors)
        for index in access.index
    )


def _intrinsic(
    stage: Stage, kernel: Kernel, extents: Mapping[str, int], scopes: Mapping[str, str]
) -> str:
    """Register the tensor intrinsic of a stage's tile; returns its name."""
    accesses = [stage.out, *stage.reads]
    names = [f"p{n}" for n in range(len(accesses))]
    shapes = [tile_shape(access, extents) for access in accesses]
    dtypes = [kernel.tensors[access.tensor].dtype for access in accesses]
    loops = [name for name in stage.dims if name is not None]

    def matches(*, strides: bool) -> list[str]:
        lines = []
        for n, access in enumerate(accesses):
            given = ""
            if strides:
                own = [f"s{n}_{d}" for d in range(len(shapes[n]))]
                given = f", strides=[{', '.join(own)}]"
            lines.append(
                f'    {access.tensor} = T.match_buffer({names[n]}, {shapes[n]!r}, "{dtypes[n]}", '
                f'offset_factor=1, scope="{scopes[access.tensor]}"{given})'
            )
        return lines

    def whole(n: int) -> str:
        return f"{accesses[n].tensor}[{', '.join(f'0:{extent}' for extent in shapes[n])}]"

    touched = [whole(0)] if stage.accumulates else []
    reads = ", ".join([*touched, *(whole(n) for n in range(1, len(accesses)))])
    head = f"({', '.join(f'{name}: T.handle' for name in names)}):"
    frame = [
        '    with T.sblock("root"):',
        f"        T.reads({reads})",
        f"        T.writes({whole(0)})",
    ]
    desc = [
        "@T.prim_func(s_tir=True)",
        f"def desc{head}",
        *matches(strides=False),
        *frame,
        *_block(stage, kernel, 2, extents=extents, block="point", offset=False, init=False),
    ]
    arguments = []
    for n, access in enumerate(accesses):
        mode = ("rw" if stage.accumulates else "w") if n == 0 else "r"
        arguments.append(f'{access.tensor}.access_ptr("{mode}")')
    arguments += [str(extents[name]) for name in loops]
    for n, access in enumerate(accesses):
        for loop in loops:
            terms = [
                f"s{n}_{d} * {f}"
                for d, index in enumerate(access.index)
                for name, f in index.factors
                if name == loop
            ]
            arguments.append(" + ".join(terms) or "0")
    declared = [
        f"    s{n}_{d} = T.int32()" for n in range(len(accesses)) for d in range(len(shapes[n]))
    ]
    impl = [
        "@T.prim_func(s_tir=True)",
        f"def impl{head}",
        *declared,
        *matches(strides=True),
        *frame,
        f'        T.evaluate(T.call_extern("int32", "{stage.name}", {", ".join(arguments)}))',
    ]
    name = f"accel.{kernel.name}.{stage.name}"
    s_tir.TensorIntrin.register(
        name, _parse("\n".join(desc)), _parse("\n".join(impl)), override=True
    )
    return name


# ---------------------------------------------------------------- the schedule
def schedule(kernel: Kernel, tiling: Tiling) -> Lowered:
    """Tile, tensorise, pipeline and lower a kernel.

    Raises
    ------
    InputError
        A tile along a loop that cannot be cut, or that does not divide it.
    """
    _check(kernel, tiling)
    whole = {**kernel.stages[0].loops, **kernel.stages[-1].loops}
    cuts = {name: tile for name, tile in tiling.tiles.items() if tile != whole[name]}
    tiling = replace(tiling, tiles=cuts)
    sch = s_tir.Schedule(tvm.IRModule({"main": _parse(source(kernel))}))
    blocks = {stage.name: sch.get_sblock(stage.name, func_name="main") for stage in kernel.stages}
    last = kernel.stages[-1]
    end = blocks[last.name]

    # 1. The last stage's loops, in tiles.
    names = [name for name in last.dims if name is not None]
    outer: dict[str, Any] = {}
    inner = []
    for name, loop in zip(names, sch.get_loops(end), strict=True):
        if name in tiling.tiles:
            outer[name], rest = sch.split(
                loop, [None, tiling.tiles[name]], preserve_unit_iters=True
            )
            inner.append(rest)
        else:
            inner.append(loop)
    order = [name for name in tiling.order if name in outer]
    order += [name for name in outer if name not in order]
    sch.reorder(*(outer[name] for name in order), *inner)
    here = outer[order[-1]] if order else None

    # 2. What is computed on the way, per tile; results leave through the scratchpad.
    scopes = {name: _SCOPES[tensor.memory] for name, tensor in kernel.tensors.items()}
    written = sch.cache_write(end, 0, SCRATCHPAD)
    scopes[kernel.result] = SCRATCHPAD
    if here is not None:
        sch.reverse_compute_at(written, here, preserve_unit_loops=True)
        for stage in reversed(kernel.stages[:-1]):
            sch.compute_at(blocks[stage.name], here, preserve_unit_loops=True)

    # 3. A long reduction, in pieces inside the tile.
    cut = _cut_reduction(sch, kernel, tiling, blocks)

    # 4. Operands, each at the innermost tile loop that it depends on.
    for stage in kernel.stages:
        for read in stage.reads:
            if kernel.tensors[read.tensor].memory != "external":
                continue
            position = _operand_number(sch, blocks[stage.name], read.tensor)
            cached = sch.cache_read(blocks[stage.name], position, SCRATCHPAD)
            scopes[read.tensor] = SCRATCHPAD
            where = _place_of(kernel, stage, read, order, tiling, cut)
            if where == "reduction":
                sch.compute_at(cached, cut, preserve_unit_loops=True)
            elif where:
                sch.compute_at(cached, outer[where], preserve_unit_loops=True)

    # 5. One instruction per stage.
    for stage in kernel.stages:
        block = blocks[stage.name]
        loops = sch.get_loops(block)
        count = sum(name is not None for name in stage.dims)
        own = loops[-count:]
        extents = dict(
            zip(
                (name for name in stage.dims if name is not None),
                (int(sch.get(loop).extent) for loop in own),
                strict=True,
            )
        )
        # TVM binds loops of one pass outside the instruction's block.
        own.sort(key=lambda loop: int(sch.get(loop).extent) > 1)
        if len(own) > 1:
            sch.reorder(*own)
        several = sum(extent > 1 for extent in extents.values())
        intrinsic = _intrinsic(stage, kernel, extents, scopes)
        if stage.accumulates:
            sch.decompose_reduction(block, own[0] if cut is None else cut)
            update = sch.get_sblock(f"{stage.name}_update", func_name="main")
            own = sch.get_loops(update)[-count:]
        sch.tensorize(own[-several] if several else own[-1], intrinsic)

    # 6. Double buffers.
    _pipeline(sch, kernel, tiling, outer, order, cut)
    return lower(sch.mod, "main")


def _check(kernel: Kernel, tiling: Tiling) -> None:
    allowed = {**kernel.stages[-1].loops, **kernel.stages[0].loops}
    for name, tile in tiling.tiles.items():
        if name not in (*kernel.tiled, *kernel.split):
            raise InputError(
                f"{kernel.name} cannot be cut along {name!r}."
                f"{nearest(name, [*kernel.tiled, *kernel.split])} "
                f"Accepted: {', '.join([*kernel.tiled, *kernel.split]) or 'nothing'}."
            )
        if tile < 1 or allowed[name] % tile:
            raise InputError(
                f"{kernel.name}: a tile of {tile} does not divide {name} = {allowed[name]}."
            )
    if not 1 <= tiling.depth <= 4:
        raise InputError(f"depth {tiling.depth} is not 1, 2, 3 or 4.")


def _cut_reduction(sch: Any, kernel: Kernel, tiling: Tiling, blocks: Mapping[str, Any]) -> Any:
    """The loop over the pieces of the first stage's reduction; None where it is whole."""
    stage = kernel.stages[0]
    names = [name for name in stage.dims if name is not None]
    for name in kernel.split:
        if name not in tiling.tiles or tiling.tiles[name] == stage.loops[name]:
            continue
        own = sch.get_loops(blocks[stage.name])[-len(names) :]
        position = names.index(name)
        cut, rest = sch.split(own[position], [None, tiling.tiles[name]])
        sch.reorder(cut, *own[:position], rest, *own[position + 1 :])
        return cut
    return None


def _operand_number(sch: Any, block: Any, tensor: str) -> int:
    names = [str(region.source.name) for region in sch.get(block).reads]
    return names.index(tensor)


def _place_of(
    kernel: Kernel, stage: Stage, read: Access, order: list[str], tiling: Tiling, cut: Any
) -> str:
    """The tile loop under which an operand is loaded: "" for none, "reduction" for its pieces."""
    loops = {loop for index in read.index for loop, _ in index.factors}
    if cut is not None and stage is kernel.stages[0] and loops & set(kernel.split):
        return "reduction"
    trips = {name: kernel.stages[-1].loops[name] // tiling.tiles[name] for name in order}
    for name in reversed(order):
        if name in loops and trips[name] > 1:
            return name
    return ""


def _pipeline(
    sch: Any, kernel: Kernel, tiling: Tiling, outer: Mapping[str, Any], order: list[str], cut: Any
) -> None:
    """Mark the tile loops, the innermost first, with the pipeline stage of each statement.

    Loads are stage 0, products and endings 1 (at depth 4 what stands behind the products 2: of
    transforms the inverse, whose butterflies then need not wait for the product), and the copy to
    external memory shares the stage of the last ending (one later from depth 3 on).
    """
    if tiling.depth == 1:
        return
    depth = tiling.depth
    late: dict[str, int] = {}
    names = [stage.name for stage in kernel.stages]
    products = names.index("spectrum_product") if "spectrum_product" in names else 0
    for number, name in enumerate(names):
        late[name] = 2 if depth == 4 and number > products else 1
    last = late[kernel.stages[-1].name] + (depth >= 3)
    around = [outer[name] for name in reversed(order)]
    inner = 1  # statements that the loop below, once pipelined, becomes
    for loop in around if cut is None else (cut, *around):
        node = sch.get(loop)
        numbers: list[int] = []
        for statement in node.body.seq if isinstance(node.body, SeqStmt) else [node.body]:
            names = _blocks(statement)
            if len(names) > 1 and loop is not cut and isinstance(statement, For):
                numbers += [1] * inner  # the tile loop below
                continue
            (name,) = names
            if name.endswith(_LOADED):
                numbers.append(last if name == f"{kernel.result}{_LOADED}" else 0)
            else:
                known = [each for each in late if name.startswith(each)]
                numbers.append(late[max(known, key=len)])
        trips = int(node.extent)
        if 0 not in numbers:
            inner = 1
            continue
        numbers = [min(number, trips - 1) for number in numbers]
        sch.annotate(loop, "software_pipeline_stage", numbers)
        sch.annotate(loop, "software_pipeline_order", _program_order(numbers))
        inner = 3  # prologue, loop and epilogue


def _program_order(numbers: list[int]) -> list[int]:
    """Where each statement goes in the pipelined loop: loads of later tiles in front."""
    ranked = sorted(range(len(numbers)), key=lambda n: (numbers[n] != 0, n))
    return [ranked.index(n) for n in range(len(numbers))]


def _blocks(statement: Any) -> list[str]:
    """Names of the outermost blocks below a statement."""
    found: list[str] = []
    if isinstance(statement, SeqStmt):
        for part in statement.seq:
            found += _blocks(part)
    elif isinstance(statement, For):
        found += _blocks(statement.body)
    elif isinstance(statement, s_tir.SBlockRealize):
        found.append(str(statement.block.name_hint))
    return found
