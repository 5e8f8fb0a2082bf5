"""Which shipping libraries' transforms can be computed, word for word?

>>> from fixedpoint import profiles
>>> profiles.NAMES
('cmsis_q15', 'cmsis_q31', 'kissfft_16', 'kissfft_32')
>>> profiles.cmsis_q15.lengths
'a power of two from 16 to 4096'
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

from fixedpoint.profiles.profile import Profile
from parc_hw.errors import InputError, nearest

__all__ = ["NAMES", "Profile", "find"]

_MODULES = {
    "cmsis_q15": "cmsis",
    "cmsis_q31": "cmsis",
    "kissfft_16": "kissfft",
    "kissfft_32": "kissfft",
}

NAMES = tuple(sorted(_MODULES))


def find(profile: str | Profile) -> Profile:
    """Return the profile of that name; a `Profile` is returned as it is.

    Raises
    ------
    InputError
        No profile has that name.
    """
    if isinstance(profile, Profile):
        return profile
    if not isinstance(profile, str) or profile not in _MODULES:
        raise InputError(
            f"profile: no profile {profile!r}.{nearest(str(profile), NAMES)} "
            f"Accepted: {', '.join(NAMES)}."
        )
    # numba is imported with the first profile that is used
    found = getattr(import_module(f"fixedpoint.profiles.{_MODULES[profile]}"), profile)
    assert isinstance(found, Profile)
    return found


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return find(name)
    raise AttributeError(f"module 'fixedpoint.profiles' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *NAMES])
