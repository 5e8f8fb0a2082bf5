"""The deterministic fill: the rules of the golden vectors, and where they end."""

import numpy as np
import pytest

from parc_hw.errors import InputError
from parc_hw.models.fill import GAIN, fill_model, image, parameter, sample, uniform


def test_uniform_numbers_are_those_of_the_golden_vectors():
    # From the program that filled the authors' networks.
    seen = uniform("stages.2.6.gcc_H.pe", 3, 20220727)
    assert seen.tolist() == [-0.15397227251691503, 0.2659653297596489, -0.32170342586032263]


def test_a_number_depends_on_name_place_and_seed():
    base = uniform("a.weight", 1000, 1)
    assert np.array_equal(base[:10], uniform("a.weight", 10, 1))
    assert not np.isin(base, uniform("b.weight", 1000, 1)).any()
    assert not np.isin(base, uniform("a.weight", 1000, 2)).any()


def test_uniform_numbers_have_the_moments_of_a_uniform_distribution():
    count = 100_000
    values = uniform("x", count, 7)
    assert values.min() >= -1
    assert values.max() < 1
    # Standard errors of mean and variance of U[-1, 1): sqrt(1/3/n), sqrt((1/5 - 1/9)/n).
    assert abs(values.mean()) < 5 * np.sqrt(1 / 3 / count)
    assert abs(values.var() - 1 / 3) < 5 * np.sqrt((1 / 5 - 1 / 9) / count)


def test_kernels_that_sum_over_channels_have_rows_of_mean_zero():
    kernel = parameter("conv.weight", (8, 16, 3, 3), 1)
    # float32 rounding of 144 numbers of size at most sqrt(3 GAIN / 144).
    bound = 2.0**-24 * np.sqrt(3 * GAIN / 144)
    assert np.abs(kernel.reshape(8, -1).astype(np.float64).mean(1)).max() <= bound
    assert np.abs(parameter("dw.weight", (8, 1, 3, 3), 1).reshape(8, -1).mean(1)).max() > 0.01


@pytest.mark.parametrize(
    "key, shape, low, high",
    [
        ("bn.running_mean", (64,), -0.1, 0.1),
        ("bn.running_var", (64,), 0.5, 1.5),
        ("gcc_H.pe", (1, 8, 7, 1), -0.3, 0.3),
        ("meta_pe_1_H", (1, 8, 7, 1), -0.3, 0.3),
        ("stages.0.0.gamma", (64,), 0.25, 0.75),
        ("layer_scale_1", (64,), 0.25, 0.75),
        ("norm.weight", (64,), 0.8, 1.2),
        ("norm.bias", (64,), -0.1, 0.1),
    ],
)
def test_each_kind_of_vector_has_its_range(key, shape, low, high):
    values = parameter(key, shape, 3)
    assert values.dtype == np.float32
    assert values.shape == shape
    assert low <= values.min() < low + 0.3 * (high - low)
    assert high - 0.3 * (high - low) < values.max() <= high


def test_counters_stay_integers_and_zero():
    counter = parameter("bn.num_batches_tracked", (), 3)
    assert counter.dtype == np.int64
    assert counter.shape == ()
    assert counter == 0


@pytest.mark.torch
def test_a_network_may_ask_for_smaller_values_at_some_keys():
    import torch

    class Damped(torch.nn.Sequential):
        fill_factors = {"0.weight": 0.5}  # noqa: RUF012

    parts = [torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)]
    damped, plain = Damped(*parts), torch.nn.Sequential(*parts)
    fill_model(plain, 3)
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    fill_model(damped, 3)
    for key, value in damped.state_dict().items():
        assert torch.equal(value, before[key] * (0.5 if key == "0.weight" else 1)), key


def test_samples_are_evenly_spaced_and_never_too_many():
    assert sample(np.arange(10), 5).tolist() == [0, 2, 4, 6, 8]
    assert sample(np.arange(3), 5).tolist() == [0, 1, 2]


def test_image_has_a_ramp_in_each_channel():
    picture = image((1, 3, 64, 64), 1)
    assert picture.dtype == np.float32
    rows = picture.mean(axis=(0, 3))
    assert rows[2, -8:].mean() > 0.5 > -0.5 > rows[0, -8:].mean()


@pytest.mark.parametrize("seed", [-1, 1 << 32, True])
def test_a_seed_beyond_32_bits_is_refused(seed):
    with pytest.raises(InputError, match="seed must be a whole number from 0 to 4294967295"):
        uniform("a", 1, seed)
