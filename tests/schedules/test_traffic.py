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
    pairs = scheduled(found, near())
    monkeypatch.setattr(traffic, "FAR_BYTES", 0)
    far = scheduled(found, near())
    assert not any(uses(job, "prefetch") for job in plain)
    fetching = [uses(job, "prefetch") for job in pairs]
    assert sum(fetching) >= 13  # not the direct form, nor NCHW along W, which turns squares
    assert fetching == [uses(job, "prefetch") for job in far]
    if HOST.lanes() * 4 == HOST.line_bytes:
        assert sum(uses(job, "parc_stream_16") for job in far) >= 5
    first, second, third = (run_many(jobs) for jobs in (plain, pairs, far))
    for a, b, c in zip(first, second, third, strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)


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
