"""Do kernels of every form stay inside their buffers, and right, at every length from 1 to 64?"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from parc_forms import FORMS, Case
from run_guarded import run_guarded

pytestmark = pytest.mark.tvm


def run(case):
    case.check(run_guarded(case.scheduled(), [case.stored(case.x)]))


@pytest.mark.parametrize("first", range(1, 65, 8))
def test_every_length_touches_nothing_outside_its_buffers(first):
    """Every length once, the forms in turn; `test_every_form_at_every_length` has them all."""
    for length in range(first, first + 8):
        run(Case(FORMS[length * 5 % len(FORMS)], length))


@pytest.mark.parametrize("plan", ["direct", "fft"])
@pytest.mark.parametrize("form", [f for f in FORMS if f.layout == "NHWC"], ids=str)
def test_plans_that_are_not_the_planners_choice(form, plan):
    run(Case(form, 20, plan=plan))


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_form_at_every_length(form):
    for length in range(1, 65):
        run(Case(form, length))


def test_the_pages_around_a_buffer_are_inaccessible():
    """Reading one float too far ends the process, at the begin and at the end."""
    folder = str(Path(__file__).parent)
    for place in ("True).array.ctypes.data + 12", "False).array.ctypes.data - 4"):
        program = (
            f"import sys, ctypes; sys.path.insert(0, {folder!r})\n"
            f"from run_guarded import Guarded\n"
            f"ctypes.c_float.from_address(Guarded(3, at_end={place}).value\n"
        )
        done = subprocess.run([sys.executable, "-c", program], cwd=Path(folder).parents[1])
        assert done.returncode == -signal.SIGSEGV
