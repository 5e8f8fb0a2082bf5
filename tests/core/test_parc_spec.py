"""Is a ParcSpec always a legal ParC, and the same one after JSON?"""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from parc_hw.errors import InputError
from parc_hw.spec import Axis, ParcSpec

EXTENT = st.integers(1, 4096)
SPECS = st.builds(
    ParcSpec,
    axis=st.sampled_from(Axis),
    batch=EXTENT,
    channels=EXTENT,
    height=EXTENT,
    width=EXTENT,
    out_channels=st.none() | EXTENT,
    position_embedding=st.booleans(),
    bias=st.booleans(),
)


def spec(**changes):
    return ParcSpec(
        **{"axis": Axis.H, "batch": 2, "channels": 3, "height": 5, "width": 7} | changes
    )


@given(SPECS)
def test_a_spec_survives_json_and_hashes_like_its_copy(original):
    copy = ParcSpec.from_json(json.loads(json.dumps(original.to_json())))
    assert copy == original
    assert hash(copy) == hash(original)


@given(SPECS, SPECS)
def test_specs_are_equal_exactly_when_all_fields_are(one, other):
    assert (one == other) == (dataclasses.astuple(one) == dataclasses.astuple(other))


def test_the_axis_decides_length_and_lines():
    assert (spec(axis=Axis.H).length, spec(axis=Axis.H).lines) == (5, 14)
    assert (spec(axis=Axis.W).length, spec(axis=Axis.W).lines) == (7, 10)
    assert (Axis.H.dim, Axis.W.dim) == (2, 3)


@given(SPECS)
def test_macs_are_those_of_the_sums_in_equations_3_and_4(s):
    outputs = s.batch * (s.out_channels or s.channels) * s.height * s.width
    terms = s.length if s.depthwise else s.length * s.channels
    assert s.macs == outputs * terms


def test_table_11_of_the_paper_counts_the_same_multiplications():
    """One axis, 96 channels, N = H = W: C N**3, printed as 2.11, 16.9, 134 and 1079 million."""
    counts = [spec(batch=1, channels=96, height=n, width=n).macs / 1e6 for n in (28, 56, 112, 224)]
    assert [round(c, 2) for c in counts] == [2.11, 16.86, 134.87, 1078.98]


def test_a_spec_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec().batch = 4


@pytest.mark.parametrize("name", ["batch", "channels", "height", "width", "out_channels"])
@pytest.mark.parametrize("value", [0, -1, 1.0, "7", True])
def test_an_extent_that_is_no_positive_whole_number_is_refused(name, value):
    with pytest.raises(InputError, match=f"{name} must be a whole number of at least 1, not"):
        spec(**{name: value})


@pytest.mark.parametrize("name", ["position_embedding", "bias"])
def test_a_flag_that_is_no_bool_is_refused(name):
    with pytest.raises(InputError, match=f"{name} must be True or False, not 1"):
        spec(**{name: 1})


@pytest.mark.parametrize("value", ["h", "V", 2, None])
def test_an_unknown_axis_is_refused_with_what_h_and_w_mean(value):
    with pytest.raises(InputError, match=r"axis must be H \(tensor axis -2\) or W"):
        Axis(value)
    with pytest.raises(InputError, match=r"axis must be Axis\.H or Axis\.W, not"):
        spec(axis=value)


def test_foreign_json_is_refused_by_key():
    data = spec().to_json()
    with pytest.raises(InputError, match=r"ParC spec: unknown key 'chanels'.*channels"):
        ParcSpec.from_json({**data, "chanels": 1})
    with pytest.raises(InputError, match=r"ParC spec: missing height, width"):
        ParcSpec.from_json({k: v for k, v in data.items() if k not in ("height", "width")})
    with pytest.raises(InputError, match="axis must be H"):
        ParcSpec.from_json({**data, "axis": "horizontal"})
