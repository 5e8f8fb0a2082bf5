"""No damaged file ends in a traceback, a crash or a hang: each is read or refused in our words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.tvm, pytest.mark.torch]

KINDS = ("onnx", "pt2", "pt")


def fuzz(kind, count, seed, directory):
    """In a process of its own: native code may crash."""
    script = Path(__file__).with_name("fuzz_files.py")
    root = script.parent.parent.parent
    result = subprocess.run(
        [sys.executable, str(script), kind, str(count), str(seed), str(directory)],
        capture_output=True,
        text=True,
        timeout=60 + 4 * count,
        env={**os.environ, "PYTHONPATH": str(root), "PYTHONWARNINGS": "ignore"},
        check=False,
    )
    last = result.stdout.splitlines()[-1:]
    assert result.returncode == 0, f"{last} of seed {seed}\n{result.stderr[-3000:]}"
    assert last[0].startswith("read ")


@pytest.mark.parametrize("kind", KINDS)
def test_fifty_damaged_files(kind, tmp_path):
    fuzz(kind, 50, 1, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_damaged_files(kind, tmp_path):
    fuzz(kind, 1000, 2, tmp_path)
