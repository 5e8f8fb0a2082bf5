"""Do two models answer alike, and is one of them better?"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from parc_hw.errors import InputError
from parc_hw.models.proportion import wilson

__all__ = ["McNemar", "Share", "accuracy", "agreement", "mcnemar"]


@dataclass(frozen=True, slots=True)
class Share:
    """`count` of `of`, with Wilson's 95 % interval."""

    count: int
    of: int
    share: float
    low: float
    high: float

    @classmethod
    def of_count(cls, count: int, of: int) -> Share:
        """The share of `count` in `of`, which is at least 1.

        >>> round(Share.of_count(90, 100).low, 4), round(Share.of_count(90, 100).high, 4)
        (0.8256, 0.9448)
        """
        return cls(count, of, count / of, *wilson(count, of))

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class McNemar:
    """Images that only the first, and only the second, answers rightly; the test's p value."""

    only_first: int
    only_second: int
    p_value: float

    def as_dict(self) -> dict[str, Any]:
        """The fields as plain data."""
        return asdict(self)


def _answers(logits: ArrayLike, name: str) -> NDArray[np.int64]:
    array = np.asarray(logits)
    if array.ndim != 2 or not array.size:
        raise InputError(f"{name} has shape {array.shape}: expected (images, classes), not empty.")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise InputError(f"{name} holds NaN: there is no answer.")
    return array.argmax(axis=1)


def agreement(first: ArrayLike, second: ArrayLike) -> Share:
    """How often two (images, classes) arrays have their largest entry at the same class.

    Ties go to the lower class, in both.

    Raises
    ------
    InputError
        Shapes that differ or are not (images, classes), or NaN.

    >>> agreement([[1, 2], [3, 0]], [[0.1, 0.9], [0.2, 0.8]]).count
    1
    """
    a, b = np.asarray(first), np.asarray(second)
    if a.shape != b.shape:
        raise InputError(f"the logits have shapes {a.shape} and {b.shape}: they must be equal.")
    same = _answers(a, "first") == _answers(b, "second")
    return Share.of_count(int(same.sum()), len(same))


def accuracy(logits: ArrayLike, labels: ArrayLike) -> Share:
    """How often the largest logit is at the label: logits (images, classes), labels (images,).

    Raises
    ------
    InputError
        Shapes that do not fit, or NaN.

    >>> accuracy([[1, 2], [3, 0]], [1, 1]).share
    0.5
    """
    answers, truth = _answers(logits, "logits"), np.asarray(labels)
    if truth.shape != answers.shape:
        raise InputError(f"labels have shape {truth.shape}: expected {answers.shape}.")
    return Share.of_count(int((answers == truth).sum()), len(truth))


def mcnemar(first_right: ArrayLike, second_right: ArrayLike) -> McNemar:
    """Test whether two models that answered the same images are equally often right.

    Parameters
    ----------
    first_right, second_right : bool array, shape (images,)
        Whether each answered rightly.

    Returns
    -------
    McNemar
        `p_value`: the exact two-sided binomial probability of a split of the discordant images as
        uneven as this one, if each were a fair coin; 1 without any.

    Raises
    ------
    InputError
        Shapes that differ, no image, or other values than booleans.

    References
    ----------
    McNemar, Note on the sampling error of the difference between correlated proportions (1947).

    >>> mcnemar([True, True, True, False], [True, False, False, False])
    McNemar(only_first=2, only_second=0, p_value=0.5)
    """
    from scipy import stats

    a, b = np.asarray(first_right), np.asarray(second_right)
    if a.shape != b.shape or a.ndim != 1 or not a.size or a.dtype != bool or b.dtype != bool:
        raise InputError(
            f"expected two boolean arrays of one shape (images,), not {a.dtype} {a.shape} and "
            f"{b.dtype} {b.shape}."
        )
    only_first, only_second = int((a & ~b).sum()), int((~a & b).sum())
    discordant = only_first + only_second
    p = 1.0 if not discordant else float(stats.binomtest(only_first, discordant).pvalue)
    return McNemar(only_first, only_second, p)
