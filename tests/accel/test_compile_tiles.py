"""Do tiles, orders and double buffers change cycles and never words, and is what does not fit said?"""

from dataclasses import replace

import pytest
from accelerated import OPERATORS, corner_images, layer, network, outputs, quantised, random

from parc_hw.accel import tune
from parc_hw.accel.choose import best_tilings, estimate, fitting
from parc_hw.accel.codegen import DoesNotFit, check_sizes
from parc_hw.accel.description import load_description
from parc_hw.accel.network import compile_network
from parc_hw.accel.scheduled import Schedules, kernel_key, make
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.isa import Opcode
from schedules.accel.operators import View, circular, convolution, elementwise
from schedules.accel.tiling import Tiling, schedule

pytestmark = pytest.mark.tvm

ENDING = {"lo": -(1 << 15), "hi": (1 << 15) - 1, "rounding": 2}
NPU = load_description("edge-npu")


def parc(length=14, lines=14, channels=96):
    view = View(shape=(length, lines, channels))
    return circular(
        view, view, axis=0, length=length, others=lines, channels=channels, ending=ENDING
    )


def pointwise(points=64, channels=32, outputs=24):
    return convolution(
        View(shape=(1, points, channels)), View(shape=(1, points, outputs)), height=1,
        width=points, channels=channels, outputs=outputs, taps=(1, 1), ending=ENDING,
    )  # fmt: skip


@pytest.mark.parametrize("operator", ["convolution", "parc H", "parc dense W", "halves", "linear"])
def test_every_tiling_has_the_same_words(operator):
    model = quantised(OPERATORS[operator](), 16)
    images = corner_images(model)[:2]
    wanted = model.run(images).raw.reshape(len(images), -1)
    random_ = random(11)
    for _ in range(6):

        def choose(kernel):
            found = [t for t, _ in fitting(kernel, NPU) if t.tiles]
            return found[int(random_.integers(len(found)))]

        compiled = compile_network(model, NPU, schedules=Schedules(NPU, choose))
        assert (outputs(model, compiled, NPU, images) == wanted).all()


def test_a_reduction_in_pieces_has_the_same_words():
    model = quantised(OPERATORS["convolution"](), 8)
    images = corner_images(model)[:2]
    for depth in (1, 2, 4):
        tiling = Tiling(tiles={"h": 2, "w": 8, "o": 5, "c": 4}, order=("o", "h"), depth=depth)
        compiled = compile_network(model, NPU, schedules=Schedules(NPU, lambda _, t=tiling: t))
        found = outputs(model, compiled, NPU, images)
        assert (found == model.run(images).raw.reshape(2, -1)).all()


def test_double_buffers_take_1_3_times_fewer_cycles_on_a_memory_bound_layer():
    tiles = {"l": 2, "o": 32}
    cycles = {
        depth: tune.measure(
            parc(56, 56), Tiling(tiles=tiles, order=("o", "l"), depth=depth), NPU
        ).cycles
        for depth in (1, 2)
    }
    assert cycles[1] >= 1.3 * cycles[2]


def test_double_buffers_are_two_versions_of_what_is_loaded_in_the_loop():
    tiling = Tiling(tiles={"l": 2, "o": 32}, order=("o", "l"), depth=4)
    versions = {b.name: b.versions for b in schedule(parc(), tiling).buffers.values()}
    assert versions["X_global.spm"] == versions["W_global.spm"] == 2
    assert versions["A"] == versions["Y_global.spm"] == 2
    single = schedule(parc(), replace(tiling, depth=1))
    assert {b.versions for b in single.buffers.values()} == {1}


def test_a_tile_is_one_instruction_of_each_unit():
    tiling = Tiling(tiles={"l": 7}, order=("l",), depth=2)
    program = tune.kernel_program(parc(), make(parc(), tiling, NPU), NPU)
    count = [each.opcode for each in program.instructions]
    assert count.count(Opcode.CIRCULAR_MAC) == count.count(Opcode.REQUANTISE) == 2
    assert count.count(Opcode.STORE) == 2
    # words twice; weights, biases and shifts once
    assert count.count(Opcode.LOAD) == 2 + 3


def test_estimates_of_memory_are_what_the_schedule_takes():
    for kernel in (parc(), pointwise()):
        for tiling in best_tilings(kernel, NPU, 4):
            sizes = make(kernel, tiling, NPU).sizes
            expected = estimate(kernel, tiling, NPU)
            assert expected.accumulators >= sizes.accumulators
            assert 0.5 * expected.scratchpad <= sizes.scratchpad <= expected.scratchpad + 16 * 32


def test_equal_kernels_share_a_schedule_whatever_their_endings():
    other = circular(
        View(shape=(14, 14, 96)), View(shape=(14, 14, 96)), axis=0, length=14, others=14,
        channels=96, ending={**ENDING, "lo": 0},
    )  # fmt: skip
    assert kernel_key(parc()) == kernel_key(other)
    assert kernel_key(parc()) != kernel_key(parc(channels=48))


# ---------------------------------------------------------------- what does not fit
def test_a_tile_that_is_too_large_is_refused_before_anything_is_emitted():
    tiling = Tiling(tiles={"l": 14}, order=("l",), depth=1)
    with pytest.raises(DoesNotFit, match=r"edge-npu has 65536: 9728 are missing"):
        make(parc(56, 56), tiling, NPU)


def test_a_layer_that_fits_no_tile_says_which_dimension_and_how_much_is_missing():
    tiny = load_description("tiny")
    with pytest.raises(
        UnsupportedError, match=r"i = 1024 cannot be, .* 512 accumulators: 512 accumulators are"
    ):
        best_tilings(parc(1024, 2, 1), tiny)
    small = replace(NPU, scratchpad=replace(NPU.scratchpad, bytes=2048))
    with pytest.raises(UnsupportedError, match=r"224.*\d+ bytes of scratchpad are missing"):
        best_tilings(parc(224, 2, 1), small)


def test_a_network_with_a_layer_that_fits_nowhere_is_refused():
    wide = network(
        layer("parc", (600, 2, 1), weight=(1, 600), bias=(1, 600), attrs={"axis": 1}),
        shape=(600, 2, 1),
    )
    with pytest.raises(UnsupportedError, match="no tile fits tiny"):
        compile_network(quantised(wide, 8), load_description("tiny"))


@pytest.mark.parametrize(
    ("tiling", "match"),
    [
        (Tiling(tiles={"k": 7}), "cannot be cut along 'k'"),
        (Tiling(tiles={"l": 3}), "3 does not divide l = 14"),
        (Tiling(depth=5), "depth 5 is not"),
    ],
)
def test_tilings_that_are_none_are_refused(tiling, match):
    with pytest.raises(InputError, match=match):
        schedule(parc(), tiling)


def test_sizes_are_checked_against_both_memories():
    kernel = elementwise(
        "copy", {"P": View(shape=(1, 1 << 15, 32))}, View(shape=(1, 1 << 15, 32)),
        extents=(1, 1 << 15, 32), fields={"shift": 0},
    )  # fmt: skip
    with pytest.raises(DoesNotFit, match="bytes are missing"):
        make(kernel, Tiling(), NPU)
    sizes = make(parc(), Tiling(tiles={"l": 1}), NPU).sizes
    check_sizes(parc(), sizes, NPU)


# ---------------------------------------------------------------- tuning
def test_tuning_is_never_worse_than_the_estimate_and_deterministic():
    kernel = pointwise(196, 96, 64)
    first = tune.measure(kernel, best_tilings(kernel, NPU)[0], NPU)
    best = tune.tune_kernel(kernel, NPU, trials=6)
    assert best.cycles <= first.cycles
    assert tune.tune_kernel(kernel, NPU, trials=6) == best


def test_records_keep_tilings_by_machine_and_kernel(tmp_path):
    book = tune.RecordBook(NPU)
    kernel = pointwise()
    record = book.tune(kernel, trials=3)
    path = tmp_path / "records.jsonl"
    path.write_text(book.to_text())
    again = tune.RecordBook.load(path, NPU)
    assert again.choose(kernel) == record.tiling
    assert again.used == [record.name]
    assert again.choose(parc()) is None
    assert tune.RecordBook.load(path, load_description("tiny")).choose(kernel) is None
    assert tune.RecordBook.load("none", NPU).records == {}
    path.write_text("{}\n")
    with pytest.raises(InputError, match="line 1: no record of an accelerator"):
        tune.RecordBook.load(path, NPU)
    with pytest.raises(InputError, match="cannot be read"):
        tune.RecordBook.load(tmp_path / "absent", NPU)


def test_energy_is_an_objective_and_others_are_refused():
    kernel = pointwise()
    by_energy = tune.tune_kernel(kernel, NPU, objective="energy", trials=4)
    assert by_energy.energy_pj <= tune.tune_kernel(kernel, NPU, trials=4).energy_pj
    with pytest.raises(InputError, match="objective 'heat' is unknown"):
        tune.tune_kernel(kernel, NPU, objective="heat")


def test_the_search_stops_at_its_trials_and_skips_what_cannot_be():
    seen = []

    def cost(tiling):
        seen.append(tiling)
        return None if tiling.depth == 1 else float(tiling.depth)

    choices = [Tiling(depth=depth) for depth in (1, 4, 3)]
    best = tune.search(choices, lambda _: iter([Tiling(depth=2)]), cost, trials=3)
    assert best == Tiling(depth=3)
    assert len(seen) == 3
    assert tune.search([Tiling(depth=1)], lambda _: iter(()), cost) is None
