"""Formats: what they hold, how they are written, and which format holds a result exactly."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fixedpoint import FormatError, QFormat
from fixedpoint.qformat import as_format
from parc_hw.errors import InputError

formats = st.builds(
    lambda bits, frac_bits, signed: QFormat(bits - frac_bits, frac_bits, signed),
    st.integers(1, 64),
    st.integers(-70, 70),
    st.booleans(),
)

# Every format of 1 to 5 bits at three binary points, and of 6 bits at one.
SMALL = [
    QFormat(bits - frac_bits, frac_bits, signed)
    for signed in (True, False)
    for bits, frac_bits in [*itertools.product(range(1, 6), (-1, 0, 3)), (6, 0)]
]


def values(fmt: QFormat) -> list[Fraction]:
    return [raw * Fraction(2) ** -fmt.frac_bits for raw in range(fmt.min_raw, fmt.max_raw + 1)]


def holds(fmt: QFormat, numbers: set[Fraction]) -> bool:
    raws = [number * Fraction(2) ** fmt.frac_bits for number in numbers]
    return all(raw.denominator == 1 and fmt.min_raw <= raw <= fmt.max_raw for raw in raws)


def narrower(fmt: QFormat) -> list[QFormat]:
    """The formats with one bit less at either end, of the same kind."""
    if fmt.bits == 1:
        return []
    return [
        QFormat(fmt.int_bits - 1, fmt.frac_bits, fmt.signed),
        QFormat(fmt.int_bits, fmt.frac_bits - 1, fmt.signed),
    ]


def assert_exact_and_minimal(fmt: QFormat, numbers: set[Fraction]) -> None:
    assert holds(fmt, numbers)
    assert not any(holds(less, numbers) for less in narrower(fmt))


@pytest.mark.parametrize("a", SMALL, ids=str)
def test_results_of_all_pairs_fit_their_format_and_no_narrower_one(a: QFormat) -> None:
    for b in SMALL:
        pairs = list(itertools.product(values(a), values(b)))
        assert_exact_and_minimal(QFormat.for_add(a, b), {x + y for x, y in pairs})
        assert_exact_and_minimal(QFormat.for_sub(a, b), {x - y for x, y in pairs})
        assert_exact_and_minimal(QFormat.for_mul(a, b), {x * y for x, y in pairs})


@pytest.mark.parametrize("a", [fmt for fmt in SMALL if fmt.bits <= 4], ids=str)
def test_sums_of_several_values_and_products_fit_their_format_and_no_narrower_one(
    a: QFormat,
) -> None:
    sums = {Fraction(0)}
    for count in range(1, 8):
        sums = {total + x for total in sums for x in values(a)}
        assert_exact_and_minimal(QFormat.for_accumulate(a, count), sums)
    for b in (QFormat(1, 2), QFormat(0, 2, signed=False), QFormat(1, 0)):
        products, sums = {x * y for x in values(a) for y in values(b)}, {Fraction(0)}
        for count in range(1, 5):
            sums = {total + x for total in sums for x in products}
            assert_exact_and_minimal(QFormat.for_multiply_accumulate(a, b, count), sums)


@given(formats, formats)
def test_widths_of_results_of_equal_words_are_the_textbook_ones(a: QFormat, b: QFormat) -> None:
    if a.bits <= 31 and b.bits <= 31 and a.bits > 1 and b.bits > 1 and a.signed == b.signed:
        assert QFormat.for_mul(a, b).bits == a.bits + b.bits
        assert QFormat.for_add(a, a).bits == a.bits + 1
        assert QFormat.for_accumulate(a, 56).bits == a.bits + 6


@given(formats)
def test_text_of_a_format_parses_to_the_format(fmt: QFormat) -> None:
    assert QFormat.parse(str(fmt)) == fmt
    assert as_format(str(fmt)) == as_format(fmt) == fmt


@given(formats)
def test_values_of_a_format_are_its_integers_times_the_lsb(fmt: QFormat) -> None:
    assert fmt.max_raw - fmt.min_raw + 1 == 2**fmt.bits
    assert Fraction(fmt.lsb) * fmt.min_raw == fmt.min_value
    assert Fraction(fmt.lsb) * fmt.max_raw == fmt.max_value
    held = np.iinfo(fmt.dtype)
    assert held.min <= fmt.min_raw <= fmt.max_raw <= held.max


def test_the_integer_bits_count_the_sign() -> None:
    q15 = QFormat.parse("Q1.15")
    assert (q15.bits, q15.min_value, q15.max_value) == (16, -1, 1 - Fraction(1, 1 << 15))
    assert QFormat.parse("UQ0.8").max_value == 1 - Fraction(1, 256)


def test_sixty_four_unsigned_bits_are_stored_in_uint64() -> None:
    assert QFormat(64, 0, signed=False).dtype == np.uint64
    assert QFormat(63, 0, signed=False).dtype == QFormat(64, 0).dtype == np.int64


@pytest.mark.parametrize(
    "text, message",
    [
        ("Q15", r"'Q15' is not a format: the integer bits are missing.*Write Q1.15 for 1 sign"),
        ("uq8", r"Write UQ0.8 for no integer and 8 fraction bits"),
        ("1.15", r"'1.15' is not a format. Write it like Q1.15"),
        ("Q1.15 ", r"is not a format"),
        ("Q1,15", r"is not a format"),
        ("", r"'' is not a format"),
        (15, r"15 is not a format"),
        ("Q0.0", r"Q0.0: the word has 0 bits. Accepted: int_bits \+ frac_bits is 1 to 64"),
        ("Q4.-7", r"Q4.-7: the word has -3 bits"),
        ("Q300.-290", r"frac_bits is -290. Accepted: -256 to 256"),
    ],
)
def test_a_text_that_is_no_format_is_refused(text: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QFormat.parse(text)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((1.0, 15), "int_bits is 1.0: expected an integer"),
        ((1, True), "frac_bits is True: expected an integer"),
        ((1, 15, "yes"), "signed is 'yes': expected True or False"),
    ],
)
def test_counts_that_are_no_integers_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QFormat(*arguments)


def test_a_word_wider_than_64_bits_is_refused_with_one_that_fits() -> None:
    with pytest.raises(FormatError, match=r"Q1.64: the word has 65 bits.*Take 1 bits off; Q1.63"):
        QFormat(1, 64)


@pytest.mark.parametrize(
    "operation, a, b, message",
    [
        (QFormat.for_mul, "Q1.47", "Q1.47", r"product of Q1.47 and Q1.47 needs 96 bits \(Q2.94\)"),
        (QFormat.for_mul, "Q1.47", "Q1.47", r"Q1.31 and Q1.31 would fit"),
        (QFormat.for_mul, "UQ0.64", "UQ0.64", r"needs 128 bits \(UQ0.128\).*UQ0.32 and UQ0.32"),
        (QFormat.for_add, "Q1.63", "Q1.63", r"sum of Q1.63 and Q1.63 needs 65 bits \(Q2.63\)"),
        (QFormat.for_add, "Q1.63", "Q1.63", r"Q1.62 and Q1.62 would fit"),
        (QFormat.for_sub, "UQ0.64", "UQ0.1", r"difference UQ0.64 - UQ0.1 needs 65 bits"),
    ],
)
def test_a_result_wider_than_64_bits_is_refused_with_operands_that_fit(
    operation, a: str, b: str, message: str
) -> None:
    with pytest.raises(FormatError, match=message):
        operation(QFormat.parse(a), QFormat.parse(b))


@given(formats, formats, st.integers(1, 1 << 20))
def test_operands_that_a_refusal_offers_do_fit(a: QFormat, b: QFormat, count: int) -> None:
    def multiply_accumulate(a: QFormat, b: QFormat) -> QFormat:
        return QFormat.for_multiply_accumulate(a, b, count)

    for operation in (QFormat.for_add, QFormat.for_sub, QFormat.for_mul, multiply_accumulate):
        try:
            operation(a, b)
        except FormatError as error:
            advice = str(error).split("holds 64. ")[-1]
            if "would fit" in advice:
                offered = advice.removesuffix(" would fit.").split(" and ")
                operation(*map(QFormat.parse, offered))


def test_how_many_values_are_summed_is_a_positive_integer() -> None:
    for count in (0, -1, 2.0, True):
        with pytest.raises(InputError, match=r"count is .*: expected how many values are summed"):
            QFormat.for_accumulate(QFormat(1, 7), count)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "raw, message",
    [
        ([0.5], r"x: raw \(stored\) integers of Q1.7 are expected, not float64. Use quantize"),
        ([True], r"are expected, not bool"),
        ([1 << 70], r"are expected, not integers beyond 64 bits"),
        ([[0, 127], [128, 300]], r"x: 128 at index \(1, 0\) is outside Q1.7.* -128 to 127"),
        (np.uint64(1 << 63), r"x: 9223372036854775808 at index \(\) is outside Q1.7"),
    ],
)
def test_words_outside_their_format_are_refused_by_index(raw: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        QFormat.parse("Q1.7").words(raw, name="x")


def test_words_of_the_right_dtype_are_not_copied() -> None:
    raw = np.arange(8)
    assert QFormat.parse("Q1.7").words(raw) is raw
    assert QFormat.parse("Q1.7").words([]).shape == (0,)


def test_a_format_argument_that_is_neither_text_nor_format_is_refused() -> None:
    with pytest.raises(InputError, match=r"to is 16: expected a QFormat or text like 'Q1.15'"):
        as_format(16, name="to")  # type: ignore[arg-type]
