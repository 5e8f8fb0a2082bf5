"""How fast are the multiply-accumulate kernels of the fixed-point simulator?

`benchmarks/fixed_point.py` takes `ROWS` from here. Medians of the rounds; two threads.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from fixedpoint import Cut, QFormat, Rounding, mac

LENGTH, CHANNELS, LINES = 56, 16, 2000
Q15 = QFormat(1, 15)


def _data(quick: bool) -> tuple[np.ndarray, np.ndarray, int]:
    rng = np.random.default_rng(1)
    lines = LINES // 10 if quick else LINES
    x = rng.integers(-32768, 32768, (CHANNELS, lines, LENGTH))
    w = rng.integers(-32768, 32768, (CHANNELS, LENGTH))
    return x, w, CHANNELS * lines * LENGTH**2


def _median_s(call: Any, rounds: int) -> float:
    call()  # compiled, or loaded from the disk
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


def exact_mac(quick: bool) -> dict[str, Any]:
    """Direct circular correlation, int16 by int16, sums in int64."""
    x, w, macs = _data(quick)
    start = np.zeros(CHANNELS, np.int64)
    seconds = _median_s(lambda: mac.correlate_exactly(x, w, start, LENGTH), 9)
    return {
        "name": f"direct circular MAC, int16 x int16 -> int64, N = {LENGTH}, 2 threads",
        "unit": "GMAC/s",
        "value": macs / seconds / 1e9,
        "goal": 2.0,
        "higher": True,
        "note": "wide accumulator, no word is looked at on the way",
    }


def checked_mac(quick: bool) -> dict[str, Any]:
    """The same with every product rounded and every running sum saturated, counted and measured."""
    x, w, macs = _data(quick)
    register = Cut(QFormat(8, 15))
    product = Cut(QFormat(2, 15), Rounding.HALF_EVEN)
    points = mac.MacPoints(Q15, Q15, product, register, LENGTH)
    terms, start = mac.direct_terms(LENGTH, 1), np.zeros((CHANNELS, LENGTH), np.int64)
    call = lambda: mac.accumulate_terms(x, w[:, None], terms, start, points)  # noqa: E731
    return {
        "name": f"direct circular MAC, rounded and saturated each, N = {LENGTH}, 2 threads",
        "unit": "GMAC/s",
        "value": macs / _median_s(call, 3) / 1e9,
        "goal": None,
        "higher": True,
        "note": "with peaks and overflow counts of both points",
    }


ROWS = [exact_mac, checked_mac]
