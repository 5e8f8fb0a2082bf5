"""Multiply-accumulates, counted by hand and by the counter."""

import pytest
import torch
from torch import nn

from parc_hw.errors import InputError
from parc_hw.models import count_macs, count_parameters
from parc_hw.nn import ParC

pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    "module, shape, macs",
    [
        (nn.Linear(5, 7), (3, 5), 3 * 5 * 7),
        (nn.Linear(5, 7, bias=False), (2, 3, 5), 6 * 5 * 7),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1), (1, 4, 8, 8), 6 * 16 * 4 * 9),
        (nn.Conv2d(4, 6, 3, groups=2), (2, 4, 8, 8), 2 * 6 * 36 * 2 * 9),
        (nn.Conv2d(4, 4, 7, groups=4, padding=3), (1, 4, 8, 8), 4 * 64 * 49),
        (nn.ConvTranspose2d(4, 6, 2, stride=2), (1, 4, 8, 8), 4 * 64 * 6 * 4),
        (nn.Sequential(nn.BatchNorm2d(4), nn.GELU(), nn.LayerNorm(8)), (1, 4, 8, 8), 0),
    ],
)
def test_counts_are_those_by_hand(module, shape, macs):
    assert count_macs(module, shape) == macs


@pytest.mark.parametrize("form", ["spatial", "spectral"])
@pytest.mark.parametrize("axis, length", [("H", 6), ("W", 10)])
def test_parc_counts_as_its_direct_form(form, axis, length):
    points = 2 * 6 * 10
    assert count_macs(ParC(4, 5, axis, form=form), (2, 4, 6, 10)) == points * 4 * length
    dense = ParC(4, 5, axis, out_channels=3, form=form)
    assert count_macs(dense, (2, 4, 6, 10)) == points * 3 * 4 * length


def test_attention_counts_its_two_products():
    class Attention(nn.Module):
        def forward(self, x):
            return torch.softmax(x @ x.transpose(-1, -2), -1) @ x

    assert count_macs(Attention(), (2, 5, 3)) == 2 * (2 * 5 * 5 * 3)


def test_the_model_is_not_changed_by_counting():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout()).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    count_macs(model, (1, 3, 8, 8))
    assert model.training
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key])


def test_shared_parameters_count_once():
    layer = nn.Linear(3, 3)
    assert count_parameters(nn.Sequential(layer, layer)) == 12


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"cannot take an input of shape \(1, 5, 8, 8\)"):
        count_macs(nn.Conv2d(3, 4, 3), (1, 5, 8, 8))
