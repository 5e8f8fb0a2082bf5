"""How does a user transform stored integers: as a named library does, or as a datapath says?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fixedpoint._raw import signed_words
from fixedpoint.profiles import Profile, find
from parc_hw.errors import InputError, UnsupportedError
from parc_hw.plan import FftPlan, Order

if TYPE_CHECKING:
    from fixedpoint.stage import FftDatapath

__all__ = ["fft", "irfft", "rfft"]


# ---------------------------------------------------------------- complex
def fft(
    raw: Any,
    *,
    profile: str | Profile | None = None,
    plan: FftPlan | None = None,
    datapath: FftDatapath | None = None,
    inverse: bool = False,
    trace: bool | str = False,
) -> Any:
    """Return the complex transform of stored integers.

    Either as a `profile` computes it, bit for bit, or by a `plan` and a `datapath` of one's own.

    Parameters
    ----------
    raw : int array, shape (..., N, 2)
        Real and imaginary words; signed integers of the profile's bits, or of `datapath.input`.
        In natural order, or in `plan.input_order`.
    profile : str or Profile, optional
        A name of `fixedpoint.profiles.NAMES`, or the profile itself.
    plan : FftPlan, optional
    datapath : FftDatapath, optional
        With the plan, in the place of a profile.
    inverse : bool
        Use exp(+2 pi j k n / N). A datapath's scaling stays what it is: no 1/N comes in; most
        profiles scale by about 1/N in both directions.
    trace : bool or "words"
        Also return a `FftTrace`; "words" has the words behind every stage in it. With a plan, or a
        profile that has one (the FPGA cores).

    Returns
    -------
    words : array, shape (..., N, 2)
        A profile's own words (int16 or int32 for a library's), in natural order; or int64 words of
        `datapath.output`, in `plan.output_order`.
    exponent : int64 array, shape (...)
        Only with block floating point: the transform is words * 2**exponent.
    trace : FftTrace
        Only if asked for.

    Raises
    ------
    InputError
        Another shape, no integers, words outside the format, an unknown profile; a profile and a
        plan, or neither, or a plan without a datapath.
    UnsupportedError
        The library has no transform of this length; the message says which it has.
    ScalingError, FormatError
        Plan and datapath do not fit each other, or 64-bit arithmetic.
    FixedPointOverflow
        A word does not fit at a point whose overflow is RAISE; names the first stage and index.

    Examples
    --------
    A constant of one half: its whole sum, scaled by 1/N, is in bin 0.

    >>> half = np.full((16, 2), 1 << 14)
    >>> fft(half, profile="cmsis_q15")[:3].tolist()
    [[16384, 16384], [0, 0], [0, 0]]
    >>> from fixedpoint.stage import FftDatapath
    >>> plan = FftPlan.of(56)
    >>> datapath = FftDatapath.of(plan, bits=16, scaling="half")
    >>> words, trace = fft(np.full((56, 2), 1 << 14), plan=plan, datapath=datapath, trace=True)
    >>> words[:2].tolist(), str(datapath.output)
    ([[14336, 14336], [0, 0]], 'Q7.9')
    >>> [stage.peak_raw for stage in trace.stages]
    [16384, 16384, 14336]
    """
    if profile is None:
        return _planned(raw, plan, datapath, bool(inverse), trace, "fft")
    if plan is not None or datapath is not None:
        raise InputError("fft: give a profile, or a plan and a datapath, not both.")
    chosen = find(profile)
    words = _words(raw, chosen, 2, "fft")
    length = words.shape[-2]
    if not chosen.accepts(length):
        raise UnsupportedError(
            f"fft: {chosen.name} has no transform of length {length}; it takes {chosen.lengths}."
        )
    if trace:
        if chosen.build is None:
            raise InputError(
                f"fft: {chosen.name} is compiled whole, without stages to trace; the profiles of "
                f"FPGA cores, and a plan with a datapath, are traced."
            )
        plan, datapath = chosen.build(length, bool(inverse))
        return _planned(words, plan, datapath, bool(inverse), trace, "fft")
    lines = np.ascontiguousarray(words.reshape(-1, length, 2))
    result = chosen.transform(lines, bool(inverse))
    if isinstance(result, tuple):  # block floating point: words and exponents
        return result[0].reshape(words.shape), result[1].reshape(words.shape[:-2])
    return result.reshape(words.shape)


def _words(raw: Any, profile: Profile, trailing: int, name: str) -> NDArray[Any]:
    array = signed_words(raw, bits=profile.bits, name=f"{name}: raw", dtype=profile.dtype)
    return _shaped(array, trailing, name)


def _shaped(array: NDArray[Any], trailing: int, name: str) -> NDArray[Any]:
    if array.ndim < trailing or (trailing == 2 and array.shape[-1] != 2):
        wanted = "(..., N, 2), real and imaginary words last" if trailing == 2 else "(..., N)"
        raise InputError(f"{name}: raw has shape {array.shape}; {wanted} is expected.")
    return array


def _checked(
    plan: FftPlan | None, datapath: FftDatapath | None, name: str
) -> tuple[FftPlan, FftDatapath]:
    from fixedpoint.stage import FftDatapath

    if plan is None and datapath is None:
        raise InputError(f"{name}: give a profile, or a plan and a datapath.")
    if not isinstance(plan, FftPlan):
        raise InputError(
            f"{name}: plan is {plan!r}: expected an FftPlan, for example FftPlan.of(56)."
        )
    if not isinstance(datapath, FftDatapath):
        raise InputError(
            f"{name}: datapath is {datapath!r}: expected an FftDatapath, for example "
            f"FftDatapath.of(plan, bits=16)."
        )
    return plan, datapath


def _planned(
    raw: Any,
    plan: FftPlan | None,
    datapath: FftDatapath | None,
    inverse: bool,
    trace: bool | str,
    name: str,
) -> Any:
    """The transform of `plan` and `datapath`, with what was asked for beside the words."""
    from fixedpoint.mixed_radix import lower, run

    plan, datapath = _checked(plan, datapath, name)
    array = signed_words(raw, bits=datapath.input.bits, name=f"{name}: raw")
    words = _shaped(array, 2, name)
    length = words.shape[-2]
    if length != plan.length:
        raise InputError(
            f"{name}: raw has {length} points, shape {words.shape}, and {plan} transforms "
            f"{plan.length}; take FftPlan.of({length})."
        )
    _check_trace(trace, name)
    program = lower(plan, datapath, inverse)
    lines = np.ascontiguousarray(words.reshape(-1, length, 2))
    result = run(program, lines, capture=bool(trace), count=bool(trace))
    leading = words.shape[:-2]
    given: list[Any] = [result.words.reshape(words.shape)]
    if datapath.block is not None:
        given.append(result.exponents.reshape(leading))
    if trace:
        from fixedpoint.fft_trace import trace_of

        given.append(trace_of(program, lines, result, leading, keep=trace == "words"))
    return given[0] if len(given) == 1 else tuple(given)


def _check_trace(trace: bool | str, name: str) -> None:
    if trace not in (True, False, "words"):
        raise InputError(f"{name}: trace is {trace!r}; accepted: False, True, 'words'.")


# ---------------------------------------------------------------- real
def rfft(
    raw: Any,
    *,
    profile: str | Profile | None = None,
    plan: FftPlan | None = None,
    datapath: FftDatapath | None = None,
    trace: bool | str = False,
) -> Any:
    """Return bins 0 to N/2 of the transform of real stored integers.

    Parameters
    ----------
    raw : int array, shape (..., N)
        Signed integers of the profile's bits, or of `datapath.input`, in natural order.
    profile : str or Profile, optional
        A name of `fixedpoint.profiles.NAMES`, or the profile itself.
    plan : FftPlan, optional
        With natural order at both ends. Of N points: a complex transform of words without an
        imaginary part. Of N/2 points: even and odd words are the parts of complex ones, and
        `datapath.split` takes their spectra apart.
    datapath : FftDatapath, optional
    trace : bool or "words"
        As for `fft`: of the complex transform inside.

    Returns
    -------
    words : array, shape (..., N // 2 + 1, 2)
        And `exponent`, `trace` as `fft` returns them.

    Raises
    ------
    InputError
        As `fft`; also a plan in another order, or a packed transform without `datapath.split`.
    UnsupportedError
        The library has no real transform of this length; the message says which it has.

    Examples
    --------
    >>> rfft(np.full(32, 1 << 14), profile="cmsis_q15")[:2].tolist()
    [[16384, 0], [0, 0]]
    >>> from fixedpoint.stage import FftDatapath
    >>> plan = FftPlan.of(14)
    >>> datapath = FftDatapath.of(plan, bits=16, split_shift=2)
    >>> rfft(np.full(28, 1 << 14), plan=plan, datapath=datapath)[:2].tolist()     # / 2**5
    [[14336, 0], [0, 0]]
    """
    if profile is None:
        return _planned_real(raw, plan, datapath, trace)
    if plan is not None or datapath is not None:
        raise InputError("rfft: give a profile, or a plan and a datapath, not both.")
    if trace:
        raise InputError("rfft: a profile's stages are not traced; give a plan and a datapath.")
    chosen = find(profile)
    words = _words(raw, chosen, 1, "rfft")
    length = words.shape[-1]
    if not chosen.accepts_real(length):
        raise UnsupportedError(
            f"rfft: {chosen.name} has no real transform of length {length}; it takes "
            f"{chosen.real_lengths}."
        )
    lines = np.ascontiguousarray(words.reshape(-1, length))
    result = chosen.real_transform(lines)
    return result.reshape(*words.shape[:-1], length // 2 + 1, 2)


def _planned_real(
    raw: Any, plan: FftPlan | None, datapath: FftDatapath | None, trace: bool | str
) -> Any:
    plan, datapath = _checked(plan, datapath, "rfft")
    words = _shaped(signed_words(raw, bits=datapath.input.bits, name="rfft: raw"), 1, "rfft")
    length = words.shape[-1]
    packed = _packing(plan, datapath, length, "rfft")
    if packed:
        pairs = words.reshape(*words.shape[:-1], length // 2, 2)
    else:
        pairs = np.stack([words, np.zeros_like(words)], axis=-1)
    given = _planned(pairs, plan, datapath, False, trace, "rfft")
    spectrum, *rest = given if isinstance(given, tuple) else (given,)
    if packed:
        spectrum = _split(spectrum, plan, datapath, inverse=False)
    else:
        spectrum = spectrum[..., : length // 2 + 1, :]
    return (spectrum, *rest) if rest else spectrum


def irfft(
    raw: Any,
    *,
    length: int,
    plan: FftPlan | None = None,
    datapath: FftDatapath | None = None,
    trace: bool | str = False,
) -> Any:
    """Return the real words whose bins 0 to N/2 are given; `rfft`'s inverse, without 1/N.

    Parameters
    ----------
    raw : int array, shape (..., N // 2 + 1, 2)
        Signed integers of `datapath.input`. The imaginary words of bins 0 and N/2 are not read.
    length : int
        N.
    plan : FftPlan
        Of N points, or of N/2: as for `rfft`. A packed transform starts with `datapath.split`,
        whose result is fitted into `datapath.input`.
    datapath : FftDatapath
    trace : bool or "words"
        As for `fft`: of the complex transform inside.

    Returns
    -------
    words : int64 array, shape (..., N)
        And `exponent`, `trace` as `fft` returns them.

    Raises
    ------
    InputError
        As `rfft`, or a number of bins that does not belong to `length`.

    Examples
    --------
    >>> from fixedpoint.stage import FftDatapath
    >>> plan = FftPlan.of(4)
    >>> datapath = FftDatapath.of(plan, scaling="none")
    >>> irfft([[100, 0], [20, 0], [0, 0]], length=4, plan=plan, datapath=datapath).tolist()
    [140, 100, 60, 100]
    """
    plan, datapath = _checked(plan, datapath, "irfft")
    words = _shaped(signed_words(raw, bits=datapath.input.bits, name="irfft: raw"), 2, "irfft")
    if not isinstance(length, int) or words.shape[-2] != length // 2 + 1:
        raise InputError(
            f"irfft: raw has shape {words.shape}, {words.shape[-2]} bins, and length is "
            f"{length!r}; N points have N // 2 + 1 bins."
        )
    packed = _packing(plan, datapath, length, "irfft")
    words = words.copy()
    words[..., 0, 1] = 0
    if length % 2 == 0:
        words[..., -1, 1] = 0
    if packed:
        full = _split(words, plan, datapath, inverse=True)
    else:
        mirrored = words[..., 1 : (length + 1) // 2, :][..., ::-1, :].copy()
        # -(-max - 1) is no word: the conjugate saturates, as the datapath's input would
        mirrored[..., 1] = np.minimum(-mirrored[..., 1], datapath.input.max_raw)
        full = np.concatenate([words, mirrored], axis=-2)
    given = _planned(full, plan, datapath, True, trace, "irfft")
    result, *rest = given if isinstance(given, tuple) else (given,)
    if packed:
        result = result.reshape(*result.shape[:-2], length)
    else:
        result = result[..., 0]
    return (result, *rest) if rest else result


def _packing(plan: FftPlan, datapath: FftDatapath, length: int, name: str) -> bool:
    """Whether two real words ride in one complex one."""
    if plan.input_order is not Order.NATURAL or plan.output_order is not Order.NATURAL:
        raise InputError(
            f"{name}: {plan} reorders; a real transform takes a plan with natural order at both "
            f"ends."
        )
    if plan.length == length:
        return False
    if 2 * plan.length != length:
        raise InputError(
            f"{name}: raw has {length} points, and the plan {plan.length}; a real transform takes "
            f"a plan of {length} points"
            + (f", or of {length // 2} with `datapath.split`." if length % 2 == 0 else ".")
        )
    if datapath.split is None:
        raise InputError(
            f"{name}: {length} real words through a plan of {plan.length} need `datapath.split`, "
            f"the step that takes two spectra apart; FftDatapath.of(plan, split_shift=1) has it "
            f"unscaled."
        )
    return True


def _split(
    words: NDArray[np.int64], plan: FftPlan, datapath: FftDatapath, *, inverse: bool
) -> NDArray[np.int64]:
    """Take the spectrum of even + j odd words apart, or put it together.

    With h = N/2, Z the packed spectrum, A = Z_k + conj Z_(h-k), B = Z_k - conj Z_(h-k):
    2 X_k = A - j W_N^k B for k = 0..h; and back, 2 Z_k = A + j W_N^-k B with X in Z's place.
    """
    from fixedpoint.mixed_radix import SplitTable

    table = SplitTable.of(plan, datapath, inverse)
    half = plan.length
    k = np.arange(half if inverse else half + 1)
    bins = half + 1 if inverse else half  # X has N/2 + 1 bins, Z repeats after N/2
    near, far = words[..., k % bins, :], words[..., (half - k) % bins, :]
    conjugate = far * np.array([1, -1])
    return table.apply(near + conjugate, near - conjugate)
