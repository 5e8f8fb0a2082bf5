"""Do kernels of every form compute the right numbers on both kinds of ARM, at every length to 64?"""

from __future__ import annotations

import pytest
from parc_forms import FORMS, Case, Form
from run_linked import run_linked

pytestmark = [pytest.mark.tvm, pytest.mark.cross]

DEVICES = ("cortex-a53", "rk3288")


def run(cases, device):
    jobs = [(case.scheduled(), [case.stored(case.x)]) for case in cases]
    for case, result in zip(cases, run_linked(jobs, device), strict=True):
        case.check(result)


@pytest.mark.parametrize("device", DEVICES)
def test_lengths_of_every_kind_in_every_form(device):
    """Powers of two, primes, zoo sizes: `test_every_length` has the others."""
    lengths = (1, 2, 3, 7, 11, 14, 20, 28, 37, 49, 56, 64)
    run([Case(FORMS[i * 5 % len(FORMS)], n, device) for i, n in enumerate(lengths)], device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("first", [1, 33])
@pytest.mark.parametrize("form", [Form(a, y) for a in "HW" for y in ("NHWC", "NCHW")], ids=str)
def test_every_length(device, form, first):
    run([Case(form, n, device) for n in range(first, first + 32)], device)


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("form", [f for f in FORMS if f.dense or f.axis in ("half", "HW")], ids=str)
def test_lengths_of_the_other_forms(device, form):
    lengths = (1, 2, 7, 9, 14, 17, 28, 30, 47, 56, 64)
    run([Case(form, n, device) for n in lengths], device)
