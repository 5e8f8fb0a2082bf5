"""Do threads that share a call change anything but its time?"""

from __future__ import annotations

import copy
import math
import os
import subprocess
import sys
import threading
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import parc_hw
from parc_hw import operator
from parc_hw.device import load_device
from parc_hw.errors import UnsupportedError

pytestmark = pytest.mark.tvm

ROOT = Path(__file__).parents[2]
LARGE = (1, 96, 56, 56)


@cache
def normal(*shape, seed=0):
    result = np.random.default_rng([seed, *shape]).standard_normal(shape, dtype=np.float32)
    result.flags.writeable = False
    return result


@cache
def compiled(axis, layout="NCHW", outputs=0):
    """An operator of one thread, too small to be shared."""
    height, width = 14, 9
    shape = (2, 6, height, width) if layout == "NCHW" else (2, height, width, 6)
    weight = {
        "H": normal(6, height),
        "W": normal(6, width),
        "half": (normal(3, height), normal(3, width)),
        "HW": (normal(6, height), normal(6, width)),
    }[axis]
    if outputs:
        weight = normal(outputs, *weight.shape)
    return parc_hw.compile_parc(weight=weight, axis=axis, shape=shape, layout=layout)


def shared(op, threads):
    """The same kernel on several threads, which every call wakes, however little work there is."""
    result = copy.copy(op)
    extent = op._kernel.signature.extent
    result.threads, result._shares = operator._sharing(extent, threads, work=math.inf)
    result._wakes = True
    return result


FORMS = [(axis, 0) for axis in ("H", "W", "half", "HW")] + [("H", 7), ("W", 7)]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("axis, outputs", FORMS)
def test_threads_change_no_bit(axis, outputs, layout):
    one = compiled(axis, layout, outputs)
    x = normal(*one.input_shape, seed=2)
    expected = one(x)
    for threads in (2, 3, 5, 40):
        op = shared(one, threads)
        assert op.threads > 1
        y = np.empty_like(expected)
        call = op.bind(x, y)
        for _ in range(50):
            y[:] = np.nan
            call()
            assert np.array_equal(y, expected)


def test_a_small_map_is_computed_by_its_caller_alone():
    """7 x 7 x 384, the smallest of the zoo's: 3 microseconds."""
    op = parc_hw.compile_parc(normal(384, 7), "H", (1, 7, 7, 384), layout="NHWC", threads=2)
    assert op.threads == 1
    op = parc_hw.compile_parc(normal(96, 56), "H", LARGE, threads=2)
    assert op.threads == 2


def test_more_threads_than_tasks_do_not_take_part():
    op = shared(parc_hw.compile_parc(normal(3, 4), "H", (1, 3, 4, 3)), 16)
    assert op.threads == 3  # planes


def test_workers_do_take_part():
    """The pool counts what they did of the last job."""
    from schedules.threads import _FIELDS, _LINE, shared_pool

    op = parc_hw.compile_parc(normal(96, 56), "H", LARGE, threads=2)
    call = op.bind(normal(*LARGE), np.empty(LARGE, np.float32))
    pool = shared_pool(load_device("host"))
    done = pool._words.view(np.int32)[_LINE // 4 * _FIELDS.index("done") :]
    limit = time.monotonic() + 60
    while True:
        call()
        if done[0]:
            return
        assert time.monotonic() < limit, "no worker took a share in a minute"


def test_callers_at_the_same_time_get_each_its_result():
    """One of them has the pool, the others compute alone."""
    operators = [
        shared(compiled(axis), threads) for axis, threads in (("H", 2), ("W", 3), ("HW", 2))
    ]
    xs = [normal(*op.input_shape, seed=i) for i, op in enumerate(operators)]
    expected = [op(x) for op, x in zip(operators, xs, strict=True)]
    wrong = []

    def work(op, x, y):
        wrong.extend(i for i in range(300) if not np.array_equal(op(x), y))

    threads = [
        threading.Thread(target=work, args=case)
        for case in zip(operators * 2, xs * 2, expected * 2, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bound_call_outlives_its_operator():
    op = shared(compiled("H"), 2)
    x = normal(*op.input_shape)
    y, expected = np.empty_like(x), op(x)
    call = op.bind(x, y)
    del op
    for _ in range(100):
        call()
    assert np.array_equal(y, expected)


def test_a_worker_that_sleeps_is_woken():
    op = shared(compiled("H"), 2)
    x = normal(*op.input_shape)
    expected = op(x)
    for _ in range(20):
        time.sleep(0.002)
        assert np.array_equal(op(x), expected)


def test_the_child_of_a_fork_computes_with_its_own_workers():
    op = shared(compiled("H"), 3)
    x = normal(*op.input_shape)
    expected, y = op(x), np.empty_like(x)
    call = op.bind(x, y)
    child = os.fork()
    if child == 0:
        try:
            y[:] = np.nan
            call()
            good = np.array_equal(y, expected)
            good &= all(np.array_equal(op(x), expected) for _ in range(100))
            os._exit(0 if good else 1)
        except BaseException:
            os._exit(2)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(op(x), expected)


@pytest.mark.torch
def test_workers_flush_denormal_numbers_only_if_the_caller_does():
    import torch

    op, one = shared(compiled("H"), 3), compiled("H")
    x = normal(*op.input_shape) * np.float32(1e-39)
    plain = op(x)
    assert np.any((plain != 0) & (abs(plain) < 1e-38))
    assert np.array_equal(plain, one(x))
    try:
        assert torch.set_flush_denormal(True)
        flushed = one(x)
        for _ in range(50):
            assert np.array_equal(op(x), flushed)
    finally:
        torch.set_flush_denormal(False)
    assert not flushed.any()
    for _ in range(50):
        assert np.array_equal(op(x), plain)


@pytest.mark.parametrize("pause", [0, 0.01], ids=["looking", "asleep"])
def test_a_process_with_workers_ends(pause):
    program = (
        "import time, numpy as np, parc_hw\n"
        "x = np.ones((1, 96, 56, 56), np.float32)\n"
        "op = parc_hw.compile_parc(np.ones((96, 56), np.float32), 'H', x.shape, threads=3)\n"
        "for _ in range(20): assert (op(x) == 56).all()\n"
        f"time.sleep({pause})\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 0, done.stderr


def test_a_device_without_a_pool_is_refused_by_name():
    from schedules.threads import Pool

    with pytest.raises(UnsupportedError, match=r"threads > 1 on armv7a.*Take threads=1"):
        Pool(load_device("cortex-a17"))
