"""What is a point of a study put through: a transform, an operator or a network?"""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import Any, Protocol

from parc_hw.errors import InputError, ToolchainError, UnsupportedError
from parc_hw.study.cost import Cost
from parc_hw.study.knobs import Values
from parc_hw.study.spec import StudySpec

__all__ = ["DETAILS", "Subject", "compute", "subject_of"]

#: The part of a point that holds what only a few points are asked for: traces and histograms.
DETAILS = -1


class Subject(Protocol):
    """How one kind of thing is put through a point, in parts that workers compute.

    All arguments are canonical points; all results are plain data.
    """

    def parts(self, point: Values) -> int:
        """How many parts the data has."""

    def evaluate(self, point: Values, part: int) -> dict[str, Any]:
        """Compute one part."""

    def merge(self, point: Values, parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Make the point's metrics of all its parts."""

    def details(self, point: Values) -> dict[str, Any]:
        """Trace the point: "stages", "layers" and "ranges" to show, and the "datapath" file."""

    def cost(self, point: Values) -> Cost:
        """Say what the point costs."""

    def seconds(self, point: Values) -> float:
        """Guess how long one worker needs for the point."""


def subject_of(spec: StudySpec) -> Subject:
    """Make the subject of a specification."""
    if spec.subject == "model":
        from parc_hw.study.networks import NetworkSubject

        return NetworkSubject(spec)
    if spec.subject == "fft":
        from parc_hw.study.transforms import TransformSubject

        return TransformSubject(spec)
    from parc_hw.study.operators import OperatorSubject

    return OperatorSubject(spec)


def compute(spec_text: str, point: Values, part: int) -> dict[str, Any]:
    """Compute one part of one point: what a worker is asked.

    Parameters
    ----------
    spec_text : str
        A `StudySpec` as JSON text; a worker keeps what it made for the last one.
    point : dict
    part : int
        `DETAILS` for traces.

    Returns
    -------
    dict
        Plain data. {"refused": message} where the point cannot be: a result like any other.
    """
    subject = _subject(spec_text)
    try:
        return subject.details(point) if part == DETAILS else subject.evaluate(point, part)
    except ToolchainError:
        raise
    except (InputError, UnsupportedError) as error:
        return {"refused": str(error)}


@functools.lru_cache(maxsize=1)
def _subject(spec_text: str) -> Subject:
    return subject_of(StudySpec.from_json(json.loads(spec_text)))
