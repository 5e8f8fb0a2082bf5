"""What is shipped, pinned and promised by the project's own files."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

IMPORT_PACKAGES = ("parc_hw", "schedules", "fixedpoint")


@pytest.fixture(scope="module")
def pyproject(repository):
    return tomllib.loads((repository / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def constraints(repository):
    lines = (repository / "constraints.txt").read_text().splitlines()
    requirements = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(r.name): r.specifier for r in requirements}


def test_every_package_is_listed_and_nothing_else(repository, pyproject):
    there = {
        str(file.parent.relative_to(repository)).replace("/", ".")
        for package in IMPORT_PACKAGES
        for file in (repository / package).rglob("__init__.py")
    }
    assert there == set(pyproject["tool"]["setuptools"]["packages"])


def test_every_data_file_of_the_packages_is_shipped(repository, pyproject):
    """A file that is neither code nor matched by package-data is missing after installation."""
    data = pyproject["tool"]["setuptools"]["package-data"]
    shipped = {
        file
        for package, patterns in data.items()
        for pattern in patterns
        for file in (repository / package.replace(".", "/")).glob(pattern)
    }
    there = {
        file
        for package in IMPORT_PACKAGES
        for file in (repository / package).rglob("*")
        if file.is_file() and file.suffix != ".py" and "__pycache__" not in file.parts
    }
    assert there - shipped == {file for file in there - shipped if file.suffix == ".md"}


def _all_requirements(pyproject):
    project = pyproject["project"]
    extras = project["optional-dependencies"]
    texts = [*project["dependencies"], *(text for extra in extras.values() for text in extra)]
    return [Requirement(text) for text in texts]


def test_extras_are_those_promised(pyproject):
    extras = pyproject["project"]["optional-dependencies"]
    assert set(extras) == {"torch", "onnx", "report", "zig", "bench", "dev"}


def test_constraints_pin_every_requirement_and_all_it_needs(pyproject, constraints):
    """Walk the installed metadata: whatever our requirements pull in has an exact pin."""
    wanted = [(r, frozenset[str]()) for r in _all_requirements(pyproject)]
    seen = set()
    while wanted:
        requirement, extras = wanted.pop()
        name = canonicalize_name(requirement.name)
        environments = [{"extra": extra} for extra in (*extras, "")]
        if requirement.marker and not any(map(requirement.marker.evaluate, environments)):
            continue
        assert name in constraints, f"{requirement} is not pinned in constraints.txt"
        if name in seen:
            continue
        seen.add(name)
        for text in metadata.requires(name) or ():
            wanted.append((Requirement(text), frozenset(requirement.extras)))  # noqa: PERF401


def test_constraints_are_exact_and_agree_with_what_is_installed(constraints):
    for name, specifier in constraints.items():
        assert re.fullmatch(r"==[0-9][^,*]*", str(specifier)), f"{name}{specifier}"
        # A pin without a local part accepts 2.13.0 and 2.13.0+cpu alike.
        assert specifier.contains(metadata.version(name)), f"{name}{specifier}"


def test_the_compiler_and_torch_are_the_versions_the_facts_were_found_on(constraints):
    assert str(constraints["apache-tvm"]) == "==0.27.0.post1"
    assert str(constraints["apache-tvm-ffi"]) == "==0.1.14.post1"
    assert str(constraints["torch"]) == "==2.13.0"


def test_no_file_of_the_set_up_names_a_registry_or_a_machine_path(repository):
    names = ("pyproject.toml", "constraints.txt", "Makefile", ".ci/run", "tools/setup.sh")
    for name in (*names, "tools/system_packages.sh"):
        text = (repository / name).read_text()
        assert not re.search(r"https?://|index-url|find-links|/(home|root|tmp|opt)/", text), name


def test_importing_the_packages_needs_nothing_heavy(repository):
    program = (
        "import sys, parc_hw, schedules, fixedpoint, parc_hw.models; parc_hw.models.names(); "
        "sys.exit([n for n in ('tvm', 'torch', 'numba') if n in sys.modules] or 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["tools/setup.sh", "tools/system_packages.sh", ".ci/run"])
def test_scripts_are_valid_and_executable(repository, name):
    assert os.access(repository / name, os.X_OK)
    subprocess.run(["sh", "-n", repository / name], check=True)


def _with_tools(directory, *names):
    """A PATH with nothing but these programs of this machine."""
    for name in names:
        (directory / name).symlink_to(shutil.which(name))
    return {"PATH": str(directory)}


def _script(directory, name, text):
    path = directory / name
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


NEEDED = ("sh", "cc", "env", "mktemp", "rm", "tail", "true")


def test_missing_packages_are_named_with_the_line_when_they_may_not_be_installed(
    repository, tmp_path
):
    environment = _with_tools(tmp_path, *NEEDED)
    _script(tmp_path, "id", "echo 1000")
    _script(tmp_path, "apt-get", "exit 1")
    done = subprocess.run(
        ["sh", repository / "tools/system_packages.sh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "neither root nor passwordless sudo" in done.stderr
    assert re.search(
        r"sudo apt-get update && sudo apt-get install -y gcc-aarch64-linux-gnu "
        r"libc6-dev-arm64-cross gcc-arm-linux-gnueabihf libc6-dev-armhf-cross qemu-user-static\n",
        done.stderr,
    )


@pytest.mark.parametrize("who", ["root", "sudo"])
def test_missing_packages_are_installed_as_root_or_by_sudo(repository, tmp_path, who):
    environment = _with_tools(tmp_path, *NEEDED)
    _script(tmp_path, "id", "echo 0" if who == "root" else "echo 1000")
    _script(tmp_path, "sudo", 'test "$1" = -n; shift; exec "$@"')
    _script(tmp_path, "apt-get", f'echo "$@" >> {tmp_path}/asked')
    done = subprocess.run(
        ["sh", repository / "tools/system_packages.sh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    update, install = (tmp_path / "asked").read_text().splitlines()
    assert update == "update -q"
    assert install.startswith("install -q -y --no-install-recommends gcc-aarch64-linux-gnu")


def test_nothing_is_installed_when_nothing_is_missing(repository):
    done = subprocess.run(
        ["sh", repository / "tools/system_packages.sh"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.torch
def test_examples_are_what_the_program_that_made_them_makes(repository):
    from parc_hw.models.canvas_data import canvases
    from parc_hw.models.samples import photographs

    image = np.load(repository / "examples/image.npy", allow_pickle=False)
    canvas = np.load(repository / "examples/canvas.npy", allow_pickle=False)
    assert (image.dtype, canvas.dtype) == (np.float32, np.float32)
    # Resizing is float64 arithmetic in scikit-image, stored as float32: one rounding each.
    np.testing.assert_allclose(image, photographs(1, 224, 224), rtol=0, atol=2**-22)
    np.testing.assert_array_equal(canvas, canvases("test", 1, 7)[0])
    assert (repository / "examples/image.npy").stat().st_size < 700_000


def test_a_python_without_venv_gets_its_package_first(repository, tmp_path):
    """Debian ships `python3` without ensurepip; the set-up asks for the package of that version."""
    for name in ("pyproject.toml", "constraints.txt", "tools"):
        source, copy = repository / name, tmp_path / "tree" / name
        copy.parent.mkdir(exist_ok=True)
        (shutil.copytree if source.is_dir() else shutil.copy)(source, copy)
    programs = tmp_path / "bin"
    programs.mkdir()
    environment = _with_tools(programs, *NEEDED, "cat", "cksum", "dirname", "tr")
    _script(programs, "id", "echo 0")
    _script(programs, "apt-get", f'echo "$@" >> {tmp_path}/asked')
    _script(
        programs,
        "python3.11",
        'case "$*" in *ensurepip*) exit 1;; *print*) echo 3.11;; *"-m venv"*) exit 9;; esac',
    )
    done = subprocess.run(
        ["sh", tmp_path / "tree" / "tools" / "setup.sh"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr
    assert "python3.11-venv" in (tmp_path / "asked").read_text()
