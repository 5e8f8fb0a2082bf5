"""Claims about the first call of a function, which compiles it."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_PATH = Path(__file__).parents[2] / "benchmarks" / "fixed_point.py"
_NAMES = (
    "fft of kissfft_16",
    "rfft of cmsis_q31",
    "fft by a plan",
    "fft by a plan, traced",
    "parc, fft",
    "parc, fft, traced",
    "certify, fft",
)


@pytest.mark.slow
@pytest.mark.bench
@pytest.mark.parametrize("name", _NAMES)
def test_the_first_call_takes_less_than_five_seconds(
    name: str, repository: Path, tmp_path: Path
) -> None:
    spec = importlib.util.spec_from_file_location("first_calls_of_the_benchmark", _PATH)
    assert spec is not None
    assert spec.loader is not None
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark
    spec.loader.exec_module(benchmark)
    program = benchmark._FIRST_CALL.format(call=benchmark.FIRST_CALLS[name])
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    _, processor_seconds = json.loads(done.stdout)
    assert processor_seconds < benchmark.GOAL_FIRST_CALL_S
    assert any(tmp_path.rglob("*.nbi")), "the kernels are cached on disk"
