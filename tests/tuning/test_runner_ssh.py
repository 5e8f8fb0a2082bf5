"""A board that is a directory: stand-ins for ssh and scp, and qemu where the code is foreign."""

from __future__ import annotations

import json
import os
import shutil
import stat
import sys
import time
from pathlib import Path

import bad_builds
import pytest
from tuning_tasks import other_choices, parc_task

from parc_hw.device import load_device
from parc_hw.errors import InputError, MeasurementError, ToolchainError
from parc_hw.runners import make_runner, timed
from schedules.tuning.trial import Status

pytestmark = pytest.mark.tvm

# Runs the command in a shell here. On a board of another machine `./measure` is run by its qemu, and
# `uname -m` says what the board would.
SSH = """#!{python}
import os, subprocess, sys
options = []
rest = sys.argv[1:]
while rest and rest[0].startswith("-"):
    options.append(rest[:2]); rest = rest[2:]
if ["-O", "exit"] in options:
    sys.exit(0)
host, command = rest
open(os.environ["BOARD_LOG"], "a").write(command + "\\n")
if os.environ.get("BOARD_GONE") and "measure" in command:
    open(os.environ["BOARD_DEAD"], "w")
if os.path.exists(os.environ["BOARD_DEAD"]):
    sys.exit("ssh: connect to host board port 22: No route to host")
if host != "me@board":
    sys.exit(255)
command = command.replace("uname -m", "echo " + os.environ["BOARD_MACHINE"])
if os.environ["BOARD_QEMU"]:
    command = command.replace("&& ./", "&& " + os.environ["BOARD_QEMU"] + " ./")
assert "python" not in command
sys.exit(subprocess.call(["sh", "-c", command], env={{"PATH": "/usr/bin:/bin"}}))
"""
SCP = """#!{python}
import shutil, sys
source, target = sys.argv[-2:]
assert target.startswith("me@board:")
shutil.copyfile(source, target.split(":", 1)[1])
"""


@pytest.fixture
def board(monkeypatch, tmp_path):
    """Make ssh and scp reach a board of a device."""

    def make(name: str) -> None:
        device = load_device(name)
        for tool, text in (("ssh", SSH), ("scp", SCP)):
            path = tmp_path / tool
            path.write_text(text.format(python=sys.executable))
            path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
        monkeypatch.setenv("BOARD_LOG", str(tmp_path / "log"))
        monkeypatch.setenv("BOARD_DEAD", str(tmp_path / "dead"))
        machine = {"x86_64": "x86_64", "aarch64": "aarch64", "armv7a": "armv7l"}[device.isa.value]
        monkeypatch.setenv("BOARD_MACHINE", machine)
        monkeypatch.setenv("BOARD_QEMU", "" if device.runs_here else str(shutil.which(device.qemu)))

    return make


def soon(seconds: float = 200.0) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize(
    "name",
    [
        "host",
        pytest.param("cortex-a53", marks=pytest.mark.cross("aarch64-linux-gnu")),
        pytest.param("rk3288", marks=pytest.mark.cross("arm-linux-gnueabihf")),
    ],
)
def test_a_board_without_python_measures_and_is_left_clean(board, tmp_path, name):
    board(name)
    task = parc_task(name, length=7, channels=16)
    choices = [*other_choices(task, 9), task.default]
    with make_runner("ssh", device=task.device, host="me@board") as runner:
        there = Path(runner._there)
        assert there.is_dir()
        trials = list(runner.measure(task, choices, incumbent=task.default, deadline=soon()))
        assert {path.name for path in there.iterdir()} == {"inputs.bin"}
    assert sorted(str(t.choice) for t in trials) == sorted(map(str, choices))
    assert not [t.message for t in trials if t.status is not Status.OK]
    assert {t.device for t in trials} == {"me@board"}
    assert all(t.cost > 0 and t.evidence["rounds"] >= 8 for t in trials)
    assert not there.exists()


def test_failures_on_a_board_cost_their_own_trial(board, monkeypatch):
    board("host")
    task = parc_task()
    crash, hang, wrong, good = other_choices(task, 4)
    kinds = {crash: "crash", hang: "hang", wrong: "wrong"}
    monkeypatch.setattr(timed, "BUILD", "bad_builds:build")
    monkeypatch.setenv("PYTHONPATH", str(Path(bad_builds.__file__).parent))
    monkeypatch.setenv(
        bad_builds.VARIABLE, json.dumps({str(choice): kind for choice, kind in kinds.items()})
    )
    with make_runner("ssh", device=task.device, host="me@board", timeout_s=1.0) as runner:
        trials = runner.measure(
            task, [crash, hang, wrong, good], incumbent=task.default, deadline=soon()
        )
        found = {trial.choice: trial.status for trial in trials}
    assert found == {
        crash: Status.CRASHED, hang: Status.HUNG, wrong: Status.WRONG, good: Status.OK,
    }  # fmt: skip


def test_a_board_that_goes_away_is_named(board, monkeypatch):
    board("host")
    task = parc_task()
    with make_runner("ssh", device=task.device, host="me@board") as runner:
        monkeypatch.setenv("BOARD_GONE", "1")
        with pytest.raises(MeasurementError, match=r"me@board is gone: .*No route to host"):
            list(
                runner.measure(
                    task, other_choices(task, 2), incumbent=task.default, deadline=soon()
                )
            )


def test_a_board_that_cannot_be_reached_is_named(board):
    board("host")
    with pytest.raises(MeasurementError, match=r"me@nowhere: .* status 255.*without a password"):
        make_runner("ssh", device=load_device("host"), host="me@nowhere")


def test_a_board_of_another_architecture_is_refused(board, monkeypatch):
    board("host")
    monkeypatch.setenv("BOARD_MACHINE", "riscv64")
    with pytest.raises(MeasurementError, match=r"me@board is riscv64, but .* is x86_64"):
        make_runner("ssh", device=load_device("host"), host="me@board")


@pytest.mark.parametrize("host", ["", "-oProxyCommand=x", "a b"])
def test_a_host_is_a_name(host):
    with pytest.raises(InputError, match=r"--host is .*USER@BOARD"):
        make_runner("ssh", device=load_device("host"), host=host)


def test_ssh_needs_a_host():
    with pytest.raises(InputError, match="needs --host"):
        make_runner("ssh", device=load_device("host"))


def test_missing_tools_are_named_with_the_line_that_installs_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolchainError, match=r"ssh was not found(?s:.*)openssh-client"):
        make_runner("ssh", device=load_device("host"), host="me@board")


def test_a_missing_cross_compiler_is_named(board, monkeypatch):
    board("cortex-a53")
    from parc_hw.artifact import toolchain

    real = shutil.which
    monkeypatch.setattr(
        toolchain.shutil, "which", lambda name: None if "aarch64" in name else real(name)
    )
    monkeypatch.setattr(toolchain.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ToolchainError, match=r"(?s)no C compiler.*gcc-aarch64-linux-gnu"):
        make_runner("ssh", device=load_device("cortex-a53"), host="me@board")
