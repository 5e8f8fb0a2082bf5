"""Which shipping libraries' and cores' transforms can be computed, word for word?

Libraries are profiles; FPGA and HLS cores are functions that take the core's parameters and
return one. `xfft_like` alone was not compared with the core that it is made after.

>>> from fixedpoint import profiles
>>> profiles.NAMES
('cmsis_q15', 'cmsis_q31', 'kissfft_16', 'kissfft_32')
>>> profiles.CORES
('ac_bfp', 'ac_dif_r2', 'ac_dif_r2p2', 'ac_dit_r2', 'dblclockfft', 'r22sdf', 'xfft_like')
>>> profiles.cmsis_q15.lengths
'a power of two from 16 to 4096'
>>> profiles.dblclockfft(bits=16, extra=4, max_bits=16).lengths
'a power of two from 8 to 65536'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fixedpoint.profiles.profile import Profile
from parc_hw.errors import InputError, nearest

__all__ = ["CORES", "NAMES", "Profile", "find"]

_LIBRARIES = {
    "cmsis_q15": "cmsis",
    "cmsis_q31": "cmsis",
    "kissfft_16": "kissfft",
    "kissfft_32": "kissfft",
}
# No module is called as one of its functions is: importing it would bind the name to the module.
_CORES = {
    "ac_bfp": "ac_dsp",
    "ac_dif_r2": "ac_dsp",
    "ac_dif_r2p2": "ac_dsp",
    "ac_dit_r2": "ac_dsp",
    "dblclockfft": "zipcpu",
    "r22sdf": "nanamake",
    "xfft_like": "xfft",
}

NAMES = tuple(sorted(_LIBRARIES))
CORES = tuple(sorted(_CORES))


def find(profile: str | Profile) -> Profile:
    """Return the profile of that name; a `Profile` is returned as it is.

    The name of a core means the core with its default parameters.

    Raises
    ------
    InputError
        No profile has that name, or a core's function was given instead of what it returns.

    Examples
    --------
    >>> find("kissfft_16").bits, find("ac_dif_r2").name
    (16, 'ac_dif_r2(bits=16, twiddle_bits=18)')
    """
    if isinstance(profile, Profile):
        return profile
    if isinstance(profile, str) and profile in _LIBRARIES:
        # numba is imported with the first profile that is used
        found = _load(_LIBRARIES, profile)
    elif isinstance(profile, str) and profile in _CORES:
        found = _load(_CORES, profile)()
    else:
        called = getattr(profile, "__name__", "")
        if called in _CORES:
            raise InputError(
                f"profile: {called} is a function that takes the core's parameters. "
                f"Call it: {called}()."
            )
        raise InputError(
            f"profile: no profile {profile!r}.{nearest(str(profile), NAMES + CORES)} "
            f"Accepted: {', '.join(NAMES + CORES)}."
        )
    assert isinstance(found, Profile)
    return found


def _load(modules: dict[str, str], name: str) -> Any:
    return getattr(import_module(f"fixedpoint.profiles.{modules[name]}"), name)


def __getattr__(name: str) -> Any:
    if name in _LIBRARIES:
        return find(name)
    if name in _CORES:
        return _load(_CORES, name)
    raise AttributeError(f"module 'fixedpoint.profiles' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *NAMES, *CORES])
