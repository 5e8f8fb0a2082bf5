"""Arithmetic on stored integers: every function against the oracle of Python integers."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fixedpoint import (
    Cut,
    Datapath,
    FixedPointOverflow,
    FormatError,
    Overflow,
    OverflowCounter,
    QFormat,
    Rounding,
    ScalingError,
    accumulate,
    add,
    complex_multiply,
    convert,
    exact,
    mul,
    quantize,
    requantize,
    sub,
    to_value,
)
from parc_hw.errors import InputError

Q7, Q15 = QFormat.parse("Q1.7"), QFormat.parse("Q1.15")
KEEPING = [Overflow.SATURATE, Overflow.WRAP]


def formats(most_bits: int = 64, *, signed: bool | None = None) -> st.SearchStrategy[QFormat]:
    kinds = st.booleans() if signed is None else st.just(signed)
    return st.builds(
        lambda bits, frac_bits, kind: QFormat(bits - frac_bits, frac_bits, kind),
        st.integers(1, most_bits),
        st.integers(-8, most_bits + 8),
        kinds,
    )


def cuts(most_bits: int = 64, *, signed: bool | None = None) -> st.SearchStrategy[Cut]:
    return st.builds(
        Cut, formats(most_bits, signed=signed), st.sampled_from(Rounding), st.sampled_from(KEEPING)
    )


def words(data: st.DataObject, fmt: QFormat, count: int) -> list[int]:
    """Words of `fmt`, its ends among the likely ones."""
    ends = st.sampled_from([fmt.min_raw, fmt.max_raw])
    return data.draw(
        st.lists(ends | st.integers(fmt.min_raw, fmt.max_raw), min_size=count, max_size=count)
    )


def array(raws: list[int], fmt: QFormat) -> np.ndarray:
    return np.array(raws, dtype=fmt.dtype)


# ---------------------------------------------------------------- quantize and to_value
@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=8),
    formats(),
    st.sampled_from(Rounding),
    st.sampled_from(KEEPING),
)
def test_quantize_takes_every_float_exactly(
    numbers: list[float], fmt: QFormat, rounding: Rounding, overflow: Overflow
) -> None:
    found = quantize(numbers, fmt, rounding=rounding, overflow=overflow)
    assert found.dtype == fmt.dtype
    assert found.tolist() == [exact.quantize(x, fmt, rounding, overflow) for x in numbers]


@given(st.data(), formats(12), st.sampled_from(Rounding), st.sampled_from(KEEPING))
def test_quantize_rounds_floats_near_the_ties_of_the_format(
    data: st.DataObject, fmt: QFormat, rounding: Rounding, overflow: Overflow
) -> None:
    halves = data.draw(st.integers(2 * fmt.min_raw - 3, 2 * fmt.max_raw + 3))
    tie = halves * fmt.lsb / 2
    numbers = [np.nextafter(tie, -np.inf), tie, np.nextafter(tie, np.inf)]
    found = quantize(numbers, fmt, rounding=rounding, overflow=overflow)
    assert found.tolist() == [exact.quantize(float(x), fmt, rounding, overflow) for x in numbers]


@given(st.data(), formats(), st.sampled_from(Rounding), st.sampled_from(KEEPING))
def test_quantize_takes_integers_as_the_numbers_they_are(
    data: st.DataObject, fmt: QFormat, rounding: Rounding, overflow: Overflow
) -> None:
    for source in (QFormat(64, 0), QFormat(64, 0, signed=False)):
        numbers = words(data, source, 3)
        found = quantize(array(numbers, source), fmt, rounding=rounding, overflow=overflow)
        assert found.tolist() == [exact.quantize(x, fmt, rounding, overflow) for x in numbers]


@given(st.data(), formats(53))
def test_quantize_inverts_to_value(data: st.DataObject, fmt: QFormat) -> None:
    raws = words(data, fmt, 4)
    value = to_value(array(raws, fmt), fmt)
    assert [Fraction(x) for x in value.tolist()] == [exact.to_value(raw, fmt) for raw in raws]
    for rounding in Rounding:
        back = quantize(value, fmt, rounding=rounding, overflow=Overflow.RAISE)
        assert back.tolist() == raws


def test_float32_and_float16_are_quantised_as_their_values() -> None:
    for dtype in (np.float32, np.float16):
        value = np.array([0.1, -0.7], dtype)
        assert np.array_equal(quantize(value, "Q1.15"), quantize(value.astype(float), "Q1.15"))


@pytest.mark.parametrize(
    "value, message",
    [
        ([[0.0, 1.0], [np.nan, np.nan]], r"value: nan at index \(1, 0\) is no finite number"),
        ([0.0, -np.inf], r"value: -inf at index \(1,\) is no finite number"),
        ([1j], r"complex128 is complex.*last axis of length 2"),
        ([np.longdouble(1)], r"expected float16, float32, float64 or integers"),
        (["1"], r"expected float16, float32, float64 or integers"),
        ([True], r"expected float16, float32, float64 or integers, not bool"),
    ],
)
def test_values_that_are_no_finite_real_numbers_are_refused(value: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        quantize(value, "Q1.15")


def test_stored_integers_are_not_guessed_from_floats() -> None:
    with pytest.raises(InputError, match=r"raw \(stored\) integers of Q1.15 are expected"):
        to_value([0.5], "Q1.15")


# ---------------------------------------------------------------- requantize and convert
@given(
    st.data(),
    st.booleans(),
    st.integers(0, 70),
    formats(),
    st.sampled_from(Rounding),
    st.sampled_from(KEEPING),
)
def test_requantize_equals_the_oracle_for_any_word_and_shift(
    data: st.DataObject,
    signed: bool,
    shift: int,
    to: QFormat,
    rounding: Rounding,
    overflow: Overflow,
) -> None:
    source = QFormat(64, 0, signed)
    raws = words(data, source, 4)
    found = requantize(
        array(raws, source), shift=shift, rounding=rounding, to=to, overflow=overflow
    )
    assert found.tolist() == [
        exact.requantize(raw, shift=shift, rounding=rounding, to=to, overflow=overflow)
        for raw in raws
    ]


@given(st.data(), formats(), cuts())
def test_convert_equals_the_oracle_between_any_two_formats(
    data: st.DataObject, fmt: QFormat, to: Cut
) -> None:
    raws = words(data, fmt, 4)
    counter = OverflowCounter()
    found = convert(array(raws, fmt), fmt, to, counter=counter)
    values = [exact.to_value(raw, fmt) for raw in raws]
    assert found.tolist() == [exact.cut(value, to) for value in values]
    unlimited = [
        exact.round_to_integer(x * Fraction(2) ** to.format.frac_bits, to.rounding) for x in values
    ]
    outside = [not to.format.min_raw <= raw <= to.format.max_raw for raw in unlimited]
    assert (counter.overflowed, counter.words) == ({"convert": sum(outside)}, {"convert": 4})


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("overflow", KEEPING)
def test_requantize_equals_the_oracle_on_every_byte(rounding: Rounding, overflow: Overflow) -> None:
    raws = np.arange(-128, 128)
    for shift, to in itertools.product(range(9), (QFormat(4, 0), QFormat(2, 1, signed=False))):
        found = requantize(raws, shift=shift, rounding=rounding, to=to, overflow=overflow)
        for raw, word in zip(raws.tolist(), found.tolist(), strict=True):
            assert word == exact.requantize(
                raw, shift=shift, rounding=rounding, to=to, overflow=overflow
            )


@given(st.data(), formats(), st.sampled_from(Rounding), st.sampled_from(KEEPING))
def test_requantize_by_nothing_into_the_same_format_is_the_identity(
    data: st.DataObject, fmt: QFormat, rounding: Rounding, overflow: Overflow
) -> None:
    raw = array(words(data, fmt, 4), fmt)
    same = requantize(raw, shift=0, rounding=rounding, to=fmt, overflow=overflow)
    assert np.array_equal(same, raw)


@pytest.mark.parametrize("overflow", KEEPING)
@pytest.mark.parametrize("up", range(60, 67))
def test_widening_by_about_a_whole_word_is_exact(up: int, overflow: Overflow) -> None:
    for source, signed in itertools.product(
        (QFormat(3, 0), QFormat(2, 0, signed=False), QFormat(64, 0, signed=False)), (True, False)
    ):
        to = Cut(QFormat(64 - up, up, signed), Rounding.FLOOR, overflow)
        raws = [raw for raw in (-4, -3, -2, -1, 0, 1, 2, 3) if raw >= source.min_raw]
        found = convert([raw for raw in raws if raw <= source.max_raw], source, to)
        assert found.tolist() == [
            exact.cut(exact.to_value(raw, source), to) for raw in raws if raw <= source.max_raw
        ]


def test_requantize_refuses_to_add_bits() -> None:
    with pytest.raises(ScalingError, match=r"shift is -1: requantize drops bits.*use convert"):
        requantize([1], shift=-1, rounding=Rounding.FLOOR, to=Q15)
    with pytest.raises(ScalingError, match=r"shift is 1.0: expected an integer"):
        requantize([1], shift=1.0, rounding=Rounding.FLOOR, to=Q15)  # type: ignore[arg-type]


def test_convert_refuses_words_outside_the_format_they_are_said_to_have() -> None:
    with pytest.raises(InputError, match=r"raw: 128 at index \(0,\) is outside Q1.7"):
        convert([128], Q7, Cut(Q15))


# ---------------------------------------------------------------- sums and products
ORACLE = {add: lambda x, y: x + y, sub: lambda x, y: x - y, mul: lambda x, y: x * y}
RESULT = {add: QFormat.for_add, sub: QFormat.for_sub, mul: QFormat.for_mul}


@pytest.mark.parametrize("operation", ORACLE)
@given(st.data(), formats(), formats(), cuts())
def test_sums_and_products_equal_the_oracle_wherever_64_bits_hold_them(
    operation, data: st.DataObject, a: QFormat, b: QFormat, to: Cut
) -> None:
    try:
        result = RESULT[operation](a, b)
    except FormatError:
        assume(False)
    xs, ys = words(data, a, 4), words(data, b, 4)
    values = [
        ORACLE[operation](exact.to_value(x, a), exact.to_value(y, b))
        for x, y in zip(xs, ys, strict=True)
    ]
    kept = operation(array(xs, a), a, array(ys, b), b)
    assert kept.dtype == result.dtype
    assert [exact.to_value(raw, result) for raw in kept.tolist()] == values
    found = operation(array(xs, a), a, array(ys, b), b, to)
    assert found.dtype == to.format.dtype
    assert found.tolist() == [exact.cut(value, to) for value in values]


@pytest.mark.parametrize("operation", ORACLE)
def test_sums_and_products_of_all_pairs_of_small_words_equal_the_oracle(operation) -> None:
    small = [QFormat(2, 2), QFormat(1, 4), QFormat(0, 4, signed=False), QFormat(6, 0)]
    for a, b, rounding in itertools.product(small, small, Rounding):
        x = np.arange(a.min_raw, a.max_raw + 1)[:, None]
        y = np.arange(b.min_raw, b.max_raw + 1)[None, :]
        to = Cut(QFormat(3, 1), rounding, Overflow.WRAP)
        found = operation(x, a, y, b, to)
        # The oracle on the distinct results: all pairs give few of them.
        values = [
            [ORACLE[operation](exact.to_value(i, a), exact.to_value(j, b)) for j in y[0].tolist()]
            for i in x[:, 0].tolist()
        ]
        known = {value: exact.cut(value, to) for row in values for value in row}
        assert found.tolist() == [[known[value] for value in row] for row in values]


@given(st.data(), formats(20), cuts(20), st.none() | cuts(20))
def test_accumulate_equals_the_oracle_with_and_without_a_register(
    data: st.DataObject, fmt: QFormat, to: Cut, each: Cut | None
) -> None:
    rows = [words(data, fmt, 5) for _ in range(2)]
    found = accumulate(np.array(rows, dtype=fmt.dtype), fmt, to, each=each)
    assert found.tolist() == [exact.accumulate(row, fmt, to, each=each) for row in rows]


def test_accumulate_sums_along_any_axis() -> None:
    raw = np.arange(24).reshape(2, 3, 4)
    to = Cut(QFormat(16, 0))
    for axis in (-3, -2, -1, 0, 1, 2):
        for each in (None, to):
            assert np.array_equal(
                accumulate(raw, "Q8.0", to, axis=axis, each=each), raw.sum(axis=axis)
            )


def test_a_register_of_64_unsigned_bits_is_refused() -> None:
    wide = Cut(QFormat(63, 0, signed=False))
    with pytest.raises(FormatError, match=r"64 unsigned bits \(UQ64.0\).*63 bits would fit"):
        accumulate([1], "UQ8.0", wide, each=wide)


@pytest.mark.parametrize(
    "raw, axis, message",
    [
        (3, -1, "a single number has no axis"),
        ([1, 2], 1, r"axis is 1: raw has shape \(2,\)"),
        ([[], []], -1, r"raw: shape \(2, 0\) has no term along axis -1"),
    ],
)
def test_sums_without_terms_are_refused(raw: object, axis: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        accumulate(raw, "Q1.7", Cut(Q7), axis=axis)  # type: ignore[arg-type]


@given(
    st.data(),
    formats(18, signed=True),
    formats(18, signed=True),
    cuts(24, signed=True),
    st.none() | cuts(24, signed=True),
    st.none() | cuts(24, signed=True),
    st.sampled_from([3, 4]),
)
def test_complex_products_equal_the_oracle_whatever_is_rounded_where(
    data: st.DataObject,
    x_format: QFormat,
    w_format: QFormat,
    result: Cut,
    product: Cut | None,
    accumulator: Cut | None,
    multiplications: int,
) -> None:
    datapath = Datapath(result, product, accumulator, multiplications)
    x, w = words(data, x_format, 6), words(data, w_format, 2)
    found = complex_multiply(
        array(x, x_format).reshape(3, 2), x_format, array(w, w_format), w_format, datapath
    )
    assert [tuple(pair) for pair in found.tolist()] == [
        exact.complex_multiply((x[k], x[k + 1]), x_format, (w[0], w[1]), w_format, datapath)
        for k in (0, 2, 4)
    ]


@pytest.mark.parametrize("multiplications", [3, 4])
def test_complex_products_of_all_small_words_equal_the_oracle(multiplications: int) -> None:
    fmt = QFormat(1, 2)
    points = [
        Datapath(Cut(fmt, Rounding.HALF_UP), None, None, multiplications),
        Datapath(
            Cut(fmt, Rounding.FLOOR, Overflow.WRAP), Cut(QFormat(3, 2)), None, multiplications
        ),
    ]
    pairs = list(itertools.product(range(-4, 4), repeat=2))
    for datapath in points:
        found = complex_multiply(
            np.array(pairs)[:, None], fmt, np.array(pairs)[None, :], fmt, datapath
        )
        for i, x in enumerate(pairs):
            for j, w in enumerate(pairs):
                want = exact.complex_multiply(x, fmt, w, fmt, datapath)
                assert tuple(found[i, j].tolist()) == want


def test_three_and_four_exact_products_give_equal_bits() -> None:
    rng = np.random.default_rng(5)
    x, w = rng.integers(-(1 << 15), 1 << 15, (2, 4000, 2))
    x[:4], w[:4] = -(1 << 15), [[-(1 << 15)] * 2, [(1 << 15) - 1] * 2, [0, -(1 << 15)], [0, 0]]
    three, four = (
        complex_multiply(x, Q15, w, Q15, Datapath(Cut(Q15), multiplications=count))
        for count in (3, 4)
    )
    assert np.array_equal(three, four)


@pytest.mark.parametrize(
    "x, w, error, message",
    [
        ("Q1.31", "Q1.31", FormatError, "sum of 2 products of Q1.31 and Q1.31 needs 65 bits"),
        ("Q1.31", "Q1.47", FormatError, "product of Q1.31 and Q1.47 needs 80 bits"),
        ("UQ1.7", "Q1.7", InputError, "x_format is UQ1.7: complex words are signed"),
    ],
)
def test_complex_formats_beyond_64_bits_are_refused_naming_the_product(
    x: str, w: str, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        complex_multiply([0, 0], x, [0, 0], w, Datapath(Cut(Q15)))


def test_shapes_that_are_no_complex_pairs_or_do_not_broadcast_are_refused() -> None:
    with pytest.raises(InputError, match=r"w has shape \(3,\): expected \(..., 2\)"):
        complex_multiply([0, 0], Q7, [0, 0, 0], Q7, Datapath(Cut(Q7)))
    with pytest.raises(InputError, match=r"x and w have shapes \(3, 2\) and \(2, 2\)"):
        complex_multiply(np.zeros((3, 2), int), Q7, np.zeros((2, 2), int), Q7, Datapath(Cut(Q7)))
    with pytest.raises(InputError, match=r"a and b have shapes \(3,\) and \(2,\), which do not"):
        add([1, 2, 3], Q7, [1, 2], Q7)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ((None,), "result is None: expected a Cut"),
        ((Cut(Q15), Q15), "product is .*: expected a Cut or None"),
        ((Cut(Q15), None, None, 5), "multiplications is 5: a complex product takes 4, or 3"),
    ],
)
def test_a_datapath_that_cannot_be_is_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Datapath(*arguments)
    with pytest.raises(InputError, match="rounding is 'floor'"):
        Cut(Q15, "floor")  # type: ignore[arg-type]


# ---------------------------------------------------------------- overflow
RAISING = Cut(Q7, Rounding.HALF_EVEN, Overflow.RAISE)


@pytest.mark.parametrize(
    "call, point, index, count",
    [
        (lambda: quantize([[0, 0.5], [1, 2]], Q7, overflow=Overflow.RAISE), "quantize", (1, 0), 2),
        (
            lambda: quantize([[0.0, 0.5], [0.1, 2.0]], Q7, overflow=Overflow.RAISE),
            "quantize",
            (1, 1),
            1,
        ),
        (
            lambda: requantize(
                [0, 512], shift=1, rounding=Rounding.FLOOR, to=Q7, overflow=Overflow.RAISE
            ),
            "requantize",
            (1,),
            1,
        ),
        (lambda: convert([1, -1], "Q8.0", RAISING), "convert", (0,), 1),
        (lambda: add([1, 100], Q7, [[1], [100]], Q7, RAISING), "add", (1, 1), 1),
        (lambda: sub([-128, 100], Q7, [1, -100], Q7, RAISING), "sub", (0,), 2),
        (lambda: mul([0, -128], Q7, [-128, -128], Q7, RAISING), "mul", (1,), 1),
        (
            lambda: accumulate([[1, 2, 3], [100, 100, -100]], Q7, RAISING, each=RAISING),
            "accumulator",
            (1, 1),
            1,
        ),
        (
            lambda: accumulate([[1, 100], [2, 100], [3, 0]], Q7, RAISING, axis=0, each=RAISING),
            "accumulator",
            (1, 1),
            1,
        ),
        (lambda: accumulate([[1, 2], [100, 100]], Q7, RAISING), "result", (1,), 1),
        (
            lambda: complex_multiply(
                [[0, 0], [-128, -128]], Q7, [-128, -128], Q7, Datapath(RAISING)
            ),
            "result",
            (1, 1),
            1,
        ),
        (
            lambda: complex_multiply(
                [[0, 0], [-128, 0]], Q7, [-128, 0], Q7, Datapath(Cut(Q7), RAISING)
            ),
            "product",
            (1, 0),
            1,
        ),
    ],
)
def test_raise_names_the_first_index_and_the_point(call, point, index, count) -> None:
    where = ", ".join(map(str, index)) + ("," if len(index) == 1 else "")
    message = rf"{point}: the value at index \({where}\).* is outside Q1.7, which holds -1 to"
    with pytest.raises(FixedPointOverflow, match=message) as raised:
        call()
    assert (raised.value.point, raised.value.index) == (point, index)
    assert raised.value.count == count


def test_nothing_is_raised_where_everything_fits() -> None:
    assert mul([127], Q7, [127], Q7, RAISING).tolist() == [126]


def test_counters_add_up_over_calls_and_points() -> None:
    counter = OverflowCounter()
    datapath = Datapath(Cut(Q7), product=Cut(QFormat.parse("Q1.7")), multiplications=4)
    for _ in range(2):
        complex_multiply([-128, -128], Q7, [-128, -128], Q7, datapath, counter=counter)
    # All four products are 1 and saturate to 127/128; only their sum saturates again.
    assert counter.overflowed == {"product": 8, "result": 2}
    assert counter.words == {"product": 8, "result": 4}
    assert counter.total == 10


def test_empty_arrays_stay_empty() -> None:
    for found in (quantize([], Q7), add([], Q7, [], Q7, Cut(Q7)), convert([], Q7, Cut(Q15))):
        assert found.shape == (0,)
        assert found.dtype == np.int64


# ---------------------------------------------------------------- the package
def test_importing_the_package_imports_no_compiler(repository: Path) -> None:
    program = (
        "import sys, fixedpoint; fixedpoint.QFormat.parse('Q1.15'); fixedpoint.Rounding.FLOOR; "
        "print(sorted({'numba', 'scipy', 'torch', 'tvm'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_the_first_call_of_each_function_compiles_in_under_five_seconds(
    repository: Path, tmp_path: Path
) -> None:
    # Processor time: it is the compiler that is bounded here, not this machine's load.
    program = """
import time
import numpy as np
import fixedpoint as fx
q = fx.QFormat.parse("Q1.7")
cut = fx.Cut(q)
wide = fx.QFormat(64, 0, signed=False)
calls = {
    "quantize": lambda: fx.quantize([0.5], q),
    "requantize": lambda: fx.requantize([1], shift=1, rounding=fx.Rounding.FLOOR, to=q),
    "convert": lambda: fx.convert([1], wide, cut),
    "accumulate": lambda: fx.accumulate([1], q, cut, each=cut),
    "complex_multiply": lambda: fx.complex_multiply([1, 1], q, [1, 1], q, fx.Datapath(cut)),
}
for name, call in calls.items():
    start = time.process_time()
    call()
    print(name, time.process_time() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        env={**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    seconds = {name: float(s) for name, s in map(str.split, done.stdout.splitlines())}
    assert len(seconds) == 5
    assert max(seconds.values()) < 5, seconds
    assert any(tmp_path.rglob("*.nbi")), "the kernels are cached on disk"
