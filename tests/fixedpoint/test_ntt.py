"""Claims about the number-theoretic transform: exact, with the stated moduli and bounds."""

import numpy as np
import pytest

from fixedpoint.ntt import (
    SEVENTHS_MODULUS,
    SHIFT_LENGTHS,
    SHIFT_MODULUS,
    NttPlan,
    circular_correlate,
    find_modulus,
    find_root,
    is_prime,
    kernel_spectrum,
    ntt,
    ntt_plan,
)
from parc_hw.errors import InputError, UnsupportedError

SEVENTHS_LENGTHS = (7, 14, 28, 56, 112, 224)
OTHER_LENGTHS = (3, 5, 12, 13, 15, 46, 60, 97, 128)


def direct(x, w):
    """y[i] = sum_k w[k] x[(k + i) mod N], the definition."""
    length = x.shape[-1]
    places = (np.arange(length)[:, None] + np.arange(length)) % length
    return (np.asarray(x, np.int64)[..., places] * np.asarray(w, np.int64)[..., None, :]).sum(-1)


PLANS = [
    *(pytest.param(ntt_plan(n), id=f"{n}-shifts") for n in SHIFT_LENGTHS),
    *(pytest.param(ntt_plan(n, modulus=SEVENTHS_MODULUS), id=f"{n}-7") for n in SEVENTHS_LENGTHS),
    *(pytest.param(ntt_plan(n), id=f"{n}-found") for n in OTHER_LENGTHS),
]


@pytest.mark.parametrize("plan", PLANS)
def test_correlation_of_random_int8_is_the_direct_sum(plan):
    rng = np.random.default_rng(plan.length)
    x = rng.integers(-128, 128, (9, plan.length), dtype=np.int8)
    w = rng.integers(-128, 128, (9, plan.length), dtype=np.int8)
    np.testing.assert_array_equal(circular_correlate(x, w, plan), direct(x, w))


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize(("a", "b"), [(-128, -128), (-128, 127), (127, 127)])
def test_correlation_of_the_extremes_is_the_direct_sum(plan, a, b):
    x, w = np.full(plan.length, a, np.int8), np.full(plan.length, b, np.int8)
    np.testing.assert_array_equal(circular_correlate(x, w, plan), plan.length * a * b)


def test_the_sevenths_modulus_is_exactly_large_enough_for_224_products_of_int8():
    assert SEVENTHS_MODULUS == 2 * 224 * 128 * 128 + 1
    plan = ntt_plan(224)
    assert plan.modulus == SEVENTHS_MODULUS
    assert plan.largest_result == (plan.modulus - 1) // 2


def test_moduli_are_primes_with_the_stated_roots():
    assert SHIFT_MODULUS == 15790321
    assert is_prime(SHIFT_MODULUS)
    assert is_prime(SEVENTHS_MODULUS)
    assert pow(2, 28, SHIFT_MODULUS) == SHIFT_MODULUS - 1
    assert ((1 << 21) - (1 << 7)) ** 2 % SHIFT_MODULUS == 2


@pytest.mark.parametrize("length", SHIFT_LENGTHS)
def test_shift_terms_are_the_powers_of_the_root(length):
    plan = ntt_plan(length)
    assert plan.shift_only
    most = 1 if 56 % length == 0 else 2
    for exponent, terms in enumerate(plan.shift_terms):
        assert len(terms) <= most
        assert all(0 <= shift < 28 and sign in (-1, 1) for sign, shift in terms)
        value = sum(sign << shift if sign > 0 else -(1 << shift) for sign, shift in terms)
        assert value % plan.modulus == pow(plan.root, exponent, plan.modulus)


@pytest.mark.parametrize("length", SHIFT_LENGTHS)
def test_shifts_and_multiplications_give_the_same_transform(length):
    shifts = ntt_plan(length)
    products = NttPlan(length=length, modulus=shifts.modulus, root=shifts.root)
    x = np.random.default_rng(1).integers(0, SHIFT_MODULUS, (5, length))
    x[0] = SHIFT_MODULUS - 1  # the largest sums
    for inverse in (False, True):
        np.testing.assert_array_equal(
            ntt(x, shifts, inverse=inverse), ntt(x, products, inverse=inverse)
        )


@pytest.mark.parametrize("plan", PLANS)
def test_transform_is_its_definition_in_python_integers(plan):
    length, modulus = plan.length, plan.modulus
    x = np.random.default_rng(2).integers(0, modulus, length)
    expected = [
        sum(int(x[n]) * pow(plan.root, f * n, modulus) for n in range(length)) % modulus
        for f in range(length)
    ]
    assert ntt(x, plan).tolist() == expected


@pytest.mark.parametrize("plan", PLANS)
def test_inverse_undoes_the_transform(plan):
    x = np.random.default_rng(3).integers(0, plan.modulus, (2, 3, plan.length))
    np.testing.assert_array_equal(ntt(ntt(x, plan), plan, inverse=True), x)


def test_a_shift_of_the_input_turns_the_spectrum():
    plan = ntt_plan(56)
    x = np.random.default_rng(4).integers(-128, 128, 56)
    turned = ntt(x, plan) * [pow(plan.root, f, plan.modulus) for f in range(56)] % plan.modulus
    np.testing.assert_array_equal(ntt(np.roll(x, 1), plan), turned)


def test_kernels_broadcast_over_lines_and_batches():
    rng = np.random.default_rng(5)
    x = rng.integers(-128, 128, (2, 3, 4, 14))
    w = rng.integers(-128, 128, (3, 1, 14))
    np.testing.assert_array_equal(circular_correlate(x, w), direct(x, np.broadcast_to(w, x.shape)))


def test_a_delta_kernel_is_the_identity():
    x = np.random.default_rng(6).integers(-128, 128, (4, 28))
    delta = np.zeros(28, np.int8)
    delta[0] = 1
    np.testing.assert_array_equal(circular_correlate(x, delta), x)


@pytest.mark.parametrize(("data_bits", "kernel_bits"), [(4, 4), (10, 8), (12, 12), (16, 8)])
def test_other_word_lengths_get_a_prime_that_holds_them(data_bits, kernel_bits):
    plan = ntt_plan(56, data_bits=data_bits, kernel_bits=kernel_bits)
    x = np.full(56, -(1 << (data_bits - 1)))
    w = np.full(56, -(1 << (kernel_bits - 1)))
    np.testing.assert_array_equal(circular_correlate(x, w, plan), plan.largest_result)


def test_operands_are_left_alone():
    x, w = np.arange(7), np.arange(7)[::-1].copy()
    circular_correlate(x, w)
    assert x.tolist() == list(range(7))
    assert w.tolist() == list(range(6, -1, -1))


def test_is_prime_agrees_with_the_sieve():
    sieve = np.ones(20_000, bool)
    sieve[:2] = False
    for n in range(2, 142):
        if sieve[n]:
            sieve[n * n :: n] = False
    assert [is_prime(n) for n in range(20_000)] == sieve.tolist()


@pytest.mark.parametrize("length", range(1, 130))
def test_found_modulus_is_the_smallest_and_its_root_has_the_order(length):
    modulus = find_modulus(length, 5000)
    assert modulus >= 5000
    assert (modulus - 1) % length == 0
    assert not any(is_prime(p) for p in range(5000, modulus) if p % length == 1 % length)
    root = find_root(length, modulus)
    assert [e for e in range(1, length + 1) if pow(root, e, modulus) == 1] == [length]


# ---------------------------------------------------------------- bad input
def test_results_that_the_modulus_cannot_tell_apart_are_refused_at_construction():
    root = find_root(448, find_modulus(448))
    with pytest.raises(UnsupportedError, match=r"448 products of 8-bit by 8-bit .* <= 1"):
        NttPlan(length=448, modulus=find_modulus(448), root=root)
    with pytest.raises(UnsupportedError, match=r"data_bits \+ kernel_bits <= 19"):
        ntt_plan(56, data_bits=12, kernel_bits=8, modulus=SHIFT_MODULUS)
    # the message is right: 19 bits fit, as long as no bit more is asked for
    assert ntt_plan(56, data_bits=11, kernel_bits=8, modulus=SHIFT_MODULUS).shift_only


def test_words_too_long_for_64_bit_products_are_refused_with_what_fits():
    with pytest.raises(
        UnsupportedError, match=r"overflows 64 bits.*data_bits \+ kernel_bits <= 26"
    ):
        ntt_plan(56, data_bits=16, kernel_bits=16)
    assert ntt_plan(56, data_bits=16, kernel_bits=10).modulus < 1 << 31


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"modulus": 15, "root": 1}, "must be a prime below 2"),
        ({"modulus": SHIFT_MODULUS, "root": 3}, "does not have order 7"),
        ({"modulus": SEVENTHS_MODULUS, "root": 1}, "does not have order 7"),
        ({"modulus": SHIFT_MODULUS, "root": 256, "data_bits": 0}, "data_bits must be an integer"),
        ({"modulus": SHIFT_MODULUS, "root": 256, "kernel_bits": 8.0}, "kernel_bits must be an int"),
    ],
)
def test_impossible_plans_say_what_is_wrong(arguments, message):
    with pytest.raises(InputError, match=message):
        NttPlan(length=7, **arguments)


def test_twiddles_that_are_no_shifts_are_refused():
    root = find_root(7, SEVENTHS_MODULUS)
    with pytest.raises(InputError, match="twiddle factors modulo 7340033 are no shifts"):
        NttPlan(length=7, modulus=SEVENTHS_MODULUS, root=root, shift_only=True)
    root = find_root(15, SHIFT_MODULUS)
    with pytest.raises(InputError, match="no sums of two shifts; accepted lengths: 1, 2, 4, 7"):
        NttPlan(length=15, modulus=SHIFT_MODULUS, root=root, shift_only=True)


@pytest.mark.parametrize("length", [0, -7, 7.0, True])
def test_lengths_must_be_positive_integers(length):
    with pytest.raises(InputError, match="length must be an integer of at least 1"):
        ntt_plan(length)


def test_a_modulus_without_the_root_is_refused_with_one_that_has_it():
    with pytest.raises(InputError, match=r"no root of unity of order 9.*such as 19"):
        ntt_plan(9, data_bits=4, kernel_bits=4, modulus=SEVENTHS_MODULUS)
    with pytest.raises(InputError, match="modulus must be a prime, not 7340035"):
        ntt_plan(7, modulus=7340035)


def test_operands_must_be_integers_of_the_plan():
    x = np.zeros(7, np.int64)
    with pytest.raises(InputError, match=r"raw_x: raw .stored. integers are expected, not float64"):
        circular_correlate(np.zeros(7), x)
    with pytest.raises(InputError, match=r"raw: 128 at index \(2,\) is not a signed 8-bit"):
        circular_correlate(x, np.array([0, 0, 128, 0, 0, 0, 0]))
    with pytest.raises(InputError, match="must have the plan's length 7"):
        circular_correlate(np.zeros(8, int), x, ntt_plan(7))
    with pytest.raises(InputError, match="do not broadcast"):
        circular_correlate(np.zeros((2, 7), int), np.zeros((3, 7), int))
    with pytest.raises(InputError, match="holds no element"):
        circular_correlate(np.zeros((0, 7), int), x)
    with pytest.raises(InputError, match=r"\(\.\.\., N\) is expected"):
        circular_correlate(3, x)
    with pytest.raises(InputError, match=r"kernel_spectrum: raw: raw .stored."):
        kernel_spectrum(np.full(7, np.nan), ntt_plan(7))
