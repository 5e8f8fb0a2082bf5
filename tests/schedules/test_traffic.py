"""Do fetching ahead, sweeps of vectors and streaming stores leave every bit as it was?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from run_kernel import run
from run_many import run_many
from test_parc import build, build_half
from test_parc_nchw import Case

from parc_hw.device import load_device
from parc_hw.plan import SplitPlan
from schedules.cpu import traffic
from schedules.cpu.parc import parc, parc_twice
from schedules.cpu.parc_nchw import parc_nchw
from schedules.cpu.traffic import Traffic
from schedules.jit import load_kernel
from schedules.rule import Context
from schedules.tir import parameter_sizes

pytestmark = pytest.mark.tvm

HOST = load_device("host")


def cases():
    """(rule, builder): both axes and layouts, halves, pairs of axes; whole and overlapping vectors."""
    found = []
    for axis in "HW":
        shapes = [(2, 14, 10, channels) for channels in (96, 40)]
        found += [(parc, build(shape, axis, steps=("bias", "residual"))) for shape in shapes]
        found.append((parc, build((1, 15, 9, 32), axis)))
    found.append((parc, build_half((2, 14, 14, 96), 48, "HW")))
    found.append((parc, build_half((1, 14, 9, 40), 24, "WH", steps=("residual",))))
    found.append((parc_twice, Case((2, 14, 9, 64), "HW", "NHWC").builder))
    found.append((parc_twice, Case((1, 14, 10, 40), "WH", "NHWC").builder))
    for axes, half in (("H", 0), ("W", 0), ("HW", 0), ("WH", 3)):
        found.append((parc_nchw, Case((2, 14, 48, 5), axes, half=half).builder))
        found.append((parc_nchw, Case((2, 14, 37, 5), axes, half=half).builder))
    return found


def scheduled(found, device):
    jobs = []
    for rule, builder in found:
        jobs.append((rule(builder.composite(), Context(device=device)), builder.inputs))
    return jobs


def near(device=HOST):
    """A device whose L2 cache holds none of these maps."""
    return dataclasses.replace(device, l2_bytes=1)


def uses(job, text):
    return text in job[0].func.script()


def test_no_bit_depends_on_traffic(monkeypatch):
    found = cases()
    plain = scheduled(found, HOST)
    alone = scheduled(found, near())  # columns of NCHW, which are short enough
    monkeypatch.setattr("schedules.cpu.parc_nchw.WAYS", 0)
    pairs = scheduled(found, near())
    monkeypatch.setattr(traffic, "FAR_BYTES", 0)
    far = scheduled(found, near())
    assert not any(uses(job, "prefetch") for job in plain)
    fetching = [uses(job, "prefetch") for job in pairs]
    assert sum(fetching) >= 13  # not the direct form, nor NCHW along W, which is turned
    assert fetching == [uses(job, "prefetch") for job in far]
    assert fetching == [uses(job, "prefetch") for job in alone]
    if HOST.lanes() * 4 == HOST.line_bytes:
        assert sum(uses(job, "parc_stream_16") for job in far) >= 5
    first, *rest = (run_many(jobs) for jobs in (plain, alone, pairs, far))
    for result, *others in zip(first, *rest, strict=True):
        assert all(np.array_equal(result, other) for other in others)


@pytest.mark.skipif(HOST.lanes() * 4 != HOST.line_bytes, reason="vectors are parts of lines here")
def test_no_bit_depends_on_the_order_of_blocks_and_lines(monkeypatch):
    found = [(rule, builder) for rule, builder in cases() if rule is parc]
    by_lines = scheduled(found, HOST)
    monkeypatch.setattr(traffic, "LONG", 0)
    monkeypatch.setattr(traffic, "WEIGHT_BYTES", 0)
    by_blocks = scheduled(found, HOST)
    monkeypatch.setattr(traffic, "SET_BYTES", 1)
    by_pairs = scheduled(found, HOST)
    for (a, _), (b, _) in zip(by_lines, by_blocks, strict=True):
        assert a.func.script() != b.func.script()
    first, *rest = (run_many(jobs) for jobs in (by_lines, by_blocks, by_pairs))
    for result, *others in zip(first, *rest, strict=True):
        assert all(np.array_equal(result, other) for other in others)


@pytest.mark.parametrize("far", [False, True])
def test_fetching_and_streaming_touch_nothing_else(monkeypatch, far):
    """With inaccessible pages round every buffer; a fetch of them would be none."""
    if far:
        monkeypatch.setattr(traffic, "FAR_BYTES", 0)
    for index in (0, 1, 6, 8, 10):
        rule, builder = cases()[index]
        job = rule(builder.composite(), Context(device=near()))
        (plain,) = run_many(scheduled([(rule, builder)], HOST))
        assert np.array_equal(run(job, builder.inputs), plain)


def test_an_output_that_is_not_aligned_is_not_streamed(monkeypatch):
    """The same kernel at 16 places of the output within a line."""
    monkeypatch.setattr(traffic, "FAR_BYTES", 0)
    builder = build((1, 14, 5, 96), "H")
    job = parc(builder.composite(), Context(device=near()))
    kernel = load_kernel(job.func, HOST)
    (expected,) = run_many([(job, builder.inputs)])
    arrays = [placed(np.ravel(a), 0) for a in (*builder.inputs, *job.constants)]
    scratch = placed(np.zeros(kernel.signature.scratch_bytes // 4), 0)
    for shift in range(16):
        result = placed(np.full(parameter_sizes(job.func)[-1], np.nan, np.float32), shift)
        addresses = [a.ctypes.data for a in (*arrays, result)]
        words = kernel.job(addresses, [scratch.ctypes.data], shares=1, wakes=False)
        kernel.share(words.ctypes.data, 0, 0)
        assert np.array_equal(result, expected)


def placed(array, shift):
    """A float32 copy that begins `shift` elements after a line."""
    room = np.zeros(array.size + 64, np.float32)
    first = -(room.ctypes.data // 4) % 16 + shift
    room[first : first + array.size] = array
    return room[first : first + array.size]


@pytest.mark.parametrize("name", ["cortex-a53", "rk3288", "rpi4"])
def test_arm_kernels_do_none_of_it(name):
    """It was measured on x86-64 only."""
    device = dataclasses.replace(load_device(name), l2_bytes=1)
    asked = {"elements": 2**24, "vectors": 4, "length": 64, "lanes": 4, "whole_lines": True}
    assert Traffic.of(device, **asked) == Traffic()
    del asked["length"]
    for elements in (2**14, 2**19, 2**24):
        asked["elements"] = elements
        for plan in (SplitPlan(n1=14, n2=2), SplitPlan(n1=32, n2=7)):
            for step in (1, 1024):
                found = Traffic.of_pixels(device, **asked, channels=16, plan=plan, step=step)
                assert found == Traffic()


def test_sweeps_fit_the_cache_and_divide_the_vectors():
    for device in (load_device("x86-64-v3"), load_device("x86-64-v4"), load_device("znver4")):
        for length in (1, 7, 56, 112, 224, 1021):
            for vectors in (1, 2, 3, 5, 6, 7, 12, 14, 64):
                for elements in (2**8, 2**19 - 1, 2**19 + 1, 2**24):
                    lanes = device.lanes()
                    found = Traffic.of(
                        device,
                        elements=elements,
                        vectors=vectors,
                        length=length,
                        lanes=lanes,
                        whole_lines=False,
                    )
                    assert vectors % found.vectors == 0
                    if found.vectors > 2:
                        bytes_ = 4 * length * lanes * found.vectors
                        assert bytes_ <= traffic.SWEEP_BYTES
                    assert not found.streams
