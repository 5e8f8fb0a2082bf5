"""Bundles of the tiny network, built once per target."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tiny_network import Built, Tiny

from parc_hw.device import load_device


@pytest.fixture(scope="session")
def build(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Built]:
    """Builds the tiny network for a target, once per target."""
    made: dict[str, Built] = {}

    def of(target: str) -> Built:
        if target not in made:
            directory = tmp_path_factory.mktemp(target)
            device, tiny = load_device(target), Tiny()
            program = tiny.program(device, directory)
            built = Built(tiny=tiny, device=device, program=program, bundle=None)  # type: ignore[arg-type]
            built.bundle = built.write(directory / "tiny")
            made[target] = built
        return made[target]

    return of


@pytest.fixture
def built(request: pytest.FixtureRequest, build: Callable[[str], Built]) -> Built:
    """The bundle for the target named by an indirect parameter; the host's without one."""
    return build(getattr(request, "param", "host"))
