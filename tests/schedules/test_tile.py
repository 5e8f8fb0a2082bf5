"""Are tiles within the registers, panels a partition of the channels, and packed weights in place?"""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.device import load_device
from schedules.cpu.tile import (
    TileShape,
    choose_tile,
    pack,
    pad_channels,
    panels,
    register_budget,
    registers,
)

pytestmark = pytest.mark.tvm

DEVICES = ["x86-64", "x86-64-v3", "x86-64-v4", "cortex-a53", "rk3288"]


@pytest.mark.parametrize(
    "name, rows, channels, tile",
    [
        ("x86-64-v3", 3136, 96, TileShape(6, 2)),  # 6x16: BLIS's tile for AVX2
        ("cortex-a53", 3136, 96, TileShape(7, 3)),  # 7x12: the largest without spills
        ("rk3288", 3136, 96, TileShape(4, 2)),  # 4x8
    ],
)
def test_large_products_get_the_known_tiles(name, rows, channels, tile):
    assert choose_tile(rows, channels, load_device(name)) == tile


@given(st.sampled_from(DEVICES), st.integers(1, 300), st.integers(1, 300))
def test_tiles_fit_the_registers_and_the_rows(name, rows, channels):
    device = load_device(name)
    tile = choose_tile(rows, channels, device)
    assert registers(tile, device) <= register_budget(device)
    assert 1 <= tile.rows <= rows


@given(st.sampled_from(DEVICES), st.integers(1, 8), st.integers(1, 300))
def test_panels_cover_every_channel_once(name, vectors, channels):
    device = load_device(name)
    cut = panels(channels, TileShape(1, vectors), device)
    covered = [c for p in cut for c in range(p.first, p.first + p.channels)]
    assert covered == list(range(channels))
    assert all(p.channels <= p.padded for p in cut)
    assert all(p.channels == p.padded == cut[0].channels for p in cut[:-1])
    last = cut[-1].widths
    assert cut[-1].padded - cut[-1].channels < last[-1]  # no vector is padding alone


def test_packing_puts_each_weight_where_its_step_reads_it():
    device = load_device("cortex-a53")
    weights = np.arange(3 * 11, dtype=np.float32).reshape(3, 11)
    cut = panels(11, TileShape(4, 2), device)
    assert [p.widths for p in cut] == [(4, 4), (4,)]
    packed = pack(weights, cut)
    np.testing.assert_array_equal(packed[: 3 * 8].reshape(3, 8), weights[:, :8])
    tail = packed[3 * 8 :].reshape(3, 4)
    np.testing.assert_array_equal(tail[:, :3], weights[:, 8:])
    np.testing.assert_array_equal(tail[:, 3], 0)
    np.testing.assert_array_equal(pad_channels(np.arange(11.0), cut), [*range(11), 0])
