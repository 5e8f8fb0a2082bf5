"""How do tests call the command line, and what stands in for the parts it calls?"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from parc_hw.artifact import Port, Shape
from parc_hw.cli.main import main


@dataclass(frozen=True)
class Outcome:
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Run `parc-hw ARGUMENTS` in this process."""
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: object) -> Outcome:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Outcome(code=code, out=captured.out, err=captured.err)

    return run


class FakeBundle:
    """A bundle that doubles its input, so that the commands can be tested without a compiler."""

    shapes = tuple(
        Shape(
            inputs=(Port(name="x", shape=shape),),
            outputs=(Port(name="y", shape=shape),),
            layers=[],
        )
        for shape in ((1, 3, 4, 4), (1, 3, 2, 6))
    )
    outputs = shapes[0].outputs
    manifest: dict[str, Any] = {  # noqa: RUF012  # replaced, never changed
        "source": {"model": "fake_model", "weights": "untrained: filled from seed 1"},
    }
    device = SimpleNamespace(name="host", runs_here=True)

    @classmethod
    def open(cls, path: object) -> FakeBundle:
        return cls()

    def run(self, *arrays: np.ndarray, threads: int = 1) -> np.ndarray:
        return arrays[0] * 2


@pytest.fixture
def fake_bundle(monkeypatch: pytest.MonkeyPatch) -> type[FakeBundle]:
    """Every bundle that a command opens is a `FakeBundle`."""
    monkeypatch.setattr("parc_hw.artifact.Bundle", FakeBundle, raising=False)
    return FakeBundle
