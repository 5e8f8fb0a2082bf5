"""Do the errors name what was wrong, the nearest names and the exit codes a user sees?"""

from __future__ import annotations

import pytest

from parc_hw import errors
from parc_hw.errors import InputError, check_keys, nearest


@pytest.mark.parametrize(
    "name, code",
    [
        ("ParcError", 2),
        ("InputError", 2),
        ("BundleError", 2),
        ("UnsupportedError", 3),
        ("VerificationError", 4),
        ("ToolchainError", 5),
        ("MeasurementError", 6),
    ],
)
def test_each_error_has_the_exit_code_of_the_manual(name, code):
    kind = getattr(errors, name)
    assert issubclass(kind, errors.ParcError)
    assert kind("x").exit_code == code


def test_an_input_error_is_a_value_error_for_library_users():
    with pytest.raises(ValueError, match="no"):
        raise InputError("no")


def test_nearest_names_at_most_three_and_none_when_nothing_is_near():
    assert (
        nearest("cortex-a5", ["cortex-a53", "cortex-a55", "cortex-a57", "cortex-a7"]).count(" or ")
        == 2
    )
    assert nearest("zzz", ["resnet50"]) == ""
    assert nearest("resnet5", ["resnet50"]) == " Did you mean resnet50?"


def test_check_keys_lists_every_missing_key_and_the_nearest_of_an_unknown_one():
    check_keys("f.toml", ["a"], accepted=["a", "b"], required=["a"])
    with pytest.raises(InputError, match=r"^f\.toml: missing alpha, beta\.$"):
        check_keys("f.toml", [], accepted=["alpha", "beta"], required=["beta", "alpha"])
    with pytest.raises(InputError, match=r"unknown key 'alpah'\. Did you mean alpha\? Accepted"):
        check_keys("f.toml", ["alpah"], accepted=["alpha", "beta"])
